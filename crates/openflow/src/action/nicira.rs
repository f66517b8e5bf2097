//! Actions as bytes: Open vSwitch's own (`NXAST_*` in `lib/ofp-actions.c`).

use super::codec::{NICIRA, put_field_header, read_actions};
use super::{
    Action, Conjunction, Controller, ControllerForm, HashFields, Multipath, MultipathAlgorithm,
    PacketInReason, Resubmit, ResubmitTuple, ct, learn, put_actions,
};
use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::field::{Field, Header, Subfield};
use crate::id::{MeterId, OfPort, TableId};
use crate::match_::codec::read_header;
use crate::wire::{Put, Reader, padding};

/// `NXAST_*`.
mod subtype {
    pub(super) const RESUBMIT: u16 = 1;
    pub(super) const POP_QUEUE: u16 = 5;
    pub(super) const NOTE: u16 = 8;
    pub(super) const MULTIPATH: u16 = 10;
    pub(super) const RESUBMIT_TABLE: u16 = 14;
    pub(super) const OUTPUT_REG: u16 = 15;
    pub(super) const LEARN: u16 = 16;
    pub(super) const EXIT: u16 = 17;
    pub(super) const FIN_TIMEOUT: u16 = 19;
    pub(super) const CONTROLLER: u16 = 20;
    pub(super) const DEC_TTL_CNT_IDS: u16 = 21;
    pub(super) const STACK_PUSH: u16 = 27;
    pub(super) const STACK_POP: u16 = 28;
    pub(super) const OUTPUT_REG2: u16 = 32;
    pub(super) const CONJUNCTION: u16 = 34;
    pub(super) const CT: u16 = 35;
    pub(super) const NAT: u16 = 36;
    pub(super) const CONTROLLER2: u16 = 37;
    pub(super) const OUTPUT_TRUNC: u16 = 39;
    pub(super) const CLONE: u16 = 42;
    pub(super) const CT_CLEAR: u16 = 43;
    pub(super) const RESUBMIT_TABLE_CT: u16 = 44;
    pub(super) const LEARN2: u16 = 45;
    pub(super) const CHECK_PKT_LARGER: u16 = 49;
    pub(super) const DELETE_FIELD: u16 = 50;
}

/// Properties of `controller` (`enum nx_action_controller2_prop_type`).
mod property {
    pub(super) const MAX_LEN: u16 = 0;
    pub(super) const CONTROLLER_ID: u16 = 1;
    pub(super) const REASON: u16 = 2;
    pub(super) const USERDATA: u16 = 3;
    pub(super) const PAUSE: u16 = 4;
    pub(super) const METER_ID: u16 = 5;
}

/// "The current table" of `resubmit`, and "none" of `ct`.
pub(super) const NO_TABLE: u8 = 0xff;

/// Reads what follows the vendor. `None`: not known.
pub(super) fn read(body: &mut Reader<'_>, depth: usize) -> Result<Option<Action>, DecodeError> {
    let subtype = body.u16("nx_action.subtype")?;
    Ok(Some(match subtype {
        subtype::RESUBMIT => Action::Resubmit(Resubmit {
            port: OfPort::from_u16(body.u16("resubmit.in_port")?),
            table: None,
            tuple: ResubmitTuple::Packet,
        }),
        subtype::RESUBMIT_TABLE | subtype::RESUBMIT_TABLE_CT => Action::Resubmit(Resubmit {
            port: OfPort::from_u16(body.u16("resubmit.in_port")?),
            table: Some(body.u8("resubmit.table")?)
                .filter(|table| *table != NO_TABLE)
                .map(TableId),
            tuple: if subtype == subtype::RESUBMIT_TABLE {
                ResubmitTuple::Packet
            } else {
                ResubmitTuple::Conntrack
            },
        }),
        subtype::POP_QUEUE => Action::PopQueue,
        subtype::NOTE => Action::Note(body.rest().into()),
        subtype::MULTIPATH => return read_multipath(body),
        subtype::OUTPUT_REG | subtype::OUTPUT_REG2 => {
            let (start, bits) = read_offset_bits(body)?;
            let (source, max_len);
            if subtype == subtype::OUTPUT_REG {
                source = read_header(body)?;
                max_len = body.u16("output_reg.max_len")?;
            } else {
                max_len = body.u16("output_reg.max_len")?;
                source = read_header(body)?;
            }
            return Ok(subfield(body, source.header, start, bits)?
                .map(|source| Action::OutputField { source, max_len }));
        }
        subtype::OUTPUT_TRUNC => Action::OutputTruncated {
            port: OfPort::from_u16(body.u16("output_trunc.port")?),
            max_len: body.u32("output_trunc.max_len")?,
        },
        subtype::LEARN | subtype::LEARN2 => {
            return Ok(learn::read(body, subtype == subtype::LEARN2)?
                .map(|learn| Action::Learn(Box::new(learn))));
        }
        subtype::EXIT => Action::Exit,
        subtype::FIN_TIMEOUT => Action::FinTimeout {
            idle: body.u16("fin_timeout.idle")?,
            hard: body.u16("fin_timeout.hard")?,
        },
        subtype::CONTROLLER => {
            let max_len = body.u16("controller.max_len")?;
            let controller_id = body.u16("controller.controller_id")?;
            let reason = PacketInReason(body.u8("controller.reason")?);
            Action::Controller(Box::new(Controller {
                max_len,
                controller_id,
                reason,
                ..Controller::default()
            }))
        }
        subtype::CONTROLLER2 => return read_controller(body),
        subtype::DEC_TTL_CNT_IDS => {
            let count = usize::from(body.u16("dec_ttl_cnt_ids.n_controllers")?);
            body.skip(4, "dec_ttl_cnt_ids.zeros")?;
            let mut ids = body.sub(2 * count, "dec_ttl_cnt_ids.ids")?;
            let mut list = Vec::with_capacity(count);
            while !ids.is_empty() {
                list.push(ids.u16("dec_ttl_cnt_ids.ids")?);
            }
            Action::DecTtlIds(list)
        }
        subtype::STACK_PUSH | subtype::STACK_POP => {
            let start = body.u16("stack.offset")?;
            let header = read_header(body)?;
            let bits = body.u16("stack.n_bits")?;
            let Some(field) = subfield(body, header.header, start, bits)? else {
                return Ok(None);
            };
            if subtype == subtype::STACK_PUSH {
                Action::Push(field)
            } else {
                Action::Pop(field)
            }
        }
        subtype::CONJUNCTION => {
            let clause = body.u8("conjunction.clause")?;
            let clauses = body.u8("conjunction.n_clauses")?;
            Action::Conjunction(Conjunction {
                id: body.u32("conjunction.id")?,
                clause,
                clauses,
            })
        }
        subtype::CT => {
            return Ok(ct::read(body, depth)?.map(|ct| Action::Ct(Box::new(ct))));
        }
        subtype::NAT => return Ok(ct::read_nat(body)?.map(|nat| Action::Nat(Box::new(nat)))),
        subtype::CLONE => {
            body.skip(6, "clone.pad")?;
            Action::Clone(read_actions(body, depth + 1)?)
        }
        subtype::CT_CLEAR => Action::CtClear,
        subtype::CHECK_PKT_LARGER => {
            let bytes = body.u16("check_pkt_larger.pkt_len")?;
            let start = body.u16("check_pkt_larger.offset")?;
            let header = read_header(body)?;
            return Ok(subfield(body, header.header, start, 1)?
                .map(|target| Action::CheckPacketLarger { bytes, target }));
        }
        subtype::DELETE_FIELD => {
            let header = read_header(body)?;
            return Ok(Field::from_header(header.header).map(Action::DeleteField));
        }
        _ => return Ok(None),
    }))
}

/// Reads `ofs_nbits`.
pub(super) fn read_offset_bits(body: &mut Reader<'_>) -> Result<(u16, u16), DecodeError> {
    let value = body.u16("ofs_nbits")?;
    Ok((value >> 6, (value & 0x3f) + 1))
}

/// The bits of a header's field. `None`: the field is not known.
pub(super) fn subfield(
    body: &Reader<'_>,
    header: Header,
    start: u16,
    bits: u16,
) -> Result<Option<Subfield>, DecodeError> {
    let Some(field) = Field::from_header(header) else {
        return Ok(None);
    };
    match Subfield::new(field, start, bits) {
        Ok(subfield) => Ok(Some(subfield)),
        Err(_) => body.error("subfield", DecodeReason::Value(bits.into())),
    }
}

fn read_multipath(body: &mut Reader<'_>) -> Result<Option<Action>, DecodeError> {
    let fields = HashFields(body.u16("multipath.fields")?);
    let basis = body.u16("multipath.basis")?;
    body.skip(2, "multipath.pad0")?;
    let algorithm = MultipathAlgorithm(body.u16("multipath.algorithm")?);
    let max_link = body.u16("multipath.max_link")?;
    let argument = body.u32("multipath.arg")?;
    body.skip(2, "multipath.pad1")?;
    let (start, bits) = read_offset_bits(body)?;
    let header = read_header(body)?;
    Ok(subfield(body, header.header, start, bits)?.map(|target| {
        Action::Multipath(Box::new(Multipath {
            fields,
            basis,
            algorithm,
            max_link,
            argument,
            target,
        }))
    }))
}

fn read_controller(body: &mut Reader<'_>) -> Result<Option<Action>, DecodeError> {
    body.skip(6, "controller2.pad")?;
    let mut result = Controller {
        form: ControllerForm::Properties,
        ..Controller::default()
    };
    while !body.is_empty() {
        let start = *body;
        let kind = body.u16("controller2.property.type")?;
        let length = usize::from(body.u16("controller2.property.len")?);
        let Some(payload) = length.checked_sub(4) else {
            return start.error("controller2.property.len", DecodeReason::Length(length));
        };
        let mut value = body.sub(payload, "controller2.property")?;
        body.skip(padding(length).min(body.len()), "controller2.property.pad")?;
        match kind {
            property::MAX_LEN => result.max_len = value.u16("controller2.max_len")?,
            property::CONTROLLER_ID => {
                result.controller_id = value.u16("controller2.controller_id")?;
            }
            property::REASON => result.reason = PacketInReason(value.u8("controller2.reason")?),
            property::USERDATA => value.rest().clone_into(&mut result.userdata),
            property::PAUSE => result.pause = true,
            property::METER_ID => result.meter = Some(MeterId(value.u32("controller2.meter_id")?)),
            _ => return Ok(None),
        }
    }
    if !fits_short(&result) {
        // There is no other form: it need not be remembered.
        result.form = ControllerForm::Shortest;
    }
    Ok(Some(Action::Controller(Box::new(result))))
}

/// Appends an action without padding and length.
pub(super) fn put(out: &mut Vec<u8>, action: &Action) -> Result<(), EncodeError> {
    match action {
        Action::OutputField { source, max_len } => {
            let header = nicira_header(source.field());
            if header.len() == 4 {
                start(out, subtype::OUTPUT_REG);
                out.u16(offset_bits(*source)?);
                put_field_header(out, source.field(), header);
                out.u16(*max_len);
                out.zeros(6);
            } else {
                start(out, subtype::OUTPUT_REG2);
                out.u16(offset_bits(*source)?);
                out.u16(*max_len);
                put_field_header(out, source.field(), header);
            }
        }
        Action::OutputTruncated { port, max_len } => {
            start(out, subtype::OUTPUT_TRUNC);
            out.u16(port_u16(*port)?);
            out.u32(*max_len);
        }
        Action::PopQueue => void(out, subtype::POP_QUEUE),
        Action::Push(field) | Action::Pop(field) => {
            let push = matches!(action, Action::Push(_));
            start(
                out,
                if push {
                    subtype::STACK_PUSH
                } else {
                    subtype::STACK_POP
                },
            );
            out.u16(field.start());
            put_field_header(out, field.field(), nicira_header(field.field()));
            out.u16(field.bits());
            out.zeros(6);
        }
        Action::DecTtlIds(ids) => {
            start(out, subtype::DEC_TTL_CNT_IDS);
            out.u16(u16::try_from(ids.len()).map_err(|_| too_large("dec_ttl ids", ids.len()))?);
            out.zeros(4);
            for id in ids {
                out.u16(*id);
            }
        }
        Action::Resubmit(resubmit) => put_resubmit(out, *resubmit)?,
        Action::Ct(ct) => {
            start(out, subtype::CT);
            ct::put(out, ct)?;
        }
        Action::Nat(nat) => put_nat(out, nat),
        Action::CtClear => void(out, subtype::CT_CLEAR),
        Action::Learn(learn) => {
            start(
                out,
                if learn.limit.is_some() {
                    subtype::LEARN2
                } else {
                    subtype::LEARN
                },
            );
            learn::put(out, learn)?;
        }
        Action::Conjunction(conjunction) => {
            start(out, subtype::CONJUNCTION);
            out.u8(conjunction.clause);
            out.u8(conjunction.clauses);
            out.u32(conjunction.id);
        }
        Action::Controller(controller) => put_controller(out, controller)?,
        Action::Note(bytes) => {
            start(out, subtype::NOTE);
            out.bytes(bytes);
        }
        Action::Clone(actions) => {
            void(out, subtype::CLONE);
            put_actions(out, actions)?;
        }
        Action::CheckPacketLarger { bytes, target } => {
            start(out, subtype::CHECK_PKT_LARGER);
            out.u16(*bytes);
            out.u16(target.start());
            put_field_header(out, target.field(), nicira_header(target.field()));
            out.zeros(6);
        }
        Action::Multipath(multipath) => {
            start(out, subtype::MULTIPATH);
            out.u16(multipath.fields.0);
            out.u16(multipath.basis);
            out.zeros(2);
            out.u16(multipath.algorithm.0);
            out.u16(multipath.max_link);
            out.u32(multipath.argument);
            out.zeros(2);
            out.u16(offset_bits(multipath.target)?);
            put_field_header(
                out,
                multipath.target.field(),
                nicira_header(multipath.target.field()),
            );
        }
        Action::Exit => void(out, subtype::EXIT),
        Action::DeleteField(field) => {
            start(out, subtype::DELETE_FIELD);
            put_field_header(out, *field, nicira_header(*field));
            out.zeros(4);
        }
        Action::FinTimeout { idle, hard } => {
            start(out, subtype::FIN_TIMEOUT);
            out.u16(*idle);
            out.u16(*hard);
            out.zeros(2);
        }
        _ => {
            return Err(EncodeError::Invalid {
                what: "action",
                reason: "it has no form on the wire",
            });
        }
    }
    Ok(())
}

/// Appends a whole `nat` body with its header but no length, for use inside of `ct` too.
pub(super) fn put_nat(out: &mut Vec<u8>, nat: &ct::Nat) {
    start(out, subtype::NAT);
    ct::put_nat(out, nat);
}

fn put_resubmit(out: &mut Vec<u8>, resubmit: Resubmit) -> Result<(), EncodeError> {
    let port = port_u16(resubmit.port)?;
    let subtype = match resubmit.tuple {
        ResubmitTuple::Packet => subtype::RESUBMIT_TABLE,
        ResubmitTuple::Conntrack => subtype::RESUBMIT_TABLE_CT,
    };
    start(out, subtype);
    out.u16(port);
    out.u8(resubmit.table.map_or(NO_TABLE, |table| table.0));
    out.zeros(3);
    Ok(())
}

/// Whether the old form can say it.
fn fits_short(controller: &Controller) -> bool {
    controller.userdata.is_empty() && !controller.pause && controller.meter.is_none()
}

fn put_controller(out: &mut Vec<u8>, controller: &Controller) -> Result<(), EncodeError> {
    if controller.form == ControllerForm::Shortest && fits_short(controller) {
        start(out, subtype::CONTROLLER);
        out.u16(controller.max_len);
        out.u16(controller.controller_id);
        out.u8(controller.reason.0);
        out.zeros(1);
        return Ok(());
    }
    void(out, subtype::CONTROLLER2);
    let mut put = |kind: u16, value: &[u8]| {
        let begin = out.len();
        let length = value.len() + 4;
        let field = u16::try_from(length).map_err(|_| EncodeError::TooLong {
            what: "controller userdata",
            length: value.len(),
            limit: usize::from(u16::MAX) - 4,
        })?;
        out.u16(kind);
        out.u16(field);
        out.bytes(value);
        out.pad8(begin);
        Ok(())
    };
    if controller.max_len != u16::MAX {
        put(property::MAX_LEN, &padded(controller.max_len))?;
    }
    if controller.controller_id != 0 {
        put(property::CONTROLLER_ID, &padded(controller.controller_id))?;
    }
    if controller.reason != PacketInReason::ACTION {
        put(property::REASON, &[controller.reason.0])?;
    }
    if !controller.userdata.is_empty() {
        put(property::USERDATA, &controller.userdata)?;
    }
    if controller.pause {
        put(property::PAUSE, &[])?;
    }
    if let Some(meter) = controller.meter {
        put(property::METER_ID, &meter.0.to_be_bytes())?;
    }
    Ok(())
}

/// A property of 16 bits counts its padding, unlike others.
fn padded(value: u16) -> [u8; 4] {
    let [high, low] = value.to_be_bytes();
    [high, low, 0, 0]
}

fn start(out: &mut Vec<u8>, subtype: u16) {
    out.u16(0xffff);
    out.u16(0);
    out.u32(NICIRA);
    out.u16(subtype);
}

fn void(out: &mut Vec<u8>, subtype: u16) {
    start(out, subtype);
    out.zeros(6);
}

/// The header by which Open vSwitch names a field in its own actions: the Nicira one, if any.
pub(super) fn nicira_header(field: Field) -> Header {
    let info = field.info();
    info.other_headers
        .iter()
        .copied()
        .find(|header| header.class <= 1)
        .unwrap_or(info.header)
}

/// `ofs_nbits`: six bits for the number less one, ten for the offset.
pub(super) fn offset_bits(field: Subfield) -> Result<u16, EncodeError> {
    if field.bits() > 64 {
        return Err(EncodeError::TooLarge {
            what: "bits of a subfield",
            value: field.bits().into(),
            limit: 64,
        });
    }
    Ok(field.start() << 6 | (field.bits() - 1))
}

fn port_u16(port: OfPort) -> Result<u16, EncodeError> {
    port.to_u16().ok_or(EncodeError::TooLarge {
        what: "port of a Nicira action",
        value: port.0.into(),
        limit: 0xfeff,
    })
}

fn too_large(what: &'static str, value: usize) -> EncodeError {
    EncodeError::TooLarge {
        what,
        value: u64::try_from(value).unwrap_or(u64::MAX),
        limit: u16::MAX.into(),
    }
}
