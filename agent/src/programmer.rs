//! The programmer: the one task that writes to the switch and to the host's network stack.
//!
//! Whatever changed (a batch of records, an attachment, the switch's start, somebody's hand on a
//! route), it does the same: compute everything that must be, and make the world equal to it by
//! difference. Requests that arrive together are answered by one pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use carrick_api::agentinfo::condition;
use carrick_api::names::link;
use carrick_k8s::health::Health;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cni::network::PortError;
use crate::flows::FlowDriver;
use crate::host::Host;
use crate::ipam::{Attachment, AttachmentKey, AttachmentState};
use crate::ledgerfile::LedgerFile;
use crate::node::{Node, Realized};
use crate::otherswitch::OtherSwitch;
use crate::pass::{PassError, PassReport, Pipeline};
use crate::plan::NodePlan;
use crate::policy::driver::PolicyDriver;
use crate::policy::view::Query;
use crate::services::driver::{Inlets, ServiceDriver};
use crate::status::Fact;
use crate::switchdb::SwitchDriver;

/// How often the world is looked at when nothing happens. What was adopted from the kernel and what a
/// failed request has left is found then, too; an attachment that comes or goes asks by a request.
const TICK: Duration = Duration::from_secs(2);
/// First and longest pause after a pass that failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A pass that takes longer than this means that the agent hangs.
const LIVENESS: Duration = Duration::from_mins(3);
/// Name of the readiness check.
pub const DATAPATH_CHECK: &str = "datapath";

/// What the programmer is asked.
#[derive(Debug)]
pub enum Request {
    /// Make an attachment's port carry packets.
    Attach {
        /// The attachment, in state `Adding`.
        attachment: Arc<Attachment>,
        /// Answered when its flows are committed.
        reply: oneshot::Sender<Result<(), PortError>>,
    },
    /// Remove the ports of attachments.
    Detach {
        /// The attachments.
        attachments: Vec<Arc<Attachment>>,
        /// Answered when nothing of them is left in the switch.
        reply: oneshot::Sender<Result<(), PortError>>,
    },
    /// Say whether an attachment's port and flows are in place.
    Check {
        /// The attachment.
        attachment: Arc<Attachment>,
        /// The answer.
        reply: oneshot::Sender<Result<(), PortError>>,
    },
    /// Apply the port mappings of all attachments.
    PortMappings {
        /// Answered when the kernel has them.
        reply: oneshot::Sender<Result<(), PortError>>,
    },
}

/// The programmer's state between passes.
#[derive(Debug)]
pub struct Programmer {
    pub(crate) node: Arc<Node>,
    pub(crate) host: Host,
    pub(crate) switch: SwitchDriver,
    pub(crate) pipeline: Pipeline,
    pub(crate) other_switch: OtherSwitch,
    /// Attachments whose port is wanted: `Ready` ones and those whose ADD has made its link.
    pub(crate) attached: BTreeSet<AttachmentKey>,
    /// The last plan that could be made.
    pub(crate) plan: Option<NodePlan>,
    pub(crate) host_state: crate::pass::HostState,
    health: Health,
    requests: mpsc::Receiver<Request>,
}

impl Programmer {
    /// A programmer that has done nothing yet.
    pub fn new(
        node: Arc<Node>,
        host: Host,
        ledger: (LedgerFile, carrick_datapath::IdLedger),
        health: Health,
        requests: mpsc::Receiver<Request>,
        services: Inlets,
        policy_queries: mpsc::Receiver<Query>,
    ) -> Self {
        let attached = node
            .attachments
            .attachments()
            .values()
            .filter(|attachment| attachment.state == AttachmentState::Ready)
            .map(|attachment| attachment.key.clone())
            .collect();
        health.unready(DATAPATH_CHECK, "the switch is not programmed yet");
        let services = ServiceDriver::new(&node, services, &host);
        let policy = PolicyDriver::new(&node.paths.commit(), policy_queries);
        let management = node.paths.management(link::INTEGRATION_BRIDGE);
        Self {
            switch: SwitchDriver::new(node.paths.database()),
            pipeline: Pipeline::new(&node, FlowDriver::new(management), ledger, services, policy),
            other_switch: OtherSwitch::new(&node.paths),
            node,
            host,
            attached,
            plan: None,
            host_state: crate::pass::HostState::default(),
            health,
            requests,
        }
    }

    /// Runs until `shutdown`, or until nobody can ask any more. Leaves the switch as it is.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut committed = self.node.committed.subscribe();
        let mut links = self.node.links_changed.subscribe();
        let mut database = self.switch.connection();
        let mut batch: Vec<Request> = Vec::new();
        let mut failures = 0_u32;
        let mut next = Instant::now();
        loop {
            self.health.beat("programmer", LIVENESS);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                request = self.requests.recv() => match request {
                    Some(request) => batch.push(request),
                    None => break,
                },
                changed = committed.changed() => if changed.is_err() { break },
                changed = links.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.host.forget_links();
                    // Without its ports the switch is away. It says itself when it is back, and a pass that
                    // waits for them now would only be late then.
                    if !self.host.has_gateway().await {
                        continue;
                    }
                }
                _ = database.changed() => {}
                () = self.pipeline.flows.reconnected() => {}
                () = tokio::time::sleep_until(next) => {}
                asked = self.pipeline.policy.next() => {
                    let Pipeline { policy, flows, .. } = &mut self.pipeline;
                    policy.answer(asked, flows, &self.node.policy_totals).await;
                    continue;
                }
                // Last, so that endpoints that come and go without a pause keep nothing else waiting.
                event = self.pipeline.services.next() => {
                    // Neither links nor ports nor the host are concerned.
                    if self.pipeline.services.take(event) {
                        self.sync_services().await;
                    }
                    continue;
                }
            }
            while batch.len() < crate::node::REQUESTS
                && let Ok(request) = self.requests.try_recv()
            {
                batch.push(request);
            }
            committed.mark_unchanged();
            if links.has_changed().unwrap_or(true) {
                self.host.forget_links();
            }
            links.mark_unchanged();
            let (attach, detach) = wanted(&batch);
            let result = self.pass(&attach, &detach).await;
            failures = if result.is_ok() {
                0
            } else {
                failures.saturating_add(1)
            };
            next = Instant::now() + pause(failures);
            self.report(&result);
            for request in batch.drain(..) {
                self.answer(request, &result).await;
            }
        }
        self.health.rest("programmer");
        self.pipeline.flows.end().await;
        info!("the programmer has ended; the switch keeps forwarding");
    }

    async fn answer(&mut self, request: Request, result: &Result<PassReport, PassError>) {
        // A caller that has gone away does not care.
        match request {
            Request::Attach { attachment, reply } | Request::Check { attachment, reply } => {
                let _ = reply.send(attached(&attachment, result));
            }
            Request::Detach { attachments, reply } => {
                let answer = match result {
                    Ok(report) => match &report.flush_error {
                        None => Ok(()),
                        Some(reason) => Err(PortError::NotReady {
                            reason: reason.clone(),
                        }),
                    },
                    // No plan, so no flows of ours were changed: the ports alone can go.
                    Err(PassError::NoPlan(_)) => self.remove_ports(&attachments).await,
                    Err(error) => Err(not_ready(error)),
                };
                let _ = reply.send(answer);
            }
            Request::PortMappings { reply } => {
                let answer = match result {
                    Ok(report) => match &report.table_error {
                        None => Ok(()),
                        Some(reason) => Err(PortError::NotReady {
                            reason: reason.clone(),
                        }),
                    },
                    Err(error) => Err(not_ready(error)),
                };
                let _ = reply.send(answer);
            }
        }
    }

    async fn remove_ports(&mut self, attachments: &[Arc<Attachment>]) -> Result<(), PortError> {
        for attachment in attachments {
            if let Err(error) = self.switch.remove_port(&attachment.host_link).await {
                return Err(PortError::NotReady {
                    reason: error.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Writes the outcome of a pass where everybody reads it.
    fn report(&self, result: &Result<PassReport, PassError>) {
        let node = &self.node;
        match result {
            Ok(report) => {
                self.health.ready(DATAPATH_CHECK);
                let programmed = &report.programmed;
                if programmed.changed > 0 {
                    info!(
                        changes = programmed.changed,
                        flows = programmed.flows,
                        number = %report.number,
                        "programmed"
                    );
                }
                for error in report.problems() {
                    warn!(error, "a part of the node could not be made as it must be");
                }
                node.board.set(
                    condition::DATAPATH_READY,
                    Fact::holds("Programmed", "the last commit is in the switch"),
                );
                let realized = Realized {
                    number: report.number,
                    error: None,
                };
                node.realized
                    .send_if_modified(|held| replace(held, realized));
                node.board.update(|board| {
                    board.flows = programmed.flows;
                    board.groups = programmed.groups;
                    board.pods = programmed.pods;
                    board.realized = report.number;
                    board.last_error = report.problems().next().cloned().unwrap_or_default();
                });
            }
            Err(error) => {
                let text = carrick_k8s::telemetry::chain(error);
                debug!(error = text, "not programmed");
                if node.board.report().last_error != text {
                    warn!(error = text, "the switch could not be programmed");
                }
                // What was programmed goes on forwarding: an agent that was ready stays so while
                // it only has nothing newer to program.
                if !error.is_local() || self.plan.is_none() {
                    self.health.unready(DATAPATH_CHECK, text.clone());
                }
                node.board.set(
                    condition::DATAPATH_READY,
                    Fact::fails(error.reason(), text.clone()),
                );
                let number = node.committed().number();
                let realized = Realized {
                    number,
                    error: Some(text.clone()),
                };
                node.realized
                    .send_if_modified(|held| replace(held, realized));
                node.board.update(|board| board.last_error = text);
            }
        }
    }
}

fn replace(held: &mut Realized, new: Realized) -> bool {
    let changed = *held != new;
    *held = new;
    changed
}

fn not_ready(error: &PassError) -> PortError {
    PortError::NotReady {
        reason: carrick_k8s::telemetry::chain(error),
    }
}

fn attached(
    attachment: &Attachment,
    result: &Result<PassReport, PassError>,
) -> Result<(), PortError> {
    match result {
        Ok(report) => match report.programmed.ports.get(&attachment.key) {
            Some(Ok(())) => Ok(()),
            Some(Err(reason)) => Err(PortError::Refused {
                port: attachment.host_link.clone(),
                source: reason.clone().into(),
            }),
            None => Err(PortError::NotReady {
                reason: format!("no record allows traffic of pod {} yet", attachment.pod),
            }),
        },
        Err(error) => Err(not_ready(error)),
    }
}

/// Which ports the requests want and which they want gone.
fn wanted(
    batch: &[Request],
) -> (
    BTreeMap<AttachmentKey, Arc<Attachment>>,
    Vec<Arc<Attachment>>,
) {
    let mut attach = BTreeMap::new();
    let mut detach = Vec::new();
    for request in batch {
        match request {
            Request::Attach { attachment, .. } => {
                attach.insert(attachment.key.clone(), Arc::clone(attachment));
            }
            Request::Detach { attachments, .. } => {
                for attachment in attachments {
                    attach.remove(&attachment.key);
                    detach.push(Arc::clone(attachment));
                }
            }
            Request::Check { .. } | Request::PortMappings { .. } => {}
        }
    }
    (attach, detach)
}

fn pause(failures: u32) -> Duration {
    if failures == 0 {
        return TICK;
    }
    RETRY
        .0
        .saturating_mul(1 << failures.min(10).saturating_sub(1))
        .min(RETRY.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        assert_eq!(pause(0), TICK);
        assert_eq!(pause(1), RETRY.0);
        assert_eq!(pause(2), RETRY.0 * 2);
        assert_eq!(pause(u32::MAX), RETRY.1);
    }
}
