//! The effective configuration: a `Networking` with every default filled in, as the operator
//! hands it to controller, agents and switches (ConfigMap `carrick-config`, mounted as `config.json`).

use std::collections::BTreeMap;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nodeconfig::{self, NodeConfig};

/// What every part of the network runs by. Unknown fields are tolerated: a newer operator may
/// write what an older agent does not know yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveConfig {
    /// The API server without any Service proxy in between.
    pub api_server: Endpoint,
    /// How packets travel.
    pub traffic: Traffic,
    /// Which datapath Open vSwitch uses.
    pub datapath: DatapathType,
    /// What is done about a foreign firewall that drops pods' packets.
    #[serde(default)]
    pub host_firewall: HostFirewall,
    /// Who serves Services. A configuration from before this field leaves them to kube-proxy.
    #[serde(default, skip_serializing_if = "ServiceProxy::is_default")]
    pub service_proxy: ServiceProxy,
    /// Where CNI files go on the host.
    pub cni: Cni,
    /// The taint that keeps pods away until the agent is ready.
    pub startup_taint: Option<String>,
    /// Ranges of ClusterIPs: no pod CIDR may overlap them. Empty when the cluster does not tell.
    pub service_cidrs: Vec<IpNet>,
    /// How the controller allocates the pod CIDRs of nodes; none where kube-controller-manager does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ipam: Option<NodeIpam>,
    /// What differs on some nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_configs: Vec<NodeConfig>,
    /// A `tracing` level: error, warn, info, debug or trace.
    pub log_level: String,
}

impl EffectiveConfig {
    /// The configuration of a node with these labels, and the name of the entry of `nodeConfigs` that
    /// made it what it is.
    #[must_use]
    pub fn on_node(&self, labels: &BTreeMap<String, String>) -> (Self, Option<&str>) {
        let mut config = self.clone();
        let Some(own) = nodeconfig::first_match(&self.node_configs, labels) else {
            return (config, None);
        };
        if let Some(datapath) = own.datapath_type() {
            config.datapath = datapath;
        }
        if let Some(interface) = own.transport_interface() {
            interface.clone_into(&mut config.traffic.transport_interface);
        }
        (config, Some(&own.name))
    }
}

/// `ipam.nodeIPAM`: what the controller allocates the pod CIDRs of nodes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeIpam {
    /// Ranges to allocate from, used in this order within each family.
    #[serde(rename = "clusterCIDRs")]
    pub cluster_cidrs: Vec<IpNet>,
    /// Prefix length of a node's IPv4 CIDR.
    #[serde(rename = "nodeMaskSizeIPv4")]
    pub node_mask_size_ipv4: u8,
    /// Prefix length of a node's IPv6 CIDR.
    #[serde(rename = "nodeMaskSizeIPv6")]
    pub node_mask_size_ipv6: u8,
}

impl NodeIpam {
    /// Prefix length of a node's CIDR out of `cluster`.
    #[must_use]
    pub fn node_mask_size(&self, cluster: &IpNet) -> u8 {
        match cluster {
            IpNet::V4(_) => self.node_mask_size_ipv4,
            IpNet::V6(_) => self.node_mask_size_ipv6,
        }
    }
}

/// A host (name or address, no brackets) and a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// DNS name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// How packets travel between nodes and out of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Encapsulation mode.
    pub mode: TrafficMode,
    /// Tunnel protocol in modes that have one.
    pub tunnel_protocol: TunnelProtocol,
    /// UDP port of the tunnel; 0 = the protocol's own.
    #[serde(default)]
    pub tunnel_port: u16,
    /// Whether outer packets carry a checksum.
    #[serde(default)]
    pub tunnel_checksum: bool,
    /// Pod MTU in bytes; 0 = the transport interface's MTU less the encapsulation.
    pub mtu: u16,
    /// Interface that carries traffic between nodes; empty = the one that holds an address of
    /// `transport_cidrs`, or the node's InternalIP.
    pub transport_interface: String,
    /// Where nodes' transport addresses are; empty = anywhere.
    #[serde(default)]
    pub transport_cidrs: Vec<IpNet>,
    /// Source NAT for pod traffic that leaves the cluster.
    pub snat: SnatMode,
    /// Whether source NAT chooses ports at random.
    #[serde(default)]
    pub snat_randomly: bool,
}

impl Traffic {
    /// The tunnel's UDP port: the one asked for, else what IANA gave to the protocol; `None` for a
    /// protocol without ports.
    pub const fn tunnel_udp_port(&self) -> Option<u16> {
        match (self.tunnel_protocol, self.tunnel_port) {
            (TunnelProtocol::GRE, _) => None,
            (TunnelProtocol::Geneve, 0) => Some(6081),
            (TunnelProtocol::VXLAN, 0) => Some(4789),
            (TunnelProtocol::Geneve | TunnelProtocol::VXLAN, port) => Some(port),
        }
    }
}

/// `traffic.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum TrafficMode {
    /// Every packet between nodes is encapsulated.
    Encap,
    /// None is: the nodes are on one subnet, or the fabric routes each node's pod CIDRs to it.
    NoEncap,
    /// Those between nodes of one subnet are not.
    Hybrid,
}

impl TrafficMode {
    /// Whether Carrick itself carries packets between all nodes, so that none waits for routes that a
    /// cloud makes for its pod CIDRs.
    #[must_use]
    pub const fn carries_pods(self) -> bool {
        match self {
            Self::Encap | Self::Hybrid => true,
            Self::NoEncap => false,
        }
    }
}

/// `traffic.tunnel.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum TunnelProtocol {
    /// RFC 8926, UDP port 6081.
    Geneve,
    /// RFC 7348, UDP port 4789.
    VXLAN,
    /// RFC 2784; not between IPv6 node addresses on the kernel datapath.
    GRE,
}

/// `traffic.snat.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum SnatMode {
    /// Masquerade what leaves the cluster.
    Auto,
    /// Leave sources alone.
    Disabled,
}

/// `datapath.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum DatapathType {
    /// Kernel where the openvswitch module loads; otherwise a condition with the mend.
    Auto,
    /// The kernel datapath (`system`).
    Kernel,
    /// The userspace datapath (`netdev`); its tunnels need a transport interface.
    Userspace,
}

/// `hostFirewall`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum HostFirewall {
    /// A condition of the node names it.
    #[default]
    Report,
    /// A marked rule in its chain lets pods' packets pass.
    InsertRule,
}

/// `serviceProxy`: what of Services the agents serve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceProxy {
    /// How much of them.
    #[serde(default)]
    pub mode: ServiceProxyMode,
    /// Services that are left to another proxy, each as `namespace/name`.
    #[serde(default)]
    pub skip_services: Vec<String>,
    /// Ranges of the nodes' addresses that have node ports; empty means all of them.
    #[serde(default)]
    pub node_port_addresses: Vec<IpNet>,
    /// What is done about a kube-proxy that runs; nothing is said of it where the mode is not `Full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_proxy: Option<KubeProxy>,
}

impl ServiceProxy {
    /// Whether it is what an object without the field means.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a kube-proxy is to be replaced.
    #[must_use]
    pub fn replaces_kube_proxy(&self) -> bool {
        self.mode == ServiceProxyMode::Full && { self.kube_proxy }
            .is_some_and(|kube_proxy| kube_proxy != KubeProxy::Keep)
    }
}

/// `serviceProxy.kubeProxy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum KubeProxy {
    /// It is disabled where nobody else manages it, and else it is kept.
    Auto,
    /// It is left alone.
    Keep,
    /// It is disabled; where that may not be done, the network is degraded.
    Disable,
}

/// `serviceProxy.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum ServiceProxyMode {
    /// kube-proxy serves all of them.
    #[default]
    Disabled,
    /// The switch serves cluster IPs for pods, kube-proxy the rest.
    ClusterIP,
    /// The switch serves all of them, and there is no kube-proxy.
    Full,
}

/// Host paths of CNI.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cni {
    /// Directory of plugin binaries on the host.
    pub bin_dir: String,
    /// Directory of network configurations on the host.
    pub conf_dir: String,
    /// File name of our configuration list in it.
    pub conf_file: String,
    /// Set other networks' files aside (renamed, given back on removal).
    pub exclusive: bool,
}
