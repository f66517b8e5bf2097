//! Changes of images and of configuration on a running network.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use carrick_e2e::bed::{Bed, NAMESPACE};
use carrick_e2e::pod::Pod;
use carrick_e2e::prober::Prober;
use carrick_e2e::rollout::{follow, image_of, next_tag, operands, tag_of, upgrade};
use carrick_e2e::wait;
use serde_json::{Value, json};

use crate::Test;

pub fn order_tests() -> Vec<Test> {
    vec![(
        "a_new_image_comes_node_by_node_and_goes_back_while_traffic_flows",
        new_image,
    )]
}

pub fn failure_tests() -> Vec<Test> {
    vec![("an_image_that_cannot_be_had_restarts_nothing", absent_image)]
}

/// The switches of the nodes.
fn switches(bed: &Bed) -> Result<BTreeMap<String, Value>> {
    let switches = operands(bed, "ovs")?;
    ensure!(
        switches.len() == bed.node_names().len(),
        "not one switch per node: {:?}",
        switches.keys()
    );
    Ok(switches)
}

fn created(pods: &BTreeMap<String, Value>) -> Vec<&str> {
    pods.values()
        .filter_map(|pod| pod["metadata"]["creationTimestamp"].as_str())
        .collect()
}

fn new_image(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace("rollout")?;
    let a = Pod::create(bed, &namespace, "a", bed.node_name(0))?;
    let b = Pod::create(bed, &namespace, "b", bed.node_name(1))?;
    let tag = tag_of(bed, "carrick")?;
    let next = next_tag(bed)?;
    let before = switches(bed)?;
    let prober = Prober::start(bed, &a, &b)?;
    upgrade(bed, "carrick", &next)?;
    follow(bed, &next)?;
    let (controllers, agents) = (operands(bed, "controller")?, operands(bed, "agent")?);
    // Timestamps of the API have this form: their order is that of their text.
    let last = created(&controllers).into_iter().max();
    let first = created(&agents).into_iter().min();
    ensure!(
        last <= first,
        "an agent of {first:?} came before the controller of {last:?}"
    );
    let after = switches(bed)?;
    ensure!(
        before.keys().eq(after.keys()),
        "switches restarted though nothing of theirs changed: {:?}",
        after.keys()
    );
    // And back, with the operator killed on the way.
    bed.helm(&["rollback", "carrick", "-n", NAMESPACE])?;
    wait::until("the way back to begin", Duration::from_mins(2), || {
        let agents = operands(bed, "agent")?;
        Ok(agents
            .values()
            .any(|pod| image_of(pod).ends_with(&format!(":{tag}"))))
    })?;
    bed.kubectl(&[
        "delete",
        "pod",
        "-n",
        NAMESPACE,
        "-l",
        "app.kubernetes.io/component=operator",
        "--force",
        "--grace-period=0",
    ])?;
    follow(bed, &tag)?;
    prober.none_lost()?;
    bed.wait_ready(Duration::from_mins(2))?;
    bed.kubectl(&["delete", "namespace", &namespace, "--wait=true"])?;
    Ok(())
}

/// The names of all that runs on the nodes.
fn names(bed: &Bed) -> Result<Vec<String>> {
    let parts = [
        operands(bed, "controller")?,
        operands(bed, "agent")?,
        switches(bed)?,
    ];
    Ok(parts.into_iter().flat_map(BTreeMap::into_keys).collect())
}

fn absent_image(bed: &Bed) -> Result<()> {
    let tag = tag_of(bed, "carrickOvs")?;
    let before = names(bed)?;
    bed.patch_networking(&json!({"rollout": {"stallTimeout": "60s"}}))?;
    bed.wait_ready(Duration::from_mins(2))?;
    upgrade(bed, "carrickOvs", "absent")?;
    wait::until("the rollout to stop", Duration::from_mins(4), || {
        let rollout = bed.networking()?["status"]["rollout"].clone();
        ensure!(rollout["phase"] == "RolledBack", "{rollout}");
        let failure = rollout["failures"][0].to_string();
        ensure!(
            failure.contains("ImagePull") || failure.contains("ErrImage"),
            "the reason is {failure}"
        );
        ensure!(
            failure.contains("absent"),
            "the image is not named: {failure}"
        );
        Ok(true)
    })?;
    let after = names(bed)?;
    ensure!(
        before == after,
        "pods were restarted: {before:?}, {after:?}"
    );
    upgrade(bed, "carrickOvs", &tag)?;
    bed.patch_networking(&json!({"rollout": null}))?;
    wait::until(
        "everything to be well again",
        Duration::from_mins(3),
        || {
            let rollout = bed.networking()?["status"]["rollout"].clone();
            ensure!(rollout["phase"] == "Complete", "{rollout}");
            Ok(true)
        },
    )?;
    bed.wait_ready(Duration::from_mins(2))?;
    let after = names(bed)?;
    ensure!(
        before == after,
        "pods were restarted: {before:?}, {after:?}"
    );
    Ok(())
}
