//! A node loses its power and boots again. Only kernel nodes can: namespace nodes share the host's
//! boot id.

use std::time::Duration;

use anyhow::{Result, ensure};
use carrick_e2e::bed::Bed;
use carrick_e2e::pod::{Pod, talk};
use carrick_e2e::wait;

use crate::Test;

pub fn tests() -> Vec<Test> {
    vec![(
        "a_rebooted_node_keeps_its_pods_addresses_and_gives_none_twice",
        addresses,
    )]
}

pub fn foreign_commit_tests() -> Vec<Test> {
    vec![("a_commit_of_another_boot_is_not_restored", foreign_commit)]
}

/// The agent's saved commit, and where a copy of it outlives a reboot.
const COMMIT: &str = "/run/carrick/commit.json";
const COPY: &str = "/var/lib/kubelet/carrick-e2e-commit.json";

/// Reboots a node and waits until its switch and agent, started again, are Ready.
fn reboot(bed: &Bed, node: &str) -> Result<()> {
    let boot = || bed.node(node, "cat /proc/sys/kernel/random/boot_id");
    let before = boot()?;
    let mut restarts = Vec::new();
    for component in ["agent", "ovs"] {
        restarts.push((component, bed.restarts(&bed.pod_on(node, component)?)?));
    }
    bed.restart_node(node)?;
    ensure!(before != boot()?, "the node has the boot id it had");
    for (component, count) in restarts {
        // What the API server says of a node that is away is what was before.
        wait::until(
            &format!("{component} of {node} after its reboot"),
            Duration::from_mins(3),
            || {
                let pod = bed.pod_on(node, component)?;
                Ok(bed.restarts(&pod)? > count && bed.pod_ready(&pod)?)
            },
        )?;
    }
    bed.wait_ready(Duration::from_mins(2))
}

fn addresses(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace("reboot")?;
    let node = bed.node_name(1);
    let far = Pod::create(bed, &namespace, "far", bed.node_name(0))?;
    let kept = Pod::create(bed, &namespace, "kept", node)?;
    let gone = Pod::create(bed, &namespace, "gone", node)?;
    talk(bed, &far, &kept)?;
    reboot(bed, node)?;
    // Its sandbox died with the node; the new one has the addresses everybody knows the pod by.
    let again = Pod::running(bed, &namespace, "kept")?;
    ensure!(again.uid == kept.uid, "the pod was made anew");
    ensure!(
        again.addresses == kept.addresses,
        "the pod had {:?} and has {:?}",
        kept.addresses,
        again.addresses
    );
    wait::until("pods to talk again", Duration::from_mins(1), || {
        talk(bed, &far, &again)?;
        Ok(true)
    })?;
    gone.delete(bed)?;
    let fresh = Pod::create(bed, &namespace, "fresh", node)?;
    for address in &fresh.addresses {
        ensure!(
            !kept.addresses.contains(address) && !gone.addresses.contains(address),
            "{address} was given again at once"
        );
    }
    talk(bed, &far, &fresh)?;
    for pod in [far, again, fresh] {
        pod.delete(bed)?;
    }
    Ok(())
}

fn foreign_commit(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace("reboot")?;
    let node = bed.node_name(1);
    let far = Pod::create(bed, &namespace, "far", bed.node_name(0))?;
    let near = Pod::create(bed, &namespace, "near", node)?;
    bed.settled(node)?;
    bed.node(node, &format!("cp {COMMIT} {COPY} && sync {COPY}"))?;
    reboot(bed, node)?;
    let near = Pod::running(bed, &namespace, &near.name)?;
    bed.settled(node)?;
    // As if it had survived: the switch that starts next must not believe it.
    let switch = bed.pod_on(node, "ovs")?;
    let start = started(bed, node)?;
    // The agent puts its own commit back whenever it looks.
    let put = format!("mv {COPY} {COMMIT}");
    bed.kill_in_pod_after(node, &switch, "ovs-vswitchd", &put)?;
    wait::until("the switch to start again", Duration::from_mins(2), || {
        let now = started(bed, node)?;
        Ok(now != start && !now.is_empty())
    })?;
    let result = external_id(bed, node, "carrick-restore-result")?;
    ensure!(
        result.contains("boot"),
        "a commit of another boot ended in {result:?}"
    );
    wait::until("pods to talk again", Duration::from_mins(1), || {
        talk(bed, &far, &near)?;
        Ok(true)
    })?;
    far.delete(bed)?;
    near.delete(bed)
}

/// The start of the switch that is Ready; empty while it restores.
fn started(bed: &Bed, node: &str) -> Result<String> {
    external_id(bed, node, "carrick-restored")
}

fn external_id(bed: &Bed, node: &str, key: &str) -> Result<String> {
    let script = format!(
        "ovs-vsctl --db=unix:/run/carrick/openvswitch/db.sock --if-exists get Open_vSwitch . external_ids:{key}"
    );
    Ok(bed.node(node, &script)?.trim().to_owned())
}
