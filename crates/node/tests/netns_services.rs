//! What the host's part of Services is built on, against the real kernel. Needs root, iproute2 and nftables.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use carrick_node::{Namespace, Nft, flush_udp};
use carrick_testkit::netns::Scratch;

fn open(scratch: &Scratch) -> Namespace {
    Namespace::open(scratch.path()).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_tables_frame_stays_while_its_elements_change() {
    let a = Scratch::new();
    let dir = tempfile::tempdir().unwrap();
    let memory = dir.path().join("nft.json");
    let open = || Nft::new(Some(memory.clone())).in_namespace(open(&a));
    let frame = |policy: &str| {
        format!(
            "table inet t {{\n  set ports {{\n    type inet_proto . inet_service\n  }}\n  chain in {{\n    \
             type filter hook input priority filter; policy {policy};\n    \
             meta l4proto . th dport @ports accept\n  }}\n}}\n"
        )
    };
    let (accept, drop) = (frame("accept"), frame("drop"));
    let mut nft = open();
    assert_eq!(nft.framed("inet", "t", &accept).await.unwrap(), None);
    let first = "add element inet t ports { tcp . 80, sctp . 7 }\n";
    nft.load_framed("inet", "t", &accept, first).await.unwrap();
    // After a restart, and with other elements, it is the same frame.
    nft.change("inet", "t", "delete element inet t ports { tcp . 80 }\n")
        .await
        .unwrap();
    let nft = open();
    let framed = nft.framed("inet", "t", &accept).await.unwrap().unwrap();
    assert!(framed.same);
    assert_eq!(
        framed.elements["ports"],
        [serde_json::json!({"concat": [132, 7]})]
    );
    assert!(!nft.framed("inet", "t", &drop).await.unwrap().unwrap().same);
    a.exec("nft", &["flush", "chain", "inet", "t", "in"]);
    assert!(
        !nft.framed("inet", "t", &accept)
            .await
            .unwrap()
            .unwrap()
            .same
    );
}

#[tokio::test]
async fn udp_is_forgotten_by_where_it_went() {
    let a = Scratch::new();
    a.exec("ip", &["link", "set", "lo", "up"]);
    a.exec("nft", &["add", "table", "inet", "t"]);
    a.exec(
        "nft",
        &[
            "add",
            "chain",
            "inet",
            "t",
            "c",
            "{ type filter hook output priority 0; }",
        ],
    );
    a.exec(
        "nft",
        &["add", "rule", "inet", "t", "c", "ct", "state", "new"],
    );
    let namespace = open(&a);
    let send = || {
        for (from, to) in [
            ("127.0.0.1:0", "127.0.0.1:5301"),
            ("127.0.0.1:0", "127.0.0.2:5301"),
            ("[::1]:0", "[::1]:5302"),
        ] {
            let socket = std::net::UdpSocket::bind(from).unwrap();
            socket.send_to(b"x", to).unwrap();
        }
    };
    namespace.run(send).await.unwrap();
    let flush = async |address: Option<&str>, port: u16| {
        let places = BTreeSet::from([(address.map(ip), port)]);
        flush_udp(Some(&namespace), places).await.unwrap()
    };
    assert_eq!(flush(None, 5303).await, 0);
    assert_eq!(flush(Some("127.0.0.2"), 5301).await, 1);
    assert_eq!(flush(Some("127.0.0.2"), 5301).await, 0);
    assert_eq!(flush(None, 5301).await, 1);
    assert_eq!(flush(Some("::1"), 5302).await, 1);
}
