//! What pods of two nodes get of their network in each traffic mode, and what a packet costs the
//! switch, against two bridges that do next to nothing.

use std::time::Duration;

use carrick_testkit::figure::{Goal, figure};
use carrick_testkit::ovs::{Datapath, Ovs};
use serde_json::Value;

use crate::bridges::{Bridges, Pipeline};
use crate::lab::controller::Controller;
use crate::lab::modes::{Case, Fabric, Families, Router, connect, start};
use crate::lab::{LabNode, Pod};
use crate::node::Programs;
use crate::transfer::{self, Kind, Server};

/// How often each is measured, in turns; the median counts.
const ROUNDS: usize = 5;
/// How long each time.
const LENGTH: Duration = Duration::from_secs(2);

/// Traffic modes, with their tunnels.
const MODES: [(&str, &str); 5] = [
    ("Encap", "Geneve"),
    ("Encap", "VXLAN"),
    ("Encap", "GRE"),
    ("NoEncap", "Geneve"),
    ("Hybrid", "Geneve"),
];

/// Measures all of it on the datapath of this machine; some minutes.
pub async fn figures(programs: &Programs) -> Vec<Value> {
    let mut figures = Vec::new();
    for (mode, protocol) in MODES {
        let case = Case {
            mode,
            protocol,
            fabric: Fabric::Wire,
            pods: Families::V4,
            transport: Families::V4,
        };
        eprintln!("{}", name(&case));
        let ours = Ours::start(programs, &case).await;
        let peers = [Pipeline::Normal, Pipeline::OneConntrack]
            .map(|pipeline| (pipeline, Bridges::new(pipeline, &case)));
        figures.extend(
            tokio::task::spawn_blocking(move || measure(&case, &ours, &peers))
                .await
                .unwrap(),
        );
    }
    figures
}

fn name(case: &Case) -> String {
    let datapath = match Datapath::under_test() {
        Datapath::Userspace => "userspace",
        Datapath::Kernel => "kernel",
    };
    let protocol = match case.mode {
        "Encap" => format!(" {}", case.protocol),
        _ => String::new(),
    };
    format!("{datapath}, {}{protocol}", case.mode)
}

/// Two nodes of ours with a pod each.
struct Ours {
    nodes: [LabNode; 2],
    pods: [String; 2],
    address: String,
    _controller: Controller,
    _router: Router,
}

impl Ours {
    async fn start(programs: &Programs, case: &Case) -> Self {
        let (mut a, mut b) = (LabNode::new(1), LabNode::new(2));
        let router = connect(case, [&a, &b]);
        a.run_program(&programs.carrick);
        b.run_program(&programs.carrick);
        let pods = [Pod::new("one"), Pod::new("two")];
        let controller = start(case, [&mut a, &mut b], [&[&pods[0]], &[&pods[1]]]).await;
        let (one, _) = a.add_pod(&pods[0]);
        let (two, addresses) = b.add_pod(&pods[1]);
        Self {
            pods: [one.0, two.0],
            address: addresses[0].clone(),
            nodes: [a, b],
            _controller: controller,
            _router: router,
        }
    }
}

/// A way between two pods.
struct Way<'a> {
    from: &'a str,
    address: &'a str,
    _server: Server,
}

impl<'a> Way<'a> {
    fn new(from: &'a str, to: &str, address: &'a str) -> Self {
        Self {
            from,
            address,
            _server: Server::start(to),
        }
    }

    fn measure(&self, kind: Kind) -> f64 {
        transfer::measure(kind, self.from, self.address, LENGTH)
    }
}

fn measure(case: &Case, ours: &Ours, peers: &[(Pipeline, Bridges); 2]) -> Vec<Value> {
    let mut ways = vec![Way::new(&ours.pods[0], &ours.pods[1], &ours.address)];
    ways.extend(peers.iter().map(|(_, peer)| {
        let [from, to] = &peer.pods;
        Way::new(from.name(), to.name(), &peer.address)
    }));
    let mut figures = Vec::new();
    for kind in Kind::ALL {
        let mut seen = vec![Vec::new(); ways.len()];
        for _ in 0..ROUNDS {
            for (way, seen) in ways.iter().zip(&mut seen) {
                seen.push(way.measure(kind));
            }
        }
        let medians: Vec<f64> = seen.iter_mut().map(|seen| median(seen)).collect();
        for ((pipeline, _), peer) in peers.iter().zip(&medians[1..]) {
            let name = format!("{}: {} (peer: {pipeline})", name(case), kind.name());
            figures.push(figure(
                &name,
                kind.unit(),
                medians[0],
                Some(*peer),
                goal(kind, *pipeline),
            ));
        }
    }
    let costs: Vec<Cost> = ours
        .nodes
        .iter()
        .map(|node| Cost::begin(&node.ovs))
        .collect();
    ways[0].measure(Kind::RequestResponse);
    for ((node, before), place) in ours.nodes.iter().zip(costs).zip(["client", "server"]) {
        figures.extend(before.end(&node.ovs).figures(&name(case), place));
    }
    figures
}

/// What issue and design ask for.
fn goal(kind: Kind, pipeline: Pipeline) -> Goal {
    match (kind, pipeline) {
        (Kind::Stream, Pipeline::Normal) => Goal::RatioAtLeast(0.95),
        (Kind::RequestResponse, Pipeline::OneConntrack) => Goal::RatioAtLeast(0.97),
        _ => Goal::None,
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What the packets of an established connection cost a switch.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    packets: f64,
    recirculated: f64,
    /// Masks of the datapath that were tried.
    tried: f64,
    /// Packets that tried some.
    looked_up: f64,
    /// Masks that the datapath has, where it tells.
    masks: Option<f64>,
}

impl Cost {
    /// What was counted before.
    fn begin(ovs: &Ovs) -> Self {
        let masks = Self::now(ovs).masks;
        // Flows that end meanwhile would take their counts along.
        ovs.appctl(&["revalidator/purge"]).unwrap();
        Self {
            masks,
            ..Self::now(ovs)
        }
    }

    fn now(ovs: &Ovs) -> Self {
        match Datapath::under_test() {
            Datapath::Userspace => Self::userspace(ovs),
            Datapath::Kernel => Self::kernel(ovs),
        }
    }

    /// What came since.
    fn end(self, ovs: &Ovs) -> Self {
        let now = Self::now(ovs);
        Self {
            packets: now.packets - self.packets,
            recirculated: now.recirculated - self.recirculated,
            tried: now.tried - self.tried,
            looked_up: now.looked_up - self.looked_up,
            masks: now
                .masks
                .map(|masks| masks.max(self.masks.unwrap_or(masks))),
        }
    }

    /// `dpif-netdev/pmd-stats-show`: a tunnel's packet that is unpacked counts as one more pass. What
    /// the exact-match cache answers tries no mask.
    fn userspace(ovs: &Ovs) -> Self {
        let text = ovs.appctl(&["dpif-netdev/pmd-stats-show"]).unwrap();
        let sum = |label: &str| -> f64 {
            let lines = text.lines().filter_map(|line| {
                let (name, value) = line.trim().split_once(": ")?;
                let value = value.split_whitespace().next()?;
                (name == label).then(|| value.parse::<f64>().ok())?
            });
            lines.sum()
        };
        let hits = sum("megaflow hits");
        let per_hit = sum("avg. subtable lookups per megaflow hit");
        Self {
            packets: sum("packets received"),
            recirculated: sum("packet recirculations"),
            tried: hits * per_hit,
            looked_up: sum("packets received") + sum("packet recirculations"),
            masks: None,
        }
    }

    /// `dpctl/show` counts a lookup for every pass, and the masks tried for all of them together.
    fn kernel(ovs: &Ovs) -> Self {
        let text = ovs.appctl(&["dpctl/show"]).unwrap();
        let number = |row: &str, label: &str| -> f64 {
            let line = text
                .lines()
                .map(str::trim)
                .find(|line| line.starts_with(row));
            let word = line.and_then(|line| line.split(label).nth(1));
            let word = word.and_then(|rest| rest.split_whitespace().next());
            word.and_then(|word| word.parse().ok()).unwrap_or_default()
        };
        let flows = ovs.appctl(&["dpctl/dump-flows", "-m"]).unwrap();
        let (mut packets, mut recirculated) = (0.0, 0.0);
        for line in flows.lines() {
            let count = line.split("packets:").nth(1);
            let count = count.and_then(|rest| rest.split(',').next()?.parse::<f64>().ok());
            let of = if line.contains("recirc_id(0)") {
                &mut packets
            } else {
                &mut recirculated
            };
            *of += count.unwrap_or_default();
        }
        Self {
            packets,
            recirculated,
            tried: number("masks:", "hit:"),
            looked_up: number("lookups:", "hit:") + number("lookups:", "missed:"),
            masks: Some(number("masks:", "total:")),
        }
    }

    fn figures(&self, name: &str, place: &str) -> Vec<Value> {
        let goals = match Datapath::under_test() {
            Datapath::Userspace => [Goal::None; 3],
            Datapath::Kernel => [
                Goal::OursAtMost(1.0),
                Goal::OursAtMost(4.0),
                Goal::OursAtMost(40.0),
            ],
        };
        let rows = [
            (
                "recirculations per packet",
                Some(self.recirculated / self.packets),
            ),
            ("masks tried per lookup", Some(self.tried / self.looked_up)),
            ("masks of the datapath", self.masks),
        ];
        rows.into_iter()
            .zip(goals)
            .filter_map(|((what, value), goal)| {
                let name = format!("{name}: {what}, {place}'s node");
                Some(figure(&name, "each", value?, None, goal))
            })
            .collect()
    }
}
