//! What a switch tells by itself, and which of it a connection wants.

use std::time::Duration;

use super::port::Port;
use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::flow::codec::Counters;
use crate::id::{Cookie, TableId};
use crate::match_::Match;
use crate::wire::{Put, Reader};

/// A flow went (OpenFlow 1.5.1 §7.4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRemoved {
    /// Its table.
    pub table: TableId,
    /// Why.
    pub reason: FlowRemovedReason,
    /// Its priority.
    pub priority: u16,
    /// Its idle timeout.
    pub idle_timeout: u16,
    /// Its hard timeout.
    pub hard_timeout: u16,
    /// Its cookie.
    pub cookie: Cookie,
    /// Its match.
    pub match_: Match,
    /// How long it was there.
    pub duration: Duration,
    /// Packets that matched.
    pub packets: u64,
    /// Bytes that matched.
    pub bytes: u64,
}

/// Why a flow went (`enum ofp_flow_removed_reason`, OpenFlow 1.5.1 §7.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowRemovedReason(pub u8);

impl FlowRemovedReason {
    /// No packet for its idle timeout.
    pub const IDLE_TIMEOUT: Self = Self(0);
    /// Its hard timeout.
    pub const HARD_TIMEOUT: Self = Self(1);
    /// It was deleted.
    pub const DELETE: Self = Self(2);
    /// Its group was deleted.
    pub const GROUP_DELETE: Self = Self(3);
    /// Its meter was deleted.
    pub const METER_DELETE: Self = Self(4);
    /// It made room for a more important one.
    pub const EVICTION: Self = Self(5);
}

impl FlowRemoved {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let table = TableId(reader.u8("flow_removed.table_id")?);
        let reason = FlowRemovedReason(reader.u8("flow_removed.reason")?);
        let priority = reader.u16("flow_removed.priority")?;
        let idle_timeout = reader.u16("flow_removed.idle_timeout")?;
        let hard_timeout = reader.u16("flow_removed.hard_timeout")?;
        let cookie = Cookie(reader.u64("flow_removed.cookie")?);
        let match_ = Match::read(reader)?;
        let counters = Counters::read(reader)?;
        Ok(Self {
            table,
            reason,
            priority,
            idle_timeout,
            hard_timeout,
            cookie,
            match_,
            duration: counters.duration,
            packets: counters.packets,
            bytes: counters.bytes,
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.u8(self.table.0);
        out.u8(self.reason.0);
        out.u16(self.priority);
        out.u16(self.idle_timeout);
        out.u16(self.hard_timeout);
        out.u64(self.cookie.0);
        self.match_.put(out)?;
        let counters = Counters {
            duration: self.duration,
            packets: self.packets,
            bytes: self.bytes,
            ..Counters::default()
        };
        counters.put(out, false);
        Ok(())
    }
}

/// What happened to a port (`enum ofp_port_reason`, OpenFlow 1.5.1 §7.4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortChange {
    /// It was added.
    Add,
    /// It was removed.
    Delete,
    /// Something about it changed.
    Modify,
}

/// A port changed (OpenFlow 1.5.1 §7.4.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortStatus {
    /// What happened.
    pub change: PortChange,
    /// The port as it is now.
    pub port: Port,
}

impl PortStatus {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let change = match reader.u8("port_status.reason")? {
            0 => PortChange::Add,
            1 => PortChange::Delete,
            2 => PortChange::Modify,
            other => return start.error("port_status.reason", DecodeReason::Value(other.into())),
        };
        reader.skip(7, "port_status.pad")?;
        Ok(Self {
            change,
            port: Port::read(reader)?,
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.u8(match self.change {
            PortChange::Add => 0,
            PortChange::Delete => 1,
            PortChange::Modify => 2,
        });
        out.zeros(7);
        self.port.put(out)
    }
}

/// Which asynchronous messages come (OpenFlow 1.5.1 §7.3.11).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AsyncConfig {
    /// Property of `enum ofp_async_config_prop_type` and the reasons that are sent, bit by reason.
    pub masks: Vec<(u16, u32)>,
}

impl AsyncConfig {
    /// Packet-ins, for connections that are equal or primary.
    pub const PACKET_IN: u16 = 1;
    /// Port status, for connections that are equal or primary.
    pub const PORT_STATUS: u16 = 3;
    /// Removed flows, for connections that are equal or primary.
    pub const FLOW_REMOVED: u16 = 5;

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut masks = Vec::with_capacity(reader.len() / 8);
        while !reader.is_empty() {
            let start = *reader;
            let kind = reader.u16("async_config.type")?;
            let length = reader.u16("async_config.length")?;
            if length != 8 {
                return start.error("async_config.length", DecodeReason::Length(length.into()));
            }
            masks.push((kind, reader.u32("async_config.mask")?));
        }
        Ok(Self { masks })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for (kind, mask) in &self.masks {
            out.u16(*kind);
            out.u16(8);
            out.u32(*mask);
        }
    }
}
