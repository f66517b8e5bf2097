//! Policies of a node's pods as its agent tells them (`/v1/policies`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::podname::PodName;
use crate::table::Table;

/// Longest `NAMESPACE/NAME`: a DNS label and a DNS subdomain (RFC 1123).
const NAME_MAX: usize = 63 + 1 + 253;

/// What the agent answers.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether the controller has told it all policies.
    pub complete: bool,
    /// By `NAMESPACE/NAME`, a ClusterNetworkPolicy by its `NAME`.
    policies: BTreeMap<String, Told>,
}

#[derive(Debug, Deserialize)]
struct Told {
    tier: String,
    priority: u16,
    uid: String,
    enforced: bool,
    pods: Vec<String>,
    rules: Vec<Rule>,
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyView {
    /// `NAMESPACE/NAME`, of a ClusterNetworkPolicy `NAME`.
    pub policy: String,
    /// `Admin`, `NetworkPolicy` or `Baseline`.
    pub tier: String,
    /// Its place in the tier.
    pub priority: u16,
    /// UID of the object.
    pub uid: String,
    /// Whether it is in the switch; without it, its pods' ports are closed.
    pub enforced: bool,
    /// Pods of the node that it is for.
    pub pods: Vec<String>,
    /// What it has in the switch.
    pub rules: Vec<Rule>,
}

/// A rule, or what isolates the pods of a NetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// `Ingress` or `Egress`.
    pub direction: String,
    /// Its place among the object's rules of that direction; none for isolation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// Its name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `Accept`, `Deny` or `Pass`.
    pub action: String,
    /// The table of the pipeline.
    pub table: String,
    /// The priority of its flows.
    pub priority: u16,
    /// The cookie of the flow that decides.
    pub cookie: String,
    /// How many flows it has; those that it shares with other rules count for each.
    pub flows: usize,
    /// What it has decided since its flows are there; none while the switch is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
}

/// What a rule has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets: of what it accepts the first of each connection, of what it denies every one.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A rule with the policy it is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleView {
    /// Its policy.
    pub policy: String,
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
}

/// A name that is none of a policy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not the name of a policy: write NAMESPACE/NAME, of a ClusterNetworkPolicy NAME"
)]
pub struct NotAName {
    name: String,
}

impl Answer {
    /// The policies in the order of their names.
    pub fn into_views(self) -> impl Iterator<Item = PolicyView> {
        let policies = self.policies.into_iter();
        policies.map(|(policy, told)| PolicyView {
            policy,
            tier: told.tier,
            priority: told.priority,
            uid: told.uid,
            enforced: told.enforced,
            pods: told.pods,
            rules: told.rules,
        })
    }
}

/// What to ask the agent for: all policies for pods of its node or one, and of these those for one pod.
///
/// # Errors
/// Not a policy's name: nothing else is written into a request.
pub fn path(policy: Option<&str>, pod: Option<&PodName>) -> Result<String, NotAName> {
    let policy = policy.map(checked).transpose()?;
    let policy = policy.map(|name| format!("policy={name}"));
    let pod = pod.map(|pod| format!("pod={pod}"));
    Ok(with_query("/v1/policies", policy.into_iter().chain(pod)))
}

/// The path with these parameters.
pub(crate) fn with_query(path: &str, parameters: impl Iterator<Item = String>) -> String {
    let parameters: Vec<String> = parameters.collect();
    if parameters.is_empty() {
        return path.to_owned();
    }
    format!("{path}?{}", parameters.join("&"))
}

fn checked(name: &str) -> Result<&str, NotAName> {
    let part = |text: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        !text.is_empty() && text.chars().all(fits)
    };
    let parts = name.split_once('/');
    let fits = parts.map_or_else(
        || part(name),
        |(namespace, name)| part(namespace) && part(name),
    );
    if name.len() > NAME_MAX || !fits {
        let name = name.chars().take(NAME_MAX).collect();
        return Err(NotAName { name });
    }
    Ok(name)
}

/// A row for each policy.
pub fn policies_table(views: &[PolicyView]) -> Table {
    let columns = [
        "POLICY", "TIER", "PRIORITY", "RULES", "FLOWS", "PODS", "STATE",
    ];
    let mut table = Table::new(columns);
    for view in views {
        let flows: usize = view.rules.iter().map(|rule| rule.flows).sum();
        let state = if view.enforced {
            "enforced"
        } else {
            "not enforced; its pods are closed"
        };
        table.row([
            view.policy.clone(),
            view.tier.clone(),
            view.priority.to_string(),
            view.rules.len().to_string(),
            flows.to_string(),
            view.pods.len().to_string(),
            state.to_owned(),
        ]);
    }
    table
}

/// The rules of policies.
pub fn rules(views: Vec<PolicyView>) -> Vec<RuleView> {
    let rules = views.into_iter().flat_map(|view| {
        let policy = view.policy;
        view.rules.into_iter().map(move |rule| RuleView {
            policy: policy.clone(),
            rule,
        })
    });
    rules.collect()
}

/// A row for each rule.
pub fn rules_table(views: &[RuleView]) -> Table {
    let columns = [
        "POLICY",
        "DIRECTION",
        "RULE",
        "ACTION",
        "TABLE",
        "PRIORITY",
        "FLOWS",
        "PACKETS",
        "BYTES",
        "COOKIE",
    ];
    let mut table = Table::new(columns);
    for RuleView { policy, rule } in views {
        let position = rule.position.map(|position| position.to_string());
        let name = rule.name.clone().or(position);
        let counted = |what: fn(Count) -> u64| {
            rule.count
                .map_or_else(|| "unknown".to_owned(), |count| what(count).to_string())
        };
        table.row([
            policy.clone(),
            rule.direction.clone(),
            name.unwrap_or_else(|| "isolation".to_owned()),
            rule.action.clone(),
            rule.table.clone(),
            rule.priority.to_string(),
            rule.flows.to_string(),
            counted(|count| count.packets),
            counted(|count| count.bytes),
            rule.cookie.clone(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn views() -> Vec<PolicyView> {
        let rule = |position: Option<u32>, name: Option<&str>, action: &str| {
            json!({
                "direction": "Ingress", "position": position, "name": name, "action": action,
                "table": "ingress-network-policy", "priority": 200, "cookie": "0x0700000000000001", "flows": 3,
                "count": position.map(|_| json!({"packets": 12, "bytes": 888})),
            })
        };
        let policy = |tier: &str, enforced: bool, rules: serde_json::Value| {
            json!({
                "tier": tier, "priority": 10, "uid": "u", "enforced": enforced, "pods": ["shop/web-0"], "rules": rules,
            })
        };
        let answer = json!({
            "complete": true,
            "policies": {
                "shop/web": policy("NetworkPolicy", true, json!([
                    rule(None, None, "Deny"), rule(Some(0), None, "Accept"),
                ])),
                "guard": policy("Admin", true, json!([rule(Some(1), Some("no-metadata"), "Deny")])),
                "shop/late": policy("NetworkPolicy", false, json!([])),
            },
        });
        let answer: Answer = serde_json::from_value(answer).unwrap();
        assert!(answer.complete);
        answer.into_views().collect()
    }

    #[test]
    fn policies_and_rules_have_tables() {
        insta::assert_snapshot!("policies", policies_table(&views()).render());
        insta::assert_snapshot!("rules", rules_table(&rules(views())).render());
    }

    #[test]
    fn only_names_are_asked_for() {
        assert_eq!(path(None, None).unwrap(), "/v1/policies");
        let pod: PodName = "shop/web-0".parse().unwrap();
        let asked = path(Some("guard"), Some(&pod)).unwrap();
        assert_eq!(asked, "/v1/policies?policy=guard&pod=shop/web-0");
        let asked = path(Some("shop/web.v1"), None).unwrap();
        assert_eq!(asked, "/v1/policies?policy=shop/web.v1");
        assert_eq!(
            path(Some("guard"), None).unwrap(),
            "/v1/policies?policy=guard"
        );
        for wrong in ["", "/", "a/", "a/b/c", "a b", "a&b=c", &"a".repeat(400)] {
            assert!(path(Some(wrong), None).is_err(), "{wrong:?}");
        }
    }
}
