//! A question about a packet, as the read API takes it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use carrick_datapath::services::{Client, Destination, ExplainError, Protocol, ServiceName};
use ipnet::IpNet;
use serde::Deserialize;

/// Longest label of a name (RFC 1123).
const LABEL: usize = 63;

/// The query of `/v1/services/explain`. Whoever may ask may write anything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// `namespace/name`; else an address.
    service: Option<String>,
    /// An IP address.
    address: Option<String>,
    /// A number; of a Service also a port's name.
    port: Option<String>,
    /// Of an address: `tcp` (the default), `udp` or `sctp`.
    protocol: Option<String>,
    /// `pod` (the default), `host`, `outside` or the client's address.
    from: Option<String>,
}

/// What is asked, and what is known of addresses.
#[derive(Debug, PartialEq, Eq)]
pub struct Question {
    pub(super) to: To,
    pub(super) from: From,
    pub(super) known: Surroundings,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum To {
    Address(IpAddr, Protocol, u16),
    Service(ServiceName, Option<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Pod,
    Host,
    Outside,
    Address(IpAddr),
}

/// What this node knows of addresses beside its proxy.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Pods of this node, as `namespace/name`.
    pub pods: BTreeMap<IpAddr, String>,
    /// Some of this node's own addresses.
    pub own: Vec<IpAddr>,
    /// Other nodes: their pod CIDRs and their addresses.
    pub peers: BTreeMap<String, (Vec<IpNet>, Vec<IpAddr>)>,
}

/// Why a question has no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither or both.
    #[error("give either service (namespace/name) or address, with port")]
    EitherOr,
    /// Not a Service's name.
    #[error("service is namespace/name, e.g. kube-system/kube-dns")]
    Service,
    /// Not an address of one machine.
    #[error("{field} is not an IPv4 or IPv6 address of one host, e.g. 10.96.0.10 or fd00:96::a")]
    Address {
        /// Which.
        field: &'static str,
    },
    /// Nobody but the host may send there.
    #[error(
        "address is a loopback address, which no packet to another host has: ask with from=host and IPv4"
    )]
    Loopback,
    /// Neither a number nor a name.
    #[error("port is a number from 1 to 65535, or with service also the name of one of its ports")]
    Port,
    /// None that Services have.
    #[error(
        "protocol is tcp, udp or sctp, and is given with address alone: a Service's ports have theirs"
    )]
    Protocol,
    /// None of the words.
    #[error("from is pod, host, outside or the client's IP address")]
    From,
    /// IPv4 to IPv6.
    #[error("from and address are of two IP families: no packet has both")]
    Families,
    /// A pod's packets are translated where it runs.
    #[error(
        "from is the address of a pod of node {node}, whose own switch serves its packets: ask that node, or \
         from=outside for its packets to this node's addresses"
    )]
    OtherNode {
        /// The node.
        node: String,
    },
    /// Nothing is known yet.
    #[error("this node has no plan yet, and serves nothing new: see its conditions")]
    NoPlan,
    /// There is no such thing.
    #[error(transparent)]
    Unknown(#[from] ExplainError),
}

impl Asked {
    /// What is asked.
    ///
    /// # Errors
    /// It is none of the questions that have an answer.
    pub fn question(self, known: Surroundings) -> Result<Question, Refusal> {
        let port = self.port.as_deref();
        let to = match (&self.service, &self.address) {
            (Some(name), None) if self.protocol.is_none() => {
                let (namespace, name) = name.split_once('/').ok_or(Refusal::Service)?;
                if !is_label(namespace) || !is_label(name) {
                    return Err(Refusal::Service);
                }
                if !port.is_none_or(is_label) {
                    return Err(Refusal::Port);
                }
                To::Service(ServiceName::new(namespace, name), self.port)
            }
            (Some(_), None) => return Err(Refusal::Protocol),
            (None, Some(text)) => {
                let address = address("address", text)?;
                let port = port.and_then(|port| port.parse().ok());
                let port = port.filter(|port| *port != 0).ok_or(Refusal::Port)?;
                let protocol = match self.protocol.as_deref() {
                    None | Some("tcp") => Protocol::Tcp,
                    Some("udp") => Protocol::Udp,
                    Some("sctp") => Protocol::Sctp,
                    Some(_) => return Err(Refusal::Protocol),
                };
                To::Address(address, protocol, port)
            }
            _ => return Err(Refusal::EitherOr),
        };
        let from = match self.from.as_deref() {
            None | Some("pod") => From::Pod,
            Some("host") => From::Host,
            Some("outside") => From::Outside,
            Some(text) if text.contains(['.', ':']) => From::Address(address("from", text)?),
            Some(_) => return Err(Refusal::From),
        };
        match (from, &to) {
            (From::Address(from), To::Address(to, ..)) if from.is_ipv4() != to.is_ipv4() => {
                Err(Refusal::Families)
            }
            _ => Ok(Question { to, from, known }),
        }
    }
}

impl Question {
    /// Who sends.
    pub(super) fn client(&self, is_own: impl Fn(IpAddr) -> bool) -> Result<Client, Refusal> {
        let address = match self.from {
            From::Pod => return Ok(Client::Pod(None)),
            From::Host => return Ok(Client::Host),
            From::Outside => return Ok(Client::Outside(None)),
            From::Address(address) => address,
        };
        if self.known.pods.contains_key(&address) {
            return Ok(Client::Pod(Some(address)));
        }
        if address.is_loopback() || is_own(address) {
            return Ok(Client::Host);
        }
        match self.known.node_of_pod(address) {
            Some(node) => Err(Refusal::OtherNode {
                node: node.to_owned(),
            }),
            None => Ok(Client::Outside(Some(address))),
        }
    }

    /// Where it is sent to.
    pub(super) fn destination(
        &self,
        client: Client,
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Result<Destination, Refusal> {
        match &self.to {
            To::Service(name, port) => Ok(Destination::Service {
                name: name.clone(),
                port: port.clone(),
            }),
            To::Address(address, protocol, port) => {
                let loopback = address.is_loopback();
                if loopback && !(address.is_ipv4() && client == Client::Host) {
                    return Err(Refusal::Loopback);
                }
                Ok(Destination::Address {
                    address: *address,
                    protocol: *protocol,
                    port: *port,
                    own: loopback || is_own(*address),
                })
            }
        }
    }
}

impl Surroundings {
    /// The other node whose pods have an address.
    pub(super) fn node_of_pod(&self, address: IpAddr) -> Option<&str> {
        let mut peers = self.peers.iter();
        let found = peers.find(|(_, (cidrs, _))| cidrs.iter().any(|cidr| cidr.contains(&address)));
        found.map(|(node, _)| node.as_str())
    }

    /// The other node that has an address itself.
    pub(super) fn node_at(&self, address: IpAddr) -> Option<&str> {
        let mut peers = self.peers.iter();
        let found = peers.find(|(_, (_, own))| own.contains(&address));
        found.map(|(node, _)| node.as_str())
    }
}

fn address(field: &'static str, text: &str) -> Result<IpAddr, Refusal> {
    let refused = || Refusal::Address { field };
    let address: IpAddr = text.parse().map_err(|_| refused())?;
    let address = address.to_canonical();
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(refused());
    }
    Ok(address)
}

fn is_label(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=LABEL).contains(&text.len()) && text.chars().all(fits)
}
