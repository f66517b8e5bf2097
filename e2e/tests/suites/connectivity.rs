//! Pods on one node and on two, hosts and pods, every family of the cluster.

use anyhow::{Context, Result, bail, ensure};
use carrick_e2e::bed::{Bed, IpFamily};
use carrick_e2e::pod::{self, Pod};

use crate::Test;

pub fn tests() -> Vec<Test> {
    vec![
        ("pods_on_the_same_node_talk", same_node),
        ("pods_on_other_nodes_talk", other_node),
        ("hosts_and_pods_talk", hosts),
        ("pods_reach_outside_with_source_nat", outside),
        ("names_lead_to_services", names),
        ("packets_at_the_mtu_pass_and_one_above_fails", mtu),
        (
            "host_network_pods_talk_to_pods_on_other_nodes",
            host_network,
        ),
        ("carrickctl_check_passes_and_cleans_up", check),
    ]
}

/// Three pods: two on the first node, one on the second.
fn three(bed: &Bed, suite: &str) -> Result<(Pod, Pod, Pod)> {
    let namespace = bed.namespace(suite)?;
    let a = Pod::create(bed, &namespace, "a", bed.node_name(0))?;
    let b = Pod::create(bed, &namespace, "b", bed.node_name(0))?;
    let c = Pod::create(bed, &namespace, "c", bed.node_name(1))?;
    Ok((a, b, c))
}

fn all_protocols(bed: &Bed, from: &Pod, to: &Pod) -> Result<()> {
    for address in &to.addresses {
        from.run(bed, &pod::ping(*address))?;
        let answer = from.run(bed, &pod::tcp(*address))?;
        ensure!(
            answer.trim() == to.name,
            "{answer:?} answered for {}",
            to.name
        );
        from.run(bed, &pod::udp(*address))?;
    }
    Ok(())
}

fn same_node(bed: &Bed) -> Result<()> {
    let (a, b, _) = three(bed, "connectivity")?;
    all_protocols(bed, &a, &b)?;
    all_protocols(bed, &b, &a)
}

fn other_node(bed: &Bed) -> Result<()> {
    let (a, _, c) = three(bed, "connectivity")?;
    all_protocols(bed, &a, &c)?;
    all_protocols(bed, &c, &a)
}

/// The cluster's DNS answers by its cluster IP, and what it answers is another.
fn names(bed: &Bed) -> Result<()> {
    let (a, _, c) = three(bed, "connectivity")?;
    bed.scale_dns(2)?;
    for pod in [&a, &c] {
        for name in ["kubernetes.default", "kubernetes.default.svc.cluster.local"] {
            connect(bed, &pod.namespace, &pod.name, &format!("{name}:443"))?;
        }
        let Err(error) = connect(bed, &pod.namespace, &pod.name, "nobody.default:80") else {
            bail!("a name that does not exist was resolved");
        };
        let said = format!("{error:#}");
        ensure!(said.contains("DNS"), "{said}");
    }
    Ok(())
}

/// Connects from within a container, with its resolv.conf.
fn connect(bed: &Bed, namespace: &str, pod: &str, target: &str) -> Result<()> {
    let agnhost = ["/usr/bin/agnhost", "connect", target, "--timeout=20s"];
    bed.kubectl(&[&["exec", "-n", namespace, pod, "--"][..], &agnhost].concat())
        .map(drop)
}

fn hosts(bed: &Bed) -> Result<()> {
    let (a, _, c) = three(bed, "connectivity")?;
    for pod in [&a, &c] {
        for node in [bed.node_name(0), bed.node_name(1)] {
            for address in &pod.addresses {
                bed.node(node, &pod::ping(*address))
                    .with_context(|| format!("from {node}"))?;
                bed.node(node, &pod::tcp(*address))
                    .with_context(|| format!("from {node}"))?;
                bed.node(node, &pod::udp(*address))
                    .with_context(|| format!("from {node}"))?;
            }
            for address in bed.node_addresses(node)? {
                pod.run(bed, &pod::ping(address))
                    .with_context(|| format!("to {node}"))?;
            }
        }
    }
    Ok(())
}

/// The control plane's side of the management network is "outside": it knows no pod, so an answer
/// comes back only to a node's own address.
fn outside(bed: &Bed) -> Result<()> {
    let (a, _, c) = three(bed, "connectivity")?;
    for pod in [&a, &c] {
        for address in bed.outside_addresses() {
            pod.run(bed, &pod::ping(address))
                .context("to the outside")?;
        }
    }
    Ok(())
}

fn mtu(bed: &Bed) -> Result<()> {
    let (a, b, c) = three(bed, "connectivity")?;
    let mtu: u32 = a.run(bed, "cat /sys/class/net/eth0/mtu")?.trim().parse()?;
    let transport: u32 = bed
        .node(&a.node, "cat /sys/class/net/eth1/mtu")?
        .trim()
        .parse()?;
    let traffic = bed.networking()?["status"]["effective"]["traffic"].take();
    let overhead = match (traffic["mode"].as_str(), bed.family()) {
        (Some("NoEncap"), _) => 0,
        // Geneve and VXLAN, over IPv4 where both nodes have it.
        (_, IpFamily::V4 | IpFamily::Dual) => 50,
        (_, IpFamily::V6) => 70,
    };
    ensure!(
        mtu + overhead == transport,
        "MTU {mtu} on a transport of {transport}, less {overhead}"
    );
    for to in [&b, &c] {
        for address in &to.addresses {
            a.run(bed, &pod::ping_size(*address, mtu))?;
            ensure!(
                a.run(bed, &pod::ping_size(*address, mtu + 1)).is_err(),
                "a packet of {} bytes passed a link of {mtu}",
                mtu + 1
            );
            // Larger than the MTU, allowed to be fragmented.
            a.run(bed, &format!("ping -n -c 2 -i 0.2 -W 2 -s 4000 {address}"))?;
        }
    }
    Ok(())
}

fn host_network(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace("connectivity")?;
    let mut manifest = pod::manifest(bed, &namespace, "host", bed.node_name(0));
    manifest["spec"]["hostNetwork"] = true.into();
    manifest["spec"]["containers"][0]["args"] = serde_json::json!(["pause"]);
    bed.apply(&manifest)?;
    let (a, _, c) = three(bed, "connectivity")?;
    bed.kubectl(&[
        "wait",
        "-n",
        &namespace,
        "pod/host",
        "--for=condition=Ready",
        "--timeout=60s",
    ])?;
    for pod in [&a, &c] {
        for address in &pod.addresses {
            let target = format!("{}:{}", pod::bracket(*address), pod::TCP_PORT);
            connect(bed, &namespace, "host", &target)?;
        }
    }
    Ok(())
}

fn check(bed: &Bed) -> Result<()> {
    let before = bed.kubectl(&["get", "namespaces", "-o", "name"])?;
    let out = bed.carrickctl(&["check"])?;
    ensure!(!out.is_empty(), "carrickctl check printed nothing");
    let after = bed.kubectl(&["get", "namespaces", "-o", "name"])?;
    ensure!(
        before == after,
        "carrickctl check left a namespace:\n{before}\n{after}"
    );
    Ok(())
}
