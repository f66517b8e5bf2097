//! What it costs to compute policy: time and memory of the whole for large clusters, and of one
//! change. For `cargo xtask bench policy`: an array of JSON objects.
//!
//! ```text
//! cargo run --release -p carrick-policy --example bench_policy
//! ```
//!
//! Each cluster is computed in a process of its own, which is what makes the peak of its memory
//! tell. Objects are made a thousand at a time while the clock stands, handed over decoded, and
//! dropped, as a watch that keeps nothing does. The goals are those of issue 7; the peer is what
//! Antrea's own benchmarks say of many cores (its networkpolicy_controller_perf_test.go and commit
//! messages), and was not measured here.

#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use carrick_policy::{Event, Index, Labels, Namespace, Node, Pod, parse_network_policy};
use carrick_testkit::figure::{Goal, figure};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const NODES: u32 = 1000;
/// Objects that are made before they are handed over.
const AT_ONCE: usize = 1000;
/// Changes of one group that are measured.
const CHANGES: u32 = 1000;

/// Computes figures.
type Part = fn() -> Result<Vec<Value>>;

/// The parts of a benchmark: a name, and what computes its figures.
const PARTS: &[(&str, Part)] = &[
    ("namespaces", many_namespaces),
    ("all", all_of_one_namespace),
    ("all-worded", all_in_own_words),
    ("all-distinct", all_with_nothing_shared),
    ("one-each", one_pod_each),
    ("group", one_change_of_a_group),
];

fn main() -> Result<()> {
    if let Some(name) = std::env::args().nth(1) {
        let part = PARTS.iter().find(|(own, _)| *own == name);
        let (_, part) = part.ok_or("no such part")?;
        println!("{}", Value::from(part()?));
        return Ok(());
    }
    let mut figures = Vec::new();
    for (name, _) in PARTS {
        let output = Command::new(std::env::current_exe()?).arg(name).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{name}: {}: {said}", output.status).into());
        }
        figures.extend(serde_json::from_slice::<Vec<Value>>(&output.stdout)?);
    }
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

/// An index, and the time it was busy.
#[derive(Default)]
struct Clocked {
    index: Index,
    busy: Duration,
    on_core: Duration,
}

impl Clocked {
    /// Does something while the clocks run.
    fn clock<T>(&mut self, work: impl FnOnce(&mut Index) -> T) -> Result<T> {
        let (start, before) = (Instant::now(), on_core()?);
        let result = work(&mut self.index);
        self.on_core += on_core()?.saturating_sub(before);
        self.busy += start.elapsed();
        Ok(result)
    }

    /// Hands objects over, and reads them while the clock runs.
    fn give<T>(
        &mut self,
        objects: impl Iterator<Item = T>,
        read: impl Fn(T) -> Option<Event>,
    ) -> Result<()> {
        let mut objects = objects.peekable();
        while objects.peek().is_some() {
            let some: Vec<T> = objects.by_ref().take(AT_ONCE).collect();
            self.clock(|index| {
                for event in some.into_iter().filter_map(&read) {
                    index.apply(event);
                }
            })?;
        }
        Ok(())
    }

    fn nodes(&mut self) -> Result<()> {
        let node = |n| {
            Event::Node(Node {
                name: node_name(n),
                labels: Labels::new(),
                addresses: vec![Ipv4Addr::from_bits(0xac10_0000 + n).into()],
            })
        };
        self.give((0..NODES).map(node), Some)
    }

    fn policies(&mut self, policies: impl Iterator<Item = NetworkPolicy>) -> Result<()> {
        self.give(policies, |policy| {
            parse_network_policy(&policy)
                .ok()
                .map(|parsed| Event::Policy(parsed.policy))
        })
    }

    /// What follows for nodes, and the figures of the whole.
    fn finish(
        mut self,
        name: &str,
        most: Option<(f64, f64)>,
        peer: Option<(f64, f64)>,
    ) -> Result<Vec<Value>> {
        let changes = self.clock(Index::take_changes)?;
        if changes.pods.is_empty() || changes.policies.is_empty() || changes.groups.is_empty() {
            return Err("nothing was computed".into());
        }
        let named = |what: &str| format!("{name}: {what}");
        let goal = |most: Option<f64>| most.map_or(Goal::None, Goal::OursAtMost);
        let (seconds, megabytes) = (self.busy.as_secs_f64(), peak_megabytes()?);
        let on_core = self.on_core.as_secs_f64();
        let (most_s, most_mb) = (most.map(|most| most.0), most.map(|most| most.1));
        let (peer_s, peer_mb) = (peer.map(|peer| peer.0), peer.map(|peer| peer.1));
        Ok(vec![
            figure(
                &named("full computation"),
                "s",
                seconds,
                peer_s,
                goal(most_s),
            ),
            figure(&named("of that on a core"), "s", on_core, None, Goal::None),
            figure(
                &named("peak memory"),
                "MB",
                megabytes,
                peer_mb,
                goal(most_mb),
            ),
        ])
    }
}

fn node_name(n: u32) -> Arc<str> {
    format!("node-{:04}", n % NODES).into()
}

fn pod(n: u32, namespace: &Arc<str>, labels: Labels) -> Event {
    Event::Pod(Pod {
        uid: format!("6f1c2b7e-4b0f-4d43-9c0a-{n:012x}").into(),
        namespace: Arc::clone(namespace),
        name: format!("pod-{n}").into(),
        node: node_name(n),
        labels,
        addresses: vec![IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0001 + n))],
        ports: Arc::default(),
    })
}

fn label(key: &str, value: &str) -> Labels {
    Labels::from([(key.to_owned(), value.to_owned())])
}

fn policy(n: u32, namespace: &str, spec: &Value) -> NetworkPolicy {
    let object = json!({
        "metadata": {
            "namespace": namespace, "name": format!("policy-{n}"),
            "uid": format!("d1d9c0de-77aa-4a1e-8d55-{n:012x}"),
        },
        "spec": spec,
    });
    serde_json::from_value(object).unwrap_or_default()
}

fn namespace(name: &str) -> Event {
    Event::Namespace(Namespace {
        name: name.into(),
        labels: label("kubernetes.io/metadata.name", name),
    })
}

/// 25,000 namespaces of four pods and three policies: all isolated, and two pairs that may speak.
fn many_namespaces() -> Result<Vec<Value>> {
    const NAMESPACES: u32 = 25_000;
    let mut clocked = Clocked::default();
    clocked.nodes()?;
    let names: Vec<Arc<str>> = (0..NAMESPACES)
        .map(|n| format!("namespace-{n}").into())
        .collect();
    clocked.give(names.iter().map(|name| namespace(name)), Some)?;
    let pods = (0..NAMESPACES * 4).map(|n| {
        let app = if n % 4 < 2 { "1" } else { "2" };
        let labels = label(&format!("app-{app}"), &format!("scale-{app}"));
        // Pods of a namespace are not on neighbouring nodes.
        let name = names.get((n / 4) as usize).cloned().unwrap_or_default();
        pod(n, &name, labels)
    });
    clocked.give(pods, Some)?;
    clocked.policies((0..NAMESPACES * 3).map(|n| {
        let app = n % 3;
        let selector = json!({"matchLabels": {format!("app-{app}"): format!("scale-{app}")}});
        let spec = if app == 0 {
            json!({"podSelector": {}, "policyTypes": ["Ingress"]})
        } else {
            json!({"podSelector": selector, "ingress": [{"from": [{"podSelector": selector}]}]})
        };
        policy(n, &format!("namespace-{}", n / 3), &spec)
    }))?;
    let sizes = clocked.index.sizes();
    if (sizes.pods, sizes.policies) != (100_000, 75_000) {
        return Err(format!("{sizes:?}").into());
    }
    let name = "25,000 namespaces, 100,000 pods, 75,000 policies";
    clocked.finish(name, Some((1.5, 250.0)), Some((5.8, 1522.0)))
}

/// A namespace of 10,000 pods with 10,000 policies.
fn one_namespace(
    labels: fn(u32) -> Labels,
    spec: fn(u32) -> Value,
    name: &str,
    most: Option<(f64, f64)>,
    peer: Option<(f64, f64)>,
) -> Result<Vec<Value>> {
    let mut clocked = Clocked::default();
    clocked.nodes()?;
    let one: Arc<str> = "one".into();
    clocked.give(std::iter::once(namespace(&one)), Some)?;
    clocked.give((0..10_000).map(|n| pod(n, &one, labels(n))), Some)?;
    clocked.policies((0..10_000).map(|n| policy(n, &one, &spec(n))))?;
    let sizes = clocked.index.sizes();
    if (sizes.pods, sizes.policies) != (10_000, 10_000) {
        return Err(format!("{sizes:?}").into());
    }
    clocked.finish(name, most, peer)
}

fn all_of_one_namespace() -> Result<Vec<Value>> {
    let spec = |_| {
        let selector = json!({"matchLabels": {"app-1": "scale-1"}});
        json!({"podSelector": selector, "ingress": [{"from": [{"podSelector": selector}]}]})
    };
    one_namespace(
        |_| label("app-1", "scale-1"),
        spec,
        "10,000 policies that all select 10,000 pods",
        Some((2.0, 200.0)),
        Some((10.66, 1157.0)),
    )
}

/// A policy that selects every pod in words that no other policy has.
fn own_words(n: u32) -> Value {
    let name = format!("nobody-{n}");
    let selector = json!({"matchExpressions": [
        {"key": "pod", "operator": "NotIn", "values": [name]}]});
    json!({"podSelector": selector, "ingress": [{"from": [{"podSelector": selector}]}]})
}

/// No two policies share a group; the pods are of one Deployment.
fn all_in_own_words() -> Result<Vec<Value>> {
    one_namespace(
        |_| label("pod", "web"),
        own_words,
        "10,000 policies that all select 10,000 pods, each in its own words",
        Some((2.0, 200.0)),
        Some((10.66, 1157.0)),
    )
}

/// No two pods have the same labels either: 100 million memberships, nothing of which is shared. No
/// cluster is like this; the figure says where the index ends.
fn all_with_nothing_shared() -> Result<Vec<Value>> {
    one_namespace(
        |n| label("pod", &n.to_string()),
        own_words,
        "the same, no two pods with the same labels",
        None,
        None,
    )
}

fn one_pod_each() -> Result<Vec<Value>> {
    let spec = |n: u32| {
        let selector = json!({"matchLabels": {"pod": n.to_string()}});
        json!({"podSelector": selector, "ingress": [{"from": [{"podSelector": selector}]}]})
    };
    one_namespace(
        |n| label("pod", &n.to_string()),
        spec,
        "10,000 policies that each select one of 10,000 pods",
        Some((0.5, 100.0)),
        Some((1.9, 169.0)),
    )
}

/// 1,000 policies for a pod each on 1,000 nodes, all with the same 1,000 peers; pods enter and
/// leave those, and every node must hear of it.
fn one_change_of_a_group() -> Result<Vec<Value>> {
    let one: Arc<str> = "one".into();
    let mut clocked = Clocked::default();
    clocked.nodes()?;
    clocked.give(std::iter::once(namespace(&one)), Some)?;
    let subjects = (0..1000).map(|n| pod(n, &one, label("subject", &n.to_string())));
    clocked.give(subjects, Some)?;
    let peer = || label("peer", "yes");
    clocked.give((1000..2000).map(|n| pod(n, &one, peer())), Some)?;
    clocked.policies((0..1000).map(|n| {
        policy(
            n,
            &one,
            &json!({
                "podSelector": {"matchLabels": {"subject": n.to_string()}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"peer": "yes"}}}]}],
            }),
        )
    }))?;
    let index = &mut clocked.index;
    drop(index.take_changes());
    let mut times = Vec::new();
    for n in 0..CHANGES {
        let start = Instant::now();
        index.apply(pod(2000 + n, &one, peer()));
        let changes = index.take_changes();
        times.push(start.elapsed());
        let told: Vec<usize> = changes
            .groups
            .iter()
            .map(|group| group.kept.len())
            .collect();
        if told != [NODES as usize] {
            return Err(format!("told {told:?} nodes").into());
        }
        if n % 2 == 1 {
            let uid = format!("6f1c2b7e-4b0f-4d43-9c0a-{:012x}", 2000 + n);
            index.apply(Event::PodGone(uid.into()));
            drop(index.take_changes());
        }
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let worst = times
        .get(times.len() * 99 / 100)
        .copied()
        .unwrap_or_default();
    let name = "one group changes, 1,000 policies, 1,000 pods, 1,000 nodes";
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let goal = Goal::OursAtMost(100.0);
    Ok(vec![
        figure(
            &format!("{name}: median"),
            "µs",
            micros(median),
            Some(326.0),
            goal,
        ),
        figure(
            &format!("{name}: p99"),
            "µs",
            micros(worst),
            None,
            Goal::None,
        ),
    ])
}

/// Time this thread was on a core (the kernel's Documentation/scheduler/sched-stats.rst).
fn on_core() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = stat.split(' ').next().ok_or("no schedstat")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

/// The most memory this process had (`VmHWM`, proc_pid_status(5)), in units of 1,000,000 bytes.
fn peak_megabytes() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes: f64 = kilobytes.ok_or("no VmHWM")?.trim().parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}
