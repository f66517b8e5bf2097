//! A node's MTU, interface, address, subnet and pod CIDRs change while it carries pods: the agent notices,
//! and everything that follows from them is right again, with nothing left of what was. Two real agents on
//! real switches.

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

use std::net::Ipv4Addr;

use carrick_testkit::ovs::Datapath;
use lab::controller::{node_record_by, pod_record, route_record_by};
use lab::modes::{Case, Fabric, Families, Holder, connect, join, pod_cidrs, start, transport};
use lab::{LabNode, Pod, in_netns, must, ping, wait};

/// Not a test: the agent's process (see [`lab`]).
#[test]
fn agent_process() {
    lab::agent_main();
}

/// The link that holds a node's transport addresses.
fn holder() -> &'static str {
    match Datapath::under_test() {
        Datapath::Userspace => "br-phy",
        Datapath::Kernel => "eth1",
    }
}

/// Everything that follows from addresses: flows, routes, rules, neighbours, links, ports.
fn everything(node: &LabNode) -> String {
    let mut text = node.flows().join("\n");
    text += &must(
        node.netns(),
        "ip route show table all; ip -6 route show table all; ip addr; ip neigh show nud permanent; nft list ruleset",
    );
    let columns = ["--columns=name,options,mtu_request", "list", "Interface"];
    text += &node.ovs.vsctl(&columns).unwrap();
    text
}

/// Waits until nothing of the node's state has one of these in it.
fn forgotten(node: &LabNode, old: &[&str]) {
    let mut old: Vec<String> = old.iter().map(|text| (*text).to_owned()).collect();
    let as_number = |text: &String| {
        let address: Ipv4Addr = text.parse().ok()?;
        Some(format!("0x{:08x}", u32::from(address)))
    };
    let numbers: Vec<String> = old.iter().filter_map(as_number).collect();
    old.extend(numbers);
    let left = || {
        let all = everything(node);
        // Not as the beginning of a longer one.
        let has = |line: &&str| {
            old.iter().any(|old| {
                let mut rest = line.split(old.as_str());
                rest.next();
                rest.any(|after| !after.starts_with(|c: char| c.is_ascii_hexdigit()))
            })
        };
        all.lines()
            .filter(has)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut lines = Vec::new();
    wait(&format!("{} to forget {old:?}", node.name), || {
        let now = left();
        if now != lines {
            eprintln!("{} has left: {now:#?}", node.name);
            lines = now;
        }
        lines.is_empty()
    });
}

fn reach(netns: &str, addresses: &[String]) {
    for address in addresses {
        assert!(ping(netns, address), "{netns} to {address}");
    }
}

/// A packet of this size passes with "don't fragment".
fn passes(netns: &str, address: &str, size: u16) -> bool {
    let payload = size - if address.contains(':') { 48 } else { 28 };
    let line = format!("ping -c 5 -i 0.2 -W 1 -M do -s {payload} {address} | grep -q 'bytes from'");
    in_netns(netns, &line).0
}

fn mtu_of(netns: &str, link: &str) -> String {
    let text = must(netns, &format!("cat /sys/class/net/{link}/mtu"));
    text.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_on_a_node_changes_everywhere() {
    let case = Case {
        mode: "Encap",
        protocol: "Geneve",
        fabric: Fabric::Router,
        pods: Families::Dual,
        transport: Families::Dual,
    };
    let (mut a, mut b) = (LabNode::new(1), LabNode::new(2));
    let router = connect(&case, [&a, &b]);
    let pods = ["one", "two", "three", "four", "five"].map(Pod::new);
    let theirs: [&[&Pod]; 2] = [&[&pods[0], &pods[2], &pods[3]], &[&pods[1], &pods[4]]];
    let controller = start(&case, [&mut a, &mut b], theirs).await;
    let (one, one_ips) = a.add_pod(&pods[0]);
    let (two, two_ips) = b.add_pod(&pods[1]);
    reach(&one.0, &two_ips);

    // The MTU goes down: gateway and new pods follow, a pod that is there keeps its own and is named.
    must(a.netns(), "ip link set eth1 mtu 1400");
    wait("the lower MTU", || a.report()["mtu"] == 1350);
    wait("the gateway's MTU", || {
        mtu_of(a.netns(), "carrick-gw0") == "1350"
    });
    wait("the pod to be named", || {
        let (status, message) = a.condition("PodsHaveMTU");
        status == "False" && message.contains("default/one (1450)")
    });
    assert_eq!(a.condition("Ready").0, "True");
    let (three, three_ips) = a.add_pod(&pods[2]);
    assert_eq!(mtu_of(&three.0, "eth0"), "1350");
    assert_eq!(mtu_of(&one.0, "eth0"), "1450");
    assert!(passes(&three.0, &two_ips[0], 1350) && passes(&three.0, &two_ips[1], 1350));
    must(a.netns(), "ip link set eth1 mtu 1500");
    wait("the higher MTU", || a.report()["mtu"] == 1450);
    wait("the gateway's MTU", || {
        mtu_of(a.netns(), "carrick-gw0") == "1450"
    });
    wait("nobody to be named", || {
        a.condition("PodsHaveMTU").0 == "True"
    });
    let (four, _) = a.add_pod(&pods[3]);
    assert_eq!(mtu_of(&four.0, "eth0"), "1450");
    assert!(passes(&four.0, &two_ips[0], 1450) && passes(&four.0, &two_ips[1], 1450));

    // An address is replaced: the node says so, and the others' tunnels end at the new one.
    let device = holder();
    must(
        b.netns(),
        &format!(
            "ip addr del 172.31.2.2/24 dev {device} && ip addr add 172.31.2.22/24 dev {device} && \
             ip route replace 172.31.0.0/16 via 172.31.2.254 dev {device}"
        ),
    );
    wait("the new address to be told", || {
        let report = b.report();
        let ends = report["tunnelEndpoints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        ends.contains(&"172.31.2.22".into()) && !ends.contains(&"172.31.2.2".into())
    });
    let ends = ["172.31.2.22".to_owned(), "fd00:31:2::2".to_owned()];
    let route = route_record_by(2, &pod_cidrs(2, case.pods), &ends);
    controller.send(&a.name, vec![route], vec![]);
    forgotten(&a, &["172.31.2.2"]);
    forgotten(&b, &["172.31.2.2"]);
    reach(&one.0, &two_ips);
    reach(&two.0, &three_ips);

    // The interface has another name for a while: what runs goes on, and what is wrong is said.
    let lost = |node: &LabNode| {
        wait("the lost interface to be told", || {
            let (status, message) = node.condition("PodCIDRsUsable");
            status == "False" && message.contains("no interface eth1")
        });
    };
    let back = |node: &LabNode| {
        wait("the interface to be back", || {
            ["PodCIDRsUsable", "DatapathReady"].map(|name| node.condition(name).0)
                == ["True", "True"]
        });
    };
    must(
        a.netns(),
        "ip link set eth1 down && ip link set eth1 name eth9 && ip link set eth9 up",
    );
    lost(&a);
    must(
        a.netns(),
        "ip link set eth9 down && ip link set eth9 name eth1 && ip link set eth1 up",
    );
    restore_routes(&a);
    back(&a);
    reach(&one.0, &two_ips);

    // It is gone, and another one with its name comes: later, or before anybody has noticed.
    for waits in [true, false] {
        must(a.netns(), "ip link del eth1");
        if waits {
            lost(&a);
        }
        let held = match Datapath::under_test() {
            Datapath::Userspace => Holder::Bridge,
            Datapath::Kernel => Holder::Interface,
        };
        join(&case, &a, &router, held);
        back(&a);
        reach(&one.0, &two_ips);
        reach(&two.0, &three_ips);
    }

    // The node was registered again, with another range.
    b.cni("DEL", &two, &pods[1]);
    let cidrs = ["10.10.7.0/24", "fd00:10:7::/64"];
    let route = route_record_by(2, &cidrs, &ends);
    controller.send(&a.name, vec![route], vec![]);
    controller.send(
        &b.name,
        vec![node_record_by(2, "another-uid", &cidrs)],
        vec![],
    );
    for node in [&a, &b] {
        forgotten(
            node,
            &["10.10.2.0", "10.10.2.1", "fd00:10:2::", "fd00:10:2::1"],
        );
    }
    wait("pods to be made again", || {
        b.report()["podCidrs"][0] == cidrs[0]
    });
    let (five, five_ips) = b.add_pod(&pods[4]);
    assert!(
        five_ips[0].starts_with("10.10.7.") && five_ips[1].starts_with("fd00:10:7:"),
        "{five_ips:?}"
    );
    reach(&one.0, &five_ips);
    reach(&five.0, &one_ips);
    reach(a.netns(), &five_ips);
}

/// What an interface that was down has lost, and whoever set it up again gives back.
fn restore_routes(node: &LabNode) {
    let (n, device) = (node.n, holder());
    if device == "eth1" {
        must(
            node.netns(),
            &format!(
                "ip addr replace fd00:31:{n}::{n}/64 dev eth1 nodad && \
                 ip route replace 172.31.0.0/16 via 172.31.{n}.254 dev eth1 && \
                 ip route replace fd00:31::/32 via fd00:31:{n}::fe dev eth1"
            ),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distant_node_becomes_a_neighbour_with_the_subnets_prefix_and_is_distant_again() {
    let case = Case {
        mode: "Hybrid",
        protocol: "Geneve",
        fabric: Fabric::RouterOfPods,
        pods: Families::V4,
        transport: Families::V4,
    };
    let (mut a, mut b) = (LabNode::new(1), LabNode::new(2));
    let router = connect(&case, [&a, &b]);
    // The router answers for node2 on node1's side, as if both were on one subnet.
    must(
        router.0.as_deref().unwrap(),
        "sysctl -qw net.ipv4.conf.n1.proxy_arp=1 net.ipv4.neigh.n1.proxy_delay=0",
    );
    let pods = ["one", "two"].map(Pod::new);
    let _controller = start(&case, [&mut a, &mut b], [&[&pods[0]], &[&pods[1]]]).await;
    let (one, one_ips) = a.add_pod(&pods[0]);
    let (two, two_ips) = b.add_pod(&pods[1]);
    let device = holder();
    let way = |part: &str| {
        let (_, route) = in_netns(a.netns(), &format!("ip route get {}", two_ips[0]));
        route.contains(part)
    };
    let (tunnel, direct) = ("dev carrick-gw0", "via 172.31.2.2 ");
    wait("the way through the tunnel", || way(tunnel));
    reach(&one.0, &two_ips);

    must(
        a.netns(),
        &format!(
            "ip addr del 172.31.1.1/24 dev {device} && ip addr add 172.31.1.1/16 dev {device} && \
             ip route replace 10.10.0.0/16 via 172.31.1.254 dev {device}"
        ),
    );
    wait("the direct way", || way(direct));
    // No flow leads into the tunnel any more.
    forgotten(&a, &["set_field:172.31.2.2->tun_dst"]);
    reach(&one.0, &two_ips);
    reach(&two.0, &one_ips);

    must(
        a.netns(),
        &format!(
            "ip addr del 172.31.1.1/16 dev {device} && ip addr add 172.31.1.1/24 dev {device} && \
             ip route replace 172.31.0.0/16 via 172.31.1.254 dev {device} && \
             ip route replace 10.10.0.0/16 via 172.31.1.254 dev {device}"
        ),
    );
    wait("the way through the tunnel", || way(tunnel));
    forgotten(&a, &["via 172.31.2.2"]);
    reach(&one.0, &two_ips);
    reach(&two.0, &one_ips);
}

/// The kubelet was started with another name: the API has another node with another range, and the pods of the
/// one before are deleted by a runtime that still knows them.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_node_forgets_what_it_was_and_serves_as_what_it_is() {
    let case = Case {
        mode: "Encap",
        protocol: "Geneve",
        fabric: Fabric::Wire,
        pods: Families::Dual,
        transport: Families::V4,
    };
    let (mut a, mut b) = (LabNode::new(1), LabNode::new(2));
    let _router = connect(&case, [&a, &b]);
    let pods = ["one", "two", "three"].map(Pod::new);
    let controller = start(&case, [&mut a, &mut b], [&[&pods[0]], &[&pods[1]]]).await;
    let (one, one_ips) = a.add_pod(&pods[0]);
    let (two, two_ips) = b.add_pod(&pods[1]);
    reach(&two.0, &one_ips);

    a.kill_agent();
    let cidrs = pod_cidrs(9, case.pods);
    let ends = transport(1, case.fabric, case.transport);
    a.name = "node9".to_owned();
    let own = node_record_by(9, "node-uid-9", &cidrs);
    let other = route_record_by(
        2,
        &pod_cidrs(2, case.pods),
        &transport(2, case.fabric, case.transport),
    );
    controller.send("node9", vec![own, other, pod_record(&pods[2])], vec![]);
    let gone = route_record_by(1, &pod_cidrs(1, case.pods), &ends);
    controller.send(
        &b.name,
        vec![route_record_by(9, &cidrs, &ends)],
        vec![gone.key()],
    );
    a.start_agent();
    a.wait_ready();
    a.cni("DEL", &one, &pods[0]);
    for node in [&a, &b] {
        forgotten(
            node,
            &["10.10.1.0", "10.10.1.1", "fd00:10:1::", "fd00:10:1::1"],
        );
    }
    forgotten(&a, &[&one_ips[0], &one_ips[1]]);
    let (three, three_ips) = a.add_pod(&pods[2]);
    assert!(
        three_ips[0].starts_with("10.10.9.") && three_ips[1].starts_with("fd00:10:9:"),
        "{three_ips:?}"
    );
    reach(&three.0, &two_ips);
    reach(&two.0, &three_ips);
    reach(b.netns(), &three_ips);
}
