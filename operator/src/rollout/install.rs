//! A network that never ran whole: everything at once, because there is nothing to protect; but an
//! agent that works is not taken away together with others.

use carrick_api::status::{RolloutDirection, RolloutFailure, RolloutPhase};

use super::status::Telling;
use super::steps::{self, Check};
use super::{Act, Change, NodeView, Part, Parts, Place, Step, View};

/// Most pods that are deleted at one look.
const DELETIONS: usize = 50;

/// The next step of an installation.
pub(super) fn install(view: &View<'_>) -> Step {
    let mut telling = Telling::new(view, RolloutPhase::Installing, RolloutDirection::Forward);
    let mut delete = Vec::new();
    if view.is_all_at(view.target) && !view.frozen {
        let (well, missing): (Vec<_>, Vec<_>) =
            view.reachable().partition(|(_, node)| is_well(view, node));
        let names: Vec<&str> = missing.iter().map(|(name, _)| name.as_str()).collect();
        let up = view.controller.rolled_out && !well.is_empty();
        if up && names.is_empty() {
            return Step::Remember(Change::Succeed);
        }
        if up {
            // A node that will never work must not keep later changes from being ordered.
            let words = crate::validate::some(&names);
            let limit = view.settings.stall_timeout;
            match steps::wait_or_fail(view, "every node to come up", words, limit, || {
                RolloutFailure::default()
            }) {
                Check::Wait { what, words } => telling = telling.waiting(&what, &words),
                _ => return Step::Remember(Change::Succeed),
            }
        }
        if !view.settings.paused {
            delete = outdated(view);
        }
    }
    Step::Act(Act {
        goal: Place::Target,
        places: Parts::of(|_| Place::Target),
        pre_pull: false,
        delete,
        status: telling.status(),
    })
}

/// Both pods are ready and of the newest template.
fn is_well(view: &View<'_>, node: &NodeView) -> bool {
    [Part::Agent, Part::Switch].into_iter().all(|part| {
        let live = view.live.get(part).as_ref();
        live.is_some_and(|live| live.observed)
            && node.pod(part).is_some_and(|pod| pod.current && pod.ready)
    })
}

/// Pods of older templates: those that do not work at once, then one that works after the other.
fn outdated(view: &View<'_>) -> Vec<super::Deletion> {
    let mut delete = Vec::new();
    for part in [Part::Agent, Part::Switch] {
        let observed = { view.live.get(part).as_ref() }.is_some_and(|live| live.observed);
        let broken = view.reachable().filter_map(|(name, node)| {
            let pod = node.pod(part).filter(|pod| !pod.current && !pod.ready)?;
            Some(steps::deletion(part, name, pod))
        });
        delete.extend(broken.filter(|_| observed));
        if delete.is_empty() {
            let next = steps::outdated(view, part);
            delete.extend(next.filter(|next| steps::away_besides(view, &next.node).is_none()));
        }
    }
    delete.truncate(DELETIONS);
    delete
}
