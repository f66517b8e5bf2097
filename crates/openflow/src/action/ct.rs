//! `ct` and `nat`: connection tracking (ovs-actions(7), "The ct action").

use std::net::{Ipv4Addr, Ipv6Addr};

use super::codec::{finish, put_field_header};
use super::{Action, nicira, put_actions, read_actions};
use crate::error::{DecodeError, EncodeError};
use crate::field::Subfield;
use crate::id::TableId;
use crate::match_::codec::read_header;
use crate::wire::{Put, Reader};

/// `ct(…)`: sends the packet through the connection tracker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Ct {
    /// `commit`: the connection is remembered.
    pub commit: bool,
    /// `force`: with `commit`, a connection of the other direction is replaced.
    pub force: bool,
    /// `zone=…`.
    pub zone: CtZone,
    /// `table=…`: a copy continues there, tracked. None ends with this packet as it was.
    pub table: Option<TableId>,
    /// `alg=…`: the port of a protocol's helper: 21 for FTP, 69 for TFTP, 0 for none.
    pub alg: u16,
    /// `nat(…)`.
    pub nat: Option<Nat>,
    /// `exec(…)`: sets `ct_mark` and `ct_label`.
    pub exec: Vec<Action>,
    /// Bits of the flags this crate does not know.
    pub other_flags: u16,
}

/// Where the number of a zone comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CtZone {
    /// This number.
    Number(u16),
    /// These 16 bits of a field.
    Field(Subfield),
}

impl Default for CtZone {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// `nat(…)` within `ct(…)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Nat {
    /// Which address is translated.
    pub kind: NatKind,
    /// Addresses to choose from.
    pub addresses: Option<NatAddresses>,
    /// Ports to choose from, first and last; the last is 0 when there is only one.
    pub ports: Option<(u16, u16)>,
    /// `persistent`: the same choice after a reboot.
    pub persistent: bool,
    /// How a port is chosen.
    pub hash: NatHash,
}

/// Which address is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NatKind {
    /// That of a translation that exists.
    #[default]
    Existing,
    /// `src`.
    Source,
    /// `dst`.
    Destination,
}

/// Addresses to choose from, first and last; no last when there is only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatAddresses {
    /// IPv4.
    V4(Ipv4Addr, Option<Ipv4Addr>),
    /// IPv6.
    V6(Ipv6Addr, Option<Ipv6Addr>),
}

/// How a port is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NatHash {
    /// As the switch likes.
    #[default]
    Default,
    /// `hash`: by hash of the packet.
    Hash,
    /// `random`.
    Random,
}

/// `NX_CT_F_*`.
mod flag {
    pub(super) const COMMIT: u16 = 1;
    pub(super) const FORCE: u16 = 2;
}
/// `NX_NAT_F_*`.
mod nat_flag {
    pub(super) const SRC: u16 = 1;
    pub(super) const DST: u16 = 2;
    pub(super) const PERSISTENT: u16 = 4;
    pub(super) const PROTO_HASH: u16 = 8;
    pub(super) const PROTO_RANDOM: u16 = 16;
}
/// `NX_NAT_RANGE_*`.
mod range {
    pub(super) const IPV4_MIN: u16 = 1;
    pub(super) const IPV4_MAX: u16 = 2;
    pub(super) const IPV6_MIN: u16 = 4;
    pub(super) const IPV6_MAX: u16 = 8;
    pub(super) const PROTO_MIN: u16 = 16;
    pub(super) const PROTO_MAX: u16 = 32;
}

/// Reads `struct nx_action_conntrack` behind its subtype.
pub(super) fn read(body: &mut Reader<'_>, depth: usize) -> Result<Option<Ct>, DecodeError> {
    let flags = body.u16("ct.flags")?;
    let zone_source = body.u32("ct.zone_src")?;
    let zone = body.u16("ct.zone")?;
    let table = body.u8("ct.recirc_table")?;
    body.skip(3, "ct.pad")?;
    let alg = body.u16("ct.alg")?;
    let zone = if zone_source == 0 {
        CtZone::Number(zone)
    } else {
        let header = read_header(&mut Reader::new(&zone_source.to_be_bytes()))?;
        let field = nicira::subfield(body, header.header, zone >> 6, (zone & 0x3f) + 1)?;
        let Some(field) = field else { return Ok(None) };
        CtZone::Field(field)
    };
    let mut nat = None;
    let mut exec = read_actions(body, depth + 1)?;
    if let Some(Action::Nat(_)) = exec.first()
        && let Action::Nat(first) = exec.remove(0)
    {
        nat = Some(*first);
    }
    Ok(Some(Ct {
        commit: flags & flag::COMMIT != 0,
        force: flags & flag::FORCE != 0,
        zone,
        table: Some(table)
            .filter(|table| *table != nicira::NO_TABLE)
            .map(TableId),
        alg,
        nat,
        exec,
        other_flags: flags & !(flag::COMMIT | flag::FORCE),
    }))
}

/// Appends `struct nx_action_conntrack` behind its subtype.
pub(super) fn put(out: &mut Vec<u8>, ct: &Ct) -> Result<(), EncodeError> {
    let commit = if ct.commit { flag::COMMIT } else { 0 };
    let force = if ct.force { flag::FORCE } else { 0 };
    out.u16(commit | force | ct.other_flags);
    match ct.zone {
        CtZone::Number(zone) => {
            out.u32(0);
            out.u16(zone);
        }
        CtZone::Field(field) => {
            let header = nicira::nicira_header(field.field());
            if header.len() != 4 {
                return Err(EncodeError::Invalid {
                    what: "ct zone",
                    reason: "experimenter fields do not fit",
                });
            }
            put_field_header(out, field.field(), header);
            out.u16(nicira::offset_bits(field)?);
        }
    }
    out.u8(ct.table.map_or(nicira::NO_TABLE, |table| table.0));
    out.zeros(3);
    out.u16(ct.alg);
    if let Some(nat) = &ct.nat {
        let start = out.len();
        nicira::put_nat(out, nat);
        finish(out, start)?;
    }
    put_actions(out, &ct.exec)
}

/// Reads `struct nx_action_nat` behind its subtype.
pub(super) fn read_nat(body: &mut Reader<'_>) -> Result<Option<Nat>, DecodeError> {
    body.skip(2, "nat.pad")?;
    let flags = body.u16("nat.flags")?;
    let present = body.u16("nat.range_present")?;
    let kind = match flags & (nat_flag::SRC | nat_flag::DST) {
        0 => NatKind::Existing,
        nat_flag::SRC => NatKind::Source,
        nat_flag::DST => NatKind::Destination,
        _ => return Ok(None),
    };
    let hash = match flags & (nat_flag::PROTO_HASH | nat_flag::PROTO_RANDOM) {
        0 => NatHash::Default,
        nat_flag::PROTO_HASH => NatHash::Hash,
        nat_flag::PROTO_RANDOM => NatHash::Random,
        _ => return Ok(None),
    };
    let has = |bit: u16| present & bit != 0;
    let v4 = has(range::IPV4_MIN | range::IPV4_MAX);
    let orphan = |min: u16, max: u16| has(max) && !has(min);
    if flags >= 32
        || present >= 64
        || v4 && has(range::IPV6_MIN | range::IPV6_MAX)
        || orphan(range::IPV4_MIN, range::IPV4_MAX)
        || orphan(range::IPV6_MIN, range::IPV6_MAX)
        || orphan(range::PROTO_MIN, range::PROTO_MAX)
    {
        return Ok(None);
    }
    let mut addresses = None;
    if has(range::IPV4_MIN) {
        let first = Ipv4Addr::from_bits(body.u32("nat.ipv4_min")?);
        let last = has(range::IPV4_MAX)
            .then(|| body.u32("nat.ipv4_max"))
            .transpose()?;
        addresses = Some(NatAddresses::V4(first, last.map(Ipv4Addr::from_bits)));
    }
    if has(range::IPV6_MIN) {
        let first = Ipv6Addr::from_bits(body.u128("nat.ipv6_min")?);
        let last = has(range::IPV6_MAX)
            .then(|| body.u128("nat.ipv6_max"))
            .transpose()?;
        addresses = Some(NatAddresses::V6(first, last.map(Ipv6Addr::from_bits)));
    }
    let mut ports = None;
    if has(range::PROTO_MIN) {
        let first = body.u16("nat.proto_min")?;
        let last = if has(range::PROTO_MAX) {
            body.u16("nat.proto_max")?
        } else {
            0
        };
        ports = Some((first, last));
    }
    let persistent = flags & nat_flag::PERSISTENT != 0;
    Ok(Some(Nat {
        kind,
        addresses,
        ports,
        persistent,
        hash,
    }))
}

/// Appends `struct nx_action_nat` behind its subtype.
pub(super) fn put_nat(out: &mut Vec<u8>, nat: &Nat) {
    let kind = match nat.kind {
        NatKind::Existing => 0,
        NatKind::Source => nat_flag::SRC,
        NatKind::Destination => nat_flag::DST,
    };
    let hash = match nat.hash {
        NatHash::Default => 0,
        NatHash::Hash => nat_flag::PROTO_HASH,
        NatHash::Random => nat_flag::PROTO_RANDOM,
    };
    let present = match nat.addresses {
        None => 0,
        Some(NatAddresses::V4(_, None)) => range::IPV4_MIN,
        Some(NatAddresses::V4(_, Some(_))) => range::IPV4_MIN | range::IPV4_MAX,
        Some(NatAddresses::V6(_, None)) => range::IPV6_MIN,
        Some(NatAddresses::V6(_, Some(_))) => range::IPV6_MIN | range::IPV6_MAX,
    };
    let ports = match nat.ports {
        None => 0,
        Some((_, 0)) => range::PROTO_MIN,
        Some(_) => range::PROTO_MIN | range::PROTO_MAX,
    };
    out.zeros(2);
    out.u16(
        kind | hash
            | if nat.persistent {
                nat_flag::PERSISTENT
            } else {
                0
            },
    );
    out.u16(present | ports);
    match nat.addresses {
        None => {}
        Some(NatAddresses::V4(first, last)) => {
            out.u32(first.to_bits());
            if let Some(last) = last {
                out.u32(last.to_bits());
            }
        }
        Some(NatAddresses::V6(first, last)) => {
            out.uint(first.to_bits(), 16);
            if let Some(last) = last {
                out.uint(last.to_bits(), 16);
            }
        }
    }
    if let Some((first, last)) = nat.ports {
        out.u16(first);
        if last != 0 {
            out.u16(last);
        }
    }
}
