//! Packets through the pipeline on a real Open vSwitch: what must pass.

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

use std::net::IpAddr;

use support::Families;
use support::lab::{LabNode, in_netns, ping, two_nodes};

/// A TCP server in `server` answers a client in `client`, by the address family of `address`.
fn tcp(server: &str, client: &str, address: std::net::IpAddr, port: u16) -> bool {
    exchange(server, client, address, port, "SOCK_STREAM")
}

fn udp(server: &str, client: &str, address: std::net::IpAddr, port: u16) -> bool {
    exchange(server, client, address, port, "SOCK_DGRAM")
}

fn exchange(server: &str, client: &str, address: std::net::IpAddr, port: u16, kind: &str) -> bool {
    let family = if address.is_ipv4() {
        "AF_INET"
    } else {
        "AF_INET6"
    };
    let bind = if address.is_ipv4() { "0.0.0.0" } else { "::" };
    let serve = if kind == "SOCK_STREAM" {
        "s.listen(1); print('up',flush=True); c,_=s.accept(); d=c.recv(20000,256); c.sendall(d); c.close()"
    } else {
        "print('up',flush=True); d,a=s.recvfrom(65536); s.sendto(d,a)"
    };
    let server_program = format!(
        "import socket; s=socket.socket(socket.{family},socket.{kind}); s.settimeout(15); s.setsockopt(1,2,1); \
         s.bind(('{bind}',{port})); {serve}"
    );
    let ask = if kind == "SOCK_STREAM" {
        "s.sendall(b'x'*20000); n=0\n\
         while True:\n\x20d=s.recv(65536)\n\x20if not d: break\n\x20n+=len(d)\nassert n>=20000,n"
    } else {
        "s.send(b'x'*1200); assert len(s.recv(65536))==1200"
    };
    let client_program = format!(
        "import socket\ns=socket.socket(socket.{family},socket.{kind}); s.settimeout(10)\n\
         s.connect(('{address}',{port}))\n{ask}"
    );
    use std::io::{BufRead as _, BufReader};
    let mut child = std::process::Command::new("ip")
        .args(["netns", "exec", server, "python3", "-c", &server_program])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let done = std::process::Command::new("ip")
        .args(["netns", "exec", client, "python3", "-c", &client_program])
        .output()
        .unwrap();
    let _ = child.kill();
    let _ = child.wait();
    if !done.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&done.stderr));
    }
    done.status.success()
}

#[test]
fn pods_of_one_node_and_their_host_reach_each_other() {
    let mut a = LabNode::start(1, Families::Dual);
    let (one, two) = (a.add_pod(1), a.add_pod(2));
    let (one, two) = (a.pod(one), a.pod(two));
    for address in two.pod.addresses.iter() {
        assert!(ping(&one.netns, address), "pod to pod {address}");
        assert!(tcp(&two.netns, &one.netns, address, 7001), "tcp {address}");
        assert!(udp(&two.netns, &one.netns, address, 7002), "udp {address}");
        assert!(ping(a.netns(), address), "host to pod {address}");
        assert!(
            tcp(&two.netns, a.netns(), address, 7003),
            "tcp from the host {address}"
        );
    }
    for gateway in a.state.gateway.addresses.iter() {
        assert!(ping(&one.netns, gateway), "pod to gateway {gateway}");
        assert!(
            tcp(a.netns(), &one.netns, gateway, 7004),
            "tcp to the host {gateway}"
        );
    }
}

fn between_nodes(outer: Families, mtu: u16) {
    let (mut a, mut b) = two_nodes(Families::Dual, outer);
    assert_eq!(a.mtu, mtu);
    let (one_index, two_index) = (a.add_pod(1), b.add_pod(1));
    let (one, two) = (a.pod(one_index), b.pod(two_index));
    for address in two.pod.addresses.iter() {
        assert!(ping(&one.netns, address), "pod to pod {address}");
        assert!(tcp(&two.netns, &one.netns, address, 7001), "tcp {address}");
        assert!(udp(&two.netns, &one.netns, address, 7002), "udp {address}");
        assert!(ping(a.netns(), address), "host to remote pod {address}");
        assert!(
            tcp(&two.netns, a.netns(), address, 7003),
            "tcp from the host {address}"
        );
    }
    for gateway in b.state.gateway.addresses.iter() {
        assert!(ping(&one.netns, gateway), "pod to peer gateway {gateway}");
    }
    let v4 = two.pod.addresses.v4.unwrap();
    // Fragments pass conntrack.
    assert!(
        in_netns(
            &one.netns,
            &format!("ping -c 3 -i 0.2 -W 2 -s 4000 {v4} | grep -q 'bytes from'")
        )
        .0
    );
    // Exactly what fits into the tunnel, and one byte more, with "don't fragment"; the pods' own
    // links would take both.
    for (lab, index) in [(&a, one_index), (&b, two_index)] {
        let pod = lab.pod(index);
        assert!(in_netns(&pod.netns, "ip link set eth0 mtu 1500").0);
        assert!(in_netns(lab.netns(), &format!("ip link set {} mtu 1500", pod.link)).0);
    }
    let sized = |size: u16| {
        let line = format!(
            "ping -c 3 -i 0.2 -W 1 -M do -s {} {v4} | grep -q 'bytes from'",
            size - 28
        );
        in_netns(&one.netns, &line).0
    };
    assert!(sized(mtu), "a packet of exactly the MTU");
    assert!(!sized(mtu + 1), "a packet of one byte more");
}

#[test]
fn pods_of_two_nodes_and_their_hosts_over_ipv4() {
    between_nodes(Families::V4, 1450);
}

#[test]
fn pods_of_two_nodes_and_their_hosts_over_ipv6() {
    between_nodes(Families::V6, 1430);
}

#[test]
fn a_cluster_of_ipv6_alone() {
    let (mut a, mut b) = two_nodes(Families::V6, Families::V6);
    let (one, two) = (a.add_pod(1), b.add_pod(1));
    let address = b.pod(two).pod.addresses.v6.unwrap();
    assert!(ping(&a.pod(one).netns, address));
    assert!(tcp(
        &b.pod(two).netns,
        &a.pod(one).netns,
        address.into(),
        7001
    ));
}

#[test]
fn applying_twice_changes_nothing() {
    let (mut a, _b) = two_nodes(Families::Dual, Families::V4);
    a.add_pod(1);
    let file = a.ovs.run_dir().join("flows");
    a.apply();
    let target = a.ovs.target("br-int");
    let difference = a
        .ovs
        .ofctl(&["diff-flows", &target, file.to_str().unwrap()])
        .unwrap();
    assert_eq!(difference, "");
}

/// A packet crosses conntrack once on each node: one recirculation, for a new connection and for an
/// established one. More would cost every packet.
#[test]
fn a_packet_recirculates_once() {
    let mut a = LabNode::start(1, Families::Dual);
    let (one, two) = (a.add_pod(1), a.add_pod(2));
    let (one, two) = (a.pod(one).pod, a.pod(two).pod);
    let packet = |state: &str| {
        let (from, to) = (one.addresses.v4.unwrap(), two.addresses.v4.unwrap());
        format!(
            "in_port={},tcp,dl_src={},dl_dst={},nw_src={from},nw_dst={to},nw_ttl=64,tp_src=1,tp_dst=2{state}",
            one.port, one.mac, a.state.gateway.mac
        )
    };
    for (state, name) in [("new", "new"), ("est", "established")] {
        let trace = a
            .ovs
            .appctl(&[
                "ofproto/trace",
                "br-int",
                &packet(""),
                "--ct-next",
                &format!("trk,{state}"),
            ])
            .unwrap();
        assert_eq!(trace.matches("recirc(").count(), 2, "{name}: {trace}");
        assert!(trace.contains("Datapath actions: "), "{trace}");
    }
}

/// Without a record there is no pod in the state: its port passes nothing in either direction.
#[test]
fn a_port_without_a_record_passes_nothing() {
    let mut a = LabNode::start(1, Families::Dual);
    let one = a.add_pod(1);
    let stranger = support::pod(1, 2, Families::Dual);
    let two = a.plug(2, stranger);
    let (one, two) = (a.pod(one), a.pod(two));
    for address in one.pod.addresses.iter() {
        assert!(support::lab::silent(&two.netns, address));
    }
    for address in two.pod.addresses.iter() {
        assert!(support::lab::silent(&one.netns, address));
        assert!(support::lab::silent(a.netns(), address));
    }
}

/// Established connections go on when policy forbids new ones: the mark skips the policy tables.
#[test]
fn established_connections_skip_policy() {
    let mut a = LabNode::start(1, Families::V4);
    let (one, two) = (a.add_pod(1), a.add_pod(2));
    let address = a.pod(two).pod.addresses.v4.unwrap();
    let (from, to) = (a.pod(one).netns.clone(), a.pod(two).netns.clone());
    let serve = "import socket; s=socket.socket(); s.setsockopt(1,2,1); s.bind(('0.0.0.0',7001)); s.listen(5)\n\
                 print('up',flush=True)\nc,_=s.accept()\n\
                 while True:\n\x20d=c.recv(100)\n\x20if not d: break\n\x20c.sendall(d)";
    let talk = format!(
        "import socket,sys\ns=socket.socket(); s.settimeout(5); s.connect(('{address}',7001))\n\
         for line in sys.stdin:\n\x20s.sendall(line.encode()); print(s.recv(100).decode(),end='',flush=True)"
    );
    use std::io::{BufRead as _, BufReader, Write as _};
    let spawn = |netns: &str, program: &str| {
        std::process::Command::new("ip")
            .args(["netns", "exec", netns, "python3", "-c", program])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut server = spawn(&to, serve);
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let mut client = spawn(&from, &talk);
    let mut input = client.stdin.take().unwrap();
    let mut output = BufReader::new(client.stdout.take().unwrap());
    let mut say = |word: &str| {
        writeln!(input, "{word}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(say("before"), "before");
    a.ovs
        .ofctl(&[
            "add-flow",
            &a.ovs.target("br-int"),
            "table=30,priority=300,ip actions=drop",
        ])
        .unwrap();
    assert_eq!(say("after"), "after", "the established connection goes on");
    assert!(
        support::lab::silent(&from, address),
        "a new connection is refused"
    );
    drop(input);
    for child in [&mut client, &mut server] {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// What a kube-proxy on the host translates comes back with the pod's own source: it must pass, and its
/// replies must go by the host, which alone can translate them back.
#[test]
fn the_hosts_own_proxy_serves_pods() {
    let (mut a, mut b) = two_nodes(Families::Dual, Families::V4);
    let (one, two) = (a.add_pod(1), a.add_pod(2));
    let three = b.add_pod(1);
    let (one, two, three) = (a.pod(one), a.pod(two), b.pod(three));
    let cluster_ips: [IpAddr; 2] = [[10, 96, 0, 10].into(), "fd00:96::10".parse().unwrap()];
    for (server, kind) in [(two, "its own node"), (three, "another node")] {
        let mut rules = String::new();
        for (family, endpoint) in ["ip", "ip6"].into_iter().zip(server.pod.addresses.iter()) {
            let cluster_ip = cluster_ips
                .iter()
                .find(|address| address.is_ipv4() == endpoint.is_ipv4())
                .unwrap();
            rules += &format!("{family} daddr {cluster_ip} dnat {family} to {endpoint}\n");
        }
        let table = format!(
            "table inet proxy\ndelete table inet proxy\ntable inet proxy {{\n\
             chain prerouting {{\ntype nat hook prerouting priority dstnat; policy accept;\n{rules}}}\n}}\n"
        );
        let (ok, text) = in_netns(a.netns(), &format!("nft -f - <<'EOT'\n{table}EOT\n"));
        assert!(ok, "{text}");
        for cluster_ip in cluster_ips {
            assert!(
                tcp(&server.netns, &one.netns, cluster_ip, 7001),
                "tcp to a pod of {kind} by {cluster_ip}"
            );
            assert!(
                udp(&server.netns, &one.netns, cluster_ip, 7002),
                "udp to a pod of {kind} by {cluster_ip}"
            );
        }
    }
}
