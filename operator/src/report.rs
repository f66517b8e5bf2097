//! What the status of a `Networking` says.
//!
//! Conditions follow kstatus: Ready, Reconciling, Stalled; and Available, Progressing, Degraded
//! for people who know those from OpenShift. Each names its cause.

use carrick_api::networking::NetworkingSpec;
use carrick_api::status::{
    NetworkingStatus, Plan, ProviderStatus, RolloutDirection, RolloutPhase, RolloutStatus,
    STATUS_LIST_MAX, Versions, condition as kind,
};
use carrick_k8s::condition::{self, Status};
use jiff::Timestamp;

use crate::kubeproxy;
use crate::plan::clip;
use crate::progress::Progress;
use crate::provider::Detection;
use crate::removal::Waiting;
use crate::verdict::Refusal;

/// Longest message of a condition.
const MESSAGE_MAX: usize = 4096;

/// What became of the last look.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The spec is applied.
    Applied,
    /// The spec is refused; what was applied before stays.
    Refused {
        /// `InvalidSpec` or `UnsafeChange`.
        reason: &'static str,
        /// Why.
        refusals: Vec<Refusal>,
    },
    /// `management: Paused`; this many actions wait.
    Paused {
        /// How many.
        waiting: usize,
    },
    /// `management: Unmanaged`.
    Unmanaged,
    /// Something failed that may succeed later.
    Failed {
        /// What, with its causes.
        error: String,
    },
    /// kube-proxy comes back before anything else changes.
    Returning {
        /// How far it is.
        message: String,
    },
    /// Pods hold the removal back.
    Held {
        /// The sentence that mends it.
        message: String,
    },
    /// The removal goes on.
    Removing {
        /// Where it is.
        message: String,
    },
    /// Nodes do not get clean.
    Cleaning(Waiting),
}

/// Everything the status follows from.
#[derive(Debug, Clone)]
pub struct Report<'a> {
    /// The generation that was looked at.
    pub generation: i64,
    /// What became of it.
    pub outcome: &'a Outcome,
    /// How far the network is; none when that could not be told.
    pub progress: Option<&'a Progress>,
    /// The provider.
    pub detection: Option<&'a Detection>,
    /// The spec that is applied with its defaults.
    pub effective: Option<NetworkingSpec>,
    /// What the last edit does.
    pub plan: Option<Plan>,
    /// The rollout under way; none when nobody looked at it.
    pub rollout: Option<&'a RolloutStatus>,
    /// What is done about a kube-proxy; none when nobody looked.
    pub kube_proxy: Option<&'a kubeproxy::Decision>,
    /// The operator's version.
    pub version: &'a str,
}

struct Words {
    status: Status,
    reason: String,
    message: String,
}

fn words(status: Status, reason: &str, message: impl Into<String>) -> Words {
    Words {
        status,
        reason: reason.to_owned(),
        message: message.into(),
    }
}

/// The new status, made from the old one: what is not known now stays.
pub fn status(old: &NetworkingStatus, report: &Report<'_>, now: Timestamp) -> NetworkingStatus {
    let mut new = old.clone();
    new.observed_generation = report.generation;
    if let Some(detection) = report.detection {
        new.provider = Some(ProviderStatus {
            detected: detection.provider,
            evidence: detection
                .evidence
                .iter()
                .map(|text| clip(text, 512))
                .collect(),
        });
    }
    if report.effective.is_some() {
        new.effective.clone_from(&report.effective);
    }
    if report.plan.is_some() {
        new.plan.clone_from(&report.plan);
    }
    if report.rollout.is_some() {
        new.rollout = report.rollout.cloned();
    }
    if let Some(progress) = report.progress {
        new.components.clone_from(&progress.components);
        for component in &mut new.components {
            component.message = clip(&component.message, 4096);
        }
        let mut nodes = progress.nodes.clone();
        for node in &mut nodes.not_ready {
            node.message = clip(&node.message, 1024);
            node.reason = clip(&node.reason, 128);
        }
        nodes.not_ready.truncate(STATUS_LIST_MAX);
        new.nodes = Some(nodes);
        new.versions = Some(Versions {
            target: report.version.to_owned(),
            running: progress.versions.clone(),
        });
    }
    let mut set = |type_: &str, words: Words| {
        condition::set(
            &mut new.conditions,
            type_,
            words.status,
            &words.reason,
            &clip(&words.message, MESSAGE_MAX),
            Some(report.generation),
            now,
        );
    };
    let [ready, reconciling, stalled] = kstatus(report);
    set(kind::READY, ready);
    set(kind::RECONCILING, reconciling);
    set(kind::STALLED, stalled);
    if let Some(progress) = report.progress {
        set(kind::AVAILABLE, available(progress));
        set(kind::PROGRESSING, progressing(report.outcome, progress));
    }
    set(kind::DEGRADED, degraded(report));
    match report.kube_proxy.map(|decision| &decision.said) {
        Some(Some(said)) => set(
            kind::KUBE_PROXY_REPLACED,
            words(said.status, said.reason, &said.message),
        ),
        Some(None) => new
            .conditions
            .retain(|condition| condition.type_ != kind::KUBE_PROXY_REPLACED),
        None => {}
    }
    new
}

fn sentences(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

fn kstatus(report: &Report<'_>) -> [Words; 3] {
    let idle = || words(Status::False, "Idle", "");
    let fine = || words(Status::False, "Fine", "");
    match report.outcome {
        Outcome::Refused { reason, refusals } => {
            let message = format!(
                "{} What was applied before stays as it is.",
                sentences(refusals)
            );
            [
                words(Status::False, reason, message.clone()),
                idle(),
                words(Status::True, reason, message),
            ]
        }
        Outcome::Paused { waiting: 0 } => {
            let ready = match report.progress {
                Some(progress) if progress.complete => words(
                    Status::True,
                    "Paused",
                    "Paused; the network is as the spec says.",
                ),
                _ => words(Status::False, "Paused", "Paused; not every part is ready."),
            };
            [ready, idle(), fine()]
        }
        Outcome::Paused { waiting } => {
            let message = format!(
                "Paused: {waiting} changes wait, see status.plan. To apply them set spec.management to Managed."
            );
            [words(Status::False, "Paused", message), idle(), fine()]
        }
        Outcome::Unmanaged => {
            let message = "Unmanaged: nobody looks after the network.";
            [words(Status::Unknown, "Unmanaged", message), idle(), fine()]
        }
        Outcome::Failed { error } => [
            words(Status::False, "Retrying", error),
            words(Status::True, "Retrying", error),
            fine(),
        ],
        Outcome::Held { message } => [
            words(Status::False, "PodsUseNetwork", message),
            idle(),
            words(Status::True, "PodsUseNetwork", message),
        ],
        Outcome::Returning { message } => [
            words(Status::False, "KubeProxyReturning", message),
            words(Status::True, "KubeProxyReturning", message),
            fine(),
        ],
        Outcome::Removing { message } => [
            words(Status::False, "Removing", message),
            words(Status::True, "Removing", message),
            fine(),
        ],
        Outcome::Cleaning(waiting) => {
            let message = waiting.message.as_str();
            let (going, stuck) = if waiting.stuck {
                (idle(), words(Status::True, "NodesNotClean", message))
            } else {
                (words(Status::True, "Removing", message), fine())
            };
            [words(Status::False, "Removing", message), going, stuck]
        }
        Outcome::Applied => match report.rollout.and_then(rolling) {
            Some(words) => words,
            None => applied(report.progress),
        },
    }
}

/// What a rollout that is not over says; none when it has nothing to add.
fn rolling(rollout: &RolloutStatus) -> Option<[Words; 3]> {
    let message = rollout.message.as_str();
    let idle = words(Status::False, "Idle", "");
    let fine = words(Status::False, "Fine", "");
    Some(match rollout.phase {
        RolloutPhase::Installing | RolloutPhase::Complete => return None,
        RolloutPhase::PullingImages
        | RolloutPhase::Controller
        | RolloutPhase::Agents
        | RolloutPhase::Switches => {
            let reason = match rollout.direction {
                RolloutDirection::Forward => "RollingOut",
                RolloutDirection::Back => "RollingBack",
            };
            [
                words(Status::False, reason, message),
                words(Status::True, reason, message),
                fine,
            ]
        }
        RolloutPhase::Paused => [words(Status::False, "RolloutPaused", message), idle, fine],
        RolloutPhase::Failed | RolloutPhase::RolledBack => {
            let reason = ended(rollout.phase);
            [
                words(Status::False, reason, message),
                idle,
                words(Status::True, reason, message),
            ]
        }
    })
}

fn ended(phase: RolloutPhase) -> &'static str {
    if phase == RolloutPhase::RolledBack {
        "RolledBack"
    } else {
        "RolloutFailed"
    }
}

fn applied(progress: Option<&Progress>) -> [Words; 3] {
    let fine = words(Status::False, "Fine", "");
    let Some(progress) = progress else {
        let message = "Applied; progress is not known yet.";
        return [
            words(Status::False, "Progressing", message),
            words(Status::True, "Progressing", message),
            fine,
        ];
    };
    if progress.complete {
        let mut message = format!("The network is ready on {} nodes.", progress.nodes.summary);
        if !progress.unreachable.is_empty() {
            message = format!(
                "{message} Not reporting: {}.",
                progress.unreachable.join(", ")
            );
        }
        return [
            words(Status::True, "Ready", message),
            words(Status::False, "Idle", ""),
            fine,
        ];
    }
    let message = match progress.failures.first() {
        Some(cause) => format!("{}; {}.", nodes_ready(progress), cause.sentence()),
        None => format!("{}.", nodes_ready(progress)),
    };
    let reason = if progress.failures.is_empty() {
        "Progressing"
    } else {
        "PodsFailing"
    };
    [
        words(Status::False, reason, message.clone()),
        words(Status::True, reason, message),
        fine,
    ]
}

fn nodes_ready(progress: &Progress) -> String {
    format!("{} nodes are ready", progress.nodes.summary)
}

fn available(progress: &Progress) -> Words {
    if progress.available {
        words(
            Status::True,
            "Available",
            "Pods have a network on every reachable node.",
        )
    } else {
        let missing: Vec<String> = progress
            .components
            .iter()
            .filter(|part| part.ready < part.desired || part.desired == 0)
            .map(|part| format!("{} {}/{}", part.name, part.ready, part.desired))
            .collect();
        words(
            Status::False,
            "NotReady",
            format!("Not ready: {}.", missing.join(", ")),
        )
    }
}

fn progressing(outcome: &Outcome, progress: &Progress) -> Words {
    let moving = matches!(
        outcome,
        Outcome::Applied | Outcome::Removing { .. } | Outcome::Cleaning(_)
    );
    if moving && !progress.complete {
        let parts: Vec<String> = progress
            .components
            .iter()
            .map(|part| {
                format!(
                    "{}: {} of {} updated, {} ready",
                    part.name, part.updated, part.desired, part.ready
                )
            })
            .collect();
        words(Status::True, "RollingOut", parts.join("; "))
    } else {
        words(Status::False, "Settled", "")
    }
}

fn degraded(report: &Report<'_>) -> Words {
    match report.outcome {
        Outcome::Refused { reason, refusals } => {
            return words(Status::True, reason, sentences(refusals));
        }
        Outcome::Failed { error } => return words(Status::True, "Retrying", error),
        _ => {}
    }
    if let Some(rollout) = report
        .rollout
        .filter(|rollout| !rollout.failures.is_empty())
    {
        match rollout.phase {
            RolloutPhase::Failed | RolloutPhase::RolledBack => {
                return words(Status::True, ended(rollout.phase), &rollout.message);
            }
            _ if rollout.direction == RolloutDirection::Back => {
                return words(Status::True, "RollingBack", &rollout.message);
            }
            _ => {}
        }
    }
    let kube_proxy = report.kube_proxy.filter(|decision| decision.degraded);
    if let Some(said) = kube_proxy.and_then(|decision| decision.said.as_ref()) {
        return words(Status::True, "KubeProxyNotDisabled", &said.message);
    }
    let Some(progress) = report.progress else {
        return words(Status::False, "Fine", "");
    };
    if !progress.failures.is_empty() {
        let sentences: Vec<String> = progress
            .failures
            .iter()
            .take(3)
            .map(crate::diagnose::Cause::sentence)
            .collect();
        return words(Status::True, "PodsFailing", sentences.join("; "));
    }
    if let Some(message) = &progress.node_cidrs {
        return words(Status::True, "NodeCIDRsNotAllocated", message);
    }
    if !progress.unreachable.is_empty() {
        let message = format!("Not reporting: {}.", progress.unreachable.join(", "));
        return words(Status::True, "NodesUnreachable", message);
    }
    if !progress.complaints.is_empty() {
        let some: Vec<&str> = progress
            .complaints
            .iter()
            .take(3)
            .map(String::as_str)
            .collect();
        return words(Status::True, "AgentsComplain", some.join("; "));
    }
    words(Status::False, "Fine", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use carrick_api::status::ComponentStatus;
    use carrick_api::status::NodesStatus;

    fn progress(complete: bool) -> Progress {
        Progress {
            components: vec![ComponentStatus {
                name: "agent".into(),
                desired: 3,
                updated: 3,
                ready: 2,
                message: String::new(),
            }],
            nodes: NodesStatus {
                summary: "2/3".into(),
                total: 3,
                ready: 2,
                ..NodesStatus::default()
            },
            complete,
            available: complete,
            ..Progress::default()
        }
    }

    fn conditions(outcome: &Outcome, progress: &Progress) -> Vec<(String, String, String)> {
        let report = Report {
            generation: 4,
            outcome,
            progress: Some(progress),
            detection: None,
            effective: None,
            plan: None,
            rollout: None,
            kube_proxy: None,
            version: "0.1.0",
        };
        let status = status(&NetworkingStatus::default(), &report, Timestamp::UNIX_EPOCH);
        assert_eq!(status.observed_generation, 4);
        status
            .conditions
            .into_iter()
            .map(|c| (c.type_, c.status, c.reason))
            .collect()
    }

    #[track_caller]
    fn check(outcome: &Outcome, progress: &Progress, expect: &[(&str, &str, &str)]) {
        let found = conditions(outcome, progress);
        let found: Vec<_> = found
            .iter()
            .map(|(t, s, r)| (t.as_str(), s.as_str(), r.as_str()))
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn a_network_that_comes_up_goes_from_progressing_to_ready() {
        check(
            &Outcome::Applied,
            &progress(false),
            &[
                ("Available", "False", "NotReady"),
                ("Degraded", "False", "Fine"),
                ("Progressing", "True", "RollingOut"),
                ("Ready", "False", "Progressing"),
                ("Reconciling", "True", "Progressing"),
                ("Stalled", "False", "Fine"),
            ],
        );
        check(
            &Outcome::Applied,
            &progress(true),
            &[
                ("Available", "True", "Available"),
                ("Degraded", "False", "Fine"),
                ("Progressing", "False", "Settled"),
                ("Ready", "True", "Ready"),
                ("Reconciling", "False", "Idle"),
                ("Stalled", "False", "Fine"),
            ],
        );
    }

    #[test]
    fn a_refused_change_stalls_and_leaves_the_network_available() {
        let refusals = vec![Refusal {
            field: "spec.x".into(),
            reason: "r".into(),
            mend: "m".into(),
        }];
        check(
            &Outcome::Refused {
                reason: "UnsafeChange",
                refusals,
            },
            &progress(true),
            &[
                ("Available", "True", "Available"),
                ("Degraded", "True", "UnsafeChange"),
                ("Progressing", "False", "Settled"),
                ("Ready", "False", "UnsafeChange"),
                ("Reconciling", "False", "Idle"),
                ("Stalled", "True", "UnsafeChange"),
            ],
        );
    }

    #[test]
    fn a_pool_that_is_full_degrades_the_network() {
        let mut full = progress(true);
        full.node_cidrs = Some("node a gets no pod CIDR (CIDRNotAvailable)".into());
        let found = conditions(&Outcome::Applied, &full);
        let degraded = found
            .iter()
            .find(|(type_, ..)| type_ == "Degraded")
            .unwrap();
        assert_eq!(
            (degraded.1.as_str(), degraded.2.as_str()),
            ("True", "NodeCIDRsNotAllocated")
        );
    }

    #[test]
    fn what_is_not_known_now_stays() {
        let old = NetworkingStatus {
            effective: Some(samples::effective().to_spec(&NetworkingSpec::default())),
            ..NetworkingStatus::default()
        };
        let report = Report {
            generation: 1,
            outcome: &Outcome::Failed {
                error: "no answer".into(),
            },
            progress: None,
            detection: None,
            effective: None,
            plan: None,
            rollout: None,
            kube_proxy: None,
            version: "0.1.0",
        };
        let new = status(&old, &report, Timestamp::UNIX_EPOCH);
        assert_eq!(new.effective, old.effective);
        assert_eq!(
            status(&new, &report, Timestamp::MAX),
            new,
            "writing again changes nothing"
        );
    }
}
