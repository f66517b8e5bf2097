//! A replica and an agent that speak over loopback.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use carrick_k8s::health::Health;
use carrick_policy::{GroupKey, Members};
use carrick_proto::v1::distribution_client::DistributionClient;
use carrick_proto::v1::distribution_server::DistributionServer;
use carrick_proto::v1::{self, agent_message, controller_message};
use carrick_proto::{
    AddressChange, Body, Delta, Entry, Freed, Greeting, GroupDifference, GroupFacts, Key, NodeName,
    NodeReport, Number, PROTOCOL, PodHolding, PodUid, Realized, Release,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::barrier::Barrier;
use crate::fake::FakeCluster;
use crate::hub::Hub;
use crate::index::{Index, PolicyKind};
use crate::metrics::Metrics;
use crate::objects::{Event, NodeObject, NodePeer, PodNetwork, PodObject, PodPeer};
use crate::reign::{Throne, reign};
use crate::run::MainLoop;
use crate::service::Service;

/// Longer than anything takes on a busy machine; only a failure waits for it.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

pub(super) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(super) fn node(text: &str, third: u8) -> NodeObject {
    NodeObject {
        name: name(text),
        uid: format!("uid-{text}"),
        created: 1,
        pod_cidrs: vec![format!("10.0.{third}.0/24").parse().unwrap()],
        bad_cidr: None,
        addresses: vec![[192, 0, 2, third].into()],
        tainted: false,
        unavailable: false,
        labels: std::collections::BTreeMap::new(),
        peer: NodePeer::default(),
    }
}

pub(super) fn pod(uid: &str, node: &str) -> PodObject {
    PodObject {
        uid: PodUid::new(uid).unwrap(),
        runtime_uid: PodUid::new(uid).unwrap(),
        created: 1,
        namespace: "default".into(),
        name: format!("pod-{uid}"),
        node: name(node),
        network: PodNetwork::Attached,
        peer: PodPeer::default(),
    }
}

pub(super) fn pod_key(uid: &str) -> Key {
    Key::Pod(PodUid::new(uid).unwrap())
}

/// One replica.
pub(super) struct Replica {
    pub(super) hub: Arc<Hub>,
    pub(super) throne: Throne,
    pub(super) demands: mpsc::Receiver<u64>,
    pub(super) cluster: Arc<FakeCluster>,
    pub(super) metrics: Metrics,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) address: SocketAddr,
    pub(super) stop: CancellationToken,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Replica {
    /// A warm standby that knows these nodes and pods.
    pub(super) async fn standby(nodes: &[NodeObject], pods: &[PodObject]) -> Self {
        let cluster = Arc::new(FakeCluster::default());
        for node in nodes {
            cluster.token(&format!("token-{}", node.name), node.name.as_str());
            cluster.node(node.name.as_str());
        }
        for pod in pods {
            cluster.pod(pod.node.as_str(), pod.uid.as_str());
        }
        let hub = Arc::new(Hub::new(Index::default()));
        let (throne, reign, demands) = reign(Arc::clone(&hub));
        let metrics = Metrics::default();
        let stop = CancellationToken::new();
        let (events, observations) = mpsc::channel(64);
        let main = MainLoop {
            hub: Arc::clone(&hub),
            metrics: metrics.clone(),
            reign: reign.clone(),
            health: Health::new(),
        };
        tokio::spawn(main.run(observations, stop.clone()));
        hub.apply(vec![
            Event::Nodes(nodes.to_vec()),
            Event::Pods(pods.to_vec()),
            Event::Infos(vec![]),
            Event::Namespaces(vec![]),
            Event::Policies(PolicyKind::NetworkPolicy, vec![]),
            Event::Policies(PolicyKind::ClusterNetworkPolicy, vec![]),
        ]);
        let barrier = Barrier {
            hub: Arc::clone(&hub),
            cluster: Arc::clone(&cluster),
            reign: reign.clone(),
        };
        tokio::spawn(barrier.run(stop.clone()));
        let service = Service::new(
            Arc::clone(&hub),
            Arc::clone(&cluster),
            reign,
            metrics.clone(),
            TaskTracker::new(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(DistributionServer::new(service))
                .serve_with_incoming_shutdown(
                    TcpListenerStream::new(listener),
                    stop.clone().cancelled_owned(),
                ),
        );
        Self {
            hub,
            throne,
            demands,
            cluster,
            metrics,
            events,
            address,
            stop,
        }
    }

    /// A leader by `epoch`.
    pub(super) async fn leader(epoch: u64, nodes: &[NodeObject], pods: &[PodObject]) -> Self {
        let replica = Self::standby(nodes, pods).await;
        replica.lead(epoch);
        replica
    }

    pub(super) fn lead(&self, epoch: u64) {
        self.throne
            .lead(epoch, Instant::now() + Duration::from_hours(1));
    }

    pub(super) async fn see(&self, event: Event) {
        self.events.send(event).await.unwrap();
    }
}

/// One agent, as far as the protocol goes.
pub(super) struct Agent {
    pub(super) node: NodeName,
    pub(super) token: String,
    pub(super) number: Number,
    pub(super) held: BTreeMap<Key, Entry>,
    pub(super) addresses: Vec<PodHolding>,
    pub(super) report: NodeReport,
    pub(super) batches: usize,
    pub(super) records: usize,
    pub(super) complete: bool,
    pub(super) released: Vec<Release>,
    pub(super) freed: BTreeSet<(String, u64)>,
    pub(super) link: Option<Link>,
}

pub(super) struct Link {
    pub(super) out: mpsc::Sender<v1::AgentMessage>,
    pub(super) incoming: Streaming<v1::ControllerMessage>,
}

/// How a stream ended.
#[derive(Debug)]
pub(super) enum End {
    NotLeader(String),
    Status(Status),
    Closed,
}

impl Agent {
    pub(super) fn new(node: &str) -> Self {
        Self {
            node: name(node),
            token: format!("token-{node}"),
            number: Number::NOTHING,
            held: BTreeMap::new(),
            addresses: vec![],
            report: NodeReport {
                ready: true,
                tunnel_endpoints: vec![],
            },
            batches: 0,
            records: 0,
            complete: false,
            released: vec![],
            freed: BTreeSet::new(),
            link: None,
        }
    }

    pub(super) async fn say(&self, message: agent_message::Message) {
        let link = self.link.as_ref().unwrap();
        link.out
            .send(v1::AgentMessage {
                message: Some(message),
            })
            .await
            .unwrap();
    }

    /// Tells of addresses given to and taken from pods.
    pub(super) async fn change(&self, assigned: &[PodHolding], released: &[Release]) {
        let change = AddressChange {
            assigned: assigned.to_vec(),
            released: released.to_vec(),
        };
        self.say(agent_message::Message::Addresses(change.into()))
            .await;
    }

    /// Whether the controller has ended this release.
    pub(super) fn freed(&self, address: &str, release: u64) -> bool {
        self.freed.contains(&(address.to_owned(), release))
    }

    /// Opens a stream and says hello.
    pub(super) async fn open(&mut self, address: SocketAddr) -> Result<(), Status> {
        let hello = Greeting {
            protocol: PROTOCOL,
            node: self.node.clone(),
            version: "test".into(),
            number: self.number,
            held: self
                .held
                .iter()
                .map(|(key, entry)| (key.clone(), entry.hash()))
                .collect(),
            addresses: self.addresses.clone(),
            released: self.released.clone(),
            report: self.report.clone(),
        };
        self.open_with(address, agent_message::Message::Hello(hello.into()))
            .await
    }

    pub(super) async fn open_with(
        &mut self,
        address: SocketAddr,
        first: agent_message::Message,
    ) -> Result<(), Status> {
        let channel = Channel::from_shared(format!("http://{address}")).unwrap();
        let mut client = DistributionClient::new(channel.connect().await.unwrap());
        let (out, outgoing) = mpsc::channel(16);
        out.try_send(v1::AgentMessage {
            message: Some(first),
        })
        .unwrap();
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        let bearer = format!("Bearer {}", self.token).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let incoming = client.subscribe(request).await?.into_inner();
        self.complete = false;
        self.link = Some(Link { out, incoming });
        Ok(())
    }

    /// Takes one message; `Err` when the stream has ended.
    pub(super) async fn step(&mut self) -> Result<(), End> {
        let link = self.link.as_mut().unwrap();
        let next = timeout(DEADLINE, link.incoming.message()).await;
        let message = match next.expect("a message in time") {
            Ok(Some(message)) => message,
            Ok(None) => return Err(End::Closed),
            Err(status) => return Err(End::Status(status)),
        };
        match message.message.unwrap() {
            controller_message::Message::Batch(batch) => {
                let delta = Delta::try_from(batch).unwrap();
                assert!(delta.number >= self.number, "a number fell");
                self.number = delta.number;
                self.batches += 1;
                self.records += delta.changed.len() + delta.removed.len();
                self.complete |= delta.complete;
                for entry in delta.changed {
                    self.held.insert(entry.key(), entry);
                }
                for key in delta.removed {
                    self.held.remove(&key);
                }
                for difference in delta.groups {
                    self.take(difference);
                }
                let realized = Realized {
                    number: self.number,
                    error: None,
                };
                // The controller may have gone meanwhile.
                let message = agent_message::Message::Realized(realized.into());
                let link = self.link.as_ref().unwrap();
                let _ = link
                    .out
                    .send(v1::AgentMessage {
                        message: Some(message),
                    })
                    .await;
            }
            controller_message::Message::AddressesFree(free) => {
                let freed = Freed::list(free).unwrap();
                self.freed
                    .extend(freed.iter().map(|f| (f.address.to_string(), f.release)));
            }
            controller_message::Message::NotLeader(other) => {
                return Err(End::NotLeader(other.leader));
            }
        }
        Ok(())
    }

    fn take(&mut self, difference: GroupDifference) {
        let group = difference.group;
        let mut members = self.members(&group);
        for member in &difference.removed {
            members.remove(member);
        }
        members.extend(difference.added);
        let entry = Entry::new(Body::Group(GroupFacts { group, members }));
        assert_eq!(entry.hash(), difference.hash);
        self.held.insert(Key::Group(group), entry);
    }

    /// Members of a group it holds.
    pub(super) fn members(&self, group: &GroupKey) -> Members {
        match self.held.get(&Key::Group(*group)).map(Entry::body) {
            Some(Body::Group(facts)) => facts.members.clone(),
            _ => Members::new(),
        }
    }

    /// Members of all groups it holds.
    pub(super) fn members_by_key(&self) -> BTreeMap<Key, Members> {
        let groups = self.held.keys().filter_map(|key| match key {
            Key::Group(group) => Some((key.clone(), self.members(group))),
            _ => None,
        });
        groups.collect()
    }

    /// Whether any group it holds names the address.
    pub(super) fn names(&self, address: &str) -> bool {
        let address: std::net::IpAddr = address.parse().unwrap();
        let groups = self.held.keys().filter_map(|key| match key {
            Key::Group(group) => Some(group),
            _ => None,
        });
        let mut members = groups.flat_map(|group| self.members(group));
        members.any(|((_, of), _)| of == address)
    }

    /// Takes messages until `done`.
    pub(super) async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            if let Err(end) = self.step().await {
                panic!("node {}: the stream ended: {end:?}", self.node);
            }
        }
    }

    /// Takes messages until the stream ends.
    pub(super) async fn drained(&mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    /// Opens a stream and takes everything it lacks.
    pub(super) async fn connect(&mut self, address: SocketAddr) {
        self.open(address).await.unwrap();
        self.until(|agent| agent.complete).await;
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.held.keys().map(ToString::to_string).collect()
    }
}

pub(super) fn holding(uid: &str, address: &str) -> PodHolding {
    PodHolding {
        uid: uid.into(),
        namespace: "default".into(),
        name: uid.into(),
        addresses: vec![address.parse().unwrap()],
    }
}

pub(super) fn release(number: u64, uid: &str, address: &str) -> Release {
    Release {
        number,
        uid: uid.into(),
        addresses: vec![address.parse().unwrap()],
    }
}

pub(super) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    assert!(
        timeout(DEADLINE, wait).await.is_ok(),
        "never came true: {what}"
    );
}
