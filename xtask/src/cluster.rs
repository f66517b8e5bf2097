//! `cargo xtask cluster`: a real Kubernetes on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use carrick_testbed::{
    Cluster, ClusterDns, ClusterSpec, IpFamily, KubeProxy, Limit, Link, NodeKind, Progress,
    StartupTaint, registry,
};
use clap::{Subcommand, ValueEnum};

/// Arguments of `cluster`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the cluster.
    #[arg(long, global = true, default_value = "dev")]
    name: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a cluster up, or mend it; its nodes are NotReady until a network is installed.
    Up {
        /// Number of nodes.
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// Address families: v4, v6 or dual.
        #[arg(long, default_value = "v4")]
        ip_family: IpFamily,
        /// Prefix length of a node's IPv4 pod CIDR.
        #[arg(long, default_value_t = 24)]
        node_cidr_mask: u8,
        /// Register nodes with the taint carrick.dev/agent-not-ready:NoSchedule.
        #[arg(long)]
        startup_taint: bool,
        /// Nodes with a kernel of their own (User-Mode Linux) instead of namespaces: the kernel
        /// datapath, real reboots.
        #[arg(long)]
        kernel: bool,
        /// kube-proxy on every node, as kubeadm runs it: nftables, iptables or none.
        #[arg(long, default_value = "none")]
        kube_proxy: KubeProxy,
        /// CoreDNS, which needs somebody who serves cluster IPs.
        #[arg(long)]
        dns: bool,
    },
    /// Remove a cluster and everything it has on this machine but its logs.
    Down {
        /// Every cluster.
        #[arg(long)]
        all: bool,
    },
    /// Say which clusters there are and how they are.
    Status,
    /// A shell on a node (or on control-plane), or one command: shell node1 -- ip address.
    Shell {
        /// The node.
        node: String,
        /// The command.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Load image archives (oci-archive) on every node.
    Load {
        /// The files.
        #[arg(required = true)]
        images: Vec<PathBuf>,
    },
    /// Print the path of an administrator's kubeconfig.
    Kubeconfig,
    /// Print the directory of the current run's logs, or one component's log.
    Logs {
        /// The machine: a node or control-plane.
        machine: Option<String>,
        /// The component: kubelet, containerd, etcd, kube-apiserver, ….
        #[arg(requires = "machine")]
        component: Option<String>,
    },
    /// Cut, limit or restore a node's link.
    Link {
        /// The node.
        node: String,
        /// Which of its links.
        link: LinkName,
        /// What to do to it.
        #[command(subcommand)]
        action: LinkAction,
    },
    /// Kill a node and start it again with its disk.
    Restart {
        /// The node.
        node: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LinkName {
    Management,
    Transport,
}

#[derive(Debug, Subcommand)]
enum LinkAction {
    /// Frames vanish; the interface keeps its carrier.
    Cut,
    /// The interface loses its carrier.
    Unplug,
    /// At most so many kbit/s towards the node.
    Rate {
        /// Thousands of bits per second.
        kbit: u32,
    },
    /// So many percent of the packets towards the node are lost.
    Loss {
        /// Percent.
        #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
        percent: u8,
    },
    /// Longer packets towards the node are lost silently.
    Size {
        /// Bytes of an IP packet.
        #[arg(value_parser = clap::value_parser!(u16).range(68..))]
        bytes: u16,
    },
    /// As it was.
    Restore,
}

/// Runs a cluster verb.
pub fn run(args: Args) -> Result<ExitCode> {
    let progress = Progress::stderr();
    let name = args.name;
    let open = || Cluster::open(&name, &progress);
    match args.verb {
        Verb::Up {
            nodes,
            ip_family,
            node_cidr_mask,
            startup_taint,
            kernel,
            kube_proxy,
            dns,
        } => {
            let spec = ClusterSpec {
                nodes,
                family: ip_family,
                node_mask_v4: node_cidr_mask,
                startup_taint: if startup_taint {
                    StartupTaint::Enabled
                } else {
                    StartupTaint::Disabled
                },
                kind: if kernel {
                    NodeKind::Kernel
                } else {
                    NodeKind::Namespace
                },
                kube_proxy,
                dns: if dns {
                    ClusterDns::CoreDns
                } else {
                    ClusterDns::None
                },
                ..ClusterSpec::new(&name)
            };
            let cluster = Cluster::up(&spec, &progress)?;
            progress.say(format!(
                "export KUBECONFIG={}",
                cluster.kubeconfig().display()
            ));
        }
        Verb::Down { all } => {
            let names = if all { registry::list()? } else { vec![name] };
            let mut failed = Vec::new();
            for name in names {
                if let Err(error) = Cluster::down(&name, &progress) {
                    failed.push(format!("{error:#}"));
                }
            }
            if !failed.is_empty() {
                bail!("{}", failed.join("\n"));
            }
        }
        Verb::Status => status(&progress)?,
        Verb::Shell { node, command } => return shell(&open()?, &node, &command),
        Verb::Load { images } => {
            let cluster = open()?;
            for image in images {
                let archive = cluster.load_image(&image)?;
                crate::print(archive.name())?;
            }
        }
        Verb::Kubeconfig => crate::print(open()?.kubeconfig().display())?,
        Verb::Logs { machine, component } => {
            let cluster = open()?;
            match (machine, component) {
                (Some(machine), Some(component)) => {
                    let file = cluster
                        .logs()
                        .join(machine)
                        .join(format!("{component}.log"));
                    let bytes =
                        std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
                    crate::print(String::from_utf8_lossy(&bytes))?;
                }
                (Some(machine), None) => crate::print(cluster.logs().join(machine).display())?,
                _ => crate::print(cluster.logs().display())?,
            }
        }
        Verb::Link { node, link, action } => {
            let cluster = open()?;
            let link = match link {
                LinkName::Management => Link::Management,
                LinkName::Transport => Link::Transport,
            };
            match action {
                LinkAction::Cut => cluster.cut_link(&node, link)?,
                LinkAction::Unplug => cluster.unplug_link(&node, link)?,
                LinkAction::Rate { kbit } => {
                    cluster.limit_link(&node, link, Limit::Rate { kbit })?;
                }
                LinkAction::Loss { percent } => {
                    cluster.limit_link(&node, link, Limit::Loss { percent })?;
                }
                LinkAction::Size { bytes } => {
                    cluster.limit_link(&node, link, Limit::Size { bytes })?;
                }
                LinkAction::Restore => cluster.restore_link(&node, link)?,
            }
        }
        Verb::Restart { node } => open()?.restart_node(&node)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn shell(cluster: &Cluster, node: &str, command: &[String]) -> Result<ExitCode> {
    let machine = cluster.control_plane();
    let program = command.first().map_or("bash", String::as_str);
    let mut command_line = if node == machine.name() {
        machine.command(program)?
    } else {
        cluster.node(node)?.command(program)?
    };
    let status = command_line
        .args(command.iter().skip(1))
        .env("KUBECONFIG", cluster.kubeconfig())
        .status()
        .context("start the node's shell")?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

fn status(progress: &Progress) -> Result<()> {
    let names = registry::list()?;
    if names.is_empty() {
        progress.say("no cluster; `cargo xtask cluster up` makes one");
    }
    for name in names {
        let cluster = match Cluster::open(&name, progress) {
            Ok(cluster) => cluster,
            Err(error) => {
                crate::print(format!("{name}: {error:#}"))?;
                continue;
            }
        };
        let spec = cluster.spec();
        let state = |running: bool| if running { "running" } else { "not running" };
        crate::print(format!(
            "{name}: {} {}, {}, {}, control plane {}",
            spec.nodes,
            spec.kind,
            spec.family,
            cluster.addressing().api_server(),
            state(cluster.control_plane().pid().is_some())
        ))?;
        crate::print(format!("  kubeconfig {}", cluster.kubeconfig().display()))?;
        crate::print(format!("  logs       {}", cluster.logs().display()))?;
        for node in cluster.nodes() {
            let addresses: Vec<_> = node.addresses().iter().map(ToString::to_string).collect();
            crate::print(format!(
                "  {:<10} {:<11} {}",
                node.name(),
                state(node.is_running()),
                addresses.join(" ")
            ))?;
        }
        match cluster.kubectl(&["get", "nodes", "-o=wide"]) {
            Ok(nodes) => crate::print(nodes.trim_end())?,
            Err(error) => crate::print(format!("  API server: {error:#}"))?,
        }
    }
    Ok(())
}
