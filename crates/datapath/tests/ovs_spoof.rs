//! Packets through the pipeline on a real Open vSwitch: what must not pass.

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

use support::Families;
use support::lab::{LabNode, in_netns, macs, ping, send_raw, silent};

/// What the pod received while another did something, a frame a line in hexadecimal.
fn hears(netns: &str, act: impl FnOnce()) -> String {
    let mut capture = std::process::Command::new("ip")
        .args(["netns", "exec", netns, "python3", "-c"])
        .arg(
            "import socket,sys,select,time\n\
             s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(3)); s.bind(('eth0',0))\n\
             print('up',flush=True)\n\
             while True:\n\
             \x20r,_,_=select.select([s,sys.stdin],[],[])\n\
             \x20if s in r:\n\
             \x20\x20d,a=s.recvfrom(65536)\n\
             \x20\x20if a[2]!=4: print(d.hex(),flush=True)\n\
             \x20elif sys.stdin in r: break",
        )
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    use std::io::{BufRead as _, BufReader, Read as _};
    let mut output = BufReader::new(capture.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    act();
    drop(capture.stdin.take());
    let mut heard = String::new();
    output.read_to_string(&mut heard).unwrap();
    let _ = capture.wait();
    heard
}

struct Scene {
    a: LabNode,
    one: usize,
    two: usize,
}

fn scene() -> Scene {
    let mut a = LabNode::start(1, Families::Dual);
    let (one, two) = (a.add_pod(1), a.add_pod(2));
    Scene { a, one, two }
}

impl Scene {
    /// Like [`Scene::check_heard`]; the flow whose text contains `counter` must have counted.
    fn check(&self, name: &str, spoof: &str, counter: &str) {
        let before = self.a.packets(counter);
        self.check_heard(name, spoof);
        // Counters of the datapath's own flows reach the table when the revalidators come round.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while self.a.packets(counter) <= before {
            assert!(
                std::time::Instant::now() < deadline,
                "{name}: not counted by {counter:?}"
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Sends `spoof` and then an honest ping, which must be all that the other pod hears: what was
    /// sent before it would have been heard before it.
    fn check_heard(&self, name: &str, spoof: &str) {
        let (one, two) = (self.a.pod(self.one), self.a.pod(self.two));
        let (mac, gateway, _) = macs(&self.a, self.one);
        let prelude = format!(
            "m='{mac}'; g='{gateway}'; p4='{}'; p6='{}'; t4='{}'; t6='{}'; g4='{}'; g6='{}'; \
             other='{}'; bad='02:bb:00:00:00:01'\n",
            one.pod.addresses.v4.unwrap(),
            one.pod.addresses.v6.unwrap(),
            two.pod.addresses.v4.unwrap(),
            two.pod.addresses.v6.unwrap(),
            self.a.state.gateway.addresses.v4.unwrap(),
            self.a.state.gateway.addresses.v6.unwrap(),
            two.pod.mac,
        );
        let heard = hears(&two.netns, || {
            send_raw(&one.netns, &format!("{prelude}{spoof}"));
            assert!(ping(&one.netns, two.pod.addresses.v4.unwrap()));
        });
        let source = hex::encode(one.pod.addresses.v4.unwrap().octets());
        let others: Vec<_> = heard
            .lines()
            .filter(|line| !line.contains(&source))
            .collect();
        assert!(others.is_empty(), "{name}: the other pod heard {others:?}");
        assert!(
            !heard.contains("ca11"),
            "{name}: the spoofed packet arrived"
        );
    }
}

#[test]
fn spoofed_sources_are_dropped_and_counted() {
    let scene = scene();
    let dump = |scene: &Scene| {
        let target = scene.a.ovs.target("br-int");
        let text = scene
            .a
            .ovs
            .ofctl(&["dump-flows", &target, "table=10"])
            .unwrap();
        let line = text
            .lines()
            .find(|line| line.contains("priority=0 actions=drop"))
            .unwrap();
        let count = line
            .split("n_packets=")
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap();
        count.parse::<u64>().unwrap()
    };
    for (name, spoof) in [
        (
            "source MAC, IPv4",
            "frame(g,bad,0x800,ip4(p4,t4,1,echo4()+b'\\xca\\x11'))",
        ),
        (
            "source MAC, IPv6",
            "frame(g,bad,0x86dd,ip6(p6,t6,b'\\x80\\0\\0\\0\\xca\\x11\\0\\1'))",
        ),
        (
            "source address",
            "frame(g,m,0x800,ip4('10.10.1.99',t4,1,echo4()))",
        ),
        ("gateway's address", "frame(g,m,0x800,ip4(g4,t4,1,echo4()))"),
        (
            "other pod's address",
            "frame(g,m,0x800,ip4(t4,t4,1,echo4()))",
        ),
        (
            "IPv6 source",
            "frame(g,m,0x86dd,ip6('fd00:10:1::99',t6,b'\\x80\\0\\0\\0\\xca\\x11\\0\\1'))",
        ),
        (
            "IPv6 gateway's address",
            "frame(g,m,0x86dd,ip6(g6,t6,b'\\x80\\0\\0\\0\\xca\\x11\\0\\1'))",
        ),
        (
            "ARP sender address",
            "frame('ff:ff:ff:ff:ff:ff',m,0x806,arp(1,m,t4,'00:00:00:00:00:00',g4))",
        ),
        (
            "ARP sender MAC",
            "frame('ff:ff:ff:ff:ff:ff',m,0x806,arp(1,bad,p4,'00:00:00:00:00:00',g4))",
        ),
        (
            "ARP frame's MAC",
            "frame('ff:ff:ff:ff:ff:ff',bad,0x806,arp(1,m,p4,'00:00:00:00:00:00',g4))",
        ),
        (
            "gratuitous ARP as the gateway",
            "frame('ff:ff:ff:ff:ff:ff',m,0x806,arp(2,m,g4,m,g4))",
        ),
    ] {
        let before = dump(&scene);
        scene.check_heard(name, spoof);
        assert!(
            dump(&scene) > before,
            "{name}: not counted by the miss flow"
        );
    }
}

#[test]
fn forged_neighbour_discovery_is_dropped_and_counted() {
    let scene = scene();
    let host = scene.a.netns().to_owned();
    let g6 = scene.a.state.gateway.addresses.v6.unwrap();
    for (name, spoof, counter) in [
        (
            "NS with another's link-layer address",
            "frame(g,m,0x86dd,ip6(p6,g6,ns(g6,bad)))",
            "priority=208,icmp6,icmp_type=135",
        ),
        (
            "NS from another's address",
            "frame(g,m,0x86dd,ip6(t6,g6,ns(g6,m)))",
            "priority=208,icmp6,icmp_type=135",
        ),
        (
            "NA to the gateway",
            "frame(g,m,0x86dd,ip6(p6,g6,na(t6,m)))",
            "priority=208,icmp6,icmp_type=136",
        ),
        (
            "NA to all",
            "frame('33:33:00:00:00:01',m,0x86dd,ip6(p6,'ff02::1',na(g6,m)))",
            "priority=208,icmp6,icmp_type=136",
        ),
        (
            "router advertisement",
            "frame('33:33:00:00:00:01',m,0x86dd,ip6('fe80::1','ff02::1',struct.pack('>BBHBBHII',134,0,0,64,0,1800,0,0)))",
            "icmp_type=134",
        ),
        (
            "redirect",
            "frame(other,m,0x86dd,ip6('fe80::1',t6,struct.pack('>BBHI',137,0,0,0)+ip(g6)+ip(t6)))",
            "icmp_type=137",
        ),
    ] {
        scene.check(name, spoof, counter);
    }
    let (_, neighbours) = in_netns(&host, "ip -6 neigh show dev gw0");
    assert!(!neighbours.contains("02:bb:00:00:00:01"), "{neighbours}");
    assert!(ping(&scene.a.pod(scene.two).netns, g6));
}

/// A frame with a VLAN tag matches `ip`, too: without a flow of its own it was delivered tagged.
#[test]
fn trap_4_a_tagged_frame_is_dropped() {
    let scene = scene();
    scene.check(
        "VLAN 5",
        "s.send(mac(g)+mac(m)+b'\\x81\\0\\0\\x05\\x08\\0'+ip4(p4,t4,1,echo4()+b'\\xca\\x11'))",
        "vlan_tci=0x1000/0x1000",
    );
}

/// Linux probes a known neighbour from its link-local address; without an answer the entry for the
/// gateway would fail.
#[test]
fn trap_5_a_probe_from_the_link_local_address_is_answered() {
    let scene = scene();
    let pod = scene.a.pod(scene.one);
    let gateway = scene.a.state.gateway;
    let g6 = gateway.addresses.v6.unwrap();
    let line = format!(
        "ip -6 addr show dev eth0 scope link | grep -q fe80 && \
         ip neigh replace {g6} lladdr {} dev eth0 nud probe && \
         for i in $(seq 50); do ip neigh show {g6} dev eth0 | grep -q REACHABLE && exit 0; sleep 0.1; done; \
         ip neigh show dev eth0; exit 1",
        gateway.mac
    );
    let (ok, text) = in_netns(&pod.netns, &line);
    assert!(ok, "{text}");
    assert!(ping(&pod.netns, g6));
}

/// After one good solicitation, a forged one must still be dropped: the cache of the datapath must
/// not have forgotten what was compared.
#[test]
fn trap_1_a_forged_solicitation_after_a_good_one_is_dropped() {
    let scene = scene();
    let pod = scene.a.pod(scene.one);
    let (mac, gateway, _) = macs(&scene.a, scene.one);
    let g6 = scene.a.state.gateway.addresses.v6.unwrap();
    let p6 = pod.pod.addresses.v6.unwrap();
    let before = scene.a.packets("priority=208,icmp6,icmp_type=135");
    send_raw(
        &pod.netns,
        &format!(
            "for i in range(20): frame('{gateway}','{mac}',0x86dd,ip6('{p6}','{g6}',ns('{g6}','{mac}')))\n\
             for i in range(5): frame('{gateway}','{mac}',0x86dd,ip6('{p6}','{g6}',ns('{g6}','02:bb:00:00:00:01')))"
        ),
    );
    carrick_testkit::ovs::wait("the forged solicitations to be counted", || {
        scene.a.packets("priority=208,icmp6,icmp_type=135") >= before + 5
    })
    .unwrap();
    let (_, neighbours) = in_netns(scene.a.netns(), "ip -6 neigh show dev gw0");
    assert!(!neighbours.contains("02:bb:00:00:00:01"), "{neighbours}");
}

/// The host's stack must not hear a pod's frames by itself: with every flow gone the pod reaches
/// nothing, not even by the host's routing, and no ARP is answered.
#[test]
fn trap_2_the_host_never_hears_a_pod() {
    let (mut a, mut b) = support::lab::two_nodes(Families::Dual, Families::V4);
    let (one, two) = (a.add_pod(1), b.add_pod(1));
    let remote = b.pod(two).pod.addresses.v4.unwrap();
    let pod = a.pod(one);
    assert!(ping(&pod.netns, remote));
    let host_link = &pod.link;
    let (_, host_mac) = in_netns(
        a.netns(),
        &format!(
            "cat /sys/class/net/{host_link}/address || ip -br link show {host_link} | awk '{{print $3}}'"
        ),
    );
    let host_mac = host_mac.lines().last().unwrap().trim().to_owned();
    a.ovs
        .ofctl(&[
            "del-flows",
            &a.ovs.target("br-int"),
            &format!("table=0,in_port={}", pod.pod.port),
        ])
        .unwrap();
    let gateway = a.state.gateway.addresses.v4.unwrap();
    // The pod takes the host's end of its own link for its next hop.
    let (ok, text) = in_netns(
        &pod.netns,
        &format!("ip neigh replace {gateway} lladdr {host_mac} dev eth0 nud permanent"),
    );
    assert!(ok, "{text}");
    assert!(silent(&pod.netns, remote), "by the host's own routing");
    let (ok, text) = in_netns(
        &pod.netns,
        &format!(
            "ip neigh del {gateway} dev eth0; ip neigh flush dev eth0; ping -c 2 -W 1 {gateway}; ip neigh show dev eth0 | grep -i '{host_mac}' && exit 1; true"
        ),
    );
    assert!(ok, "ARP was answered by the host's stack: {text}");
}

/// The transport NIC inside its bridge has the bridge's MAC: without hiding it the host answers
/// every packet twice.
#[test]
fn trap_3_the_transport_interface_answers_once() {
    let (a, _b) = support::lab::two_nodes(Families::V4, Families::V4);
    assert!(ping(a.netns(), "172.31.0.2"));
    let (_, text) = in_netns(a.netns(), "ping -c 5 -i 0.2 -W 1 172.31.0.2");
    assert!(text.contains("5 received"), "{text}");
    assert!(!text.contains("DUP"), "{text}");
}

/// Only what a pod sends loses a hop here; the exact hop limit is so in no other flow's mask.
#[test]
fn trap_8_only_packets_of_pods_lose_a_hop() {
    let mut a = LabNode::start(1, Families::V4);
    let (one, two) = (a.add_pod(1), a.add_pod(2));
    let (one, two) = (a.pod(one).pod, a.pod(two).pod);
    let g = a.state.gateway;
    let (from, to) = (one.addresses.v4.unwrap(), two.addresses.v4.unwrap());
    let pod = a.trace(&format!(
        "in_port={},icmp,dl_src={},dl_dst={},nw_src={from},nw_dst={to},nw_ttl=64",
        one.port, one.mac, g.mac
    ));
    assert!(pod.contains("dec_ttl"), "{pod}");
    let host = a.trace(&format!(
        "in_port={},icmp,dl_src={},nw_src={},nw_dst={to},nw_ttl=64",
        g.port,
        g.mac,
        g.addresses.v4.unwrap()
    ));
    assert!(!host.contains("dec_ttl"), "{host}");
}

/// A packet that must leave by the port it came from is not lost.
#[test]
fn a_hairpin_leaves_by_the_port_it_came_from() {
    let mut a = LabNode::start(1, Families::V4);
    let one = a.add_pod(1);
    let pod = a.pod(one).pod;
    let own = pod.addresses.v4.unwrap();
    let trace = a.trace(&format!(
        "in_port={},icmp,dl_src={},dl_dst={},nw_src={own},nw_dst={own},nw_ttl=64",
        pod.port, pod.mac, a.state.gateway.mac
    ));
    assert!(trace.contains("IN_PORT"), "{trace}");
}
