//! The agent as the CNI server sees it.

use std::sync::Arc;
use std::time::Duration;

use carrick_api::agentinfo::condition;
use carrick_k8s::condition::Status;
use carrick_proto::{AddressChange, PodHolding, Release};
use tokio::sync::{oneshot, watch};

use crate::cni::network::{NotYet, PodNetwork, PodNetworkSettings, PortError};
use crate::ipam::{Attachment, HeldAddresses, PodRef, ReleasedAddresses};
use crate::node::Node;
use crate::programmer::Request;
use crate::status::Fact;

/// The real [`PodNetwork`]: asks the programmer.
#[derive(Debug, Clone)]
pub struct AgentNetwork {
    node: Arc<Node>,
}

impl AgentNetwork {
    /// The network of this node.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<(), PortError>>) -> Request + Send,
    ) -> Result<(), PortError> {
        let ending = || PortError::NotReady {
            reason: "the agent is ending".to_owned(),
        };
        let (reply, answer) = oneshot::channel();
        self.node
            .programmer
            .send(request(reply))
            .await
            .map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }
}

impl PodNetwork for AgentNetwork {
    fn settings(&self) -> watch::Receiver<Option<Arc<PodNetworkSettings>>> {
        self.node.settings.subscribe()
    }

    async fn wait_record(&self, pod: &PodRef, limit: Duration) -> Result<(), NotYet> {
        let mut committed = self.node.committed.subscribe();
        let arrived = committed.wait_for(|committed| committed.pod(pod).is_some());
        match tokio::time::timeout(limit, arrived).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(NotYet {
                reason: "the agent is ending".to_owned(),
            }),
            Err(_) => {
                let connected = self
                    .node
                    .board
                    .report()
                    .holds(condition::CONTROLLER_CONNECTED);
                let reason = if connected {
                    format!("the controller sent no record of pod {pod} within {limit:?}")
                } else {
                    format!(
                        "the controller is not connected and pod {pod} is not known from before"
                    )
                };
                Err(NotYet { reason })
            }
        }
    }

    async fn attach(&self, attachment: &Attachment) -> Result<(), PortError> {
        let attachment = Arc::new(attachment.clone());
        self.ask(|reply| Request::Attach { attachment, reply })
            .await
    }

    async fn detach(&self, attachments: &[Arc<Attachment>]) -> Result<(), PortError> {
        if attachments.is_empty() {
            return Ok(());
        }
        let attachments = attachments.to_vec();
        self.ask(|reply| Request::Detach { attachments, reply })
            .await
    }

    async fn check(&self, attachment: &Attachment) -> Result<(), PortError> {
        let attachment = Arc::new(attachment.clone());
        self.ask(|reply| Request::Check { attachment, reply }).await
    }

    fn addresses_changed(&self, assigned: &[HeldAddresses], released: &[ReleasedAddresses]) {
        let change = AddressChange {
            assigned: assigned.iter().map(holding).collect(),
            released: released.iter().map(release).collect(),
        };
        if self.node.address_changes.try_send(change).is_err() {
            // The next Hello names every address there is.
            self.node.addresses_lost.send_modify(|count| *count += 1);
        }
    }

    fn trouble(&self) -> Option<String> {
        let report = self.node.board.report();
        let datapath = report.conditions.get(condition::DATAPATH_READY)?;
        (datapath.status == Status::False).then(|| datapath.message.clone())
    }

    fn state_lost(&self, message: String) {
        self.node.board.update(|report| {
            let intact = report.conditions.get(condition::STATE_INTACT);
            let before = intact.filter(|fact| fact.status == Status::False);
            let message = match before {
                Some(fact) if fact.message.contains(&message) => return,
                Some(fact) => format!("{}; {message}", fact.message),
                None => message,
            };
            let lost = Fact::fails("Lost", message);
            report.conditions.insert(condition::STATE_INTACT, lost);
        });
    }

    async fn apply_port_mappings(&self) -> Result<(), PortError> {
        self.ask(|reply| Request::PortMappings { reply }).await
    }
}

/// An attachment's addresses as the stream tells them.
pub fn holding(held: &HeldAddresses) -> PodHolding {
    PodHolding {
        uid: held.pod.uid.clone(),
        namespace: held.pod.namespace.clone(),
        name: held.pod.name.clone(),
        addresses: held.addresses.clone(),
    }
}

/// A release as the stream tells it.
pub fn release(released: &ReleasedAddresses) -> Release {
    Release {
        number: released.release,
        uid: released.pod.uid.clone(),
        addresses: released.addresses.clone(),
    }
}
