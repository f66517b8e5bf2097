//! The way through the parts, in order: the first thing that is due.

use std::collections::BTreeSet;

use carrick_api::status::{RolloutDirection, RolloutFailure, RolloutPhase};

use super::status::Telling;
use super::steps::{self, CONTROLLER, Check, Rules};
use super::{
    Act, Attempt, Change, Deletion, Gate, Part, Parts, Place, Pulled, Render, Step, Turn, View,
};

/// A way from what runs to a render.
pub(super) struct Walk<'a> {
    pub(super) view: &'a View<'a>,
    /// What ran last without a fault.
    pub(super) good: &'a Render,
    /// Where it goes.
    pub(super) goal: Place,
    pub(super) direction: RolloutDirection,
    /// What is written down of it; none when nothing is.
    pub(super) attempt: Option<&'a Attempt>,
}

impl<'a> Walk<'a> {
    /// The next step; none when everything is where it shall be.
    pub(super) fn next(&self) -> Option<Step> {
        let view = self.view;
        if let Some(step) = self.pull() {
            return Some(step);
        }
        let agents_follow = view.changes(Part::Agent) && !view.is_at(self.render(), Part::Agent);
        let forward = self.is_trying() && self.direction == RolloutDirection::Forward;
        let rules = Rules {
            forward,
            trying: self.is_trying(),
            attempt: self.attempt,
            // Once agents are being replaced their streams come and go by our own doing.
            reconnect: forward && (agents_follow || !view.changes(Part::Agent)),
            switches_first: self.direction == RolloutDirection::Back,
        };
        if let Some((part, check)) = steps::silence(view, self.render(), &rules) {
            return self.after(part, check);
        }
        let mut order = Part::ALL;
        if self.direction == RolloutDirection::Back {
            order.reverse();
        }
        for part in order.into_iter().filter(|&part| view.changes(part)) {
            if view.live.get(part).is_some() && !view.is_at(self.render(), part) {
                return Some(self.apply(part));
            }
            let step = self.after(part, steps::check(view, part, &rules));
            if step.is_some() {
                return step;
            }
        }
        if self.is_trying() && view.reachable().next().is_none() {
            // Nobody has shown that it works.
            let telling = self.telling(RolloutPhase::Agents);
            return Some(self.act(Vec::new(), telling.waiting("a node that reports", "")));
        }
        None
    }

    /// Whoever tries something new can fail; whoever goes back has nowhere to go.
    pub(super) fn is_trying(&self) -> bool {
        self.goal == Place::Target && !self.view.is_undone()
    }

    fn render(&self) -> &'a Render {
        match self.goal {
            Place::Good => self.good,
            Place::Target | Place::Hold => self.view.target,
        }
    }

    fn telling(&self, phase: RolloutPhase) -> Telling<'a> {
        let failure = self.attempt.and_then(|attempt| attempt.failure.as_ref());
        Telling::new(self.view, phase, self.direction).failed(failure)
    }

    fn act(&self, delete: Vec<Deletion>, telling: Telling<'_>) -> Step {
        Step::Act(Act {
            goal: self.goal,
            places: as_it_is(self.view, self.good, self.goal),
            pre_pull: false,
            delete,
            status: telling.status(),
        })
    }

    fn pause(&self) -> Step {
        self.act(Vec::new(), self.telling(RolloutPhase::Paused))
    }

    /// Images before anything restarts.
    fn pull(&self) -> Option<Step> {
        let is_pulled = self.attempt.is_none_or(|attempt| attempt.pulled);
        if !self.is_trying() || is_pulled || self.view.target.images == self.good.images {
            return None;
        }
        match pull(self.view) {
            Check::Failed(failure) => Some(Step::Remember(Change::Fail(failure))),
            Check::Wait { .. } if self.view.settings.paused => Some(self.pause()),
            Check::Wait { what, words } => {
                let telling = self.telling(RolloutPhase::PullingImages);
                Some(Step::Act(Act {
                    goal: self.goal,
                    places: as_it_is(self.view, self.good, self.goal),
                    pre_pull: true,
                    delete: Vec::new(),
                    status: telling.waiting(&what, &words).status(),
                }))
            }
            Check::Finished | Check::Passed | Check::Next(_) => {
                Some(Step::Remember(Change::Pulled))
            }
        }
    }

    fn apply(&self, part: Part) -> Step {
        if self.view.settings.paused {
            return self.pause();
        }
        let words = format!("the new template of the {} is applied", part.noun());
        let telling = self.telling(phase(part)).saying(&words);
        let mut places = as_it_is(self.view, self.good, self.goal);
        *places.get_mut(part) = self.goal;
        Step::Act(Act {
            goal: self.goal,
            places,
            pre_pull: false,
            delete: Vec::new(),
            status: telling.status(),
        })
    }

    /// What follows from how far a part is; none when it is done.
    fn after(&self, part: Part, check: Check) -> Option<Step> {
        Some(match check {
            Check::Finished => return None,
            Check::Passed => Step::Remember(Change::Pass),
            Check::Failed(failure) if self.is_trying() => Step::Remember(Change::Fail(failure)),
            Check::Failed(failure) => {
                let of_controller = failure.node.is_empty();
                let node = { Some(failure.node) }.filter(|_| !of_controller);
                Step::Remember(Change::GiveUp(node.unwrap_or(CONTROLLER.to_owned())))
            }
            Check::Wait { what, words } => {
                // Another part's gates may be open by the turn that is under way.
                let turn = self.attempt.and_then(|attempt| attempt.turn.as_ref());
                let part = turn.map_or(part, |turn| turn.part);
                let telling = self.telling(phase(part)).waiting(&what, &words);
                self.act(Vec::new(), telling)
            }
            Check::Next(_) if self.view.settings.paused => self.pause(),
            Check::Next(deletion) => {
                if let Some(change) = self.turn(&deletion) {
                    return Some(Step::Remember(change));
                }
                let words = format!("replacing the {} on {}", part.noun(), deletion.node);
                let telling = self.telling(phase(part)).saying(&words);
                self.act(vec![deletion], telling)
            }
        })
    }

    /// Whose turn it is, and which gates say nothing after it because they did not pass before, is
    /// written down before the pod goes; none when it is known already. Going back, what does not
    /// pass may be our own doing and is no excuse.
    fn turn(&self, deletion: &Deletion) -> Option<Change> {
        let attempt = self.attempt?;
        let node = self.view.nodes.get(&deletion.node)?;
        let pod = node.pod(deletion.part)?;
        let mut known = { attempt.excused.get(&deletion.node).cloned() }.unwrap_or_default();
        known.remove(&Gate::Controller);
        let gates: BTreeSet<Gate> = [
            (Gate::Ready, pod.ready && node.agent_ready()),
            (Gate::Peers, node.told.peers == Some(true)),
        ]
        .into_iter()
        .filter_map(|(gate, passes)| (!passes).then_some(gate))
        .filter(|gate| self.is_trying() || known.contains(gate))
        .collect();
        let turn = Turn {
            part: deletion.part,
            node: deletion.node.clone(),
        };
        let is_written = attempt.turn.as_ref() == Some(&turn) && gates == known;
        (!is_written).then_some(Change::Turn(turn, gates))
    }
}

/// What each workload gets while nothing moves: what it has.
pub(super) fn as_it_is(view: &View<'_>, good: &Render, absent: Place) -> Parts<Place> {
    Parts::of(|part| match view.live.get(part) {
        None => absent,
        Some(live) if live.hash == *view.target.hashes.get(part) => Place::Target,
        Some(live) if live.hash == *good.hashes.get(part) => Place::Good,
        Some(_) => Place::Hold,
    })
}

/// What is being done while this part is on its way.
pub(super) fn phase(part: Part) -> RolloutPhase {
    match part {
        Part::Controller => RolloutPhase::Controller,
        Part::Agent => RolloutPhase::Agents,
        Part::Switch => RolloutPhase::Switches,
    }
}

/// Whether every reachable node has the target's images.
fn pull(view: &View<'_>) -> Check {
    const WHAT: &str = "images on every node";
    let mut missing: Vec<&str> = Vec::new();
    for (name, node) in view.reachable() {
        match &node.pulled {
            Pulled::Done => {}
            Pulled::Failing(failure) => return Check::Failed(failure.clone()),
            Pulled::Unknown => missing.push(name),
        }
    }
    let Some(&first) = missing.first() else {
        return Check::Finished;
    };
    let words = format!("missing on {}", crate::validate::some(&missing));
    steps::wait_or_fail(view, WHAT, words, view.settings.stall_timeout, || {
        RolloutFailure {
            node: first.to_owned(),
            reason: "ImagesNotPulled".to_owned(),
            ..RolloutFailure::default()
        }
    })
}
