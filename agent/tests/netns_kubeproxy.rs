//! What a kube-proxy leaves on a host, as its modes write it, removed from the kernel. Needs root, nftables,
//! iptables and iproute2.

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use carrick_agent::services::leftovers::Leftovers;
use carrick_node::{Namespace, Netlink, Nft};
use carrick_testkit::netns::Scratch;

/// Mode iptables with a Service of one endpoint, beside the kubelet's chains and somebody else's.
const IPTABLES: &str = "
*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:OTHERS - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -j OTHERS
-A OUTPUT -j KUBE-FIREWALL
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A OTHERS -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
*nat
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-EXT-ERIFXISQEP7F7OF4 - [0:0]
:KUBE-SEP-IT2ZTR26TO4XFPTO - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 53 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30053 -j KUBE-EXT-ERIFXISQEP7F7OF4
-A KUBE-EXT-ERIFXISQEP7F7OF4 -j KUBE-MARK-MASQ
-A KUBE-EXT-ERIFXISQEP7F7OF4 -j KUBE-SVC-ERIFXISQEP7F7OF4
-A KUBE-SVC-ERIFXISQEP7F7OF4 -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-IT2ZTR26TO4XFPTO
-A KUBE-SEP-IT2ZTR26TO4XFPTO -s 10.244.0.5/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-IT2ZTR26TO4XFPTO -p tcp -m tcp -j DNAT --to-destination 10.244.0.5:53
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
";

/// Mode nftables, by its names.
const NFTABLES: &str = "
table ip kube-proxy {
  set cluster-ips { type ipv4_addr; elements = { 10.96.0.10 } }
  chain services { ip daddr @cluster-ips tcp dport 53 dnat to 10.244.0.5:53; }
  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
}
table ip6 kube-proxy {
  chain nat-prerouting { type nat hook prerouting priority dstnat; }
}
";

fn feed(scratch: &Scratch, program: &str, text: &str) {
    let script = format!("{program} <<'END'\n{text}\nEND");
    scratch.exec("sh", &["-ec", &script]);
}

async fn leftovers(scratch: &Scratch) -> Leftovers {
    let open = || Namespace::open(scratch.path()).unwrap();
    let netlink = Netlink::open_in(&open()).await.unwrap();
    Leftovers::new(Nft::new(None).in_namespace(open()), netlink)
}

#[tokio::test]
async fn what_kube_proxy_leaves_goes_and_nothing_else() {
    let host = Scratch::new();
    feed(&host, "iptables-nft-restore", IPTABLES);
    feed(
        &host,
        "ip6tables-nft-restore",
        "*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT",
    );
    feed(&host, "nft -f -", NFTABLES);
    // A dummy in truth, which not every kernel has.
    let link = [
        "link",
        "add",
        "kube-ipvs0",
        "type",
        "veth",
        "peer",
        "name",
        "other",
    ];
    host.exec("ip", &link);
    let leftovers = leftovers(&host).await;
    let found = leftovers.survey().await.unwrap();
    let words = found.words();
    for part in [
        "table ip kube-proxy",
        "table ip6 kube-proxy",
        "table ip nat: KUBE-EXT-ERIFXISQEP7F7OF4",
        "link kube-ipvs0",
    ] {
        assert!(
            words.iter().any(|word| word.starts_with(part)),
            "{part}: {words:?}"
        );
    }
    leftovers.remove(&found).await.unwrap();
    let after = leftovers.survey().await.unwrap();
    assert!(after.is_empty(), "{:?}", after.words());
    let rules = host.exec("iptables-nft-save", &[]);
    for kept in [
        "KUBE-IPTABLES-HINT",
        "KUBE-KUBELET-CANARY",
        "-A INPUT -j KUBE-FIREWALL",
        "-A OUTPUT -j KUBE-FIREWALL",
        "block incoming localnet connections",
        "-A FORWARD -j OTHERS",
        "-A OTHERS -p tcp -m tcp --dport 22 -j ACCEPT",
        "-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE",
    ] {
        assert!(rules.contains(kept), "{kept}:\n{rules}");
    }
    for gone in [
        "KUBE-SERVICES",
        "KUBE-SVC",
        "KUBE-MARK-MASQ",
        "KUBE-POSTROUTING",
        "KUBE-PROXY",
        "KUBE-FORWARD",
    ] {
        assert!(!rules.contains(gone), "{gone}:\n{rules}");
    }
    assert!(!host.exec("ip", &["-o", "link"]).contains("kube-ipvs0"));
    // There is nothing left to remove.
    leftovers.remove(&after).await.unwrap();
}

#[tokio::test]
async fn a_chain_that_somebody_else_needs_stays() {
    let host = Scratch::new();
    feed(&host, "iptables-nft-restore", IPTABLES);
    let other = "iptables-nft -t nat -N OTHERS; iptables-nft -t nat -A OTHERS -p tcp --dport 80 -j KUBE-MARK-MASQ";
    host.exec("sh", &["-ec", other]);
    let leftovers = leftovers(&host).await;
    let found = leftovers.survey().await.unwrap();
    leftovers.remove(&found).await.unwrap();
    let after = leftovers.survey().await.unwrap();
    assert!(after.is_empty(), "{:?}", after.words());
    let rules = host.exec("iptables-nft-save", &["-t", "nat"]);
    assert!(
        rules.contains("-A OTHERS -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ"),
        "{rules}"
    );
    assert!(rules.contains("-A KUBE-MARK-MASQ -j MARK"), "{rules}");
}

/// What translates a connection of the host to 10.96.0.10, in either mode.
const TRANSLATING: [(&str, &str); 2] = [
    (
        "nft -f -",
        "table ip kube-proxy { chain nat-output { type nat hook output priority -100; \
         ip daddr 10.96.0.10 tcp dport 80 dnat to 10.244.0.5:8080\n}\n}",
    ),
    (
        "iptables-nft-restore",
        "*nat\n:KUBE-SERVICES - [0:0]\n-A OUTPUT -j KUBE-SERVICES\n\
         -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.0.5:8080\nCOMMIT",
    ),
];

#[tokio::test]
async fn a_connection_that_kube_proxy_translated_goes_on_without_its_rules() {
    const LIMIT: Duration = Duration::from_secs(20);
    for (program, rules) in TRANSLATING {
        let host = Scratch::new();
        host.exec("ip", &["link", "set", "lo", "up"]);
        host.exec("ip", &["address", "add", "10.244.0.5/32", "dev", "lo"]);
        host.exec("ip", &["route", "add", "10.96.0.0/16", "dev", "lo"]);
        feed(&host, program, rules);
        // Ours: without any rule that translates the kernel would follow no connection any more.
        feed(
            &host,
            "nft -f -",
            "table inet carrick-services { chain dnat-out { type nat hook output priority -100;\n\
             ip daddr 192.0.2.1 tcp dport 80 dnat ip to 192.0.2.2\n}\n}",
        );
        let inside = Namespace::open(host.path()).unwrap();
        let connect = || {
            let listener = TcpListener::bind("10.244.0.5:8080")?;
            let client = TcpStream::connect_timeout(&"10.96.0.10:80".parse().unwrap(), LIMIT)?;
            let (server, _) = listener.accept()?;
            client.set_read_timeout(Some(LIMIT))?;
            server.set_read_timeout(Some(LIMIT))?;
            std::io::Result::Ok((client, server))
        };
        let (mut client, mut server) = inside.run(connect).await.unwrap().unwrap();
        let leftovers = leftovers(&host).await;
        let found = leftovers.survey().await.unwrap();
        assert!(!found.is_empty(), "{program}");
        leftovers.remove(&found).await.unwrap();
        assert!(leftovers.survey().await.unwrap().is_empty(), "{program}");
        let mut heard = [0; 4];
        client.write_all(b"ping").unwrap();
        server.read_exact(&mut heard).unwrap();
        server.write_all(b"pong").unwrap();
        client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"pong", "{program}");
    }
}
