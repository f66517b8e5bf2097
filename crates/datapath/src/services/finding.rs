//! What is not as somebody asked for, as data for conditions and events.

use std::fmt;

use super::claim::{Claim, FrontendKind, Place};
use super::input::ServiceName;
use crate::tunnel::IpFamily;

/// The longest affinity: OpenFlow's timeouts have 16 bits (OpenFlow 1.5.1 §7.3.4.2). The API allows
/// 86,400 s.
pub(super) const MAX_AFFINITY_SECONDS: u16 = u16::MAX;

/// Something about a Service that its owner should know. `Display` is a sentence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Another Service has the address and keeps it.
    Claimed {
        /// What both claim.
        claim: Claim,
        /// As what this Service claims it.
        kind: FrontendKind,
        /// The other.
        by: ServiceName,
    },
    /// The userspace datapath cannot serve SCTP.
    NoSctp {
        /// The Service's port.
        port: u16,
    },
    /// The affinity lasts shorter than asked for.
    AffinityCapped {
        /// What was asked for.
        seconds: u32,
    },
    /// The source of clients cannot be kept: the only endpoints on this node are on the host's network,
    /// and what the switch hands back to the host has another source.
    SourceNotKept {
        /// The Service's port.
        port: u16,
    },
}

impl Finding {
    /// A name for conditions and events, in their form.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Claimed { .. } => "AddressClaimedByAnotherService",
            Self::NoSctp { .. } => "SCTPNotSupportedByDatapath",
            Self::AffinityCapped { .. } => "SessionAffinityTimeoutCapped",
            Self::SourceNotKept { .. } => "ClientSourceNotKept",
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = self.protocol.name();
        let port = self.port;
        match self.place {
            Place::Address(address) => write!(f, "{protocol} port {port} of {address}"),
            Place::Node(IpFamily::V4) => write!(f, "{protocol} port {port} of every node (IPv4)"),
            Place::Node(IpFamily::V6) => write!(f, "{protocol} port {port} of every node (IPv6)"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claimed { claim, by, .. } => {
                write!(
                    f,
                    "{claim} belongs to Service {by} already and is not served for this one"
                )
            }
            Self::NoSctp { port } => write!(
                f,
                "port {port} is not served: the userspace datapath tracks no ports of SCTP; run the \
                 kernel datapath"
            ),
            Self::AffinityCapped { seconds } => write!(
                f,
                "clients stay with their endpoint for {MAX_AFFINITY_SECONDS} s, not for {seconds} s: \
                 timeouts of the switch have 16 bits"
            ),
            Self::SourceNotKept { port } => write!(
                f,
                "externalTrafficPolicy is Local, but the endpoint of port {port} on this node is on the \
                 host's network and sees a virtual source address: run it in a pod with an address of \
                 its own"
            ),
        }
    }
}
