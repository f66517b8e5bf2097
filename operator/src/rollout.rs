//! Ordered rollouts: which part changes next, which pod is deleted, when to go back. Pure.
//!
//! ```text
//! observe   Kubernetes objects ─► View
//! decide    View ─► Remember (write it down, then decide again) or Act (apply, delete, report)
//! install   the same for a network that never ran whole
//! walk      the order of the parts
//! steps     how far one part is
//! found     a network of whose making nothing is known
//! record    what outlives the operator: the last good render and the attempt under way
//! ```
//!
//! Everything is told from what runs: render hashes on workloads, `controller-revision-hash` on
//! pods, and the record. An operator that is killed between any two actions decides the same next.
//!
//! Invariants (each a property in `simulation`):
//! - at most one node's agent or switch is away because of us, also when that node falls silent;
//! - forward: controller, agents, switches; back: switches, agents, controller;
//! - a rollout ends with every reachable node new, or every one old, or stands still and says so;
//! - a switch is deleted only when its own template changed.

mod decide;
pub mod found;
mod install;
pub mod observe;
pub mod record;
#[cfg(test)]
mod simulation;
pub mod status;
mod steps;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use carrick_api::networking::OnFailure;
use carrick_api::status::{RolloutFailure, RolloutStatus};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use decide::decide;
pub use record::{Attempt, Gate, Good, Record, Turn};

/// A part of the network that is rolled out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// The controller's Deployment.
    Controller,
    /// The agents' DaemonSet.
    Agent,
    /// The switches' DaemonSet.
    Switch,
}

impl Part {
    /// All, in the order of a rollout that goes forward.
    pub const ALL: [Self; 3] = [Self::Controller, Self::Agent, Self::Switch];

    /// As people say it.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Agent => "agent",
            Self::Switch => "switch",
        }
    }
}

/// One value for each part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts<T> {
    /// Of the controller.
    pub controller: T,
    /// Of the agents.
    pub agent: T,
    /// Of the switches.
    pub switch: T,
}

impl<T> Parts<T> {
    /// The value of `part`.
    pub fn get(&self, part: Part) -> &T {
        match part {
            Part::Controller => &self.controller,
            Part::Agent => &self.agent,
            Part::Switch => &self.switch,
        }
    }

    /// The value of `part`, to change it.
    pub fn get_mut(&mut self, part: Part) -> &mut T {
        match part {
            Part::Controller => &mut self.controller,
            Part::Agent => &mut self.agent,
            Part::Switch => &mut self.switch,
        }
    }

    /// Makes the values.
    pub fn of(mut value: impl FnMut(Part) -> T) -> Self {
        Self {
            controller: value(Part::Controller),
            agent: value(Part::Agent),
            switch: value(Part::Switch),
        }
    }
}

/// What was or shall be rolled out, as far as order depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Render {
    /// What each workload was rendered as.
    pub hashes: Parts<String>,
    /// References of both images.
    pub images: [String; 2],
    /// Version of the operator that rendered it.
    pub version: String,
}

impl Render {
    /// One word for all parts.
    pub fn hash(&self) -> String {
        let Parts {
            controller,
            agent,
            switch,
        } = &self.hashes;
        format!("{controller}-{agent}-{switch}")
    }
}

/// `spec.rollout` with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Stop before the next node.
    pub paused: bool,
    /// How long a step may take.
    pub stall_timeout: SignedDuration,
    /// What a failure does.
    pub on_failure: OnFailure,
}

impl Settings {
    /// `stallTimeout` when it is not set.
    pub const STALL_TIMEOUT: SignedDuration = SignedDuration::from_mins(10);
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            paused: false,
            stall_timeout: Self::STALL_TIMEOUT,
            on_failure: OnFailure::Rollback,
        }
    }
}

/// A pod of a DaemonSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// It has its DaemonSet's newest revision.
    pub current: bool,
    /// It is ready.
    pub ready: bool,
    /// It will not become ready by waiting, and why.
    pub failing: Option<RolloutFailure>,
    /// Why it is not ready, in a sentence; empty when nobody knows.
    pub words: String,
}

/// What the agent of a node says, as far as the pod there now said it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Other nodes answer its pings; none when it did not say yet.
    pub peers: Option<bool>,
    /// It has a stream to some controller.
    pub connected: bool,
    /// It has a stream to a controller of the newest template.
    pub reconnected: bool,
}

/// Images on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Pulled {
    /// Nothing is known.
    #[default]
    Unknown,
    /// They cannot be had.
    Failing(RolloutFailure),
    /// They are there.
    Done,
}

/// A node that carries the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeView {
    /// The control plane hears it.
    pub reachable: bool,
    /// Its agent; none while there is none or it is ending.
    pub agent: Option<PodView>,
    /// Its switch.
    pub switch: Option<PodView>,
    /// What its agent says.
    pub told: Told,
    /// The target's images.
    pub pulled: Pulled,
}

impl NodeView {
    /// The pod of a DaemonSet.
    pub fn pod(&self, part: Part) -> Option<&PodView> {
        match part {
            Part::Controller => None,
            Part::Agent => self.agent.as_ref(),
            Part::Switch => self.switch.as_ref(),
        }
    }

    fn agent_ready(&self) -> bool {
        self.agent.as_ref().is_some_and(|pod| pod.ready)
    }
}

/// A workload as the API server has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// What it was rendered as.
    pub hash: String,
    /// Version of the operator that rendered it; empty when it does not say.
    pub version: String,
    /// Its controller has seen this template: pods can be told apart by it.
    pub observed: bool,
}

/// The controller's Deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControllerView {
    /// Every replica has the newest template, and as many are ready as can be.
    pub rolled_out: bool,
    /// A replica of the target will not become ready by waiting, and why.
    pub failing: Option<RolloutFailure>,
    /// Why it is not rolled out, in a sentence; empty when nobody knows.
    pub words: String,
}

/// Everything a decision follows from.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// The time.
    pub now: Timestamp,
    /// `spec.rollout`.
    pub settings: Settings,
    /// Nothing may be begun: the spec is refused.
    pub frozen: bool,
    /// What the spec says.
    pub target: &'a Render,
    /// Hash of the spec without `rollout`, and of the images: who changes them wants a failed
    /// rollout tried again.
    pub spec: &'a str,
    /// What is remembered.
    pub record: &'a Record,
    /// The workloads; none that is not there.
    pub live: Parts<Option<Live>>,
    /// The controller.
    pub controller: ControllerView,
    /// Nodes that carry the network, by name.
    pub nodes: BTreeMap<String, NodeView>,
    /// What was waited for at the last look, and since when.
    pub waited: Option<(String, Timestamp)>,
}

impl View<'_> {
    /// The target is again what ran last without a fault: what was tried meanwhile is undone.
    fn is_undone(&self) -> bool {
        self.good()
            .is_some_and(|good| good.hash() == self.target.hash())
    }

    fn good(&self) -> Option<&Render> {
        self.record.good.as_ref().map(|good| &good.render)
    }

    /// Whether the rollout concerns this part; all parts when that cannot be told.
    fn changes(&self, part: Part) -> bool {
        let Some(good) = self.good().filter(|_| !self.is_undone()) else {
            return true;
        };
        let begun = self.record.attempt.as_ref();
        good.hashes.get(part) != self.target.hashes.get(part)
            || begun.is_some_and(|attempt| attempt.parts.contains(&part))
    }

    /// Whether the workload of this part is there as `render` has it.
    fn is_at(&self, render: &Render, part: Part) -> bool {
        let live = self.live.get(part).as_ref();
        live.is_some_and(|live| live.hash == *render.hashes.get(part))
    }

    /// Whether every workload is there as `render` has it.
    fn is_all_at(&self, render: &Render) -> bool {
        Part::ALL.iter().all(|&part| self.is_at(render, part))
    }

    /// Nodes that report.
    fn reachable(&self) -> impl Iterator<Item = (&String, &NodeView)> {
        self.nodes.iter().filter(|(_, node)| node.reachable)
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Write this down, then decide again.
    Remember(Change),
    /// Do this, then look again.
    Act(Act),
}

/// A change of the record.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A rollout begins.
    Begin(Attempt),
    /// The rollout failed.
    Fail(RolloutFailure),
    /// The images are on every reachable node.
    Pulled,
    /// The pod of this node is about to go: its turn has come. These gates did not pass before, so
    /// that they say nothing about the new render there. All others count.
    Turn(Turn, BTreeSet<Gate>),
    /// The node whose turn it was has shown that it works, or is gone.
    Pass,
    /// Going back, this node did not become ready in time: go on with the others.
    GiveUp(String),
    /// Everything is back where it was.
    Settle,
    /// The attempt is undone: the target is again what runs.
    Forget,
    /// The target runs on every reachable node: it is the last good render from now on.
    Succeed,
}

/// Which render a workload gets now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// What the spec says.
    Target,
    /// What ran last without a fault.
    Good,
    /// Left as it is.
    Hold,
}

/// A pod to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Of which DaemonSet.
    pub part: Part,
    /// Its node.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Its UID: a pod made since of the same name stays.
    pub uid: String,
}

/// What is done at this look.
#[derive(Debug, Clone, PartialEq)]
pub struct Act {
    /// Where it goes in the end: [`Place::Good`] after a failure, else [`Place::Target`].
    pub goal: Place,
    /// Which render each workload gets now.
    pub places: Parts<Place>,
    /// The pre-pull runs.
    pub pre_pull: bool,
    /// Pods to delete, after everything is applied.
    pub delete: Vec<Deletion>,
    /// What people are told.
    pub status: RolloutStatus,
}
