//! What is said of a connection, and why.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

use std::collections::BTreeMap;

use carrick_policy::cluster_network_policy::{
    ClusterNetworkPolicySpec, ClusterNetworkPolicyStatus,
};
use carrick_policy::{
    Connection, Direction, Event, Index, Labels, NamedPort, Namespace, Node, Pod, Protocol,
    Transport, parse_cluster_network_policy_json, parse_network_policy_json,
};
use serde_json::{Value, json};

const PODS: [(&str, &str, u8); 3] = [("web", "shop", 1), ("cart", "shop", 2), ("spy", "other", 3)];

/// Three pods on one node; `policies` are for them.
fn cluster(policies: &[Value]) -> Index {
    let mut index = Index::default();
    index.apply(Event::Node(Node {
        name: "node-a".into(),
        labels: Labels::new(),
        addresses: vec![[172, 16, 0, 1].into()],
    }));
    for name in ["shop", "other"] {
        index.apply(Event::Namespace(Namespace {
            name: name.into(),
            labels: Labels::from([("name".into(), name.into())]),
        }));
    }
    for (name, namespace, number) in PODS {
        index.apply(Event::Pod(Pod {
            uid: name.into(),
            namespace: namespace.into(),
            name: name.into(),
            node: "node-a".into(),
            labels: Labels::from([("app".into(), name.into())]),
            addresses: vec![[10, 0, 0, number].into()],
            ports: [NamedPort {
                name: "http".into(),
                protocol: Protocol::Tcp,
                port: 8000 + u16::from(number),
            }]
            .into(),
        }));
    }
    for policy in policies {
        let parsed = if policy["spec"]["tier"].is_null() {
            parse_network_policy_json(policy)
        } else {
            parse_cluster_network_policy_json(policy)
        };
        index.apply(Event::Policy(parsed.unwrap().policy));
    }
    index
}

fn said(index: &Index, direction: Direction, from: u8, to: u8, port: u16) -> String {
    let of = |number: u8| match number {
        0 => [172, 16, 0, 1].into(),
        number => [10, 0, 0, number].into(),
    };
    let connection = Connection {
        source: of(from),
        destination: of(to),
        transport: Transport::Port(Protocol::Tcp, port),
    };
    let at = match direction {
        Direction::Ingress => to,
        Direction::Egress => from,
    };
    let (uid, ..) = PODS.into_iter().find(|(.., number)| *number == at).unwrap();
    let judged = index.judge(uid, direction, &connection, &BTreeMap::new());
    judged.unwrap().to_string()
}

fn isolate() -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": "isolate", "uid": "u-1"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    })
}

fn admin() -> Value {
    json!({
        "metadata": {"name": "admin", "uid": "u-2"},
        "spec": {
            "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "ingress": [
                {"name": "no-spies", "action": "Deny", "from": [
                    {"pods": {"podSelector": {"matchLabels": {"app": "spy"}}}}]},
                {"action": "Pass", "from": [{"namespaces": {}}]},
            ],
            "egress": [{"action": "Accept", "to": [{"namespaces": {}}],
                "protocols": [{"destinationNamedPort": "http"}]}],
        },
    })
}

#[test]
fn every_reason_is_a_sentence() {
    use Direction::{Egress, Ingress};
    let free = cluster(&[]);
    let index = cluster(&[isolate(), admin()]);
    let lines = [
        said(&free, Ingress, 2, 1, 80),
        said(&index, Ingress, 3, 1, 80),
        said(&index, Ingress, 2, 1, 80),
        said(&index, Ingress, 2, 3, 80),
        said(&index, Ingress, 1, 1, 80),
        said(&index, Ingress, 0, 1, 80),
        said(&index, Egress, 1, 2, 8002),
        said(&index, Egress, 1, 2, 8001),
        said(&index, Egress, 1, 0, 80),
    ];
    insta::assert_snapshot!(lines.join("\n"), @r"
    ingress is accepted: nothing isolates the pod and no rule denies it
    ingress is denied by ingress[0] (no-spies) of ClusterNetworkPolicy admin
    ingress is denied: no rule accepts it, and the pod is isolated by NetworkPolicy shop/isolate; passed by ingress[1] of ClusterNetworkPolicy admin
    ingress is accepted: nothing isolates the pod and no rule denies it; passed by ingress[1] of ClusterNetworkPolicy admin
    ingress is accepted: it is the pod's own
    ingress is accepted: it comes from the pod's node
    egress is accepted by egress[0] of ClusterNetworkPolicy admin
    egress is denied: no rule accepts it, and the pod is isolated by NetworkPolicy shop/isolate
    egress is denied: no rule accepts it, and the pod is isolated by NetworkPolicy shop/isolate
    ");
}

/// What the types say of themselves holds what upstream's CRD holds.
#[test]
fn the_schema_has_upstreams_bounds() {
    let schema = schemars::schema_for!(ClusterNetworkPolicySpec);
    let schema = schema.as_value();
    for (pointer, expected) in [
        ("/required", json!(["tier", "priority", "subject"])),
        ("/properties/tier/enum", json!(["Admin", "Baseline"])),
        ("/properties/priority/maximum", json!(1000)),
        ("/properties/ingress/maxItems", json!(25)),
        ("/$defs/Subject/minProperties", json!(1)),
        ("/$defs/Subject/maxProperties", json!(1)),
        ("/$defs/NamespacedPod/required", json!(["podSelector"])),
        ("/$defs/IngressRule/required", json!(["action", "from"])),
        ("/$defs/EgressRule/required", json!(["action", "to"])),
        (
            "/$defs/EgressRule/properties/action/enum",
            json!(["Accept", "Deny", "Pass"]),
        ),
        ("/$defs/EgressRule/properties/to/minItems", json!(1)),
        ("/$defs/EgressRule/properties/protocols/maxItems", json!(25)),
        (
            "/$defs/EgressPeer/properties/networks/items/maxLength",
            json!(43),
        ),
        (
            "/$defs/EgressPeer/properties/networks/items/x-kubernetes-validations/0/rule",
            json!("isCIDR(self)"),
        ),
        (
            "/$defs/EgressPeer/properties/domainNames/x-kubernetes-list-type",
            json!("set"),
        ),
        (
            "/$defs/PortRange/x-kubernetes-validations/0/rule",
            json!("self.start < self.end"),
        ),
        ("/$defs/PortNumbers/properties/number/maximum", json!(65535)),
    ] {
        assert_eq!(schema.pointer(pointer), Some(&expected), "{pointer}");
    }
    let status = schemars::schema_for!(ClusterNetworkPolicyStatus);
    assert_eq!(
        status.as_value().pointer("/required"),
        Some(&json!(["conditions"]))
    );
}
