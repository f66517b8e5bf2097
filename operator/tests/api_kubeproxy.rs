//! Replacing a kube-proxy on a real kube-apiserver. Tests play the DaemonSet controllers, the kubelets and the
//! agents, and write down in which order things go.

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

mod bed;

use bed::rollout::Stage;
use serde_json::{Value, json};

const NODES: [&str; 2] = ["node1", "node2"];
const SELECTOR: &str = "carrick.dev/kube-proxy-disabled";

/// kubeadm's DaemonSet, with more labels.
fn kube_proxy(labels: &Value) -> Value {
    let mut all = json!({"k8s-app": "kube-proxy"});
    for (key, value) in labels.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system", "labels": all},
        "spec": {"selector": {"matchLabels": {"k8s-app": "kube-proxy"}},
            "updateStrategy": {"type": "RollingUpdate"},
            "template": {"metadata": {"labels": {"k8s-app": "kube-proxy"}}, "spec": {
                "nodeSelector": {"kubernetes.io/os": "linux"}, "hostNetwork": true,
                "containers": [{"name": "kube-proxy", "image": "registry.k8s.io/kube-proxy:v1.34.4"}]}}}})
}

fn create(stage: &Stage, object: &Value) {
    let server = &stage.bed.server;
    server
        .kubectl_with_input(&["create", "-f", "-"], &object.to_string())
        .unwrap();
}

fn live(stage: &Stage) -> Value {
    let get = [
        "get",
        "daemonset",
        "kube-proxy",
        "-n",
        "kube-system",
        "-o",
        "json",
    ];
    serde_json::from_str(&stage.bed.server.kubectl(&get).unwrap()).unwrap()
}

fn full(kube_proxy: &str) -> Value {
    json!({"serviceProxy": {"mode": "Full", "kubeProxy": kube_proxy}})
}

/// A network that runs beside kubeadm's kube-proxy, by spec.
async fn running(spec: &Value, labels: &Value) -> Stage {
    let mut stage = Stage::start(&NODES).await;
    create(&stage, &kube_proxy(labels));
    stage.bed.apply(spec).unwrap();
    stage.bed.start_operator().await;
    stage.until_phase("Complete").await;
    stage
}

/// Plays until the condition has this reason; its message.
async fn until_reason(stage: &mut Stage, reason: &'static str) -> String {
    stage
        .until(reason, move |_, networking| {
            let generation = &networking["metadata"]["generation"];
            let conditions = networking["status"]["conditions"].as_array();
            { conditions.into_iter().flatten() }.any(|condition| {
                condition["type"] == "KubeProxyReplaced"
                    && condition["reason"] == reason
                    && condition["observedGeneration"] == *generation
            })
        })
        .await;
    let message = &stage.bed.condition("KubeProxyReplaced")["message"];
    message.as_str().unwrap_or_default().to_owned()
}

fn place(stage: &Stage, what: &str) -> usize {
    let found = stage.restarted.iter().position(|have| have == what);
    assert!(found.is_some(), "{what}: {:?}", stage.restarted);
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_proxy_goes_last_and_comes_back_first() {
    let beside = json!({"serviceProxy": {"mode": "Disabled"}});
    let mut stage = running(&beside, &json!({})).await;
    let original = live(&stage);
    stage.restarted.clear();

    // Rolled out everywhere, and one agent after the other says nothing yet.
    stage.bed.apply(&full("Auto")).unwrap();
    stage.until_phase("Complete").await;
    let message = until_reason(&mut stage, "WaitingForAgents").await;
    assert!(
        message.contains("node1") && message.contains("node2"),
        "{message}"
    );
    assert!(
        !stage
            .restarted
            .iter()
            .any(|what| what.starts_with("kube-proxy"))
    );
    stage.serve = true;
    until_reason(&mut stage, "Disabled").await;
    assert_eq!(stage.bed.condition("KubeProxyReplaced")["status"], "True");
    let off = place(&stage, "kube-proxy off");
    assert!(place(&stage, "agent node1") < off && place(&stage, "agent node2") < off);
    let disabled = live(&stage);
    assert_eq!(
        disabled["spec"]["template"]["spec"]["nodeSelector"][SELECTOR],
        "true"
    );
    let why = &disabled["metadata"]["annotations"]["carrick.dev/kube-proxy-disabled-by"];
    assert!(why.as_str().unwrap().contains("Carrick"), "{why}");

    // Back: an operator that is killed on the way leaves the agents alone until kube-proxy is ready.
    stage.restarted.clear();
    stage.kube_proxy_fails = true;
    stage.bed.apply(&beside).unwrap();
    let message = until_reason(&mut stage, "Returning").await;
    assert!(
        message.contains("of 2 pods are ready") || message.contains("0 of 0"),
        "{message}"
    );
    stage
        .until("kube-proxy is enabled", |stage, _| {
            stage.restarted.iter().any(|what| what == "kube-proxy on")
        })
        .await;
    stage.bed.kill_operator();
    stage.bed.start_operator().await;
    stage
        .bed
        .apply(
            &json!({"serviceProxy": {"mode": "Disabled"}, "observability": {"logLevel": "debug"}}),
        )
        .unwrap();
    until_reason(&mut stage, "Returning").await;
    assert_eq!(stage.restarted, ["kube-proxy on"], "nothing else changes");
    assert_eq!(stage.bed.condition("Ready")["reason"], "KubeProxyReturning");
    stage.kube_proxy_fails = false;
    stage
        .until("the rollout", |stage, networking| {
            let status = &networking["status"];
            status["observedGeneration"] == networking["metadata"]["generation"]
                && status["rollout"]["phase"] == "Complete"
                && stage.restarted.iter().any(|what| what == "agent node2")
        })
        .await;
    assert!(place(&stage, "kube-proxy ready") < place(&stage, "agent node1"));
    let back = live(&stage);
    assert_eq!(back["spec"], original["spec"]);
    let annotations = back["metadata"]["annotations"].to_string();
    assert!(!annotations.contains("carrick.dev/"), "{annotations}");
    assert_eq!(stage.bed.condition("KubeProxyReplaced"), Value::Null);
    stage.bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_manage_or_forbid_is_kept() {
    let argo = json!({"argocd.argoproj.io/instance": "core"});
    let mut stage = running(&full("Auto"), &argo).await;
    stage.serve = true;
    let message = until_reason(&mut stage, "ManagedByOthers").await;
    assert!(
        message.contains("Argo CD") && message.contains("To mend it"),
        "{message}"
    );
    assert_ne!(
        stage.bed.condition("Degraded")["reason"],
        "KubeProxyNotDisabled"
    );
    stage.bed.apply(&full("Disable")).unwrap();
    until_reason(&mut stage, "ManagedByOthers").await;
    assert_eq!(
        stage.bed.condition("Degraded")["reason"],
        "KubeProxyNotDisabled"
    );
    stage.bed.apply(&full("Keep")).unwrap();
    until_reason(&mut stage, "Kept").await;

    // Nobody manages it, and the chart was not told that we may.
    let server = &stage.bed.server;
    server
        .kubectl(&[
            "label",
            "daemonset",
            "kube-proxy",
            "-n",
            "kube-system",
            "argocd.argoproj.io/instance-",
        ])
        .unwrap();
    let verbs = |verbs: Value| {
        let role = "carrick-operator-detection";
        let patch = json!([{"op": "replace", "path": "/rules/1/verbs", "value": verbs}]);
        server
            .kubectl(&[
                "patch",
                "role",
                role,
                "-n",
                "kube-system",
                "--type=json",
                "-p",
                &patch.to_string(),
            ])
            .unwrap();
    };
    verbs(json!(["get"]));
    stage.bed.apply(&full("Disable")).unwrap();
    let message = until_reason(&mut stage, "NotAllowed").await;
    assert!(message.contains("kubeProxy.mayDisable=true"), "{message}");
    assert_eq!(
        stage.bed.condition("Degraded")["reason"],
        "KubeProxyNotDisabled"
    );
    let server = &stage.bed.server;
    let patch =
        json!([{"op": "replace", "path": "/rules/1/verbs", "value": ["get", "patch"]}]).to_string();
    let role = [
        "patch",
        "role",
        "carrick-operator-detection",
        "-n",
        "kube-system",
        "--type=json",
        "-p",
        &patch,
    ];
    server.kubectl(&role).unwrap();
    until_reason(&mut stage, "Disabled").await;

    // One that runs from files of the nodes.
    stage.bed.apply(&full("Auto")).unwrap();
    let delete = ["delete", "daemonset", "kube-proxy", "-n", "kube-system"];
    stage.bed.server.kubectl(&delete).unwrap();
    create(
        &stage,
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kube-proxy-node2", "namespace": "kube-system",
            "labels": {"component": "kube-proxy"}, "annotations": {"kubernetes.io/config.mirror": "x"}},
            "spec": {"nodeName": "node2", "automountServiceAccountToken": false,
                "containers": [{"name": "c", "image": "i"}]}}),
    );
    let message = until_reason(&mut stage, "StaticPods").await;
    assert!(message.contains("node2"), "{message}");
    stage.bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sets_it_back_is_fought_no_more_than_three_times() {
    let mut stage = running(&full("Auto"), &json!({})).await;
    stage.serve = true;
    stage.restarted.clear();
    for times in 1..=3 {
        stage
            .until("disabled", |stage, _| {
                let off = stage
                    .restarted
                    .iter()
                    .filter(|what| *what == "kube-proxy off");
                off.count() == times
            })
            .await;
        // As kubeadm does it, which writes the annotations anew as well.
        let back = json!({"metadata": {"annotations": {"carrick.dev/kube-proxy-disabled-by": null,
            "carrick.dev/kube-proxy-disabled-times": null}},
            "spec": {"template": {"spec": {"nodeSelector": {SELECTOR: null}}}}})
        .to_string();
        let patch = [
            "patch",
            "daemonset",
            "kube-proxy",
            "-n",
            "kube-system",
            "--type=merge",
            "-p",
            &back,
        ];
        stage.bed.server.kubectl(&patch).unwrap();
    }
    let message = until_reason(&mut stage, "SetBack").await;
    assert!(message.contains("3 times"), "{message}");
    // Whoever has found out who it was begins anew.
    stage.bed.apply(&full("Keep")).unwrap();
    until_reason(&mut stage, "Kept").await;
    stage.bed.apply(&full("Auto")).unwrap();
    until_reason(&mut stage, "Disabled").await;
    stage.bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_brings_kube_proxy_back_before_the_agents_go() {
    let mut stage = running(&full("Auto"), &json!({})).await;
    stage.serve = true;
    until_reason(&mut stage, "Disabled").await;
    stage.kube_proxy_fails = true;
    stage.restarted.clear();
    let server = &stage.bed.server;
    server
        .kubectl(&["delete", "networking", "default", "--wait=false"])
        .unwrap();
    let cleans = |stage: &Stage| {
        let agents = stage.bed.get(&["daemonset", "carrick-agent"]).unwrap();
        agents["spec"]["template"].to_string().contains("cleanup")
    };
    let message = until_reason(&mut stage, "Returning").await;
    assert!(message.contains("ready"), "{message}");
    stage
        .until("enabled", |stage, _| {
            stage.restarted.iter().any(|what| what == "kube-proxy on")
        })
        .await;
    stage.bed.kill_operator();
    stage.bed.start_operator().await;
    until_reason(&mut stage, "Returning").await;
    assert!(!cleans(&stage), "the agents serve on");
    stage.kube_proxy_fails = false;
    stage.until("the cleanup", |stage, _| cleans(stage)).await;
    place(&stage, "kube-proxy ready");
    let metadata = live(&stage)["metadata"].to_string();
    assert!(!metadata.contains("carrick.dev/"), "{metadata}");
    stage.bed.stop_operator().await;
}
