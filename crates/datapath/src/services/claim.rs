//! Who has which address: an address, protocol and port leads to one Service at most.
//!
//! The API keeps cluster IPs and node ports apart, but external IPs and addresses of load balancers are
//! whatever somebody wrote, and objects come one by one: a node port may pass from one Service to
//! another before the first is seen to go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::input::{IngressMode, NodeView, Protocol, ProxyMode, Service, ServiceName, ServiceType};
use crate::tunnel::IpFamily;

/// Where clients send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// This address.
    Address(IpAddr),
    /// Every address of this node, of a family.
    Node(IpFamily),
}

/// What one Service has at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Where clients send to.
    pub place: Place,
    /// By which protocol.
    pub protocol: Protocol,
    /// To which port.
    pub port: u16,
}

/// What kind of address it is. Where two Services claim one, the lower kind wins, so that nobody takes
/// a cluster IP by writing it down as an external IP (CVE-2020-8554); among equals the Service whose
/// name comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// A cluster IP.
    ClusterIp,
    /// A node port.
    NodePort,
    /// An address of the Service's load balancer.
    LoadBalancer,
    /// An external IP.
    ExternalIp,
}

/// A claim of one Service, and for which of its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) claim: Claim,
    pub(super) kind: FrontendKind,
    /// The address clients write, where the claim says [`Place::Node`] for one address of the node.
    pub(super) own: Option<IpAddr>,
    /// Index in [`Service::ports`].
    pub(super) port: usize,
}

/// Everything a Service claims, the most important first; sorted and each claim once.
pub(super) fn wanted(service: &Service, node: &NodeView, mode: ProxyMode) -> Vec<Wanted> {
    let mut all = Vec::new();
    for (index, port) in service.ports.iter().enumerate() {
        let mut add = |place, number, kind, own| {
            all.push(Wanted {
                claim: Claim {
                    place,
                    protocol: port.protocol,
                    port: number,
                },
                kind,
                own,
                port: index,
            });
        };
        for address in &service.cluster_ips {
            add(
                Place::Address(*address),
                port.port,
                FrontendKind::ClusterIp,
                None,
            );
        }
        if mode != ProxyMode::Full {
            continue;
        }
        let family_served = |address: &IpAddr| {
            let family = IpFamily::from(*address);
            service
                .cluster_ips
                .iter()
                .any(|own| IpFamily::from(*own) == family)
        };
        // An address of the host never reaches the gateway: its packets are given to the switch as
        // those of node ports are.
        let mut outside = |address: IpAddr, kind| {
            if node.addresses.contains(&address) {
                add(Place::Node(address.into()), port.port, kind, Some(address));
            } else {
                add(Place::Address(address), port.port, kind, None);
            }
        };
        if service.kind == ServiceType::LoadBalancer {
            for ingress in &service.ingress {
                if ingress.mode == IngressMode::Vip && family_served(&ingress.address) {
                    outside(ingress.address, FrontendKind::LoadBalancer);
                }
            }
        }
        for address in service.external_ips.iter().filter(|a| family_served(a)) {
            outside(*address, FrontendKind::ExternalIp);
        }
        if service.kind == ServiceType::ClusterIp {
            continue;
        }
        if let Some(number) = port.node_port {
            for address in &service.cluster_ips {
                let place = Place::Node(IpFamily::from(*address));
                add(place, number, FrontendKind::NodePort, None);
            }
        }
    }
    all.sort_by_key(|wanted| (wanted.kind, wanted.claim, wanted.own, wanted.port));
    let mut seen = BTreeSet::new();
    all.retain(|wanted| seen.insert((wanted.claim, wanted.own)));
    all
}

/// All claims of all Services.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claims: BTreeMap<Claim, BTreeSet<(FrontendKind, ServiceName)>>,
    /// What each Service claims.
    of: BTreeMap<ServiceName, Vec<(Claim, FrontendKind)>>,
}

impl Claims {
    /// Replaces what a Service claims. The other Services that win or lose by it.
    pub(super) fn replace(&mut self, name: &ServiceName, wanted: &[Wanted]) -> Vec<ServiceName> {
        let mut new: Vec<(Claim, FrontendKind)> = wanted
            .iter()
            .map(|wanted| (wanted.claim, wanted.kind))
            .collect();
        // The lowest kind of one claim counts.
        new.sort_unstable();
        new.dedup_by_key(|(claim, _)| *claim);
        let old = self.of.get(name).map(Vec::as_slice).unwrap_or_default();
        if old == new {
            return Vec::new();
        }
        let touched: BTreeSet<Claim> = old.iter().chain(&new).map(|(claim, _)| *claim).collect();
        let winners = |claims: &Self| -> Vec<Option<ServiceName>> {
            touched
                .iter()
                .map(|claim| claims.winner(claim).cloned())
                .collect()
        };
        let before = winners(self);
        for (claim, kind) in self.of.remove(name).unwrap_or_default() {
            if let Some(holders) = self.claims.get_mut(&claim) {
                holders.remove(&(kind, name.clone()));
                if holders.is_empty() {
                    self.claims.remove(&claim);
                }
            }
        }
        for (claim, kind) in &new {
            let holders = self.claims.entry(*claim).or_default();
            holders.insert((*kind, name.clone()));
        }
        if !new.is_empty() {
            self.of.insert(name.clone(), new);
        }
        let after = winners(self);
        let changed = before
            .into_iter()
            .zip(after)
            .filter(|(old, new)| old != new);
        let mut concerned: Vec<ServiceName> = changed
            .flat_map(|(old, new)| [old, new])
            .flatten()
            .filter(|other| other != name)
            .collect();
        concerned.sort();
        concerned.dedup();
        concerned
    }

    /// Every Service that makes a claim, the one it leads to first.
    pub(super) fn holders(&self, claim: &Claim) -> impl Iterator<Item = &ServiceName> {
        let holders = self.claims.get(claim).into_iter().flatten();
        holders.map(|(_, name)| name)
    }

    /// Which Service a claim leads to.
    pub(super) fn winner(&self, claim: &Claim) -> Option<&ServiceName> {
        let (_, name) = self.claims.get(claim)?.first()?;
        Some(name)
    }
}
