//! Pod CIDRs that Carrick allocates, where kube-controller-manager allocates none.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use carrick_e2e::bed::Bed;
use carrick_e2e::pod::{Pod, talk};
use serde_json::Value;

use crate::Test;

pub fn tests() -> Vec<Test> {
    vec![(
        "nodes_get_cidrs_of_several_ranges_and_their_pods_talk",
        cidrs,
    )]
}

/// Of the ranges in `spec.ipam.nodeIPAM.clusterCIDRs` each holds the CIDR of one node.
fn cidrs(bed: &Bed) -> Result<()> {
    let ranges = strings(&bed.networking()?["spec"]["ipam"]["nodeIPAM"]["clusterCIDRs"]);
    ensure!(ranges.len() == bed.node_names().len(), "{ranges:?}");
    let mut given = BTreeSet::new();
    for node in bed.node_names() {
        let spec = bed.get("node", None, &node)?["spec"].clone();
        let all = strings(&spec["podCIDRs"]);
        ensure!(
            all.len() == 1 && all.first().map(String::as_str) == spec["podCIDR"].as_str(),
            "{node}: {spec}"
        );
        given.extend(all);
    }
    ensure!(given == ranges, "nodes have {given:?} of {ranges:?}");
    let namespace = bed.namespace("ipam")?;
    let a = Pod::create(bed, &namespace, "a", bed.node_name(0))?;
    let b = Pod::create(bed, &namespace, "b", bed.node_name(1))?;
    for pod in [&a, &b] {
        let node = bed.get("node", None, &pod.node)?;
        let cidr = node["spec"]["podCIDR"].as_str().context("no podCIDR")?;
        let (network, _) = cidr.split_once("::/").context("a CIDR of /64")?;
        let inside = |address: &std::net::IpAddr| address.to_string().starts_with(network);
        ensure!(
            pod.addresses.iter().all(inside),
            "{:?} is not in {cidr}",
            pod.addresses
        );
    }
    talk(bed, &a, &b)?;
    bed.kubectl(&["delete", "namespace", &namespace, "--wait=true"])
        .map(drop)
}

fn strings(list: &Value) -> BTreeSet<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}
