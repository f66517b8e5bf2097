//! A kube-apiserver with the chart's objects, an operator with the chart's permissions, and nobody
//! else: no controller manager, no kubelet. Tests play their part.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod rollout;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use carrick_operator::{Args, operate};
use carrick_testkit::apiserver::ApiServer;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub const NAMESPACE: &str = "carrick-system";
pub const DEADLINE: Duration = Duration::from_mins(1);
pub const POLL: Duration = Duration::from_millis(200);
/// One API server at a time: each takes 300 MB.
static ONE: Mutex<()> = Mutex::const_new(());

pub struct Bed {
    pub server: ApiServer,
    pub operator: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
    _one: MutexGuard<'static, ()>,
}

fn chart() -> String {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/carrick");
    let output = Command::new(carrick_testkit::helm().unwrap())
        .args([
            "template",
            "carrick",
            "--namespace",
            NAMESPACE,
            "--kube-version",
            "1.34.0",
        ])
        .args(["--no-hooks", "--set", "namespace.create=true"])
        .args(["--set", "kubeProxy.mayDisable=true"])
        .arg(chart)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub async fn config(server: &ApiServer, headers: &[(&str, &str)]) -> Config {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .unwrap();
    config.headers = headers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    config
}

impl Bed {
    /// An API server with the chart's objects and `nodes` nodes, and no operator yet.
    pub async fn start(nodes: &[(&str, &str)]) -> Self {
        let one = ONE.lock().await;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = ApiServer::start().unwrap();
        let manifests = chart();
        // Helm puts the namespace first; server-side apply needs it there before its contents.
        server.kubectl(&["create", "namespace", NAMESPACE]).unwrap();
        server
            .kubectl_with_input(&["apply", "--server-side", "-f", "-"], &manifests)
            .unwrap();
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/carrick/crds");
        server
            .kubectl(&[
                "apply",
                "--server-side",
                "--field-manager=helm",
                "-f",
                crds.to_str().unwrap(),
            ])
            .unwrap();
        for (name, cidr) in nodes {
            let node = json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
                "spec": {"podCIDR": cidr, "podCIDRs": [cidr],
                    "taints": [{"key": "carrick.dev/agent-not-ready", "effect": "NoSchedule"}]}});
            server
                .kubectl_with_input(&["create", "-f", "-"], &node.to_string())
                .unwrap();
        }
        Self {
            server,
            operator: None,
            _one: one,
        }
    }

    pub async fn start_operator(&mut self) {
        self.operator = Some(self.operator("operator-1", 0).await);
    }

    pub async fn operator(
        &self,
        identity: &str,
        port: u16,
    ) -> (CancellationToken, JoinHandle<anyhow::Result<()>>) {
        let user = format!("system:serviceaccount:{NAMESPACE}:carrick-operator");
        let config = config(
            &self.server,
            &[
                ("Impersonate-User", user.as_str()),
                ("Impersonate-Group", "system:serviceaccounts"),
                ("Impersonate-Group", "system:authenticated"),
            ],
        )
        .await;
        let token = CancellationToken::new();
        let args = Args {
            log_level: "info".into(),
            log_format: carrick_k8s::telemetry::Format::Text,
            namespace: Some(NAMESPACE.into()),
            identity: identity.into(),
            carrick_image: "localhost/carrick:0.1.0".into(),
            carrick_ovs_image: "localhost/carrick-ovs:0.1.0".into(),
            pull_secrets: Vec::new(),
            http: Some(std::net::SocketAddr::from(([127, 0, 0, 1], port))),
            command: None,
        };
        let task = tokio::spawn(operate(args, config, token.clone()));
        (token, task)
    }

    /// Ends the operator as SIGKILL would: between two instructions.
    pub fn kill_operator(&mut self) {
        if let Some((token, task)) = self.operator.take() {
            task.abort();
            // What is left of its process: the elector gives the Lease up.
            token.cancel();
        }
    }

    pub async fn stop_operator(&mut self) {
        if let Some((token, task)) = self.operator.take() {
            token.cancel();
            tokio::time::timeout(DEADLINE, task)
                .await
                .unwrap()
                .unwrap()
                .unwrap();
        }
    }

    pub fn apply(&self, spec: &Value) -> anyhow::Result<String> {
        self.apply_named("default", spec)
    }

    pub fn apply_named(&self, name: &str, spec: &Value) -> anyhow::Result<String> {
        let object = json!({"apiVersion": "carrick.dev/v1alpha1", "kind": "Networking",
            "metadata": {"name": name}, "spec": spec});
        self.server.kubectl_with_input(
            &[
                "apply",
                "--server-side",
                "--field-manager=person",
                "--force-conflicts",
                "--validate=strict",
                "-f",
                "-",
            ],
            &object.to_string(),
        )
    }

    pub fn get(&self, what: &[&str]) -> Option<Value> {
        let mut args = vec![
            "-n",
            NAMESPACE,
            "get",
            "-o",
            "json",
            "--ignore-not-found",
            "--show-managed-fields=true",
        ];
        args.extend(what);
        let text = self.server.kubectl(&args).unwrap();
        (!text.trim().is_empty()).then(|| serde_json::from_str(&text).unwrap())
    }

    pub fn networking(&self) -> Value {
        self.get(&["networking", "default"]).unwrap()
    }

    pub fn condition(&self, type_: &str) -> Value {
        let networking = self.get(&["networking", "default"]).unwrap_or_default();
        let generation = networking["metadata"]["generation"].clone();
        let conditions = networking["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions
            .into_iter()
            .find(|c| c["type"] == type_ && c["observedGeneration"] == generation)
            .unwrap_or_default()
    }

    pub async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds() {
            let status = self
                .get(&["networking", "default"])
                .map(|n| n["status"].clone());
            assert!(
                Instant::now() < end,
                "not within {DEADLINE:?}: {what}\n{status:#?}"
            );
            if let Some((_, task)) = &self.operator {
                assert!(
                    !task.is_finished(),
                    "the operator ended while waiting for: {what}"
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn until_condition(&self, type_: &str, status: &str, reason: &str) -> String {
        self.until(&format!("{type_}={status} {reason}"), || {
            let condition = self.condition(type_);
            condition["status"] == status && condition["reason"] == reason
        })
        .await;
        self.condition(type_)["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Plays DaemonSet and Deployment controllers and kubelets: every node has a ready pod of
    /// each part.
    pub fn play_ready(&self, nodes: &[&str]) {
        let count = nodes.len();
        for set in ["carrick-ovs", "carrick-agent"] {
            let generation =
                self.get(&["daemonset", set]).unwrap()["metadata"]["generation"].clone();
            let status = json!({"status": {"observedGeneration": generation, "desiredNumberScheduled": count,
                "currentNumberScheduled": count, "numberMisscheduled": 0, "updatedNumberScheduled": count,
                "numberReady": count, "numberAvailable": count}});
            self.patch_status(&["daemonset", set], &status);
            for node in nodes {
                self.play_pod(set, node);
            }
        }
        let deployment = self.get(&["deployment", "carrick-controller"]).unwrap();
        let replicas = deployment["spec"]["replicas"].clone();
        let status = json!({"status": {"observedGeneration": deployment["metadata"]["generation"],
            "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas}});
        self.patch_status(&["deployment", "carrick-controller"], &status);
        self.play_pod("carrick-controller", nodes[0]);
    }

    pub fn patch_status(&self, what: &[&str], status: &Value) {
        let text = status.to_string();
        let mut args = vec![
            "-n",
            NAMESPACE,
            "patch",
            "--subresource=status",
            "--type=merge",
            "-p",
            &text,
        ];
        args.extend(what);
        self.server.kubectl(&args).unwrap();
    }

    pub fn play_pod(&self, part: &str, node: &str) {
        let name = format!("{part}-{node}");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/name": part, "app.kubernetes.io/managed-by": "carrick-operator"}},
            "spec": {"nodeName": node, "hostNetwork": true, "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "localhost/carrick:0.1.0"}]}});
        if self.get(&["pod", &name]).is_none() {
            self.server
                .kubectl_with_input(&["create", "-f", "-"], &pod.to_string())
                .unwrap();
        }
        let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        self.patch_status(&["pod", &name], &status);
    }

    /// Plays an agent's report.
    pub fn play_agent(&self, node: &str, condition: &str, status: &str, message: &str) {
        if self.get(&["agentinfo", node]).is_none() {
            let info = json!({"apiVersion": "carrick.dev/v1alpha1", "kind": "AgentInfo",
                "metadata": {"name": node}, "spec": {}});
            self.server
                .kubectl_with_input(&["create", "-f", "-"], &info.to_string())
                .unwrap();
        }
        let status = json!({"status": {"mtu": 1450, "conditions": [{"type": condition, "status": status,
            "reason": "Test", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        self.patch_status(&["agentinfo", node], &status);
    }

    /// Plays the garbage collector: what is being deleted in the foreground goes.
    pub fn play_collector(&self, what: &[&str]) -> bool {
        let Some(object) = self.get(what) else {
            return true;
        };
        if object["metadata"]["deletionTimestamp"].is_string() {
            let mut args = vec![
                "-n",
                NAMESPACE,
                "patch",
                "--type=merge",
                "-p",
                r#"{"metadata":{"finalizers":null}}"#,
            ];
            args.extend(what);
            self.server.kubectl(&args).unwrap();
            return true;
        }
        false
    }

    pub fn versions(&self) -> BTreeMap<String, String> {
        let kinds = "serviceaccount,clusterrole,clusterrolebinding,role,rolebinding,validatingadmissionpolicy,\
                     validatingadmissionpolicybinding,configmap,service,deployment,daemonset";
        let Some(list) = self.get(&[kinds, "-l", "app.kubernetes.io/managed-by=carrick-operator"])
        else {
            return BTreeMap::new();
        };
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| {
                let name = format!("{} {}", item["kind"], item["metadata"]["name"]);
                (name, item["metadata"]["resourceVersion"].to_string())
            })
            .collect()
    }
}
