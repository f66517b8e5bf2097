//! How far the network is: each part, each node, and what hinders.

use std::collections::{BTreeMap, BTreeSet};

use carrick_api::agentinfo::{self, AgentInfo};
use carrick_api::controllerinfo::{self, ControllerInfo};
use carrick_api::names::object;
use carrick_api::status::{ComponentStatus, NodeStatus, NodesStatus, STATUS_LIST_MAX};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;

use crate::diagnose::{Cause, Severity, diagnose, is_ready};
use crate::effective::Effective;
use crate::facts::{Facts, Reach};
use crate::render::NAME;
use crate::validate::in_scope;

/// How many causes a component's message tells.
const CAUSES_MAX: usize = 3;

/// What runs, as the API server knows it.
#[derive(Debug, Clone, Default)]
pub struct Running {
    /// The controller's Deployment.
    pub controller: Option<Deployment>,
    /// The agents' DaemonSet.
    pub agent: Option<DaemonSet>,
    /// The switches' DaemonSet.
    pub switch: Option<DaemonSet>,
    /// Pods of all three.
    pub pods: Vec<Pod>,
    /// What agents report.
    pub agents: Vec<AgentInfo>,
    /// What controllers report.
    pub controllers: Vec<ControllerInfo>,
}

/// How far it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Controller, switch, agent.
    pub components: Vec<ComponentStatus>,
    /// The nodes.
    pub nodes: NodesStatus,
    /// Pods that fail, worst first (those that only take their time are not in it).
    pub failures: Vec<Cause>,
    /// Nodes the control plane does not hear; they count in nothing else.
    pub unreachable: Vec<String>,
    /// What agents complain of, by node.
    pub complaints: Vec<String>,
    /// Why nodes have no pod CIDRs, or wrong ones, as the controller that allocates them says.
    pub node_cidrs: Option<String>,
    /// Versions that run, by part.
    pub versions: BTreeMap<String, String>,
    /// The newest templates run and are ready on every reachable node.
    pub complete: bool,
    /// Pods have a network where they are: every reachable node has a ready switch and agent, and
    /// a controller is ready.
    pub available: bool,
}

struct Workload {
    name: &'static str,
    desired: i32,
    updated: i32,
    ready: i32,
    exists: bool,
}

fn daemon_set(name: &'static str, set: Option<&DaemonSet>) -> Workload {
    let status = set.and_then(|set| set.status.clone()).unwrap_or_default();
    let seen = set.is_some_and(|set| status.observed_generation >= set.metadata.generation);
    Workload {
        name,
        desired: status.desired_number_scheduled,
        updated: if seen {
            status.updated_number_scheduled.unwrap_or(0)
        } else {
            0
        },
        ready: status.number_ready,
        exists: set.is_some() && seen,
    }
}

fn deployment(name: &'static str, deployment: Option<&Deployment>) -> Workload {
    let status = deployment
        .and_then(|d| d.status.clone())
        .unwrap_or_default();
    let seen = deployment.is_some_and(|d| status.observed_generation >= d.metadata.generation);
    let desired = deployment
        .and_then(|d| d.spec.as_ref())
        .and_then(|spec| spec.replicas);
    Workload {
        name,
        desired: desired.unwrap_or(0),
        updated: if seen {
            status.updated_replicas.unwrap_or(0)
        } else {
            0
        },
        ready: status.ready_replicas.unwrap_or(0),
        exists: deployment.is_some() && seen,
    }
}

/// How far the network of `effective` is.
pub fn progress(
    effective: &Effective,
    facts: &Facts,
    running: &Running,
    now: Timestamp,
) -> Progress {
    let unreachable: BTreeSet<&str> = facts
        .nodes
        .iter()
        .filter(|node| node.reach == Reach::Unreachable)
        .map(|node| node.name.as_str())
        .collect();
    let mut by_part: BTreeMap<&str, Vec<Cause>> = BTreeMap::new();
    let mut ready_on: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut lost: BTreeMap<&str, i32> = BTreeMap::new();
    for pod in &running.pods {
        let part = pod
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(NAME));
        let Some(part) = part.map(String::as_str) else {
            continue;
        };
        let node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .unwrap_or("");
        if unreachable.contains(node) {
            *lost.entry(part).or_default() += 1;
        } else if is_ready(pod) {
            ready_on.entry(part).or_default().insert(node);
        } else if let Some(cause) = diagnose(pod, now) {
            by_part.entry(part).or_default().push(cause);
        }
    }
    for causes in by_part.values_mut() {
        causes.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.pod.cmp(&b.pod)));
    }

    let nodes = nodes(effective, facts, &ready_on, &by_part, running);
    let mut result = Progress {
        nodes,
        unreachable: unreachable.iter().map(|&name| name.to_owned()).collect(),
        complaints: complaints(running),
        node_cidrs: node_cidrs(running),
        versions: versions(running),
        complete: true,
        available: true,
        ..Progress::default()
    };
    for workload in [
        deployment(object::CONTROLLER, running.controller.as_ref()),
        daemon_set(object::SWITCH, running.switch.as_ref()),
        daemon_set(object::AGENT, running.agent.as_ref()),
    ] {
        let causes = by_part.get(workload.name).map_or(&[][..], Vec::as_slice);
        let mut message = causes
            .iter()
            .take(CAUSES_MAX)
            .map(Cause::sentence)
            .collect::<Vec<_>>()
            .join("; ");
        if causes.len() > CAUSES_MAX {
            message = format!("{message}; and {} more", causes.len() - CAUSES_MAX);
        }
        // Pods on nodes that are gone can neither be updated nor become ready.
        let lost = lost.get(workload.name).copied().unwrap_or(0);
        let reachable = (workload.desired - lost).max(0);
        let whole = workload.exists
            && workload.updated >= reachable.min(workload.desired)
            && workload.ready >= reachable;
        result.complete &= whole;
        result.failures.extend(
            causes
                .iter()
                .filter(|cause| cause.severity > Severity::Progressing)
                .cloned(),
        );
        result.available &= if workload.name == object::CONTROLLER {
            workload.ready > 0
        } else {
            workload.exists && workload.ready >= reachable
        };
        result.components.push(ComponentStatus {
            name: workload.name.trim_start_matches("carrick-").to_owned(),
            desired: workload.desired,
            updated: workload.updated,
            ready: workload.ready,
            message,
        });
    }
    result.complete &= result.nodes.ready == result.nodes.total && result.nodes.total > 0;
    result
        .failures
        .sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.pod.cmp(&b.pod)));
    result
}

fn nodes(
    effective: &Effective,
    facts: &Facts,
    ready_on: &BTreeMap<&str, BTreeSet<&str>>,
    by_part: &BTreeMap<&str, Vec<Cause>>,
    running: &Running,
) -> NodesStatus {
    let has = |part: &str, node: &str| ready_on.get(part).is_some_and(|nodes| nodes.contains(node));
    let cleaned = running
        .agents
        .iter()
        .filter(|agent| condition(agent, agentinfo::condition::CLEANED) == Some("True"))
        .count();
    let mut not_ready = Vec::new();
    let mut total = 0;
    let mut ready = 0;
    for node in facts.nodes.iter().filter(|node| in_scope(effective, node)) {
        if node.reach == Reach::Unreachable {
            not_ready.push(NodeStatus {
                name: node.name.clone(),
                reason: "Unreachable".to_owned(),
                message: "the node does not report; nothing on it can be changed now".to_owned(),
            });
            continue;
        }
        total += 1;
        let missing = [object::SWITCH, object::AGENT]
            .into_iter()
            .find(|part| !has(part, &node.name));
        let Some(part) = missing else {
            ready += 1;
            continue;
        };
        let cause = by_part
            .get(part)
            .and_then(|causes| causes.iter().find(|cause| cause.node == node.name));
        not_ready.push(match cause {
            Some(cause) => NodeStatus {
                name: node.name.clone(),
                reason: cause.reason.clone(),
                message: cause.sentence(),
            },
            None => NodeStatus {
                name: node.name.clone(),
                reason: "PodMissing".to_owned(),
                message: format!("no pod of {part} runs there yet"),
            },
        });
    }
    let count = i32::try_from(not_ready.len()).unwrap_or(i32::MAX);
    not_ready.truncate(STATUS_LIST_MAX);
    NodesStatus {
        summary: format!("{ready}/{total}"),
        total,
        ready,
        cleaned: i32::try_from(cleaned).unwrap_or(i32::MAX),
        not_ready,
        not_ready_count: count,
    }
}

/// The status of one of an agent's conditions.
pub fn condition<'a>(agent: &'a AgentInfo, type_: &str) -> Option<&'a str> {
    let conditions = &agent.status.as_ref()?.conditions;
    conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .map(|c| c.status.as_str())
}

/// What agents say is wrong on their nodes although their pods are ready.
fn complaints(running: &Running) -> Vec<String> {
    use agentinfo::condition::{DATAPATH_READY, POD_CIDRS_USABLE, STATE_INTACT};
    let mut found = Vec::new();
    for agent in &running.agents {
        let conditions = agent.status.iter().flat_map(|status| &status.conditions);
        for condition in conditions {
            let counts = [DATAPATH_READY, POD_CIDRS_USABLE, STATE_INTACT];
            if condition.status == "False" && counts.contains(&condition.type_.as_str()) {
                found.push(format!(
                    "node {}: {} ({})",
                    agent.metadata.name.as_deref().unwrap_or_default(),
                    condition.message,
                    condition.reason
                ));
            }
        }
    }
    found.sort();
    found
}

/// What the leading controller says of the pod CIDRs it allocates, when all is not well.
fn node_cidrs(running: &Running) -> Option<String> {
    running
        .controllers
        .iter()
        .filter_map(|info| info.status.as_ref())
        .filter(|status| status.leader)
        .flat_map(|status| &status.conditions)
        .find(|condition| {
            condition.type_ == controllerinfo::condition::NODE_CIDRS_ALLOCATED
                && condition.status == "False"
        })
        .map(|condition| format!("{} ({})", condition.message, condition.reason))
}

/// "0.1.0 (3)" by part, from the pods' images.
fn versions(running: &Running) -> BTreeMap<String, String> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for pod in &running.pods {
        let part = pod
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(NAME));
        let image = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.containers.first()?.image.clone());
        if let (Some(part), Some(image)) = (part.filter(|part| *part != object::PRE_PULL), image) {
            let name = image.rsplit('/').next().unwrap_or_default();
            let version = name
                .split_once(['@', ':'])
                .map_or("latest", |(_, version)| version);
            let version: String = version.chars().take(40).collect();
            let part = part.trim_start_matches("carrick-").to_owned();
            *counts.entry((part, version)).or_default() += 1;
        }
    }
    let mut versions: BTreeMap<String, String> = BTreeMap::new();
    for ((part, version), count) in counts {
        let text = versions.entry(part).or_default();
        if !text.is_empty() {
            text.push_str(", ");
        }
        *text = format!("{text}{version} ({count})");
    }
    versions
}
