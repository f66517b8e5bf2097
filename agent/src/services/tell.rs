//! What mode `Full` tells others: health checks of load balancers, the proxy's own health, and a kube-proxy's
//! metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use carrick_datapath::services::{HealthCheck, NodeView, Proxy, ServiceName};
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::health::{Check, PROXY_PORT, Problems, Pulse, Wanted};
use super::metrics::KubeProxyMetrics;
use super::watch::{Change, Kind};

/// Changes whose time is measured at once; more of them say nothing more.
const MEASURED: usize = 1000;

/// The ends of the health checks' channels that the driver holds.
#[derive(Debug)]
pub struct Ends {
    /// What is to be served.
    pub wanted: watch::Sender<Option<Wanted>>,
    /// How the proxy is.
    pub pulse: watch::Sender<Pulse>,
    /// Ports that cannot be served.
    pub problems: watch::Receiver<Problems>,
}

/// What is told, and what of it is known.
#[derive(Debug)]
pub(crate) struct Teller {
    ends: Ends,
    metrics: KubeProxyMetrics,
    checks: BTreeMap<ServiceName, HealthCheck>,
    addresses: BTreeSet<IpAddr>,
    /// Times of changes that the switch has not acknowledged.
    triggered: Vec<Timestamp>,
    /// A listing tells of what was, and not of changes.
    listing: bool,
    started: Timestamp,
}

impl Teller {
    /// Has nothing to tell yet.
    pub(crate) fn new(ends: Ends, metrics: KubeProxyMetrics) -> Self {
        Self {
            ends,
            metrics,
            checks: BTreeMap::new(),
            addresses: BTreeSet::new(),
            triggered: Vec::new(),
            listing: false,
            started: Timestamp::now(),
        }
    }

    /// Takes what the node is.
    pub(crate) fn set_node(&mut self, node: &NodeView) {
        self.addresses = listened(node);
    }

    /// Counts a change that was watched.
    pub(crate) fn heard(&mut self, change: &Change) {
        match change {
            Change::Service(_) | Change::ServiceGone(_) => {
                self.metrics.service_changes.inc();
            }
            Change::SliceGone { .. } => {
                self.metrics.endpoint_changes.inc();
            }
            Change::Slice { triggered, .. } => {
                self.metrics.endpoint_changes.inc();
                let new = triggered.filter(|time| !self.listing && *time >= self.started);
                if self.triggered.len() < MEASURED {
                    self.triggered.extend(new);
                }
            }
            Change::Begins(kind) => self.listing |= *kind == Kind::Slices,
            Change::Ends(kind) => self.listing &= *kind != Kind::Slices,
        }
    }

    /// All Services were compared with the switch.
    pub(crate) fn adopted(&mut self, proxy: &Proxy) {
        let checks = proxy.health_checks();
        self.checks = checks
            .map(|check| (check.service.clone(), check.clone()))
            .collect();
    }

    /// These Services have changed.
    pub(crate) fn changed(&mut self, proxy: &Proxy, services: &[ServiceName]) {
        for service in services {
            match proxy.health_check(service) {
                Some(check) => self.checks.insert(service.clone(), check.clone()),
                None => self.checks.remove(service),
            };
        }
    }

    /// A batch was given to the switch and the host, which took so long.
    pub(crate) fn synced(&self, took: Duration) {
        self.metrics.sync_duration.observe(took.as_secs_f64());
    }

    /// Everything that waited is in place.
    pub(crate) fn settled(&mut self) {
        let now = Timestamp::now();
        for time in self.triggered.drain(..) {
            let seconds = now.duration_since(time).as_secs_f64();
            self.metrics.programming_duration.observe(seconds.max(0.0));
        }
        let seconds = now.as_microsecond() / 1000;
        #[expect(clippy::cast_precision_loss, reason = "of a metric")]
        self.metrics.last_sync.set(seconds as f64 / 1000.0);
        self.ends
            .pulse
            .send_modify(|pulse| pulse.updated = Some(now));
    }

    /// Tells all of it.
    pub(crate) fn publish(&self, waiting: Option<Instant>) {
        self.ends.pulse.send_modify(|pulse| pulse.waiting = waiting);
        let mut checks = BTreeMap::new();
        for check in self.checks.values() {
            checks.entry(check.port).or_insert_with(|| Check {
                service: check.service.clone(),
                local_endpoints: check.local_endpoints,
            });
        }
        let wanted = Some(Wanted {
            checks,
            addresses: self.addresses.clone(),
        });
        self.ends.wanted.send_if_modified(|held| {
            let changed = *held != wanted;
            *held = wanted;
            changed
        });
    }

    /// Health checks that nobody answers or that are another Service's, a sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let failed = self.ends.problems.borrow();
        let mut owners: BTreeMap<u16, &ServiceName> = BTreeMap::new();
        let mut sentences = Vec::new();
        for (service, check) in &self.checks {
            let port = check.port;
            let owner = *owners.entry(port).or_insert(service);
            if owner != service {
                sentences.push(format!(
                    "{service}: health check node port {port} belongs to Service {owner} already; choose another \
                     healthCheckNodePort"
                ));
            } else if let Some(error) = failed.get(&port) {
                sentences.push(format!(
                    "{service}: health check node port {port} cannot be served: {error}; end the process that has it, \
                     or choose another healthCheckNodePort"
                ));
            }
        }
        sentences
    }

    /// Why port 10256 is not served, which is nothing wrong with Services.
    pub(crate) fn proxy_port(&self) -> Option<String> {
        let failed = self.ends.problems.borrow();
        failed.get(&PROXY_PORT).map(|error| {
            format!(
                "port {PROXY_PORT} is not served yet: {error}; a kube-proxy that still runs has it"
            )
        })
    }
}

/// Addresses that health check node ports are on; empty for every address.
fn listened(node: &NodeView) -> BTreeSet<IpAddr> {
    let ranges = &node.node_port_addresses;
    let in_range = |address: &IpAddr| ranges.iter().any(|range: &IpNet| range.contains(address));
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let mut addresses: BTreeSet<IpAddr> = node.addresses.iter().copied().collect();
    addresses.extend(loopback);
    addresses.retain(in_range);
    if !ranges.is_empty() && addresses.is_empty() {
        // None of its addresses: nobody but this node itself may ask.
        addresses.insert(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    addresses
}
