//! Continuous traffic between pods: who sends, and what was lost between two looks.
//!
//! On each node two pods run `carrick-traffic answer`; one of them sends to the other and to the first of the
//! next node, by every address. [`Flow`] is one such sender.
//!
//! [With policies](Traffic::start_policed) everything of that passes by a rule, and the other pod of each node tries all
//! the time what no rule accepts: to reach the first of its own node and of the next.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carrick_testbed::{binaries, paths};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::chaos::event::Way;
use crate::command::{root, succeed};
use crate::pod::Pod;
use crate::timeline::{LATE, Timeline};
use crate::wait;

/// Port of `carrick-traffic answer`.
const PORT: u16 = 7007;
/// The label that says which pod of its node it is, for policies.
const ROLE: &str = "role";
/// Who sends, and whom the other may not reach.
const FIRST: &str = "first";
/// Whom the first sends to, and who tries to reach it.
const SECOND: &str = "second";
/// A way is silent when no ping sent in this time was answered yet.
const SILENT: Duration = Duration::from_millis(1500);

/// What one sender counted since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// 10 ms pings over UDP.
    pub pings: Pings,
    /// The long-lived TCP connection.
    pub stream: Stream,
    /// TCP connections made anew.
    pub connections: Connections,
}

/// Pings, as a [`Timeline`] judged them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pings {
    /// Judged.
    pub judged: u64,
    /// Lost, of those.
    pub lost: u64,
    /// Gaps that have ended, in milliseconds.
    pub gaps_ms: Vec<u64>,
    /// Milliseconds since the last answered ping was sent.
    pub silent_ms: u64,
}

impl Pings {
    /// Takes over what a timeline knows.
    pub fn note(&mut self, timeline: &Timeline, now: Instant) {
        self.judged = timeline.judged();
        self.lost = timeline.lost();
        self.gaps_ms = timeline.gaps().iter().copied().map(millis).collect();
        self.silent_ms = millis(timeline.silent(now));
    }
}

/// The stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stream {
    /// Whether there is one.
    pub is_open: bool,
    /// Words that came back.
    pub words: u64,
    /// How many streams broke.
    pub broken: u64,
    /// Why the last one did.
    pub last_reason: String,
}

/// New connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Made and answered.
    pub made: u64,
    /// Not.
    pub failed: u64,
    /// Whether the last one failed.
    pub is_failing: bool,
    /// The longest time, in milliseconds, in which none was made.
    pub longest_failing_ms: u64,
}

impl Status {
    /// What was answered, in words; empty when nothing was.
    pub fn passed(&self) -> String {
        let pings = self.pings.judged.saturating_sub(self.pings.lost);
        let counts = [
            (pings, "pings"),
            (self.connections.made, "connections"),
            (self.stream.words, "words of a stream"),
            (self.stream.is_open.into(), "open streams"),
        ];
        let passed = counts.into_iter().filter(|(count, _)| *count > 0);
        let passed: Vec<String> = passed
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        passed.join(", ")
    }
}

/// Milliseconds of a duration.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What one sender lost between two looks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loss {
    /// Pings.
    pub pings: u64,
    /// The longest gap.
    pub gap: Duration,
    /// Streams.
    pub streams: u64,
    /// Why the last stream broke.
    pub reason: String,
    /// New connections.
    pub connections: u64,
}

impl Loss {
    /// What was lost after `before`; all of it when the sender was started since.
    pub fn between(before: Option<&Status>, after: &Status) -> Self {
        let none = Status::default();
        let before = before
            .filter(|before| before.pings.judged <= after.pings.judged)
            .unwrap_or(&none);
        let fresh = after.pings.gaps_ms.iter().skip(before.pings.gaps_ms.len());
        let broken = after.stream.broken.saturating_sub(before.stream.broken);
        Self {
            pings: after.pings.lost.saturating_sub(before.pings.lost),
            gap: Duration::from_millis(fresh.max().copied().unwrap_or_default()),
            streams: broken,
            reason: if broken > 0 {
                after.stream.last_reason.clone()
            } else {
                String::new()
            },
            connections: (after.connections.failed).saturating_sub(before.connections.failed),
        }
    }

    /// The worse of both in each respect.
    #[must_use]
    pub fn or_worse(&self, other: &Self) -> Self {
        let reason = [&self.reason, &other.reason]
            .into_iter()
            .find(|reason| !reason.is_empty());
        Self {
            pings: self.pings.max(other.pings),
            gap: self.gap.max(other.gap),
            streams: self.streams + other.streams,
            reason: reason.cloned().unwrap_or_default(),
            connections: self.connections.max(other.connections),
        }
    }
}

/// One sender.
#[derive(Debug)]
struct Flow {
    way: Way,
    address: IpAddr,
    node: String,
    /// Its file on the node.
    status: String,
}

/// Whether what a flow sends passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Denied,
}

/// Which sender: its way and the address it sends to.
pub type FlowKey = (Way, IpAddr);

/// All senders of a cluster.
pub struct Traffic<'a> {
    bed: &'a Bed,
    namespace: String,
    program: PathBuf,
    /// The pods of each node: who sends, and whom it sends to on the node.
    pods: Vec<[Pod; 2]>,
    flows: Vec<Flow>,
    /// What no rule accepts; empty without policies.
    denied: Vec<Flow>,
    is_policed: bool,
}

impl<'a> Traffic<'a> {
    /// Makes the pods and starts all senders; returns when every one is answered.
    pub fn start(bed: &'a Bed, suite: &str) -> Result<Self> {
        Self::begin(bed, suite, false)
    }

    /// The same where rules accept it, with senders beside it whose packets none does.
    pub fn start_policed(bed: &'a Bed, suite: &str) -> Result<Self> {
        Self::begin(bed, suite, true)
    }

    fn begin(bed: &'a Bed, suite: &str, is_policed: bool) -> Result<Self> {
        let namespace = bed.namespace(suite)?;
        let mut traffic = Self {
            bed,
            namespace,
            program: program()?,
            pods: Vec::new(),
            flows: Vec::new(),
            denied: Vec::new(),
            is_policed,
        };
        if is_policed {
            // Before the pods: none of them has a moment without.
            for policy in policies(&traffic.namespace) {
                bed.apply(&policy)?;
            }
        }
        for place in 0..bed.node_names().len() {
            let pods = traffic.make_pods(place)?;
            traffic.pods.push(pods);
        }
        for way in traffic.ways() {
            traffic.start_way(way)?;
        }
        traffic.wait_flowing(Duration::from_mins(1))?;
        Ok(traffic)
    }

    /// Where the traffic goes.
    pub fn ways(&self) -> Vec<Way> {
        Way::all(self.pods.len())
    }

    /// The pods' namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn make_pods(&self, place: usize) -> Result<[Pod; 2]> {
        let make = |role: &str| {
            let name = format!("traffic-{place}-{role}");
            let node = self.bed.node_name(place);
            let label = (ROLE, role);
            let pod = Pod::create_with(self.bed, &self.namespace, &name, node, label)?;
            let script = format!(
                "setsid ip netns exec {} {} answer {PORT} > /run/{name}.log 2>&1 < /dev/null & echo $!",
                pod.netns,
                self.program.display()
            );
            self.bed.node(&pod.node, &script)?;
            anyhow::Ok(pod)
        };
        Ok([make(FIRST)?, make(SECOND)?])
    }

    fn pod(&self, place: usize, role: usize) -> Result<&Pod> {
        self.pods
            .get(place)
            .and_then(|pods| pods.get(role))
            .with_context(|| format!("there are no pods on node {place}"))
    }

    fn start_way(&mut self, way: Way) -> Result<()> {
        self.flows.retain(|flow| flow.way != way);
        let flows = self.send(way, Verdict::Accepted)?;
        self.flows.extend(flows);
        if self.is_policed {
            self.denied.retain(|flow| flow.way != way);
            let denied = self.send(way, Verdict::Denied)?;
            self.denied.extend(denied);
        }
        Ok(())
    }

    fn send(&self, way: Way, verdict: Verdict) -> Result<Vec<Flow>> {
        let (from, to) = match (way, verdict) {
            (Way::Within(node), Verdict::Accepted) => (self.pod(node, 0)?, self.pod(node, 1)?),
            (Way::Within(node), Verdict::Denied) => (self.pod(node, 1)?, self.pod(node, 0)?),
            (Way::Across(from, to), Verdict::Accepted) => (self.pod(from, 0)?, self.pod(to, 0)?),
            (Way::Across(from, to), Verdict::Denied) => (self.pod(from, 1)?, self.pod(to, 0)?),
        };
        let what = match verdict {
            Verdict::Accepted => "traffic",
            Verdict::Denied => "traffic-denied",
        };
        let mut flows = Vec::new();
        for address in &to.addresses {
            let status = format!("/run/carrick-{what}-{way}-{address}");
            let target = SocketAddr::new(*address, PORT);
            let script = format!(
                "rm -f {status}; setsid ip netns exec {} {} send {target} {status} > {status}.log 2>&1 < /dev/null & echo $!",
                from.netns,
                self.program.display()
            );
            self.bed.node(&from.node, &script)?;
            flows.push(Flow {
                way,
                address: *address,
                node: from.node.clone(),
                status,
            });
        }
        Ok(flows)
    }

    /// Makes the pods of a node anew and takes up again what ended with them.
    pub fn remake_node(&mut self, node: usize) -> Result<()> {
        for pod in self.pods.get(node).into_iter().flatten() {
            pod.delete(self.bed)?;
        }
        self.restart_node(node)
    }

    /// Takes up again what ended with a node: its pods have other sandboxes.
    pub fn restart_node(&mut self, node: usize) -> Result<()> {
        let touched: Vec<Way> = self
            .ways()
            .into_iter()
            .filter(|w| w.touches(node))
            .collect();
        // Those of other nodes still send to what is gone.
        let all = self.flows.iter().chain(&self.denied);
        for flow in all.filter(|flow| flow.way.touches(node)) {
            let script = format!(
                "for p in $(pgrep -f 'carrick-traffic send .* {}$'); do kill -KILL $p; done; true",
                flow.status
            );
            self.bed.node(&flow.node, &script)?;
        }
        let pods = self.make_pods(node)?;
        if let Some(place) = self.pods.get_mut(node) {
            *place = pods;
        }
        for way in touched {
            self.start_way(way)?;
        }
        Ok(())
    }

    /// What each sender counted so far.
    pub fn look(&self) -> Result<BTreeMap<FlowKey, Status>> {
        self.read(&self.flows)
    }

    fn read(&self, flows: &[Flow]) -> Result<BTreeMap<FlowKey, Status>> {
        let mut all = BTreeMap::new();
        for flow in flows {
            let text = self.bed.node(&flow.node, &format!("cat {}", flow.status))?;
            let status = serde_json::from_str(&text)
                .with_context(|| format!("{} holds {text:?}", flow.status))?;
            all.insert((flow.way, flow.address), status);
        }
        Ok(all)
    }

    /// What senders that no rule accepts have counted; nothing without policies.
    ///
    /// # Errors
    /// Something of theirs was answered.
    pub fn denied(&self) -> Result<BTreeMap<FlowKey, Status>> {
        let all = self.read(&self.denied)?;
        for ((way, address), status) in &all {
            let passed = status.passed();
            ensure!(
                passed.is_empty(),
                "{way} to {address}, which no rule accepts: {passed}"
            );
        }
        Ok(all)
    }

    /// Waits until everything gets through on `ways`.
    fn wait_ways(&self, ways: impl Fn(Way) -> bool, deadline: Duration) -> Result<()> {
        wait::until("traffic to get through everywhere", deadline, || {
            for ((way, address), status) in self.look()? {
                if !ways(way) {
                    continue;
                }
                let what = format!("{way} to {address}");
                ensure!(
                    status.pings.silent_ms < millis(SILENT),
                    "{what}: no ping was answered for {} ms",
                    status.pings.silent_ms
                );
                ensure!(status.stream.is_open, "{what}: there is no stream");
                let connections = &status.connections;
                ensure!(
                    !connections.is_failing && connections.made > 0,
                    "{what}: no connection is made"
                );
            }
            Ok(true)
        })
    }

    /// Waits until everything gets through everywhere.
    pub fn wait_flowing(&self, deadline: Duration) -> Result<()> {
        self.wait_ways(|_| true, deadline)
    }

    /// Waits until everything gets through but on some ways.
    pub fn wait_flowing_but(&self, but: impl Fn(Way) -> bool, deadline: Duration) -> Result<()> {
        self.wait_ways(|way| !but(way), deadline)
    }

    /// What each way lost since `before`, once every ping sent until now is judged.
    pub fn losses(&self, before: &BTreeMap<FlowKey, Status>) -> Result<BTreeMap<Way, Loss>> {
        let asked = Instant::now();
        // The senders write five times a second.
        let judged = LATE + Duration::from_millis(500);
        wait::until("the last pings to be judged", judged * 2, || {
            Ok(asked.elapsed() > judged)
        })?;
        let mut losses: BTreeMap<Way, Loss> = BTreeMap::new();
        for (key, status) in self.look()? {
            let loss = Loss::between(before.get(&key), &status);
            let known = losses.entry(key.0).or_default();
            *known = known.or_worse(&loss);
        }
        Ok(losses)
    }

    /// Ends all senders and removes their pods.
    pub fn stop(self) -> Result<()> {
        for node in self.bed.node_names() {
            self.bed.node(
                &node,
                "for p in $(pgrep -f '^[^ ]*carrick-traffic (send|answer) '); do kill -KILL $p; done; rm -f /run/carrick-traffic*-*",
            )?;
        }
        for pod in self.pods.iter().flatten() {
            pod.delete(self.bed)?;
        }
        Ok(())
    }
}

/// The first pods are for each other alone, and may send to all pods of theirs; the second are for the first.
fn policies(namespace: &str) -> [Value; 2] {
    let ports = json!([{"port": PORT}, {"port": PORT, "protocol": "UDP"}]);
    let firsts = json!([{"podSelector": {"matchLabels": {ROLE: FIRST}}}]);
    let policy = |role: &str, spec: Value| {
        let mut spec = spec;
        spec["podSelector"] = json!({"matchLabels": {ROLE: role}});
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": namespace, "name": format!("traffic-{role}")},
            "spec": spec,
        })
    };
    let first = json!({
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": firsts, "ports": ports}],
        "egress": [{"to": [{"podSelector": {}}], "ports": ports}],
    });
    let second = json!({"ingress": [{"from": firsts, "ports": ports}]});
    [policy(FIRST, first), policy(SECOND, second)]
}

/// Builds `carrick-traffic` and puts it where every node sees it.
fn program() -> Result<PathBuf> {
    let mut build = binaries::cargo();
    build.args(["build", "--quiet", "--locked", "-p", "carrick-e2e"]);
    build.args(["--bin", "carrick-traffic"]);
    succeed(&mut build, None)?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let built = target.join("debug/carrick-traffic");
    // Nodes see the cache, whatever else of this machine they see.
    let seen = paths::cache()?.join("carrick-traffic");
    let partial = seen.with_extension(format!("{}", std::process::id()));
    std::fs::copy(&built, &partial).with_context(|| format!("copy {}", built.display()))?;
    std::fs::rename(&partial, &seen).with_context(|| format!("write {}", seen.display()))?;
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(judged: u64, lost: u64, gaps_ms: &[u64], broken: u64) -> Status {
        let mut status = Status::default();
        status.pings.judged = judged;
        status.pings.lost = lost;
        status.pings.gaps_ms = gaps_ms.to_vec();
        status.stream.broken = broken;
        status.stream.last_reason = "reset".to_owned();
        status
    }

    #[test]
    fn only_what_came_after_the_first_look_is_lost() {
        let before = status(100, 30, &[300], 1);
        let after = status(200, 35, &[300, 20, 30], 1);
        let loss = Loss::between(Some(&before), &after);
        assert_eq!((loss.pings, loss.streams), (5, 0));
        assert_eq!(loss.gap, Duration::from_millis(30));
        assert_eq!(loss.reason, "");
    }

    #[test]
    fn whatever_was_answered_has_passed() {
        let mut unanswered = status(100, 100, &[1000], 0);
        unanswered.connections.failed = 7;
        assert_eq!(unanswered.passed(), "");
        assert_eq!(status(100, 99, &[], 0).passed(), "1 pings");
        unanswered.connections.made = 2;
        assert_eq!(unanswered.passed(), "2 connections");
    }

    #[test]
    fn a_sender_that_was_started_since_counts_whole() {
        let before = status(1000, 30, &[300], 4);
        let loss = Loss::between(Some(&before), &status(200, 2, &[20], 1));
        assert_eq!((loss.pings, loss.streams), (2, 1));
        assert_eq!(loss.reason, "reset");
    }
}
