//! Packets between switch and controller (OpenFlow 1.5.1 §7.3.6, §7.4.1; `nx_packet_in2` in
//! `include/openflow/nicira-ext.h`).

use crate::action::{Action, PacketInReason, put_actions, read_actions};
use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::flow::codec::NO_BUFFER;
use crate::id::{Cookie, OfPort, TableId};
use crate::match_::Match;
use crate::wire::{Put, Reader, padding};

/// A packet in the standard form (OpenFlow 1.5.1 §7.4.1, `struct ofp_packet_in`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketIn {
    /// Bytes of the packet before it was cut.
    pub total_len: u16,
    /// Why it came.
    pub reason: PacketInReason,
    /// The table it came from.
    pub table: TableId,
    /// The cookie of the flow that sent it.
    pub cookie: Cookie,
    /// Its metadata: in_port, registers, tunnel, connection.
    pub metadata: Match,
    /// The packet.
    pub data: Vec<u8>,
}

impl PacketIn {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.skip(4, "packet_in.buffer_id")?;
        let total_len = reader.u16("packet_in.total_len")?;
        let reason = PacketInReason(reader.u8("packet_in.reason")?);
        let table = TableId(reader.u8("packet_in.table_id")?);
        let cookie = Cookie(reader.u64("packet_in.cookie")?);
        let metadata = Match::read(reader)?;
        reader.skip(2, "packet_in.pad")?;
        let data = reader.rest().to_vec();
        Ok(Self {
            total_len,
            reason,
            table,
            cookie,
            metadata,
            data,
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.u32(NO_BUFFER);
        out.u16(self.total_len);
        out.u8(self.reason.0);
        out.u8(self.table.0);
        out.u64(self.cookie.0);
        self.metadata.put(out)?;
        out.zeros(2);
        out.bytes(&self.data);
        Ok(())
    }
}

/// `enum nx_packet_in2_prop_type`.
mod property {
    pub(super) const PACKET: u16 = 0;
    pub(super) const FULL_LEN: u16 = 1;
    pub(super) const BUFFER_ID: u16 = 2;
    pub(super) const TABLE_ID: u16 = 3;
    pub(super) const COOKIE: u16 = 4;
    pub(super) const REASON: u16 = 5;
    pub(super) const METADATA: u16 = 6;
    pub(super) const USERDATA: u16 = 7;
    pub(super) const CONTINUATION: u16 = 8;
}

/// A packet in Open vSwitch's form (`NXT_PACKET_IN2`, `enum nx_packet_in2_prop_type`), with the
/// user data of the action that sent it. Sent back as a
/// resume, it continues where it was paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketIn2 {
    /// The packet, cut to what the action asked for.
    pub packet: Vec<u8>,
    /// Bytes of the packet before it was cut, if it was.
    pub full_len: Option<u32>,
    /// The table it came from.
    pub table: TableId,
    /// The cookie of the flow that sent it.
    pub cookie: Cookie,
    /// Why it came.
    pub reason: PacketInReason,
    /// Its metadata: in_port, registers, tunnel, connection.
    pub metadata: Match,
    /// Bytes of the `controller` action.
    pub userdata: Vec<u8>,
    /// What the switch needs to go on; not to be looked into.
    pub continuation: Option<Vec<u8>>,
    /// Properties that are not known: type and payload.
    pub unknown: Vec<(u16, Vec<u8>)>,
}

impl Default for PacketIn2 {
    fn default() -> Self {
        Self {
            packet: Vec::new(),
            full_len: None,
            table: TableId(0),
            cookie: Cookie(u64::MAX),
            reason: PacketInReason::NO_MATCH,
            metadata: Match::any(),
            userdata: Vec::new(),
            continuation: None,
            unknown: Vec::new(),
        }
    }
}

impl PacketIn2 {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut result = Self::default();
        while !reader.is_empty() {
            let start = *reader;
            let kind = reader.u16("packet_in2.property.type")?;
            let length = usize::from(reader.u16("packet_in2.property.len")?);
            let Some(payload) = length.checked_sub(4) else {
                return start.error("packet_in2.property.len", DecodeReason::Length(length));
            };
            let mut body = reader.sub(payload, "packet_in2.property")?;
            reader.skip(padding(length).min(reader.len()), "packet_in2.property.pad")?;
            match kind {
                property::PACKET => body.rest().clone_into(&mut result.packet),
                property::FULL_LEN => result.full_len = Some(body.u32("packet_in2.full_len")?),
                property::BUFFER_ID => {}
                property::TABLE_ID => result.table = TableId(body.u8("packet_in2.table_id")?),
                property::COOKIE => {
                    body.skip(4, "packet_in2.cookie.pad")?;
                    result.cookie = Cookie(body.u64("packet_in2.cookie")?);
                }
                property::REASON => {
                    result.reason = PacketInReason(body.u8("packet_in2.reason")?);
                }
                property::METADATA => result.metadata = Match::read_fields(&mut body)?,
                property::USERDATA => body.rest().clone_into(&mut result.userdata),
                property::CONTINUATION => result.continuation = Some(body.rest().to_vec()),
                _ => result.unknown.push((kind, body.rest().to_vec())),
            }
        }
        Ok(result)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        put_property(out, property::PACKET, &self.packet)?;
        if let Some(full_len) = self.full_len {
            put_property(out, property::FULL_LEN, &full_len.to_be_bytes())?;
        }
        put_property(out, property::TABLE_ID, &[self.table.0])?;
        if self.cookie.0 != u64::MAX {
            let mut value = [0; 12];
            let (_, low) = value.split_at_mut(4);
            low.copy_from_slice(&self.cookie.0.to_be_bytes());
            put_property(out, property::COOKIE, &value)?;
        }
        put_property(out, property::REASON, &[self.reason.0])?;
        if !self.metadata.is_any() {
            put_property(out, property::METADATA, &self.metadata.encode_fields())?;
        }
        if !self.userdata.is_empty() {
            put_property(out, property::USERDATA, &self.userdata)?;
        }
        if let Some(continuation) = &self.continuation {
            put_property(out, property::CONTINUATION, continuation)?;
        }
        for (kind, payload) in &self.unknown {
            put_property(out, *kind, payload)?;
        }
        Ok(())
    }
}

fn put_property(out: &mut Vec<u8>, kind: u16, value: &[u8]) -> Result<(), EncodeError> {
    let start = out.len();
    let length = value.len() + 4;
    let field = u16::try_from(length).map_err(|_| EncodeError::TooLong {
        what: "packet-in property",
        length: value.len(),
        limit: usize::from(u16::MAX) - 4,
    })?;
    out.u16(kind);
    out.u16(field);
    out.bytes(value);
    out.pad8(start);
    Ok(())
}

/// Sends a packet (OpenFlow 1.5.1 §7.3.6, `struct ofp_packet_out`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketOut {
    /// Its metadata; at least the ingress port.
    pub metadata: Match,
    /// What is done with it.
    pub actions: Vec<Action>,
    /// The packet.
    pub data: Vec<u8>,
}

impl PacketOut {
    /// A packet that seems to come from `in_port` ([`OfPort::CONTROLLER`] or
    /// [`OfPort::LOCAL`] where it comes from nowhere).
    pub fn new(in_port: OfPort, actions: Vec<Action>, data: Vec<u8>) -> Self {
        let metadata = Match::builder()
            .in_port(in_port)
            .build()
            .unwrap_or_default();
        Self {
            metadata,
            actions,
            data,
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        reader.skip(4, "packet_out.buffer_id")?;
        let length = usize::from(reader.u16("packet_out.actions_len")?);
        reader.skip(2, "packet_out.pad")?;
        let metadata = Match::read(reader)?;
        let actions = read_actions(&mut reader.sub(length, "packet_out.actions")?, 0)?;
        Ok(Self {
            metadata,
            actions,
            data: reader.rest().to_vec(),
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.u32(NO_BUFFER);
        let length_at = out.len();
        out.zeros(4);
        self.metadata.put(out)?;
        let start = out.len();
        put_actions(out, &self.actions)?;
        let length = out.len() - start;
        let field = u16::try_from(length).map_err(|_| EncodeError::TooLong {
            what: "actions of a packet-out",
            length,
            limit: usize::from(u16::MAX),
        })?;
        out.patch_u16(length_at, field);
        out.bytes(&self.data);
        Ok(())
    }
}
