//! How far one part is.

use carrick_api::status::RolloutFailure;
use jiff::SignedDuration;

use super::decide::CONTROLLER;
use super::{Attempt, Deletion, Gate, NodeView, Part, PodView, View};

/// How long an agent may say that no other node answers before the gate has failed. Its own word
/// takes several unanswered rounds already.
const PEERS_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);

/// How far a part is.
pub(super) enum Check {
    /// Nothing is left to do.
    Finished,
    /// Something is under way.
    Wait {
        /// What, in words that stay the same while it is the same.
        what: String,
        /// How it stands.
        words: String,
    },
    /// It failed (or, going back, took too long).
    Failed(RolloutFailure),
    /// This pod is next.
    Next(Deletion),
}

/// What counts.
pub(super) struct Rules<'a> {
    /// It goes forward: all gates count.
    pub(super) forward: bool,
    /// It tries what did not run before: what fails ends it.
    pub(super) trying: bool,
    /// The attempt.
    pub(super) attempt: Option<&'a Attempt>,
    /// Agents must have found a new controller.
    pub(super) reconnect: bool,
}

impl Rules<'_> {
    fn excuses(&self, node: &str, gate: Gate) -> bool {
        self.attempt
            .is_some_and(|attempt| attempt.given_up.contains(node) || attempt.excuses(node, gate))
    }

    /// How long a step may take: without a record of an attempt nothing can be given up.
    fn limit(&self, limit: SignedDuration) -> SignedDuration {
        if self.attempt.is_some() {
            limit
        } else {
            SignedDuration::MAX
        }
    }
}

/// How far `part` is.
pub(super) fn check(view: &View<'_>, part: Part, rules: &Rules<'_>) -> Check {
    let observed = view
        .live
        .get(part)
        .as_ref()
        .is_some_and(|live| live.observed);
    if part == Part::Controller {
        return controller(view, observed, rules);
    }
    if !observed {
        let what = format!(
            "Kubernetes to take notice of the {}'s new template",
            part.noun()
        );
        return Check::Wait {
            what,
            words: String::new(),
        };
    }
    nodes(view, part, rules)
}

fn controller(view: &View<'_>, observed: bool, rules: &Rules<'_>) -> Check {
    let limit = rules.limit(view.settings.stall_timeout);
    let given_up = rules
        .attempt
        .is_some_and(|attempt| attempt.given_up.contains(CONTROLLER));
    if given_up {
        return Check::Finished;
    }
    if !(observed && view.controller.rolled_out) {
        if let Some(failure) = view.controller.failing.clone().filter(|_| rules.trying) {
            return Check::Failed(failure);
        }
        let what = "every replica of the controller";
        return wait_or_fail(view, what, view.controller.words.clone(), limit, || {
            RolloutFailure {
                reason: "ControllerNotReady".to_owned(),
                ..RolloutFailure::default()
            }
        });
    }
    if !rules.reconnect {
        return Check::Finished;
    }
    let lost: Vec<&str> = view
        .nodes
        .iter()
        .filter(|(name, node)| {
            node.reachable
                && node.agent_ready()
                && !node.told.reconnected
                && !rules.excuses(name, Gate::Controller)
        })
        .map(|(name, _)| name.as_str())
        .collect();
    let Some(&first) = lost.first() else {
        return Check::Finished;
    };
    let words = format!("without a stream to it: {}", crate::validate::some(&lost));
    let what = "every agent to find a new controller";
    wait_or_fail(view, what, words, limit, || RolloutFailure {
        node: first.to_owned(),
        reason: "AgentNotConnected".to_owned(),
        ..RolloutFailure::default()
    })
}

fn nodes(view: &View<'_>, part: Part, rules: &Rules<'_>) -> Check {
    let mut under_way: Option<(&str, &NodeView, Gate)> = None;
    for (name, node) in view.nodes.iter().filter(|(_, node)| node.reachable) {
        let Some(gate) = open_gate(node, part, rules, name) else {
            continue;
        };
        let failing = [node.pod(part), node.agent.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|pod| pod.failing.clone());
        if let Some(failure) = failing.filter(|_| rules.trying) {
            return Check::Failed(failure);
        }
        under_way = under_way.or(Some((name, node, gate)));
    }
    if let Some((name, node, gate)) = under_way {
        let limit = rules.limit(view.settings.stall_timeout);
        return wait_for(view, part, name, node, gate, limit);
    }
    match outdated(view, part) {
        Some(deletion) => Check::Next(deletion),
        None => Check::Finished,
    }
}

/// What does not hold on a node whose turn has come; none while it is still to come.
fn open_gate(node: &NodeView, part: Part, rules: &Rules<'_>, name: &str) -> Option<Gate> {
    let pod = node.pod(part);
    if pod.is_some_and(|pod| !pod.current) {
        return None;
    }
    let ready = pod.is_some_and(|pod| pod.ready) && node.agent_ready();
    if !ready {
        return (!rules.excuses(name, Gate::Ready)).then_some(Gate::Ready);
    }
    let peers = !rules.forward || node.told.peers == Some(true);
    (!peers && !rules.excuses(name, Gate::Peers)).then_some(Gate::Peers)
}

fn wait_for(
    view: &View<'_>,
    part: Part,
    name: &str,
    node: &NodeView,
    gate: Gate,
    stall: SignedDuration,
) -> Check {
    let noun = part.noun();
    let pod = node
        .pod(part)
        .filter(|pod| !pod.ready)
        .or(node.agent.as_ref());
    let pod_name = pod.map(|pod| pod.name.clone()).unwrap_or_default();
    let (what, words, reason, limit) = match gate {
        Gate::Peers if node.told.peers == Some(false) => (
            format!("other nodes to answer {name}"),
            "its agent says that none answers".to_owned(),
            "PeersUnreachable",
            stall.min(PEERS_TIMEOUT),
        ),
        Gate::Peers => (
            format!("the agent on {name} to reach other nodes"),
            "it did not say yet".to_owned(),
            "PeersUnknown",
            stall,
        ),
        Gate::Ready | Gate::Controller => (
            format!("the {noun} on {name}"),
            match pod {
                Some(pod) => pod.words.clone(),
                None => "no pod yet".to_owned(),
            },
            if pod.is_some() {
                "NotReady"
            } else {
                "PodMissing"
            },
            stall,
        ),
    };
    wait_or_fail(view, &what, words, limit, || RolloutFailure {
        node: name.to_owned(),
        pod: pod_name,
        reason: reason.to_owned(),
        ..RolloutFailure::default()
    })
}

/// Waits for `what`, unless that took longer than `limit`.
pub(super) fn wait_or_fail(
    view: &View<'_>,
    what: &str,
    words: String,
    limit: SignedDuration,
    failure: impl FnOnce() -> RolloutFailure,
) -> Check {
    let since = match &view.waited {
        Some((before, since)) if before == what => *since,
        _ => view.now,
    };
    if view.now.duration_since(since) <= limit {
        return Check::Wait {
            what: what.to_owned(),
            words,
        };
    }
    let mut message = format!("waited {limit:#} for {what}");
    if !words.is_empty() {
        message = format!("{message}: {words}");
    }
    Check::Failed(RolloutFailure {
        message,
        ..failure()
    })
}

/// The next pod of an older template on a reachable node: on one that does not work first, which
/// has nothing to lose.
pub(super) fn outdated(view: &View<'_>, part: Part) -> Option<Deletion> {
    if !view.live.get(part).as_ref()?.observed {
        return None;
    }
    view.nodes
        .iter()
        .filter(|(_, node)| node.reachable)
        .filter_map(|(name, node)| Some((name, node, node.pod(part).filter(|pod| !pod.current)?)))
        .min_by_key(|(name, node, pod)| (pod.ready && node.agent_ready(), *name))
        .map(|(name, _, pod)| deletion(part, name, pod))
}

/// A reachable node on which a pod is missing, or does not work although it has the newest template.
pub(super) fn away(view: &View<'_>) -> Option<(String, String)> {
    let parts = [Part::Agent, Part::Switch];
    let reachable = view.nodes.iter().filter(|(_, node)| node.reachable);
    reachable
        .flat_map(|(name, node)| parts.map(|part| (name, part, node.pod(part))))
        .find(|(_, _, pod)| pod.is_none_or(|pod| pod.current && !pod.ready))
        .map(|(name, part, pod)| {
            let words = pod.map_or("no pod yet", |pod| pod.words.as_str());
            (format!("the {} on {name}", part.noun()), words.to_owned())
        })
}

/// The pod as something to delete.
pub(super) fn deletion(part: Part, node: &str, pod: &PodView) -> Deletion {
    Deletion {
        part,
        node: node.to_owned(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
    }
}
