//! Two nodes of the lab joined as a traffic mode needs it.

use std::process::Command;

use serde_json::json;

use super::controller::{Controller, node_record, pod_record, route_record_by};
use super::{LabNode, Pod, must};

/// IP families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    V4,
    V6,
    Dual,
}

impl Families {
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Dual];

    pub fn has(self, v6: bool) -> bool {
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
pub enum Fabric {
    /// A wire: they are on one subnet.
    Wire,
    /// A router between their subnets, which knows nothing of pods.
    Router,
    /// A router that sends each node's pod CIDRs to it, as a cloud's route table does.
    RouterOfPods,
}

pub const MTU: u16 = 1500;

pub struct Case {
    pub mode: &'static str,
    pub protocol: &'static str,
    pub fabric: Fabric,
    pub pods: Families,
    pub transport: Families,
}

impl Case {
    /// Whether pods of this family go through a tunnel.
    pub fn tunnels(&self, v6: bool) -> bool {
        let neighbour = self.fabric == Fabric::Wire && self.transport.has(v6);
        match self.mode {
            "Encap" => true,
            "Hybrid" => !neighbour,
            _ => false,
        }
    }

    /// Bytes that the mode takes of every packet.
    pub fn overhead(&self) -> u16 {
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

pub fn pod_cidrs(n: u8, families: Families) -> Vec<String> {
    families.keep(format!("10.10.{n}.0/24"), format!("fd00:10:{n}::/64"))
}

/// Transport addresses of node `n`, without their prefixes (/24 and /64).
pub fn transport(n: u8, fabric: Fabric, families: Families) -> Vec<String> {
    match fabric {
        Fabric::Wire => families.keep(format!("172.31.0.{n}"), format!("fd00:31::{n}")),
        Fabric::Router | Fabric::RouterOfPods => {
            families.keep(format!("172.31.{n}.{n}"), format!("fd00:31:{n}::{n}"))
        }
    }
}

/// The router's namespace, if there is one.
pub struct Router(pub Option<String>);

impl Drop for Router {
    fn drop(&mut self) {
        if let Some(netns) = &self.0 {
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
    }
}

pub fn run(program: &str, line: &str) {
    let status = Command::new(program)
        .args(line.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "{program} {line}");
}

/// A link from `eth1` to `eth1` of two namespaces.
pub fn cable([one, other]: [&str; 2]) {
    let line = format!(
        "-n {one} link add eth1 mtu {MTU} type veth peer name eth1 mtu {MTU} netns {other}"
    );
    run("ip", &line);
}

/// Connects `eth1` of both nodes.
pub fn connect(case: &Case, nodes: [&LabNode; 2]) -> Router {
    let router = (case.fabric != Fabric::Wire).then(|| format!("{}-r", nodes[0].netns()));
    match &router {
        None => cable(nodes.map(LabNode::netns)),
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
        join(case, node, &router, Holder::Interface);
    }
    router
}

/// What has a node's transport addresses while its `eth1` is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nothing yet: `eth1` gets them.
    Interface,
    /// The bridge has them already. An agent moves what `eth1` is given as soon as it sees it, and
    /// would do so between one command and the next.
    Bridge,
}

/// Starts the agents of both nodes with a controller that has told them of `pods`; ready.
pub async fn start(case: &Case, nodes: [&mut LabNode; 2], pods: [&[&Pod]; 2]) -> Controller {
    let [a, b] = nodes;
    let controller = Controller::serve(&[&*a, &*b]).await;
    tell(case, &controller, a, b, pods[0]);
    tell(case, &controller, b, a, pods[1]);
    a.start_agent();
    b.start_agent();
    a.wait_ready();
    b.wait_ready();
    controller
}

/// Gives a node its `eth1` with addresses and routes, joined to the router where there is one.
pub fn join(case: &Case, node: &LabNode, router: &Router, holder: Holder) {
    let n = node.n;
    let mut script = vec!["ethtool -K eth1 tx off >/dev/null".to_owned()];
    if let Some(router) = &router.0 {
        run(
            "ip",
            &format!(
                // Always the same MAC address: Open vSwitch in userspace keeps a tunnel's next hop for
                // a quarter of an hour, unless that tells of itself.
                "-n {} link add eth1 mtu {MTU} type veth peer name n{n} mtu {MTU} \
                 address 02:31:00:00:{n:02x}:fe netns {router}",
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
        let own = holder == Holder::Interface;
        if own {
            script.push(format!("ip addr add {address}/{prefix} dev eth1{nodad}"));
        }
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
        if own {
            script.push(format!("ip route replace {all} via {gateway} dev eth1"));
        }
        if case.fabric == Fabric::RouterOfPods {
            let (pods, range) = if v6 {
                ("fd00:10::/32", format!("fd00:10:{n}::/64"))
            } else {
                ("10.10.0.0/16", format!("10.10.{n}.0/24"))
            };
            if own {
                script.push(format!("ip route replace {pods} via {gateway} dev eth1"));
            }
            must(
                router,
                &format!("ip route add {range} via {address} dev n{n}"),
            );
        }
    }
    must(node.netns(), &script.join(" && "));
}

/// Tells `own` what the controller would: of itself, of the other node, of its pods.
pub fn tell(case: &Case, controller: &Controller, own: &LabNode, other: &LabNode, pods: &[&Pod]) {
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
