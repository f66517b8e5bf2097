//! Clusters that tests share.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Result, anyhow};
use carrick_testbed::{ClusterDns, NodeKind, PodCidrs, Progress};

use crate::bed::{Bed, BedSpec, IpFamily, Past};

/// The clusters there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fixture {
    /// Three nodes, IPv4 and IPv6, a /20 of addresses per node, Geneve.
    Dual,
    /// Two nodes, IPv4 only, VXLAN.
    V4,
    /// Two nodes, IPv6 only, Hybrid; Carrick allocates their pod CIDRs.
    V6,
    /// Two nodes, IPv4 and IPv6, with what landed before.
    Previous,
    /// Two nodes with kernels of their own, IPv4 and IPv6, Geneve: the kernel datapath.
    Kernel,
    /// A node in a namespace and one with a kernel of its own: a datapath of each kind.
    Mixed,
}

impl Fixture {
    fn spec(self) -> BedSpec {
        let plain = BedSpec::new("e2e-dual");
        match self {
            Self::Dual => BedSpec { nodes: 3, ..plain },
            Self::V4 => BedSpec {
                name: "e2e-v4",
                family: IpFamily::V4,
                mask: 24,
                traffic: r#"{"tunnel":{"protocol":"VXLAN"}}"#,
                ..plain
            },
            Self::V6 => BedSpec {
                name: "e2e-v6",
                family: IpFamily::V6,
                pod_cidrs: PodCidrs::Nobody,
                traffic: r#"{"mode":"Hybrid"}"#,
                more: NODE_IPAM,
                ..plain
            },
            Self::Previous => BedSpec {
                name: "e2e-previous",
                previous: Past::Installed,
                // Nobody serves its cluster IP there.
                dns: ClusterDns::None,
                ..plain
            },
            Self::Kernel => BedSpec {
                name: "e2e-kernel",
                kind: NodeKind::Kernel,
                previous: Past::Available,
                ..plain
            },
            Self::Mixed => BedSpec {
                name: "e2e-mixed",
                kernel_nodes: 1,
                more: KERNEL_POOL,
                ..plain
            },
        }
    }
}

/// Each range holds the CIDR of one node: the second node's is of the second.
const NODE_IPAM: &str = r#"{"ipam": {"mode": "NodeIPAM", "nodeIPAM": {
    "clusterCIDRs": ["fd00:10:128::/64", "fd00:10:200::/64"]}}}"#;

/// Nodes with a kernel of their own have the kernel datapath.
const KERNEL_POOL: &str = r#"{"nodeConfigs": [{"name": "kernel", "datapath": {"type": "Kernel"},
    "nodeSelector": {"matchLabels": {"e2e.carrick.dev/kind": "kernel"}}}]}"#;

/// The clusters started so far. One runs at a time: two cores do not carry more.
pub struct Fixtures {
    /// Since the first test: where the time goes.
    progress: Progress,
    beds: Mutex<BTreeMap<Fixture, Result<Bed, String>>>,
}

impl Default for Fixtures {
    /// No cluster yet.
    fn default() -> Self {
        Self {
            progress: Progress::stderr(),
            beds: Mutex::default(),
        }
    }
}

impl Fixtures {
    /// Runs one test on its cluster; on failure tells where the logs are and what they end with.
    pub fn run(
        &self,
        fixture: Fixture,
        name: &str,
        test: fn(&Bed) -> Result<()>,
    ) -> Result<(), String> {
        let mut beds = self
            .beds
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if !beds.contains_key(&fixture) {
            for (_, bed) in std::mem::take(&mut *beds) {
                if let Ok(bed) = bed {
                    bed.down().map_err(|error| format!("{error:#}"))?;
                }
            }
            beds.insert(
                fixture,
                Bed::up(&fixture.spec()).map_err(|error| format!("{error:#}")),
            );
        }
        let bed = match beds.get(&fixture) {
            Some(Ok(bed)) => bed,
            Some(Err(error)) => return Err(format!("cluster {fixture:?} did not start: {error}")),
            None => return Err(format!("cluster {fixture:?} is gone")),
        };
        let begun = Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(bed)))
            .unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Err(anyhow!("panicked: {}", text.unwrap_or("no message")))
            });
        self.progress
            .say(format!("{name}: {:.1} s", begun.elapsed().as_secs_f64()));
        result.map_err(|error| format!("{error:#}\n\n{}", bed.report(name)))
    }

    /// Removes what is left; false when something could not be removed.
    pub fn down(&self) -> bool {
        let beds = std::mem::take(
            &mut *self
                .beds
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        let mut clean = true;
        for (fixture, bed) in beds {
            if let Ok(bed) = bed
                && let Err(error) = bed.down()
            {
                Progress::stderr().say(format!(
                    "cluster {fixture:?} could not be removed: {error:#}"
                ));
                clean = false;
            }
        }
        clean
    }
}
