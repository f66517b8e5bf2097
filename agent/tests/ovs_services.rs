//! Cluster IPs for pods: a real agent on a real switch, with a real API server that can be away.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::duration_suboptimal_units,
    clippy::default_trait_access,
    reason = "tests say what they expect"
)]

mod lab;

use std::net::SocketAddr;

use carrick_proto::{Body, Entry};
use carrick_testkit::apiserver::ApiServer;
use lab::controller::{Controller, node_record, pod_record, route_record};
use lab::kubernetes::Relay;
use lab::services::{
    PORT, Server, apply, endpoints, groups, is_service, saved, service, told, who,
};
use lab::{LabNode, Pod, wait, wire};
use serde_json::json;

/// Not a test: the agent's process (see [`lab`]).
#[test]
fn agent_process() {
    lab::agent_main();
}

const CIDRS: [&str; 2] = ["10.10.1.0/24", "fd00:10:1::/64"];
const CLUSTER_IPS: [&str; 2] = ["10.96.7.7", "fd00:10:96::77"];
const UDP_IP: &str = "10.96.7.8";

struct Bed {
    node: LabNode,
    server: ApiServer,
    relay: Option<Relay>,
    controller: Controller,
    _other: LabNode,
    client: String,
    /// Namespaces and addresses of the pods that serve.
    pods: Vec<(String, Vec<String>)>,
    _servers: Vec<Server>,
}

async fn bed() -> Bed {
    let server = ApiServer::start().expect("etcd and kube-apiserver start");
    let (mut node, other) = (LabNode::new(1), LabNode::new(2));
    wire(&node, &other);
    node.configure(
        "serviceProxy",
        json!({"mode": "ClusterIP", "skipServices": ["default/skipped"]}),
    );
    node.use_kubeconfig(server.kubeconfig());
    let controller = Controller::serve(&[&node]).await;
    let route = route_record(2, &["10.10.2.0/24"]);
    controller.send("node1", vec![node_record(1, &CIDRS), route], vec![]);
    let relay = Some(Relay::open(node.netns(), &server).await);
    node.start_agent();
    node.wait_ready();
    let mut add = |name: &str| {
        let pod = Pod::new(name);
        controller.send("node1", vec![pod_record(&pod)], vec![]);
        let (sandbox, addresses) = node.add_pod(&pod);
        (sandbox.0, addresses)
    };
    let client = add("client").0;
    let pods: Vec<_> = ["one", "two"].into_iter().map(&mut add).collect();
    let servers = pods.iter().zip(["one", "two"]);
    let servers = servers
        .map(|((netns, _), name)| Server::start(netns, name))
        .collect();
    for ((_, addresses), name) in pods.iter().zip(["one", "two"]) {
        for address in addresses {
            wait("the pods' servers", || who(&client, address, PORT) == name);
        }
    }
    Bed {
        node,
        server,
        relay,
        controller,
        _other: other,
        client,
        pods,
        _servers: servers,
    }
}

impl Bed {
    fn apply_all(&self, objects: &[serde_json::Value]) {
        for object in objects {
            apply(&self.server, object);
        }
    }

    /// Waits until a cluster IP leads to this pod, by each family.
    fn wait_for(&self, name: &str) {
        for ip in CLUSTER_IPS {
            wait(&format!("{ip} to lead to {name}"), || {
                who(&self.client, ip, 80) == name
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_cluster_ips_and_restarts_change_nothing() {
    let mut bed = bed().await;
    let [one, two] = [0, 1].map(|n| bed.pods[n].1.iter().collect::<Vec<&String>>());
    let one: Vec<String> = one.into_iter().cloned().collect();
    let two: Vec<String> = two.into_iter().cloned().collect();
    let refs = |list: &[String]| -> Vec<String> { list.to_vec() };
    let slices = |service: &str, protocol: &str, list: &[String]| {
        let list = refs(list);
        endpoints(service, protocol, &list.iter().collect::<Vec<_>>())
    };
    bed.apply_all(&[
        service("web", &CLUSTER_IPS, "TCP"),
        service("dns", &[UDP_IP], "UDP"),
    ]);
    bed.apply_all(&[service("skipped", &["10.96.7.9"], "TCP")]);
    bed.apply_all(&slices("web", "TCP", &one));
    bed.apply_all(&slices("skipped", "TCP", &one));
    bed.apply_all(&slices("dns", "UDP", &one));
    bed.wait_for("one");
    wait("the condition", || {
        bed.node.condition("ServicesServed").0 == "True"
    });
    assert!(
        !bed.node
            .flows()
            .iter()
            .any(|flow| flow.contains("10.96.7.9"))
    );
    let web = told(&bed.node, "web");
    let expected = SocketAddr::new(one[0].parse().unwrap(), PORT).to_string();
    let frontends = web["frontends"].as_array().unwrap();
    assert!(
        frontends.iter().any(|f| f["backends"] == json!([expected])),
        "{web}"
    );
    let explain = |query: &str| {
        let (status, body) = bed
            .node
            .api(&format!("/v1/services/explain?{query}"))
            .unwrap();
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        (status, body, answer)
    };
    let (status, body, answer) = explain("service=default/web&from=pod");
    let explained = &answer["explanations"][0];
    assert_eq!(status, 200, "{body}");
    assert_eq!(explained["outcome"]["reason"], "Answered", "{body}");
    assert_eq!(explained["endpoints"][0]["address"], one[0], "{body}");
    for (query, code, says) in [
        ("address=10.96.0.7", 400, "port is a number"),
        (
            "address=fd00%3A%3A1&port=80&from=nobody",
            400,
            "from is pod",
        ),
        ("service=default/web&node=a", 400, "unknown field"),
        (
            "service=default/web&service=default/web",
            400,
            "duplicate field",
        ),
        (
            "service=default/nothing",
            404,
            "knows no Service default/nothing",
        ),
    ] {
        let (status, body, _) = explain(query);
        assert!(
            status == code && body.contains(says),
            "{query}: {status} {body}"
        );
    }

    // An endpoint goes and another comes: the same flows, another group.
    let flows = bed.node.flows();
    bed.apply_all(&slices("web", "TCP", &two));
    bed.wait_for("two");
    assert_eq!(bed.node.flows(), flows, "only groups change with endpoints");

    // The saved commit has it soon after.
    let held = |flows: &[String]| flows.iter().any(|flow| flow.contains(UDP_IP));
    wait("the saved commit", || held(&saved(&bed.node)));

    // kill -9 and a new agent: nothing changes in the switch.
    let (flows, all_groups) = (bed.node.flows(), groups(&bed.node));
    bed.node.kill_agent();
    assert_eq!(
        who(&bed.client, CLUSTER_IPS[0], 80),
        "two",
        "without an agent"
    );
    let age = bed.node.youngest_flow();
    bed.node.start_agent();
    bed.node.wait_ready();
    wait("Services to be read", || {
        bed.node.condition("ServicesServed").0 == "True"
    });
    assert_eq!(bed.node.flows(), flows, "a restart changed flows");
    assert_eq!(groups(&bed.node), all_groups, "a restart changed groups");
    assert!(
        bed.node.youngest_flow() >= age,
        "a restart added a flow anew"
    );
    assert!(
        !bed.node.log().contains("programmed Services"),
        "{}",
        bed.node.log()
    );

    // The API server is away, and the agent begins anew: what was known stays, also in the saved commit.
    bed.node.kill_agent();
    bed.relay = None;
    bed.node.start_agent();
    bed.node.wait_ready();
    assert_eq!(bed.node.condition("ServicesServed").0, "Unknown");
    assert_eq!(bed.node.flows(), flows);
    assert_eq!(groups(&bed.node), all_groups);
    assert_eq!(
        who(&bed.client, CLUSTER_IPS[0], 80),
        "two",
        "without an API server"
    );
    assert!(
        held(&saved(&bed.node)),
        "the saved commit has lost Services"
    );
    // Meanwhile one Service goes and another endpoint comes.
    bed.server
        .kubectl(&["delete", "service", "dns", "--wait=false"])
        .unwrap();
    bed.apply_all(&slices("web", "TCP", &one));
    bed.relay = Some(Relay::open(bed.node.netns(), &bed.server).await);
    bed.wait_for("one");
    wait(
        "the Service that went meanwhile to leave the switch",
        || !held(&bed.node.flows()),
    );
    wait("the saved commit to forget it", || !held(&saved(&bed.node)));

    // The last one goes: nothing of Services is left but the API server's own.
    bed.server
        .kubectl(&["delete", "service", "web", "--wait=false"])
        .unwrap();
    wait("the Service to leave the switch", || {
        !bed.node
            .flows()
            .iter()
            .any(|flow| CLUSTER_IPS.iter().any(|ip| flow.contains(ip)))
    });
    assert_eq!(who(&bed.client, CLUSTER_IPS[0], 80), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_changes_and_a_switch_that_starts_anew_are_mended_and_disabled_leaves_nothing() {
    let mut bed = bed().await;
    let one = bed.pods[0].1.clone();
    let list: Vec<&String> = one.iter().collect();
    bed.apply_all(&[service("web", &CLUSTER_IPS, "TCP")]);
    bed.apply_all(&endpoints("web", "TCP", &list));
    bed.wait_for("one");
    let flows = bed.node.flows();
    let target = bed.node.ovs.target("br-int");
    // Somebody removes all groups, and the flows that lead to them.
    bed.node
        .ovs
        .ofctl(&["-O", "OpenFlow15", "del-groups", &target])
        .unwrap();
    wait("the flows to be mended", || bed.node.flows() == flows);
    bed.wait_for("one");

    bed.node.restart_switch();
    bed.node.wait_programmed_again(&flows);
    bed.wait_for("one");

    // Another configuration comes with another agent.
    bed.node.kill_agent();
    bed.node
        .configure("serviceProxy", json!({"mode": "Disabled"}));
    bed.node.start_agent();
    bed.node.wait_ready();
    wait("Services to leave the switch", || {
        !bed.node.flows().iter().any(|flow| is_service(flow))
    });
    assert_eq!(groups(&bed.node), [""; 0]);
    assert_eq!(bed.node.condition("ServicesServed").0, "");
    wait("the saved commit to forget them", || {
        !saved(&bed.node).iter().any(|flow| is_service(flow))
    });
}

/// The record of the node in a zone.
/// More Services than one bundle holds: a kube-proxy that is told to go by the condition must not go early.
#[tokio::test(flavor = "multi_thread")]
async fn served_is_said_when_the_last_service_is_in_place() {
    const COUNT: usize = 1_300;
    let mut bed = bed().await;
    bed.node.stop_agent();
    let one = &bed.pods[0].1;
    let v4: Vec<&String> = one
        .iter()
        .filter(|address| !address.contains(':'))
        .collect();
    let mut objects = Vec::new();
    for number in 0..COUNT {
        let name = format!("many-{number}");
        let address = format!("10.96.{}.{}", 100 + number / 250, 1 + number % 250);
        objects.push(service(&name, &[&address], "TCP"));
        objects.extend(endpoints(&name, "TCP", &v4).into_iter().take(1));
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let command = ["create", "-f", "-"];
    bed.server.kubectl_with_input(&command, &list).unwrap();
    bed.node.start_agent();
    wait("Services to be served", || {
        bed.node.condition("ServicesServed").0 == "True"
    });
    let there = groups(&bed.node).len();
    assert!(there >= COUNT, "{there} groups for {COUNT} Services");
}

fn in_zone(zone: &str) -> Entry {
    let Body::Node(mut facts) = node_record(1, &CIDRS).into_body() else {
        unreachable!("it is a node's record")
    };
    let label = "topology.kubernetes.io/zone";
    facts.labels.insert(label.into(), zone.into());
    Entry::new(Body::Node(facts))
}

#[tokio::test(flavor = "multi_thread")]
async fn in_another_zone_other_endpoints_count_without_a_restart() {
    let bed = bed().await;
    bed.controller.send("node1", vec![in_zone("z1")], vec![]);
    let (one, two) = (&bed.pods[0].1, &bed.pods[1].1);
    let both: Vec<&String> = one.iter().chain(two).collect();
    let mut slices = endpoints("web", "TCP", &both);
    for endpoint in slices
        .iter_mut()
        .flat_map(|slice| slice["endpoints"].as_array_mut().unwrap())
    {
        let address = endpoint["addresses"][0].as_str().unwrap();
        let zone = if one.iter().any(|own| own == address) {
            "z1"
        } else {
            "z2"
        };
        endpoint["hints"] = json!({"forZones": [{"name": zone}]});
    }
    bed.apply_all(&[service("web", &CLUSTER_IPS, "TCP")]);
    bed.apply_all(&slices);
    let always = |name: &str| {
        bed.wait_for(name);
        for ip in CLUSTER_IPS.iter().cycle().take(10) {
            assert_eq!(who(&bed.client, ip, 80), name, "{ip}");
        }
    };
    always("one");
    bed.controller.send("node1", vec![in_zone("z2")], vec![]);
    wait("Services to be read anew", || {
        bed.node.log().contains("zone has changed")
    });
    wait("the other zone's endpoint", || {
        told(&bed.node, "web")["frontends"][0]["backends"] == json!([format!("{}:{PORT}", two[0])])
    });
    wait("the switch to be told", || {
        bed.node.condition("ServicesServed").0 == "True"
    });
    always("two");
}
