//! A cluster: brings it up, mends it, takes it down, and hands out what tests need of it.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::addons::Addons;
use crate::addressing::Addressing;
use crate::archive::Archive;
use crate::binaries::{self, Binaries};
use crate::control_plane;
use crate::destroy::{self, Extent};
use crate::exec;
use crate::guest::Guest;
use crate::images;
use crate::kernel;
use crate::links::{self, Limit, Link};
use crate::machine::Machine;
use crate::names;
use crate::node::{self, Node, NodeHost};
use crate::paths;
use crate::pki::Pki;
use crate::preloaded::Preloaded;
use crate::progress::Progress;
use crate::registry::{self, Record};
use crate::report;
use crate::retention;
use crate::spec::{ClusterSpec, NodeKind};

/// Runs whose logs are kept per cluster.
const KEPT_RUNS: usize = 5;
/// How long the API server may take on a busy machine.
const API_DEADLINE: Duration = Duration::from_mins(2);
/// How long a node may take to register on a busy machine.
const NODE_DEADLINE: Duration = Duration::from_mins(2);

/// A cluster that was brought up.
#[derive(Debug)]
pub struct Cluster {
    record: Record,
    dir: PathBuf,
    binaries: Binaries,
    control_plane: Machine,
    nodes: Vec<Node>,
    progress: Progress,
}

impl Cluster {
    /// Brings a cluster up, or mends it, and returns when its API server answers and every node is
    /// registered (NotReady: there is no network yet) and has its kube-proxy, if there is to be one.
    ///
    /// # Errors
    /// When a cluster of that name was brought up with another specification, a tool is missing, or
    /// something does not come up in time; the logs' end is part of the error.
    pub fn up(spec: &ClusterSpec, progress: &Progress) -> Result<Self> {
        spec.validate()?;
        spec.kinds().try_for_each(require_tools)?;
        let binaries = binaries::kubernetes(progress)?;
        if spec.kinds().any(|kind| kind == NodeKind::Kernel) {
            // Here, where building it can be told; machines only look it up.
            kernel::build(progress)?;
        }
        let locked = registry::lock(&spec.name)?;
        let record = match registry::read(&locked.dir) {
            Ok(Some(record)) => reuse(record, spec, &locked.dir, progress)?,
            Ok(None) => None,
            Err(error) => {
                progress.say(format!("{error:#}; starting afresh"));
                None
            }
        };
        let record = if let Some(record) = record {
            record
        } else {
            // What a crash, a reboot or a person left.
            destroy::destroy(&spec.name, &locked.dir, Extent::All, progress)?;
            registry::allocate(&locked, spec, new_run(&spec.name)?)?
        };
        let cluster = Self::assemble(record, locked.dir.clone(), binaries, progress.clone());
        cluster.raise().with_context(|| cluster.report())?;
        Ok(cluster)
    }

    /// Brings up a cluster on which nothing was done before: one of this name goes first. A test that was killed
    /// leaves its cluster, and what is on it, to the next of the same name.
    ///
    /// # Errors
    /// As [`Cluster::down`] and [`Cluster::up`].
    pub fn up_afresh(spec: &ClusterSpec, progress: &Progress) -> Result<Self> {
        spec.validate()?;
        if !Self::leftovers(&spec.name)?.is_empty() {
            Self::down(&spec.name, progress)?;
        }
        Self::up(spec, progress)
    }

    /// A cluster that was brought up before, running or not.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn open(name: &str, progress: &Progress) -> Result<Self> {
        names::validate(name)?;
        let dir = paths::clusters()?.join(name);
        let Some(record) = registry::read(&dir)? else {
            bail!("there is no cluster {name}; `cargo xtask cluster up --name {name}` makes one")
        };
        let binaries = binaries::kubernetes(progress)?;
        Ok(Self::assemble(record, dir, binaries, progress.clone()))
    }

    /// Removes a cluster with everything it has on this host but its logs. Absent is fine.
    ///
    /// # Errors
    /// When something could not be removed; everything else is.
    pub fn down(name: &str, progress: &Progress) -> Result<()> {
        let locked = registry::lock(name)?;
        progress.say(format!("removing cluster {name}"));
        destroy::destroy(name, &locked.dir, Extent::All, progress)
    }

    /// What is left of a cluster on this host: empty after [`Cluster::down`].
    ///
    /// # Errors
    /// When the name is not one.
    pub fn leftovers(name: &str) -> Result<Vec<String>> {
        names::validate(name)?;
        Ok(destroy::leftovers(name, &paths::clusters()?.join(name)))
    }

    fn assemble(record: Record, dir: PathBuf, binaries: Binaries, progress: Progress) -> Self {
        let name = &record.spec.name;
        let addressing = Addressing::new(record.index, record.spec.family);
        let control_plane = Machine::new(name, names::CONTROL_PLANE, &dir);
        let nodes = (1..=record.spec.nodes)
            .map(|number| {
                let node = names::node(number);
                let host: Box<dyn NodeHost> = match record.spec.kind_of(number) {
                    NodeKind::Namespace => Box::new(Machine::new(name, &node, &dir)),
                    NodeKind::Kernel => Box::new(Guest::new(name, &node, record.index, &dir)),
                };
                Node::new(node, number, addressing, host)
            })
            .collect();
        Self {
            record,
            dir,
            binaries,
            control_plane,
            nodes,
            progress,
        }
    }

    fn raise(&self) -> Result<()> {
        let spec = &self.record.spec;
        let addressing = self.addressing();
        self.progress.say(format!(
            "cluster {}: {} {}, {}, API server {}",
            spec.name,
            spec.nodes,
            spec.kind,
            spec.family,
            addressing.api_server()
        ));
        let pki = Pki::open(&self.dir.join("pki"))?;
        let pause = images::pause(&self.binaries)?;
        let addons = Addons::make(spec, &self.progress)?;
        let images = self.images(&pause, &addons)?;
        let preloaded = spec
            .kinds()
            .map(|kind| Ok((kind, Preloaded::make(kind, &images, &self.progress)?)))
            .collect::<Result<Vec<_>>>()?;
        if self.control_plane.pid().is_none() {
            // The fabric holds the other end of every link: all or nothing.
            destroy::destroy(&spec.name, &self.dir, Extent::Running, &self.progress)?;
            links::add_fabric(&spec.name, self.record.index, addressing)?;
            let blueprint = control_plane::blueprint(spec, addressing, &pki, self.binaries.dir())?;
            let logs = self.new_logs(names::CONTROL_PLANE)?;
            self.control_plane
                .start(&blueprint, &logs, &self.progress)
                .context("start the control plane")?;
        }
        // At once: kernels take their time to boot.
        let stopped = self.nodes.iter().filter(|node| !node.is_running());
        in_parallel(stopped, |node| {
            let kind = spec.kind_of(node.number());
            let preloaded = preloaded.iter().find(|(of, _)| *of == kind);
            self.boot(node, &pki, &pause, preloaded.map(|(_, set)| set.clone()))
        })?;
        self.progress
            .say("machines started; waiting for the API server and the nodes");
        thread::scope(|scope| {
            // Nodes that ran before have other images; meanwhile the kubelets register.
            let loading = scope.spawn(|| images.iter().try_for_each(|image| self.load(image)));
            let api = self
                .wait_api_server()
                .and_then(|()| self.wait_registered())
                .and_then(|()| addons.apply(self, &self.progress));
            let loaded = loading
                .join()
                .unwrap_or_else(|_| Err(anyhow!("loading images panicked")));
            api.and(loaded)
        })?;
        self.progress.say(format!(
            "cluster {} is up: {} nodes registered",
            spec.name, spec.nodes
        ));
        Ok(())
    }

    /// Starts a node from its disk, whatever is left of it.
    fn boot(
        &self,
        node: &Node,
        pki: &Pki,
        pause: &Archive,
        preloaded: Option<Preloaded>,
    ) -> Result<()> {
        node.host().kill(&self.progress)?;
        let blueprint = node::blueprint(
            self.spec(),
            self.addressing(),
            node,
            pki,
            self.binaries.dir(),
            pause.name(),
            preloaded,
        )?;
        let logs = self.new_logs(node.name())?;
        node.host()
            .boot(
                node.number(),
                self.addressing(),
                &blueprint,
                &logs,
                &self.progress,
            )
            .with_context(|| format!("start {}", node.name()))
    }

    /// What nodes have from the start: the sandbox image first.
    fn images(&self, pause: &Archive, addons: &Addons) -> Result<Vec<Archive>> {
        let asked = self.spec().images.iter();
        std::iter::once(pause)
            .chain(addons.images())
            .map(|image| Ok(image.clone()))
            .chain(asked.map(|path| Archive::open(path)))
            .collect()
    }

    /// The directory of a machine's logs in this run.
    fn new_logs(&self, machine: &str) -> Result<PathBuf> {
        let logs = self.record.logs.join(machine);
        fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
        Ok(logs)
    }

    fn wait_api_server(&self) -> Result<()> {
        self.progress.wait("the API server", API_DEADLINE, || {
            self.check_alive()?;
            Ok(self
                .kubectl(&["get", "--raw=/readyz"])
                .err()
                .map(|error| last_line(&format!("{error:#}"))))
        })
    }

    fn wait_registered(&self) -> Result<()> {
        self.progress
            .wait("the nodes to register", NODE_DEADLINE, || {
                self.check_alive()?;
                let listed = match self.kubectl(&["get", "nodes", "-o=name"]) {
                    Ok(listed) => listed,
                    Err(error) => return Ok(Some(last_line(&format!("{error:#}")))),
                };
                let missing: Vec<_> = self
                    .nodes
                    .iter()
                    .map(Node::name)
                    .filter(|name| {
                        !listed
                            .lines()
                            .any(|line| line.strip_prefix("node/") == Some(name))
                    })
                    .collect();
                Ok((!missing.is_empty()).then(|| format!("{} not yet", missing.join(", "))))
            })
    }

    fn check_alive(&self) -> Result<()> {
        if self.control_plane.pid().is_none() {
            bail!("the control plane's process 1 has ended");
        }
        if let Some(node) = self.nodes.iter().find(|node| !node.is_running()) {
            bail!("process 1 of {} has ended", node.name());
        }
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.record.spec.name
    }

    /// What was asked for.
    #[must_use]
    pub fn spec(&self) -> &ClusterSpec {
        &self.record.spec
    }

    /// Its addresses.
    #[must_use]
    pub fn addressing(&self) -> Addressing {
        Addressing::new(self.record.index, self.record.spec.family)
    }

    /// The API server's address: what `apiServer.host` of the chart takes.
    #[must_use]
    pub fn api_host(&self) -> IpAddr {
        self.addressing().api_host()
    }

    /// A kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("pki/admin.conf")
    }

    /// Etcd, kube-apiserver, kube-controller-manager and kube-scheduler; also a machine outside the
    /// pod network that nodes reach over management.
    #[must_use]
    pub fn control_plane(&self) -> &Machine {
        &self.control_plane
    }

    /// The nodes, node1 first.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .with_context(|| {
                format!(
                    "cluster {} has no node {name:?}; it has node1 to node{}",
                    self.name(),
                    self.nodes.len()
                )
            })
    }

    /// The programs the cluster runs, and kubectl.
    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// A kubectl of an administrator; arguments and streams are the caller's.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.binaries.kubectl());
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--request-timeout=20s");
        command
    }

    /// Runs kubectl as an administrator; its standard output.
    ///
    /// # Errors
    /// When kubectl fails; what it said is part of the error.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        exec::output(self.kubectl_command().args(args))
    }

    /// Runs kubectl with text on its standard input (`apply -f -`).
    ///
    /// # Errors
    /// When kubectl fails; what it said is part of the error.
    pub fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        exec::output_with_input(self.kubectl_command().args(args), input)
    }

    /// Loads an image archive on every node at once; a node that has it does nothing.
    ///
    /// # Errors
    /// When the file is no OCI archive, or a node's runtime refuses it.
    pub fn load_image(&self, path: &Path) -> Result<Archive> {
        let archive = Archive::open(path)?;
        self.load(&archive)?;
        Ok(archive)
    }

    fn load(&self, archive: &Archive) -> Result<()> {
        in_parallel(self.nodes.iter(), |node| {
            let what = format!("containerd on {}", node.name());
            self.progress.wait(&what, NODE_DEADLINE, || {
                self.check_alive()?;
                Ok(node
                    .exec(&["ctr", "version"])
                    .err()
                    .map(|error| last_line(&format!("{error:#}"))))
            })?;
            node.load_image(archive)
        })
    }

    /// Cuts a node's link silently: its carrier stays, frames vanish.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn cut_link(&self, node: &str, link: Link) -> Result<()> {
        links::cut(self.name(), self.node(node)?.number(), link)
    }

    /// Takes a node's carrier away, as pulling the cable out.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn unplug_link(&self, node: &str, link: Link) -> Result<()> {
        links::set_carrier(self.name(), self.node(node)?.number(), link, "down")
    }

    /// Limits what reaches a node over a link.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn limit_link(&self, node: &str, link: Link, limit: Limit) -> Result<()> {
        links::limit(self.name(), self.node(node)?.number(), link, limit)
    }

    /// Makes a link whole: plugged in, on its bridge, without limits.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn restore_link(&self, node: &str, link: Link) -> Result<()> {
        links::restore(self.name(), self.node(node)?.number(), link)
    }

    /// Ends a node as a power failure does and starts it again: disk state stays, memory (`/run`,
    /// links, processes) does not. A kernel node has another boot id then; that of a namespace node
    /// is the host's and stays.
    ///
    /// # Errors
    /// When there is no such node or it does not come up.
    pub fn restart_node(&self, node: &str) -> Result<()> {
        let pki = Pki::open(&self.dir.join("pki"))?;
        self.boot(
            self.node(node)?,
            &pki,
            &images::pause(&self.binaries)?,
            None,
        )
    }

    /// The directory of this run's logs: one per machine, with a file per component, and pods' logs.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.record.logs
    }

    /// Where the logs are and how each component's ends: for errors and failed tests.
    #[must_use]
    pub fn report(&self) -> String {
        let machines =
            std::iter::once(names::CONTROL_PLANE).chain(self.nodes.iter().map(Node::name));
        report::text(self.logs(), machines)
    }
}

/// Does something for several nodes at the same time.
fn in_parallel<'a>(
    nodes: impl Iterator<Item = &'a Node>,
    work: impl Fn(&Node) -> Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let handles: Vec<_> = nodes.map(|node| scope.spawn(|| work(node))).collect();
        let results: Vec<Result<()>> = handles
            .into_iter()
            .map(|handle| {
                handle
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
            })
            .collect();
        results.into_iter().collect()
    })
}

/// Keeps the record of a cluster that can be mended; `None` when it must be made anew.
fn reuse(
    mut record: Record,
    spec: &ClusterSpec,
    dir: &Path,
    progress: &Progress,
) -> Result<Option<Record>> {
    if record.boot_id != registry::boot_id()? {
        progress.say("the host was rebooted since; starting afresh");
        return Ok(None);
    }
    let old = &record.spec;
    let same = ClusterSpec {
        nodes: spec.nodes,
        images: spec.images.clone(),
        ..old.clone()
    } == *spec;
    if !same || spec.nodes < old.nodes {
        bail!(
            "cluster {} exists with {} {}, {}, /{}, kube-proxy {}; take it down first: cargo xtask cluster down --name {}",
            old.name,
            old.nodes,
            old.kind,
            old.family,
            old.node_mask_v4,
            old.kube_proxy,
            old.name
        );
    }
    record.spec = spec.clone();
    fs::create_dir_all(&record.logs)
        .with_context(|| format!("create {}", record.logs.display()))?;
    registry::write(dir, &record)?;
    Ok(Some(record))
}

/// Makes the directory of a new run's logs and drops the oldest runs'.
fn new_run(cluster: &str) -> Result<PathBuf> {
    let root = paths::logs(cluster)?;
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    let runs = fs::read_dir(&root)
        .with_context(|| format!("read {}", root.display()))?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| (entry.file_name(), entry.path()));
    retention::keep_newest(runs, KEPT_RUNS - 1)?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let run = root.join(format!("{:013}", now.as_millis()));
    fs::create_dir_all(&run).with_context(|| format!("create {}", run.display()))?;
    binaries::relink(&run, &root.join("latest"))?;
    Ok(run)
}

fn require_tools(kind: NodeKind) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("namespaces, links and cgroups need root: run this as root");
    }
    let guests: &[_] = match kind {
        NodeKind::Namespace => &[],
        NodeKind::Kernel => &[
            ("mkfs.ext4", "e2fsprogs"),
            ("ssh", "openssh-client"),
            ("ssh-keygen", "openssh-client"),
            ("sshd", "openssh-server"),
            ("taskset", "util-linux"),
        ],
    };
    let all = [
        ("ip", "iproute2"),
        ("tc", "iproute2"),
        ("nft", "nftables"),
        ("nsenter", "util-linux"),
        ("unshare", "util-linux"),
        ("setsid", "util-linux"),
        ("containerd", "containerd"),
        ("ctr", "containerd"),
        ("runc", "runc"),
    ];
    for (program, package) in all.iter().chain(guests) {
        exec::require(program, package)?;
    }
    if !Path::new("/usr/lib/cni/loopback").exists() {
        bail!(
            "/usr/lib/cni/loopback is missing: run hack/install, or apt-get install containernetworking-plugins"
        );
    }
    Ok(())
}

fn last_line(text: &str) -> String {
    text.trim()
        .lines()
        .last()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect()
}
