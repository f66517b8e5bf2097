//! What nodes depend on is away, or comes back as another.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use carrick_e2e::bed::Bed;
use carrick_e2e::pod::{self, Pod, talk};
use carrick_e2e::wait;
use serde_json::json;

use super::faults::pair;
use crate::Test;

/// What nodes depend on is away, or comes back as another.
pub fn tests() -> Vec<Test> {
    vec![
        ("a_cut_transport_link_heals", cut_link),
        ("a_node_registered_again_is_followed", node_registered_again),
    ]
}

/// More than a minute of waiting.
pub fn long_tests() -> Vec<Test> {
    vec![(
        "an_absent_api_server_stops_no_traffic_and_a_known_pods_sandbox_is_made_again",
        api_server_away,
    )]
}

fn api_server_away(bed: &Bed) -> Result<()> {
    let (a, c) = pair(bed)?;
    let node = bed.node_name(0).to_owned();
    let prober = bed.prober(&a, &c)?;
    bed.stop_api_server()?;
    let result = (|| -> Result<()> {
        let begun = Instant::now();
        // The sandbox of a known pod dies; the kubelet makes it again from what it knows.
        bed.kill_sandbox(&node, &a.uid)?;
        wait::until(
            "the known pod's sandbox to be made again",
            Duration::from_mins(1),
            || {
                let sandboxes = bed.attachments_of(&node, &a.uid)?;
                // The dead one goes by the runtime's DEL; the new one answers.
                ensure!(
                    sandboxes.len() == 1,
                    "the pod has {} sandboxes",
                    sandboxes.len()
                );
                for address in &sandboxes[0] {
                    bed.node(&node, &pod::ping(*address))?;
                }
                ensure!(
                    bed.sandbox_runs(&node, &a.uid)?,
                    "the old sandbox is still there"
                );
                Ok(true)
            },
        )?;
        wait::until(
            "60 s without an API server",
            Duration::from_secs(90),
            || Ok(begun.elapsed() >= Duration::from_mins(1)),
        )?;
        for address in &c.addresses {
            bed.node(&node, &pod::ping(*address))?;
        }
        Ok(())
    })();
    bed.start_api_server()?;
    result?;
    drop(prober);
    bed.wait_ready(Duration::from_mins(3))?;
    let namespace = bed.namespace("faults")?;
    let a = Pod::running(bed, &namespace, "a")?;
    talk(bed, &a, &c)
}

fn cut_link(bed: &Bed) -> Result<()> {
    let (a, c) = pair(bed)?;
    let node = bed.node_name(1);
    bed.cut_transport(node)?;
    let cut = a.run(bed, &pod::ping(c.addresses[0]));
    bed.restore_transport(node)?;
    ensure!(cut.is_err(), "pings passed a cut link");
    wait::until("pods to talk again", Duration::from_secs(30), || {
        talk(bed, &a, &c)?;
        Ok(true)
    })
}

/// The last node is deleted and registered again: its pod CIDR may be another one, and every
/// node's routes follow without a restart.
fn node_registered_again(bed: &Bed) -> Result<()> {
    let (a, _) = pair(bed)?;
    let node = bed.last_node().to_owned();
    let namespace = bed.namespace("faults")?;
    let old = bed.get("node", None, &node)?;
    let restarts = bed.restarts(&bed.agent_pod(bed.node_name(0))?)?;
    // Another node takes the freed CIDR, so that the old name gets another one.
    let cidrs = old["spec"]["podCIDRs"].clone();
    bed.kubectl(&["delete", "node", &node, "--wait=true"])?;
    bed.apply(&json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "takes-the-cidr"},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs, "unschedulable": true},
    }))?;
    let result = (|| -> Result<Pod> {
        bed.restart_kubelet(&node)?;
        wait::until(
            "the node to register with another CIDR",
            Duration::from_secs(90),
            || {
                let now = bed.get("node", None, &node)?;
                if now["spec"]["podCIDRs"].is_null() {
                    bail!("no CIDR yet");
                }
                Ok(now["spec"]["podCIDRs"] != old["spec"]["podCIDRs"])
            },
        )?;
        bed.wait_ready(Duration::from_mins(3))?;
        Pod::create(bed, &namespace, "again", &node)
    })();
    bed.kubectl(&[
        "delete",
        "node",
        "takes-the-cidr",
        "--ignore-not-found",
        "--wait=true",
    ])?;
    let again = result?;
    wait::until(
        "pods to talk with the node's new addresses",
        Duration::from_mins(1),
        || {
            talk(bed, &a, &again)?;
            Ok(true)
        },
    )?;
    ensure!(
        restarts == bed.restarts(&bed.agent_pod(bed.node_name(0))?)?,
        "an agent of another node restarted"
    );
    again.delete(bed)
}
