//! A network between the nodes that takes less than their interfaces say: it is found, told with what it
//! does take, and taken back when it is mended. Two real agents on real switches, with a router between
//! them that is narrow on one side.
//!
//! ```text
//! node1 1500 ── 1500 router 1400 ── 1500 node2
//! ```
//!
//! What node1 sends does not fit the router's far link, and the router says so. What node2 sends is
//! dropped where it enters the router, and nobody says anything.

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

use std::time::Duration;

use lab::modes::{Case, Fabric, Families, MTU, connect, start};
use lab::{LabNode, must, wait_within};

/// Not a test: the agent's process (see [`lab`]).
#[test]
fn agent_process() {
    lab::agent_main();
}

const NARROW: u16 = 1400;
/// What enters a veth may have a VLAN tag more than its MTU says (the kernel's `__is_skb_forwardable`). But
/// an IPv6 answer of that size does not fit the way back, and is lost where the router does not say so.
const TAG: u16 = 4;
/// A round begins up to 30 s after the change, and a search takes 20.
const LONG: Duration = Duration::from_secs(120);

/// Whether the router says that a packet is too large.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Router {
    Tells,
    IsSilent,
}

/// `addresses`: what node1 asks, and what node2 does.
async fn check(case: &Case, says: Router, addresses: [&[&str]; 2]) {
    let begun = std::time::Instant::now();
    let (mut a, mut b) = (LabNode::new(1), LabNode::new(2));
    let router = connect(case, [&a, &b]);
    let router = router.0.as_deref().unwrap();
    if says == Router::IsSilent {
        must(
            router,
            "nft add table inet t && \
             nft 'add chain inet t out {type filter hook output priority 0;}' && \
             nft add rule inet t out icmp type destination-unreachable drop && \
             nft add rule inet t out icmpv6 type packet-too-big drop",
        );
    }
    let _controller = start(case, [&mut a, &mut b], [&[], &[]]).await;
    let is_wide = || {
        for node in [&a, &b] {
            wait_within(LONG, "the path to be wide", || {
                node.condition("FabricCarriesMTU").0 == "True"
            });
        }
    };
    is_wide();
    must(router, &format!("ip link set n2 mtu {NARROW}"));
    let into = match says {
        Router::Tells => NARROW + TAG,
        Router::IsSilent => NARROW,
    };
    for ((node, passes), others) in [(&a, NARROW), (&b, into)].into_iter().zip(addresses) {
        let other = 3 - node.n;
        let mend = format!("traffic.mtu to {}", passes - case.overhead());
        wait_within(LONG, "the narrow path to be told", || {
            let (status, message) = node.condition("FabricCarriesMTU");
            let named = |address: &&str| {
                message.contains(&format!(
                    "{passes} of {MTU} bytes to {address} (node node{other})"
                ))
            };
            status == "False" && others.iter().all(named) && message.contains(&mend)
        });
        assert_eq!(node.condition("Ready").0, "True");
    }
    // What the kernel learned of the path meanwhile does not hide that it is wide again.
    must(router, &format!("ip link set n2 mtu {MTU}"));
    is_wide();
    eprintln!("{case}: {:.1} s", begun.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_path_of_tunnels_over_ipv4_is_told() {
    let case = Case {
        mode: "Encap",
        protocol: "Geneve",
        fabric: Fabric::Router,
        pods: Families::V4,
        transport: Families::Dual,
    };
    let ends: [&[&str]; 2] = [&["172.31.2.2"], &["172.31.1.1"]];
    check(&case, Router::Tells, ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_path_of_tunnels_over_ipv6_is_told() {
    let case = Case {
        mode: "Encap",
        protocol: "VXLAN",
        fabric: Fabric::Router,
        pods: Families::Dual,
        transport: Families::V6,
    };
    let ends: [&[&str]; 2] = [&["fd00:31:2::2"], &["fd00:31:1::1"]];
    check(&case, Router::IsSilent, ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_fabric_that_routes_pods_is_told() {
    let case = Case {
        mode: "NoEncap",
        protocol: "",
        fabric: Fabric::RouterOfPods,
        pods: Families::Dual,
        transport: Families::Dual,
    };
    let ends: [&[&str]; 2] = [
        &["10.10.2.1", "fd00:10:2::1"],
        &["10.10.1.1", "fd00:10:1::1"],
    ];
    check(&case, Router::Tells, ends).await;
}
