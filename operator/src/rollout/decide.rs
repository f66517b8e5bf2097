//! The next step of a rollout.

use std::collections::{BTreeMap, BTreeSet};

use carrick_api::networking::OnFailure;
use carrick_api::status::{RolloutDirection, RolloutFailure, RolloutPhase};

use super::install::install;
use super::status::Telling;
use super::steps;
use super::walk::{Walk, as_it_is, phase};
use super::{Act, Attempt, Change, Deletion, Gate, Part, Parts, Place, Render, Step, View};

/// Decides the next step.
pub fn decide(view: &View<'_>) -> Step {
    let Some(good) = view.good() else {
        return install(view);
    };
    if view.frozen {
        return Step::Act(frozen(view, good));
    }
    let walk = |goal, direction, attempt| Walk {
        view,
        good,
        goal,
        direction,
        attempt,
    };
    let complete = || settled(view, Place::Target, RolloutPhase::Complete, None);
    let attempt = view.record.attempt.as_ref();
    if view.is_undone() {
        let Some(undone) = attempt else {
            if view.is_all_at(good) {
                return complete();
            }
            let walk = walk(Place::Target, RolloutDirection::Back, None);
            return walk.next().unwrap_or_else(complete);
        };
        let walk = walk(Place::Target, reverse(undone.direction), attempt);
        return walk.next().unwrap_or(Step::Remember(Change::Forget));
    }
    let Some(attempt) = attempt.filter(|attempt| is_of(attempt, view)) else {
        if view.settings.paused {
            return Step::Act(stand_still(view, good, RolloutPhase::Paused, "", None));
        }
        return Step::Remember(Change::Begin(begin(view, good)));
    };
    match (&attempt.failure, view.settings.on_failure) {
        (None, _) => {
            let walk = walk(Place::Target, attempt.direction, Some(attempt));
            walk.next().unwrap_or(Step::Remember(Change::Succeed))
        }
        (Some(failure), OnFailure::Rollback) if attempt.settled => {
            settled(view, Place::Good, RolloutPhase::RolledBack, Some(failure))
        }
        (Some(_), OnFailure::Rollback) => {
            let walk = walk(Place::Good, reverse(attempt.direction), Some(attempt));
            walk.next().unwrap_or(Step::Remember(Change::Settle))
        }
        (Some(failure), OnFailure::Pause) => {
            let phase = RolloutPhase::Failed;
            Step::Act(stand_still(view, good, phase, "", Some(failure)))
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
    for (name, node) in view.reachable() {
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
    // What one before it had begun is part of it, also where both agree with what ran before.
    let is_old = |part: Part| {
        good.hashes.get(part) == view.target.hashes.get(part)
            && view.is_at(good, part)
            && steps::outdated(view, part).is_none()
    };
    Attempt {
        hash: view.target.hash(),
        spec: view.spec.to_owned(),
        version: view.target.version.clone(),
        direction: if goes_back {
            RolloutDirection::Back
        } else {
            RolloutDirection::Forward
        },
        parts: Part::ALL
            .into_iter()
            .filter(|&part| !is_old(part))
            .collect(),
        pulled: false,
        turn: None,
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

fn stand_still(
    view: &View<'_>,
    good: &Render,
    phase: RolloutPhase,
    words: &str,
    failure: Option<&RolloutFailure>,
) -> Act {
    Act {
        goal: Place::Target,
        places: as_it_is(view, good, Place::Good),
        pre_pull: false,
        delete: Vec::new(),
        status: Telling::new(view, phase, RolloutDirection::Forward)
            .saying(words)
            .failed(failure)
            .status(),
    }
}

fn frozen(view: &View<'_>, good: &Render) -> Act {
    let (phase, words) = if view.is_all_at(good) {
        (RolloutPhase::Complete, "")
    } else {
        (RolloutPhase::Paused, "the spec is refused")
    };
    stand_still(view, good, phase, words, None)
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
        if let Some((what, words)) = steps::away_besides(view, &next.node) {
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
