//! Host ports with real packets: a node, a pod and somebody outside, in namespaces of their own.
//! Needs root, iproute2 and nftables.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use carrick_agent::ipam::{
    Attachment, AttachmentKey, AttachmentState, PodRef, PortMapping, Protocol,
};
use carrick_agent::portmap::render;
use carrick_node::{Applied, MacAddr, Namespace, Nft};
use ipnet::IpNet;

const LIMIT: Duration = Duration::from_secs(5);

struct Lab {
    tag: String,
}

impl Lab {
    fn new() -> Self {
        let lab = Self {
            tag: format!("crp-{}", std::process::id()),
        };
        for name in ["node", "pod", "out"] {
            tool(&["netns", "add", &lab.name(name)]);
            lab.ip(name, "link set lo up");
        }
        let (node, pod, out) = (lab.name("node"), lab.name("pod"), lab.name("out"));
        // The pod's link stands for the switch: everything of the pod CIDR is behind it.
        lab.ip(
            "node",
            &format!("link add carrick-gw0 type veth peer name eth0 netns {pod}"),
        );
        lab.ip(
            "node",
            &format!("link add up0 type veth peer name eth0 netns {out}"),
        );
        for (at, link, addresses) in [
            ("node", "carrick-gw0", ["10.77.0.1/32", "fd77::1/128"]),
            ("node", "up0", ["192.0.2.1/24", "2001:db8::1/64"]),
            ("pod", "eth0", ["10.77.0.2/24", "fd77::2/64"]),
            ("out", "eth0", ["192.0.2.2/24", "2001:db8::2/64"]),
        ] {
            lab.ip(at, &format!("link set {link} up"));
            for address in addresses {
                let nodad = if address.contains(':') { "nodad" } else { "" };
                lab.ip(at, &format!("addr add {address} dev {link} {nodad}"));
            }
        }
        lab.ip(
            "node",
            "route add 10.77.0.0/24 dev carrick-gw0 src 10.77.0.1",
        );
        lab.ip("node", "-6 route add fd77::/64 dev carrick-gw0 src fd77::1");
        lab.ip("pod", "route add default via 10.77.0.1");
        lab.ip("pod", "-6 route add default via fd77::1");
        for key in [
            "ipv4/ip_forward=1",
            "ipv4/conf/carrick-gw0/route_localnet=1",
            "ipv6/conf/all/forwarding=1",
        ] {
            let (key, value) = key.split_once('=').unwrap();
            tool(&[
                "netns",
                "exec",
                &node,
                "sh",
                "-c",
                &format!("echo {value} > /proc/sys/net/{key}"),
            ]);
        }
        lab
    }

    fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.tag)
    }

    fn open(&self, part: &str) -> Namespace {
        Namespace::open(format!("/run/netns/{}", self.name(part))).unwrap()
    }

    fn ip(&self, part: &str, words: &str) {
        let name = self.name(part);
        let mut all = vec!["-n", &name];
        all.extend(words.split_whitespace());
        tool(&all);
    }

    /// Who the pod says is asking, when `part` connects to `to`.
    async fn ask(&self, part: &str, to: &str) -> std::io::Result<String> {
        let to: SocketAddr = to.parse().unwrap();
        let work = move || {
            let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        self.open(part).run(work).await.unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for part in ["node", "pod", "out"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.name(part)])
                .status();
        }
    }
}

fn tool(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("ip is missing, install iproute2: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {stderr}");
}

fn mapping(
    host_port: u16,
    container_port: u16,
    protocol: Protocol,
    host: Option<&str>,
) -> PortMapping {
    let host_ip = host.map(|host| host.parse().unwrap());
    PortMapping {
        host_port,
        container_port,
        protocol,
        host_ip,
    }
}

#[tokio::test]
async fn host_ports_lead_to_the_pod_from_everywhere() {
    let lab = Lab::new();
    let key = AttachmentKey {
        container_id: "c".to_owned(),
        ifname: "eth0".to_owned(),
    };
    let attachment = Attachment {
        key: key.clone(),
        netns: "/run/netns/x".into(),
        pod: PodRef {
            namespace: "n".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
        },
        addresses: vec!["10.77.0.2".parse().unwrap(), "fd77::2".parse().unwrap()],
        mac: MacAddr([2; 6]),
        host_link: "car000000000000".to_owned(),
        ofport: 100,
        port_mappings: vec![
            mapping(80, 8080, Protocol::Tcp, None),
            mapping(81, 8080, Protocol::Tcp, Some("192.0.2.1")),
            mapping(53, 5353, Protocol::Udp, None),
        ],
        state: AttachmentState::Ready,
    };
    let attachments = Arc::new(BTreeMap::from([(key, Arc::new(attachment))]));
    let cidrs: Vec<IpNet> = vec![
        "10.77.0.0/24".parse().unwrap(),
        "fd77::/64".parse().unwrap(),
    ];
    let chains = render(&attachments, "carrick-gw0", &cidrs);
    // Beside the rule of the node's own table that hides the host's other addresses from pods.
    let table = format!(
        "table inet carrick {{\n chain postrouting {{ type nat hook postrouting priority srcnat;\n \
         oifname \"carrick-gw0\" fib saddr type local ip saddr != 10.77.0.1 masquerade\n \
         oifname \"carrick-gw0\" fib saddr type local ip6 saddr != fd77::1 masquerade\n }}\n{chains}}}"
    );
    let mut nft = Nft::new(None).in_namespace(lab.open("node"));
    assert_eq!(
        nft.sync("inet", "carrick", Some(&table)).await.unwrap(),
        Applied::Replaced
    );
    assert_eq!(
        nft.sync("inet", "carrick", Some(&table)).await.unwrap(),
        Applied::Unchanged
    );

    // The pod answers each connection with the address it came from, and each datagram alike.
    let serve = || {
        let listener = TcpListener::bind("[::]:8080").unwrap();
        thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                let _ = stream.write_all(peer.ip().to_canonical().to_string().as_bytes());
            }
        });
        let socket = UdpSocket::bind("10.77.0.2:5353").unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
            }
        });
    };
    lab.open("pod").run(serve).await.unwrap();

    for (from, to, seen) in [
        ("out", "192.0.2.1:80", "192.0.2.2"),
        ("out", "192.0.2.1:81", "192.0.2.2"),
        ("out", "[2001:db8::1]:80", "2001:db8::2"),
        ("node", "127.0.0.1:80", "10.77.0.1"),
        ("node", "192.0.2.1:80", "10.77.0.1"),
        ("node", "[2001:db8::1]:80", "fd77::1"),
        // The pod reaches itself by the node's address; the answer comes back that way.
        ("pod", "192.0.2.1:80", "10.77.0.1"),
        ("pod", "[2001:db8::1]:80", "fd77::1"),
    ] {
        let answer = lab.ask(from, to).await;
        assert_eq!(
            answer.as_deref().ok(),
            Some(seen),
            "{from} to {to}: {answer:?}"
        );
    }
    // Bound to another address of the node, or not mapped at all.
    for (from, to) in [("node", "127.0.0.1:81"), ("out", "192.0.2.1:82")] {
        assert!(lab.ask(from, to).await.is_err(), "{from} to {to}");
    }
    let udp = || {
        let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.send_to(b"?", "192.0.2.1:53").unwrap();
        let mut buffer = [0; 64];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        (
            String::from_utf8_lossy(&buffer[..length]).into_owned(),
            from.to_string(),
        )
    };
    let answer = lab.open("out").run(udp).await.unwrap();
    assert_eq!(answer, ("192.0.2.2".to_owned(), "192.0.2.1:53".to_owned()));
}
