//! How far one part is.

use carrick_api::status::RolloutFailure;
use jiff::SignedDuration;

use super::{Attempt, Deletion, Gate, NodeView, Part, PodView, Render, Turn, View};

/// How long an agent may say that no other node answers before the gate has failed. Its own word
/// takes several unanswered rounds already.
const PEERS_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);

/// Stands for the controller among the nodes that were given up; no node has such a name.
pub(super) const CONTROLLER: &str = "/controller";

/// How far a part is.
pub(super) enum Check {
    /// Nothing is left to do.
    Finished,
    /// The node whose turn it was has shown that it works, or is gone: to be written down.
    Passed,
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
    /// Switches come before agents: it goes back.
    pub(super) switches_first: bool,
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
        // Going back there is nothing else to do than to wait for it.
        let limit = if rules.trying {
            view.settings.stall_timeout
        } else {
            SignedDuration::MAX
        };
        let what = format!("Kubernetes to see the {}'s new template", part.noun());
        return wait_or_fail(view, &what, String::new(), limit, || RolloutFailure {
            reason: "TemplateNotSeen".to_owned(),
            ..RolloutFailure::default()
        });
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
        .reachable()
        .filter(|(name, node)| {
            node.agent_ready() && !node.told.reconnected && !rules.excuses(name, Gate::Controller)
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
    let limit = rules.limit(view.settings.stall_timeout);
    let next = outdated(view, part);
    let scope = Scope {
        part,
        rules,
        // The agents' own step follows: what they need may be their old template. Until then they
        // matter only for the next switch's turn.
        with_agent: part == Part::Agent || !rules.switches_first || next.is_some(),
        working: view
            .reachable()
            .filter(|(_, node)| node.agent_ready())
            .count(),
    };
    let mut under_way: Option<(&str, &NodeView, Gate)> = None;
    for (name, node) in view.reachable() {
        let Some(gate) = scope.open_gate(name, node) else {
            continue;
        };
        // The switch first: without it no agent becomes ready.
        let failing = [&node.switch, &node.agent]
            .into_iter()
            .flatten()
            .find_map(|pod| pod.failing.clone());
        if let Some(failure) = failing.filter(|_| rules.trying) {
            return Check::Failed(failure);
        }
        under_way = under_way.or(Some((name, node, gate)));
    }
    let turn = rules.attempt.and_then(|attempt| attempt.turn.as_ref());
    if let Some(turn) = turn.filter(|turn| turn.part == part) {
        let waits = |node: &NodeView| {
            let is_deleted = node.pod(part).is_none_or(|pod| pod.current);
            !is_deleted || node.reachable && scope.open_gate(&turn.node, node).is_some()
        };
        if !view.nodes.get(&turn.node).is_some_and(waits) {
            return Check::Passed;
        }
    }
    if let Some((name, node, gate)) = under_way {
        return wait_for(view, name, node, gate, limit);
    }
    next.map_or(Check::Finished, Check::Next)
}

/// By what the nodes of one part are judged.
struct Scope<'a> {
    part: Part,
    rules: &'a Rules<'a>,
    /// The agent must be ready besides the part's own pod.
    with_agent: bool,
    /// Reachable nodes whose agent is ready.
    working: usize,
}

impl Scope<'_> {
    /// What does not hold on a reachable node whose turn has come; none while it is still to come.
    fn open_gate(&self, name: &str, node: &NodeView) -> Option<Gate> {
        let Self { part, rules, .. } = *self;
        let pod = node.pod(part);
        if pod.is_some_and(|pod| !pod.current) {
            return None;
        }
        let ready = pod.is_some_and(|pod| pod.ready) && (node.agent_ready() || !self.with_agent);
        if !ready {
            return (!rules.excuses(name, Gate::Ready)).then_some(Gate::Ready);
        }
        // A node cannot be answered where no other works.
        let alone = self.working <= usize::from(node.agent_ready());
        let peers = !rules.forward || alone || node.told.peers == Some(true);
        (!peers && !rules.excuses(name, Gate::Peers)).then_some(Gate::Peers)
    }
}

/// Waits for the node whose turn it is if it stopped reporting: its new pod may be why. None when it
/// reports, or what it has is not of `render`.
pub(super) fn silence(
    view: &View<'_>,
    render: &Render,
    rules: &Rules<'_>,
) -> Option<(Part, Check)> {
    let Turn { part, node: name } = rules.attempt?.turn.as_ref()?;
    let node = view.nodes.get(name)?;
    let may_be_ours = view.is_at(render, *part) && node.pod(*part).is_none_or(|pod| pod.current);
    if node.reachable || !may_be_ours || rules.excuses(name, Gate::Ready) {
        return None;
    }
    let limit = rules.limit(view.settings.stall_timeout);
    let what = format!("{name} to report again");
    let words = format!("it fell silent after its {} was replaced", part.noun());
    let check = wait_or_fail(view, &what, words, limit, || RolloutFailure {
        node: name.to_owned(),
        reason: "NodeNotReporting".to_owned(),
        ..RolloutFailure::default()
    });
    Some((*part, check))
}

fn wait_for(
    view: &View<'_>,
    name: &str,
    node: &NodeView,
    gate: Gate,
    stall: SignedDuration,
) -> Check {
    // Of two pods that are not ready the switch is the cause.
    let is_away = |part: &Part| node.pod(*part).is_none_or(|pod| !pod.ready);
    let part = { [Part::Switch, Part::Agent].into_iter() }.find(is_away);
    let part = part.unwrap_or(Part::Agent);
    let (noun, pod) = (part.noun(), node.pod(part));
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
    view.reachable()
        .filter_map(|(name, node)| Some((name, node, node.pod(part).filter(|pod| !pod.current)?)))
        .min_by_key(|(name, node, pod)| (pod.ready && node.agent_ready(), *name))
        .map(|(name, _, pod)| deletion(part, name, pod))
}

/// A reachable node besides `node` on which a pod is missing, or does not work although it has the
/// newest template. What does not work on `node` itself its outdated pod may be the cause of.
pub(super) fn away_besides(view: &View<'_>, node: &str) -> Option<(String, String)> {
    let parts = [Part::Agent, Part::Switch];
    view.reachable()
        .filter(|(name, _)| *name != node)
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
