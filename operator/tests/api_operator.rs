//! The operator on a real kube-apiserver, with exactly the permissions the chart gives it.
//!
//! There is no controller manager and no kubelet here: tests play their part (pods, workload
//! status, garbage collection).

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

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

const NAMESPACE: &str = "carrick-system";
const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(200);
/// One API server at a time: each takes 300 MB.
static ONE: Mutex<()> = Mutex::const_new(());

struct Bed {
    server: ApiServer,
    operator: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
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

async fn config(server: &ApiServer, headers: &[(&str, &str)]) -> Config {
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
    async fn start(nodes: &[(&str, &str)]) -> Self {
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

    async fn start_operator(&mut self) {
        self.operator = Some(self.operator("operator-1", 0).await);
    }

    async fn operator(
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

    async fn stop_operator(&mut self) {
        if let Some((token, task)) = self.operator.take() {
            token.cancel();
            tokio::time::timeout(DEADLINE, task)
                .await
                .unwrap()
                .unwrap()
                .unwrap();
        }
    }

    fn apply(&self, spec: &Value) -> anyhow::Result<String> {
        self.apply_named("default", spec)
    }

    fn apply_named(&self, name: &str, spec: &Value) -> anyhow::Result<String> {
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

    fn get(&self, what: &[&str]) -> Option<Value> {
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

    fn networking(&self) -> Value {
        self.get(&["networking", "default"]).unwrap()
    }

    fn condition(&self, type_: &str) -> Value {
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

    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
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

    async fn until_condition(&self, type_: &str, status: &str, reason: &str) -> String {
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
    fn play_ready(&self, nodes: &[&str]) {
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

    fn patch_status(&self, what: &[&str], status: &Value) {
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

    fn play_pod(&self, part: &str, node: &str) {
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
    fn play_agent(&self, node: &str, condition: &str, status: &str, message: &str) {
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
    fn play_collector(&self, what: &[&str]) -> bool {
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

    fn versions(&self) -> BTreeMap<String, String> {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_networking_becomes_a_network_in_an_empty_cluster() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24"), ("node2", "10.244.1.0/24")]).await;
    bed.apply(&json!({})).unwrap();
    assert_eq!(
        bed.networking()["status"]["observedGeneration"],
        -1,
        "nobody looked yet"
    );
    bed.start_operator().await;

    bed.until_condition("Ready", "False", "Progressing").await;
    for operand in [
        ["deployment", "carrick-controller"],
        ["daemonset", "carrick-agent"],
        ["daemonset", "carrick-ovs"],
        ["service", "carrick-controller"],
        ["configmap", "carrick-config"],
        ["validatingadmissionpolicy", "carrick-agentinfo-by-its-node"],
        ["secret", "carrick-controller-tls"],
    ] {
        bed.until(&format!("{operand:?} exists"), || {
            bed.get(&operand).is_some()
        })
        .await;
    }
    let config = bed.get(&["configmap", "carrick-config"]).unwrap();
    let config: Value =
        serde_json::from_str(config["data"]["config.json"].as_str().unwrap()).unwrap();
    assert!(
        !config["serviceCidrs"].as_array().unwrap().is_empty(),
        "read from ServiceCIDR: {config}"
    );
    let networking = bed.networking();
    assert_eq!(
        networking["status"]["effective"]["traffic"]["mode"],
        "Encap"
    );
    assert_eq!(networking["status"]["provider"]["detected"], "Generic");
    assert_eq!(
        networking["spec"],
        json!({}),
        "defaults are not written into the spec"
    );

    bed.play_ready(&["node1", "node2"]);
    bed.until_condition("Ready", "True", "Ready").await;
    let networking = bed.networking();
    assert_eq!(networking["status"]["nodes"]["summary"], "2/2");
    assert_eq!(
        networking["status"]["versions"]["running"]["agent"],
        "0.1.0 (2)"
    );

    // A restart of the operator changes nothing.
    let before = bed.versions();
    assert_eq!(before.len(), 19, "{before:#?}");
    bed.stop_operator().await;
    bed.start_operator().await;
    let seen = bed.networking()["metadata"]["resourceVersion"].clone();
    bed.server
        .kubectl(&["annotate", "networking", "default", "look=again"])
        .unwrap();
    bed.apply(&json!({"observability": {"logLevel": "info"}}))
        .unwrap();
    bed.until_condition("Ready", "True", "Ready").await;
    assert_ne!(bed.networking()["metadata"]["resourceVersion"], seen);
    assert_eq!(bed.versions(), before);
    bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_object_can_tell_is_refused_by_the_api_server() {
    let bed = Bed::start(&[]).await;
    let refused = |name: &str, spec: Value, words: &str| {
        let error = format!("{:#}", bed.apply_named(name, &spec).unwrap_err());
        assert!(error.contains(words), "{spec}: {error}");
    };
    refused("second", json!({}), "name it \"default\"");
    refused(
        "default",
        json!({"traffic": {"mode": "Carrier"}}),
        "supported values: \"Encap\"",
    );
    for (traffic, words) in [
        (
            json!({"tunnel": {"protocol": "STT"}}),
            "no longer in Open vSwitch for Linux: choose Geneve, VXLAN or GRE",
        ),
        (
            json!({"tunnel": {"protocol": "IPIP"}}),
            "protocol is Geneve, VXLAN or GRE",
        ),
        (
            json!({"tunnel": {"protocol": "GRE", "port": 4789}}),
            "choose Geneve or VXLAN",
        ),
        (
            json!({"mode": "NoEncap", "tunnel": {"protocol": "VXLAN"}}),
            "choose Encap or Hybrid",
        ),
        (
            json!({"transport": {"cidrs": ["192.0.2.0"]}}),
            "ranges such as 192.0.2.0/24",
        ),
    ] {
        refused("default", json!({"traffic": traffic}), words);
    }
    refused("default", json!({"traffic": {"mtu": 100}}), "at least 576");
    refused(
        "default",
        json!({"datapath": {"type": "Userspace"}}),
        "needs traffic.transport.interface",
    );
    refused(
        "default",
        json!({"apiServer": {"host": "a"}}),
        "go together",
    );
    refused(
        "default",
        json!({"images": {"digests": {"other": format!("sha256:{}", "0".repeat(64))}}}),
        "knows the images",
    );
    refused(
        "default",
        json!({"serviceProxy": {"mode": "Full"}}),
        "field not declared in schema",
    );
    refused(
        "default",
        json!({"controller": {"replicas": 0}}),
        "greater than or equal to 1",
    );
    refused(
        "default",
        json!({"hostFirewall": "Open"}),
        "supported values: \"Report\"",
    );
    let own = |rest: Value| {
        let mut entry = json!({"name": "gpu", "nodeSelector": {"matchLabels": {"pool": "gpu"}}});
        for (key, value) in rest.as_object().unwrap() {
            entry[key] = value.clone();
        }
        entry
    };
    let expression = |operator: &str, values: Value| json!({"nodeSelector": {"matchExpressions": [{"key": "pool", "operator": operator, "values": values}]}});
    for (configs, words) in [
        (
            json!([own(json!({})), own(json!({"nodeSelector": {}}))]),
            "names in nodeConfigs are unique",
        ),
        (
            json!([own(json!({"datapath": {"type": "Userspace"}}))]),
            "needs traffic.transport.interface, there or for the whole network",
        ),
        (
            json!([own(expression("In", json!([])))]),
            "values go with the operators In and NotIn",
        ),
        (
            json!([own(expression("Exists", json!(["a"])))]),
            "values go with the operators In and NotIn",
        ),
        (
            json!([own(json!({"traffic": {"mtu": 1400}}))]),
            "field not declared in schema",
        ),
    ] {
        refused("default", json!({"nodeConfigs": configs}), words);
    }
    let ipam = |mode: &str, list: Value| json!({"ipam": {"mode": mode, "nodeIPAM": {"clusterCIDRs": list}}});
    for (spec, words) in [
        (
            json!({"ipam": {"mode": "NodeIPAM"}}),
            "needs ipam.nodeIPAM.clusterCIDRs",
        ),
        (
            ipam("NodeIPAM", json!([])),
            "needs ipam.nodeIPAM.clusterCIDRs",
        ),
        (
            ipam("NodeCIDR", json!(["10.1.0.0/16"])),
            "acts in ipam.mode NodeIPAM only",
        ),
        (
            ipam("NodeIPAM", json!(["10.1.0.1/16"])),
            "CIDR without host bits",
        ),
        (
            ipam("NodeIPAM", json!(["10.1.0.0"])),
            "CIDR without host bits",
        ),
        (
            ipam("NodeIPAM", json!(vec!["10.1.0.0/16"; 9])),
            "must have at most 8 items",
        ),
        (
            json!({"ipam": {"nodeIPAM": {"nodeMaskSizeIPv4": 29}}}),
            "less than or equal to 28",
        ),
    ] {
        refused("default", spec, words);
    }
    bed.apply(&ipam("NodeIPAM", json!(["10.1.0.0/16", "fd00:1::/48"])))
        .unwrap();
    bed.apply(
        &json!({"datapath": {"type": "Userspace"}, "traffic": {"transport": {"interface": "eth1"}},
        "apiServer": {"host": "fd00::1", "port": 6443}}),
    )
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_cidrs_can_be_added_and_those_that_nodes_use_stay() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24")]).await;
    let spec =
        |list: Value| json!({"ipam": {"mode": "NodeIPAM", "nodeIPAM": {"clusterCIDRs": list}}});
    bed.apply(&spec(json!(["10.96.0.0/12"]))).unwrap();
    bed.start_operator().await;
    let message = bed.until_condition("Stalled", "True", "InvalidSpec").await;
    assert!(message.contains("overlaps the Service range"), "{message}");

    bed.apply(&spec(json!(["10.244.0.0/16"]))).unwrap();
    bed.until("the last operand", || {
        bed.get(&["daemonset", "carrick-ovs"]).is_some()
    })
    .await;
    bed.play_ready(&["node1"]);
    bed.play_agent("node1", "Ready", "True", "");
    bed.until_condition("Ready", "True", "Ready").await;
    let can = |verb: &str, what: &str| {
        let controller = format!("--as=system:serviceaccount:{NAMESPACE}:carrick-controller");
        let ask = ["auth", "can-i", verb, what, "-n", NAMESPACE, &controller];
        bed.server.kubectl(&ask).is_ok()
    };
    assert!(can("patch", "nodes") && can("update", "leases/carrick-node-ipam"));
    assert!(!can("update", "nodes") && !can("update", "leases/carrick-operator"));

    // Another list restarts the controller and no agent.
    let template = |what: &[&str]| bed.get(what).unwrap()["spec"]["template"].clone();
    let agent = template(&["daemonset", "carrick-agent"]);
    let controller = template(&["deployment", "carrick-controller"]);
    bed.apply(&spec(json!(["10.244.0.0/16", "10.9.0.0/16"])))
        .unwrap();
    bed.until("the controller has the new list", || {
        template(&["deployment", "carrick-controller"]) != controller
    })
    .await;
    assert_eq!(template(&["daemonset", "carrick-agent"]), agent);
    bed.apply(&spec(json!(["10.9.0.0/16"]))).unwrap();
    let message = bed.until_condition("Stalled", "True", "UnsafeChange").await;
    for part in ["10.244.0.0/24 of node node1", "put 10.244.0.0/16 back"] {
        assert!(message.contains(part), "{message}");
    }
    bed.apply(&json!({})).unwrap();
    let message = bed.until_condition("Stalled", "True", "UnsafeChange").await;
    assert!(
        message.contains("NodeIPAM cannot become NodeCIDR"),
        "{message}"
    );
    bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_add_goes_and_is_only_reported_while_paused() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24")]).await;
    bed.apply(&json!({})).unwrap();
    bed.start_operator().await;
    bed.until("the last operand", || {
        bed.get(&["daemonset", "carrick-ovs"]).is_some()
    })
    .await;

    let meddle = r#"{"spec":{"template":{"spec":{"containers":[{"name":"spy","image":"spy"},{"name":"agent","env":[{"name":"EVIL","value":"1"}]}],"hostPID":true}}}}"#;
    bed.server
        .kubectl(&[
            "-n",
            NAMESPACE,
            "patch",
            "daemonset",
            "carrick-agent",
            "-p",
            meddle,
        ])
        .unwrap();
    bed.server
        .kubectl(&[
            "-n",
            NAMESPACE,
            "patch",
            "configmap",
            "carrick-config",
            "--type=merge",
            "-p",
            r#"{"data":{"more":"x"}}"#,
        ])
        .unwrap();
    bed.server
        .kubectl(&["-n", NAMESPACE, "delete", "service", "carrick-controller"])
        .unwrap();
    bed.server
        .kubectl(&["-n", NAMESPACE, "create", "configmap", "stray"])
        .unwrap();
    bed.server
        .kubectl(&[
            "-n",
            NAMESPACE,
            "label",
            "configmap",
            "stray",
            "app.kubernetes.io/managed-by=carrick-operator",
        ])
        .unwrap();
    bed.until("the sidecar, the variable and hostPID go", || {
        let set = bed.get(&["daemonset", "carrick-agent"]).unwrap();
        let spec = &set["spec"]["template"]["spec"];
        spec["containers"].as_array().unwrap().len() == 1
            && spec["hostPID"].is_null()
            && !spec.to_string().contains("EVIL")
    })
    .await;
    bed.until("the key goes", || {
        bed.get(&["configmap", "carrick-config"]).unwrap()["data"]
            .as_object()
            .unwrap()
            .len()
            == 1
    })
    .await;
    bed.until("the Service comes back", || {
        bed.get(&["service", "carrick-controller"]).is_some()
    })
    .await;
    bed.until("the stray goes", || {
        bed.get(&["configmap", "stray"]).is_none()
    })
    .await;
    let restart = r#"{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"now"}}}}}"#;
    bed.server
        .kubectl(&[
            "-n",
            NAMESPACE,
            "patch",
            "daemonset",
            "carrick-agent",
            "-p",
            restart,
        ])
        .unwrap();

    bed.apply(&json!({"management": "Paused"})).unwrap();
    bed.until_condition("Ready", "False", "Paused").await;
    let set = bed.get(&["daemonset", "carrick-agent"]).unwrap();
    assert!(
        set.to_string().contains("restartedAt"),
        "a restart by kubectl is a wish, not drift"
    );
    bed.server
        .kubectl(&[
            "-n",
            NAMESPACE,
            "patch",
            "daemonset",
            "carrick-agent",
            "-p",
            meddle,
        ])
        .unwrap();
    bed.apply(&json!({"management": "Paused", "observability": {"logLevel": "debug"}}))
        .unwrap();
    bed.until("the plan tells of both", || {
        let plan = bed.networking()["status"]["plan"].to_string();
        plan.contains("containers/0")
            && plan.contains("kubectl")
            && plan.contains("update ConfigMap carrick-config")
    })
    .await;
    assert!(
        bed.get(&["daemonset", "carrick-agent"])
            .unwrap()
            .to_string()
            .contains("EVIL"),
        "nothing is changed"
    );
    bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsafe_change_is_refused_and_the_running_network_stays() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24"), ("node2", "fd00:1::/64")]).await;
    bed.apply(&json!({})).unwrap();
    bed.start_operator().await;
    bed.until("the last operand", || {
        bed.get(&["daemonset", "carrick-ovs"]).is_some()
    })
    .await;
    bed.play_ready(&["node1", "node2"]);
    bed.play_agent("node1", "Ready", "True", "");
    bed.until_condition("Ready", "True", "Ready").await;
    let before = bed.versions();

    bed.apply(&json!({"traffic": {"mtu": 1400}, "observability": {"logLevel": "debug"}}))
        .unwrap();
    let message = bed.until_condition("Stalled", "True", "UnsafeChange").await;
    assert!(
        message.contains("spec.traffic.mtu") && message.contains("To mend it"),
        "{message}"
    );
    assert_eq!(bed.versions(), before, "nothing is applied");
    assert_eq!(bed.condition("Available")["status"], "True");

    bed.apply(&json!({"traffic": {"mtu": 1279}})).unwrap();
    let message = bed.until_condition("Stalled", "True", "InvalidSpec").await;
    assert!(
        message.contains("1280") && message.contains("IPv6"),
        "{message}"
    );

    bed.apply(&json!({"provider": "Kind"})).unwrap();
    let message = bed.until_condition("Stalled", "True", "InvalidSpec").await;
    assert!(message.contains("spec.provider"), "{message}");

    bed.apply(&json!({"apiServer": {"host": "127.0.0.1", "port": 1}}))
        .unwrap();
    let message = bed.until_condition("Stalled", "True", "InvalidSpec").await;
    assert!(
        message.contains("no API server answers at 127.0.0.1:1"),
        "{message}"
    );
    assert_eq!(bed.versions(), before, "nothing is applied");

    // Even while it is refused, the network that runs is kept as it is.
    bed.server
        .kubectl(&["-n", NAMESPACE, "delete", "service", "carrick-controller"])
        .unwrap();
    bed.until("the Service comes back", || {
        bed.get(&["service", "carrick-controller"]).is_some()
    })
    .await;

    bed.apply(&json!({})).unwrap();
    bed.until_condition("Ready", "True", "Ready").await;
    bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_goes_node_by_node_and_leaves_nothing() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24"), ("node2", "10.244.1.0/24")]).await;
    bed.apply(&json!({})).unwrap();
    bed.start_operator().await;
    bed.until("the last operand", || {
        bed.get(&["daemonset", "carrick-ovs"]).is_some()
    })
    .await;
    bed.play_ready(&["node1", "node2"]);
    for node in ["node1", "node2"] {
        bed.play_agent(node, "Ready", "True", "");
    }
    bed.until_condition("Ready", "True", "Ready").await;
    let user = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"nodeName": "node1", "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}});
    bed.server
        .kubectl_with_input(&["create", "-f", "-"], &user.to_string())
        .unwrap();
    // What the controller's election leaves.
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "carrick-controller", "namespace": NAMESPACE}});
    bed.server
        .kubectl_with_input(&["create", "-f", "-"], &lease.to_string())
        .unwrap();

    // The chart's hook fails with the sentence that mends it.
    let admin = kube::Client::try_from(config(&bed.server, &[]).await).unwrap();
    let hook = carrick_operator::remove_network::RemoveNetwork { timeout: 10 };
    let error = carrick_operator::remove_network::run(&hook, admin.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("default/web") && error.contains("pods-lose-network"),
        "{error}"
    );
    bed.until_condition("Stalled", "True", "PodsUseNetwork")
        .await;
    let args = |bed: &Bed| {
        bed.get(&["daemonset", "carrick-agent"]).unwrap()["spec"]["template"]["spec"]["containers"]
            [0]["args"]
            .clone()
    };
    assert_eq!(args(&bed), json!(["agent"]), "the network works on");

    bed.apply(&json!({"acknowledge": ["pods-lose-network"]}))
        .unwrap();
    bed.until("the agents clean", || {
        args(&bed) == json!(["agent", "cleanup"])
    })
    .await;
    bed.play_agent("node1", "Cleaned", "True", "");
    bed.play_agent("node2", "Cleaned", "False", "br-int is busy");
    let message = bed
        .until_condition("Stalled", "True", "NodesNotClean")
        .await;
    assert!(
        message.contains("1 of 2 nodes are clean") && message.contains("br-int is busy"),
        "{message}"
    );
    assert!(
        bed.get(&["daemonset", "carrick-ovs"]).is_some(),
        "the switch stays until every node is clean"
    );

    bed.play_agent("node2", "Cleaned", "True", "");
    bed.until("the switches go", || {
        bed.play_collector(&["daemonset", "carrick-ovs"])
    })
    .await;
    bed.until("the agents go", || {
        bed.play_collector(&["daemonset", "carrick-agent"])
    })
    .await;
    bed.until("the controller goes", || {
        bed.play_collector(&["deployment", "carrick-controller"])
    })
    .await;
    bed.until("the Networking goes", || {
        bed.get(&["networking", "default"]).is_none()
    })
    .await;
    assert_eq!(bed.versions(), BTreeMap::new());
    assert!(bed.get(&["agentinfo", "node1"]).is_none());
    for secret in [
        "carrick-ca",
        "carrick-controller-tls",
        "carrick-last-applied",
    ] {
        assert!(bed.get(&["secret", secret]).is_none(), "{secret}");
    }
    assert!(bed.get(&["lease", "carrick-controller"]).is_none());
    let node = bed.get(&["node", "node1"]).unwrap();
    assert!(
        !node
            .to_string()
            .contains("\"key\":\"carrick.dev/agent-not-ready\""),
        "{node}"
    );
    // There is nothing left to remove.
    carrick_operator::remove_network::run(&hook, admin)
        .await
        .unwrap();
    bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_writes_its_own_agentinfo_and_no_other() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24")]).await;
    bed.apply(&json!({})).unwrap();
    bed.start_operator().await;
    bed.until("the policy", || {
        bed.get(&[
            "validatingadmissionpolicybinding",
            "carrick-agentinfo-by-its-node",
        ])
        .is_some()
    })
    .await;
    let user = format!("system:serviceaccount:{NAMESPACE}:carrick-agent");
    let agent = |extra: Option<(&'static str, &'static str)>| {
        let mut headers = vec![
            ("Impersonate-User", user.as_str()),
            ("Impersonate-Group", "system:authenticated"),
        ];
        headers.extend(extra);
        let headers: Vec<(String, String)> = headers
            .into_iter()
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        headers
    };
    let claim = "Impersonate-Extra-authentication.kubernetes.io%2Fnode-name";
    let create = |headers: Vec<(String, String)>, node: &'static str| {
        let server = &bed.server;
        async move {
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            let client = kube::Client::try_from(config(server, &headers).await).unwrap();
            let api: kube::Api<carrick_api::AgentInfo> = kube::Api::all(client);
            let info = carrick_api::AgentInfo::new(node, carrick_api::AgentInfoSpec {});
            let params = kube::api::PatchParams::apply("carrick-agent").force();
            api.patch(node, &params, &kube::api::Patch::Apply(&info))
                .await
        }
    };
    // A policy takes a moment to act.
    let end = Instant::now() + DEADLINE;
    loop {
        let error = create(agent(Some((claim, "node1"))), "node2").await.err();
        if error.is_some_and(|e| e.to_string().contains("the node its token is bound to")) {
            break;
        }
        assert!(
            Instant::now() < end,
            "another node's AgentInfo can be written"
        );
        tokio::time::sleep(POLL).await;
    }
    create(agent(Some((claim, "node1"))), "node1")
        .await
        .unwrap();
    assert!(
        create(agent(None), "node1").await.is_err(),
        "a token without a node claim writes nothing"
    );
    bed.stop_operator().await;
}

/// The status line and the body that an operator answers with.
async fn ask(port: u16, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
        return String::new();
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_ready_and_takes_over() {
    let bed = Bed::start(&[("node1", "10.244.0.0/24")]).await;
    bed.apply(&json!({})).unwrap();
    let ports: Vec<u16> = (0..2)
        .map(|_| {
            std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        })
        .collect();
    let (first, first_task) = bed.operator("operator-1", ports[0]).await;
    bed.until_condition("Ready", "False", "Progressing").await;
    let (second, second_task) = bed.operator("operator-2", ports[1]).await;
    let end = Instant::now() + DEADLINE;
    while !ask(ports[1], "/readyz").await.starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < end, "the standby is not ready");
        tokio::time::sleep(POLL).await;
    }
    assert!(
        ask(ports[0], "/metrics")
            .await
            .contains("carrick_operator_leader 1")
    );
    assert!(
        ask(ports[1], "/metrics")
            .await
            .contains("carrick_operator_leader 0")
    );

    first.cancel();
    first_task.await.unwrap().unwrap();
    bed.apply(&json!({"management": "Paused"})).unwrap();
    bed.until_condition("Ready", "False", "Paused").await;
    assert!(
        ask(ports[1], "/metrics")
            .await
            .contains("carrick_operator_leader 1")
    );
    second.cancel();
    second_task.await.unwrap().unwrap();
}
