//! Services without a switch: golden files, and properties against the model of what clients reach.

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

use std::collections::BTreeMap;
use std::net::IpAddr;

use carrick_datapath::services::{
    Conditions, EndpointSlice, Finding, FrontendKind, Ingress, IngressMode, Options, Protocol,
    Proxy, ProxyMode, Service, ServiceName, ServiceType, TrafficPolicy, host_table,
};
use carrick_datapath::{IdLedger, Kind};
use carrick_openflow::{GroupMod, Mod, State};
use proptest::prelude::*;
use support::Families;
use support::clusters::{Cluster, cluster, some_service, some_slice};
use support::services::{
    Client, apply, clients, drain, endpoint, full, model, service, slice, sorted, view, walk, whole,
};

use Protocol::{Sctp, Tcp, Udp};

fn proxy() -> Proxy {
    Proxy::new(view(1, Families::Dual), full())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Flows and groups as a person reviews them.
fn text(proxy: &Proxy) -> String {
    let (flows, groups) = proxy.lines();
    let mut text: Vec<String> = groups.collect();
    text.extend(flows.map(|flow| flow.to_string()));
    text.join("\n") + "\n"
}

fn web(kind: ServiceType) -> Service {
    let mut web = service(
        "web",
        &["10.96.0.10", "fd00:96::10"],
        &[("http", Tcp, 80), ("dns", Udp, 53)],
    );
    web.kind = kind;
    web
}

fn web_slices() -> Vec<EndpointSlice> {
    let ports = [("http", Tcp, 8080), ("dns", Udp, 5353)];
    let v4 = vec![
        endpoint("10.10.1.11", "node1"),
        endpoint("10.10.2.11", "node2"),
    ];
    let v6 = vec![
        endpoint("fd00:10:1::11", "node1"),
        endpoint("fd00:10:2::11", "node2"),
    ];
    vec![
        slice("web-4", "web", &ports, v4),
        slice("web-6", "web", &ports, v6),
    ]
}

fn rendered(services: Vec<Service>, slices: &[EndpointSlice]) -> (Proxy, State) {
    let (mut proxy, mut ledger, mut switch) = (proxy(), IdLedger::default(), State::default());
    for service in services {
        proxy.upsert_service(service);
    }
    for slice in slices {
        proxy.upsert_slice(slice);
    }
    drain(&mut proxy, &mut ledger, &mut switch);
    (proxy, switch)
}

#[test]
fn cluster_ip() {
    let (proxy, _) = rendered(vec![web(ServiceType::ClusterIp)], &web_slices());
    insta::assert_snapshot!(text(&proxy));
}

#[test]
fn affinity() {
    let mut web = web(ServiceType::ClusterIp);
    web.affinity_seconds = Some(86_400);
    let (proxy, _) = rendered(vec![web], &web_slices());
    insta::assert_snapshot!(text(&proxy));
    let findings: Vec<_> = proxy
        .findings()
        .map(|(_, finding)| finding.clone())
        .collect();
    assert_eq!(findings, [Finding::AffinityCapped { seconds: 86_400 }]);
    assert!(findings[0].to_string().contains("65535 s, not for 86400 s"));
}

fn balanced() -> Service {
    let mut web = web(ServiceType::LoadBalancer);
    web.ports[0].node_port = Some(30080);
    web.ingress = vec![
        Ingress {
            address: ip("192.0.2.80"),
            mode: IngressMode::Vip,
        },
        Ingress {
            address: ip("192.0.2.81"),
            mode: IngressMode::Proxy,
        },
    ];
    web.external_ips = vec![ip("172.31.0.1"), ip("198.51.100.1")];
    web.source_ranges = vec![
        "203.0.113.0/24".parse().unwrap(),
        "10.10.1.0/26".parse().unwrap(),
    ];
    web.external_policy = TrafficPolicy::Local;
    web.health_check_node_port = Some(31000);
    web
}

#[test]
fn load_balancer_with_local_policy() {
    let (proxy, _) = rendered(vec![balanced()], &web_slices());
    insta::assert_snapshot!(text(&proxy));
    let table = host_table(proxy.host(), proxy.node(), ProxyMode::Full, "gw0").unwrap();
    insta::assert_snapshot!("load_balancer_host", table);
    let routes: Vec<String> = proxy
        .host()
        .routes()
        .iter()
        .map(ToString::to_string)
        .collect();
    insta::assert_snapshot!("load_balancer_routes", routes.join("\n"));
    let checks: Vec<_> = proxy.health_checks().collect();
    assert_eq!((checks[0].port, checks[0].local_endpoints), (31000, 1));
}

#[test]
fn without_endpoints_the_host_rejects() {
    let mut web = balanced();
    web.external_policy = TrafficPolicy::Cluster;
    let (proxy, switch) = rendered(vec![web], &[]);
    assert!(switch.groups.is_empty());
    let rejected = &proxy.host().elements()["rejected4"];
    assert!(rejected.contains("10.96.0.10 . tcp . 80"), "{rejected:?}");
    assert!(proxy.host().elements()["rejected-node-ports4"].contains("tcp . 30080"));
    assert!(!proxy.host().elements().contains_key("node-ports4"));
}

/// A cluster IP stays whose it is, whatever others write into their external IPs (CVE-2020-8554).
#[test]
fn an_external_ip_takes_no_cluster_ip() {
    let mut thief = service("a-thief", &["10.96.0.66"], &[("http", Tcp, 80)]);
    thief.external_ips = vec![ip("10.96.0.10")];
    let (proxy, switch) = rendered(vec![thief, web(ServiceType::ClusterIp)], &web_slices());
    let findings: Vec<_> = proxy.findings().collect();
    assert_eq!(findings.len(), 1);
    let (name, finding) = findings[0];
    assert_eq!(name.as_str(), "default/a-thief");
    assert_eq!(finding.reason(), "AddressClaimedByAnotherService");
    assert_eq!(
        finding.to_string(),
        "tcp port 80 of 10.96.0.10 belongs to Service default/web already and is not served for this one"
    );
    let client = Client::Pod(ip("10.10.1.12"));
    let services::Outcome::Answered(by) = walk(&switch, client, Tcp, (ip("10.96.0.10"), 80)) else {
        panic!("not answered");
    };
    assert_eq!(by.len(), 2);
    use support::services;
}

/// Two Services that claim one node port are a finding; when the first goes, the other is served.
#[test]
fn a_node_port_passes_to_the_next() {
    let (mut proxy, mut ledger, mut switch) = (proxy(), IdLedger::default(), State::default());
    for (name, address) in [("one", "10.96.0.1"), ("two", "10.96.0.2")] {
        let mut service = service(name, &[address], &[("", Tcp, 80)]);
        service.kind = ServiceType::NodePort;
        service.ports[0].node_port = Some(30080);
        proxy.upsert_service(service);
        let there = vec![endpoint("10.10.1.11", "node1")];
        proxy.upsert_slice(&slice(name, name, &[("", Tcp, 8080)], there));
    }
    drain(&mut proxy, &mut ledger, &mut switch);
    let frontends = proxy.frontends(&ServiceName::new("default", "two"));
    let node_port = frontends
        .iter()
        .find(|f| f.kind == FrontendKind::NodePort)
        .unwrap();
    assert_eq!(
        node_port.claimed_by.as_ref().unwrap().as_str(),
        "default/one"
    );
    assert_eq!(proxy.findings().count(), 1);
    proxy.remove_service(&ServiceName::new("default", "one"));
    drain(&mut proxy, &mut ledger, &mut switch);
    assert_eq!(proxy.findings().count(), 0);
    assert_eq!(sorted(switch.clone()), whole(&proxy));
    assert!(proxy.host().elements()["node-ports4"].contains("tcp . 30080"));
    assert_eq!(ledger.len(Kind::Service), 1);
}

#[test]
fn sctp_waits_for_a_datapath_that_can() {
    let mut options = full();
    options.sctp = false;
    let mut proxy = Proxy::new(view(1, Families::V4), options);
    proxy.upsert_service(service(
        "s",
        &["10.96.0.1"],
        &[("a", Sctp, 9), ("b", Tcp, 9)],
    ));
    proxy.upsert_slice(&slice(
        "s",
        "s",
        &[("a", Sctp, 9), ("b", Tcp, 9)],
        vec![endpoint("10.10.1.11", "node1")],
    ));
    let mut switch = State::default();
    drain(&mut proxy, &mut IdLedger::default(), &mut switch);
    assert_eq!((switch.flows.len(), switch.groups.len()), (1, 1));
    let findings: Vec<_> = proxy
        .findings()
        .map(|(_, finding)| finding.reason())
        .collect();
    assert_eq!(findings, ["SCTPNotSupportedByDatapath"]);
}

/// What is not ours is not touched: other proxies' Services, skipped ones, headless ones, names.
#[test]
fn some_services_are_left_alone() {
    let mut other = web(ServiceType::ClusterIp);
    other.other_proxy = true;
    let mut headless = web(ServiceType::ClusterIp);
    headless.cluster_ips.clear();
    for service in [other, headless, web(ServiceType::ExternalName)] {
        let (proxy, switch) = rendered(vec![service], &web_slices());
        assert_eq!(switch, State::default());
        assert_eq!(proxy.host().elements().len(), 0);
    }
    let options = Options {
        skip: [ServiceName::new("default", "web")].into(),
        ..full()
    };
    let mut proxy = Proxy::new(view(1, Families::Dual), options);
    proxy.upsert_service(web(ServiceType::ClusterIp));
    let mut switch = State::default();
    drain(&mut proxy, &mut IdLedger::default(), &mut switch);
    assert_eq!(switch, State::default());
}

/// Beside a kube-proxy: cluster IPs in the switch, nothing on the host.
#[test]
fn cluster_ips_alone() {
    let options = Options {
        mode: ProxyMode::ClusterIp,
        ..full()
    };
    let mut proxy = Proxy::new(view(1, Families::Dual), options);
    proxy.upsert_service(balanced());
    for slice in web_slices() {
        proxy.upsert_slice(&slice);
    }
    let mut switch = State::default();
    drain(&mut proxy, &mut IdLedger::default(), &mut switch);
    assert_eq!(switch.flows.len(), 4);
    assert!(proxy.host().elements().is_empty());
    assert_eq!(
        host_table(proxy.host(), proxy.node(), ProxyMode::ClusterIp, "gw0"),
        None
    );
}

/// An endpoint that comes changes one group; flows and other groups stay.
#[test]
fn an_endpoint_more_is_one_group() {
    let (mut proxy, mut ledger, mut switch) = (proxy(), IdLedger::default(), State::default());
    proxy.upsert_service(service("web", &["10.96.0.10"], &[("http", Tcp, 80)]));
    let mut slice = slice(
        "web",
        "web",
        &[("http", Tcp, 8080)],
        vec![endpoint("10.10.1.11", "node1")],
    );
    proxy.upsert_slice(&slice);
    drain(&mut proxy, &mut ledger, &mut switch);
    slice.endpoints.push(endpoint("10.10.2.11", "node2"));
    proxy.upsert_slice(&slice);
    let batches = drain(&mut proxy, &mut ledger, &mut switch);
    let bundle = &batches[0].bundle;
    assert_eq!(bundle.len(), 1);
    assert!(
        matches!(&bundle[0], Mod::Group(change) if matches!(change.as_ref(), GroupMod::Modify(_)))
    );
    // The same again is nothing at all.
    proxy.upsert_slice(&slice);
    assert_eq!(proxy.pending(), 0);
}

#[test]
fn udp_clients_lose_endpoints_that_are_gone() {
    let (mut proxy, mut ledger, mut switch) = (proxy(), IdLedger::default(), State::default());
    proxy.upsert_service(service("dns", &["10.96.0.10"], &[("dns", Udp, 53)]));
    let mut stale = |proxy: &mut Proxy, hosts: &[(u8, bool)]| -> Vec<String> {
        let endpoints = hosts.iter().map(|(host, serving)| {
            let mut endpoint = endpoint(&format!("10.10.1.{host}"), "node1");
            endpoint.conditions = Conditions {
                ready: false,
                serving: *serving,
                terminating: true,
            };
            endpoint
        });
        proxy.upsert_slice(&slice(
            "dns",
            "dns",
            &[("dns", Udp, 5353)],
            endpoints.collect(),
        ));
        let batches = drain(proxy, &mut ledger, &mut switch);
        let all = batches.iter().flat_map(|batch| &batch.stale);
        all.map(|stale| match stale.endpoint {
            Some(endpoint) => format!("{} {}", stale.address, endpoint.address),
            None => format!("{} all", stale.address),
        })
        .collect()
    };
    // Clients that asked before anybody answered are held by their entries.
    assert_eq!(
        stale(&mut proxy, &[(1, true), (2, true)]),
        ["10.96.0.10 all"]
    );
    assert_eq!(
        stale(&mut proxy, &[(1, true), (2, true), (3, true)]),
        [""; 0]
    );
    assert_eq!(
        stale(&mut proxy, &[(1, true), (2, false), (3, true)]),
        ["10.96.0.10 10.10.1.2"]
    );
    assert_eq!(stale(&mut proxy, &[]), ["10.96.0.10 all"]);
}

/// The disk was lost or not, the switch was not: nothing changes.
#[test]
fn a_restart_changes_nothing() {
    let services = || {
        let big = service("big", &["10.96.0.20"], &[("", Tcp, 80)]);
        let mut sticky = service("sticky", &["10.96.0.21"], &[("", Tcp, 80)]);
        sticky.affinity_seconds = Some(10);
        vec![balanced(), big, sticky]
    };
    // Both are sharded.
    let mut slices = web_slices();
    for (name, count) in [("big", 300_u16), ("sticky", 600)] {
        let many =
            (1..=count).map(|n| endpoint(&format!("10.10.{}.{}", 4 + n / 200, n % 200), "node4"));
        slices.push(slice(name, name, &[("", Tcp, 8080)], many.collect()));
    }
    let (mut first, mut ledger, mut switch) = (proxy(), IdLedger::default(), State::default());
    // Ids are not those a new ledger would give.
    for n in 0..7 {
        ledger.id(Kind::Service, &format!("gone{n}")).unwrap();
        ledger.id(Kind::ServiceGroup, &format!("gone{n}")).unwrap();
    }
    let fill = |proxy: &mut Proxy| {
        for service in services() {
            proxy.upsert_service(service);
        }
        for slice in &slices {
            proxy.upsert_slice(slice);
        }
    };
    fill(&mut first);
    drain(&mut first, &mut ledger, &mut switch);
    for address in ["10.96.0.20", "10.96.0.21"] {
        let to = (ip(address), 80);
        let found = walk(&switch, Client::Pod(ip("10.10.1.9")), Tcp, to);
        let expected = model(
            first.node(),
            &services(),
            &slices,
            Client::Pod(ip("10.10.1.9")),
            Tcp,
            to,
        );
        assert_eq!(found, expected);
    }
    for lost in [false, true] {
        let mut ledger = if lost {
            IdLedger::default()
        } else {
            ledger.clone()
        };
        let mut second = proxy();
        fill(&mut second);
        let recovered = second.recover_ids(&mut ledger, &switch).unwrap();
        assert_eq!(recovered > 0, lost);
        let adopted = second.adopt(&mut ledger, &switch).unwrap();
        assert_eq!((adopted.differing, adopted.orphans), (0, 0), "lost: {lost}");
        assert!(second.next_batch(&mut ledger, 10).unwrap().is_none());
        assert_eq!(second.host(), first.host());
    }
    // A Service went and an endpoint came while nobody looked.
    let mut third = proxy();
    for slice in &slices {
        third.upsert_slice(slice);
    }
    let mut more = slices[2].clone();
    more.endpoints.push(endpoint("10.10.7.7", "node7"));
    third.upsert_slice(&more);
    third.upsert_service(services().remove(1));
    let adopted = third.adopt(&mut ledger, &switch).unwrap();
    assert_eq!(adopted.differing, 1);
    assert!(adopted.orphans > 0);
    drain(&mut third, &mut ledger, &mut switch);
    assert_eq!(sorted(switch), whole(&third));
}

// ---- properties ----

fn places() -> Vec<IpAddr> {
    let v4 = (0..5).flat_map(|n| [format!("10.96.0.{n}"), format!("192.0.2.{n}")]);
    v4.chain((0..4).map(|n| format!("fd00:96::{n}")))
        .map(|text| ip(&text))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whoever asks, whatever for: the flows say what the documents say.
    #[test]
    fn clients_reach_what_the_documents_say(cluster in cluster()) {
        let Cluster { services, slices } = cluster;
        let (proxy, switch) = rendered(services.clone(), &slices);
        for client in clients() {
            for place in places().into_iter().filter(|p| p.is_ipv4() == client.address().is_ipv4()) {
                for protocol in [Tcp, Udp, Sctp] {
                    for port in 80..83 {
                        let to = (place, port);
                        let expected = model(proxy.node(), &services, &slices, client, protocol, to);
                        let found = walk(&switch, client, protocol, to);
                        prop_assert_eq!(found, expected, "{:?} to {} {:?}", client, protocol.name(), to);
                    }
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Change {
    Service(Service),
    NoService(u8),
    Slice(EndpointSlice),
    NoSlice(u8),
    /// The same Service, made again: another uid.
    Again(u8),
    Drain,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0_u8..5).prop_flat_map(some_service).prop_map(Change::Service),
        1 => (0_u8..5).prop_map(Change::NoService),
        5 => (0_u8..8).prop_flat_map(some_slice).prop_map(Change::Slice),
        2 => (0_u8..8).prop_map(Change::NoSlice),
        1 => (0_u8..5).prop_map(Change::Again),
        2 => Just(Change::Drain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    /// Single changes lead where rendering everything anew leads, on the switch and on the host, in
    /// bundles that a switch accepts; and what each batch says of the host adds up to the whole.
    #[test]
    fn changes_add_up(changes in prop::collection::vec(change(), 1..40)) {
        let (mut proxy, mut ledger, mut switch) = (proxy(), IdLedger::default(), State::default());
        let mut known: BTreeMap<ServiceName, Service> = BTreeMap::new();
        let mut slices: BTreeMap<String, EndpointSlice> = BTreeMap::new();
        let mut elements: BTreeMap<String, std::collections::BTreeSet<String>> = BTreeMap::new();
        let mut routes = std::collections::BTreeSet::new();
        let mut generation = 0;
        for change in changes.into_iter().chain([Change::Drain]) {
            match change {
                Change::Service(mut service) => {
                    if let Some(old) = known.get(&service.name) {
                        service.uid = old.uid.clone();
                    }
                    known.insert(service.name.clone(), service.clone());
                    proxy.upsert_service(service);
                }
                Change::NoService(n) => {
                    let name = ServiceName::new("default", &format!("s{n}"));
                    known.remove(&name);
                    proxy.remove_service(&name);
                }
                Change::Again(n) => {
                    let name = ServiceName::new("default", &format!("s{n}"));
                    if let Some(service) = known.get_mut(&name) {
                        generation += 1;
                        service.uid = format!("again{generation}").into();
                        proxy.upsert_service(service.clone());
                    }
                }
                Change::Slice(slice) => {
                    proxy.upsert_slice(&slice);
                    slices.insert(slice.name.clone(), slice);
                }
                Change::NoSlice(n) => {
                    slices.remove(&format!("slice{n}"));
                    proxy.remove_slice("default", &format!("slice{n}"));
                }
                Change::Drain => {
                    while let Some(batch) = proxy.next_batch(&mut ledger, 3).unwrap() {
                        apply(&mut switch, &batch.bundle);
                        batch.release(&mut ledger);
                        for (set, gone) in batch.host.removed {
                            for element in gone {
                                prop_assert!(elements.get_mut(&set).unwrap().remove(&element));
                            }
                        }
                        for (set, new) in batch.host.added {
                            for element in new {
                                prop_assert!(elements.entry(set.clone()).or_default().insert(element));
                            }
                        }
                        for route in batch.host.routed {
                            prop_assert!(routes.insert(route));
                        }
                        for route in batch.host.unrouted {
                            prop_assert!(routes.remove(&route));
                        }
                    }
                }
            }
        }
        elements.retain(|_, elements| !elements.is_empty());
        prop_assert_eq!(sorted(switch.clone()), whole(&proxy));
        prop_assert_eq!(proxy.host().elements(), &elements);
        prop_assert_eq!(proxy.host().routes(), routes);
        // Nothing is left of what is gone.
        prop_assert_eq!(ledger.len(Kind::Service), known.len());
        // Everything anew, with the same ledger.
        let mut anew = Proxy::new(view(1, Families::Dual), full());
        for service in known.into_values() {
            anew.upsert_service(service);
        }
        for slice in slices.values() {
            anew.upsert_slice(slice);
        }
        let adopted = anew.adopt(&mut ledger, &switch).unwrap();
        prop_assert_eq!((adopted.differing, adopted.orphans), (0, 0));
        prop_assert_eq!(anew.host(), proxy.host());
        // And with a ledger that knows nothing: the switch knows the ids.
        let mut lost = IdLedger::default();
        anew.recover_ids(&mut lost, &switch).unwrap();
        let adopted = anew.adopt(&mut lost, &switch).unwrap();
        prop_assert_eq!((adopted.differing, adopted.orphans), (0, 0));
    }
}
