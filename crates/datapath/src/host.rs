//! What the host's own network stack must hold so that it reaches pods and pods reach the world:
//! addresses and routes of the gateway, sysctls and our nftables tables, as plain data.
//!
//! Everything is routed: the host sees its own pods, and those of peers at the other end of a tunnel,
//! behind *one* virtual next hop per family on the gateway link, with a permanent neighbour entry. It
//! so sends no ARP and no neighbour solicitation for pods. `src` of these routes matters: a remote
//! pod's answer must come back through the tunnel. Pods of a neighbour that is reached without a tunnel
//! are behind that node's own address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::services::ProxyMode;
use crate::state::{MacAddr, NodeState, VIRTUAL_MAC, Way};
use crate::tunnel::Tunnel;

/// The virtual next hop of IPv4 routes to pods.
pub const NEXT_HOP_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);
/// The virtual next hop of IPv6 routes to pods.
pub const NEXT_HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, 1);
/// Table in family `inet` that holds every rule of ours.
pub const INET_TABLE: &str = "carrick";
/// Table in family `netdev`, on the userspace datapath only.
pub const NETDEV_TABLE: &str = "carrick";

/// Whether traffic that leaves the cluster gets the node's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snat {
    /// Masquerade it.
    Masquerade {
        /// Ports are chosen at random, so that connections of many pods to one address do not race for
        /// the same one (nft's `fully-random`).
        fully_random: bool,
    },
    /// Leave sources alone.
    Off,
}

/// What the host's desired state is made from, beside the [`NodeState`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInput<'a> {
    /// Name of the gateway link.
    pub gateway_link: &'a str,
    /// Source NAT for what leaves the cluster.
    pub snat: Snat,
    /// The tunnel between nodes, in modes that have one.
    pub tunnel: Option<Tunnel>,
    /// Links whose frames only Open vSwitch may see, and their indexes: pods' host ends and, inside
    /// `br-phy`, the transport NIC. Empty on the kernel datapath, which takes frames before the stack.
    pub hidden_links: BTreeMap<String, u32>,
    /// More chains for table `inet carrick` (port mappings), each a whole `chain … { … }`.
    pub more_chains: &'a str,
}

/// The link a route leads through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteLink {
    /// The gateway: into the integration bridge.
    Gateway,
    /// The link that holds the node's transport addresses.
    Transport,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostRoute {
    /// Where to.
    pub destination: IpNet,
    /// Through which link.
    pub link: RouteLink,
    /// The next hop, `onlink`: virtual on the gateway, a node's address on the transport link.
    pub via: IpAddr,
    /// Preferred source.
    pub source: Option<IpAddr>,
}

/// A permanent neighbour entry on the gateway link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostNeighbour {
    /// The next hop.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: MacAddr,
}

/// Family of an nftables table of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NftFamily {
    /// `inet`.
    Inet,
    /// `netdev`.
    Netdev,
}

impl NftFamily {
    /// The family's name in nft's language.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Netdev => "netdev",
        }
    }
}

/// An nftables table as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftTable {
    /// Its family.
    pub family: NftFamily,
    /// Its name.
    pub name: &'static str,
    /// `table FAMILY NAME { … }`; `None` when it must not exist.
    pub text: Option<String>,
    /// Its chains by name, each a whole `chain NAME { … }`, when it is nothing but chains that know
    /// nothing of each other: they may be changed one by one. Empty otherwise.
    pub chains: BTreeMap<String, String>,
}

/// The whole desired state of the host's stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDesired {
    /// Addresses of the gateway link, `/32` and `/128`.
    pub addresses: BTreeSet<IpNet>,
    /// Permanent neighbours on the gateway link.
    pub neighbours: BTreeSet<HostNeighbour>,
    /// Routes to pods.
    pub routes: BTreeSet<HostRoute>,
    /// Paths below `/proc/sys/net` and their values, applied before the gateway gets addresses.
    pub sysctls: BTreeMap<String, String>,
    /// nftables tables.
    pub tables: Vec<NftTable>,
}

/// Renders what the host's stack must hold. Pure and deterministic.
pub fn render_host(state: &NodeState, input: &HostInput<'_>) -> HostDesired {
    let gateway = state.gateway.addresses;
    let mut addresses = BTreeSet::new();
    let mut neighbours = BTreeSet::new();
    let mut routes = BTreeSet::new();
    for own in gateway.iter() {
        addresses.insert(IpNet::from(own));
        neighbours.insert(HostNeighbour {
            address: next_hop(own),
            mac: VIRTUAL_MAC,
        });
    }
    let through_gateway = |cidr: &IpNet| {
        let source = match cidr {
            IpNet::V4(_) => gateway.v4.map(IpAddr::V4),
            IpNet::V6(_) => gateway.v6.map(IpAddr::V6),
        }?;
        Some(HostRoute {
            destination: cidr.trunc(),
            link: RouteLink::Gateway,
            via: next_hop(source),
            source: Some(source),
        })
    };
    routes.extend(state.pod_cidrs.iter().filter_map(through_gateway));
    for peer in state.peers.values() {
        routes.extend(
            peer.pod_cidrs
                .iter()
                .filter_map(|cidr| match state.way(peer, *cidr)? {
                    Way::Tunnel(_) => through_gateway(cidr),
                    Way::Direct(neighbour) => Some(HostRoute {
                        destination: cidr.trunc(),
                        link: RouteLink::Transport,
                        via: neighbour,
                        source: None,
                    }),
                    Way::Fabric => None,
                }),
        );
    }
    HostDesired {
        addresses,
        neighbours,
        routes,
        sysctls: sysctls(state, input.gateway_link),
        tables: vec![
            NftTable {
                family: NftFamily::Inet,
                name: INET_TABLE,
                text: Some(inet_table(state, input)),
                chains: BTreeMap::new(),
            },
            netdev_table(&input.hidden_links),
        ],
    }
}

/// The virtual next hop of an address's family.
pub const fn next_hop(family_of: IpAddr) -> IpAddr {
    match family_of {
        IpAddr::V4(_) => IpAddr::V4(NEXT_HOP_V4),
        IpAddr::V6(_) => IpAddr::V6(NEXT_HOP_V6),
    }
}

/// `addr_gen_mode=1` keeps link-local addresses off the gateway, `accept_dad=0` makes its address
/// usable at once: duplicate detection could only ask the pods, who may not answer. With
/// `route_localnet` the host reaches node ports at 127.0.0.1.
fn sysctls(state: &NodeState, gateway_link: &str) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::new();
    let mut set = |path: String, value: &str| {
        sysctls.insert(path, value.to_owned());
    };
    if state.gateway.addresses.v4.is_some() {
        set("ipv4/ip_forward".to_owned(), "1");
        if state.services == ProxyMode::Full {
            set(format!("ipv4/conf/{gateway_link}/route_localnet"), "1");
        }
    }
    if state.gateway.addresses.v6.is_some() {
        set("ipv6/conf/all/forwarding".to_owned(), "1");
        for (name, value) in [
            ("accept_ra", "0"),
            ("addr_gen_mode", "1"),
            ("accept_dad", "0"),
        ] {
            set(format!("ipv6/conf/{gateway_link}/{name}"), value);
        }
    }
    sysctls
}

/// `table inet carrick`. Writing into a `String` cannot fail.
fn inet_table(state: &NodeState, input: &HostInput<'_>) -> String {
    let gw = input.gateway_link;
    let own: Vec<IpNet> = state.pod_cidrs.iter().map(IpNet::trunc).collect();
    let peers = state
        .peers
        .values()
        .flat_map(|peer| peer.pod_cidrs.iter().map(IpNet::trunc));
    let pods: BTreeSet<IpNet> = own.iter().copied().chain(peers).collect();
    let mut text = format!("table inet {INET_TABLE} {{\n");
    text.push_str(&set(
        "pods4",
        "ipv4_addr",
        pods.iter().filter(|net| net.addr().is_ipv4()),
    ));
    text.push_str(&set(
        "pods6",
        "ipv6_addr",
        pods.iter().filter(|net| net.addr().is_ipv6()),
    ));
    // Tunnel packets are not connections: tracking each costs, and their ports vary.
    if let Some(tunnel) = input.tunnel {
        let packets = match tunnel.port {
            Some(port) => format!("udp dport {port}"),
            None => "meta l4proto gre".to_owned(),
        };
        for (chain, hook) in [("raw-pre", "prerouting"), ("raw-out", "output")] {
            let _ = write!(
                text,
                "  chain {chain} {{\n    type filter hook {hook} priority raw; policy accept;\n    \
                 {packets} notrack\n  }}\n"
            );
        }
    }
    text.push_str(
        "  chain forward {\n    type filter hook forward priority filter; policy accept;\n",
    );
    // Pods of this node are heard by the gateway alone: the switch believes the host what it sends.
    for cidr in &own {
        let family = nft_family(cidr.addr().is_ipv4());
        let _ = writeln!(
            text,
            "    iifname != \"{gw}\" oifname \"{gw}\" {family} saddr {cidr} drop"
        );
    }
    let _ = write!(
        text,
        "    iifname \"{gw}\" accept\n    oifname \"{gw}\" accept\n  }}\n"
    );
    text.push_str(
        "  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n",
    );
    // What the host sends to pods from another of its addresses would be answered past the tunnel.
    for own in state.gateway.addresses.iter() {
        let family = nft_family(own.is_ipv4());
        let _ = writeln!(
            text,
            "    oifname \"{gw}\" fib saddr type local {family} saddr != {own} masquerade"
        );
    }
    if let Snat::Masquerade { fully_random } = input.snat {
        let ports = if fully_random { " fully-random" } else { "" };
        for cidr in &own {
            let (family, set) = match cidr {
                IpNet::V4(_) => ("ip", "pods4"),
                IpNet::V6(_) => ("ip6", "pods6"),
            };
            let _ = writeln!(
                text,
                "    oifname != \"{gw}\" {family} saddr {cidr} {family} daddr != @{set} masquerade{ports}"
            );
        }
    }
    text.push_str("  }\n");
    for line in input.more_chains.lines() {
        let _ = writeln!(text, "  {line}");
    }
    text.push_str("}\n");
    text
}

fn nft_family(is_v4: bool) -> &'static str {
    if is_v4 { "ip" } else { "ip6" }
}

fn set<'a>(name: &str, of: &str, nets: impl Iterator<Item = &'a IpNet>) -> String {
    let elements: Vec<String> = nets.map(ToString::to_string).collect();
    let mut text = format!("  set {name} {{\n    type {of}\n    flags interval\n");
    if !elements.is_empty() {
        let _ = writeln!(text, "    elements = {{ {} }}", elements.join(", "));
    }
    text.push_str("  }\n");
    text
}

/// `table netdev carrick`: the host's stack must not hear what pods send; with AF_PACKET it gets a
/// copy of every frame otherwise, answers ARP with the veth's own MAC and routes around every rule
/// of the pipeline. One chain per link: a chain holds at most 256 devices, and older kernels remove
/// the chain when its link goes. The comment makes the chain of a link that was made anew under the
/// same name another one.
fn netdev_table(links: &BTreeMap<String, u32>) -> NftTable {
    let chain = |(link, index): (&String, &u32)| {
        let name = format!("in-{link}");
        let text = format!(
            "  chain {name} {{\n    comment \"link {index}\"\n    \
             type filter hook ingress device \"{link}\" priority 0; policy drop;\n  }}\n"
        );
        (name, text)
    };
    let chains: BTreeMap<String, String> = links.iter().map(chain).collect();
    let body: String = chains.values().map(String::as_str).collect();
    let text = format!("table netdev {NETDEV_TABLE} {{\n{body}}}\n");
    NftTable {
        family: NftFamily::Netdev,
        name: NETDEV_TABLE,
        text: (!chains.is_empty()).then_some(text),
        chains,
    }
}

/// Whether a name can be a Linux link's and stands in nft's language without quoting tricks.
pub fn is_link_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && name != "."
        && name != ".."
}
