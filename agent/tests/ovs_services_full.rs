//! Services without a kube-proxy: the host and machines outside reach them by a real agent, a real switch,
//! a real nftables and a real API server.

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

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use carrick_testkit::apiserver::ApiServer;
use lab::controller::{Controller, node_record, pod_record, route_record};
use lab::kubernetes::Relay;
use lab::services::{
    PORT, Server, apply, ask, ask_udp, endpoints, groups, is_service, service, who,
};
use lab::{LabNode, Pod, fingerprint, in_netns, must, wait, wire};
use serde_json::{Value, json};

/// Not a test: the agent's process (see [`lab`]).
#[test]
fn agent_process() {
    lab::agent_main();
}

const CIDRS: [&str; 2] = ["10.10.1.0/24", "fd00:10:1::/64"];
const CLUSTER_IPS: [&str; 2] = ["10.96.7.7", "fd00:10:96::77"];
const NODE_IPS: [&str; 2] = ["172.31.0.1", "fd00:31::1"];
const INGRESS: [&str; 2] = ["203.0.113.80", "fd00:203::80"];
const EXTERNAL: [&str; 2] = ["198.51.100.7", "fd00:198::7"];
/// The other machine on the transport network, as the node sees it.
const OUTSIDE: [&str; 2] = ["172.31.0.2", "fd00:31::2"];
const NODE_PORT: u16 = 30080;
const HEALTH_PORT: u16 = 30180;

struct Bed {
    node: LabNode,
    server: ApiServer,
    relay: Option<Relay>,
    _controller: Controller,
    /// A machine outside the cluster on the transport network.
    outside: LabNode,
    /// Namespaces of the pods that serve, and their addresses.
    sandboxes: Vec<String>,
    pods: Vec<Vec<String>>,
    _servers: Vec<Server>,
    /// The node before its agent first ran.
    before: String,
}

async fn bed(proxy: Value) -> Bed {
    let server = ApiServer::start().expect("etcd and kube-apiserver start");
    let (mut node, outside) = (LabNode::new(1), LabNode::new(2));
    wire(&node, &outside);
    node.configure("serviceProxy", proxy);
    node.use_kubeconfig(server.kubeconfig());
    let controller = Controller::serve(&[&node]).await;
    let route = route_record(3, &["10.10.3.0/24"]);
    controller.send("node1", vec![node_record(1, &CIDRS), route], vec![]);
    let relay = Some(Relay::open(node.netns(), &server).await);
    let before = fingerprint(node.netns());
    node.start_agent();
    node.wait_ready();
    let mut add = |name: &str| {
        let pod = Pod::new(name);
        controller.send("node1", vec![pod_record(&pod)], vec![]);
        let (sandbox, addresses) = node.add_pod(&pod);
        (sandbox.0, addresses)
    };
    let pods: Vec<_> = ["one", "two"].into_iter().map(&mut add).collect();
    let servers = pods.iter().zip(["one", "two"]);
    let servers = servers
        .map(|((netns, _), name)| Server::start(netns, name))
        .collect();
    let sandboxes = pods.iter().map(|(netns, _)| netns.clone()).collect();
    let pods: Vec<Vec<String>> = pods.into_iter().map(|(_, addresses)| addresses).collect();
    for (addresses, name) in pods.iter().zip(["one", "two"]) {
        for address in addresses {
            wait("the pods' servers", || {
                who(node.netns(), address, PORT) == name
            });
        }
    }
    // The machine outside reaches what is not the node's own by it.
    for (list, via) in [(INGRESS, NODE_IPS), (EXTERNAL, NODE_IPS)] {
        for (address, via) in list.iter().zip(via) {
            must(
                outside.netns(),
                &format!("ip route add {address} via {via} dev eth1"),
            );
        }
    }
    Bed {
        node,
        server,
        relay,
        _controller: controller,
        outside,
        sandboxes,
        pods,
        _servers: servers,
        before,
    }
}

/// A Service with every kind of address.
fn web(external: &str) -> Value {
    let mut web = service("web", &CLUSTER_IPS, "TCP");
    web["spec"]["type"] = json!("LoadBalancer");
    web["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    web["spec"]["externalIPs"] = json!(EXTERNAL);
    web["spec"]["externalTrafficPolicy"] = json!(external);
    if external == "Local" {
        web["spec"]["healthCheckNodePort"] = json!(HEALTH_PORT);
    }
    web
}

impl Bed {
    fn apply(&self, objects: &[Value]) {
        for object in objects {
            apply(&self.server, object);
        }
    }

    /// Gives Service `web` these endpoints.
    fn serve_by(&self, addresses: &[String]) {
        let list: Vec<&String> = addresses.iter().collect();
        self.apply(&endpoints("web", "TCP", &list));
    }

    /// The same on another node.
    fn serve_by_node(&self, node: &str, addresses: &[String]) {
        let list: Vec<&String> = addresses.iter().collect();
        let mut slices = endpoints("web", "TCP", &list);
        for slice in &mut slices {
            for endpoint in slice["endpoints"].as_array_mut().unwrap() {
                endpoint["nodeName"] = json!(node);
            }
        }
        self.apply(&slices);
    }

    /// What the node answers a machine outside; 0 for nothing.
    fn get(&self, port: u16, path: &str) -> (u16, Value) {
        let url = format!("http://{}:{port}{path}", NODE_IPS[0]);
        let program = format!(
            "import urllib.request as u, urllib.error as e\n\
             try: r=u.urlopen('{url}',timeout=5)\n\
             except e.HTTPError as x: r=x\n\
             print(r.status, r.read().decode())"
        );
        let (_, text) = in_netns(self.outside.netns(), &format!("python3 -c \"{program}\""));
        let (status, body) = text.split_once(' ').unwrap_or_default();
        let body = serde_json::from_str(body).unwrap_or_default();
        (status.parse().unwrap_or_default(), body)
    }

    /// What a cloud's controller does.
    fn give_ingress(&self) {
        let list = INGRESS.map(|ip| json!({"ip": ip, "ipMode": "VIP"}));
        let status = json!({"status": {"loadBalancer": {"ingress": list}}}).to_string();
        let patch = [
            "patch",
            "service",
            "web",
            "--subresource=status",
            "--type=merge",
            "-p",
        ];
        self.server
            .kubectl(&[&patch[..], &[&status]].concat())
            .unwrap();
    }

    fn host(&self) -> &str {
        self.node.netns()
    }

    fn served(&self) {
        wait("the condition", || {
            self.node.condition("ServicesServed").0 == "True"
        });
    }

    /// The table of Services, with its handles.
    fn table(&self) -> String {
        in_netns(self.host(), "nft -a list table inet carrick-services").1
    }

    fn routes(&self) -> String {
        let lines = "ip route show proto 68; ip -6 route show proto 68 | sed 's/ pref.*//'";
        must(self.host(), lines)
    }
}

/// Waits until every one of these answers with this name.
fn wait_for(netns: &str, places: &[(&str, u16)], name: &str) {
    for (address, port) in places {
        wait(&format!("{address}:{port} to lead to {name}"), || {
            who(netns, address, *port) == name
        });
    }
}

/// Where the node itself and machines outside reach Service `web`, but for cluster IPs.
fn outside_places() -> Vec<(&'static str, u16)> {
    let nodes = NODE_IPS.map(|ip| (ip, NODE_PORT));
    let others = [INGRESS, EXTERNAL].concat().into_iter().map(|ip| (ip, 80));
    nodes.into_iter().chain(others).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_machines_outside_reach_services() {
    let bed = bed(json!({"mode": "Full"})).await;
    bed.apply(&[web("Cluster")]);
    bed.serve_by(&bed.pods[0]);
    bed.give_ingress();
    let clusters = CLUSTER_IPS.map(|ip| (ip, 80));
    wait_for(bed.host(), &clusters, "one");
    wait_for(bed.host(), &outside_places(), "one");
    wait_for(bed.host(), &[("127.0.0.1", NODE_PORT)], "one");
    wait_for(bed.outside.netns(), &outside_places(), "one");
    bed.served();

    // Local: the source is kept; the host is a client within the cluster.
    bed.apply(&[web("Local")]);
    for (address, port) in outside_places() {
        let source = OUTSIDE[usize::from(address.contains(':'))];
        let expected = Ok(("one".to_owned(), source.to_owned()));
        wait(&format!("{address}:{port} to keep the source"), || {
            ask(bed.outside.netns(), address, port) == expected
        });
    }
    wait_for(bed.host(), &outside_places(), "one");
    // And load balancers are told whether to send here.
    wait("the health check", || {
        let (status, body) = bed.get(HEALTH_PORT, "/");
        let expected = json!({"service": {"namespace": "default", "name": "web"},
            "localEndpoints": 1, "serviceProxyHealthy": true});
        status == 200 && body == expected
    });
    let elsewhere = ["10.10.3.9".to_owned(), "fd00:10:3::9".to_owned()];
    bed.serve_by_node("node3", &elsewhere);
    wait("the health check to fail", || {
        let (status, body) = bed.get(HEALTH_PORT, "/");
        status == 503 && body["localEndpoints"] == json!(0)
    });
    bed.serve_by(&bed.pods[0]);
    wait("the health check", || bed.get(HEALTH_PORT, "/").0 == 200);
    assert_eq!(bed.get(10256, "/healthz").0, 200);
    let metrics = bed.node.api("/metrics").unwrap().1;
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket{",
        "kubeproxy_network_programming_duration_seconds_count ",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total ",
        "kubeproxy_sync_proxy_rules_service_changes_total ",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds ",
        "carrick_agent_services ",
        "carrick_agent_services_bundles_total ",
    ] {
        assert!(metrics.contains(&format!("\n{name}")), "{name}: {metrics}");
    }

    // Source ranges hold for the addresses of the load balancer alone.
    let mut narrow = web("Cluster");
    narrow["spec"]["loadBalancerSourceRanges"] = json!(["192.168.0.0/16", "fd00:31::1/128"]);
    bed.apply(&[narrow.clone()]);
    wait("the health check to go", || {
        bed.get(HEALTH_PORT, "/").0 == 0
    });
    for address in INGRESS {
        wait(&format!("{address} to be closed"), || {
            who(bed.outside.netns(), address, 80).is_empty()
        });
    }
    wait_for(
        bed.outside.netns(),
        &[(NODE_IPS[0], NODE_PORT), (EXTERNAL[1], 80)],
        "one",
    );
    // A range goes and two that overlap with it come.
    narrow["spec"]["loadBalancerSourceRanges"] =
        json!(["172.31.0.0/17", "192.168.0.0/17", "fd00:31::/64"]);
    bed.apply(&[narrow]);
    wait_for(bed.outside.netns(), &INGRESS.map(|ip| (ip, 80)), "one");

    // An endpoint on this host's network, also for this host itself.
    let _here = Server::start(bed.host(), "here");
    bed.serve_by(&NODE_IPS.map(str::to_owned));
    wait_for(bed.host(), &clusters, "here");
    wait_for(bed.host(), &[(NODE_IPS[0], NODE_PORT)], "here");
    wait_for(bed.outside.netns(), &[(NODE_IPS[0], NODE_PORT)], "here");

    // Nobody: refused at once.
    bed.apply(&[web("Cluster")]);
    bed.serve_by(&[]);
    for netns in [bed.host(), bed.outside.netns()] {
        let mut places = outside_places();
        if netns == bed.host() {
            places.extend(clusters);
        }
        for (address, port) in places {
            wait(
                &format!("{address}:{port} to be refused in {netns}"),
                || ask(netns, address, port) == Err("ConnectionRefusedError".to_owned()),
            );
        }
    }
    bed.serve_by(&bed.pods[1]);
    wait_for(bed.host(), &clusters, "two");
    wait_for(bed.outside.netns(), &outside_places(), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_clients_follow_and_nobody_takes_anothers_address() {
    let bed =
        bed(json!({"mode": "Full", "nodePortAddresses": ["172.31.0.0/24", "fd00:31::/64"]})).await;
    let mut dns = service("dns", &["10.96.7.8", "fd00:10:96::78"], "UDP");
    dns["spec"]["type"] = json!("NodePort");
    dns["spec"]["ports"][0]["nodePort"] = json!(30053);
    let _server = Server::start_udp(&bed.sandboxes[0], "one");
    let serve_by = |addresses: &[String]| {
        let list: Vec<&String> = addresses.iter().collect();
        bed.apply(&endpoints("dns", "UDP", &list));
    };
    let refused = Err("ConnectionRefusedError".to_owned());
    let each = |what: &str, expected: &Result<String, String>| {
        for address in NODE_IPS {
            wait(&format!("UDP to {address} {what}"), || {
                ask_udp(bed.outside.netns(), address, 30053) == *expected
            });
        }
    };
    each("before the Service", &refused);
    bed.apply(&[dns]);
    serve_by(&bed.pods[0]);
    each("with an endpoint", &Ok("one".to_owned()));
    serve_by(&[]);
    each("without an endpoint", &refused);
    serve_by(&bed.pods[0]);
    each("with an endpoint again", &Ok("one".to_owned()));
    // On the management network there are no node ports.
    assert!(ask_udp(bed.host(), "172.30.0.1", 30053).is_err());
    bed.served();

    // A Service claims the address of another node: that node is reached as before.
    let mut greedy = service("greedy", &["10.96.7.9"], "TCP");
    greedy["spec"]["externalIPs"] = json!(["172.31.0.3", "198.51.100.9"]);
    bed.apply(&[greedy]);
    wait("the other one to be routed", || {
        bed.routes().contains("198.51.100.9")
    });
    assert!(!bed.routes().contains("172.31.0.3"), "{}", bed.routes());
    wait("the condition", || {
        let (status, message) = bed.node.condition("ServicesServed");
        status == "False" && message.contains("172.31.0.3")
    });
}

/// What nft and iproute2 tell of changes in a namespace, from now on.
struct Watch {
    child: Child,
    file: PathBuf,
    netns: String,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["--", &group]).status();
        let _ = self.child.wait();
    }
}

impl Watch {
    fn start(node: &LabNode) -> Self {
        let file = node.root.path().join("changes");
        let out = std::fs::File::create(&file).unwrap();
        let line = "nft monitor & ip monitor route neigh & wait";
        let child = Command::new("setsid")
            .args(["ip", "netns", "exec", node.netns(), "sh", "-c", line])
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let netns = node.netns().to_owned();
        let watch = Self { child, file, netns };
        watch.mark("begin", 77);
        watch
    }

    /// Changes something itself until that is heard, and so everything before.
    fn mark(&self, name: &str, last: u8) {
        let (table, route) = (
            format!("inet mark-{name}"),
            format!("192.0.2.{last} dev lo"),
        );
        wait("changes to be heard", || {
            must(
                &self.netns,
                &format!(
                    "nft add table {table}; nft delete table {table}; ip route add {route}; ip route del {route}"
                ),
            );
            let heard = std::fs::read_to_string(&self.file).unwrap();
            heard.contains(&table) && heard.contains(&route)
        });
    }

    /// What changed of Services.
    fn heard(&self) -> Vec<String> {
        self.mark("end", 78);
        let text = std::fs::read_to_string(&self.file).unwrap();
        let ours = text
            .lines()
            .filter(|line| line.contains("carrick") || line.contains("carrick-gw0"));
        ours.map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_change_nothing_strangers_are_mended_and_nothing_is_left() {
    let mut bed = bed(json!({"mode": "Full"})).await;
    bed.apply(&[web("Cluster")]);
    bed.serve_by(&bed.pods[0]);
    bed.give_ingress();
    let all: Vec<_> = CLUSTER_IPS
        .map(|ip| (ip, 80))
        .into_iter()
        .chain(outside_places())
        .collect();
    wait_for(bed.host(), &all, "one");
    bed.served();
    let (table, routes, flows) = (bed.table(), bed.routes(), bed.node.flows());
    assert!(
        table.contains("tcp . 30080") && routes.contains(INGRESS[0]),
        "{table}{routes}"
    );

    // kill -9, nobody notices, and the next agent has nothing to change.
    let watch = Watch::start(&bed.node);
    bed.node.kill_agent();
    wait_for(
        bed.host(),
        &[(CLUSTER_IPS[0], 80), (NODE_IPS[1], NODE_PORT)],
        "one",
    );
    bed.node.start_agent();
    bed.node.wait_ready();
    bed.served();
    assert_eq!(watch.heard(), [""; 0]);
    drop(watch);
    assert_eq!((bed.table(), bed.routes()), (table.clone(), routes.clone()));
    assert_eq!(bed.node.flows(), flows);

    // The same with the API server away: what was known stays.
    bed.node.kill_agent();
    bed.relay = None;
    bed.node.start_agent();
    bed.node.wait_ready();
    assert_eq!(bed.node.condition("ServicesServed").0, "Unknown");
    assert_eq!((bed.table(), bed.routes()), (table.clone(), routes.clone()));
    wait_for(bed.outside.netns(), &[(NODE_IPS[0], NODE_PORT)], "one");
    bed.relay = Some(Relay::open(bed.node.netns(), &bed.server).await);
    bed.served();

    // Somebody else's hand.
    let plain = |text: &str| -> BTreeSet<String> {
        let lines = text.lines();
        let lines = lines.map(|line| line.split(" # handle").next().unwrap().trim().to_owned());
        lines.collect()
    };
    let ours = "inet carrick-services";
    for line in [
        format!("nft delete table {ours}"),
        format!("nft delete element {ours} node-ports4 '{{ tcp . {NODE_PORT} }}'"),
        format!("nft add element {ours} node-ports6 '{{ tcp . 31999 }}'"),
        format!("nft add element {ours} own4 '{{ 172.31.0.1 . icmp . 0 }}'"),
        format!("nft flush chain {ours} postrouting"),
        format!("ip route del {}", INGRESS[0]),
        format!("ip route replace {} dev lo proto 68", EXTERNAL[1]),
        "ip link set carrick-gw0 down".to_owned(),
    ] {
        must(bed.host(), &line);
        wait(&format!("the host to be mended after {line}"), || {
            plain(&bed.table()) == plain(&table) && bed.routes() == routes
        });
    }
    wait_for(bed.host(), &all, "one");

    // An address from outside becomes the host's own, and is given back.
    let held = |set: &str| bed.table().contains(set);
    let own = format!("{} . tcp . 80", EXTERNAL[0]);
    must(
        bed.host(),
        &format!("ip addr add {}/32 dev eth0", EXTERNAL[0]),
    );
    wait("the address to be the host's", || {
        !bed.routes().contains(EXTERNAL[0]) && held(&own)
    });
    wait_for(bed.host(), &all, "one");
    wait_for(bed.outside.netns(), &outside_places(), "one");
    must(
        bed.host(),
        &format!("ip addr del {}/32 dev eth0", EXTERNAL[0]),
    );
    wait("the address to be routed again", || bed.routes() == routes);

    bed.node.kill_agent();
    bed.node
        .configure("serviceProxy", json!({"mode": "Disabled"}));
    bed.node.start_agent();
    bed.node.wait_ready();
    let localnet = || {
        must(
            bed.host(),
            "sysctl -n net.ipv4.conf.carrick-gw0.route_localnet",
        )
    };
    wait("Services to leave the host", || {
        bed.table().contains("No such file") && bed.routes().is_empty() && localnet() == "0\n"
    });
    assert!(!bed.node.flows().iter().any(|flow| is_service(flow)));
    assert_eq!(groups(&bed.node), [""; 0]);
    assert_eq!(bed.node.condition("ServicesServed").0, "");

    // A kube-proxy that still runs has its port.
    let kube_proxy = Server::hold(bed.host(), 10256);
    // And the whole node is as it was when the agent is removed.
    bed.node.kill_agent();
    bed.node.configure("serviceProxy", json!({"mode": "Full"}));
    bed.node.start_agent();
    wait_for(bed.host(), &all, "one");
    let says = |text: &str| {
        let (status, message) = bed.node.condition("ServicesServed");
        status == "True" && message.contains(text)
    };
    wait("the port to be told of", || {
        says("port 10256 is not served yet")
    });
    drop(kube_proxy);
    wait("the port to be served", || {
        !says("10256") && says("asked for")
    });
    assert_eq!(bed.get(10256, "/livez").0, 200);
    bed.node.cleanup();
    let after = fingerprint(bed.host());
    assert_eq!(after, bed.before);
}
