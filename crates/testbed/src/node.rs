//! Nodes: a machine with containerd and kubelet.
//!
//! [`NodeHost`] is what a kind of node must offer: namespace nodes ([`Machine`]) and kernel nodes
//! ([`Guest`](crate::guest::Guest)). [`Node`] is what tests and verbs use, whatever the kind.

use std::ffi::OsStr;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::addressing::Addressing;
use crate::archive::Archive;
use crate::control_plane;
use crate::links;
use crate::machine::{Blueprint, Component, Machine};
use crate::pki::{Pki, Subject};
use crate::preloaded::Preloaded;
use crate::progress::Progress;
use crate::spec::{ClusterDns, ClusterSpec, StartupTaint};

/// The container runtime's component name.
pub const CONTAINERD: &str = "containerd";
/// The kubelet's component name.
pub const KUBELET: &str = "kubelet";
/// The taint nodes may register with; the controller removes it.
pub const STARTUP_TAINT: &str = "carrick.dev/agent-not-ready";

/// What a kind of node offers.
pub trait NodeHost: fmt::Debug + Send + Sync {
    /// Its directory on the host.
    fn state(&self) -> &Path;
    /// The cgroup, as the node sees it, below which the kubelet makes those of pods.
    fn pod_cgroup(&self) -> String;
    /// Makes its links and starts it; it must not run.
    ///
    /// # Errors
    /// When it does not come up.
    fn boot(
        &self,
        number: usize,
        addressing: Addressing,
        blueprint: &Blueprint,
        logs: &Path,
        progress: &Progress,
    ) -> Result<()>;
    /// Ends it as a power failure does, with its links. Not running is fine.
    ///
    /// # Errors
    /// When something of it stays.
    fn kill(&self, progress: &Progress) -> Result<()>;
    /// A command on the node; standard input, output and error are the caller's to set.
    ///
    /// # Errors
    /// When the node does not run.
    fn command(&self, program: &OsStr) -> Result<Command>;
    /// Whether it runs.
    fn is_running(&self) -> bool;

    /// Ends a component and keeps it down.
    ///
    /// # Errors
    /// When it does not end.
    fn stop_component(&self, component: &str, signal: Signal) -> Result<()> {
        let script = r#"touch "/run/machine/stopped/$1"; if pid=$(cat "/run/machine/pids/$1" 2>/dev/null); then kill -s "$2" "$pid" || :; fi
            for _ in $(seq 300); do [ -e "/run/machine/pids/$1" ] || exit 0; sleep 0.1; done; echo "$1 does not end" >&2; exit 1"#;
        let signal = signal.as_str().trim_start_matches("SIG");
        let mut command = self.command(OsStr::new("bash"))?;
        crate::exec::output(command.args(["-c", script, "stop", component, signal])).map(drop)
    }

    /// Lets a stopped component start again.
    ///
    /// # Errors
    /// When the node does not run.
    fn start_component(&self, component: &str) -> Result<()> {
        let mut command = self.command(OsStr::new("rm"))?;
        crate::exec::output(command.args(["-f", &format!("/run/machine/stopped/{component}")]))
            .map(drop)
    }
}

impl NodeHost for Machine {
    fn state(&self) -> &Path {
        Self::state(self)
    }

    fn pod_cgroup(&self) -> String {
        format!("/{}", self.cgroup())
    }

    fn boot(
        &self,
        number: usize,
        addressing: Addressing,
        blueprint: &Blueprint,
        logs: &Path,
        progress: &Progress,
    ) -> Result<()> {
        links::add_node(self.cluster(), self.name(), number, addressing)?;
        self.start(blueprint, logs, progress)
    }

    fn kill(&self, progress: &Progress) -> Result<()> {
        Self::kill(self, progress)?;
        links::remove_netns(&self.netns())
    }

    fn command(&self, program: &OsStr) -> Result<Command> {
        Self::command(self, program)
    }

    fn is_running(&self) -> bool {
        self.pid().is_some()
    }
}

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    name: String,
    number: usize,
    addresses: Vec<IpAddr>,
    transport: Vec<IpAddr>,
    host: Box<dyn NodeHost>,
}

impl Node {
    pub(crate) fn new(
        name: String,
        number: usize,
        addressing: Addressing,
        host: Box<dyn NodeHost>,
    ) -> Self {
        Self {
            name,
            number,
            addresses: addressing
                .node(number)
                .iter()
                .map(ipnet::IpNet::addr)
                .collect(),
            transport: addressing
                .node_transport(number)
                .iter()
                .map(ipnet::IpNet::addr)
                .collect(),
            host,
        }
    }

    /// What it is made of.
    pub(crate) fn host(&self) -> &dyn NodeHost {
        &*self.host
    }

    /// Its name, also in Kubernetes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, counted from 1.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its addresses on the management network (`eth0`), those Kubernetes knows, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its addresses on the transport network (`eth1`), IPv4 first.
    #[must_use]
    pub fn transport_addresses(&self) -> &[IpAddr] {
        &self.transport
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.host.is_running()
    }

    /// A command on the node, in the host's namespaces there.
    ///
    /// # Errors
    /// When the node does not run.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        self.host.command(program.as_ref())
    }

    /// Runs a command, its words first; its standard output.
    ///
    /// # Errors
    /// When the node does not run or the command fails; what it said is part of the error.
    pub fn exec<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        let (program, args) = words.split_first().context("an empty command")?;
        crate::exec::output(self.command(program)?.args(args))
            .with_context(|| format!("on {}", self.name))
    }

    /// Ends a component ([`KUBELET`], [`CONTAINERD`]) and keeps it down.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_component(&self, component: &str, signal: Signal) -> Result<()> {
        self.host.stop_component(component, signal)
    }

    /// Lets a stopped component start again.
    ///
    /// # Errors
    /// When the node does not run.
    pub fn start_component(&self, component: &str) -> Result<()> {
        self.host.start_component(component)
    }

    /// Imports an image archive unless the node has that image already.
    ///
    /// # Errors
    /// When containerd refuses it.
    pub fn load_image(&self, archive: &Archive) -> Result<()> {
        let images = self.exec(&["ctr", "-n", "k8s.io", "images", "ls"])?;
        let here = |name: &String| {
            images.lines().any(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some(name) && words.any(|word| word == archive.digest())
            })
        };
        if archive.names().iter().all(here) {
            return Ok(());
        }
        let file = archive.path().display().to_string();
        self.exec(&[
            "ctr",
            "-n",
            "k8s.io",
            "images",
            "import",
            "--no-unpack=false",
            &file,
        ])
        .or_else(|_| self.exec(&["ctr", "-n", "k8s.io", "images", "import", &file]))
        .with_context(|| format!("load {} on {}", archive.name(), self.name))
        .map(drop)
    }
}

/// Issues a node's certificates, writes its configuration and says how to run it.
pub fn blueprint(
    spec: &ClusterSpec,
    addressing: Addressing,
    node: &Node,
    pki: &Pki,
    bin: &Path,
    pause: &str,
    preloaded: Option<Preloaded>,
) -> Result<Blueprint> {
    let (name, state) = (node.name(), node.host.state());
    let addresses = node.addresses();
    let user = format!("system:node:{name}");
    pki.issue(
        name,
        Subject {
            name: &user,
            group: Some("system:nodes"),
        },
        &[name],
        addresses,
    )?;
    let kubeconfig = pki.kubeconfig(name, &addressing.api_server(), &spec.name)?;
    std::fs::create_dir_all(state)?;
    let (runtime, kubelet) = (state.join("containerd.toml"), state.join("kubelet.json"));
    crate::exec::write(&runtime, containerd_config(pause))?;
    crate::exec::write(
        &kubelet,
        serde_json::to_vec_pretty(&kubelet_config(spec, addressing, node, pki))?,
    )?;
    let node_ip = addresses
        .iter()
        .map(IpAddr::to_string)
        .collect::<Vec<_>>()
        .join(",");
    let kubelet_flags = [
        format!("--config={}", kubelet.display()),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--hostname-override={name}"),
        format!("--node-ip={node_ip}"),
        "--v=2".to_owned(),
    ];
    // The loopback plugin is the runtime's own need; everything else in /opt/cni/bin is the network's.
    let prepare = "mkdir -p /opt/cni/bin /etc/cni/net.d\n\
                   [ -e /opt/cni/bin/loopback ] || cp /usr/lib/cni/loopback /opt/cni/bin/loopback\n";
    let socket = "until [ -S /run/containerd/containerd.sock ]; do sleep 0.05; done\n";
    let components = vec![
        Component {
            name: CONTAINERD,
            script: control_plane::script(
                prepare,
                Path::new("/usr/bin/containerd"),
                &["--config".to_owned(), runtime.display().to_string()],
            ),
        },
        Component {
            name: KUBELET,
            script: control_plane::script(socket, &bin.join(KUBELET), &kubelet_flags),
        },
    ];
    let kept = vec![
        ("containerd", "/var/lib/containerd"),
        ("kubelet", "/var/lib/kubelet"),
        ("carrick", "/var/lib/carrick"),
        ("cni-conf", "/etc/cni"),
        ("cni-bin", "/opt/cni"),
    ];
    let mut hosts = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for address in addresses {
        hosts.extend([&address.to_string(), " ", name, "\n"]);
    }
    Ok(Blueprint {
        kept,
        hosts,
        components,
        preloaded,
    })
}

fn containerd_config(pause: &str) -> String {
    // Plugins that this machine's kernel has no use for only warn in the log.
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Root here may lack CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"#
    )
}

fn kubelet_config(
    spec: &ClusterSpec,
    addressing: Addressing,
    node: &Node,
    pki: &Pki,
) -> serde_json::Value {
    let name = node.name();
    let file = |suffix: &str| pki.file(&format!("{name}.{suffix}"));
    let taints = match spec.startup_taint {
        StartupTaint::Enabled => json!([{"key": STARTUP_TAINT, "effect": "NoSchedule"}]),
        StartupTaint::Disabled => json!([]),
    };
    let dns = match spec.dns {
        ClusterDns::None => Vec::new(),
        ClusterDns::CoreDns => addressing.cluster_dns(),
    };
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.file("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": file("crt"),
        "tlsPrivateKeyFile": file("key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.host.pod_cgroup(),
        "failSwapOn": false,
        "failCgroupV1": false,
        "enforceNodeAllocatable": [],
        "resolvConf": "/etc/resolv.conf",
        "clusterDomain": "cluster.local",
        "clusterDNS": dns,
        // The disk and memory are the developer's, not the node's: nothing is evicted.
        "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%",
                         "imagefs.inodesFree": "0%", "memory.available": "1Mi"},
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": false,
        "maxPods": 250,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "registerWithTaints": taints,
    })
}
