//! `nodeConfigs` on a real switch: a node's labels choose, and their change is one more record.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::duration_suboptimal_units,
    clippy::default_trait_access,
    reason = "tests say what they expect"
)]

mod lab;

use carrick_proto::{Body, Entry};
use carrick_testkit::ovs::Datapath;
use lab::controller::{Controller, node_record, route_record};
use lab::{LabNode, wait, wire};
use serde_json::json;

/// Not a test: the agent's process (see [`lab`]).
#[test]
fn agent_process() {
    lab::agent_main();
}

const A: [&str; 1] = ["10.10.1.0/24"];

fn labelled(net: &str) -> Entry {
    let Body::Node(mut facts) = node_record(1, &A).into_body() else {
        unreachable!("it is a node's record")
    };
    facts.labels.insert("net".into(), net.into());
    Entry::new(Body::Node(facts))
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_choose_and_change_what_a_node_does() {
    let (mut a, b) = (LabNode::new(1), LabNode::new(2));
    wire(&a, &b);
    let other = match Datapath::under_test() {
        Datapath::Userspace => "Kernel",
        Datapath::Kernel => "Userspace",
    };
    let selector = |net: &str| json!({"matchLabels": {"net": net}});
    let eth1 = json!({"transport": {"interface": "eth1"}});
    a.write_traffic(&json!({"transportInterface": "eth9"}));
    a.configure(
        "nodeConfigs",
        json!([
            {"name": "wired", "nodeSelector": selector("wired"), "traffic": eth1},
            {"name": "moved", "nodeSelector": selector("moved"), "traffic": eth1,
             "datapath": {"type": other}},
        ]),
    );
    let controller = Controller::serve(&[&a]).await;
    let route = route_record(2, &["10.10.2.0/24"]);
    controller.send("node1", vec![node_record(1, &A), route], vec![]);
    a.start_agent();
    let says = |a: &LabNode, text: &str| a.condition("DatapathReady").1.contains(text);
    wait("the agent to wait for labels", || {
        says(&a, "tell the labels of node node1")
    });
    controller.send("node1", vec![labelled("none")], vec![]);
    wait("the network's own interface to be missed", || {
        says(&a, "no interface eth9")
    });
    assert_eq!(a.ovs.vsctl(&["list-br"]).unwrap(), "", "nothing was made");
    controller.send("node1", vec![labelled("wired")], vec![]);
    a.wait_ready();
    let report = a.report();
    assert_eq!(report["nodeConfig"], "wired", "{report}");
    assert_eq!(report["transportInterface"], "eth1", "{report}");
    // Another datapath is refused, and what runs stays; so it is after a restart.
    let flows = a.flows();
    for _ in 0..2 {
        controller.send("node1", vec![labelled("moved")], vec![]);
        let refused = "nodeConfigs entry moved now chooses";
        wait("the other datapath to be refused", || {
            a.condition("PodCIDRsUsable").1.contains(refused)
        });
        assert_eq!(a.flows(), flows);
        a.kill_agent();
        a.start_agent();
    }
    controller.send("node1", vec![labelled("wired")], vec![]);
    a.wait_ready();
    assert_eq!(a.flows(), flows);
    drop(b);
}
