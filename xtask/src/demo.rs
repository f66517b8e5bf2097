//! `cargo xtask demo`: what the README promises, on this machine: a cluster whose network came from
//! one object, and pods that talk.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use carrick_testbed::archive::Archive;
use carrick_testbed::{Cluster, ClusterSpec, IpFamily, Progress, StartupTaint, binaries};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::images;

/// The demo's cluster.
const NAME: &str = "demo";
/// Where Carrick runs.
const NAMESPACE: &str = "carrick-system";
/// How long the network may take on a busy machine.
const READY: Duration = Duration::from_mins(6);
/// How long the test pods may take.
const PODS: Duration = Duration::from_mins(3);

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Verb {
    /// Bring the demo up, or mend it (the default).
    Up,
    /// Remove the demo and everything it has on this machine.
    Down,
}

/// Runs the demo.
pub fn run(args: &Args) -> Result<ExitCode> {
    let progress = Progress::stderr();
    match args.verb {
        Some(Verb::Down) => {
            Cluster::down(NAME, &progress)?;
            let left = Cluster::leftovers(NAME)?;
            ensure!(left.is_empty(), "left behind: {}", left.join(", "));
            progress.say("nothing of the demo is left; what was built stays cached");
        }
        Some(Verb::Up) | None => up(&progress)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(progress: &Progress) -> Result<()> {
    let helm = binaries::helm(progress)?;
    let options = images::Options {
        profile: "dev".to_owned(),
        ..images::Options::default()
    };
    let images = images::build(&options, progress)?;
    let agnhost = carrick_testbed::images::agnhost(&binaries::kubernetes(progress)?)?;
    let archives = images.iter().map(|image| image.archive.clone());
    let spec = ClusterSpec {
        family: IpFamily::Dual,
        startup_taint: StartupTaint::Enabled,
        images: archives.chain([agnhost.path().to_owned()]).collect(),
        ..ClusterSpec::new(NAME)
    };
    let cluster = Cluster::up(&spec, progress)?;
    let result = show(&cluster, &images, &agnhost, &helm, progress);
    result.with_context(|| cluster.report())
}

fn show(
    cluster: &Cluster,
    images: &[images::Image],
    agnhost: &Archive,
    helm: &Path,
    progress: &Progress,
) -> Result<()> {
    progress.say("helm install carrick");
    install(cluster, images, helm)?;
    wait_ready(cluster, progress)?;
    let pods = start_pods(cluster, agnhost, progress)?;
    for from in &pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            for address in &to.addresses {
                connect(cluster, from, address)?;
                crate::print(format!(
                    "{:<6} {:<24} → {:<6} {address:<24} ok",
                    from.node, from.addresses[0], to.node
                ))?;
            }
        }
    }
    let kubectl = binaries_link("kubectl")?;
    crate::print(format!(
        "
A Kubernetes of {nodes} nodes, its network made by one object. Try:

  export KUBECONFIG={kubeconfig}
  export PATH=\"{bin}:$PATH\"
  kubectl get networking default -o yaml        # the network, its conditions, what it came to
  kubectl get agentinfos                        # one per node
  kubectl -n {NAMESPACE} get pods -o wide
  kubectl exec ds/talk -- agnhost connect {address} --timeout=3s && echo ok
  cargo xtask cluster shell node1 --name {NAME}   # a shell on a node
  cargo xtask cluster link node2 transport cut --name {NAME}   # … restore
  hack/demo down                                # removes all of it
",
        nodes = cluster.nodes().len(),
        kubeconfig = cluster.kubeconfig().display(),
        bin = kubectl,
        address = target(
            pods.last()
                .and_then(|pod| pod.addresses.first())
                .map_or("", String::as_str)
        ),
    ))
}

/// The directory of a program's link.
fn binaries_link(program: &str) -> Result<String> {
    let bin = carrick_testbed::paths::bin()?;
    ensure!(
        bin.join(program).exists(),
        "{} is missing",
        bin.join(program).display()
    );
    Ok(bin.display().to_string())
}

/// What a user types, with values for these nodes: no kernel datapath, and eth1 between nodes.
fn install(cluster: &Cluster, images: &[images::Image], helm: &Path) -> Result<()> {
    let chart = crate::root().join("charts/carrick");
    let mut values = json!({
        "apiServer": {"host": cluster.api_host(), "port": 6443},
        "images": {"registry": "localhost"},
        "networking": {"create": true, "spec": {
            "datapath": {"type": "Userspace"},
            "traffic": {"transport": {"interface": "eth1"}},
        }},
    });
    for image in images {
        let (_, tag) = image
            .reference
            .rsplit_once(':')
            .context("an image without a tag")?;
        let key = if image.name == "carrick" {
            "carrick"
        } else {
            "carrickOvs"
        };
        values["images"][key] = json!({"tag": tag});
    }
    let file = tempfile::NamedTempFile::with_suffix(".json")?;
    serde_json::to_writer_pretty(file.as_file(), &values)?;
    let output = Command::new(helm)
        .args(["upgrade", "--install", "carrick"])
        .arg(&chart)
        .args(["--namespace", NAMESPACE, "--create-namespace", "--values"])
        .arg(file.path())
        .env("KUBECONFIG", cluster.kubeconfig())
        .output()
        .context("start helm")?;
    if !output.status.success() {
        bail!(
            "helm: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn wait_ready(cluster: &Cluster, progress: &Progress) -> Result<()> {
    let mut said = String::new();
    progress.wait("the network to be Ready", READY, || {
        let Ok(text) = cluster.kubectl(&["get", "networking", "default", "-o=json"]) else {
            return Ok(Some("the Networking cannot be read yet".to_owned()));
        };
        let object: Value = serde_json::from_str(&text).context("parse the Networking")?;
        let condition = |kind: &str| {
            let conditions = object["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten();
            conditions
                .into_iter()
                .find(|condition| condition["type"] == kind)
                .cloned()
                .unwrap_or_default()
        };
        let current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
        let ready = condition("Ready");
        if current && ready["status"] == "True" {
            return Ok(None);
        }
        let stalled = condition("Stalled");
        let message = if stalled["status"] == "True" {
            &stalled["message"]
        } else {
            &ready["message"]
        };
        let message = message
            .as_str()
            .unwrap_or("the operator has not looked at it yet")
            .to_owned();
        if message != said {
            progress.say(format!("network: {message}"));
            said.clone_from(&message);
        }
        Ok(Some(message))
    })?;
    progress.wait("the nodes to be Ready", PODS, || {
        let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"])?;
        Ok(nodes
            .contains("NotReady")
            .then(|| "some are not yet".to_owned()))
    })?;
    progress.say("the network is Ready, and so are the nodes");
    Ok(())
}

/// A test pod.
struct TestPod {
    name: String,
    node: String,
    addresses: Vec<String>,
}

fn start_pods(cluster: &Cluster, agnhost: &Archive, progress: &Progress) -> Result<Vec<TestPod>> {
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "talk", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "talk"}},
            "template": {
                "metadata": {"labels": {"app": "talk"}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "agnhost", "image": agnhost.name(), "imagePullPolicy": "IfNotPresent",
                        "args": ["netexec", "--http-port=8080", "--udp-port=8081"],
                        "readinessProbe": {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 1},
                    }],
                },
            },
        },
    });
    progress.say("starting a test pod on every node");
    cluster.kubectl_with_input(&["apply", "-f", "-"], &set.to_string())?;
    let mut pods = Vec::new();
    progress.wait("the test pods", PODS, || {
        let text = cluster.kubectl(&["get", "pods", "-l", "app=talk", "-o=json"])?;
        let list: Value = serde_json::from_str(&text).context("parse the pods")?;
        pods = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(parse_pod)
            .collect();
        let (here, all) = (pods.len(), cluster.nodes().len());
        Ok((here < all).then(|| format!("{here} of {all} are ready")))
    })?;
    pods.sort_by(|a, b| a.node.cmp(&b.node));
    Ok(pods)
}

/// A pod that is ready and not being deleted.
fn parse_pod(pod: &Value) -> Option<TestPod> {
    if !pod["metadata"]["deletionTimestamp"].is_null()
        || pod["status"]["containerStatuses"][0]["ready"] != true
    {
        return None;
    }
    let addresses = pod["status"]["podIPs"].as_array()?;
    Some(TestPod {
        name: pod["metadata"]["name"].as_str()?.to_owned(),
        node: pod["spec"]["nodeName"].as_str()?.to_owned(),
        addresses: addresses
            .iter()
            .filter_map(|ip| ip["ip"].as_str())
            .map(str::to_owned)
            .collect(),
    })
}

fn connect(cluster: &Cluster, from: &TestPod, address: &str) -> Result<()> {
    let target = target(address);
    cluster
        .kubectl(&[
            "exec",
            &from.name,
            "--",
            "agnhost",
            "connect",
            &target,
            "--timeout=5s",
        ])
        .map(drop)
        .with_context(|| format!("{} on {} does not reach {target}", from.name, from.node))
}

/// Address and port of a test pod's server.
fn target(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]:8080")
    } else {
        format!("{address}:8080")
    }
}
