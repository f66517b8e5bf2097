//! What an agent does when the node it runs on fails it: a second agent, a switch that stops
//! answering, a full disk, no file descriptors.

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

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use carrick_agent::ipam::{AttachmentKey, host_link_name};
use lab::controller::{Controller, node_record, pod_record, route_record};
use lab::{LabNode, Pod, wait, wire};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Not a test: the agent's process (see [`lab`]).
#[test]
fn agent_process() {
    lab::agent_main();
}

const A: [&str; 2] = ["10.10.1.0/24", "fd00:10:1::/64"];
const B: [&str; 2] = ["10.10.2.0/24", "fd00:10:2::/64"];
const C: [&str; 2] = ["10.10.3.0/24", "fd00:10:3::/64"];

/// A node with a route to another and an agent that is ready; the other has no agent.
async fn node() -> (LabNode, LabNode, Controller) {
    let (mut node, other) = (LabNode::new(1), LabNode::new(2));
    let controller = prepare(&node, &other).await;
    node.start_agent();
    node.wait_ready();
    (node, other, controller)
}

async fn prepare(node: &LabNode, other: &LabNode) -> Controller {
    wire(node, other);
    let controller = Controller::serve(&[node]).await;
    let records = vec![node_record(1, &A), route_record(2, &B)];
    controller.send("node1", records, vec![]);
    controller
}

/// The same with a pod.
async fn node_with_a_pod() -> (LabNode, LabNode, Controller) {
    let (mut node, other, controller) = node().await;
    node.add_pod(&announced(&controller, "one"));
    (node, other, controller)
}

fn announced(controller: &Controller, name: &str) -> Pod {
    let pod = Pod::new(name);
    controller.send("node1", vec![pod_record(&pod)], vec![]);
    pod
}

/// Files below a directory with their bytes.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

/// It opened the journals before it met the first one's port, and cut off what that one was writing.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_is_refused_by_the_name_of_the_first_and_touches_nothing() {
    let (mut node, _other, controller) = node().await;
    let pod = announced(&controller, "one");
    node.add_pod(&pod);
    // As if the first were in the middle of an append.
    let journal = node.paths.attachments();
    let mut half = std::fs::read(&journal).unwrap();
    half.extend_from_within(..10);
    std::fs::write(&journal, &half).unwrap();
    let (state, flows) = (files(&node.paths.state), node.flows());

    let (well, said) = node.second_agent();
    assert!(!well, "{said}");
    assert!(said.contains("another agent runs on this node"), "{said}");
    let first = format!("process {}", node.agent_pid());
    assert!(said.contains(&first), "{said} does not name {first}");
    assert_eq!(files(&node.paths.state), state, "a file was touched");
    assert_eq!(node.flows(), flows);
    node.wait_ready();

    // It goes with its holder, however that ends.
    node.kill_agent();
    node.start_agent();
    node.wait_ready();
    assert_eq!(node.flows(), flows);
}

/// On a busy machine the first pass came before anybody knew them, and took their flows and ids away.
#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_lost_journal_keep_their_flows() {
    let (mut node, _other, controller) = node_with_a_pod().await;
    for name in ["two", "three", "four"] {
        node.add_pod(&announced(&controller, name));
    }
    let flows = node.flows();
    for _ in 0..3 {
        node.kill_agent();
        std::fs::write(node.paths.attachments(), "no journal").unwrap();
        node.start_agent();
        node.wait_ready();
        assert_eq!(node.flows(), flows);
        let log = node.log();
        assert!(!log.contains("programmed changes="), "{log}");
        assert!(
            log.contains("pod links that the journal did not know"),
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_switch_does_not_answer_is_made_when_it_goes_on() {
    let (node, _other, controller) = node_with_a_pod().await;
    let before = node.flows();
    let age = node.youngest_flow();
    let switch = Pid::from_raw(i32::try_from(node.ovs.vswitchd_pid().unwrap()).unwrap());
    kill(switch, Signal::SIGSTOP).unwrap();
    let number = controller.send("node1", vec![route_record(3, &C)], vec![]);
    let mut told = String::new();
    wait("the agent to say that the switch does not answer", || {
        let report = node.report();
        let error = report["lastError"].as_str().unwrap_or_default();
        told = format!("{error}; {:?}", node.condition("DatapathReady"));
        !error.is_empty()
    });
    assert_ne!(controller.acknowledged("node1"), number, "{told}");
    kill(switch, Signal::SIGCONT).unwrap();
    wait("the commit to be acknowledged", || {
        controller.acknowledged("node1") == number
    });
    let after = node.flows();
    let lost: Vec<_> = before.iter().filter(|flow| !after.contains(flow)).collect();
    assert!(lost.is_empty(), "gone: {lost:?}");
    assert!(after.iter().any(|flow| flow.contains("10.10.3.0/24")));
    assert_eq!(node.condition("DatapathReady").0, "True", "{told}");
    // What was there was not made anew: the oldest flow still is as old as it was.
    assert!(node.oldest_flow() >= age);
}

/// A small file system over the agent's state.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(directory: &Path) -> Self {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "small"])
            .arg(directory)
            .status()
            .unwrap();
        assert!(done.success());
        Self(directory.to_owned())
    }

    fn fill(&self) {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(path).unwrap();
        while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|written| written > 0) {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The agent still has files open there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Its flows are programmed before its port is made, and must go with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_port_cannot_be_is_refused_and_leaves_no_flow() {
    let (mut node, _other, controller) = node_with_a_pod().await;
    let flows = node.flows();
    let two = announced(&controller, "two");
    let sandbox = node.sandbox();
    // Somebody has a port of that name on a bridge of his own, without the device.
    let link = host_link_name(&AttachmentKey {
        container_id: sandbox.1.clone(),
        ifname: "eth0".to_owned(),
    });
    let bridge = ["--no-wait", "add-br", "theirs", "--"];
    let port = ["add-port", "theirs", &link];
    node.ovs
        .vsctl(&[bridge.as_slice(), &port].concat())
        .unwrap();
    let answer = node.cni("ADD", &sandbox, &two);
    assert_ne!(answer.exit, 0, "{}", answer.output);
    let said = answer.output.to_string();
    assert!(said.contains(&link) && said.contains("theirs"), "{said}");
    assert_eq!(node.flows(), flows, "flows of a pod without a port");

    node.ovs.vsctl(&["--no-wait", "del-br", "theirs"]).unwrap();
    let answer = node.cni("ADD", &sandbox, &two);
    assert_eq!(answer.exit, 0, "{}", answer.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_new_pods_by_its_name_and_keeps_everything_else() {
    let (mut node, other) = (LabNode::new(1), LabNode::new(2));
    let disk = SmallDisk::mount(&node.paths.state);
    let controller = prepare(&node, &other).await;
    node.start_agent();
    node.wait_ready();
    let one = announced(&controller, "one");
    let (_, first) = node.add_pod(&one);
    let two = Pod::new("two");
    let number = controller.send("node1", vec![pod_record(&two)], vec![]);
    wait("the second pod's record", || {
        controller.acknowledged("node1") == number
    });
    let flows = node.flows();

    disk.fill();
    let sandbox = node.sandbox();
    let answer = node.cni("ADD", &sandbox, &two);
    assert_ne!(answer.exit, 0, "{}", answer.output);
    let said = answer.output.to_string();
    assert!(said.contains("disk") || said.contains("space"), "{said}");
    assert_eq!(node.flows(), flows, "a full disk changed flows");

    // A restart on a full disk starts from what is there.
    node.kill_agent();
    node.start_agent();
    node.wait_ready();
    assert_eq!(
        node.flows(),
        flows,
        "a restart on a full disk changed flows"
    );

    disk.free();
    let (_, second) = node.add_pod(&two);
    assert!(second.iter().all(|address| !first.contains(address)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_file_descriptors_goes_on_when_there_are_some_again() {
    let (mut node, _other, controller) = node().await;
    let one = announced(&controller, "one");
    node.add_pod(&one);
    let two = announced(&controller, "two");
    let flows = node.flows();
    let pid = node.agent_pid().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    let limit = |descriptors: usize| {
        // The soft limit: the hard one could not be raised again.
        let limit = format!("--nofile={descriptors}:");
        let set = Command::new("prlimit")
            .args(["--pid", &pid, &limit])
            .status();
        assert!(set.unwrap().success());
    };
    limit(open + 4);
    let hoard: Vec<_> = (0..64)
        .filter_map(|_| UnixStream::connect(node.paths.cni_socket()).ok())
        .collect();
    let used = || {
        std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .count()
    };
    wait("all descriptors to be used", || used() >= open + 4);
    assert_eq!(node.flows(), flows);
    drop(hoard);
    // As many as an ADD takes beside those: nft's three pipes among them.
    limit(open + 64);
    let (_, addresses) = node.add_pod(&two);
    assert_eq!(addresses.len(), 2);
    assert_eq!(node.agent_pid().to_string(), pid);
    node.wait_ready();
}
