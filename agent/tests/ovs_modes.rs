//! Every traffic mode, tunnel protocol, family of pods and family of transport addresses: two real agents
//! on real switches, with a controller that the test plays.

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

use std::sync::Mutex;

use carrick_testkit::ovs::Datapath;
use lab::modes::{Case, Fabric, Families, MTU, connect, pod_cidrs, start};
use lab::{LabNode, Pod, in_netns, must, ping, wait};

/// Not a test: the agent's process (see [`lab`]).
#[test]
fn agent_process() {
    lab::agent_main();
}

/// Two nodes with a pod each talk as the case says, and an agent that starts again changes nothing.
async fn check(case: &Case) {
    let begun = std::time::Instant::now();
    let (mut a, mut b) = (LabNode::new(1), LabNode::new(2));
    let _router = connect(case, [&a, &b]);
    let pods = [Pod::new("one"), Pod::new("two")];
    let _controller = start(case, [&mut a, &mut b], [&[&pods[0]], &[&pods[1]]]).await;
    let (one, one_ips) = a.add_pod(&pods[0]);
    let (two, two_ips) = b.add_pod(&pods[1]);
    assert_eq!(one_ips.len(), pod_cidrs(1, case.pods).len(), "{case}");
    for (netns, addresses) in [(&one.0, &two_ips), (&two.0, &one_ips)] {
        for address in addresses {
            assert!(ping(netns, address), "{case}: pod to {address}");
        }
    }
    for address in &two_ips {
        let v6 = address.contains(':');
        assert!(ping(a.netns(), address), "{case}: host to {address}");
        let gateway = if v6 { "fd00:10:2::1" } else { "10.10.2.1" };
        assert!(ping(&one.0, gateway), "{case}: pod to {gateway}");
        let route = must(a.netns(), &format!("ip route get {address}"));
        assert_eq!(
            route.contains("carrick-gw0"),
            case.tunnels(v6),
            "{case}: {route}"
        );
        fits(case, &one.0, address);
    }
    let flows = a.flows();
    a.kill_agent();
    a.start_agent();
    a.wait_ready();
    assert_eq!(a.flows(), flows, "{case}: a restart changed flows");
    assert!(
        !a.log().contains("programmed changes="),
        "{case}: {}",
        a.log()
    );
    eprintln!("{case}: {:.1} s", begun.elapsed().as_secs_f64());
}

/// Pods have the MTU that the mode leaves, and a packet of it passes with "don't fragment".
fn fits(case: &Case, netns: &str, address: &str) {
    let mtu = MTU - case.overhead();
    let device = must(netns, "cat /sys/class/net/eth0/mtu");
    assert_eq!(device.trim(), mtu.to_string(), "{case}");
    let size = mtu - if address.contains(':') { 48 } else { 28 };
    let line = format!("ping -c 5 -i 0.2 -W 1 -M do -s {size} {address} | grep -q 'bytes from'");
    assert!(in_netns(netns, &line).0, "{case}: {mtu} bytes to {address}");
}

/// Cases at the same time: a case mostly waits. A kernel node has one processor.
fn workers() -> usize {
    match Datapath::under_test() {
        Datapath::Userspace => 3,
        Datapath::Kernel => 1,
    }
}

/// Every family of pods over every family of transport addresses that the mode can do.
fn matrix(mode: &'static str, protocol: &'static str, fabric: Fabric) {
    let kernel = Datapath::under_test() == Datapath::Kernel;
    let mut cases = Vec::new();
    for transport in Families::ALL {
        if protocol == "GRE" && transport == Families::V6 && kernel {
            continue;
        }
        for pods in Families::ALL {
            // Without a tunnel a packet needs a next hop of its own family.
            let bare = [false, true]
                .into_iter()
                .all(|v6| !pods.has(v6) || transport.has(v6));
            if mode != "NoEncap" || bare {
                cases.push(Case {
                    mode,
                    protocol,
                    fabric,
                    pods,
                    transport,
                });
            }
        }
    }
    let cases = Mutex::new(cases);
    std::thread::scope(|scope| {
        for _ in 0..workers() {
            scope.spawn(|| {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                let next = || cases.lock().unwrap().pop();
                while let Some(case) = next() {
                    runtime.block_on(check(&case));
                }
            });
        }
    });
}

#[test]
fn encap_with_geneve() {
    matrix("Encap", "Geneve", Fabric::Wire);
}

#[test]
fn encap_with_vxlan() {
    matrix("Encap", "VXLAN", Fabric::Wire);
}

#[test]
fn encap_with_gre() {
    matrix("Encap", "GRE", Fabric::Wire);
}

#[test]
fn no_encap_on_one_subnet() {
    matrix("NoEncap", "", Fabric::Wire);
}

#[test]
fn no_encap_through_a_fabric_that_routes_pods() {
    matrix("NoEncap", "", Fabric::RouterOfPods);
}

#[test]
fn hybrid_on_one_subnet() {
    matrix("Hybrid", "Geneve", Fabric::Wire);
}

#[test]
fn hybrid_across_a_router() {
    matrix("Hybrid", "Geneve", Fabric::Router);
}

#[test]
fn hybrid_with_vxlan_across_a_router() {
    matrix("Hybrid", "VXLAN", Fabric::Router);
}

#[test]
fn hybrid_with_gre_across_a_router() {
    matrix("Hybrid", "GRE", Fabric::Router);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fabric_that_does_not_route_pods_is_told_with_the_routes_it_lacks() {
    let case = Case {
        mode: "NoEncap",
        protocol: "",
        fabric: Fabric::Router,
        pods: Families::Dual,
        transport: Families::Dual,
    };
    let (mut a, mut b) = (LabNode::new(1), LabNode::new(2));
    let router = connect(&case, [&a, &b]);
    let router = router.0.as_deref().unwrap();
    let _controller = start(&case, [&mut a, &mut b], [&[], &[]]).await;
    let told = |node: &LabNode| node.report()["conditions"]["FabricRoutesPods"].clone();
    wait("the missing routes to be told", || {
        let message = told(&a)["message"].to_string();
        message.contains("10.10.2.0/24 via 172.31.2.2 (node node2)")
            && message.contains("fd00:10:2::/64 via fd00:31:2::2 (node node2)")
    });
    assert_eq!(told(&a)["status"], "False");
    for node in [&a, &b] {
        let n = node.n;
        must(
            router,
            &format!("ip route add 10.10.{n}.0/24 via 172.31.{n}.{n}"),
        );
        must(
            router,
            &format!("ip route add fd00:10:{n}::/64 via fd00:31:{n}::{n}"),
        );
        must(
            node.netns(),
            &format!("ip route add 10.10.0.0/16 via 172.31.{n}.254"),
        );
        must(
            node.netns(),
            &format!("ip route add fd00:10::/32 via fd00:31:{n}::fe"),
        );
    }
    for node in [&a, &b] {
        wait("the routes to be seen", || told(node)["status"] == "True");
    }
}

/// Earlier releases had the interface in a bridge on the userspace datapath, as `Encap` has.
#[tokio::test(flavor = "multi_thread")]
async fn no_encap_gives_back_the_interface_that_an_earlier_release_bridged() {
    let case = |mode| Case {
        mode,
        protocol: "Geneve",
        fabric: Fabric::Wire,
        pods: Families::Dual,
        transport: Families::Dual,
    };
    let (mut a, mut b) = (LabNode::new(1), LabNode::new(2));
    let _router = connect(&case("Encap"), [&a, &b]);
    let pods = [Pod::new("one"), Pod::new("two")];
    let controller = start(&case("Encap"), [&mut a, &mut b], [&[&pods[0]], &[&pods[1]]]).await;
    let (one, _) = a.add_pod(&pods[0]);
    let (_two, two_ips) = b.add_pod(&pods[1]);
    a.kill_agent();
    b.kill_agent();
    let bare = case("NoEncap");
    lab::modes::tell(&bare, &controller, &a, &b, &[&pods[0]]);
    lab::modes::tell(&bare, &controller, &b, &a, &[&pods[1]]);
    a.start_agent();
    b.start_agent();
    for node in [&a, &b] {
        node.wait_ready();
        let n = node.n;
        assert_eq!(node.ovs.vsctl(&["list-br"]).unwrap().trim(), "br-int");
        let held = must(node.netns(), "ip -o addr show dev eth1");
        for address in [format!("172.31.0.{n}/24"), format!("fd00:31::{n}/64")] {
            assert!(held.contains(&address), "{held}");
        }
    }
    for address in &two_ips {
        wait("packets between the pods", || ping(&one.0, address));
        let route = must(a.netns(), &format!("ip route get {address}"));
        assert!(route.contains("dev eth1"), "{route}");
    }
}
