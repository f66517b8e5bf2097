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
use crate::records::Committed;
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

    /// Why a pod cannot be attached yet.
    fn missing(&self, pod: &PodRef, limit: Duration) -> String {
        let report = self.node.board.report();
        if self.node.committed().pod(pod).is_some() {
            "this node is not programmed yet as its newest record tells".to_owned()
        } else if report.holds(condition::CONTROLLER_CONNECTED) {
            format!("the controller sent no record of pod {pod} within {limit:?}")
        } else {
            format!("the controller is not connected and pod {pod} is not known from before")
        }
    }
}

/// What `pod` is built by: once its record is there, and the settings are of the node's record beside it.
fn settings_for(
    pod: &PodRef,
    committed: &mut watch::Receiver<Arc<Committed>>,
    settings: &mut watch::Receiver<Option<Arc<PodNetworkSettings>>>,
) -> Option<Arc<PodNetworkSettings>> {
    let committed = committed.borrow_and_update();
    committed.pod(pod)?;
    let node = committed.node()?;
    let settings = settings.borrow_and_update();
    settings
        .as_ref()
        .filter(|settings| settings.are_of(node))
        .cloned()
}

impl PodNetwork for AgentNetwork {
    fn settings(&self) -> watch::Receiver<Option<Arc<PodNetworkSettings>>> {
        self.node.settings.subscribe()
    }

    async fn wait_pod(
        &self,
        pod: &PodRef,
        limit: Duration,
    ) -> Result<Arc<PodNetworkSettings>, NotYet> {
        let mut committed = self.node.committed.subscribe();
        let mut settings = self.node.settings.subscribe();
        let arrived = async {
            loop {
                if let Some(found) = settings_for(pod, &mut committed, &mut settings) {
                    return Some(found);
                }
                tokio::select! {
                    changed = committed.changed() => changed.ok()?,
                    changed = settings.changed() => changed.ok()?,
                }
            }
        };
        match tokio::time::timeout(limit, arrived).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(NotYet {
                reason: "the agent is ending".to_owned(),
            }),
            Err(_) => Err(NotYet {
                reason: self.missing(pod, limit),
            }),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use carrick_node::MacAddr;
    use carrick_proto::{Body, Delta, Entry, NodeFacts, NodeName, Number, PodFacts, PodUid};

    use super::*;
    use crate::cni::network::DatapathKind;
    use crate::records::RecordStore;

    fn node(uid: &str, cidr: &str) -> Entry {
        Entry::new(Body::Node(NodeFacts {
            name: NodeName::new("n").unwrap(),
            uid: uid.to_owned(),
            pod_cidrs: vec![cidr.parse().unwrap()],
            addresses: Vec::new(),
            problem: None,
            labels: std::collections::BTreeMap::new(),
        }))
    }

    fn settings(uid: &str, cidr: &str) -> Arc<PodNetworkSettings> {
        Arc::new(PodNetworkSettings {
            pod_cidrs: vec![cidr.parse().unwrap()],
            gateways: Vec::new(),
            gateway_mac: MacAddr::local([1; 6]),
            mtu: 1450,
            datapath: DatapathKind::Kernel,
            node_uid: uid.to_owned(),
        })
    }

    fn delta(sequence: u64, changed: Vec<Entry>) -> Delta {
        Delta {
            number: Number::new(1, sequence),
            changed,
            ..Delta::default()
        }
    }

    #[test]
    fn a_pod_told_together_with_another_registration_gets_no_address_of_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let (records, _) = RecordStore::open(directory.path().join("records")).unwrap();
        let (old, new) = (("u1", "10.1.0.0/24"), ("u2", "10.2.0.0/24"));
        records.commit(&delta(1, vec![node(old.0, old.1)])).unwrap();
        let committed = watch::Sender::new(records.committed());
        let programmed = watch::Sender::new(Some(settings(old.0, old.1)));
        let pod = PodRef {
            namespace: "default".into(),
            name: "p".into(),
            uid: "p1".into(),
        };
        let (mut told, mut made) = (committed.subscribe(), programmed.subscribe());
        assert_eq!(settings_for(&pod, &mut told, &mut made), None, "no record");

        let record = Entry::new(Body::Pod(PodFacts {
            uid: PodUid::new("p1").unwrap(),
            namespace: "default".into(),
            name: "p".into(),
            labels: BTreeMap::new(),
            ports: Arc::default(),
            groups: Vec::new(),
        }));
        let both = delta(2, vec![node(new.0, new.1), record]);
        records.commit(&both).unwrap();
        committed.send_replace(records.committed());
        assert_eq!(
            settings_for(&pod, &mut told, &mut made),
            None,
            "not programmed"
        );

        programmed.send_replace(Some(settings(new.0, new.1)));
        let found = settings_for(&pod, &mut told, &mut made);
        assert_eq!(found, Some(settings(new.0, new.1)));
    }
}
