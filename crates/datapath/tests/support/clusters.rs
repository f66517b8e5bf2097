//! Random clusters: few addresses, ports and names, so that much of it meets.

use std::collections::BTreeSet;

use carrick_datapath::services::{
    Conditions, EndpointSlice, Ingress, IngressMode, Protocol, Service, ServiceType, TrafficPolicy,
};
use proptest::prelude::*;

use super::services::{endpoint, service, slice};
use Protocol::{Sctp, Tcp, Udp};

fn ip(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

/// Services and slices that came together.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    pub services: Vec<Service>,
    pub slices: Vec<EndpointSlice>,
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![Just(TrafficPolicy::Cluster), Just(TrafficPolicy::Local)]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Tcp), Just(Udp), Just(Sctp)]
}

pub fn some_service(index: u8) -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        Just(ServiceType::ClusterIp),
        Just(ServiceType::NodePort),
        Just(ServiceType::LoadBalancer),
    ];
    let ports = prop::collection::vec((protocol(), 80_u16..83), 1..4);
    let ingress = prop::collection::vec(1_u8..4, 0..3);
    let outside = prop::collection::vec(1_u8..6, 0..4);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (kind, ports, policy(), policy(), ingress, outside, flags).prop_map(
        move |(kind, ports, internal, external, ingress, externals, (dual, affinity, ranges))| {
            let (v4, v6) = (format!("10.96.0.{index}"), format!("fd00:96::{index}"));
            let ips = [v4.as_str(), v6.as_str()];
            let names = ["a", "b", "c"];
            let mut seen = BTreeSet::new();
            let ports: Vec<_> = ports
                .into_iter()
                .filter(|port| seen.insert(*port))
                .zip(names)
                .map(|((protocol, port), name)| (name, protocol, port))
                .collect();
            let mut service = service(&format!("s{index}"), &ips[..=usize::from(dual)], &ports);
            service.kind = kind;
            for (n, port) in service.ports.iter_mut().enumerate() {
                port.node_port =
                    Some(30_000 + u16::from(index % 3) * 10 + u16::try_from(n).unwrap());
            }
            service.internal_policy = internal;
            service.external_policy = external;
            service.affinity_seconds = affinity.then_some(100);
            service.ingress = ingress
                .into_iter()
                .map(|n| Ingress {
                    address: ip(&format!("192.0.2.{n}")),
                    mode: IngressMode::Vip,
                })
                .collect();
            // Some are cluster IPs of others, some are the node's own.
            service.external_ips = externals
                .into_iter()
                .map(|n| match n {
                    3 => ip("10.96.0.1"),
                    4 => ip("172.31.0.1"),
                    5 => ip("172.31.1.1"),
                    n => ip(&format!("192.0.2.{n}")),
                })
                .collect();
            if ranges {
                service.source_ranges = vec!["10.10.1.0/28".parse().unwrap()];
            }
            service
        },
    )
}

pub fn some_slice(index: u8) -> impl Strategy<Value = EndpointSlice> {
    let conditions = prop_oneof![
        6 => Just(Conditions::READY),
        1 => Just(Conditions { ready: false, serving: true, terminating: true }),
        1 => Just(Conditions { ready: false, serving: false, terminating: false }),
    ];
    let endpoints = prop::collection::vec((1_u8..20, 1_u8..4, conditions, any::<bool>()), 0..6);
    let ports = prop::collection::vec((protocol(), 0_usize..3), 1..4);
    (0_u8..5, endpoints, ports).prop_map(move |(owner, endpoints, ports)| {
        let names = ["a", "b", "c"];
        let ports: Vec<_> = ports
            .into_iter()
            .map(|(protocol, name)| (names[name], protocol, 8000))
            .collect();
        let endpoints = endpoints.into_iter().map(|(host, node, conditions, v6)| {
            let address = if v6 {
                format!("fd00:10:{node}::{host}")
            } else {
                format!("10.10.{node}.{host}")
            };
            let mut endpoint = endpoint(&address, &format!("node{node}"));
            endpoint.conditions = conditions;
            endpoint
        });
        slice(
            &format!("slice{index}"),
            &format!("s{owner}"),
            &ports,
            endpoints.collect(),
        )
    })
}

pub fn cluster() -> impl Strategy<Value = Cluster> {
    let services = (
        some_service(0),
        some_service(1),
        some_service(2),
        some_service(3),
    );
    let slices = (0_u8..8).map(some_slice).collect::<Vec<_>>();
    (services, slices).prop_map(|((a, b, c, d), slices)| Cluster {
        services: vec![a, b, c, d],
        slices,
    })
}
