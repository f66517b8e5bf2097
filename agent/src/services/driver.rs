//! The proxy's driver: what was watched goes in, batches go to the switch.
//!
//! A batch goes in this order: the ledger to disk, what goes leaves the host, the bundle to the switch, what comes
//! gets to the host, connection entries that lead nowhere are flushed, ids that nothing carries any more are given
//! back. Where a bundle is not acknowledged, the switch is read again, and what it holds is adopted. What is wrong
//! with the host keeps nothing from the switch.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use carrick_api::names::link;

use carrick_datapath::services::{
    BatchError, NodeView, Options, Proxy, ProxyMode, RecoverServicesError, ServiceName,
    StaleConnections,
};
use carrick_datapath::{DatapathKind, IdLedger};
use carrick_k8s::telemetry::{chain, some};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::explain::{Refusal, Wrong, explain};
use super::feed::Feed;
use super::host::ServiceHost;
use super::kept::Lines;
use super::leftovers::Leftovers;
use super::metrics::SyncMetrics;
use super::tell::{Ends, Teller};
use super::view::{Query, answer};
use super::watch::Change;
use crate::flows::{FlowDriver, FlowError};
use crate::host::Host;
use crate::journal::JournalError;
use crate::ledgerfile::LedgerFile;
use crate::node::Node;
use crate::plan::{HostLinks, NodePlan, proxy_mode};
use crate::status::Fact;

/// Modifications of one bundle: a pod that comes meanwhile waits for no more than these.
const BUNDLE: usize = 2000;
/// Changes that are taken together when they are there.
const TOGETHER: usize = 1024;
/// Comparing all Services with the switch when nothing happened takes at most one part of so many of the time.
const COMPARING: u32 = 100;
/// Findings that a condition names.
const NAMED: usize = 10;

/// Why Services are not in the switch as they must be.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// They cannot be rendered.
    #[error(transparent)]
    Render(#[from] BatchError),
    /// What the switch holds cannot be compared with them.
    #[error("comparing Services with what the switch holds")]
    Adopt(#[from] RecoverServicesError),
    /// The switch did not take them.
    #[error("programming Services")]
    Flows(#[from] FlowError),
    /// The disk did not take the ledger.
    #[error("saving the ids of Services")]
    Save(#[from] JournalError),
}

/// What a call of [`ServiceDriver::sync`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Synced {
    /// Not possible now: Services are not known yet, or the switch must be read by a pass.
    NotNow,
    /// Nothing had to be changed.
    Same,
    /// The switch holds something else than before.
    Changed,
}

/// What the driver waits for.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something was watched.
    Change(Change),
    /// Somebody asks.
    Query(Query),
    /// The last batch left something to do.
    More,
}

/// What a batch is given to.
pub(crate) struct Parts<'a> {
    pub(crate) flows: &'a mut FlowDriver,
    pub(crate) ledger: &'a mut IdLedger,
    pub(crate) ledger_file: &'a mut LedgerFile,
}

/// The ends of the driver's channels that others hold.
#[derive(Debug)]
pub struct Inlets {
    /// What was watched.
    pub changes: mpsc::Receiver<Change>,
    /// Tells the watches to begin anew.
    pub forgotten: watch::Sender<u64>,
    /// Questions of the read API.
    pub queries: mpsc::Receiver<Query>,
    /// Health checks.
    pub health: Ends,
}

/// Services of this node and what the switch holds of them.
#[derive(Debug)]
pub(crate) struct ServiceDriver {
    changes: mpsc::Receiver<Change>,
    forgotten: watch::Sender<u64>,
    queries: mpsc::Receiver<Query>,
    mode: ProxyMode,
    skip: BTreeSet<ServiceName>,
    node_port_addresses: Vec<IpNet>,
    /// Where the API server is, if that is an address.
    api_server: Option<IpAddr>,
    host: ServiceHost,
    /// Where a kube-proxy is replaced.
    leftovers: Option<Leftovers>,
    /// In mode `Full`.
    teller: Option<Teller>,
    metrics: SyncMetrics,
    /// None before it is known what this node is.
    proxy: Option<Proxy>,
    feed: Feed,
    /// The session by which the switch was read and adopted.
    adopted: Option<u64>,
    /// When that was last.
    compared: Compared,
    /// What the saved commit holds of Services until this process has adopted them.
    kept: Option<Lines>,
    /// A batch left something to do.
    more: bool,
    /// Everything that was listed has been in place once, since this process began.
    was_in_place: bool,
    /// Ids of what is gone may be in the ledger.
    ids_to_retain: bool,
    /// When the first change came that the switch has not acknowledged.
    waiting: Option<Instant>,
    error: Option<String>,
    /// Since when.
    failing: Option<Instant>,
}

/// A comparison of all Services with what the switch holds.
#[derive(Debug)]
struct Compared {
    when: Instant,
    /// What it took.
    cost: Duration,
}

impl Compared {
    /// Whether to look again for what somebody else has changed: the more Services, the more rarely.
    fn is_due(&self) -> bool {
        self.when.elapsed() >= self.cost * COMPARING
    }
}

impl ServiceDriver {
    /// A driver that knows nothing yet.
    pub(crate) fn new(node: &Node, inlets: Inlets, host: &Host) -> Self {
        let config = &node.config.service_proxy;
        let leftovers = config.replaces_kube_proxy().then(|| host.for_leftovers());
        let host = host.for_services(&node.paths);
        let mode = proxy_mode(config);
        let skip = config.skip_services.iter();
        let skip = skip.filter_map(|text| text.split_once('/'));
        let metrics = node.service_sync.clone();
        let full = mode == ProxyMode::Full;
        let teller = full.then(|| Teller::new(inlets.health, metrics.kube_proxy.clone()));
        Self {
            changes: inlets.changes,
            forgotten: inlets.forgotten,
            queries: inlets.queries,
            mode,
            skip: skip
                .map(|(namespace, name)| ServiceName::new(namespace, name))
                .collect(),
            node_port_addresses: config.node_port_addresses.clone(),
            api_server: node.config.api_server.host.parse().ok(),
            host,
            leftovers,
            teller,
            metrics,
            proxy: None,
            feed: Feed::default(),
            adopted: None,
            compared: Compared {
                when: Instant::now(),
                cost: Duration::ZERO,
            },
            kept: Some(match mode {
                ProxyMode::Disabled => Lines::default(),
                ProxyMode::ClusterIp | ProxyMode::Full => Lines::of_file(&node.paths.commit()),
            }),
            more: false,
            was_in_place: false,
            ids_to_retain: false,
            waiting: None,
            error: None,
            failing: None,
        }
    }

    /// Takes what the node is now. In another zone other endpoints count, and everything is read anew.
    pub(crate) fn set_plan(
        &mut self,
        name: &str,
        plan: &NodePlan,
        links: &HostLinks,
        flows: &mut FlowDriver,
    ) {
        let full = self.mode == ProxyMode::Full;
        let node = NodeView {
            name: name.to_owned(),
            zone: plan.zone.clone(),
            addresses: if full { own(links) } else { BTreeSet::new() },
            node_port_addresses: self.node_port_addresses.clone(),
            gateway: plan.gateway.addresses,
            pod_cidrs: plan.pod_cidrs.clone(),
        };
        if full {
            let nodes = plan.peers.values().flat_map(|peer| peer.endpoints.iter());
            let kept = nodes.chain(self.api_server).collect();
            self.host.set_node(&node, links.get(link::GATEWAY), kept);
        }
        if let Some(teller) = &mut self.teller {
            teller.set_node(&node);
        }
        match &mut self.proxy {
            Some(proxy) if proxy.node().zone == node.zone => {
                proxy.set_node(node);
            }
            _ => {
                let options = Options {
                    mode: self.mode,
                    skip: self.skip.clone(),
                    sctp: plan.datapath == DatapathKind::System,
                };
                if self.proxy.is_some() {
                    info!(
                        zone = node.zone,
                        "the node's zone has changed; Services are read anew"
                    );
                    self.kept = Some(self.lines());
                    self.forgotten.send_modify(|count| *count += 1);
                    flows.read_again();
                }
                self.feed = Feed::default();
                self.adopted = None;
                self.proxy = Some(Proxy::new(node, options));
            }
        }
    }

    /// Waits for something to do. What was watched waits until it is known what this node is.
    pub(crate) async fn next(&mut self) -> Event {
        if self.more {
            return Event::More;
        }
        tokio::select! {
            biased;
            Some(query) = self.queries.recv() => Event::Query(query),
            Some(change) = self.changes.recv(), if self.proxy.is_some() => Event::Change(change),
            else => std::future::pending().await,
        }
    }

    /// Takes an event; whether the switch may have to be changed.
    pub(crate) fn take(&mut self, event: Event) -> bool {
        match event {
            Event::Query(query) => {
                self.answer(query);
                return false;
            }
            Event::More => {
                // Where the switch cannot be changed now, the pass that mends it asks again.
                self.more = false;
                return true;
            }
            Event::Change(change) => self.give(change),
        }
        for _ in 0..TOGETHER {
            match self.changes.try_recv() {
                Ok(change) => self.give(change),
                Err(_) => break,
            }
        }
        self.tell(false);
        self.is_whole()
    }

    fn give(&mut self, change: Change) {
        if let Some(teller) = &mut self.teller {
            teller.heard(&change);
        }
        if let Some(proxy) = &mut self.proxy {
            self.feed.give(change, proxy);
            if proxy.pending() > 0 {
                self.waiting.get_or_insert_with(Instant::now);
            }
        }
    }

    fn answer(&self, query: Query) {
        let proxy = self.proxy.as_ref();
        let listed = self.feed.is_whole();
        // Who asked may have gone.
        match query {
            Query::Services { service, reply } => {
                let answer = proxy.map(|proxy| answer(proxy, listed, service.as_ref()));
                let _ = reply.send(answer.unwrap_or_default());
            }
            Query::Explain { question, reply } => {
                let problems = [self.error.as_deref(), self.host.error()];
                let problems = problems.into_iter().flatten().map(str::to_owned).collect();
                let kept_off = |address| self.host.keeps_off(address);
                let answer = proxy.ok_or(Refusal::NoPlan);
                let _ = reply.send(answer.and_then(|proxy| {
                    explain(
                        proxy,
                        listed,
                        &question,
                        &Wrong {
                            problems,
                            kept_off: &kept_off,
                        },
                    )
                }));
            }
        }
    }

    /// Whether everything is known that the switch is to hold.
    const fn is_whole(&self) -> bool {
        matches!(self.mode, ProxyMode::Disabled) || self.feed.is_whole()
    }

    /// Makes the switch hold what Services that wait need, by one bundle; call again where there is
    /// [more](Event::More). The pipeline must be there.
    ///
    /// # Errors
    /// It does not. The switch is read by the next pass, and then it is tried again.
    pub(crate) async fn sync(&mut self, mut parts: Parts<'_>) -> Result<Synced, SyncError> {
        self.more = false;
        let synced = self.try_sync(&mut parts).await;
        match &synced {
            Ok(Synced::NotNow) => {}
            Ok(Synced::Same | Synced::Changed) => self.error = None,
            Err(error) => {
                let text = chain(error);
                if self.error.as_ref() != Some(&text) {
                    warn!(error = text, "Services could not be programmed");
                }
                self.error = Some(text);
                self.metrics.failures.inc();
                self.adopted = None;
                parts.flows.read_again();
            }
        }
        self.failing = match &synced {
            Ok(Synced::NotNow) => self.failing,
            Ok(Synced::Same | Synced::Changed) => None,
            Err(_) => self.failing.or_else(|| Some(Instant::now())),
        };
        let in_place = matches!(synced, Ok(Synced::Same | Synced::Changed));
        self.tell(in_place);
        if in_place && !self.more && self.host.error().is_none() {
            let port = self.teller.as_ref().and_then(Teller::proxy_port);
            if let Some(leftovers) = &mut self.leftovers {
                leftovers.look(port).await;
            }
        }
        synced
    }

    /// What is to be said of a kube-proxy; nothing where none is replaced.
    pub(crate) fn kube_proxy(&self) -> Option<Fact> {
        self.leftovers.as_ref().map(Leftovers::fact)
    }

    /// Tells others how the proxy is.
    fn tell(&mut self, in_place: bool) {
        let since = [self.waiting, self.failing, self.host.failing()];
        let waiting = since.into_iter().flatten().min();
        if let Some(teller) = &mut self.teller {
            if in_place && waiting.is_none() {
                teller.settled();
            }
            teller.publish(waiting);
        }
    }

    async fn try_sync(&mut self, parts: &mut Parts<'_>) -> Result<Synced, SyncError> {
        let full = self.mode == ProxyMode::Full;
        if !full {
            self.host.leave().await;
        }
        if !self.is_whole() {
            return Ok(Synced::NotNow);
        }
        let Some(proxy) = &mut self.proxy else {
            return Ok(Synced::NotNow);
        };
        let session = parts.flows.admitted();
        let known = self.adopted.is_some() && self.adopted == session;
        let dumped = parts.flows.take_services();
        if let Some(dumped) = dumped.filter(|_| !known || self.compared.is_due()) {
            let begin = Instant::now();
            let recovered = proxy.recover_ids(parts.ledger, &dumped)?;
            if recovered > 0 {
                warn!(recovered, "ids of Services were recovered from the switch");
            }
            let adopted = proxy.adopt(parts.ledger, &dumped)?;
            if adopted.differing + adopted.orphans > 0 {
                let (same, differing, orphans) = (adopted.same, adopted.differing, adopted.orphans);
                info!(
                    same,
                    differing, orphans, "Services were compared with the switch"
                );
            }
            self.compared = Compared {
                when: begin,
                cost: begin.elapsed(),
            };
            self.adopted = session;
            self.kept = None;
            self.ids_to_retain = true;
            if let Some(teller) = &mut self.teller {
                teller.adopted(proxy);
            }
        }
        if self.adopted.is_none() || self.adopted != session {
            return Ok(Synced::NotNow);
        }
        if full {
            self.host.look(proxy.host()).await;
        }
        let batch = proxy.next_batch(parts.ledger, BUNDLE)?;
        // An id must be on disk before a flow carries it.
        parts.ledger_file.write(parts.ledger)?;
        let Some(batch) = batch else {
            self.waiting = None;
            self.was_in_place = true;
            if std::mem::take(&mut self.ids_to_retain) {
                proxy.retain_ids(parts.ledger);
            }
            if full {
                self.host.settle(proxy.host()).await;
            }
            return Ok(Synced::Same);
        };
        let begin = Instant::now();
        self.host.before(&batch.host).await;
        if !batch.bundle.is_empty() {
            parts.flows.change_services(&batch.bundle).await?;
            self.metrics.bundles.inc();
            self.metrics.modifications.inc_by(batch.bundle.len() as u64);
            debug!(
                services = batch.services.len(),
                changes = batch.bundle.len(),
                "programmed Services"
            );
        }
        self.host.after(&batch.host).await;
        if let Some(teller) = &mut self.teller {
            teller.changed(proxy, &batch.services);
            teller.synced(begin.elapsed());
        }
        let stale = batch.stale.iter().map(StaleConnections::flush);
        parts.flows.flush(stale).await?;
        batch.release(parts.ledger);
        self.more = proxy.pending() > 0;
        if !self.more {
            self.was_in_place = true;
            if full {
                self.host.settle(proxy.host()).await;
            }
            if std::mem::take(&mut self.ids_to_retain) {
                proxy.retain_ids(parts.ledger);
            }
            if let Some(since) = self.waiting.take() {
                self.metrics.duration.observe(since.elapsed().as_secs_f64());
            }
        }
        Ok(if batch.bundle.is_empty() {
            Synced::Same
        } else {
            Synced::Changed
        })
    }

    /// Services' part of the saved commit. As long as they are not known, what the last one had.
    pub(crate) fn lines(&self) -> Lines {
        match (&self.kept, &self.proxy) {
            (Some(kept), _) => kept.clone(),
            (None, Some(proxy)) => {
                let (flows, groups) = proxy.lines();
                Lines {
                    flows: flows.map(|line| line.to_string()).collect(),
                    groups: groups.collect(),
                }
            }
            (None, None) => Lines::default(),
        }
    }

    /// How many Services are known.
    pub(crate) fn len(&self) -> usize {
        self.proxy.as_ref().map_or(0, |proxy| proxy.index().len())
    }

    /// What is to be said of Services; nothing where others serve them.
    pub(crate) fn fact(&self) -> Option<Fact> {
        if let Some(error) = self.host.error() {
            return Some(Fact::fails("HostNotProgrammed", error));
        }
        if self.mode == ProxyMode::Disabled {
            return None;
        }
        if let Some(error) = &self.error {
            return Some(Fact::fails("NotProgrammed", error.clone()));
        }
        let proxy = self.proxy.as_ref().filter(|_| self.kept.is_none());
        let Some(proxy) = proxy else {
            let text = "Services were not read from the API server yet; those that were programmed before stay as they \
                        were";
            return Some(Fact::unknown("WaitingForAPIServer", text));
        };
        if !self.was_in_place {
            let waiting = proxy.pending();
            let text = format!("{waiting} of {} Services wait to be programmed", self.len());
            return Some(Fact::unknown("BeingProgrammed", text));
        }
        let mut reason = None;
        let mut sentences = Vec::new();
        for (name, finding) in proxy.findings() {
            reason.get_or_insert(finding.reason());
            sentences.push(format!("{name}: {finding}"));
        }
        if let Some(text) = self.host.kept_off(proxy.host()) {
            reason.get_or_insert("AddressNotRouted");
            sentences.push(text);
        }
        for text in self.teller.iter().flat_map(Teller::problems) {
            reason.get_or_insert("HealthCheckNotServed");
            sentences.push(text);
        }
        let Some(reason) = reason else {
            let text = match &self.teller {
                None => "Services are in the switch as they were asked for".to_owned(),
                Some(teller) => {
                    let served =
                        "Services are in the switch and on the host as they were asked for";
                    let but = teller.proxy_port();
                    but.map_or(served.to_owned(), |but| format!("{served}; {but}"))
                }
            };
            return Some(Fact::holds("Served", text));
        };
        let sentences: Vec<&str> = sentences.iter().map(String::as_str).collect();
        Some(Fact::fails(reason, some(&sentences, NAMED)))
    }
}

/// The host's own addresses that a Service may have. Link-local ones are on every link, pods' with them.
fn own(links: &HostLinks) -> BTreeSet<IpAddr> {
    let nets = links.values().flat_map(|link| &link.addresses);
    let usable = |address: &IpAddr| {
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !address.is_loopback() && !link_local
    };
    nets.map(IpNet::addr).filter(usable).collect()
}
