//! NetworkPolicy between real pods. Which rule decides for which packet is proven elsewhere, case by case; here is
//! that objects reach switches, by controller and agent, and what that costs when parts are away.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carrick_e2e::bed::Bed;
use carrick_e2e::pod::{self, Pod, TCP_PORT, UDP_PORT, bracket};
use carrick_e2e::program::{difference, program};
use carrick_e2e::wait;
use serde_json::{Value, json};

use crate::Test;

pub fn tests() -> Vec<Test> {
    [brief(), rest()].concat()
}

/// Where there is little time.
pub fn brief() -> Vec<Test> {
    vec![("a_denied_pod_is_closed_and_opens_again", ingress)]
}

pub fn rest() -> Vec<Test> {
    vec![
        ("pods_may_leave_only_where_they_are_allowed", egress),
        ("labels_are_followed", labels),
        ("a_pod_meets_a_policy_made_just_before_it", just_before),
        (
            "policies_of_the_cluster_come_before_and_after",
            cluster_wide,
        ),
        ("policies_outlive_their_agent", killed_agent),
    ]
}

const SUITE: &str = "policy";
/// How long a change may take to be enforced on a busy machine.
const ENFORCED: Duration = Duration::from_mins(1);
/// How long nobody must answer to count as closed.
const CLOSED: Duration = Duration::from_secs(2);

/// A server and two clients: one on the server's node, one on another.
struct Three {
    namespace: String,
    server: Pod,
    near: Pod,
    far: Pod,
}

fn three(bed: &Bed) -> Result<Three> {
    let namespace = bed.namespace(SUITE)?;
    let pod = |name: &str, node: usize| Pod::create(bed, &namespace, name, bed.node_name(node));
    let three = Three {
        server: pod("server", 0)?,
        near: pod("near", 0)?,
        far: pod("far", 1)?,
        namespace: namespace.clone(),
    };
    for (name, role) in [("server", "server"), ("near", "client"), ("far", "client")] {
        let role = format!("role={role}");
        bed.kubectl(&["label", "pod", "-n", &namespace, name, "--overwrite", &role])?;
    }
    Ok(three)
}

fn policy(bed: &Bed, namespace: &str, name: &str, spec: &Value) -> Result<()> {
    bed.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    }))
}

fn remove(bed: &Bed, namespace: &str, name: &str) -> Result<()> {
    bed.kubectl(&["delete", "networkpolicy", "-n", namespace, name])
        .map(drop)
}

/// Script: succeeds at once where a connection is answered.
fn connect(to: IpAddr, port: u16) -> String {
    let patience = CLOSED.as_secs();
    format!(
        "curl -sS --fail --noproxy '*' --max-time {patience} http://{}:{port}/hostname",
        bracket(to)
    )
}

/// Whether every address of `to` answers, or none.
fn reaches(bed: &Bed, from: &Pod, to: &Pod, wanted: bool) -> Result<()> {
    let what = if wanted { "reach" } else { "not reach" };
    let what = format!("{} to {what} {}", from.name, to.name);
    wait::until(&what, ENFORCED, || {
        let mut addresses = to.addresses.iter();
        Ok(addresses.all(|address| from.run(bed, &connect(*address, TCP_PORT)).is_ok() == wanted))
    })
}

/// The host of the server's node may always reach it: its kubelet asks how the pod is.
fn host_reaches(bed: &Bed, server: &Pod) -> Result<()> {
    for address in &server.addresses {
        bed.node(&server.node, &connect(*address, TCP_PORT))
            .context("the node's host")?;
    }
    Ok(())
}

/// What carrickctl says of a connection to the server's TCP port is what happens to it.
fn explained(bed: &Bed, from: &Pod, to: &Pod, passes: bool, why: &str) -> Result<()> {
    let name = |pod: &Pod| format!("{}/{}", pod.namespace, pod.name);
    let port = TCP_PORT.to_string();
    let words = ["explain", &name(from), &name(to), "--port", &port];
    let shown = bed.carrickctl(&words)?;
    let outcome = if passes { "passes" } else { "is dropped" };
    ensure!(
        shown.contains(why) && shown.contains(&format!("a new connection {outcome}")),
        "{} to {}: {shown}",
        from.name,
        to.name
    );
    Ok(())
}

fn ingress(bed: &Bed) -> Result<()> {
    let three = three(bed)?;
    let Three {
        namespace,
        server,
        near,
        far,
    } = &three;
    for client in [near, far] {
        reaches(bed, client, server, true)?;
    }
    let selector = json!({"matchLabels": {"role": "server"}});
    let closed = json!({"podSelector": selector, "policyTypes": ["Ingress"]});
    policy(bed, namespace, "closed", &closed)?;
    for client in [near, far] {
        reaches(bed, client, server, false)?;
        for address in &server.addresses {
            let udp = pod::udp_within(*address, CLOSED);
            ensure!(client.run(bed, &udp).is_err(), "UDP passed");
        }
        // It is isolated for what comes, and not for what it begins.
        reaches(bed, server, client, true)?;
    }
    host_reaches(bed, server)?;
    explained(bed, near, server, false, "closed")?;
    explained(bed, far, server, false, "closed")?;
    explained(bed, server, far, true, "no rule denies it")?;
    // Another policy adds to it: one port for clients.
    let open = json!({"podSelector": selector, "ingress": [{
        "from": [{"podSelector": {"matchLabels": {"role": "client"}}}],
        "ports": [{"port": TCP_PORT}],
    }]});
    policy(bed, namespace, "open", &open)?;
    for client in [near, far] {
        reaches(bed, client, server, true)?;
        for address in &server.addresses {
            let udp = pod::udp_within(*address, CLOSED);
            ensure!(client.run(bed, &udp).is_err(), "UDP passed");
        }
    }
    explained(bed, far, server, true, "ingress[0]")?;
    remove(bed, namespace, "open")?;
    reaches(bed, far, server, false)?;
    remove(bed, namespace, "closed")?;
    for client in [near, far] {
        reaches(bed, client, server, true)?;
        for address in &server.addresses {
            client.run(bed, &pod::udp(*address))?;
        }
    }
    Ok(())
}

fn egress(bed: &Bed) -> Result<()> {
    let three = three(bed)?;
    let Three {
        namespace,
        server,
        near,
        far,
    } = &three;
    let spec = json!({
        "podSelector": {"matchLabels": {"role": "client"}}, "policyTypes": ["Egress"],
        "egress": [{
            "to": [{"podSelector": {"matchLabels": {"role": "server"}}}],
            "ports": [{"port": TCP_PORT}, {"port": UDP_PORT, "protocol": "UDP"}],
        }],
    });
    policy(bed, namespace, "to-server", &spec)?;
    for (from, to) in [(near, far), (far, near)] {
        reaches(bed, from, to, false)?;
    }
    for client in [near, far] {
        reaches(bed, client, server, true)?;
        for address in &server.addresses {
            client.run(bed, &pod::udp(*address))?;
        }
        // Answers come back, and what others begin.
        reaches(bed, server, client, true)?;
    }
    remove(bed, namespace, "to-server")?;
    reaches(bed, near, far, true)
}

/// Labels of a pod and of a namespace decide from the moment they change.
fn labels(bed: &Bed) -> Result<()> {
    let three = three(bed)?;
    let Three {
        namespace,
        server,
        far,
        ..
    } = &three;
    let spec = json!({
        "podSelector": {"matchLabels": {"role": "server"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{
            "namespaceSelector": {"matchLabels": {"team": "shop"}},
            "podSelector": {"matchLabels": {"role": "friend"}},
        }]}],
    });
    policy(bed, namespace, "friends", &spec)?;
    reaches(bed, far, server, false)?;
    let label = |what: &[&str]| bed.kubectl(&[&["label", "--overwrite"], what].concat());
    label(&["pod", "-n", namespace, "far", "role=friend"])?;
    label(&["namespace", namespace, "team=shop"])?;
    reaches(bed, far, server, true)?;
    label(&["namespace", namespace, "team=bank"])?;
    reaches(bed, far, server, false)?;
    label(&["namespace", namespace, "team=shop"])?;
    reaches(bed, far, server, true)?;
    label(&["pod", "-n", namespace, "far", "role=client"])?;
    reaches(bed, far, server, false)?;
    // Whom the policy is for follows labels as well.
    label(&["pod", "-n", namespace, "server", "role=none"])?;
    reaches(bed, far, server, true)?;
    remove(bed, namespace, "friends")
}

fn cluster_policy(bed: &Bed, namespace: &str, tier: &str, action: &str) -> Result<()> {
    let mine = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
    let server = json!({"matchLabels": {"role": "server"}});
    bed.apply(&json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": format!("e2e-{}", tier.to_lowercase())},
        "spec": {
            "tier": tier, "priority": 7,
            "subject": {"pods": {"namespaceSelector": mine, "podSelector": server}},
            "ingress": [{"name": "all", "action": action, "from": [{"namespaces": {}}]}],
        },
    }))
}

/// Baseline decides where no NetworkPolicy does, NetworkPolicies before it, and Admin before both.
fn cluster_wide(bed: &Bed) -> Result<()> {
    let three = three(bed)?;
    let Three {
        namespace,
        server,
        far,
        ..
    } = &three;
    reaches(bed, far, server, true)?;
    cluster_policy(bed, namespace, "Baseline", "Deny")?;
    reaches(bed, far, server, false)?;
    explained(bed, far, server, false, "e2e-baseline")?;
    let spec = json!({
        "podSelector": {"matchLabels": {"role": "server"}},
        "ingress": [{"ports": [{"port": TCP_PORT}]}],
    });
    policy(bed, namespace, "web", &spec)?;
    reaches(bed, far, server, true)?;
    cluster_policy(bed, namespace, "Admin", "Deny")?;
    reaches(bed, far, server, false)?;
    explained(bed, far, server, false, "e2e-admin")?;
    cluster_policy(bed, namespace, "Admin", "Pass")?;
    reaches(bed, far, server, true)?;
    remove(bed, namespace, "web")?;
    reaches(bed, far, server, false)?;
    for name in ["e2e-admin", "e2e-baseline"] {
        bed.kubectl(&["delete", "clusternetworkpolicy", name])?;
    }
    reaches(bed, far, server, true)
}

/// Its first act is to connect, for as long as nobody must answer; it fails where nobody did.
fn connecting(bed: &Bed, namespace: &str, name: &str, to: IpAddr) -> Value {
    let to = format!("{}:{TCP_PORT}", bracket(to));
    let mut pod = pod::manifest(bed, namespace, name, bed.node_name(1));
    pod["metadata"]["labels"]["app"] = json!(name);
    pod["spec"]["restartPolicy"] = json!("Never");
    let timeout = format!("--timeout={}s", CLOSED.as_secs());
    pod["spec"]["containers"][0]["args"] = json!(["connect", timeout, to]);
    pod
}

/// The policy is created, and the pod by the next request: its packets are judged from the first.
fn just_before(bed: &Bed) -> Result<()> {
    const ROUNDS: usize = 8;
    let namespace = &bed.namespace(SUITE)?;
    let server = Pod::create(bed, namespace, "server", bed.node_name(0))?;
    let to = server.addresses[0];
    let mut objects = vec![connecting(bed, namespace, "free", to)];
    for round in 0..ROUNDS {
        let name = format!("closed-{round}");
        objects.push(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"podSelector": {"matchLabels": {"app": name}}, "policyTypes": ["Egress"]},
        }));
        objects.push(connecting(bed, namespace, &name, to));
    }
    bed.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
    let phase = |name: &str| -> Result<String> {
        let mut phase = String::new();
        let what = format!("pod {name} to end");
        wait::until(&what, Duration::from_secs(90), || {
            let pod = bed.get("pod", Some(namespace), name)?;
            let now = pod["status"]["phase"].as_str();
            now.unwrap_or_default().clone_into(&mut phase);
            Ok(phase == "Succeeded" || phase == "Failed")
        })?;
        Ok(phase)
    };
    ensure!(phase("free")? == "Succeeded", "no policy is for it");
    for round in 0..ROUNDS {
        let name = format!("closed-{round}");
        ensure!(phase(&name)? == "Failed", "{name} met an open port");
    }
    Ok(())
}

fn killed_agent(bed: &Bed) -> Result<()> {
    let three = three(bed)?;
    let Three {
        namespace,
        server,
        far,
        ..
    } = &three;
    let spec = json!({
        "podSelector": {"matchLabels": {"role": "server"}}, "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"port": UDP_PORT, "protocol": "UDP"}]}],
    });
    policy(bed, namespace, "udp-only", &spec)?;
    reaches(bed, far, server, false)?;
    let node = &server.node;
    let shown = bed.carrickctl(&["get", "policies", "--node", node])?;
    ensure!(shown.contains("udp-only"), "{shown}");
    bed.settled(node)?;
    let before = program(bed, node)?;
    let agent = bed.agent_pod(node)?;
    let restarts = bed.restarts(&agent)?;
    bed.kill_in_pod(node, &agent, "carrick agent")?;
    let mut passed = None;
    wait::until("the agent to restart", Duration::from_secs(90), || {
        for address in &server.addresses {
            if far.run(bed, &connect(*address, TCP_PORT)).is_ok() {
                passed = Some(*address);
                return Ok(true);
            }
        }
        Ok(bed.restarts(&agent)? > restarts && bed.pod_ready(&agent)?)
    })?;
    ensure!(
        passed.is_none(),
        "{passed:?} answered while the agent was away"
    );
    bed.wait_agent(node, Duration::from_secs(90))?;
    bed.settled(node)?;
    let after = program(bed, node)?;
    ensure!(
        before == after,
        "flows changed:\n{}",
        difference(&before, &after)
    );
    for address in &server.addresses {
        far.run(bed, &pod::udp(*address))?;
    }
    remove(bed, namespace, "udp-only")
}
