//! Removal: a node is left as it was.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carrick_e2e::bed::{Bed, NAMESPACE};
use carrick_e2e::pod::{self, Pod};
use carrick_e2e::portrait;
use carrick_e2e::wait;

use super::connectivity;
use crate::Test;

pub fn uninstall_tests() -> Vec<Test> {
    vec![("helm_uninstall_leaves_the_nodes_as_they_were", uninstall)]
}

pub fn deletion_tests() -> Vec<Test> {
    vec![
        ("deletion_waits_for_pods_that_use_the_network", waits),
        (
            "deletion_leaves_the_nodes_as_they_were_and_the_network_comes_back",
            deletion,
        ),
    ]
}

/// Deletes every pod that uses the network.
fn vacate(bed: &Bed) -> Result<()> {
    bed.scale_dns(0)?;
    let out = bed.kubectl(&[
        "get",
        "namespaces",
        "-l",
        "carrick.dev/e2e=true",
        "-o",
        "name",
    ])?;
    for namespace in out.lines() {
        bed.kubectl(&["delete", namespace, "--wait=true", "--timeout=180s"])?;
    }
    Ok(())
}

fn compare(bed: &Bed) -> Result<()> {
    for (node, before) in bed.portraits_before() {
        let mut now = String::new();
        wait::until(
            &format!("{node} to be as it was"),
            Duration::from_mins(1),
            || {
                now = portrait::take(bed, node)?;
                Ok(&now == before)
            },
        )
        .with_context(|| format!("{node} before:\n{before}\nnow:\n{now}"))?;
    }
    Ok(())
}

fn uninstall(bed: &Bed) -> Result<()> {
    vacate(bed)?;
    bed.helm(&[
        "uninstall",
        "carrick",
        "-n",
        NAMESPACE,
        "--wait",
        "--timeout",
        "4m",
    ])?;
    let left = bed.kubectl(&["get", "all,configmaps", "-n", NAMESPACE, "-o", "name"])?;
    let left: Vec<_> = left
        .lines()
        .filter(|l| !l.contains("kube-root-ca") && !l.contains("pod/"))
        .collect();
    ensure!(left.is_empty(), "left in {NAMESPACE}: {left:?}");
    compare(bed)
}

fn waits(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace("removal")?;
    let a = Pod::create(bed, &namespace, "a", bed.node_name(0))?;
    let c = Pod::create(bed, &namespace, "c", bed.node_name(1))?;
    bed.kubectl(&["delete", "networking", "default", "--wait=false"])?;
    wait::until(
        "a condition that names the pods",
        Duration::from_mins(1),
        || {
            let conditions = bed.networking()?["status"]["conditions"].to_string();
            Ok(conditions.contains("pods-lose-network"))
        },
    )?;
    for address in &c.addresses {
        a.run(bed, &pod::ping(*address))?;
    }
    Ok(())
}

fn deletion(bed: &Bed) -> Result<()> {
    let spec = bed.networking_spec()?;
    delete(bed)?;
    compare(bed)?;
    // And it comes back.
    bed.apply(&spec)?;
    bed.wait_ready(Duration::from_mins(4))?;
    bed.scale_dns(2)?;
    let namespace = bed.namespace("removal")?;
    let a = Pod::create(bed, &namespace, "a", bed.node_name(0))?;
    let c = Pod::create(bed, &namespace, "c", bed.node_name(1))?;
    for address in &c.addresses {
        a.run(bed, &pod::ping(*address))?;
    }
    Ok(())
}

/// Deletes the Networking and what uses it, and waits until both are gone.
fn delete(bed: &Bed) -> Result<()> {
    if bed.networking()?["metadata"]["deletionTimestamp"].is_null() {
        bed.kubectl(&["delete", "networking", "default", "--wait=false"])?;
    }
    vacate(bed)?;
    wait::until("the Networking to be gone", Duration::from_mins(3), || {
        let out = bed.kubectl(&["get", "networking", "--ignore-not-found", "-o", "json"])?;
        Ok(!out.contains("\"name\": \"default\""))
    })
}

/// The network made again without tunnels, and everything that pods must be able to do then.
pub fn no_encap_tests() -> Vec<Test> {
    let mut tests: Vec<Test> = vec![("the_network_is_made_again", no_encap)];
    tests.extend(connectivity::tests());
    tests
}

fn no_encap(bed: &Bed) -> Result<()> {
    delete(bed)?;
    bed.apply(&bed.networking_with(r#"{"mode":"NoEncap"}"#)?)?;
    bed.wait_ready(Duration::from_mins(4))?;
    bed.scale_dns(2)?;
    let effective = bed.networking()?["status"]["effective"]["traffic"].take();
    ensure!(
        effective["mode"] == "NoEncap" && effective["tunnel"].is_null(),
        "in effect is {effective}"
    );
    for node in bed.node_names() {
        let links = bed.node(
            &node,
            "ip -o link show type geneve; ip -o link show type vxlan",
        )?;
        ensure!(links.trim().is_empty(), "a tunnel on {node}: {links}");
    }
    Ok(())
}
