//! The connection against a real switch.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use carrick_openflow::connection::{BundleError, Config, Connection, Driver, PacketIns};
use carrick_openflow::field::Field;
use carrick_openflow::message::{
    CtFlush, CtTuple, ErrorName, PacketOut, TlvCommand, TlvMap, TlvTableMod,
};
use carrick_openflow::{
    Action, Bucket, BucketId, Cookie, Flow, FlowFilter, FlowMod, Group, GroupId, GroupMod,
    GroupType, Instructions, Learned, Match, Meter, MeterId, MeterMod, MeterUnit, Mod, OfPort,
    Selection, State, TableId, diff,
};
use carrick_testkit::ovs::{Datapath, Ovs};
use nix::sys::signal::Signal;
use tokio::time::timeout;

const BRIDGE: &str = "br-int";
const LONG: Duration = Duration::from_mins(2);

fn start() -> Ovs {
    let ovs = Ovs::start().unwrap();
    ovs.add_bridge(BRIDGE, Datapath::under_test()).unwrap();
    ovs
}

async fn connect(ovs: &Ovs) -> (Connection, PacketIns, tokio::task::JoinHandle<()>) {
    let (connection, packet_ins, _notices, driver): (_, _, _, Driver) =
        Connection::new(Config::new(ovs.mgmt(BRIDGE)));
    let driver = tokio::spawn(driver.run());
    timeout(LONG, connection.connected())
        .await
        .unwrap()
        .unwrap();
    (connection, packet_ins, driver)
}

fn encap() -> Vec<Flow> {
    let text = include_str!("data/encap.flows");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            line.parse()
                .unwrap_or_else(|error| panic!("{line}: {error}"))
        })
        .collect()
}

fn sorted(mut flows: Vec<Flow>) -> Vec<Flow> {
    flows.sort_by(|a, b| a.key().cmp(&b.key()));
    flows
}

/// `count` flows that differ in address, as policy has them.
fn many(count: u32) -> Vec<Flow> {
    (0..count)
        .map(|index| {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + index);
            let m = Match::builder()
                .ipv4()
                .nw_src(address.into(), 32)
                .reg(1, index % 7, 0xf)
                .build();
            let actions = [Action::conjunction(index, 0, 2)];
            Flow::new(TableId(40), 100, m.unwrap(), Instructions::apply(actions))
                .with_cookie(Cookie(0x10_0000 + u64::from(index)))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn encap_pipeline_is_installed_and_read_back_without_difference() {
    let ovs = start();
    let (connection, _packets, driver) = connect(&ovs).await;
    let mut desired = State {
        flows: encap(),
        ..State::default()
    };
    desired.canonicalize();
    let report = connection
        .synchronize(&desired, &Learned::default())
        .await
        .unwrap();
    assert_eq!(report.changes, desired.flows.len());
    let dumped = connection.dump_state().await.unwrap();
    assert!(diff(&dumped, &desired, &Learned::default()).is_empty());
    assert_eq!(sorted(dumped.flows.clone()), sorted(desired.flows.clone()));
    let again = connection
        .synchronize(&desired, &Learned::default())
        .await
        .unwrap();
    assert_eq!(again.changes, 0);

    // ovs-ofctl sees the same, and its text is ours.
    let text = ovs.ofctl(&["dump-flows", &ovs.target(BRIDGE)]).unwrap();
    let lines = text.lines().filter(|line| line.contains("actions="));
    let theirs: Vec<Flow> = lines.clone().map(|line| line.parse().unwrap()).collect();
    assert_eq!(sorted(theirs.clone()), sorted(desired.flows.clone()));
    for (line, flow) in lines.zip(&theirs) {
        let ours = flow.to_string();
        let actions = |text: &str| text.split(" actions=").nth(1).unwrap().to_owned();
        assert_eq!(actions(&ours), actions(line));
        let head = line
            .split(" actions=")
            .next()
            .unwrap()
            .rsplit(' ')
            .next()
            .unwrap();
        let expected = head
            .trim_start_matches("priority=")
            .split_once(',')
            .map_or("", |(_, rest)| rest);
        let mine = ours.split(" actions=").next().unwrap();
        let mine = mine.splitn(3, ',').nth(2).unwrap_or("");
        assert_eq!(mine, expected, "{line}");
    }
    drop(connection);
    timeout(LONG, driver).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_differs_is_changed_and_counters_stay() {
    let ovs = start();
    let (connection, ..) = connect(&ovs).await;
    let mut desired = State {
        flows: encap(),
        ..State::default()
    };
    desired.groups.push(
        Group {
            selection: Some(Selection::dp_hash()),
            ..Group::new(GroupId(7), GroupType::Select)
        }
        .with_buckets(vec![
            Bucket::new(BucketId(0), vec![Action::output(OfPort(2))]).with_weight(100),
            Bucket::new(
                BucketId(1),
                vec!["ct(commit,table=9,nat(dst=10.0.0.1:80))".parse().unwrap()],
            )
            .with_weight(50),
        ]),
    );
    desired.meters.push(Meter::drop_above(
        MeterId(3),
        MeterUnit::PacketsPerSecond,
        100,
        20,
    ));
    let uses = Flow::new(
        TableId(45),
        7,
        Match::builder().ipv4().build().unwrap(),
        Instructions::apply([Action::Meter(MeterId(3)), Action::Group(GroupId(7))]),
    );
    desired.flows.push(uses);
    desired.canonicalize();
    let none = Learned::default();
    let report = connection.synchronize(&desired, &none).await.unwrap();
    assert_eq!(
        (report.changes, report.meters),
        (desired.flows.len() + 1, 1)
    );
    assert_eq!(
        connection
            .synchronize(&desired, &none)
            .await
            .unwrap()
            .changes,
        0
    );

    // One packet counts, and the count outlives a change of actions.
    let counted = Flow::new(
        TableId(0),
        999,
        Match::builder().in_port(OfPort::LOCAL).build().unwrap(),
        Instructions::drop(),
    );
    desired.flows.push(counted);
    connection.synchronize(&desired, &none).await.unwrap();
    let packet = PacketOut::new(
        OfPort::LOCAL,
        vec![Action::output(OfPort::TABLE)],
        vec![0xff; 60],
    );
    connection.packet_out(packet).await.unwrap();
    desired.flows.last_mut().unwrap().instructions = Instructions::goto(TableId(20));
    desired.groups[0].buckets[0].weight = Some(10);
    let report = connection.synchronize(&desired, &none).await.unwrap();
    assert_eq!(report.changes, 2);
    let flows = connection
        .dump_flows(FlowFilter {
            table: TableId(0),
            ..FlowFilter::default()
        })
        .await
        .unwrap();
    let stats = flows
        .iter()
        .find(|stats| stats.flow.priority == 999)
        .unwrap();
    assert_eq!((stats.packets, stats.bytes), (1, 60));

    // Learned flows are nobody's business; others go.
    let learned = Flow {
        table: TableId(5),
        cookie: Cookie(0x1ea2_0000_0000_0001),
        ..Flow::default()
    };
    let stray = Flow {
        table: TableId(6),
        ..Flow::default()
    };
    connection
        .bundle(&[FlowMod::add(learned).into(), FlowMod::add(stray).into()])
        .await
        .unwrap();
    let rule = Learned {
        tables: Vec::new(),
        cookies: vec![(Cookie(0x1ea2 << 48), 0xffff << 48)],
        groups: Vec::new(),
    };
    assert_eq!(
        connection
            .synchronize(&desired, &rule)
            .await
            .unwrap()
            .changes,
        1
    );
    assert_eq!(
        connection
            .synchronize(&State::default(), &none)
            .await
            .unwrap()
            .meters,
        1
    );
    assert_eq!(connection.dump_state().await.unwrap(), State::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_bundle_changes_nothing_and_names_the_modification() {
    let ovs = start();
    let (connection, ..) = connect(&ovs).await;
    let good = Flow {
        table: TableId(3),
        ..Flow::default()
    };
    let bad = Flow {
        instructions: Instructions::apply([Action::Group(GroupId(99))]),
        ..Flow::default()
    };
    let mods: Vec<Mod> = vec![
        FlowMod::add(good.clone()).into(),
        FlowMod::add(bad).into(),
        FlowMod::add(good).into(),
    ];
    match connection.bundle(&mods).await {
        Err(BundleError::Refused {
            index: Some(1),
            error,
        }) => {
            assert_eq!(error.name.to_string(), "OFPBAC_BAD_OUT_GROUP");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        connection.dump_flows(FlowFilter::default()).await.unwrap(),
        []
    );
    // A modification that cannot be sent names itself, and the connection lives on.
    let big = Flow {
        instructions: Instructions::apply(vec![Action::output(OfPort(1)); 5000]),
        ..Flow::default()
    };
    assert!(matches!(
        connection.bundle(&[FlowMod::add(big).into()]).await,
        Err(BundleError::Encode { index: 0, .. })
    ));
    connection.barrier().await.unwrap();
    let refused = connection
        .meter(MeterMod::Modify(Meter::drop_above(
            MeterId(1),
            MeterUnit::KilobitsPerSecond,
            1,
            0,
        )))
        .await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        "meter modification was refused: OFPMMFC_UNKNOWN_METER"
    );
    let open: ErrorName = ErrorName::BUNDLE_MESSAGE_FAILED;
    assert_eq!(open.to_string(), "OFPBFC_MSG_FAILED");
}

#[tokio::test(flavor = "multi_thread")]
async fn hundred_thousand_flows_in_one_bundle() {
    let ovs = start();
    let (connection, ..) = connect(&ovs).await;
    let mut desired = State {
        flows: many(100_000),
        ..State::default()
    };
    desired.canonicalize();
    let report = connection
        .synchronize(&desired, &Learned::default())
        .await
        .unwrap();
    assert_eq!(report.changes, 100_000);
    let dumped = connection.dump_state().await.unwrap();
    assert!(diff(&dumped, &desired, &Learned::default()).is_empty());
    for flow in desired.flows.iter_mut().step_by(10_000) {
        flow.instructions = Instructions::drop();
    }
    assert_eq!(
        connection
            .synchronize(&desired, &Learned::default())
            .await
            .unwrap()
            .changes,
        10
    );
    let sum = connection.aggregate(FlowFilter::default()).await.unwrap();
    assert_eq!(sum.flows, 100_000);
}

/// Killed at five moments from the start of the sending on, while another client counts the switch's
/// flows: they are all there or none of them is.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_killed_within_a_bundle_has_all_or_nothing_and_is_restored() {
    const FLOWS: u32 = 30_000;
    let mut ovs = start();
    let (connection, ..) = connect(&ovs).await;
    let (observer, ..) = connect(&ovs).await;
    let mut desired = State {
        flows: many(FLOWS),
        ..State::default()
    };
    desired.canonicalize();
    let mut seen = BTreeSet::new();
    for moment in [0, 20, 60, 120, 400].map(Duration::from_millis) {
        let generation = connection.connected().await.unwrap();
        let emptied = connection
            .synchronize(&State::default(), &Learned::default())
            .await;
        emptied.unwrap();
        let task = {
            let (connection, desired) = (connection.clone(), desired.clone());
            tokio::spawn(async move { connection.synchronize(&desired, &Learned::default()).await })
        };
        let watched = {
            let observer = observer.clone();
            tokio::spawn(async move {
                let mut counts = BTreeSet::new();
                while let Ok(sum) = observer.aggregate(FlowFilter::default()).await {
                    counts.insert(sum.flows);
                }
                counts
            })
        };
        // Where in its work the switch is when it dies is what differs between the rounds.
        tokio::time::sleep(moment).await;
        ovs.stop_vswitchd(Signal::SIGKILL).unwrap();
        let counts = timeout(LONG, watched).await.unwrap().unwrap();
        assert!(
            counts.iter().all(|count| [0, FLOWS].contains(count)),
            "killed after {moment:?}, seen before: {counts:?}"
        );
        seen.extend(counts);
        ovs.start_vswitchd().unwrap();
        // What was on its way finds the new switch, which has nothing, and starts over by itself. What was
        // committed before is gone with the switch.
        timeout(LONG, task).await.unwrap().unwrap().unwrap();
        timeout(LONG, connection.reconnected(generation))
            .await
            .unwrap()
            .unwrap();
        let again = connection.synchronize(&desired, &Learned::default()).await;
        again.unwrap();
        let dumped = connection.dump_state().await.unwrap();
        assert!(diff(&dumped, &desired, &Learned::default()).is_empty());
        timeout(LONG, observer.connected()).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_packets_come_with_userdata_and_go_on() {
    let ovs = start();
    let (connection, mut packets, _driver) = connect(&ovs).await;
    let table = |number| Flow {
        table: TableId(number),
        ..Flow::default()
    };
    let mut first = table(0);
    first.instructions =
        "set_field:0x7->reg3,controller(userdata=01.02.03,pause),set_field:0x9->reg4,resubmit(,1)"
            .parse()
            .unwrap();
    let mut second = table(1);
    second.match_ = "reg3=7,reg4=9".parse().unwrap();
    connection
        .bundle(&[FlowMod::add(first).into(), FlowMod::add(second).into()])
        .await
        .unwrap();
    let out = PacketOut::new(
        OfPort::LOCAL,
        vec![Action::output(OfPort::TABLE)],
        vec![0xab; 64],
    );
    connection.packet_out(out).await.unwrap();
    let packet = timeout(LONG, packets.recv()).await.unwrap().unwrap();
    assert_eq!(packet.userdata, [1, 2, 3]);
    assert_eq!(packet.packet, [0xab; 64]);
    assert_eq!(packet.metadata.exact(Field::Reg3), Some(7));
    assert_eq!(packet.metadata.in_port(), Some(OfPort::LOCAL));
    assert!(packet.continuation.is_some());
    connection.resume(packet).await.unwrap();
    let flows = connection
        .dump_flows(FlowFilter {
            table: TableId(1),
            ..FlowFilter::default()
        })
        .await
        .unwrap();
    assert_eq!(flows[0].packets, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_nobody_takes_are_dropped_and_counted() {
    let ovs = start();
    let config = Config {
        packet_in_queue: 8,
        ..Config::new(ovs.mgmt(BRIDGE))
    };
    let (connection, packets, _notices, driver) = Connection::new(config);
    tokio::spawn(driver.run());
    connection.connected().await.unwrap();
    let instructions = "controller(userdata=01)".parse().unwrap();
    let flow = Flow {
        instructions,
        ..Flow::default()
    };
    connection
        .bundle(&[FlowMod::add(flow).into()])
        .await
        .unwrap();
    for _ in 0..200 {
        let out = PacketOut::new(
            OfPort::LOCAL,
            vec![Action::output(OfPort::TABLE)],
            vec![1; 60],
        );
        connection.packet_out(out).await.unwrap();
    }
    connection.barrier().await.unwrap();
    let lost = packets.dropped();
    assert!(lost > 0 && lost <= 192, "{lost}");
    // Requests go on.
    assert_eq!(
        connection
            .dump_flows(FlowFilter::default())
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_else_a_switch_answers() {
    let ovs = start();
    ovs.vsctl(&[
        "add-port",
        BRIDGE,
        "p2",
        "--",
        "set",
        "interface",
        "p2",
        "type=internal",
        "ofport_request=2",
    ])
    .unwrap();
    let (connection, ..) = connect(&ovs).await;
    let ports = connection.dump_ports().await.unwrap();
    assert_eq!(
        ports
            .iter()
            .map(|port| (port.number, port.name.as_str()))
            .collect::<Vec<_>>(),
        [(OfPort(2), "p2"), (OfPort::LOCAL, BRIDGE)]
    );
    assert_eq!(connection.port_stats().await.unwrap().len(), 2);
    assert!(
        connection
            .description()
            .await
            .unwrap()
            .manufacturer
            .contains("Nicira")
    );
    assert_eq!(connection.table_stats().await.unwrap().len(), 254);
    assert_eq!(connection.table_descriptions().await.unwrap().len(), 254);
    let map = TlvMap {
        class: 0xffff,
        kind: 1,
        length: 4,
        index: 0,
    };
    connection
        .change_tlv_table(TlvTableMod {
            command: TlvCommand::Add,
            maps: vec![map],
        })
        .await
        .unwrap();
    assert_eq!(connection.tlv_table().await.unwrap().maps, [map]);
    let match_ = "tun_metadata0=0x12/0xff".parse().unwrap();
    let flow = Flow {
        match_,
        ..Flow::default()
    };
    connection
        .bundle(&[FlowMod::add(flow).into()])
        .await
        .unwrap();
    connection.ct_flush_zone(5).await.unwrap();
    let original = CtTuple {
        source: Some("10.0.0.1".parse().unwrap()),
        destination_port: Some(80),
        ..CtTuple::default()
    };
    let flush = CtFlush {
        protocol: 6,
        zone: Some(5),
        original,
        reply: CtTuple::default(),
    };
    connection.ct_flush(flush).await.unwrap();
    // Buckets in pieces.
    let group = Group {
        selection: Some(Selection::dp_hash()),
        ..Group::new(GroupId(1), GroupType::Select)
    };
    connection
        .bundle(&[GroupMod::Add(group).into()])
        .await
        .unwrap();
    for piece in 0..4 {
        let buckets = (0..100)
            .map(|index| {
                Bucket::new(
                    BucketId(piece * 100 + index),
                    vec![Action::output(OfPort(2))],
                )
                .with_weight(1)
            })
            .collect();
        let change = GroupMod::InsertBuckets {
            group: GroupId(1),
            after: BucketId::LAST,
            buckets,
        };
        connection.bundle(&[change.into()]).await.unwrap();
    }
    connection
        .bundle(&[GroupMod::RemoveBucket {
            group: GroupId(1),
            bucket: BucketId(7),
        }
        .into()])
        .await
        .unwrap();
    let groups = connection.dump_groups().await.unwrap();
    assert_eq!(groups[0].buckets.len(), 399);
    assert_eq!(
        connection.group_stats().await.unwrap()[0].buckets.len(),
        399
    );
    connection
        .meter(MeterMod::Add(Meter::drop_above(
            MeterId(1),
            MeterUnit::KilobitsPerSecond,
            10,
            0,
        )))
        .await
        .unwrap();
    assert_eq!(connection.meter_stats().await.unwrap()[0].id, MeterId(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_is_not_there_is_waited_for() {
    let mut ovs = start();
    ovs.stop_vswitchd(Signal::SIGTERM).unwrap();
    let (connection, _packets, _notices, driver) = Connection::new(Config::new(ovs.mgmt(BRIDGE)));
    let driver = tokio::spawn(driver.run());
    assert!(connection.generation().is_none());
    assert!(connection.barrier().await.is_err());
    ovs.start_vswitchd().unwrap();
    timeout(LONG, connection.connected())
        .await
        .unwrap()
        .unwrap();
    connection.barrier().await.unwrap();
    assert!(connection.features().unwrap().tables >= 254);
    drop(connection);
    timeout(LONG, driver).await.unwrap().unwrap();
}

/// Each bundle is applied as a whole: what is left is one client's, never some of both.
#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_write_at_once_never_mix() {
    let ovs = start();
    let (first, ..) = connect(&ovs).await;
    let (second, ..) = connect(&ovs).await;
    let write = |connection: Connection, cookie: u64| async move {
        let mods: Vec<Mod> = (0..3000)
            .map(|priority| {
                FlowMod::add(Flow {
                    priority,
                    cookie: Cookie(cookie),
                    ..Flow::default()
                })
                .into()
            })
            .collect();
        connection.bundle(&mods).await
    };
    for _ in 0..5 {
        let (a, b) = tokio::join!(write(first.clone(), 1), write(second.clone(), 2));
        a.unwrap();
        b.unwrap();
        let flows = first.dump_flows(FlowFilter::default()).await.unwrap();
        assert_eq!(flows.len(), 3000);
        let cookie = flows[0].flow.cookie;
        assert!(flows.iter().all(|stats| stats.flow.cookie == cookie));
    }
}

/// A group whose buckets do not fit into one message is added in pieces, in the one bundle; one that
/// the switch could not describe any more is refused before anything is changed.
#[tokio::test(flavor = "multi_thread")]
async fn large_groups_are_added_in_pieces() {
    let ovs = start();
    let (connection, ..) = connect(&ovs).await;
    let state = |count: u32| {
        let buckets = (0..count)
            .map(|index| {
                let actions = format!("ct(commit,table=9,zone=1,nat(dst=10.0.0.1:{}))", index + 1);
                let actions: Instructions = actions.parse().unwrap();
                Bucket::new(BucketId(index), actions.apply).with_weight(7)
            })
            .collect();
        let selection = Some(Selection::dp_hash());
        let group = Group {
            selection,
            ..Group::new(GroupId(1), GroupType::Select)
        };
        let mut state = State {
            groups: vec![group.with_buckets(buckets)],
            ..State::default()
        };
        state.canonicalize();
        state
    };
    let none = Learned::default();
    let refused = connection
        .synchronize(&state(1500), &none)
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), "group 1 cannot be read back");
    let desired = state(950);
    assert!(
        connection
            .synchronize(&desired, &none)
            .await
            .unwrap()
            .changes
            > 1
    );
    assert_eq!(
        connection.dump_groups().await.unwrap()[0].buckets.len(),
        950
    );
    assert_eq!(
        connection
            .synchronize(&desired, &none)
            .await
            .unwrap()
            .changes,
        0
    );
}
