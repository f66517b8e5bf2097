//! Policies as the read API shows them.

use std::collections::BTreeMap;

use carrick_datapath::policy::{EnforcedPart, Enforcer};
use carrick_datapath::{CookieParts, Kind};
use carrick_policy::{Action, Direction, PolicyName, Tier};
use serde::Serialize;
use tokio::sync::oneshot;

use super::explain;

/// Questions that may wait for the programmer.
pub const QUERIES: usize = 16;

/// A question of the read API.
#[derive(Debug)]
pub enum Query {
    /// Policies and what they have in the switch.
    Policies {
        /// One policy, as it is named in the answer; all without.
        policy: Option<String>,
        /// The answer.
        reply: oneshot::Sender<Answer>,
    },
    /// What becomes of a connection.
    Explain {
        /// Which.
        question: explain::Question,
        /// The answer.
        reply: oneshot::Sender<explain::Answer>,
    },
}

/// Policies of this node's pods.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether the controller has told all of them.
    pub complete: bool,
    /// By `NAMESPACE/NAME`, a ClusterNetworkPolicy by its `NAME`.
    pub policies: BTreeMap<String, PolicyView>,
}

/// One policy.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// `Admin`, `NetworkPolicy` or `Baseline`.
    pub tier: &'static str,
    /// Its place in the tier.
    pub priority: u16,
    /// UID of the object.
    pub uid: String,
    /// Whether it is in the switch; without it, its pods' ports are closed.
    pub enforced: bool,
    /// Pods of this node that it is for, as `NAMESPACE/NAME`.
    pub pods: Vec<String>,
    /// What it has in the switch.
    pub rules: Vec<RuleView>,
}

/// A rule, or what isolates the pods of a NetworkPolicy.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleView {
    /// `Ingress` or `Egress`.
    pub direction: &'static str,
    /// Its place among the object's rules of that direction; none for isolation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
    /// Its name, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `Accept`, `Deny` or `Pass`.
    pub action: &'static str,
    /// The table of the pipeline.
    pub table: &'static str,
    /// The priority of its flows.
    pub priority: u16,
    /// The cookie of the flow that decides.
    pub cookie: String,
    /// How many flows it has; those that it shares with other rules count for each.
    pub flows: usize,
}

/// What an enforcer has to say to a question.
pub(super) fn answer(enforcer: &Enforcer, complete: bool, asked: Option<&str>) -> Answer {
    let state = enforcer.state();
    let flows = enforcer.flows_by_id();
    let shown = |name: &&PolicyName| asked.is_none_or(|asked| asked == shown_name(name));
    let names = state.policies.keys().filter(shown);
    let policies = names.filter_map(|name| {
        let policy = state.policies.get(name)?;
        let pods = state.pods.values();
        let pods = pods.filter(|pod| pod.groups.binary_search(&policy.applied_to).is_ok());
        let rule = |part: &EnforcedPart<'_>| rule(part, &flows);
        let view = PolicyView {
            tier: tier_name(policy.tier),
            priority: policy.priority,
            uid: policy.uid.to_string(),
            enforced: enforcer.parts(name).next().is_some(),
            pods: pods
                .map(|pod| format!("{}/{}", pod.namespace, pod.name))
                .collect(),
            rules: enforcer
                .parts(name)
                .filter(|part| part.id != 0)
                .map(|part| rule(&part))
                .collect(),
        };
        Some((shown_name(name), view))
    });
    Answer {
        complete,
        policies: policies.collect(),
    }
}

fn rule(part: &EnforcedPart<'_>, flows: &BTreeMap<u32, usize>) -> RuleView {
    RuleView {
        direction: match part.direction {
            Direction::Ingress => "Ingress",
            Direction::Egress => "Egress",
        },
        position: part.rule.map(|rule| rule.position),
        name: part
            .rule
            .and_then(|rule| rule.name.as_deref().map(str::to_owned)),
        action: match part.rule.map(|rule| rule.action) {
            Some(Action::Accept) => "Accept",
            Some(Action::Pass) => "Pass",
            Some(Action::Deny) | None => "Deny",
        },
        table: part.table.name(),
        priority: part.priority,
        cookie: cookie(part.id),
        flows: flows.get(&part.id).copied().unwrap_or_default(),
    }
}

/// The cookie of flows with this id.
pub(super) fn cookie(object: u32) -> String {
    let kind = Kind::PolicyRule;
    format!("{:#018x}", CookieParts { kind, object }.to_bits())
}

/// `NAMESPACE/NAME`, of a ClusterNetworkPolicy its `NAME`.
pub(super) fn shown_name(name: &PolicyName) -> String {
    match name.namespace() {
        Some(namespace) => format!("{namespace}/{}", name.name()),
        None => name.name().to_owned(),
    }
}

const fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Admin => "Admin",
        Tier::NetworkPolicy => "NetworkPolicy",
        Tier::Baseline => "Baseline",
    }
}
