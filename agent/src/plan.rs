//! What this node is, computed from the configuration, the records and the host's links (pure).

use std::collections::BTreeMap;
use std::net::IpAddr;

use carrick_api::effective::{
    self, DatapathType, EffectiveConfig, ServiceProxyMode, SnatMode, TrafficMode,
};
use carrick_datapath::services::ProxyMode;
use carrick_datapath::{
    Addresses, DatapathKind, Gateway, IpFamily, MacAddr, Mode, MtuError, NodeState, Peer, Pod,
    Port, Refused, Snat, Tunnel, TunnelProtocol, admit_own, admit_peers, gateway_address, pod_mtu,
};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::ipam::{Attachment, AttachmentState};
use crate::records::Committed;

mod transport;

pub use transport::Transport;
use transport::transport;

/// A link of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    /// Its name.
    pub name: String,
    /// The kernel's index of it.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it was set up.
    pub up: bool,
    /// Its Ethernet address, if it has one.
    pub mac: Option<MacAddr>,
    /// Its addresses with their prefixes.
    pub addresses: Vec<IpNet>,
}

/// The host's links by name.
pub type HostLinks = BTreeMap<String, HostLink>;

/// What this node is. Everything the switch and the host must hold follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// UID of the Node object.
    pub node_uid: String,
    /// The node's pod CIDRs that may be used, one per family at most.
    pub pod_cidrs: Vec<IpNet>,
    /// The host's port.
    pub gateway: Gateway,
    /// MTU of pods and gateway.
    pub mtu: u16,
    /// The link that carries traffic between nodes.
    pub transport: Transport,
    /// How packets travel between nodes.
    pub mode: Mode,
    /// The tunnel, in modes that have one.
    pub tunnel: Option<Tunnel>,
    /// The bridge's datapath.
    pub datapath: DatapathKind,
    /// The other nodes, without refused ranges.
    pub peers: BTreeMap<String, Peer>,
    /// Ranges that are not programmed.
    pub refused: Vec<Refused>,
    /// Source NAT for what leaves the cluster.
    pub snat: Snat,
    /// The entry of `nodeConfigs` that is for this node; empty without one.
    pub node_config: String,
    /// The node's zone, as its record tells; empty without one.
    pub zone: String,
    /// How much of Services is ours.
    pub services: ProxyMode,
}

/// Label of a Node: its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Why there is no plan yet. Each says what has to happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The controller has not told this node what it is.
    #[error("waiting for the controller's record of node {node}")]
    NoNode {
        /// This node.
        node: String,
    },
    /// The configuration differs by nodes' labels, and the controller has not told this node's.
    #[error(
        "waiting for the controller to tell the labels of node {node}, by which nodeConfigs choose"
    )]
    NoLabels {
        /// This node.
        node: String,
    },
    /// Another datapath than the one that runs.
    #[error(
        "node {node} runs the {running} datapath, and {config} now chooses {wanted}, which would make every pod's \
         port again: undo the change of the node's labels or of nodeConfigs, or drain the node and reboot it"
    )]
    DatapathRuns {
        /// This node.
        node: String,
        /// What it runs.
        running: DatapathKind,
        /// Which entry of `nodeConfigs`.
        config: String,
        /// What it should run.
        wanted: DatapathKind,
    },
    /// The controller says that the node's pod CIDRs must not be used.
    #[error("{problem}")]
    Problem {
        /// In the controller's words.
        problem: String,
    },
    /// The Node has no usable pod CIDR.
    #[error(
        "node {node} has no usable pod CIDR{refused}: let the controller-manager allocate node CIDRs \
         (--allocate-node-cidrs), or register the node again"
    )]
    NoPodCidr {
        /// This node.
        node: String,
        /// What was refused, as a clause.
        refused: String,
    },
    /// No link of the host can carry traffic between nodes.
    #[error("{reason}")]
    NoTransport {
        /// What is missing and how to mend it.
        reason: String,
    },
    /// Tunnels of the userspace datapath would take the interface the node is reached by.
    #[error(
        "traffic.transport.interface {link} holds the node's InternalIP {address}: tunnels of the userspace \
         datapath need an interface of their own, choose another one, or traffic.mode NoEncap, which has none"
    )]
    TransportInUse {
        /// The interface.
        link: String,
        /// The node's address on it.
        address: IpAddr,
    },
    /// The kernel datapath has no GRE between IPv6 addresses.
    #[error(
        "traffic.tunnel.protocol GRE needs IPv4 addresses between nodes on the kernel datapath, and interface \
         {link} has none: give it one, or choose Geneve or VXLAN"
    )]
    GreOverIpv6 {
        /// The transport interface.
        link: String,
    },
    /// There is no usable MTU.
    #[error("the MTU of transport interface {link} cannot be used: {source}")]
    Mtu {
        /// The interface.
        link: String,
        /// Why, and how to mend it.
        source: MtuError,
    },
}

/// Which datapath a configuration means. `Auto` is the kernel's: where its module does not load,
/// that is reported and never replaced by taking an interface.
pub const fn datapath_of(config: &EffectiveConfig) -> DatapathKind {
    match config.datapath {
        DatapathType::Auto | DatapathType::Kernel => DatapathKind::System,
        DatapathType::Userspace => DatapathKind::Netdev,
    }
}

/// How much of Services a configuration makes ours.
pub const fn proxy_mode(config: &effective::ServiceProxy) -> ProxyMode {
    match config.mode {
        ServiceProxyMode::Disabled => ProxyMode::Disabled,
        ServiceProxyMode::ClusterIP => ProxyMode::ClusterIp,
        ServiceProxyMode::Full => ProxyMode::Full,
    }
}

/// The mode and the tunnel that a configuration means.
fn mode_of(traffic: &effective::Traffic) -> (Mode, Option<Tunnel>) {
    let mode = match traffic.mode {
        TrafficMode::Encap => Mode::Encap,
        TrafficMode::Hybrid => Mode::Hybrid,
        TrafficMode::NoEncap => return (Mode::NoEncap, None),
    };
    let protocol = match traffic.tunnel_protocol {
        effective::TunnelProtocol::Geneve => TunnelProtocol::Geneve,
        effective::TunnelProtocol::VXLAN => TunnelProtocol::Vxlan,
        effective::TunnelProtocol::GRE => TunnelProtocol::Gre,
    };
    let tunnel = Tunnel {
        protocol,
        port: traffic.tunnel_udp_port(),
        checksum: traffic.tunnel_checksum,
    };
    (mode, Some(tunnel))
}

/// The MAC address of a node's gateway: the same after every restart and reboot, so that pods'
/// permanent neighbour entries stay right.
pub fn gateway_mac(node: &str) -> MacAddr {
    let digest: [u8; 32] = Sha256::digest(format!("carrick gateway {node}")).into();
    let mut seed = [0; 5];
    seed.copy_from_slice(digest.split_at(5).0);
    MacAddr::local_from(seed)
}

/// Computes the plan.
///
/// # Errors
/// The controller has told nothing yet, or the node cannot carry pods; the text says why.
pub fn plan(
    config: &EffectiveConfig,
    node_name: &str,
    committed: &Committed,
    links: &HostLinks,
) -> Result<NodePlan, PlanError> {
    let node = committed.node().ok_or_else(|| PlanError::NoNode {
        node: node_name.to_owned(),
    })?;
    if let Some(problem) = &node.problem {
        return Err(PlanError::Problem {
            problem: problem.clone(),
        });
    }
    // Every Node has labels: none means that the controller does not know yet that they are wanted.
    if !config.node_configs.is_empty() && node.labels.is_empty() {
        return Err(PlanError::NoLabels {
            node: node_name.to_owned(),
        });
    }
    let (config, node_config) = config.on_node(&node.labels);
    let config = &config;
    let (own, mut refused) = admit_own(node_name, &node.pod_cidrs, &config.service_cidrs);
    let pod_cidrs = first_of_each_family(&own);
    let gateways = Addresses::first_of(pod_cidrs.iter().filter_map(|cidr| gateway_address(*cidr)));
    if gateways.is_empty() {
        let list: Vec<String> = refused.iter().map(ToString::to_string).collect();
        let refused = if list.is_empty() {
            String::new()
        } else {
            format!(" ({})", list.join("; "))
        };
        return Err(PlanError::NoPodCidr {
            node: node_name.to_owned(),
            refused,
        });
    }
    let datapath = datapath_of(config);
    let transport = transport(config, datapath, &node.addresses, links)?;
    let outer = if transport.endpoints.v4.is_some() {
        IpFamily::V4
    } else {
        IpFamily::V6
    };
    let (mode, tunnel) = mode_of(&config.traffic);
    let gre = tunnel.is_some_and(|tunnel| tunnel.protocol == TunnelProtocol::Gre);
    if gre && outer == IpFamily::V6 && datapath == DatapathKind::System {
        return Err(PlanError::GreOverIpv6 {
            link: transport.link,
        });
    }
    let mtu = pod_mtu(
        transport.mtu,
        config.traffic.mtu,
        tunnel.map_or(0, |tunnel| tunnel.overhead(outer)),
        gateways.v6.is_some(),
    )
    .map_err(|source| PlanError::Mtu {
        link: transport.link.clone(),
        source,
    })?;
    let told = committed
        .routes()
        .filter(|route| route.node.as_str() != node_name)
        .map(|route| {
            let peer = Peer {
                pod_cidrs: route.pod_cidrs.clone(),
                endpoints: Addresses::first_of(route.tunnel_endpoints.iter().copied()),
            };
            (route.node.to_string(), peer)
        });
    let (peers, refused_peers) = admit_peers(told.collect(), &pod_cidrs, &config.service_cidrs);
    refused.extend(refused_peers);
    Ok(NodePlan {
        node_uid: node.uid.clone(),
        gateway: Gateway {
            port: Port::GATEWAY,
            mac: gateway_mac(node_name),
            addresses: gateways,
        },
        pod_cidrs,
        mtu,
        transport,
        mode,
        tunnel,
        datapath,
        peers,
        refused,
        snat: match config.traffic.snat {
            SnatMode::Auto => Snat::Masquerade {
                fully_random: config.traffic.snat_randomly,
            },
            SnatMode::Disabled => Snat::Off,
        },
        node_config: node_config.unwrap_or_default().to_owned(),
        zone: node.labels.get(ZONE).cloned().unwrap_or_default(),
        services: proxy_mode(&config.service_proxy),
    })
}

impl NodePlan {
    /// The pipeline's input: this plan and the pods whose ports are open.
    pub fn state(&self, pods: BTreeMap<String, Pod>) -> NodeState {
        NodeState {
            gateway: self.gateway,
            pod_cidrs: self.pod_cidrs.clone(),
            mode: self.mode,
            tunnel: self.tunnel.map(|_| Port::TUNNEL),
            endpoints: self.transport.endpoints,
            subnets: self.transport.subnets.clone(),
            peers: self.peers.clone(),
            pods,
            services: self.services,
        }
    }
}

/// Whether an attachment's port may be open: its pod has a record and it is not being removed.
pub fn is_open(attachment: &Attachment, committed: &Committed) -> bool {
    attachment.state != AttachmentState::Removing && committed.pod(&attachment.pod).is_some()
}

/// An attachment as the pipeline sees it.
pub fn pod_of(attachment: &Attachment) -> Option<Pod> {
    Some(Pod {
        port: Port(u16::try_from(attachment.ofport).ok()?),
        mac: MacAddr(attachment.mac.octets()),
        addresses: Addresses::first_of(attachment.addresses.iter().copied()),
    })
}

fn first_of_each_family(cidrs: &[IpNet]) -> Vec<IpNet> {
    let v4 = cidrs.iter().find(|cidr| matches!(cidr, IpNet::V4(_)));
    let v6 = cidrs.iter().find(|cidr| matches!(cidr, IpNet::V6(_)));
    v4.into_iter().chain(v6).copied().collect()
}

#[cfg(test)]
mod tests;
