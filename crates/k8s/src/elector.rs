//! The driver of [`crate::election`]: one Lease, one task.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::client::{CallError, timely};
use crate::election::{Knowledge, LeaseFacts, Outcome, Role, State, Step, Timing, evaluate};

/// Annotation with the epoch the holder serves by.
pub const EPOCH_ANNOTATION: &str = "carrick.dev/epoch";
/// Annotation with the address the holder serves at.
pub const ADDRESS_ANNOTATION: &str = "carrick.dev/address";
/// Longest time another's Lease may claim; a hostile or mistaken value must not end elections.
const LONGEST_LEASE: Duration = Duration::from_mins(5);

/// What is to be led.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// Our name in it: the pod's.
    pub identity: String,
    /// Where we serve, published while we lead; empty for components that serve nobody.
    pub address: String,
    /// How long things take.
    pub timing: Timing,
}

/// Who leads, as far as this replica knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// Not this replica.
    Following {
        /// The leader's address, when one leads and has one.
        leader: Option<String>,
    },
    /// This replica, until `valid_until` unless that moves on. Work that must not outlive the
    /// leadership checks it: a process that was stopped for a while finds it passed.
    Leading {
        /// The epoch, already in the Lease.
        epoch: u64,
        /// The end, moved on by every renewal.
        valid_until: Instant,
    },
}

impl Leadership {
    /// The epoch this replica leads by now.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        match self {
            Self::Leading { epoch, valid_until } if Instant::now() < *valid_until => Some(*epoch),
            _ => None,
        }
    }
}

/// A handle on a running [`Elector`].
#[derive(Debug, Clone)]
pub struct Election {
    leadership: watch::Receiver<Leadership>,
    demands: mpsc::Sender<u64>,
}

impl Election {
    /// Who leads; changes also with every renewal.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Who leads now.
    #[must_use]
    pub fn current(&self) -> Leadership {
        self.leadership.borrow().clone()
    }

    /// Tells that `epoch` is in use out there: if this replica leads, it writes a higher one to the
    /// Lease and then serves by that. Returns at once; [`Election::watch`] shows the result.
    pub fn demand(&self, epoch: u64) {
        // A full queue holds demands that lead to another look at the highest anyway; the agent
        // that made this one asks again.
        if self.demands.try_send(epoch).is_err() {
            debug!(epoch, "a demand for a higher epoch was not queued");
        }
    }
}

/// Runs for one Lease.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    candidate: Candidate,
    state: State,
    lease: Option<Lease>,
    start: Instant,
    leadership: watch::Sender<Leadership>,
    demands: mpsc::Receiver<u64>,
}

impl Elector {
    /// A candidate that has not begun, and the handle on it.
    #[must_use]
    pub fn new(client: Client, candidate: Candidate) -> (Self, Election) {
        let (leadership, seen) = watch::channel(Leadership::Following { leader: None });
        // Demands are told apart by their maximum only; 16 are as good as any number.
        let (demand, demands) = mpsc::channel(16);
        let elector = Self {
            api: Api::namespaced(client, &candidate.namespace),
            state: State::new(candidate.identity.clone(), candidate.timing),
            candidate,
            lease: None,
            start: Instant::now(),
            leadership,
            demands,
        };
        (
            elector,
            Election {
                leadership: seen,
                demands: demand,
            },
        )
    }

    /// Takes part until `shutdown` is cancelled, then gives the Lease back if it is held.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            match evaluate(&self.state, self.start.elapsed()) {
                Step::Wait { until } => tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep_until(self.start + until) => {}
                    Some(epoch) = self.demands.recv() => self.state.demand(epoch),
                },
                // Requests are not cut short by a shutdown: whether a write was done must be known
                // to give the Lease back. Each has a limit.
                Step::Read => self.read().await,
                Step::Create { epoch } => self.write(epoch, Verb::Create).await,
                Step::Acquire { epoch } | Step::Renew { epoch } => {
                    self.write(epoch, Verb::Replace).await;
                }
                Step::StepDown => {
                    warn!(lease = self.candidate.lease, "the lease was lost");
                    self.state.stepped_down();
                }
            }
            self.publish();
        }
        self.release().await;
    }

    /// The time a request may take: never past a leader's deadline.
    fn limit(&self) -> Duration {
        let attempt = self.candidate.timing.attempt;
        match self.state.role {
            Role::Leader { renewed, .. } => {
                let end = renewed + self.candidate.timing.deadline;
                attempt.min(end.saturating_sub(self.start.elapsed()))
            }
            Role::Follower => attempt,
        }
    }

    async fn read(&mut self) {
        let sent = self.start.elapsed();
        let request = self.api.get_opt(&self.candidate.lease);
        match timely("reading the lease", self.limit(), request).await {
            Ok(lease) => {
                self.state
                    .observed(lease.as_ref().map(facts), self.start.elapsed());
                self.lease = lease;
            }
            Err(error) => {
                self.complain(&error);
                self.state.read_failed(sent);
            }
        }
    }

    async fn write(&mut self, epoch: u64, verb: Verb) {
        let sent = self.start.elapsed();
        let limit = self.limit();
        let lease = self.desired(epoch);
        let params = PostParams::default();
        let answer = match verb {
            Verb::Create => {
                timely(
                    "creating the lease",
                    limit,
                    self.api.create(&params, &lease),
                )
                .await
            }
            Verb::Replace => {
                let name = self.candidate.lease.as_str();
                timely(
                    "writing the lease",
                    limit,
                    self.api.replace(name, &params, &lease),
                )
                .await
            }
        };
        match answer {
            Ok(lease) => {
                if !matches!(self.state.role, Role::Leader { epoch: old, .. } if old == epoch) {
                    info!(lease = self.candidate.lease, epoch, "leading");
                }
                self.state
                    .wrote(epoch, sent, Outcome::Written, Some(facts(&lease)));
                self.lease = Some(lease);
            }
            Err(error) => {
                let outcome = if let Some(404 | 409) = error.status() {
                    Outcome::Conflict
                } else {
                    self.complain(&error);
                    Outcome::Failed
                };
                self.state.wrote(epoch, sent, outcome, None);
            }
        }
    }

    fn complain(&self, error: &CallError) {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        warn!(lease = self.candidate.lease, %error, cause, "an attempt at the lease failed");
    }

    /// The Lease with us as its holder, made from the one that was read so that a change by
    /// another since then is a conflict.
    fn desired(&self, epoch: u64) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut lease = self.lease.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.candidate.lease.clone()),
                namespace: Some(self.candidate.namespace.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        if matches!(
            self.state.lease,
            Knowledge::Absent { .. } | Knowledge::Unknown
        ) {
            lease.metadata.resource_version = None;
            lease.metadata.uid = None;
        }
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        let me = self.candidate.identity.clone();
        if spec.holder_identity.as_ref() != Some(&me) {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
            spec.acquire_time = Some(now.clone());
        }
        spec.holder_identity = Some(me);
        spec.lease_duration_seconds =
            Some(i32::try_from(self.candidate.timing.lease.as_secs()).unwrap_or(i32::MAX));
        spec.renew_time = Some(now);
        let annotations = lease.metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(EPOCH_ANNOTATION.to_owned(), epoch.to_string());
        if self.candidate.address.is_empty() {
            annotations.remove(ADDRESS_ANNOTATION);
        } else {
            annotations.insert(
                ADDRESS_ANNOTATION.to_owned(),
                self.candidate.address.clone(),
            );
        }
        lease
    }

    fn publish(&self) {
        let next = match self.state.role {
            Role::Leader { epoch, renewed } => Leadership::Leading {
                epoch,
                valid_until: self.start + renewed + self.candidate.timing.deadline,
            },
            Role::Follower => Leadership::Following {
                leader: self.leader_address(),
            },
        };
        self.leadership.send_if_modified(|current| {
            let changed = *current != next;
            *current = next;
            changed
        });
    }

    fn leader_address(&self) -> Option<String> {
        match &self.state.lease {
            Knowledge::Present { facts, since } => {
                let held = facts
                    .holder
                    .as_deref()
                    .is_some_and(|holder| !holder.is_empty());
                let ours = facts.holder.as_deref() == Some(self.candidate.identity.as_str());
                let alive = self.start.elapsed() < *since + facts.duration;
                facts.address.clone().filter(|_| held && alive && !ours)
            }
            _ => None,
        }
    }

    /// Gives the Lease back, so that another need not wait; the epoch stays in it.
    async fn release(mut self) {
        let leading = matches!(self.state.role, Role::Leader { .. });
        self.state.stepped_down();
        self.publish();
        let Some(mut lease) = self.lease.take().filter(|_| leading) else {
            return;
        };
        if let Some(annotations) = &mut lease.metadata.annotations {
            annotations.remove(ADDRESS_ANNOTATION);
        }
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let params = PostParams::default();
        let write = self.api.replace(&self.candidate.lease, &params, &lease);
        match timely(
            "giving the lease back",
            self.candidate.timing.attempt,
            write,
        )
        .await
        {
            Ok(_) => info!(lease = self.candidate.lease, "gave the lease back"),
            Err(error) => self.complain(&error),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Verb {
    Create,
    Replace,
}

fn facts(lease: &Lease) -> LeaseFacts {
    let spec = lease.spec.clone().unwrap_or_default();
    let annotation = |name: &str| {
        lease
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(name))
    };
    let seconds = spec
        .lease_duration_seconds
        .and_then(|s| u64::try_from(s).ok())
        .unwrap_or(15);
    LeaseFacts {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        address: annotation(ADDRESS_ANNOTATION).cloned(),
        epoch: annotation(EPOCH_ANNOTATION)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        duration: Duration::from_secs(seconds).min(LONGEST_LEASE),
        beat: format!(
            "{}/{}",
            lease
                .metadata
                .resource_version
                .as_deref()
                .unwrap_or_default(),
            spec.renew_time
                .map(|time| time.0.to_string())
                .unwrap_or_default()
        ),
    }
}
