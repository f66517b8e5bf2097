//! The proxy: single changes in, batches of modifications out.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use carrick_openflow::Mod;

use super::bundle::Bundle;
use super::claim::{Claim, Claims, FrontendKind, wanted};
use super::finding::Finding;
use super::group::GroupSpec;
use super::health::HealthCheck;
use super::host::{HostChange, HostPart, HostServices};
use super::index::{Index, ResolvedPort};
use super::input::{
    EndpointSlice, NodeView, Options, Protocol, ProxyMode, Service, ServiceName, TrafficPolicy,
};
use super::render::{Context, Rendered, family_of, policy_at, render_service};
use super::select::Backend;
use super::stale::{StaleConnections, UdpPort, stale};
use crate::cookie::Kind;
use crate::flow::FlowLine;
use crate::ledger::{IdLedger, LedgerError};
use crate::switch::LineError;

/// All Services of one node. Holds what the switch was last told in a compact form.
#[derive(Debug)]
pub struct Proxy {
    pub(super) node: NodeView,
    pub(super) options: Options,
    pub(super) index: Index,
    pub(super) claims: Claims,
    pub(super) rendered: BTreeMap<ServiceName, Rendered>,
    pub(super) dirty: BTreeSet<ServiceName>,
    pub(super) host: HostServices,
    /// What is in the switch and nobody's, to be removed with the next batch.
    pub(super) orphans: Vec<Mod>,
}

/// What has to change for some Services. Complete for each of them, so that batches need not go
/// together.
///
/// The order: write the ledger to disk, give `bundle` to the switch as one bundle, change the host,
/// flush `stale`, then [`Batch::release`] the ids that are free. Where the bundle is not acknowledged,
/// read the switch and call [`Proxy::adopt`].
#[derive(Debug, Default)]
pub struct Batch {
    /// Groups added and changed, flows added and changed, flows removed, groups removed.
    pub bundle: Vec<Mod>,
    /// For the host, in mode [`ProxyMode::Full`].
    pub host: HostChange,
    /// Connection entries to forget after the bundle.
    pub stale: Vec<StaleConnections>,
    /// The Services whose state in the switch or on the host this is.
    pub services: Vec<ServiceName>,
    released: Vec<(Kind, String)>,
}

/// Why a batch could not be made. The Service stays to be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A Service needs an id and there is none.
    #[error("giving ids to Service {service}")]
    Ids {
        /// The Service.
        service: ServiceName,
        /// Why.
        #[source]
        source: LedgerError,
    },
    /// What was rendered is not what the switch takes.
    #[error("rendering Service {service}")]
    Line {
        /// The Service.
        service: ServiceName,
        /// Why.
        #[source]
        source: LineError,
    },
}

/// Where clients reach a port of a Service, and who answers: for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// What kind of address.
    pub kind: FrontendKind,
    /// Where, by which protocol, to which port.
    pub claim: Claim,
    /// Its traffic policy.
    pub policy: TrafficPolicy,
    /// Who answers clients by that policy.
    pub backends: Vec<Backend>,
    /// The Service that has it instead of this one.
    pub claimed_by: Option<ServiceName>,
}

impl Batch {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.bundle.is_empty() && self.host.is_empty() && self.stale.is_empty()
    }

    /// Gives ids back that no flow and no group carries any more. Call after the bundle.
    pub fn release(&self, ledger: &mut IdLedger) {
        for (kind, key) in &self.released {
            ledger.release(*kind, key);
        }
    }
}

impl Proxy {
    /// A proxy that knows no Service and has told the switch nothing.
    pub fn new(node: NodeView, options: Options) -> Self {
        Self {
            index: Index::new(&node),
            node,
            options,
            claims: Claims::default(),
            rendered: BTreeMap::new(),
            dirty: BTreeSet::new(),
            host: HostServices::default(),
            orphans: Vec::new(),
        }
    }

    /// Takes a Service that is new or has changed.
    pub fn upsert_service(&mut self, service: Service) {
        let name = service.name.clone();
        if self.index.upsert_service(service) {
            self.claim(&name);
            self.dirty.insert(name);
        }
    }

    /// Forgets a Service.
    pub fn remove_service(&mut self, name: &ServiceName) {
        if self.index.remove_service(name) {
            self.claim(name);
            self.dirty.insert(name.clone());
        }
    }

    /// Takes a slice that is new or has changed.
    pub fn upsert_slice(&mut self, slice: &EndpointSlice) {
        self.dirty.extend(self.index.upsert_slice(slice));
    }

    /// Forgets a slice.
    pub fn remove_slice(&mut self, namespace: &str, name: &str) {
        self.dirty.extend(self.index.remove_slice(namespace, name));
    }

    /// The node has changed (another address, another gateway). Zone and name must be the same: hints
    /// are read when slices come, so for another zone make another proxy and [`Proxy::adopt`]. Chains of
    /// [`super::host_table`] depend on the node: load the table anew.
    pub fn set_node(&mut self, node: NodeView) {
        if node == self.node {
            return;
        }
        self.node = node;
        let names: Vec<ServiceName> = self.index.names().cloned().collect();
        for name in names {
            self.claim(&name);
            self.dirty.insert(name);
        }
    }

    /// How many Services wait to be rendered.
    pub fn pending(&self) -> usize {
        self.dirty.len()
    }

    /// Renders Services that wait, by their names, until the batch has `limit` modifications or none is
    /// left; `None` when nothing waited. A batch may be empty: much that happens to Services changes
    /// nothing.
    ///
    /// # Errors
    /// The ledger is full. The proxy is as it was before.
    pub fn next_batch(
        &mut self,
        ledger: &mut IdLedger,
        limit: usize,
    ) -> Result<Option<Batch>, BatchError> {
        if self.dirty.is_empty() && self.orphans.is_empty() {
            return Ok(None);
        }
        let mut batch = Batch::default();
        let mut bundle = Bundle::default();
        while bundle.len() < limit.max(1)
            && let Some(name) = self.dirty.first().cloned()
        {
            let new = self.render(&name, ledger)?;
            let none = Rendered::default();
            let old = self.rendered.get(&name).unwrap_or(&none);
            let changes = bundle.change(old, new.as_ref().unwrap_or(&none));
            changes.map_err(|source| BatchError::Line {
                service: name.clone(),
                source,
            })?;
            batch.accept(old, new.as_ref().unwrap_or(&none));
            let (before, after) = (&old.host, new.as_ref().map(|new| &new.host));
            let empty = HostPart::default();
            self.host
                .replace(before, after.unwrap_or(&empty), &mut batch.host);
            match new {
                Some(new) => self.rendered.insert(name.clone(), new),
                None => self.rendered.remove(&name),
            };
            self.dirty.remove(&name);
            batch.services.push(name);
        }
        let orphans = std::mem::take(&mut self.orphans);
        batch.bundle = bundle.in_order(orphans);
        batch.stale.sort_unstable();
        batch.stale.dedup();
        Ok(Some(batch))
    }

    /// Everything the host holds for Services.
    pub const fn host(&self) -> &HostServices {
        &self.host
    }

    /// The node as the proxy was last told.
    pub const fn node(&self) -> &NodeView {
        &self.node
    }

    /// What is not as asked for, by Service, as of the last batch.
    pub fn findings(&self) -> impl Iterator<Item = (&ServiceName, &Finding)> {
        let all = self.rendered.iter();
        all.flat_map(|(name, rendered)| {
            rendered.findings.iter().map(move |finding| (name, finding))
        })
    }

    /// Health checks to answer, by Service, as of the last batch.
    pub fn health_checks(&self) -> impl Iterator<Item = &HealthCheck> {
        self.rendered
            .values()
            .filter_map(|rendered| rendered.health.as_ref())
    }

    /// The health check of one Service, as of the last batch.
    pub fn health_check(&self, name: &ServiceName) -> Option<&HealthCheck> {
        self.rendered.get(name)?.health.as_ref()
    }

    /// Services that are known, with those that are not served.
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// The frontends of a Service, computed now.
    pub fn frontends(&self, name: &ServiceName) -> Vec<Frontend> {
        let Some(resolved) = self.served(name) else {
            return Vec::new();
        };
        let service = &*resolved.service;
        let mut frontends = Vec::new();
        for wanted in wanted(service, &self.node, self.options.mode) {
            let policy = policy_at(service, wanted.kind);
            let of_family = |port: &&ResolvedPort| {
                port.family == family_of(wanted.claim.place)
                    && service.ports.get(wanted.port) == Some(&port.port)
            };
            let selection = resolved
                .ports
                .iter()
                .find(of_family)
                .map(|port| &port.selection);
            let backends = selection.map(|selection| match policy {
                TrafficPolicy::Cluster => selection.cluster.clone(),
                TrafficPolicy::Local => selection.local.clone(),
            });
            let winner = self.claims.winner(&wanted.claim);
            frontends.push(Frontend {
                kind: wanted.kind,
                claim: wanted.claim,
                policy,
                backends: backends.unwrap_or_default(),
                claimed_by: winner.filter(|winner| **winner != *name).cloned(),
            });
        }
        frontends
    }

    /// Gives back the ids of Services and groups that are gone: of those that went while nobody looked, no
    /// batch tells. Call when nothing waits and the switch has acknowledged the last batch.
    pub fn retain_ids(&self, ledger: &mut IdLedger) {
        let rendered = || self.rendered.values();
        let services: HashSet<&str> = rendered().map(|service| service.key.as_str()).collect();
        ledger.retain(Kind::Service, |key| services.contains(key));
        let groups = rendered().flat_map(|service| service.group_keys.iter());
        let groups: HashSet<&str> = groups.map(AsRef::as_ref).collect();
        ledger.retain(Kind::ServiceGroup, |key| groups.contains(key));
    }

    /// Flows and groups of all Services as lines, sorted by Service: what a saved commit holds beside
    /// the pipeline's own. As of the last batch.
    pub fn lines(&self) -> (impl Iterator<Item = FlowLine>, impl Iterator<Item = String>) {
        let flows = self.rendered.values().flat_map(|rendered| {
            let members = rendered.member_flows();
            rendered.flows.iter().cloned().chain(members)
        });
        let groups = self.rendered.values().flat_map(|rendered| &rendered.groups);
        (flows, groups.map(GroupSpec::to_line))
    }

    pub(super) fn render(
        &self,
        name: &ServiceName,
        ledger: &mut IdLedger,
    ) -> Result<Option<Rendered>, BatchError> {
        let context = Context {
            node: &self.node,
            options: &self.options,
            claims: &self.claims,
        };
        self.served(name)
            .map(|resolved| render_service(&resolved, context, ledger))
            .transpose()
            .map_err(|source| BatchError::Ids {
                service: name.clone(),
                source,
            })
    }

    fn is_ours(&self, service: &Service) -> bool {
        service.is_served()
            && self.options.mode != ProxyMode::Disabled
            && !self.options.skip.contains(&service.name)
    }

    fn served(&self, name: &ServiceName) -> Option<super::index::Resolved> {
        let service = self.index.service(name)?;
        self.is_ours(service).then(|| self.index.resolve(name))?
    }

    /// Claims what a Service wants now; those who win or lose by it wait to be rendered.
    fn claim(&mut self, name: &ServiceName) {
        let service = self
            .index
            .service(name)
            .filter(|service| self.is_ours(service));
        let wanted = service.map(|service| {
            let mut wanted = wanted(service, &self.node, self.options.mode);
            // What is not served is left to another that is.
            wanted.retain(|wanted| self.options.sctp || wanted.claim.protocol != Protocol::Sctp);
            wanted
        });
        let concerned = self.claims.replace(name, &wanted.unwrap_or_default());
        self.dirty.extend(concerned);
    }
}

impl Batch {
    /// What a Service's change means beside the switch's state.
    fn accept(&mut self, old: &Rendered, new: &Rendered) {
        let none = UdpPort::default();
        let ports: BTreeSet<_> = old.udp.keys().chain(new.udp.keys()).collect();
        for port in ports {
            let (old, new) = (old.udp.get(port), new.udp.get(port));
            self.stale
                .extend(stale(old.unwrap_or(&none), new.unwrap_or(&none)));
        }
        if !old.key.is_empty() && old.key != new.key {
            self.released.push((Kind::Service, old.key.clone()));
        }
        let kept: BTreeSet<&str> = new.group_keys.iter().map(AsRef::as_ref).collect();
        let gone = old
            .group_keys
            .iter()
            .filter(|key| !kept.contains(key.as_ref()));
        self.released
            .extend(gone.map(|key| (Kind::ServiceGroup, key.to_string())));
    }
}
