//! What a user sees of a whole cluster: how long it takes until its network is Ready, and what is lost when
//! parts of that are started again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use carrick_e2e::bed::{Bed, BedSpec};
use carrick_e2e::chaos::act::{act, wait_pods};
use carrick_e2e::chaos::event::{Event, Part, Strike};
use carrick_e2e::rollout;
use carrick_e2e::traffic::{FlowKey, Status, Traffic};
use carrick_testbed::{NodeKind, Progress};
use carrick_testkit::figure::{Goal, figure};
use serde_json::Value;

/// Nodes of a cluster.
const NODES: usize = 3;
/// Until everything gets through again.
const RECOVERY: Duration = Duration::from_mins(2);

/// Measures on clusters of both kinds of node.
pub fn figures(progress: &Progress) -> Result<Vec<Value>> {
    let mut figures = on(NodeKind::Namespace, progress)?;
    figures.extend(on(NodeKind::Kernel, progress)?);
    Ok(figures)
}

fn on(kind: NodeKind, progress: &Progress) -> Result<Vec<Value>> {
    let bed = Bed::up(&BedSpec {
        nodes: NODES,
        kind,
        ..BedSpec::new("bench")
    })?;
    let measured = measure(&bed, progress).with_context(|| bed.report("bench"));
    // What failed first is told first.
    let down = bed.down();
    let figures = measured?;
    down.map(|()| figures)
}

fn measure(bed: &Bed, progress: &Progress) -> Result<Vec<Value>> {
    let nodes = match bed.kind() {
        NodeKind::Namespace => "namespace nodes, userspace datapath",
        NodeKind::Kernel => "nodes with kernels of their own, kernel datapath",
    };
    // A kernel of its own has one processor, on which a system call costs microseconds.
    let goal = match bed.kind() {
        NodeKind::Namespace => Goal::OursAtMost(60.0),
        NodeKind::Kernel => Goal::None,
    };
    let name = format!("helm install to Ready, images present, {NODES} {nodes}");
    let mut figures = vec![figure(
        &name,
        "s",
        bed.installed_in().as_secs_f64(),
        None,
        goal,
    )];
    let mut traffic = Traffic::start(bed, "bench")?;
    for (what, parts) in [
        ("agents", (0..NODES).map(Part::Agent).collect::<Vec<_>>()),
        (
            "controllers",
            vec![Part::ControllerStandby, Part::ControllerLeader],
        ),
        ("operator", vec![Part::Operator]),
    ] {
        progress.say(format!("killing the {what}"));
        let before = traffic.look()?;
        for part in parts {
            act(bed, &mut traffic, Event::Strike(Strike::Kill(part)))?;
            wait_pods(bed, RECOVERY)?;
        }
        let name = format!("kill -9 of the {what}, {nodes}");
        figures.extend(lost(bed, &traffic, &before, &name)?);
    }
    progress.say("a new image, node by node");
    let before = traffic.look()?;
    let next = rollout::next_tag(bed)?;
    rollout::upgrade(bed, "carrick", &next)?;
    rollout::follow(bed, &next)?;
    let name = format!("upgrade of agents, controllers and operator, {nodes}");
    figures.extend(lost(bed, &traffic, &before, &name)?);
    traffic.stop()?;
    Ok(figures)
}

/// What was lost since `before`: on the kernel datapath nothing may be.
fn lost(
    bed: &Bed,
    traffic: &Traffic<'_>,
    before: &BTreeMap<FlowKey, Status>,
    name: &str,
) -> Result<Vec<Value>> {
    traffic.wait_flowing(RECOVERY)?;
    let losses = traffic.losses(before)?;
    let goal = match bed.kind() {
        NodeKind::Namespace => Goal::None,
        NodeKind::Kernel => Goal::OursAtMost(0.0),
    };
    let count = |number: u64| -> Result<f64> { Ok(f64::from(u32::try_from(number)?)) };
    let pings = losses.values().map(|loss| loss.pings).sum();
    let streams = losses.values().map(|loss| loss.streams).sum();
    Ok(vec![
        figure(
            &format!("10 ms pings lost by {name}"),
            "each",
            count(pings)?,
            None,
            goal,
        ),
        figure(
            &format!("streams broken by {name}"),
            "each",
            count(streams)?,
            None,
            goal,
        ),
    ])
}
