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

use std::process::Command;
use std::sync::Mutex;

use carrick_testkit::ovs::Datapath;
use lab::controller::{Controller, node_record, pod_record, route_record_by};
use lab::{LabNode, Pod, in_netns, must, ping, wait};
use serde_json::json;

/// Not a test: the agent's process (see [`lab`]).
#[test]
fn agent_process() {
    lab::agent_main();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Families {
    V4,
    V6,
    Dual,
}

impl Families {
    const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Dual];

    fn has(self, v6: bool) -> bool {
        self == Self::Dual || (self == Self::V6) == v6
    }

    fn keep(self, v4: String, v6: String) -> Vec<String> {
        match self {
            Self::V4 => vec![v4],
            Self::V6 => vec![v6],
            Self::Dual => vec![v4, v6],
        }
    }
}

/// What lies between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fabric {
    /// A wire: they are on one subnet.
    Wire,
    /// A router between their subnets, which knows nothing of pods.
    Router,
    /// A router that sends each node's pod CIDRs to it, as a cloud's route table does.
    RouterOfPods,
}

const MTU: u16 = 1500;

struct Case {
    mode: &'static str,
    protocol: &'static str,
    fabric: Fabric,
    pods: Families,
    transport: Families,
}

impl Case {
    /// Whether pods of this family go through a tunnel.
    fn tunnels(&self, v6: bool) -> bool {
        let neighbour = self.fabric == Fabric::Wire && self.transport.has(v6);
        match self.mode {
            "Encap" => true,
            "Hybrid" => !neighbour,
            _ => false,
        }
    }

    /// Bytes that the mode takes of every packet.
    fn overhead(&self) -> u16 {
        let header = match (self.mode, self.protocol) {
            ("NoEncap", _) => return 0,
            (_, "GRE") => 18,
            _ => 30,
        };
        // Tunnels end at IPv4 addresses where both nodes have them.
        header + if self.transport.has(false) { 20 } else { 40 }
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            mode,
            protocol,
            fabric,
            pods,
            transport,
        } = self;
        write!(
            f,
            "{mode} {protocol}, {fabric:?}, pods {pods:?}, transport {transport:?}"
        )
    }
}

fn pod_cidrs(n: u8, families: Families) -> Vec<String> {
    families.keep(format!("10.10.{n}.0/24"), format!("fd00:10:{n}::/64"))
}

/// Transport addresses of node `n`, without their prefixes (/24 and /64).
fn transport(n: u8, fabric: Fabric, families: Families) -> Vec<String> {
    match fabric {
        Fabric::Wire => families.keep(format!("172.31.0.{n}"), format!("fd00:31::{n}")),
        Fabric::Router | Fabric::RouterOfPods => {
            families.keep(format!("172.31.{n}.{n}"), format!("fd00:31:{n}::{n}"))
        }
    }
}

/// The router's namespace, if there is one.
struct Router(Option<String>);

impl Drop for Router {
    fn drop(&mut self) {
        if let Some(netns) = &self.0 {
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
    }
}

fn run(program: &str, line: &str) {
    let status = Command::new(program)
        .args(line.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "{program} {line}");
}

/// Connects `eth1` of both nodes.
fn connect(case: &Case, nodes: [&LabNode; 2]) -> Router {
    let router = (case.fabric != Fabric::Wire).then(|| format!("{}-r", nodes[0].netns()));
    match &router {
        None => run(
            "ip",
            &format!(
                "-n {} link add eth1 mtu {MTU} type veth peer name eth1 mtu {MTU} netns {}",
                nodes[0].netns(),
                nodes[1].netns()
            ),
        ),
        Some(router) => {
            run("ip", &format!("netns add {router}"));
            must(
                router,
                "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
            );
        }
    }
    let router = Router(router);
    for node in nodes {
        let n = node.n;
        let mut script = vec!["ethtool -K eth1 tx off >/dev/null".to_owned()];
        if let Some(router) = &router.0 {
            run(
                "ip",
                &format!(
                    "-n {} link add eth1 mtu {MTU} type veth peer name n{n} mtu {MTU} netns {router}",
                    node.netns()
                ),
            );
            must(router, &format!("ip link set n{n} up"));
        }
        script.push("ip link set eth1 up".to_owned());
        for address in transport(n, case.fabric, case.transport) {
            let v6 = address.contains(':');
            let (prefix, nodad, all) = if v6 {
                (64, " nodad", "fd00:31::/32")
            } else {
                (24, "", "172.31.0.0/16")
            };
            script.push(format!("ip addr add {address}/{prefix} dev eth1{nodad}"));
            let Some(router) = &router.0 else { continue };
            let gateway = if v6 {
                format!("fd00:31:{n}::fe")
            } else {
                format!("172.31.{n}.254")
            };
            must(
                router,
                &format!("ip addr add {gateway}/{prefix} dev n{n}{nodad}"),
            );
            script.push(format!("ip route add {all} via {gateway} dev eth1"));
            if case.fabric == Fabric::RouterOfPods {
                let (pods, own) = if v6 {
                    ("fd00:10::/32", format!("fd00:10:{n}::/64"))
                } else {
                    ("10.10.0.0/16", format!("10.10.{n}.0/24"))
                };
                script.push(format!("ip route add {pods} via {gateway} dev eth1"));
                must(
                    router,
                    &format!("ip route add {own} via {address} dev n{n}"),
                );
            }
        }
        must(node.netns(), &script.join(" && "));
    }
    router
}

/// Tells `own` what the controller would: of itself, of the other node, of its pods.
fn tell(case: &Case, controller: &Controller, own: &LabNode, other: &LabNode, pods: &[&Pod]) {
    let traffic = match case.mode {
        "NoEncap" => json!({"mode": case.mode}),
        _ => json!({"mode": case.mode, "tunnelProtocol": case.protocol}),
    };
    own.write_traffic(&traffic);
    let route = route_record_by(
        other.n,
        &pod_cidrs(other.n, case.pods),
        &transport(other.n, case.fabric, case.transport),
    );
    let mut records = vec![node_record(own.n, &pod_cidrs(own.n, case.pods)), route];
    records.extend(pods.iter().map(|pod| pod_record(pod)));
    controller.send(&own.name, records, vec![]);
}

/// Two nodes with a pod each talk as the case says, and an agent that starts again changes nothing.
async fn check(case: &Case) {
    let begun = std::time::Instant::now();
    let (mut a, mut b) = (LabNode::new(1), LabNode::new(2));
    let _router = connect(case, [&a, &b]);
    let controller = Controller::serve(&[&a, &b]).await;
    let pods = [Pod::new("one"), Pod::new("two")];
    tell(case, &controller, &a, &b, &[&pods[0]]);
    tell(case, &controller, &b, &a, &[&pods[1]]);
    a.start_agent();
    b.start_agent();
    a.wait_ready();
    b.wait_ready();
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
    let controller = Controller::serve(&[&a, &b]).await;
    tell(&case, &controller, &a, &b, &[]);
    tell(&case, &controller, &b, &a, &[]);
    a.start_agent();
    b.start_agent();
    a.wait_ready();
    b.wait_ready();
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
