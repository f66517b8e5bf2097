//! `AgentInfo`: what one node's agent says about itself.

#![expect(
    clippy::duplicated_attributes,
    reason = "every printer column has a name, a type and a path"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Condition types of an `AgentInfo`.
pub mod condition {
    /// The node carries pods: bridge, gateway and tunnel stand and the last commit is in the switch.
    pub const READY: &str = "Ready";
    /// The agent has a stream to the controller. Its loss does not make the node unready.
    pub const CONTROLLER_CONNECTED: &str = "ControllerConnected";
    /// The datapath that was asked for is in use.
    pub const DATAPATH_READY: &str = "DatapathReady";
    /// The node's pod CIDRs are usable (no overlap).
    pub const POD_CIDRS_USABLE: &str = "PodCIDRsUsable";
    /// State files were read whole; False names the file that was set aside.
    pub const STATE_INTACT: &str = "StateIntact";
    /// Other nodes answer pings through the network (gateway to gateway). Rollouts wait for it.
    pub const PEERS_REACHABLE: &str = "PeersReachable";
    /// In mode NoEncap: the network between the nodes carries pods' addresses, as far as other nodes that
    /// answer tell. False names the routes it lacks. It does not make the node unready.
    pub const FABRIC_ROUTES_PODS: &str = "FabricRoutesPods";
    /// The network between the nodes carries packets of the size that pods' MTU needs, as far as other
    /// nodes that answer tell. False names paths that take less, how much, and what to set. It does not
    /// make the node unready.
    pub const FABRIC_CARRIES_MTU: &str = "FabricCarriesMTU";
    /// No pod's interface has a larger MTU than pods of this node get now. False names pods that were made
    /// before the MTU went down: their large packets are lost until they are made again. It does not
    /// make the node unready.
    pub const PODS_HAVE_MTU: &str = "PodsHaveMTU";
    /// No chain of another firewall on the host drops pods' packets, as far as that is certain; False
    /// names them. It does not make the node unready: how far pods may reach may be meant so.
    pub const HOST_FIREWALL_OPEN: &str = "HostFirewallOpen";
    /// Services are in the switch as they were asked for; not there where `serviceProxy.mode` is `Disabled`.
    /// False names Services that are not, or says why none could be programmed. It does not make the node
    /// unready: what was programmed before goes on.
    pub const SERVICES_SERVED: &str = "ServicesServed";
    /// The policies for this node's pods are in the switch as they were asked for. False names policies that
    /// are not: the ports of the pods they are for are closed. It does not make the node unready.
    pub const POLICIES_ENFORCED: &str = "PoliciesEnforced";
    /// Where `serviceProxy` replaces a kube-proxy: none runs on this node, and none of its rules are left.
    /// False says what is there. It does not make the node unready.
    pub const KUBE_PROXY_REPLACED: &str = "KubeProxyReplaced";
    /// `agent cleanup` has removed everything of ours from the node. The operator waits for
    /// `True`; `False` says what is left and how to remove it by hand.
    pub const CLEANED: &str = "Cleaned";
}

/// AgentInfo is what one node's agent says about itself. It has the name of its node and is
/// written by that node's agent alone (a ValidatingAdmissionPolicy holds it to that), on change.
#[derive(
    CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "carrick.dev",
    version = "v1alpha1",
    kind = "AgentInfo",
    plural = "agentinfos",
    singular = "agentinfo",
    shortname = "cai",
    category = "carrick",
    status = "AgentInfoStatus",
    derive = "PartialEq",
    doc = "AgentInfo is what one node's agent says about itself. It has the name of its node and is written by that node's agent alone, on change.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.counts.pods"),
    printcolumn(name = "Flows", type_ = "integer", json_path = ".status.counts.flows"),
    printcolumn(name = "Datapath", type_ = "string", json_path = ".status.datapath"),
    printcolumn(name = "MTU", type_ = "integer", json_path = ".status.mtu"),
    printcolumn(
        name = "Controller",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"ControllerConnected\")].status"
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(
        name = "PodCIDRs",
        type_ = "string",
        json_path = ".status.podCIDRs",
        priority = 1
    ),
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
pub struct AgentInfoSpec {}

/// What the agent reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentInfoStatus {
    /// Name of the pod that wrote this: what a pod before it said is not taken for its word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub version: String,
    /// Version of Open vSwitch.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub switch_version: String,
    /// The datapath in use.
    #[serde(
        default,
        deserialize_with = "crate::known",
        skip_serializing_if = "Option::is_none"
    )]
    pub datapath: Option<DatapathInUse>,
    /// The node's pod CIDRs that the agent serves.
    #[serde(default, rename = "podCIDRs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 64)), extend("x-kubernetes-list-type" = "atomic"))]
    pub pod_cidrs: Vec<String>,
    /// Addresses of this node where tunnels end, one per family at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 64)), extend("x-kubernetes-list-type" = "atomic"))]
    pub tunnel_endpoints: Vec<String>,
    /// Addresses of the gateway interface.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 64)), extend("x-kubernetes-list-type" = "atomic"))]
    pub gateway_addresses: Vec<String>,
    /// The interface that carries tunnels.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 15))]
    pub transport_interface: String,
    /// The entry of nodeConfigs that is for this node; empty without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub node_config: String,
    /// MTU of pods, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i32>,
    /// How much there is. Rounded reports are fine: it is written on change, never per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<AgentCounts>,
    /// The stream to the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<ControllerConnection>,
    /// Ready, ControllerConnected, DatapathReady, PodCIDRsUsable, StateIntact, HostFirewallOpen,
    /// PeersReachable, FabricRoutesPods, FabricCarriesMTU, PodsHaveMTU, Cleaned.
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

/// A datapath of Open vSwitch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum DatapathInUse {
    /// `system`, in the kernel.
    Kernel,
    /// `netdev`, in ovs-vswitchd.
    Userspace,
}

/// How much there is on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentCounts {
    /// Flows on the integration bridge.
    #[serde(default)]
    pub flows: i32,
    /// Groups on the integration bridge.
    #[serde(default)]
    pub groups: i32,
    /// Pods attached.
    #[serde(default)]
    pub pods: i32,
}

/// The stream to the controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ControllerConnection {
    /// Address of the replica.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 300))]
    pub address: String,
    /// Epoch of the last committed number.
    #[serde(default)]
    pub epoch: i64,
    /// Since when the stream stands or is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
}
