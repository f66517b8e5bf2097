//! A cluster with Carrick on it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use carrick_testbed::{Cluster, ClusterDns, ClusterSpec, NodeKind, Progress, StartupTaint};
use serde_json::{Value, json};

use crate::command::{run, succeed};
use crate::images::{Images, Previous};
use crate::pod::Pod;
use crate::portrait;
use crate::prober::Prober;
use crate::wait;

mod faults;
mod operands;
mod release;
mod spec;

/// The label that says what a node is made of: `namespace` or `kernel`. Fixtures select nodes by it.
const KIND_LABEL: &str = "e2e.carrick.dev/kind";

/// Where Carrick's parts run.
pub const NAMESPACE: &str = "carrick-system";

pub use carrick_testbed::IpFamily;
pub use release::{Past, Release};
pub use spec::BedSpec;

/// A running cluster with Carrick on it.
pub struct Bed {
    cluster: Cluster,
    images: Images,
    previous: Option<Previous>,
    helm: PathBuf,
    traffic: &'static str,
    more: &'static str,
    /// What each node was before Carrick came.
    portraits: BTreeMap<String, String>,
    /// From `helm install` until the network was Ready.
    installed_in: Duration,
}

impl Bed {
    /// Starts the cluster with the images on its nodes, installs the chart with a Networking and waits until
    /// it is Ready.
    pub fn up(spec: &BedSpec) -> Result<Self> {
        let progress = Progress::stderr();
        wait::be_patient(match spec.kind {
            NodeKind::Namespace if spec.kernel_nodes == 0 => 1,
            // A system call costs microseconds there, and each node has one processor.
            NodeKind::Namespace | NodeKind::Kernel => 3,
        });
        // First the older: the programs that `cargo build` leaves are those of the last.
        let previous = match spec.previous {
            Past::Absent => None,
            Past::Available | Past::Installed => Some(Previous::build(&progress)?),
        };
        let images = Images::build(&progress)?;
        let older = previous.iter().flat_map(|previous| &previous.set.archives);
        let archives = images.set.archives.iter().chain(older);
        let archives = archives.chain([&images.agnhost_archive]);
        let archives = archives.chain(&spec.images).cloned().collect();
        let cluster = Cluster::up_afresh(
            &ClusterSpec {
                name: spec.name.to_owned(),
                nodes: spec.nodes,
                family: spec.family,
                node_mask_v4: spec.mask,
                startup_taint: StartupTaint::Enabled,
                kind: spec.kind,
                kernel_nodes: spec.kernel_nodes,
                pod_cidrs: spec.pod_cidrs,
                kube_proxy: spec.kube_proxy,
                dns: spec.dns,
                images: archives,
            },
            &progress,
        )?;
        let helm = carrick_testbed::binaries::helm(&progress)?;
        let mut bed = Self {
            cluster,
            images,
            previous,
            helm,
            traffic: spec.traffic,
            more: spec.more,
            portraits: BTreeMap::new(),
            installed_in: Duration::ZERO,
        };
        bed.label_kinds()?;
        progress.say("recording what the nodes are without Carrick");
        for node in bed.node_names() {
            let text = portrait::take(&bed, &node)?;
            bed.portraits.insert(node, text);
        }
        progress.say("installing Carrick");
        let first = match spec.previous {
            Past::Installed => Release::Previous,
            Past::Absent | Past::Available => Release::Current,
        };
        let begun = Instant::now();
        bed.install(first)
            .with_context(|| bed.report("installation"))?;
        bed.installed_in = begun.elapsed();
        progress.say("the network is Ready");
        Ok(bed)
    }

    /// Labels nodes with what they are made of, for nodeConfigs.
    fn label_kinds(&self) -> Result<()> {
        for node in self.cluster.nodes() {
            let kind = match self.cluster.spec().kind_of(node.number()) {
                NodeKind::Namespace => "namespace",
                NodeKind::Kernel => "kernel",
            };
            let label = format!("{KIND_LABEL}={kind}");
            self.kubectl(&["label", "--overwrite", "node", node.name(), &label])?;
        }
        Ok(())
    }

    /// Removes the cluster; fails when something is left of it.
    pub fn down(self) -> Result<()> {
        if std::env::var_os("CARRICK_E2E_KEEP").is_some() {
            return Ok(());
        }
        let name = self.cluster.name().to_owned();
        let progress = Progress::stderr();
        Cluster::down(&name, &progress)?;
        let left = Cluster::leftovers(&name)?;
        ensure!(left.is_empty(), "left of cluster {name}: {left:?}");
        Ok(())
    }

    /// Where the logs of this run are and how they end, with what the API server knows.
    pub fn report(&self, test: &str) -> String {
        let mut text = format!("{test} failed\n");
        for arguments in [
            &["get", "networking,agentinfos,controllerinfos", "-o", "wide"][..],
            &["get", "pods,nodes", "-A", "-o", "wide"],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
            &[
                "get",
                "networking",
                "default",
                "-o",
                "jsonpath={.status.conditions}",
            ],
            // Their files go with the pods, and later tests remove those.
            &[
                "logs",
                "-n",
                NAMESPACE,
                "-l",
                "app.kubernetes.io/component=agent",
                "--prefix",
                "--tail=40",
            ],
        ] {
            let said = self.kubectl_any(arguments).map_or_else(
                |error| format!("{error:#}"),
                |output| String::from_utf8_lossy(&output.stdout).into_owned(),
            );
            let lines: Vec<&str> = said.lines().collect();
            let from = lines.len().saturating_sub(120);
            text.push_str(&lines[from..].join("\n"));
            text.push('\n');
        }
        text.push_str(&self.cluster.report());
        text
    }

    /// Families of the cluster.
    pub fn family(&self) -> IpFamily {
        self.cluster.spec().family
    }

    /// Names of all nodes.
    pub fn node_names(&self) -> Vec<String> {
        self.cluster
            .nodes()
            .iter()
            .map(|node| node.name().to_owned())
            .collect()
    }

    /// The name of a node by its place.
    pub fn node_name(&self, index: usize) -> &str {
        self.cluster
            .nodes()
            .get(index)
            .map_or("no such node", carrick_testbed::Node::name)
    }

    /// The name of the last node.
    pub fn last_node(&self) -> &str {
        self.node_name(self.cluster.nodes().len() - 1)
    }

    /// InternalIP addresses of a node.
    pub fn node_addresses(&self, node: &str) -> Result<Vec<IpAddr>> {
        Ok(self.cluster.node(node)?.addresses().to_vec())
    }

    /// Addresses that belong to no node and no pod and know no way to either's pods.
    pub fn outside_addresses(&self) -> Vec<IpAddr> {
        self.cluster
            .addressing()
            .control_plane()
            .iter()
            .map(ipnet::IpNet::addr)
            .collect()
    }

    /// A kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.cluster.kubeconfig()
    }

    /// The agnhost image's name.
    pub fn agnhost(&self) -> &str {
        &self.images.agnhost
    }

    /// What each node was before Carrick came.
    pub fn portraits_before(&self) -> &BTreeMap<String, String> {
        &self.portraits
    }

    /// How long the installation took, from `helm install` until the network was Ready.
    pub fn installed_in(&self) -> Duration {
        self.installed_in
    }

    /// What the nodes are made of.
    pub fn kind(&self) -> NodeKind {
        self.cluster.spec().kind
    }

    /// The directory of this run's logs.
    pub fn logs(&self) -> &std::path::Path {
        self.cluster.logs()
    }

    /// Runs a shell script on a node.
    pub fn node(&self, node: &str, script: &str) -> Result<String> {
        let mut command = self.cluster.node(node)?.command("bash")?;
        command.args(["-c", script]);
        succeed(&mut command, None)
    }

    /// Gives the API server's machine routes to pods, by way of their nodes: it has no agent of its own, and what
    /// it is asked to proxy to pods would not leave it.
    pub fn route_api_server_to_pods(&self) -> Result<()> {
        let nodes: Value = serde_json::from_str(&self.kubectl(&["get", "nodes", "-o", "json"])?)?;
        for node in nodes["items"].as_array().into_iter().flatten() {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let cidrs = node["spec"]["podCIDRs"].as_array();
            let cidrs = cidrs.with_context(|| format!("{name} has no pod CIDR"))?;
            for cidr in cidrs.iter().filter_map(Value::as_str) {
                let addresses = self.node_addresses(name)?;
                let via = addresses
                    .iter()
                    .find(|address| address.is_ipv6() == cidr.contains(':'))
                    .with_context(|| format!("{name} has no address of the family of {cidr}"))?;
                let words = ["ip", "route", "replace", cidr, "via", &via.to_string()];
                self.cluster.control_plane().exec(&words)?;
            }
        }
        Ok(())
    }

    /// kubectl, which must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        succeed(self.kubectl_command(arguments).args(arguments), None)
    }

    /// kubectl, whose exit code the caller looks at.
    pub fn kubectl_any(&self, arguments: &[&str]) -> Result<Output> {
        run(self.kubectl_command(arguments).args(arguments), None)
    }

    /// An administrator's kubectl; with a token of its own, one that holds no certificate.
    fn kubectl_command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(self.cluster.binaries().kubectl());
        if arguments.contains(&"--token") {
            // A client certificate would win over the token.
            command.env("KUBECONFIG", "/dev/null");
            command.args([
                "--server",
                &self.cluster.addressing().api_server(),
                "--insecure-skip-tls-verify",
            ]);
        } else {
            command.arg("--kubeconfig").arg(self.cluster.kubeconfig());
        }
        command
    }

    /// Server-side apply of one object.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let arguments = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=carrick-e2e",
            "-f",
            "-",
        ];
        let text = object.to_string();
        succeed(
            self.kubectl_command(&arguments).args(arguments),
            Some(&text),
        )
        .map(drop)
    }

    /// Objects: what `kubectl get` lists with these arguments.
    pub fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let out = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        let mut list: Value = serde_json::from_str(&out)?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            other => bail!("kubectl get {arguments:?} gave no list but {other}"),
        }
    }

    /// One object.
    pub fn get(&self, kind: &str, namespace: Option<&str>, name: &str) -> Result<Value> {
        let mut arguments = vec!["get", kind, name, "-o", "json"];
        if let Some(namespace) = namespace {
            arguments.extend(["-n", namespace]);
        }
        Ok(serde_json::from_str(&self.kubectl(&arguments)?)?)
    }

    /// A namespace for a suite's pods.
    pub fn namespace(&self, suite: &str) -> Result<String> {
        let name = format!("e2e-{suite}");
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"carrick.dev/e2e": "true"}},
        }))?;
        wait::until(
            "the default ServiceAccount",
            Duration::from_secs(90),
            || {
                self.get("serviceaccount", Some(&name), "default")
                    .map(|_| true)
            },
        )?;
        Ok(name)
    }

    /// helm, which must succeed.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new(&self.helm);
        command
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .args(arguments);
        succeed(&mut command, None)
    }

    /// carrickctl, which must succeed.
    pub fn carrickctl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = std::process::Command::new(&self.images.carrickctl);
        command
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .args(arguments);
        succeed(&mut command, None)
    }

    /// The Networking with its status.
    pub fn networking(&self) -> Result<Value> {
        self.get("networking", None, "default")
    }

    /// The Networking as a user would write it.
    pub fn networking_spec(&self) -> Result<Value> {
        let networking = self.networking()?;
        Ok(json!({
            "apiVersion": networking["apiVersion"], "kind": "Networking",
            "metadata": {"name": "default"}, "spec": networking["spec"],
        }))
    }

    /// Merges `spec` into the Networking's.
    pub fn patch_networking(&self, spec: &Value) -> Result<()> {
        let patch = json!({"spec": spec}).to_string();
        self.kubectl(&[
            "patch",
            "networking",
            "default",
            "--type=merge",
            "-p",
            &patch,
        ])
        .map(drop)
    }

    /// Lets so many replicas of CoreDNS run, where the cluster has it, and waits until they are ready and no
    /// others are left: they use the network like every pod.
    pub fn scale_dns(&self, replicas: u8) -> Result<()> {
        if self.cluster.spec().dns == ClusterDns::None {
            return Ok(());
        }
        let dns = ["-n", "kube-system", "deployment", "coredns"];
        let count = format!("--replicas={replicas}");
        self.kubectl(&[&["scale", &count][..], &dns].concat())?;
        let label = ["-n", "kube-system", "-l", "k8s-app=kube-dns"];
        let what = format!("{replicas} replicas of CoreDNS");
        wait::until(&what, Duration::from_mins(2), || {
            let pods = self.list(&[&["pods"][..], &label].concat())?;
            let ready = pods.iter().filter(|pod| {
                let conditions = pod["status"]["conditions"].as_array();
                { conditions.into_iter().flatten() }
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            });
            Ok(pods.len() == usize::from(replicas) && ready.count() == pods.len())
        })
    }

    /// Waits until the Networking is Ready as of its last edit.
    pub fn wait_ready(&self, deadline: Duration) -> Result<()> {
        wait::until("the Networking to be Ready", deadline, || {
            let networking = self.networking()?;
            let conditions = networking["status"]["conditions"].clone();
            ensure!(
                networking["status"]["observedGeneration"] == networking["metadata"]["generation"],
                "not observed yet"
            );
            let ready = conditions
                .as_array()
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            ensure!(ready, "conditions {conditions}");
            Ok(true)
        })
    }

    /// Starts a stream of pings between two pods.
    pub fn prober(&self, from: &Pod, to: &Pod) -> Result<Prober<'_>> {
        Prober::start(self, from, to)
    }
}
