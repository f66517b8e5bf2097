//! What is known of Services and endpoints, kept small: 250,000 endpoints are 6 MB.
//!
//! A change concerns one Service; the index says which.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::input::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, NodeView, Service, ServiceName, ServicePort,
};
use super::select::{Candidate, Selection, select};
use crate::tunnel::IpFamily;

/// Services with their slices.
#[derive(Debug, Default)]
pub struct Index {
    node: String,
    zone: String,
    services: BTreeMap<ServiceName, Entry>,
    /// Which Service a slice belongs to, by `namespace/name` of the slice.
    slices: BTreeMap<Arc<str>, ServiceName>,
}

#[derive(Debug, Default)]
struct Entry {
    service: Option<Arc<Service>>,
    slices: BTreeMap<Arc<str>, Slice>,
}

/// An EndpointSlice as one node sees it.
#[derive(Debug, PartialEq, Eq)]
struct Slice {
    ports: Box<[EndpointPort]>,
    endpoints: Box<[Compact]>,
}

/// An endpoint as one node sees it: whose names it was told matters no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Compact {
    address: IpAddr,
    bits: u8,
}

const READY: u8 = 1;
const SERVING: u8 = 1 << 1;
const TERMINATING: u8 = 1 << 2;
const LOCAL: u8 = 1 << 3;
const ZONE_HINTED: u8 = 1 << 4;
const FOR_ZONE: u8 = 1 << 5;
const NODE_HINTED: u8 = 1 << 6;
const FOR_NODE: u8 = 1 << 7;

/// One port of a Service in one family, with its endpoints selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedPort {
    /// The port.
    pub port: ServicePort,
    /// The family.
    pub family: IpFamily,
    /// Its endpoints, by who asks.
    pub selection: Selection,
}

/// A Service with its endpoints selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The Service.
    pub service: Arc<Service>,
    /// Its ports, each in every family of its cluster IPs, IPv4 first.
    pub ports: Vec<ResolvedPort>,
}

impl Index {
    /// An index of nothing, for the clients of this node.
    pub fn new(node: &NodeView) -> Self {
        Self {
            node: node.name.clone(),
            zone: node.zone.clone(),
            ..Self::default()
        }
    }

    /// Takes a Service; whether that changed anything.
    pub fn upsert_service(&mut self, service: Service) -> bool {
        let entry = self.services.entry(service.name.clone()).or_default();
        if entry.service.as_deref() == Some(&service) {
            return false;
        }
        entry.service = Some(Arc::new(service));
        true
    }

    /// Forgets a Service; whether it was known. Its slices stay: they go by themselves, and may come
    /// before their Service.
    pub fn remove_service(&mut self, name: &ServiceName) -> bool {
        let Some(entry) = self.services.get_mut(name) else {
            return false;
        };
        let known = entry.service.take().is_some();
        if entry.slices.is_empty() {
            self.services.remove(name);
        }
        known
    }

    /// Takes a slice. The Services it concerns: its own, and the one it belonged to before; none when
    /// nothing changed that a client could see.
    pub fn upsert_slice(&mut self, slice: &EndpointSlice) -> Vec<ServiceName> {
        let key: Arc<str> = slice_key(&slice.namespace, &slice.name).into();
        let compact = Slice {
            ports: slice.ports.clone().into(),
            endpoints: slice.endpoints.iter().map(|e| self.compact(e)).collect(),
        };
        let mut concerned = Vec::new();
        match self.slices.get(&key) {
            Some(owner) if *owner == slice.service => {}
            _ => concerned.extend(self.take_slice(&key)),
        }
        self.slices.insert(key.clone(), slice.service.clone());
        let entry = self.services.entry(slice.service.clone()).or_default();
        if entry.slices.get(&key) != Some(&compact) {
            entry.slices.insert(key, compact);
            concerned.push(slice.service.clone());
        }
        concerned
    }

    /// Forgets a slice; the Service it concerned, if it was known.
    pub fn remove_slice(&mut self, namespace: &str, name: &str) -> Option<ServiceName> {
        self.take_slice(&slice_key(namespace, name))
    }

    /// The Service of that name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)?.service.as_ref()
    }

    /// Names of all Services, sorted.
    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        let known = self.services.iter();
        known.filter_map(|(name, entry)| entry.service.is_some().then_some(name))
    }

    /// How many Services are known.
    pub fn len(&self) -> usize {
        self.names().count()
    }

    /// Whether no Service is known.
    pub fn is_empty(&self) -> bool {
        self.names().next().is_none()
    }

    /// Selects the endpoints of a Service. The work grows with that Service's endpoints alone.
    pub fn resolve(&self, name: &ServiceName) -> Option<Resolved> {
        let entry = self.services.get(name)?;
        let service = entry.service.clone()?;
        let mut families: Vec<IpFamily> = service
            .cluster_ips
            .iter()
            .map(|address| IpFamily::from(*address))
            .collect();
        families.sort_unstable();
        families.dedup();
        let mut ports = Vec::with_capacity(service.ports.len() * families.len());
        for port in &service.ports {
            for family in &families {
                ports.push(ResolvedPort {
                    port: port.clone(),
                    family: *family,
                    selection: select(entry.candidates(port, *family)),
                });
            }
        }
        Some(Resolved { service, ports })
    }

    /// Everything that slices say of one port of a Service in one family: endpoints to select among, and
    /// those that are none of it, sorted, with whether they are on this node.
    pub(super) fn told(
        &self,
        name: &ServiceName,
        port: &ServicePort,
        family: IpFamily,
    ) -> (Vec<Candidate>, BTreeMap<IpAddr, bool>) {
        let Some(entry) = self.services.get(name) else {
            return Default::default();
        };
        let candidates = entry.candidates(port, family);
        let known: BTreeSet<IpAddr> = candidates.iter().map(|known| known.address).collect();
        let endpoints = entry.slices.values().flat_map(|slice| &slice.endpoints);
        let others = endpoints
            .filter(|endpoint| !known.contains(&endpoint.address))
            .map(|endpoint| (endpoint.address, endpoint.has(LOCAL)));
        let others = others.collect();
        (candidates, others)
    }

    fn take_slice(&mut self, key: &str) -> Option<ServiceName> {
        let owner = self.slices.remove(key)?;
        if let Some(entry) = self.services.get_mut(&owner) {
            entry.slices.remove(key);
            if entry.slices.is_empty() && entry.service.is_none() {
                self.services.remove(&owner);
            }
        }
        Some(owner)
    }

    fn compact(&self, endpoint: &Endpoint) -> Compact {
        let Endpoint {
            address,
            conditions,
            node,
            zone_hints,
            node_hints,
        } = endpoint;
        let bit = |condition: bool, bit: u8| if condition { bit } else { 0 };
        Compact {
            address: *address,
            bits: bit(conditions.ready, READY)
                | bit(conditions.serving, SERVING)
                | bit(conditions.terminating, TERMINATING)
                | bit(node.as_deref() == Some(&self.node), LOCAL)
                | bit(!zone_hints.is_empty(), ZONE_HINTED)
                | bit(zone_hints.contains(&self.zone), FOR_ZONE)
                | bit(!node_hints.is_empty(), NODE_HINTED)
                | bit(node_hints.contains(&self.node), FOR_NODE),
        }
    }
}

impl Entry {
    fn candidates(&self, port: &ServicePort, family: IpFamily) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for slice in self.slices.values() {
            let matching = slice
                .ports
                .iter()
                .filter(|own| own.name == port.name && own.protocol == port.protocol);
            for own in matching {
                let here = slice
                    .endpoints
                    .iter()
                    .filter(|endpoint| IpFamily::from(endpoint.address) == family);
                candidates.extend(here.map(|endpoint| endpoint.candidate(own.port)));
            }
        }
        candidates
    }
}

impl Compact {
    const fn has(self, bit: u8) -> bool {
        self.bits & bit != 0
    }

    fn candidate(self, port: u16) -> Candidate {
        Candidate {
            address: self.address,
            port,
            conditions: Conditions {
                ready: self.has(READY),
                serving: self.has(SERVING),
                terminating: self.has(TERMINATING),
            },
            local: self.has(LOCAL),
            for_zone: self.has(ZONE_HINTED).then_some(self.has(FOR_ZONE)),
            for_node: self.has(NODE_HINTED).then_some(self.has(FOR_NODE)),
        }
    }
}

fn slice_key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}
