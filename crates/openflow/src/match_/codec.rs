//! OXM and NXM: fields as type, length, value (OpenFlow 1.5.1 §7.2.3, `lib/nx-match.c`).

use super::{Match, UnknownField, VLAN_PRESENT, all_ones};
use crate::error::{DecodeError, DecodeReason, EncodeError, MatchError};
use crate::field::{Field, Header};
use crate::wire::{Put, Reader, padding};

/// `OFPMT_OXM`.
const OXM: u16 = 1;

/// A field header as read from the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawHeader {
    pub(crate) header: Header,
    pub(crate) masked: bool,
    /// Bytes of the payload: value and mask.
    pub(crate) length: usize,
}

/// Reads a header, with the experimenter where there is one.
pub(crate) fn read_header(reader: &mut Reader<'_>) -> Result<RawHeader, DecodeError> {
    let class = reader.u16("oxm_class")?;
    let byte = reader.u8("oxm_field")?;
    let mut length = usize::from(reader.u8("oxm_length")?);
    let mut experimenter = 0;
    if class == Header::EXPERIMENTER {
        if length < 4 {
            return reader.error("oxm_length", DecodeReason::Length(length));
        }
        experimenter = reader.u32("oxm_experimenter")?;
        length -= 4;
    }
    Ok(RawHeader {
        header: Header::new(class, byte >> 1, experimenter),
        masked: byte & 1 != 0,
        length,
    })
}

/// Appends a header for a payload of `length` bytes, which includes the mask.
pub(crate) fn put_header(out: &mut Vec<u8>, header: Header, masked: bool, length: usize) {
    let extra = header.len() - 4;
    out.u16(header.class);
    out.u8(header.number << 1 | u8::from(masked));
    // Payloads are at most 248 bytes: two times 124.
    out.u8(u8::try_from(length + extra).unwrap_or(u8::MAX));
    if header.class == Header::EXPERIMENTER {
        out.u32(header.experimenter);
    }
}

/// Appends `field` with value and mask.
pub(crate) fn put_field(
    out: &mut Vec<u8>,
    field: Field,
    bytes: usize,
    value: u128,
    mask: Option<u128>,
) {
    let header = field.info().header;
    put_header(
        out,
        header,
        mask.is_some(),
        if mask.is_some() { 2 * bytes } else { bytes },
    );
    out.uint(value, bytes);
    if let Some(mask) = mask {
        out.uint(mask, bytes);
    }
}

/// The number of payload bytes that a fixed field must have.
pub(crate) fn check_length(
    reader: &Reader<'_>,
    field: Field,
    raw: RawHeader,
) -> Result<usize, DecodeError> {
    let bytes = if raw.masked {
        raw.length / 2
    } else {
        raw.length
    };
    let fits = if field.info().is_variable() {
        bytes >= 1 && bytes <= usize::from(field.info().bytes)
    } else {
        bytes == usize::from(field.info().bytes)
    };
    if !fits || raw.masked && !raw.length.is_multiple_of(2) {
        return reader.error("oxm_length", DecodeReason::Length(raw.length));
    }
    Ok(bytes)
}

impl Match {
    /// Decodes a sequence of OXM or NXM fields without any header around it, up to the end of
    /// `bytes`.
    ///
    /// # Errors
    /// When a header, a length, a mask or a duplicate cannot be. Prerequisites are not checked.
    pub fn decode_fields(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read_fields(&mut Reader::new(bytes))
    }

    pub(crate) fn read_fields(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut result = Self {
            fields: Vec::with_capacity(reader.len().min(128) / 8),
            ..Self::any()
        };
        let mut seen = [0_u64; 4];
        while !reader.is_empty() {
            let start = *reader;
            let raw = read_header(reader)?;
            let known = Field::from_header(raw.header).filter(|field| {
                // Large Geneve options have no typed value; they are kept as they are.
                let bytes = if raw.masked {
                    raw.length / 2
                } else {
                    raw.length
                };
                !field.info().is_variable() || bytes <= 16
            });
            let Some(field) = known else {
                if raw.masked && raw.length % 2 != 0 {
                    return start.error("oxm_length", DecodeReason::Length(raw.length));
                }
                let payload = reader.take(raw.length, "oxm_payload")?.to_vec();
                result.unknown.push(UnknownField {
                    header: raw.header,
                    masked: raw.masked,
                    payload,
                });
                continue;
            };
            let bytes = check_length(&start, field, raw)?;
            let (word, bit) = (usize::from(field as u8 / 64), 1 << (field as u8 % 64));
            if let Some(word) = seen.get_mut(word) {
                if *word & bit != 0 {
                    return start.error(field.name(), DecodeReason::Duplicate);
                }
                *word |= bit;
            }
            let value = reader.uint(bytes, field.name())?;
            let mask = if raw.masked {
                let mask = reader.uint(bytes, field.name())?;
                if value & !mask != 0 {
                    return start.error(field.name(), DecodeReason::Bits);
                }
                mask
            } else {
                all_ones(field, bytes)
            };
            result.add(field, bytes, value, mask).or_else(|error| {
                let reason = match error {
                    MatchError::NotMaskable { .. } => DecodeReason::NotMaskable,
                    MatchError::Conflict { .. } => DecodeReason::Duplicate,
                    _ => DecodeReason::Bits,
                };
                start.error(field.name(), reason)
            })?;
        }
        result.unknown.sort();
        Ok(result)
    }

    /// Reads `struct ofp_match`: type, length, fields, padding to 8 bytes.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let kind = reader.u16("ofp_match.type")?;
        if kind != OXM {
            return start.error("ofp_match.type", DecodeReason::Value(kind.into()));
        }
        let length = usize::from(reader.u16("ofp_match.length")?);
        let Some(payload) = length.checked_sub(4) else {
            return start.error("ofp_match.length", DecodeReason::Length(length));
        };
        let result = Self::read_fields(&mut reader.sub(payload, "ofp_match.oxm_fields")?)?;
        reader.skip(padding(length), "ofp_match.pad")?;
        Ok(result)
    }

    /// Appends `struct ofp_match` with padding to 8 bytes.
    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.u16(OXM);
        out.u16(0);
        self.put_fields(out);
        let length = out.len() - start;
        let field = u16::try_from(length).map_err(|_| EncodeError::TooLong {
            what: "ofp_match",
            length,
            limit: usize::from(u16::MAX),
        })?;
        out.patch_u16(start + 2, field);
        out.pad8(start);
        Ok(())
    }

    /// Encodes the fields without any header around them, in Open vSwitch's order.
    pub fn encode_fields(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.fields.len() * 12);
        self.put_fields(&mut out);
        out
    }

    pub(crate) fn put_fields(&self, out: &mut Vec<u8>) {
        let mut entries = self.fields.iter().peekable();
        while let Some(entry) = entries.next() {
            let mask = (!entry.is_exact()).then(|| entry.mask());
            if entry.field() == Field::VlanTci {
                put_vlan(out, entry.value(), entry.mask());
            } else if let Some(number) = entry.field().index_from(Field::Reg0, 16) {
                // Open vSwitch sends pairs of registers as one of 64 bits in OpenFlow 1.5.
                let (mut value, mut mask) = (entry.value(), entry.mask());
                if number % 2 == 0 {
                    value <<= 32;
                    mask <<= 32;
                    let low = Field::reg(number + 1);
                    if let Some(next) = entries.next_if(|next| Some(next.field()) == low) {
                        value |= next.value();
                        mask |= next.mask();
                    }
                }
                let whole = mask == u128::from(u64::MAX);
                if let Some(wide) = Field::xreg(number / 2) {
                    put_field(out, wide, 8, value, (!whole).then_some(mask));
                }
            } else if entry.field() == Field::TunFlags {
                // Open vSwitch always says which of the 16 bits it means.
                put_field(out, Field::TunFlags, 2, entry.value(), Some(entry.mask()));
            } else {
                put_field(out, entry.field(), entry.bytes(), entry.value(), mask);
            }
        }
        for unknown in &self.unknown {
            put_header(out, unknown.header, unknown.masked, unknown.payload.len());
            out.bytes(&unknown.payload);
        }
    }
}

/// A VLAN tag as OpenFlow has it since 1.2: id with "present", and priority.
fn put_vlan(out: &mut Vec<u8>, value: u128, mask: u128) {
    let vid_bits = all_ones(Field::VlanVid, 2);
    let (vid, vid_mask) = (value & vid_bits, mask & vid_bits);
    let pcp_mask = mask >> 13;
    let only_pcp = pcp_mask == 7 && vid & VLAN_PRESENT != 0;
    if pcp_mask != 0 && !only_pcp {
        // Such bits have no standard form; the Nicira field says them all.
        put_field(
            out,
            Field::VlanTci,
            2,
            value,
            (mask != 0xffff).then_some(mask),
        );
        return;
    }
    if vid_mask != 0 {
        put_field(
            out,
            Field::VlanVid,
            2,
            vid,
            (vid_mask != vid_bits).then_some(vid_mask),
        );
    }
    if only_pcp {
        put_field(out, Field::VlanPcp, 1, value >> 13, None);
    }
}
