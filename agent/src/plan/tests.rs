use super::*;
use carrick_api::effective::{Cni, Endpoint, Traffic};

pub(crate) fn config(datapath: DatapathType, transport: &str) -> EffectiveConfig {
    EffectiveConfig {
        api_server: Endpoint {
            host: "10.0.0.1".into(),
            port: 6443,
        },
        traffic: Traffic {
            mode: TrafficMode::Encap,
            tunnel_protocol: effective::TunnelProtocol::Geneve,
            tunnel_port: 0,
            tunnel_checksum: false,
            mtu: 0,
            transport_interface: transport.into(),
            transport_cidrs: Vec::new(),
            snat: SnatMode::Auto,
            snat_randomly: false,
        },
        datapath,
        host_firewall: effective::HostFirewall::Report,
        service_proxy: carrick_api::effective::ServiceProxy::default(),
        cni: Cni {
            bin_dir: "/opt/cni/bin".into(),
            conf_dir: "/etc/cni/net.d".into(),
            conf_file: "10-carrick.conflist".into(),
            exclusive: true,
        },
        startup_taint: None,
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        node_ipam: None,
        node_configs: Vec::new(),
        log_level: "info".into(),
    }
}

fn link(name: &str, addresses: &[&str]) -> (String, HostLink) {
    let link = HostLink {
        name: name.into(),
        index: 1,
        mtu: 1500,
        up: true,
        mac: None,
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
    };
    (name.into(), link)
}

fn links() -> HostLinks {
    BTreeMap::from([
        link("eth0", &["172.30.0.11/24", "fe80::1/64"]),
        link("eth1", &["172.31.0.11/24", "fd00:31::11/64"]),
        link("lo", &["127.0.0.1/8"]),
    ])
}

fn committed(problem: Option<&str>, cidrs: &[&str], routes: &[(&str, &str, &str)]) -> Committed {
    labelled(problem, cidrs, routes, &[("pool", "gpu")])
}

fn labelled(
    problem: Option<&str>,
    cidrs: &[&str],
    routes: &[(&str, &str, &str)],
    labels: &[(&str, &str)],
) -> Committed {
    use carrick_proto::{Body, Delta, Entry, NodeFacts, NodeName, Number, RouteFacts};
    let node = Entry::new(Body::Node(NodeFacts {
        name: NodeName::new("a").unwrap(),
        uid: "u".into(),
        pod_cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
        addresses: vec!["172.30.0.11".parse().unwrap()],
        problem: problem.map(str::to_owned),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    }));
    let routes = routes.iter().map(|(name, cidr, endpoint)| {
        Entry::new(Body::Route(RouteFacts {
            node: NodeName::new(name).unwrap(),
            pod_cidrs: vec![cidr.parse().unwrap()],
            tunnel_endpoints: vec![endpoint.parse().unwrap()],
        }))
    });
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = crate::records::RecordStore::open(directory.path().join("r")).unwrap();
    let changed = std::iter::once(node).chain(routes).collect();
    let delta = Delta {
        number: Number::new(1, 1),
        changed,
        ..Delta::default()
    };
    Committed::clone(&store.commit(&delta).unwrap())
}

#[test]
fn the_transport_is_the_link_of_the_internal_ip() {
    let committed = committed(None, &["10.1.0.0/24", "fd00:1::/64"], &[]);
    let plan = plan(&config(DatapathType::Auto, ""), "a", &committed, &links()).unwrap();
    assert_eq!(plan.transport.link, "eth0");
    assert_eq!(
        plan.transport.endpoints.v4,
        Some("172.30.0.11".parse().unwrap())
    );
    assert_eq!(plan.transport.endpoints.v6, None);
    assert_eq!(plan.mtu, 1450);
    assert_eq!(
        plan.gateway.addresses.v6,
        Some("fd00:1::1".parse().unwrap())
    );
}

#[test]
fn userspace_takes_the_interface_it_was_given_and_no_other() {
    let committed = committed(None, &["10.1.0.0/24"], &[]);
    let run = |transport: &str, links: &HostLinks| {
        plan(
            &config(DatapathType::Userspace, transport),
            "a",
            &committed,
            links,
        )
    };
    assert_eq!(run("eth1", &links()).unwrap().transport.link, "eth1");
    assert!(matches!(
        run("", &links()),
        Err(PlanError::NoTransport { .. })
    ));
    assert!(matches!(
        run("eth0", &links()),
        Err(PlanError::TransportInUse { .. })
    ));
    let moved = BTreeMap::from([
        link("eth0", &["172.30.0.11/24"]),
        link("eth1", &[]),
        link("br-phy", &["172.31.0.11/24"]),
    ]);
    let plan = run("eth1", &moved).unwrap();
    assert_eq!(plan.transport.link, "eth1");
    assert_eq!(
        plan.transport.endpoints.v4,
        Some("172.31.0.11".parse().unwrap())
    );
}

#[test]
fn without_a_tunnel_userspace_leaves_the_interface_to_the_host() {
    let committed = committed(None, &["10.1.0.0/24"], &[]);
    let run = |transport: &str, links: &HostLinks| {
        let mut config = config(DatapathType::Userspace, transport);
        config.traffic.mode = TrafficMode::NoEncap;
        plan(&config, "a", &committed, links).unwrap().transport
    };
    for (asked, link) in [("", "eth0"), ("eth0", "eth0"), ("eth1", "eth1")] {
        let transport = run(asked, &links());
        assert_eq!(transport.link, link);
        assert_eq!(transport.holder, link);
        assert!(!transport.bridged);
    }
    // An earlier release has it in a bridge.
    let moved = BTreeMap::from([link("eth1", &[]), link("br-phy", &["172.31.0.11/24"])]);
    let transport = run("eth1", &moved);
    assert_eq!(transport.holder, "eth1");
    assert_eq!(transport.endpoints.v4, Some("172.31.0.11".parse().unwrap()));
}

#[test]
fn a_nodes_labels_choose_its_interface_and_datapath() {
    let committed = committed(None, &["10.1.0.0/24"], &[]);
    let run = |pool: &str, own: &str| {
        let mut config = config(DatapathType::Auto, "");
        let json = format!(
            r#"[{{"name": "{pool}", "nodeSelector": {{"matchLabels": {{"pool": "{pool}"}}}}, {own}}},
                {{"name": "rest", "nodeSelector": {{}}}}]"#
        );
        config.node_configs = serde_json::from_str(&json).unwrap();
        plan(&config, "a", &committed, &links()).unwrap()
    };
    let eth1 = r#""traffic": {"transport": {"interface": "eth1"}}"#;
    let userspace = format!(r#""datapath": {{"type": "Userspace"}}, {eth1}"#);
    let plain = run("cpu", eth1);
    assert_eq!(
        (plain.transport.link.as_str(), plain.node_config.as_str()),
        ("eth0", "rest")
    );
    let own = run("gpu", eth1);
    assert_eq!(
        (own.transport.link.as_str(), own.node_config.as_str()),
        ("eth1", "gpu")
    );
    assert_eq!(own.datapath, DatapathKind::System);
    assert_eq!(run("gpu", &userspace).datapath, DatapathKind::Netdev);
    // From a controller that does not send them yet.
    let mut config = config(DatapathType::Auto, "");
    config.node_configs = vec![carrick_api::nodeconfig::NodeConfig::default()];
    let untold = labelled(None, &["10.1.0.0/24"], &[], &[]);
    assert!(matches!(
        plan(&config, "a", &untold, &links()),
        Err(PlanError::NoLabels { .. })
    ));
}

#[test]
fn ranges_choose_the_link_and_among_its_addresses() {
    let committed = committed(None, &["10.1.0.0/24"], &[]);
    let run = |interface: &str, cidrs: &[&str]| {
        let mut config = config(DatapathType::Auto, interface);
        config.traffic.transport_cidrs = cidrs.iter().map(|text| text.parse().unwrap()).collect();
        plan(&config, "a", &committed, &links())
    };
    let both = run("", &["172.31.0.0/16"]).unwrap().transport;
    assert_eq!(both.link, "eth1");
    assert_eq!(both.endpoints.v4, Some("172.31.0.11".parse().unwrap()));
    assert_eq!(both.endpoints.v6, None, "outside of the ranges");
    let v6 = run("eth1", &["fd00:31::/64"]).unwrap().transport;
    assert_eq!((v6.endpoints.v4, v6.endpoints.v6.is_some()), (None, true));
    for (interface, cidrs) in [("", ["192.0.2.0/24"]), ("eth0", ["172.31.0.0/16"])] {
        let error = run(interface, &cidrs).unwrap_err().to_string();
        assert!(error.contains("traffic.transport.cidrs"), "{error}");
    }
}

#[test]
fn the_mtu_is_what_the_mode_leaves() {
    let committed = committed(None, &["10.1.0.0/24"], &[]);
    let run = |change: fn(&mut Traffic)| {
        let mut config = config(DatapathType::Auto, "eth1");
        change(&mut config.traffic);
        plan(&config, "a", &committed, &links()).unwrap()
    };
    let bare = run(|traffic| traffic.mode = TrafficMode::NoEncap);
    assert_eq!((bare.mtu, bare.tunnel), (1500, None));
    let hybrid = run(|traffic| traffic.mode = TrafficMode::Hybrid);
    assert_eq!((hybrid.mtu, hybrid.mode), (1450, Mode::Hybrid));
    let gre = run(|traffic| traffic.tunnel_protocol = effective::TunnelProtocol::GRE);
    assert_eq!(gre.mtu, 1462);
    let other = run(|traffic| traffic.tunnel_port = 7000);
    assert_eq!(other.tunnel.unwrap().port, Some(7000));
}

#[test]
fn gre_between_ipv6_addresses_is_refused_on_the_kernel_datapath() {
    let committed = committed(None, &["10.1.0.0/24"], &[]);
    let run = |datapath: DatapathType| {
        let mut config = config(datapath, "eth1");
        config.traffic.tunnel_protocol = effective::TunnelProtocol::GRE;
        config.traffic.transport_cidrs = vec!["fd00:31::/64".parse().unwrap()];
        plan(&config, "a", &committed, &links())
    };
    assert!(matches!(
        run(DatapathType::Kernel),
        Err(PlanError::GreOverIpv6 { .. })
    ));
    assert_eq!(run(DatapathType::Userspace).unwrap().mtu, 1442);
}

#[test]
fn what_is_missing_is_said() {
    let config = config(DatapathType::Auto, "");
    let empty = Committed::default();
    assert!(matches!(
        plan(&config, "a", &empty, &links()),
        Err(PlanError::NoNode { .. })
    ));
    let problem = committed(Some("overlap"), &["10.1.0.0/24"], &[]);
    assert!(matches!(
        plan(&config, "a", &problem, &links()),
        Err(PlanError::Problem { .. })
    ));
    let none = committed(None, &[], &[]);
    assert!(matches!(
        plan(&config, "a", &none, &links()),
        Err(PlanError::NoPodCidr { .. })
    ));
    let services = committed(None, &["10.96.1.0/24"], &[]);
    let error = plan(&config, "a", &services, &links()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("overlaps the Service range 10.96.0.0/16"),
        "{error}"
    );
}

#[test]
fn an_overlapping_peer_is_not_routed_and_named() {
    let committed = committed(
        None,
        &["10.1.0.0/24"],
        &[
            ("b", "10.1.0.128/25", "172.30.0.12"),
            ("c", "10.1.2.0/24", "172.30.0.13"),
        ],
    );
    let plan = plan(&config(DatapathType::Auto, ""), "a", &committed, &links()).unwrap();
    assert_eq!(plan.refused.len(), 1);
    assert!(plan.peers["b"].pod_cidrs.is_empty());
    assert_eq!(plan.peers["c"].pod_cidrs.len(), 1);
}
