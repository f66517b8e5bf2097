//! What Carrick's pods are and what hinders them.

use std::fmt;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde::Serialize;

/// A part of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// The operator's Deployment.
    Operator,
    /// The controller's Deployment.
    Controller,
    /// The agent's DaemonSet.
    Agent,
    /// The switch's DaemonSet.
    Switch,
}

impl Part {
    /// All, in the order they come up.
    pub const ALL: [Self; 4] = [Self::Operator, Self::Controller, Self::Agent, Self::Switch];

    /// As `status.components` names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Controller => "controller",
            Self::Agent => "agent",
            Self::Switch => "switch",
        }
    }

    /// The workload, as kubectl takes it.
    pub const fn workload(self) -> &'static str {
        match self {
            Self::Operator => "deployment/carrick-operator",
            Self::Controller => "deployment/carrick-controller",
            Self::Agent => "daemonset/carrick-agent",
            Self::Switch => "daemonset/carrick-ovs",
        }
    }

    /// `app.kubernetes.io/component` of its pods.
    const fn component(self) -> &'static str {
        match self {
            Self::Operator | Self::Controller | Self::Agent => self.as_str(),
            Self::Switch => "ovs",
        }
    }

    /// Whose pod this is, by the labels that chart and operator put on their pods.
    pub fn of(pod: &Pod) -> Option<Self> {
        let labels = pod.metadata.labels.as_ref()?;
        if labels.get("app.kubernetes.io/part-of").map(String::as_str) != Some("carrick") {
            return None;
        }
        let component = labels.get("app.kubernetes.io/component")?;
        Self::ALL
            .into_iter()
            .find(|part| part.component() == component)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The node a pod was put on.
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|name| !name.is_empty())
}

/// Whether all containers are ready.
pub fn ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What hinders a pod, in words; nothing when it is ready or only just starting.
pub fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if pod.metadata.deletion_timestamp.is_some() || ready(pod) {
        return None;
    }
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    if let Some(text) = containers.into_iter().find_map(container_trouble) {
        return Some(text);
    }
    if let Some(condition) = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
    {
        return Some(format!(
            "not scheduled: {}",
            condition.message.as_deref().unwrap_or("no reason given")
        ));
    }
    if status.phase.as_deref() == Some("Failed") {
        let reason = status.reason.as_deref().unwrap_or("Failed");
        return Some(format!(
            "{reason}: {}",
            status.message.as_deref().unwrap_or("no message")
        ));
    }
    None
}

fn container_trouble(container: &ContainerStatus) -> Option<String> {
    let name = &container.name;
    let last = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let now = container.state.as_ref();
    if let Some(waiting) = now.and_then(|state| state.waiting.as_ref()) {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        if matches!(reason, "ContainerCreating" | "PodInitializing") {
            return None;
        }
        // The last words say more than "back-off 5m0s restarting failed container".
        let words = last
            .and_then(|last| last.message.as_deref())
            .filter(|words| !words.trim().is_empty())
            .or(waiting.message.as_deref())
            .unwrap_or("no message");
        return Some(format!("container {name}: {reason}: {}", tail(words)));
    }
    if let Some(ended) = now
        .and_then(|state| state.terminated.as_ref())
        .filter(|ended| ended.exit_code != 0)
    {
        let words = ended
            .message
            .as_deref()
            .or(ended.reason.as_deref())
            .unwrap_or("no message");
        return Some(format!(
            "container {name}: ended with {}: {}",
            ended.exit_code,
            tail(words)
        ));
    }
    let running = now.is_some_and(|state| state.running.is_some());
    if running && !container.ready {
        let restarts = match container.restart_count {
            0 => String::new(),
            n => format!(", restarted {n} times"),
        };
        return Some(format!("container {name}: runs but is not ready{restarts}"));
    }
    None
}

/// The last line, at most 400 characters of it: logs end with the cause.
fn tail(words: &str) -> String {
    let line = words.trim().lines().next_back().unwrap_or_default();
    line.chars().take(400).collect()
}
