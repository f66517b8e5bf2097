//! How long an agent that is started again takes until it has reconciled a switch with many flows.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use carrick_testkit::figure::{Goal, figure};
use serde_json::Value;

use crate::lab::controller::{node_record, route_record_named};
use crate::lab::wait;
use crate::node::{Measured, Programs};

/// Flows that the switch has at least.
const FLOWS: usize = 10_000;
/// Nodes of the cluster: each is two flows of the others.
const NODES: usize = FLOWS / 2;
/// How often the agent is killed.
const ROUNDS: usize = 5;
/// How often it is asked.
const POLL: Duration = Duration::from_millis(5);

/// Measures it.
pub async fn figures(programs: &Programs) -> Vec<Value> {
    let mut node = Measured::start(programs).await;
    let own = ["10.20.0.0/20", "fd00:20::/64"];
    let mut records = vec![node_record(1, &own)];
    records.extend((0..NODES).map(route));
    let number = node.controller.send("node1", records, vec![]);
    tokio::task::spawn_blocking(move || {
        wait("the routes to be programmed", || {
            node.controller.acknowledged("node1") >= number
        });
        measure(&mut node)
    })
    .await
    .unwrap()
}

/// The record of one of the other nodes.
fn route(place: usize) -> carrick_proto::Entry {
    let (high, low) = (place / 250, place % 250);
    let cidrs = [
        format!("10.{}.{low}.0/24", 100 + high),
        format!("fd00:{:x}:{low:x}::/64", 0x100 + high),
    ];
    route_record_named(
        &format!("peer{place}"),
        &cidrs,
        &[format!("172.31.{}.{}", 100 + high, 1 + low)],
    )
}

fn measure(node: &mut Measured) -> Vec<Value> {
    let lab = &mut node.lab;
    let before = lab.flows();
    assert!(before.len() >= FLOWS, "{} flows", before.len());
    let mut commits = 0;
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            lab.kill_agent();
            let begun = Instant::now();
            lab.start_agent();
            while lab.api("/readyz").is_none_or(|(status, _)| status != 200) {
                assert!(begun.elapsed() < crate::lab::LIMIT, "{}", lab.log());
                std::thread::sleep(POLL);
            }
            let time = begun.elapsed().as_secs_f64();
            commits += lab.log().matches("programmed changes=").count();
            time
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let flows = |all: Vec<String>| all.into_iter().collect::<BTreeSet<_>>();
    let changed = flows(before)
        .symmetric_difference(&flows(lab.flows()))
        .count();
    vec![
        figure(
            &format!(
                "restart of the agent until it has reconciled {FLOWS} flows, slowest of {ROUNDS}"
            ),
            "s",
            times[ROUNDS - 1],
            None,
            Goal::OursAtMost(1.0),
        ),
        figure(
            "flows that those restarts changed, and commits that changed any",
            "each",
            f64::from(u32::try_from(changed + commits).unwrap()),
            None,
            Goal::OursAtMost(0.0),
        ),
    ]
}
