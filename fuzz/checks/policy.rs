//! What must hold of any objects in the place of policies.

use std::collections::BTreeMap;

use carrick_policy::{
    Connection, Direction, Event, Index, Labels, Namespace, Node, NodeState, Pod, PolicyName,
    Protocol, Transport, parse_cluster_network_policy_json, parse_network_policy_json,
};
use serde_json::Value;

const NODE: &str = "node-a";
const PODS: [&str; 3] = ["uid-1", "uid-2", "uid-3"];

/// A JSON array of objects, read as either kind.
pub fn objects(bytes: &[u8]) {
    if let Ok(Value::Array(objects)) = serde_json::from_slice(bytes) {
        policies(&objects);
    }
}

/// Objects as policies: no panic; a node that is told of them holds what it needs, a verdict can be
/// had, and without them everything is as it was.
pub fn policies(objects: &[Value]) {
    let mut index = small_cluster();
    let (before, sizes) = (state(&index), index.sizes());
    let mut held = before.clone();
    let mut names: Vec<PolicyName> = Vec::new();
    for object in objects {
        for parsed in [
            parse_network_policy_json(object),
            parse_cluster_network_policy_json(object),
        ] {
            match parsed {
                Ok(parsed) => {
                    for problem in parsed.problems.first() {
                        assert!(problem.to_string().len() < 4096, "a message is short");
                    }
                    names.push(parsed.policy.name.clone());
                    index.apply(Event::Policy(parsed.policy));
                }
                Err(refused) => assert!(refused.to_string().len() < 4096, "a message is short"),
            }
        }
        tell(&mut index, &mut held);
    }
    let connection = |port| Connection {
        source: [10, 0, 0, 1].into(),
        destination: [10, 0, 0, 2].into(),
        transport: Transport::Port(Protocol::Tcp, port),
    };
    for direction in [Direction::Ingress, Direction::Egress] {
        for pod in PODS {
            let judged = index.judge(pod, direction, &connection(80), &BTreeMap::new());
            drop(judged.expect("the pod is known").to_string());
        }
    }
    for name in names {
        index.apply(Event::PolicyGone(name));
    }
    tell(&mut index, &mut held);
    assert_eq!(held, before, "nothing is left of the policies");
    assert_eq!(index.sizes(), sizes, "nothing is left of the policies");
}

fn tell(index: &mut Index, held: &mut NodeState) {
    let changes = index.take_changes();
    for (node, update) in index.updates(&changes) {
        assert_eq!(&**index.node_name(node), NODE);
        held.apply(update);
    }
    assert_eq!(*held, state(index), "the node holds what it needs");
}

fn state(index: &Index) -> NodeState {
    index.node_state(index.node(NODE).expect("the node is known"))
}

fn small_cluster() -> Index {
    let label = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
    let mut index = Index::default();
    index.apply(Event::Node(Node {
        name: NODE.into(),
        labels: label("zone", "a"),
        addresses: vec![[172, 16, 0, 1].into()],
    }));
    for (name, team) in [("shop", "a"), ("default", "b")] {
        index.apply(Event::Namespace(Namespace {
            name: name.into(),
            labels: label("team", team),
        }));
    }
    for (number, uid) in (1..).zip(PODS) {
        index.apply(Event::Pod(Pod {
            uid: uid.into(),
            namespace: if number == 3 { "default" } else { "shop" }.into(),
            name: format!("pod-{number}").into(),
            node: NODE.into(),
            labels: label("app", if number == 2 { "web" } else { "shop" }),
            addresses: vec![[10, 0, 0, number].into()],
            ports: [].into(),
        }));
    }
    drop(index.take_changes());
    index
}
