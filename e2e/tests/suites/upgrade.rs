//! From the release that landed before to the one under test, and back, while traffic flows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carrick_e2e::bed::{Bed, NAMESPACE, Release};
use carrick_e2e::chaos::check::allowed;
use carrick_e2e::chaos::event::Way;
use carrick_e2e::chaos::expect::{Allowance, SWITCH_START, TUNNEL_START};
use carrick_e2e::rollout::{ROLLOUT, follow, image_of, is_ready, operands};
use carrick_e2e::traffic::Traffic;
use carrick_e2e::wait;
use carrick_testbed::{NodeKind, Progress};

use crate::Test;

/// On a cluster where the previous release is installed.
pub fn tests() -> Vec<Test> {
    vec![(
        "from_the_previous_release_and_back_while_traffic_flows",
        from_previous_and_back,
    )]
}

/// On a cluster where the release under test is installed, on the kernel datapath.
pub fn kernel_tests() -> Vec<Test> {
    vec![(
        "to_the_previous_release_and_back_while_traffic_flows",
        to_previous_and_back,
    )]
}

/// What a way may lose while every switch of a bed starts anew once. Agents, controllers and operators start
/// anew as well, and that costs nothing.
fn allowance(bed: &Bed, way: Way) -> Allowance {
    match (bed.kind(), way) {
        // It forwards in ovs-vswitchd itself, and remembers connections there.
        (NodeKind::Namespace, _) => Allowance::Break(SWITCH_START),
        (NodeKind::Kernel, Way::Across(..)) => Allowance::Gap(TUNNEL_START),
        (NodeKind::Kernel, Way::Within(_)) => Allowance::Gap(Duration::ZERO),
    }
}

/// Does something under traffic, and says what that has lost.
fn under_traffic(bed: &Bed, what: &str, go: impl FnOnce() -> Result<()>) -> Result<()> {
    let traffic = Traffic::start(bed, "upgrade")?;
    let before = traffic.look()?;
    go()?;
    traffic.wait_flowing(Duration::from_mins(1))?;
    for (way, loss) in traffic.losses(&before)? {
        Progress::stderr().say(format!(
            "{what}, {way}: {} pings lost, longest gap {} ms, {} streams broken, {} connections failed",
            loss.pings,
            loss.gap.as_millis(),
            loss.streams,
            loss.connections
        ));
        allowed(&loss, way, allowance(bed, way), u64::MAX).with_context(|| what.to_owned())?;
    }
    traffic.stop()
}

/// Upgrades from the previous release and waits until everything runs what is under test.
fn forward(bed: &Bed) -> Result<()> {
    under_traffic(bed, "from the previous release", || {
        bed.upgrade_to(Release::Current)?;
        follow(bed, bed.tag(Release::Current, "carrick")?)?;
        settled(bed, Release::Current)
    })
}

/// Goes back to the previous release. How it restarts its parts is its own affair; that they all come
/// back and traffic goes on is ours.
fn backward(bed: &Bed, go: impl FnOnce() -> Result<()>) -> Result<()> {
    under_traffic(bed, "to the previous release", || {
        go()?;
        settled(bed, Release::Previous)
    })
}

fn settled(bed: &Bed, release: Release) -> Result<()> {
    let nodes = bed.node_names().len();
    for (component, image) in [
        ("operator", "carrick"),
        ("controller", "carrick"),
        ("agent", "carrick"),
        ("ovs", "carrickOvs"),
    ] {
        let end = format!(":{}", bed.tag(release, image)?);
        let what = format!("every {component} of the {release:?} release");
        wait::until(&what, ROLLOUT, || {
            let pods = operands(bed, component)?;
            let state: Vec<_> = pods
                .iter()
                .map(|(name, pod)| format!("{name}: {} ready={}", image_of(pod), is_ready(pod)))
                .collect();
            let there = pods
                .values()
                .all(|pod| is_ready(pod) && image_of(pod).ends_with(&end));
            let enough = match component {
                "agent" | "ovs" => pods.len() == nodes,
                _ => !pods.is_empty(),
            };
            ensure!(there && enough, "{state:?}");
            Ok(true)
        })?;
    }
    bed.wait_ready(Duration::from_mins(2))
}

fn from_previous_and_back(bed: &Bed) -> Result<()> {
    let before = service_proxy_mode(bed)?;
    forward(bed)?;
    let after = service_proxy_mode(bed)?;
    ensure!(before == after, "the default became {after}, not {before}");
    backward(bed, || {
        bed.helm(&["rollback", "carrick", "-n", NAMESPACE])
            .map(drop)
    })
}

/// The mode in effect where the Networking names none: an upgrade takes no kube-proxy over.
fn service_proxy_mode(bed: &Bed) -> Result<String> {
    let networking = bed.networking()?;
    ensure!(networking["spec"]["serviceProxy"].is_null());
    let mode = networking["status"]["effective"]["serviceProxy"]["mode"].as_str();
    Ok(mode.context("no mode is in effect")?.to_owned())
}

fn to_previous_and_back(bed: &Bed) -> Result<()> {
    backward(bed, || bed.upgrade_to(Release::Previous))?;
    forward(bed)
}
