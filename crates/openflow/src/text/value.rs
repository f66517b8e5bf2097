//! Values of fields as text (`mf_format` and `mf_parse` in `lib/meta-flow.c`).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Result, number};
use crate::error::ParseError;
use crate::field::{Field, Format, Subfield};
use crate::id::{MacAddr, OfPort};
use crate::match_::{MaskedField, all_ones};

/// Names of `ct_state` bits from bit 0.
pub(super) const CT_STATE: &[(u32, &str)] = &[
    (0x01, "new"),
    (0x02, "est"),
    (0x04, "rel"),
    (0x08, "rpl"),
    (0x10, "inv"),
    (0x20, "trk"),
    (0x40, "snat"),
    (0x80, "dnat"),
];
/// Names of TCP flags from bit 0.
pub(super) const TCP_FLAGS: &[(u32, &str)] = &[
    (0x001, "fin"),
    (0x002, "syn"),
    (0x004, "rst"),
    (0x008, "psh"),
    (0x010, "ack"),
    (0x020, "urg"),
    (0x040, "ece"),
    (0x080, "cwr"),
    (0x100, "ns"),
    (0x200, "[200]"),
    (0x400, "[400]"),
    (0x800, "[800]"),
];
const TUN_FLAGS: &[(u32, &str)] = &[(0x01, "oam")];
/// Names, values and masks of `ip_frag`.
pub(super) const FRAG: &[(&str, u128, u128)] = &[
    ("no", 0, 3),
    ("yes", 1, 1),
    ("first", 1, 3),
    ("later", 3, 3),
    ("not_later", 0, 2),
];

/// Displays value and mask of a field as `set_field` and generic fields have them.
pub(super) struct Value<'a>(pub(super) &'a MaskedField);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = self.0;
        let (value, mask) = (field.value(), field.mask());
        let exact = field.is_exact();
        let info = field.field().info();
        if info.is_variable() {
            // All digits: how many there are is how wide the value is.
            let width = 2 + 2 * field.bytes();
            return if exact {
                write!(f, "{value:#0width$x}")
            } else {
                write!(f, "{value:#0width$x}/{mask:#0width$x}")
            };
        }
        match info.format {
            Format::Ethernet => masked(
                f,
                MacAddr::from_bits(value),
                MacAddr::from_bits(mask),
                exact,
            ),
            Format::Ipv4 => ipv4(f, value, mask),
            Format::Ipv6 => ipv6(f, value, mask),
            Format::CtState => flags(f, CT_STATE, value, mask),
            Format::TcpFlags if exact => names(f, TCP_FLAGS, value),
            Format::TcpFlags => flags(f, TCP_FLAGS, value, mask),
            Format::TunFlags => flags(f, TUN_FLAGS, value, mask),
            Format::Frag => match FRAG.iter().find(|(_, v, m)| (*v, *m) == (value, mask)) {
                Some((name, _, _)) => f.write_str(name),
                None => write!(f, "{value:#x}/{mask:#x}"),
            },
            // In decimals these are the reserved ports of OpenFlow 1.0.
            Format::Port if !exact || (0xff00..=0xffff).contains(&value) => {
                hex(f, value, mask, exact)
            }
            Format::Port => OfPort(low32(value)).fmt(f),
            Format::Port16 if exact => {
                let short = u16::try_from(value).unwrap_or(u16::MAX);
                match OfPort::from_u16(short).reserved_name() {
                    Some(name) => f.write_str(name),
                    None => short.fmt(f),
                }
            }
            Format::PacketType if exact => write!(f, "({},{:#x})", value >> 16, value & 0xffff),
            Format::Hex | Format::PacketType => hex(f, value, mask, exact),
            _ if exact => write!(f, "{value}"),
            _ => write!(f, "{value}/{mask:#x}"),
        }
    }
}

fn hex(f: &mut fmt::Formatter<'_>, value: u128, mask: u128, exact: bool) -> fmt::Result {
    if exact {
        write!(f, "{value:#x}")
    } else {
        write!(f, "{value:#x}/{mask:#x}")
    }
}

fn low32(value: u128) -> u32 {
    u32::try_from(value & u128::from(u32::MAX)).unwrap_or(u32::MAX)
}

fn masked(
    f: &mut fmt::Formatter<'_>,
    value: impl fmt::Display,
    mask: impl fmt::Display,
    exact: bool,
) -> fmt::Result {
    if exact {
        write!(f, "{value}")
    } else {
        write!(f, "{value}/{mask}")
    }
}

/// An address, with a prefix length where the mask is one.
pub(super) fn ipv4(f: &mut fmt::Formatter<'_>, value: u128, mask: u128) -> fmt::Result {
    let address = Ipv4Addr::from_bits(low32(value));
    let mask = low32(mask);
    match mask.leading_ones() {
        32 => write!(f, "{address}"),
        prefix if mask == prefix_mask32(prefix) => write!(f, "{address}/{prefix}"),
        _ => write!(f, "{address}/{}", Ipv4Addr::from_bits(mask)),
    }
}

fn prefix_mask32(prefix: u32) -> u32 {
    u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0)
}

/// An address, with a prefix length where the mask is one.
pub(super) fn ipv6(f: &mut fmt::Formatter<'_>, value: u128, mask: u128) -> fmt::Result {
    let address = Ipv6Addr::from_bits(value);
    match mask.leading_ones() {
        128 => write!(f, "{address}"),
        prefix if mask == prefix_mask128(prefix) => write!(f, "{address}/{prefix}"),
        _ => write!(f, "{address}/{}", Ipv6Addr::from_bits(mask)),
    }
}

fn prefix_mask128(prefix: u32) -> u128 {
    u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0)
}

/// `+set-clear`, or hexadecimal where a bit has no name.
fn flags(
    f: &mut fmt::Formatter<'_>,
    names: &[(u32, &str)],
    value: u128,
    mask: u128,
) -> fmt::Result {
    let known = names.iter().fold(0, |all, (bit, _)| all | u128::from(*bit));
    if mask & !known != 0 || mask == 0 {
        return write!(f, "{value:#x}/{mask:#x}");
    }
    for (bit, name) in names {
        let bit = u128::from(*bit);
        if mask & bit != 0 {
            write!(f, "{}{name}", if value & bit != 0 { '+' } else { '-' })?;
        }
    }
    Ok(())
}

/// `syn|ack`: all others are clear.
fn names(f: &mut fmt::Formatter<'_>, names: &[(u32, &str)], value: u128) -> fmt::Result {
    let mut separator = "";
    for (bit, name) in names {
        if value & u128::from(*bit) != 0 {
            write!(f, "{separator}{name}")?;
            separator = "|";
        }
    }
    if separator.is_empty() {
        f.write_str("0")
    } else {
        Ok(())
    }
}

/// Parses value and mask of a field; without a mask all bits count.
pub(super) fn parse(field: Field, text: &str) -> Result<MaskedField> {
    let info = field.info();
    if info.is_variable() {
        return parse_variable(field, text);
    }
    let ones = info.all_ones();
    let (value, mask) = match info.format {
        Format::Frag => match FRAG.iter().find(|(name, _, _)| *name == text) {
            Some((_, value, mask)) => (*value, *mask),
            None => plain(text, ones, number)?,
        },
        Format::CtState => parse_flags(CT_STATE, text, ones)?,
        Format::TcpFlags => parse_flags(TCP_FLAGS, text, ones)?,
        Format::TunFlags => parse_flags(TUN_FLAGS, text, ones)?,
        Format::Ethernet if !text.starts_with("0x") => {
            plain(text, ones, |part| part.parse::<MacAddr>().map(u128::from))?
        }
        Format::Ipv4 if !text.starts_with("0x") => prefix(text, 32, |part| {
            part.parse::<Ipv4Addr>()
                .ok()
                .map(|address| address.to_bits().into())
        })?,
        Format::Ipv6 if !text.starts_with("0x") => prefix(text, 128, |part| {
            part.parse::<Ipv6Addr>().ok().map(Ipv6Addr::to_bits)
        })?,
        Format::Port => plain(text, ones, |part| {
            if part.starts_with("0x") {
                return number(part);
            }
            port(part).map(u128::from)
        })?,
        Format::Port16 => plain(text, ones, |part| {
            let too_large = || ParseError::new(part, "does not fit 16 bits");
            match OfPort::from_reserved_name(part) {
                Some(port) => Ok(port.to_u16().ok_or_else(too_large)?.into()),
                None => number(part),
            }
        })?,
        Format::PacketType if text.starts_with('(') => {
            let inner = super::in_brackets(text)?;
            let (space, kind) = inner
                .split_once(',')
                .ok_or_else(|| ParseError::new(text, "should be (namespace,type)"))?;
            let (space, kind): (u16, u16) =
                (super::small(space.trim())?, super::small(kind.trim())?);
            (u128::from(space) << 16 | u128::from(kind), ones)
        }
        _ => plain(text, ones, number)?,
    };
    // As Open vSwitch: a value outside of its mask is cut, one outside of the field is not.
    if value & !ones != 0 {
        return Err(ParseError::new(text, format!("does not fit {field}")));
    }
    let mask = mask & ones;
    MaskedField::masked(field, value & mask, mask)
        .map_err(|error| ParseError::new(text, error.to_string()))
}

/// A port: number or reserved name.
pub(super) fn port(text: &str) -> Result<OfPort> {
    if let Some(port) = OfPort::from_reserved_name(text) {
        return Ok(port);
    }
    let number: u32 = super::small(text)?;
    // The reserved ports by their numbers of OpenFlow 1.0, too.
    match u16::try_from(number) {
        Ok(short) if short >= 0xff00 => Ok(OfPort::from_u16(short)),
        _ => Ok(OfPort(number)),
    }
}

fn plain(text: &str, ones: u128, parse: impl Fn(&str) -> Result<u128>) -> Result<(u128, u128)> {
    match text.split_once('/') {
        Some((value, mask)) => Ok((parse(value)?, parse(mask)?)),
        None => Ok((parse(text)?, ones)),
    }
}

fn prefix(text: &str, width: u32, parse: impl Fn(&str) -> Option<u128>) -> Result<(u128, u128)> {
    let wrong = || ParseError::new(text, "is not an address");
    let ones = if width == 32 {
        u128::from(u32::MAX)
    } else {
        u128::MAX
    };
    let Some((value, mask)) = text.split_once('/') else {
        return Ok((parse(text).ok_or_else(wrong)?, ones));
    };
    let mask = match mask.parse::<u32>() {
        Ok(0) => 0,
        Ok(prefix) if prefix <= width => ones & ones << (width - prefix),
        Ok(_) => return Err(ParseError::new(text, "has a prefix that is too long")),
        Err(_) => parse(mask).ok_or_else(wrong)?,
    };
    let value = parse(value).ok_or_else(wrong)?;
    Ok((value & mask, mask))
}

fn parse_flags(names: &[(u32, &str)], text: &str, ones: u128) -> Result<(u128, u128)> {
    if !text.starts_with(['+', '-']) {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return plain(text, ones, number);
        }
        // `new|trk`: all others must be clear.
        let mut value = 0;
        for name in text.split('|') {
            value |= flag(names, name, text)?;
        }
        return Ok((value, ones));
    }
    let (mut value, mut mask) = (0, 0);
    let mut rest = text;
    while let Some(sign) = rest.chars().next() {
        let after = rest.get(1..).unwrap_or_default();
        let end = after.find(['+', '-']).unwrap_or(after.len());
        let bit = flag(names, &after[..end], text)?;
        if mask & bit != 0 {
            return Err(ParseError::new(text, "names a flag twice"));
        }
        mask |= bit;
        if sign == '+' {
            value |= bit;
        }
        rest = &after[end..];
    }
    Ok((value, mask))
}

fn flag(names: &[(u32, &str)], name: &str, text: &str) -> Result<u128> {
    names
        .iter()
        .find(|(_, known)| *known == name)
        .map(|(bit, _)| u128::from(*bit))
        .ok_or_else(|| ParseError::new(text, format!("holds an unknown flag `{name}`")))
}

/// Tunnel metadata: as many bytes as the digits of value and mask take.
fn parse_variable(field: Field, text: &str) -> Result<MaskedField> {
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (value, Some(mask)),
        None => (text, None),
    };
    let digits = |part: &str| match part.strip_prefix("0x") {
        Some(digits) => digits.len().div_ceil(2).max(1),
        None => number(part)
            .map_or(1, |number| {
                usize::try_from(16 - number.leading_zeros() / 8).unwrap_or(16)
            })
            .max(1),
    };
    let bytes = digits(value).max(mask.map_or(0, digits));
    let wrong = |error: crate::MatchError| ParseError::new(text, error.to_string());
    let mask = match mask {
        Some(mask) => number(mask)?,
        None => all_ones(field, bytes),
    };
    MaskedField::sized(field, bytes, number(value)? & mask, mask).map_err(wrong)
}

/// Parses a subfield: `reg0`, `NXM_NX_REG0[]`, `reg0[3]`, `reg0[0..15]`.
pub(super) fn subfield(text: &str) -> Result<Subfield> {
    let (name, bits) = match text.split_once('[') {
        Some((name, bits)) => {
            let bits = bits
                .strip_suffix(']')
                .ok_or_else(|| ParseError::new(text, "should end with `]`"))?;
            (name, bits)
        }
        None => (text, ""),
    };
    let field = Field::from_name(name)
        .ok_or_else(|| ParseError::new(text, format!("names an unknown field `{name}`")))?;
    if bits.is_empty() {
        return Ok(Subfield::whole(field));
    }
    let (first, last) = bits.split_once("..").unwrap_or((bits, bits));
    let (first, last): (u16, u16) = (super::small(first)?, super::small(last)?);
    let wrong = || ParseError::new(text, "has bits that the field has not");
    let count = last
        .checked_sub(first)
        .and_then(|more| more.checked_add(1))
        .ok_or_else(wrong)?;
    Subfield::new(field, first, count).map_err(|_| wrong())
}
