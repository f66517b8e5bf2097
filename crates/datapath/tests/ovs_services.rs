//! Services on a real Open vSwitch, with real packets and real clients.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::items_after_statements,
    clippy::format_push_string,
    reason = "tests say what they expect"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};

use carrick_datapath::services::{
    Endpoint, Ingress, IngressMode, MAX_MEMBERS, Protocol, Service, ServiceName, ServiceType,
    TrafficPolicy,
};
use support::Families;
use support::lab::{LabNode, in_netns, two_nodes};
use support::lab_services::{LabServices, dump, serve, serve_on};
use support::services::{endpoint, service, slice};

use Protocol::{Tcp, Udp};

/// A server that tells every client who it is and what source it sees, until it is dropped.
struct Server(Child);

impl Server {
    fn start(netns: &str, name: &str, protocol: Protocol, port: u16) -> Self {
        let serve = match protocol {
            Protocol::Tcp => {
                "s=socket.socket(f,socket.SOCK_STREAM); s.setsockopt(1,2,1); s.bind(('::',port)); s.listen(50)\n\
                 print('up',flush=True)\n\
                 while True:\n\
                 \x20c,a=s.accept(); c.sendall(f'{name} {a[0]}'.encode()); c.close()"
            }
            _ => {
                "s=socket.socket(f,socket.SOCK_DGRAM); s.bind(('::',port))\n\
                 print('up',flush=True)\n\
                 while True:\n\
                 \x20d,a=s.recvfrom(100); s.sendto(f'{name} {a[0]}'.encode(),a)"
            }
        };
        let program =
            format!("import socket\nf=socket.AF_INET6; name={name:?}; port={port}\n{serve}");
        let mut child = Command::new("ip")
            .args(["netns", "exec", netns, "python3", "-c", &program])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line.trim(), "up", "{name} serves");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connects `times` times, patiently, as machines may be busy, or once; who answered how often with which source, or what the first error was.
fn ask(netns: &str, protocol: Protocol, address: IpAddr, port: u16, times: u32) -> Answers {
    let kind = if protocol == Tcp {
        "SOCK_STREAM"
    } else {
        "SOCK_DGRAM"
    };
    let family = if address.is_ipv4() {
        "AF_INET"
    } else {
        "AF_INET6"
    };
    let program = format!(
        "import socket\n\
         wait=3 if {times}==1 else 15\n\
         for _ in range({times}):\n\
         \x20s=socket.socket(socket.{family},socket.{kind}); s.settimeout(wait)\n\
         \x20try:\n\
         \x20\x20s.connect(('{address}',{port})); s.send(b'x'); print(s.recv(100).decode())\n\
         \x20except OSError as e: print('error',type(e).__name__)\n\
         \x20s.close()"
    );
    let (_, text) = in_netns(netns, &format!("python3 -c \"{program}\""));
    let mut answers = Answers::default();
    for line in text.lines() {
        let (name, source) = line.split_once(' ').unwrap_or((line, ""));
        *answers.by.entry(name.to_owned()).or_default() += 1;
        answers
            .sources
            .insert(source.trim_start_matches("::ffff:").to_owned());
    }
    answers
}

#[derive(Debug, Default)]
struct Answers {
    by: BTreeMap<String, u32>,
    sources: BTreeSet<String>,
}

impl Answers {
    fn names(&self) -> Vec<&str> {
        self.by.keys().map(String::as_str).collect()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const PORTS: [(&str, Protocol, u16); 2] = [("web", Tcp, 8080), ("dns", Udp, 5353)];

fn web() -> Service {
    service(
        "web",
        &["10.96.0.10", "fd00:96::10"],
        &[("web", Tcp, 80), ("dns", Udp, 53)],
    )
}

/// Slices of both families for pods.
fn endpoints(services: &mut LabServices, pods: &[(IpAddr, &str)]) {
    for (name, v4) in [("web4", true), ("web6", false)] {
        let here = pods.iter().filter(|(address, _)| address.is_ipv4() == v4);
        let here: Vec<Endpoint> = here
            .map(|(address, node)| endpoint(&address.to_string(), node))
            .collect();
        services
            .proxy
            .upsert_slice(&slice(name, "web", &PORTS, here));
    }
}

fn addresses(lab: &LabNode, pods: &[usize], node: &'static str) -> Vec<(IpAddr, &'static str)> {
    let all = pods
        .iter()
        .flat_map(|index| lab.pod(*index).pod.addresses.iter());
    all.map(|address| (address, node)).collect()
}

fn servers(lab: &LabNode, pods: &[usize]) -> Vec<Server> {
    let of = |index: &usize| {
        let pod = lab.pod(*index);
        let name = pod.pod.addresses.v4.unwrap().to_string();
        [(Tcp, 8080), (Udp, 5353)]
            .map(|(protocol, port)| Server::start(&pod.netns, &name, protocol, port))
    };
    pods.iter().flat_map(of).collect()
}

const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd00:96::10"];

/// Pods and the host reach a Service by its cluster IP, both families, TCP and UDP; its endpoints share
/// the connections; a gone endpoint gets none; without any the client is told at once.
#[test]
fn cluster_ips_lead_to_endpoints() {
    let mut a = LabNode::start(1, Families::Dual);
    let pods: Vec<usize> = (1..=3).map(|p| a.add_pod(p)).collect();
    let mut services = serve(&mut a, 1);
    let _servers = servers(&a, &pods[1..]);
    services.proxy.upsert_service(web());
    endpoints(&mut services, &addresses(&a, &pods[1..], "node1"));
    services.sync(&mut a);
    let client = a.pod(pods[0]).netns.clone();
    for (protocol, port) in [(Tcp, 80), (Udp, 53)] {
        for address in CLUSTER_IPS {
            let answers = ask(&client, protocol, ip(address), port, 30);
            assert_eq!(
                answers.names(),
                ["10.10.1.12", "10.10.1.13"],
                "{address} {answers:?}"
            );
            let fewest = answers.by.values().min().unwrap();
            assert!(*fewest >= 5, "{answers:?}");
            // The endpoint sees its client.
            assert!(answers.sources.contains(if address.contains(':') {
                "fd00:10:1::11"
            } else {
                "10.10.1.11"
            }));
            let host = ask(a.netns(), protocol, ip(address), port, 10);
            assert!(
                !host.by.contains_key("error"),
                "from the host to {address}: {host:?}"
            );
        }
    }
    assert_eq!(LabServices::pipeline(&mut a), 0, "the rest is as it was");
    // The switch holds what it was told, and an agent that starts again has nothing to say.
    let dumped = dump(&a.ovs);
    let mut again = carrick_datapath::services::Proxy::new(
        services.proxy.node().clone(),
        support::lab_services::options(),
    );
    again.upsert_service(web());
    std::mem::swap(&mut services.proxy, &mut again);
    endpoints(&mut services, &addresses(&a, &pods[1..], "node1"));
    let mut lost = carrick_datapath::IdLedger::default();
    assert!(services.proxy.recover_ids(&mut lost, &dumped).unwrap() > 0);
    let adopted = services.proxy.adopt(&mut lost, &dumped).unwrap();
    assert_eq!(
        (adopted.same, adopted.differing, adopted.orphans),
        (1, 0, 0)
    );

    endpoints(&mut services, &addresses(&a, &pods[2..], "node1"));
    assert!(services.sync(&mut a) > 0);
    for address in CLUSTER_IPS {
        let answers = ask(&client, Tcp, ip(address), 80, 20);
        assert_eq!(answers.names(), ["10.10.1.13"], "{address}");
    }
    endpoints(&mut services, &[]);
    services.sync(&mut a);
    for address in CLUSTER_IPS {
        for netns in [client.as_str(), a.netns()] {
            for (protocol, port) in [(Tcp, 80), (Udp, 53)] {
                let answers = ask(netns, protocol, ip(address), port, 1);
                assert_eq!(answers.names(), ["error"]);
                // A datagram of the host's own is refused before it is sent.
                let refused = ["ConnectionRefusedError", "PermissionError"];
                let refused = refused.iter().any(|error| answers.sources.contains(*error));
                assert!(refused, "{address} {protocol:?} in {netns}: {answers:?}");
            }
        }
    }
    // And back again: UDP clients are not held by the time without endpoints.
    endpoints(&mut services, &addresses(&a, &pods[1..], "node1"));
    services.sync(&mut a);
    for address in CLUSTER_IPS {
        let answers = ask(&client, Udp, ip(address), 53, 5);
        assert!(!answers.by.contains_key("error"), "{answers:?}");
    }
}

/// A pod that is the only endpoint of its Service reaches itself, under another address.
#[test]
fn an_endpoint_may_be_its_own_client() {
    let mut a = LabNode::start(1, Families::Dual);
    let pod = a.add_pod(1);
    let mut services = serve(&mut a, 1);
    let _servers = servers(&a, &[pod]);
    services.proxy.upsert_service(web());
    endpoints(&mut services, &addresses(&a, &[pod], "node1"));
    services.sync(&mut a);
    for (address, source) in CLUSTER_IPS
        .into_iter()
        .zip(["169.254.77.4", "fd63:6172:7269:636b::4"])
    {
        for (protocol, port) in [(Tcp, 80), (Udp, 53)] {
            let answers = ask(&a.pod(pod).netns, protocol, ip(address), port, 5);
            assert_eq!(answers.names(), ["10.10.1.11"], "{address} {answers:?}");
            assert!(answers.sources.contains(source), "{answers:?}");
        }
    }
}

/// Endpoints of another node, and policies that keep to this one.
#[test]
fn endpoints_of_two_nodes() {
    let (mut a, mut b) = two_nodes(Families::Dual, Families::V4);
    let (one, near, far) = (a.add_pod(1), a.add_pod(2), b.add_pod(3));
    let mut services = serve(&mut a, 1);
    let _servers: Vec<Server> = servers(&a, &[near])
        .into_iter()
        .chain(servers(&b, &[far]))
        .collect();
    let mut web = web();
    services.proxy.upsert_service(web.clone());
    let mut all = addresses(&a, &[near], "node1");
    all.extend(addresses(&b, &[far], "node2"));
    endpoints(&mut services, &all);
    services.sync(&mut a);
    let client = a.pod(one).netns.clone();
    for netns in [client.as_str(), a.netns()] {
        for address in CLUSTER_IPS {
            let answers = ask(netns, Tcp, ip(address), 80, 30);
            assert_eq!(
                answers.names(),
                ["10.10.1.12", "10.10.2.13"],
                "{netns} {address} {answers:?}"
            );
        }
    }
    web.internal_policy = TrafficPolicy::Local;
    services.proxy.upsert_service(web.clone());
    services.sync(&mut a);
    for address in CLUSTER_IPS {
        assert_eq!(
            ask(&client, Tcp, ip(address), 80, 10).names(),
            ["10.10.1.12"]
        );
    }
    endpoints(&mut services, &addresses(&b, &[far], "node2"));
    services.sync(&mut a);
    let answers = ask(&client, Tcp, ip("10.96.0.10"), 80, 1);
    assert!(
        answers
            .sources
            .iter()
            .any(|e| e.to_lowercase().contains("timeout")),
        "{answers:?}"
    );
}

/// A client stays with its endpoint while it is there, over all addresses of the port, and for as long
/// as it comes back within the timeout.
#[test]
fn affinity_holds_and_heals() {
    let mut a = LabNode::start(1, Families::Dual);
    let pods: Vec<usize> = (1..=4).map(|p| a.add_pod(p)).collect();
    let mut services = serve(&mut a, 1);
    let _servers = servers(&a, &pods[1..]);
    let mut web = web();
    web.affinity_seconds = Some(4);
    web.external_ips = vec![ip("198.51.100.7")];
    services.proxy.upsert_service(web);
    endpoints(&mut services, &addresses(&a, &pods[1..], "node1"));
    services.sync(&mut a);
    let client = a.pod(pods[0]).netns.clone();
    for (protocol, port) in [(Tcp, 80), (Udp, 53)] {
        for address in CLUSTER_IPS {
            let answers = ask(&client, protocol, ip(address), port, 20);
            assert_eq!(answers.by.len(), 1, "{address} {answers:?}");
            assert!(!answers.by.contains_key("error"), "{answers:?}");
        }
    }
    // The switch holds the groups as they were told, and what was learned is nobody's.
    let dumped = dump(&a.ovs);
    let adopted = services.proxy.adopt(&mut a.ledger, &dumped).unwrap();
    assert_eq!(
        (adopted.same, adopted.differing, adopted.orphans),
        (1, 0, 0)
    );
    let held = |address: &str| ask(&client, Tcp, ip(address), 80, 5).names().join(" ");
    let chosen = held("10.96.0.10");
    assert_eq!(held("198.51.100.7"), chosen, "one port, one endpoint");
    // The difference of the pipeline leaves what was learned alone.
    LabServices::pipeline(&mut a);
    assert_eq!(held("10.96.0.10"), chosen);
    // Each connection renews it: twice the timeout passes, never the whole of it at once.
    for _ in 0..4 {
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert_eq!(held("10.96.0.10"), chosen);
    }
    // The endpoint goes: another one, and that one stays.
    let gone = ip(&chosen);
    let left: Vec<usize> = pods[1..]
        .iter()
        .copied()
        .filter(|index| a.pod(*index).pod.addresses.v4.map(IpAddr::V4) != Some(gone))
        .collect();
    endpoints(&mut services, &addresses(&a, &left, "node1"));
    services.sync(&mut a);
    let next = held("10.96.0.10");
    assert_ne!(next, chosen);
    assert!(!next.contains("error") && !next.contains(' '), "{next}");
    // After the timeout the learned flow is gone, and with the Service all of them.
    let learned = |lab: &LabNode| {
        let dump = lab
            .ovs
            .ofctl(&["dump-flows", &lab.ovs.target("br-int"), "table=25"])
            .unwrap();
        dump.matches("cookie=0x5").count()
    };
    assert!(learned(&a) > 0);
    services
        .proxy
        .remove_service(&ServiceName::new("default", "web"));
    services.sync(&mut a);
    assert_eq!(learned(&a), 0, "learned flows go with their Service");
    assert_eq!(services.told.flows.len(), 0);
}

/// A UDP client that keeps its port keeps its endpoint, until that one is gone; one that asked while
/// nobody answered is answered when somebody does.
#[test]
fn udp_clients_move_on() {
    let mut a = LabNode::start(1, Families::V4);
    let pods: Vec<usize> = (1..=4).map(|p| a.add_pod(p)).collect();
    let mut services = serve(&mut a, 1);
    let _servers = servers(&a, &pods[1..]);
    services.proxy.upsert_service(web());
    services.sync(&mut a);
    let client = a.pod(pods[0]).netns.clone();
    let ask = || -> String {
        let program = "import socket\n\
             s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(2); s.bind(('',5555))\n\
             s.connect(('10.96.0.10',53))\n\
             try:\n\
             \x20s.send(b'x'); print(s.recv(100).decode().split()[0])\n\
             except OSError as e: print(type(e).__name__)";
        let (_, text) = in_netns(&client, &format!("python3 -c \"{program}\""));
        text.trim().to_owned()
    };
    assert_eq!(ask(), "ConnectionRefusedError");
    endpoints(&mut services, &addresses(&a, &pods[1..], "node1"));
    services.sync(&mut a);
    let first = ask();
    assert!(first.starts_with("10.10.1."), "{first}");
    let others: Vec<usize> = pods[1..]
        .iter()
        .copied()
        .filter(|index| a.pod(*index).pod.addresses.v4.unwrap().to_string() != first)
        .collect();
    // Another one goes, and this client does not notice.
    let kept: Vec<usize> = pods[1..]
        .iter()
        .copied()
        .filter(|index| *index != others[0])
        .collect();
    endpoints(&mut services, &addresses(&a, &kept, "node1"));
    services.sync(&mut a);
    for _ in 0..5 {
        assert_eq!(ask(), first);
    }
    endpoints(&mut services, &addresses(&a, &others, "node1"));
    services.sync(&mut a);
    let next = ask();
    assert!(
        next.starts_with("10.10.1.") && next != first,
        "{first} then {next}"
    );
}

/// More endpoints than one group holds: every shard is reached, and no connection goes elsewhere.
#[test]
fn many_endpoints_are_sharded() {
    let mut a = LabNode::start(1, Families::V4);
    let (client, server) = (a.add_pod(1), a.add_pod(2));
    let mut services = serve(&mut a, 1);
    let count = u16::try_from(3 * MAX_MEMBERS).unwrap();
    let netns = a.pod(server).netns.clone();
    // One pod that answers on as many ports as there are endpoints.
    let program = format!(
        "import socket,selectors\nk=selectors.DefaultSelector()\n\
         for p in range(9000,9000+{count}):\n\
         \x20s=socket.socket(); s.setsockopt(1,2,1); s.bind(('',p)); s.listen(9); k.register(s,1)\n\
         print('up',flush=True)\n\
         while True:\n\
         \x20for e,_ in k.select():\n\
         \x20\x20c,_=e.fileobj.accept(); c.sendall(str(e.fileobj.getsockname()[1]).encode()); c.close()"
    );
    let mut child = Command::new("ip")
        .args(["netns", "exec", &netns, "python3", "-c", &program])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let _server = Server(child);
    services
        .proxy
        .upsert_service(service("many", &["10.96.0.20"], &[("", Tcp, 80)]));
    let address = a.pod(server).pod.addresses.v4.unwrap().to_string();
    for port in 9000..9000 + count {
        let one = vec![endpoint(&address, "node1")];
        services.proxy.upsert_slice(&slice(
            &format!("many-{port}"),
            "many",
            &[("", Tcp, port)],
            one,
        ));
    }
    services.sync(&mut a);
    assert_eq!(services.told.groups.len(), 4);
    let answers = ask(&a.pod(client).netns, Tcp, ip("10.96.0.20"), 80, 1200);
    assert!(!answers.by.contains_key("error"), "{answers:?}");
    // With 1,200 connections over 381 endpoints about 16 would be missed by chance.
    assert!(
        answers.by.len() > 300,
        "{} of {count} endpoints answered",
        answers.by.len()
    );
    let shard = usize::from(count / 4);
    for quarter in 0..4 {
        let range = 9000 + quarter * shard..9000 + (quarter + 1) * shard;
        let here: u32 = answers
            .by
            .iter()
            .filter(|(port, _)| range.contains(&port.parse::<usize>().unwrap_or(0)))
            .map(|(_, count)| count)
            .sum();
        assert!(
            (200..400).contains(&here),
            "shard {quarter} got {here} of 1200"
        );
    }
}

/// Node ports, addresses of load balancers and external IPs: from outside, from the host, from its
/// loopback and from pods.
#[test]
fn addresses_from_outside() {
    let (mut a, mut b) = two_nodes(Families::Dual, Families::Dual);
    let (one, near, far) = (a.add_pod(1), a.add_pod(2), b.add_pod(3));
    let mut services = serve(&mut a, 1);
    let _servers: Vec<Server> = servers(&a, &[near])
        .into_iter()
        .chain(servers(&b, &[far]))
        .collect();
    let mut web = web();
    web.kind = ServiceType::LoadBalancer;
    web.ports[0].node_port = Some(30080);
    web.ingress = vec![Ingress {
        address: ip("192.0.2.80"),
        mode: IngressMode::Vip,
    }];
    web.external_ips = vec![ip("172.31.0.1")];
    services.proxy.upsert_service(web.clone());
    let mut all = addresses(&a, &[near], "node1");
    all.extend(addresses(&b, &[far], "node2"));
    endpoints(&mut services, &all);
    services.sync(&mut a);
    // The other node's host is a machine outside; it routes the load balancer's address here.
    assert!(in_netns(b.netns(), "ip route add 192.0.2.80/32 via 172.31.0.1").0);
    let outside = b.netns().to_owned();
    let host = a.netns().to_owned();
    let pod = a.pod(one).netns.clone();
    let both = ["10.10.1.12", "10.10.2.13"];
    for (netns, address, port) in [
        (&outside, "172.31.0.1", 30080),
        (&outside, "fd00:31::1", 30080),
        (&outside, "192.0.2.80", 80),
        (&outside, "172.31.0.1", 80),
        (&host, "172.31.0.1", 30080),
        (&host, "fd00:31::1", 30080),
        (&host, "127.0.0.1", 30080),
        (&host, "192.0.2.80", 80),
        (&host, "172.31.0.1", 80),
        (&pod, "172.31.0.1", 30080),
        (&pod, "192.0.2.80", 80),
        (&pod, "172.31.0.1", 80),
    ] {
        let answers = ask(netns, Tcp, ip(address), port, 24);
        assert_eq!(
            answers.names(),
            both,
            "{netns} to {address}:{port} {answers:?}"
        );
    }
    // Local: this node's endpoint alone for those outside, who keep their source; all for the cluster.
    web.external_policy = TrafficPolicy::Local;
    services.proxy.upsert_service(web.clone());
    services.sync(&mut a);
    for (address, port) in [
        ("172.31.0.1", 30080),
        ("192.0.2.80", 80),
        ("172.31.0.1", 80),
    ] {
        let answers = ask(&outside, Tcp, ip(address), port, 12);
        assert_eq!(answers.names(), ["10.10.1.12"], "{address} {answers:?}");
        assert!(answers.sources.contains("172.31.0.2"), "{answers:?}");
        for netns in [&host, &pod] {
            let answers = ask(netns, Tcp, ip(address), port, 24);
            assert_eq!(
                answers.names(),
                both,
                "{netns} to {address}:{port} {answers:?}"
            );
        }
    }
    // Source ranges hold for the load balancer's address alone.
    web.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    services.proxy.upsert_service(web.clone());
    services.sync(&mut a);
    for netns in [&outside, &host, &pod] {
        let answers = ask(netns, Tcp, ip("192.0.2.80"), 80, 1);
        assert_eq!(answers.names(), ["error"], "{netns} {answers:?}");
        assert!(
            !ask(netns, Tcp, ip("172.31.0.1"), 30080, 1)
                .by
                .contains_key("error"),
            "{netns}"
        );
    }
    web.source_ranges = vec![
        "172.31.0.0/24".parse().unwrap(),
        "10.10.1.0/24".parse().unwrap(),
    ];
    services.proxy.upsert_service(web.clone());
    services.sync(&mut a);
    for netns in [&outside, &pod] {
        let answers = ask(netns, Tcp, ip("192.0.2.80"), 80, 3);
        assert!(!answers.by.contains_key("error"), "{netns} {answers:?}");
    }
    // Nobody anywhere: refused at once.
    endpoints(&mut services, &[]);
    services.sync(&mut a);
    for netns in [&outside, &host, &pod] {
        let answers = ask(netns, Tcp, ip("172.31.0.1"), 30080, 1);
        assert!(
            answers.sources.contains("ConnectionRefusedError"),
            "{netns} {answers:?}"
        );
    }
}

/// Node ports are on the addresses that were asked for, and on no other.
#[test]
fn node_ports_on_some_addresses() {
    let (mut a, b) = two_nodes(Families::Dual, Families::V4);
    let pod = a.add_pod(1);
    let ranges = ["172.31.0.0/24", "172.31.0.0/16"].map(|range| range.parse().unwrap());
    let mut services = serve_on(&mut a, 1, ranges.into());
    let _servers = servers(&a, &[pod]);
    let mut web = web();
    web.kind = ServiceType::NodePort;
    web.ports[0].node_port = Some(30080);
    services.proxy.upsert_service(web);
    endpoints(&mut services, &addresses(&a, &[pod], "node1"));
    services.sync(&mut a);
    for netns in [a.netns(), b.netns()] {
        let answers = ask(netns, Tcp, ip("172.31.0.1"), 30080, 2);
        assert_eq!(answers.names(), ["10.10.1.11"], "{netns} {answers:?}");
    }
    for address in ["127.0.0.1", "10.10.1.1", "fd00:31::1"] {
        let answers = ask(a.netns(), Tcp, ip(address), 30080, 1);
        assert_eq!(answers.names(), ["error"], "{address} {answers:?}");
    }
}

/// Endpoints on the host's network: the switch hands the packet back to the host it came from.
#[test]
fn endpoints_on_hosts_networks() {
    let (mut a, b) = two_nodes(Families::Dual, Families::V4);
    let one = a.add_pod(1);
    let mut services = serve(&mut a, 1);
    let _here = Server::start(a.netns(), "here", Tcp, 8080);
    let _there = Server::start(b.netns(), "there", Tcp, 8080);
    services.proxy.upsert_service(web());
    for (address, name) in [("172.31.0.1", "here"), ("172.31.0.2", "there")] {
        endpoints(&mut services, &[(ip(address), "node1")]);
        services.sync(&mut a);
        for netns in [a.pod(one).netns.as_str(), a.netns()] {
            let answers = ask(netns, Tcp, ip("10.96.0.10"), 80, 5);
            assert_eq!(answers.names(), [name], "{netns} {answers:?}");
        }
    }
}

/// Why groups are changed whole: a bucket that is inserted takes all connections, and when one is removed
/// the switch itself must choose for each. When this fails, Open vSwitch has mended it, and buckets may be changed one by one.
#[test]
fn a_bucket_cannot_be_inserted_or_removed() {
    let a = LabNode::start(1, Families::V4);
    let target = a.ovs.target("br-int");
    let run = |arguments: &[&str]| a.ovs.ofctl(arguments).unwrap();
    let bucket = |id: u32| {
        format!("bucket=bucket_id:{id},weight:1,actions=load:{id}->NXM_NX_REG5[],IN_PORT")
    };
    let group = format!(
        "group_id=77,type=select,selection_method=dp_hash,{},{}",
        bucket(1),
        bucket(2)
    );
    run(&["add-group", &target, &group]);
    run(&[
        "add-flow",
        &target,
        "table=0,priority=999,in_port=2,tcp,tp_dst=7 actions=group:77",
    ]);
    // The datapath has numbers of its own for ports.
    let ports = a.ovs.appctl(&["dpif/show"]).unwrap();
    let gateway = ports
        .lines()
        .find(|line| line.trim().starts_with("gw0 "))
        .unwrap();
    let gateway = gateway
        .split('/')
        .nth(1)
        .unwrap()
        .split(':')
        .next()
        .unwrap()
        .to_owned();
    let chosen = || -> BTreeSet<String> {
        let first = a.trace("in_port=2,tcp,nw_src=10.1.1.1,nw_dst=10.1.1.2,tp_src=9,tp_dst=7");
        if !first.contains("recirc(") {
            // Not by the datapath's hash: by one that only the switch itself can compute.
            return ["upcall".to_owned()].into();
        }
        let id = first
            .rsplit("recirc(")
            .next()
            .unwrap()
            .split(')')
            .next()
            .unwrap();
        let choose = |hash: u32| {
            let packet = format!(
                "recirc_id({id}),dp_hash({hash}),in_port({gateway}),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),\
                 eth_type(0x0800),ipv4(src=10.1.1.1,dst=10.1.1.2,proto=6,tos=0,ttl=64,frag=no),tcp(src=9,dst=7)"
            );
            let datapath = match carrick_testkit::ovs::Datapath::under_test() {
                carrick_testkit::ovs::Datapath::Userspace => "ovs-netdev",
                carrick_testkit::ovs::Datapath::Kernel => "ovs-system",
            };
            let trace = a.ovs.appctl(&["ofproto/trace", datapath, &packet]).unwrap();
            let bucket = trace
                .split("using bucket ")
                .nth(1)
                .map(|rest| rest.lines().next().unwrap());
            bucket.unwrap_or("none").trim().to_owned()
        };
        (1..=16).map(choose).collect()
    };
    assert_eq!(chosen(), ["1", "2"].map(str::to_owned).into());
    let insert = format!("group_id=77,command_bucket_id=last,{}", bucket(3));
    run(&["insert-buckets", &target, &insert]);
    assert_eq!(chosen(), ["3".to_owned()].into(), "only what was inserted");
    run(&["remove-buckets", &target, "group_id=77,command_bucket_id=3"]);
    assert_eq!(
        chosen(),
        ["upcall".to_owned()].into(),
        "each connection by the switch itself"
    );
}
