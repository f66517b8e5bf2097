//! Why a pod does not do what it should: the container, the reason and its last words.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// How long a pod may take to become ready before that is a failure rather than progress.
const GRACE: SignedDuration = SignedDuration::from_secs(60);
/// Last words that are kept, in bytes.
const LAST_WORDS_MAX: usize = 512;

/// How bad it is; the worst is told first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It only takes its time.
    Progressing,
    /// It is not ready, for longer than it should take.
    NotReady,
    /// No node takes it.
    Unschedulable,
    /// It ended.
    Ended,
    /// Its image cannot be had.
    Image,
    /// It starts and dies.
    Crashing,
}

/// Why a pod does not do what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// How bad.
    pub severity: Severity,
    /// Its node; empty when it has none.
    pub node: String,
    /// Its name.
    pub pod: String,
    /// The container; empty when it concerns the pod.
    pub container: String,
    /// A word for programs.
    pub reason: String,
    /// Last words or explanation, one line.
    pub message: String,
}

impl Cause {
    /// In one line for people.
    pub fn sentence(&self) -> String {
        let mut text = format!("pod {}", self.pod);
        if !self.node.is_empty() {
            text = format!("{text} on {}", self.node);
        }
        if !self.container.is_empty() {
            text = format!("{text}, container {}", self.container);
        }
        text = format!("{text}: {}", self.reason);
        if !self.message.is_empty() {
            text = format!("{text} ({})", self.message);
        }
        text
    }
}

/// Whether the pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, ..)| status == "True")
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == type_)?;
    Some((
        &found.status,
        found.reason.as_deref().unwrap_or_default(),
        found.message.as_deref().unwrap_or_default(),
    ))
}

/// Why `pod` is not ready; none when it is, or is being deleted.
pub fn diagnose(pod: &Pod, now: Timestamp) -> Option<Cause> {
    if is_ready(pod) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let status = pod.status.clone().unwrap_or_default();
    let cause = |severity, container: &str, reason: &str, message: &str| Cause {
        severity,
        node: pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .unwrap_or_default(),
        pod: pod.metadata.name.clone().unwrap_or_default(),
        container: container.to_owned(),
        reason: reason.to_owned(),
        message: last_words(message),
    };
    let containers: Vec<&ContainerStatus> = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten()
        .collect();
    let worst = containers
        .iter()
        .filter_map(|container| {
            let (severity, reason, message) = judge(container)?;
            Some(cause(severity, &container.name, &reason, &message))
        })
        .max_by_key(|cause| cause.severity);
    if worst.is_some() {
        return worst;
    }
    if let Some(("False", reason, message)) = condition(pod, "PodScheduled") {
        return Some(cause(Severity::Unschedulable, "", reason, message));
    }
    if status.phase.as_deref() == Some("Failed") {
        let reason = status.reason.as_deref().unwrap_or("Failed");
        return Some(cause(
            Severity::Ended,
            "",
            reason,
            status.message.as_deref().unwrap_or_default(),
        ));
    }
    let since = status.start_time.map_or(now, |time| time.0);
    if now.duration_since(since) < GRACE {
        return Some(cause(Severity::Progressing, "", "Starting", ""));
    }
    let (_, reason, message) = condition(pod, "Ready").unwrap_or(("False", "NotReady", ""));
    let reason = if reason.is_empty() {
        "NotReady"
    } else {
        reason
    };
    Some(cause(Severity::NotReady, "", reason, message))
}

/// What is wrong with a container: severity, reason, last words.
fn judge(container: &ContainerStatus) -> Option<(Severity, String, String)> {
    let state = container.state.as_ref()?;
    let last = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref())
        .map(|ended| {
            let words = ended.message.clone().unwrap_or_default();
            let reason = ended.reason.as_deref().unwrap_or("Error");
            if words.trim().is_empty() {
                format!("{reason}, exit code {}", ended.exit_code)
            } else {
                words
            }
        });
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("Waiting");
        let message = waiting.message.clone().unwrap_or_default();
        return match reason {
            "CrashLoopBackOff" => Some((
                Severity::Crashing,
                reason.to_owned(),
                last.unwrap_or(message),
            )),
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "RegistryUnavailable" => Some((Severity::Image, reason.to_owned(), message)),
            "ContainerCreating" | "PodInitializing" => None,
            _ => Some((Severity::Ended, reason.to_owned(), message)),
        };
    }
    if let Some(ended) = &state.terminated
        && ended.exit_code != 0
    {
        let words = ended.message.clone().unwrap_or_default();
        let reason = ended.reason.as_deref().unwrap_or("Error");
        return Some((
            Severity::Ended,
            format!("{reason}, exit code {}", ended.exit_code),
            words,
        ));
    }
    // It runs, is not ready, and died before: what it said then is the best clue.
    if state.running.is_some() && !container.ready && container.restart_count > 0 {
        let reason = format!("Restarted{}", container.restart_count);
        return Some((Severity::NotReady, reason, last.unwrap_or_default()));
    }
    None
}

/// The end of what was said, on one line.
fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let joined = lines.join(" | ");
    let mut start = joined.len().saturating_sub(LAST_WORDS_MAX);
    while !joined.is_char_boundary(start) {
        start += 1;
    }
    if start == 0 {
        joined
    } else {
        format!("…{}", &joined[start..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(status: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "carrick-agent-x"},
            "spec": {"nodeName": "node1", "containers": []},
            "status": status,
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(status: &serde_json::Value, severity: Severity, sentence: &str) {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let cause = diagnose(&pod(status), now).unwrap();
        assert_eq!(
            (cause.severity, cause.sentence().as_str()),
            (severity, sentence)
        );
    }

    fn container(state: &serde_json::Value, last: &serde_json::Value) -> serde_json::Value {
        json!({"containerStatuses": [{"name": "agent", "image": "i", "imageID": "", "ready": false,
            "restartCount": 3, "state": state, "lastState": last}]})
    }

    #[test]
    fn the_cause_names_pod_container_reason_and_last_words() {
        check(
            &container(
                &json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}),
                &json!({"terminated": {"exitCode": 1, "message": "first\n\nno bridge br-int\n"}}),
            ),
            Severity::Crashing,
            "pod carrick-agent-x on node1, container agent: CrashLoopBackOff (first | no bridge br-int)",
        );
        check(
            &container(
                &json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}),
                &json!({}),
            ),
            Severity::Image,
            "pod carrick-agent-x on node1, container agent: ImagePullBackOff (not found)",
        );
        check(
            &json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]}),
            Severity::Unschedulable,
            "pod carrick-agent-x on node1: Unschedulable (0/1 nodes)",
        );
        check(
            &json!({"startTime": "2026-01-01T00:09:30Z"}),
            Severity::Progressing,
            "pod carrick-agent-x on node1: Starting",
        );
        check(
            &json!({"startTime": "2026-01-01T00:00:00Z",
                "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "m"}]}),
            Severity::NotReady,
            "pod carrick-agent-x on node1: ContainersNotReady (m)",
        );
    }

    #[test]
    fn a_ready_or_leaving_pod_has_no_cause() {
        let ready = pod(&json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        assert_eq!(diagnose(&ready, Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn last_words_keep_the_end() {
        let text = format!("{}é the end", "x".repeat(2000));
        let kept = last_words(&text);
        assert!(kept.starts_with('…') && kept.ends_with("the end") && kept.len() < 600);
    }
}
