//! What is explained of Services is what the switch and the host do.

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

use carrick_datapath::IdLedger;
use carrick_datapath::services::{
    Client as Asking, Conditions, Destination, Endpoint, ExplainError, Explanation, Ingress,
    IngressMode, LeftOut, Options, OtherProxy, Outcome as Said, Path, PolicyBy, Protocol, Proxy,
    ProxyMode, Service, ServiceName, ServiceType, SourceSeen, TrafficPolicy, Virtual,
    virtual_address,
};
use carrick_openflow::State;
use ipnet::IpNet;
use proptest::prelude::*;
use support::Families;
use support::clusters::{Cluster, cluster};
use support::services::{
    Client, Outcome, clients, drain, endpoint, full, service, slice, view, walk,
};

use Protocol::{Sctp, Tcp, Udp};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn to(address: IpAddr, protocol: Protocol, port: u16) -> Destination {
    let own = view(1, Families::Dual).addresses.contains(&address);
    Destination::Address {
        address,
        protocol,
        port,
        own,
    }
}

fn explain(proxy: &Proxy, client: Asking, to: &Destination) -> Explanation {
    let (mut explained, more) = proxy.explain(client, to).unwrap();
    assert_eq!((explained.len(), more), (1, 0));
    explained.remove(0)
}

fn eligible(explained: &Explanation) -> BTreeSet<(IpAddr, u16)> {
    let endpoints = explained.endpoints.iter();
    endpoints
        .filter(|examined| examined.verdict.is_ok())
        .map(|examined| (examined.address, examined.port.unwrap()))
        .collect()
}

// ---- what the switch and the host do ----

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Answered(BTreeSet<(IpAddr, u16)>),
    Dropped,
    Rejected,
    NotServed,
}

/// The host's chains, followed by hand over its sets: where the packet goes on, and by which source.
fn host_fate(
    proxy: &Proxy,
    switch: &State,
    client: Client,
    protocol: Protocol,
    to: (IpAddr, u16),
) -> Fate {
    let (address, port) = to;
    let (family, gateway) = if address.is_ipv4() {
        ("4", proxy.node().gateway.v4.map(IpAddr::V4).unwrap())
    } else {
        ("6", proxy.node().gateway.v6.map(IpAddr::V6).unwrap())
    };
    let none = BTreeSet::new();
    let set = |name: &str| {
        let sets = proxy.host().elements();
        sets.get(&format!("{name}{family}")).unwrap_or(&none)
    };
    let own = proxy.node().addresses.contains(&address);
    let place = format!("{address} . {} . {port}", protocol.name());
    let node_port = format!("{} . {port}", protocol.name());
    if set("restricted").contains(&place) {
        let source = match client {
            Client::Host(_) if own => address,
            other => other.address(),
        };
        let begin = format!("{address} . {port} . ");
        let mut allowed = set(&format!("allowed-{}", protocol.name()))
            .iter()
            .filter_map(|element| element.strip_prefix(&begin))
            .map(|range| range.parse::<IpNet>().unwrap());
        if !allowed.any(|range| range.contains(&source)) {
            return Fate::Dropped;
        }
    }
    let ranges = &proxy.node().node_port_addresses;
    let has_node_ports = own && (ranges.is_empty() || ranges.iter().any(|r| r.contains(&address)));
    let at = |name: &str, node_ports: &str| {
        (own && set(name).contains(&place))
            || (has_node_ports && set(node_ports).contains(&node_port))
    };
    let family = address.into();
    let outside = match client {
        Client::Outside(source) => Client::Outside(source),
        Client::Pod(_) | Client::Host(_) => Client::Host(gateway),
    };
    let (address, as_client) = if at("own", "node-ports") {
        let to = virtual_address(Virtual::NodePort, family);
        (to, Client::Host(gateway))
    } else if at("own-local", "node-ports-local") {
        (virtual_address(Virtual::NodePortLocal, family), outside)
    } else if set("rejected").contains(&place)
        || (has_node_ports && set("rejected-node-ports").contains(&node_port))
    {
        return Fate::Rejected;
    } else if !own && proxy.host().routes().iter().any(|r| r.contains(&address)) {
        let masqueraded = set("masqueraded").contains(&place);
        (
            address,
            if masqueraded {
                Client::Host(gateway)
            } else {
                outside
            },
        )
    } else {
        return Fate::NotServed;
    };
    match walk(switch, as_client, protocol, (address, port)) {
        Outcome::Answered(by) => Fate::Answered(by),
        Outcome::Dropped => Fate::Dropped,
        Outcome::Passed => Fate::NotServed,
    }
}

fn fate(
    proxy: &Proxy,
    switch: &State,
    client: Client,
    protocol: Protocol,
    to: (IpAddr, u16),
) -> Fate {
    if let Client::Pod(_) = client
        && !proxy.node().addresses.contains(&to.0)
    {
        match walk(switch, client, protocol, to) {
            Outcome::Answered(by) => return Fate::Answered(by),
            Outcome::Dropped => return Fate::Dropped,
            // The host has it then, which leads it back to where nobody wants it, or rejects it.
            Outcome::Passed => {}
        }
    }
    host_fate(proxy, switch, client, protocol, to)
}

fn said(explained: &Explanation) -> Fate {
    match explained.outcome {
        Said::Answered | Said::AnsweredInRanges => Fate::Answered(eligible(explained)),
        Said::DroppedNoEndpoint | Said::DroppedNoLocalEndpoint | Said::DroppedSourceRefused => {
            Fate::Dropped
        }
        Said::Rejected | Said::PassedNoEndpoint => Fate::Rejected,
        Said::NotServed => Fate::NotServed,
    }
}

fn asking(client: Client) -> Asking {
    match client {
        Client::Pod(address) => Asking::Pod(Some(address)),
        Client::Host(_) => Asking::Host,
        Client::Outside(address) => Asking::Outside(Some(address)),
    }
}

/// Places that clusters of [`cluster`] speak of, and one beside them.
fn places() -> Vec<(IpAddr, u16)> {
    let v4 = (0..5).flat_map(|n| [format!("10.96.0.{n}"), format!("192.0.2.{n}")]);
    let own = ["172.31.0.1", "172.31.1.1", "fd00:31::1"].map(str::to_owned);
    let addresses = v4.chain((0..4).map(|n| format!("fd00:96::{n}"))).chain(own);
    let node_ports = [30_000, 30_001, 30_010, 30_011, 30_020];
    addresses
        .flat_map(|address| {
            (80..83)
                .chain(node_ports)
                .map(move |port| (ip(&address), port))
        })
        .collect()
}

/// An address of a load balancer that is the node's own, beside the others.
fn with_own_ingress(mut cluster: Cluster) -> Cluster {
    let ingress = cluster.services.iter_mut().flat_map(|s| &mut s.ingress);
    for ingress in ingress.filter(|ingress| ingress.address == ip("192.0.2.3")) {
        ingress.address = ip("172.31.0.1");
    }
    cluster
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// Whoever asks, whatever for: what is explained is what the flows, groups and sets do, and the
    /// endpoints called eligible are those of the groups.
    #[test]
    fn what_is_explained_happens(cluster in cluster(), some_node_ports in any::<bool>()) {
        let Cluster { services, slices } = with_own_ingress(cluster);
        let mut node = view(1, Families::Dual);
        if some_node_ports {
            node.node_port_addresses = vec!["172.31.1.0/24".parse().unwrap()];
        }
        let (mut proxy, mut switch) = (Proxy::new(node, full()), State::default());
        for service in services {
            proxy.upsert_service(service);
        }
        for slice in &slices {
            proxy.upsert_slice(slice);
        }
        drain(&mut proxy, &mut IdLedger::default(), &mut switch);
        for client in clients() {
            for (address, port) in places() {
                if address.is_ipv4() != client.address().is_ipv4() {
                    continue;
                }
                for protocol in [Tcp, Udp, Sctp] {
                    let explained = explain(&proxy, asking(client), &to(address, protocol, port));
                    let found = fate(&proxy, &switch, client, protocol, (address, port));
                    prop_assert_eq!(
                        said(&explained), found,
                        "{:?} to {} {} {}: {:?}", client, address, protocol.name(), port, explained
                    );
                }
            }
        }
    }
}

// ---- single cases ----

fn proxy_of(options: Options, service: Service, endpoints: Vec<Endpoint>) -> Proxy {
    let mut proxy = Proxy::new(view(1, Families::Dual), options);
    let name = service.name.as_str().split_once('/').unwrap().1.to_owned();
    proxy.upsert_service(service);
    proxy.upsert_slice(&slice("web-1", &name, &[("http", Tcp, 8080)], endpoints));
    drain(&mut proxy, &mut IdLedger::default(), &mut State::default());
    proxy
}

fn web() -> Service {
    service("web", &["10.96.0.10"], &[("http", Tcp, 80)])
}

fn here_and_there() -> Vec<Endpoint> {
    vec![
        endpoint("10.10.1.11", "node1"),
        endpoint("10.10.2.11", "node2"),
    ]
}

fn reasons(explained: &Explanation) -> Vec<(String, Option<LeftOut>)> {
    let endpoints = explained.endpoints.iter();
    endpoints
        .map(|examined| (examined.address.to_string(), examined.verdict.err()))
        .collect()
}

const POD: Asking = Asking::Pod(None);

#[test]
fn every_endpoint_left_out_has_its_reason() {
    let mut terminating = endpoint("10.10.2.12", "node2");
    terminating.conditions = Conditions {
        ready: false,
        serving: true,
        terminating: true,
    };
    let mut unready = endpoint("10.10.2.13", "node2");
    unready.conditions.ready = false;
    unready.conditions.serving = false;
    let mut endpoints = here_and_there();
    endpoints.extend([terminating, unready, endpoint("fd00:10:2::11", "node2")]);
    let mut hinted = endpoints.clone();
    let mut proxy = proxy_of(full(), web(), endpoints);
    proxy.upsert_slice(&slice(
        "web-2",
        "web",
        &[("other", Tcp, 9090)],
        vec![endpoint("10.10.3.11", "node3")],
    ));
    let to_web = to(ip("10.96.0.10"), Tcp, 80);
    let explained = explain(&proxy, POD, &to_web);
    assert_eq!(
        reasons(&explained),
        [
            ("10.10.1.11".to_owned(), None),
            ("10.10.2.11".to_owned(), None),
            ("10.10.2.12".to_owned(), Some(LeftOut::Terminating)),
            ("10.10.2.13".to_owned(), Some(LeftOut::NotReady)),
            ("10.10.3.11".to_owned(), Some(LeftOut::NoSuchPort)),
            ("fd00:10:2::11".to_owned(), Some(LeftOut::OtherFamily)),
        ]
    );
    let waits = "changes of this Service wait to be programmed";
    assert_eq!(explained.findings, [waits]);

    // Hints of zones, then of nodes.
    for (first, second) in [("z1", "z2"), ("z2", "z1")] {
        hinted[0].zone_hints = vec![first.to_owned()];
        hinted[1].zone_hints = vec![second.to_owned()];
        let proxy = proxy_of(full(), web(), hinted.clone());
        let explained = explain(&proxy, POD, &to_web);
        let elsewhere = if first == "z1" {
            "10.10.2.11"
        } else {
            "10.10.1.11"
        };
        let told = (elsewhere.to_owned(), Some(LeftOut::HintedToOtherZone));
        assert!(reasons(&explained).contains(&told), "{explained:?}");
    }
    hinted[0].node_hints = vec!["node2".to_owned()];
    hinted[1].node_hints = vec!["node1".to_owned()];
    let explained = explain(&proxy_of(full(), web(), hinted), POD, &to_web);
    let told = ("10.10.1.11".to_owned(), Some(LeftOut::HintedToOtherNode));
    assert!(reasons(&explained).contains(&told), "{explained:?}");
}

fn balanced() -> Service {
    let mut web = web();
    web.kind = ServiceType::LoadBalancer;
    web.ports[0].node_port = Some(30_080);
    web.ingress = vec![Ingress {
        address: ip("192.0.2.80"),
        mode: IngressMode::Vip,
    }];
    web.external_policy = TrafficPolicy::Local;
    web
}

#[test]
fn policy_local_is_for_clients_outside() {
    let there = vec![endpoint("10.10.2.11", "node2")];
    let proxy = proxy_of(full(), balanced(), there);
    let balancer = to(ip("192.0.2.80"), Tcp, 80);
    let within = explain(&proxy, POD, &balancer);
    assert_eq!(within.policy, Some(PolicyBy::WithinCluster));
    assert_eq!(
        (within.path, within.outcome),
        (Path::Switch, Said::Answered)
    );
    assert_eq!(within.source, Some(SourceSeen::OwnOfPod));
    let outside = explain(&proxy, Asking::Outside(None), &balancer);
    assert_eq!(outside.outcome, Said::DroppedNoLocalEndpoint);
    let reasons = reasons(&outside);
    assert_eq!(
        reasons,
        [("10.10.2.11".to_owned(), Some(LeftOut::NotOnThisNode))]
    );
    let node_port = explain(&proxy, Asking::Host, &to(ip("172.31.0.1"), Tcp, 30_080));
    let virtual_to = Path::HostTranslates(ip("169.254.77.3"));
    assert_eq!(
        (node_port.path, node_port.outcome),
        (virtual_to, Said::Answered)
    );
    assert_eq!(node_port.source, Some(SourceSeen::GatewayOfHost));
    let kept = proxy_of(full(), balanced(), here_and_there());
    let kept = explain(&kept, Asking::Outside(None), &balancer);
    assert_eq!(kept.source, Some(SourceSeen::OwnByLocalPolicy));
}

#[test]
fn source_ranges_ask_for_the_address() {
    let mut web = balanced();
    web.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    let proxy = proxy_of(full(), web, here_and_there());
    let outcome = |client| explain(&proxy, client, &to(ip("192.0.2.80"), Tcp, 80)).outcome;
    let from = |address| Asking::Outside(Some(ip(address)));
    assert_eq!(outcome(Asking::Outside(None)), Said::AnsweredInRanges);
    assert_eq!(outcome(from("203.0.113.7")), Said::Answered);
    assert_eq!(outcome(from("198.51.100.7")), Said::DroppedSourceRefused);
    assert_eq!(outcome(POD), Said::DroppedSourceRefused);
}

#[test]
fn what_others_serve_is_left_to_them() {
    let to_web = to(ip("10.96.0.10"), Tcp, 80);
    let cluster_ips = Options {
        mode: ProxyMode::ClusterIp,
        ..full()
    };
    let skipping = Options {
        skip: [ServiceName::new("default", "web")].into(),
        ..full()
    };
    let path = |options: &Options, client, to: &Destination| {
        let proxy = proxy_of(options.clone(), balanced(), here_and_there());
        let explained = explain(&proxy, client, to);
        assert_eq!(
            explained.outcome == Said::NotServed,
            explained.policy.is_none()
        );
        explained.path
    };
    let host_alone = Path::OtherProxy(OtherProxy::ClusterIpsOnly);
    assert_eq!(path(&cluster_ips, POD, &to_web), Path::Switch);
    assert_eq!(path(&cluster_ips, Asking::Host, &to_web), host_alone);
    let node_port = to(ip("172.31.0.1"), Tcp, 30_080);
    assert_eq!(path(&cluster_ips, POD, &node_port), host_alone);
    let skipped = Path::OtherProxy(OtherProxy::Skipped);
    assert_eq!(path(&skipping, POD, &to_web), skipped);
    let none = to(ip("10.96.0.10"), Tcp, 81);
    assert_eq!(path(&full(), POD, &none), Path::NoService);
    // Without endpoints a kube-proxy rejects in one mode, the host in the other.
    let outcome = |options| explain(&proxy_of(options, web(), vec![]), POD, &to_web).outcome;
    assert_eq!(outcome(cluster_ips.clone()), Said::PassedNoEndpoint);
    assert_eq!(outcome(full()), Said::Rejected);
}

#[test]
fn a_service_is_asked_for_by_name() {
    let proxy = proxy_of(full(), balanced(), here_and_there());
    let ask = |client, name: &str, port: Option<&str>| {
        let name = ServiceName::new("default", name);
        let port = port.map(str::to_owned);
        proxy.explain(client, &Destination::Service { name, port })
    };
    let kinds = |client, port| {
        let (explained, more) = ask(client, "web", port).unwrap();
        assert_eq!(more, 0);
        let frontends = explained
            .iter()
            .map(|explained| explained.frontend.unwrap());
        let kinds: Vec<_> = frontends.map(|(kind, _)| format!("{kind:?}")).collect();
        kinds
    };
    assert_eq!(kinds(POD, None), ["ClusterIp"]);
    assert_eq!(kinds(POD, Some("http")), ["ClusterIp"]);
    assert_eq!(
        kinds(Asking::Outside(None), Some("80")),
        ["NodePort", "LoadBalancer"]
    );
    let error = |name, port| ask(POD, name, port).unwrap_err();
    assert!(matches!(
        error("none", None),
        ExplainError::NoService { .. }
    ));
    let no_port = error("web", Some("https"));
    assert_eq!(
        no_port.to_string(),
        "Service default/web has no port https; it has 80/tcp (http)"
    );
    let mut many = web();
    many.ports = (1..=100)
        .map(|number| {
            let mut port = many.ports[0].clone();
            (port.name, port.port) = (format!("p{number}").into(), number);
            port
        })
        .collect();
    let proxy = proxy_of(full(), many, vec![]);
    let name = ServiceName::new("default", "web");
    let all = Destination::Service { name, port: None };
    let (explained, more) = proxy.explain(POD, &all).unwrap();
    assert_eq!((explained.len(), more), (16, 84));
}

#[test]
fn a_claim_that_is_lost_is_told_on_both_sides() {
    let mut thief = service("a-thief", &["10.96.0.66"], &[("http", Tcp, 80)]);
    thief.external_ips = vec![ip("10.96.0.10")];
    let mut proxy = proxy_of(full(), web(), here_and_there());
    proxy.upsert_service(thief);
    drain(&mut proxy, &mut IdLedger::default(), &mut State::default());
    let met = explain(&proxy, POD, &to(ip("10.96.0.10"), Tcp, 80));
    assert_eq!(met.service.unwrap().0.name.as_str(), "default/web");
    assert_eq!(
        met.findings,
        ["Service default/a-thief asks for the same address and port and does not get it"]
    );
    let name = ServiceName::new("default", "a-thief");
    let by_name = Destination::Service { name, port: None };
    let lost = explain(&proxy, Asking::Outside(None), &by_name);
    assert_eq!(lost.path, Path::Claimed);
    assert!(lost.findings[0].contains("belongs to Service default/web already"));
}
