//! Nodes on one machine: a switch each (of the datapath under test), pods in namespaces of their own, and
//! a wire between the switches. The host of a node is the switch's own namespace.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use carrick_datapath::{
    HostInput, IdLedger, MacAddr, NodeState, Pod, Snat, Tunnel, TunnelProtocol, VIRTUAL_MAC,
    render, render_host,
};
use carrick_testkit::ovs::{Datapath, Ovs};

use super::{Families, node, peer, pod};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A node: a switch with the pipeline, a gateway, pods.
pub struct LabNode {
    pub ovs: Ovs,
    pub state: NodeState,
    pub ledger: IdLedger,
    pub families: Families,
    /// MTU of pods and gateway.
    pub mtu: u16,
    n: u8,
    pods: Vec<LabPod>,
}

/// A pod: a namespace with `eth0` whose other end is a port of the switch.
pub struct LabPod {
    pub netns: String,
    pub link: String,
    pub pod: Pod,
}

impl Drop for LabPod {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.netns])
            .status();
    }
}

/// Runs a command line in a namespace; its output, and whether it succeeded.
pub fn in_netns(netns: &str, line: &str) -> (bool, String) {
    let output = Command::new("ip")
        .args(["netns", "exec", netns, "sh", "-c", line])
        .output()
        .expect("iproute2 is installed");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.success(), text)
}

fn must(netns: &str, line: &str) -> String {
    let (ok, text) = in_netns(netns, line);
    assert!(ok, "{line} in {netns}: {text}");
    text
}

impl LabNode {
    /// Node `n`, without a transport.
    pub fn start(n: u8, families: Families) -> Self {
        let ovs = Ovs::start().expect("Open vSwitch starts");
        ovs.add_bridge("br-int", Datapath::under_test()).unwrap();
        let state = node(n, families, Families::Dual);
        let mac = state.gateway.mac;
        ovs.vsctl(&[
            "add-port",
            "br-int",
            "tun0",
            "--",
            "set",
            "interface",
            "tun0",
            "type=geneve",
            "options:remote_ip=flow",
            "options:key=0",
            "ofport_request=1",
            "--",
            "add-port",
            "br-int",
            "gw0",
            "--",
            "set",
            "interface",
            "gw0",
            "type=internal",
            "ofport_request=2",
            "mtu_request=1450",
            &format!("mac=\"{mac}\""),
        ])
        .unwrap();
        let mut lab = Self {
            ovs,
            state,
            ledger: IdLedger::default(),
            families,
            mtu: 1450,
            n,
            pods: Vec::new(),
        };
        lab.sync_host();
        lab
    }

    pub fn netns(&self) -> &str {
        self.ovs.netns()
    }

    pub fn pod(&self, index: usize) -> &LabPod {
        &self.pods[index]
    }

    /// Adds pod `p`, connected and open, and returns its index.
    pub fn add_pod(&mut self, p: u8) -> usize {
        let pod = pod(self.n, p, self.families);
        let index = self.plug(p, pod);
        self.state.pods.insert(format!("c{p:03}/eth0"), pod);
        self.apply();
        index
    }

    /// Makes a pod's namespace and port; its flows are not there yet.
    pub fn plug(&mut self, p: u8, pod: Pod) -> usize {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let netns = format!("ckpod-{}-{number}", std::process::id());
        let link = format!("cart{number:03}n{}p{p}", self.n);
        let host = self.ovs.netns().to_owned();
        let made = Command::new("ip")
            .args(["netns", "add", &netns])
            .status()
            .unwrap();
        assert!(made.success());
        let lab = LabPod { netns, link, pod };
        let (netns, link) = (&lab.netns, &lab.link);
        must(
            &host,
            &format!(
                "ip link add {link} type veth peer name eth0 address {} netns {netns} && \
             sysctl -qw net.ipv6.conf.{link}.disable_ipv6=1 && ip link set {link} mtu {}",
                pod.mac, self.mtu
            ),
        );
        must(
            netns,
            &format!(
                "sysctl -qw net.ipv6.conf.eth0.accept_ra=0 && ip link set lo up && \
                 ip link set eth0 mtu {} up{}",
                self.mtu,
                match Datapath::under_test() {
                    Datapath::Userspace => " && ethtool -K eth0 tx off >/dev/null",
                    Datapath::Kernel => "",
                }
            ),
        );
        let gateway = self.state.gateway;
        if let (Some(own), Some(via)) = (pod.addresses.v4, gateway.addresses.v4) {
            must(
                netns,
                &format!(
                    "ip addr add {own}/32 dev eth0 && \
                 ip neigh replace {via} lladdr {} dev eth0 nud permanent && \
                 ip route add {via} dev eth0 scope link && ip route add default via {via} dev eth0",
                    gateway.mac
                ),
            );
        }
        if let (Some(own), Some(via)) = (pod.addresses.v6, gateway.addresses.v6) {
            must(
                netns,
                &format!(
                    "ip addr add {own}/128 dev eth0 nodad && \
                 ip neigh replace {via} lladdr {} dev eth0 nud permanent && \
                 ip -6 route add {via} dev eth0 && ip -6 route add default via {via} dev eth0",
                    gateway.mac
                ),
            );
        }
        self.pods.push(lab);
        // Before the link goes up: the host must never hear the pod.
        self.sync_host();
        let link = self.pods.last().unwrap().link.clone();
        must(&host, &format!("ip link set {link} up"));
        self.ovs
            .vsctl(&[
                "add-port",
                "br-int",
                &link,
                "--",
                "set",
                "interface",
                &link,
                &format!("ofport_request={}", pod.port),
            ])
            .unwrap();
        self.pods.len() - 1
    }

    /// Makes the switch hold the pipeline.
    pub fn apply(&mut self) {
        let desired = render(&self.state, &mut self.ledger).unwrap();
        let file = self.ovs.run_dir().join("flows");
        std::fs::write(&file, desired.to_text()).unwrap();
        let target = self.ovs.target("br-int");
        self.ovs
            .ofctl(&["--bundle", "replace-flows", &target, file.to_str().unwrap()])
            .unwrap();
    }

    /// Makes the host's stack what it must be.
    pub fn sync_host(&mut self) {
        // The kernel datapath takes frames before the stack sees them.
        let mut hidden = std::collections::BTreeMap::new();
        if Datapath::under_test() == Datapath::Userspace {
            hidden.extend(
                self.pods
                    .iter()
                    .zip(1..)
                    .map(|(pod, index)| (pod.link.clone(), index)),
            );
            if in_netns(self.netns(), "ip link show eth1").0 {
                hidden.insert("eth1".to_owned(), 0);
            }
        }
        let input = HostInput {
            gateway_link: "gw0",
            snat: Snat::Masquerade {
                fully_random: false,
            },
            tunnel: Some(Tunnel::new(TunnelProtocol::Geneve)),
            hidden_links: hidden,
            more_chains: "",
        };
        let host = render_host(&self.state, &input);
        let mut script = String::new();
        for (path, value) in &host.sysctls {
            let name = path.replace('/', ".");
            script += &format!("sysctl -qw net.{name}={value}\n");
        }
        script += "ip link set gw0 up\n";
        for net in &host.addresses {
            let nodad = if net.addr().is_ipv6() { " nodad" } else { "" };
            script += &format!("ip addr replace {net} dev gw0{nodad}\n");
        }
        for entry in &host.neighbours {
            script += &format!(
                "ip neigh replace {} lladdr {} dev gw0 nud permanent\n",
                entry.address, entry.mac
            );
        }
        for route in &host.routes {
            script += &format!(
                "ip route replace {} via {} dev gw0 onlink src {}\n",
                route.destination,
                route.via,
                route.source.unwrap()
            );
        }
        for table in &host.tables {
            if let Some(text) = &table.text {
                let (family, name) = (table.family.as_str(), table.name);
                script += &format!(
                    "nft -f - <<'EOT'\ntable {family} {name}\ndelete table {family} {name}\n{text}EOT\n"
                );
            }
        }
        must(self.netns(), &format!("set -e\n{script}"));
    }

    /// A flow's counter of packets: the first flow of the dump that contains `what`.
    pub fn packets(&self, what: &str) -> u64 {
        let dump = self
            .ovs
            .ofctl(&["dump-flows", &self.ovs.target("br-int")])
            .unwrap();
        let line = dump
            .lines()
            .find(|line| line.contains(what))
            .unwrap_or_else(|| panic!("no flow has {what:?}:\n{dump}"));
        let count = line.split("n_packets=").nth(1).unwrap();
        count.split(',').next().unwrap().parse().unwrap()
    }

    /// What `ofproto/trace` says of a packet.
    pub fn trace(&self, packet: &str) -> String {
        self.ovs
            .appctl(&["ofproto/trace", "br-int", packet])
            .unwrap()
    }
}

/// Two nodes with a wire between their transport interfaces, each with its pods.
pub fn two_nodes(families: Families, outer: Families) -> (LabNode, LabNode) {
    let mut a = LabNode::start(1, families);
    let mut b = LabNode::start(2, families);
    for (lab, n) in [(&mut a, 1_u8), (&mut b, 2)] {
        lab.state.endpoints = node(n, families, outer).endpoints;
        lab.mtu = if outer == Families::V6 { 1430 } else { 1450 };
        let request = format!("mtu_request={}", lab.mtu);
        lab.ovs
            .vsctl(&["set", "interface", "gw0", &request])
            .unwrap();
        lab.state
            .peers
            .insert(format!("node{}", 3 - n), peer(3 - n, families, outer));
    }
    let made = Command::new("ip")
        .args([
            "-n",
            a.netns(),
            "link",
            "add",
            "eth1",
            "address",
            "02:31:00:00:00:01",
            "type",
        ])
        .args([
            "veth",
            "peer",
            "name",
            "eth1",
            "address",
            "02:31:00:00:00:02",
            "netns",
            b.netns(),
        ])
        .status()
        .unwrap();
    assert!(made.success());
    for (lab, n) in [(&mut a, 1_u8), (&mut b, 2)] {
        if Datapath::under_test() == Datapath::Kernel {
            must(
                lab.netns(),
                &format!(
                    "ip addr add 172.31.0.{n}/24 dev eth1 && \
                     ip addr add fd00:31::{n}/64 dev eth1 nodad && ip link set eth1 up"
                ),
            );
            lab.apply();
            continue;
        }
        // The transport interface in its bridge, the address on the bridge's own port.
        must(lab.netns(), "ethtool -K eth1 tx off >/dev/null");
        lab.sync_host();
        must(lab.netns(), "ip link set eth1 up");
        lab.ovs
            .vsctl(&[
                "add-br",
                "br-phy",
                "--",
                "set",
                "bridge",
                "br-phy",
                "datapath_type=netdev",
                "fail_mode=standalone",
                &format!("other_config:hwaddr=02:31:00:00:00:0{n}"),
                "--",
                "add-port",
                "br-phy",
                "eth1",
            ])
            .unwrap();
        must(
            lab.netns(),
            &format!(
                "ip addr add 172.31.0.{n}/24 dev br-phy && \
             ip addr add fd00:31::{n}/64 dev br-phy nodad && ip link set br-phy up"
            ),
        );
        lab.apply();
    }
    (a, b)
}

/// Pings until an answer comes, at most ten times: vswitchd may have to learn a neighbour first.
pub fn ping(netns: &str, address: impl std::fmt::Display) -> bool {
    in_netns(
        netns,
        &format!("ping -c 10 -i 0.2 -W 1 -w 10 {address} | grep -q 'bytes from'"),
    )
    .0
}

/// One ping that must not be answered.
pub fn silent(netns: &str, address: impl std::fmt::Display) -> bool {
    !in_netns(
        netns,
        &format!("ping -c 2 -i 0.2 -W 1 {address} | grep -q 'bytes from'"),
    )
    .0
}

/// What a pod sends by the given Python statements, with `frame(dst, src, type, payload)` and
/// helpers of the standard library only.
pub fn send_raw(netns: &str, statements: &str) {
    let program = format!(
        "import socket,struct,ipaddress\n\
         s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW)\n\
         s.bind(('eth0',0))\n\
         def mac(t): return bytes.fromhex(t.replace(':',''))\n\
         def ip(t): return ipaddress.ip_address(t).packed\n\
         def frame(d,sr,t,p): s.send(mac(d)+mac(sr)+struct.pack('>H',t)+p)\n\
         def arp(op,sha,spa,tha,tpa): return struct.pack('>HHBBH',1,0x800,6,4,op)+mac(sha)+ip(spa)+mac(tha)+ip(tpa)\n\
         def csum(b):\n\
         \x20if len(b)%2: b+=b'\\0'\n\
         \x20n=sum(struct.unpack('>%dH'%(len(b)//2),b))\n\
         \x20while n>>16: n=(n&65535)+(n>>16)\n\
         \x20return 65535-n\n\
         def ip4(src,dst,proto,p,ttl=64):\n\
         \x20h=struct.pack('>BBHHHBBH4s4s',0x45,0,20+len(p),1,0,ttl,proto,0,ip(src),ip(dst))\n\
         \x20return h[:10]+struct.pack('>H',csum(h))+h[12:]+p\n\
         def echo4(): \n\
         \x20p=struct.pack('>BBHHH',8,0,0,7,1)\n\
         \x20return p[:2]+struct.pack('>H',csum(p))+p[4:]\n\
         def ip6(src,dst,p,hop=255):\n\
         \x20ps=ip(src)+ip(dst)+struct.pack('>IHBB',len(p),0,0,58)\n\
         \x20p=p[:2]+struct.pack('>H',csum(ps+p))+p[4:]\n\
         \x20return struct.pack('>IHBB',0x60000000,len(p),58,hop)+ip(src)+ip(dst)+p\n\
         def ns(t,sll): return struct.pack('>BBHI',135,0,0,0)+ip(t)+b'\\x01\\x01'+mac(sll)\n\
         def na(t,tll,flags=0x60000000): return struct.pack('>BBHI',136,0,0,flags)+ip(t)+b'\\x02\\x01'+mac(tll)\n\
         {statements}\n"
    );
    let output = Command::new("ip")
        .args(["netns", "exec", netns, "python3", "-c", &program])
        .output()
        .expect("python3 is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// MAC addresses as text for [`send_raw`].
pub fn macs(lab: &LabNode, index: usize) -> (String, String, MacAddr) {
    (
        lab.pods[index].pod.mac.to_string(),
        lab.state.gateway.mac.to_string(),
        VIRTUAL_MAC,
    )
}
