//! What is done about a kube-proxy. Pure.
//!
//! It is disabled by a node selector that no node has, and only where nobody else manages it. The order is
//! what matters: every agent serves Services before kube-proxy goes, and kube-proxy is ready again before agents
//! serve no more. All of it is told from the DaemonSet itself, so an operator that is killed between two actions
//! decides the same next:
//!
//! ```text
//! selector  annotation
//!    no        no       nothing of ours
//!    yes       yes      disabled
//!    no        yes      on its way back (or somebody else took the selector out)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use carrick_api::agentinfo::{self, AgentInfo};
use carrick_api::effective::{KubeProxy, ServiceProxy};
use carrick_k8s::condition::Status;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::effective::Effective;
use crate::facts::{Facts, Reach};
use crate::validate::{count, in_scope, some};

mod agents;
mod returned;
#[cfg(test)]
mod tests;

pub use agents::{Agents, agents, leftovers};
pub use returned::{Member, SETTLED, members, selector, serving};

/// Where kubeadm puts it.
pub const NAMESPACE: &str = "kube-system";
/// What it is called there.
pub const NAME: &str = "kube-proxy";
/// The label that no node has.
pub const SELECTOR: &str = "carrick.dev/kube-proxy-disabled";
/// Who has disabled it, and why.
pub const DISABLED_BY: &str = "carrick.dev/kube-proxy-disabled-by";
/// How often it was disabled since it was last left to others.
pub const TIMES: &str = "carrick.dev/kube-proxy-disabled-times";
/// Accepts that no kube-proxy is ready when the agents serve no more.
pub const ACK_NOT_READY: &str = "kube-proxy-not-ready";
/// How often it is disabled where somebody else enables it again.
pub const TIMES_MAX: u32 = 3;

const WHY: &str = "Carrick: its agents serve Services (spec.serviceProxy.mode Full of the Networking default). \
                   Carrick takes the node selector of this name out again before they stop.";

/// Labels and annotations of those who keep objects as they have them, and who they are.
const MANAGERS: [(&str, &str); 12] = [
    (
        "addonmanager.kubernetes.io/mode",
        "the add-on manager of this cluster",
    ),
    ("addon.kops.k8s.io/", "kOps"),
    ("eks.amazonaws.com/", "the EKS add-on"),
    ("kubernetes.azure.com/", "AKS"),
    ("components.gke.io/", "GKE"),
    ("meta.helm.sh/release-name", "a Helm release"),
    ("helm.toolkit.fluxcd.io/", "Flux"),
    ("kustomize.toolkit.fluxcd.io/", "Flux"),
    ("argocd.argoproj.io/", "Argo CD"),
    ("objectset.rio.cattle.io/", "Rancher"),
    ("helm.cattle.io/", "Rancher"),
    (
        "app.kubernetes.io/managed-by",
        "whoever app.kubernetes.io/managed-by names",
    ),
];

/// How kube-proxy runs, as far as the API server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Not at all, or as a process of a host.
    Absent,
    /// From a file of each of these nodes.
    StaticPods(Vec<String>),
    /// As a DaemonSet.
    Set(Box<Set>),
    /// The API server does not tell.
    Unreadable(String),
}

/// The DaemonSet of kube-proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// Who else keeps it as it is; none for kubeadm's.
    pub manager: Option<String>,
    /// It has our node selector.
    pub disabled: bool,
    /// It has our annotation.
    pub marked: bool,
    /// How often it was disabled.
    pub times: u32,
    /// Its controller has seen the last change.
    pub observed: bool,
    /// Pods that it wants.
    pub desired: i32,
    /// Pods that there are.
    pub current: i32,
    /// Its pods, where they count: while it is on its way back.
    pub members: Vec<Member>,
    /// The version that was read.
    pub resource_version: String,
}

/// What of a DaemonSet counts.
pub fn set(set: &DaemonSet) -> Set {
    let annotations = set.metadata.annotations.clone().unwrap_or_default();
    let selector = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref()?.node_selector.as_ref());
    let status = set.status.clone().unwrap_or_default();
    let times = annotations.get(TIMES).and_then(|text| text.parse().ok());
    Set {
        manager: manager(set),
        disabled: selector.is_some_and(|selector| selector.contains_key(SELECTOR)),
        marked: annotations.contains_key(DISABLED_BY),
        times: times.unwrap_or(0),
        observed: status.observed_generation >= set.metadata.generation,
        desired: status.desired_number_scheduled,
        // One that runs where it must not is there as well.
        current: status
            .current_number_scheduled
            .saturating_add(status.number_misscheduled),
        members: Vec::new(),
        resource_version: set.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// Who keeps the DaemonSet as it is, with what tells so.
fn manager(set: &DaemonSet) -> Option<String> {
    if let Some(owner) = set.metadata.owner_references.iter().flatten().next() {
        return Some(format!("{} {} (ownerReferences)", owner.kind, owner.name));
    }
    let labels = set.metadata.labels.clone().unwrap_or_default();
    let annotations = set.metadata.annotations.clone().unwrap_or_default();
    let all: BTreeMap<&String, &String> = labels.iter().chain(&annotations).collect();
    for (mark, who) in MANAGERS {
        let is_mark = |key: &str| {
            if mark.ends_with('/') {
                key.starts_with(mark)
            } else {
                key == mark
            }
        };
        if let Some((key, value)) = all.iter().find(|(key, _)| is_mark(key)) {
            let value: String = value.chars().take(64).collect();
            return Some(format!("{who} ({key}: {value})"));
        }
    }
    let is_kubeadms = labels.get("k8s-app").is_some_and(|app| app == NAME);
    (!is_kubeadms).then(|| format!("nobody known (kubeadm's has the label k8s-app={NAME})"))
}

/// Nodes that run a kube-proxy from a file of theirs, out of all pods that look like one.
pub fn static_pods(pods: &[Pod]) -> Vec<String> {
    let is_mirror = |pod: &&Pod| {
        let annotations = pod.metadata.annotations.as_ref();
        annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror"))
    };
    let mut nodes: Vec<String> = { pods.iter().filter(is_mirror) }
        .filter_map(|pod| pod.spec.as_ref()?.node_name.clone())
        .collect();
    nodes.sort();
    nodes.dedup();
    nodes
}

/// Everything that decides.
#[derive(Debug)]
pub struct View<'a> {
    /// The proxy that shall be, or none when the network is being removed.
    pub proxy: Option<&'a ServiceProxy>,
    /// How kube-proxy runs.
    pub found: &'a Found,
    /// How the agents are.
    pub agents: &'a Agents,
    /// How often this process has disabled it since it was last left to others.
    pub times: u32,
    /// Nodes that do not report: nobody can become ready there.
    pub unreachable: BTreeSet<String>,
    /// The time.
    pub now: Timestamp,
    /// [`ACK_NOT_READY`] is acknowledged.
    pub acknowledged: bool,
}

/// What is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Puts the node selector in; how often that was done with this one.
    Disable(u32),
    /// Takes it out.
    Enable,
    /// Takes the annotations off: it is back.
    Forget,
}

/// What is done and said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// What is changed now.
    pub action: Option<Action>,
    /// Why the agents must stay as they are.
    pub hold: Option<String>,
    /// The condition; none where nothing is to be said.
    pub said: Option<Said>,
    /// It is not as the spec demands.
    pub degraded: bool,
    /// The spec demands that it is disabled.
    pub wanted: bool,
}

impl Decision {
    /// The same, where the API server does not let us.
    #[must_use]
    pub fn not_allowed(mut self, error: &str) -> Self {
        let mend = format!(
            "kube-proxy cannot be changed: {error}. To mend it: set kubeProxy.mayDisable=true among the values of the chart \
             (patch of DaemonSet {NAMESPACE}/{NAME}), or change its node selector {SELECTOR} by hand."
        );
        if let Some(hold) = &mut self.hold {
            *hold = format!("{mend} {hold}");
        }
        if let Some(said) = &mut self.said {
            let message = self.hold.clone().unwrap_or(mend);
            *said = Said {
                status: Status::False,
                reason: "NotAllowed",
                message,
            };
        }
        self.degraded |= self.wanted;
        self
    }
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Whether no kube-proxy is left.
    pub status: Status,
    /// Why, in a word.
    pub reason: &'static str,
    /// Why, in a sentence that mends it.
    pub message: String,
}

fn said(status: Status, reason: &'static str, message: impl Into<String>) -> Decision {
    let message = message.into();
    Decision {
        said: Some(Said {
            status,
            reason,
            message,
        }),
        ..Decision::default()
    }
}

/// Decides.
pub fn decide(view: &View<'_>) -> Decision {
    match view.proxy {
        Some(proxy) if proxy.replaces_kube_proxy() => {
            let mut decision = replace(view);
            let wanted = proxy.kube_proxy == Some(KubeProxy::Disable);
            decision.wanted = wanted;
            let may_not = [
                "ManagedByOthers",
                "StaticPods",
                "NodesWithoutAgent",
                "SetBack",
                "NotReadable",
                "LeftOnNodes",
            ];
            let reason = decision.said.as_ref().map(|said| said.reason);
            decision.degraded = wanted && reason.is_some_and(|reason| may_not.contains(&reason));
            decision
        }
        proxy => {
            let mut decision = give_back(view);
            let kept = proxy.is_some_and(|proxy| proxy.kube_proxy == Some(KubeProxy::Keep));
            if kept && decision.said.is_none() {
                let text =
                    "spec.serviceProxy.kubeProxy is Keep: a kube-proxy that runs is left alone.";
                decision = Decision {
                    action: decision.action,
                    ..said(Status::False, "Kept", text)
                };
            }
            decision
        }
    }
}

fn replace(view: &View<'_>) -> Decision {
    let set = match view.found {
        Found::Absent => {
            return match &view.agents {
                Agents::Serve { left, .. } if !left.is_empty() => said(
                    Status::False,
                    "LeftOnNodes",
                    format!(
                        "The API server shows no kube-proxy, but nodes do: {}.",
                        words(left)
                    ),
                ),
                _ => said(
                    Status::True,
                    "Absent",
                    "The API server shows no kube-proxy.",
                ),
            };
        }
        Found::StaticPods(nodes) => {
            let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
            let text = format!(
                "kube-proxy is kept: it runs from a file of {} ({}). To mend it: move its manifest out of \
                 /etc/kubernetes/manifests there.",
                count(nodes.len(), "node"),
                some(&names)
            );
            return said(Status::False, "StaticPods", text);
        }
        Found::Unreadable(why) => {
            let text = format!(
                "Whether a kube-proxy runs is not known: {why}. To mend it: let the operator get the DaemonSet \
                 {NAMESPACE}/{NAME} (the chart's Role in {NAMESPACE})."
            );
            return said(Status::False, "NotReadable", text);
        }
        Found::Set(set) => set,
    };
    if set.disabled {
        if !set.observed || set.current > 0 {
            return said(
                Status::False,
                "Disabling",
                format!("{} of kube-proxy are ending.", count_of(set.current)),
            );
        }
        return match &view.agents {
            Agents::Serve { left, .. } if !left.is_empty() => said(
                Status::False,
                "LeftOnNodes",
                format!("kube-proxy is disabled, but nodes say: {}.", words(left)),
            ),
            Agents::Elsewhere(nodes) => said(
                Status::False,
                "NodesWithoutAgent",
                format!(
                    "kube-proxy is disabled, but nodes without an agent need it ({}). To mend it: take \
                     spec.agent.placement.nodeSelector away, or set spec.serviceProxy.kubeProxy to Keep.",
                    words(nodes)
                ),
            ),
            Agents::Wait(what) => said(
                Status::True,
                "Disabled",
                format!(
                    "kube-proxy is disabled; that every agent serves Services is not known now: waiting for {what}."
                ),
            ),
            Agents::Serve { .. } => said(
                Status::True,
                "Disabled",
                "kube-proxy is disabled; the agents serve Services.",
            ),
        };
    }
    if let Some(manager) = &set.manager {
        if set.observed && set.desired == 0 && set.current == 0 {
            let text =
                format!("DaemonSet {NAMESPACE}/{NAME} wants no pods; the agents serve Services.");
            return said(Status::True, "Absent", text);
        }
        let text = format!(
            "kube-proxy is kept: DaemonSet {NAMESPACE}/{NAME} is managed by {manager}, who would enable it again. To mend it: \
             disable it there, then the condition follows; or set spec.serviceProxy.kubeProxy to Keep."
        );
        return said(Status::False, "ManagedByOthers", text);
    }
    let times = set.times.max(view.times);
    if times >= TIMES_MAX {
        let text = format!(
            "kube-proxy is kept: somebody else has enabled it again {times} times. To mend it: find who changes DaemonSet \
             {NAMESPACE}/{NAME}, then set spec.serviceProxy.kubeProxy to Keep and back."
        );
        return said(Status::False, "SetBack", text);
    }
    match view.agents {
        Agents::Elsewhere(nodes) => {
            let text = format!(
                "kube-proxy is kept: nodes without an agent need it ({}). To mend it: take spec.agent.placement.nodeSelector \
                 away.",
                words(nodes)
            );
            said(Status::False, "NodesWithoutAgent", text)
        }
        Agents::Wait(what) => {
            let text =
                format!("kube-proxy runs until every agent serves Services; waiting for {what}.");
            said(Status::False, "WaitingForAgents", text)
        }
        Agents::Serve { .. } => Decision {
            action: Some(Action::Disable(times + 1)),
            ..said(
                Status::False,
                "Disabling",
                "Every agent serves Services; kube-proxy is being disabled.",
            )
        },
    }
}

/// kube-proxy first, then the agents.
fn give_back(view: &View<'_>) -> Decision {
    let Found::Set(set) = view.found else {
        return Decision::default();
    };
    let (serving, wanted) = serving(&set.members, set.desired, &view.unreachable, view.now);
    let returning = |action| {
        let hold = format!(
            "kube-proxy runs again before the agents stop to serve Services: {serving} of {wanted} pods are ready for {} s or \
             longer. If this does not pass, look at the pods of DaemonSet {NAMESPACE}/{NAME}, or set spec.acknowledge to \
             [{ACK_NOT_READY}].",
            SETTLED.as_secs()
        );
        Decision {
            action,
            hold: (!view.acknowledged).then(|| hold.clone()),
            ..said(Status::False, "Returning", hold)
        }
    };
    match (set.disabled, set.marked) {
        (false, false) => Decision::default(),
        (true, _) => returning(Some(Action::Enable)),
        (false, true) => {
            if (set.observed && serving >= wanted) || view.acknowledged {
                return Decision {
                    action: Some(Action::Forget),
                    ..Decision::default()
                };
            }
            returning(None)
        }
    }
}

fn words(list: &[String]) -> String {
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    some(&list)
}

fn count_of(pods: i32) -> String {
    count(usize::try_from(pods).unwrap_or(0), "pod")
}

/// The merge patch that does it, on the version that was read.
pub fn patch(action: Action, set: &Set) -> Value {
    let selector =
        |value: Value| json!({"template": {"spec": {"nodeSelector": {SELECTOR: value}}}});
    let mut patch = match action {
        Action::Disable(times) => json!({
            "metadata": {"annotations": {DISABLED_BY: WHY, TIMES: times.to_string()}},
            "spec": selector(json!("true")),
        }),
        // The annotation stays until its pods are ready.
        Action::Enable => json!({
            "metadata": {"annotations": {DISABLED_BY: WHY}},
            "spec": selector(Value::Null),
        }),
        Action::Forget => json!({
            "metadata": {"annotations": {DISABLED_BY: null, TIMES: null}},
        }),
    };
    patch["metadata"]["resourceVersion"] = json!(set.resource_version);
    patch
}
