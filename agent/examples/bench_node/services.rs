//! Services: our agent and switch against kube-proxy, fed by one real API server.

mod load;
mod peer;
mod reach;

use std::path::Path;
use std::time::{Duration, Instant};

use carrick_testkit::figure::{Goal, figure};
use serde_json::{Value, json};

use crate::lab::controller::{Controller, node_record};
use crate::lab::kubernetes::Relay;
use crate::lab::{LabNode, must, wait_within};
use crate::node::Programs;
use crate::process;
use load::Load;
use peer::{KubeProxy, Mode};

/// How long our cold sync may take before it counts as a failure.
const PATIENCE: Duration = Duration::from_mins(5);
/// How long kube-proxy may take before it is given up. Debian's iptables-restore, which writes nftables,
/// takes minutes for a hundred thousand rules.
const PEERS_PATIENCE: Duration = Duration::from_mins(3);
/// How often a sync is looked for.
const POLL: Duration = Duration::from_millis(50);
/// Changes of endpoints per second, and for how long, while processors are watched.
const CHANGES: u32 = 100;
const WATCHED: Duration = Duration::from_secs(20);
/// How often one endpoint is added.
const ADDED: usize = 100;
/// What nodes are called, and the address that each has: each stands in a namespace of its own.
const NODE: &str = "node1";
const NODE_IP: &str = "172.31.0.1";

/// Cold syncs at the usual size and what changes cost, or cold syncs at the largest size.
pub async fn figures(programs: &Programs, kube_proxy: &Path, large: bool) -> Vec<Value> {
    if large {
        let load = Load::new(5_000, 50).await;
        return cold(programs, kube_proxy, &load).await;
    }
    let load = Load::new(1_000, 50).await;
    let mut figures = cold(programs, kube_proxy, &load).await;
    drop(load);
    let mut load = Load::new(5_000, 2).await;
    figures.extend(warm(programs, kube_proxy, &mut load).await);
    figures
}

/// From the start of the process to the last rule, and what is held in memory then.
async fn cold(programs: &Programs, kube_proxy: &Path, load: &Load) -> Vec<Value> {
    let (ours, took) = Ours::start(programs, load).await;
    let held = (ours.memory(), ours.memory_with_switch());
    drop(ours);
    let mut figures = Vec::new();
    let size = format!(
        "{} Services / {} endpoints",
        load.services(),
        load.endpoints()
    );
    let large = load.services() >= 5_000;
    for mode in Mode::ALL {
        let peer = KubeProxy::start(kube_proxy, mode, load).await;
        let goal = if large && mode == Mode::Nftables {
            Goal::OursAtMost(30.0)
        } else {
            Goal::RatioAtMost(1.0)
        };
        let given_up = if peer.is_synced { "" } else { " (given up)" };
        figures.push(figure(
            &format!("cold sync of {size}, kube-proxy {mode}{given_up}"),
            "s",
            took.as_secs_f64(),
            Some(peer.took.as_secs_f64()),
            goal,
        ));
        let goals = if large {
            [Goal::OursAtMost(250.0), Goal::OursAtMost(600.0)]
        } else {
            [Goal::None, Goal::None]
        };
        let parts = [("the agent", held.0), ("agent and ovs-vswitchd", held.1)];
        for ((what, ours), goal) in parts.into_iter().zip(goals) {
            let name = format!(
                "resident memory of {what} with {size}, kube-proxy {mode} without its rules"
            );
            figures.push(figure(&name, "MB", ours, Some(peer.memory()), goal));
        }
    }
    figures
}

/// What changes cost, and how soon they are there, among all Services.
async fn warm(programs: &Programs, kube_proxy: &Path, load: &mut Load) -> Vec<Value> {
    let (ours, _) = Ours::start(programs, load).await;
    let our_delays = reach::delays(load, ours.node.netns(), ADDED).await;
    let our_cost = cost(load, || ours.processor()).await;
    drop(ours);
    let mut figures = Vec::new();
    for mode in Mode::ALL {
        let peer = KubeProxy::start(kube_proxy, mode, load).await;
        assert!(peer.is_synced, "kube-proxy {mode} took too long");
        let delays = reach::delays(load, peer.netns(), ADDED).await;
        let cost = cost(load, || peer.processor()).await;
        let among = format!(
            "one endpoint added among {} Services, kube-proxy {mode}",
            load.services()
        );
        for (name, at) in [("p50", 0.5), ("p99", 0.99)] {
            let goal = match (name, mode) {
                ("p99", Mode::Nftables) => Goal::OursAtMost(50.0),
                ("p99", Mode::Iptables) => Goal::RatioAtMost(0.5),
                _ => Goal::None,
            };
            figures.push(figure(
                &format!("{among}: event to first packet, {name}"),
                "ms",
                quantile(&our_delays, at),
                Some(quantile(&delays, at)),
                goal,
            ));
        }
        figures.push(figure(
            &format!("processors for {CHANGES} endpoint changes/s, agent and ovs-vswitchd, kube-proxy {mode}"),
            "% of one",
            our_cost,
            Some(cost),
            Goal::RatioAtMost(0.5),
        ));
    }
    figures
}

fn quantile(delays: &[Duration], at: f64) -> f64 {
    let mut sorted = delays.to_vec();
    sorted.sort();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a short list"
    )]
    let place = ((sorted.len() - 1) as f64 * at).round() as usize;
    sorted[place].as_secs_f64() * 1e3
}

/// Per cent of one processor while endpoints change.
async fn cost(load: &mut Load, spent: impl Fn() -> Duration) -> f64 {
    let (before, begun) = (spent(), Instant::now());
    load.churn(CHANGES, WATCHED).await;
    let (spent, passed) = (spent().saturating_sub(before), begun.elapsed());
    100.0 * spent.as_secs_f64() / passed.as_secs_f64()
}

/// A node with Carrick, in mode `Full`.
struct Ours {
    node: LabNode,
    _controller: Controller,
    _relay: Relay,
    _state: tempfile::TempDir,
}

impl Ours {
    /// Starts the agent and waits until every Service is served; how long that took.
    async fn start(programs: &Programs, load: &Load) -> (Self, Duration) {
        let mut node = LabNode::new(1);
        // What outlives a reboot in production lies on a disk, whatever `TMPDIR` says.
        let state = tempfile::tempdir_in("/var/tmp").unwrap();
        std::fs::remove_dir(&node.paths.state).unwrap();
        std::os::unix::fs::symlink(state.path(), &node.paths.state).unwrap();
        must(node.netns(), &transport());
        node.configure("logLevel", "info".into());
        node.configure(
            "serviceProxy",
            json!({"mode": "Full", "skipServices": [], "nodePortAddresses": []}),
        );
        node.run_program(&programs.carrick);
        node.use_kubeconfig(load.server.kubeconfig());
        let relay = Relay::open(node.netns(), &load.server).await;
        let controller = Controller::serve(&[&node]).await;
        controller.send(NODE, vec![node_record(1, &["10.10.1.0/24"])], vec![]);
        let begun = Instant::now();
        node.start_agent();
        tokio::task::block_in_place(|| {
            wait_within(PATIENCE, "Services to be served", || {
                node.condition("ServicesServed").0 == "True"
            });
        });
        let took = begun.elapsed();
        let ours = Self {
            node,
            _controller: controller,
            _relay: relay,
            _state: state,
        };
        let groups = ours.groups();
        assert!(
            groups >= load.services(),
            "{groups} groups for {} Services",
            load.services()
        );
        (ours, took)
    }

    fn groups(&self) -> usize {
        let target = self.node.ovs.target("br-int");
        let dump = self.node.ovs.ofctl(&["dump-groups", &target]).unwrap();
        dump.lines()
            .filter(|line| line.contains("group_id="))
            .count()
    }

    fn vswitchd(&self) -> u32 {
        self.node.ovs.vswitchd_pid().expect("vswitchd runs")
    }

    fn memory(&self) -> f64 {
        process::resident(self.node.agent_pid())
    }

    fn memory_with_switch(&self) -> f64 {
        self.memory() + process::resident(self.vswitchd())
    }

    fn processor(&self) -> Duration {
        process::processor(self.node.agent_pid()) + process::processor(self.vswitchd())
    }
}

/// The link to other nodes.
fn transport() -> String {
    format!(
        "ip link add eth1 type veth peer name wire1 && ethtool -K eth1 tx off >/dev/null && \
         ip addr add {NODE_IP}/24 dev eth1 && ip link set eth1 up && ip link set wire1 up && \
         ip route add default via 172.31.0.254 dev eth1 onlink"
    )
}
