//! The drivers against the real kernel, in namespaces of their own. Needs root, iproute2, nftables
//! and ethtool (Debian packages of these names).

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use carrick_node::{
    AddrGenMode, AdminState, Applied, Change, Echo, LinkIndex, LinkLocal, Look, MacAddr, Monitor,
    Namespace, Neighbour, Netlink, Nft, NftError, Route, RouteOrigin, Sysctls, VethSpec,
    disable_tx_checksum, flush_connections, ping_sizes,
};
use carrick_testkit::netns::{Scratch, tool};
use ipnet::IpNet;

fn open(scratch: &Scratch) -> Namespace {
    Namespace::open(scratch.path()).unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const MAC: MacAddr = MacAddr([0x0a, 0x58, 1, 2, 3, 4]);

/// A veth pair `host` here and `eth0` there, both up.
async fn pair(here: &Scratch, there: &Scratch) -> (Netlink, LinkIndex, Netlink, LinkIndex) {
    let host = Netlink::open_in(&open(here)).await.unwrap();
    let namespace = open(there);
    let spec = VethSpec {
        host: "host",
        alias: "of a test",
        peer: "eth0",
        peer_mac: MAC,
        mtu: 1450,
        namespace: &namespace,
    };
    let link = host.create_veth(&spec).await.unwrap();
    assert_eq!(
        (link.kind.as_str(), link.alias.as_str(), link.mtu),
        ("veth", "of a test", 1450)
    );
    assert!(!link.up);
    let pod = Netlink::open_in(&namespace).await.unwrap();
    let peer = pod.link("eth0").await.unwrap().unwrap();
    assert_eq!((peer.mac, peer.mtu, peer.up), (Some(MAC), 1450, false));
    // Twice is refused as existing.
    assert!(host.create_veth(&spec).await.unwrap_err().is_exists());
    host.set_state(link.index, AdminState::Up).await.unwrap();
    pod.set_state(peer.index, AdminState::Up).await.unwrap();
    (host, link.index, pod, peer.index)
}

#[tokio::test]
async fn a_pair_has_its_addresses_routes_and_neighbours() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let (host, host_link, pod, pod_link) = pair(&a, &b).await;

    let desired = BTreeSet::from([net("10.9.0.5/32"), net("fd09::5/128")]);
    let outcome = pod
        .sync_addresses(pod_link, &desired, LinkLocal::Keep)
        .await
        .unwrap();
    assert_eq!(
        (
            outcome.added.len(),
            outcome.removed.len(),
            outcome.failed.len()
        ),
        (2, 0, 0)
    );
    let again = pod
        .sync_addresses(pod_link, &desired, LinkLocal::Keep)
        .await
        .unwrap();
    assert!(again.is_unchanged(), "{again:?}");
    // Usable at once: no duplicate address detection.
    assert!(
        pod.addresses(Some(pod_link))
            .await
            .unwrap()
            .iter()
            .all(|address| !address.unusable || address.scope_link)
    );

    let gateways = [ip("10.9.0.1"), ip("fd09::1")];
    let neighbours: BTreeSet<_> = gateways
        .iter()
        .map(|&address| Neighbour {
            address,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
        })
        .collect();
    let outcome = pod.sync_neighbours(pod_link, &neighbours).await.unwrap();
    assert_eq!(outcome.added.len(), 2, "{outcome:?}");
    assert!(
        pod.sync_neighbours(pod_link, &neighbours)
            .await
            .unwrap()
            .is_unchanged()
    );
    let moved = neighbours
        .iter()
        .map(|n| Neighbour { mac: MAC, ..*n })
        .collect();
    assert_eq!(
        pod.sync_neighbours(pod_link, &moved)
            .await
            .unwrap()
            .added
            .len(),
        2
    );
    assert!(
        b.exec("ip", &["neigh"])
            .contains("10.9.0.1 dev eth0 lladdr 0a:58:01:02:03:04 PERMANENT")
    );

    let routes = BTreeSet::from([
        Route::via(net("0.0.0.0/0"), pod_link, gateways[0], None),
        Route::via(net("::/0"), pod_link, gateways[1], None),
    ]);
    let outcome = pod
        .sync_routes(RouteOrigin::CARRICK, &routes)
        .await
        .unwrap();
    assert_eq!(
        (outcome.added.len(), outcome.failed.len()),
        (2, 0),
        "{outcome:?}"
    );
    let again = pod
        .sync_routes(RouteOrigin::CARRICK, &routes)
        .await
        .unwrap();
    assert!(again.is_unchanged(), "{again:?}");
    // A change is made in place; a foreign route stays and is not overwritten.
    b.exec("ip", &["route", "add", "10.7.0.0/16", "dev", "eth0"]);
    let mut other = routes.clone();
    other.insert(Route {
        source: Some(ip("10.9.0.5")),
        ..routes.first().unwrap().clone()
    });
    other.remove(routes.first().unwrap());
    let outcome = pod.sync_routes(RouteOrigin::CARRICK, &other).await.unwrap();
    assert_eq!(
        (outcome.added.len(), outcome.removed.len()),
        (1, 0),
        "{outcome:?}"
    );
    assert!(
        b.exec("ip", &["route"])
            .contains("default via 10.9.0.1 dev eth0 proto 67 src 10.9.0.5 onlink")
    );
    let clash = BTreeSet::from([Route::via(net("10.7.0.0/16"), pod_link, gateways[0], None)]);
    let outcome = pod.sync_routes(RouteOrigin::CARRICK, &clash).await.unwrap();
    assert_eq!((outcome.removed.len(), outcome.failed.len()), (2, 1));
    assert!(outcome.failed[0].is_exists());
    assert!(b.exec("ip", &["route"]).contains("10.7.0.0/16 dev eth0"));

    assert_eq!(
        host.link_by_index(host_link).await.unwrap().unwrap().name,
        "host"
    );
    host.delete_link("host").await.unwrap();
    host.delete_link("host").await.unwrap();
    assert_eq!(pod.link("eth0").await.unwrap(), None);
}

#[tokio::test]
async fn a_link_has_no_link_local_address_when_told_so() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let host = Netlink::open_in(&open(&a)).await.unwrap();
    let namespace = open(&b);
    let mac = MAC;
    let spec = VethSpec {
        host: "x",
        alias: "",
        peer: "y",
        peer_mac: mac,
        mtu: 1500,
        namespace: &namespace,
    };
    let link = host.create_veth(&spec).await.unwrap();
    host.set_addr_gen_mode(link.index, AddrGenMode::None)
        .await
        .unwrap();
    host.set_mac(link.index, MacAddr([2, 0, 0, 0, 0, 9]))
        .await
        .unwrap();
    host.set_mtu(link.index, 1400).await.unwrap();
    host.rename_link(link.index, "z").await.unwrap();
    host.set_state(link.index, AdminState::Up).await.unwrap();
    tool("ip", &["-n", b.name(), "link", "set", "y", "up"]);
    let link = host.wait_link("z", Duration::from_secs(1)).await.unwrap();
    assert_eq!(
        (link.mtu, link.mac),
        (1400, Some(MacAddr([2, 0, 0, 0, 0, 9])))
    );
    assert!(host.addresses(Some(link.index)).await.unwrap().is_empty());
    let late = host
        .wait_link("never", Duration::from_millis(20))
        .await
        .unwrap_err();
    assert_eq!(late.source.kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn addresses_and_routes_move_to_another_link_and_back() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let (host, from, _pod, _) = pair(&a, &b).await;
    tool(
        "ip",
        &["-n", a.name(), "link", "add", "br-phy", "type", "bridge"],
    );
    tool("ip", &["-n", a.name(), "link", "set", "br-phy", "up"]);
    for address in ["192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64"] {
        tool(
            "ip",
            &[
                "-n",
                a.name(),
                "addr",
                "add",
                address,
                "dev",
                "host",
                "nodad",
            ],
        );
    }
    tool(
        "ip",
        &[
            "-n",
            a.name(),
            "route",
            "add",
            "default",
            "via",
            "192.0.2.1",
            "metric",
            "100",
        ],
    );
    tool(
        "ip",
        &[
            "-n",
            a.name(),
            "route",
            "add",
            "198.51.100.0/24",
            "dev",
            "host",
            "proto",
            "dhcp",
        ],
    );
    tool(
        "ip",
        &[
            "-n",
            a.name(),
            "-6",
            "route",
            "add",
            "default",
            "via",
            "2001:db8::1",
        ],
    );
    let facts = host.facts("host").await.unwrap().unwrap();
    assert_eq!(
        (facts.addresses.len(), facts.routes.len()),
        (3, 3),
        "{facts:#?}"
    );
    let text = serde_json::to_string(&facts).unwrap();
    assert_eq!(
        serde_json::from_str::<carrick_node::LinkFacts>(&text).unwrap(),
        facts
    );
    let before = a.exec("ip", &["route"]);

    let to = host.link("br-phy").await.unwrap().unwrap().index;
    for _ in 0..2 {
        let errors = host.move_facts(&facts, from, to).await;
        assert!(errors.is_empty(), "{errors:?}");
        let moved = host.facts("br-phy").await.unwrap().unwrap();
        assert_eq!(
            (moved.addresses.len(), moved.routes.len()),
            (3, 3),
            "{moved:#?}"
        );
        let left = host.facts("host").await.unwrap().unwrap();
        assert_eq!(
            (left.addresses.len(), left.routes.len()),
            (0, 0),
            "{left:#?}"
        );
    }
    let errors = host.move_facts(&facts, to, from).await;
    assert!(errors.is_empty(), "{errors:?}");
    let back = host.facts("host").await.unwrap().unwrap();
    assert_eq!(
        (back.addresses, back.routes),
        (facts.addresses, facts.routes)
    );
    assert_eq!(a.exec("ip", &["route"]), before);
}

#[tokio::test]
async fn sysctls_belong_to_the_namespace() {
    let a = Scratch::new();
    let tree = Sysctls::default();
    let here = tree.get("ipv4/ip_forward").unwrap();
    let other = if here == "0" { "1" } else { "0" };
    let values = vec![
        ("ipv4/ip_forward".to_owned(), other.to_owned()),
        ("-ipv6/conf/absent/accept_ra".to_owned(), "0".to_owned()),
    ];
    tree.set_in(&open(&a), values).await.unwrap();
    assert_eq!(
        a.exec("cat", &["/proc/sys/net/ipv4/ip_forward"]).trim(),
        other
    );
    assert_eq!(tree.get("ipv4/ip_forward").unwrap(), here);
    let absent = vec![("ipv6/conf/absent/accept_ra".to_owned(), "0".to_owned())];
    assert!(tree.set_in(&open(&a), absent).await.is_err());
    let unchanged = BTreeMap::from([("ipv4/ip_forward".to_owned(), here)]);
    assert!(tree.apply(&unchanged, &mut BTreeMap::new()).is_empty());
}

#[tokio::test]
async fn transmit_checksums_go_off() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let _pair = pair(&a, &b).await;
    let features = || b.exec("ethtool", &["-k", "eth0"]);
    assert!(features().contains("tx-checksum-ip-generic: on"));
    disable_tx_checksum(&open(&b), "eth0").await.unwrap();
    assert!(
        features().contains("tx-checksum-ip-generic: off"),
        "{}",
        features()
    );
    assert!(
        features().contains("tx-tcp-segmentation: off"),
        "{}",
        features()
    );
    disable_tx_checksum(&open(&b), "eth0").await.unwrap();
    assert!(disable_tx_checksum(&open(&b), "absent").await.is_err());
}

/// Many at once, since the kernel waits as long for one as for all.
#[tokio::test]
async fn links_are_deleted_together_and_no_others() {
    let (here, there) = (Scratch::new(), Scratch::new());
    let host = Netlink::open_in(&open(&here)).await.unwrap();
    let namespace = open(&there);
    for name in ["one", "two", "kept"] {
        let spec = VethSpec {
            host: name,
            alias: "",
            peer: name,
            peer_mac: MAC,
            mtu: 1450,
            namespace: &namespace,
        };
        host.create_veth(&spec).await.unwrap();
    }
    let names = ["one", "absent", "two"].map(str::to_owned);
    for _ in 0..2 {
        host.delete_links(&names).await.unwrap();
        let left = host.links().await.unwrap();
        let left: Vec<_> = left.iter().map(|link| link.name.as_str()).collect();
        assert_eq!(left, ["lo", "kept"]);
    }
    host.delete_links(&["kept".to_owned()]).await.unwrap();
    assert!(host.link("kept").await.unwrap().is_none());
    host.delete_links(&[]).await.unwrap();
}

#[tokio::test]
async fn only_chains_that_differ_are_changed() {
    let a = Scratch::new();
    let dir = tempfile::tempdir().unwrap();
    let memory = dir.path().join("nft.json");
    let open = || Nft::new(Some(memory.clone())).in_namespace(open(&a));
    let chain = |port: u16| format!("chain c{port} {{ tcp dport {port} counter accept; }}\n");
    let chains = |ports: &[u16]| -> BTreeMap<String, String> {
        ports
            .iter()
            .map(|port| (format!("c{port}"), chain(*port)))
            .collect()
    };
    let sync = async |nft: &mut Nft, ports: &[u16], look: Look| {
        let chains = chains(ports);
        let synced = nft.sync_chains("inet", "carrick", &chains, look);
        synced.await.unwrap()
    };
    // Handles grow with every rule that is made: an untouched chain keeps its own.
    let handles = || {
        let listing = a.exec("nft", &["-a", "list", "table", "inet", "carrick"]);
        let handle = |line: &str| {
            let (rule, handle) = line.split_once(" # handle ")?;
            let port = rule.trim().strip_prefix("tcp dport ")?.split(' ').next()?;
            Some((port.parse::<u16>().ok()?, handle.parse::<u32>().ok()?))
        };
        listing
            .lines()
            .filter_map(handle)
            .collect::<BTreeMap<_, _>>()
    };
    let mut nft = open();
    assert_eq!(
        sync(&mut nft, &[1, 2, 3], Look::Again).await,
        Applied::Replaced
    );
    let first = handles();
    assert_eq!(first.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(
        sync(&mut nft, &[1, 2, 3], Look::Again).await,
        Applied::Unchanged
    );
    // One comes, and one goes at the next look, which is after a restart.
    assert_eq!(
        sync(&mut nft, &[2, 3, 4], Look::Remember).await,
        Applied::Replaced
    );
    assert_eq!(handles().keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(
        sync(&mut nft, &[2, 3, 4], Look::Remember).await,
        Applied::Unchanged
    );
    let mut nft = open();
    for applied in [Applied::Replaced, Applied::Unchanged] {
        assert_eq!(sync(&mut nft, &[2, 3, 4], Look::Again).await, applied);
    }
    let second = handles();
    assert_eq!(second.keys().copied().collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!((second[&2], second[&3]), (first[&2], first[&3]));
    // Somebody's hand is seen at the next look, and only that chain is made anew.
    a.exec("nft", &["flush", "chain", "inet", "carrick", "c2"]);
    a.exec("nft", &["add", "chain", "inet", "carrick", "theirs"]);
    a.exec("nft", &["delete", "chain", "inet", "carrick", "c4"]);
    assert_eq!(
        sync(&mut nft, &[2, 3, 4], Look::Again).await,
        Applied::Replaced
    );
    let third = handles();
    assert_eq!(third.keys().copied().collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(third[&3], first[&3]);
    assert!(!a.exec("nft", &["list", "chains"]).contains("theirs"));
    // A chain that is gone already is no obstacle to its removal.
    a.exec("nft", &["delete", "chain", "inet", "carrick", "c2"]);
    assert_eq!(
        sync(&mut nft, &[3, 4], Look::Again).await,
        Applied::Unchanged
    );
    assert_eq!(handles().keys().copied().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(
        nft.sync("inet", "carrick", None).await.unwrap(),
        Applied::Removed
    );
    assert_eq!(
        sync(&mut nft, &[3], Look::Remember).await,
        Applied::Replaced
    );
    assert_eq!(handles().keys().copied().collect::<Vec<_>>(), [3]);
    let name = BTreeMap::from([("x; flush ruleset".to_owned(), String::new())]);
    let refused = nft.sync_chains("inet", "carrick", &name, Look::Again);
    assert!(matches!(refused.await, Err(NftError::Name { .. })));
}

#[tokio::test]
async fn a_table_is_replaced_only_when_it_differs() {
    let a = Scratch::new();
    let dir = tempfile::tempdir().unwrap();
    let memory = dir.path().join("nft.json");
    let open = || Nft::new(Some(memory.clone())).in_namespace(open(&a));
    let table = |port: u16| {
        format!(
            "table inet carrick {{\n set s {{ type ipv4_addr; flags interval; elements = {{ 10.0.0.0/24 }}; }}\n \
             chain c {{ type filter hook input priority filter; policy accept;\n tcp dport {port} counter accept;\n }}\n}}"
        )
    };
    let mut nft = open();
    let sync = async |nft: &mut Nft, text: Option<String>| {
        nft.sync("inet", "carrick", text.as_deref()).await.unwrap()
    };
    assert_eq!(sync(&mut nft, None).await, Applied::Unchanged);
    assert_eq!(sync(&mut nft, Some(table(80))).await, Applied::Replaced);
    assert_eq!(sync(&mut nft, Some(table(80))).await, Applied::Unchanged);
    assert_eq!(sync(&mut nft, Some(table(81))).await, Applied::Replaced);
    // After a restart, too; not when somebody changed it meanwhile.
    let mut nft = open();
    assert_eq!(sync(&mut nft, Some(table(81))).await, Applied::Unchanged);
    a.exec(
        "nft",
        &["add", "element", "inet", "carrick", "s", "{ 10.1.0.0/24 }"],
    );
    assert_eq!(sync(&mut nft, Some(table(81))).await, Applied::Replaced);
    a.exec("nft", &["flush", "ruleset"]);
    assert_eq!(sync(&mut nft, Some(table(81))).await, Applied::Replaced);
    // What is refused leaves the old one.
    let bad = nft
        .sync("inet", "carrick", Some("table inet carrick { nonsense }"))
        .await;
    assert!(matches!(bad, Err(NftError::Refused { .. })), "{bad:?}");
    assert!(
        nft.list("inet", "carrick")
            .await
            .unwrap()
            .unwrap()
            .contains("tcp dport 81")
    );
    assert_eq!(sync(&mut nft, None).await, Applied::Removed);
    assert_eq!(nft.list("inet", "carrick").await.unwrap(), None);
    assert!(matches!(
        nft.sync("inet", "x; flush ruleset", None).await,
        Err(NftError::Name { .. })
    ));
}

#[tokio::test]
async fn connections_of_an_address_are_removed_and_others_stay() {
    let a = Scratch::new();
    for (family, address) in [
        ("-4", "10.5.5.5/32"),
        ("-4", "10.5.5.6/32"),
        ("-6", "fd05::5/128"),
    ] {
        a.exec("ip", &[family, "addr", "add", address, "dev", "lo"]);
    }
    a.exec("ip", &["link", "set", "lo", "up"]);
    // Tracking begins with the first rule that asks for it.
    let rules = "table inet t {\n chain c { type filter hook output priority 0; ct state new accept;\n }\n}";
    let mut nft = Nft::new(None).in_namespace(open(&a));
    nft.sync("inet", "t", Some(rules)).await.unwrap();
    let send = || {
        for address in ["10.5.5.5:0", "10.5.5.6:0", "[fd05::5]:0"] {
            let socket = std::net::UdpSocket::bind(address).unwrap();
            let to = socket.local_addr().unwrap();
            socket.send_to(b"x", to).unwrap();
        }
    };
    let namespace = open(&a);
    namespace.run(send).await.unwrap();
    let flush = async |address: &str| {
        flush_connections(Some(&namespace), vec![ip(address)])
            .await
            .unwrap()
    };
    assert_eq!((flush("10.5.5.5").await, flush("10.5.5.5").await), (1, 0));
    assert_eq!((flush("fd05::5").await, flush("fd05::5").await), (1, 0));
    assert_eq!(flush("10.9.9.9").await, 0);
    assert_eq!(flush("10.5.5.6").await, 1);
}

#[tokio::test]
async fn pings_are_answered_by_those_who_are_there() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let (host, host_link, peer, peer_link) = pair(&a, &b).await;
    for address in ["10.7.0.1/24", "fd07::1/64"] {
        host.add_address(host_link, net(address)).await.unwrap();
    }
    for address in ["10.7.0.2/24", "fd07::2/64"] {
        peer.add_address(peer_link, net(address)).await.unwrap();
    }
    let here: BTreeSet<IpAddr> = ["10.7.0.2", "fd07::2"].map(ip).into();
    let mut targets = here.clone();
    // On the link and not there; without a route.
    targets.extend(["10.7.0.3", "192.0.2.1", "fd07::3", "2001:db8::1"].map(ip));
    let namespace = open(&a);
    let ask = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // Duplicate address detection may still hold an IPv6 address back.
        let end = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let answered = carrick_node::ping(&targets, 7, Duration::from_millis(500));
            let answered = runtime.block_on(answered).unwrap();
            if answered.len() >= 2 || std::time::Instant::now() > end {
                return answered;
            }
        }
    };
    assert_eq!(namespace.run(ask).await.unwrap(), here);
}

#[tokio::test]
async fn a_namespace_that_is_gone_is_told_apart() {
    let scratch = Scratch::new();
    let path = scratch.path();
    assert!(Namespace::exists(path.as_ref()).unwrap());
    drop(scratch);
    assert!(!Namespace::exists(path.as_ref()).unwrap());
    assert!(Namespace::open(&path).unwrap_err().is_gone());
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(!Namespace::exists(file.path()).unwrap());
    assert!(Namespace::open(file.path()).unwrap_err().is_gone());
}

/// A node's commands meet on one socket: everybody gets an answer.
#[tokio::test]
async fn requests_that_come_together_are_all_answered() {
    let scratch = Scratch::new();
    let netlink = Netlink::open_in(&open(&scratch)).await.unwrap();
    let asked = futures::future::join_all((0..4000).map(|index| {
        let netlink = netlink.clone();
        async move {
            if index % 10 == 0 {
                netlink.links().await.map(|links| links.len())
            } else {
                netlink
                    .link("lo")
                    .await
                    .map(|link| usize::from(link.is_some()))
            }
        }
    }));
    let answers = tokio::time::timeout(Duration::from_mins(1), asked)
        .await
        .expect("an answer got lost");
    for answer in answers {
        assert!(answer.unwrap() >= 1);
    }
}

#[tokio::test]
async fn a_packet_too_large_for_the_way_is_not_answered_and_smaller_ones_are() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let (host, host_link, pod, pod_link) = pair(&a, &b).await;
    for (netlink, link, n) in [(&host, host_link, 1), (&pod, pod_link, 2)] {
        for text in [format!("10.9.0.{n}/24"), format!("fd09::{n}/64")] {
            netlink.add_address(link, net(&text)).await.unwrap();
        }
    }
    // Only the other end is narrow: nobody says so, and nobody here can know. It takes a VLAN tag more.
    pod.set_mtu(pod_link, 1400).await.unwrap();
    let [v4, v6] = [ip("10.9.0.2"), ip("fd09::2")];
    let echo = Echo::new;
    let sizes = [28, 1300, 1400, 1405, 1450, 1451];
    let all: BTreeSet<Echo> = sizes
        .into_iter()
        .flat_map(|size| [echo(v4, size), echo(v6, size)])
        .collect();
    let (asked, runtime) = (all.clone(), tokio::runtime::Handle::current());
    let here = open(&a);
    let asking =
        here.run(move || runtime.block_on(ping_sizes(&asked, 7, Duration::from_millis(500))));
    let answered = asking.await.unwrap().unwrap();
    let expected = all.into_iter().filter(|echo| echo.bytes <= 1400).collect();
    assert_eq!(answered, expected);
}

#[tokio::test]
async fn changes_of_links_and_addresses_are_told_at_once() {
    let (a, b) = (Scratch::new(), Scratch::new());
    let (host, link, ..) = pair(&a, &b).await;
    let runtime = tokio::runtime::Handle::current();
    let mut monitor = open(&a)
        .run(move || {
            let _entered = runtime.enter();
            Monitor::open().unwrap()
        })
        .await
        .unwrap();
    let mut told = async |wanted: Change| {
        let seen = async { while !monitor.next().await.unwrap().contains(&wanted) {} };
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, seen).await.unwrap();
    };
    let named = |name: &str| Change::Link { name: name.into() };
    host.set_mtu(link, 1400).await.unwrap();
    told(named("host")).await;
    host.add_address(link, net("10.9.0.1/24")).await.unwrap();
    told(Change::Address { link }).await;
    host.delete_address(link, net("10.9.0.1/24")).await.unwrap();
    told(Change::Address { link }).await;
    host.add_address(link, net("fd09::1/64")).await.unwrap();
    told(Change::Address { link }).await;
    host.set_state(link, AdminState::Down).await.unwrap();
    host.rename_link(link, "other").await.unwrap();
    told(named("other")).await;
    host.delete_link("other").await.unwrap();
    told(named("other")).await;
}
