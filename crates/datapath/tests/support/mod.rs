//! What the tests of this crate share: node states, and pods in namespaces on a real switch.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod clients;
pub mod clusters;
pub mod lab;
pub mod lab_services;
pub mod services;
pub mod web;

use std::collections::BTreeMap;

use carrick_datapath::services::ProxyMode;
use carrick_datapath::{Addresses, Gateway, MacAddr, Mode, NodeState, Peer, Pod, Port};

/// IP families of a test's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    V4,
    V6,
    Dual,
}

impl Families {
    pub fn keep(self, v4: &str, v6: &str) -> Addresses {
        Addresses {
            v4: (self != Self::V6).then(|| v4.parse().unwrap()),
            v6: (self != Self::V4).then(|| v6.parse().unwrap()),
        }
    }

    pub fn nets(self, v4: &str, v6: &str) -> Vec<ipnet::IpNet> {
        let mut nets = Vec::new();
        if self != Self::V6 {
            nets.push(v4.parse().unwrap());
        }
        if self != Self::V4 {
            nets.push(v6.parse().unwrap());
        }
        nets
    }
}

/// Node `n` of a cluster: pods 10.10.n.0/24 and fd00:10:n::/64, tunnels 172.31.0.n and fd00:31::n.
pub fn node(n: u8, families: Families, outer: Families) -> NodeState {
    NodeState {
        gateway: Gateway {
            port: Port::GATEWAY,
            mac: gateway_mac(n),
            addresses: families.keep(&format!("10.10.{n}.1"), &format!("fd00:10:{n}::1")),
        },
        pod_cidrs: families.nets(&format!("10.10.{n}.0/24"), &format!("fd00:10:{n}::/64")),
        mode: Mode::Encap,
        tunnel: Some(Port::TUNNEL),
        endpoints: outer.keep(&format!("172.31.0.{n}"), &format!("fd00:31::{n}")),
        subnets: outer.nets("172.31.0.0/24", "fd00:31::/64"),
        peers: BTreeMap::new(),
        pods: BTreeMap::new(),
        services: ProxyMode::Disabled,
    }
}

pub fn gateway_mac(n: u8) -> MacAddr {
    MacAddr([0x02, 0x67, 0, 0, 0, n])
}

pub fn peer(n: u8, families: Families, outer: Families) -> Peer {
    let state = node(n, families, outer);
    Peer {
        pod_cidrs: state.pod_cidrs,
        endpoints: state.endpoints,
    }
}

/// Pod `p` of node `n`.
pub fn pod(n: u8, p: u8, families: Families) -> Pod {
    Pod {
        port: Port(100 + u16::from(p)),
        mac: MacAddr([0x02, 0x70, 0, 0, n, p]),
        addresses: families.keep(
            &format!("10.10.{n}.{}", 10 + p),
            &format!("fd00:10:{n}::{}", 10 + p),
        ),
    }
}
