//! What packets a flow is for: values and masks of fields, always in canonical form.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::error::MatchError;
use crate::field::{Field, Header, Maskable};
use crate::id::{MacAddr, OfPort};

mod builder;
pub(crate) mod codec;
mod prerequisite;

pub use builder::MatchBuilder;

/// The CFI bit of a VLAN tag, which stands for "tag present".
pub(crate) const VLAN_PRESENT: u128 = 0x1000;

/// Bits of `ct_state` (ovs-fields(7), "Connection Tracking State").
pub mod ct_state {
    /// A connection that is not committed.
    pub const NEW: u32 = 0x01;
    /// Part of a committed connection.
    pub const EST: u32 = 0x02;
    /// Related to a committed connection.
    pub const REL: u32 = 0x04;
    /// In the reply direction.
    pub const RPL: u32 = 0x08;
    /// Invalid.
    pub const INV: u32 = 0x10;
    /// Tracked: has been through `ct`.
    pub const TRK: u32 = 0x20;
    /// Source translated.
    pub const SNAT: u32 = 0x40;
    /// Destination translated.
    pub const DNAT: u32 = 0x80;
}

/// One field of a match (OpenFlow 1.5.1 §7.2.3.2, an OXM TLV; ovs-fields(7)).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MaskedField {
    field: Field,
    /// Bytes of value and mask; less than the field's for tunnel metadata only.
    bytes: u8,
    value: [u8; 16],
    mask: [u8; 16],
}

impl MaskedField {
    /// `field` with all bits of `value`.
    ///
    /// # Errors
    /// When the value does not fit, or the field has more than 16 bytes.
    pub fn exact(field: Field, value: u128) -> Result<Self, MatchError> {
        Self::masked(field, value, field.info().all_ones())
    }

    /// `field` with those bits of `value` that `mask` has. Unlike a match, an action may mask any
    /// field.
    ///
    /// # Errors
    /// When value or mask do not fit, or the field has more than 16 bytes.
    pub fn masked(field: Field, value: u128, mask: u128) -> Result<Self, MatchError> {
        let bytes = usize::from(field.info().bytes);
        if bytes > 16 {
            return Err(MatchError::Size { field, bytes });
        }
        Self::sized(field, bytes, value, mask)
    }

    /// As [`Self::masked`], for tunnel metadata whose option has `bytes` bytes.
    ///
    /// # Errors
    /// When value or mask do not fit, or there are more than 16 bytes.
    pub fn sized(field: Field, bytes: usize, value: u128, mask: u128) -> Result<Self, MatchError> {
        let size = u8::try_from(bytes)
            .ok()
            .filter(|size| (1..=16).contains(size));
        let Some(size) = size else {
            return Err(MatchError::Size { field, bytes });
        };
        let excess = (value | mask) & !all_ones(field, bytes);
        if excess != 0 {
            return Err(MatchError::Width {
                field,
                value: excess,
            });
        }
        let value = (value & mask).to_be_bytes();
        Ok(Self {
            field,
            bytes: size,
            value,
            mask: mask.to_be_bytes(),
        })
    }

    /// All of a field whose width the value's type has.
    pub(crate) fn whole(field: Field, value: u128) -> Self {
        let ones = field.info().all_ones();
        let bytes = u8::try_from(field.info().bytes).unwrap_or(16);
        Self {
            field,
            bytes,
            value: (value & ones).to_be_bytes(),
            mask: ones.to_be_bytes(),
        }
    }

    /// The field.
    pub fn field(&self) -> Field {
        self.field
    }

    /// The value; bits that the mask leaves out are zero.
    pub fn value(&self) -> u128 {
        u128::from_be_bytes(self.value)
    }

    /// The mask: ones are compared.
    pub fn mask(&self) -> u128 {
        u128::from_be_bytes(self.mask)
    }

    /// Whether all bits are compared.
    pub fn is_exact(&self) -> bool {
        self.mask() == all_ones(self.field, usize::from(self.bytes))
    }

    /// Bytes of the value on the wire.
    pub fn bytes(&self) -> usize {
        usize::from(self.bytes)
    }
}

impl std::hash::Hash for MaskedField {
    /// By words: fields are hashed by the hundred thousand when flows are compared.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u8(self.field as u8);
        let (value, mask) = (self.value(), self.mask());
        if self.bytes <= 8 {
            // Equal fields have equal widths, but for tunnel metadata.
            state.write_u64(low(value));
            state.write_u64(low(mask));
        } else {
            state.write_u128(value);
            state.write_u128(mask);
        }
    }
}

/// The lower 64 bits.
fn low(value: u128) -> u64 {
    u64::try_from(value & u128::from(u64::MAX)).unwrap_or_default()
}

impl std::fmt::Debug for MaskedField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={:#x}/{:#x}", self.field, self.value(), self.mask())
    }
}

/// A field that this crate does not know, kept as it came (an OXM TLV, OpenFlow 1.5.1 §7.2.3.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnknownField {
    /// Its header.
    pub header: Header,
    /// Whether the payload holds value and mask.
    pub masked: bool,
    /// Value and, when masked, mask: as many bytes each.
    pub payload: Vec<u8>,
}

/// What packets a flow is for (`struct ofp_match`, OpenFlow 1.5.1 §7.2.3; text as in ovs-fields(7)).
///
/// A match is canonical at any time: what the switch considers equal *is* equal. Values hold no
/// bits outside of their masks, fields with an empty mask are absent, and fields that are views of
/// others are stored as those: `xreg` and `xxreg` as `reg`, `vlan_vid` and `vlan_pcp` as
/// `vlan_tci`, `nw_tos` as `ip_dscp`, the 16-bit `in_port` as the 32-bit one.
///
/// Made by [`Match::builder`], which checks widths and prerequisites, by parsing text, or from the
/// wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Match {
    /// Sorted by field.
    fields: Vec<MaskedField>,
    unknown: Vec<UnknownField>,
}

impl Match {
    /// Matches every packet.
    pub const fn any() -> Self {
        Self {
            fields: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// A builder that starts with every packet.
    pub fn builder() -> MatchBuilder {
        MatchBuilder::new()
    }

    /// Whether every packet matches.
    pub fn is_any(&self) -> bool {
        self.fields.is_empty() && self.unknown.is_empty()
    }

    /// The fields in the order of the wire.
    pub fn fields(&self) -> &[MaskedField] {
        &self.fields
    }

    /// Fields that this crate does not know.
    pub fn unknown(&self) -> &[UnknownField] {
        &self.unknown
    }

    /// Value and mask of a field, when any of its bits is compared. Views (`xreg0`, `vlan_vid`, …)
    /// are not looked through: ask for what they are stored as.
    pub fn get(&self, field: Field) -> Option<(u128, u128)> {
        self.entry(field).map(|entry| (entry.value(), entry.mask()))
    }

    /// The value of a field of which all bits are compared.
    pub fn exact(&self, field: Field) -> Option<u128> {
        self.entry(field)
            .filter(|entry| entry.is_exact())
            .map(MaskedField::value)
    }

    /// `eth_type`.
    pub fn eth_type(&self) -> Option<u16> {
        self.exact(Field::EthType)
            .and_then(|value| u16::try_from(value).ok())
    }

    /// `in_port`.
    pub fn in_port(&self) -> Option<OfPort> {
        self.exact(Field::InPort)
            .and_then(|value| u32::try_from(value).ok())
            .map(OfPort)
    }

    fn entry(&self, field: Field) -> Option<&MaskedField> {
        let index = self
            .fields
            .binary_search_by_key(&field, |entry| entry.field)
            .ok()?;
        self.fields.get(index)
    }

    /// Adds bits of a stored (not viewed) field.
    fn merge(
        &mut self,
        field: Field,
        bytes: usize,
        value: u128,
        mask: u128,
    ) -> Result<(), MatchError> {
        if mask == 0 {
            return Ok(());
        }
        let bytes = u8::try_from(bytes).map_err(|_| MatchError::Size { field, bytes })?;
        match self
            .fields
            .binary_search_by_key(&field, |entry| entry.field)
        {
            Ok(index) => {
                let Some(entry) = self.fields.get_mut(index) else {
                    return Ok(());
                };
                let common = entry.mask() & mask;
                if (entry.value() ^ value) & common != 0 || entry.bytes != bytes {
                    return Err(MatchError::Conflict { field });
                }
                entry.value = (entry.value() | value & mask).to_be_bytes();
                entry.mask = (entry.mask() | mask).to_be_bytes();
            }
            Err(index) => self.fields.insert(
                index,
                MaskedField {
                    field,
                    bytes,
                    value: (value & mask).to_be_bytes(),
                    mask: mask.to_be_bytes(),
                },
            ),
        }
        Ok(())
    }

    /// Adds a field of any kind in canonical form. Masks of unmaskable fields must be whole.
    pub(crate) fn add(
        &mut self,
        field: Field,
        bytes: usize,
        value: u128,
        mask: u128,
    ) -> Result<(), MatchError> {
        let info = field.info();
        let ones = all_ones(field, bytes);
        if value & mask & !ones != 0 {
            return Err(MatchError::Width { field, value });
        }
        let mask = mask & ones;
        if info.maskable == Maskable::Exact && mask != ones && mask != 0 {
            return Err(MatchError::NotMaskable { field });
        }
        let value = value & mask;
        match field {
            Field::PacketType if value == 0 => Ok(()),
            // A packet without a tag has no priority either.
            Field::VlanTci if value == 0 && mask == 0xffff => {
                self.merge(field, bytes, 0, 0x0fff | VLAN_PRESENT)
            }
            Field::InPort16 => {
                let port = u16::try_from(value).map_err(|_| MatchError::Width { field, value })?;
                self.merge(
                    Field::InPort,
                    4,
                    OfPort::from_u16(port).into(),
                    all_ones(Field::InPort, 4),
                )
            }
            Field::VlanVid => self.merge(Field::VlanTci, 2, value, mask),
            Field::VlanPcp => self.merge(
                Field::VlanTci,
                2,
                value << 13 | VLAN_PRESENT,
                0xe000 | VLAN_PRESENT,
            ),
            Field::NwTos if value & 3 != 0 => Err(MatchError::Width { field, value }),
            Field::NwTos => self.merge(Field::IpDscp, 1, value >> 2, 0x3f),
            _ => match split(field) {
                Some((first, count)) => {
                    for index in 0..count {
                        let shift = 32 * u32::from(count - 1 - index);
                        let Some(register) = Field::reg(first + index) else {
                            continue;
                        };
                        let word = u128::from(u32::MAX);
                        self.merge(register, 4, value >> shift & word, mask >> shift & word)?;
                    }
                    Ok(())
                }
                None => self.merge(field, bytes, value, mask),
            },
        }
    }

    pub(crate) fn set_unknown(&mut self, mut fields: Vec<UnknownField>) {
        fields.sort();
        self.unknown = fields;
    }
}

/// The registers a wider register is made of: first and count.
fn split(field: Field) -> Option<(u8, u8)> {
    if let Some(number) = field.index_from(Field::XReg0, 8) {
        return Some((number * 2, 2));
    }
    field
        .index_from(Field::XxReg0, 4)
        .map(|number| (number * 4, 4))
}

/// All bits of a field whose value has `bytes` bytes.
pub(crate) fn all_ones(field: Field, bytes: usize) -> u128 {
    let info = field.info();
    if info.is_variable() {
        return if bytes >= 16 {
            u128::MAX
        } else {
            (1 << (8 * bytes)) - 1
        };
    }
    info.all_ones()
}

/// A value that fields are compared with, as [`MatchBuilder`] takes it (payload of an OXM TLV,
/// OpenFlow 1.5.1 §7.2.3.2).
pub trait FieldValue {
    /// The bits, least significant last.
    fn bits(self) -> u128;
}

macro_rules! field_value {
    ($($type:ty),*) => {$(
        impl FieldValue for $type {
            fn bits(self) -> u128 {
                self.into()
            }
        }
    )*};
}

field_value!(u8, u16, u32, u64, u128, OfPort, MacAddr);

impl FieldValue for Ipv4Addr {
    fn bits(self) -> u128 {
        self.to_bits().into()
    }
}

impl FieldValue for Ipv6Addr {
    fn bits(self) -> u128 {
        self.to_bits()
    }
}
