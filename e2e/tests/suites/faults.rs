//! Parts die, or find garbage where their state was.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carrick_e2e::bed::{Bed, NAMESPACE};
use carrick_e2e::pod::{Pod, talk};
use carrick_e2e::program::{difference, program, youngest};
use carrick_e2e::wait;

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

/// On a cluster of which no removal is compared: what a node was before Carrick came is among the
/// state that is lost here.
pub fn damage_tests() -> Vec<Test> {
    vec![(
        "corrupt_state_is_set_aside_reported_and_rebuilt",
        corrupt_state,
    )]
}

/// Two pods on two nodes.
pub(super) fn pair(bed: &Bed) -> Result<(Pod, Pod)> {
    let namespace = bed.namespace("faults")?;
    Ok((
        Pod::create(bed, &namespace, "a", bed.node_name(0))?,
        Pod::create(bed, &namespace, "c", bed.node_name(1))?,
    ))
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
