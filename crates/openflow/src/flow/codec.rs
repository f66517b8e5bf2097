//! Flow modifications, flow statistics and instructions as bytes (OpenFlow 1.5.1 §7.2.5, §7.3.4.2,
//! §7.3.5.3).

use std::time::Duration;

use super::{Flow, FlowFilter, FlowFlags, FlowMod, FlowModCommand, FlowStats};
use crate::action::{Instructions, WriteMetadata, put_actions, read_actions};
use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::id::{Cookie, GroupId, OfPort, TableId};
use crate::match_::Match;
use crate::wire::{Put, Reader};

/// `OFP_NO_BUFFER`.
pub(crate) const NO_BUFFER: u32 = u32::MAX;

/// `enum ofp_instruction_type`.
mod kind {
    pub(super) const GOTO_TABLE: u16 = 1;
    pub(super) const WRITE_METADATA: u16 = 2;
    pub(super) const WRITE_ACTIONS: u16 = 3;
    pub(super) const APPLY_ACTIONS: u16 = 4;
    pub(super) const CLEAR_ACTIONS: u16 = 5;
}

/// Reads instructions up to the end of `reader`.
pub(crate) fn read_instructions(reader: &mut Reader<'_>) -> Result<Instructions, DecodeError> {
    let mut result = Instructions::default();
    let mut seen = 0_u8;
    while !reader.is_empty() {
        let start = *reader;
        let kind = reader.u16("instruction.type")?;
        let length = usize::from(reader.u16("instruction.len")?);
        if length < 8 || length % 8 != 0 {
            return start.error("instruction.len", DecodeReason::Length(length));
        }
        let mut body = reader.sub(length - 4, "instruction")?;
        if (kind::GOTO_TABLE..=kind::CLEAR_ACTIONS).contains(&kind) {
            if seen & 1 << kind != 0 {
                return start.error("instruction.type", DecodeReason::Duplicate);
            }
            seen |= 1 << kind;
        }
        match kind {
            kind::GOTO_TABLE => result.goto = Some(TableId(body.u8("goto_table.table_id")?)),
            kind::WRITE_METADATA => {
                body.skip(4, "write_metadata.pad")?;
                let value = body.u64("write_metadata.metadata")?;
                let mask = body.u64("write_metadata.metadata_mask")?;
                result.metadata = Some(WriteMetadata {
                    value: value & mask,
                    mask,
                });
            }
            kind::WRITE_ACTIONS => {
                body.skip(4, "write_actions.pad")?;
                result.write = read_actions(&mut body, 0)?;
            }
            kind::APPLY_ACTIONS => {
                body.skip(4, "apply_actions.pad")?;
                result.apply = read_actions(&mut body, 0)?;
            }
            kind::CLEAR_ACTIONS => result.clear = true,
            _ => result
                .unknown
                .push(start.peek().get(..length).unwrap_or_default().into()),
        }
    }
    Ok(result)
}

/// Appends instructions in the switch's order.
pub(crate) fn put_instructions(
    out: &mut Vec<u8>,
    instructions: &Instructions,
) -> Result<(), EncodeError> {
    if !instructions.apply.is_empty() {
        put_list(out, kind::APPLY_ACTIONS, &instructions.apply)?;
    }
    if instructions.clear {
        out.u16(kind::CLEAR_ACTIONS);
        out.u16(8);
        out.zeros(4);
    }
    if !instructions.write.is_empty() {
        put_list(out, kind::WRITE_ACTIONS, &instructions.write)?;
    }
    if let Some(metadata) = instructions.metadata {
        out.u16(kind::WRITE_METADATA);
        out.u16(24);
        out.zeros(4);
        out.u64(metadata.value & metadata.mask);
        out.u64(metadata.mask);
    }
    if let Some(table) = instructions.goto {
        out.u16(kind::GOTO_TABLE);
        out.u16(8);
        out.u8(table.0);
        out.zeros(3);
    }
    for unknown in &instructions.unknown {
        if unknown.len() < 8 || unknown.len() % 8 != 0 {
            return Err(EncodeError::Invalid {
                what: "unknown instruction",
                reason: "its length must be a multiple of 8",
            });
        }
        out.bytes(unknown);
    }
    Ok(())
}

fn put_list(out: &mut Vec<u8>, kind: u16, actions: &[crate::Action]) -> Result<(), EncodeError> {
    let start = out.len();
    out.u16(kind);
    out.u16(0);
    out.zeros(4);
    put_actions(out, actions)?;
    let length = out.len() - start;
    let field = u16::try_from(length).map_err(|_| EncodeError::TooLong {
        what: "actions",
        length,
        limit: usize::from(u16::MAX) & !7,
    })?;
    out.patch_u16(start + 2, field);
    Ok(())
}

impl FlowMod {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let cookie = Cookie(reader.u64("flow_mod.cookie")?);
        let cookie_mask = reader.u64("flow_mod.cookie_mask")?;
        let table = TableId(reader.u8("flow_mod.table_id")?);
        let start = *reader;
        let command = match reader.u8("flow_mod.command")? {
            0 => FlowModCommand::Add,
            1 => FlowModCommand::Modify,
            2 => FlowModCommand::ModifyStrict,
            3 => FlowModCommand::Delete,
            4 => FlowModCommand::DeleteStrict,
            other => return start.error("flow_mod.command", DecodeReason::Value(other.into())),
        };
        let idle_timeout = reader.u16("flow_mod.idle_timeout")?;
        let hard_timeout = reader.u16("flow_mod.hard_timeout")?;
        let priority = reader.u16("flow_mod.priority")?;
        reader.skip(4, "flow_mod.buffer_id")?;
        let out_port = OfPort(reader.u32("flow_mod.out_port")?);
        let out_group = GroupId(reader.u32("flow_mod.out_group")?);
        let flags = FlowFlags(reader.u16("flow_mod.flags")?);
        let importance = reader.u16("flow_mod.importance")?;
        let match_ = Match::read(reader)?;
        let instructions = read_instructions(reader)?;
        let flow = Flow {
            table,
            priority,
            match_,
            cookie,
            instructions,
            idle_timeout,
            hard_timeout,
            flags,
            importance,
        };
        Ok(Self {
            command,
            flow,
            cookie_mask,
            out_port,
            out_group,
        })
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let flow = &self.flow;
        out.u64(flow.cookie.0);
        out.u64(self.cookie_mask);
        out.u8(flow.table.0);
        out.u8(match self.command {
            FlowModCommand::Add => 0,
            FlowModCommand::Modify => 1,
            FlowModCommand::ModifyStrict => 2,
            FlowModCommand::Delete => 3,
            FlowModCommand::DeleteStrict => 4,
        });
        out.u16(flow.idle_timeout);
        out.u16(flow.hard_timeout);
        out.u16(flow.priority);
        out.u32(NO_BUFFER);
        out.u32(self.out_port.0);
        out.u32(self.out_group.0);
        out.u16(flow.flags.0);
        out.u16(flow.importance);
        flow.match_.put(out)?;
        put_instructions(out, &flow.instructions)
    }
}

impl FlowFilter {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let table = TableId(reader.u8("flow_request.table_id")?);
        reader.skip(3, "flow_request.pad")?;
        let out_port = OfPort(reader.u32("flow_request.out_port")?);
        let out_group = GroupId(reader.u32("flow_request.out_group")?);
        reader.skip(4, "flow_request.pad2")?;
        let cookie = Cookie(reader.u64("flow_request.cookie")?);
        let cookie_mask = reader.u64("flow_request.cookie_mask")?;
        let match_ = Match::read(reader)?;
        Ok(Self {
            table,
            out_port,
            out_group,
            cookie,
            cookie_mask,
            match_,
        })
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.u8(self.table.0);
        out.zeros(3);
        out.u32(self.out_port.0);
        out.u32(self.out_group.0);
        out.zeros(4);
        out.u64(self.cookie.0);
        out.u64(self.cookie_mask);
        self.match_.put(out)
    }
}

/// Counters in OXS form (OpenFlow 1.5.1 §7.2.4); unknown ones are skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) duration: Duration,
    pub(crate) idle: Option<Duration>,
    pub(crate) flows: u32,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Counters {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        reader.skip(2, "ofp_stats.reserved")?;
        let length = usize::from(reader.u16("ofp_stats.length")?);
        let Some(payload) = length.checked_sub(4) else {
            return start.error("ofp_stats.length", DecodeReason::Length(length));
        };
        let mut fields = reader.sub(payload, "ofp_stats.oxs_fields")?;
        reader.skip(
            crate::wire::padding(length).min(reader.len()),
            "ofp_stats.pad",
        )?;
        let mut result = Self::default();
        while !fields.is_empty() {
            let class = fields.u16("oxs_class")?;
            let number = fields.u8("oxs_field")? >> 1;
            let length = usize::from(fields.u8("oxs_length")?);
            let mut value = fields.sub(length, "oxs_value")?;
            match (class, number) {
                (0x8002, 0) => result.duration = read_duration(&mut value)?,
                (0x8002, 1) => result.idle = Some(read_duration(&mut value)?),
                (0x8002, 3) => result.flows = value.u32("oxs_flow_count")?,
                (0x8002, 4) => result.packets = value.u64("oxs_packet_count")?,
                (0x8002, 5) => result.bytes = value.u64("oxs_byte_count")?,
                _ => {}
            }
        }
        Ok(result)
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>, aggregate: bool) {
        let start = out.len();
        out.u16(0);
        out.u16(0);
        let field = |out: &mut Vec<u8>, number: u8, length: u8| {
            out.u16(0x8002);
            out.u8(number << 1);
            out.u8(length);
        };
        if !aggregate {
            field(out, 0, 8);
            put_duration(out, self.duration);
            if let Some(idle) = self.idle {
                field(out, 1, 8);
                put_duration(out, idle);
            }
        }
        field(out, 4, 8);
        out.u64(self.packets);
        field(out, 5, 8);
        out.u64(self.bytes);
        if aggregate {
            field(out, 3, 4);
            out.u32(self.flows);
        }
        let length = out.len() - start;
        out.patch_u16(start + 2, u16::try_from(length).unwrap_or(u16::MAX));
        out.pad8(start);
    }
}

pub(crate) fn read_duration(reader: &mut Reader<'_>) -> Result<Duration, DecodeError> {
    let seconds = reader.u32("duration_sec")?;
    let nanoseconds = reader.u32("duration_nsec")?;
    // The sum fits: u32::MAX seconds and 4.3 more.
    Ok(Duration::from_secs(seconds.into()) + Duration::from_nanos(nanoseconds.into()))
}

pub(crate) fn put_duration(out: &mut Vec<u8>, duration: Duration) {
    out.u32(u32::try_from(duration.as_secs()).unwrap_or(u32::MAX));
    out.u32(duration.subsec_nanos());
}

impl FlowStats {
    /// Reads `struct ofp_flow_desc`.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let length = usize::from(reader.u16("flow_desc.length")?);
        let Some(payload) = length.checked_sub(2) else {
            return start.error("flow_desc.length", DecodeReason::Length(length));
        };
        let mut body = reader.sub(payload, "flow_desc")?;
        body.skip(2, "flow_desc.pad2")?;
        let table = TableId(body.u8("flow_desc.table_id")?);
        body.skip(1, "flow_desc.pad")?;
        let priority = body.u16("flow_desc.priority")?;
        let idle_timeout = body.u16("flow_desc.idle_timeout")?;
        let hard_timeout = body.u16("flow_desc.hard_timeout")?;
        let flags = FlowFlags(body.u16("flow_desc.flags")?);
        let importance = body.u16("flow_desc.importance")?;
        let cookie = Cookie(body.u64("flow_desc.cookie")?);
        let match_ = Match::read(&mut body)?;
        let counters = Counters::read(&mut body)?;
        let instructions = read_instructions(&mut body)?;
        Ok(Self {
            flow: Flow {
                table,
                priority,
                match_,
                cookie,
                instructions,
                idle_timeout,
                hard_timeout,
                flags,
                importance,
            },
            duration: counters.duration,
            idle: counters.idle,
            packets: counters.packets,
            bytes: counters.bytes,
        })
    }

    /// Appends `struct ofp_flow_desc`.
    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let flow = &self.flow;
        out.u16(0);
        out.zeros(2);
        out.u8(flow.table.0);
        out.zeros(1);
        out.u16(flow.priority);
        out.u16(flow.idle_timeout);
        out.u16(flow.hard_timeout);
        out.u16(flow.flags.0);
        out.u16(flow.importance);
        out.u64(flow.cookie.0);
        flow.match_.put(out)?;
        let counters = Counters {
            duration: self.duration,
            idle: self.idle,
            flows: 0,
            packets: self.packets,
            bytes: self.bytes,
        };
        counters.put(out, false);
        put_instructions(out, &flow.instructions)?;
        let length = out.len() - start;
        let field = u16::try_from(length).map_err(|_| EncodeError::TooLong {
            what: "flow_desc",
            length,
            limit: usize::from(u16::MAX),
        })?;
        out.patch_u16(start, field);
        Ok(())
    }
}
