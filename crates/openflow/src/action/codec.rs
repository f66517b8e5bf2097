//! Actions as bytes: the standard ones of OpenFlow 1.5.1 §7.2.6, and lists of actions.

use super::{Action, nicira};
use crate::MAX_DEPTH;
use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::field::{Field, Header, Subfield};
use crate::id::{GroupId, MeterId, OfPort};
use crate::match_::MaskedField;
use crate::match_::codec::{check_length, put_header, read_header};
use crate::wire::{Put, Reader};

/// `enum ofp_action_type`.
mod kind {
    pub(super) const OUTPUT: u16 = 0;
    pub(super) const SET_MPLS_TTL: u16 = 15;
    pub(super) const DEC_MPLS_TTL: u16 = 16;
    pub(super) const PUSH_VLAN: u16 = 17;
    pub(super) const POP_VLAN: u16 = 18;
    pub(super) const PUSH_MPLS: u16 = 19;
    pub(super) const POP_MPLS: u16 = 20;
    pub(super) const SET_QUEUE: u16 = 21;
    pub(super) const GROUP: u16 = 22;
    pub(super) const SET_NW_TTL: u16 = 23;
    pub(super) const DEC_NW_TTL: u16 = 24;
    pub(super) const SET_FIELD: u16 = 25;
    pub(super) const COPY_FIELD: u16 = 28;
    pub(super) const METER: u16 = 29;
}
/// `OFPAT_EXPERIMENTER`.
const EXPERIMENTER: u16 = 0xffff;
/// `NX_VENDOR_ID`.
pub(crate) const NICIRA: u32 = 0x0000_2320;

/// The number of actions that `bytes` seem to hold, found by their length fields.
pub(crate) fn action_count(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let [_, _, high, low, ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length < 8 {
            break;
        }
        count += 1;
        bytes = bytes.get(length..).unwrap_or_default();
    }
    count
}

/// Reads actions up to the end of `reader`. `depth` counts how deep they are nested.
pub(crate) fn read_actions(
    reader: &mut Reader<'_>,
    depth: usize,
) -> Result<Vec<Action>, DecodeError> {
    if depth > MAX_DEPTH {
        return reader.error("actions", DecodeReason::Depth);
    }
    let mut actions = Vec::with_capacity(action_count(reader.peek()));
    while !reader.is_empty() {
        actions.push(read_action(reader, depth)?);
    }
    Ok(actions)
}

fn read_action(reader: &mut Reader<'_>, depth: usize) -> Result<Action, DecodeError> {
    let start = *reader;
    let kind = reader.u16("action.type")?;
    let length = usize::from(reader.u16("action.len")?);
    if length < 8 || length % 8 != 0 {
        return start.error("action.len", DecodeReason::Length(length));
    }
    let mut body = reader.sub(length - 4, "action")?;
    let known = if kind == EXPERIMENTER {
        match body.u32("action.experimenter")? {
            NICIRA => nicira::read(&mut body, depth)?,
            _ => None,
        }
    } else {
        read_standard(kind, &mut body)?
    };
    match known {
        // Bytes that this crate would not write again make an action unknown.
        Some(action) if body.rest().iter().all(|byte| *byte == 0) => Ok(action),
        _ => Ok(Action::Unknown(
            start.peek().get(..length).unwrap_or_default().into(),
        )),
    }
}

fn read_standard(kind: u16, body: &mut Reader<'_>) -> Result<Option<Action>, DecodeError> {
    Ok(Some(match kind {
        kind::OUTPUT => {
            let port = OfPort(body.u32("output.port")?);
            Action::Output {
                port,
                max_len: body.u16("output.max_len")?,
            }
        }
        kind::SET_MPLS_TTL => Action::SetMplsTtl(body.u8("set_mpls_ttl.ttl")?),
        kind::DEC_MPLS_TTL => Action::DecMplsTtl,
        kind::PUSH_VLAN => Action::PushVlan(body.u16("push_vlan.ethertype")?),
        kind::POP_VLAN => Action::PopVlan,
        kind::PUSH_MPLS => Action::PushMpls(body.u16("push_mpls.ethertype")?),
        kind::POP_MPLS => Action::PopMpls(body.u16("pop_mpls.ethertype")?),
        kind::SET_QUEUE => Action::SetQueue(body.u32("set_queue.queue_id")?),
        kind::GROUP => Action::Group(GroupId(body.u32("group.group_id")?)),
        kind::SET_NW_TTL => Action::SetTtl(body.u8("set_nw_ttl.ttl")?),
        kind::DEC_NW_TTL => Action::DecTtl,
        kind::SET_FIELD => return read_set_field(body),
        kind::COPY_FIELD => return read_copy_field(body),
        kind::METER => Action::Meter(MeterId(body.u32("meter.meter_id")?)),
        _ => return Ok(None),
    }))
}

fn read_set_field(body: &mut Reader<'_>) -> Result<Option<Action>, DecodeError> {
    let start = *body;
    let raw = read_header(body)?;
    let Some(field) = Field::from_header(raw.header) else {
        return Ok(None);
    };
    let bytes = check_length(&start, field, raw)?;
    if bytes > 16 {
        return Ok(None);
    }
    let value = body.uint(bytes, field.name())?;
    let mask = if raw.masked {
        body.uint(bytes, field.name())?
    } else {
        crate::match_::all_ones(field, bytes)
    };
    if value & !mask != 0 {
        return start.error(field.name(), DecodeReason::Bits);
    }
    match MaskedField::sized(
        field,
        bytes,
        value,
        mask & crate::match_::all_ones(field, bytes),
    ) {
        Ok(masked) => Ok(Some(Action::SetField(masked))),
        Err(_) => start.error(field.name(), DecodeReason::Bits),
    }
}

fn read_copy_field(body: &mut Reader<'_>) -> Result<Option<Action>, DecodeError> {
    let bits = body.u16("copy_field.n_bits")?;
    let source_start = body.u16("copy_field.src_offset")?;
    let target_start = body.u16("copy_field.dst_offset")?;
    body.skip(2, "copy_field.pad")?;
    let source = read_header(body)?;
    let target = read_header(body)?;
    let (Some(source), Some(target)) = (
        Field::from_header(source.header),
        Field::from_header(target.header),
    ) else {
        return Ok(None);
    };
    let source = Subfield::new(source, source_start, bits);
    let target = Subfield::new(target, target_start, bits);
    match (source, target) {
        (Ok(source), Ok(target)) => Ok(Some(Action::Move { source, target })),
        _ => body.error("copy_field.n_bits", DecodeReason::Value(bits.into())),
    }
}

/// Appends actions, each padded to 8 bytes.
pub(crate) fn put_actions(out: &mut Vec<u8>, actions: &[Action]) -> Result<(), EncodeError> {
    actions
        .iter()
        .try_for_each(|action| put_action(out, action))
}

fn put_action(out: &mut Vec<u8>, action: &Action) -> Result<(), EncodeError> {
    let start = out.len();
    match action {
        Action::Output { port, max_len } => {
            standard(out, kind::OUTPUT);
            out.u32(port.0);
            out.u16(*max_len);
            out.zeros(6);
        }
        Action::Group(group) => number(out, kind::GROUP, group.0),
        Action::Meter(meter) => number(out, kind::METER, meter.0),
        Action::SetQueue(queue) => number(out, kind::SET_QUEUE, *queue),
        Action::SetField(field) => {
            standard(out, kind::SET_FIELD);
            put_masked(out, field);
        }
        Action::Move { source, target } => {
            standard(out, kind::COPY_FIELD);
            out.u16(source.bits());
            out.u16(source.start());
            out.u16(target.start());
            out.zeros(2);
            put_field_header(out, source.field(), source.field().info().header);
            put_field_header(out, target.field(), target.field().info().header);
        }
        Action::DecTtl => standard(out, kind::DEC_NW_TTL),
        Action::SetTtl(ttl) => {
            standard(out, kind::SET_NW_TTL);
            out.u8(*ttl);
        }
        Action::PushVlan(ethertype) => ether(out, kind::PUSH_VLAN, *ethertype),
        Action::PopVlan => standard(out, kind::POP_VLAN),
        Action::PushMpls(ethertype) => ether(out, kind::PUSH_MPLS, *ethertype),
        Action::PopMpls(ethertype) => ether(out, kind::POP_MPLS, *ethertype),
        Action::SetMplsTtl(ttl) => {
            standard(out, kind::SET_MPLS_TTL);
            out.u8(*ttl);
        }
        Action::DecMplsTtl => standard(out, kind::DEC_MPLS_TTL),
        Action::Unknown(bytes) => {
            if bytes.len() < 8 || bytes.len() % 8 != 0 {
                return Err(EncodeError::Invalid {
                    what: "unknown action",
                    reason: "its length must be a multiple of 8",
                });
            }
            out.bytes(bytes);
            return Ok(());
        }
        nicira => nicira::put(out, nicira)?,
    }
    finish(out, start)
}

/// Pads what was appended since `start` to 8 bytes and writes its length.
pub(super) fn finish(out: &mut Vec<u8>, start: usize) -> Result<(), EncodeError> {
    out.pad8(start);
    let length = out.len() - start;
    let field = u16::try_from(length).map_err(|_| EncodeError::TooLong {
        what: "action",
        length,
        limit: usize::from(u16::MAX) & !7,
    })?;
    out.patch_u16(start + 2, field);
    Ok(())
}

fn standard(out: &mut Vec<u8>, kind: u16) {
    out.u16(kind);
    out.u16(0);
}

fn number(out: &mut Vec<u8>, kind: u16, value: u32) {
    standard(out, kind);
    out.u32(value);
}

fn ether(out: &mut Vec<u8>, kind: u16, value: u16) {
    standard(out, kind);
    out.u16(value);
}

/// Appends the TLV of `set_field`; a whole value has no mask.
fn put_masked(out: &mut Vec<u8>, field: &MaskedField) {
    let bytes = field.bytes();
    // Open vSwitch always says which of the 16 bits of the tunnel's flags it means.
    let masked = !field.is_exact() || field.field() == Field::TunFlags;
    put_header(
        out,
        field.field().info().header,
        masked,
        if masked { 2 * bytes } else { bytes },
    );
    out.uint(field.value(), bytes);
    if masked {
        out.uint(field.mask(), bytes);
    }
}

/// Appends a header that stands for a field without value.
pub(super) fn put_field_header(out: &mut Vec<u8>, field: Field, header: Header) {
    put_header(out, header, false, usize::from(field.info().bytes));
}
