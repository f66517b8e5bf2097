//! The DaemonSet and Deployment controllers, the kubelets and the agents of a cluster, played turn
//! by turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Bed, NAMESPACE, config};

const LIMIT: Duration = Duration::from_secs(150);
const TURN: Duration = Duration::from_millis(100);
const NAME: &str = "app.kubernetes.io/name";
const REVISION: &str = "controller-revision-hash";

/// What goes wrong with pods of a template that is not the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Well,
    NoImage(&'static str),
    AgentCrashes(&'static str),
    PeersSilent(&'static str),
}

pub struct Stage {
    pub bed: Bed,
    /// What restarted, in order.
    pub restarted: Vec<String>,
    /// The most agents that were away at one time.
    pub most_away: usize,
    client: Client,
    nodes: Vec<&'static str>,
    behaviour: Behaviour,
    held: Option<&'static str>,
    away: BTreeSet<String>,
    count: u32,
    /// By DaemonSet: its templates in order of their first appearance.
    templates: BTreeMap<String, Vec<String>>,
    newest: BTreeMap<String, (usize, i64)>,
    replicas: Vec<String>,
    epoch: i64,
    told: BTreeMap<String, Value>,
    /// Agents say that they serve Services.
    pub serve: bool,
    /// Pods of kube-proxy do not become ready.
    pub kube_proxy_fails: bool,
    /// What kube-proxy's DaemonSet was last: disabled or not, ready or not, and its generation. What somebody sets
    /// back and the operator disables again between two looks shows in that alone.
    kube_proxy: Option<(bool, bool, Option<i64>)>,
}

impl Stage {
    pub async fn start(nodes: &[&'static str]) -> Self {
        let cidrs: Vec<String> = (0..nodes.len())
            .map(|n| format!("10.244.{n}.0/24"))
            .collect();
        let all: Vec<(&str, &str)> = nodes
            .iter()
            .zip(&cidrs)
            .map(|(&node, cidr)| (node, cidr.as_str()))
            .collect();
        let bed = Bed::start(&all).await;
        let client = Client::try_from(config(&bed.server, &[]).await).unwrap();
        Self {
            bed,
            restarted: Vec::new(),
            most_away: 0,
            client,
            nodes: nodes.to_vec(),
            behaviour: Behaviour::Well,
            held: None,
            away: BTreeSet::new(),
            count: 0,
            templates: BTreeMap::new(),
            newest: BTreeMap::new(),
            replicas: Vec::new(),
            epoch: 0,
            told: BTreeMap::new(),
            serve: false,
            kube_proxy_fails: false,
            kube_proxy: None,
        }
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub fn behave(&mut self, behaviour: Behaviour) {
        self.behaviour = behaviour;
    }

    /// The pod of this restart does not come back until [`Stage::release`].
    pub fn hold_after(&mut self, restart: &'static str) {
        self.held = Some(restart);
    }

    pub fn release(&mut self) {
        self.held = None;
    }

    pub fn unreachable(&self, node: &str, unreachable: bool) {
        let word = if unreachable { "Unknown" } else { "True" };
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": word}]}});
        self.bed.patch_status(&["node", node], &status);
    }

    pub fn events(&self) -> String {
        self.bed
            .server
            .kubectl(&["get", "events.events.k8s.io", "-A", "-o", "json"])
            .unwrap()
    }

    pub async fn until(&mut self, what: &str, holds: impl Fn(&Self, &Value) -> bool) -> Value {
        let end = Instant::now() + LIMIT;
        let api: Api<carrick_api::Networking> = Api::all(self.client.clone());
        loop {
            self.turn().await;
            let networking = api.get("default").await.unwrap();
            let networking = serde_json::to_value(&networking).unwrap();
            if holds(self, &networking) {
                return networking["status"]["rollout"].clone();
            }
            assert!(
                Instant::now() < end,
                "not within {LIMIT:?}: {what}\n{:?}\n{:#}",
                self.restarted,
                networking["status"]
            );
            tokio::time::sleep(TURN).await;
        }
    }

    /// Plays until the rollout of the spec as it is now is in this phase; its message.
    pub async fn until_phase(&mut self, phase: &str) -> String {
        let rollout = self
            .until(phase, |_, networking| {
                let status = &networking["status"];
                status["observedGeneration"] == networking["metadata"]["generation"]
                    && status["rollout"]["phase"] == phase
            })
            .await;
        rollout["message"].as_str().unwrap_or_default().to_owned()
    }

    pub async fn until_observed(&mut self) {
        self.until("the operator looked", |_, networking| {
            networking["status"]["observedGeneration"] == networking["metadata"]["generation"]
        })
        .await;
    }

    pub async fn until_restarted(&mut self, restart: &str) {
        self.until(restart, |stage, _| {
            stage.restarted.iter().any(|have| have == restart)
        })
        .await;
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn pods_of(&self, part: &str) -> Vec<Pod> {
        let params = ListParams::default().labels(&format!("{NAME}={part}"));
        self.pods().list(&params).await.unwrap().items
    }

    /// Everybody looks once.
    async fn turn(&mut self) {
        self.controllers().await;
        for set in ["carrick-agent", "carrick-ovs", "carrick-pre-pull"] {
            self.daemon_set(set).await;
        }
        self.kube_proxy().await;
        self.agents().await;
    }

    /// kube-proxy's DaemonSet, where there is one, has its pods at once.
    async fn kube_proxy(&mut self) {
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), "kube-system");
        let Some(set) = api.get_opt("kube-proxy").await.unwrap() else {
            return;
        };
        let value = serde_json::to_value(&set).unwrap();
        let selector = &value["spec"]["template"]["spec"]["nodeSelector"];
        let disabled = !selector["carrick.dev/kube-proxy-disabled"].is_null();
        let desired = if disabled { 0 } else { self.nodes.len() };
        let ready = if self.kube_proxy_fails { 0 } else { desired };
        let now = Some((disabled, ready == desired, set.metadata.generation));
        if self.kube_proxy == now {
            return;
        }
        let what = match now {
            Some((true, ..)) => "kube-proxy off",
            Some((false, true, _)) => "kube-proxy ready",
            _ => "kube-proxy on",
        };
        self.restarted.push(what.to_owned());
        self.kube_proxy = now;
        self.kube_proxy_pods(&set, disabled, ready == desired).await;
        let status = json!({"status": {"observedGeneration": set.metadata.generation,
            "desiredNumberScheduled": desired, "currentNumberScheduled": desired, "numberMisscheduled": 0,
            "numberReady": ready}});
        api.patch_status("kube-proxy", &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    /// A pod of kube-proxy's for each node, ready for long or not at all.
    async fn kube_proxy_pods(&self, set: &DaemonSet, disabled: bool, ready: bool) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), "kube-system");
        for node in &self.nodes {
            let name = format!("kube-proxy-of-{node}");
            if disabled {
                let now = DeleteParams::default().grace_period(0);
                if api.get_opt(&name).await.unwrap().is_some() {
                    api.delete(&name, &now).await.unwrap();
                }
                continue;
            }
            let pod = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "labels": {"k8s-app": "kube-proxy"}, "ownerReferences":
                    [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "kube-proxy", "uid": set.metadata.uid}]},
                "spec": {"nodeName": node, "hostNetwork": true, "automountServiceAccountToken": false,
                    "containers": [{"name": "kube-proxy", "image": "i"}]}});
            if api.get_opt(&name).await.unwrap().is_none() {
                let pod: Pod = serde_json::from_value(pod).unwrap();
                api.create(&PostParams::default(), &pod).await.unwrap();
            }
            let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": "2020-01-01T00:00:00Z"});
            let status = json!({"status": {"phase": "Running", "conditions": [condition]}});
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
                .await
                .unwrap();
        }
    }

    async fn make_pod(&mut self, template: &Value, labels: Value, node: &str) -> String {
        self.count += 1;
        let part = template["metadata"]["labels"][NAME].as_str().unwrap();
        let name = format!("{part}-{}", self.count);
        let containers = |field: &str| -> Vec<Value> {
            let list = template["spec"][field]
                .as_array()
                .cloned()
                .unwrap_or_default();
            list.iter()
                .map(|c| json!({"name": c["name"], "image": c["image"]}))
                .collect()
        };
        let mut all = template["metadata"]["labels"].clone();
        for (key, value) in labels.as_object().unwrap() {
            all[key] = value.clone();
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": all, "annotations": template["metadata"]["annotations"]},
            "spec": {"nodeName": node, "hostNetwork": true, "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 0,
                "containers": containers("containers"), "initContainers": containers("initContainers")}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
        name
    }

    async fn pod_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        self.pods()
            .patch_status(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    async fn ready(&self, name: &str) {
        let status =
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        self.pod_status(name, status).await;
    }

    async fn fail(&self, name: &str, container: &str, reason: &str, words: &str) {
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [{"name": container, "image": "i", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": reason, "message": words}},
                "lastState": {"terminated": {"exitCode": 1, "message": words}}}]});
        self.pod_status(name, status).await;
    }

    /// One replica at a time, ready at once.
    async fn controllers(&mut self) {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), NAMESPACE);
        let Some(deployment) = api.get_opt("carrick-controller").await.unwrap() else {
            return;
        };
        let generation = deployment.metadata.generation;
        let value = serde_json::to_value(&deployment).unwrap();
        let template = value["spec"]["template"].clone();
        let wanted = usize::try_from(value["spec"]["replicas"].as_i64().unwrap()).unwrap();
        let text = template.to_string();
        let old = self.replicas.iter().position(|replica| *replica != text);
        if self.replicas.len() < wanted {
            let index = self.replicas.len();
            self.replicas.push(text.clone());
            self.replace_controller(index, &template).await;
        } else if let Some(index) = old {
            self.replicas[index].clone_from(&text);
            self.replace_controller(index, &template).await;
            self.restarted.push("controller".to_owned());
        }
        let updated = self
            .replicas
            .iter()
            .filter(|replica| **replica == text)
            .count();
        let status = json!({"status": {"observedGeneration": generation, "replicas": self.replicas.len(),
            "updatedReplicas": updated, "readyReplicas": self.replicas.len(), "availableReplicas": self.replicas.len()}});
        let params = PatchParams::default();
        api.patch_status("carrick-controller", &params, &Patch::Merge(status))
            .await
            .unwrap();
    }

    /// Its replacement leads, by a higher epoch.
    async fn replace_controller(&mut self, index: usize, template: &Value) {
        for pod in self.pods_of("carrick-controller").await {
            if pod.labels().get("replica") == Some(&index.to_string()) {
                let params = DeleteParams::default();
                self.pods().delete(&pod.name_any(), &params).await.unwrap();
            }
        }
        let labels = json!({"replica": index.to_string()});
        let node = self.nodes[index % self.nodes.len()];
        let name = self.make_pod(template, labels, node).await;
        self.ready(&name).await;
        self.epoch += 1;
        let api: Api<carrick_api::ControllerInfo> = Api::all(self.client.clone());
        let info = carrick_api::ControllerInfo::new(&name, carrick_api::ControllerInfoSpec {});
        api.create(&PostParams::default(), &info).await.unwrap();
        let status = json!({"status": {"leader": true, "epoch": self.epoch, "address": name}});
        api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    async fn daemon_set(&mut self, name: &str) {
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), NAMESPACE);
        let Some(set) = api.get_opt(name).await.unwrap() else {
            return;
        };
        if set.metadata.deletion_timestamp.is_some() {
            for pod in self.pods_of(name).await {
                let params = DeleteParams::default();
                self.pods().delete(&pod.name_any(), &params).await.unwrap();
            }
            let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            api.patch(name, &PatchParams::default(), &patch)
                .await
                .unwrap();
            self.templates.remove(name);
            self.newest.remove(name);
            return;
        }
        let template = serde_json::to_value(&set).unwrap()["spec"]["template"].clone();
        let index = self.revision(&set, &template).await;
        let hash = format!("{name}-{index}");
        let pods = self.pods_of(name).await;
        let part = match name {
            "carrick-agent" => "agent",
            "carrick-ovs" => "switch",
            _ => "pre-pull",
        };
        let missing: Vec<&str> = { self.nodes.iter().copied() }
            .filter(|&node| {
                let on = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.node_name.clone());
                !pods.iter().any(|pod| on(pod).as_deref() == Some(node))
            })
            .collect();
        let installed = usize::try_from(self.count).unwrap() > 2 * self.nodes.len();
        if part == "agent" && installed {
            self.most_away = self.most_away.max(missing.len());
        }
        if part == "pre-pull" && missing.len() == self.nodes.len() {
            self.restarted.push(part.to_owned());
        }
        for node in missing {
            let restart = format!("{part} {node}");
            if part != "pre-pull" && self.away.insert(restart.clone()) {
                self.restarted.push(restart.clone());
            }
            if self.held == Some(restart.as_str()) {
                continue;
            }
            let labels = json!({REVISION: hash});
            let pod = self.make_pod(&template, labels, node).await;
            self.away.remove(&restart);
            match self.behaviour {
                Behaviour::NoImage(bad) if bad == node && part == "pre-pull" => {
                    self.fail(&pod, "carrick", "ImagePullBackOff", "no such manifest")
                        .await;
                }
                Behaviour::AgentCrashes(bad) if bad == node && part == "agent" && index > 0 => {
                    self.fail(&pod, "agent", "CrashLoopBackOff", "no bridge br-int")
                        .await;
                }
                _ => self.ready(&pod).await,
            }
        }
        let pods = self.pods_of(name).await;
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let updated = pods
            .iter()
            .filter(|pod| pod.labels().get(REVISION) == Some(&hash));
        let status = json!({"status": {"observedGeneration": set.metadata.generation,
            "desiredNumberScheduled": self.nodes.len(), "currentNumberScheduled": pods.len(), "numberMisscheduled": 0,
            "updatedNumberScheduled": updated.count(), "numberReady": ready, "numberAvailable": ready}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    /// Keeps the history of a DaemonSet's templates as its controller does: a template that comes
    /// back gets its old hash and the highest number.
    async fn revision(&mut self, set: &DaemonSet, template: &Value) -> usize {
        let name = set.name_any();
        let text = template.to_string();
        let known = self.templates.entry(name.clone()).or_default();
        let index = known
            .iter()
            .position(|have| *have == text)
            .unwrap_or_else(|| {
                known.push(text);
                known.len() - 1
            });
        let newest = self.newest.get(&name).copied();
        if newest.is_some_and(|(have, _)| have == index) {
            return index;
        }
        let number = newest.map_or(1, |(_, number)| number + 1);
        self.newest.insert(name.clone(), (index, number));
        let mut labels = template["metadata"]["labels"].clone();
        labels[REVISION] = json!(format!("{name}-{index}"));
        let revision = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
            "metadata": {"name": format!("{name}-{index}-{}", set.uid().unwrap()), "labels": labels,
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": name, "uid": set.uid(),
                    "controller": true}]},
            "data": {"spec": {"template": template}}, "revision": number});
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), NAMESPACE);
        let params = PatchParams::apply("daemonset-controller").force();
        let object = revision["metadata"]["name"].as_str().unwrap().to_owned();
        api.patch(&object, &params, &Patch::Apply(&revision))
            .await
            .unwrap();
        index
    }

    /// Agents whose pod is ready say how they are.
    async fn agents(&mut self) {
        let api: Api<carrick_api::AgentInfo> = Api::all(self.client.clone());
        for pod in self.pods_of("carrick-agent").await {
            if !is_ready(&pod) {
                continue;
            }
            let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap();
            let first = pod
                .labels()
                .get(REVISION)
                .is_some_and(|hash| hash == "carrick-agent-0");
            let silent = matches!(self.behaviour, Behaviour::PeersSilent(bad) if bad == node);
            let peers = if silent && !first { "False" } else { "True" };
            let condition = |type_: &str, status: &str| {
                json!({"type": type_, "status": status, "reason": "Test", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            };
            let status = json!({"status": {"pod": pod.name_any(), "mtu": 1450,
                "controller": {"address": "192.0.2.1:1", "epoch": self.epoch},
                "conditions": [condition("Ready", "True"), condition("ControllerConnected", "True"),
                    condition("PeersReachable", peers),
                    condition("ServicesServed", if self.serve { "True" } else { "Unknown" })]}});
            if self.told.get(&node) == Some(&status) {
                continue;
            }
            if api.get_opt(&node).await.unwrap().is_none() {
                let info = carrick_api::AgentInfo::new(&node, carrick_api::AgentInfoSpec {});
                api.create(&PostParams::default(), &info).await.unwrap();
            }
            api.patch_status(&node, &PatchParams::default(), &Patch::Merge(&status))
                .await
                .unwrap();
            self.told.insert(node, status);
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone());
    { conditions.iter().flatten() }.any(|c| c.type_ == "Ready" && c.status == "True")
}
