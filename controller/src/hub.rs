//! Everything the controller knows, behind one lock, and the agents that are connected.
//!
//! Facts come in by [`Hub::apply`] and from streams; streams ask [`Hub::work`] for what their agent
//! lacks when they are woken *and* have room to send it. Nothing is queued for an agent: a slow one
//! is a cursor that stays behind.

mod synced;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use carrick_policy::PolicyName;
use carrick_proto::{
    AddressChange, Freed, Greeting, Key, NodeName, NodeReport, Number, PodHolding, Realized,
    Release, limits,
};
use ipnet::IpNet;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use crate::index::{Change, Index};
use crate::log::{Concerned, Lacking, Lagging, Log, Position, Resumption};
use crate::objects::{Event, NodeObject};
use crate::quarantine::{FreedBy, Quarantine};
pub use synced::Synced;

/// Shared by watches, streams and reports.
#[derive(Debug)]
pub struct Hub {
    state: RwLock<State>,
    /// Routes changed: every agent is to be woken, soon and together.
    pub(crate) routes: Notify,
    /// Nodes, or what their agents say, have changed: something may have to be written to them.
    pub(crate) nodes: watch::Sender<()>,
    /// What `ControllerInfo` says may have changed.
    pub(crate) told: Notify,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    log: Log,
    quarantine: Quarantine,
    agents: HashMap<NodeName, Agent>,
    sessions: u64,
    synced: Synced,
}

#[derive(Debug)]
struct Agent {
    session: u64,
    version: String,
    ready: bool,
    realized: Number,
    error: Option<String>,
    /// Addresses by the runtime's UID of the pod that holds them.
    holdings: HashMap<String, BTreeSet<IpAddr>>,
    /// Releases to tell it that every node has forgotten.
    freed: BTreeSet<Freed>,
    wake: Arc<Notify>,
}

/// One agent's open stream.
#[derive(Debug)]
pub struct Session {
    /// Its node.
    pub node: NodeName,
    /// Woken when there may be work.
    pub wake: Arc<Notify>,
    /// Up to where the agent was sent everything.
    pub cursor: Position,
    id: u64,
}

/// What opening a stream gives.
#[derive(Debug)]
pub struct Opened {
    /// The stream.
    pub session: Session,
    /// What the agent lacks.
    pub resumption: Resumption,
    /// The number it is at when it has that.
    pub number: Number,
}

/// Why a stream is not opened or does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// There is no such Node.
    #[error("there is no Node of this name")]
    NoNode,
    /// The node's agent opened another stream.
    #[error("the node's agent opened another stream")]
    Superseded,
    /// Too far behind.
    #[error(transparent)]
    Lagging(#[from] Lagging),
    /// The agent reports more than an agent may.
    #[error("the agent reports more addresses than one node can have")]
    TooMuch,
}

/// What a stream has to send.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Work {
    /// Records.
    pub lacking: Lacking,
    /// The number after them.
    pub number: Number,
    /// The cursor after them.
    pub position: Position,
}

/// Numbers for status and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// The log's number.
    pub number: Number,
    /// Records over all nodes.
    pub records: usize,
    /// Nodes known.
    pub nodes: usize,
    /// Pods known.
    pub pods: usize,
    /// Policies that are enforced.
    pub policies: usize,
    /// Agents with a stream.
    pub connected: usize,
    /// Agents that stored a batch but could not program it.
    pub failing: usize,
    /// Agents that have not acknowledged the log's number.
    pub behind: usize,
    /// Addresses pods hold, as agents report them.
    pub addresses: usize,
    /// Addresses in quarantine that wait for other nodes.
    pub quarantined: usize,
}

/// One connected agent, for the read API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFigures {
    /// Its node.
    pub node: NodeName,
    /// Its version.
    pub version: String,
    /// It says that the node can carry pods.
    pub ready: bool,
    /// What it has acknowledged.
    pub realized: Number,
    /// Why the last batch could not be programmed.
    pub error: Option<String>,
    /// Addresses its pods hold.
    pub addresses: usize,
}

impl Hub {
    /// Knows nothing.
    #[must_use]
    pub fn new(index: Index) -> Self {
        Self {
            state: RwLock::new(State {
                index,
                ..State::default()
            }),
            routes: Notify::new(),
            nodes: watch::Sender::new(()),
            told: Notify::new(),
        }
    }

    /// Takes observations in, all under one number, and wakes the agents they concern.
    pub fn apply(&self, events: Vec<Event>) {
        let mut state = self.state.write();
        let mut changes = Vec::new();
        let mut freed = FreedBy::new();
        let mut gone = Vec::new();
        let mut nodes_changed = false;
        for event in events {
            state.synced.see(&event);
            nodes_changed |= matches!(event, Event::Node(_) | Event::Nodes(_));
            if let Event::NodeGone(name) = &event {
                gone.push(name.clone());
            }
            if let Event::Nodes(all) = &event {
                let kept: BTreeSet<&NodeName> = all.iter().map(|node| &node.name).collect();
                gone.extend(
                    state
                        .agents
                        .keys()
                        .filter(|name| !kept.contains(name))
                        .cloned(),
                );
            }
            state.index.apply(event, &mut changes);
        }
        for name in &gone {
            state.quarantine.gone(name, &mut freed);
        }
        let concerned = state.publish(changes);
        for name in &gone {
            if let Some(agent) = state.agents.get(name) {
                agent.wake.notify_one();
            }
        }
        state.free(freed);
        drop(state);
        self.wake_all(&concerned);
        if nodes_changed {
            self.nodes.send_replace(());
        }
        self.told.notify_one();
    }

    fn wake_all(&self, concerned: &Concerned) {
        if concerned.all {
            self.routes.notify_one();
        }
    }

    /// Wakes every agent; called a moment after routes changed, so that a thousand nodes that join
    /// in that moment are one batch for each.
    pub fn wake_everyone(&self) {
        for agent in self.state.read().agents.values() {
            agent.wake.notify_one();
        }
    }

    /// Serves by `epoch` from now on.
    pub fn lead(&self, epoch: u64) {
        self.state.write().log.lead(epoch);
        self.told.notify_one();
    }

    /// The number of an agent that has everything.
    pub fn number(&self) -> Number {
        self.state.read().log.number()
    }

    /// Which kinds were listed.
    pub fn synced(&self) -> Synced {
        self.state.read().synced
    }

    /// Opens an agent's stream; one it had before ends.
    pub fn open(&self, greeting: &Greeting) -> Result<Opened, Ended> {
        let mut state = self.state.write();
        let node = greeting.node.clone();
        if state.index.node(&node).is_none() {
            return Err(Ended::NoNode);
        }
        let mut changes = Vec::new();
        state.index.reported(&node, &greeting.report, &mut changes);
        let concerned = state.publish(changes);
        state.sessions += 1;
        let id = state.sessions;
        let agent = Agent {
            session: id,
            version: greeting.version.clone(),
            ready: greeting.report.ready,
            realized: greeting.number,
            error: None,
            holdings: HashMap::new(),
            freed: BTreeSet::new(),
            wake: Arc::new(Notify::new()),
        };
        let wake = Arc::clone(&agent.wake);
        if let Some(old) = state.agents.insert(node.clone(), agent) {
            old.wake.notify_one();
        }
        // Its releases have numbers of this stream, and it names all that are not over.
        state.quarantine.forget(&node);
        let held = state.hold(&node, &greeting.addresses);
        if let Err(ended) = held.and_then(|()| state.release(&node, &greeting.released)) {
            state.agents.remove(&node);
            return Err(ended);
        }
        drop(state);
        self.wake_all(&concerned);
        self.nodes.send_replace(());
        self.told.notify_one();
        // Comparing takes long for a large cluster: under a lock that other streams share.
        let state = self.state.read();
        let opened = Opened {
            resumption: state.log.resume(&node, &greeting.held),
            number: state.log.number(),
            session: Session {
                cursor: state.log.position(),
                node,
                wake,
                id,
            },
        };
        Ok(opened)
    }

    /// What the stream's agent lacks now.
    pub fn work(&self, session: &Session) -> Result<Work, Ended> {
        let state = self.state.read();
        state.standing(session)?;
        Ok(Work {
            lacking: state.log.since(&session.node, session.cursor)?,
            number: state.log.number(),
            position: state.log.position(),
        })
    }

    /// Takes the releases the agent is to be told are over.
    pub fn take_freed(&self, session: &Session) -> Result<BTreeSet<Freed>, Ended> {
        if self.state.read().standing(session)?.freed.is_empty() {
            return Ok(BTreeSet::new());
        }
        Ok(std::mem::take(
            &mut self.state.write().standing_mut(session)?.freed,
        ))
    }

    /// Of `keys`, those no record is known for by now.
    pub fn still_doubtful(&self, node: &NodeName, keys: &BTreeSet<Key>) -> BTreeSet<Key> {
        let state = self.state.read();
        keys.iter()
            .filter(|key| !state.log.knows(node, key))
            .cloned()
            .collect()
    }

    /// Of these, policies that no watch has seen, or has seen to go.
    pub fn unknown_policies(&self, policies: BTreeSet<PolicyName>) -> BTreeSet<PolicyName> {
        let state = self.state.read();
        let unknown = |name: &PolicyName| !state.index.knows_policy(name);
        policies.into_iter().filter(unknown).collect()
    }

    /// The agent has committed a batch.
    pub fn realized(&self, session: &Session, realized: &Realized) -> Result<(), Ended> {
        let mut state = self.state.write();
        let number = {
            let agent = state.standing_mut(session)?;
            // What it says it has, it has; but an older number is not taken for news.
            agent.realized = agent.realized.max(realized.number);
            if agent.error != realized.error {
                agent.error.clone_from(&realized.error);
                self.told.notify_one();
            }
            agent.realized
        };
        if realized.error.is_none() {
            let mut freed = FreedBy::new();
            state.quarantine.realized(&session.node, number, &mut freed);
            state.free(freed);
        }
        Ok(())
    }

    /// The agent's pods got and gave back addresses.
    pub fn addresses(&self, session: &Session, change: &AddressChange) -> Result<(), Ended> {
        let mut state = self.state.write();
        state.standing(session)?;
        state.release(&session.node, &change.released)?;
        state.hold(&session.node, &change.assigned)
    }

    /// The agent's own state changed.
    pub fn report(&self, session: &Session, report: &NodeReport) -> Result<(), Ended> {
        let mut state = self.state.write();
        state.standing_mut(session)?.ready = report.ready;
        let mut changes = Vec::new();
        state.index.reported(&session.node, report, &mut changes);
        let concerned = state.publish(changes);
        drop(state);
        self.wake_all(&concerned);
        self.nodes.send_replace(());
        Ok(())
    }

    /// The stream has ended.
    pub fn close(&self, session: &Session) {
        let mut state = self.state.write();
        if state
            .agents
            .get(&session.node)
            .is_some_and(|agent| agent.session == session.id)
        {
            state.agents.remove(&session.node);
        }
        drop(state);
        self.told.notify_one();
    }

    /// Nodes whose agent is ready and of which `wanted` holds.
    pub fn ready_nodes(&self, wanted: fn(&NodeObject) -> bool) -> Vec<NodeName> {
        let state = self.state.read();
        let mut nodes: Vec<NodeName> = state
            .agents
            .iter()
            .filter(|(name, agent)| agent.ready && state.index.node(name).is_some_and(wanted))
            .map(|(name, _)| name.clone())
            .collect();
        nodes.sort();
        nodes
    }

    /// Numbers for status and metrics.
    pub fn figures(&self) -> Figures {
        let state = self.state.read();
        let number = state.log.number();
        let (nodes, pods) = state.index.sizes();
        let agents = state.agents.values();
        Figures {
            number,
            records: state.log.len(),
            nodes,
            pods,
            policies: state.index.policies(),
            connected: state.agents.len(),
            failing: agents.clone().filter(|agent| agent.error.is_some()).count(),
            behind: agents
                .clone()
                .filter(|agent| agent.realized < number)
                .count(),
            addresses: agents
                .map(|agent| agent.holdings.values().map(BTreeSet::len).sum::<usize>())
                .sum(),
            quarantined: state.quarantine.len(),
        }
    }

    /// What the first agent that could not program its last batch says, for a person.
    pub fn trouble(&self) -> Option<String> {
        let state = self.state.read();
        let failing = state
            .agents
            .iter()
            .filter_map(|(node, agent)| Some((node, agent.error.as_ref()?)));
        let (node, error) = failing.min_by_key(|(node, _)| *node)?;
        Some(format!(
            "node {node} could not program what it was sent: {error}"
        ))
    }

    /// The connected agents by name.
    pub fn agents(&self) -> Vec<AgentFigures> {
        let state = self.state.read();
        let sorted: BTreeMap<&NodeName, &Agent> = state.agents.iter().collect();
        sorted
            .into_iter()
            .map(|(node, agent)| AgentFigures {
                node: node.clone(),
                version: agent.version.clone(),
                ready: agent.ready,
                realized: agent.realized,
                error: agent.error.clone(),
                addresses: agent.holdings.values().map(BTreeSet::len).sum(),
            })
            .collect()
    }
}

impl State {
    /// Publishes `changes` and what follows from policies, and wakes the agents whose own records changed.
    fn publish(&mut self, changes: Vec<Change>) -> Concerned {
        let Self { index, log, .. } = self;
        let changes = index.settle(changes);
        let concerned = log.publish(changes, |group| index.members(group));
        for name in &concerned.nodes {
            if let Some(agent) = self.agents.get(name) {
                agent.wake.notify_one();
            }
        }
        concerned
    }

    fn standing(&self, session: &Session) -> Result<&Agent, Ended> {
        if self.index.node(&session.node).is_none() {
            return Err(Ended::NoNode);
        }
        self.agents
            .get(&session.node)
            .filter(|agent| agent.session == session.id)
            .ok_or(Ended::Superseded)
    }

    fn standing_mut(&mut self, session: &Session) -> Result<&mut Agent, Ended> {
        if self.index.node(&session.node).is_none() {
            return Err(Ended::NoNode);
        }
        self.agents
            .get_mut(&session.node)
            .filter(|agent| agent.session == session.id)
            .ok_or(Ended::Superseded)
    }

    /// Notes addresses pods hold beside what they held; only those of the node's own CIDRs are
    /// believed.
    fn hold(&mut self, node: &NodeName, pods: &[PodHolding]) -> Result<(), Ended> {
        let cidrs = self.cidrs(node);
        let Some(agent) = self.agents.get_mut(node) else {
            return Ok(());
        };
        for pod in pods {
            let held = agent.holdings.entry(pod.uid.clone()).or_default();
            held.extend(own(&cidrs, &pod.addresses));
            if held.len() > limits::ADDRESSES {
                return Err(Ended::TooMuch);
            }
        }
        if agent.holdings.len() > limits::PODS {
            Err(Ended::TooMuch)
        } else {
            Ok(())
        }
    }

    /// Notes addresses that pods of a node hold no more, and which nodes have to forget them.
    fn release(&mut self, node: &NodeName, releases: &[Release]) -> Result<(), Ended> {
        let cidrs = self.cidrs(node);
        let number = self.log.number();
        let mut freed = FreedBy::new();
        for release in releases {
            if let Some(agent) = self.agents.get_mut(node)
                && let Some(held) = agent.holdings.get_mut(&release.uid)
            {
                held.retain(|address| !release.addresses.contains(address));
                if held.is_empty() {
                    agent.holdings.remove(&release.uid);
                }
            }
            for address in own(&cidrs, &release.addresses) {
                let released = Freed {
                    address,
                    release: release.number,
                };
                // No record names a pod's address yet: nobody has to forget it.
                let span = BTreeSet::new();
                let waiting = &mut self.quarantine;
                waiting.release(node.clone(), released, number, span, &mut freed);
            }
        }
        self.free(freed);
        // An agent that releases and does not listen.
        let untold = self.agents.get(node).map_or(0, |agent| agent.freed.len());
        if untold > limits::FREED {
            Err(Ended::TooMuch)
        } else {
            Ok(())
        }
    }

    fn cidrs(&self, node: &NodeName) -> Vec<IpNet> {
        let node = self.index.node(node);
        node.map(|node| node.pod_cidrs.clone()).unwrap_or_default()
    }

    /// An agent knows by the number of a release whether it is still the last one of its address.
    fn free(&mut self, freed: FreedBy) {
        for (node, releases) in freed {
            if let Some(agent) = self.agents.get_mut(&node) {
                agent.freed.extend(releases);
                agent.wake.notify_one();
            }
        }
    }
}

/// Those of `addresses` that are in the node's CIDRs.
fn own(cidrs: &[IpNet], addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let own = |address: &&IpAddr| cidrs.iter().any(|cidr| cidr.contains(*address));
    addresses.iter().filter(own).copied()
}
