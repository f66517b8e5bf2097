//! Where a packet to a Service goes on this node, and why: for people.
//!
//! Endpoints are judged by the code that selects them ([`judged`]); what becomes of the packet is held
//! against the flows and the host's sets by a property test (tests/services_explain.rs).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::claim::{Claim, FrontendKind, Place, Wanted, wanted};
use super::finding::Finding;
use super::input::{Protocol, ProxyMode, Service, ServiceName, ServicePort, TrafficPolicy};
use super::proxy::Proxy;
use super::render::{affinity_seconds, family_of, policy_at, ranges, switch_address};
use super::select::{LeftOut, judged};
use crate::tunnel::IpFamily;

mod words;

/// Frontends that one answer explains; a Service may have thousands.
const MAX_FRONTENDS: usize = 16;

/// Who sends the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// A pod of this node, with its address where that is known.
    Pod(Option<IpAddr>),
    /// A process on this node's host network.
    Host,
    /// A machine that sends to this node, with its address where that is known.
    Outside(Option<IpAddr>),
}

/// Where the packet is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// An address and port.
    Address {
        /// The address.
        address: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
        /// It is one of this node's own.
        own: bool,
    },
    /// A Service: its cluster IPs for clients within the cluster, its other addresses for those
    /// outside.
    Service {
        /// Its name.
        name: ServiceName,
        /// The name or number of one of its ports; all of them without.
        port: Option<String>,
    },
}

/// Why there is nothing to explain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// No Service of that name.
    #[error(
        "this agent knows no Service {name}: it knows none in mode Disabled, and none with the label \
         service.kubernetes.io/service-proxy-name"
    )]
    NoService {
        /// The name.
        name: ServiceName,
    },
    /// No port of that name or number.
    #[error("Service {name} has no port {port}; it has {known}")]
    NoPort {
        /// The Service.
        name: ServiceName,
        /// What was asked for.
        port: String,
        /// What there is.
        known: String,
    },
    /// Nothing that such a client could send to.
    #[error(
        "Service {name} has no address for such a client: one that is headless or an ExternalName has no cluster \
         IP, and clients outside need a node port, a load balancer or an external IP"
    )]
    NoAddress {
        /// The Service.
        name: ServiceName,
    },
}

/// What brings the packet to its endpoint. `Display` is a sentence without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The switch translates a pod's packet as it is.
    Switch,
    /// The host routes it to the switch as it is.
    HostRoutes,
    /// The host's rules translate it to this virtual address, which is routed to the switch.
    HostTranslates(IpAddr),
    /// It is left to another proxy.
    OtherProxy(OtherProxy),
    /// Another Service has the address.
    Claimed,
    /// The userspace datapath serves no SCTP.
    NoSctp,
    /// No Service has this address and port.
    NoService,
}

/// Why another proxy serves a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherProxy {
    /// Mode `Disabled`.
    Disabled,
    /// Mode `ClusterIP`, and this is not a pod's packet to a cluster IP.
    ClusterIpsOnly,
    /// `serviceProxy.skipServices`.
    Skipped,
    /// Label `service.kubernetes.io/service-proxy-name`.
    Label,
}

/// Which policy counts, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyBy {
    /// The Service's `internalTrafficPolicy`.
    Internal(TrafficPolicy),
    /// The Service's `externalTrafficPolicy`.
    External(TrafficPolicy),
    /// `Cluster`: the Service's `externalTrafficPolicy` is `Local`, but the client is within the cluster.
    WithinCluster,
}

/// What becomes of a new connection. `Display` is a sentence without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// One of the endpoints without a reason against them answers.
    Answered,
    /// The same, if `loadBalancerSourceRanges` hold the client's address, which was not said.
    AnsweredInRanges,
    /// The host answers with RST or ICMP: no endpoint takes traffic.
    Rejected,
    /// No endpoint takes traffic, and the other proxy rejects it (mode `ClusterIP`).
    PassedNoEndpoint,
    /// Policy `Local`, and endpoints on other nodes only.
    DroppedNoLocalEndpoint,
    /// `loadBalancerSourceRanges` do not hold the client's address.
    DroppedSourceRefused,
    /// No endpoint takes traffic, and with `loadBalancerSourceRanges` pods' packets are dropped.
    DroppedNoEndpoint,
    /// Whoever else has the address decides.
    NotServed,
}

/// The source address that the endpoint sees. `Display` is a sentence without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceSeen {
    /// The client's own: a pod's packet passes the switch alone.
    OwnOfPod,
    /// The client's own: policy `Local`.
    OwnByLocalPolicy,
    /// The client's own: the host routes packets to cluster IPs as they are.
    OwnAtClusterIp,
    /// The gateway's: the host's own packets leave by it.
    GatewayOfHost,
    /// The gateway's: a pod's packet to an address of the node comes back from the host.
    GatewayOfNode,
    /// The gateway's: policy `Cluster`, and the answer must come back through this node.
    GatewayByClusterPolicy,
    /// A virtual one: policy `Local`, but the endpoints of this node are on the host's network.
    Virtual,
}

/// An endpoint, and why it gets none of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Examined {
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None` where its slice has none for this one.
    pub port: Option<u16>,
    /// It runs on this node.
    pub local: bool,
    /// Why not.
    pub verdict: Result<(), LeftOut>,
}

/// What becomes of a packet to one frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The Service and its port, if there is one.
    pub service: Option<(Arc<Service>, ServicePort)>,
    /// What kind of address, and where.
    pub frontend: Option<(FrontendKind, Claim)>,
    /// What brings the packet to its endpoint.
    pub path: Path,
    /// Which policy counts; `None` where another proxy decides.
    pub policy: Option<PolicyBy>,
    /// What becomes of a new connection.
    pub outcome: Outcome,
    /// What the endpoint sees; `None` where none gets the packet.
    pub source: Option<SourceSeen>,
    /// How many seconds a client stays with its endpoint.
    pub affinity: Option<u16>,
    /// Every endpoint of the Service, those that get packets first.
    pub endpoints: Vec<Examined>,
    /// What else to know, a sentence each.
    pub findings: Vec<String>,
}

impl PolicyBy {
    /// The policy that counts.
    pub const fn policy(self) -> TrafficPolicy {
        match self {
            Self::Internal(policy) | Self::External(policy) => policy,
            Self::WithinCluster => TrafficPolicy::Cluster,
        }
    }
}

impl Explanation {
    fn nobody(path: Path) -> Self {
        Self {
            service: None,
            frontend: None,
            path,
            policy: None,
            outcome: Outcome::NotServed,
            source: None,
            affinity: None,
            endpoints: Vec::new(),
            findings: Vec::new(),
        }
    }
}

impl Proxy {
    /// Explains what becomes of a new connection of `client`, for each frontend that `to` means, and how
    /// many more frontends there are than an answer has room for.
    ///
    /// # Errors
    /// There is no such Service, or it has no such port or address.
    pub fn explain(
        &self,
        client: Client,
        to: &Destination,
    ) -> Result<(Vec<Explanation>, usize), ExplainError> {
        match to {
            Destination::Address { .. } => Ok((vec![self.explain_address(client, to)], 0)),
            Destination::Service { name, port } => {
                let (service, all) = self.frontends_for(client, name, port.as_deref())?;
                let some = all.iter().take(MAX_FRONTENDS);
                let some = some.map(|wanted| self.explain_frontend(client, &service, wanted));
                Ok((some.collect(), all.len().saturating_sub(MAX_FRONTENDS)))
            }
        }
    }

    fn frontends_for(
        &self,
        client: Client,
        name: &ServiceName,
        port: Option<&str>,
    ) -> Result<(Arc<Service>, Vec<Wanted>), ExplainError> {
        let no_service = || ExplainError::NoService { name: name.clone() };
        let service = self.index.service(name).ok_or_else(no_service)?;
        let is_asked = |own: &ServicePort| {
            port.is_none_or(|port| *port == *own.name || port.parse() == Ok(own.port))
        };
        if !service.ports.iter().any(is_asked) {
            return Err(ExplainError::NoPort {
                name: name.clone(),
                port: port.unwrap_or_default().to_owned(),
                known: words::ports(&service.ports),
            });
        }
        let outside = matches!(client, Client::Outside(_));
        let mut all = wanted(service, &self.node, ProxyMode::Full);
        all.retain(|wanted| {
            let cluster_ip = wanted.kind == FrontendKind::ClusterIp;
            cluster_ip != outside && service.ports.get(wanted.port).is_some_and(is_asked)
        });
        if all.is_empty() {
            return Err(ExplainError::NoAddress { name: name.clone() });
        }
        Ok((service.clone(), all))
    }

    fn explain_address(&self, client: Client, to: &Destination) -> Explanation {
        let Some((service, wanted)) = self.met(to) else {
            let mut explanation = Explanation::nobody(Path::NoService);
            explanation.findings.extend(self.other_ports(to));
            return explanation;
        };
        self.explain_frontend(client, &service, &wanted)
    }

    /// The Service that has an address and port here; without one, the first that asks for it.
    fn met(&self, to: &Destination) -> Option<(Arc<Service>, Wanted)> {
        let fits = |wanted: &Wanted| self.is_at(wanted, to);
        let served = claims(to).into_iter().find_map(|claim| {
            let service = self.index.service(self.claims.winner(&claim)?)?;
            let all = wanted(service, &self.node, self.options.mode);
            let found = all.into_iter().find(fits)?;
            Some((service.clone(), found))
        });
        served.or_else(|| {
            let services = self
                .index
                .names()
                .filter_map(|name| self.index.service(name));
            let asking = services.filter_map(|service| {
                let all = wanted(service, &self.node, ProxyMode::Full);
                Some((service, all.into_iter().find(fits)?))
            });
            let first = asking.min_by_key(|(_, wanted)| wanted.kind);
            first.map(|(service, wanted)| (service.clone(), wanted))
        })
    }

    /// Whether clients meet a frontend at this destination.
    fn is_at(&self, wanted: &Wanted, to: &Destination) -> bool {
        let Destination::Address { address, .. } = to else {
            return false;
        };
        let ranges = &self.node.node_port_addresses;
        let node_port = ranges.is_empty() || ranges.iter().any(|range| range.contains(address));
        claims(to).contains(&wanted.claim)
            && match (wanted.claim.place, wanted.own) {
                (Place::Address(_), _) => true,
                (Place::Node(_), Some(own)) => own == *address,
                (Place::Node(_), None) => node_port,
            }
    }

    /// Services that have the address, but not this port of it.
    fn other_ports(&self, to: &Destination) -> Option<String> {
        let Destination::Address { address, .. } = to else {
            return None;
        };
        let services = self
            .index
            .names()
            .filter_map(|name| self.index.service(name));
        let mut having = services.filter(|service| {
            let all = wanted(service, &self.node, ProxyMode::Full);
            all.iter().any(|wanted| {
                wanted.own == Some(*address) || wanted.claim.place == Place::Address(*address)
            })
        });
        let service = having.next()?;
        let (name, ports) = (&service.name, words::ports(&service.ports));
        Some(format!("Service {name} has the address, with {ports}"))
    }

    fn explain_frontend(
        &self,
        client: Client,
        service: &Arc<Service>,
        wanted: &Wanted,
    ) -> Explanation {
        let path = self.path(client, service, wanted);
        let mut explanation = Explanation::nobody(path);
        explanation.frontend = Some((wanted.kind, wanted.claim));
        let Some(port) = service.ports.get(wanted.port) else {
            return explanation;
        };
        explanation.service = Some((service.clone(), port.clone()));
        explanation.findings = self.said_of(service, port, wanted);
        if !matches!(
            path,
            Path::Switch | Path::HostRoutes | Path::HostTranslates(_)
        ) {
            return explanation;
        }
        let policy = policy_for(client, service, wanted.kind);
        let family = family_of(wanted.claim.place);
        let (candidates, others) = self.index.told(&service.name, port, family);
        let anybody = judged(candidates.clone(), TrafficPolicy::Cluster);
        let anybody = anybody.iter().any(|(_, verdict)| verdict.is_ok());
        let judged = judged(candidates, policy.policy()).into_iter();
        let mut endpoints: Vec<Examined> = judged
            .map(|(candidate, verdict)| Examined {
                address: candidate.address,
                port: Some(candidate.port),
                local: candidate.local,
                verdict,
            })
            .collect();
        let is_of = |address: IpAddr| IpFamily::from(address) == family;
        endpoints.extend(others.into_iter().map(|(address, local)| Examined {
            address,
            port: None,
            local,
            verdict: Err(if is_of(address) {
                LeftOut::NoSuchPort
            } else {
                LeftOut::OtherFamily
            }),
        }));
        endpoints.sort_by_key(|endpoint| endpoint.verdict.is_err());
        let reached = endpoints.first().is_some_and(|first| first.verdict.is_ok());
        let at_switch = path == Path::Switch;
        explanation.outcome = match (self.lets_in(client, service, wanted), anybody) {
            (Some(false), _) => Outcome::DroppedSourceRefused,
            (_, false) if at_switch && is_restricted(service, wanted) => Outcome::DroppedNoEndpoint,
            (_, false) if self.options.mode != ProxyMode::Full => Outcome::PassedNoEndpoint,
            (_, false) => Outcome::Rejected,
            (_, true) if !reached => Outcome::DroppedNoLocalEndpoint,
            (Some(true), true) => Outcome::Answered,
            (None, true) => Outcome::AnsweredInRanges,
        };
        if matches!(
            explanation.outcome,
            Outcome::Answered | Outcome::AnsweredInRanges
        ) {
            let reached = endpoints.iter().filter(|examined| examined.verdict.is_ok());
            let on_host = |examined: &Examined| self.node.addresses.contains(&examined.address);
            let all_on_host = reached.clone().all(on_host);
            explanation.source = Some(source_seen(client, wanted, policy.policy(), all_on_host));
        }
        explanation.policy = Some(policy);
        explanation.affinity = affinity_seconds(service);
        explanation.endpoints = endpoints;
        explanation
    }

    fn path(&self, client: Client, service: &Service, wanted: &Wanted) -> Path {
        let mode = self.options.mode;
        let cluster_ip = wanted.kind == FrontendKind::ClusterIp;
        if service.other_proxy {
            return Path::OtherProxy(OtherProxy::Label);
        }
        if self.options.skip.contains(&service.name) {
            return Path::OtherProxy(OtherProxy::Skipped);
        }
        match mode {
            ProxyMode::Disabled => return Path::OtherProxy(OtherProxy::Disabled),
            ProxyMode::ClusterIp if !cluster_ip || !matches!(client, Client::Pod(_)) => {
                return Path::OtherProxy(OtherProxy::ClusterIpsOnly);
            }
            ProxyMode::ClusterIp | ProxyMode::Full => {}
        }
        if wanted.claim.protocol == Protocol::Sctp && !self.options.sctp {
            return Path::NoSctp;
        }
        if self.claims.winner(&wanted.claim) != Some(&service.name) {
            return Path::Claimed;
        }
        match (wanted.claim.place, client) {
            (Place::Node(_), _) => {
                // The host's set goes by what the Service asks for, whoever the client is.
                let policy = policy_at(service, wanted.kind);
                Path::HostTranslates(switch_address(wanted, policy).0)
            }
            (Place::Address(_), Client::Pod(_)) => Path::Switch,
            (Place::Address(_), Client::Host | Client::Outside(_)) => Path::HostRoutes,
        }
    }

    /// Whether `loadBalancerSourceRanges` let the client in; `None` where that depends on its address.
    fn lets_in(&self, client: Client, service: &Service, wanted: &Wanted) -> Option<bool> {
        if !is_restricted(service, wanted) {
            return Some(true);
        }
        let address = match (wanted.claim.place, wanted.own) {
            (Place::Address(address), _) | (Place::Node(_), Some(address)) => address,
            (Place::Node(_), None) => return Some(true),
        };
        let of_family = |net: &IpNet| net.addr().is_ipv4() == address.is_ipv4();
        let sources: Vec<IpNet> = match (client, wanted.own) {
            // To one of its own addresses a host sends from that one, else from its gateway.
            (Client::Pod(Some(own)) | Client::Outside(Some(own)), _)
            | (Client::Host, Some(own)) => {
                vec![own.into()]
            }
            (Client::Pod(None), _) => self.node.pod_cidrs.clone(),
            (Client::Host, None) => self.node.gateway.iter().map(IpNet::from).collect(),
            (Client::Outside(None), _) => return None,
        };
        let sources: Vec<IpNet> = sources.into_iter().filter(of_family).collect();
        let allowed = ranges(service, address);
        let inside = |net: &IpNet| allowed.iter().any(|range| range.contains(net));
        let apart = |net: &IpNet| {
            let mut ranges = allowed.iter();
            !ranges.any(|range| range.contains(net) || net.contains(range))
        };
        if sources.iter().all(apart) {
            Some(false)
        } else {
            sources.iter().all(inside).then_some(true)
        }
    }

    /// What is to be said of one port of a Service beside its endpoints.
    fn said_of(&self, service: &Service, port: &ServicePort, at: &Wanted) -> Vec<String> {
        let name = &service.name;
        let mut said: Vec<String> = Vec::new();
        if self.dirty.contains(name) {
            said.push("changes of this Service wait to be programmed".to_owned());
        }
        let rendered = self.rendered.get(name).into_iter();
        let findings = rendered.flat_map(|rendered| &rendered.findings);
        let of_port = findings.filter(|finding| match finding {
            Finding::Claimed { claim, .. } => *claim == at.claim,
            Finding::NoSctp { port: number } | Finding::SourceNotKept { port: number } => {
                *number == port.port
            }
            Finding::AffinityCapped { .. } => true,
        });
        said.extend(of_port.map(ToString::to_string));
        let others = self
            .claims
            .holders(&at.claim)
            .filter(|other| *other != name);
        let losers: BTreeSet<&ServiceName> = match self.claims.winner(&at.claim) {
            Some(winner) if winner == name => others.collect(),
            _ => BTreeSet::new(),
        };
        said.extend(losers.into_iter().map(|loser| {
            format!("Service {loser} asks for the same address and port and does not get it")
        }));
        said
    }
}

/// What may have been claimed of a destination.
fn claims(to: &Destination) -> Vec<Claim> {
    let Destination::Address {
        address,
        protocol,
        port,
        own,
    } = *to
    else {
        return Vec::new();
    };
    let claim = |place| Claim {
        place,
        protocol,
        port,
    };
    let node = own.then(|| claim(Place::Node(address.into())));
    let places = [Some(claim(Place::Address(address))), node];
    places.into_iter().flatten().collect()
}

/// Clients within the cluster meet policy `Cluster` at outside addresses, whatever theirs is.
const fn policy_for(client: Client, service: &Service, kind: FrontendKind) -> PolicyBy {
    match (kind, policy_at(service, kind), client) {
        (FrontendKind::ClusterIp, policy, _) => PolicyBy::Internal(policy),
        (_, TrafficPolicy::Local, Client::Pod(_) | Client::Host) => PolicyBy::WithinCluster,
        (_, policy, _) => PolicyBy::External(policy),
    }
}

fn is_restricted(service: &Service, wanted: &Wanted) -> bool {
    wanted.kind == FrontendKind::LoadBalancer && !service.source_ranges.is_empty()
}

const fn source_seen(
    client: Client,
    wanted: &Wanted,
    policy: TrafficPolicy,
    all_on_host: bool,
) -> SourceSeen {
    match (client, wanted.claim.place, wanted.kind, policy) {
        (Client::Host, ..) => SourceSeen::GatewayOfHost,
        (Client::Pod(_), Place::Address(_), ..) => SourceSeen::OwnOfPod,
        (Client::Pod(_), Place::Node(_), ..) => SourceSeen::GatewayOfNode,
        (Client::Outside(_), _, FrontendKind::ClusterIp, _) => SourceSeen::OwnAtClusterIp,
        (Client::Outside(_), _, _, TrafficPolicy::Cluster) => SourceSeen::GatewayByClusterPolicy,
        (Client::Outside(_), _, _, TrafficPolicy::Local) if all_on_host => SourceSeen::Virtual,
        (Client::Outside(_), _, _, TrafficPolicy::Local) => SourceSeen::OwnByLocalPolicy,
    }
}
