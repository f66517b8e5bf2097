//! The driver: takes what was committed, says what the switch must be told, and compares when the switch is read.
//! The pipeline sends it (`pass/pipeline`), because ports open in the same bundle.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use carrick_datapath::policy::{Connected, Enforcer};
use carrick_datapath::{Commit, IdLedger, Kind, Pod, of_policy};
use carrick_k8s::telemetry::{chain, some};
use carrick_openflow::{Flow, MatchError, Mod};
use carrick_policy::NodeUpdate;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::counters::{Counts, EVERY, Totals, by_rule};
use super::explain::explain;
use super::groups;
use super::view::{Query, answer};
use crate::flows::FlowDriver;
use crate::records::{Committed, RecordStore};
use crate::status::Fact;

/// Comparing all of policy with the switch when nothing happened takes at most one part of so many of the time.
const COMPARING: u32 = 100;
/// Policies that a condition names.
const NAMED: usize = 10;

/// Policy of this node and what the switch holds of it.
#[derive(Debug)]
pub(crate) struct PolicyDriver {
    enforcer: Enforcer,
    /// Pods whose ports are open.
    connected: BTreeMap<Arc<str>, Connected>,
    /// The controller has told all of its records once.
    whole: bool,
    /// The session by which the switch was read and told.
    adopted: Option<u64>,
    /// Ids of what is gone may be in the ledger.
    ids_to_retain: bool,
    /// When everything was compared last, and what that took.
    compared: (Instant, Duration),
    /// What the last saved commit had of policy, until all is known.
    kept: Option<Vec<String>>,
    /// Why policies have no ids.
    error: Option<String>,
    queries: mpsc::Receiver<Query>,
    /// When the switch is asked for its counts although nobody asks.
    count_at: Instant,
}

/// What [`PolicyDriver::next`] waited for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A question of the read API.
    Query(Query),
    /// It is time to count.
    Count,
}

impl PolicyDriver {
    /// A driver that knows nothing yet; `commit` is the saved commit's file.
    pub(crate) fn new(commit: &Path, queries: mpsc::Receiver<Query>) -> Self {
        Self {
            enforcer: Enforcer::default(),
            connected: BTreeMap::new(),
            whole: false,
            adopted: None,
            ids_to_retain: false,
            compared: (Instant::now(), Duration::ZERO),
            kept: Some(lines_of_file(commit)),
            error: None,
            queries,
            count_at: Instant::now() + EVERY,
        }
    }

    /// Takes what was committed since it was asked for last, and returns all that is committed.
    pub(crate) fn learn(&mut self, records: &RecordStore, ledger: &mut IdLedger) -> Arc<Committed> {
        let (committed, update) = records.take();
        if committed.is_whole() && !self.whole {
            // What the switch holds of policy is compared from now on, and no longer left alone.
            self.whole = true;
            self.kept = None;
        }
        if update == NodeUpdate::default() && self.enforcer.waiting().next().is_none() {
            return committed;
        }
        let error = self.enforcer.apply(update, ledger).err();
        let error = error.map(|error| chain(&error));
        if let Some(text) = error
            .as_ref()
            .filter(|text| self.error.as_ref() != Some(text))
        {
            warn!(error = text, "policies have no ids");
        }
        self.error = error;
        committed
    }

    /// Whether a pod's port may be open: the policies for it can be in the switch. `has_been_open` counts where
    /// it is not known yet whether all policies were told.
    pub(crate) fn admits(&self, uid: &str, has_been_open: bool) -> Result<(), Closed> {
        if !self.whole {
            return if has_been_open {
                Ok(())
            } else {
                Err(Closed::NotTold)
            };
        }
        match self.enforcer.lacks(uid) {
            None => Ok(()),
            Some(policy) => Err(Closed::NoId {
                policy: policy.to_string(),
            }),
        }
    }

    /// The pods whose ports are to be open, by UID.
    pub(crate) fn connect(&mut self, open: BTreeMap<Arc<str>, Pod>) {
        let gone: Vec<Arc<str>> = self
            .connected
            .keys()
            .filter(|uid| !open.contains_key(*uid))
            .cloned()
            .collect();
        for uid in gone {
            self.connected.remove(&uid);
            self.enforcer.disconnect(&uid);
        }
        for (uid, pod) in open {
            let pod = Connected {
                port: pod.port,
                addresses: pod.addresses,
            };
            if self.connected.insert(Arc::clone(&uid), pod) != Some(pod) {
                self.enforcer.connect(&uid, pod);
            }
        }
    }

    /// Whether the switch must be read before [`Self::changes`] can be told.
    pub(crate) fn must_read(&self, flows: &FlowDriver) -> bool {
        self.whole && !self.is_adopted(flows) && !flows.has_policy()
    }

    fn is_adopted(&self, flows: &FlowDriver) -> bool {
        self.adopted.is_some() && self.adopted == flows.admitted()
    }

    /// What the switch must be told, in one bundle with the ports that open and close. Until it is
    /// [acknowledged](Self::acknowledged) the switch counts as unknown.
    ///
    /// # Errors
    /// A flow cannot be written.
    pub(crate) fn changes(&mut self, flows: &mut FlowDriver) -> Result<Vec<Mod>, MatchError> {
        if !self.whole {
            return Ok(Vec::new());
        }
        let known = self.is_adopted(flows);
        // Whatever fails from here on.
        self.adopted = None;
        let (when, cost) = self.compared;
        let due = when.elapsed() >= cost * COMPARING;
        let dumped = flows.take_policy().filter(|_| !known || due);
        let Some(dumped) = dumped else {
            return self.enforcer.changes();
        };
        let begin = Instant::now();
        let held = dumped.len();
        let changes = self.enforcer.difference(dumped)?;
        self.compared = (Instant::now(), begin.elapsed());
        if !known {
            info!(
                held,
                changes = changes.len(),
                "compared policy with what the switch holds"
            );
            self.ids_to_retain = true;
        }
        Ok(changes)
    }

    /// The switch holds all that [`Self::changes`] said.
    pub(crate) fn acknowledged(&mut self, flows: &FlowDriver, ledger: &mut IdLedger) {
        if !self.whole {
            return;
        }
        self.adopted = flows.admitted();
        self.enforcer.release(ledger);
        if std::mem::take(&mut self.ids_to_retain) {
            self.enforcer.retain_ids(ledger);
        }
    }

    /// Adds policy's part to the saved commit.
    ///
    /// # Errors
    /// A flow cannot be written.
    pub(crate) fn add_to(&mut self, commit: &mut Commit) -> Result<(), MatchError> {
        match &self.kept {
            Some(kept) => commit.flows.extend(kept.iter().cloned()),
            None => commit
                .flows
                .extend(self.enforcer.lines()?.map(str::to_owned)),
        }
        Ok(())
    }

    /// Waits for a question of the read API, or until it is time to count.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            Some(query) = self.queries.recv() => Asked::Query(query),
            () = tokio::time::sleep_until(self.count_at) => Asked::Count,
        }
    }

    /// Answers it, and adds to `totals` what the switch has counted.
    pub(crate) async fn answer(&mut self, asked: Asked, flows: &FlowDriver, totals: &Totals) {
        let counts = match &asked {
            Asked::Query(Query::Policies { .. }) | Asked::Count => self.count(flows, totals).await,
            Asked::Query(_) => None,
        };
        let Asked::Query(query) = asked else { return };
        // Who asked may have gone.
        match query {
            Query::Policies { asked, reply } => {
                let answer = answer(&self.enforcer, self.whole, &asked, counts.as_ref());
                let _ = reply.send(answer);
            }
            Query::Groups {
                asked,
                group,
                reply,
            } => {
                let state = self.enforcer.state();
                let _ = reply.send(groups::answer(state, self.whole, &asked, group.as_deref()));
            }
            Query::Explain { question, reply } => {
                let _ = reply.send(explain(&self.enforcer, &question));
            }
        }
    }

    /// What the switch has counted; nothing while it is away.
    async fn count(&mut self, flows: &FlowDriver, totals: &Totals) -> Option<Counts> {
        self.count_at = Instant::now() + EVERY;
        if self.len() == 0 {
            return Some(Counts::new());
        }
        match flows.of_rules().await {
            Ok(read) => {
                let counts = by_rule(&read);
                totals.add(&counts, &self.enforcer);
                Some(counts)
            }
            Err(error) => {
                debug!(
                    error = chain(&error),
                    "the switch's counts of rules are not known"
                );
                None
            }
        }
    }

    /// How many policies are known.
    pub(crate) fn len(&self) -> usize {
        self.enforcer.state().policies.len()
    }

    /// What is to be said of policy.
    pub(crate) fn fact(&self) -> Fact {
        if !self.whole {
            let text = "the controller has not told all policies of this node's pods yet; those that were enforced \
                        before are, and no other pod's port is opened";
            return Fact::unknown("WaitingForController", text);
        }
        let waiting: Vec<String> = self.enforcer.waiting().map(ToString::to_string).collect();
        if waiting.is_empty() {
            let text = "the policies of this node's pods are in the switch as they were asked for";
            return Fact::holds("Enforced", text);
        }
        let waiting: Vec<&str> = waiting.iter().map(String::as_str).collect();
        let error = self.error.as_deref().unwrap_or_default();
        let text = format!(
            "pods are closed because a policy for them cannot be enforced: {} ({error})",
            some(&waiting, NAMED)
        );
        Fact::fails("NoId", text)
    }

    /// Whether a pod has been open in this boot: its port has an id then.
    pub(crate) fn has_been_open(ledger: &IdLedger, key: &str) -> bool {
        ledger.get(Kind::Pod, key).is_some()
    }
}

/// Why a pod's port stays closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Closed {
    /// It is not known which policies are for it.
    #[error("the controller has not told all policies yet")]
    NotTold,
    /// A policy for it is not in the switch.
    #[error("{policy}, which is for it, has no id on this node and cannot be enforced")]
    NoId {
        /// Which one.
        policy: String,
    },
}

/// What the file at `path` holds of policy; nothing where there is no commit, or none that can be read: then the
/// switch has nothing to replay either.
fn lines_of_file(path: &Path) -> Vec<String> {
    let commit = std::fs::read(path).ok();
    let commit = commit.and_then(|bytes| Commit::from_bytes(&bytes).ok());
    let apart = of_policy();
    let is_policy = |line: &String| {
        let flow = line.parse::<Flow>();
        flow.is_ok_and(|flow| apart.contains(&flow))
    };
    let lines = commit.into_iter().flat_map(|commit| commit.flows);
    lines.filter(is_policy).collect()
}
