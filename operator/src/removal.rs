//! Taking the network away, one step at a time.
//!
//! Order (design/upgrades.md, Removal): while pods use the network the finalizer holds everything
//! back and the network works on; then a kube-proxy that was disabled runs again; then the agents'
//! DaemonSet becomes `agent cleanup`, each node reports, then the switches go, then the agents,
//! then everything else, and the finalizer last.

use std::collections::BTreeMap;

use carrick_api::agentinfo::{self, AgentInfo};
use carrick_api::networking::Management;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::effective::Effective;
use crate::facts::{Facts, Reach};
use crate::validate::{count, in_scope, some};

/// Accepts that pods lose their network.
pub const ACK_PODS: &str = "pods-lose-network";
/// Accepts that nodes are left as they are.
pub const ACK_NODES: &str = "nodes-not-cleaned";
/// How long an agent may fail before a person has to look.
pub const FAILURE_TIMEOUT: SignedDuration = SignedDuration::from_mins(1);
/// How long nodes may take before the condition tells how to clean them by hand.
pub const NODES_TIMEOUT: SignedDuration = SignedDuration::from_mins(10);

/// What decides the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// `spec.management`.
    pub management: Management,
    /// `spec.acknowledge`.
    pub acknowledged: Vec<String>,
    /// Since when nodes are being cleaned.
    pub since: Timestamp,
    /// Pods that use the network, as namespace/name.
    pub users: Vec<String>,
    /// The agents' DaemonSet.
    pub agents: Workload,
    /// The switches' DaemonSet.
    pub switches: Workload,
    /// Nodes that carry the network, and how far each is.
    pub nodes: BTreeMap<String, Cleaning>,
    /// Other operands that are left.
    pub operands: usize,
    /// Why the agents must stay: kube-proxy, which we had disabled, is not ready.
    pub kube_proxy: Option<String>,
}

/// A DaemonSet during removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// It carries the network.
    Working,
    /// It runs `agent cleanup` (agents only).
    Cleaning,
    /// It is deleted, its pods are still there.
    Leaving,
    /// It is gone, pods and all.
    Gone,
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cleaning {
    /// No agent ever was there.
    Untouched,
    /// Its agent works on it.
    Waiting,
    /// Its agent could not finish and tries again.
    Failed {
        /// What is left, in its words.
        why: String,
        /// Since when.
        since: Timestamp,
    },
    /// The node does not report.
    Unreachable,
    /// Nothing of ours is left on it.
    Done,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `Paused`: change nothing.
    Paused,
    /// `Unmanaged`: let the object go and leave everything else.
    Leave,
    /// Pods use the network.
    PodsUseNetwork(String),
    /// kube-proxy serves Services again before the agents stop.
    WaitForKubeProxy(String),
    /// Make the agents' DaemonSet `agent cleanup`.
    StartCleanup,
    /// Nodes are not clean yet.
    WaitForNodes(Waiting),
    /// Delete the switches' DaemonSet.
    DeleteSwitches,
    /// Delete the agents' DaemonSet.
    DeleteAgents,
    /// Pods of a deleted DaemonSet are still there.
    WaitForPods,
    /// Delete all other operands, AgentInfos, taints.
    DeleteRest,
    /// Take the finalizer off.
    Release,
}

/// Nodes that are not clean yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// In one sentence, with the mend when it took too long.
    pub message: String,
    /// Whether a person has to act.
    pub stuck: bool,
    /// Clean nodes.
    pub done: usize,
    /// All nodes that had something to clean.
    pub total: usize,
}

/// Tells the next step.
pub fn next(view: &View, now: Timestamp) -> Step {
    match view.management {
        Management::Unmanaged => return Step::Leave,
        Management::Paused => return Step::Paused,
        Management::Managed => {}
    }
    let acknowledged = |name: &str| view.acknowledged.iter().any(|have| have == name);
    match view.agents {
        Workload::Working => {
            if !view.users.is_empty() && !acknowledged(ACK_PODS) {
                return Step::PodsUseNetwork(users_sentence(&view.users));
            }
            if let Some(why) = &view.kube_proxy {
                return Step::WaitForKubeProxy(why.clone());
            }
            return Step::StartCleanup;
        }
        Workload::Cleaning => {
            if let Some(waiting) = waiting(view, now)
                && !acknowledged(ACK_NODES)
            {
                return Step::WaitForNodes(waiting);
            }
            return match view.switches {
                Workload::Working | Workload::Cleaning => Step::DeleteSwitches,
                Workload::Leaving => Step::WaitForPods,
                Workload::Gone => Step::DeleteAgents,
            };
        }
        Workload::Leaving => return Step::WaitForPods,
        Workload::Gone => {}
    }
    match view.switches {
        Workload::Working | Workload::Cleaning => Step::DeleteSwitches,
        Workload::Leaving => Step::WaitForPods,
        Workload::Gone if view.operands > 0 => Step::DeleteRest,
        Workload::Gone => Step::Release,
    }
}

fn users_sentence(users: &[String]) -> String {
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    format!(
        "{} on this network would lose it: {}. The network works on. To mend it: delete these pods, or set \
         spec.acknowledge to [{ACK_PODS}].",
        count(users.len(), "pod"),
        some(&names)
    )
}

fn waiting(view: &View, now: Timestamp) -> Option<Waiting> {
    let mut open = Vec::new();
    let mut done = 0;
    let mut failed = false;
    for (name, cleaning) in &view.nodes {
        match cleaning {
            Cleaning::Untouched => {}
            Cleaning::Done => done += 1,
            Cleaning::Waiting => open.push(name.clone()),
            Cleaning::Failed { why, since } => {
                failed |= now.duration_since(*since) > FAILURE_TIMEOUT;
                open.push(format!("{name} ({why})"));
            }
            Cleaning::Unreachable => open.push(format!("{name} (does not report)")),
        }
    }
    if open.is_empty() {
        return None;
    }
    let late = now.duration_since(view.since) > NODES_TIMEOUT;
    let total = done + open.len();
    let names: Vec<&str> = open.iter().map(String::as_str).collect();
    let mut message = format!(
        "{done} of {} are clean; waiting for {}.",
        count(total, "node"),
        some(&names)
    );
    if late || failed {
        message = format!(
            "{message} To mend it: bring the node back or look at its carrick-agent pod's log; or delete the Node; or clean it \
             by hand (remove our file from the CNI directory, reboot, remove /var/lib/carrick) and set spec.acknowledge \
             to [{ACK_NODES}]."
        );
    }
    Some(Waiting {
        message,
        stuck: late || failed,
        done,
        total,
    })
}

/// How far each node of `effective` is.
///
/// A node without an AgentInfo never had a running agent: there is nothing to clean.
pub fn nodes(
    effective: &Effective,
    facts: &Facts,
    agents: &[AgentInfo],
) -> BTreeMap<String, Cleaning> {
    let reports: BTreeMap<&str, &AgentInfo> = agents
        .iter()
        .filter_map(|agent| Some((agent.metadata.name.as_deref()?, agent)))
        .collect();
    facts
        .nodes
        .iter()
        .filter(|node| in_scope(effective, node))
        .map(|node| {
            let cleaning = match reports.get(node.name.as_str()) {
                None => Cleaning::Untouched,
                Some(agent) => cleaning(agent, node.reach),
            };
            (node.name.clone(), cleaning)
        })
        .collect()
}

fn cleaning(agent: &AgentInfo, reach: Reach) -> Cleaning {
    let conditions = agent.status.iter().flat_map(|status| &status.conditions);
    let cleaned = { conditions }.find(|condition| condition.type_ == agentinfo::condition::CLEANED);
    match cleaned {
        Some(condition) if condition.status == "True" => Cleaning::Done,
        _ if reach == Reach::Unreachable => Cleaning::Unreachable,
        Some(condition) if condition.status == "False" => Cleaning::Failed {
            why: condition.message.clone(),
            since: condition.last_transition_time.0,
        },
        _ => Cleaning::Waiting,
    }
}

/// Pods that use the network: scheduled, not on the host network, not over. Namespace/name.
pub fn users(pods: &[Pod]) -> Vec<String> {
    let mut users: Vec<String> = pods
        .iter()
        .filter(|pod| {
            let spec = pod.spec.as_ref();
            let host = spec.and_then(|spec| spec.host_network).unwrap_or(false);
            let placed = spec.is_some_and(|spec| spec.node_name.is_some());
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            placed && !host && !matches!(phase, Some("Succeeded" | "Failed"))
        })
        .map(|pod| {
            format!(
                "{}/{}",
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata.name.as_deref().unwrap_or_default()
            )
        })
        .collect();
    users.sort();
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View {
            management: Management::Managed,
            acknowledged: Vec::new(),
            since: Timestamp::UNIX_EPOCH,
            users: Vec::new(),
            agents: Workload::Working,
            switches: Workload::Working,
            nodes: BTreeMap::from([("node1".into(), Cleaning::Waiting)]),
            operands: 12,
            kube_proxy: None,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn pods_hold_the_network_until_somebody_accepts_their_loss() {
        let mut view = View {
            users: vec!["default/web".into()],
            ..view()
        };
        let Step::PodsUseNetwork(message) = next(&view, at(0)) else {
            panic!()
        };
        assert!(
            message.contains("default/web") && message.contains(ACK_PODS),
            "{message}"
        );
        view.acknowledged.push(ACK_PODS.into());
        assert_eq!(next(&view, at(0)), Step::StartCleanup);
        // A pod that comes while nodes are being cleaned cannot bring the network back.
        view.acknowledged.clear();
        view.agents = Workload::Cleaning;
        assert!(matches!(next(&view, at(0)), Step::WaitForNodes(_)));
    }

    #[test]
    fn the_steps_follow_each_other_to_the_end() {
        let mut view = view();
        view.kube_proxy = Some("1 of 2".into());
        assert_eq!(next(&view, at(0)), Step::WaitForKubeProxy("1 of 2".into()));
        view.kube_proxy = None;
        assert_eq!(next(&view, at(0)), Step::StartCleanup);
        view.agents = Workload::Cleaning;
        assert!(matches!(
            next(&view, at(0)),
            Step::WaitForNodes(Waiting { stuck: false, .. })
        ));
        view.nodes.insert("node1".into(), Cleaning::Done);
        assert_eq!(next(&view, at(0)), Step::DeleteSwitches);
        view.switches = Workload::Leaving;
        assert_eq!(next(&view, at(0)), Step::WaitForPods);
        view.switches = Workload::Gone;
        assert_eq!(next(&view, at(0)), Step::DeleteAgents);
        view.agents = Workload::Leaving;
        assert_eq!(next(&view, at(0)), Step::WaitForPods);
        view.agents = Workload::Gone;
        assert_eq!(next(&view, at(0)), Step::DeleteRest);
        view.operands = 0;
        assert_eq!(next(&view, at(0)), Step::Release);
    }

    #[test]
    fn a_node_that_does_not_answer_becomes_a_sentence_that_mends_it() {
        let mut view = view();
        view.agents = Workload::Cleaning;
        view.nodes.insert("node2".into(), Cleaning::Unreachable);
        let Step::WaitForNodes(waiting) = next(&view, at(700)) else {
            panic!()
        };
        assert!(waiting.stuck && waiting.message.contains("node2 (does not report)"));
        assert!(waiting.message.contains(ACK_NODES), "{}", waiting.message);
        view.acknowledged.push(ACK_NODES.into());
        assert_eq!(next(&view, at(700)), Step::DeleteSwitches);
    }

    #[test]
    fn paused_and_unmanaged_change_nothing() {
        assert_eq!(
            next(
                &View {
                    management: Management::Paused,
                    ..view()
                },
                at(0)
            ),
            Step::Paused
        );
        let unmanaged = View {
            management: Management::Unmanaged,
            ..view()
        };
        assert_eq!(next(&unmanaged, at(0)), Step::Leave);
    }

    #[test]
    fn a_network_that_never_ran_goes_at_once() {
        let view = View {
            agents: Workload::Gone,
            switches: Workload::Gone,
            operands: 0,
            users: vec!["kube-system/coredns".into()],
            ..view()
        };
        assert_eq!(next(&view, at(0)), Step::Release);
    }
}
