//! From Kubernetes objects to a [`View`](super::View): what runs, as far as order depends on it.

use std::collections::{BTreeMap, BTreeSet};

use carrick_api::agentinfo::{self, AgentInfo};
use carrick_api::controllerinfo::ControllerInfo;
use carrick_api::names::object;
use carrick_api::networking::{self, OnFailure};
use carrick_api::status::RolloutFailure;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{ControllerView, Live, NodeView, Part, Parts, PodView, Pulled, Render, Settings, Told};
use crate::diagnose::{Cause, Severity, diagnose, is_ready};
use crate::effective::Effective;
use crate::facts::{Facts, Reach};
use crate::object::{Kind, Object};
use crate::progress::{Running, condition};
use crate::render::{CONFIG_HASH, NAME, OPERATOR_VERSION, RENDER_HASH};
use crate::validate::in_scope;

/// The label of a DaemonSet's pods that tells their revision.
const REVISION: &str = "controller-revision-hash";
/// How often a container may have died before its pod will not become ready by waiting.
const CRASHES: i32 = 2;
/// How old a crashing pod may be before that counts, however often it died.
const CRASHING: SignedDuration = SignedDuration::from_secs(60);

/// `spec.rollout` with its defaults.
pub fn settings(spec: Option<&networking::Rollout>) -> Settings {
    let default = Settings::default();
    let Some(rollout) = spec else {
        return default;
    };
    let stall_timeout = rollout
        .stall_timeout
        .as_deref()
        .filter(|text| !text.is_empty())
        .and_then(|text| text.parse().ok());
    Settings {
        paused: rollout.paused.unwrap_or(default.paused),
        stall_timeout: stall_timeout.unwrap_or(default.stall_timeout),
        on_failure: rollout.on_failure.unwrap_or(OnFailure::Rollback),
    }
}

/// `spec.rollout` as `status.effective` shows it.
pub fn shown(spec: Option<&networking::Rollout>) -> networking::Rollout {
    let settings = settings(spec);
    networking::Rollout {
        paused: Some(settings.paused),
        stall_timeout: Some(seconds(settings.stall_timeout)),
        on_failure: Some(settings.on_failure),
    }
}

/// A duration as a spec writes it: "10m", "90s".
fn seconds(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    if seconds % 60 == 0 {
        format!("{}m", seconds / 60)
    } else {
        format!("{seconds}s")
    }
}

/// The name of a part's workload.
pub fn workload(part: Part) -> &'static str {
    match part {
        Part::Controller => object::CONTROLLER,
        Part::Agent => object::AGENT,
        Part::Switch => object::SWITCH,
    }
}

/// Whether an object is the workload of `part`.
pub fn is_workload(object: &Object, part: Part) -> bool {
    let kind = match part {
        Part::Controller => Kind::Deployment,
        Part::Agent | Part::Switch => Kind::DaemonSet,
    };
    object.id.kind == kind && object.id.name == workload(part)
}

/// What `objects` are, as far as order depends on it.
pub fn render(objects: &[Object], effective: &Effective, version: &str) -> Render {
    let hash = |part: Part| {
        objects
            .iter()
            .find(|object| is_workload(object, part))
            .and_then(|object| {
                object
                    .body
                    .pointer("/metadata/annotations")?
                    .get(RENDER_HASH)
            })
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    Render {
        hashes: Parts::of(hash),
        images: [
            effective.images.carrick.clone(),
            effective.images.carrick_ovs.clone(),
        ],
        version: version.to_owned(),
    }
}

/// The workloads as they are; `newest` are the DaemonSets' newest revisions.
pub fn live(running: &Running, newest: &BTreeMap<String, String>) -> Parts<Option<Live>> {
    let of = |meta: &ObjectMeta, observed: Option<i64>, template: Option<Value>| Live {
        hash: annotation(meta, RENDER_HASH)
            .map_or_else(|| own_hash(&template.unwrap_or_default()), str::to_owned),
        version: annotation(meta, OPERATOR_VERSION)
            .unwrap_or_default()
            .to_owned(),
        observed: observed.unwrap_or(0) >= meta.generation.unwrap_or(0),
    };
    // Without its revision no pod could be told from an outdated one.
    let has_revision =
        |set: &DaemonSet| { set.metadata.uid.as_ref() }.is_some_and(|uid| newest.contains_key(uid));
    let set = |set: Option<&DaemonSet>| {
        let set = set?;
        let observed = set
            .status
            .as_ref()
            .map(|status| status.observed_generation.unwrap_or(0));
        let template = set
            .spec
            .as_ref()
            .and_then(|spec| serde_json::to_value(&spec.template).ok());
        let live = of(&set.metadata, observed, template);
        Some(Live {
            observed: live.observed && has_revision(set),
            ..live
        })
    };
    let controller = running.controller.as_ref().map(|deployment| {
        let status = deployment.status.as_ref();
        let observed = status.and_then(|status| status.observed_generation);
        let spec = deployment.spec.as_ref();
        let template = spec.and_then(|spec| serde_json::to_value(&spec.template).ok());
        of(&deployment.metadata, observed, template)
    });
    Parts {
        controller,
        agent: set(running.agent.as_ref()),
        switch: set(running.switch.as_ref()),
    }
}

pub(super) fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// What stands for the render hash of a workload that an operator without ordered rollouts made.
fn own_hash(template: &Value) -> String {
    let digest = Sha256::digest(template.to_string().as_bytes());
    format!("found-{}", hex::encode(&digest[..8]))
}

/// The newest revision of each DaemonSet, by its UID.
pub fn newest(revisions: &[ControllerRevision]) -> BTreeMap<String, String> {
    let mut newest: BTreeMap<String, (i64, String)> = BTreeMap::new();
    for revision in revisions {
        let Some(hash) = revision.labels().get(REVISION) else {
            continue;
        };
        for owner in revision.owner_references() {
            let entry = newest.entry(owner.uid.clone()).or_default();
            if entry.1.is_empty() || revision.revision > entry.0 {
                *entry = (revision.revision, hash.clone());
            }
        }
    }
    newest
        .into_iter()
        .map(|(uid, (_, hash))| (uid, hash))
        .collect()
}

/// What nodes are seen by.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The cluster.
    pub facts: &'a Facts,
    /// What runs.
    pub running: &'a Running,
    /// The newest revision of each DaemonSet, by its UID.
    pub newest: &'a BTreeMap<String, String>,
    /// Pods whose deletion was asked for and is not seen yet.
    pub deleted: &'a BTreeSet<String>,
    /// The time.
    pub now: Timestamp,
}

/// The nodes that carry the network of `effective`; `images` are those to be pulled.
pub fn nodes(
    seen: &Seen<'_>,
    effective: &Effective,
    images: &[String; 2],
) -> BTreeMap<String, NodeView> {
    let revision = |set: Option<&DaemonSet>| {
        let uid = set?.metadata.uid.as_deref()?;
        seen.newest.get(uid).map(String::as_str)
    };
    let agents = revision(seen.running.agent.as_ref());
    let switches = revision(seen.running.switch.as_ref());
    let mut nodes: BTreeMap<String, NodeView> = seen
        .facts
        .nodes
        .iter()
        .filter(|node| in_scope(effective, node))
        .map(|node| {
            let view = NodeView {
                reachable: node.reach == Reach::Reachable,
                ..NodeView::default()
            };
            (node.name.clone(), view)
        })
        .collect();
    for pod in &seen.running.pods {
        let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let Some(node) = name.and_then(|name| nodes.get_mut(name)) else {
            continue;
        };
        let gone = pod.metadata.deletion_timestamp.is_some()
            || pod.uid().is_some_and(|uid| seen.deleted.contains(&uid));
        if gone {
            continue;
        }
        match pod.labels().get(NAME).map(String::as_str) {
            Some(object::AGENT) => prefer(&mut node.agent, pod_view(pod, agents, seen.now)),
            Some(object::SWITCH) => prefer(&mut node.switch, pod_view(pod, switches, seen.now)),
            Some(object::PRE_PULL) => node.pulled = pulled(pod, images, seen.now),
            _ => {}
        }
    }
    let leader = Leader::find(&seen.running.controllers, &seen.running.pods);
    for info in &seen.running.agents {
        if let Some(node) = nodes.get_mut(&info.name_any()) {
            node.told = told(info, node.agent.as_ref(), leader.as_ref());
        }
    }
    nodes
}

/// Two pods of a DaemonSet on a node (one forced away): the newer template counts.
fn prefer(slot: &mut Option<PodView>, pod: PodView) {
    if slot.as_ref().is_none_or(|held| !held.current) {
        *slot = Some(pod);
    }
}

fn pod_view(pod: &Pod, newest: Option<&str>, now: Timestamp) -> PodView {
    let cause = diagnose(pod, now);
    PodView {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        current: newest.is_some() && pod.labels().get(REVISION).map(String::as_str) == newest,
        ready: is_ready(pod),
        failing: cause
            .as_ref()
            .filter(|cause| is_final(pod, cause, now))
            .map(failure),
        words: cause.map(|cause| cause.sentence()).unwrap_or_default(),
    }
}

/// Waiting will not help: the image cannot be had, or it starts and dies again and again.
fn is_final(pod: &Pod, cause: &Cause, now: Timestamp) -> bool {
    match cause.severity {
        // The first attempt may meet a registry that is just away; the kubelet backs off after it.
        Severity::Image => !matches!(
            cause.reason.as_str(),
            "ErrImagePull" | "RegistryUnavailable"
        ),
        Severity::Crashing => {
            let status = pod.status.as_ref();
            let containers = status.iter().flat_map(|status| {
                status
                    .init_container_statuses
                    .iter()
                    .chain(&status.container_statuses)
                    .flatten()
            });
            let crashes = containers.map(|container| container.restart_count).max();
            let since = pod.creation_timestamp().map_or(now, |time| time.0);
            crashes.unwrap_or(0) >= CRASHES || now.duration_since(since) > CRASHING
        }
        Severity::Progressing | Severity::NotReady | Severity::Unschedulable | Severity::Ended => {
            false
        }
    }
}

fn failure(cause: &Cause) -> RolloutFailure {
    RolloutFailure {
        node: cause.node.clone(),
        pod: cause.pod.clone(),
        container: cause.container.clone(),
        reason: cause.reason.clone(),
        message: cause.message.clone(),
    }
}

fn pulled(pod: &Pod, images: &[String; 2], now: Timestamp) -> Pulled {
    let spec = pod.spec.as_ref();
    let image = |container: Option<&Container>| container.and_then(|c| c.image.clone());
    let has = [
        image(spec.and_then(|spec| spec.containers.first())),
        image(spec.and_then(|spec| spec.init_containers.as_ref()?.first())),
    ];
    // Of an edit before: it is being replaced.
    if has
        .iter()
        .zip(images)
        .any(|(has, wanted)| has.as_ref() != Some(wanted))
    {
        return Pulled::Unknown;
    }
    if is_ready(pod) {
        return Pulled::Done;
    }
    match diagnose(pod, now) {
        Some(cause) if is_final(pod, &cause, now) => Pulled::Failing(failure(&cause)),
        _ => Pulled::Unknown,
    }
}

/// The controller's leader, as it describes itself.
struct Leader {
    epoch: i64,
    address: String,
    started: Option<Timestamp>,
}

impl Leader {
    /// What a replica that is gone once wrote does not count.
    fn find(controllers: &[ControllerInfo], pods: &[Pod]) -> Option<Self> {
        controllers
            .iter()
            .filter_map(|info| {
                let status = info.status.as_ref().filter(|status| status.leader)?;
                let pod = pods.iter().find(|pod| {
                    pod.name_any() == info.name_any() && pod.metadata.deletion_timestamp.is_none()
                })?;
                Some(Self {
                    epoch: status.epoch,
                    address: status.address.clone(),
                    started: pod.creation_timestamp().map(|Time(time)| time),
                })
            })
            .max_by_key(|leader| leader.epoch)
    }
}

/// What the agent says. What was written by the pod before this one counts for nothing but its
/// stream, which this one opens anew and then reports.
fn told(info: &AgentInfo, pod: Option<&PodView>, leader: Option<&Leader>) -> Told {
    let Some(status) = &info.status else {
        return Told::default();
    };
    let by_this = pod.is_some_and(|pod| pod.name == status.pod);
    // Agents before this field say nothing of their pod.
    if !by_this && !status.pod.is_empty() {
        return Told::default();
    }
    let said = condition(info, agentinfo::condition::PEERS_REACHABLE).filter(|_| by_this);
    let peers = match said {
        Some("True") => Some(true),
        Some("False") => Some(false),
        _ => None,
    };
    let connected = condition(info, agentinfo::condition::CONTROLLER_CONNECTED) == Some("True");
    let reconnected = status
        .controller
        .as_ref()
        .zip(leader)
        .is_some_and(|(stream, leader)| {
            // The leader's epoch is higher than every one before it. Where it had to be raised while
            // streams stood, these keep their number until something changes.
            let since = stream.since.as_ref().map(|time| time.0);
            stream.epoch >= leader.epoch
                || (stream.address == leader.address && since >= leader.started)
        });
    Told {
        peers,
        connected,
        reconnected: connected && reconnected,
    }
}

/// The controller. `target` is its Deployment as the spec has it: failing pods of another template
/// say nothing about it.
pub fn controller(
    seen: &Seen<'_>,
    effective: &Effective,
    target: Option<&Object>,
) -> ControllerView {
    let deployment = seen.running.controller.as_ref();
    let pods = seen
        .running
        .pods
        .iter()
        .filter(|pod| pod.labels().get(NAME).map(String::as_str) == Some(object::CONTROLLER));
    let causes: Vec<(&Pod, Cause)> = pods
        .filter_map(|pod| Some((pod, diagnose(pod, seen.now)?)))
        .collect();
    ControllerView {
        rolled_out: deployment.is_some_and(|deployment| {
            let possible = seen
                .facts
                .nodes
                .iter()
                .filter(|node| {
                    let selector = effective.controller.placement.node_selector.as_ref();
                    node.is_linux()
                        && node.reach == Reach::Reachable
                        && selector.is_none_or(|selector| node.matches(selector))
                })
                .count();
            rolled_out(deployment, possible)
        }),
        failing: causes
            .iter()
            .filter(|(pod, _)| target.is_some_and(|target| is_of(pod, target)))
            .find(|(pod, cause)| is_final(pod, cause, seen.now))
            .map(|(_, cause)| failure(cause)),
        words: causes
            .first()
            .map(|(_, cause)| cause.sentence())
            .unwrap_or_default(),
    }
}

/// No replica has an older template, and as many are ready as `possible` nodes can hold: they share
/// host ports, so one whose node is away waits.
fn rolled_out(deployment: &Deployment, possible: usize) -> bool {
    let Some(status) = &deployment.status else {
        return false;
    };
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let possible = i32::try_from(possible).unwrap_or(i32::MAX).max(1);
    let updated = status.updated_replicas.unwrap_or(0);
    status.observed_generation >= deployment.metadata.generation
        && updated >= wanted.min(possible)
        && updated >= status.replicas.unwrap_or(0)
        && status.ready_replicas.unwrap_or(0) >= wanted.min(possible)
}

/// Whether a pod looks like one of this workload's template: image and configuration.
fn is_of(pod: &Pod, workload: &Object) -> bool {
    let body = &workload.body;
    let image = body
        .pointer("/spec/template/spec/containers/0/image")
        .and_then(Value::as_str);
    let config = body
        .pointer("/spec/template/metadata/annotations")
        .and_then(|annotations| annotations.get(CONFIG_HASH))
        .and_then(Value::as_str);
    let has = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers.first()?.image.as_deref());
    has == image && annotation(&pod.metadata, CONFIG_HASH) == config
}
