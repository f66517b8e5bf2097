//! Groups of peers as the read API shows them.

use std::collections::{BTreeMap, BTreeSet};

use carrick_policy::{GroupKind, NodeState};
use serde::Serialize;

use super::view::{Asked, shown_name};

/// Members that are shown of a group that is not asked for by its name.
const SHOWN: usize = 100;

/// Groups that policies of this node's pods name.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether the controller has told all of them.
    pub complete: bool,
    /// By their names.
    pub groups: BTreeMap<String, GroupView>,
}

/// One group.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupView {
    /// `Addresses`, or `NamedPorts` where members' names of ports count.
    pub kind: &'static str,
    /// Policies that name it.
    pub policies: BTreeSet<String>,
    /// How many members it has.
    pub size: usize,
    /// These, or the first of them.
    pub members: Vec<MemberView>,
}

/// Who is at the other end.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberView {
    /// UID of a pod, or name of a node.
    pub owner: String,
    /// Its address.
    pub address: String,
    /// What it calls its ports, where that counts: `NAME=PORT/PROTOCOL`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
}

/// The groups that the policies which are asked for name; of all, or the one called `group`.
pub(super) fn answer(
    state: &NodeState,
    complete: bool,
    asked: &Asked,
    group: Option<&str>,
) -> Answer {
    let mut groups: BTreeMap<String, GroupView> = BTreeMap::new();
    for (name, policy, _) in asked.of(state) {
        for key in policy.rules.iter().flat_map(|rule| &rule.peers.groups) {
            let shown = key.to_string();
            if group.is_some_and(|group| group != shown) {
                continue;
            }
            let view = groups.entry(shown).or_insert_with(|| {
                let members = state.groups.get(key);
                let limit = if group.is_some() { usize::MAX } else { SHOWN };
                let shown = members.into_iter().flatten().take(limit);
                GroupView {
                    kind: match key.kind() {
                        GroupKind::AppliedTo => "AppliedTo",
                        GroupKind::Addresses => "Addresses",
                        GroupKind::NamedPorts => "NamedPorts",
                    },
                    policies: BTreeSet::new(),
                    size: members.map_or(0, BTreeMap::len),
                    members: shown
                        .map(|((owner, address), ports)| MemberView {
                            owner: owner.to_string(),
                            address: address.to_string(),
                            ports: ports
                                .iter()
                                .map(|port| {
                                    format!("{}={}/{}", port.name, port.port, port.protocol)
                                })
                                .collect(),
                        })
                        .collect(),
                }
            });
            view.policies.insert(shown_name(name));
        }
    }
    Answer { complete, groups }
}
