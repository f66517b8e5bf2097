//! `ControllerInfo`: what one replica of the controller says about itself.

#![expect(
    clippy::duplicated_attributes,
    reason = "every printer column has a name, a type and a path"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Condition types of a `ControllerInfo`.
pub mod condition {
    /// Caches are warm: this replica serves, or could take over at once.
    pub const READY: &str = "Ready";
    /// Every node has pod CIDRs out of the cluster CIDRs and of its own; said by the leader in
    /// `ipam.mode: NodeIPAM`.
    pub const NODE_CIDRS_ALLOCATED: &str = "NodeCIDRsAllocated";
}

/// ControllerInfo is what one replica of the controller says about itself. It has the name of
/// its pod.
#[derive(
    CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "carrick.dev",
    version = "v1alpha1",
    kind = "ControllerInfo",
    plural = "controllerinfos",
    singular = "controllerinfo",
    shortname = "cci",
    category = "carrick",
    status = "ControllerInfoStatus",
    derive = "PartialEq",
    doc = "ControllerInfo is what one replica of the controller says about itself. It has the name of its pod.",
    printcolumn(name = "Leader", type_ = "boolean", json_path = ".status.leader"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Agents",
        type_ = "integer",
        json_path = ".status.connectedAgents"
    ),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.epoch"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(
        name = "Error",
        type_ = "string",
        json_path = ".status.lastError",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ControllerInfoSpec {}

/// What the replica reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControllerInfoStatus {
    /// Version of the controller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub version: String,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub node: String,
    /// Where agents reach it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 300))]
    pub address: String,
    /// It leads now.
    #[serde(default)]
    pub leader: bool,
    /// Epoch of its log.
    #[serde(default)]
    pub epoch: i64,
    /// Sequence of its log when this was written.
    #[serde(default)]
    pub sequence: i64,
    /// Agents with a stream to it.
    #[serde(default)]
    pub connected_agents: i32,
    /// Ready; in ipam.mode NodeIPAM the leader's NodeCIDRsAllocated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// The last thing that failed, in words; empty when it succeeded since.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub last_error: String,
}
