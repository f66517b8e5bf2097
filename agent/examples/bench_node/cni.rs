//! How long ADD and DEL take, against Debian's `bridge` with `host-local` driven alike.

use std::time::Duration;

use carrick_testkit::figure::{Goal, figure};
use carrick_testkit::netns::Scratch;
use serde_json::Value;

use crate::node::{CIDR, Measured, Programs, Sandbox};
use crate::plugin::{Plugin, Verb};

/// Ports already there, and what ADD may take then, in milliseconds.
const STEPS: [(usize, f64); 3] = [(10, 20.0), (100, 20.0), (250, 40.0)];
/// Commands one by one at each step.
const ROUNDS: usize = 50;
/// Commands at once.
const AT_ONCE: usize = 100;
/// How often all of them come at once.
const BURSTS: usize = 3;

/// What each command took, of ours and of the peer's.
#[derive(Default)]
struct Samples {
    ours: Vec<Duration>,
    peer: Vec<Duration>,
}

impl Samples {
    /// The least duration that `percent` of a hundred do not exceed, in milliseconds.
    fn percentile(&mut self, percent: usize) -> (f64, f64) {
        (at(&mut self.ours, percent), at(&mut self.peer, percent))
    }
}

fn at(samples: &mut [Duration], percent: usize) -> f64 {
    samples.sort();
    let index = (samples.len() * percent).div_ceil(100).saturating_sub(1);
    samples[index].as_secs_f64() * 1e3
}

/// Measures all of it; some minutes.
pub async fn figures(programs: &Programs) -> Vec<Value> {
    let node = Measured::start(programs).await;
    tokio::task::spawn_blocking({
        let ours = Plugin::ours(programs, &node.lab);
        move || measure(&node, &ours)
    })
    .await
    .unwrap()
}

fn measure(node: &Measured, ours: &Plugin) -> Vec<Value> {
    let data = tempfile::tempdir_in("/var/tmp").unwrap();
    let host = Scratch::new();
    host.exec("ip", &["link", "set", "lo", "up"]);
    let peer = Plugin::peer(&host.path(), CIDR, data.path());

    let burst = node.sandboxes("burst", AT_ONCE);
    // Of ours and of the peer's: a sandbox has one eth0.
    let there = STEPS[STEPS.len() - 1].0;
    let (our_pods, peer_pods) = (node.sandboxes("ours", there), node.sandboxes("peer", there));
    let mut figures = Vec::new();
    let mut held = 0;
    for (ports, goal) in STEPS {
        ours.each(Verb::Add, &our_pods[held..ports]);
        peer.each(Verb::Add, &peer_pods[held..ports]);
        held = ports;
        let (mut add, mut del) = (Samples::default(), Samples::default());
        for sandbox in &burst[..ROUNDS] {
            one(ours, sandbox, &mut add.ours, &mut del.ours);
            one(&peer, sandbox, &mut add.peer, &mut del.peer);
        }
        for percent in [50, 99] {
            let name = format!("ADD with {ports} ports there, p{percent} of {ROUNDS}");
            figures.push(milliseconds(
                &name,
                add.percentile(percent),
                Goal::OursAtMost(goal),
            ));
        }
        for percent in [50, 99] {
            let name = format!("DEL with {ports} ports there, p{percent} of {ROUNDS}");
            figures.push(milliseconds(&name, del.percentile(percent), Goal::None));
        }
        if ports == STEPS[0].0 {
            figures.extend(at_once(ours, &peer, &burst));
        }
    }
    figures
}

/// One pod comes and goes.
fn one(plugin: &Plugin, sandbox: &Sandbox, add: &mut Vec<Duration>, del: &mut Vec<Duration>) {
    add.extend(plugin.each(Verb::Add, [sandbox]));
    del.extend(plugin.each(Verb::Del, [sandbox]));
}

fn at_once(ours: &Plugin, peer: &Plugin, burst: &[Sandbox]) -> Vec<Value> {
    let (mut add, mut del) = (Samples::default(), Samples::default());
    for _ in 0..BURSTS {
        add.ours.extend(ours.all(Verb::Add, burst));
        del.ours.extend(ours.all(Verb::Del, burst));
        add.peer.extend(peer.all(Verb::Add, burst));
        del.peer.extend(peer.all(Verb::Del, burst));
    }
    let name = |verb: &str, percent: usize| {
        format!("{AT_ONCE} {verb}s at once, {BURSTS} times, p{percent}")
    };
    vec![
        milliseconds(&name("ADD", 50), add.percentile(50), Goal::None),
        milliseconds(
            &name("ADD", 99),
            add.percentile(99),
            Goal::OursAtMost(500.0),
        ),
        milliseconds(&name("DEL", 50), del.percentile(50), Goal::None),
        milliseconds(&name("DEL", 99), del.percentile(99), Goal::None),
    ]
}

fn milliseconds(name: &str, (ours, peer): (f64, f64), goal: Goal) -> Value {
    let name = format!("{name} (peer: bridge with host-local)");
    figure(&name, "ms", ours, Some(peer), goal)
}
