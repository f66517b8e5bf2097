//! The program against a real API server (no kubelet: pods never run there).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use carrick_testkit::apiserver::ApiServer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(90);

struct Bench {
    server: ApiServer,
}

impl Bench {
    fn new() -> Self {
        Self {
            server: ApiServer::start().expect("an API server"),
        }
    }

    fn with_crds() -> Self {
        let bench = Self::new();
        for (name, text) in carrick_api::crd_yaml().unwrap() {
            bench
                .server
                .kubectl_with_input(&["apply", "-f", "-"], &text)
                .expect(&name);
        }
        bench
            .server
            .kubectl(&[
                "wait",
                "--for=condition=Established",
                "--timeout=60s",
                "crd",
                "--all",
            ])
            .unwrap();
        bench
    }

    fn apply(&self, object: &Value) {
        self.server
            .kubectl_with_input(&["apply", "-f", "-"], &object.to_string())
            .unwrap();
    }

    fn status(&self, resource: &str, name: &str, status: &Value) {
        let patch = json!({ "status": status }).to_string();
        self.server
            .kubectl(&[
                "patch",
                resource,
                name,
                "--subresource=status",
                "--type=merge",
                "-p",
                &patch,
            ])
            .unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carrickctl"));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig()
    }

    #[track_caller]
    fn run(&self, args: &[&str], code: i32) -> (String, String) {
        told(&self.command(args).output().unwrap(), code)
    }
}

#[track_caller]
fn told(output: &Output, code: i32) -> (String, String) {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout:\n{out}\nstderr:\n{err}"
    );
    (out, err)
}

fn condition(type_: &str, status: &str) -> Value {
    json!({"type": type_, "status": status, "reason": "Test", "message": format!("{type_} is {status}."),
           "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// A node, its agent and the leader, all well.
fn furnish(bench: &Bench) {
    bench.apply(
        &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}}),
    );
    bench.status(
        "node",
        "n1",
        &json!({"conditions": [{"type": "Ready", "status": "True"}]}),
    );
    bench.apply(
        &json!({"apiVersion": "carrick.dev/v1alpha1", "kind": "Networking",
        "metadata": {"name": "default"}, "spec": {}}),
    );
    bench.status(
        "networking",
        "default",
        &json!({"observedGeneration": 1, "conditions": [condition("Ready", "True")]}),
    );
    bench.apply(
        &json!({"apiVersion": "carrick.dev/v1alpha1", "kind": "AgentInfo",
        "metadata": {"name": "n1"}, "spec": {}}),
    );
    bench.status(
        "agentinfo",
        "n1",
        &json!({"version": "0.1.0", "mtu": 1450, "conditions": [
        condition("Ready", "True"), condition("ControllerConnected", "True")]}),
    );
    bench.apply(
        &json!({"apiVersion": "carrick.dev/v1alpha1", "kind": "ControllerInfo",
        "metadata": {"name": "c1"}, "spec": {}}),
    );
    bench.status(
        "controllerinfo",
        "c1",
        &json!({"version": "0.1.0", "leader": true}),
    );
}

#[test]
fn status_get_version_and_uninstall_by_exit_code() {
    let bench = Bench::new();
    let (out, _) = bench.run(&["status"], 2);
    assert!(
        out.contains("Carrick is not installed") && out.contains("helm install"),
        "{out}"
    );
    let (_, err) = bench.run(&["get", "agents"], 1);
    assert!(err.contains("try: Carrick is not installed"), "{err}");
    drop(bench);

    let bench = Bench::with_crds();
    let (out, _) = bench.run(&["status"], 2);
    assert!(out.contains("there is no Networking"), "{out}");
    let (_, err) = bench.run(&["uninstall"], 0);
    assert!(err.contains("nothing to remove"), "{err}");
    let (_, err) = bench.run(&["check"], 1);
    assert!(err.contains("no agent has reported"), "{err}");
    furnish(&bench);

    // No pods run here: an operator that is not there is an error, the rest is well.
    let (out, _) = bench.run(&["status", "-o", "json"], 2);
    let report: Value = serde_json::from_str(&out).unwrap();
    let subjects: Vec<_> = report["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| &p["subjects"][0])
        .collect();
    assert!(subjects.contains(&&json!("operator")), "{out}");
    assert_eq!(report["nodes"][0]["node"], "n1");
    assert_eq!(report["nodes"][0]["ready"], "True");

    // Somebody who may read our resources and nothing else gets what those tell: all well.
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "reader"},
        "rules": [{"apiGroups": ["carrick.dev"], "resources": ["*"], "verbs": ["get", "list"]}]});
    bench.apply(&role);
    bench
        .server
        .kubectl(&[
            "create",
            "clusterrolebinding",
            "reader",
            "--clusterrole=reader",
            "--user=reader",
        ])
        .unwrap();
    let text = std::fs::read_to_string(bench.kubeconfig()).unwrap();
    let mut config: Value = serde_saphyr::from_str(&text).unwrap();
    config["users"][0]["user"]["as"] = json!("reader");
    let reader = bench.kubeconfig().with_file_name("reader.conf");
    std::fs::write(&reader, config.to_string()).unwrap();
    let as_reader = |args: &[&str], code| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carrickctl"));
        told(
            &command
                .arg("--kubeconfig")
                .arg(&reader)
                .args(args)
                .output()
                .unwrap(),
            code,
        )
    };
    let (out, _) = as_reader(&["status", "--wait", "--timeout", "30s"], 0);
    assert!(
        out.starts_with("network") && out.contains("healthy"),
        "{out}"
    );
    let (_, err) = as_reader(&["check"], 1);
    assert!(
        err.contains("forbidden") && err.contains("try: ask an administrator"),
        "{err}"
    );

    let (out, _) = bench.run(&["get", "agents"], 0);
    assert!(out.contains("n1     yes     connected"), "{out}");
    let (out, _) = bench.run(&["get", "controllers", "-o", "yaml"], 0);
    assert!(out.contains("leader: true"), "{out}");
    let (_, err) = bench.run(&["get", "agents", "n2"], 1);
    assert!(err.contains("nothing has reported as n2"), "{err}");
    let (out, _) = bench.run(&["version"], 0);
    assert!(out.contains("agent") && out.contains("0.1.0 (1)"), "{out}");
    let (_, err) = bench.run(&["flows", "n1"], 1);
    assert!(
        err.contains("no pod of carrick-agent runs on node n1"),
        "{err}"
    );

    let (_, err) = bench.run(&["explain", "--node", "n1", "10.96.0.10:53/udp"], 1);
    assert!(
        err.contains("no pod of carrick-agent runs on node n1"),
        "{err}"
    );
    let (_, err) = bench.run(&["explain", "--node", "n1", "10.96.0.10:53/icmp"], 1);
    assert!(
        err.contains("<PLACE>") && err.contains("the protocol tcp, udp or sctp"),
        "{err}"
    );
    for words in [
        &["explain", "web", "a/b"][..],
        &["explain", "a/b", "10.0.0.1", "--port", "80/icmp"],
        &["explain", "a/b", "c/d", "--node", "n1"],
        &["explain", "a/b:80", "--port", "80", "--node", "n1"],
        &["explain", "a/b"],
    ] {
        let (_, err) = bench.run(words, 1);
        assert!(
            err.contains("--port") || err.contains("PLACE") || err.contains("--node"),
            "{words:?}: {err}"
        );
    }
    let (_, err) = bench.run(&["explain", "10.0.0.1", "10.0.0.2"], 1);
    assert!(err.contains("name one as NAMESPACE/POD"), "{err}");
    let (_, err) = bench.run(&["explain", "shop/none", "10.0.0.2"], 1);
    assert!(
        err.contains("there is no pod none in namespace shop"),
        "{err}"
    );
    let (out, _) = bench.run(&["explain", "--help"], 0);
    assert!(out.contains("kube-system/kube-dns:dns"), "{out}");

    // Nobody confirms: nothing happens. With --yes it goes, and with nobody to hold it at once.
    let (_, err) = bench.run(&["uninstall"], 1);
    assert!(err.contains("say --yes"), "{err}");
    let (out, err) = bench.run(
        &["uninstall", "--yes", "--acknowledge", "pods-lose-network"],
        0,
    );
    assert!(
        out.contains("n1     no") && err.contains("removed"),
        "{out}\n{err}"
    );
}

#[test]
fn uninstall_waits_for_the_finalizer_and_says_what_holds_it() {
    let bench = Bench::with_crds();
    furnish(&bench);
    bench
        .server
        .kubectl(&[
            "patch",
            "networking",
            "default",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":["carrick.dev/network"]}}"#,
        ])
        .unwrap();
    bench.status("networking", "default", &json!({"conditions": [
        {"type": "Ready", "status": "False", "reason": "PodsUseNetwork", "message": "2 pods use the network.",
         "lastTransitionTime": "2026-01-01T00:00:00Z"}]}));
    let mut running = Talk::start(bench.command(&["uninstall", "--yes", "-o", "json"]));
    running.until("2 pods use the network.");
    bench.status(
        "agentinfo",
        "n1",
        &json!({"conditions": [condition("Ready", "False"), condition("Cleaned", "True")]}),
    );
    running.until("node n1 is clean");
    bench
        .server
        .kubectl(&[
            "patch",
            "networking",
            "default",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":null}}"#,
        ])
        .unwrap();
    let (out, _) = told(&running.output(), 0);
    let removal: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(removal["removed"], true);
    assert_eq!(
        removal["nodes"][0],
        json!({"node": "n1", "clean": true, "message": "Cleaned is True."})
    );
}

#[test]
fn check_removes_what_it_made_also_when_interrupted() {
    let bench = Bench::with_crds();
    furnish(&bench);
    let namespaces = || {
        let out = bench
            .server
            .kubectl(&["get", "ns", "-l", "carrick.dev/check", "-o", "json"])
            .unwrap();
        serde_json::from_str::<Value>(&out).unwrap()["items"]
            .as_array()
            .unwrap()
            .clone()
    };
    let removed = |namespace: &Value| !namespace["metadata"]["deletionTimestamp"].is_null();

    // Interrupted while pods start. The second signal ends the wait for what nobody finishes here.
    let mut running = Talk::start(bench.command(&["check", "--image", "carrick:test"]));
    running.until("0 of 3 test pods run");
    let pods = bench
        .server
        .kubectl(&["get", "pods", "-A", "-l", "carrick.dev/check", "-o", "name"])
        .unwrap();
    assert_eq!(pods.lines().count(), 3, "{pods}");
    running.interrupt();
    running.until("removing the test pods");
    running.interrupt();
    told(&running.output(), 130);
    let left = namespaces();
    assert!(left.len() == 1 && left.iter().all(removed), "{left:?}");

    // Pods that do not start are told as not tested, and removed as well.
    let mut running = Talk::start(bench.command(&[
        "check",
        "--image",
        "carrick:test",
        "--start-timeout",
        "1s",
        "--skip-host",
    ]));
    running.until("removing the test pods");
    running.interrupt();
    let (out, _) = told(&running.output(), 2);
    assert!(
        out.contains("NOT TESTED") && out.contains("pod-0") && out.contains("second-0"),
        "{out}"
    );
    let left = namespaces();
    assert!(left.len() == 2 && left.iter().all(removed), "{left:?}");
}

/// A running program whose talk is read as it comes.
struct Talk {
    child: Child,
    lines: mpsc::Receiver<String>,
    said: Vec<String>,
}

impl Talk {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            said: Vec::new(),
        }
    }

    #[track_caller]
    fn until(&mut self, text: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("never said {text:?}, but: {:#?}", self.said);
            };
            let found = line.contains(text);
            self.said.push(line);
            if found {
                return;
            }
        }
    }

    fn interrupt(&self) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            Signal::SIGINT,
        )
        .unwrap();
    }

    fn output(self) -> Output {
        self.child.wait_with_output().unwrap()
    }
}
