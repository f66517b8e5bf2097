//! `carrickctl version`: ours, and what runs in the cluster.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::connect::{Cluster, ClusterError};
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::pods::{self, Part};
use crate::snapshot::{self, Snapshot};
use crate::table::Table;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Arguments of `carrickctl version`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Only the version of this program; asks no cluster.
    #[arg(long)]
    pub client: bool,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    /// This program.
    pub client: String,
    /// Versions by part, each with the number of replicas or nodes that say so.
    pub cluster: BTreeMap<String, BTreeMap<String, usize>>,
}

/// Runs it. `cluster` is only asked when needed.
///
/// # Errors
/// What cannot be read or printed.
pub async fn run(
    cluster: impl Future<Output = Result<Cluster, ClusterError>>,
    args: &Args,
) -> anyhow::Result<Exit> {
    let mut versions = Versions {
        client: VERSION.into(),
        cluster: BTreeMap::new(),
    };
    if !args.client {
        versions.cluster = running(&snapshot::read(&cluster.await?).await?);
    }
    output::print(args.output, &versions, || text(&versions))?;
    Ok(Exit::Well)
}

/// What runs, as it says itself; the operator by its image.
pub fn running(snapshot: &Snapshot) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut all: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut count = |part: &str, version: &str| {
        if !version.is_empty() {
            *all.entry(part.into())
                .or_default()
                .entry(version.into())
                .or_default() += 1;
        }
    };
    for pod in snapshot
        .pods
        .iter()
        .flatten()
        .filter(|pod| Part::of(pod) == Some(Part::Operator))
    {
        let image = pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .find_map(|c| c.image.as_deref());
        if pods::ready(pod) {
            count("operator", image.and_then(tag).unwrap_or_default());
        }
    }
    for status in snapshot
        .controllers
        .iter()
        .filter_map(|info| info.status.as_ref())
    {
        count("controller", &status.version);
    }
    for status in snapshot
        .agents
        .iter()
        .filter_map(|info| info.status.as_ref())
    {
        count("agent", &status.version);
        count("Open vSwitch", &status.switch_version);
    }
    for node in snapshot.nodes.iter().flatten() {
        let info = node
            .status
            .as_ref()
            .and_then(|status| status.node_info.as_ref());
        count(
            "kubelet",
            info.map(|info| info.kubelet_version.as_str())
                .unwrap_or_default(),
        );
    }
    all
}

/// What comes after the name: the tag, or the digest.
fn tag(image: &str) -> Option<&str> {
    if let Some((_, digest)) = image.split_once('@') {
        return Some(digest);
    }
    let (_, name) = image.rsplit_once('/').unwrap_or(("", image));
    name.split_once(':').map(|(_, tag)| tag)
}

fn text(versions: &Versions) -> String {
    let mut table = Table::headless();
    table.row(["carrickctl".into(), versions.client.clone()]);
    for (part, versions) in &versions.cluster {
        let found: Vec<String> = versions
            .iter()
            .map(|(version, n)| format!("{version} ({n})"))
            .collect();
        table.row([part.clone(), found.join(", ")]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_not_a_port() {
        assert_eq!(tag("registry.example:5000/carrick:0.1.0"), Some("0.1.0"));
        assert_eq!(tag("registry.example:5000/carrick"), None);
        assert_eq!(tag("carrick:1@sha256:ab"), Some("sha256:ab"));
    }
}
