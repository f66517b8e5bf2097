//! Changes of images and of configuration on a running network.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use carrick_e2e::bed::{Bed, NAMESPACE};
use carrick_e2e::pod::Pod;
use carrick_e2e::prober::Prober;
use carrick_e2e::wait;
use serde_json::{Value, json};

use crate::Test;

/// How long a rollout over the few nodes of a bed may take.
pub(super) const ROLLOUT: Duration = Duration::from_mins(5);

pub fn order_tests() -> Vec<Test> {
    vec![(
        "a_new_image_comes_node_by_node_and_goes_back_while_traffic_flows",
        new_image,
    )]
}

pub fn failure_tests() -> Vec<Test> {
    vec![("an_image_that_cannot_be_had_restarts_nothing", absent_image)]
}

/// What the operator runs on the nodes, by pod name.
pub(super) fn operands(bed: &Bed, component: &str) -> Result<BTreeMap<String, Value>> {
    let selector = format!("app.kubernetes.io/component={component}");
    let out = bed.kubectl(&[
        "get", "pods", "-n", NAMESPACE, "-l", &selector, "-o", "json",
    ])?;
    let list: Value = serde_json::from_str(&out)?;
    Ok(list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|pod| Some((pod["metadata"]["name"].as_str()?.to_owned(), pod.clone())))
        .collect())
}

pub(super) fn is_ready(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

pub(super) fn image_of(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default()
}

/// The chart's value for an image's tag, as it is installed.
fn tag_of(bed: &Bed, image: &str) -> Result<String> {
    let out = bed.helm(&["get", "values", "carrick", "-n", NAMESPACE, "-o", "json"])?;
    let values: Value = serde_json::from_str(&out)?;
    values["images"][image]["tag"]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("images.{image}.tag is not set: {out}"))
}

fn upgrade(bed: &Bed, image: &str, tag: &str) -> Result<()> {
    bed.upgrade(&[(&format!("images.{image}.tag"), tag)])
}

/// Waits until every agent and controller runs `tag`; fails when ever two agents are away at once.
pub(super) fn follow(bed: &Bed, tag: &str) -> Result<()> {
    let nodes = bed.node_names().len();
    let mut crowd = None;
    wait::until(&format!("the rollout of {tag}"), ROLLOUT, || {
        let agents = operands(bed, "agent")?;
        let ready = agents.values().filter(|pod| is_ready(pod)).count();
        if ready + 1 < nodes {
            crowd = Some(format!(
                "{ready} of {nodes} agents are ready: {:?}",
                agents.keys()
            ));
            return Ok(true);
        }
        let status = bed.networking()?["status"]["rollout"].clone();
        ensure!(status["phase"] == "Complete", "{status}");
        let controllers = operands(bed, "controller")?;
        let mut operands = agents.values().chain(controllers.values());
        Ok(agents.len() == nodes
            && operands.all(|pod| is_ready(pod) && image_of(pod).ends_with(&format!(":{tag}"))))
    })?;
    crowd.map_or(Ok(()), |crowd| bail!("two nodes at once: {crowd}"))
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
    let next = format!("{tag}-next");
    for node in bed.node_names() {
        bed.node(
            &node,
            &format!(
                "ctr -n k8s.io images tag --force localhost/carrick:{tag} localhost/carrick:{next}"
            ),
        )?;
    }
    let switches = operands(bed, "switch")?;
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
    let after = operands(bed, "switch")?;
    ensure!(
        switches.keys().eq(after.keys()),
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

fn absent_image(bed: &Bed) -> Result<()> {
    let tag = tag_of(bed, "carrickOvs")?;
    let names = |component: &str| -> Result<Vec<String>> {
        Ok(operands(bed, component)?.into_keys().collect())
    };
    let before = (names("agent")?, names("controller")?, names("switch")?);
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
    let after = (names("agent")?, names("controller")?, names("switch")?);
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
    let after = (names("agent")?, names("controller")?, names("switch")?);
    ensure!(
        before == after,
        "pods were restarted: {before:?}, {after:?}"
    );
    Ok(())
}
