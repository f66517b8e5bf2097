//! `Networking`: the one object that describes the network (its `spec`).
//!
//! Only fields that act exist. Every field is optional; defaults are computed by the operator and
//! shown in `status.effective`, never written back (that would fight GitOps tools). Every list and
//! string is bounded: the API server charges CEL rules by the worst case.

#![expect(
    clippy::duplicated_attributes,
    reason = "every printer column has a name, a type and a path"
)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::effective::{DatapathType, HostFirewall, SnatMode, TrafficMode, TunnelProtocol};
use crate::nodeconfig::NodeConfig;
use crate::status::NetworkingStatus;

mod ipam;
mod serviceproxy;

pub use ipam::{Ipam, IpamMode, NodeIpam};
pub use serviceproxy::ServiceProxy;

/// The network of this cluster: how pods are connected, by what, and how it is kept up.
/// Exactly one exists, named "default".
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "carrick.dev",
    version = "v1alpha1",
    kind = "Networking",
    plural = "networkings",
    singular = "networking",
    shortname = "cnet",
    category = "carrick",
    status = "NetworkingStatus",
    derive = "PartialEq",
    doc = "Networking describes the network of this cluster: how pods are connected, by what, and how it is kept up. Exactly one exists, named \"default\". Defaults are shown in status.effective and never written into the spec.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".status.effective.traffic.mode"
    ),
    printcolumn(
        name = "Provider",
        type_ = "string",
        json_path = ".status.provider.detected"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.versions.target"
    ),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".status.nodes.summary"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.datapath) && has(self.datapath.type) && self.datapath.type == 'Userspace') || (has(self.traffic) && has(self.traffic.transport) && has(self.traffic.transport.interface) && self.traffic.transport.interface != '') || (has(self.traffic) && has(self.traffic.mode) && self.traffic.mode == 'NoEncap')",
    "message": "datapath.type Userspace needs traffic.transport.interface, except in mode NoEncap: tunnels of the userspace datapath take that interface into a bridge of Open vSwitch, so it must be named and must not be the one the kubelet uses",
    "fieldPath": ".traffic"
}, {
    "rule": "!has(self.nodeConfigs) || (has(self.traffic) && has(self.traffic.transport) && has(self.traffic.transport.interface) && self.traffic.transport.interface != '') || (has(self.traffic) && has(self.traffic.mode) && self.traffic.mode == 'NoEncap') || self.nodeConfigs.all(c, !(has(c.datapath) && has(c.datapath.type) && c.datapath.type == 'Userspace') || (has(c.traffic) && has(c.traffic.transport) && has(c.traffic.transport.interface) && c.traffic.transport.interface != ''))",
    "message": "a nodeConfigs entry with datapath.type Userspace needs traffic.transport.interface, there or for the whole network, except in mode NoEncap: tunnels of the userspace datapath take that interface into a bridge of Open vSwitch",
    "fieldPath": ".nodeConfigs"
}]))]
pub struct NetworkingSpec {
    /// Who acts: Managed (the operator applies changes), Paused (it observes and plans, and
    /// changes nothing) or Unmanaged (it does not look at all). Default: Managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management: Option<Management>,
    /// What this cluster is. Auto detects it; a value that contradicts the evidence in
    /// status.provider is refused. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// The API server as every part of the network reaches it: an endpoint that needs no Service
    /// proxy. Default: the endpoint that the operator itself uses (the chart's apiServer value).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server: Option<ApiServer>,
    /// Where images come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
    /// How packets travel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
    /// Where pod addresses come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<Ipam>,
    /// Which datapath Open vSwitch uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datapath: Option<Datapath>,
    /// What is done about chains of other firewalls on the hosts (ufw, firewalld, Docker) that drop
    /// pods' packets: an accept in Carrick's own table does not help against them. Report names them
    /// in the node's condition HostFirewallOpen. InsertRule also puts rules with the comment
    /// "carrick" at the head of such a chain, which accept what comes from or goes to the pods'
    /// gateway, and takes them out again. Default: Report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_firewall: Option<HostFirewall>,
    /// Who serves Services: this network all of them (mode Full), the cluster IPs for pods beside a
    /// kube-proxy that serves the rest (mode ClusterIP), or a kube-proxy (mode Disabled).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_proxy: Option<ServiceProxy>,
    /// Where CNI files go on the hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<Cni>,
    /// The controller's Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Controller>,
    /// The DaemonSets of the agent and the switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// What differs on some nodes: the first entry whose nodeSelector matches a node's labels counts
    /// there, alone, and what it leaves out is the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = [{
        "rule": "self.all(one, self.exists_one(other, other.name == one.name))",
        "message": "names in nodeConfigs are unique"
    }]))]
    pub node_configs: Option<Vec<NodeConfig>>,
    /// Logs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observability: Option<Observability>,
    /// What keeps pods away from a node until its agent is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Startup>,
    /// How a change goes to the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Names of warnings (status.plan.warnings) that somebody has read and accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 64)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub acknowledge: Option<Vec<String>>,
}

/// `management`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum Management {
    /// The operator applies every change.
    Managed,
    /// The operator observes and plans, and changes nothing.
    Paused,
    /// The operator leaves everything alone.
    Unmanaged,
}

/// `provider`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum Provider {
    /// Detected from nodes and objects of the cluster.
    Auto,
    /// Anything that follows the defaults of Kubernetes.
    Generic,
    /// Made by kubeadm.
    Kubeadm,
    /// Kubernetes in Docker.
    Kind,
}

/// `apiServer`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(has(self.host) && self.host != '') == (has(self.port) && self.port != 0)",
    "message": "apiServer.host and apiServer.port go together: set both, or neither to use the endpoint the operator itself reached"
}]))]
pub struct ApiServer {
    /// Name or address, without brackets. Names must resolve by the hosts' own resolver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 253),
        regex(pattern = r"^([A-Za-z0-9][A-Za-z0-9.:-]*|:[0-9A-Fa-f:.]+)?$")
    )]
    pub host: Option<String>,
    /// TCP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<u16>,
}

/// `images`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// Registry, with a path if need be, that replaces the one the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 255),
        regex(pattern = r"^([a-zA-Z0-9][a-zA-Z0-9._:/-]*[a-zA-Z0-9])?$")
    )]
    pub registry: Option<String>,
    /// Prefix of the image names, "mirror-" makes carrick "mirror-carrick".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^([a-z0-9][a-z0-9._-]*)?$"))]
    pub prefix: Option<String>,
    /// When kubelets pull. Default: IfNotPresent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// Names of image pull Secrets in the operator's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub pull_secrets: Option<Vec<String>>,
    /// Digests ("sha256:…") by image name: carrick, carrick-ovs. A digest replaces the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxProperties" = 2,
        "additionalProperties" = {"type": "string", "maxLength": 71, "pattern": "^sha256:[0-9a-f]{64}$"},
        "x-kubernetes-validations" = [{
            "rule": "self.all(name, name in ['carrick', 'carrick-ovs'])",
            "message": "images.digests knows the images carrick and carrick-ovs"
        }]
    ))]
    pub digests: Option<BTreeMap<String, String>>,
}

/// `images.pullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum PullPolicy {
    /// At every start of a container.
    Always,
    /// When the node has it not.
    IfNotPresent,
    /// Never: images are on the nodes.
    Never,
}

impl PullPolicy {
    /// The name Kubernetes has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// `traffic`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.mode) && self.mode == 'NoEncap' && has(self.tunnel))",
    "message": "traffic.tunnel means nothing in mode NoEncap, which has no tunnels: remove it, or choose Encap or Hybrid"
}]))]
pub struct Traffic {
    /// How pods on different nodes reach each other. Encap: in tunnels. NoEncap: as they are, so
    /// nodes are on one subnet or the fabric routes each node's pod CIDRs to it. Hybrid: as they are
    /// between nodes of one subnet, in tunnels between others. Default: Encap. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<TrafficMode>,
    /// The tunnel of modes that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    /// MTU of pods in bytes. 0: the transport interface's MTU less the encapsulation. It can be
    /// raised later, not lowered. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        range(min = 0, max = 65535),
        extend("x-kubernetes-validations" = [{
            "rule": "self == 0 || self >= 576",
            "message": "traffic.mtu is 0 (computed from the transport interface) or at least 576, the least an IPv4 host must take"
        }])
    )]
    pub mtu: Option<u16>,
    /// What carries traffic between nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// Source addresses of traffic that leaves the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snat: Option<Snat>,
}

/// `traffic.tunnel`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.protocol) && self.protocol == 'GRE' && has(self.port) && self.port != 0)",
    "message": "traffic.tunnel.port means nothing to GRE, an IP protocol without ports: remove it, or choose Geneve or VXLAN",
    "fieldPath": ".port"
}]))]
pub struct Tunnel {
    /// Encapsulation protocol: Geneve (RFC 8926), VXLAN (RFC 7348) or GRE (RFC 2784; not between IPv6
    /// node addresses on the kernel datapath). Default: Geneve. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", length(max = 16), extend("x-kubernetes-validations" = [{
        "rule": "self != 'STT'",
        "message": "STT is no longer in Open vSwitch for Linux: choose Geneve, VXLAN or GRE"
    }, {
        "rule": "self in ['Geneve', 'VXLAN', 'GRE', 'STT']",
        "message": "traffic.tunnel.protocol is Geneve, VXLAN or GRE"
    }]))]
    pub protocol: Option<TunnelProtocol>,
    /// UDP port of Geneve or VXLAN, the same on every node. 0: the protocol's own, 6081 or 4789.
    /// Default: 0. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<u16>,
    /// Outer packets carry a checksum over what is in them (UDP's, or GRE's own). It costs speed where
    /// the network card does not compute it. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<bool>,
}

/// `traffic.transport`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transport {
    /// Interface on every node that carries traffic between nodes. Empty: the one that holds an
    /// address of cidrs, or the node's InternalIP. Default: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 15), regex(pattern = r"^([^/\s:]+)?$"))]
    pub interface: Option<String>,
    /// Ranges that hold the nodes' transport addresses, for nodes with several: an address outside
    /// them is no end of a tunnel and no next hop. Empty: any address. Default: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 16),
        inner(length(min = 4, max = 49)),
        extend("x-kubernetes-list-type" = "set", "x-kubernetes-validations" = [{
            "rule": "self.all(range, isCIDR(range))",
            "message": "traffic.transport.cidrs holds ranges such as 192.0.2.0/24 or 2001:db8::/64"
        }])
    )]
    pub cidrs: Option<Vec<String>>,
}

/// `traffic.snat`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Snat {
    /// Auto masquerades pod traffic that leaves the cluster by the node's address; Disabled
    /// leaves sources alone. Default: Auto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<SnatMode>,
    /// Source NAT chooses ports at random, so that many connections to one address do not race for
    /// the same one. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_fully: Option<bool>,
}

/// `datapath`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Datapath {
    /// Auto and Kernel use the kernel datapath; Userspace is for tests and locked-down hosts and
    /// needs traffic.transport.interface, except in mode NoEncap. Default: Auto. Immutable, except
    /// between Auto and Kernel.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<DatapathType>,
}

/// `cni`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cni {
    /// Directory of plugin binaries on the hosts. Default: the provider's, mostly /opt/cni/bin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), regex(pattern = r"^(/[A-Za-z0-9._/-]+)?$"))]
    pub bin_dir: Option<String>,
    /// Directory of network configurations on the hosts. Default: the provider's, mostly
    /// /etc/cni/net.d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255), regex(pattern = r"^(/[A-Za-z0-9._/-]+)?$"))]
    pub conf_dir: Option<String>,
    /// Name of our configuration list in confDir. Default: 05-carrick.conflist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 128),
        regex(pattern = r"^([A-Za-z0-9][A-Za-z0-9._-]*\.conflist)?$")
    )]
    pub conf_file: Option<String>,
    /// Set other networks' configurations aside (renamed, and given back on removal).
    /// Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<bool>,
}

/// `controller`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Controller {
    /// Replicas: one leads, the others stand by warm. A cluster of one node gets one.
    /// Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 5))]
    pub replicas: Option<i32>,
    /// Where its pods run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// What its container asks for. Default: requests of 100m CPU and 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// More arguments for the controller, after the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "atomic"))]
    pub extra_args: Option<Vec<String>>,
}

/// `agent`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Which nodes have a network. Tolerations are not needed: agent and switch tolerate all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// What the agent's container asks for. Default: requests of 50m CPU and 48Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// What the switch's container asks for. Default: requests of 100m CPU and 96Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch_resources: Option<Resources>,
    /// PriorityClass of agent and switch. Default: system-node-critical.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 253),
        regex(pattern = r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$")
    )]
    pub priority_class: Option<String>,
}

/// Where pods run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels a node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxProperties" = 16,
        "additionalProperties" = {"type": "string", "maxLength": 63}
    ))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints to tolerate, besides those that a network must tolerate to come up first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Option<Vec<Toleration>>,
}

/// What a container asks for and may use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// Guaranteed, by resource name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxProperties" = 8,
        "additionalProperties" = {"x-kubernetes-int-or-string": true, "maxLength": 32}
    ))]
    pub requests: Option<BTreeMap<String, Quantity>>,
    /// The most it may use, by resource name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend(
        "maxProperties" = 8,
        "additionalProperties" = {"x-kubernetes-int-or-string": true, "maxLength": 32}
    ))]
    pub limits: Option<BTreeMap<String, Quantity>>,
}

/// `observability`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observability {
    /// Log level of controller and agents (a switch would have to restart for it). Default: info.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
}

/// `observability.logLevel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Only what failed.
    Error,
    /// And what should be looked at.
    Warn,
    /// And changes of state.
    Info,
    /// And decisions.
    Debug,
    /// And bytes.
    Trace,
}

impl LogLevel {
    /// The name `tracing` has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// `startup`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Startup {
    /// Enabled: the controller removes the taint taintKey from a node when its agent is ready.
    /// The node's bootstrap sets it (kubelet registerWithTaints). Default: Enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint: Option<Switch>,
    /// Key of that taint. Default: carrick.dev/agent-not-ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 253),
        regex(
            pattern = r"^(([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$"
        )
    )]
    pub taint_key: Option<String>,
}

/// On or off, where a third value may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum Switch {
    /// On.
    Enabled,
    /// Off.
    Disabled,
}

/// `rollout`: a change of an image or of the configuration goes controller first, then agents one
/// node at a time, then switches if they change at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Stop before the next node; what is under way on a node is finished. It holds a rollback back
    /// as well. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// How long a step (a node, the controller, pulling images) may take before it has failed:
    /// a duration such as 90s, 10m or 1h30m. Default: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 16),
        regex(pattern = r"^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$"),
        extend("x-kubernetes-validations" = [{
            "rule": "self == '' || duration(self) >= duration('1s')",
            "message": "rollout.stallTimeout is a duration of at least 1s, such as 90s, 10m or 1h30m"
        }])
    )]
    pub stall_timeout: Option<String>,
    /// What a failed rollout does: Rollback returns every part to what ran last without a fault;
    /// Pause leaves everything as it is for a person to look at. Default: Rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
}

/// `rollout.onFailure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum OnFailure {
    /// Go back to what ran last without a fault.
    Rollback,
    /// Stand still.
    Pause,
}
