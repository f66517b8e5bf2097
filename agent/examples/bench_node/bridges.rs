//! What the datapath's figures are compared with: two nodes whose bridges do next to nothing.

use std::fmt;

use carrick_testkit::netns::Scratch;
use carrick_testkit::ovs::{Datapath, Ovs};

use crate::lab::modes::{Case, MTU, cable};
use crate::lab::must;

/// What a peer's bridge does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipeline {
    /// It learns, and sends on: `actions=NORMAL`.
    Normal,
    /// Every packet passes conntrack once, and is sent on as above.
    OneConntrack,
}

impl Pipeline {
    fn flows(self) -> &'static [&'static str] {
        match self {
            Self::Normal => &["table=0,actions=NORMAL"],
            Self::OneConntrack => &[
                "table=0,priority=0,actions=NORMAL",
                "table=0,priority=10,ip,actions=ct(table=1,zone=1)",
                "table=1,priority=10,ct_state=+new+trk,ip,actions=ct(commit,zone=1),NORMAL",
                "table=1,priority=10,ct_state=+est+trk,ip,actions=NORMAL",
                "table=1,priority=0,actions=drop",
            ],
        }
    }
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "NORMAL",
            Self::OneConntrack => "one conntrack",
        })
    }
}

/// Two nodes with a pod each, 10.10.0.1 and 10.10.0.2 below one bridge in two halves, or routed
/// between the nodes' bridges where the mode has no tunnel.
pub struct Bridges {
    _nodes: [Ovs; 2],
    /// The pods' namespaces.
    pub pods: [Scratch; 2],
    /// The second pod's address.
    pub address: String,
}

impl Bridges {
    pub fn new(pipeline: Pipeline, case: &Case) -> Self {
        let nodes = [Ovs::start().unwrap(), Ovs::start().unwrap()];
        let pods = [Scratch::new(), Scratch::new()];
        let tunnels = case.tunnels(false);
        cable([nodes[0].netns(), nodes[1].netns()]);
        for (n, (node, pod)) in (1..).zip(nodes.iter().zip(&pods)) {
            let datapath = Datapath::under_test();
            node.add_bridge("br-int", datapath).unwrap();
            for flow in pipeline.flows() {
                node.ofctl(&["add-flow", &node.target("br-int"), flow])
                    .unwrap();
            }
            transport(node, n, tunnels);
            attach(node, pod, n, case);
            if tunnels {
                tunnel(node, 3 - n, case.protocol);
            } else {
                route(node, n);
            }
        }
        let address = if tunnels { "10.10.0.2" } else { "10.10.2.2" };
        Self {
            _nodes: nodes,
            pods,
            address: address.to_owned(),
        }
    }
}

/// `eth1` with the node's address. Tunnels of the userspace datapath end at a bridge of its own.
fn transport(node: &Ovs, n: usize, tunnels: bool) {
    let netns = node.netns();
    must(netns, "ethtool -K eth1 tx off >/dev/null");
    let device = if tunnels && Datapath::under_test() == Datapath::Userspace {
        node.add_bridge("br-phy", Datapath::Userspace).unwrap();
        let flow = "actions=NORMAL";
        node.ofctl(&["add-flow", &node.target("br-phy"), flow])
            .unwrap();
        node.vsctl(&["add-port", "br-phy", "eth1"]).unwrap();
        must(netns, "ip link set eth1 up");
        "br-phy"
    } else {
        "eth1"
    };
    must(
        netns,
        &format!("ip addr add 172.31.0.{n}/24 dev {device} && ip link set {device} up"),
    );
}

/// The pod's link. On the userspace datapath nobody computes the checksum that it leaves out.
fn attach(node: &Ovs, pod: &Scratch, n: usize, case: &Case) {
    let (netns, mtu) = (node.netns(), MTU - case.overhead());
    must(
        netns,
        &format!(
            "ip link add pod mtu {mtu} type veth peer name eth0 mtu {mtu} netns {} && ip link set pod up",
            pod.name()
        ),
    );
    let address = if case.tunnels(false) {
        format!("10.10.0.{n}/16")
    } else {
        format!("10.10.{n}.2/24")
    };
    must(
        pod.name(),
        &format!("ip addr add {address} dev eth0 && ip link set lo up && ip link set eth0 up"),
    );
    if !case.tunnels(false) {
        must(
            pod.name(),
            &format!("ip route add default via 10.10.{n}.1 dev eth0"),
        );
    }
    if Datapath::under_test() == Datapath::Userspace {
        must(pod.name(), "ethtool -K eth0 tx off >/dev/null");
    }
    node.vsctl(&["add-port", "br-int", "pod"]).unwrap();
}

fn tunnel(node: &Ovs, other: usize, protocol: &str) {
    let kind = format!("type={}", protocol.to_lowercase());
    let remote = format!("options:remote_ip=172.31.0.{other}");
    let words = ["add-port", "br-int", "tun", "--", "set", "interface", "tun"];
    // A key of GRE's is four bytes more, which ours has not.
    let key: &[&str] = match protocol {
        "GRE" => &[],
        _ => &["options:key=1"],
    };
    let options = [kind.as_str(), &remote];
    node.vsctl(&[&words[..], &options, key].concat()).unwrap();
}

/// The bridge's own port is the pod's gateway; the kernel routes to the other node.
fn route(node: &Ovs, n: usize) {
    let other = 3 - n;
    let offload = match Datapath::under_test() {
        Datapath::Userspace => "ethtool -K br-int tx off >/dev/null",
        Datapath::Kernel => "true",
    };
    must(
        node.netns(),
        &format!(
            "sysctl -qw net.ipv4.ip_forward=1 && ip addr add 10.10.{n}.1/24 dev br-int && {offload}; \
             ip link set br-int up && ip route add 10.10.{other}.0/24 via 172.31.0.{other} dev eth1"
        ),
    );
}
