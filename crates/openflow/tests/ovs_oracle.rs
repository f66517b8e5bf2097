//! The real `ovs-ofctl` as a second opinion: its bytes for a text are ours, it reads our bytes as
//! what we meant, and its text is ours.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

#[path = "support/capture.rs"]
mod capture;
#[path = "support/cases.rs"]
mod cases;

use std::fmt::Write as _;
use std::time::Duration;

use carrick_openflow::action::PacketInReason;
use carrick_openflow::message::bundle::{BundleAdd, BundleControl, BundleId, ControlType};
use carrick_openflow::message::multipart::{
    Aggregate, Description, GroupFeatures, MeterFeatures, MultipartBody, TableDescription,
    TableStats,
};
use carrick_openflow::message::{
    AsyncConfig, CtFlush, CtTuple, ErrorMessage, ErrorName, Features, FlowRemoved,
    FlowRemovedReason, Hello, Message, MultipartReply, MultipartRequest, PacketIn, PacketIn2,
    PacketInFormat, PacketOut, Port, PortChange, PortStats, PortStatus, Role, SwitchConfig,
    TlvCommand, TlvMap, TlvTable, TlvTableMod,
};
use carrick_openflow::{
    BucketId, Cookie, Flow, FlowFilter, FlowMod, FlowModCommand, FlowStats, Group, GroupId,
    GroupMod, GroupStats, Instructions, MacAddr, Match, Meter, MeterId, MeterMod, MeterStats,
    OfPort, TableId, Xid,
};

use capture::{Scratch, print};

/// What `ovs-ofctl add-flows` sends for each text.
fn ofctl_bytes(scratch: &Scratch, texts: &[String]) -> Vec<Vec<u8>> {
    let file = scratch.0.join("flows.txt");
    std::fs::write(&file, texts.join("\n") + "\n").unwrap();
    let (messages, result) =
        capture::capture(&scratch.0, &["add-flows"], &[&file.display().to_string()]);
    if let Err(error) = result {
        panic!("ovs-ofctl: {error}");
    }
    messages
        .into_iter()
        .filter(|message| message[1] == 14)
        .collect()
}

fn encode(flow: &Flow, xid: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Message::FlowMod(FlowMod::add(flow.clone()))
        .encode(Xid(xid), &mut bytes)
        .unwrap();
    bytes
}

fn check_flows(name: &str, texts: &[String]) {
    let scratch = Scratch::new(name);
    let theirs = ofctl_bytes(&scratch, texts);
    assert_eq!(theirs.len(), texts.len());
    let mut wrong = Vec::new();
    let mut ours = Vec::new();
    for (text, theirs) in texts.iter().zip(&theirs) {
        let flow: Flow = match text.parse() {
            Ok(flow) => flow,
            Err(error) => {
                wrong.push(format!("{text}\n  is not parsed: {error}"));
                continue;
            }
        };
        let xid = u32::from_be_bytes(theirs[4..8].try_into().unwrap());
        let bytes = encode(&flow, xid);
        if bytes != *theirs {
            wrong.push(format!(
                "{text}\n  ours   {}\n  theirs {}",
                hex(&bytes),
                hex(theirs)
            ));
        }
        match Message::decode(theirs) {
            Ok((_, Message::FlowMod(decoded))) => {
                if decoded.flow.canonical() != flow.canonical() {
                    wrong.push(format!(
                        "{text}\n  parsed  {flow:?}\n  decoded {:?}",
                        decoded.flow
                    ));
                }
                let mut again = Vec::new();
                Message::FlowMod(decoded)
                    .encode(Xid(xid), &mut again)
                    .unwrap();
                if again != *theirs {
                    wrong.push(format!(
                        "{text}\n  again  {}\n  theirs {}",
                        hex(&again),
                        hex(theirs)
                    ));
                }
            }
            other => wrong.push(format!(
                "{text}\n  is decoded as {other:?}: {}",
                hex(theirs)
            )),
        }
        match flow.to_string().parse::<Flow>() {
            Ok(again) if again.canonical() == flow.canonical() => {}
            other => wrong.push(format!(
                "{text}\n  printed {flow}\n  is parsed as {other:?}"
            )),
        }
        ours.push((text, flow, bytes));
    }
    // The other way: what ovs-ofctl makes of our bytes.
    let bytes: Vec<_> = ours.iter().map(|(_, _, bytes)| bytes.clone()).collect();
    let printed = print(&scratch.0, &bytes);
    let lines: Vec<_> = printed
        .lines()
        .filter(|line| line.contains("OFPT_FLOW_MOD"))
        .collect();
    assert_eq!(lines.len(), ours.len(), "{printed}");
    for (line, (text, flow, _)) in lines.iter().zip(&ours) {
        if !line.contains(": ADD") {
            wrong.push(format!("{text}\n  is refused: {line}"));
            continue;
        }
        let theirs = from_ofp_print(line);
        let mine = flow.to_string();
        match theirs.parse::<Flow>() {
            Ok(parsed) if parsed.canonical() == flow.canonical() => {}
            Ok(parsed) => wrong.push(format!(
                "{text}\n  ours   {mine}\n  theirs {theirs}\n  parsed {parsed}"
            )),
            Err(error) => wrong.push(format!(
                "{text}\n  theirs {theirs}\n  is not parsed: {error}"
            )),
        }
        let tail = |text: &str| text[text.find(" actions=").unwrap()..].to_owned();
        if tail(&mine) != tail(&theirs) {
            wrong.push(format!("{text}\n  ours   {mine}\n  theirs {theirs}"));
        }
        if match_text(&mine) != match_text(&theirs) {
            wrong.push(format!(
                "{text}\n  ours   {}\n  theirs {}",
                match_text(&mine),
                match_text(&theirs)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        texts.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
}

/// The match alone: what is not about the flow as such.
fn match_text(text: &str) -> String {
    let head = &text[..text.find(" actions=").unwrap()];
    let mut depth = 0;
    head.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        depth == 0 && (c == ',' || c == ' ')
    })
    .filter(|item| {
        let flow = [
            "table",
            "priority",
            "cookie",
            "idle_timeout",
            "hard_timeout",
            "importance",
            "send_flow_rem",
            "check_overlap",
            "reset_counts",
            "no_packet_counts",
            "no_byte_counts",
            "",
        ];
        !flow.contains(&item.split(['=', ':']).next().unwrap())
    })
    .collect::<Vec<_>>()
    .join(",")
}

/// `OFPT_FLOW_MOD (OF1.5) (xid=0x1): ADD table:3 priority=7,ip cookie:0x55 idle:5 actions=…` as a
/// flow.
fn from_ofp_print(line: &str) -> String {
    let body = line.split_once(": ADD").expect(line).1.trim_start();
    let (head, actions) = body.split_at(body.find("actions=").expect(line));
    let mut words = Vec::new();
    for word in head.split_whitespace() {
        let renamed = [
            ("table:", "table="),
            ("cookie:", "cookie="),
            ("idle:", "idle_timeout="),
            ("hard:", "hard_timeout="),
            ("importance:", "importance="),
            ("pri:", "priority="),
        ];
        let found = renamed
            .iter()
            .find_map(|(from, to)| word.strip_prefix(from).map(|r| format!("{to}{r}")));
        words.push(found.unwrap_or_else(|| word.to_owned()));
    }
    format!("{} {actions}", words.join(","))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn matches_are_the_bytes_and_text_of_ovs_ofctl() {
    check_flows("oracle-matches", &cases::matches());
}

#[test]
fn actions_are_the_bytes_and_text_of_ovs_ofctl() {
    check_flows("oracle-actions", &cases::actions());
}

/// Our messages through its printer: message and what must be in the text.
#[test]
fn every_message_is_read_by_ovs_ofctl() {
    let m = |text: &str| text.parse::<Match>().unwrap();
    let actions = |text: &str| text.parse::<Instructions>().unwrap().apply;
    let flow: Flow =
        "table=3,priority=7,cookie=0x55,ip,nw_src=10.0.0.0/8 actions=output:2,goto_table:5"
            .parse()
            .unwrap();
    let group: Group = "group_id=5,type=select,selection_method=hash,fields(ip_src,tcp_dst=0xff00),bucket=bucket_id:1,weight:10,actions=output:2,bucket=bucket_id:2,actions=ct(commit,table=9,nat(dst=10.0.0.1:80))".parse().unwrap();
    let failover: Group = "group_id=6,type=ff,bucket=bucket_id:0,watch_port:2,actions=output:2"
        .parse()
        .unwrap();
    let plain: Group = "group_id=8,type=all,bucket=bucket_id:4,actions=output:2"
        .parse()
        .unwrap();
    let meter: Meter = "meter=3,pktps,burst,stats,band=type=drop,rate=100,burst_size=10,band=type=dscp_remark,prec_level=2,rate=50".parse().unwrap();
    let stats = FlowStats {
        flow: flow.clone(),
        duration: Duration::new(5, 6_000_000),
        idle: Some(Duration::from_secs(2)),
        packets: 7,
        bytes: 700,
    };
    let port = Port {
        number: OfPort(2),
        address: MacAddr([2, 0, 0, 0, 0, 1]),
        name: "car0".into(),
        config: 0,
        state: 4,
        properties: Vec::new(),
    };
    let packet = PacketIn2 {
        packet: vec![0xff; 60],
        full_len: Some(60),
        table: TableId(7),
        cookie: Cookie(0x12),
        reason: PacketInReason::ACTION,
        metadata: m("in_port=3,reg0=5"),
        userdata: vec![1, 2],
        ..PacketIn2::default()
    };
    let reply = |body| Message::MultipartReply(MultipartReply { more: false, body });
    let request = Message::MultipartRequest;
    let map = TlvMap {
        class: 0xffff,
        kind: 1,
        length: 4,
        index: 2,
    };
    let original = CtTuple {
        source: Some("10.0.0.1".parse().unwrap()),
        destination: Some("10.0.0.2".parse().unwrap()),
        source_port: Some(1),
        destination_port: Some(2),
        ..CtTuple::default()
    };
    let cases: Vec<(Message, &str)> = vec![
        (Message::Hello(Hello::only_1_5()), "version bitmap: 0x06"),
        (
            Message::Error(ErrorMessage {
                name: ErrorName::BUNDLE_MESSAGE_FAILED,
                data: vec![6, 20, 0, 8, 0, 0, 0, 1],
            }),
            "OFPT_ERROR (OF1.5) (xid=0x7): OFPBFC_MSG_FAILED",
        ),
        (Message::EchoRequest(vec![1, 2, 3]), "3 bytes of payload"),
        (Message::EchoReply(vec![1]), "1 bytes of payload"),
        (Message::FeaturesRequest, "OFPT_FEATURES_REQUEST"),
        (
            Message::FeaturesReply(Features {
                datapath: 0x1234,
                buffers: 0,
                tables: 254,
                auxiliary: 0,
                capabilities: 1,
            }),
            "n_tables:254",
        ),
        (Message::GetConfigRequest, "OFPT_GET_CONFIG_REQUEST"),
        (
            Message::GetConfigReply(SwitchConfig {
                flags: 0,
                miss_send_len: 128,
            }),
            "miss_send_len=128",
        ),
        (
            Message::SetConfig(SwitchConfig {
                flags: 0,
                miss_send_len: 0xffff,
            }),
            "miss_send_len=65535",
        ),
        (
            Message::PacketIn(PacketIn {
                total_len: 60,
                reason: PacketInReason::ACTION,
                table: TableId(1),
                cookie: Cookie(2),
                metadata: m("in_port=3"),
                data: vec![0xff; 60],
            }),
            "table_id=1 cookie=0x2 total_len=60 in_port=3 (via action)",
        ),
        (
            Message::PacketIn2(packet.clone()),
            "table_id=7 cookie=0x12 total_len=60 reg0=0x5,in_port=3 (via action)",
        ),
        (
            Message::Resume(PacketIn2 {
                continuation: None,
                ..packet
            }),
            "NXT_RESUME",
        ),
        (
            Message::FlowRemoved(FlowRemoved {
                table: TableId(3),
                reason: FlowRemovedReason::HARD_TIMEOUT,
                priority: 7,
                idle_timeout: 0,
                hard_timeout: 9,
                cookie: Cookie(5),
                match_: m("ip"),
                duration: Duration::from_secs(9),
                packets: 4,
                bytes: 400,
            }),
            "reason=hard",
        ),
        (
            Message::PortStatus(PortStatus {
                change: PortChange::Add,
                port: port.clone(),
            }),
            "ADD: 2(car0): addr:02:00:00:00:00:01",
        ),
        (
            Message::PacketOut(PacketOut::new(
                OfPort::LOCAL,
                actions("output:2"),
                vec![0xff; 60],
            )),
            "actions=output:2",
        ),
        (
            Message::FlowMod(FlowMod::modify_strict(flow.clone())),
            "MOD_STRICT",
        ),
        (
            Message::FlowMod(FlowMod::delete_strict(&flow)),
            "DEL_STRICT",
        ),
        (
            Message::FlowMod(FlowMod::delete_by_cookie(Cookie(5), 0xff)),
            "cookie:0x5/0xff",
        ),
        (
            Message::GroupMod(GroupMod::Add(group.clone())),
            "selection_method=hash,fields(ip_src,tcp_dst=65280),bucket=bucket_id:1,weight:10,actions=output:2",
        ),
        (
            Message::GroupMod(GroupMod::Modify(failover.clone())),
            "MOD group_id=6,type=ff",
        ),
        (
            Message::GroupMod(GroupMod::AddOrModify(failover.clone())),
            "ADD_OR_MOD group_id=6",
        ),
        (
            Message::GroupMod(GroupMod::Delete(GroupId(5))),
            "DEL group_id=5",
        ),
        (
            Message::GroupMod(GroupMod::InsertBuckets {
                group: GroupId(5),
                after: BucketId::LAST,
                buckets: plain.buckets.clone(),
            }),
            "INSERT_BUCKET command_bucket_id:last,group_id=5",
        ),
        (
            Message::GroupMod(GroupMod::RemoveBucket {
                group: GroupId(5),
                bucket: BucketId(1),
            }),
            "REMOVE_BUCKET command_bucket_id:1,group_id=5",
        ),
        (
            Message::MeterMod(MeterMod::Add(meter.clone())),
            "ADD meter=3 pktps burst stats bands=",
        ),
        (
            Message::MeterMod(MeterMod::Modify(meter.clone())),
            "MOD meter=3",
        ),
        (
            Message::MeterMod(MeterMod::Delete(MeterId(3))),
            "DEL meter=3",
        ),
        (request(MultipartRequest::Description), "OFPST_DESC request"),
        (
            request(MultipartRequest::Flows(FlowFilter {
                table: TableId(3),
                match_: m("ip"),
                ..FlowFilter::default()
            })),
            "OFPST_FLOW request (OF1.5) (xid=0x7): table=3 ip",
        ),
        (
            request(MultipartRequest::Aggregate(FlowFilter::default())),
            "OFPST_AGGREGATE request",
        ),
        (request(MultipartRequest::Tables), "OFPST_TABLE request"),
        (
            request(MultipartRequest::TableDescriptions),
            "OFPST_TABLE_DESC request",
        ),
        (
            request(MultipartRequest::PortStats(OfPort::ANY)),
            "OFPST_PORT request",
        ),
        (
            request(MultipartRequest::GroupStats(GroupId::ALL)),
            "OFPST_GROUP request",
        ),
        (
            request(MultipartRequest::Groups(GroupId::ALL)),
            "OFPST_GROUP_DESC request",
        ),
        (
            request(MultipartRequest::GroupFeatures),
            "OFPST_GROUP_FEATURES request",
        ),
        (
            request(MultipartRequest::MeterStats(MeterId(3))),
            "OFPST_METER request (OF1.5) (xid=0x7): meter=3",
        ),
        (
            request(MultipartRequest::Meters(MeterId::ALL)),
            "OFPST_METER_CONFIG request (OF1.5) (xid=0x7): meter=all",
        ),
        (
            request(MultipartRequest::MeterFeatures),
            "OFPST_METER_FEATURES request",
        ),
        (request(MultipartRequest::Ports(OfPort(2))), "port=2"),
        (
            reply(MultipartBody::Description(Box::new(Description {
                manufacturer: "Carrick".into(),
                ..Description::default()
            }))),
            "Manufacturer: Carrick",
        ),
        (
            reply(MultipartBody::Flows(vec![stats])),
            "cookie=0x55, duration=5.006s, table=3, n_packets=7, n_bytes=700, idle_age=2, priority=7,ip,nw_src=10.0.0.0/8 actions=output:2,goto_table:5",
        ),
        (
            reply(MultipartBody::Aggregate(Aggregate {
                flows: 1,
                packets: 2,
                bytes: 3,
            })),
            "packet_count=2 byte_count=3 flow_count=1",
        ),
        (
            reply(MultipartBody::Tables(vec![TableStats {
                id: TableId(0),
                active: 5,
                lookups: 6,
                matches: 7,
            }])),
            "active=5, lookup=6, matched=7",
        ),
        (
            reply(MultipartBody::TableDescriptions(vec![TableDescription {
                id: TableId(5),
                config: 0,
                properties: Vec::new(),
            }])),
            "table 5:",
        ),
        (
            reply(MultipartBody::PortStats(vec![PortStats {
                number: OfPort(2),
                duration: Duration::from_secs(1),
                packets: (1, 2),
                bytes: (3, 4),
                dropped: (5, 6),
                errors: (7, 8),
                properties: Vec::new(),
            }])),
            "rx pkts=1, bytes=3, drop=5, errs=7",
        ),
        (
            reply(MultipartBody::GroupStats(vec![GroupStats {
                id: GroupId(5),
                references: 1,
                packets: 2,
                bytes: 3,
                duration: Duration::from_secs(4),
                buckets: vec![(5, 6)],
            }])),
            "group_id=5,duration=4s,ref_count=1,packet_count=2,byte_count=3,bucket0:packet_count=5,byte_count=6",
        ),
        (
            reply(MultipartBody::Groups(vec![group, failover])),
            "group_id=6,type=ff,bucket=bucket_id:0,watch_port:2,actions=output:2",
        ),
        (
            reply(MultipartBody::GroupFeatures(GroupFeatures {
                types: 15,
                capabilities: 7,
                max_groups: [1, 2, 3, 4],
                actions: [1; 4],
            })),
            "max_groups=0x2",
        ),
        (
            reply(MultipartBody::MeterStats(vec![MeterStats {
                id: MeterId(3),
                flows: 1,
                packets: 2,
                bytes: 3,
                duration: Duration::from_secs(4),
                bands: vec![(5, 6)],
            }])),
            "packet_count:5 byte_count:6",
        ),
        (
            reply(MultipartBody::Meters(vec![meter])),
            "type=dscp_remark rate=50 burst_size=0 prec_level=2",
        ),
        (
            reply(MultipartBody::MeterFeatures(MeterFeatures {
                max_meters: 9,
                band_types: 2,
                capabilities: 15,
                max_bands: 8,
                max_color: 0,
            })),
            "max_meter:9",
        ),
        (reply(MultipartBody::Ports(vec![port])), "2(car0)"),
        (Message::BarrierRequest, "OFPT_BARRIER_REQUEST"),
        (Message::BarrierReply, "OFPT_BARRIER_REPLY"),
        (
            Message::RoleRequest(Role {
                role: 2,
                generation: 5,
            }),
            "role=primary",
        ),
        (
            Message::RoleReply(Role {
                role: 3,
                generation: 5,
            }),
            "role=secondary",
        ),
        (Message::GetAsyncRequest, "OFPT_GET_ASYNC_REQUEST"),
        (
            Message::SetAsync(AsyncConfig {
                masks: vec![(AsyncConfig::PACKET_IN, 7), (AsyncConfig::PORT_STATUS, 7)],
            }),
            "OFPT_SET_ASYNC",
        ),
        (
            Message::GetAsyncReply(AsyncConfig {
                masks: vec![(AsyncConfig::FLOW_REMOVED, 15)],
            }),
            "OFPT_GET_ASYNC_REPLY",
        ),
        (
            Message::BundleControl(BundleControl {
                bundle: BundleId(9),
                control: ControlType::COMMIT_REQUEST,
                flags: 3,
            }),
            "bundle_id=0x9 type=COMMIT_REQUEST flags=atomic ordered",
        ),
        (
            Message::SetPacketInFormat(PacketInFormat::NICIRA2),
            "nxt_packet_in2",
        ),
        (Message::SetControllerId(4), "id=4"),
        (
            Message::TlvTableMod(TlvTableMod {
                command: TlvCommand::Add,
                maps: vec![map],
            }),
            "tun_metadata2",
        ),
        (Message::TlvTableRequest, "NXT_TLV_TABLE_REQUEST"),
        (
            Message::TlvTableReply(TlvTable {
                max_space: 256,
                max_fields: 64,
                maps: vec![map],
            }),
            "tun_metadata2",
        ),
        (Message::CtFlushZone(5), "zone_id=5"),
        (
            Message::CtFlush(CtFlush {
                protocol: 6,
                zone: Some(5),
                original,
                reply: CtTuple::default(),
            }),
            "ct_nw_src=10.0.0.1,ct_nw_dst=10.0.0.2,ct_tp_src=1,ct_tp_dst=2,ct_nw_proto=6",
        ),
    ];
    let scratch = Scratch::new("oracle-messages");
    let mut wrong = Vec::new();
    for (message, expected) in cases {
        let mut bytes = Vec::new();
        message.encode(Xid(7), &mut bytes).unwrap();
        let text = print(&scratch.0, &[bytes.clone()]);
        if !text.contains(expected) || text.contains("decode error") || text.contains("only uses") {
            wrong.push(format!(
                "{expected}\n  is not in {text}  of {}",
                hex(&bytes)
            ));
        }
        let (_, again) = Message::decode(&bytes).unwrap();
        assert_eq!(again, message);
    }
    // A message within a message.
    let mut inner = Vec::new();
    Message::FlowMod(FlowMod::add(flow))
        .encode(Xid(7), &mut inner)
        .unwrap();
    let mut bytes = Vec::new();
    let add = BundleAdd {
        bundle: BundleId(9),
        flags: 3,
        message: inner,
    };
    Message::BundleAdd(add).encode(Xid(7), &mut bytes).unwrap();
    let text = print(&scratch.0, &[bytes]);
    assert!(
        text.contains("bundle_id=0x9 flags=atomic ordered")
            && text.contains("ADD table:3 priority=7"),
        "{text}"
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Its messages through our decoder, and ours the same bytes.
#[test]
fn what_ovs_ofctl_sends_is_what_we_send() {
    let scratch = Scratch::new("oracle-commands");
    let group = |text: &str| text.parse::<Group>().unwrap();
    let meter = |text: &str| text.parse::<Meter>().unwrap();
    let select = "group_id=5,type=select,selection_method=dp_hash,bucket=bucket_id=1,weight=10,actions=output:2,bucket=bucket_id=2,weight=20,actions=ct(commit,table=9,nat(dst=10.0.0.1:80))";
    let hash = "group_id=7,type=select,selection_method=hash,selection_method_param=5,fields(ip_src,tcp_dst=0xff00),bucket=actions=output:2,bucket=actions=output:1";
    let failover = "group_id=6,type=ff,bucket=watch_port:2,actions=output:2,bucket=watch_group:9,actions=output:3";
    let all =
        "group_id=8,type=all,bucket=actions=output:2,bucket=actions=set_field:1->reg0,output:3";
    let indirect = "group_id=9,type=indirect,bucket=actions=output:2";
    let drop_meter = "meter=3,pktps,burst,stats,band=type=drop,rate=100,burst_size=10";
    let remark = "meter=4,kbps,band=type=dscp_remark,rate=100,prec_level=2";
    let empty: CtTuple = CtTuple::default();
    let original = CtTuple {
        source: Some("10.1.1.1".parse().unwrap()),
        destination: Some("10.1.1.2".parse().unwrap()),
        source_port: Some(1),
        destination_port: Some(2),
        ..empty
    };
    let map = TlvMap {
        class: 0xffff,
        kind: 0,
        length: 4,
        index: 0,
    };
    let cases: Vec<(Vec<&str>, Vec<&str>, Message)> = vec![
        (
            vec!["add-group"],
            vec![select],
            Message::GroupMod(GroupMod::Add(group(select))),
        ),
        (
            vec!["add-group"],
            vec![hash],
            Message::GroupMod(GroupMod::Add(group(hash))),
        ),
        (
            vec!["add-group"],
            vec![failover],
            Message::GroupMod(GroupMod::Add(group(failover))),
        ),
        (
            vec!["add-group"],
            vec![all],
            Message::GroupMod(GroupMod::Add(group(all))),
        ),
        (
            vec!["add-group"],
            vec![indirect],
            Message::GroupMod(GroupMod::Add(group(indirect))),
        ),
        (
            vec!["mod-group"],
            vec![select],
            Message::GroupMod(GroupMod::Modify(group(select))),
        ),
        (
            vec!["--may-create", "mod-group"],
            vec![select],
            Message::GroupMod(GroupMod::AddOrModify(group(select))),
        ),
        (
            vec!["del-groups"],
            vec!["group_id=5"],
            Message::GroupMod(GroupMod::Delete(GroupId(5))),
        ),
        (
            vec!["remove-buckets"],
            vec!["group_id=5,command_bucket_id=2"],
            Message::GroupMod(GroupMod::RemoveBucket {
                group: GroupId(5),
                bucket: BucketId(2),
            }),
        ),
        (
            vec!["insert-buckets"],
            vec!["group_id=5,command_bucket_id=last,bucket=bucket_id=3,weight=7,actions=output:3"],
            Message::GroupMod(GroupMod::InsertBuckets {
                group: GroupId(5),
                after: BucketId::LAST,
                buckets: group(
                    "group_id=5,type=select,bucket=bucket_id=3,weight=7,actions=output:3",
                )
                .buckets,
            }),
        ),
        (
            vec!["add-meter"],
            vec![drop_meter],
            Message::MeterMod(MeterMod::Add(meter(drop_meter))),
        ),
        (
            vec!["add-meter"],
            vec![remark],
            Message::MeterMod(MeterMod::Add(meter(remark))),
        ),
        (
            vec!["mod-meter"],
            vec![drop_meter],
            Message::MeterMod(MeterMod::Modify(meter(drop_meter))),
        ),
        (
            vec!["del-meter"],
            vec!["meter=3"],
            Message::MeterMod(MeterMod::Delete(MeterId(3))),
        ),
        (
            vec!["del-meters"],
            vec![],
            Message::MeterMod(MeterMod::Delete(MeterId::ALL)),
        ),
        (
            vec!["ct-flush"],
            vec![
                "zone=5",
                "ct_nw_src=10.1.1.1,ct_nw_dst=10.1.1.2,ct_nw_proto=6,ct_tp_src=1,ct_tp_dst=2",
            ],
            Message::CtFlush(CtFlush {
                protocol: 6,
                zone: Some(5),
                original,
                reply: empty,
            }),
        ),
        (
            vec!["ct-flush"],
            vec![],
            Message::CtFlush(CtFlush::default()),
        ),
        (
            vec!["add-tlv-map"],
            vec!["{class=0xffff,type=0,len=4}->tun_metadata0"],
            Message::TlvTableMod(TlvTableMod {
                command: TlvCommand::Add,
                maps: vec![map],
            }),
        ),
        (
            vec!["del-tlv-map"],
            vec![],
            Message::TlvTableMod(TlvTableMod {
                command: TlvCommand::Clear,
                maps: Vec::new(),
            }),
        ),
        (
            vec!["packet-out"],
            vec!["in_port=2,packet=ffffffffffff0102030405060800,actions=output:2"],
            Message::PacketOut(PacketOut::new(
                OfPort(2),
                "output:2".parse::<Instructions>().unwrap().apply,
                vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 8, 0],
            )),
        ),
        (
            vec!["del-flows"],
            vec!["table=3,ip"],
            Message::FlowMod(FlowMod {
                flow: Flow {
                    priority: 0x8000,
                    ..FlowMod::delete(TableId(3), "ip".parse().unwrap()).flow
                },
                ..FlowMod::delete(TableId(3), "ip".parse().unwrap())
            }),
        ),
        (
            vec!["mod-flows"],
            vec!["table=3,ip,actions=output:2"],
            Message::FlowMod(FlowMod::new(
                FlowModCommand::Modify,
                "table=3,ip actions=output:2".parse().unwrap(),
            )),
        ),
        (
            vec!["--strict", "mod-flows"],
            vec!["table=3,ip,actions=output:2"],
            Message::FlowMod(FlowMod::modify_strict(
                "table=3,ip actions=output:2".parse().unwrap(),
            )),
        ),
    ];
    let mut wrong = Vec::new();
    for (before, args, message) in cases {
        let (sent, _) = capture::capture(&scratch.0, &before, &args);
        let mut ours = Vec::new();
        message.encode(Xid(0), &mut ours).unwrap();
        let same_kind = |bytes: &&Vec<u8>| {
            bytes[1] == ours[1] && (bytes[1] != 4 || bytes[12..16] == ours[12..16])
        };
        let Some(theirs) = sent.iter().find(same_kind) else {
            wrong.push(format!(
                "{before:?} {args:?} sends no such message: {:?}",
                sent.iter().map(|m| m[1]).collect::<Vec<_>>()
            ));
            continue;
        };
        ours[4..8].copy_from_slice(&theirs[4..8]);
        if ours != *theirs {
            wrong.push(format!(
                "{before:?} {args:?}\n  ours   {}\n  theirs {}",
                hex(&ours),
                hex(theirs)
            ));
        }
        let (xid, decoded) = Message::decode(theirs).unwrap();
        let mut again = Vec::new();
        decoded.encode(xid, &mut again).unwrap();
        if again != *theirs {
            wrong.push(format!(
                "{before:?} {args:?}\n  again  {}\n  theirs {}",
                hex(&again),
                hex(theirs)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
