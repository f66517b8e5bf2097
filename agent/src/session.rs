//! One session of the stream: Hello, batches in, what was realised and what changed here out.
//!
//! Order of a batch: journal, then the switch (the programmer wakes on the new state), then the
//! saved commit, then `Realized`. The session never waits for the controller to read: what is to be
//! said waits in bounded places, and the latest word replaces an earlier one where it may.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use carrick_api::agentinfo::condition;
use carrick_proto::{
    AddressChange, Delta, Freed, Greeting, NodeName, NodeReport, PROTOCOL, limits, v1,
};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tracing::{debug, info, warn};

use crate::node::{Node, Realized};
use crate::podnetwork::{holding, release};
use crate::records::CommitError;
use crate::status::{ControllerStream, Fact, Report};
use crate::stream::leader_address;
use carrick_k8s::telemetry::chain;

/// Messages handed to the connection ahead of what it has sent.
const OUTGOING: usize = 16;
/// Address changes that wait for the connection; above, they wait in the node's own queue.
const WAITING: usize = 256;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEnd {
    /// The replica does not lead.
    NotLeader {
        /// Who does, if it knows.
        leader: Option<SocketAddr>,
    },
    /// The connection broke, or one side could not go on.
    Lost {
        /// Why, in words.
        reason: String,
    },
}

fn lost(reason: impl Into<String>) -> SessionEnd {
    SessionEnd::Lost {
        reason: reason.into(),
    }
}

/// Runs a session to its end. Says whether the other side led (sent a batch or freed addresses).
pub async fn session(
    node: &Arc<Node>,
    mut client: v1::distribution_client::DistributionClient<Channel>,
    token: MetadataValue<Ascii>,
    address: SocketAddr,
    changes: &mut mpsc::Receiver<AddressChange>,
) -> (bool, SessionEnd) {
    // What waits here is in Hello, too.
    while changes.try_recv().is_ok() {}
    let mut lost_changes = node.addresses_lost.subscribe();
    let mut report = node.board.watch();
    let said = node_report(&report.borrow_and_update());
    let hello = match hello(node, said.clone()) {
        Ok(hello) => hello,
        Err(reason) => return (false, lost(reason)),
    };
    let (outgoing, receiver) = mpsc::channel(OUTGOING);
    // The channel is empty and open.
    if outgoing
        .try_send(message(v1::agent_message::Message::Hello(hello)))
        .is_err()
    {
        return (false, lost("the agent's own channel is closed"));
    }
    let mut request = tonic::Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert("authorization", token);
    let mut incoming = match client.subscribe(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (false, lost(refusal(&status))),
    };
    let mut session = Session {
        node,
        address,
        served: false,
        said,
        report: None,
        acknowledged: None,
        realized: None,
        changes: VecDeque::new(),
    };
    let mut realized = node.realized.subscribe();
    let end = loop {
        tokio::select! {
            received = incoming.message() => {
                let ended = match received {
                    Ok(Some(received)) => session.receive(received).await,
                    Ok(None) => Some(lost("the controller closed the stream")),
                    Err(status) => Some(lost(refusal(&status))),
                };
                if let Some(end) = ended {
                    break end;
                }
                session.note_realized(&realized.borrow());
            }
            permit = outgoing.reserve(), if session.has_something_to_say() => match permit {
                Ok(permit) => if let Some(next) = session.next_message() { permit.send(next) },
                Err(_) => break lost("the connection is closed"),
            },
            change = changes.recv(), if session.changes.len() < WAITING => match change {
                Some(change) => session.changes.push_back(change),
                None => break lost("the agent is ending"),
            },
            changed = realized.changed() => {
                if changed.is_err() { break lost("the agent is ending") }
                session.note_realized(&realized.borrow_and_update());
            }
            changed = report.changed() => {
                if changed.is_err() { break lost("the agent is ending") }
                session.note_report(&report.borrow_and_update());
            }
            changed = lost_changes.changed() => {
                let reason = if changed.is_err() { "the agent is ending" } else {
                    "more addresses changed than the stream takes; its next Hello tells all"
                };
                break lost(reason);
            }
        }
    };
    (session.served, end)
}

fn refusal(status: &tonic::Status) -> String {
    let message: String = status.message().chars().take(300).collect();
    format!("the controller answered {:?}: {message}", status.code())
}

fn message(message: v1::agent_message::Message) -> v1::AgentMessage {
    v1::AgentMessage {
        message: Some(message),
    }
}

fn node_report(report: &Report) -> NodeReport {
    NodeReport {
        ready: report.holds(condition::READY),
        tunnel_endpoints: report.tunnel_endpoints.clone(),
    }
}

fn hello(node: &Node, report: NodeReport) -> Result<v1::Hello, String> {
    let (number, held) = node.records.held();
    let (in_use, resting) = node.attachments.reported_addresses();
    Ok(Greeting {
        protocol: PROTOCOL,
        node: NodeName::new(&node.name).map_err(|error| chain(&error))?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        number,
        held,
        addresses: in_use.iter().map(holding).take(limits::PODS).collect(),
        released: resting.iter().map(release).take(limits::PODS).collect(),
        report,
    }
    .into())
}

struct Session<'a> {
    node: &'a Arc<Node>,
    address: SocketAddr,
    /// The other side led.
    served: bool,
    /// The report the controller knows.
    said: NodeReport,
    /// A newer report to be told.
    report: Option<NodeReport>,
    /// The last acknowledgement told in this session.
    acknowledged: Option<Realized>,
    /// A newer acknowledgement to be told.
    realized: Option<Realized>,
    /// Address changes to be told, in order.
    changes: VecDeque<AddressChange>,
}

impl Session<'_> {
    async fn receive(&mut self, received: v1::ControllerMessage) -> Option<SessionEnd> {
        use v1::controller_message::Message;
        match received.message {
            Some(Message::NotLeader(not_leader)) => Some(SessionEnd::NotLeader {
                leader: leader_address(&not_leader.leader),
            }),
            Some(Message::Batch(batch)) => {
                self.lead();
                self.batch(batch).await.err().map(lost)
            }
            Some(Message::AddressesFree(free)) => {
                self.lead();
                self.free(free).err().map(lost)
            }
            // A newer controller may say more.
            None => None,
        }
    }

    /// The replica leads: quarantine counts its time from here.
    fn lead(&mut self) {
        if self.served {
            return;
        }
        self.served = true;
        self.node.attachments.controller_connected(self.node.now());
        info!(address = %self.address, "the stream to the controller stands");
        let stream = ControllerStream {
            address: self.address.to_string(),
            since: Timestamp::now(),
            connected: true,
        };
        self.node.board.update(|report| {
            report.controller = Some(stream);
            report.conditions.insert(
                condition::CONTROLLER_CONNECTED,
                Fact::holds("Streaming", ""),
            );
        });
    }

    async fn batch(&mut self, batch: v1::Batch) -> Result<(), String> {
        let delta = Delta::try_from(batch)
            .map_err(|error| format!("the controller sent a batch that cannot be read: {error}"))?;
        if delta.skipped > 0 {
            debug!(
                skipped = delta.skipped,
                "records of kinds this agent does not know"
            );
        }
        let number = delta.number;
        let records = Arc::clone(&self.node.records);
        // The journal waits for the disk.
        let committed = tokio::task::spawn_blocking(move || records.commit(&delta))
            .await
            .map_err(|error| format!("committing a batch: {error}"))?;
        match committed {
            Ok(committed) => {
                debug!(%number, records = committed.len(), "batch committed");
                if self.node.realized.borrow().number >= number {
                    // Nothing to program: it is acknowledged all the same.
                    self.acknowledged = None;
                }
                self.node.committed.send_if_modified(|held| {
                    let changed = **held != *committed;
                    *held = committed;
                    changed
                });
                Ok(())
            }
            Err(error @ (CommitError::Older { .. } | CommitError::Misfit { .. })) => {
                Err(chain(&error))
            }
            Err(error) => {
                let text = chain(&error);
                warn!(error = text, "a batch could not be stored");
                self.node
                    .board
                    .update(|report| report.last_error.clone_from(&text));
                Err(text)
            }
        }
    }

    fn free(&self, free: v1::AddressesFree) -> Result<(), String> {
        let freed = Freed::list(free)
            .map_err(|error| format!("the controller freed what cannot be read: {error}"))?;
        let freed: Vec<_> = freed.iter().map(|f| (f.address, f.release)).collect();
        let now = self.node.now();
        self.node.attachments.release_quarantine(&freed, now);
        Ok(())
    }

    fn note_realized(&mut self, realized: &Realized) {
        if self.served && self.acknowledged.as_ref() != Some(realized) {
            self.realized = Some(realized.clone());
        }
    }

    fn note_report(&mut self, report: &Report) {
        let now = node_report(report);
        self.report = (now != self.said).then_some(now);
    }

    fn has_something_to_say(&self) -> bool {
        self.realized.is_some() || self.report.is_some() || !self.changes.is_empty()
    }

    /// Addresses first: they are ahead of the kubelet's own report only if they go at once.
    fn next_message(&mut self) -> Option<v1::AgentMessage> {
        use v1::agent_message::Message;
        if let Some(change) = self.changes.pop_front() {
            return Some(message(Message::Addresses(change.into())));
        }
        if let Some(realized) = self.realized.take() {
            self.acknowledged = Some(realized.clone());
            let realized = carrick_proto::Realized {
                number: realized.number,
                error: realized.error,
            };
            return Some(message(Message::Realized(realized.into())));
        }
        let report = self.report.take()?;
        self.said = report.clone();
        Some(message(Message::Report(report.into())))
    }
}
