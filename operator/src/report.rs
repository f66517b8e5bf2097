//! What the status of a `Networking` says.
//!
//! Conditions follow kstatus: Ready, Reconciling, Stalled; and Available, Progressing, Degraded
//! for people who know those from OpenShift. Each names its cause.

use carrick_api::networking::NetworkingSpec;
use carrick_api::status::{
    NetworkingStatus, Plan, ProviderStatus, RolloutStatus, STATUS_LIST_MAX, Versions,
    condition as kind,
};
use carrick_k8s::condition;
use jiff::Timestamp;

use crate::kubeproxy;
use crate::plan::clip;
use crate::progress::Progress;
use crate::provider::Detection;
use crate::removal::Waiting;
use crate::verdict::Refusal;

mod conditions;

use conditions::{Words, available, degraded, kstatus, progressing, words};

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
