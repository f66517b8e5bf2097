//! Groups of peers that a node's policies name, as its agent tells them (`/v1/policies/groups`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::podname::PodName;
use crate::policies::with_query;
use crate::table::Table;

/// Longest name of a group: a kind and the hash of a selector.
const NAME_MAX: usize = 64;

/// What the agent answers.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether the controller has told it all groups.
    pub complete: bool,
    groups: BTreeMap<String, Told>,
}

#[derive(Debug, Deserialize)]
struct Told {
    kind: String,
    policies: BTreeSet<String>,
    size: usize,
    members: Vec<Member>,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupView {
    /// Its name.
    pub group: String,
    /// `Addresses`, or `NamedPorts` where members' names of ports count.
    pub kind: String,
    /// Policies that name it.
    pub policies: BTreeSet<String>,
    /// How many members it has.
    pub size: usize,
    /// The first of these; all when the group is asked for by its name.
    pub members: Vec<Member>,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// UID of a pod, or name of a node.
    pub owner: String,
    /// Its address.
    pub address: String,
    /// What it calls its ports, where that counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
}

/// A name that is none of a group.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a group: `carrickctl get groups` lists them")]
pub struct NotAGroup(String);

impl Answer {
    /// The groups in the order of their names.
    pub fn into_views(self) -> impl Iterator<Item = GroupView> {
        self.groups.into_iter().map(|(group, told)| GroupView {
            group,
            kind: told.kind,
            policies: told.policies,
            size: told.size,
            members: told.members,
        })
    }
}

/// What to ask the agent for.
///
/// # Errors
/// Not a group's name: nothing else is written into a request.
pub fn path(group: Option<&str>, pod: Option<&PodName>) -> Result<String, NotAGroup> {
    if let Some(name) = group {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-/".contains(c);
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(fits) {
            return Err(NotAGroup(name.chars().take(NAME_MAX).collect()));
        }
    }
    let group = group.map(|name| format!("group={name}"));
    let pod = pod.map(|pod| format!("pod={pod}"));
    let parameters = group.into_iter().chain(pod);
    Ok(with_query("/v1/policies/groups", parameters))
}

/// A row for each group; with `whole`, one for each member.
pub fn groups_table(views: &[GroupView], whole: bool) -> Table {
    let joined = |view: &GroupView| {
        let policies: Vec<&str> = view.policies.iter().map(String::as_str).collect();
        policies.join(",")
    };
    if !whole {
        let mut table = Table::new(["GROUP", "KIND", "MEMBERS", "POLICIES"]);
        for view in views {
            let (group, kind) = (view.group.clone(), view.kind.clone());
            table.row([group, kind, view.size.to_string(), joined(view)]);
        }
        return table;
    }
    let mut table = Table::new(["GROUP", "OWNER", "ADDRESS", "PORTS"]);
    for view in views {
        for member in &view.members {
            let (owner, address) = (member.owner.clone(), member.address.clone());
            table.row([view.group.clone(), owner, address, member.ports.join(",")]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_and_their_members_have_tables() {
        let answer = json!({
            "complete": true,
            "groups": {
                "addresses/0a1b": {
                    "kind": "Addresses", "policies": ["shop/db", "shop/web"], "size": 2,
                    "members": [{"owner": "u-1", "address": "10.0.0.1"}, {"owner": "node-1", "address": "fd00::1"}],
                },
                "named-ports/2c": {
                    "kind": "NamedPorts", "policies": ["guard"], "size": 1,
                    "members": [{"owner": "u-2", "address": "10.0.0.2", "ports": ["http=80/TCP"]}],
                },
            },
        });
        let answer: Answer = serde_json::from_value(answer).unwrap();
        assert!(answer.complete);
        let views: Vec<GroupView> = answer.into_views().collect();
        insta::assert_snapshot!("groups", groups_table(&views, false).render());
        insta::assert_snapshot!("members", groups_table(&views, true).render());
    }

    #[test]
    fn only_names_go_into_a_request() {
        let pod: PodName = "shop/web-0".parse().unwrap();
        let asked = path(Some("addresses/0a1b"), Some(&pod)).unwrap();
        assert_eq!(
            asked,
            "/v1/policies/groups?group=addresses/0a1b&pod=shop/web-0"
        );
        for wrong in ["", "a&b=c", "A", "a b", &"a".repeat(65)] {
            path(Some(wrong), None).unwrap_err();
        }
    }
}
