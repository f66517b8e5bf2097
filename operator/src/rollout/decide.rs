//! The next step of a rollout.

use std::collections::{BTreeMap, BTreeSet};

use carrick_api::networking::OnFailure;
use carrick_api::status::{RolloutDirection, RolloutFailure, RolloutPhase};

use super::status::Telling;
use super::steps::{self, Check, Rules};
use super::{
    Act, Attempt, Change, Deletion, Gate, NodeView, Part, Parts, Place, Pulled, Render, Step, View,
};

/// Most pods that are deleted at one look while a network comes up for the first time.
const INSTALL_DELETIONS: usize = 50;
/// Stands for the controller among the nodes that were given up; no node has such a name.
pub(super) const CONTROLLER: &str = "/controller";

/// Decides the next step.
pub fn decide(view: &View<'_>) -> Step {
    let Some(good) = &view.record.good else {
        return install(view);
    };
    let good = &good.render;
    if view.frozen {
        return Step::Act(frozen(view, good));
    }
    let attempt = view.record.attempt.as_ref();
    if view.target.hash() == good.hash() {
        return match attempt {
            None if at(view, good) => settled(view, Place::Target, RolloutPhase::Complete, None),
            None => walk(view, Place::Target, RolloutDirection::Back, None),
            Some(undone) => walk(view, Place::Target, reverse(undone.direction), attempt),
        };
    }
    let Some(attempt) = attempt.filter(|attempt| is_of(attempt, view)) else {
        if view.settings.paused {
            return Step::Act(stand_still(view, good, RolloutPhase::Paused, None));
        }
        return Step::Remember(Change::Begin(begin(view, good)));
    };
    match (&attempt.failure, view.settings.on_failure) {
        (None, _) => walk(view, Place::Target, attempt.direction, Some(attempt)),
        (Some(failure), OnFailure::Rollback) if attempt.settled => {
            settled(view, Place::Good, RolloutPhase::RolledBack, Some(failure))
        }
        (Some(_), OnFailure::Rollback) => {
            walk(view, Place::Good, reverse(attempt.direction), Some(attempt))
        }
        (Some(failure), OnFailure::Pause) => {
            Step::Act(stand_still(view, good, RolloutPhase::Failed, Some(failure)))
        }
    }
}

/// The attempt is one at what the spec says now. One that failed stays failed until somebody
/// changes the spec or another operator comes: the same again would fail the same, also when the
/// cluster makes it look a little different (another number of replicas, say).
fn is_of(attempt: &Attempt, view: &View<'_>) -> bool {
    if attempt.failure.is_some() {
        attempt.spec == view.spec && attempt.version == view.target.version
    } else {
        attempt.hash == view.target.hash()
    }
}

/// Every workload is there and is what `render` says.
fn at(view: &View<'_>, render: &Render) -> bool {
    Part::ALL.iter().all(|&part| is_at(view, render, part))
}

fn is_at(view: &View<'_>, render: &Render, part: Part) -> bool {
    let live = view.live.get(part).as_ref();
    live.is_some_and(|live| live.hash == *render.hashes.get(part))
}

fn reverse(direction: RolloutDirection) -> RolloutDirection {
    match direction {
        RolloutDirection::Forward => RolloutDirection::Back,
        RolloutDirection::Back => RolloutDirection::Forward,
    }
}

/// An attempt at the target: its direction, and who was not well before it.
fn begin(view: &View<'_>, good: &Render) -> Attempt {
    let newer = |version: &str| is_newer(version, &view.target.version);
    let goes_back = newer(&good.version)
        || Part::ALL
            .iter()
            .filter_map(|&part| view.live.get(part).as_ref())
            .any(|live| newer(&live.version));
    let mut excused: BTreeMap<String, BTreeSet<Gate>> = BTreeMap::new();
    for (name, node) in view.nodes.iter().filter(|(_, node)| node.reachable) {
        // The others are looked at when the node's turn comes; without a pod it never does.
        let gates = [
            (Gate::Ready, node.agent.is_some() && node.switch.is_some()),
            (Gate::Controller, node.told.connected),
        ];
        let failing: BTreeSet<Gate> = gates
            .into_iter()
            .filter(|(_, passes)| !passes)
            .map(|(gate, _)| gate)
            .collect();
        if !failing.is_empty() {
            excused.insert(name.clone(), failing);
        }
    }
    Attempt {
        hash: view.target.hash(),
        spec: view.spec.to_owned(),
        version: view.target.version.clone(),
        direction: if goes_back {
            RolloutDirection::Back
        } else {
            RolloutDirection::Forward
        },
        excused,
        failure: None,
        given_up: BTreeSet::new(),
        settled: false,
    }
}

/// Whether version `a` comes after `b`: numbers by value; a pre-release before its release.
fn is_newer(a: &str, b: &str) -> bool {
    let key = |version: &str| {
        let version = version.split('+').next().unwrap_or_default().to_owned();
        let (numbers, pre) = match version.split_once('-') {
            Some((numbers, pre)) => (numbers.to_owned(), Some(pre.to_owned())),
            None => (version, None),
        };
        let numbers: Vec<u64> = numbers
            .split('.')
            .map(|number| number.parse().unwrap_or(0))
            .collect();
        (numbers, pre.is_none(), pre)
    };
    !a.is_empty() && key(a) > key(b)
}

/// What each workload gets while nothing moves: what it has.
fn as_it_is(view: &View<'_>, good: &Render, absent: Place) -> Parts<Place> {
    Parts::of(|part| match view.live.get(part) {
        None => absent,
        Some(live) if live.hash == *view.target.hashes.get(part) => Place::Target,
        Some(live) if live.hash == *good.hashes.get(part) => Place::Good,
        Some(_) => Place::Hold,
    })
}

fn stand_still(
    view: &View<'_>,
    good: &Render,
    phase: RolloutPhase,
    failure: Option<&RolloutFailure>,
) -> Act {
    Act {
        goal: Place::Target,
        places: as_it_is(view, good, Place::Good),
        pre_pull: false,
        delete: Vec::new(),
        status: Telling::new(view, phase, RolloutDirection::Forward)
            .failed(failure)
            .status(),
    }
}

fn frozen(view: &View<'_>, good: &Render) -> Act {
    let phase = if at(view, good) {
        RolloutPhase::Complete
    } else {
        RolloutPhase::Paused
    };
    stand_still(view, good, phase, None)
}

/// Goes through the parts in order and does the first thing that is due.
fn walk(
    view: &View<'_>,
    goal: Place,
    direction: RolloutDirection,
    attempt: Option<&Attempt>,
) -> Step {
    let Some(good) = view.record.good.as_ref().map(|good| &good.render) else {
        return install(view);
    };
    let undone = view.target.hash() == good.hash();
    let render = if goal == Place::Good {
        good
    } else {
        view.target
    };
    let changes = |part: Part| undone || view.target.hashes.get(part) != good.hashes.get(part);
    let forward = direction == RolloutDirection::Forward && !undone && goal == Place::Target;
    // Whoever tries something new can fail; whoever goes back has nowhere to go.
    let trying = goal == Place::Target && !undone;
    let failure = attempt.and_then(|attempt| attempt.failure.as_ref());
    let telling = |phase| Telling::new(view, phase, direction).failed(failure);
    let mut places = as_it_is(view, good, goal);
    let act = |places: &Parts<Place>, delete: Vec<Deletion>, telling: Telling<'_>| {
        Step::Act(Act {
            goal,
            places: places.clone(),
            pre_pull: false,
            delete,
            status: telling.status(),
        })
    };

    let begun = Part::ALL
        .iter()
        .any(|&part| changes(part) && is_at(view, view.target, part));
    if trying && !begun && view.target.images != good.images {
        match pull(view) {
            Check::Finished | Check::Next(_) => {}
            Check::Failed(failure) => return Step::Remember(Change::Fail(failure)),
            Check::Wait { .. } if view.settings.paused => {
                return act(&places, Vec::new(), telling(RolloutPhase::Paused));
            }
            Check::Wait { what, words } => {
                let telling = telling(RolloutPhase::PullingImages).waiting(&what, &words);
                return Step::Act(Act {
                    goal,
                    places,
                    pre_pull: true,
                    delete: Vec::new(),
                    status: telling.status(),
                });
            }
        }
    }

    let mut order = Part::ALL;
    if direction == RolloutDirection::Back {
        order.reverse();
    }
    for part in order.into_iter().filter(|&part| changes(part)) {
        if view.live.get(part).is_some() && !is_at(view, render, part) {
            if view.settings.paused {
                return act(&places, Vec::new(), telling(RolloutPhase::Paused));
            }
            *places.get_mut(part) = goal;
            let words = format!("the new template of the {} is applied", part.noun());
            let telling = telling(phase(part)).saying(&words);
            return act(&places, Vec::new(), telling);
        }
        let rules = Rules {
            forward,
            trying,
            attempt,
            // Once agents are being replaced their streams come and go by our own doing.
            reconnect: forward && !(changes(Part::Agent) && is_at(view, render, Part::Agent)),
        };
        match steps::check(view, part, &rules) {
            Check::Finished => {}
            Check::Failed(failure) if trying => return Step::Remember(Change::Fail(failure)),
            Check::Failed(failure) => {
                let node = if part == Part::Controller {
                    CONTROLLER.to_owned()
                } else {
                    failure.node
                };
                return Step::Remember(Change::GiveUp(node));
            }
            Check::Wait { what, words } => {
                let telling = telling(phase(part)).waiting(&what, &words);
                return act(&places, Vec::new(), telling);
            }
            Check::Next(_) if view.settings.paused => {
                return act(&places, Vec::new(), telling(RolloutPhase::Paused));
            }
            Check::Next(deletion) => {
                if let Some(change) = excuse(view, &deletion, attempt, trying) {
                    return Step::Remember(change);
                }
                let words = format!("replacing the {} on {}", part.noun(), deletion.node);
                let telling = telling(phase(part)).saying(&words);
                return act(&places, vec![deletion], telling);
            }
        }
    }
    if trying && !view.nodes.values().any(|node| node.reachable) {
        // Nobody has shown that it works.
        let telling = telling(RolloutPhase::Agents).waiting("a node that reports", "");
        return act(&places, Vec::new(), telling);
    }
    Step::Remember(if undone {
        match attempt {
            Some(_) => Change::Forget,
            // Nothing to write down: what was to be done is done.
            None => return settled(view, Place::Target, RolloutPhase::Complete, None),
        }
    } else if trying {
        Change::Succeed
    } else {
        Change::Settle
    })
}

fn phase(part: Part) -> RolloutPhase {
    match part {
        Part::Controller => RolloutPhase::Controller,
        Part::Agent => RolloutPhase::Agents,
        Part::Switch => RolloutPhase::Switches,
    }
}

/// A gate that did not pass before the step says nothing after it, one that did counts: that is
/// written down before the pod goes, if it is not known yet. Going back, what does not pass may be
/// our own doing and is no excuse.
fn excuse(
    view: &View<'_>,
    deletion: &Deletion,
    attempt: Option<&Attempt>,
    trying: bool,
) -> Option<Change> {
    let node = view.nodes.get(&deletion.node)?;
    let pod = node.pod(deletion.part)?;
    let mut known = attempt?
        .excused
        .get(&deletion.node)
        .cloned()
        .unwrap_or_default();
    known.remove(&Gate::Controller);
    let failing = |(gate, passes): (Gate, bool)| (!passes).then_some(gate);
    let gates: BTreeSet<Gate> = [
        (Gate::Ready, pod.ready && node.agent_ready()),
        (Gate::Peers, node.told.peers == Some(true)),
    ]
    .into_iter()
    .filter_map(failing)
    .filter(|gate| trying || known.contains(gate))
    .collect();
    (gates != known).then(|| Change::Excuse(deletion.node.clone(), gates))
}

/// Whether every reachable node has the target's images.
fn pull(view: &View<'_>) -> Check {
    const WHAT: &str = "images on every node";
    let reachable = view.nodes.iter().filter(|(_, node)| node.reachable);
    let mut missing: Vec<&str> = Vec::new();
    for (name, node) in reachable {
        match &node.pulled {
            Pulled::Done => {}
            Pulled::Failing(failure) => return Check::Failed(failure.clone()),
            Pulled::Unknown => missing.push(name),
        }
    }
    if missing.is_empty() {
        return Check::Finished;
    }
    let words = format!("missing on {}", crate::validate::some(&missing));
    steps::wait_or_fail(view, WHAT, words, view.settings.stall_timeout, || {
        RolloutFailure {
            node: missing
                .first()
                .map(|&node| node.to_owned())
                .unwrap_or_default(),
            reason: "ImagesNotPulled".to_owned(),
            ..RolloutFailure::default()
        }
    })
}

/// Nothing is under way: only pods that came back outdated (a node that was away, a restart that
/// somebody asked for) are replaced, one at a time.
fn settled(
    view: &View<'_>,
    place: Place,
    phase_when_done: RolloutPhase,
    failure: Option<&RolloutFailure>,
) -> Step {
    let direction = if place == Place::Good {
        RolloutDirection::Back
    } else {
        RolloutDirection::Forward
    };
    let act = |delete: Vec<Deletion>, telling: Telling<'_>| {
        Step::Act(Act {
            goal: place,
            places: Parts::of(|_| place),
            pre_pull: false,
            delete,
            status: telling.failed(failure).status(),
        })
    };
    for part in [Part::Agent, Part::Switch] {
        let Some(next) = steps::outdated(view, part) else {
            continue;
        };
        let telling = |phase| Telling::new(view, phase, direction);
        if let Some((what, words)) = steps::away(view) {
            return act(Vec::new(), telling(phase(part)).waiting(&what, &words));
        }
        if view.settings.paused {
            return act(Vec::new(), telling(RolloutPhase::Paused));
        }
        let words = format!("replacing the {} on {}", part.noun(), next.node);
        return act(vec![next], telling(phase(part)).saying(&words));
    }
    act(Vec::new(), Telling::new(view, phase_when_done, direction))
}

/// A network that never ran whole: everything at once, because there is nothing to protect; but an
/// agent that works is not taken away together with others.
fn install(view: &View<'_>) -> Step {
    let reachable: Vec<(&String, &NodeView)> = view
        .nodes
        .iter()
        .filter(|(_, node)| node.reachable)
        .collect();
    let well = |part: Part| {
        let observed = view
            .live
            .get(part)
            .as_ref()
            .is_some_and(|live| live.observed);
        let ready = |node: &NodeView| node.pod(part).is_some_and(|pod| pod.current && pod.ready);
        observed && reachable.iter().all(|(_, node)| ready(node))
    };
    let is_here = at(view, view.target);
    if is_here
        && !reachable.is_empty()
        && view.controller.rolled_out
        && well(Part::Agent)
        && well(Part::Switch)
        && !view.frozen
    {
        return Step::Remember(Change::Succeed);
    }
    let mut delete = Vec::new();
    if is_here && !view.settings.paused && !view.frozen {
        for part in [Part::Agent, Part::Switch] {
            let broken = reachable.iter().filter_map(|(name, node)| {
                let pod = node.pod(part).filter(|pod| !pod.current && !pod.ready)?;
                Some(steps::deletion(part, name, pod))
            });
            delete.extend(broken);
            if delete.is_empty() && steps::away(view).is_none() {
                delete.extend(steps::outdated(view, part));
            }
        }
        delete.truncate(INSTALL_DELETIONS);
    }
    let telling = Telling::new(view, RolloutPhase::Installing, RolloutDirection::Forward);
    Step::Act(Act {
        goal: Place::Target,
        places: Parts::of(|_| Place::Target),
        pre_pull: false,
        delete,
        status: telling.status(),
    })
}

#[cfg(test)]
mod versions {
    use super::is_newer;

    #[test]
    fn versions_compare_by_their_numbers() {
        for (a, b, newer) in [
            ("0.2.0", "0.1.9", true),
            ("0.10.0", "0.9.0", true),
            ("0.1.0", "0.1.0", false),
            ("1.0.0", "1.0.0-rc.1", true),
            ("1.0.0-rc.1", "1.0.0", false),
            ("1.0.0+b", "1.0.0+a", false),
            ("", "0.1.0", false),
        ] {
            assert_eq!(is_newer(a, b), newer, "{a} {b}");
        }
    }
}
