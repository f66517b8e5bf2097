//! Values of every type, as proptest makes them.

use std::time::Duration;

use carrick_openflow::action::{
    Controller, Ct, CtZone, HashFields, Learn, LearnFlags, LearnLimit, LearnSource, LearnSpec,
    LearnTarget, Multipath, MultipathAlgorithm, Nat, NatAddresses, NatHash, NatKind,
    PacketInReason, Resubmit, ResubmitTuple, WriteMetadata,
};
use carrick_openflow::field::{Access, Header, Maskable};
use carrick_openflow::message::asynchronous::{
    AsyncConfig, FlowRemoved, FlowRemovedReason, PortChange, PortStatus,
};
use carrick_openflow::message::bundle::{BundleAdd, BundleControl, BundleId, ControlType};
use carrick_openflow::message::multipart::{
    Aggregate, Description, GroupFeatures, MeterFeatures, MultipartBody, MultipartReply,
    TableDescription, TableStats,
};
use carrick_openflow::message::{
    CtFlush, CtTuple, ErrorMessage, ErrorName, Features, Hello, MultipartRequest, PacketIn,
    PacketIn2, PacketInFormat, PacketOut, Port, PortStats, Role, SwitchConfig, TlvCommand, TlvMap,
    TlvTable, TlvTableMod,
};
use carrick_openflow::{
    Action, Band, BandType, Bucket, BucketId, Cookie, Field, Flow, FlowFilter, FlowFlags, FlowMod,
    FlowModCommand, FlowStats, Group, GroupId, GroupMod, GroupStats, GroupType, Instructions,
    MacAddr, MaskedField, Match, Message, Meter, MeterId, MeterMod, MeterStats, MeterUnit, OfPort,
    Selection, Subfield, TableId,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn fixed() -> Vec<Field> {
    Field::all()
        .filter(|field| !field.info().is_variable())
        .collect()
}

/// Fields whose values are stored as they are, without views of others.
fn stored() -> Vec<Field> {
    let view = |field: &Field| {
        let name = field.name();
        name.starts_with("xreg")
            || name.starts_with("xxreg")
            || matches!(
                field,
                Field::InPort16
                    | Field::VlanVid
                    | Field::VlanPcp
                    | Field::NwTos
                    | Field::PacketType
            )
    };
    fixed().into_iter().filter(|field| !view(field)).collect()
}

fn masked_of(fields: Vec<Field>) -> impl Strategy<Value = MaskedField> {
    (select(fields), any::<u128>(), any::<u128>(), any::<bool>()).prop_map(
        |(field, value, mask, whole)| {
            let ones = field.info().all_ones();
            let mask = if whole || field.info().maskable == Maskable::Exact {
                ones
            } else {
                mask & ones
            };
            MaskedField::masked(field, value & mask, mask).unwrap()
        },
    )
}

/// Any value in any writable field, tunnel metadata of up to 16 bytes included.
fn set_field() -> impl Strategy<Value = MaskedField> {
    let writable = fixed()
        .into_iter()
        .filter(|field| field.info().access == Access::ReadWrite);
    let variable = (0_u8..64, 1_usize..=16, any::<u128>()).prop_map(|(number, bytes, value)| {
        let ones = if bytes == 16 {
            u128::MAX
        } else {
            (1 << (8 * bytes)) - 1
        };
        MaskedField::sized(
            Field::tun_metadata(number).unwrap(),
            bytes,
            value & ones,
            ones,
        )
        .unwrap()
    });
    prop_oneof![9 => masked_of(writable.collect()), 1 => variable]
}

/// Matches whose prerequisites need not hold: what decoding accepts.
pub fn loose_match() -> impl Strategy<Value = Match> {
    let unknown = (any::<u8>(), vec(any::<u8>(), 0..20))
        .prop_map(|(number, payload)| (Header::new(0x7000, number & 0x7f, 0), payload));
    (
        vec(masked_of(stored()), 0..8),
        option::weighted(0.1, unknown),
    )
        .prop_map(|(fields, unknown)| {
            // By way of bytes, as there is no other way past the prerequisites.
            let mut bytes = Vec::new();
            let mut seen = Vec::new();
            for field in fields {
                if seen.contains(&field.field()) || field.mask() == 0 {
                    continue;
                }
                seen.push(field.field());
                let header = field.field().info().header;
                let exact = field.is_exact();
                let length = field.bytes() * if exact { 1 } else { 2 } + header.len() - 4;
                bytes.extend(header.class.to_be_bytes());
                bytes.push(header.number << 1 | u8::from(!exact));
                bytes.push(u8::try_from(length).unwrap());
                if header.len() == 8 {
                    bytes.extend(header.experimenter.to_be_bytes());
                }
                bytes.extend(&field.value().to_be_bytes()[16 - field.bytes()..]);
                if !exact {
                    bytes.extend(&field.mask().to_be_bytes()[16 - field.bytes()..]);
                }
            }
            if let Some((header, payload)) = unknown {
                bytes.extend(header.class.to_be_bytes());
                bytes.push(header.number << 1);
                bytes.push(u8::try_from(payload.len()).unwrap());
                bytes.extend(payload);
            }
            Match::decode_fields(&bytes).unwrap()
        })
}

/// Matches whose prerequisites hold, so that their text can be parsed.
pub fn strict_match() -> impl Strategy<Value = Match> {
    let common = vec(
        prop_oneof![
            (0_u8..16, any::<u32>(), any::<u32>()).prop_map(|(n, v, m)| MaskedField::masked(
                Field::reg(n).unwrap(),
                u128::from(v & m),
                m.into()
            )
            .unwrap()),
            (any::<u32>(), any::<u32>()).prop_map(|(v, m)| MaskedField::masked(
                Field::CtMark,
                u128::from(v & m),
                m.into()
            )
            .unwrap()),
            (any::<u8>(), any::<u8>()).prop_map(|(v, m)| MaskedField::masked(
                Field::CtState,
                u128::from(v & m),
                m.into()
            )
            .unwrap()),
            any::<u16>().prop_map(|zone| MaskedField::exact(Field::CtZone, zone.into()).unwrap()),
            (0_u32..0xff00)
                .prop_map(|port| MaskedField::exact(Field::InPort, port.into()).unwrap()),
            masked_of(vec![
                Field::EthSrc,
                Field::EthDst,
                Field::Metadata,
                Field::TunId,
                Field::TunSrc,
                Field::TunIpv6Dst,
                Field::PktMark,
                Field::CtLabel,
                Field::VlanTci
            ]),
        ],
        0..6,
    );
    let kinds = select(vec![
        (None, None, vec![]),
        (
            Some(0x800_u16),
            None,
            vec![
                Field::Ipv4Src,
                Field::Ipv4Dst,
                Field::IpDscp,
                Field::IpEcn,
                Field::IpTtl,
                Field::IpFrag,
                Field::IpProto,
            ],
        ),
        (
            Some(0x800),
            Some(6_u8),
            vec![
                Field::TcpSrc,
                Field::TcpDst,
                Field::TcpFlags,
                Field::Ipv4Src,
            ],
        ),
        (
            Some(0x86dd),
            Some(17),
            vec![
                Field::UdpSrc,
                Field::UdpDst,
                Field::Ipv6Src,
                Field::Ipv6Label,
            ],
        ),
        (Some(0x800), Some(132), vec![Field::SctpSrc, Field::SctpDst]),
        (Some(0x800), Some(1), vec![Field::IcmpType, Field::IcmpCode]),
        (
            Some(0x86dd),
            Some(58),
            vec![Field::Icmpv6Type, Field::Icmpv6Code],
        ),
        (
            Some(0x806),
            None,
            vec![
                Field::ArpOp,
                Field::ArpSpa,
                Field::ArpTpa,
                Field::ArpSha,
                Field::ArpTha,
            ],
        ),
        (
            Some(0x8847),
            None,
            vec![
                Field::MplsLabel,
                Field::MplsTc,
                Field::MplsBos,
                Field::MplsTtl,
            ],
        ),
        (Some(0x88cc), None, vec![]),
    ]);
    (common, kinds, any::<[u128; 4]>(), any::<[u128; 4]>()).prop_map(
        |(common, (eth, proto, fields), values, masks)| {
            let mut builder = Match::builder();
            let mut seen = Vec::new();
            for field in common {
                if !seen.contains(&field.field()) {
                    seen.push(field.field());
                    builder = builder.field_masked(field.field(), field.value(), field.mask());
                }
            }
            if let Some(eth) = eth {
                builder = builder.eth_type(eth);
            }
            if let Some(proto) = proto {
                builder = builder.ip_proto(proto);
            }
            for (index, field) in fields.into_iter().enumerate() {
                let info = field.info();
                let mask = if info.maskable == Maskable::Exact {
                    info.all_ones()
                } else {
                    masks[index % 4] & info.all_ones()
                };
                let limit = if field == Field::ArpOp {
                    0xff
                } else {
                    u128::MAX
                };
                builder = builder.field_masked(field, values[index % 4] & mask & limit, mask);
            }
            builder.build().unwrap()
        },
    )
}

fn subfield() -> impl Strategy<Value = Subfield> {
    let fields: Vec<_> = fixed()
        .into_iter()
        .filter(|field| {
            field.info().access == Access::ReadWrite && field.info().header.class != 0xffff
        })
        .collect();
    (select(fields), any::<u16>(), any::<u16>()).prop_map(|(field, start, bits)| {
        let width = field.info().bits;
        let start = start % width;
        Subfield::new(field, start, 1 + bits % (width - start).min(64)).unwrap()
    })
}

fn bit() -> impl Strategy<Value = Subfield> {
    subfield().prop_map(|field| Subfield::new(field.field(), field.start(), 1).unwrap())
}

pub fn port() -> impl Strategy<Value = OfPort> {
    prop_oneof![
        (0_u32..0xff00).prop_map(OfPort),
        select(vec![
            OfPort::LOCAL,
            OfPort::IN_PORT,
            OfPort::NORMAL,
            OfPort::FLOOD,
            OfPort::ALL,
            OfPort::TABLE
        ])
    ]
}

fn nat() -> impl Strategy<Value = Nat> {
    let addresses = prop_oneof![
        (any::<u32>(), option::of(any::<u32>()))
            .prop_map(|(a, b)| NatAddresses::V4(a.into(), b.filter(|b| *b != a).map(Into::into))),
        // Not IPv4 in IPv6, whose text has dots.
        (any::<u128>(), option::of(any::<u128>())).prop_map(|(a, b)| NatAddresses::V6(
            (a | 1 << 127).into(),
            b.map(|b| (b | 3 << 126).into())
                .filter(|b: &std::net::Ipv6Addr| b.to_bits() != a | 1 << 127)
        )),
    ];
    let ports = (1_u16.., any::<u16>()).prop_map(|(a, b)| (a, if b > a { b } else { 0 }));
    let kind = select(vec![
        NatKind::Existing,
        NatKind::Source,
        NatKind::Destination,
    ]);
    let hash = select(vec![NatHash::Default, NatHash::Hash, NatHash::Random]);
    (
        kind,
        option::of(addresses),
        option::of(ports),
        any::<bool>(),
        hash,
    )
        .prop_map(|(kind, addresses, ports, persistent, hash)| match kind {
            NatKind::Existing => Nat::default(),
            _ => Nat {
                kind,
                addresses,
                ports,
                persistent,
                hash,
            },
        })
}

fn ct(depth: u32) -> impl Strategy<Value = Ct> {
    let zone = prop_oneof![
        any::<u16>().prop_map(CtZone::Number),
        subfield().prop_map(CtZone::Field)
    ];
    let exec = if depth == 0 {
        vec(set_field().prop_map(Action::SetField), 0..3).boxed()
    } else {
        vec(action(depth - 1), 0..3).boxed()
    };
    (
        any::<bool>(),
        any::<bool>(),
        zone,
        option::of(0_u8..255),
        select(vec![0, 21, 69, 500]),
        option::of(nat()),
        exec,
    )
        .prop_map(|(commit, force, zone, table, alg, nat, exec)| Ct {
            commit,
            force,
            zone,
            table: table.map(TableId),
            alg,
            nat,
            exec,
            other_flags: 0,
        })
}

fn learn() -> impl Strategy<Value = Learn> {
    let spec = (subfield(), subfield(), any::<u128>(), 0..5).prop_map(|(a, b, value, form)| {
        let bits = a.bits().min(b.bits());
        let (a, b) = (
            Subfield::new(a.field(), a.start(), bits).unwrap(),
            Subfield::new(b.field(), b.start(), bits).unwrap(),
        );
        let value = value & ((1 << bits) - 1);
        let bytes = value.to_be_bytes()[16 - usize::from(bits.div_ceil(16)) * 2..].to_vec();
        let (source, target) = match form {
            0 => (LearnSource::Field(a), LearnTarget::Match(a)),
            1 => (LearnSource::Field(a), LearnTarget::Match(b)),
            2 => (LearnSource::Field(a), LearnTarget::Load(b)),
            3 => (LearnSource::Value(bytes), LearnTarget::Load(b)),
            _ => (LearnSource::Field(a), LearnTarget::Output),
        };
        LearnSpec {
            bits,
            source,
            target,
        }
    });
    let limit = option::of((1_u32.., option::of(bit())));
    (
        any::<[u16; 5]>(),
        any::<u64>(),
        0_u16..4,
        0_u8..255,
        limit,
        vec(spec, 0..4),
    )
        .prop_map(|(n, cookie, flags, table, limit, specs)| {
            let limit = limit.map(|(flows, result)| LearnLimit { flows, result });
            let result = if limit.is_some_and(|limit| limit.result.is_some()) {
                LearnFlags::WRITE_RESULT
            } else {
                0
            };
            Learn {
                idle_timeout: n[0],
                hard_timeout: n[1],
                priority: n[2],
                cookie: Cookie(cookie),
                flags: LearnFlags(flags | result),
                table: TableId(table),
                fin_idle_timeout: n[3],
                fin_hard_timeout: n[4],
                limit,
                specs,
            }
        })
}

/// Any action, nested `depth` deep.
pub fn action(depth: u32) -> BoxedStrategy<Action> {
    let controller = (
        any::<u16>(),
        1_u16..,
        0_u8..6,
        vec(any::<u8>(), 0..20),
        any::<bool>(),
        option::of(any::<u32>()),
    )
        .prop_map(|(max_len, id, reason, userdata, pause, meter)| {
            Action::Controller(Box::new(Controller {
                max_len,
                controller_id: id,
                reason: PacketInReason(reason),
                userdata,
                pause,
                meter: meter.map(MeterId),
                ..Controller::default()
            }))
        });
    let moves = (subfield(), subfield()).prop_map(|(a, b)| {
        let bits = a.bits().min(b.bits());
        Action::Move {
            source: Subfield::new(a.field(), a.start(), bits).unwrap(),
            target: Subfield::new(b.field(), b.start(), bits).unwrap(),
        }
    });
    let resubmit = (port(), option::of(0_u8..255), any::<bool>()).prop_map(|(port, table, ct)| {
        Action::Resubmit(Resubmit {
            port,
            table: table.map(TableId),
            tuple: if ct {
                ResubmitTuple::Conntrack
            } else {
                ResubmitTuple::Packet
            },
        })
    });
    let multipath = (
        0_u16..6,
        any::<u16>(),
        0_u16..4,
        any::<u16>(),
        any::<u32>(),
        subfield(),
    )
        .prop_map(|(fields, basis, algorithm, max_link, argument, target)| {
            Action::Multipath(Box::new(Multipath {
                fields: HashFields(fields),
                basis,
                algorithm: MultipathAlgorithm(algorithm),
                max_link,
                argument,
                target,
            }))
        });
    let leaf = prop_oneof![
        port().prop_map(Action::output),
        any::<u16>().prop_map(|max_len| Action::Output {
            port: OfPort::CONTROLLER,
            max_len
        }),
        subfield().prop_map(|source| Action::OutputField {
            source,
            max_len: u16::MAX
        }),
        (port(), any::<u32>())
            .prop_map(|(port, max_len)| Action::OutputTruncated { port, max_len }),
        any::<u32>().prop_map(|id| Action::Group(GroupId(id))),
        any::<u32>().prop_map(|id| Action::Meter(MeterId(id & 0xffff))),
        any::<u32>().prop_map(Action::SetQueue),
        set_field().prop_map(Action::SetField),
        moves,
        subfield().prop_map(Action::Push),
        subfield().prop_map(Action::Pop),
        vec(any::<u16>(), 1..5).prop_map(Action::DecTtlIds),
        any::<u8>().prop_map(Action::SetTtl),
        any::<u16>().prop_map(Action::PushVlan),
        any::<u16>().prop_map(Action::PopMpls),
        any::<u8>().prop_map(Action::SetMplsTtl),
        resubmit,
        select(vec![
            Action::PopQueue,
            Action::DecTtl,
            Action::PopVlan,
            Action::DecMplsTtl,
            Action::CtClear,
            Action::Exit
        ]),
        learn().prop_map(|learn| Action::Learn(Box::new(learn))),
        (any::<u32>(), 0_u8..64, 2_u8..=64).prop_map(|(id, clause, clauses)| {
            Action::conjunction(id, clause % clauses, clauses)
        }),
        controller,
        (1_usize..4, any::<u8>())
            .prop_map(|(n, byte)| Action::Note(vec![byte | 1; n * 8 - 2].into())),
        (any::<u16>(), bit())
            .prop_map(|(bytes, target)| Action::CheckPacketLarger { bytes, target }),
        multipath,
        (0_u8..64).prop_map(|n| Action::DeleteField(Field::tun_metadata(n).unwrap())),
        any::<[u16; 2]>().prop_map(|[idle, hard]| Action::FinTimeout { idle, hard }),
        vec(any::<u8>(), 4..20).prop_map(|bytes| {
            // Of an experimenter that nobody knows.
            let mut action = vec![0xff, 0xff, 0, 0, 0x77, 0x77, 0x77, 0x77];
            action.extend(&bytes);
            action.resize(action.len().next_multiple_of(8), 1);
            action[3] = u8::try_from(action.len()).unwrap();
            Action::Unknown(action.into())
        }),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    prop_oneof![
        8 => leaf,
        1 => vec(action(depth - 1), 0..3).prop_map(Action::Clone),
        1 => ct(depth - 1).prop_map(|ct| Action::Ct(Box::new(ct))),
    ]
    .boxed()
}

pub fn instructions() -> impl Strategy<Value = Instructions> {
    let metadata = any::<[u64; 2]>().prop_map(|[value, mask]| WriteMetadata {
        value: value & mask,
        mask,
    });
    (
        vec(action(2), 0..5),
        any::<bool>(),
        vec(action(0), 0..3),
        option::of(metadata),
        option::of(any::<u8>()),
    )
        .prop_map(|(apply, clear, write, metadata, goto)| Instructions {
            apply,
            clear,
            write,
            metadata,
            goto: goto.map(TableId),
            unknown: Vec::new(),
        })
}

pub fn flow(m: impl Strategy<Value = Match>) -> impl Strategy<Value = Flow> {
    (
        m,
        instructions(),
        any::<u8>(),
        any::<[u16; 4]>(),
        any::<u64>(),
        0_u16..32,
    )
        .prop_map(|(match_, instructions, table, n, cookie, flags)| Flow {
            table: TableId(table),
            priority: n[0],
            match_,
            cookie: Cookie(cookie),
            instructions,
            idle_timeout: n[1],
            hard_timeout: n[2],
            flags: FlowFlags(flags),
            importance: n[3],
        })
}

fn flow_mod() -> impl Strategy<Value = FlowMod> {
    let command = select(vec![
        FlowModCommand::Add,
        FlowModCommand::Modify,
        FlowModCommand::ModifyStrict,
        FlowModCommand::Delete,
        FlowModCommand::DeleteStrict,
    ]);
    (
        command,
        flow(loose_match()),
        any::<u64>(),
        port(),
        any::<u32>(),
    )
        .prop_map(
            |(command, flow, cookie_mask, out_port, out_group)| FlowMod {
                command,
                flow,
                cookie_mask,
                out_port,
                out_group: GroupId(out_group),
            },
        )
}

pub fn group() -> impl Strategy<Value = Group> {
    let bucket = (
        any::<u32>(),
        any::<u16>(),
        option::of(port()),
        option::of(any::<u32>()),
        vec(action(1), 0..3),
    )
        .prop_map(|(id, weight, watch_port, watch_group, actions)| Bucket {
            id: BucketId(id),
            weight: Some(weight),
            watch_port,
            watch_group: watch_group.map(GroupId),
            actions,
        });
    let fields = vec(
        select(vec![
            Field::Ipv4Src,
            Field::TcpDst,
            Field::EthSrc,
            Field::IpProto,
        ]),
        0..3,
    )
    .prop_map(|mut fields| {
        fields.sort();
        fields.dedup();
        fields
            .into_iter()
            .map(|field| {
                MaskedField::masked(field, field.info().all_ones(), field.info().all_ones())
                    .unwrap()
            })
            .collect::<Vec<_>>()
    });
    let selection = (select(vec!["hash", "dp_hash"]), any::<u64>(), fields).prop_map(
        |(method, parameter, fields)| Selection {
            method: method.to_owned(),
            parameter,
            fields,
        },
    );
    let kind = select(vec![
        GroupType::All,
        GroupType::Select,
        GroupType::Indirect,
        GroupType::FastFailover,
    ]);
    (any::<u32>(), kind, option::of(selection), vec(bucket, 0..4)).prop_map(
        |(id, kind, selection, buckets)| Group {
            id: GroupId(id),
            kind,
            selection,
            buckets,
        },
    )
}

fn group_mod() -> impl Strategy<Value = GroupMod> {
    (group(), any::<u32>(), 0..6).prop_map(|(group, bucket, form)| match form {
        0 => GroupMod::Add(group),
        1 => GroupMod::Modify(group),
        2 => GroupMod::AddOrModify(group),
        3 => GroupMod::Delete(group.id),
        4 => GroupMod::InsertBuckets {
            group: group.id,
            after: BucketId(bucket),
            buckets: group.buckets,
        },
        _ => GroupMod::RemoveBucket {
            group: group.id,
            bucket: BucketId(bucket),
        },
    })
}

pub fn meter() -> impl Strategy<Value = Meter> {
    let band =
        (option::of(any::<u8>()), any::<[u32; 2]>()).prop_map(|(level, [rate, burst])| Band {
            kind: level.map_or(BandType::Drop, BandType::DscpRemark),
            rate,
            burst,
        });
    let unit = select(vec![
        MeterUnit::KilobitsPerSecond,
        MeterUnit::PacketsPerSecond,
    ]);
    (
        any::<u32>(),
        unit,
        any::<bool>(),
        any::<bool>(),
        vec(band, 0..4),
    )
        .prop_map(|(id, unit, burst, stats, bands)| Meter {
            id: MeterId(id),
            unit,
            burst,
            stats,
            bands,
        })
}

fn duration() -> impl Strategy<Value = Duration> {
    (any::<u32>(), 0_u32..1_000_000_000)
        .prop_map(|(seconds, nanoseconds)| Duration::new(seconds.into(), nanoseconds))
}

fn flow_stats() -> impl Strategy<Value = FlowStats> {
    (
        flow(loose_match()),
        duration(),
        option::of(duration()),
        any::<[u64; 2]>(),
    )
        .prop_map(|(flow, duration, idle, [packets, bytes])| FlowStats {
            flow,
            duration,
            idle,
            packets,
            bytes,
        })
}

fn switch_port() -> impl Strategy<Value = Port> {
    (
        any::<u32>(),
        any::<[u8; 6]>(),
        "[a-z0-9]{0,15}",
        any::<[u32; 2]>(),
        vec(any::<u8>(), 0..40),
    )
        .prop_map(
            |(number, address, name, [config, state], properties)| Port {
                number: OfPort(number),
                address: MacAddr(address),
                name,
                config,
                state,
                properties,
            },
        )
}

fn maps() -> impl Strategy<Value = Vec<TlvMap>> {
    vec(
        (any::<u16>(), any::<u8>(), any::<u8>(), any::<u16>()).prop_map(
            |(class, kind, length, index)| TlvMap {
                class,
                kind,
                length,
                index,
            },
        ),
        0..4,
    )
}

fn packet() -> impl Strategy<Value = PacketIn2> {
    (
        vec(any::<u8>(), 0..80),
        option::of(any::<u32>()),
        any::<u8>(),
        any::<u64>(),
        any::<u8>(),
        loose_match(),
        vec(any::<u8>(), 0..20),
        option::of(vec(any::<u8>(), 0..40)),
    )
        .prop_map(
            |(packet, full_len, table, cookie, reason, metadata, userdata, continuation)| {
                PacketIn2 {
                    packet,
                    full_len,
                    table: TableId(table),
                    cookie: Cookie(cookie),
                    reason: PacketInReason(reason),
                    metadata,
                    userdata,
                    continuation,
                    unknown: vec![(77, vec![1, 2, 3])],
                }
            },
        )
}

fn tuple() -> impl Strategy<Value = CtTuple> {
    let address = || {
        option::of(prop_oneof![
            any::<u32>().prop_map(|bits| std::net::IpAddr::V4(bits.into())),
            any::<u128>().prop_map(|bits| std::net::IpAddr::V6((bits | 1 << 127).into())),
        ])
    };
    (
        address(),
        address(),
        option::of(any::<u16>()),
        option::of(any::<u16>()),
        option::of(any::<u16>()),
        option::of(any::<u8>()),
        option::of(any::<u8>()),
    )
        .prop_map(
            |(
                source,
                destination,
                source_port,
                destination_port,
                icmp_id,
                icmp_type,
                icmp_code,
            )| CtTuple {
                source,
                destination,
                source_port,
                destination_port,
                icmp_id,
                icmp_type,
                icmp_code,
            },
        )
}

fn multipart() -> impl Strategy<Value = MultipartBody> {
    let pairs = || vec(any::<(u64, u64)>(), 0..4);
    let group_stats = (any::<[u32; 2]>(), any::<[u64; 2]>(), duration(), pairs()).prop_map(
        |([id, references], [packets, bytes], duration, buckets)| GroupStats {
            id: GroupId(id),
            references,
            packets,
            bytes,
            duration,
            buckets,
        },
    );
    let meter_stats = (any::<[u32; 2]>(), any::<[u64; 2]>(), duration(), pairs()).prop_map(
        |([id, flows], [packets, bytes], duration, bands)| MeterStats {
            id: MeterId(id),
            flows,
            packets,
            bytes,
            duration,
            bands,
        },
    );
    let table = (any::<u8>(), any::<u32>(), any::<[u64; 2]>()).prop_map(
        |(id, active, [lookups, matches])| TableStats {
            id: TableId(id),
            active,
            lookups,
            matches,
        },
    );
    let table_description =
        (any::<u8>(), any::<u32>(), 0_usize..3).prop_map(|(id, config, n)| TableDescription {
            id: TableId(id),
            config,
            properties: vec![7; n * 8],
        });
    let port_stats = (
        any::<u32>(),
        duration(),
        any::<[(u64, u64); 4]>(),
        0_usize..3,
    )
        .prop_map(|(number, duration, p, n)| PortStats {
            number: OfPort(number),
            duration,
            packets: p[0],
            bytes: p[1],
            dropped: p[2],
            errors: p[3],
            properties: vec![7; n * 8],
        });
    prop_oneof![
        "[a-z ]{0,30}".prop_map(|text| MultipartBody::Description(Box::new(Description {
            manufacturer: text.clone(),
            serial: text,
            ..Description::default()
        }))),
        vec(flow_stats(), 0..4).prop_map(MultipartBody::Flows),
        (any::<u32>(), any::<[u64; 2]>()).prop_map(|(flows, [packets, bytes])| {
            MultipartBody::Aggregate(Aggregate {
                flows,
                packets,
                bytes,
            })
        }),
        vec(table, 0..4).prop_map(MultipartBody::Tables),
        vec(table_description, 0..4).prop_map(MultipartBody::TableDescriptions),
        vec(port_stats, 0..4).prop_map(MultipartBody::PortStats),
        vec(group_stats, 0..4).prop_map(MultipartBody::GroupStats),
        vec(group(), 0..4).prop_map(MultipartBody::Groups),
        any::<[u32; 10]>().prop_map(|n| MultipartBody::GroupFeatures(GroupFeatures {
            types: n[0],
            capabilities: n[1],
            max_groups: [n[2], n[3], n[4], n[5]],
            actions: [n[6], n[7], n[8], n[9]]
        })),
        vec(meter_stats, 0..4).prop_map(MultipartBody::MeterStats),
        vec(meter(), 0..4).prop_map(MultipartBody::Meters),
        any::<([u32; 3], u8, u8)>().prop_map(|(n, max_bands, max_color)| {
            MultipartBody::MeterFeatures(MeterFeatures {
                max_meters: n[0],
                band_types: n[1],
                capabilities: n[2],
                max_bands,
                max_color,
            })
        }),
        vec(switch_port(), 0..4).prop_map(MultipartBody::Ports),
        vec(any::<u8>(), 0..20).prop_map(|body| MultipartBody::Unknown { kind: 99, body }),
    ]
}

fn request() -> impl Strategy<Value = MultipartRequest> {
    let filter = || {
        (
            any::<u8>(),
            any::<[u32; 2]>(),
            any::<[u64; 2]>(),
            loose_match(),
        )
            .prop_map(
                |(table, [port, group], [cookie, cookie_mask], match_)| FlowFilter {
                    table: TableId(table),
                    out_port: OfPort(port),
                    out_group: GroupId(group),
                    cookie: Cookie(cookie),
                    cookie_mask,
                    match_,
                },
            )
    };
    prop_oneof![
        filter().prop_map(MultipartRequest::Flows),
        filter().prop_map(MultipartRequest::Aggregate),
        select(vec![
            MultipartRequest::Description,
            MultipartRequest::Tables,
            MultipartRequest::TableDescriptions,
            MultipartRequest::GroupFeatures,
            MultipartRequest::MeterFeatures
        ]),
        any::<u32>().prop_map(|n| MultipartRequest::PortStats(OfPort(n))),
        any::<u32>().prop_map(|n| MultipartRequest::GroupStats(GroupId(n))),
        any::<u32>().prop_map(|n| MultipartRequest::Groups(GroupId(n))),
        any::<u32>().prop_map(|n| MultipartRequest::MeterStats(MeterId(n))),
        any::<u32>().prop_map(|n| MultipartRequest::Meters(MeterId(n))),
        any::<u32>().prop_map(|n| MultipartRequest::Ports(OfPort(n))),
        vec(any::<u8>(), 0..20).prop_map(|body| MultipartRequest::Unknown { kind: 99, body }),
    ]
}

/// Any message.
pub fn message() -> BoxedStrategy<Message> {
    let bytes = || vec(any::<u8>(), 0..80);
    let error = (any::<bool>(), 0_u16..0xffff, any::<u16>(), bytes()).prop_map(
        |(standard, kind, code, data)| {
            Message::Error(ErrorMessage {
                name: if standard {
                    ErrorName::Standard { kind, code }
                } else {
                    ErrorName::Experimenter {
                        experimenter: kind.into(),
                        code,
                    }
                },
                data,
            })
        },
    );
    let removed = (
        any::<[u8; 2]>(),
        any::<[u16; 3]>(),
        any::<[u64; 3]>(),
        loose_match(),
        duration(),
    )
        .prop_map(
            |([table, reason], n, [cookie, packets, bytes], match_, duration)| {
                Message::FlowRemoved(FlowRemoved {
                    table: TableId(table),
                    reason: FlowRemovedReason(reason),
                    priority: n[0],
                    idle_timeout: n[1],
                    hard_timeout: n[2],
                    cookie: Cookie(cookie),
                    match_,
                    duration,
                    packets,
                    bytes,
                })
            },
        );
    let packet_in = (
        any::<u16>(),
        any::<[u8; 2]>(),
        any::<u64>(),
        loose_match(),
        bytes(),
    )
        .prop_map(|(total_len, [reason, table], cookie, metadata, data)| {
            Message::PacketIn(PacketIn {
                total_len,
                reason: PacketInReason(reason),
                table: TableId(table),
                cookie: Cookie(cookie),
                metadata,
                data,
            })
        });
    let features = (any::<[u64; 1]>(), any::<[u32; 2]>(), any::<[u8; 2]>()).prop_map(
        |([datapath], [buffers, capabilities], [tables, auxiliary])| {
            Message::FeaturesReply(Features {
                datapath,
                buffers,
                tables,
                auxiliary,
                capabilities,
            })
        },
    );
    let meter_mod = (meter(), 0..3).prop_map(|(meter, form)| {
        Message::MeterMod(match form {
            0 => MeterMod::Add(meter),
            1 => MeterMod::Modify(meter),
            _ => MeterMod::Delete(meter.id),
        })
    });
    let async_config =
        || vec((any::<u16>(), any::<u32>()), 0..6).prop_map(|masks| AsyncConfig { masks });
    prop_oneof![
        Just(Message::Hello(Hello::only_1_5())),
        error,
        bytes().prop_map(Message::EchoRequest),
        bytes().prop_map(Message::EchoReply),
        features,
        any::<[u16; 2]>().prop_map(|[flags, miss_send_len]| Message::SetConfig(SwitchConfig {
            flags,
            miss_send_len
        })),
        any::<[u16; 2]>().prop_map(|[flags, miss_send_len]| Message::GetConfigReply(
            SwitchConfig {
                flags,
                miss_send_len
            }
        )),
        packet_in,
        packet().prop_map(Message::PacketIn2),
        packet().prop_map(Message::Resume),
        removed,
        (
            select(vec![
                PortChange::Add,
                PortChange::Delete,
                PortChange::Modify
            ]),
            switch_port()
        )
            .prop_map(|(change, port)| Message::PortStatus(PortStatus { change, port })),
        (loose_match(), vec(action(1), 0..4), bytes()).prop_map(|(metadata, actions, data)| {
            Message::PacketOut(PacketOut {
                metadata,
                actions,
                data,
            })
        }),
        flow_mod().prop_map(Message::FlowMod),
        group_mod().prop_map(Message::GroupMod),
        meter_mod,
        request().prop_map(Message::MultipartRequest),
        (any::<bool>(), multipart())
            .prop_map(|(more, body)| Message::MultipartReply(MultipartReply { more, body })),
        select(vec![
            Message::FeaturesRequest,
            Message::GetConfigRequest,
            Message::BarrierRequest,
            Message::BarrierReply,
            Message::GetAsyncRequest,
            Message::TlvTableRequest
        ]),
        (any::<u32>(), any::<u64>())
            .prop_map(|(role, generation)| Message::RoleRequest(Role { role, generation })),
        (any::<u32>(), any::<u64>())
            .prop_map(|(role, generation)| Message::RoleReply(Role { role, generation })),
        async_config().prop_map(Message::SetAsync),
        async_config().prop_map(Message::GetAsyncReply),
        (any::<u32>(), any::<[u16; 2]>()).prop_map(
            |(id, [control, flags])| Message::BundleControl(BundleControl {
                bundle: BundleId(id),
                control: ControlType(control),
                flags
            })
        ),
        (any::<u32>(), any::<u16>(), bytes()).prop_map(|(id, flags, message)| Message::BundleAdd(
            BundleAdd {
                bundle: BundleId(id),
                flags,
                message
            }
        )),
        any::<u32>().prop_map(|format| Message::SetPacketInFormat(PacketInFormat(format))),
        any::<u16>().prop_map(Message::SetControllerId),
        (
            select(vec![TlvCommand::Add, TlvCommand::Delete, TlvCommand::Clear]),
            maps()
        )
            .prop_map(|(command, maps)| Message::TlvTableMod(TlvTableMod { command, maps })),
        (any::<u32>(), any::<u16>(), maps()).prop_map(|(max_space, max_fields, maps)| {
            Message::TlvTableReply(TlvTable {
                max_space,
                max_fields,
                maps,
            })
        }),
        any::<u16>().prop_map(Message::CtFlushZone),
        (any::<u8>(), option::of(any::<u16>()), tuple(), tuple()).prop_map(
            |(protocol, zone, original, reply)| Message::CtFlush(CtFlush {
                protocol,
                zone,
                original,
                reply
            })
        ),
        (40_u8..60, bytes()).prop_map(|(kind, body)| Message::Unknown { kind, body }),
        bytes().prop_map(|mut body| {
            body.splice(0..0, [0x77; 8]);
            Message::Unknown { kind: 4, body }
        }),
    ]
    .boxed()
}
