//! What the operator reports in a `Networking`'s status.
//!
//! Lists are capped at [`STATUS_LIST_MAX`] with counts beside them: an object holds 1.5 MiB.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::networking::{NetworkingSpec, Provider};

/// The most entries any list in a status has.
pub const STATUS_LIST_MAX: usize = 20;

/// Condition types of a `Networking`.
pub mod condition {
    /// The network is as the spec says, on every node.
    pub const READY: &str = "Ready";
    /// The operator works on it (kstatus).
    pub const RECONCILING: &str = "Reconciling";
    /// The operator cannot go on without a person (kstatus).
    pub const STALLED: &str = "Stalled";
    /// Pods have a network, perhaps not yet the newest.
    pub const AVAILABLE: &str = "Available";
    /// A change is on its way to the nodes.
    pub const PROGRESSING: &str = "Progressing";
    /// Something is broken.
    pub const DEGRADED: &str = "Degraded";
    /// In `serviceProxy.mode` `Full`, and until a kube-proxy that was disabled runs again: whether no
    /// kube-proxy is left beside the agents. False says why, and what mends it.
    pub const KUBE_PROXY_REPLACED: &str = "KubeProxyReplaced";
}

/// What the operator observed and does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkingStatus {
    /// The generation of the spec that this status describes; -1 before the operator looked.
    #[serde(default = "never_observed")]
    pub observed_generation: i64,
    /// Ready, Reconciling, Stalled, Available, Progressing, Degraded, KubeProxyReplaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// What the cluster is, and how that is known.
    #[serde(
        default,
        deserialize_with = "crate::known",
        skip_serializing_if = "Option::is_none"
    )]
    pub provider: Option<ProviderStatus>,
    /// The spec that is applied, with every default filled in.
    #[serde(
        default,
        deserialize_with = "crate::known",
        skip_serializing_if = "Option::is_none"
    )]
    pub effective: Option<NetworkingSpec>,
    /// Versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<Versions>,
    /// What the last edit does, or would do while Paused or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// Progress of each part of the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 20),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub components: Vec<ComponentStatus>,
    /// Progress of the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<NodesStatus>,
    /// The last change on its way to the nodes.
    #[serde(
        default,
        deserialize_with = "crate::known",
        skip_serializing_if = "Option::is_none"
    )]
    pub rollout: Option<RolloutStatus>,
}

/// `status.observedGeneration` of an object that nobody has looked at.
pub const NEVER_OBSERVED: i64 = -1;

fn never_observed() -> i64 {
    NEVER_OBSERVED
}

impl Default for NetworkingStatus {
    fn default() -> Self {
        Self {
            observed_generation: NEVER_OBSERVED,
            conditions: Vec::new(),
            provider: None,
            effective: None,
            versions: None,
            plan: None,
            components: Vec::new(),
            nodes: None,
            rollout: None,
        }
    }
}

/// What the cluster is, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProviderStatus {
    /// What the evidence says.
    pub detected: Provider,
    /// Each fact that counted: where it was seen, what it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 512)))]
    pub evidence: Vec<String>,
}

/// Versions of the network's parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Versions {
    /// The version the operator brings.
    #[schemars(length(max = 128))]
    pub target: String,
    /// Versions that run, by part, each with the number of pods: "0.1.0 (3)".
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 8,
        "additionalProperties" = {"type": "string", "maxLength": 256}
    ))]
    pub running: BTreeMap<String, String>,
}

/// What a change does, before it does it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// In one sentence.
    #[schemars(length(max = 1024))]
    pub summary: String,
    /// What restarts.
    #[serde(default)]
    pub restarts: Restarts,
    /// Objects that are made, changed or deleted: "update DaemonSet carrick-system/carrick-agent".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 512)))]
    pub steps: Vec<String>,
    /// What is doubtful but not wrong; `acknowledge` accepts it by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 20),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub warnings: Vec<Warning>,
}

/// Pods that a change restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Restarts {
    /// Replicas of the controller.
    #[serde(default)]
    pub controllers: i32,
    /// Agents.
    #[serde(default)]
    pub agents: i32,
    /// Switches: an outage on each node, announced here.
    #[serde(default)]
    pub switches: i32,
}

/// A warning that can be acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Warning {
    /// The name `spec.acknowledge` takes.
    #[schemars(length(max = 64))]
    pub name: String,
    /// What is doubtful and how to mend it.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Somebody has read it.
    #[serde(default)]
    pub acknowledged: bool,
}

/// Progress of one part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ComponentStatus {
    /// controller, agent or switch.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Pods wanted.
    pub desired: i32,
    /// Pods of the newest template.
    pub updated: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// What hinders, with the cause: pod, container, reason, last words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// Progress of the nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodesStatus {
    /// "READY/TOTAL", for a column.
    #[schemars(length(max = 64))]
    pub summary: String,
    /// Nodes that should carry the network.
    pub total: i32,
    /// Nodes whose switch and agent are ready.
    pub ready: i32,
    /// Nodes whose agent has cleaned up, during removal.
    #[serde(default)]
    pub cleaned: i32,
    /// Nodes that are not ready; at most 20, `notReadyCount` has them all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 20),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub not_ready: Vec<NodeStatus>,
    /// How many nodes are not ready.
    #[serde(default)]
    pub not_ready_count: i32,
}

/// Why a node is not ready.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Name of the node.
    #[schemars(length(max = 253))]
    pub name: String,
    /// A word for programs: CrashLoopBackOff, ImagePullBackOff, AgentMissing, …
    #[schemars(length(max = 128))]
    pub reason: String,
    /// The cause: pod, container, last words.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// A change on its way to the nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// What is being done.
    pub phase: RolloutPhase,
    /// Forward to what the spec says, or Back to what ran before.
    pub direction: RolloutDirection,
    /// Reachable nodes that carry the network.
    pub total: i32,
    /// Of these, nodes whose agent, and switch if it changes, have the template that is rolled out.
    pub updated: i32,
    /// Of these, nodes whose updated pods are ready.
    pub ready: i32,
    /// Nodes that do not report: left out, and updated when they come back.
    #[serde(default)]
    pub unreachable: i32,
    /// Their names; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 253)), extend("x-kubernetes-list-type" = "atomic"))]
    pub unreachable_nodes: Vec<String>,
    /// What is waited for now; empty when nothing is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub waiting_for: String,
    /// Since when that is waited for; rollout.stallTimeout counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// What failed; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub failures: Vec<RolloutFailure>,
    /// In one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub message: String,
}

/// What a rollout is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum RolloutPhase {
    /// The network comes up for the first time: everything at once.
    Installing,
    /// Images are pulled on every node; nothing has restarted yet.
    PullingImages,
    /// The controller's replicas, one at a time, until the agents have found a new one.
    Controller,
    /// The agents, one node at a time.
    Agents,
    /// The switches, one node at a time; each node has a short outage.
    Switches,
    /// Everything runs what it shall.
    Complete,
    /// `rollout.paused` holds it.
    Paused,
    /// It failed and stands still.
    Failed,
    /// It failed and everything runs again what ran before.
    RolledBack,
}

/// Where a rollout goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum RolloutDirection {
    /// Controller, agents, switches.
    Forward,
    /// Switches, agents, controller.
    Back,
}

/// What failed in a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutFailure {
    /// The node; empty when it concerns none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub node: String,
    /// The pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub pod: String,
    /// The container; empty when it concerns the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub container: String,
    /// A word for programs: CrashLoopBackOff, ImagePullBackOff, Stalled, …
    #[schemars(length(max = 128))]
    pub reason: String,
    /// Last words or explanation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
}
