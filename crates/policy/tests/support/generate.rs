//! Random clusters and changes of them. Everything is drawn from small pools, so that selectors
//! select, names collide and what goes comes back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use carrick_policy::Labels;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};

use super::reference::{Names, Probe};
use super::world::{Change, TestNode, TestPod, World};

const NAMESPACES: [&str; 3] = ["default", "shop", "system"];
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
const POLICIES: [&str; 4] = ["a", "b", "c", "d"];
/// Most pods of a world.
pub const PODS: u8 = 12;

/// Addresses outside the cluster.
const OUTSIDE: [&str; 4] = ["192.0.2.1", "192.0.2.130", "2001:db8::1", "10.0.0.200"];

/// So many cases; what fails is kept beside the test.
pub fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Names that were learned.
pub fn names() -> Names {
    Names::from([
        (address("192.0.2.1"), vec!["www.example.org".into()]),
        (
            address("192.0.2.130"),
            vec!["example.org".into(), "a.b.example.net".into()],
        ),
        (address("10.0.0.3"), vec!["www.example.org".into()]),
    ])
}

fn labels() -> impl Strategy<Value = Labels> {
    let key = select(vec!["app", "team"]).prop_map(str::to_owned);
    let value = select(vec!["x", "y", "z"]).prop_map(str::to_owned);
    btree_map(key, value, 0..=2)
}

fn node() -> impl Strategy<Value = TestNode> {
    (labels(), 0..3_u8, any::<bool>()).prop_map(|(labels, number, dual)| {
        let mut addresses = vec![address(&format!("172.16.0.{number}"))];
        if dual {
            addresses.push(address(&format!("fd00:ffff::{number}")));
        }
        TestNode { labels, addresses }
    })
}

/// The pod of a number has addresses of its own; whether it has them yet differs.
fn pod(number: u8) -> impl Strategy<Value = TestPod> {
    let port = select(vec![
        ("http", "TCP", 80_u16),
        ("http", "TCP", 8080),
        ("dns", "UDP", 53),
        ("dns", "TCP", 53),
        ("http", "SCTP", 80),
    ]);
    (
        select(NAMESPACES.to_vec()),
        select(NODES.to_vec()),
        labels(),
        0..8_u8,
        vec(port, 0..=2),
    )
        .prop_map(move |(namespace, node, labels, addressed, ports)| {
            let mut addresses = Vec::new();
            if addressed > 0 {
                addresses.push(address(&format!("10.0.0.{number}")));
            }
            if addressed > 4 {
                addresses.push(address(&format!("fd00::{number}")));
            }
            TestPod {
                namespace: namespace.into(),
                name: format!("pod-{number}"),
                node: node.into(),
                labels,
                addresses,
                ports: ports
                    .into_iter()
                    .map(|(name, protocol, port)| (name.into(), protocol.into(), port))
                    .collect(),
            }
        })
}

fn selector() -> impl Strategy<Value = Value> {
    let key = || select(vec!["app", "team"]);
    let value = || select(vec!["x", "y", "z"]);
    let set = (key(), select(vec!["In", "NotIn"]), vec(value(), 1..=2)).prop_map(
        |(key, operator, values)| json!({"key": key, "operator": operator, "values": values}),
    );
    let presence = (key(), select(vec!["Exists", "DoesNotExist"]))
        .prop_map(|(key, operator)| json!({"key": key, "operator": operator}));
    let expressions = vec(prop_oneof![set, presence], 0..=1);
    (btree_map(key(), value(), 0..=1), expressions).prop_map(|(labels, expressions)| {
        let mut selector = json!({});
        if !labels.is_empty() {
            selector["matchLabels"] = json!(labels);
        }
        if !expressions.is_empty() {
            selector["matchExpressions"] = json!(expressions);
        }
        selector
    })
}

fn cidr() -> impl Strategy<Value = &'static str> {
    select(vec![
        "0.0.0.0/0",
        "::/0",
        "10.0.0.0/24",
        "10.0.0.4/30",
        "192.0.2.0/25",
        "192.0.2.130/32",
        "2001:db8::/32",
        "fd00::/124",
        "172.16.0.0/16",
    ])
}

fn network_policy_peer() -> impl Strategy<Value = Value> {
    let selected = (option::of(selector()), option::of(selector())).prop_filter_map(
        "a peer has a field",
        |(namespaces, pods)| {
            let mut peer = BTreeMap::new();
            peer.extend(namespaces.map(|selector| ("namespaceSelector", selector)));
            peer.extend(pods.map(|selector| ("podSelector", selector)));
            (!peer.is_empty()).then(|| json!(peer))
        },
    );
    let block = (cidr(), any::<bool>()).prop_map(|(cidr, except)| match (cidr, except) {
        ("0.0.0.0/0", true) => json!({"ipBlock": {"cidr": cidr, "except": ["10.0.0.0/29"]}}),
        ("10.0.0.0/24", true) => {
            json!({"ipBlock": {"cidr": cidr, "except": ["10.0.0.2/32", "10.0.0.8/29"]}})
        }
        _ => json!({"ipBlock": {"cidr": cidr}}),
    });
    prop_oneof![2 => selected, 1 => block]
}

fn network_policy_port() -> impl Strategy<Value = Value> {
    let protocol = option::of(select(vec!["TCP", "UDP", "SCTP"]));
    let port = prop_oneof![
        Just(json!({})),
        select(vec![53, 80, 8080]).prop_map(|port| json!({"port": port})),
        Just(json!({"port": 53, "endPort": 80})),
        select(vec!["http", "dns", "none"]).prop_map(|name| json!({"port": name})),
    ];
    (protocol, port).prop_map(|(protocol, mut port)| {
        if let Some(protocol) = protocol {
            port["protocol"] = json!(protocol);
        }
        port
    })
}

/// `spec` of a NetworkPolicy.
pub fn network_policy() -> impl Strategy<Value = Value> {
    let rule = |side: &'static str| {
        (
            option::of(vec(network_policy_peer(), 0..=2)),
            option::of(vec(network_policy_port(), 0..=2)),
        )
            .prop_map(move |(peers, ports)| {
                let mut rule = json!({});
                if let Some(peers) = peers {
                    rule[side] = json!(peers);
                }
                if let Some(ports) = ports {
                    rule["ports"] = json!(ports);
                }
                rule
            })
    };
    let types = select(vec![
        None,
        Some(vec!["Ingress"]),
        Some(vec!["Egress"]),
        Some(vec!["Ingress", "Egress"]),
    ]);
    (
        selector(),
        types,
        option::of(vec(rule("from"), 0..=2)),
        option::of(vec(rule("to"), 0..=2)),
    )
        .prop_map(|(pods, types, ingress, egress)| {
            let mut spec = json!({"podSelector": pods});
            if let Some(types) = types {
                spec["policyTypes"] = json!(types);
            }
            if let Some(rules) = ingress {
                spec["ingress"] = json!(rules);
            }
            if let Some(rules) = egress {
                spec["egress"] = json!(rules);
            }
            spec
        })
}

fn namespaces_or_pods() -> impl Strategy<Value = Value> {
    let pods = (selector(), selector()).prop_map(
        |(namespaces, pods)| json!({"pods": {"namespaceSelector": namespaces, "podSelector": pods}}),
    );
    prop_oneof![
        selector().prop_map(|selector| json!({"namespaces": selector})),
        pods
    ]
}

fn protocols(named: bool) -> BoxedStrategy<Option<Vec<Value>>> {
    let number = (
        select(vec!["tcp", "udp", "sctp"]),
        prop_oneof![
            Just(json!({})),
            select(vec![53, 80, 8080])
                .prop_map(|number| json!({"destinationPort": {"number": number}})),
            Just(json!({"destinationPort": {"range": {"start": 53, "end": 80}}})),
        ],
    )
        .prop_map(|(protocol, port)| json!({protocol: port}));
    let mut one = vec![number.boxed()];
    if named {
        let name = select(vec!["http", "dns"]);
        one.push(
            name.prop_map(|name| json!({"destinationNamedPort": name}))
                .boxed(),
        );
    }
    option::of(vec(Union::new(one), 1..=2)).boxed()
}

fn rule(
    side: &'static str,
    peers: impl Strategy<Value = Vec<Value>>,
    named: bool,
    actions: &[&'static str],
) -> impl Strategy<Value = Value> {
    (select(actions.to_vec()), peers, protocols(named)).prop_map(
        move |(action, peers, protocols)| {
            let mut rule = json!({"action": action, side: peers});
            if let Some(protocols) = protocols {
                rule["protocols"] = json!(protocols);
            }
            rule
        },
    )
}

/// `spec` of a ClusterNetworkPolicy.
pub fn cluster_policy() -> impl Strategy<Value = Value> {
    const ACTIONS: [&str; 3] = ["Accept", "Deny", "Pass"];
    // Now and then a peer of a future version: no field that is known.
    let selected = || {
        prop_oneof![
            12 => namespaces_or_pods(),
            1 => Just(json!({})),
        ]
    };
    let outside = prop_oneof![
        vec(cidr(), 1..=2).prop_map(|cidrs| json!({"networks": cidrs})),
        selector().prop_map(|nodes| json!({"nodes": nodes})),
        namespaces_or_pods(),
    ];
    let domain = select(vec![
        "www.example.org",
        "*.example.org",
        "*.example.net",
        "example.org",
    ])
    .prop_map(|name| json!({"domainNames": [name]}));
    let ingress = rule("from", vec(selected(), 1..=2), true, &ACTIONS);
    let egress = prop_oneof![
        rule("to", vec(selected(), 1..=2), true, &ACTIONS),
        rule("to", vec(outside, 1..=2), false, &ACTIONS),
        rule("to", vec(domain, 1..=2), false, &["Accept"]),
    ];
    (
        select(vec!["Admin", "Baseline"]),
        0..3,
        namespaces_or_pods(),
        vec(ingress, 0..=2),
        vec(egress, 0..=2),
    )
        .prop_map(|(tier, priority, subject, ingress, egress)| {
            json!({
                "tier": tier, "priority": priority, "subject": subject,
                "ingress": ingress, "egress": egress,
            })
        })
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// One change: mostly something new or other, sometimes something that goes.
pub fn change() -> impl Strategy<Value = Change> {
    fn maybe<S: Strategy>(strategy: S) -> impl Strategy<Value = Option<S::Value>>
    where
        S::Value: Clone,
    {
        option::weighted(0.75, strategy)
    }
    let owned = |list: &[&'static str]| select(list.to_vec()).prop_map(str::to_owned);
    let pod = (1..=PODS).prop_flat_map(|number| {
        maybe(pod(number)).prop_map(move |pod| Change::Pod(format!("uid-{number:02}"), pod))
    });
    prop_oneof![
        2 => (owned(&NAMESPACES), maybe(labels()))
            .prop_map(|(name, labels)| Change::Namespace(name, labels)),
        1 => (owned(&NODES), maybe(node())).prop_map(|(name, node)| Change::Node(name, node)),
        6 => pod,
        4 => (owned(&NAMESPACES), owned(&POLICIES), maybe(network_policy().prop_map(read)))
            .prop_map(|(namespace, name, spec)| Change::NetworkPolicy((namespace, name), spec)),
        3 => (owned(&POLICIES), maybe(cluster_policy().prop_map(read)))
            .prop_map(|(name, spec)| Change::ClusterPolicy(name, spec)),
    ]
}

/// A cluster of up to `pods` pods.
pub fn world(pods: u8) -> impl Strategy<Value = World> {
    let owned = |list: &[&'static str]| select(list.to_vec()).prop_map(str::to_owned);
    let pods: Vec<_> = (1..=pods)
        .map(|number| option::weighted(0.9, pod(number)))
        .collect();
    let network_policies = btree_map(
        (owned(&NAMESPACES), owned(&POLICIES)),
        network_policy().prop_map(read),
        0..=5,
    );
    (
        btree_map(owned(&NAMESPACES), labels(), 2..=3),
        btree_map(owned(&NODES), node(), 2..=3),
        pods,
        network_policies,
        btree_map(owned(&POLICIES), cluster_policy().prop_map(read), 0..=3),
    )
        .prop_map(
            |(namespaces, nodes, pods, network_policies, cluster_policies)| {
                let pods = pods.into_iter().enumerate();
                World {
                    namespaces,
                    nodes,
                    pods: pods
                        .filter_map(|(n, pod)| Some((format!("uid-{:02}", n + 1), pod?)))
                        .collect(),
                    network_policies,
                    cluster_policies,
                }
            },
        )
}

/// Every connection between two pods, and between each pod, the nodes and addresses outside, with
/// every kind of port.
pub fn probes(world: &World) -> Vec<Probe> {
    let pods: Vec<IpAddr> = world
        .pods
        .values()
        .flat_map(|pod| pod.addresses.clone())
        .collect();
    let nodes = world.nodes.values().flat_map(|node| node.addresses.clone());
    let mut all: Vec<IpAddr> = OUTSIDE.iter().map(|text| address(text)).collect();
    all.extend(nodes);
    all.extend(&pods);
    all.sort_unstable();
    all.dedup();
    let ports = [
        Some(("TCP", 53)),
        Some(("TCP", 80)),
        Some(("TCP", 8080)),
        Some(("UDP", 53)),
        Some(("SCTP", 80)),
        None,
    ];
    let mut probes = Vec::new();
    for source in &all {
        for destination in &all {
            let pods = pods.contains(source) || pods.contains(destination);
            if !pods || source.is_ipv4() != destination.is_ipv4() {
                continue;
            }
            probes.extend(ports.map(|port| Probe {
                source: *source,
                destination: *destination,
                port,
            }));
        }
    }
    probes
}
