//! What is installed on a bed: the chart and the images under test, or those that landed before.

use std::time::Duration;

use anyhow::{Context, Result};
use carrick_testbed::NodeKind;
use serde_json::{Value, json};

use super::{Bed, NAMESPACE};
use crate::command::root;
use crate::images::Previous;

/// What a cluster has of what landed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// Nothing.
    Absent,
    /// Its images are on the nodes.
    Available,
    /// It is what is installed first.
    Installed,
}

/// What can be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// What is under test.
    Current,
    /// What landed before.
    Previous,
}

impl Bed {
    /// Installs the chart as a user would and waits for the network.
    pub fn install(&self, release: Release) -> Result<()> {
        self.helm_release(&["install", "--create-namespace"], release)?;
        self.apply(&self.networking_with(self.traffic)?)?;
        self.wait_ready(Duration::from_mins(4))
    }

    /// Upgrades to another release with its own chart, and returns at once.
    pub fn upgrade_to(&self, release: Release) -> Result<()> {
        self.helm_release(&["upgrade"], release)
    }

    fn helm_release(&self, verb: &[&str], release: Release) -> Result<()> {
        let ours = root().join("charts/carrick");
        let (chart, values) = match release {
            Release::Current => (ours.as_path(), &self.images.set.values),
            Release::Previous => {
                let previous = self.previous()?;
                (previous.chart.as_path(), &previous.set.values)
            }
        };
        let host = self.cluster.api_host().to_string();
        let api_server = [
            ("apiServer.host", host.as_str()),
            ("apiServer.port", "6443"),
        ];
        let values = values
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        self.helm_set(verb, &chart.to_string_lossy(), values.chain(api_server))
    }

    /// `helm VERB carrick CHART` with these values.
    fn helm_set<'a>(
        &self,
        verb: &[&str],
        chart: &str,
        values: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<()> {
        let values: Vec<String> = values
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let mut arguments = verb.to_vec();
        arguments.extend(["carrick", chart, "--namespace", NAMESPACE]);
        for value in &values {
            arguments.extend(["--set", value]);
        }
        self.helm(&arguments).map(drop)
    }

    /// The tag of a release's image, by the chart's name of the image.
    pub fn tag(&self, release: Release, image: &str) -> Result<&str> {
        let values = match release {
            Release::Current => &self.images.set.values,
            Release::Previous => &self.previous()?.set.values,
        };
        let key = format!("images.{image}.tag");
        let tag = values.iter().find(|(name, _)| *name == key);
        tag.map(|(_, tag)| tag.as_str())
            .with_context(|| format!("{key} is not set"))
    }

    fn previous(&self) -> Result<&Previous> {
        self.previous
            .as_ref()
            .context("this cluster has not what landed before")
    }

    /// Upgrades the chart with these values changed and returns at once.
    pub fn upgrade(&self, values: &[(&str, &str)]) -> Result<()> {
        let chart = root().join("charts/carrick");
        let verb = ["upgrade", "--reset-then-reuse-values"];
        self.helm_set(&verb, &chart.to_string_lossy(), values.iter().copied())
    }

    /// A Networking of these beds with this `spec.traffic`: namespace nodes have no kernel datapath.
    pub fn networking_with(&self, traffic: &str) -> Result<Value> {
        let datapath = match self.cluster.spec().kind {
            NodeKind::Namespace => "Userspace",
            NodeKind::Kernel => "Kernel",
        };
        let mut traffic: Value = serde_json::from_str(traffic).context("traffic is JSON")?;
        traffic["transport"] = json!({"interface": "eth1"});
        let mut spec: Value = serde_json::from_str(self.more).context("more is JSON")?;
        spec["traffic"] = traffic;
        spec["datapath"] = json!({"type": datapath});
        Ok(json!({
            "apiVersion": "carrick.dev/v1alpha1", "kind": "Networking",
            "metadata": {"name": "default"}, "spec": spec,
        }))
    }
}
