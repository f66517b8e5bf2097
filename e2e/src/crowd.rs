//! Many pods at once on one node.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bed::Bed;
use crate::pod;
use crate::wait;

/// How long the API server may take to tell that a Deployment is gone with its pods.
const DELETION: &str = "--timeout=300s";

/// Pods of one Deployment that do nothing but have a network.
#[derive(Clone, Copy)]
pub struct Crowd<'a> {
    /// Where they run.
    pub bed: &'a Bed,
    /// Their namespace.
    pub namespace: &'a str,
    /// The Deployment's name, and the label `app` of the pods.
    pub name: &'a str,
}

impl Crowd<'_> {
    /// Creates `count` pods on a node and waits until all are ready.
    pub fn start(&self, node: &str, count: usize, deadline: Duration) -> Result<()> {
        let Self {
            bed,
            namespace,
            name,
        } = *self;
        let mut template = pod::manifest(bed, namespace, name, node);
        template["spec"]["containers"][0]["args"] = json!(["pause"]);
        let spec = template["spec"].take();
        bed.apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "replicas": count, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
            },
        }))?;
        let what = format!("{count} pods of {name} on {node}");
        wait::until(&what, deadline, || {
            let deployment = bed.get("deployment", Some(namespace), name)?;
            let ready = deployment["status"]["readyReplicas"].as_u64().unwrap_or(0);
            ensure!(ready >= count as u64, "{ready} of {count} are ready");
            Ok(true)
        })
    }

    /// Deletes them and waits until they are gone.
    pub fn end(&self, deadline: Duration) -> Result<()> {
        let Self {
            bed,
            namespace,
            name,
        } = *self;
        let flags = ["--cascade=foreground", DELETION];
        bed.kubectl(&[&["delete", "deployment", "-n", namespace, name][..], &flags].concat())?;
        let selector = format!("app={name}");
        wait::until(&format!("pods of {name} to be gone"), deadline, || {
            let left = bed.list(&["pods", "-n", namespace, "-l", &selector])?;
            ensure!(left.is_empty(), "{} left", left.len());
            Ok(true)
        })
    }
}
