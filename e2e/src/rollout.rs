//! Changes of images on a running network, as whoever looks on sees them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::bed::{Bed, NAMESPACE};
use crate::wait;

/// How long a rollout over the few nodes of a bed may take.
pub const ROLLOUT: Duration = Duration::from_mins(5);

/// What the operator runs on the nodes, by pod name.
pub fn operands(bed: &Bed, component: &str) -> Result<BTreeMap<String, Value>> {
    let selector = format!("app.kubernetes.io/component={component}");
    let pods = bed.list(&["pods", "-n", NAMESPACE, "-l", &selector])?;
    let named = |pod: Value| Some((pod["metadata"]["name"].as_str()?.to_owned(), pod));
    Ok(pods.into_iter().filter_map(named).collect())
}

/// Whether a pod is Ready and stays.
pub fn is_ready(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The image of a pod's first container.
pub fn image_of(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap_or_default()
}

/// The chart's value for an image's tag, as it is installed.
pub fn tag_of(bed: &Bed, image: &str) -> Result<String> {
    let out = bed.helm(&["get", "values", "carrick", "-n", NAMESPACE, "-o", "json"])?;
    let values: Value = serde_json::from_str(&out)?;
    values["images"][image]["tag"]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("images.{image}.tag is not set: {out}"))
}

/// Gives the image of the running release one more tag on every node, and returns it: a new image for the
/// operator, and nothing else in it.
pub fn next_tag(bed: &Bed) -> Result<String> {
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
    Ok(next)
}

/// Upgrades the release with another tag of one image, and returns at once.
pub fn upgrade(bed: &Bed, image: &str, tag: &str) -> Result<()> {
    bed.upgrade(&[(&format!("images.{image}.tag"), tag)])
}

/// Waits until every agent and controller runs `tag`; fails when ever two agents are away at once.
pub fn follow(bed: &Bed, tag: &str) -> Result<()> {
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
