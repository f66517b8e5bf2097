//! Everything the controller knows, behind one lock, and the agents that are connected.
//!
//! Facts come in by [`Hub::apply`] and from streams; streams ask [`Hub::work`] for what their agent
//! lacks when they are woken *and* have room to send it. Nothing is queued for an agent: a slow one
//! is a cursor that stays behind.

mod figures;
mod roll_call;
mod synced;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use carrick_policy::PolicyName;
use carrick_proto::limits::TooMany;
use carrick_proto::{
    AddressChange, Freed, Greeting, Key, NodeName, NodeReport, Number, PodHolding, PodUid,
    Realized, Release, limits,
};
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use crate::index::addresses::{TooManyHeld, own};
use crate::index::{Change, Index, Listed};
use crate::log::{Concerned, Lacking, Lagging, Log, Position, Resumption};
use crate::objects::{Event, NodeObject};
use crate::quarantine::{FreedBy, Quarantine, Span};
pub use figures::Figures;
use roll_call::RollCall;
pub use synced::Synced;

/// Agents that one released address waits for at most.
const MOST_AWAITED: usize = 1024;

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
    /// Something was seen.
    seen: watch::Sender<()>,
    /// Whose agents a new leader waits for.
    roll_call: RollCall,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    log: Log,
    quarantine: Quarantine,
    agents: HashMap<NodeName, Agent>,
    sessions: u64,
    synced: Synced,
    /// Agents that may hold an address which they were told to forget, or will be, until they
    /// acknowledge this number.
    forgetting: Span,
}

#[derive(Debug)]
struct Agent {
    session: u64,
    version: String,
    ready: bool,
    realized: Number,
    error: Option<String>,
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
    /// The agent would refuse what it lacks.
    #[error("the node keeps what it has: {0}; fewer policies, or selectors of fewer pods, mend it")]
    TooLarge(TooMany),
}

impl From<TooManyHeld> for Ended {
    fn from(_: TooManyHeld) -> Self {
        Self::TooMuch
    }
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
            seen: watch::Sender::new(()),
            roll_call: RollCall::default(),
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
        // Who is gone forgets nothing and keeps nobody waiting, whether its agent was connected or not.
        let State {
            index, forgetting, ..
        } = &mut *state;
        forgetting.retain(|name, _| index.node(name).is_some());
        for name in &gone {
            if let Some(agent) = state.agents.get(name) {
                agent.wake.notify_one();
            }
        }
        state.free(freed);
        drop(state);
        for name in &gone {
            self.roll_call.answered(name);
        }
        self.wake_all(&concerned);
        self.seen.send_replace(());
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

    /// A term begins: what agents hold is what another leader told them.
    pub fn begin_term(&self) {
        let mut state = self.state.write();
        let State {
            index,
            log,
            forgetting,
            ..
        } = &mut *state;
        let agents: BTreeSet<NodeName> = index.nodes_with_agents().cloned().collect();
        let named = agents.iter().filter(|name| log.names_addresses(name));
        forgetting.extend(named.map(|name| (name.clone(), log.number())));
        drop(state);
        self.roll_call.begin(agents);
    }

    /// Waits until every agent has said which addresses its pods have, but no longer than a new
    /// leader may keep them waiting.
    pub async fn roll_called(&self) {
        self.roll_call.complete().await;
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
    pub fn open(&self, greeting: &Greeting) -> Result<Session, Ended> {
        let mut state = self.state.write();
        let node = greeting.node.clone();
        if state.index.node(&node).is_none() {
            return Err(Ended::NoNode);
        }
        state.index.greeted(&node, &greeting.addresses)?;
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
            freed: BTreeSet::new(),
            wake: Arc::new(Notify::new()),
        };
        let wake = Arc::clone(&agent.wake);
        if let Some(old) = state.agents.insert(node.clone(), agent) {
            old.wake.notify_one();
        }
        // It may hold what is no longer so until it has what its answer brings.
        let holds_groups = greeting.held.keys().any(|key| matches!(key, Key::Group(_)));
        if holds_groups {
            let number = state.log.number();
            state.forgetting.insert(node.clone(), number);
        } else {
            state.forgetting.remove(&node);
        }
        // Its releases have numbers of this stream, and it names all that are not over.
        state.quarantine.forget(&node);
        if let Err(ended) = state.release(&node, &greeting.released) {
            state.agents.remove(&node);
            return Err(ended);
        }
        let cursor = state.log.position();
        drop(state);
        self.wake_all(&concerned);
        self.roll_call.answered(&node);
        self.nodes.send_replace(());
        self.told.notify_one();
        Ok(Session {
            node,
            wake,
            cursor,
            id,
        })
    }

    /// What an agent lacks that just opened its stream. It may be some time after that. An error
    /// ends the stream.
    pub fn resume(&self, mut session: Session, greeting: &Greeting) -> Result<Opened, Ended> {
        // Comparing takes long for a large cluster: under a lock that other streams share.
        let state = self.state.read();
        session.cursor = state.log.position();
        let resumption = state.log.resume(&session.node, &greeting.held);
        if let Err(ended) = state.fits(&session.node, &resumption.lacking) {
            drop(state);
            self.close(&session);
            return Err(ended);
        }
        Ok(Opened {
            resumption,
            number: state.log.number(),
            session,
        })
    }

    /// What the stream's agent lacks now.
    pub fn work(&self, session: &Session) -> Result<Work, Ended> {
        let state = self.state.read();
        state.standing(session)?;
        let lacking = state.log.since(&session.node, session.cursor)?;
        state.fits(&session.node, &lacking)?;
        Ok(Work {
            lacking,
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

    /// Told whenever something was seen.
    pub fn seen(&self) -> watch::Receiver<()> {
        self.seen.subscribe()
    }

    /// Namespaces with pods whose records are withheld.
    pub fn withholding(&self) -> Vec<Arc<str>> {
        self.state.read().index.withholding().cloned().collect()
    }

    /// Pods of the namespace whose records are withheld.
    pub fn withheld(&self, namespace: &str) -> BTreeSet<PodUid> {
        self.state.read().index.withheld(namespace)
    }

    /// Lets the records of `pods` go if everything that was read after they were seen has been
    /// seen; whether it was.
    pub fn vouch(&self, namespace: &str, listed: &Listed, pods: &BTreeSet<PodUid>) -> bool {
        let mut state = self.state.write();
        let vouched = state.synced.all() && state.index.vouch(namespace, listed, pods);
        if vouched {
            state.publish(Vec::new());
            drop(state);
            self.told.notify_one();
        }
        vouched
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
            let told = state.forgetting.get(&session.node);
            if told.is_some_and(|told| *told <= number) {
                state.forgetting.remove(&session.node);
            }
            state.free(freed);
        }
        Ok(())
    }

    /// The agent's pods got and gave back addresses.
    pub fn addresses(&self, session: &Session, change: &AddressChange) -> Result<(), Ended> {
        let mut state = self.state.write();
        state.standing(session)?;
        state.release(&session.node, &change.released)?;
        state.hold(&session.node, &change.assigned)?;
        Ok(())
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
}

impl State {
    /// Publishes `changes` and what follows from policies, and wakes the agents whose own records changed.
    fn publish(&mut self, changes: Vec<Change>) -> Concerned {
        let Self { index, log, .. } = self;
        let changes = index.settle(changes);
        let concerned = log.publish(changes, |group| index.members(group));
        let there = |name: &&NodeName| self.index.node(name).is_some();
        for name in concerned.forgetting.iter().filter(there) {
            self.forgetting.insert(name.clone(), self.log.number());
        }
        for name in &concerned.nodes {
            if let Some(agent) = self.agents.get(name) {
                agent.wake.notify_one();
            }
        }
        concerned
    }

    /// Whether the agent would take this.
    fn fits(&self, node: &NodeName, lacking: &Lacking) -> Result<(), Ended> {
        let what = "records are for one node";
        TooMany::check(what, self.log.records_of(node), limits::RECORDS)
            .and_then(|()| lacking.changed.iter().try_for_each(|entry| entry.fits()))
            .map_err(Ended::TooLarge)
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

    /// Notes addresses pods hold beside what they held.
    fn hold(&mut self, node: &NodeName, pods: &[PodHolding]) -> Result<(), Ended> {
        self.index.assigned(node, pods)?;
        for address in pods.iter().flat_map(|pod| &pod.addresses) {
            self.quarantine.withdraw(node, *address);
        }
        self.publish(Vec::new());
        Ok(())
    }

    /// Takes addresses that pods of a node gave back out of every group, and notes which nodes
    /// have to forget them.
    fn release(&mut self, node: &NodeName, releases: &[Release]) -> Result<(), Ended> {
        self.index.released(node, releases);
        self.publish(Vec::new());
        let cidrs = self.index.node(node).map(|node| node.pod_cidrs.clone());
        let cidrs = cidrs.unwrap_or_default();
        let in_vain = self.waits_in_vain();
        let quarantine = &mut self.quarantine;
        let mut freed = FreedBy::new();
        for release in releases {
            for address in own(&cidrs, &release.addresses) {
                if in_vain {
                    quarantine.withdraw(node, address);
                    continue;
                }
                let released = Freed {
                    address,
                    release: release.number,
                };
                let span = self.forgetting.clone();
                quarantine.release(node.clone(), released, span, &mut freed);
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

    /// An agent that has something to forget is away or fails, or there are very many: then a
    /// released address rests for the minute after which its own node uses it again in any case,
    /// and nothing is kept here for as long as that lasts.
    fn waits_in_vain(&self) -> bool {
        let away = |name| {
            let agent: Option<&Agent> = self.agents.get(name);
            agent.is_none_or(|agent| agent.error.is_some())
        };
        self.forgetting.len() > MOST_AWAITED || self.forgetting.keys().any(away)
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
