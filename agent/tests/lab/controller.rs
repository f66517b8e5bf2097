//! A controller that a test plays: it sends what the test says and keeps what agents said.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carrick_k8s::pki::{Authority, LeafNames};
use carrick_node::Namespace;
use carrick_proto::{
    Body, Delta, Entry, GroupDifference, GroupFacts, Key, NodeFacts, NodeName, Number, PodFacts,
    PodUid, RouteFacts, v1,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use v1::controller_message::Message as Down;
use v1::distribution_server::{Distribution, DistributionServer};

use super::LabNode;

/// Port on each node's loopback.
const PORT: u16 = 11250;

#[derive(Default)]
struct State {
    number: Number,
    /// Records by node.
    records: BTreeMap<String, BTreeMap<Key, Entry>>,
    streams: BTreeMap<String, mpsc::Sender<Result<v1::ControllerMessage, Status>>>,
    heard: BTreeMap<String, Vec<v1::AgentMessage>>,
    hellos: usize,
    down: bool,
}

/// The controller. Clones share it.
#[derive(Clone, Default)]
pub struct Controller {
    state: Arc<Mutex<State>>,
}

struct Service(Controller);

#[tonic::async_trait]
impl Distribution for Service {
    type SubscribeStream = ReceiverStream<Result<v1::ControllerMessage, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let token = request.metadata().get("authorization").cloned();
        if token.is_none_or(|token| token != "Bearer lab-token") {
            return Err(Status::unauthenticated("no token"));
        }
        let mut incoming = request.into_inner();
        let first = incoming
            .message()
            .await?
            .and_then(|message| message.message);
        let Some(v1::agent_message::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no Hello"));
        };
        let (sender, receiver) = mpsc::channel(64);
        let node = hello.node.clone();
        {
            let mut state = self.0.state.lock().unwrap();
            if state.down {
                return Err(Status::unavailable("down"));
            }
            state.hellos += 1;
            let records = state.records.entry(node.clone()).or_default();
            let held: BTreeMap<&str, &[u8]> = hello
                .held
                .iter()
                .map(|held| (held.key.as_str(), held.hash.as_slice()))
                .collect();
            let changed = records
                .values()
                .filter(|entry| {
                    held.get(entry.key().to_string().as_str())
                        != Some(&entry.hash().as_bytes().as_slice())
                })
                .cloned()
                .collect();
            let removed = hello
                .held
                .iter()
                .filter_map(|held| held.key.parse::<Key>().ok())
                .filter(|key| !records.contains_key(key))
                .collect();
            let number = state.number;
            let delta = Delta {
                number,
                changed,
                removed,
                complete: true,
                groups: Vec::new(),
                skipped: 0,
            };
            sender
                .try_send(Ok(down(Down::Batch(delta.to_wire()))))
                .unwrap();
            state.streams.insert(node.clone(), sender);
            let said = v1::AgentMessage {
                message: Some(v1::agent_message::Message::Hello(hello)),
            };
            state.heard.entry(node.clone()).or_default().push(said);
        }
        let controller = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                controller
                    .state
                    .lock()
                    .unwrap()
                    .heard
                    .entry(node.clone())
                    .or_default()
                    .push(message);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn down(message: Down) -> v1::ControllerMessage {
    v1::ControllerMessage {
        message: Some(message),
    }
}

impl Controller {
    /// Serves the nodes and tells their agents where.
    pub async fn serve(nodes: &[&LabNode]) -> Self {
        let controller = Self::default();
        controller.state.lock().unwrap().number = Number::new(1, 1);
        let now = jiff::Timestamp::now();
        let year = Duration::from_secs(365 * 86_400);
        let authority = Authority::generate("lab", now, year).unwrap();
        let names = LeafNames {
            dns: ["carrick-controller".to_owned()].into_iter().collect(),
            addresses: Default::default(),
        };
        let leaf = authority.issue(&names, now, year).unwrap();
        for node in nodes {
            std::fs::write(&node.paths.ca_bundle, authority.certificate()).unwrap();
            std::fs::write(&node.paths.token, "lab-token\n").unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], PORT));
            std::fs::write(node.paths.controllers(), format!("[\"{address}\"]")).unwrap();
            let namespace = Namespace::open(format!("/run/netns/{}", node.netns())).unwrap();
            let listener = namespace
                .run(move || {
                    let listener = std::net::TcpListener::bind(address).unwrap();
                    listener.set_nonblocking(true).unwrap();
                    listener
                })
                .await
                .unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let identity = Identity::from_pem(leaf.certificate(), leaf.key());
            let server = Server::builder()
                .tls_config(ServerTlsConfig::new().identity(identity))
                .unwrap()
                .add_service(DistributionServer::new(Service(controller.clone())))
                .serve_with_incoming(TcpListenerStream::new(listener));
            tokio::spawn(server);
        }
        controller
    }

    /// Changes a node's records and sends the batch, if its agent is there.
    pub fn send(&self, node: &str, changed: Vec<Entry>, removed: Vec<Key>) -> Number {
        let mut state = self.state.lock().unwrap();
        state.number = state.number.next();
        let number = state.number;
        let records = state.records.entry(node.to_owned()).or_default();
        for key in &removed {
            records.remove(key);
        }
        for entry in &changed {
            records.insert(entry.key(), entry.clone());
        }
        let delta = Delta {
            number,
            changed,
            removed,
            ..Delta::default()
        };
        if let Some(stream) = state.streams.get(node) {
            let _ = stream.try_send(Ok(down(Down::Batch(delta.to_wire()))));
        }
        number
    }

    /// Changes a group that the node holds by its difference, and sends that.
    pub fn send_difference(&self, node: &str, difference: GroupDifference) -> Number {
        {
            let mut state = self.state.lock().unwrap();
            let records = state.records.entry(node.to_owned()).or_default();
            let held = &records[&Key::Group(difference.group)];
            let Body::Group(facts) = held.body() else {
                panic!("{held:?}");
            };
            let mut members = facts.members.clone();
            for member in &difference.removed {
                members.remove(member);
            }
            members.extend(difference.added.clone());
            let whole = Entry::new(Body::Group(GroupFacts {
                group: difference.group,
                members,
            }));
            assert_eq!(whole.hash(), difference.hash);
            records.insert(whole.key(), whole);
        }
        self.say_difference(node, difference)
    }

    /// Sends a difference, whether it fits or not.
    pub fn say_difference(&self, node: &str, difference: GroupDifference) -> Number {
        let number = {
            let mut state = self.state.lock().unwrap();
            state.number = state.number.next();
            state.number
        };
        let delta = Delta {
            number,
            groups: vec![difference],
            ..Delta::default()
        };
        self.say(node, Down::Batch(delta.to_wire()));
        number
    }

    /// Whether a node's last Hello said that it holds a record.
    pub fn held_last(&self, node: &str, key: &str) -> bool {
        let heard = self.heard(node);
        let mut hellos = heard.iter().filter_map(|message| match &message.message {
            Some(v1::agent_message::Message::Hello(hello)) => Some(hello),
            _ => None,
        });
        hellos
            .next_back()
            .is_some_and(|hello| hello.held.iter().any(|held| held.key == key))
    }

    /// Sends anything.
    pub fn say(&self, node: &str, message: Down) {
        let state = self.state.lock().unwrap();
        state.streams[node]
            .try_send(Ok(self::down(message)))
            .unwrap();
    }

    /// Ends all streams and refuses new ones, or takes them again.
    pub fn set_down(&self, is_down: bool) {
        let mut state = self.state.lock().unwrap();
        state.down = is_down;
        state.streams.clear();
    }

    /// How many streams were opened.
    pub fn hellos(&self) -> usize {
        self.state.lock().unwrap().hellos
    }

    /// What a node's agent has said.
    pub fn heard(&self, node: &str) -> Vec<v1::AgentMessage> {
        self.state
            .lock()
            .unwrap()
            .heard
            .get(node)
            .cloned()
            .unwrap_or_default()
    }

    /// Whether a node's agent has said that it could not realise what it has at this number.
    pub fn refused(&self, node: &str, number: Number) -> bool {
        self.heard(node)
            .iter()
            .any(|message| match &message.message {
                Some(v1::agent_message::Message::Realized(realized)) => {
                    !realized.error.is_empty() && Number::from(realized.number) == number
                }
                _ => false,
            })
    }

    /// The last number a node's agent acknowledged without an error.
    pub fn acknowledged(&self, node: &str) -> Number {
        self.heard(node)
            .iter()
            .filter_map(|message| match &message.message {
                Some(v1::agent_message::Message::Realized(realized))
                    if realized.error.is_empty() =>
                {
                    Some(Number::from(realized.number))
                }
                _ => None,
            })
            .max()
            .unwrap_or_default()
    }
}

/// The record of node `n` itself.
pub fn node_record(n: u8, cidrs: &[impl AsRef<str>]) -> Entry {
    node_record_by(n, &format!("node-uid-{n}"), cidrs)
}

/// The record of node `n`, registered under this UID.
pub fn node_record_by(n: u8, uid: &str, cidrs: &[impl AsRef<str>]) -> Entry {
    Entry::new(Body::Node(NodeFacts {
        name: NodeName::new(&format!("node{n}")).unwrap(),
        uid: uid.to_owned(),
        pod_cidrs: cidrs
            .iter()
            .map(|cidr| cidr.as_ref().parse().unwrap())
            .collect(),
        addresses: vec![format!("172.30.0.{n}").parse().unwrap()],
        problem: None,
        labels: std::collections::BTreeMap::new(),
    }))
}

/// The record of the way to node `n` on the usual wire.
pub fn route_record(n: u8, cidrs: &[impl AsRef<str>]) -> Entry {
    let endpoints = [format!("172.31.0.{n}"), format!("fd00:31::{n}")];
    route_record_by(n, cidrs, &endpoints)
}

/// The record of the way to node `n`, which has these transport addresses.
pub fn route_record_by(n: u8, cidrs: &[impl AsRef<str>], endpoints: &[String]) -> Entry {
    route_record_named(&format!("node{n}"), cidrs, endpoints)
}

/// The record of the way to a node, which has these transport addresses.
pub fn route_record_named(name: &str, cidrs: &[impl AsRef<str>], endpoints: &[String]) -> Entry {
    Entry::new(Body::Route(RouteFacts {
        node: NodeName::new(name).unwrap(),
        pod_cidrs: cidrs
            .iter()
            .map(|cidr| cidr.as_ref().parse().unwrap())
            .collect(),
        tunnel_endpoints: endpoints
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
    }))
}

/// A pod's record.
pub fn pod_record(pod: &super::Pod) -> Entry {
    Entry::new(Body::Pod(PodFacts {
        uid: PodUid::new(&pod.uid).unwrap(),
        namespace: "default".into(),
        name: pod.name.clone(),
        labels: BTreeMap::new(),
        ports: Arc::default(),
        groups: Vec::new(),
    }))
}
