//! Open vSwitch's own messages (`include/openflow/nicira-ext.h`).

use std::net::{IpAddr, Ipv6Addr};

use super::{Message, PacketIn2, kind};
use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::wire::{Put, Reader, padding};

/// `NX_VENDOR_ID`.
const NICIRA: u32 = 0x0000_2320;

/// `NXT_*`.
mod subtype {
    pub(super) const SET_PACKET_IN_FORMAT: u32 = 16;
    pub(super) const SET_CONTROLLER_ID: u32 = 20;
    pub(super) const TLV_TABLE_MOD: u32 = 24;
    pub(super) const TLV_TABLE_REQUEST: u32 = 25;
    pub(super) const TLV_TABLE_REPLY: u32 = 26;
    pub(super) const RESUME: u32 = 28;
    pub(super) const CT_FLUSH_ZONE: u32 = 29;
    pub(super) const PACKET_IN2: u32 = 30;
    pub(super) const CT_FLUSH: u32 = 32;
}

/// In which form packets come (`enum ofputil_packet_in_format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PacketInFormat(pub u32);

impl PacketInFormat {
    /// [`super::PacketIn`].
    pub const STANDARD: Self = Self(0);
    /// [`PacketIn2`].
    pub const NICIRA2: Self = Self(2);
}

/// A Geneve option that is known as tunnel metadata (`struct nx_tlv_map`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TlvMap {
    /// The option's class.
    pub class: u16,
    /// The option's type.
    pub kind: u8,
    /// Bytes of its value: a multiple of 4, at most 124.
    pub length: u8,
    /// The number of the tunnel metadata, 0–63.
    pub index: u16,
}

/// The mapping of options to tunnel metadata (`struct nx_tlv_table_reply`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlvTable {
    /// Bytes of values there is room for.
    pub max_space: u32,
    /// Fields there are.
    pub max_fields: u16,
    /// The mapping.
    pub maps: Vec<TlvMap>,
}

/// What is done with the mapping (`enum nx_tlv_table_mod_command`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlvCommand {
    /// Adds.
    Add,
    /// Removes.
    Delete,
    /// Removes all.
    Clear,
}

/// Changes the mapping (`struct nx_tlv_table_mod`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlvTableMod {
    /// What is done.
    pub command: TlvCommand,
    /// With which.
    pub maps: Vec<TlvMap>,
}

/// One direction of a connection (`NXT_CT_TUPLE_*`); what is `None` is not
/// compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CtTuple {
    /// Source address.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// Source port.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
    /// ICMP identifier, for ICMP.
    pub icmp_id: Option<u16>,
    /// ICMP type, for ICMP.
    pub icmp_type: Option<u8>,
    /// ICMP code, for ICMP.
    pub icmp_code: Option<u8>,
}

impl CtTuple {
    /// Whether nothing is compared.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

/// Forgets connections (`NXT_CT_FLUSH`, Open vSwitch 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CtFlush {
    /// The protocol, 0 for all.
    pub protocol: u8,
    /// The zone; `None` for all (ovs-ofctl sends zone 0 then, which Open vSwitch takes so).
    pub zone: Option<u16>,
    /// The original direction.
    pub original: CtTuple,
    /// The reply direction.
    pub reply: CtTuple,
}

/// `enum nx_ct_flush_tlv_type`.
mod flush_property {
    pub(super) const ORIG_TUPLE: u16 = 0;
    pub(super) const REPLY_TUPLE: u16 = 1;
    pub(super) const ZONE_ID: u16 = 2;
}
/// `enum nx_ct_flush_tuple_tlv_type`.
mod tuple_property {
    pub(super) const SRC: u16 = 0;
    pub(super) const DST: u16 = 1;
    pub(super) const SRC_PORT: u16 = 2;
    pub(super) const DST_PORT: u16 = 3;
    pub(super) const ICMP_ID: u16 = 4;
    pub(super) const ICMP_TYPE: u16 = 5;
    pub(super) const ICMP_CODE: u16 = 6;
}

/// Reads an experimenter message.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let body = reader.peek();
    let unknown = || Message::Unknown {
        kind: kind::EXPERIMENTER,
        body: body.to_vec(),
    };
    if reader.u32("experimenter")? != NICIRA {
        reader.rest();
        return Ok(unknown());
    }
    Ok(match reader.u32("exp_type")? {
        subtype::SET_PACKET_IN_FORMAT => {
            Message::SetPacketInFormat(PacketInFormat(reader.u32("packet_in_format")?))
        }
        subtype::SET_CONTROLLER_ID => {
            reader.skip(6, "controller_id.zero")?;
            Message::SetControllerId(reader.u16("controller_id")?)
        }
        subtype::TLV_TABLE_MOD => {
            let start = *reader;
            let command = match reader.u16("tlv_table_mod.command")? {
                0 => TlvCommand::Add,
                1 => TlvCommand::Delete,
                2 => TlvCommand::Clear,
                other => {
                    return start.error("tlv_table_mod.command", DecodeReason::Value(other.into()));
                }
            };
            reader.skip(6, "tlv_table_mod.pad")?;
            Message::TlvTableMod(TlvTableMod {
                command,
                maps: read_maps(reader)?,
            })
        }
        subtype::TLV_TABLE_REQUEST => Message::TlvTableRequest,
        subtype::TLV_TABLE_REPLY => {
            let max_space = reader.u32("tlv_table.max_option_space")?;
            let max_fields = reader.u16("tlv_table.max_fields")?;
            reader.skip(10, "tlv_table.reserved")?;
            Message::TlvTableReply(TlvTable {
                max_space,
                max_fields,
                maps: read_maps(reader)?,
            })
        }
        subtype::RESUME => Message::Resume(PacketIn2::read(reader)?),
        subtype::PACKET_IN2 => Message::PacketIn2(PacketIn2::read(reader)?),
        subtype::CT_FLUSH_ZONE => {
            reader.skip(6, "zone_id.zero")?;
            Message::CtFlushZone(reader.u16("zone_id")?)
        }
        subtype::CT_FLUSH => return read_flush(reader, unknown),
        _ => {
            reader.rest();
            unknown()
        }
    })
}

/// Appends what follows the header.
pub(super) fn put(out: &mut Vec<u8>, message: &Message) -> Result<(), EncodeError> {
    let mut head = |subtype: u32| {
        out.u32(NICIRA);
        out.u32(subtype);
    };
    match message {
        Message::SetPacketInFormat(format) => {
            head(subtype::SET_PACKET_IN_FORMAT);
            out.u32(format.0);
        }
        Message::SetControllerId(id) => {
            head(subtype::SET_CONTROLLER_ID);
            out.zeros(6);
            out.u16(*id);
        }
        Message::TlvTableMod(change) => {
            head(subtype::TLV_TABLE_MOD);
            out.u16(match change.command {
                TlvCommand::Add => 0,
                TlvCommand::Delete => 1,
                TlvCommand::Clear => 2,
            });
            out.zeros(6);
            put_maps(out, &change.maps);
        }
        Message::TlvTableRequest => head(subtype::TLV_TABLE_REQUEST),
        Message::TlvTableReply(table) => {
            head(subtype::TLV_TABLE_REPLY);
            out.u32(table.max_space);
            out.u16(table.max_fields);
            out.zeros(10);
            put_maps(out, &table.maps);
        }
        Message::Resume(packet) => {
            head(subtype::RESUME);
            packet.put(out)?;
        }
        Message::PacketIn2(packet) => {
            head(subtype::PACKET_IN2);
            packet.put(out)?;
        }
        Message::CtFlushZone(zone) => {
            head(subtype::CT_FLUSH_ZONE);
            out.zeros(6);
            out.u16(*zone);
        }
        Message::CtFlush(flush) => {
            head(subtype::CT_FLUSH);
            put_flush(out, flush);
        }
        _ => {
            return Err(EncodeError::Invalid {
                what: "message",
                reason: "it is not one of Open vSwitch's own",
            });
        }
    }
    Ok(())
}

fn read_maps(reader: &mut Reader<'_>) -> Result<Vec<TlvMap>, DecodeError> {
    let mut maps = Vec::with_capacity(reader.len() / 8);
    while !reader.is_empty() {
        let class = reader.u16("tlv_map.option_class")?;
        let kind = reader.u8("tlv_map.option_type")?;
        let length = reader.u8("tlv_map.option_len")?;
        let index = reader.u16("tlv_map.index")?;
        reader.skip(2, "tlv_map.pad")?;
        maps.push(TlvMap {
            class,
            kind,
            length,
            index,
        });
    }
    Ok(maps)
}

fn put_maps(out: &mut Vec<u8>, maps: &[TlvMap]) {
    for map in maps {
        out.u16(map.class);
        out.u8(map.kind);
        out.u8(map.length);
        out.u16(map.index);
        out.zeros(2);
    }
}

fn read_flush(
    reader: &mut Reader<'_>,
    unknown: impl Fn() -> Message,
) -> Result<Message, DecodeError> {
    let mut flush = CtFlush {
        protocol: reader.u8("ct_flush.ip_proto")?,
        ..CtFlush::default()
    };
    reader.skip(7, "ct_flush.pad")?;
    let mut known = true;
    properties(reader, |kind, body| {
        match kind {
            flush_property::ORIG_TUPLE => known &= read_tuple(body, &mut flush.original)?,
            flush_property::REPLY_TUPLE => known &= read_tuple(body, &mut flush.reply)?,
            flush_property::ZONE_ID => flush.zone = Some(body.u16("ct_flush.zone")?),
            _ => known = false,
        }
        Ok(())
    })?;
    Ok(if known {
        Message::CtFlush(flush)
    } else {
        unknown()
    })
}

/// Whether all parts are known.
fn read_tuple(reader: &mut Reader<'_>, tuple: &mut CtTuple) -> Result<bool, DecodeError> {
    let mut known = true;
    reader.skip(4, "ct_tuple.pad")?;
    properties(reader, |kind, body| {
        let address = |body: &mut Reader<'_>| {
            let address = Ipv6Addr::from_bits(body.u128("ct_tuple.address")?);
            Ok(Some(match address.to_ipv4_mapped() {
                Some(address) => IpAddr::V4(address),
                None => IpAddr::V6(address),
            }))
        };
        match kind {
            tuple_property::SRC => tuple.source = address(body)?,
            tuple_property::DST => tuple.destination = address(body)?,
            tuple_property::SRC_PORT => tuple.source_port = Some(body.u16("ct_tuple.src_port")?),
            tuple_property::DST_PORT => {
                tuple.destination_port = Some(body.u16("ct_tuple.dst_port")?);
            }
            tuple_property::ICMP_ID => tuple.icmp_id = Some(body.u16("ct_tuple.icmp_id")?),
            tuple_property::ICMP_TYPE => tuple.icmp_type = Some(body.u8("ct_tuple.icmp_type")?),
            tuple_property::ICMP_CODE => tuple.icmp_code = Some(body.u8("ct_tuple.icmp_code")?),
            _ => known = false,
        }
        Ok(())
    })?;
    Ok(known)
}

/// Calls `take` for each property.
fn properties(
    reader: &mut Reader<'_>,
    mut take: impl FnMut(u16, &mut Reader<'_>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    while !reader.is_empty() {
        let start = *reader;
        let kind = reader.u16("property.type")?;
        let length = usize::from(reader.u16("property.len")?);
        let Some(payload) = length.checked_sub(4) else {
            return start.error("property.len", DecodeReason::Length(length));
        };
        let mut body = reader.sub(payload, "property")?;
        reader.skip(padding(length).min(reader.len()), "property.pad")?;
        take(kind, &mut body)?;
    }
    Ok(())
}

fn put_flush(out: &mut Vec<u8>, flush: &CtFlush) {
    out.u8(flush.protocol);
    out.zeros(7);
    let tuples = [
        (flush_property::ORIG_TUPLE, &flush.original),
        (flush_property::REPLY_TUPLE, &flush.reply),
    ];
    for (kind, tuple) in tuples {
        if tuple.is_any() {
            continue;
        }
        let start = out.len();
        out.u16(kind);
        out.u16(0);
        out.zeros(4);
        put_tuple(out, tuple);
        // At most seven small properties.
        out.patch_u16(
            start + 2,
            u16::try_from(out.len() - start).unwrap_or(u16::MAX),
        );
    }
    if let Some(zone) = flush.zone {
        put_property(out, flush_property::ZONE_ID, &padded(zone));
    }
}

fn put_tuple(out: &mut Vec<u8>, tuple: &CtTuple) {
    let addresses = [
        (tuple_property::SRC, tuple.source),
        (tuple_property::DST, tuple.destination),
    ];
    for (kind, address) in addresses {
        let bytes = match address {
            None => continue,
            Some(IpAddr::V4(address)) => address.to_ipv6_mapped().octets(),
            Some(IpAddr::V6(address)) => address.octets(),
        };
        put_property(out, kind, &bytes);
    }
    let numbers = [
        (tuple_property::SRC_PORT, tuple.source_port),
        (tuple_property::DST_PORT, tuple.destination_port),
        (tuple_property::ICMP_ID, tuple.icmp_id),
    ];
    for (kind, number) in numbers {
        if let Some(number) = number {
            put_property(out, kind, &padded(number));
        }
    }
    let bytes = [
        (tuple_property::ICMP_TYPE, tuple.icmp_type),
        (tuple_property::ICMP_CODE, tuple.icmp_code),
    ];
    for (kind, byte) in bytes {
        if let Some(byte) = byte {
            put_property(out, kind, &[byte]);
        }
    }
}

/// A property of 16 bits counts its padding, unlike others.
fn padded(value: u16) -> [u8; 4] {
    let [high, low] = value.to_be_bytes();
    [high, low, 0, 0]
}

fn put_property(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let start = out.len();
    out.u16(kind);
    // At most 16 bytes.
    out.u16(u16::try_from(value.len() + 4).unwrap_or(u16::MAX));
    out.bytes(value);
    out.pad8(start);
}
