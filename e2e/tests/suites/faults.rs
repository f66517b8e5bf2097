//! Parts die, are cut off, or find garbage where their state was.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use carrick_e2e::bed::{Bed, NAMESPACE};
use carrick_e2e::pod::{self, Pod, talk};
use carrick_e2e::wait;
use serde_json::json;

use crate::Test;

/// Parts that are killed.
pub fn kill_tests() -> Vec<Test> {
    vec![
        (
            "an_agent_restart_changes_no_flow_group_or_meter",
            agent_restart,
        ),
        ("traffic_outlives_a_killed_agent", kill_agent),
        (
            "traffic_and_new_pods_outlive_a_killed_controller",
            kill_controller,
        ),
        ("the_network_outlives_a_killed_operator", kill_operator),
        ("a_killed_switch_comes_back_with_its_flows", kill_switch),
    ]
}

/// Pings of ten a second that may be lost across nodes when the switch starts: ovs-vswitchd makes the
/// tunnel's device anew (docs/adr/0003). Within a node none is.
const LOST_AT_A_START: u64 = 5;

/// The kernel goes on forwarding what is established while the switch is away.
pub fn kernel_tests() -> Vec<Test> {
    let mut tests = kill_tests();
    tests.push((
        "established_traffic_goes_on_while_the_switch_is_killed",
        switch_killed_under_traffic,
    ));
    tests.push((
        "established_traffic_goes_on_while_the_switch_pod_is_replaced",
        switch_replaced_under_traffic,
    ));
    tests
}

/// What nodes depend on is away, or comes back as another.
pub fn absence_tests() -> Vec<Test> {
    vec![
        ("a_cut_transport_link_heals", cut_link),
        (
            "an_absent_api_server_stops_no_traffic_and_a_known_pods_sandbox_is_made_again",
            api_server_away,
        ),
        ("a_node_registered_again_is_followed", node_registered_again),
    ]
}

/// On a cluster of which no removal is compared: what a node was before Carrick came is among the
/// state that is lost here.
pub fn damage_tests() -> Vec<Test> {
    vec![(
        "corrupt_state_is_set_aside_reported_and_rebuilt",
        corrupt_state,
    )]
}

fn pair(bed: &Bed) -> Result<(Pod, Pod)> {
    let namespace = bed.namespace("faults")?;
    Ok((
        Pod::create(bed, &namespace, "a", bed.node_name(0))?,
        Pod::create(bed, &namespace, "c", bed.node_name(1))?,
    ))
}

/// Flows, groups and meters with their durations and counters: what a rewrite would reset.
fn program(bed: &Bed, node: &str) -> Result<Vec<String>> {
    let target = "unix:/run/carrick/openvswitch/br-int.mgmt";
    let mut all = Vec::new();
    for verb in ["dump-flows", "dump-groups", "meter-stats"] {
        let out = bed.node(node, &format!("ovs-ofctl -O OpenFlow15 {verb} {target}"))?;
        for line in out
            .lines()
            .filter(|line| line.contains('=') && !line.contains("reply"))
        {
            // Counters move; which flows there are, and with what, does not.
            let kept: Vec<&str> = line
                .split(", ")
                .filter(|part| {
                    ![
                        "duration=",
                        "n_packets=",
                        "n_bytes=",
                        "idle_age=",
                        "hard_age=",
                    ]
                    .iter()
                    .any(|counter| part.trim_start().starts_with(counter))
                })
                .collect();
            all.push(kept.join(", "));
        }
    }
    all.sort();
    ensure!(all.len() > 20, "only {} flows on {node}", all.len());
    Ok(all)
}

/// The youngest flow's age in seconds.
fn youngest(bed: &Bed, node: &str) -> Result<f64> {
    let out = bed.node(
        node,
        "ovs-ofctl -O OpenFlow15 dump-flows unix:/run/carrick/openvswitch/br-int.mgmt | grep -o 'duration=[0-9.]*' | cut -d= -f2 | sort -n | head -1",
    )?;
    out.trim()
        .parse()
        .with_context(|| format!("no duration in {out:?}"))
}

fn agent_restart(bed: &Bed) -> Result<()> {
    let (a, c) = pair(bed)?;
    let node = bed.node_name(0);
    bed.settled(node)?;
    let before = program(bed, node)?;
    let age = youngest(bed, node)?;
    let agent = bed.agent_pod(node)?;
    bed.kubectl(&[
        "delete",
        "pod",
        "-n",
        NAMESPACE,
        &agent,
        "--wait=true",
        "--timeout=60s",
    ])?;
    bed.wait_agent(node, Duration::from_secs(90))?;
    bed.settled(node)?;
    let after = program(bed, node)?;
    ensure!(
        before == after,
        "flows changed:\n{}",
        difference(&before, &after)
    );
    // A flow that was deleted and added again would be younger than before.
    let later = youngest(bed, node)?;
    ensure!(
        later >= age,
        "the youngest flow was {age} s old and is {later} s old now"
    );
    talk(bed, &a, &c)
}

fn difference(before: &[String], after: &[String]) -> String {
    let gone = before
        .iter()
        .filter(|line| !after.contains(line))
        .map(|line| format!("- {line}"));
    let new = after
        .iter()
        .filter(|line| !before.contains(line))
        .map(|line| format!("+ {line}"));
    gone.chain(new).collect::<Vec<_>>().join("\n")
}

/// Kills the process of a container on its node with SIGKILL and waits until the pod has restarted.
fn kill(bed: &Bed, node: &str, pod: &str, pattern: &str) -> Result<()> {
    let restarts = bed.restarts(pod)?;
    bed.kill_in_pod(node, pod, pattern)?;
    wait::until(
        &format!("{pod} to restart"),
        Duration::from_secs(90),
        || Ok(bed.restarts(pod)? > restarts && bed.pod_ready(pod)?),
    )
}

fn kill_agent(bed: &Bed) -> Result<()> {
    let (a, c) = pair(bed)?;
    let node = bed.node_name(0);
    let agent = bed.agent_pod(node)?;
    let prober = bed.prober(&a, &c)?;
    kill(bed, node, &agent, "carrick agent")?;
    prober.none_lost()?;
    bed.wait_agent(node, Duration::from_secs(90))?;
    let namespace = bed.namespace("faults")?;
    let fresh = Pod::create(bed, &namespace, "after-agent", node)?;
    talk(bed, &fresh, &c)?;
    fresh.delete(bed)
}

fn kill_controller(bed: &Bed) -> Result<()> {
    let (a, c) = pair(bed)?;
    let (leader, node) = bed.leader("carrick-controller")?;
    let prober = bed.prober(&a, &c)?;
    kill(bed, &node, &leader, "carrick controller")?;
    prober.none_lost()?;
    let namespace = bed.namespace("faults")?;
    let fresh = Pod::create(bed, &namespace, "after-controller", bed.node_name(0))?;
    talk(bed, &fresh, &c)?;
    fresh.delete(bed)
}

fn kill_operator(bed: &Bed) -> Result<()> {
    let (a, c) = pair(bed)?;
    let (operator, node) = bed.leader("carrick-operator")?;
    let before = bed.operand_revisions()?;
    let prober = bed.prober(&a, &c)?;
    kill(bed, &node, &operator, "carrick operator")?;
    prober.none_lost()?;
    bed.wait_ready(Duration::from_mins(2))?;
    ensure!(
        before == bed.operand_revisions()?,
        "the operator's restart changed the operands"
    );
    talk(bed, &a, &c)
}

/// On the userspace datapath the switch forwards in its own threads: a gap is expected, an
/// end is not, and the flows must be the ones the agent committed.
fn kill_switch(bed: &Bed) -> Result<()> {
    let (a, c) = pair(bed)?;
    let node = bed.node_name(0);
    bed.settled(node)?;
    let before = program(bed, node)?;
    let switch = bed.pod_on(node, "ovs")?;
    bed.kill_in_pod(node, &switch, "ovs-vswitchd")?;
    wait::until("pods to talk again", Duration::from_secs(90), || {
        talk(bed, &a, &c)?;
        Ok(true)
    })?;
    bed.settled(node)?;
    let after = program(bed, node)?;
    ensure!(
        before == after,
        "flows changed:\n{}",
        difference(&before, &after)
    );
    Ok(())
}

/// Breaks the switch of the first node while pods ping each other on the node and across nodes, and
/// waits until it is back with the agent's flows.
fn under_traffic(bed: &Bed, interrupt: impl FnOnce(&str, &str) -> Result<()>) -> Result<()> {
    let (a, c) = pair(bed)?;
    let node = bed.node_name(0);
    let b = Pod::create(bed, &bed.namespace("faults")?, "b", node)?;
    talk(bed, &a, &b)?;
    talk(bed, &a, &c)?;
    bed.settled(node)?;
    let before = program(bed, node)?;
    let switch = bed.pod_on(node, "ovs")?;
    let within = bed.prober(&a, &b)?;
    let across = [bed.prober(&a, &c)?, bed.prober(&c, &a)?];
    interrupt(node, &switch)?;
    bed.settled(node)?;
    wait::until("the flows to be back", Duration::from_secs(30), || {
        let after = program(bed, node)?;
        ensure!(before == after, "{}", difference(&before, &after));
        Ok(true)
    })?;
    within.none_lost().context("within the node")?;
    for prober in across {
        let kept = prober.lost_at_most(LOST_AT_A_START);
        kept.context("across nodes")?;
    }
    talk(bed, &a, &c)?;
    b.delete(bed)
}

fn switch_killed_under_traffic(bed: &Bed) -> Result<()> {
    under_traffic(bed, |node, switch| {
        let daemon = || bed.node(node, "pidof ovs-vswitchd");
        let before = daemon()?;
        bed.kill_in_pod(node, switch, "ovs-vswitchd")?;
        wait::until("another ovs-vswitchd", Duration::from_mins(1), || {
            Ok(daemon()? != before && bed.pod_ready(switch)?)
        })
    })
}

fn switch_replaced_under_traffic(bed: &Bed) -> Result<()> {
    under_traffic(bed, |node, switch| {
        bed.kubectl(&["delete", "pod", "-n", NAMESPACE, switch])?;
        wait::until("another switch pod", Duration::from_mins(2), || {
            let now = bed.pod_on(node, "ovs")?;
            Ok(now != switch && bed.pod_ready(&now)?)
        })
    })
}

fn api_server_away(bed: &Bed) -> Result<()> {
    let (a, c) = pair(bed)?;
    let node = bed.node_name(0).to_owned();
    let prober = bed.prober(&a, &c)?;
    bed.stop_api_server()?;
    let result = (|| -> Result<()> {
        let begun = std::time::Instant::now();
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

fn corrupt_state(bed: &Bed) -> Result<()> {
    let (a, c) = pair(bed)?;
    let node = bed.node_name(0);
    let files = bed.node(
        node,
        "find /var/lib/carrick -type f ! -name '*.corrupt*' | sort",
    )?;
    ensure!(
        !files.trim().is_empty(),
        "the agent keeps no state in /var/lib/carrick"
    );
    let agent = bed.agent_pod(node)?;
    // Garbage into every file while the agent is away; the saved commit too.
    bed.node(
        node,
        "for f in $(find /var/lib/carrick -type f ! -name '*.corrupt*') /run/carrick/commit.json; do printf 'garbage' | dd of=$f conv=notrunc 2>/dev/null; done",
    )?;
    kill(bed, node, &agent, "carrick agent")?;
    bed.wait_agent(node, Duration::from_secs(90))?;
    let aside = bed.node(node, "find /var/lib/carrick -name '*.corrupt*'")?;
    ensure!(!aside.trim().is_empty(), "nothing was set aside");
    wait::until(
        "the corruption to be reported",
        Duration::from_mins(1),
        || {
            let info = bed.get("agentinfo", None, node)?.to_string();
            Ok(info.contains("corrupt"))
        },
    )?;
    wait::until("pods to talk again", Duration::from_secs(90), || {
        talk(bed, &a, &c)?;
        Ok(true)
    })?;
    // No address twice: a new pod on that node gets one nobody holds.
    let namespace = bed.namespace("faults")?;
    let fresh = Pod::create(bed, &namespace, "after-corruption", node)?;
    for address in &fresh.addresses {
        ensure!(!a.addresses.contains(address), "{address} was given twice");
    }
    talk(bed, &fresh, &c)?;
    fresh.delete(bed)?;
    bed.node(node, "find /var/lib/carrick -name '*.corrupt*' -delete")?;
    Ok(())
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
