//! Many pods, and nothing left of them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carrick_e2e::bed::Bed;
use carrick_e2e::crowd::Crowd;
use carrick_e2e::pod;
use carrick_e2e::wait;
use serde_json::json;

use crate::Test;

/// Creations and deletions in `nothing_is_left_of_200_pods`, in rounds that a node carries at once.
const ROUNDS: usize = 4;
const PODS_A_ROUND: usize = 50;
/// How long a crowd may take to come, and to go.
const COMING: Duration = Duration::from_mins(7);
const GOING: Duration = Duration::from_mins(5);

pub fn tests() -> Vec<Test> {
    vec![
        ("a_hundred_pods_on_one_node_come_and_leave_nothing", hundred),
        ("host_ports_reach_their_pod_and_go_with_it", host_port),
    ]
}

pub fn many_pods_tests() -> Vec<Test> {
    vec![("nothing_is_left_of_200_pods", two_hundred)]
}

/// What a node holds for pods: flows, ports, links, namespaces, addresses in use.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    flows: usize,
    ports: usize,
    links: usize,
    namespaces: usize,
    attachments: usize,
}

fn held(bed: &Bed, node: &str) -> Result<Held> {
    let count = |script: &str| -> Result<usize> {
        let out = bed.node(node, script)?;
        out.trim()
            .parse()
            .with_context(|| format!("{script} printed {out:?}"))
    };
    Ok(Held {
        flows: count(
            "ovs-ofctl -O OpenFlow15 dump-flows unix:/run/carrick/openvswitch/br-int.mgmt | grep -c priority= || true",
        )?,
        ports: count(
            "ovs-vsctl --db=unix:/run/carrick/openvswitch/db.sock list-ports br-int | grep -c ^car | cat",
        )?,
        links: count("ip -o link show | grep -c ' car[0-9a-f]\\{12\\}' | cat")?,
        namespaces: count("ls /run/netns | grep -c cni- | cat")?,
        attachments: bed.agent_json(node, "/v1/attachments")?["attachments"]
            .as_array()
            .map_or(0, Vec::len),
    })
}

fn hundred(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace("addresses")?;
    let node = bed.node_name(0);
    let before = settled(bed, node)?;
    let crowd = Crowd {
        bed,
        namespace: &namespace,
        name: "hundred",
    };
    crowd.start(node, 100, COMING)?;
    let mut addresses: Vec<String> = bed
        .list(&["pods", "-n", &namespace, "-l", "app=hundred"])?
        .iter()
        .filter_map(|pod| pod["status"]["podIPs"].as_array())
        .flatten()
        .filter_map(|ip| ip["ip"].as_str().map(str::to_owned))
        .collect();
    let all = addresses.len();
    addresses.sort();
    addresses.dedup();
    ensure!(all == addresses.len(), "an address was given twice");
    ensure!(all >= 100, "{all} addresses for 100 pods");
    let probe = pod::Pod::create(bed, &namespace, "probe", bed.node_name(1))?;
    let list = addresses.join(" ");
    probe.run(
        bed,
        &format!("for a in {list}; do ping -n -c 1 -W 2 $a || exit 1; done"),
    )?;
    crowd.end(GOING)?;
    probe.delete(bed)?;
    nothing_left(bed, node, &before)
}

fn two_hundred(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace("addresses")?;
    let node = bed.last_node();
    let before = settled(bed, node)?;
    for round in 0..ROUNDS {
        let crowd = Crowd {
            bed,
            namespace: &namespace,
            name: &format!("round-{round}"),
        };
        crowd.start(node, PODS_A_ROUND, COMING)?;
        crowd.end(GOING)?;
    }
    nothing_left(bed, node, &before)
}

/// Waits until a node holds what it held before.
fn nothing_left(bed: &Bed, node: &str, before: &Held) -> Result<()> {
    let mut last = None;
    wait::until(
        "the node to hold what it held before",
        Duration::from_mins(2),
        || {
            let now = held(bed, node)?;
            let same = now == *before;
            last = Some(now);
            Ok(same)
        },
    )
    .with_context(|| format!("before {before:?}, now {last:?}"))
}

/// What the node holds once two looks in a row agree.
fn settled(bed: &Bed, node: &str) -> Result<Held> {
    let mut previous = held(bed, node)?;
    wait::until("the node to settle", Duration::from_mins(1), || {
        let now = held(bed, node)?;
        let same = now == previous;
        previous = now;
        Ok(same)
    })?;
    Ok(previous)
}

fn host_port(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace("addresses")?;
    let node = bed.node_name(0);
    let mut manifest = pod::manifest(bed, &namespace, "host-port", node);
    manifest["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": pod::TCP_PORT, "hostPort": 18080, "protocol": "TCP"}]);
    bed.apply(&manifest)?;
    let target = pod::Pod::running(bed, &namespace, "host-port")?;
    let far = pod::Pod::create(bed, &namespace, "far", bed.node_name(1))?;
    for address in bed.node_addresses(node)? {
        let request = format!(
            "curl -sS --fail --noproxy '*' --max-time 5 http://{}:18080/hostname",
            pod::bracket(address)
        );
        for answer in [
            bed.node(bed.node_name(1), &request)?,
            far.run(bed, &request)?,
            bed.node(node, &request)?,
        ] {
            ensure!(answer.trim() == "host-port", "{answer:?} answered");
        }
    }
    target.delete(bed)?;
    let address = bed.node_addresses(node)?[0];
    wait::until("the host port to close", Duration::from_secs(30), || {
        let request = format!(
            "curl -sS --noproxy '*' --max-time 2 http://{}:18080/hostname",
            pod::bracket(address)
        );
        Ok(bed.node(bed.node_name(1), &request).is_err())
    })?;
    far.delete(bed)
}
