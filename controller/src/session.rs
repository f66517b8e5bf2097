//! One agent's open stream.
//!
//! The task owns both directions. It computes what the agent lacks only when it has room to send
//! it, so back-pressure of a slow agent reaches no further than here, and it ends when: the agent
//! hangs up or says something wrong, the term is over, the Node is gone, another stream of the same
//! node takes over, the agent lags beyond what is remembered, or the stream is old (its token may
//! have been revoked since).

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use carrick_k8s::client::CallError;
use carrick_policy::PolicyName;
use carrick_proto::v1::{self, agent_message, controller_message};
use carrick_proto::{
    AddressChange, Entry, Freed, GroupDifference, Invalid, Key, NodeName, NodeReport, Number,
    PodUid, Realized, limits,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::cluster::Cluster;
use crate::hub::{Ended, Hub, Opened, Session};
use crate::log::{Lacking, Lagging};
use crate::metrics::Metrics;
use crate::reign::{Reign, Term};

/// What goes to the agent.
pub type Outgoing = Result<v1::ControllerMessage, Status>;

/// How long a doubt waits for another try when the API server does not answer.
const DOUBT_RETRY: Duration = Duration::from_secs(30);

type Inquiry = Pin<Box<dyn Future<Output = Result<BTreeSet<Key>, CallError>> + Send>>;

/// Everything one stream needs.
pub struct Stream<C> {
    pub(crate) hub: Arc<Hub>,
    pub(crate) cluster: Arc<C>,
    pub(crate) metrics: Metrics,
    pub(crate) reign: Reign,
    pub(crate) term: Term,
    pub(crate) incoming: Streaming<v1::AgentMessage>,
    pub(crate) outgoing: mpsc::Sender<Outgoing>,
    /// When the stream is closed for its age.
    pub(crate) retire: Instant,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Close {
    #[error("the agent closed it")]
    HungUp,
    #[error("the connection broke")]
    Broken(#[source] Box<Status>),
    #[error("the agent sent what the protocol does not have")]
    Protocol(#[source] Invalid),
    #[error("the agent said hello twice")]
    SecondHello,
    #[error("the term is over")]
    TermOver,
    #[error("the stream is old")]
    Retired,
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl<C: Cluster> Stream<C> {
    /// Serves the stream to its end.
    pub async fn run(mut self, opened: Opened) {
        let mut session = opened.session;
        let node = session.node.clone();
        let lacking = opened.resumption.lacking;
        info!(
            %node,
            number = %opened.number,
            changed = lacking.changed.len(),
            removed = lacking.removed.len(),
            doubtful = opened.resumption.doubtful.len(),
            "an agent's stream is open"
        );
        let first = first_batches(opened.number, &lacking.changed, &lacking.removed);
        let close = self
            .serve(&mut session, first, opened.resumption.doubtful)
            .await;
        self.hub.close(&session);
        self.goodbye(&node, &close);
    }

    async fn serve(
        &mut self,
        session: &mut Session,
        mut first: VecDeque<v1::Batch>,
        mut doubtful: BTreeSet<Key>,
    ) -> Close {
        let mut inquiry = self.inquire(&session.node, &doubtful, Duration::ZERO);
        let mut buried = BTreeSet::new();
        let mut dirty = true;
        loop {
            let wake = Arc::clone(&session.wake);
            tokio::select! {
                biased;
                () = self.term.over.cancelled() => return Close::TermOver,
                () = tokio::time::sleep_until(self.retire) => return Close::Retired,
                message = self.incoming.message() => {
                    let heard = match message {
                        Ok(Some(message)) => self.hear(session, message),
                        Ok(None) => Err(Close::HungUp),
                        Err(status) => Err(Close::Broken(Box::new(status))),
                    };
                    if let Err(close) = heard {
                        return close;
                    }
                }
                answer = &mut inquiry, if !doubtful.is_empty() => {
                    // What the watches have shown meanwhile is their business.
                    doubtful = self.hub.still_doubtful(&session.node, &doubtful);
                    match answer {
                        Ok(found) => {
                            buried.extend(doubtful.difference(&found).cloned());
                            dirty = true;
                            // What exists is asked for again until the watches have seen it: it
                            // may be gone before they do.
                            doubtful.retain(|key| found.contains(key));
                        }
                        Err(error) => {
                            warn!(node = %session.node, %error, "what an agent holds cannot be checked now");
                        }
                    }
                    inquiry = self.inquire(&session.node, &doubtful, DOUBT_RETRY);
                }
                () = wake.notified(), if !dirty => dirty = true,
                permit = self.outgoing.clone().reserve_owned(), if dirty => {
                    let Ok(permit) = permit else { return Close::HungUp };
                    if !self.term_is_valid() {
                        return Close::TermOver;
                    }
                    let message = match first.pop_front() {
                        Some(batch) => Some(controller_message::Message::Batch(batch)),
                        None => match self.next(session, &mut buried) {
                            Ok(message) => message,
                            Err(ended) => return ended.into(),
                        },
                    };
                    match message {
                        Some(message) => {
                            self.count(&message);
                            permit.send(Ok(v1::ControllerMessage { message: Some(message) }));
                        }
                        None => dirty = false,
                    }
                }
            }
        }
    }

    /// The term of this stream, or the same term moved on by a renewal.
    fn term_is_valid(&self) -> bool {
        !self.term.over.is_cancelled() && self.reign.term().is_some()
    }

    /// The next message after the first batches, if there is anything to say.
    fn next(
        &self,
        session: &mut Session,
        buried: &mut BTreeSet<Key>,
    ) -> Result<Option<controller_message::Message>, Ended> {
        let work = self.hub.work(session)?;
        session.cursor = work.position;
        let mut removed = work.lacking.removed;
        removed.extend(
            self.hub
                .still_doubtful(&session.node, &std::mem::take(buried)),
        );
        let Lacking {
            changed, groups, ..
        } = work.lacking;
        if !changed.is_empty() || !removed.is_empty() || !groups.is_empty() {
            let batch = v1::Batch {
                number: Some(work.number.into()),
                changed: changed.iter().map(|entry| entry.to_wire()).collect(),
                removed: removed.iter().map(ToString::to_string).collect(),
                complete: false,
                groups: groups.iter().map(GroupDifference::to_wire).collect(),
            };
            // Only the answer to a Hello may come in parts: its last one says that it is complete.
            if batch.encoded_len() > limits::BATCH_BYTES {
                return Err(Ended::Lagging(Lagging));
            }
            return Ok(Some(controller_message::Message::Batch(batch)));
        }
        let freed = self.hub.take_freed(session)?;
        if freed.is_empty() {
            return Ok(None);
        }
        Ok(Some(controller_message::Message::AddressesFree(
            Freed::to_wire(freed),
        )))
    }

    fn hear(&self, session: &Session, message: v1::AgentMessage) -> Result<(), Close> {
        match message.message {
            Some(agent_message::Message::Realized(realized)) => {
                let realized = Realized::try_from(realized).map_err(Close::Protocol)?;
                if let Some(error) = &realized.error {
                    warn!(node = %session.node, number = %realized.number, error, "a batch could not be programmed");
                }
                self.hub.realized(session, &realized)?;
            }
            Some(agent_message::Message::Addresses(change)) => {
                let change = AddressChange::try_from(change).map_err(Close::Protocol)?;
                self.hub.addresses(session, &change)?;
            }
            Some(agent_message::Message::Report(report)) => {
                let report = NodeReport::try_from(report).map_err(Close::Protocol)?;
                self.hub.report(session, &report)?;
            }
            Some(agent_message::Message::Hello(_)) => return Err(Close::SecondHello),
            // A kind of message a newer agent has: not ours to judge.
            None => {}
        }
        Ok(())
    }

    fn count(&self, message: &controller_message::Message) {
        if let controller_message::Message::Batch(batch) = message {
            self.metrics.batches.inc();
            let records = batch.changed.len() + batch.removed.len() + batch.groups.len();
            self.metrics
                .records_sent
                .inc_by(u64::try_from(records).unwrap_or(u64::MAX));
        }
    }

    /// Reads which of the doubtful objects exist, after `delay`.
    fn inquire(&self, node: &NodeName, doubtful: &BTreeSet<Key>, delay: Duration) -> Inquiry {
        let (cluster, node, keys) = (Arc::clone(&self.cluster), node.clone(), doubtful.clone());
        let hub = Arc::clone(&self.hub);
        Box::pin(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let mut found = BTreeSet::new();
            let nodes: BTreeSet<NodeName> = keys
                .iter()
                .filter_map(|key| {
                    if let Key::Route(node) = key {
                        Some(node.clone())
                    } else {
                        None
                    }
                })
                .collect();
            if !nodes.is_empty() {
                let there = cluster.nodes_among(&nodes).await?;
                found.extend(there.into_iter().map(Key::Route));
            }
            let pods = |key: &&Key| matches!(key, Key::Pod(_));
            if keys.iter().any(|key| pods(&key)) {
                let there: BTreeSet<PodUid> = cluster.pods_on(&node).await?;
                found.extend(there.into_iter().map(Key::Pod));
            }
            if keys.contains(&Key::Node) {
                found.insert(Key::Node);
            }
            // What an agent was told for a pod it holds stays with the pod; a group stays with the
            // policies that may name it.
            let enforced = keys.iter().filter_map(|key| match key {
                Key::Policy(policy) => Some(policy.clone()),
                _ => None,
            });
            let enforced: BTreeSet<PolicyName> = enforced.collect();
            let pods_remain = found.iter().any(|key| matches!(key, Key::Pod(_)));
            let policies = if pods_remain {
                enforced
            } else {
                let unknown = hub.unknown_policies(enforced);
                cluster.policies_among(&unknown).await?
            };
            if pods_remain || !policies.is_empty() {
                let groups = keys.iter().filter(|key| matches!(key, Key::Group(_)));
                found.extend(groups.cloned());
            }
            found.extend(policies.into_iter().map(Key::Policy));
            Ok(found)
        })
    }

    fn goodbye(&self, node: &NodeName, close: &Close) {
        let last = match close {
            Close::HungUp | Close::Broken(_) => None,
            Close::TermOver => Some(Ok(v1::ControllerMessage {
                message: Some(controller_message::Message::NotLeader(
                    v1::NotLeader::default(),
                )),
            })),
            Close::Retired => Some(Err(Status::unavailable("the stream is old: open another"))),
            Close::Protocol(invalid) => Some(Err(Status::invalid_argument(invalid.to_string()))),
            Close::SecondHello => Some(Err(Status::failed_precondition(close.to_string()))),
            Close::Ended(ended) => Some(Err(refused(*ended))),
        };
        if let Some(last) = last {
            // There is room for it, or the agent does not read and will see the stream end.
            let _ = self.outgoing.try_send(last);
        }
        match close {
            Close::Broken(status) => {
                info!(%node, code = ?status.code(), message = status.message(), "an agent's connection broke");
            }
            Close::Protocol(invalid) => {
                warn!(%node, error = %invalid, "an agent's stream is closed: it sent what the protocol does not have");
            }
            Close::HungUp | Close::Retired => {
                debug!(%node, reason = %close, "an agent's stream ended");
            }
            Close::Ended(Ended::TooLarge(_)) => {
                warn!(%node, reason = %close, "an agent is not told what it lacks");
            }
            _ => info!(%node, reason = %close, "an agent's stream ended"),
        }
    }
}

/// The status an agent gets when its stream is not opened or ends.
pub(crate) fn refused(ended: Ended) -> Status {
    match ended {
        Ended::NoNode => Status::not_found(ended.to_string()),
        Ended::Superseded | Ended::Lagging(_) => Status::aborted(ended.to_string()),
        Ended::TooMuch | Ended::TooLarge(_) => Status::resource_exhausted(ended.to_string()),
    }
}

/// The batches that answer a Hello: one, unless it were too large; removals come with the last,
/// which is complete.
fn first_batches(number: Number, changed: &[Arc<Entry>], removed: &[Key]) -> VecDeque<v1::Batch> {
    let empty = || v1::Batch {
        number: Some(number.into()),
        ..v1::Batch::default()
    };
    let mut batches = VecDeque::new();
    let (mut batch, mut bytes) = (empty(), 0);
    for entry in changed {
        let record = entry.to_wire();
        let size = record.encoded_len();
        if bytes + size > limits::BATCH_BYTES && !batch.changed.is_empty() {
            batches.push_back(std::mem::replace(&mut batch, empty()));
            bytes = 0;
        }
        bytes += size;
        batch.changed.push(record);
    }
    batch.removed = removed.iter().map(ToString::to_string).collect();
    batch.complete = true;
    batches.push_back(batch);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrick_proto::{Body, PodFacts};

    #[test]
    fn an_agent_that_lacks_nothing_is_told_so() {
        let batches = first_batches(Number::new(2, 7), &[], &[]);
        assert_eq!(batches.len(), 1);
        assert!(batches[0].complete && batches[0].changed.is_empty());
        assert_eq!(batches[0].number.map(Number::from), Some(Number::new(2, 7)));
    }

    #[test]
    fn a_large_answer_is_split_and_only_the_last_part_is_complete() {
        let entries: Vec<Arc<Entry>> = (0..40_000)
            .map(|i| {
                Arc::new(Entry::new(Body::Pod(PodFacts {
                    uid: PodUid::new(&format!("uid-{i}")).unwrap(),
                    namespace: "n".repeat(100),
                    name: "p".repeat(100),
                    labels: std::collections::BTreeMap::new(),
                    ports: Arc::default(),
                    groups: Vec::new(),
                })))
            })
            .collect();
        let gone = [Key::Pod(PodUid::new("gone").unwrap())];
        let batches = first_batches(Number::new(1, 1), &entries, &gone);
        assert!(batches.len() > 1);
        assert_eq!(
            batches.iter().map(|b| b.changed.len()).sum::<usize>(),
            entries.len()
        );
        for (i, batch) in batches.iter().enumerate() {
            let last = i == batches.len() - 1;
            assert_eq!((batch.complete, batch.removed.is_empty()), (last, !last));
            assert!(batch.encoded_len() <= limits::MESSAGE_BYTES);
        }
    }
}
