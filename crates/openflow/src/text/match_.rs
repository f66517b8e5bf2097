//! Matches as text (`match_format` in `lib/match.c`, `parse_ofp_str` in `lib/ofp-flow.c`).

use std::fmt;
use std::str::FromStr;

use super::value::{self, Value};
use super::{Hex, List, Result, hex_bytes, items, key_value, number};
use crate::error::ParseError;
use crate::field::{Field, Format, Header};
use crate::match_::{MaskedField, Match, UnknownField, VLAN_PRESENT};

const IPV4: u128 = 0x0800;
const IPV6: u128 = 0x86dd;
const ARP: u128 = 0x0806;
const RARP: u128 = 0x8035;

/// Words that stand for types and protocols.
const WORDS: &[(&str, u128, Option<u128>)] = &[
    ("ip", IPV4, None),
    ("ipv6", IPV6, None),
    ("arp", ARP, None),
    ("rarp", RARP, None),
    ("mpls", 0x8847, None),
    ("mplsm", 0x8848, None),
    ("icmp", IPV4, Some(1)),
    ("tcp", IPV4, Some(6)),
    ("udp", IPV4, Some(17)),
    ("sctp", IPV4, Some(132)),
    ("icmp6", IPV6, Some(58)),
    ("tcp6", IPV6, Some(6)),
    ("udp6", IPV6, Some(17)),
    ("sctp6", IPV6, Some(132)),
    ("icmp4", IPV4, Some(1)),
    ("ip6", IPV6, None),
];

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(self, &mut List::new(f))
    }
}

/// The fields that come before the type's word.
const BEFORE: &[Field] = &[
    Field::PacketType,
    Field::PktMark,
    Field::RecircId,
    Field::DpHash,
    Field::ConjId,
    Field::ActsetOutput,
    Field::CtState,
    Field::CtZone,
    Field::CtMark,
    Field::CtLabel,
    Field::CtNwSrc,
    Field::CtIpv6Src,
    Field::CtNwDst,
    Field::CtIpv6Dst,
    Field::CtNwProto,
    Field::CtTpSrc,
    Field::CtTpDst,
];
/// The fields behind it, up to the registers.
const TUNNEL: &[Field] = &[
    Field::TunId,
    Field::TunSrc,
    Field::TunDst,
    Field::TunIpv6Src,
    Field::TunIpv6Dst,
    Field::TunGbpId,
    Field::TunGbpFlags,
    Field::TunErspanVer,
    Field::TunErspanIdx,
    Field::TunErspanDir,
    Field::TunErspanHwid,
    Field::TunGtpuFlags,
    Field::TunGtpuMsgtype,
    Field::TunFlags,
];
/// The fields at the end.
const AFTER: &[Field] = &[
    Field::Ipv6Src,
    Field::Ipv6Dst,
    Field::Ipv6Label,
    Field::Ipv4Src,
    Field::Ipv4Dst,
    Field::ArpSpa,
    Field::ArpTpa,
    Field::IpProto,
    Field::ArpOp,
    Field::ArpSha,
    Field::ArpTha,
    Field::NshFlags,
    Field::NshTtl,
    Field::NshMdtype,
    Field::NshNp,
    Field::NshSpi,
    Field::NshSi,
    Field::NshC1,
    Field::NshC2,
    Field::NshC3,
    Field::NshC4,
    Field::IpDscp,
    Field::IpEcn,
    Field::IpTtl,
    Field::MplsLabel,
    Field::MplsTc,
    Field::MplsTtl,
    Field::MplsBos,
    Field::IpFrag,
    Field::IcmpType,
    Field::IcmpCode,
    Field::Icmpv6Type,
    Field::Icmpv6Code,
    Field::NdTarget,
    Field::NdSll,
    Field::NdTll,
    Field::NdReserved,
    Field::NdOptionsType,
    Field::TcpSrc,
    Field::UdpSrc,
    Field::SctpSrc,
    Field::TcpDst,
    Field::UdpDst,
    Field::SctpDst,
    Field::TcpFlags,
];

/// Prints in the order of ovs-ofctl.
pub(super) fn print(m: &Match, out: &mut List<'_, '_>) -> fmt::Result {
    let eth = m.exact(Field::EthType);
    let proto = m.exact(Field::IpProto);
    let word = WORDS
        .iter()
        .find(|(_, kind, number)| Some(*kind) == eth && number.is_some() && *number == proto);
    let word = word.or_else(|| {
        WORDS
            .iter()
            .find(|(_, kind, n)| Some(*kind) == eth && n.is_none())
    });
    let says_proto = word.is_some_and(|(_, _, number)| number.is_some());
    print_fields(m, out, BEFORE.iter().copied())?;
    if let Some((word, _, _)) = word {
        out.item(format_args!("{word}"))?;
    }
    print_fields(m, out, (0..16).filter_map(Field::reg))?;
    print_fields(m, out, TUNNEL.iter().copied())?;
    print_fields(m, out, (0..64).filter_map(Field::tun_metadata))?;
    print_fields(m, out, [Field::Metadata, Field::InPort].into_iter())?;
    if let Some((value, mask)) = m.get(Field::VlanTci) {
        print_vlan(out, value, mask)?;
    }
    print_fields(m, out, [Field::EthSrc, Field::EthDst].into_iter())?;
    if let (Some(kind), None) = (eth, word) {
        out.item(format_args!("dl_type=0x{kind:04x}"))?;
    }
    let after = AFTER.iter().copied();
    print_fields(
        m,
        out,
        after.filter(|field| !(says_proto && *field == Field::IpProto)),
    )?;
    for unknown in m.unknown() {
        let Header {
            class,
            number,
            experimenter,
        } = unknown.header;
        let form = if unknown.masked { "masked" } else { "exact" };
        out.item(format_args!(
            "unknown({class:#06x}.{number}.{experimenter:#x}.{form}.{})",
            Hex(&unknown.payload, "")
        ))?;
    }
    Ok(())
}

fn print_fields(
    m: &Match,
    out: &mut List<'_, '_>,
    fields: impl Iterator<Item = Field>,
) -> fmt::Result {
    for field in fields {
        let Ok(index) = m.fields().binary_search_by_key(&field, MaskedField::field) else {
            continue;
        };
        let Some(entry) = m.fields().get(index) else {
            continue;
        };
        let name = match_name(field);
        match field {
            Field::IpDscp => out.item(format_args!("nw_tos={}", entry.value() << 2))?,
            _ if is_port(field) && !entry.is_exact() => {
                out.item(format_args!(
                    "{name}={:#x}/{:#x}",
                    entry.value(),
                    entry.mask()
                ))?;
            }
            Field::Ipv6Label if entry.is_exact() => {
                out.item(format_args!("{name}=0x{:05x}", entry.value()))?;
            }
            Field::Ipv6Label => {
                out.item(format_args!(
                    "{name}=0x{:05x}/0x{:05x}",
                    entry.value(),
                    entry.mask()
                ))?;
            }
            // C's `%#x` leaves the prefix of zero out.
            _ if entry.value() == 0 && is_word(field) && entry.is_exact() => {
                out.item(format_args!("{name}=0"))?;
            }
            _ if entry.value() == 0 && is_word(field) => {
                out.item(format_args!("{name}=0/{:#x}", entry.mask()))?;
            }
            Field::CtZone => out.item(format_args!("ct_zone={}", entry.value()))?,
            _ => out.item(format_args!("{name}={}", Value(entry)))?,
        }
    }
    Ok(())
}

fn is_port(field: Field) -> bool {
    matches!(
        field,
        Field::TcpSrc
            | Field::TcpDst
            | Field::UdpSrc
            | Field::UdpDst
            | Field::SctpSrc
            | Field::SctpDst
            | Field::CtTpSrc
            | Field::CtTpDst
            | Field::TunGbpId
    )
}

/// Whether ovs-ofctl prints the field by `%#x`.
fn is_word(field: Field) -> bool {
    field.info().format == Format::Hex && matches!(field.info().bytes, 4 | 8 | 16)
}

/// The name that ovs-ofctl gives a field within a match.
fn match_name(field: Field) -> &'static str {
    match field {
        Field::InPort => "in_port",
        Field::EthSrc => "dl_src",
        Field::EthDst => "dl_dst",
        Field::Ipv4Src => "nw_src",
        Field::Ipv4Dst => "nw_dst",
        Field::IpFrag => "nw_frag",
        Field::TcpSrc | Field::UdpSrc | Field::SctpSrc => "tp_src",
        Field::TcpDst | Field::UdpDst | Field::SctpDst => "tp_dst",
        Field::Icmpv6Type => "icmp_type",
        Field::Icmpv6Code => "icmp_code",
        other => other.name(),
    }
}

fn print_vlan(out: &mut List<'_, '_>, value: u128, mask: u128) -> fmt::Result {
    let (pcp_mask, vid_mask) = (mask & 0xe000, mask & 0x0fff);
    let named = value & mask & VLAN_PRESENT != 0
        && matches!(pcp_mask, 0 | 0xe000)
        && matches!(vid_mask, 0 | 0x0fff)
        && (pcp_mask | vid_mask) != 0;
    if !named {
        if mask == 0xffff {
            return out.item(format_args!("vlan_tci=0x{value:04x}"));
        }
        return out.item(format_args!("vlan_tci=0x{value:04x}/0x{mask:04x}"));
    }
    if vid_mask != 0 {
        out.item(format_args!("dl_vlan={}", value & 0x0fff))?;
    }
    if pcp_mask != 0 {
        out.item(format_args!("dl_vlan_pcp={}", value >> 13))?;
    }
    Ok(())
}

impl FromStr for Match {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self> {
        let mut pairs = Vec::new();
        for item in items(text)? {
            pairs.push(key_value(item));
        }
        from_pairs(&pairs)
    }
}

/// Builds a match of keys and values; prerequisites are checked.
pub(super) fn from_pairs(pairs: &[(&str, &str)]) -> Result<Match> {
    let mut m = Match::any();
    // Words and types first: what other keys mean depends on them.
    for (key, text) in pairs {
        if let Some((_, eth, proto)) = WORDS
            .iter()
            .find(|(word, _, _)| word == key && text.is_empty())
        {
            put(&mut m, key, MaskedField::whole(Field::EthType, *eth))?;
            if let Some(proto) = proto {
                put(&mut m, key, MaskedField::whole(Field::IpProto, *proto))?;
            }
        } else if matches!(*key, "dl_type" | "eth_type") {
            put(&mut m, text, value::parse(Field::EthType, text)?)?;
        }
    }
    let eth = m.exact(Field::EthType);
    let arp = matches!(eth, Some(ARP | RARP));
    let mut unknown = Vec::new();
    for (key, text) in pairs {
        if !arp && matches!(*key, "nw_proto" | "ip_proto") {
            put(&mut m, text, value::parse(Field::IpProto, text)?)?;
        }
    }
    for (key, text) in pairs {
        if *key == "unknown" {
            unknown.push(parse_unknown(text)?);
            continue;
        }
        let word = text.is_empty() && WORDS.iter().any(|(word, _, _)| word == key);
        if !word && !matches!(*key, "dl_type" | "eth_type") {
            put_key(&mut m, key, text, arp)?;
        }
    }
    m.set_unknown(unknown);
    m.check_prerequisites().map_err(|error| {
        let name = match &error {
            crate::MatchError::Prerequisite { field } => field.name(),
            _ => "match",
        };
        ParseError::new(name, error.to_string())
    })?;
    Ok(m)
}

fn put(m: &mut Match, text: &str, field: MaskedField) -> Result<()> {
    m.add(field.field(), field.bytes(), field.value(), field.mask())
        .map_err(|error| ParseError::new(text, error.to_string()))
}

fn put_key(m: &mut Match, key: &str, text: &str, arp: bool) -> Result<()> {
    let field = match key {
        "nw_proto" | "ip_proto" if !arp => return Ok(()),
        "nw_proto" | "ip_proto" => Field::ArpOp,
        "nw_src" if arp => Field::ArpSpa,
        "nw_dst" if arp => Field::ArpTpa,
        "in_port" => Field::InPort,
        "vlan_tci1" => Field::VlanTci,
        "dl_vlan" | "vlan_vid" => return put_vlan(m, key, text),
        "dl_vlan_pcp" => Field::VlanPcp,
        "nw_tos" => Field::NwTos,
        "tp_src" | "tp_dst" | "icmp_type" | "icmp_code" => transport(m, key).ok_or_else(|| {
            ParseError::new(key, "needs tcp, udp, sctp, icmp or icmp6 with their family")
        })?,
        _ => Field::from_name(key).ok_or_else(|| ParseError::new(key, "is not a known field"))?,
    };
    if text.is_empty() {
        return Err(ParseError::new(key, "lacks a value"));
    }
    put(m, text, value::parse(field, text)?)
}

fn transport(m: &Match, key: &str) -> Option<Field> {
    let source = matches!(key, "tp_src" | "icmp_type");
    let icmp_key = key.starts_with("icmp");
    let pair = match (m.exact(Field::EthType), m.exact(Field::IpProto)) {
        (Some(IPV4), Some(1)) => (Field::IcmpType, Field::IcmpCode),
        (Some(IPV6), Some(58)) => (Field::Icmpv6Type, Field::Icmpv6Code),
        (Some(IPV4 | IPV6), Some(6)) if !icmp_key => (Field::TcpSrc, Field::TcpDst),
        (Some(IPV4 | IPV6), Some(17)) if !icmp_key => (Field::UdpSrc, Field::UdpDst),
        (Some(IPV4 | IPV6), Some(132)) if !icmp_key => (Field::SctpSrc, Field::SctpDst),
        _ => return None,
    };
    Some(if source { pair.0 } else { pair.1 })
}

/// `dl_vlan=5` is the tag of that id; `dl_vlan=0xffff` no tag; `vlan_vid` has the "present" bit
/// itself.
fn put_vlan(m: &mut Match, key: &str, text: &str) -> Result<()> {
    if key == "vlan_vid" {
        return put(m, text, value::parse(Field::VlanVid, text)?);
    }
    let vid = number(text)?;
    let (value, mask) = match vid {
        0xffff => (0, 0xffff),
        0..=0x0fff => (vid | VLAN_PRESENT, 0x1fff),
        _ => return Err(ParseError::new(text, "is not a VLAN id")),
    };
    m.add(Field::VlanTci, 2, value, mask)
        .map_err(|error| ParseError::new(text, error.to_string()))
}

fn parse_unknown(text: &str) -> Result<UnknownField> {
    let wrong = || ParseError::new(text, "should be (class.number.experimenter.form.payload)");
    let inner = super::in_brackets(text)?;
    let mut parts = inner.splitn(5, '.');
    let mut next = || parts.next().ok_or_else(wrong);
    let class = super::small(next()?)?;
    let field = super::small::<u8>(next()?)?;
    let experimenter = super::small(next()?)?;
    let masked = match next()? {
        "masked" => true,
        "exact" => false,
        _ => return Err(wrong()),
    };
    let payload = hex_bytes(next()?)?;
    if field > 127 || payload.len() > 247 || masked && payload.len() % 2 != 0 {
        return Err(wrong());
    }
    Ok(UnknownField {
        header: Header::new(class, field, experimenter),
        masked,
        payload,
    })
}
