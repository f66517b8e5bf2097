//! Policies as the read API shows them.

use std::collections::BTreeMap;

use carrick_datapath::policy::{EnforcedPart, Enforcer};
use carrick_datapath::{CookieParts, Kind};
use carrick_policy::{Action, EnforcedPolicy, NodeState, PodRecord, PolicyName, Tier};
use serde::Serialize;
use tokio::sync::oneshot;

use super::counters::{Count, Counts, action_name, direction_name};
use super::{explain, groups};

/// Questions that may wait for the programmer.
pub const QUERIES: usize = 16;

/// A question of the read API.
#[derive(Debug)]
pub enum Query {
    /// Policies and what they have in the switch.
    Policies {
        /// Which.
        asked: Asked,
        /// The answer.
        reply: oneshot::Sender<Answer>,
    },
    /// Groups of peers that they name.
    Groups {
        /// Of which policies.
        asked: Asked,
        /// One group, with all of its members.
        group: Option<String>,
        /// The answer.
        reply: oneshot::Sender<groups::Answer>,
    },
    /// What becomes of a connection.
    Explain {
        /// Which.
        question: explain::Question,
        /// The answer.
        reply: oneshot::Sender<explain::Answer>,
    },
}

/// Which policies.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Asked {
    /// One policy, as it is named in the answer; all without.
    pub policy: Option<String>,
    /// Those for this pod, `NAMESPACE/NAME`.
    pub pod: Option<String>,
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
    /// What it has decided since its flows are there; none while the switch is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<Count>,
}

impl Asked {
    /// The policies that are asked for, with the pods of this node that each is for.
    pub(super) fn of<'a>(
        &'a self,
        state: &'a NodeState,
    ) -> impl Iterator<Item = (&'a PolicyName, &'a EnforcedPolicy, Vec<&'a PodRecord>)> {
        let policies = state.policies.iter().filter(|(name, _)| {
            let asked = self.policy.as_deref();
            asked.is_none_or(|asked| asked == shown_name(name))
        });
        policies.filter_map(|(name, policy)| {
            let pods = state.pods.values();
            let pods = pods.filter(|pod| pod.groups.binary_search(&policy.applied_to).is_ok());
            let pods: Vec<&PodRecord> = pods.collect();
            let asked = self.pod.as_deref();
            let shown = asked.is_none_or(|asked| pods.iter().any(|pod| pod_name(pod) == asked));
            shown.then_some((name, &**policy, pods))
        })
    }
}

/// `NAMESPACE/NAME`.
fn pod_name(pod: &PodRecord) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// What an enforcer has to say to a question; `counts` is what the switch has counted.
pub(super) fn answer(
    enforcer: &Enforcer,
    complete: bool,
    asked: &Asked,
    counts: Option<&Counts>,
) -> Answer {
    let flows = enforcer.flows_by_id();
    let policies = asked.of(enforcer.state()).map(|(name, policy, pods)| {
        let view = PolicyView {
            tier: tier_name(policy.tier),
            priority: policy.priority,
            uid: policy.uid.to_string(),
            enforced: enforcer.parts(name).next().is_some(),
            pods: pods.into_iter().map(pod_name).collect(),
            rules: enforcer
                .parts(name)
                .filter(|part| part.id != 0)
                .map(|part| rule(&part, &flows, counts))
                .collect(),
        };
        (shown_name(name), view)
    });
    Answer {
        complete,
        policies: policies.collect(),
    }
}

fn rule(
    part: &EnforcedPart<'_>,
    flows: &BTreeMap<u32, usize>,
    counts: Option<&Counts>,
) -> RuleView {
    RuleView {
        direction: direction_name(part.direction),
        position: part.rule.map(|rule| rule.position),
        name: part
            .rule
            .and_then(|rule| rule.name.as_deref().map(str::to_owned)),
        action: action_name(part.rule.map_or(Action::Deny, |rule| rule.action)),
        table: part.table.name(),
        priority: part.priority,
        cookie: cookie(part.id),
        flows: flows.get(&part.id).copied().unwrap_or_default(),
        count: counts.map(|counts| counts.get(&part.id).copied().unwrap_or_default()),
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

pub(super) const fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Admin => "Admin",
        Tier::NetworkPolicy => "NetworkPolicy",
        Tier::Baseline => "Baseline",
    }
}
