//! Which pod asks which for what. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::probe::{Protocol, Target, TargetError};

/// Bytes of a small exchange over TCP.
const SMALL: u32 = 64;
/// Bytes of a small datagram.
const DATAGRAM: u32 = 200;
/// Bytes of a large exchange over TCP.
const BULK: u32 = 256 << 10;

/// What a test pod is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// The node's pod that asks and is asked.
    Pod,
    /// A second pod on the same node.
    Second,
    /// A pod on the host network.
    Host,
}

impl Role {
    /// In front of a pod's name.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Second => "second",
            Self::Host => "host",
        }
    }
}

/// A test pod that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// What it is for.
    pub role: Role,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Path {
    /// Through one switch.
    PodToPodSameNode,
    /// Through the tunnel.
    PodToPodOtherNode,
    /// Through the gateway.
    PodToHostSameNode,
    /// Out of the node.
    PodToHostOtherNode,
    /// Through the gateway, the way kubelets probe.
    HostToPodSameNode,
    /// Through the gateway and the tunnel.
    HostToPodOtherNode,
    /// Not Carrick's: tells whether the nodes reach each other at all.
    HostToHost,
}

impl Path {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PodToPodSameNode => "pod to pod, same node",
            Self::PodToPodOtherNode => "pod to pod, other node",
            Self::PodToHostSameNode => "pod to host, same node",
            Self::PodToHostOtherNode => "pod to host, other node",
            Self::HostToPodSameNode => "host to pod, same node",
            Self::HostToPodOtherNode => "host to pod, other node",
            Self::HostToHost => "host to host (not Carrick)",
        }
    }

    /// Whether both ends are pods: addresses must then arrive as they are.
    pub fn keeps_source(self) -> bool {
        matches!(self, Self::PodToPodSameNode | Self::PodToPodOtherNode)
    }

    fn of(from: &End, to: &End) -> Self {
        let same = from.node == to.node;
        match (from.role, to.role) {
            (Role::Host, Role::Host) => Self::HostToHost,
            (Role::Host, _) if same => Self::HostToPodSameNode,
            (Role::Host, _) => Self::HostToPodOtherNode,
            (_, Role::Host) if same => Self::PodToHostSameNode,
            (_, Role::Host) => Self::PodToHostOtherNode,
            _ if same => Self::PodToPodSameNode,
            _ => Self::PodToPodOtherNode,
        }
    }
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A connection with some bytes.
    Tcp,
    /// A small datagram.
    Udp,
    /// 256 KiB over TCP and back.
    Bulk,
    /// A packet of exactly the pods' MTU, not to be fragmented.
    Mtu,
}

impl Kind {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Bulk => "TCP 256 KiB",
            Self::Mtu => "full MTU",
        }
    }
}

/// One thing to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// The asking pod.
    pub from: String,
    /// Its node.
    pub from_node: String,
    /// Its addresses, for what the other end should see.
    pub from_addresses: Vec<IpAddr>,
    /// The pod that is to answer.
    pub to: String,
    /// Its node.
    pub to_node: String,
    /// The way.
    pub path: Path,
    /// IPv4 or IPv6.
    pub family: Family,
    /// What is tried.
    pub kind: Kind,
    /// As the probe takes it.
    pub target: Target,
}

/// What limits the plan.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Other nodes that each node is tested with.
    pub peers: usize,
    /// The probes' port.
    pub port: u16,
    /// MTU of pods by node.
    pub mtu: BTreeMap<String, u32>,
}

/// All tests between the pods that run, by asking pod.
///
/// # Errors
/// An MTU that no packet can have.
pub fn plan(ends: &[End], limits: &Limits) -> Result<BTreeMap<String, Vec<Test>>, TargetError> {
    let nodes: BTreeSet<&str> = ends.iter().map(|end| end.node.as_str()).collect();
    let nodes: Vec<&str> = nodes.into_iter().collect();
    let place: BTreeMap<&str, usize> = nodes.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let near = |from: &End, to: &End| {
        let (Some(from), Some(to)) = (place.get(from.node.as_str()), place.get(to.node.as_str()))
        else {
            return false;
        };
        // Around the ring: every node asks the next ones and is asked by the ones before.
        (to + nodes.len() - from) % nodes.len() <= limits.peers
    };
    let mut tests: BTreeMap<String, Vec<Test>> = BTreeMap::new();
    for from in ends.iter().filter(|end| end.role != Role::Second) {
        for to in ends.iter().filter(|to| wanted(from, to) && near(from, to)) {
            for address in &to.addresses {
                let family = Family::of(*address);
                if !from.addresses.iter().any(|own| Family::of(*own) == family) {
                    continue;
                }
                let path = Path::of(from, to);
                for (kind, protocol, bytes) in kinds(path, from, to, limits) {
                    let address = SocketAddr::new(*address, limits.port);
                    tests.entry(from.name.clone()).or_default().push(Test {
                        from: from.name.clone(),
                        from_node: from.node.clone(),
                        from_addresses: from.addresses.clone(),
                        to: to.name.clone(),
                        to_node: to.node.clone(),
                        path,
                        family,
                        kind,
                        target: Target::new(protocol, address, bytes)?,
                    });
                }
            }
        }
    }
    Ok(tests)
}

/// The second pod is for its own node only; a host does not ask itself.
fn wanted(from: &End, to: &End) -> bool {
    match to.role {
        Role::Second => from.node == to.node && from.role == Role::Pod,
        Role::Pod => from.name != to.name,
        Role::Host => from.role != Role::Host || from.node != to.node,
    }
}

fn kinds(path: Path, from: &End, to: &End, limits: &Limits) -> Vec<(Kind, Protocol, u32)> {
    let mut kinds = vec![
        (Kind::Tcp, Protocol::Tcp, SMALL),
        (Kind::Udp, Protocol::Udp, DATAGRAM),
    ];
    if path != Path::HostToHost {
        kinds.push((Kind::Bulk, Protocol::Tcp, BULK));
        let mtu = |end: &End| limits.mtu.get(&end.node).copied();
        if let (Some(from), Some(to)) = (mtu(from), mtu(to)) {
            kinds.push((Kind::Mtu, Protocol::Mtu, from.min(to)));
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(nodes: usize, addresses: &[&str]) -> Vec<End> {
        let mut ends = Vec::new();
        for n in 0..nodes {
            for (i, role) in [Role::Pod, Role::Second, Role::Host]
                .into_iter()
                .enumerate()
            {
                ends.push(End {
                    name: format!("{}-{n}", role.prefix()),
                    node: format!("node-{n}"),
                    role,
                    addresses: addresses
                        .iter()
                        .map(|prefix| format!("{prefix}{}", n * 10 + i + 1).parse().unwrap())
                        .collect(),
                });
            }
        }
        ends
    }

    fn limits(peers: usize, nodes: usize) -> Limits {
        let mtu = (0..nodes).map(|n| (format!("node-{n}"), 1400)).collect();
        Limits {
            peers,
            port: 1,
            mtu,
        }
    }

    fn paths(tests: &BTreeMap<String, Vec<Test>>) -> BTreeMap<(Path, Family), usize> {
        let mut paths = BTreeMap::new();
        for test in tests
            .values()
            .flatten()
            .filter(|test| test.kind == Kind::Tcp)
        {
            *paths.entry((test.path, test.family)).or_default() += 1;
        }
        paths
    }

    #[test]
    fn every_way_is_tried_over_every_family() {
        let tests = plan(&ends(2, &["10.0.0.", "fd00::"]), &limits(8, 2)).unwrap();
        let per_family = [
            (Path::PodToPodSameNode, 2),
            (Path::PodToPodOtherNode, 2),
            (Path::PodToHostSameNode, 2),
            (Path::PodToHostOtherNode, 2),
            (Path::HostToPodSameNode, 2),
            (Path::HostToPodOtherNode, 2),
            (Path::HostToHost, 2),
        ];
        let expected = per_family
            .into_iter()
            .flat_map(|(path, n)| [((path, Family::V4), n), ((path, Family::V6), n)])
            .collect();
        assert_eq!(paths(&tests), expected);
    }

    #[test]
    fn each_node_is_tested_with_so_many_peers_only() {
        let tests = plan(&ends(9, &["10.0.0."]), &limits(2, 9)).unwrap();
        assert_eq!(
            paths(&tests).get(&(Path::PodToPodOtherNode, Family::V4)),
            Some(&18)
        );
        assert_eq!(
            paths(&tests).get(&(Path::PodToPodSameNode, Family::V4)),
            Some(&9)
        );
    }

    #[test]
    fn packets_of_the_mtu_are_left_out_where_it_is_not_known() {
        let mut limits = limits(8, 2);
        limits.mtu.remove("node-1");
        let tests = plan(&ends(2, &["10.0.0."]), &limits).unwrap();
        let mtu: Vec<_> = tests
            .values()
            .flatten()
            .filter(|t| t.kind == Kind::Mtu)
            .map(|t| t.path)
            .collect();
        assert!(!mtu.is_empty());
        assert!(!mtu.contains(&Path::PodToPodOtherNode));
    }
}
