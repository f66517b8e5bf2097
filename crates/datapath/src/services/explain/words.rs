//! The words of an explanation, and its names for programs.

use std::fmt;

use super::{OtherProxy, Outcome, Path, PolicyBy, SourceSeen};
use crate::services::input::ServicePort;

/// Ports that a sentence names.
const NAMED: usize = 10;

/// Ports of a Service in a sentence.
pub(super) fn ports(ports: &[ServicePort]) -> String {
    let mut words: Vec<String> = ports
        .iter()
        .take(NAMED)
        .map(
            |port| match (&*port.name, port.port, port.protocol.name()) {
                ("", number, protocol) => format!("{number}/{protocol}"),
                (name, number, protocol) => format!("{number}/{protocol} ({name})"),
            },
        )
        .collect();
    match ports.len() {
        0 => words.push("no port that can be served".to_owned()),
        count if count > NAMED => words.push(format!("and {} more", count - NAMED)),
        _ => {}
    }
    words.join(", ")
}

impl Path {
    /// A name for programs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Switch => "Switch",
            Self::HostRoutes => "HostRoutes",
            Self::HostTranslates(_) => "HostTranslates",
            Self::OtherProxy(_) => "OtherProxy",
            Self::Claimed => "AddressClaimedByAnotherService",
            Self::NoSctp => "SCTPNotSupportedByDatapath",
            Self::NoService => "NoService",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => f.write_str("the switch of the pod's node translates the packet"),
            Self::HostRoutes => f.write_str(
                "the host routes the packet to its gateway as it is, and the switch translates it",
            ),
            Self::HostTranslates(to) => write!(
                f,
                "the host's nftables sets turn the address into {to}, which is routed to the gateway, and the \
                 switch translates that"
            ),
            Self::OtherProxy(why) => write!(f, "left to another proxy: {why}"),
            Self::Claimed => f.write_str("another Service has the address and port"),
            Self::NoSctp => f.write_str("the userspace datapath does not serve SCTP"),
            Self::NoService => f.write_str("no Service has this address and port"),
        }
    }
}

impl fmt::Display for OtherProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "spec.serviceProxy.mode is Disabled",
            Self::ClusterIpsOnly => {
                "spec.serviceProxy.mode is ClusterIP, which serves cluster IPs for pods alone"
            }
            Self::Skipped => "spec.serviceProxy.skipServices names this Service",
            Self::Label => "the Service has the label service.kubernetes.io/service-proxy-name",
        })
    }
}

impl PolicyBy {
    /// A name for programs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Internal(_) => "InternalTrafficPolicy",
            Self::External(_) => "ExternalTrafficPolicy",
            Self::WithinCluster => "ClientWithinCluster",
        }
    }
}

impl fmt::Display for PolicyBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Internal(_) => "the Service's internalTrafficPolicy",
            Self::External(_) => "the Service's externalTrafficPolicy",
            Self::WithinCluster => {
                "externalTrafficPolicy is Local, but clients within the cluster meet policy Cluster"
            }
        })
    }
}

impl Outcome {
    /// A name for programs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Answered => "Answered",
            Self::AnsweredInRanges => "AnsweredInSourceRanges",
            Self::Rejected => "Rejected",
            Self::PassedNoEndpoint => "PassedNoEndpoint",
            Self::DroppedNoLocalEndpoint => "DroppedNoLocalEndpoint",
            Self::DroppedSourceRefused => "DroppedSourceRefused",
            Self::DroppedNoEndpoint => "DroppedNoEndpoint",
            Self::NotServed => "NotServed",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered => "one of the endpoints answers",
            Self::AnsweredInRanges => {
                "one of the endpoints answers, if loadBalancerSourceRanges hold the client's address; name it to know"
            }
            Self::Rejected => "rejected by RST or ICMP: no endpoint takes traffic",
            Self::PassedNoEndpoint => {
                "no endpoint takes traffic: left to the other proxy, which rejects it"
            }
            Self::DroppedNoLocalEndpoint => {
                "dropped: policy Local, and no endpoint of this node takes traffic"
            }
            Self::DroppedSourceRefused => {
                "dropped: loadBalancerSourceRanges do not hold the client's address"
            }
            Self::DroppedNoEndpoint => {
                "dropped: no endpoint takes traffic, and with loadBalancerSourceRanges pods' packets are not rejected"
            }
            Self::NotServed => "not served by Carrick",
        })
    }
}

impl SourceSeen {
    /// A name for programs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::OwnOfPod | Self::OwnByLocalPolicy | Self::OwnAtClusterIp => "Client",
            Self::GatewayOfHost | Self::GatewayOfNode | Self::GatewayByClusterPolicy => "Gateway",
            Self::Virtual => "Virtual",
        }
    }
}

impl fmt::Display for SourceSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnOfPod => "the client's own: the switch keeps a pod's source",
            Self::OwnByLocalPolicy => "the client's own: policy Local keeps it",
            Self::OwnAtClusterIp => {
                "the client's own: packets to cluster IPs are routed as they are"
            }
            Self::GatewayOfHost => "the gateway's of this node: the host's packets leave by it",
            Self::GatewayOfNode => {
                "the gateway's of this node: packets to the node's addresses come from the host"
            }
            Self::GatewayByClusterPolicy => {
                "the gateway's of this node: with policy Cluster answers come back through it"
            }
            Self::Virtual => "a virtual one: the endpoints of this node are on the host's network",
        })
    }
}
