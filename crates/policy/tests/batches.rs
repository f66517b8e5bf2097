//! Events that nodes are told of together: what happened in between is told, too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

use carrick_policy::{Event, Index, Labels, Namespace, NodeState, Pod, Policy, PolicyName};
use serde_json::{Value, json};

fn pod(number: u8, app: &str) -> Event {
    Event::Pod(Pod {
        uid: format!("uid-{number}").into(),
        namespace: "shop".into(),
        name: format!("{app}-{number}").into(),
        node: "here".into(),
        labels: Labels::from([("app".to_owned(), app.to_owned())]),
        addresses: vec![[10, 0, 0, number].into()],
        ports: [].into(),
    })
}

fn policy(name: &str, spec: &Value) -> Policy {
    let object =
        json!({"metadata": {"namespace": "shop", "name": name, "uid": name}, "spec": spec});
    carrick_policy::parse_network_policy_json(&object)
        .unwrap()
        .policy
}

fn tell(index: &mut Index, held: &mut NodeState) {
    let changes = index.take_changes();
    let here = index.node("here").unwrap();
    for (node, update) in index.updates(&changes) {
        assert_eq!(node, here);
        held.apply(update);
    }
    assert_eq!(*held, index.node_state(here));
}

/// Another policy calls the same pods' ports by name, so their selector never goes.
#[test]
fn a_pod_that_comes_while_a_policy_is_replaced_is_a_member() {
    let clients = json!({"podSelector": {"matchLabels": {"app": "client"}}});
    let web = json!({"matchLabels": {"app": "web"}});
    let enter = json!({"podSelector": web, "ingress": [{"from": [clients]}]});
    let leave =
        json!({"podSelector": web, "egress": [{"to": [clients], "ports": [{"port": "http"}]}]});
    let mut index = Index::default();
    index.apply(Event::Namespace(Namespace {
        name: "shop".into(),
        labels: Labels::new(),
    }));
    index.apply(pod(1, "web"));
    index.apply(pod(2, "client"));
    index.apply(Event::Policy(policy("enter", &enter)));
    index.apply(Event::Policy(policy("leave", &leave)));
    let mut held = NodeState::default();
    tell(&mut index, &mut held);

    index.apply(Event::PolicyGone(PolicyName::namespaced("shop", "enter")));
    index.apply(pod(3, "client"));
    index.apply(Event::PodGone("uid-2".into()));
    index.apply(Event::Policy(policy("enter", &enter)));
    tell(&mut index, &mut held);
}
