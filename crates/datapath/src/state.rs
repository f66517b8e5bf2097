//! What a node is to the pipeline: plain data, made by the agent, rendered by [`crate::render()`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::services::ProxyMode;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// The MAC address of the virtual next hop, behind which the host sees all pods. Locally
/// administered, the same on every node: it never leaves a node's own bridge.
pub const VIRTUAL_MAC: MacAddr = MacAddr([0x02, 0x77, 0x00, 0x00, 0x00, 0x01]);

impl MacAddr {
    /// Derives a locally administered unicast address from bytes of a digest.
    pub const fn local_from(digest: [u8; 5]) -> Self {
        let [first, second, third, fourth, fifth] = digest;
        Self([0x02, first, second, third, fourth, fifth])
    }

    /// Whether this is a multicast or broadcast address, which no interface may have.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

/// The text is not six two-digit hexadecimal numbers with colons between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an Ethernet address")]
pub struct MacAddrError {
    /// What was given.
    pub text: String,
}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || MacAddrError {
            text: text.chars().take(64).collect(),
        };
        let mut bytes = [0_u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(error)?;
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() {
            Err(error())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// At most one address of each family.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Addresses {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// The addresses there are, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.v6.map(IpAddr::V6))
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Keeps the first address of each family.
    pub fn first_of(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut found = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(v4) => {
                    found.v4.get_or_insert(v4);
                }
                IpAddr::V6(v6) => {
                    found.v6.get_or_insert(v6);
                }
            }
        }
        found
    }
}

/// An OpenFlow port number of the integration bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Port(pub u16);

impl Port {
    /// The tunnel port, asked for with `ofport_request`.
    pub const TUNNEL: Self = Self(1);
    /// The gateway port, asked for with `ofport_request`.
    pub const GATEWAY: Self = Self(2);
    /// The first number that pods get.
    pub const FIRST_POD: Self = Self(100);
    /// The first number Open vSwitch gives to ports that asked for none.
    pub const FIRST_UNASKED: Self = Self(32768);
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The host's port on the integration bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Its OpenFlow port.
    pub port: Port,
    /// Its MAC address: what pods have as their neighbour.
    pub mac: MacAddr,
    /// The first address of the pod CIDR of each family.
    pub addresses: Addresses,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// Where tunnels to it end.
    pub endpoints: Addresses,
}

/// A pod of this node whose port is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// Its OpenFlow port.
    pub port: Port,
    /// MAC address of its interface.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Addresses,
}

/// How packets travel between nodes (`traffic.mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// In tunnels.
    Encap,
    /// As they are: the fabric knows where pods are, or the nodes are on one subnet.
    NoEncap,
    /// As they are between nodes of one subnet, in tunnels between others.
    Hybrid,
}

/// How packets get to a range of another node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In a tunnel that ends at this address.
    Tunnel(IpAddr),
    /// As they are, to the other node's address on a subnet this node is on.
    Direct(IpAddr),
    /// As they are, by the routes the host has without us.
    Fabric,
}

/// Everything the pipeline of one node is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// The host's port.
    pub gateway: Gateway,
    /// Pod CIDRs of this node.
    pub pod_cidrs: Vec<IpNet>,
    /// How packets travel between nodes.
    pub mode: Mode,
    /// The tunnel port; `None` in modes without one.
    pub tunnel: Option<Port>,
    /// Addresses of this node on the transport link, where tunnels end.
    pub endpoints: Addresses,
    /// Subnets of the transport link: who has an address in one of them is a neighbour.
    pub subnets: Vec<IpNet>,
    /// The other nodes by name.
    pub peers: BTreeMap<String, Peer>,
    /// Pods by the key of their attachment (stable for the life of the sandbox).
    pub pods: BTreeMap<String, Pod>,
    /// How much of Services the switch serves. Services themselves are [`crate::services::Proxy`]'s.
    #[serde(default)]
    pub services: ProxyMode,
}

impl NodeState {
    /// How packets get to a range of a peer's pods; `None` when they cannot.
    ///
    /// Both ends may answer differently when their subnets' prefixes do: packets then come one way
    /// and go the other, which neither end minds.
    pub fn way(&self, peer: &Peer, pods: IpNet) -> Option<Way> {
        let tunnel = || self.tunnel_destination(peer).map(Way::Tunnel);
        match self.mode {
            Mode::Encap => tunnel(),
            Mode::NoEncap => Some(self.neighbour(peer, pods).unwrap_or(Way::Fabric)),
            Mode::Hybrid => self.neighbour(peer, pods).or_else(tunnel),
        }
    }

    /// The way to a peer on a subnet of ours, by an address of the pods' own family.
    fn neighbour(&self, peer: &Peer, pods: IpNet) -> Option<Way> {
        let address = match pods {
            IpNet::V4(_) => peer.endpoints.v4.map(IpAddr::V4),
            IpNet::V6(_) => peer.endpoints.v6.map(IpAddr::V6),
        }?;
        let shared = self.subnets.iter().any(|subnet| subnet.contains(&address));
        shared.then_some(Way::Direct(address))
    }

    /// The address a tunnel to `peer` ends at: IPv4 where both nodes have it, else IPv6.
    pub fn tunnel_destination(&self, peer: &Peer) -> Option<IpAddr> {
        match (
            self.endpoints.v4,
            peer.endpoints.v4,
            self.endpoints.v6,
            peer.endpoints.v6,
        ) {
            (Some(_), Some(v4), _, _) => Some(IpAddr::V4(v4)),
            (_, _, Some(_), Some(v6)) => Some(IpAddr::V6(v6)),
            _ => None,
        }
    }
}

/// The first address of a pod CIDR, which is the gateway's; `None` when it has no host addresses
/// to spare (fewer than two host bits).
pub fn gateway_address(cidr: IpNet) -> Option<IpAddr> {
    match cidr {
        IpNet::V4(net) if net.prefix_len() <= 30 => Some(IpAddr::V4(Ipv4Addr::from(
            u32::from(net.network()).checked_add(1)?,
        ))),
        IpNet::V6(net) if net.prefix_len() <= 126 => Some(IpAddr::V6(Ipv6Addr::from(
            u128::from(net.network()).checked_add(1)?,
        ))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_read_and_written() {
        let mac: MacAddr = "02:aa:0b:00:ff:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:aa:0b:00:ff:01");
        for wrong in [
            "",
            "02",
            "02:aa:0b:00:ff",
            "02:aa:0b:00:ff:01:02",
            "2:aa:0b:00:ff:01",
            "zz:aa:0b:00:ff:01",
            "+1:aa:0b:00:ff:01",
        ] {
            assert!(wrong.parse::<MacAddr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn virtual_mac_is_local_unicast() {
        assert!(!VIRTUAL_MAC.is_multicast());
        assert_eq!(VIRTUAL_MAC.0[0] & 2, 2);
    }

    #[test]
    fn gateway_is_the_first_address() {
        let gateway = |cidr: &str| gateway_address(cidr.parse().unwrap()).map(|a| a.to_string());
        assert_eq!(gateway("10.10.3.0/24").as_deref(), Some("10.10.3.1"));
        assert_eq!(gateway("fd00:10:3::/64").as_deref(), Some("fd00:10:3::1"));
        assert_eq!(gateway("10.10.3.8/31"), None);
    }

    #[test]
    fn tunnels_prefer_ipv4_where_both_have_it() {
        let state = |v4: bool, v6: bool| Addresses {
            v4: v4.then(|| "192.0.2.1".parse().unwrap()),
            v6: v6.then(|| "2001:db8::1".parse().unwrap()),
        };
        let check = |own: Addresses, peer: Addresses| {
            let node = NodeState {
                gateway: Gateway {
                    port: Port::GATEWAY,
                    mac: VIRTUAL_MAC,
                    addresses: Addresses::default(),
                },
                pod_cidrs: vec![],
                mode: Mode::Encap,
                tunnel: Some(Port::TUNNEL),
                endpoints: own,
                subnets: vec![],
                peers: BTreeMap::new(),
                pods: BTreeMap::new(),
                services: ProxyMode::Disabled,
            };
            node.tunnel_destination(&Peer {
                pod_cidrs: vec![],
                endpoints: peer,
            })
            .map(|address| address.is_ipv4())
        };
        assert_eq!(check(state(true, true), state(true, true)), Some(true));
        assert_eq!(check(state(true, true), state(false, true)), Some(false));
        assert_eq!(check(state(true, false), state(false, true)), None);
        assert_eq!(check(state(false, true), state(true, true)), Some(false));
    }

    #[test]
    fn the_way_goes_by_mode_subnet_and_family() {
        let node = |mode: Mode| NodeState {
            gateway: Gateway {
                port: Port::GATEWAY,
                mac: VIRTUAL_MAC,
                addresses: Addresses::default(),
            },
            pod_cidrs: vec![],
            mode,
            tunnel: (mode != Mode::NoEncap).then_some(Port::TUNNEL),
            endpoints: Addresses {
                v4: Some("192.0.2.1".parse().unwrap()),
                v6: None,
            },
            subnets: vec!["192.0.2.0/25".parse().unwrap()],
            peers: BTreeMap::new(),
            pods: BTreeMap::new(),
            services: ProxyMode::Disabled,
        };
        let peer = |v4: &str| Peer {
            pod_cidrs: vec![],
            endpoints: Addresses {
                v4: Some(v4.parse().unwrap()),
                v6: None,
            },
        };
        let (near, far) = (peer("192.0.2.2"), peer("192.0.2.200"));
        let (v4, v6) = (
            "10.10.2.0/24".parse().unwrap(),
            "fd00:10:2::/64".parse().unwrap(),
        );
        let [near_address, far_address] =
            [&near, &far].map(|peer| peer.endpoints.v4.map(IpAddr::V4).unwrap());
        for (mode, near_v4, near_v6, far_v4) in [
            (
                Mode::Encap,
                Way::Tunnel(near_address),
                Way::Tunnel(near_address),
                Way::Tunnel(far_address),
            ),
            (
                Mode::NoEncap,
                Way::Direct(near_address),
                Way::Fabric,
                Way::Fabric,
            ),
            (
                Mode::Hybrid,
                Way::Direct(near_address),
                Way::Tunnel(near_address),
                Way::Tunnel(far_address),
            ),
        ] {
            let node = node(mode);
            assert_eq!(node.way(&near, v4), Some(near_v4), "{mode:?}");
            assert_eq!(node.way(&near, v6), Some(near_v6), "{mode:?}");
            assert_eq!(node.way(&far, v4), Some(far_v4), "{mode:?}");
        }
    }
}
