//! What a person should know of the nodes' CIDRs, and the verdict that says it.

use std::fmt;

use carrick_k8s::condition::Status;
use carrick_proto::NodeName;
use ipnet::IpNet;

use super::allocator::Family;

/// How many of a kind a message names.
const EXAMPLES: usize = 3;

/// One thing that is wrong with a node's CIDRs. The worst kind comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// No CIDR is left for the node.
    Exhausted {
        /// The node.
        node: NodeName,
        /// What it lacks.
        family: Family,
        /// The cluster CIDRs that are used up, and the size of a node's.
        pools: Vec<(IpNet, u8)>,
    },
    /// Its CIDR overlaps that of a node that was registered earlier.
    Overlap {
        /// The node.
        node: NodeName,
        /// Its CIDR.
        cidr: IpNet,
        /// The earlier node.
        other: NodeName,
        /// That node's CIDR.
        held: IpNet,
    },
    /// Its CIDR is no CIDR.
    Malformed {
        /// The node.
        node: NodeName,
        /// What is written there.
        text: String,
    },
    /// Its CIDR is not in the cluster CIDRs.
    Outside {
        /// The node.
        node: NodeName,
        /// Its CIDR.
        cidr: IpNet,
    },
}

impl Finding {
    /// The reason of the condition and the event, one word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Exhausted { .. } => "CIDRNotAvailable",
            Self::Overlap { .. } => "CIDROverlap",
            Self::Malformed { .. } => "CIDRMalformed",
            Self::Outside { .. } => "CIDROutsideCluster",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted {
                node,
                family,
                pools,
            } => {
                let pools: Vec<String> = pools
                    .iter()
                    .map(|(cidr, mask)| format!("{cidr} (cut into /{mask})"))
                    .collect();
                write!(
                    f,
                    "node {node} gets no pod CIDR: no {family} CIDR is left in {}; add an {family} CIDR to \
                     spec.ipam.nodeIPAM.clusterCIDRs of the Networking, or delete Node objects of machines that \
                     are gone",
                    pools.join(", ")
                )
            }
            Self::Overlap {
                node,
                cidr,
                other,
                held,
            } => write!(
                f,
                "the pod CIDR {cidr} of node {node} overlaps {held} of node {other}, which was registered earlier: \
                 make sure that nothing else allocates (kube-controller-manager: --allocate-node-cidrs=false), \
                 delete the Node object {node} and let its kubelet register it again"
            ),
            Self::Malformed { node, text } => write!(
                f,
                "the pod CIDR {text:?} of node {node} is no CIDR without host bits: delete the Node object {node} \
                 and let its kubelet register it again"
            ),
            Self::Outside { node, cidr } => write!(
                f,
                "the pod CIDR {cidr} of node {node} is outside the cluster CIDRs, so somebody else allocates too: run \
                 kube-controller-manager with --allocate-node-cidrs=false, delete the Node object {node} and let \
                 its kubelet register it again; or add a range that holds {cidr} to \
                 spec.ipam.nodeIPAM.clusterCIDRs"
            ),
        }
    }
}

/// What the condition `NodeCIDRsAllocated` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether all is well.
    pub status: Status,
    /// One word.
    pub reason: &'static str,
    /// Sentences for a person, each with what mends it.
    pub message: String,
}

/// The verdict on what was found, and on what failed last if it was not done since.
#[must_use]
pub fn verdict(findings: &[Finding], failure: Option<&str>) -> Verdict {
    let mut sentences: Vec<String> = findings
        .chunk_by(|a, b| a.reason() == b.reason())
        .map(|kind| {
            let mut text = kind
                .iter()
                .take(EXAMPLES)
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(". ");
            if kind.len() > EXAMPLES {
                text = format!("{text}. So it is with {} more", kind.len() - EXAMPLES);
            }
            text
        })
        .collect();
    sentences.extend(failure.map(ToOwned::to_owned));
    let reason = match (findings.first(), failure) {
        (Some(worst), _) => worst.reason(),
        (None, Some(_)) => "RequestsFailing",
        (None, None) => {
            return Verdict {
                status: Status::True,
                reason: "Allocated",
                message: String::new(),
            };
        }
    };
    Verdict {
        status: Status::False,
        reason,
        message: format!("{}.", sentences.join(". ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    #[test]
    fn the_worst_gives_the_reason_and_each_names_its_mend() {
        let outside = |name: &str| Finding::Outside {
            node: node(name),
            cidr: "10.9.0.0/24".parse().unwrap(),
        };
        let full = Finding::Exhausted {
            node: node("z"),
            family: Family::V4,
            pools: vec![("10.0.0.0/24".parse().unwrap(), 24)],
        };
        let mut found = vec![outside("a"), outside("b"), outside("c"), outside("d"), full];
        found.sort();
        let verdict = verdict(&found, Some("the API server does not answer"));
        assert_eq!(
            (verdict.status, verdict.reason),
            (Status::False, "CIDRNotAvailable")
        );
        for part in [
            "node z gets no pod CIDR: no IPv4 CIDR is left in 10.0.0.0/24 (cut into /24)",
            "spec.ipam.nodeIPAM.clusterCIDRs",
            "--allocate-node-cidrs=false",
            "with 1 more",
            "the API server does not answer.",
        ] {
            assert!(
                verdict.message.contains(part),
                "{part}: {}",
                verdict.message
            );
        }
    }

    #[test]
    fn nothing_found_is_well_and_a_failure_is_not() {
        assert_eq!(verdict(&[], None).status, Status::True);
        assert_eq!(verdict(&[], Some("x")).reason, "RequestsFailing");
    }
}
