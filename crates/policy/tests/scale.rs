//! One change costs what it concerns: nothing of it grows with the cluster.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect"
)]

use std::net::Ipv4Addr;

use carrick_policy::{Changes, Event, Index, Labels, Namespace, Pod, parse_network_policy};
use serde_json::json;

const NODES: u32 = 20;

fn pod(n: u32, app: &str) -> Event {
    Event::Pod(Pod {
        uid: format!("uid-{n:06}").into(),
        namespace: "shop".into(),
        name: format!("{app}-{n}").into(),
        node: format!("node-{:02}", n % NODES).into(),
        labels: Labels::from([("app".to_owned(), app.to_owned())]),
        addresses: vec![Ipv4Addr::from_bits(0x0a00_0000 + n).into()],
        ports: [].into(),
    })
}

/// `count` clients that the pods of `web` let in, those on four nodes.
fn cluster(count: u32) -> Index {
    let mut index = Index::default();
    index.apply(Event::Namespace(Namespace {
        name: "shop".into(),
        labels: Labels::new(),
    }));
    let selector = |app: &str| json!({"matchLabels": {"app": app}});
    let object = json!({
        "metadata": {"namespace": "shop", "name": "web", "uid": "u"},
        "spec": {
            "podSelector": selector("web"),
            "ingress": [{"from": [{"podSelector": selector("client")}]}],
        },
    });
    let parsed = parse_network_policy(&serde_json::from_value(object).unwrap()).unwrap();
    index.apply(Event::Policy(parsed.policy));
    for n in 0..4 {
        index.apply(pod(n, "web"));
    }
    for n in NODES..NODES + count {
        index.apply(pod(n, "client"));
    }
    drop(index.take_changes());
    index
}

/// What follows from an event, and the bytes that took.
fn follow(index: &mut Index, event: Event) -> (Changes, u64) {
    let mut changes = Changes::default();
    let cost = allocation_counter::measure(|| {
        index.apply(event);
        changes = index.take_changes();
    });
    (changes, cost.bytes_total)
}

#[test]
fn a_member_of_ten_thousand_is_one_line_for_each_node_that_needs_it() {
    let mut index = cluster(10_000);
    let (changes, _) = follow(&mut index, pod(20_000, "client"));
    assert_eq!(changes.policies, []);
    assert_eq!(changes.pods.len(), 1, "the pod's own record, for its node");
    let [group] = &*changes.groups else {
        panic!("{changes:?}");
    };
    assert_eq!((group.told.len(), group.lost.len()), (0, 0));
    assert_eq!(group.kept.len(), 4, "nodes with pods that let it in");
    assert_eq!((group.removed.len(), group.added.len()), (0, 1));

    let (changes, _) = follow(&mut index, Event::PodGone("uid-020000".into()));
    let [group] = &*changes.groups else {
        panic!("{changes:?}");
    };
    assert_eq!((group.removed.len(), group.added.len()), (1, 0));
    assert_eq!(group.kept.len(), 4);
}

/// Bits and tables of the index may grow at any event; what is allocated for it otherwise is the
/// same among a hundred pods and among ten thousand.
#[test]
fn a_change_does_not_grow_with_the_group() {
    let cost = |count: u32| {
        let mut index = cluster(count);
        let costs = (0..16).map(|n| follow(&mut index, pod(50_000 + n, "client")).1);
        costs.min().unwrap()
    };
    let (few, many) = (cost(100), cost(10_000));
    eprintln!("{few} bytes among 100 pods, {many} among 10,000");
    assert!(many <= few + few / 4);
}

/// A pod that nobody selects concerns its own node alone.
#[test]
fn who_is_not_concerned_hears_nothing() {
    let mut index = cluster(100);
    let (changes, _) = follow(&mut index, pod(60_000, "other"));
    assert_eq!((changes.policies.len(), changes.groups.len()), (0, 0));
    let (changes, _) = follow(&mut index, pod(60_000, "other"));
    assert!(changes.is_empty(), "nothing changed: {changes:?}");
}
