//! `learn`: a flow that makes flows (ovs-actions(7), "The learn action").

use super::codec::put_field_header;
use super::nicira::{nicira_header, subfield};
use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::field::Subfield;
use crate::id::{Cookie, TableId};
use crate::match_::codec::read_header;
use crate::wire::{Put, Reader};

/// `learn(…)` (`struct nx_action_learn`, `struct nx_action_learn2`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Learn {
    /// Idle timeout of the learned flow in seconds, 0 for none.
    pub idle_timeout: u16,
    /// Hard timeout of the learned flow in seconds, 0 for none.
    pub hard_timeout: u16,
    /// Its priority.
    pub priority: u16,
    /// Its cookie.
    pub cookie: Cookie,
    /// Flags.
    pub flags: LearnFlags,
    /// Its table.
    pub table: TableId,
    /// Its idle timeout after FIN or RST.
    pub fin_idle_timeout: u16,
    /// Its hard timeout after FIN or RST.
    pub fin_hard_timeout: u16,
    /// Limits the number of flows learned.
    pub limit: Option<LearnLimit>,
    /// What it matches and does.
    pub specs: Vec<LearnSpec>,
}

impl Default for Learn {
    fn default() -> Self {
        Self {
            idle_timeout: 0,
            hard_timeout: 0,
            priority: 0x8000,
            cookie: Cookie(0),
            flags: LearnFlags::default(),
            table: TableId(1),
            fin_idle_timeout: 0,
            fin_hard_timeout: 0,
            limit: None,
            specs: Vec::new(),
        }
    }
}

/// Flags of `learn` (`enum nx_learn_flags`); unknown bits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LearnFlags(pub u16);

impl LearnFlags {
    /// `send_flow_rem`: removal of a learned flow is told.
    pub const SEND_FLOW_REM: u16 = 1;
    /// `delete_learned`: learned flows go with the flow that learned them.
    pub const DELETE_LEARNED: u16 = 2;
    /// Whether the limit was reached is written to a bit.
    pub const WRITE_RESULT: u16 = 4;

    /// Whether all bits of `flags` are set.
    pub fn contains(self, flags: u16) -> bool {
        self.0 & flags == flags
    }
}

/// `limit=…[,result_dst=…]` (`struct nx_action_learn2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LearnLimit {
    /// The most flows with this cookie in this table; 0 for no limit.
    pub flows: u32,
    /// The bit that is set to whether the flow was learned.
    pub result: Option<Subfield>,
}

/// One part of what a learned flow matches or does (`flow_mod_spec` of `struct nx_action_learn`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LearnSpec {
    /// The number of bits, at most 2047.
    pub bits: u16,
    /// Where they come from.
    pub source: LearnSource,
    /// What they are for.
    pub target: LearnTarget,
}

/// Where the bits of a learned flow come from (`NX_LEARN_SRC_*`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LearnSource {
    /// The packet that is handled.
    Field(Subfield),
    /// This value: big-endian, as many 16-bit words as hold the bits.
    Value(Vec<u8>),
}

/// What the bits of a learned flow are for (`NX_LEARN_DST_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LearnTarget {
    /// The learned flow matches them.
    Match(Subfield),
    /// The learned flow writes them.
    Load(Subfield),
    /// The learned flow outputs to the port they are.
    Output,
}

/// Bits of a spec's header (`NX_LEARN_*` in `lib/ofp-actions.c`).
mod spec {
    pub(super) const BITS: u16 = 0x7ff;
    pub(super) const VALUE: u16 = 1 << 13;
    pub(super) const TARGET: u16 = 3 << 11;
    pub(super) const MATCH: u16 = 0;
    pub(super) const LOAD: u16 = 1 << 11;
    pub(super) const OUTPUT: u16 = 2 << 11;
}

/// Reads `struct nx_action_learn` (or `2`) behind its subtype. `None`: a part is not known.
pub(super) fn read(body: &mut Reader<'_>, second: bool) -> Result<Option<Learn>, DecodeError> {
    let mut learn = Learn {
        idle_timeout: body.u16("learn.idle_timeout")?,
        hard_timeout: body.u16("learn.hard_timeout")?,
        priority: body.u16("learn.priority")?,
        cookie: Cookie(body.u64("learn.cookie")?),
        flags: LearnFlags(body.u16("learn.flags")?),
        table: TableId(body.u8("learn.table_id")?),
        ..Learn::default()
    };
    body.skip(1, "learn.pad")?;
    learn.fin_idle_timeout = body.u16("learn.fin_idle_timeout")?;
    learn.fin_hard_timeout = body.u16("learn.fin_hard_timeout")?;
    if second {
        let flows = body.u32("learn.limit")?;
        let start = body.u16("learn.result_dst_ofs")?;
        body.skip(2, "learn.pad2")?;
        let mut result = None;
        if learn.flags.contains(LearnFlags::WRITE_RESULT) {
            let header = read_header(body)?;
            result = subfield(body, header.header, start, 1)?;
            if result.is_none() {
                return Ok(None);
            }
        }
        learn.limit = Some(LearnLimit { flows, result });
    }
    while body.len() >= 2 {
        let start = *body;
        let header = body.u16("learn.spec")?;
        if header == 0 {
            break;
        }
        let bits = header & spec::BITS;
        if header & !(spec::BITS | spec::VALUE | spec::TARGET) != 0 {
            return Ok(None);
        }
        let source = if header & spec::VALUE != 0 {
            let bytes = usize::from(bits.div_ceil(16)) * 2;
            LearnSource::Value(body.take(bytes, "learn.spec.value")?.to_vec())
        } else {
            match read_subfield(body, bits)? {
                Some(field) => LearnSource::Field(field),
                None => return Ok(None),
            }
        };
        let target = match header & spec::TARGET {
            spec::OUTPUT => LearnTarget::Output,
            kind @ (spec::MATCH | spec::LOAD) => {
                let Some(field) = read_subfield(body, bits)? else {
                    return Ok(None);
                };
                if kind == spec::MATCH {
                    LearnTarget::Match(field)
                } else {
                    LearnTarget::Load(field)
                }
            }
            other => return start.error("learn.spec", DecodeReason::Value(other.into())),
        };
        learn.specs.push(LearnSpec {
            bits,
            source,
            target,
        });
    }
    Ok(Some(learn))
}

fn read_subfield(body: &mut Reader<'_>, bits: u16) -> Result<Option<Subfield>, DecodeError> {
    let header = read_header(body)?;
    let start = body.u16("learn.spec.ofs")?;
    subfield(body, header.header, start, bits)
}

/// Appends `struct nx_action_learn` (or `2`) behind its subtype.
pub(super) fn put(out: &mut Vec<u8>, learn: &Learn) -> Result<(), EncodeError> {
    let result = learn.limit.and_then(|limit| limit.result);
    let wants_result = if result.is_some() {
        LearnFlags::WRITE_RESULT
    } else {
        0
    };
    out.u16(learn.idle_timeout);
    out.u16(learn.hard_timeout);
    out.u16(learn.priority);
    out.u64(learn.cookie.0);
    out.u16(learn.flags.0 & !LearnFlags::WRITE_RESULT | wants_result);
    out.u8(learn.table.0);
    out.zeros(1);
    out.u16(learn.fin_idle_timeout);
    out.u16(learn.fin_hard_timeout);
    if let Some(limit) = learn.limit {
        out.u32(limit.flows);
        match result {
            Some(field) => {
                out.u16(field.start());
                out.zeros(2);
                put_field_header(out, field.field(), nicira_header(field.field()));
            }
            None => out.zeros(4),
        }
    }
    for item in &learn.specs {
        put_spec(out, item)?;
    }
    Ok(())
}

fn put_spec(out: &mut Vec<u8>, item: &LearnSpec) -> Result<(), EncodeError> {
    if item.bits == 0 || item.bits > spec::BITS {
        return Err(EncodeError::TooLarge {
            what: "bits of a learn spec",
            value: item.bits.into(),
            limit: spec::BITS.into(),
        });
    }
    let source = match item.source {
        LearnSource::Field(_) => 0,
        LearnSource::Value(_) => spec::VALUE,
    };
    let target = match item.target {
        LearnTarget::Match(_) => spec::MATCH,
        LearnTarget::Load(_) => spec::LOAD,
        LearnTarget::Output => spec::OUTPUT,
    };
    let different = EncodeError::Invalid {
        what: "learn spec",
        reason: "source, target and bits differ in size",
    };
    out.u16(item.bits | source | target);
    match &item.source {
        LearnSource::Field(field) if field.bits() == item.bits => put_subfield(out, *field),
        LearnSource::Value(bytes) if bytes.len() == usize::from(item.bits.div_ceil(16)) * 2 => {
            out.bytes(bytes);
        }
        _ => return Err(different),
    }
    match item.target {
        LearnTarget::Match(field) | LearnTarget::Load(field) if field.bits() == item.bits => {
            put_subfield(out, field);
        }
        LearnTarget::Output => {}
        _ => return Err(different),
    }
    Ok(())
}

fn put_subfield(out: &mut Vec<u8>, field: Subfield) {
    put_field_header(out, field.field(), nicira_header(field.field()));
    out.u16(field.start());
}
