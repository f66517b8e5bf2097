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

use std::collections::BTreeSet;

use carrick_datapath::services::{
    Ingress, IngressMode, MAX_MEMBERS, Protocol, ServiceName, ServiceType, TrafficPolicy,
};
use carrick_testkit::ovs::{Datapath, wait};
use support::Families;
use support::clients::{Server, ask, ask_at_length, ip};
use support::lab::{LabNode, in_netns};
use support::lab_services::{LabServices, dump, serve};
use support::services::{endpoint, service, slice};
use support::web::{CLUSTER_IPS, Web, web};

use Protocol::{Tcp, Udp};

/// Pods and the host reach a Service by its cluster IP, both families, TCP and UDP; its endpoints share
/// the connections; a gone endpoint gets none; without any the client is told at once.
#[test]
fn cluster_ips_lead_to_endpoints() {
    let mut lab = Web::on_one_node(Families::Dual, 2);
    lab.publish(&web(), &[0, 1]);
    let (client, host) = (lab.client(), lab.node.netns().to_owned());
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
            let answers = ask(&host, protocol, ip(address), port, 10);
            assert!(!answers.failed(), "from the host to {address}: {answers:?}");
        }
    }
    assert_eq!(
        LabServices::pipeline(&mut lab.node),
        0,
        "the rest is as it was"
    );
    // The switch holds what it was told, and an agent that starts again has nothing to say.
    let dumped = dump(&lab.node.ovs);
    lab.services.proxy = carrick_datapath::services::Proxy::new(
        lab.services.proxy.node().clone(),
        support::lab_services::options(),
    );
    lab.services.proxy.upsert_service(web());
    lab.endpoints(&[0, 1]);
    let mut lost = carrick_datapath::IdLedger::default();
    let proxy = &mut lab.services.proxy;
    assert!(proxy.recover_ids(&mut lost, &dumped).unwrap() > 0);
    let adopted = proxy.adopt(&mut lost, &dumped).unwrap();
    assert_eq!(
        (adopted.same, adopted.differing, adopted.orphans),
        (1, 0, 0)
    );

    assert!(lab.lead_to(&[1]) > 0);
    for address in CLUSTER_IPS {
        let answers = ask(&client, Tcp, ip(address), 80, 20);
        assert_eq!(answers.names(), ["10.10.1.13"], "{address}");
    }
    lab.lead_to(&[]);
    for address in CLUSTER_IPS {
        for netns in [&client, &host] {
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
    lab.lead_to(&[0, 1]);
    for address in CLUSTER_IPS {
        let answers = ask(&client, Udp, ip(address), 53, 5);
        assert!(!answers.failed(), "{answers:?}");
    }
}

/// The first datagram of a client may come in fragments, of which only the first has ports. The kernel puts them
/// together for connection tracking; the userspace datapath takes them apart again behind it.
#[test]
fn datagrams_in_fragments_reach_cluster_ips() {
    let whole = [1000, 1400];
    let lengths = match Datapath::under_test() {
        Datapath::Kernel => [whole.as_slice(), &[1500, 5000, 20000]].concat(),
        Datapath::Userspace => whole.to_vec(),
    };
    for affinity in [None, Some(600)] {
        let mut lab = Web::on_one_node(Families::Dual, 2);
        let mut service = web();
        service.affinity_seconds = affinity;
        lab.publish(&service, &[0, 1]);
        for address in CLUSTER_IPS {
            for bytes in &lengths {
                let answer = ask_at_length(&lab.client(), ip(address), 53, *bytes);
                assert_eq!(answer, bytes.to_string(), "{address} {affinity:?}");
            }
        }
    }
}

/// A pod that is the only endpoint of its Service reaches itself, under another address.
#[test]
fn an_endpoint_may_be_its_own_client() {
    let mut lab = Web::on_one_node(Families::Dual, 1);
    lab.publish(&web(), &[0]);
    for (address, source) in CLUSTER_IPS
        .into_iter()
        .zip(["169.254.77.4", "fd63:6172:7269:636b::4"])
    {
        for (protocol, port) in [(Tcp, 80), (Udp, 53)] {
            let answers = ask(&lab.server(0), protocol, ip(address), port, 5);
            assert_eq!(answers.names(), ["10.10.1.12"], "{address} {answers:?}");
            assert!(answers.sources.contains(source), "{answers:?}");
        }
    }
}

/// Endpoints of another node, and policies that keep to this one.
#[test]
fn endpoints_of_two_nodes() {
    let mut lab = Web::on_two_nodes(Families::V4);
    let mut web = web();
    lab.publish(&web, &[0, 1]);
    let (client, host) = (lab.client(), lab.node.netns().to_owned());
    for netns in [&client, &host] {
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
    lab.publish(&web, &[0, 1]);
    for address in CLUSTER_IPS {
        assert_eq!(
            ask(&client, Tcp, ip(address), 80, 10).names(),
            ["10.10.1.12"]
        );
    }
    lab.lead_to(&[1]);
    let answers = ask(&client, Tcp, ip("10.96.0.10"), 80, 1);
    assert!(
        answers
            .sources
            .iter()
            .any(|e| e.to_lowercase().contains("timeout")),
        "{answers:?}"
    );
}

/// The endpoint that answers a client with affinity, several times in a row; names of all when they are several.
fn held(client: &str, address: &str) -> String {
    ask(client, Tcp, ip(address), 80, 5).names().join(" ")
}

/// A client stays with its endpoint while it is there, over all addresses of the port, though a new client
/// with its address would get another one.
#[test]
fn affinity_holds_and_heals() {
    let mut lab = Web::on_one_node(Families::Dual, 3);
    let mut web = web();
    // No client of this test stays away for so long.
    web.affinity_seconds = Some(10_800);
    web.external_ips = vec![ip("198.51.100.7")];
    let all = [0, 1, 2];
    lab.publish(&web, &all);
    let client = lab.client();
    for (protocol, port) in [(Tcp, 80), (Udp, 53)] {
        for address in CLUSTER_IPS {
            let answers = ask(&client, protocol, ip(address), port, 20);
            assert_eq!(answers.by.len(), 1, "{address} {answers:?}");
            assert!(!answers.failed(), "{answers:?}");
        }
    }
    // The switch holds the groups as they were told, and what was learned is nobody's.
    let dumped = dump(&lab.node.ovs);
    let adopted = lab.services.proxy.adopt(&mut lab.node.ledger, &dumped);
    let adopted = adopted.unwrap();
    assert_eq!(
        (adopted.same, adopted.differing, adopted.orphans),
        (1, 0, 0)
    );
    let chosen = held(&client, "10.96.0.10");
    assert_eq!(
        held(&client, "198.51.100.7"),
        chosen,
        "one port, one endpoint"
    );
    // The difference of the pipeline leaves what was learned alone.
    let learned = lab.learned().len();
    LabServices::pipeline(&mut lab.node);
    assert_eq!(lab.learned().len(), learned);
    assert_eq!(held(&client, "10.96.0.10"), chosen);
    // The endpoint goes: another one.
    lab.lead_to(&lab.without(&chosen));
    lab.forget_connections();
    let next = held(&client, "10.96.0.10");
    assert_ne!(next, chosen);
    assert!(!next.contains("error") && !next.contains(' '), "{next}");
    // And that one stays when the first is back.
    lab.lead_to(&all);
    for address in ["10.96.0.10", "198.51.100.7"] {
        assert_eq!(held(&client, address), next, "{address}");
    }
    // With the Service all learned flows go.
    assert!(!lab.learned().is_empty());
    lab.services
        .proxy
        .remove_service(&ServiceName::new("default", "web"));
    lab.services.sync(&mut lab.node);
    assert_eq!(
        lab.learned(),
        [""; 0],
        "learned flows go with their Service"
    );
    assert_eq!(lab.services.told.flows.len(), 0);
}

/// A client that stays away for the timeout is a new one when it is back, which any endpoint may get.
#[test]
fn affinity_ends_with_its_timeout() {
    let mut lab = Web::on_one_node(Families::V4, 3);
    let mut web = web();
    web.affinity_seconds = Some(2);
    lab.publish(&web, &[0, 1, 2]);
    let client = lab.client();
    // A machine may be so busy that the flow goes before anybody looks.
    let mut learned = (String::new(), Vec::new());
    wait("a learned flow", || {
        learned = (held(&client, "10.96.0.10"), lab.learned());
        !learned.1.is_empty()
    })
    .unwrap();
    let (chosen, learned) = learned;
    assert_eq!(learned.len(), 1, "one client, one port: {learned:?}");
    assert!(learned[0].contains(" idle_timeout=2,"), "{learned:?}");
    // One time in three it is the same endpoint again.
    let elsewhere = (0..30).any(|_| {
        wait("the learned flow to go", || lab.learned().is_empty()).unwrap();
        lab.forget_connections();
        held(&client, "10.96.0.10") != chosen
    });
    assert!(elsewhere, "always {chosen}");
}

/// A UDP client that keeps its port keeps its endpoint, until that one is gone; one that asked while
/// nobody answered is answered when somebody does.
#[test]
fn udp_clients_move_on() {
    let mut lab = Web::on_one_node(Families::V4, 3);
    lab.publish(&web(), &[]);
    let client = lab.client();
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
    lab.lead_to(&[0, 1, 2]);
    let first = ask();
    assert!(first.starts_with("10.10.1."), "{first}");
    let others = lab.without(&first);
    // Another one goes, and this client does not notice.
    let kept: Vec<usize> = (0..3).filter(|index| *index != others[0]).collect();
    lab.lead_to(&kept);
    for _ in 0..5 {
        assert_eq!(ask(), first);
    }
    lab.lead_to(&others);
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
    let _server = Server::run(&netns, &program);
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
    assert!(!answers.failed(), "{answers:?}");
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
    let mut lab = Web::on_two_nodes(Families::Dual);
    let mut web = web();
    web.kind = ServiceType::LoadBalancer;
    web.ports[0].node_port = Some(30080);
    web.ingress = vec![Ingress {
        address: ip("192.0.2.80"),
        mode: IngressMode::Vip,
    }];
    web.external_ips = vec![ip("172.31.0.1")];
    lab.publish(&web, &[0, 1]);
    // The other node's host is a machine outside; it routes the load balancer's address here.
    let (outside, host, pod) = (lab.outside(), lab.node.netns().to_owned(), lab.client());
    assert!(in_netns(&outside, "ip route add 192.0.2.80/32 via 172.31.0.1").0);
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
    lab.publish(&web, &[0, 1]);
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
    lab.publish(&web, &[0, 1]);
    for netns in [&outside, &host, &pod] {
        let answers = ask(netns, Tcp, ip("192.0.2.80"), 80, 1);
        assert_eq!(answers.names(), ["error"], "{netns} {answers:?}");
        let answers = ask(netns, Tcp, ip("172.31.0.1"), 30080, 1);
        assert!(!answers.failed(), "{netns} {answers:?}");
    }
    web.source_ranges = vec![
        "172.31.0.0/24".parse().unwrap(),
        "10.10.1.0/24".parse().unwrap(),
    ];
    lab.publish(&web, &[0, 1]);
    for netns in [&outside, &pod] {
        let answers = ask(netns, Tcp, ip("192.0.2.80"), 80, 3);
        assert!(!answers.failed(), "{netns} {answers:?}");
    }
    // Nobody anywhere: refused at once.
    lab.lead_to(&[]);
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
    let ranges = ["172.31.0.0/24", "172.31.0.0/16"].map(|range| range.parse().unwrap());
    let mut lab = Web::on_addresses(Families::V4, ranges.into());
    let mut web = web();
    web.kind = ServiceType::NodePort;
    web.ports[0].node_port = Some(30080);
    lab.publish(&web, &[0]);
    let host = lab.node.netns();
    for netns in [host, &lab.outside()] {
        let answers = ask(netns, Tcp, ip("172.31.0.1"), 30080, 2);
        assert_eq!(answers.names(), ["10.10.1.12"], "{netns} {answers:?}");
    }
    for address in ["127.0.0.1", "10.10.1.1", "fd00:31::1"] {
        let answers = ask(host, Tcp, ip(address), 30080, 1);
        assert_eq!(answers.names(), ["error"], "{address} {answers:?}");
    }
}

/// Endpoints on the host's network: the switch hands the packet back to the host it came from.
#[test]
fn endpoints_on_hosts_networks() {
    let mut lab = Web::on_two_nodes(Families::V4);
    let (client, host) = (lab.client(), lab.node.netns().to_owned());
    let _here = Server::start(&host, "here", Tcp, 8080);
    let _there = Server::start(&lab.outside(), "there", Tcp, 8080);
    lab.publish(&web(), &[]);
    for (address, name) in [("172.31.0.1", "here"), ("172.31.0.2", "there")] {
        lab.lead_to_address(ip(address));
        for netns in [&client, &host] {
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
