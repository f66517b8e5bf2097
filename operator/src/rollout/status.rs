//! What people are told of a rollout.

use carrick_api::status::{
    RolloutDirection, RolloutFailure, RolloutPhase, RolloutStatus, STATUS_LIST_MAX,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{NodeView, Part, View};
use crate::plan::clip;
use crate::validate::{count, some};

/// A status in the making.
pub(super) struct Telling<'a> {
    view: &'a View<'a>,
    phase: RolloutPhase,
    direction: RolloutDirection,
    waiting: String,
    words: String,
    failure: Option<&'a RolloutFailure>,
}

impl<'a> Telling<'a> {
    pub(super) fn new(
        view: &'a View<'a>,
        phase: RolloutPhase,
        direction: RolloutDirection,
    ) -> Self {
        Self {
            view,
            phase,
            direction,
            waiting: String::new(),
            words: String::new(),
            failure: None,
        }
    }

    /// It waits for `what`; `words` say how that stands.
    pub(super) fn waiting(self, what: &str, words: &str) -> Self {
        let words = if words.is_empty() {
            format!("waiting for {what}")
        } else {
            format!("waiting for {what}: {words}")
        };
        Self {
            waiting: what.to_owned(),
            words,
            ..self
        }
    }

    /// It does this.
    pub(super) fn saying(self, words: &str) -> Self {
        Self {
            words: words.to_owned(),
            ..self
        }
    }

    /// It failed before.
    pub(super) fn failed(self, failure: Option<&'a RolloutFailure>) -> Self {
        Self { failure, ..self }
    }

    /// The status.
    pub(super) fn status(self) -> RolloutStatus {
        let view = self.view;
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let (reachable, unreachable): (Vec<_>, Vec<_>) =
            view.nodes.iter().partition(|(_, node)| node.reachable);
        let parts = [Part::Agent, Part::Switch].into_iter();
        let touched: Vec<Part> = parts.filter(|&part| view.changes(part)).collect();
        let updated = |node: &NodeView| {
            touched.iter().all(|&part| {
                let live = view.live.get(part).as_ref();
                live.is_some_and(|live| live.observed)
                    && node.pod(part).is_some_and(|pod| pod.current)
            })
        };
        let ready = |node: &NodeView| {
            updated(node)
                && node.agent_ready()
                && touched
                    .iter()
                    .all(|&part| node.pod(part).is_some_and(|pod| pod.ready))
        };
        let on_their_way = self.is_at_goal(&touched);
        let since = (!self.waiting.is_empty()).then(|| match &view.waited {
            Some((before, since)) if *before == self.waiting => *since,
            _ => view.now,
        });
        let total = reachable.len();
        let done = reachable
            .iter()
            .filter(|(_, node)| on_their_way && updated(node));
        let done = done.count();
        let names: Vec<&str> = unreachable.iter().map(|(name, _)| name.as_str()).collect();
        RolloutStatus {
            phase: self.phase,
            direction: self.direction,
            total: number(total),
            updated: number(done),
            ready: number(
                reachable
                    .iter()
                    .filter(|(_, node)| on_their_way && ready(node))
                    .count(),
            ),
            unreachable: number(unreachable.len()),
            unreachable_nodes: names
                .iter()
                .take(STATUS_LIST_MAX)
                .map(|&name| name.to_owned())
                .collect(),
            since: since.map(Time),
            failures: self.failures(),
            message: clip(&self.message(done, total, &names), 2048),
            waiting_for: clip(&self.waiting, 512),
        }
    }

    /// Whether what has the newest revision has the one that is rolled out.
    fn is_at_goal(&self, touched: &[Part]) -> bool {
        let view = self.view;
        let back = self.direction == RolloutDirection::Back;
        touched.iter().all(|&part| {
            let good = view.record.good.as_ref().map(|good| &good.render);
            let failed = view
                .record
                .attempt
                .as_ref()
                .is_some_and(|attempt| attempt.failure.is_some());
            let render = match good {
                Some(good) if back && failed => good,
                _ => view.target,
            };
            let live = view.live.get(part).as_ref();
            live.is_some_and(|live| live.hash == *render.hashes.get(part))
        })
    }

    /// The failure that ended it, or what fails now.
    fn failures(&self) -> Vec<RolloutFailure> {
        let clipped = |failure: &RolloutFailure| RolloutFailure {
            reason: clip(&failure.reason, 128),
            message: clip(&failure.message, 1024),
            ..failure.clone()
        };
        if let Some(failure) = self.failure {
            return vec![clipped(failure)];
        }
        let pods = self.view.nodes.values().filter(|node| node.reachable);
        pods.flat_map(|node| [node.agent.as_ref(), node.switch.as_ref()])
            .flatten()
            .filter_map(|pod| pod.failing.as_ref())
            .take(STATUS_LIST_MAX)
            .map(clipped)
            .collect()
    }

    fn message(&self, done: usize, total: usize, unreachable: &[&str]) -> String {
        let mut text = match self.phase {
            RolloutPhase::Installing => "the network comes up for the first time".to_owned(),
            RolloutPhase::Complete => format!("{} up to date", count(total, "node")),
            RolloutPhase::Paused => {
                format!("paused at {done} of {}", count(total, "node"))
            }
            RolloutPhase::Failed => "stopped; nothing more is changed until the spec changes \
                                     (rollout.onFailure: Rollback goes back)"
                .to_owned(),
            RolloutPhase::RolledBack => "went back to what ran before; the same is not tried \
                                         again until the spec or the operator's version changes"
                .to_owned(),
            RolloutPhase::Switches => format!(
                "switches: {done} of {} done, each node has a short outage when its turn comes",
                count(total, "node")
            ),
            RolloutPhase::PullingImages | RolloutPhase::Controller | RolloutPhase::Agents => {
                format!("{done} of {} done", count(total, "node"))
            }
        };
        if self.direction == RolloutDirection::Back
            && !matches!(
                self.phase,
                RolloutPhase::RolledBack | RolloutPhase::Complete
            )
        {
            text = format!("going back: {text}");
        }
        if !self.words.is_empty() {
            text = format!("{text}; {}", self.words);
        }
        if !unreachable.is_empty() {
            text = format!("{text}; left out, not reporting: {}", some(unreachable));
        }
        if let Some(failure) = self.failure {
            text = format!("{text}. What failed: {}", sentence(failure));
        }
        text
    }
}

/// A failure in one line for people.
pub fn sentence(failure: &RolloutFailure) -> String {
    let mut text = match (failure.pod.as_str(), failure.node.as_str()) {
        ("", "") => String::new(),
        ("", node) => format!("node {node}"),
        (pod, "") => format!("pod {pod}"),
        (pod, node) => format!("pod {pod} on {node}"),
    };
    if !failure.container.is_empty() {
        text = format!("{text}, container {}", failure.container);
    }
    if !text.is_empty() {
        text.push_str(": ");
    }
    text.push_str(&failure.reason);
    if !failure.message.is_empty() {
        text = format!("{text} ({})", failure.message);
    }
    text
}

/// Before anything was decided.
pub fn unknown() -> RolloutStatus {
    RolloutStatus {
        phase: RolloutPhase::Installing,
        direction: RolloutDirection::Forward,
        total: 0,
        updated: 0,
        ready: 0,
        unreachable: 0,
        unreachable_nodes: Vec::new(),
        waiting_for: String::new(),
        since: None,
        failures: Vec::new(),
        message: String::new(),
    }
}
