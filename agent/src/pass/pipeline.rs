//! A pass's part in the integration bridge: its flows and groups, the ids they carry, and the saved commit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use carrick_api::names::link;
use carrick_datapath::{Commit, Desired, IdLedger, Kind, NodeState, Pod, recover_ids, render};
use carrick_openflow::State;
use carrick_ovsdb::desired::PortError;
use tracing::{debug, warn};

use super::PassError;
use crate::flows::FlowDriver;
use crate::ipam::{Attachment, AttachmentKey};
use crate::journal::{JournalError, write_atomically};
use crate::ledgerfile::LedgerFile;
use crate::node::Node;
use crate::plan::NodePlan;
use crate::policy::driver::{Closed, PolicyDriver};
use crate::records::{Committed, RecordStore};
use crate::services::driver::{Parts, ServiceDriver, Synced};
use carrick_k8s::telemetry::chain;

/// Pods whose ports are open, by the key the pipeline knows them by.
pub(super) type OpenPods = BTreeMap<String, OpenPod>;

/// One of them.
#[derive(Debug)]
pub(super) struct OpenPod {
    pub(super) attachment: Arc<Attachment>,
    /// As the pipeline sees it.
    pub(super) pod: Pod,
    /// The UID its record has.
    pub(super) uid: Arc<str>,
}

/// What is in the bridge now.
#[derive(Debug, Default)]
pub struct Programmed {
    /// Modifications sent to the switch.
    pub changed: usize,
    /// Flows in the switch.
    pub flows: usize,
    /// Groups in the switch.
    pub groups: usize,
    /// Pods whose ports are open.
    pub pods: usize,
    /// Each wanted attachment that has a record: its port carries packets, or why not.
    pub ports: BTreeMap<AttachmentKey, Result<(), String>>,
    /// What is not as it must be.
    pub problems: Vec<String>,
}

/// What was rendered last, and from what. Most passes find nothing changed: they come because time
/// has passed, or by an attachment that has no record yet.
#[derive(Debug)]
struct Rendered {
    state: NodeState,
    ledger: IdLedger,
    desired: Desired,
    /// The same in the switch's own types.
    target: State,
    /// The saved commit is on disk.
    saved: bool,
}

/// What the integration bridge holds, and how it is changed.
#[derive(Debug)]
pub struct Pipeline {
    boot_id: String,
    commit_file: PathBuf,
    pub(crate) flows: FlowDriver,
    pub(crate) services: ServiceDriver,
    pub(crate) policy: PolicyDriver,
    ledger: IdLedger,
    ledger_file: LedgerFile,
    rendered: Option<Rendered>,
}

impl Pipeline {
    /// Nothing is rendered yet; `ledger` is what the file has.
    pub(crate) fn new(
        node: &Node,
        flows: FlowDriver,
        (ledger_file, ledger): (LedgerFile, IdLedger),
        services: ServiceDriver,
        policy: PolicyDriver,
    ) -> Self {
        Self {
            boot_id: node.boot_id.clone(),
            commit_file: node.paths.commit(),
            flows,
            services,
            policy,
            ledger,
            ledger_file,
            rendered: None,
        }
    }

    /// Whether this process has rendered the pipeline for the switch that runs.
    pub(super) const fn is_rendered(&self) -> bool {
        self.rendered.is_some()
    }

    /// Another start of the switch: what it holds is not known, and `carrick switch` may have set the
    /// saved commit aside.
    pub(super) fn forget(&mut self) {
        self.flows.forget();
        self.rendered = None;
    }

    /// Programs what is wanted before the ports are made that it speaks of, where the bridge is known;
    /// nothing otherwise, or when it fails: the pass does it in its turn, and tells.
    ///
    /// Open vSwitch takes a bundle in a millisecond or two, but not while it looks through all its ports
    /// because there is a new one: with 250 of them a bundle waits 20 ms for that.
    pub(super) async fn program_ahead(
        &mut self,
        plan: &NodePlan,
        state: &NodeState,
        open: &OpenPods,
    ) -> Option<Programmed> {
        self.rendered.as_ref()?;
        let none = BTreeMap::new();
        let ahead = self.program(plan, state.clone(), open, &none).await;
        ahead
            .inspect_err(|error| debug!(error = chain(error), "not programmed ahead"))
            .ok()
    }

    /// Renders and programs the integration bridge, without the pods whose ports have failed.
    pub(super) async fn program(
        &mut self,
        plan: &NodePlan,
        mut state: NodeState,
        open: &OpenPods,
        failed: &BTreeMap<String, PortError>,
    ) -> Result<Programmed, PassError> {
        let mut report = Programmed::default();
        let mut connected = BTreeMap::new();
        for (key, open) in open {
            let attachment = &open.attachment;
            let outcome = match failed.get(&attachment.host_link) {
                Some(error) => Err(error.to_string()),
                None => Ok(()),
            };
            let has_been_open = PolicyDriver::has_been_open(&self.ledger, key);
            let outcome = match (outcome, self.policy.admits(&open.uid, has_been_open)) {
                // As one that has no record yet.
                (Ok(()), Err(Closed::NotTold)) => {
                    state.pods.remove(key);
                    continue;
                }
                (Ok(()), Err(closed)) => Err(closed.to_string()),
                (outcome, _) => outcome,
            };
            match &outcome {
                Ok(()) => drop(connected.insert(Arc::clone(&open.uid), open.pod)),
                Err(_) => drop(state.pods.remove(key)),
            }
            report.ports.insert(attachment.key.clone(), outcome);
        }
        self.policy.connect(connected);
        let rendering = |reason: String| PassError::Render { reason };
        let mut ledger = self.ledger.clone();
        let mut looked = false;
        if self.policy.must_read(&self.flows) {
            self.flows.read_again();
        }
        if let Some(dumped) = self.flows.fresh_dump().await? {
            looked = true;
            let recovered = recover_ids(&state, &mut ledger, dumped)
                .map_err(|error| rendering(chain(&error)))?;
            if recovered > 0 {
                warn!(recovered, "ids were recovered from the switch");
            }
        }
        let pods = state.pods.len();
        let mut rendered = match self.rendered.take() {
            Some(last) if last.state == state && last.ledger == ledger => last,
            last => {
                let desired =
                    render(&state, &mut ledger).map_err(|error| rendering(chain(&error)))?;
                let target = match last {
                    Some(last) => desired.to_switch_after(&last.desired, &last.target),
                    None => desired.to_switch(),
                };
                let target = target.map_err(|error| rendering(chain(&error)))?;
                Rendered {
                    state,
                    ledger,
                    desired,
                    target,
                    saved: false,
                }
            }
        };
        let desired = &rendered.desired;
        for left_out in &desired.left_out {
            let owner = open.get(&left_out.pod).map(|open| &open.attachment);
            if let Some(attachment) = owner {
                report
                    .ports
                    .insert(attachment.key.clone(), Err(left_out.reason.clone()));
            }
            report
                .problems
                .push(format!("{}: {}", left_out.pod, left_out.reason));
        }
        // An id must be on disk before a flow carries it.
        let ledger = &rendered.ledger;
        self.ledger_file.write(ledger).map_err(PassError::Save)?;
        self.ledger.clone_from(ledger);
        report.flows = rendered.target.flows.len();
        report.groups = rendered.target.groups.len();
        report.pods = pods - desired.left_out.len();
        let policy = self.policy.changes(&mut self.flows);
        let policy = policy.map_err(|error| rendering(chain(&error)))?;
        let changed = !policy.is_empty();
        report.changed = self.flows.sync(&rendered.target, policy).await?;
        self.policy.acknowledged(&self.flows, &mut self.ledger);
        rendered.saved &= !changed;
        // Somebody may have removed it, as they may have removed flows.
        if looked || !rendered.saved {
            let bridge = link::INTEGRATION_BRIDGE;
            let mut commit = desired.to_commit(&self.boot_id, plan.datapath, bridge);
            let added = self.policy.add_to(&mut commit);
            added.map_err(|error| rendering(chain(&error)))?;
            self.services.lines().add_to(&mut commit);
            self.save(&commit).map_err(PassError::Save)?;
            rendered.saved = true;
        }
        // What is gone has left the switch: its id may be forgotten.
        let state = &rendered.state;
        self.ledger
            .retain(Kind::Pod, |key| state.pods.contains_key(key));
        self.ledger
            .retain(Kind::Peer, |key| state.peers.contains_key(key));
        // By what the ledger keeps, the next pass compares.
        rendered.ledger.clone_from(&self.ledger);
        self.rendered = Some(rendered);
        Ok(report)
    }

    /// Takes what the controller has told since the last pass. Its policies get their ids now, and their flows
    /// when the pipeline is programmed.
    pub(super) fn learn(&mut self, records: &RecordStore) -> Arc<Committed> {
        let committed = self.policy.learn(records, &mut self.ledger);
        if let Some(rendered) = &mut self.rendered {
            // The pipeline has nothing of policies' ids.
            rendered.ledger.clone_from(&self.ledger);
        }
        committed
    }

    /// Gives the switch one batch of changes of Services, where the pipeline is there that leads to them. The
    /// saved commit follows with the next pass, so not more often than those come.
    pub(crate) async fn sync_services(&mut self) {
        let Some(rendered) = &mut self.rendered else {
            return;
        };
        let parts = Parts {
            flows: &mut self.flows,
            ledger: &mut self.ledger,
            ledger_file: &mut self.ledger_file,
        };
        // What is wrong is in the driver's fact.
        if self.services.sync(parts).await.ok() == Some(Synced::Changed) {
            rendered.saved = false;
        }
        // By what the ledger keeps, the next pass compares. Most changes of endpoints need no id.
        if rendered.ledger != self.ledger {
            rendered.ledger.clone_from(&self.ledger);
        }
    }

    /// Writes the saved commit, unless the file has it. It is small next to a bundle.
    fn save(&mut self, commit: &Commit) -> Result<(), JournalError> {
        let path = self.commit_file.clone();
        let encode = |source| JournalError::Encode {
            path: path.clone(),
            source,
        };
        let bytes = commit.to_bytes().map_err(encode)?;
        if std::fs::read(&path).is_ok_and(|held| held == bytes) {
            return Ok(());
        }
        debug!(bytes = bytes.len(), "saving the commit");
        write_atomically(&path, &bytes)
    }

    /// Removes the connection entries of pods that are gone, so that their addresses can be used
    /// again.
    pub(super) async fn flush(&mut self, detach: &[Arc<Attachment>]) -> Result<(), String> {
        let addresses: BTreeSet<IpAddr> = detach
            .iter()
            .flat_map(|attachment| attachment.addresses.iter().copied())
            .collect();
        if addresses.is_empty() {
            return Ok(());
        }
        self.flows
            .flush_connections(&addresses)
            .await
            .map_err(|error| chain(&error))
    }
}
