//! `ipam.mode: NodeIPAM`: the leader gives every Node one pod CIDR of each family out of the
//! cluster CIDRs, where kube-controller-manager gives none.
//!
//! ```text
//! core      spans ─► pool ─► allocator      Nodes and claims in, CIDRs out;  finding: what is wrong
//! drivers   claim_lease                     what is about to be written, in a Lease
//!           write                           one Node's spec.podCIDR and spec.podCIDRs
//! wiring    this file                       1 task; it has a watch of Nodes while it leads
//! ```
//!
//! No two nodes get one CIDR, whatever the clocks do. Replicas could both believe that they lead:
//! one may be stopped between a look at its deadline and a request, and a request may be on its
//! way for long. A Node's resourceVersion keeps two writers of *one* Node apart; two Nodes share
//! nothing. So there is one object that all allocators share, the Lease `carrick-node-ipam`:
//!
//! 1. A leader first *takes* the Lease: writes its epoch, keeps the claims in it. As each write of
//!    it fails if another came between, a leader before can add no claim from then on.
//! 2. Then it lists the Nodes (and watches on from that list).
//! 3. Before it writes a CIDR to a Node, a claim of that CIDR for that registration of the Node
//!    (by UID) stands in the Lease.
//! 4. It drops a claim only when it saw the Node with CIDRs, or that registration gone.
//!
//! Whatever a leader before wrote, or may still write, was claimed before the Lease was taken.
//! Such a claim either still stands, and the new leader keeps to it; or it was dropped by 4, and
//! then the list of 2 is younger than what was seen: the Node has its CIDRs there, or is gone, and
//! a late write can change neither (CIDRs are set once, and the patch names UID and resourceVersion).
//! So the new leader knows every CIDR that is or may be in use, and alone adds to them. The check of
//! the term before each write is thrift, not safety. A property test lets two replicas that never
//! look at a clock do all this in any order (`takeover_tests.rs`).
//!
//! What remains is what writes without claims: kube-controller-manager with
//! `--allocate-node-cidrs`, people, or somebody who deletes the Lease while two replicas believe
//! that they lead. Overlaps are found at every look and reported; nothing is ever "mended" here.

pub mod allocator;
mod claim_lease;
pub mod finding;
mod pool;
mod spans;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use carrick_api::effective::NodeIpam;
use carrick_k8s::event::{Events, Severity};
use carrick_k8s::telemetry::chain;
use carrick_proto::NodeName;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::reign::{Reign, Rule, Term};
use crate::watch::{Listing, config};
use allocator::{Allocator, Assignment};
use claim_lease::{ClaimError, ClaimLease, Claimed, ClaimsByUid};
use finding::{Finding, Verdict, verdict};
use write::{WriteError, Written, facts, write};

/// Most Nodes with claims that are not written: one write of the Lease serves that many, and it
/// stays far below the 256 KiB that annotations may have.
const CLAIMS: usize = 64;
/// Nodes written at the same time. The API server is asked little at once; 5,000 new nodes still
/// take seconds, not minutes.
const AT_ONCE: usize = 8;
/// Most changes of Nodes taken in before CIDRs are given out.
const GATHER: usize = 512;
/// How long what failed waits.
const RETRY: Duration = Duration::from_secs(5);
/// How long it takes to take the Lease anew after another wrote it, or to rise above its epoch.
const AGAIN: Duration = Duration::from_secs(1);
/// Most events at once about nodes that get nothing; the condition counts all.
const EVENTS: usize = 20;

/// Everything the task works with.
pub struct NodeIpamTask {
    /// What to allocate.
    pub plan: NodeIpam,
    /// Our namespace, where the Lease is.
    pub namespace: String,
    /// Our pod's name.
    pub identity: String,
    /// The API server.
    pub client: Client,
    /// Whether we lead.
    pub reign: Reign,
    /// Told when the verdict is new.
    pub hub: Arc<Hub>,
    /// What is counted.
    pub metrics: Metrics,
    /// What `ControllerInfo` is to say; `None` while we do not lead.
    pub verdict: watch::Sender<Option<Verdict>>,
}

/// A term's work ended before the term.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    /// The Lease.
    #[error(transparent)]
    Claims(#[from] ClaimError),
    /// The watch is over, which it never is.
    #[error("the watch of Nodes ended")]
    WatchEnded,
}

impl SessionError {
    fn patience(&self) -> Duration {
        match self {
            Self::Claims(ClaimError::Superseded { .. } | ClaimError::Lost) => AGAIN,
            Self::Claims(_) | Self::WatchEnded => RETRY,
        }
    }
}

/// Whether a term still goes on. Its end moves on with every renewal, so it is asked for anew.
struct Mandate<'a> {
    reign: &'a Reign,
    over: &'a CancellationToken,
}

impl Mandate<'_> {
    fn stands(&self) -> bool {
        !self.over.is_cancelled() && self.reign.term().is_some()
    }
}

/// One term's work.
struct Session<'a> {
    task: &'a NodeIpamTask,
    mandate: Mandate<'a>,
    nodes: Api<Node>,
    events: Events,
    lease: ClaimLease,
    allocator: Allocator,
    /// What a listing that is under way has said so far.
    listing: Vec<allocator::Node>,
    /// Whether there was a whole one.
    listed: bool,
    /// Registrations that were told that nothing is left for them.
    told: BTreeSet<String>,
}

impl NodeIpamTask {
    /// Allocates whenever this replica leads, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut rule = self.reign.watch();
        loop {
            let term = match &*rule.borrow_and_update() {
                Rule::Leading(term) if term.valid() => Some(term.clone()),
                _ => None,
            };
            if let Some(term) = term {
                let session = Box::pin(self.serve(&term));
                let ended = tokio::select! {
                    () = stop.cancelled() => return,
                    () = term.over.cancelled() => Ok(()),
                    ended = session => ended,
                };
                if let Err(error) = ended {
                    self.explain(&error);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(error.patience()) => {}
                    }
                    continue;
                }
                self.say(None);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = rule.changed() => if changed.is_err() { return },
            }
        }
    }

    fn explain(&self, error: &SessionError) {
        if let SessionError::Claims(ClaimError::Superseded { epoch }) = error {
            // Either another leads by now and our own end is near, or the leader's Lease was
            // deleted with its memory: then ours has to go above.
            self.reign.demand(*epoch);
        }
        let cause = chain(error);
        warn!(error = cause, "pod CIDRs are not allocated for now");
        self.say(Some(verdict(&[], Some(&cause))));
    }

    fn say(&self, verdict: Option<Verdict>) {
        let changed = self.verdict.send_if_modified(|old| {
            let changed = *old != verdict;
            *old = verdict;
            changed
        });
        if changed {
            self.hub.told.notify_one();
        }
    }

    async fn serve(&self, term: &Term) -> Result<(), SessionError> {
        let lease = ClaimLease::take(
            self.client.clone(),
            &self.namespace,
            &self.identity,
            term.epoch,
        )
        .await?;
        info!(epoch = term.epoch, clusters = ?self.plan.cluster_cidrs, "allocating pod CIDRs to nodes");
        let session = Session {
            task: self,
            mandate: Mandate {
                reign: &self.reign,
                over: &term.over,
            },
            nodes: Api::all(self.client.clone()),
            events: Events::new(
                self.client.clone(),
                carrick_api::names::object::CONTROLLER,
                Some(self.identity.clone()),
            ),
            lease,
            allocator: Allocator::new(&self.plan),
            listing: Vec::new(),
            listed: false,
            told: BTreeSet::new(),
        };
        session.run().await
    }
}

impl Session<'_> {
    async fn run(mut self) -> Result<(), SessionError> {
        // Begun after the Lease was taken, and every listing is a consistent read: no Node and no
        // CIDR that was there then is missing.
        let stream = watcher(self.nodes.clone(), config(Listing::Paged)).default_backoff();
        futures::pin_mut!(stream);
        let mut seen = None;
        let mut retry: Option<Instant> = None;
        loop {
            let first = tokio::select! {
                event = stream.next() => Some(event.ok_or(SessionError::WatchEnded)?),
                () = at(retry) => None,
            };
            let more = std::iter::from_fn(|| stream.next().now_or_never().flatten());
            for event in first.into_iter().chain(more).take(GATHER) {
                match event {
                    Ok(event) => self.observe(event),
                    Err(error) => warn!(%error, "a watch of Nodes failed and is tried again"),
                }
            }
            let due = retry.is_some_and(|at| Instant::now() >= at);
            // Most changes of Nodes are the kubelets' and mean nothing here.
            if !self.listed || (seen == Some(self.allocator.revision()) && !due) {
                continue;
            }
            let failure = self.allocate().await?;
            retry = failure.as_ref().map(|_| Instant::now() + RETRY);
            seen = Some(self.allocator.revision());
            self.report(failure.as_deref()).await;
        }
    }

    /// Takes an event in.
    fn observe(&mut self, event: watcher::Event<Node>) {
        match event {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(node) => self.listing.extend(facts(&node)),
            watcher::Event::InitDone => {
                self.allocator.nodes_are(std::mem::take(&mut self.listing));
                if !self.listed {
                    self.listed = true;
                    self.restore();
                }
            }
            watcher::Event::Apply(node) => {
                if let Some(node) = facts(&node) {
                    self.allocator.node_is(node);
                }
            }
            watcher::Event::Delete(node) => {
                if let Some(node) = facts(&node) {
                    self.allocator.node_gone(&node.name);
                }
            }
        }
    }

    /// Takes over what stands in the Lease, now that the list tells which of it is still open.
    fn restore(&mut self) {
        for (uid, claim) in self.lease.claims() {
            if let Ok(name) = NodeName::new(&claim.node) {
                self.allocator.restore(&name, uid, &claim.pod_cidrs);
            }
        }
    }

    /// Claims and writes until every Node that can have CIDRs has them. Returns what failed.
    async fn allocate(&mut self) -> Result<Option<String>, ClaimError> {
        loop {
            let fresh = self.allocator.allocate(CLAIMS);
            let open: Vec<Assignment> = self.allocator.assignments().collect();
            if open.is_empty() {
                return Ok(None);
            }
            if !self.mandate.stands() {
                return Ok(Some(WriteError::TermOver.to_string()));
            }
            // Those that are not fresh stand there already.
            if !fresh.is_empty() {
                self.lease.write(claims_for(&open)).await?;
            }
            let (nodes, mandate) = (&self.nodes, &self.mandate);
            let written: Vec<_> = futures::stream::iter(open)
                .map(|open| async move { write(nodes, &open, || mandate.stands()).await })
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            let mut progress = false;
            let mut failure = None;
            for written in written {
                match written {
                    Ok(Written::Done(node)) => {
                        info!(node = %node.name, cidrs = ?node.cidrs, "gave a node its pod CIDRs");
                        self.task.metrics.node_cidrs_allocated.inc();
                        self.allocator.node_is(node);
                        progress = true;
                    }
                    Ok(Written::Forestalled(node)) => {
                        warn!(node = %node.name, cidrs = ?node.cidrs, "somebody else gave a node its pod CIDRs");
                        self.allocator.node_is(node);
                        progress = true;
                    }
                    // The watch will say so.
                    Ok(Written::Gone) => {}
                    Err(error) => {
                        let text = chain(&error);
                        warn!(error = text, "a node has no pod CIDRs for now");
                        failure = Some(text);
                    }
                }
            }
            if failure.is_some() || !progress {
                return Ok(failure);
            }
        }
    }

    /// Says how things are: condition, metrics, and events for Nodes that get nothing.
    async fn report(&mut self, failure: Option<&str>) {
        let findings = self.allocator.findings();
        self.task.say(Some(verdict(&findings, failure)));
        let metrics = &self.task.metrics;
        metrics.nodes_without_cidrs(self.allocator.without());
        for (family, left) in self.allocator.left() {
            metrics.node_cidrs_left(family, left);
        }
        let exhausted: BTreeMap<&NodeName, &str> = self.allocator.exhausted().collect();
        let uids: BTreeSet<&str> = exhausted.values().copied().collect();
        self.told.retain(|uid| uids.contains(uid.as_str()));
        let mut untold = Vec::new();
        for finding in &findings {
            if let Finding::Exhausted { node, .. } = finding
                && let Some(uid) = exhausted.get(node)
                && untold.len() < EVENTS
                && self.told.insert((*uid).to_owned())
            {
                untold.push((node_reference(node, uid), finding));
            }
        }
        let recorder = &self.events;
        let events = untold.iter().map(|(node, finding)| async move {
            let (reason, note) = (finding.reason(), finding.to_string());
            recorder
                .publish(node, Severity::Warning, reason, "AllocateCIDR", &note)
                .await;
        });
        futures::future::join_all(events).await;
    }
}

fn claims_for(open: &[Assignment]) -> ClaimsByUid {
    let claim = |open: &Assignment| Claimed {
        node: open.node.to_string(),
        pod_cidrs: open.cidrs.clone(),
    };
    open.iter()
        .map(|open| (open.uid.clone(), claim(open)))
        .collect()
}

fn node_reference(name: &NodeName, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(name.to_string()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "nodeipam/takeover_tests.rs"]
mod takeover_tests;
