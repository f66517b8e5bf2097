//! What each condition says, in words.

use carrick_api::status::{RolloutDirection, RolloutPhase, RolloutStatus};
use carrick_k8s::condition::Status;

use super::{Outcome, Report};
use crate::progress::Progress;
use crate::verdict::Refusal;

/// What a condition says.
pub(super) struct Words {
    pub(super) status: Status,
    pub(super) reason: String,
    pub(super) message: String,
}

pub(super) fn words(status: Status, reason: &str, message: impl Into<String>) -> Words {
    Words {
        status,
        reason: reason.to_owned(),
        message: message.into(),
    }
}

fn sentences(refusals: &[Refusal]) -> String {
    refusals
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ")
}

pub(super) fn kstatus(report: &Report<'_>) -> [Words; 3] {
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

pub(super) fn available(progress: &Progress) -> Words {
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

pub(super) fn progressing(outcome: &Outcome, progress: &Progress) -> Words {
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

pub(super) fn degraded(report: &Report<'_>) -> Words {
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
