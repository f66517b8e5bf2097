//! The switch itself as the judge: what `ofproto/trace` says of a connection in a random cluster is what
//! the API documents say.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::items_after_statements,
    clippy::format_push_string,
    reason = "tests say what they expect"
)]

mod support;

use std::collections::BTreeSet;
use std::net::IpAddr;

use carrick_datapath::services::Protocol;
use carrick_openflow::GroupId;
use carrick_testkit::ovs::Datapath;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use support::Families;
use support::clusters::{Cluster, cluster};
use support::lab::LabNode;
use support::lab_services::{LabServices, serve};
use support::services::{Client, Outcome, members, model};

/// Clusters, and connections of each. A trace is a call of ovs-appctl.
const CLUSTERS: usize = 24;
const CONNECTIONS: usize = 40;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What the switch does with the first packet of a connection.
struct Judge<'a> {
    lab: &'a LabNode,
    services: &'a LabServices,
}

impl Judge<'_> {
    fn packet(&self, client: Client, protocol: Protocol, (address, port): (IpAddr, u16)) -> String {
        let gateway = self.lab.state.gateway;
        let (from, mac) = match client {
            Client::Pod(_) => (self.lab.pod(0).pod.port, self.lab.pod(0).pod.mac),
            Client::Host(_) | Client::Outside(_) => (gateway.port, gateway.mac),
        };
        let (six, source, destination) = match address {
            IpAddr::V4(_) => ("", "nw_src", "nw_dst"),
            IpAddr::V6(_) => ("6", "ipv6_src", "ipv6_dst"),
        };
        format!(
            "in_port={from},{0}{six},dl_src={mac},dl_dst={1},{source}={2},{destination}={address},nw_ttl=64,\
             {0}_src=40000,{0}_dst={port}",
            protocol.name(),
            gateway.mac,
            client.address()
        )
    }

    fn judge(&self, client: Client, protocol: Protocol, to: (IpAddr, u16)) -> Outcome {
        let packet = self.packet(client, protocol, to);
        let arguments = ["ofproto/trace", "br-int", &packet, "--ct-next", "trk,new"];
        let trace = self.lab.ovs.appctl(&arguments).unwrap();
        let service = trace
            .split("\n24. ")
            .nth(1)
            .unwrap_or_else(|| panic!("no Service table: {trace}"));
        if service.starts_with("priority 0") {
            return Outcome::Passed;
        }
        let Some((_, group)) = service.rsplit_once("group:") else {
            assert!(
                service
                    .lines()
                    .nth(1)
                    .is_some_and(|line| line.trim() == "drop"),
                "{trace}"
            );
            return Outcome::Dropped;
        };
        let number: u32 = group.lines().next().unwrap().trim().parse().unwrap();
        let group = self
            .services
            .told
            .groups
            .iter()
            .find(|group| group.id == GroupId(number));
        let members = members(group.expect("a group that was told"));
        let chosen = match translated(&trace) {
            // By the client's address: the trace goes on to the endpoint.
            Some(chosen) => vec![chosen],
            None => [1, 200]
                .map(|hash| self.resume(&trace, client, protocol, to, hash))
                .into(),
        };
        for chosen in chosen {
            assert!(members.contains(&chosen), "{chosen:?} of {members:?}");
        }
        Outcome::Answered(members)
    }

    /// What the connection's hash chooses, from where the trace left off.
    fn resume(
        &self,
        trace: &str,
        client: Client,
        protocol: Protocol,
        (address, port): (IpAddr, u16),
        hash: u32,
    ) -> (IpAddr, u16) {
        let id = trace
            .rsplit("recirc(")
            .next()
            .unwrap()
            .split(')')
            .next()
            .unwrap();
        let name = match client {
            Client::Pod(_) => self.lab.pod(0).link.as_str(),
            _ => "gw0",
        };
        let ports = self.lab.ovs.appctl(&["dpif/show"]).unwrap();
        let line = ports
            .lines()
            .find(|line| line.trim().starts_with(&format!("{name} ")))
            .unwrap();
        let from = line.split('/').nth(1).unwrap().split(':').next().unwrap();
        let source = client.address();
        let number = protocol.number();
        let ip = match address {
            IpAddr::V4(_) => format!(
                "eth_type(0x0800),ipv4(src={source},dst={address},proto={number},tos=0,ttl=64,frag=no)"
            ),
            IpAddr::V6(_) => format!(
                "eth_type(0x86dd),ipv6(src={source},dst={address},label=0,proto={number},tclass=0,hlimit=64,frag=no)"
            ),
        };
        let packet = format!(
            "recirc_id({id}),dp_hash({hash}),ct_state(+new+trk),ct_zone(0xfff0),in_port({from}),\
             eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),{ip},{}(src=40000,dst={port})",
            protocol.name()
        );
        let datapath = match Datapath::under_test() {
            Datapath::Userspace => "ovs-netdev",
            Datapath::Kernel => "ovs-system",
        };
        let trace = self
            .lab
            .ovs
            .appctl(&["ofproto/trace", datapath, &packet])
            .unwrap();
        translated(&trace).unwrap_or_else(|| panic!("{trace}"))
    }
}

/// The endpoint a trace translates to.
fn translated(trace: &str) -> Option<(IpAddr, u16)> {
    let (_, nat) = trace.split_once("nat(dst=")?;
    let (host, port) = nat.split(')').next()?.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    Some((host.parse().ok()?, port.parse().ok()?))
}

#[test]
fn traces_say_what_the_documents_say() {
    let mut a = LabNode::start(1, Families::Dual);
    a.add_pod(1);
    let mut services = serve(&mut a, 1);
    let mut runner = TestRunner::deterministic();
    let clients = [
        Client::Pod(ip("10.10.1.11")),
        Client::Pod(ip("fd00:10:1::11")),
        Client::Host(ip("10.10.1.1")),
        Client::Outside(ip("203.0.113.7")),
        Client::Outside(ip("2001:db8::7")),
    ];
    let mut last = Cluster::default();
    let (mut answered, mut dropped) = (0, 0);
    for _ in 0..CLUSTERS {
        let mut cluster: Cluster = cluster().new_tree(&mut runner).unwrap().current();
        // From one cluster to the next by single changes, as an agent does it.
        for slice in last
            .slices
            .iter()
            .filter(|old| !cluster.slices.iter().any(|s| s.name == old.name))
        {
            services.proxy.remove_slice(&slice.namespace, &slice.name);
        }
        for service in &mut cluster.services {
            // Not all is served by both datapaths.
            service.ports.retain(|port| port.protocol != Protocol::Sctp);
            services.proxy.upsert_service(service.clone());
        }
        for slice in &cluster.slices {
            services.proxy.upsert_slice(slice);
        }
        services.sync(&mut a);
        let judge = Judge {
            lab: &a,
            services: &services,
        };
        let places: BTreeSet<(IpAddr, Protocol, u16)> = cluster
            .services
            .iter()
            .flat_map(|service| {
                let ingress = service.ingress.iter().map(|ingress| ingress.address);
                let outside = service.external_ips.iter().copied().chain(ingress);
                // The node's own are reached through the host's rules.
                let outside = outside.filter(|ip| !services.proxy.node().addresses.contains(ip));
                let all = service.cluster_ips.iter().copied().chain(outside);
                all.flat_map(|address| {
                    let ports = service.ports.iter();
                    ports.map(move |port| (address, port.protocol, port.port))
                })
            })
            .collect();
        let connections = places.iter().flat_map(|(address, protocol, port)| {
            let of_family = clients
                .iter()
                .filter(|client| client.address().is_ipv4() == address.is_ipv4());
            of_family.map(|client| (*client, *protocol, (*address, *port)))
        });
        for (client, protocol, to) in connections.take(CONNECTIONS) {
            let node = services.proxy.node();
            let expected = model(
                node,
                &cluster.services,
                &cluster.slices,
                client,
                protocol,
                to,
            );
            let found = judge.judge(client, protocol, to);
            assert_eq!(
                found,
                expected,
                "{client:?} by {} to {to:?}",
                protocol.name()
            );
            match found {
                Outcome::Answered(_) => answered += 1,
                Outcome::Dropped => dropped += 1,
                Outcome::Passed => {}
            }
        }
        last = cluster;
    }
    assert!(
        answered > 50 && dropped > 5,
        "{answered} answered, {dropped} dropped"
    );
}
