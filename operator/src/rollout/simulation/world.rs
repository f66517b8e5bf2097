//! The cluster of the simulation: what Kubernetes and people do, and the operator turn by turn.

use std::collections::{BTreeMap, BTreeSet};

use carrick_api::networking::OnFailure;
use carrick_api::status::{RolloutDirection, RolloutFailure, RolloutPhase, RolloutStatus};
use jiff::{SignedDuration, Timestamp};

use crate::rollout::{
    Act, Change, ControllerView, Good, Live, NodeView, Part, Parts, Place, PodView, Pulled, Record,
    Render, Settings, Step, Told, View, decide,
};

/// Seconds of one turn.
const TURN: i64 = 5;
/// `stallTimeout`, in seconds.
const STALL: i64 = 60;
/// Turns after which everything must be over.
const END: usize = 1500;

/// How pods of the new render behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Image,
    ControllerCrashes,
    ControllerStalls,
    AgentCrashes(usize),
    AgentStalls(usize),
    PeersSilent(usize),
    SwitchCrashes(usize),
    /// The new agent takes the node off the network.
    NodeDies(usize),
}

/// What happens in the world besides the rollout.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    Nothing,
    /// The operator dies after this many actions of its next look.
    Kill(usize),
    /// Somebody deletes the agent of a node.
    DeleteAgent(usize),
    /// A node's kubelet stops or starts reporting.
    Toggle(usize),
    Join,
    Leave(usize),
    Pause(bool),
}

#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) hash: String,
    uid: u64,
    ready_at: i64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    reachable: bool,
    pub(super) pods: BTreeMap<Part, Pod>,
    pulled: bool,
}

#[derive(Debug)]
pub(super) struct World {
    now: i64,
    next: u64,
    fault: Fault,
    pub(super) good: Render,
    pub(super) target: Render,
    pub(super) record: Record,
    settings: Settings,
    pub(super) live: Parts<String>,
    observed: Parts<bool>,
    replicas: Vec<Pod>,
    pub(super) nodes: BTreeMap<String, Node>,
    joined: usize,
    pub(super) status: Option<RolloutStatus>,
    pre_pull: bool,
    /// Nodes whose ready pod we deleted and that are not ready again.
    by_us: BTreeSet<String>,
    pub(super) applied: Vec<(Part, String)>,
    pub(super) restarted: BTreeSet<Part>,
}

fn render(name: &str, switch: &str, images: &str) -> Render {
    Render {
        hashes: Parts {
            controller: format!("c-{name}"),
            agent: format!("a-{name}"),
            switch: format!("s-{switch}"),
        },
        images: [images.into(), images.into()],
        version: "0.1.0".into(),
    }
}

/// Whether this is the node with that number.
fn is(node: &str, index: usize) -> bool {
    node == format!("n{:02}", index + 1)
}

impl World {
    pub(super) fn new(
        nodes: usize,
        fault: Fault,
        switch_changes: bool,
        on_failure: OnFailure,
    ) -> Self {
        let good = render("old", "old", "old");
        let target = render("new", if switch_changes { "new" } else { "old" }, "new");
        let mut world = Self {
            now: 0,
            next: 0,
            fault,
            record: Record {
                good: Some(Good {
                    render: good.clone(),
                    ..Good::default()
                }),
                attempt: None,
            },
            settings: Settings {
                paused: false,
                stall_timeout: SignedDuration::from_secs(STALL),
                on_failure,
            },
            live: good.hashes.clone(),
            observed: Parts::of(|_| true),
            replicas: Vec::new(),
            nodes: BTreeMap::new(),
            joined: 0,
            status: None,
            pre_pull: false,
            by_us: BTreeSet::new(),
            applied: Vec::new(),
            restarted: BTreeSet::new(),
            good,
            target,
        };
        world.replicas = vec![
            world.pod(Part::Controller, ""),
            world.pod(Part::Controller, ""),
        ];
        for _ in 0..nodes {
            world.join();
        }
        world.now = 1000;
        world
    }

    fn join(&mut self) {
        self.joined += 1;
        let name = format!("n{:02}", self.joined);
        let mut node = Node {
            reachable: true,
            ..Node::default()
        };
        for part in [Part::Agent, Part::Switch] {
            node.pods.insert(part, self.pod(part, &name));
        }
        self.nodes.insert(name, node);
    }

    fn name(&self, index: usize) -> Option<String> {
        let count = self.nodes.len();
        (count > 0).then(|| self.nodes.keys().nth(index % count).unwrap().clone())
    }

    /// A pod of the workload's template as it is now.
    fn pod(&mut self, part: Part, node: &str) -> Pod {
        self.next += 1;
        let hash = self.live.get(part).clone();
        let is_new = *self.live.get(part) == *self.target.hashes.get(part)
            && *self.target.hashes.get(part) != *self.good.hashes.get(part);
        let stuck = is_new
            && match self.fault {
                Fault::ControllerCrashes | Fault::ControllerStalls => part == Part::Controller,
                Fault::AgentCrashes(n) | Fault::AgentStalls(n) => {
                    part == Part::Agent && is(node, n)
                }
                Fault::SwitchCrashes(n) => part == Part::Switch && is(node, n),
                Fault::None | Fault::Image | Fault::PeersSilent(_) | Fault::NodeDies(_) => false,
            };
        Pod {
            hash,
            uid: self.next,
            ready_at: if stuck { i64::MAX } else { self.now + 2 * TURN },
        }
    }

    fn crashes(&self, part: Part) -> bool {
        matches!(
            (self.fault, part),
            (Fault::ControllerCrashes, Part::Controller)
                | (Fault::AgentCrashes(_), Part::Agent)
                | (Fault::SwitchCrashes(_), Part::Switch)
        )
    }

    fn ready(&self, pod: &Pod) -> bool {
        pod.ready_at <= self.now
    }

    fn well(&self, node: &Node) -> bool {
        [Part::Agent, Part::Switch]
            .iter()
            .all(|part| node.pods.get(part).is_some_and(|pod| self.ready(pod)))
    }

    fn pod_view(&self, part: Part, node: &str, pod: &Pod) -> PodView {
        let broken = pod.ready_at == i64::MAX && self.crashes(part);
        PodView {
            name: format!("{part:?}-{node}-{}", pod.uid),
            uid: pod.uid.to_string(),
            current: pod.hash == *self.live.get(part),
            ready: self.ready(pod),
            failing: broken.then(|| RolloutFailure {
                node: node.to_owned(),
                reason: "CrashLoopBackOff".into(),
                ..RolloutFailure::default()
            }),
            words: String::new(),
        }
    }

    fn rolled_out(&self) -> bool {
        self.replicas
            .iter()
            .all(|pod| pod.hash == self.live.controller && self.ready(pod))
    }

    fn view<'a>(&'a self, record: &'a Record) -> View<'a> {
        let reconnected = self.rolled_out();
        let nodes = self.nodes.iter().map(|(name, node)| {
            let agent = node.pods.get(&Part::Agent);
            let new = agent.is_some_and(|pod| pod.hash == self.target.hashes.agent);
            let silent = matches!(self.fault, Fault::PeersSilent(n) if is(name, n) && new);
            // Without its switch an agent is not ready.
            let switch = node.pods.get(&Part::Switch);
            let has_switch = switch.is_some_and(|pod| self.ready(pod));
            let agent_view = agent.map(|pod| {
                let view = self.pod_view(Part::Agent, name, pod);
                PodView {
                    ready: view.ready && has_switch,
                    ..view
                }
            });
            let view = NodeView {
                reachable: node.reachable,
                agent: agent_view,
                switch: switch.map(|pod| self.pod_view(Part::Switch, name, pod)),
                told: Told {
                    peers: self.well(node).then_some(!silent),
                    connected: self.well(node),
                    reconnected: reconnected && self.well(node),
                },
                pulled: match (self.fault, node.pulled) {
                    (Fault::Image, true) => Pulled::Failing(RolloutFailure {
                        reason: "ImagePullBackOff".into(),
                        ..RolloutFailure::default()
                    }),
                    (_, true) => Pulled::Done,
                    (_, false) => Pulled::Unknown,
                },
            };
            (name.clone(), view)
        });
        View {
            now: Timestamp::from_second(self.now).unwrap(),
            settings: self.settings,
            frozen: false,
            target: &self.target,
            spec: "spec",
            record,
            live: Parts::of(|part| {
                Some(Live {
                    hash: self.live.get(part).clone(),
                    version: "0.1.0".into(),
                    observed: *self.observed.get(part),
                })
            }),
            controller: ControllerView {
                rolled_out: self.rolled_out(),
                failing: (self.fault == Fault::ControllerCrashes
                    && self.replicas.iter().any(|pod| pod.ready_at == i64::MAX))
                .then(|| RolloutFailure {
                    reason: "CrashLoopBackOff".into(),
                    ..RolloutFailure::default()
                }),
                words: String::new(),
            },
            nodes: nodes.collect(),
            waited: self
                .status
                .as_ref()
                .and_then(|status| Some((status.waiting_for.clone(), status.since.as_ref()?.0))),
        }
    }

    /// One look of the operator, cut short after `budget` actions.
    fn look(&mut self, mut budget: usize) {
        let mut spend = || {
            let left = budget > 0;
            budget = budget.saturating_sub(1);
            left
        };
        let act = loop {
            let record = self.record.clone();
            match decide(&self.view(&record)) {
                Step::Act(act) => break act,
                Step::Remember(change) => {
                    if !spend() {
                        return;
                    }
                    assert!(
                        change != Change::Forget,
                        "nothing is undone in this simulation"
                    );
                    let target = self.target.clone();
                    self.record = record.after(&change, || Good {
                        render: target,
                        ..Good::default()
                    });
                    assert_ne!(self.record, record, "{change:?} remembers nothing");
                }
            }
        };
        self.pre_pull = act.pre_pull;
        for part in Part::ALL {
            let render = match act.places.get(part) {
                Place::Target => &self.target,
                Place::Good => &self.record.good.as_ref().unwrap().render,
                Place::Hold => continue,
            };
            let hash = render.hashes.get(part).clone();
            if hash != *self.live.get(part) {
                if !spend() {
                    return;
                }
                self.apply(part, hash, &act);
            }
        }
        for deletion in &act.delete {
            if !spend() {
                return;
            }
            self.delete(deletion);
        }
        if spend() {
            self.status = Some(act.status);
        }
    }

    fn apply(&mut self, part: Part, hash: String, act: &Act) {
        assert!(!self.settings.paused, "applied {part:?} although paused");
        let forward = act.goal == Place::Target;
        assert_eq!(forward, act.status.direction == RolloutDirection::Forward);
        if forward && part != Part::Controller {
            assert_eq!(self.live.controller, self.target.hashes.controller);
            assert!(self.rolled_out(), "the controller comes before {part:?}");
        }
        if forward && part == Part::Switch {
            assert_eq!(self.live.agent, self.target.hashes.agent);
        }
        if !forward && part == Part::Controller {
            assert_eq!(self.live.agent, self.good.hashes.agent);
            let given_up = self.record.attempt.as_ref().unwrap().given_up.clone();
            for (name, node) in self.nodes.iter().filter(|(_, node)| node.reachable) {
                // One that is away at this moment comes up old.
                let old = { node.pods.get(&Part::Agent) }
                    .is_none_or(|pod| pod.hash == self.good.hashes.agent);
                assert!(
                    old || given_up.contains(name),
                    "agents go back before the controller"
                );
            }
        }
        self.applied.push((part, hash.clone()));
        *self.live.get_mut(part) = hash;
        *self.observed.get_mut(part) = false;
    }

    fn delete(&mut self, deletion: &crate::rollout::Deletion) {
        assert!(!self.settings.paused);
        let node = &self.nodes[&deletion.node];
        assert!(node.reachable, "nodes that do not report are left out");
        let was_well = self.well(node);
        let given_up = { self.record.attempt.as_ref() }
            .map(|attempt| attempt.given_up.clone())
            .unwrap_or_default();
        let others: Vec<_> = self
            .by_us
            .iter()
            .filter(|&name| *name != deletion.node && !given_up.contains(name))
            .filter(|&name| {
                let node = self.nodes.get(name);
                node.is_some_and(|node| node.reachable && !self.well(node))
            })
            .collect();
        assert!(
            others.is_empty() || !was_well,
            "{} would be away besides {others:?}",
            deletion.node
        );
        let failed = { self.record.attempt.as_ref() }.and_then(|a| a.failure.as_ref());
        let silent: Vec<_> = { self.by_us.iter() }
            .filter(|&name| !self.nodes[name].reachable && !given_up.contains(name))
            .filter(|&name| failed.is_none_or(|failure| failure.node != *name))
            .collect();
        assert!(
            silent.is_empty() || self.record.attempt.is_none(),
            "{} would follow {silent:?}",
            deletion.node
        );
        self.restarted.insert(deletion.part);
        let node = self.nodes.get_mut(&deletion.node).unwrap();
        let pod = node.pods.get(&deletion.part);
        if pod.is_some_and(|pod| pod.uid.to_string() == deletion.uid) {
            node.pods.remove(&deletion.part);
            if was_well {
                self.by_us.insert(deletion.node.clone());
            }
        }
    }

    /// Kubernetes does its part.
    fn turn(&mut self) {
        self.now += TURN;
        self.observed = Parts::of(|_| true);
        let away = self
            .replicas
            .iter()
            .position(|pod| pod.hash != self.live.controller);
        let settled = { self.replicas.iter() }
            .filter(|pod| pod.hash == self.live.controller)
            .all(|pod| self.ready(pod));
        if let Some(index) = away.filter(|_| settled) {
            self.replicas[index] = self.pod(Part::Controller, "");
        }
        // The Deployment's controller replaces what never became ready first.
        let stuck = self
            .replicas
            .iter()
            .position(|pod| pod.ready_at == i64::MAX && pod.hash != self.live.controller);
        if let Some(index) = stuck {
            self.replicas[index] = self.pod(Part::Controller, "");
        }
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in names {
            if !self.nodes[&name].reachable {
                continue;
            }
            for part in [Part::Agent, Part::Switch] {
                if !self.nodes[&name].pods.contains_key(&part) {
                    let pod = self.pod(part, &name);
                    let is_new = pod.hash == self.target.hashes.agent;
                    let dies = matches!(self.fault, Fault::NodeDies(n) if is(&name, n) && is_new);
                    let node = self.nodes.get_mut(&name).unwrap();
                    node.reachable &= !dies;
                    node.pods.insert(part, pod);
                }
            }
            self.nodes.get_mut(&name).unwrap().pulled = self.pre_pull;
            if self.well(&self.nodes[&name]) {
                self.by_us.remove(&name);
            }
        }
    }

    fn happen(&mut self, event: Event) -> usize {
        match event {
            Event::Kill(actions) => return actions,
            Event::DeleteAgent(index) => {
                if let Some(name) = self.name(index) {
                    self.nodes.get_mut(&name).unwrap().pods.remove(&Part::Agent);
                }
            }
            Event::Toggle(index) => {
                if let Some(name) = self.name(index) {
                    let node = self.nodes.get_mut(&name).unwrap();
                    node.reachable = !node.reachable;
                }
            }
            Event::Join => self.join(),
            Event::Leave(index) => {
                if self.nodes.len() > 1
                    && let Some(name) = self.name(index)
                {
                    self.nodes.remove(&name);
                    self.by_us.remove(&name);
                }
            }
            Event::Pause(paused) => self.settings.paused = paused,
            Event::Nothing => {}
        }
        usize::MAX
    }

    pub(super) fn all_at(&self, render: &Render) -> bool {
        self.live == render.hashes
            && self
                .replicas
                .iter()
                .all(|pod| pod.hash == render.hashes.controller)
            && self
                .nodes
                .values()
                .filter(|node| node.reachable)
                .all(|node| {
                    [Part::Agent, Part::Switch].iter().all(|part| {
                        node.pods
                            .get(part)
                            .is_some_and(|pod| pod.hash == *render.hashes.get(*part))
                    })
                })
    }

    /// Runs to the end and tells how it ended.
    pub(super) fn run(&mut self, events: &[Event]) -> RolloutPhase {
        for event in events {
            let budget = self.happen(*event);
            self.look(budget);
            self.turn();
        }
        self.settings.paused = false;
        // Without a node that reports nobody could show that anything works.
        if !self.nodes.values().any(|node| node.reachable) {
            self.nodes
                .values_mut()
                .for_each(|node| node.reachable = true);
        }
        let mut still = 0;
        for _ in 0..END {
            let before = (self.record.clone(), self.live.clone(), self.next);
            self.look(usize::MAX);
            self.turn();
            let phase = self.status.as_ref().unwrap().phase;
            let over = match phase {
                RolloutPhase::Complete | RolloutPhase::RolledBack | RolloutPhase::Failed => true,
                // The rollout is over; a node that came later does not work.
                RolloutPhase::Agents | RolloutPhase::Switches => self.record.attempt.is_none(),
                _ => false,
            };
            let same = before == (self.record.clone(), self.live.clone(), self.next);
            still = if over && same { still + 1 } else { 0 };
            if still > 20 {
                return phase;
            }
        }
        panic!("not over: {self:#?}");
    }
}
