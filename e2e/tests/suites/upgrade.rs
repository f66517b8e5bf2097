//! From the release that landed before to the one under test, and back, while traffic flows.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carrick_e2e::bed::{Bed, Release};
use carrick_e2e::pod::{Pod, talk};
use carrick_e2e::prober::Prober;
use carrick_e2e::wait;

use super::rollout::{ROLLOUT, follow, image_of, is_ready, operands};
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

/// Pings of ten a second that may be lost to one address when all of a bed's switches start anew, once
/// each.
#[derive(Debug, Clone, Copy)]
struct Gap {
    /// Between pods of one node.
    within: u64,
    /// Between pods of two nodes.
    across: u64,
}

/// The userspace datapath forwards in ovs-vswitchd itself: nothing passes while it is away.
const USERSPACE: Gap = Gap {
    within: 80,
    across: 160,
};

/// The kernel's goes on; only the tunnel's device is made anew (docs/adr/0003).
const KERNEL: Gap = Gap {
    within: 0,
    across: 10,
};

/// Pods that talk all the time.
struct Traffic<'a> {
    bed: &'a Bed,
    pods: [Pod; 3],
    within: Prober<'a>,
    across: [Prober<'a>; 2],
}

impl<'a> Traffic<'a> {
    fn start(bed: &'a Bed) -> Result<Self> {
        let namespace = bed.namespace("upgrade")?;
        let a = Pod::create(bed, &namespace, "a", bed.node_name(0))?;
        let b = Pod::create(bed, &namespace, "b", bed.node_name(0))?;
        let c = Pod::create(bed, &namespace, "c", bed.node_name(1))?;
        talk(bed, &a, &b)?;
        talk(bed, &a, &c)?;
        Ok(Self {
            bed,
            within: bed.prober(&a, &b)?,
            across: [bed.prober(&a, &c)?, bed.prober(&c, &a)?],
            pods: [a, b, c],
        })
    }

    fn lost_at_most(self, gap: Gap) -> Result<()> {
        let [a, b, c] = &self.pods;
        talk(self.bed, a, b)?;
        talk(self.bed, a, c)?;
        let within = self.within.lost_at_most(gap.within);
        within.context("within a node")?;
        for prober in self.across {
            let kept = prober.lost_at_most(gap.across);
            kept.context("across nodes")?;
        }
        Ok(())
    }
}

/// Upgrades from the previous release and waits until everything runs what is under test.
fn forward(bed: &Bed, gap: Gap) -> Result<()> {
    let traffic = Traffic::start(bed)?;
    bed.upgrade_to(Release::Current)?;
    follow(bed, bed.tag(Release::Current, "carrick")?)?;
    settled(bed, Release::Current)?;
    traffic
        .lost_at_most(gap)
        .context("from the previous release")
}

/// Goes back to the previous release. How it restarts its parts is its own affair; that they all come
/// back and traffic goes on is ours.
fn backward(bed: &Bed, gap: Gap, go: impl FnOnce() -> Result<()>) -> Result<()> {
    let traffic = Traffic::start(bed)?;
    go()?;
    settled(bed, Release::Previous)?;
    traffic.lost_at_most(gap).context("to the previous release")
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

/// Deletes what a suite made; a pod made by one release is deleted by another.
fn vacate(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace("upgrade")?;
    bed.kubectl(&["delete", "namespace", &namespace, "--wait=true"])
        .map(drop)
}

fn from_previous_and_back(bed: &Bed) -> Result<()> {
    forward(bed, USERSPACE)?;
    vacate(bed)?;
    backward(bed, USERSPACE, || {
        let arguments = ["rollback", "carrick", "-n", carrick_e2e::bed::NAMESPACE];
        bed.helm(&arguments).map(drop)
    })?;
    vacate(bed)
}

fn to_previous_and_back(bed: &Bed) -> Result<()> {
    backward(bed, KERNEL, || bed.upgrade_to(Release::Previous))?;
    vacate(bed)?;
    forward(bed, KERNEL)?;
    vacate(bed)
}
