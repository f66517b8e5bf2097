//! Services that the switch serves to pods.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use carrick_e2e::bed::Bed;
use carrick_e2e::pod::{Pod, bracket};
use carrick_e2e::program::{difference, program};
use carrick_e2e::wait;
use serde_json::{Value, json};

use super::security;
use crate::Test;

/// As it is by default first; turning Services off comes last.
pub fn tests() -> Vec<Test> {
    vec![
        ("full_is_the_default", is_full),
        ("endpoints_are_followed", endpoints),
        ("pods_reach_the_api_server_by_its_service", api_server),
        ("services_outlive_their_agent", killed_agent),
        ("hosts_and_outside_clients_reach_services", full),
        ("a_service_without_endpoints_refuses_at_once", refused),
        ("policy_local_keeps_the_clients_address", local),
        ("cluster_ips_answer_pods_of_every_node", cluster_ips),
        ("services_turned_off_leave_the_switch", turned_off),
    ]
}

/// What differs between the datapaths most.
pub fn short_tests() -> Vec<Test> {
    vec![
        ("hosts_and_outside_clients_reach_services", full),
        ("cluster_ips_answer_pods_of_every_node", cluster_ips),
        ("services_turned_off_leave_the_switch", turned_off),
    ]
}

const SUITE: &str = "services";
const SERVICE: &str = "echo";
/// How long a roll of the agents may take.
const ROLL: Duration = Duration::from_mins(5);
/// How long a change of a Service may take to be followed on a busy machine.
const FOLLOWED: Duration = Duration::from_mins(1);
/// Connections by which every endpoint of two is met: all to one has a chance of 2^-31.
const CONNECTIONS: usize = 32;

fn switch_mode(bed: &Bed, mode: &str) -> Result<()> {
    bed.patch_networking(&json!({"serviceProxy": {"mode": mode}}))?;
    bed.wait_ready(ROLL)
}

/// A pod on each of two nodes that a Service has as endpoints.
fn backends(bed: &Bed) -> Result<[Pod; 2]> {
    let namespace = bed.namespace(SUITE)?;
    let pods = [
        Pod::create(bed, &namespace, "one", bed.node_name(0))?,
        Pod::create(bed, &namespace, "two", bed.node_name(1))?,
    ];
    for pod in &pods {
        let label = ["label", "pod", "-n", &namespace, &pod.name, "--overwrite"];
        bed.kubectl(&[&label[..], &["serves=echo"]].concat())?;
    }
    bed.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": SERVICE},
        "spec": {
            "selector": {"serves": "echo"},
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [
                {"name": "web", "port": 80, "targetPort": 8080},
                {"name": "echo", "port": 81, "targetPort": 8081, "protocol": "UDP"},
            ],
        },
    }))?;
    Ok(pods)
}

/// The addresses of a Service.
fn addresses(bed: &Bed, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
    let service = bed.get("service", Some(namespace), name)?;
    let all = service["spec"]["clusterIPs"].as_array().into_iter();
    all.flatten()
        .map(|address| Ok(address.as_str().context("an address")?.parse()?))
        .collect()
}

/// Script: the names of those who answer connections to an address and port.
fn ask(address: IpAddr, port: u16) -> String {
    let url = format!("http://{}:{port}/hostname", bracket(address));
    format!(
        "for i in $(seq {CONNECTIONS}); do curl -sS --fail --noproxy '*' --max-time 20 {url} && echo; done"
    )
}

/// Who answered [`ask`]; each connection must be answered.
fn names(out: &str) -> Result<BTreeSet<String>> {
    let names: Vec<&str> = out.split_whitespace().collect();
    ensure!(
        names.len() == CONNECTIONS,
        "{} of {CONNECTIONS} connections were answered",
        names.len()
    );
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn answers(bed: &Bed, from: &Pod, address: IpAddr) -> Result<BTreeSet<String>> {
    let out = from.run(bed, &ask(address, 80))?;
    names(&out).with_context(|| format!("to {address}"))
}

fn echo(bed: &Bed, from: &Pod, address: IpAddr) -> Result<()> {
    let script = format!(
        "exec 3<>/dev/udp/{address}/81 && printf 'echo carrick' >&3 \
         && answer=$(timeout 10 dd bs=64 count=1 status=none <&3) && [ \"$answer\" = carrick ]"
    );
    from.run(bed, &script).map(drop)
}

/// Waits until exactly these pods answer by every address.
fn all_answer(bed: &Bed, from: &Pod, expected: &[&Pod]) -> Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|pod| pod.name.clone()).collect();
    for address in addresses(bed, &from.namespace, SERVICE)? {
        let what = format!("{expected:?} to answer {} by {address}", from.name);
        wait::until(&what, FOLLOWED, || {
            Ok(answers(bed, from, address)? == expected)
        })?;
    }
    Ok(())
}

fn cluster_ips(bed: &Bed) -> Result<()> {
    switch_mode(bed, "ClusterIP")?;
    let [one, two] = backends(bed)?;
    let client = Pod::create(bed, &one.namespace, "client", bed.node_name(0))?;
    // An endpoint is a client too, and meets itself.
    for from in [&client, &one, &two] {
        all_answer(bed, from, &[&one, &two])?;
        for address in addresses(bed, &one.namespace, SERVICE)? {
            for _ in 0..4 {
                echo(bed, from, address)?;
            }
        }
    }
    Ok(())
}

fn endpoints(bed: &Bed) -> Result<()> {
    let [one, two] = backends(bed)?;
    let client = Pod::create(bed, &one.namespace, "client", bed.node_name(0))?;
    all_answer(bed, &client, &[&one, &two])?;
    shown(bed, &[&one, &two])?;
    two.delete(bed)?;
    all_answer(bed, &client, &[&one])?;
    shown(bed, &[&one])?;
    let [one, two] = backends(bed)?;
    all_answer(bed, &client, &[&one, &two])
}

/// What carrickctl shows of the Service, asked of a node's agent.
fn shown(bed: &Bed, expected: &[&Pod]) -> Result<()> {
    let namespace = bed.namespace(SUITE)?;
    let name = format!("{namespace}/{SERVICE}");
    let command = ["get", "services", "--node", bed.node_name(0)];
    let said = bed.carrickctl(&[&command[..], &[&name, "-o", "json"]].concat())?;
    let said: Value = serde_json::from_str(&said)?;
    let expected: BTreeSet<String> = expected
        .iter()
        .flat_map(|pod| &pod.addresses)
        .map(|address| SocketAddr::new(*address, 8080).to_string())
        .collect();
    let frontends = said[0]["frontends"].as_array().into_iter().flatten();
    let backends: BTreeSet<String> = frontends
        .filter(|frontend| frontend["protocol"] == "tcp" && frontend["kind"] == "ClusterIP")
        .flat_map(|frontend| frontend["backends"].as_array().into_iter().flatten())
        .filter_map(|backend| backend.as_str().map(str::to_owned))
        .collect();
    ensure!(backends == expected, "{backends:?}, not {expected:?}");
    let table = bed.carrickctl(&command)?;
    ensure!(table.contains(&name), "{table}");
    Ok(())
}

fn api_server(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace(SUITE)?;
    for node in [bed.node_name(0), bed.node_name(1)] {
        let client = Pod::create(bed, &namespace, &format!("client-{node}"), node)?;
        for address in addresses(bed, "default", "kubernetes")? {
            let url = format!("https://{}/version", bracket(address));
            let said = client.run(
                bed,
                &format!("curl -sS --fail --insecure --noproxy '*' --max-time 20 {url}"),
            )?;
            ensure!(said.contains("gitVersion"), "{said}");
        }
    }
    Ok(())
}

fn killed_agent(bed: &Bed) -> Result<()> {
    let [one, two] = backends(bed)?;
    let client = Pod::create(bed, &one.namespace, "client", bed.node_name(0))?;
    all_answer(bed, &client, &[&one, &two])?;
    let node = bed.node_name(0);
    bed.settled(node)?;
    let before = program(bed, node)?;
    let agent = bed.agent_pod(node)?;
    let restarts = bed.restarts(&agent)?;
    bed.kill_in_pod(node, &agent, "carrick agent")?;
    // With the agent away, and while the next one reads what there is. A refused connection ends it.
    let mut refused = None;
    wait::until("the agent to restart", Duration::from_secs(90), || {
        for address in addresses(bed, &one.namespace, SERVICE)? {
            if let Err(error) = answers(bed, &client, address) {
                refused = Some(error);
                return Ok(true);
            }
        }
        Ok(bed.restarts(&agent)? > restarts && bed.pod_ready(&agent)?)
    })?;
    if let Some(error) = refused {
        return Err(error.context("while the agent was away"));
    }
    bed.wait_agent(node, Duration::from_secs(90))?;
    bed.settled(node)?;
    let after = program(bed, node)?;
    ensure!(
        before == after,
        "flows changed:\n{}",
        difference(&before, &after)
    );
    Ok(())
}

/// The port of every node that leads to a port of the Service.
fn node_port(bed: &Bed, namespace: &str, changes: &Value) -> Result<u16> {
    let patch = json!({"spec": changes}).to_string();
    bed.kubectl(&["patch", "service", SERVICE, "-n", namespace, "-p", &patch])?;
    let service = bed.get("service", Some(namespace), SERVICE)?;
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = ports
        .filter(|port| port["name"] == "web")
        .find_map(|port| port["nodePort"].as_u64());
    Ok(port.context("no node port")?.try_into()?)
}

/// Waits until a script on a node's host is answered by exactly these pods.
fn node_asks(bed: &Bed, node: &str, to: IpAddr, port: u16, expected: &[&Pod]) -> Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|pod| pod.name.clone()).collect();
    let what = format!("{expected:?} to answer the host of {node} by {to} port {port}");
    wait::until(&what, FOLLOWED, || {
        Ok(names(&bed.node(node, &ask(to, port))?)? == expected)
    })
}

/// Nobody has named a mode.
fn is_full(bed: &Bed) -> Result<()> {
    let networking = bed.networking()?;
    let (set, effective) = (&networking["spec"], &networking["status"]["effective"]);
    ensure!(set["serviceProxy"].is_null(), "{set}");
    let mode = &effective["serviceProxy"]["mode"];
    ensure!(mode == "Full", "in effect is {mode}");
    Ok(())
}

/// Mode `Full`: processes of hosts, and machines that are no part of the Service's node.
fn full(bed: &Bed) -> Result<()> {
    let [one, two] = backends(bed)?;
    let both = [&one, &two];
    let client = Pod::create(bed, &one.namespace, "client", bed.node_name(0))?;
    all_answer(bed, &client, &both)?;
    let changes = json!({"type": "NodePort", "externalTrafficPolicy": "Cluster"});
    let port = node_port(bed, &one.namespace, &changes)?;
    let nodes = [bed.node_name(0), bed.node_name(1)];
    for node in nodes {
        for address in addresses(bed, &one.namespace, SERVICE)? {
            node_asks(bed, node, address, 80, &both)?;
        }
        for of in nodes {
            for address in bed.node_addresses(of)? {
                node_asks(bed, node, address, port, &both)?;
                let out = client.run(bed, &ask(address, port))?;
                ensure!(names(&out)?.len() == both.len(), "of a pod by {address}");
            }
        }
    }
    if bed.node_addresses(nodes[0])?.iter().any(IpAddr::is_ipv4) {
        node_asks(bed, nodes[0], Ipv4Addr::LOCALHOST.into(), port, &both)?;
    }
    Ok(())
}

fn refused(bed: &Bed) -> Result<()> {
    let [one, _] = backends(bed)?;
    let client = Pod::create(bed, &one.namespace, "client", bed.node_name(0))?;
    bed.apply(&json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": one.namespace, "name": "nobody"},
        "spec": {
            "selector": {"serves": "nothing"}, "ipFamilyPolicy": "PreferDualStack",
            "ports": [{"port": 80}],
        },
    }))?;
    for address in addresses(bed, &one.namespace, "nobody")? {
        // 7 is curl's code for a connection that was refused; 28 for one that nobody answered.
        let script = format!(
            "curl -sS --noproxy '*' --max-time 20 http://{}/; echo code $?",
            bracket(address)
        );
        let is_refused = |said: &str| said.contains("code 7");
        let what = format!("connections to {address} to be refused");
        wait::until(&what, FOLLOWED, || {
            let (pod, host) = (
                client.run(bed, &script)?,
                bed.node(bed.node_name(0), &script)?,
            );
            ensure!(is_refused(&pod) && is_refused(&host), "{pod} {host}");
            Ok(true)
        })?;
    }
    Ok(())
}

fn local(bed: &Bed) -> Result<()> {
    let [one, two] = backends(bed)?;
    let port = node_port(
        bed,
        &one.namespace,
        &json!({"type": "NodePort", "externalTrafficPolicy": "Local"}),
    )?;
    // The other node is a machine outside, as far as this one is concerned.
    let own = bed.node_addresses(&two.node)?;
    for address in bed.node_addresses(&one.node)? {
        node_asks(bed, &two.node, address, port, &[&one])?;
        let url = format!("http://{}:{port}/clientip", bracket(address));
        let script = format!("curl -sS --fail --noproxy '*' --max-time 20 {url}");
        let said = bed.node(&two.node, &script)?;
        let client: SocketAddr = said.trim().parse().with_context(|| said.clone())?;
        ensure!(own.contains(&client.ip()), "{client} is none of {own:?}");
    }
    Ok(())
}

fn turned_off(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace(SUITE)?;
    let known = addresses(bed, &namespace, SERVICE)?;
    let holds = |node: &str| -> Result<Option<String>> {
        let mut lines = program(bed, node)?.into_iter();
        Ok(lines.find(|line| {
            let at = |address: &IpAddr| {
                line.contains(&format!("dst={address},"))
                    || line.contains(&format!("dst={address} "))
            };
            known.iter().any(at)
        }))
    };
    for node in bed.node_names() {
        // Without this the next look would find nothing whatever it looks for.
        ensure!(holds(&node)?.is_some(), "{node} has no flow of {known:?}");
    }
    switch_mode(bed, "Disabled")?;
    for node in bed.node_names() {
        let left = holds(&node)?;
        ensure!(left.is_none(), "{node} still has {left:?}");
    }
    ensure!(
        !security::can(bed, "carrick-agent", "list", "services")?,
        "agents may still list Services"
    );
    bed.kubectl(&["delete", "namespace", &namespace, "--wait=true"])?;
    bed.patch_networking(&json!({"serviceProxy": null}))?;
    bed.wait_ready(ROLL)?;
    is_full(bed)
}
