//! Desired state against a real Open vSwitch (on the datapath under test).

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

use std::collections::BTreeSet;
use std::time::Duration;

use carrick_ovsdb::client::Client;
use carrick_ovsdb::desired::{
    BridgeConfig, DatapathType, InterfaceType, OfPort, PortConfig, PortError, SwitchConfig,
};
use carrick_ovsdb::operation::{Columns, Mutation, Mutator, Operation};
use carrick_ovsdb::rows::{Bridge, Interface, OpenVSwitch, TableRow as _, table};
use carrick_ovsdb::switch::{SwitchDb, SwitchError};
use carrick_ovsdb::value::{Datum, NamedUuid};
use carrick_testkit::ovs::{Datapath, Ovs};
use nix::sys::signal::Signal;

/// The datapath under test.
fn datapath() -> DatapathType {
    match Datapath::under_test() {
        Datapath::Userspace => DatapathType::Netdev,
        Datapath::Kernel => DatapathType::System,
    }
}

fn number(number: u16) -> OfPort {
    OfPort::new(number).unwrap()
}

fn veth(ovs: &Ovs, name: &str) {
    let peer = format!("{name}p");
    ovs.exec(&[
        "ip", "link", "add", name, "type", "veth", "peer", "name", &peer,
    ])
    .unwrap();
    ovs.exec(&["ip", "link", "set", name, "up"]).unwrap();
    ovs.exec(&["ip", "link", "set", &peer, "up"]).unwrap();
}

fn config() -> SwitchConfig {
    let mut bridge = BridgeConfig::new("br-int", datapath());
    bridge
        .external_ids
        .insert("owner".to_owned(), "carrick".to_owned());
    bridge.ports = vec![
        PortConfig::new("tun0", InterfaceType::Geneve)
            .ofport(number(1))
            .option("remote_ip", "flow")
            .option("key", "0"),
        PortConfig {
            mtu_request: Some(1450),
            ..PortConfig::new("gw0", InterfaceType::Internal)
        }
        .ofport(number(2)),
    ];
    let mut config = SwitchConfig {
        bridges: vec![bridge],
        ..SwitchConfig::default()
    };
    config
        .external_ids
        .insert("carrick".to_owned(), "1".to_owned());
    config
        .other_config
        .insert("max-idle".to_owned(), "20000".to_owned());
    config
}

#[tokio::test]
async fn the_switch_becomes_what_it_shall_be_and_stays() {
    let ovs = Ovs::start().unwrap();
    ovs.add_bridge("br-other", Datapath::under_test()).unwrap();
    ovs.vsctl(&["set", "open", ".", "external_ids:foreign=kept"])
        .unwrap();
    let switch = SwitchDb::connect(ovs.db_socket()).await.unwrap();

    let applied = switch.apply(config()).await.unwrap();
    assert!(applied.changed && applied.failed.is_empty(), "{applied:?}");
    assert_eq!(applied.ports["tun0"].ofport, number(1));
    assert_eq!(applied.ports["gw0"].ofport, number(2));
    assert_eq!(
        ovs.exec(&["cat", "/sys/class/net/gw0/mtu"]).unwrap().trim(),
        "1450"
    );
    assert_eq!(
        ovs.vsctl(&["get", "bridge", "br-int", "fail_mode"])
            .unwrap()
            .trim(),
        "secure"
    );
    assert!(
        ovs.ofctl(&["dump-flows", &ovs.target("br-int")])
            .unwrap()
            .trim()
            .lines()
            .count()
            <= 1
    );

    // A second time there is nothing to do: no transaction at all.
    let before = OpenVSwitch::one(&switch.monitor().cache())
        .unwrap()
        .next_cfg;
    assert!(!switch.apply(config()).await.unwrap().changed);
    assert_eq!(
        OpenVSwitch::one(&switch.monitor().cache())
            .unwrap()
            .next_cfg,
        before
    );

    // Drift is undone: a foreign port goes, changed options and keys come back.
    ovs.vsctl(&[
        "add-port",
        "br-int",
        "drift",
        "--",
        "set",
        "int",
        "drift",
        "type=internal",
    ])
    .unwrap();
    ovs.vsctl(&["set", "int", "tun0", "options:key=7", "options:csum=true"])
        .unwrap();
    ovs.vsctl(&["set", "int", "gw0", "mtu_request=1400"])
        .unwrap();
    ovs.vsctl(&["set", "bridge", "br-int", "external_ids:owner=nobody"])
        .unwrap();
    let applied = switch.apply(config()).await.unwrap();
    assert!(applied.changed && applied.failed.is_empty());
    assert_eq!(ovs.vsctl(&["list-ports", "br-int"]).unwrap(), "gw0\ntun0\n");
    {
        let cache = switch.monitor().cache();
        let tunnel = Interface::by_name(&cache, "tun0").unwrap();
        assert_eq!(tunnel.options["key"], "0");
        assert!(!tunnel.options.contains_key("csum"));
        assert_eq!(
            Bridge::by_name(&cache, "br-int").unwrap().external_ids["owner"],
            "carrick"
        );
        assert_eq!(
            OpenVSwitch::one(&cache).unwrap().external_ids["foreign"],
            "kept"
        );
    }
    // The device itself: the column `mtu` is a status that follows later.
    assert_eq!(
        ovs.exec(&["cat", "/sys/class/net/gw0/mtu"]).unwrap().trim(),
        "1450"
    );
    assert!(ovs.vsctl(&["br-exists", "br-other"]).is_ok());

    // A port that changes its type, and one that moves to another of our bridges, are made anew.
    let mut moved = config();
    moved.bridges[0].ports[0] = PortConfig::new("tun0", InterfaceType::Internal).ofport(number(1));
    let gateway = moved.bridges[0].ports.remove(1);
    let mut second = BridgeConfig::new("br-two", datapath());
    second.ports.push(gateway);
    moved.bridges.push(second);
    let applied = switch.apply(moved).await.unwrap();
    assert!(applied.failed.is_empty(), "{applied:?}");
    assert_eq!(ovs.vsctl(&["port-to-br", "gw0"]).unwrap().trim(), "br-two");
    assert_eq!(
        ovs.vsctl(&["get", "int", "tun0", "type"]).unwrap().trim(),
        "internal"
    );

    // Bridges go when said so, and only then.
    let absent = BTreeSet::from(["br-int".to_owned(), "br-two".to_owned(), "never".to_owned()]);
    let applied = switch
        .apply(SwitchConfig {
            absent_bridges: absent,
            ..SwitchConfig::default()
        })
        .await
        .unwrap();
    assert!(applied.changed);
    assert_eq!(ovs.vsctl(&["list-br"]).unwrap(), "br-other\n");
}

#[tokio::test]
async fn a_port_that_fails_is_named_and_the_others_are_there() {
    let ovs = Ovs::start().unwrap();
    ovs.add_bridge("br-other", Datapath::under_test()).unwrap();
    ovs.vsctl(&[
        "add-port",
        "br-other",
        "theirs",
        "--",
        "set",
        "int",
        "theirs",
        "type=internal",
    ])
    .unwrap();
    let switch = SwitchDb::connect(ovs.db_socket()).await.unwrap();
    let mut config = config();
    config.bridges[0]
        .ports
        .push(PortConfig::new("nodev", InterfaceType::System));
    config.bridges[0]
        .ports
        .push(PortConfig::new("theirs", InterfaceType::Internal));
    let applied = switch.apply(config.clone()).await.unwrap();
    assert_eq!(applied.ports.len(), 2);
    let text = |port: &str| applied.failed[port].to_string();
    assert!(text("nodev").contains("cannot add port nodev: could not open network device nodev"));
    assert_eq!(text("theirs"), "port theirs is on bridge br-other");

    // The device comes: the next time the port is made anew and is there.
    veth(&ovs, "nodev");
    config.bridges[0].ports.pop();
    let applied = switch.apply(config).await.unwrap();
    assert!(applied.failed.is_empty(), "{applied:?}");

    let error = switch
        .add_port("br-int", PortConfig::new("no2", InterfaceType::System))
        .await;
    let Err(SwitchError::Port(PortError::Failed { port, .. })) = error else {
        panic!("{error:?}")
    };
    assert_eq!(port, "no2");
    let error = switch
        .add_port("br-no", PortConfig::new("x", InterfaceType::Internal))
        .await;
    assert!(
        matches!(error, Err(SwitchError::Port(PortError::NoBridge { .. }))),
        "{error:?}"
    );
    let taken = PortConfig::new("taken", InterfaceType::Internal).ofport(number(1));
    let error = switch.add_port("br-int", taken).await;
    assert!(
        matches!(error, Err(SwitchError::Port(PortError::Number { .. }))),
        "{error:?}"
    );
}

#[tokio::test]
async fn ports_that_arrive_together_share_transactions() {
    let ovs = Ovs::start().unwrap();
    let switch = SwitchDb::connect(ovs.db_socket()).await.unwrap();
    switch.apply(config()).await.unwrap();
    let before = OpenVSwitch::one(&switch.monitor().cache())
        .unwrap()
        .next_cfg;
    let add = |index: u16| {
        let switch = switch.clone();
        async move {
            let name = format!("p{index}");
            let port = PortConfig::new(name, InterfaceType::Internal).ofport(number(100 + index));
            switch.add_port("br-int", port).await
        }
    };
    let states = futures::future::join_all((0..50).map(add)).await;
    for (index, state) in (100..).zip(states) {
        assert_eq!(state.unwrap().ofport.get(), index);
    }
    let after = OpenVSwitch::one(&switch.monitor().cache())
        .unwrap()
        .next_cfg;
    assert!(after - before <= 3, "{} transactions", after - before);

    // One that fails does not take the others with it, and removals join in.
    let (good, bad, gone) = tokio::join!(
        switch.add_port("br-int", PortConfig::new("good", InterfaceType::Internal)),
        switch.add_port("br-int", PortConfig::new("bad", InterfaceType::System)),
        switch.del_port("br-int", "p7"),
    );
    assert!(good.is_ok() && bad.is_err() && gone.is_ok());
    let ports = ovs.vsctl(&["list-ports", "br-int"]).unwrap();
    assert!(!ports.lines().any(|port| port == "p7"));
    switch.del_port("br-int", "p7").await.unwrap();
    // The same name twice: in order, never in one transaction.
    let (gone, back) = tokio::join!(
        switch.del_port("br-int", "p8"),
        switch.add_port(
            "br-int",
            PortConfig::new("p8", InterfaceType::Internal).ofport(number(108))
        ),
    );
    gone.unwrap();
    assert_eq!(back.unwrap().ofport, number(108));
}

#[tokio::test]
async fn a_batch_that_the_server_refuses_is_done_one_by_one() {
    let ovs = Ovs::start().unwrap();
    let switch = SwitchDb::connect(ovs.db_socket()).await.unwrap();
    switch.apply(config()).await.unwrap();
    // An MTU of zero breaks the schema's limits: the server refuses the whole transaction.
    let bad = PortConfig {
        mtu_request: Some(0),
        ..PortConfig::new("bad", InterfaceType::Internal)
    };
    let (good, bad) = tokio::join!(
        switch.add_port("br-int", PortConfig::new("good", InterfaceType::Internal)),
        switch.add_port("br-int", bad),
    );
    assert_eq!(good.unwrap().name, "good");
    let error = bad.unwrap_err();
    let SwitchError::Transact { source } = &error else {
        panic!("{error}")
    };
    assert!(source.refused().is_some(), "{source}");
}

#[tokio::test]
async fn a_device_made_anew_is_opened_anew() {
    let ovs = Ovs::start().unwrap();
    let switch = SwitchDb::connect(ovs.db_socket()).await.unwrap();
    switch.apply(config()).await.unwrap();
    veth(&ovs, "pod0");
    let port = || PortConfig::new("pod0", InterfaceType::System).ofport(number(101));
    let first = switch.replace_port("br-int", port()).await.unwrap();
    // The pod goes and comes back: another device of the same name.
    ovs.exec(&["ip", "link", "del", "pod0"]).unwrap();
    veth(&ovs, "pod0");
    let second = switch.replace_port("br-int", port()).await.unwrap();
    assert_eq!(second.ofport, number(101));
    assert_ne!((first.ifindex, &first.mac), (second.ifindex, &second.mac));
    // Frames from the new device arrive.
    let flow = "table=0,priority=1,in_port=101,actions=drop";
    ovs.ofctl(&["add-flow", &ovs.target("br-int"), flow])
        .unwrap();
    ovs.exec(&["ip", "address", "add", "192.0.2.1/24", "dev", "pod0p"])
        .unwrap();
    ovs.exec(&["sh", "-c", "ping -c 1 -W 1 192.0.2.2 || true"])
        .unwrap();
    carrick_testkit::ovs::wait("frames of the new device", || {
        let flows = ovs
            .ofctl(&["dump-flows", &ovs.target("br-int"), "in_port=101"])
            .unwrap();
        !flows.contains("n_packets=0,")
    })
    .unwrap();
}

#[tokio::test]
async fn a_switch_that_does_not_run_is_said_so_and_acts_when_it_runs() {
    let mut ovs = Ovs::start().unwrap();
    let client = Client::connect(ovs.db_socket()).await.unwrap();
    let switch = SwitchDb::start(client.clone(), Duration::from_millis(300))
        .await
        .unwrap();
    ovs.stop_vswitchd(Signal::SIGKILL).unwrap();
    let error = switch.apply(config()).await.unwrap_err();
    assert!(matches!(error, SwitchError::NotActed { .. }), "{error}");
    ovs.start_vswitchd().unwrap();
    let switch = SwitchDb::start(client, Duration::from_secs(20))
        .await
        .unwrap();
    // The database holds it already; the switch has acted by the time this returns.
    let applied = switch.apply(config()).await.unwrap();
    assert_eq!((applied.changed, applied.ports.len()), (false, 2));
}

#[tokio::test]
async fn two_that_write_at_once_do_not_undo_each_other() {
    let ovs = Ovs::start().unwrap();
    let switch = SwitchDb::connect(ovs.db_socket()).await.unwrap();
    switch.apply(config()).await.unwrap();
    let other = Client::connect(ovs.db_socket()).await.unwrap();
    let bridge = Bridge::by_name(&switch.monitor().cache(), "br-int")
        .unwrap()
        .uuid;
    let theirs = async {
        for index in 0..40 {
            let name = format!("t{index}");
            let row = |columns: [(&str, Datum); 2]| -> Columns {
                columns
                    .into_iter()
                    .map(|(name, datum)| (name.to_owned(), datum))
                    .collect()
            };
            let named = |name: &str| NamedUuid::new(name).unwrap();
            let operations = vec![
                Operation::Insert {
                    table: table::INTERFACE.to_owned(),
                    row: row([("name", name.as_str().into()), ("type", "internal".into())]),
                    uuid_name: Some(named("i")),
                },
                Operation::Insert {
                    table: table::PORT.to_owned(),
                    row: row([
                        ("name", name.as_str().into()),
                        ("interfaces", named("i").into()),
                    ]),
                    uuid_name: Some(named("p")),
                },
                Operation::Mutate {
                    table: table::BRIDGE.to_owned(),
                    conditions: vec![carrick_ovsdb::operation::Condition::uuid(bridge)],
                    mutations: vec![Mutation::new("ports", Mutator::Insert, named("p"))],
                },
            ];
            other.transact(operations).await.unwrap();
        }
    };
    let ours = async {
        for index in 0..40 {
            let port = PortConfig::new(format!("o{index}"), InterfaceType::Internal);
            switch.add_port("br-int", port).await.unwrap();
        }
    };
    tokio::join!(theirs, ours);
    let ports = ovs.vsctl(&["list-ports", "br-int"]).unwrap();
    assert_eq!(ports.lines().count(), 82, "{ports}");
}

#[tokio::test]
async fn requests_survive_a_restart_of_the_database_server() {
    let mut ovs = Ovs::start().unwrap();
    let switch = SwitchDb::connect(ovs.db_socket()).await.unwrap();
    switch.apply(config()).await.unwrap();
    let adding = {
        let switch = switch.clone();
        tokio::spawn(async move {
            for index in 0..60 {
                let port = PortConfig::new(format!("p{index}"), InterfaceType::Internal);
                switch.add_port("br-int", port).await.unwrap();
            }
        })
    };
    let ovs = tokio::task::spawn_blocking(move || {
        for _ in 0..3 {
            ovs.stop_ovsdb(Signal::SIGKILL).unwrap();
            ovs.start_ovsdb().unwrap();
            ovs.vsctl(&["--no-wait", "list-br"]).unwrap();
        }
        ovs
    })
    .await
    .unwrap();
    adding.await.unwrap();
    assert_eq!(
        ovs.vsctl(&["list-ports", "br-int"])
            .unwrap()
            .lines()
            .count(),
        62
    );
}
