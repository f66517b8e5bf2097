//! Agents on real switches, with a controller that the test plays.

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

use carrick_api::names::link;
use carrick_proto::{Key, Number, v1};
use lab::controller::{Controller, node_record, pod_record, route_record};
use lab::{LabNode, Pod, damage, fingerprint, in_netns, must, ping, wait, wire};

/// Not a test: the agent's process (see [`lab`]).
#[test]
fn agent_process() {
    lab::agent_main();
}

const A: [&str; 2] = ["10.10.1.0/24", "fd00:10:1::/64"];
const B: [&str; 2] = ["10.10.2.0/24", "fd00:10:2::/64"];

async fn two_nodes() -> (LabNode, LabNode, Controller) {
    let (mut a, mut b) = (LabNode::new(1), LabNode::new(2));
    wire(&a, &b);
    let controller = Controller::serve(&[&a, &b]).await;
    controller.send(
        "node1",
        vec![node_record(1, &A), route_record(2, &B)],
        vec![],
    );
    controller.send(
        "node2",
        vec![node_record(2, &B), route_record(1, &A)],
        vec![],
    );
    a.start_agent();
    b.start_agent();
    a.wait_ready();
    b.wait_ready();
    (a, b, controller)
}

fn open_port(controller: &Controller, node: &LabNode, name: &str) -> Pod {
    let pod = Pod::new(name);
    controller.send(&node.name, vec![pod_record(&pod)], vec![]);
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_two_nodes_talk_and_restarts_change_nothing() {
    let (mut a, mut b, controller) = two_nodes().await;
    let one = open_port(&controller, &a, "one");
    let two = open_port(&controller, &b, "two");
    let (one_box, one_ips) = a.add_pod(&one);
    let (two_box, two_ips) = b.add_pod(&two);
    assert_eq!((one_ips.len(), two_ips.len()), (2, 2));
    for (netns, addresses) in [(&one_box.0, &two_ips), (&two_box.0, &one_ips)] {
        for address in addresses {
            assert!(ping(netns, address), "{address}");
        }
    }
    for address in &two_ips {
        assert!(ping(a.netns(), address), "host to remote pod {address}");
    }

    // Open vSwitch looks at all of the host's addresses whenever one changes (docs/adr/0006).
    let host = must(a.netns(), "ip -6 -o addr show");
    let pods_end = |line: &str| line.split_whitespace().nth(1).is_some_and(link::is_pod);
    assert!(!host.lines().any(pods_end), "{host}");

    // The agent told what it has realised and which addresses its pods have.
    let last = controller.send("node1", vec![], vec![]);
    wait("the acknowledgement", || {
        controller.acknowledged("node1") == last
    });
    let told = controller
        .heard("node1")
        .iter()
        .any(|message| match &message.message {
            Some(v1::agent_message::Message::Addresses(report)) => report
                .assigned
                .iter()
                .any(|pod| pod.uid == one.uid && pod.addresses == one_ips),
            _ => false,
        });
    assert!(told, "the pod's addresses were not reported");
    let endpoints = controller
        .heard("node1")
        .iter()
        .any(|message| match &message.message {
            Some(v1::agent_message::Message::Report(report)) => {
                report.ready && report.tunnel_endpoints == ["172.31.0.1", "fd00:31::1"]
            }
            _ => false,
        });
    assert!(
        endpoints,
        "readiness and tunnel endpoints were not reported"
    );

    // kill -9 of the agent: nothing changes, and packets flow meanwhile.
    let flows = a.flows();
    a.kill_agent();
    assert!(ping(&one_box.0, &two_ips[0]), "without an agent");
    let age = a.youngest_flow();
    a.start_agent();
    a.wait_ready();
    assert_eq!(a.flows(), flows, "a restart changed flows");
    assert!(a.youngest_flow() >= age, "a restart added a flow anew");
    assert!(!a.log().contains("programmed changes="), "{}", a.log());
    assert!(ping(&one_box.0, &two_ips[0]));

    // DEL leaves nothing.
    let answer = a.cni("DEL", &one_box, &one);
    assert_eq!(answer.exit, 0, "{}", answer.output);
    let left: Vec<String> = a
        .flows()
        .into_iter()
        .filter(|flow| flow.contains(&one_ips[0]))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let ports = a.ovs.vsctl(&["list-ports", "br-int"]).unwrap();
    assert!(
        !ports
            .lines()
            .any(|port| port.starts_with("car") && port.len() == 15),
        "{ports}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_starts_anew_is_programmed_again() {
    let (mut a, mut b, controller) = two_nodes().await;
    let one = open_port(&controller, &a, "one");
    let two = open_port(&controller, &b, "two");
    let (one_box, _) = a.add_pod(&one);
    let (_, two_ips) = b.add_pod(&two);
    assert!(ping(&one_box.0, &two_ips[0]));
    let flows = a.flows();
    a.restart_switch();
    a.wait_programmed_again(&flows);
    a.wait_ready();
    assert!(ping(&one_box.0, &two_ips[0]));
    assert!(
        ping(a.netns(), "172.31.0.2"),
        "the transport's addresses are there again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_a_switch_that_is_not_restored() {
    let mut a = LabNode::new(1);
    let b = LabNode::new(2);
    wire(&a, &b);
    let controller = Controller::serve(&[&a]).await;
    controller.send("node1", vec![node_record(1, &A)], vec![]);
    let start = a.begin_start();
    a.start_agent();
    wait("the agent to wait for the switch", || {
        a.condition("DatapathReady").1.contains("not restored yet")
    });
    assert_eq!(a.ovs.vsctl(&["list-br"]).unwrap(), "");
    a.mark_restored(start);
    a.wait_ready();
    let mode = a
        .ovs
        .vsctl(&["get", "bridge", "br-int", "fail_mode"])
        .unwrap();
    assert_eq!(mode.trim(), "secure");
}

/// ovsdb-server as a distribution starts it, in the node's namespace, with a run directory of its own.
fn start_theirs(node: &LabNode, directory: &std::path::Path) -> std::process::Child {
    let run = directory.join("openvswitch");
    let (run, remote) = (run.display(), run.join("db.sock"));
    let line = format!(
        "mkdir -p {run} && ovsdb-tool create {run}/conf.db /usr/share/openvswitch/vswitch.ovsschema"
    );
    if !remote.parent().unwrap().join("conf.db").exists() {
        must(node.netns(), &line);
    }
    let child = std::process::Command::new("ip")
        .args(["netns", "exec", node.netns(), "ovsdb-server"])
        .arg(format!("{run}/conf.db"))
        .arg(format!("--remote=punix:{}", remote.display()))
        .arg(format!("--unixctl={run}/theirs.ctl"))
        .arg(format!("--pidfile={run}/theirs.pid"))
        .spawn()
        .unwrap();
    wait("their database to answer", || {
        std::os::unix::net::UnixStream::connect(&remote).is_ok()
    });
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_a_switch_of_its_own_is_named_and_left_alone() {
    let mut a = LabNode::new(1);
    let b = LabNode::new(2);
    wire(&a, &b);
    let before = fingerprint(a.netns());
    let controller = Controller::serve(&[&a]).await;
    controller.send("node1", vec![node_record(1, &A)], vec![]);
    let theirs = tempfile::tempdir().unwrap();
    let mut child = start_theirs(&a, theirs.path());
    a.start_agent();
    let is_refused = |a: &LabNode| {
        let fact = a.report()["conditions"]["DatapathReady"].clone();
        fact["reason"] == "OtherSwitch"
    };
    wait("the other switch to be named", || is_refused(&a));
    let (status, message) = a.condition("DatapathReady");
    assert_eq!(status, "False");
    for part in [
        "node node1",
        "openvswitch/db.sock",
        "systemctl disable --now",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(fingerprint(a.netns()), before, "nothing was touched");
    assert_eq!(a.ovs.vsctl(&["list-br"]).unwrap(), "");
    assert!(!a.paths.cni_conf.join("10-carrick.conflist").exists());
    // Once it is gone the node comes up by itself; ours is never taken for it, a restart included.
    child.kill().unwrap();
    child.wait().unwrap();
    a.wait_ready();
    let flows = a.flows();
    a.restart_switch();
    a.wait_programmed_again(&flows);
    a.wait_ready();
    assert!(!is_refused(&a));
    // One that is started later is named as well, and what was programmed stays.
    let mut child = start_theirs(&a, theirs.path());
    wait("the other switch to be named again", || is_refused(&a));
    assert_eq!(a.flows(), flows);
    child.kill().unwrap();
    child.wait().unwrap();
    a.wait_ready();
    drop(b);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_started_again_is_not_written_to_until_it_is_restored() {
    let (mut a, mut b, controller) = two_nodes().await;
    let one = open_port(&controller, &a, "one");
    let two = open_port(&controller, &b, "two");
    let (one_box, _) = a.add_pod(&one);
    let (_, two_ips) = b.add_pod(&two);
    let flows = a.flows();
    let start = a.restart_vswitchd();
    wait("the agent to be connected again", || {
        a.log().contains("generation=2")
    });
    // Work arrives, and fails: the agent says so of this very number.
    let number = controller.send("node1", vec![route_record(3, &["10.10.3.0/24"])], vec![]);
    wait("the work to be refused", || {
        controller.refused("node1", number)
    });
    let (status, message) = a.condition("DatapathReady");
    assert_eq!(status, "False");
    assert!(message.contains("not restored yet"), "{message}");
    assert!(a.flows().is_empty(), "{:?}", a.flows());
    // What `carrick switch` does meanwhile is left alone, be it wrong.
    let target = a.ovs.target("br-int");
    let replayed = "table=0,priority=7 actions=drop";
    a.ovs.ofctl(&["add-flow", &target, replayed]).unwrap();
    let gone: Vec<Key> = vec!["route/node3".parse().unwrap()];
    let number = controller.send("node1", vec![], gone);
    wait("the work to be refused", || {
        controller.refused("node1", number)
    });
    assert_eq!(a.flows().len(), 1, "{:?}", a.flows());
    a.mark_restored(start);
    wait("the flows to be back", || a.flows() == flows);
    a.wait_ready();
    assert!(ping(&one_box.0, &two_ips[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_state_is_set_aside_reported_and_rebuilt() {
    let (mut a, b, controller) = two_nodes().await;
    let one = open_port(&controller, &a, "one");
    let (one_box, _) = a.add_pod(&one);
    let flows = a.flows();
    a.kill_agent();
    for file in [a.paths.ledger(), a.paths.records(), a.paths.controllers()] {
        damage(&file);
    }
    // Where the controller is would come from the API server, which this cluster has not.
    a.start_agent();
    wait("the damage to be reported", || {
        a.condition("StateIntact").0 == "False"
    });
    let (_, message) = a.condition("StateIntact");
    for part in ["records", "ledger", "controller's addresses"] {
        assert!(message.contains(part), "{message}");
    }
    a.kill_agent();
    assert_eq!(a.flows(), flows, "without records nothing was taken away");
    std::fs::write(a.paths.controllers(), "[\"127.0.0.1:11250\"]").unwrap();
    a.start_agent();
    a.wait_ready();
    wait("the same flows as before", || a.flows() == flows);
    assert!(
        !a.log().contains("programmed changes="),
        "ids came back from the switch"
    );
    assert!(ping(&one_box.0, "10.10.1.1"));
    drop(b);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_controller_what_is_known_goes_on() {
    let (mut a, b, controller) = two_nodes().await;
    let one = open_port(&controller, &a, "one");
    let (one_box, ips) = a.add_pod(&one);
    controller.set_down(true);
    a.kill_agent();
    a.start_agent();
    a.wait_ready();
    assert_eq!(a.condition("ControllerConnected").0, "False");
    assert!(ping(&one_box.0, "10.10.1.1"));
    // The sandbox of a known pod is made again; the same UID gets its addresses back.
    assert_eq!(a.cni("DEL", &one_box, &one).exit, 0);
    let (again, same) = a.add_pod(&one);
    assert_eq!(same, ips);
    assert!(ping(&again.0, "10.10.1.1"));
    // A pod nobody told of is to be tried again.
    let stranger = a.sandbox();
    let answer = a.cni("ADD", &stranger, &Pod::new("stranger"));
    assert_ne!(answer.exit, 0);
    assert_eq!(answer.output["code"], 11, "{}", answer.output);
    controller.set_down(false);
    wait("the stream to stand again", || {
        a.condition("ControllerConnected").0 == "True"
    });
    drop(b);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_join_leave_and_come_back_with_another_range() {
    let (a, b, controller) = two_nodes().await;
    let routes = || must(a.netns(), "ip route show; ip -6 route show");
    assert!(routes().contains("10.10.2.0/24"));
    let other = ["10.10.7.0/24", "fd00:10:7::/64"];
    controller.send("node1", vec![route_record(2, &other)], vec![]);
    wait("the new range to be routed", || {
        routes().contains("10.10.7.0/24") && !routes().contains("10.10.2.0/24")
    });
    // A range that overlaps this node's own or the Services' is named and not routed.
    controller.send(
        "node1",
        vec![
            route_record(3, &["10.10.1.128/25"]),
            route_record(4, &["10.96.3.0/24"]),
        ],
        vec![],
    );
    wait("the overlap to be reported", || {
        a.condition("PodCIDRsUsable").0 == "False"
    });
    let (_, message) = a.condition("PodCIDRsUsable");
    assert!(
        message.contains("10.10.1.128/25 of node node3"),
        "{message}"
    );
    assert!(message.contains("10.96.3.0/24 of node node4"), "{message}");
    assert!(!routes().contains("10.96.3.0") && !routes().contains("10.10.1.128"));
    let gone: Vec<Key> = ["route/node2", "route/node3", "route/node4"]
        .iter()
        .map(|key| key.parse().unwrap())
        .collect();
    controller.send("node1", vec![], gone);
    wait("the routes to go", || !routes().contains("10.10.7.0"));
    assert_eq!(a.condition("PodCIDRsUsable").0, "True");
    assert!(!a.flows().iter().any(|flow| flow.contains("tun_dst")));
    drop(b);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_number_is_refused_and_the_stream_opened_anew() {
    let (a, b, controller) = two_nodes().await;
    let before = controller.hellos();
    let batch = v1::Batch {
        number: Some(Number::new(0, 9).into()),
        removed: vec!["route/node2".into()],
        ..v1::Batch::default()
    };
    controller.say("node1", v1::controller_message::Message::Batch(batch));
    wait("the stream to be opened anew", || {
        controller.hellos() > before
    });
    assert!(must(a.netns(), "ip route show").contains("10.10.2.0/24"));
    drop(b);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changes_on_the_host_or_the_switch_is_mended() {
    let (a, b, _controller) = two_nodes().await;
    let flows = a.flows();
    a.ovs
        .ofctl(&[
            "add-flow",
            &a.ovs.target("br-int"),
            "table=0,priority=999 actions=drop",
        ])
        .unwrap();
    a.ovs
        .ofctl(&[
            "--strict",
            "del-flows",
            &a.ovs.target("br-int"),
            "table=80,priority=0",
        ])
        .unwrap();
    must(
        a.netns(),
        "ip route del 10.10.2.0/24; nft delete table inet carrick",
    );
    wait("the route and the table to be back", || {
        in_netns(
            a.netns(),
            "ip route show | grep -q 10.10.2.0/24 && nft list table inet carrick >/dev/null",
        )
        .0
    });
    wait("the flows to be back", || a.flows() == flows);
    drop(b);
}

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_leaves_the_node_as_it_was() {
    let (mut a, mut b) = (LabNode::new(1), LabNode::new(2));
    wire(&a, &b);
    std::fs::write(a.paths.cni_conf.join("05-other.conflist"), "{}").unwrap();
    // A firewall of somebody else, which the agent opens for pods.
    must(
        a.netns(),
        "nft add table inet theirs && nft 'add chain inet theirs forwarded { type filter hook forward priority 5; \
         policy drop; }' && nft add rule inet theirs forwarded ct state established accept",
    );
    a.configure("hostFirewall", "InsertRule".into());
    let before = fingerprint(a.netns());
    let controller = Controller::serve(&[&a, &b]).await;
    controller.send(
        "node1",
        vec![node_record(1, &A), route_record(2, &B)],
        vec![],
    );
    a.start_agent();
    a.wait_ready();
    let one = open_port(&controller, &a, "one");
    a.add_pod(&one);
    assert!(a.paths.cni_conf.join("10-carrick.conflist").exists());
    assert_ne!(fingerprint(a.netns()), before);
    let (status, message) = a.condition("HostFirewallOpen");
    assert_eq!(status, "True", "{message}");
    assert!(message.contains("inet theirs forwarded"), "{message}");
    let theirs = must(a.netns(), "nft list table inet theirs");
    assert_eq!(theirs.matches("comment \"carrick\"").count(), 2, "{theirs}");
    a.cleanup();
    // Open vSwitch makes this one for itself with the first userspace bridge, and keeps it.
    let after = fingerprint(a.netns()).replace("ovs-netdev\n", "");
    assert_eq!(after, before.replace("ovs-netdev\n", ""));
    assert!(a.paths.cni_conf.join("05-other.conflist").exists());
    assert!(!a.paths.cni_conf.join("10-carrick.conflist").exists());
    assert!(!a.paths.state.exists());
    assert!(
        !a.paths.commit().exists() && a.paths.database().exists(),
        "the switch still runs"
    );
    // Again: nothing to do, and no error.
    a.cleanup();
    b.kill_agent();
}
