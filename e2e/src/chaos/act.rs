//! Does an event to a bed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carrick_testbed::Limit;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::event::{Event, Lasting, Part, Place, Strike};
use super::host;
use crate::bed::{Bed, NAMESPACE};
use crate::crowd::Crowd;
use crate::pod::Pod;
use crate::traffic::Traffic;
use crate::wait;

/// How long something that lasts is left alone before the next event.
const DWELL: Duration = Duration::from_secs(10);
/// The largest IP packet that gets through a lowered MTU.
const LOW_MTU: u16 = 1200;

/// Does an event and waits until the parts it broke are back (traffic apart).
pub fn act(bed: &Bed, traffic: &mut Traffic<'_>, event: Event) -> Result<()> {
    match event {
        Event::Strike(strike) => do_strike(bed, traffic, strike),
        Event::Begin(lasting) => {
            begin(bed, lasting)?;
            dwell(DWELL)
        }
        Event::End(lasting) => end(bed, lasting),
    }
    .with_context(|| event.to_string())
}

fn dwell(time: Duration) -> Result<()> {
    let begun = Instant::now();
    wait::until(
        "the fault to last",
        time * 2,
        || Ok(begun.elapsed() >= time),
    )
}

fn do_strike(bed: &Bed, traffic: &mut Traffic<'_>, strike: Strike) -> Result<()> {
    match strike {
        Strike::Kill(part) => kill(bed, &[part]),
        Strike::KillTwo(one, two) => kill(bed, &[one, two]),
        Strike::PowerOff(place) => {
            let node = bed.node_name(place).to_owned();
            bed.restart_node(&node)?;
            wait_pods(bed, Duration::from_mins(4))?;
            traffic.restart_node(place)
        }
        Strike::Corrupt(place, file) => host::corrupt(bed, bed.node_name(place), file),
        Strike::OtherBoot(place, file) => host::from_another_boot(bed, bed.node_name(place), file),
        Strike::SecondAgent(place) => host::second_agent(bed, bed.node_name(place)).map(drop),
        Strike::Rotate => rotate(bed),
        Strike::Crowd(place, count) => crowd(bed, traffic.namespace(), place, count),
        Strike::Policies(count) => policies(bed, traffic.namespace(), count),
        Strike::DeleteBehind(place) => delete_behind(bed, traffic.namespace(), place),
        Strike::RegisterAgain(place) => {
            register_again(bed, place)?;
            traffic.remake_node(place)
        }
        Strike::OutOfMemory(place) => host::exhaust_memory(bed, bed.node_name(place)),
        Strike::ClockJump(place, seconds) => host::jump_clock(bed, bed.node_name(place), seconds),
    }
}

/// A process to kill, and how to know that it was.
enum Victim<'a> {
    /// On a node: the script that prints its process id, and what it prints.
    Process(&'a str, String, String),
    /// In a pod: node, pod, pattern of its command line, restarts so far.
    Container(String, String, &'static str, u64),
}

/// Kills processes right after one another and waits for their successors.
fn kill(bed: &Bed, parts: &[Part]) -> Result<()> {
    let victims = parts
        .iter()
        .map(|part| victim(bed, *part).with_context(|| part.to_string()))
        .collect::<Result<Vec<_>>>()?;
    for victim in &victims {
        match victim {
            Victim::Process(node, _, pid) => bed.node(node, &format!("kill -KILL {pid}")).map(drop),
            Victim::Container(node, pod, pattern, _) => bed.kill_in_pod(node, pod, pattern),
        }?;
    }
    for victim in &victims {
        match victim {
            Victim::Process(node, script, pid) => {
                let what = format!("a process after {pid} on {node}");
                wait::until(&what, Duration::from_mins(2), || {
                    let now = bed.node(node, script)?;
                    Ok(!now.trim().is_empty() && now.trim() != pid)
                })?;
            }
            Victim::Container(_, pod, _, restarts) => {
                wait::until(&format!("{pod} to restart"), Duration::from_mins(2), || {
                    Ok(bed.restarts(pod)? > *restarts && bed.pod_ready(pod)?)
                })?;
            }
        }
    }
    for node in bed.node_names() {
        wait::until("every agent to be ready", Duration::from_mins(2), || {
            host::agent_ready(bed, &node)
        })?;
    }
    Ok(())
}

fn victim(bed: &Bed, part: Part) -> Result<Victim<'_>> {
    if let (Some(script), Some(place)) = (host::pid_of(part), part.node()) {
        let node = bed.node_name(place);
        let pid = bed.node(node, &script)?.trim().to_owned();
        ensure!(!pid.is_empty(), "it does not run");
        return Ok(Victim::Process(node, script, pid));
    }
    let (pod, node, pattern) = match part {
        Part::Operator => {
            let (pod, node) = bed.leader("carrick-operator")?;
            (pod, node, "carrick operator")
        }
        Part::ControllerStandby => {
            let (pod, node) = standby(bed)?;
            (pod, node, "carrick controller")
        }
        _ => {
            let (pod, node) = bed.leader("carrick-controller")?;
            (pod, node, "carrick controller")
        }
    };
    let restarts = bed.restarts(&pod)?;
    Ok(Victim::Container(node, pod, pattern, restarts))
}

/// The controller's pod that does not lead, and its node.
fn standby(bed: &Bed) -> Result<(String, String)> {
    let (leader, _) = bed.leader("carrick-controller")?;
    let pods = our_pods(bed)?;
    let found = pods.iter().find(|pod| {
        pod["metadata"]["labels"]["app.kubernetes.io/component"] == "controller"
            && pod["metadata"]["name"] != leader.as_str()
            && pod["metadata"]["deletionTimestamp"].is_null()
    });
    let pod = found.context("there is no standby")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok((
        text(&pod["metadata"]["name"]),
        text(&pod["spec"]["nodeName"]),
    ))
}

fn our_pods(bed: &Bed) -> Result<Vec<Value>> {
    bed.list(&["pods", "-n", NAMESPACE])
}

/// Waits until every pod of ours is Ready, a switch and an agent on every node among them.
pub fn wait_pods(bed: &Bed, deadline: Duration) -> Result<()> {
    wait::until("all pods of Carrick to be ready", deadline, || {
        for node in bed.node_names() {
            for component in ["agent", "ovs"] {
                bed.pod_on(&node, component)?;
            }
            host::agent_ready(bed, &node)?;
        }
        for pod in our_pods(bed)? {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            ensure!(bed.pod_ready(name)?, "{name} is not");
        }
        Ok(true)
    })
}

/// Policies that concern the pods that send, and nobody whom they may accept.
fn policies(bed: &Bed, namespace: &str, count: usize) -> Result<()> {
    const LABEL: &str = "e2e.carrick.dev/chaos";
    let policy = |number: usize| {
        let nobody = json!({"podSelector": {"matchLabels": {"nobody": number.to_string()}}});
        let nowhere = json!({"ipBlock": {"cidr": format!("203.0.113.{}/32", number % 256)}});
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {
                "namespace": namespace, "name": format!("chaos-{number}"), "labels": {LABEL: "policies"},
            },
            "spec": {"podSelector": {}, "ingress": [{
                "from": [nobody, nowhere], "ports": [{"port": 1000 + number}],
            }]},
        })
    };
    let items: Vec<Value> = (0..count).map(policy).collect();
    bed.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
    let enforced = |node: &str| -> Result<usize> {
        let told = bed.agent_json(node, "/v1/policies")?;
        let prefix = format!("{namespace}/chaos-");
        let policies = told["policies"].as_object().into_iter().flatten();
        let enforced = policies
            .filter(|(name, policy)| name.starts_with(&prefix) && policy["enforced"] == true);
        Ok(enforced.count())
    };
    for (wanted, what) in [(count, "come"), (0, "go")] {
        for node in bed.node_names() {
            let what = format!("the policies to {what} on {node}");
            wait::until(&what, Duration::from_mins(1), || {
                let now = enforced(&node)?;
                ensure!(now == wanted, "there are {now}");
                Ok(true)
            })?;
        }
        if wanted > 0 {
            let selector = format!("{LABEL}=policies");
            bed.kubectl(&[
                "delete",
                "networkpolicies",
                "-n",
                namespace,
                "-l",
                &selector,
            ])?;
        }
    }
    Ok(())
}

fn begin(bed: &Bed, lasting: Lasting) -> Result<()> {
    let node = lasting.node().map_or("", |place| bed.node_name(place));
    match lasting {
        Lasting::ApiServerAway => bed.stop_api_server(),
        Lasting::EtcdPaused => bed.signal_etcd(Signal::SIGSTOP),
        Lasting::LinkCut(_) => bed.cut_transport(node),
        Lasting::LowMtu(_) => bed.limit_transport(node, Limit::Size { bytes: LOW_MTU }),
        Lasting::Lossy(_) => bed.limit_transport(node, Limit::Loss { percent: 5 }),
        Lasting::Slow(_) => bed
            .node(node, "tc qdisc replace dev eth1 root netem delay 200ms")
            .map(drop),
        Lasting::DiskFull(_) => host::fill_disk(bed, node),
        Lasting::FewDescriptors(_) => host::limit_descriptors(bed, node, true),
    }
}

/// Ends what lasts and waits until Kubernetes and our parts are back.
pub(super) fn end(bed: &Bed, lasting: Lasting) -> Result<()> {
    let node = lasting.node().map_or("", |place| bed.node_name(place));
    match lasting {
        Lasting::ApiServerAway => bed.start_api_server()?,
        Lasting::EtcdPaused => {
            bed.signal_etcd(Signal::SIGCONT)?;
            wait::until("etcd and the API server", Duration::from_mins(1), || {
                bed.kubectl(&["get", "--raw=/readyz"]).map(|_| true)
            })?;
        }
        Lasting::LinkCut(_) | Lasting::LowMtu(_) | Lasting::Lossy(_) => {
            bed.restore_transport(node)?;
        }
        Lasting::Slow(_) => {
            bed.node(node, "tc qdisc delete dev eth1 root")?;
        }
        Lasting::DiskFull(_) => host::free_disk(bed, node)?,
        Lasting::FewDescriptors(_) => host::limit_descriptors(bed, node, false)?,
    }
    wait_pods(bed, Duration::from_mins(3))
}

/// The controller's certificate is deleted: the operator signs another, and agents go on trusting.
fn rotate(bed: &Bed) -> Result<()> {
    const SECRET: &str = "carrick-controller-tls";
    let before = bed.get("secret", Some(NAMESPACE), SECRET)?["data"]["tls.crt"].clone();
    bed.kubectl(&["delete", "secret", "-n", NAMESPACE, SECRET])?;
    wait::until("another certificate", Duration::from_mins(2), || {
        let secret = bed.get("secret", Some(NAMESPACE), SECRET)?;
        Ok(secret["data"]["tls.crt"].is_string() && secret["data"]["tls.crt"] != before)
    })
}

/// Starts pods at once on a node, and deletes them.
pub fn crowd(bed: &Bed, namespace: &str, place: Place, count: usize) -> Result<()> {
    // Several nodes may have one at a time.
    let name = &format!("crowd-{place}");
    let crowd = Crowd {
        bed,
        namespace,
        name,
    };
    // Two a second, and a minute of grace.
    let deadline = Duration::from_secs(60 + count as u64 / 2);
    let come = crowd.start(bed.node_name(place), count, deadline);
    let gone = crowd.end(deadline);
    come.and(gone)
}

/// A pod goes while the agent of its node is stopped, which is then killed in the middle of it.
fn delete_behind(bed: &Bed, namespace: &str, place: Place) -> Result<()> {
    let node = bed.node_name(place);
    let victim = Pod::create(bed, namespace, "behind", node)?;
    let agent = host::agent_pid(bed, node)?;
    bed.node(node, &format!("kill -STOP {agent}"))?;
    let deleted = bed.kubectl(&[
        "delete",
        "pod",
        "-n",
        namespace,
        "behind",
        "--force",
        "--grace-period=0",
        "--wait=false",
    ]);
    let gone = deleted.and_then(|_| {
        wait::until("the pod's container to end", Duration::from_mins(1), || {
            let script = format!("ip netns pids {} 2>/dev/null | wc -l", victim.netns);
            // The sandbox's own process is there until its DEL.
            Ok(bed.node(node, &script)?.trim().parse::<u32>().unwrap_or(0) <= 1)
        })
    });
    bed.node(node, &format!("kill -KILL {agent}"))?;
    gone?;
    host::wait_next_agent(bed, node, &agent)
}

/// Deletes a Node and lets its kubelet register it again: the garbage collector deletes its pods.
fn register_again(bed: &Bed, place: Place) -> Result<()> {
    let node = bed.node_name(place).to_owned();
    let before = bed.get("node", None, &node)?["metadata"]["uid"].clone();
    bed.kubectl(&["delete", "node", &node, "--wait=true"])?;
    bed.restart_kubelet(&node)?;
    wait::until("the node to register", Duration::from_mins(2), || {
        let now = bed.get("node", None, &node)?;
        Ok(now["metadata"]["uid"] != before && now["spec"]["podCIDRs"].is_array())
    })?;
    wait_pods(bed, Duration::from_mins(4))?;
    bed.wait_ready(Duration::from_mins(3))
}
