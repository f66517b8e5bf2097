//! A run of bits within a field: `NXM_NX_REG0[0..15]`.

use std::fmt;
use std::sync::LazyLock;

use rustc_hash::FxHashMap;
use thiserror::Error;

use super::{Field, Header};

/// Why a subfield cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}[{start}..] of {bits} bits: the field has {}", field.name(), field.info().bits)]
pub struct SubfieldError {
    /// The field.
    pub field: Field,
    /// First bit, 0 is the least significant.
    pub start: u16,
    /// Number of bits.
    pub bits: u16,
}

/// `bits` bits of a field from bit `start` up; bit 0 is the least significant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subfield {
    field: Field,
    start: u16,
    bits: u16,
}

impl Subfield {
    /// Bits `start` to `start + bits - 1` of `field`.
    ///
    /// # Errors
    /// When there are no bits or some lie outside of the field.
    pub fn new(field: Field, start: u16, bits: u16) -> Result<Self, SubfieldError> {
        // A field's bytes are the bound, as in Open vSwitch's own checks for odd widths.
        let end = start.checked_add(bits);
        if bits == 0 || end.is_none_or(|end| end > field.info().bits) {
            return Err(SubfieldError { field, start, bits });
        }
        Ok(Self { field, start, bits })
    }

    /// All bits of `field`.
    pub fn whole(field: Field) -> Self {
        Self {
            field,
            start: 0,
            bits: field.info().bits,
        }
    }

    /// The field.
    pub fn field(self) -> Field {
        self.field
    }

    /// The first bit.
    pub fn start(self) -> u16 {
        self.start
    }

    /// The number of bits.
    pub fn bits(self) -> u16 {
        self.bits
    }

    /// Whether it is the whole field.
    pub fn is_whole(self) -> bool {
        self.start == 0 && self.bits == self.field.info().bits
    }

    /// The mask of these bits within the field; `None` for bits beyond 128.
    pub fn mask(self) -> Option<u128> {
        if u32::from(self.start) + u32::from(self.bits) > 128 {
            return None;
        }
        let ones = if self.bits == 128 {
            u128::MAX
        } else {
            (1 << self.bits) - 1
        };
        Some(ones << self.start)
    }
}

impl From<Field> for Subfield {
    fn from(field: Field) -> Self {
        Self::whole(field)
    }
}

impl fmt::Display for Subfield {
    /// As ovs-ofctl writes it in `move`, `output` and `learn`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(header_name(self.field))?;
        if self.is_whole() {
            f.write_str("[]")
        } else if self.bits == 1 {
            write!(f, "[{}]", self.start)
        } else {
            write!(f, "[{}..{}]", self.start, self.start + self.bits - 1)
        }
    }
}

/// The name of the header that Open vSwitch prints for a subfield's field: the Nicira name where
/// there is one, else the standard one.
pub(crate) fn header_name(field: Field) -> &'static str {
    HEADER_NAMES
        .get(field as usize)
        .map_or(field.name(), |name| name.as_str())
}

static HEADER_NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    Field::all()
        .map(|field| name_of(field, printed_header(field)))
        .collect()
});

static BY_HEADER_NAME: LazyLock<FxHashMap<String, Field>> = LazyLock::new(|| {
    Field::all()
        .flat_map(|field| {
            let info = field.info();
            std::iter::once(info.header)
                .chain(info.other_headers.iter().copied())
                .map(move |header| (name_of(field, header), field))
        })
        .collect()
});

pub(super) fn from_header_name(name: &str) -> Option<Field> {
    BY_HEADER_NAME.get(name).copied()
}

fn printed_header(field: Field) -> Header {
    let info = field.info();
    info.other_headers
        .iter()
        .copied()
        .find(|header| header.class <= 1)
        .unwrap_or(info.header)
}

fn name_of(field: Field, header: Header) -> String {
    let prefix = match (header.class, header.experimenter) {
        (0, _) => "NXM_OF_",
        (1, _) => "NXM_NX_",
        (0x8000, _) => "OXM_OF_",
        (0x8001, _) => "OXM_OF_PKT_REG",
        (0x1000, _) => "ERICOXM_OF_",
        (0xffff, 0x4f4e_4600) => "ONFOXM_ET_",
        (0xffff, 0x0000_2320) => "NXOXM_ET_",
        _ => "NXOXM_",
    };
    let nxm = header.class <= 1;
    let rest = match field {
        Field::Ipv4Src if nxm => "IP_SRC",
        Field::Ipv4Dst if nxm => "IP_DST",
        Field::Ipv4Src => "IPV4_SRC",
        Field::Ipv4Dst => "IPV4_DST",
        Field::InPort => "IN_PORT",
        Field::NwTos => "IP_TOS",
        Field::IpEcn => "IP_ECN",
        Field::IpTtl => "IP_TTL",
        Field::IpProto => "IP_PROTO",
        Field::Ipv6Label if !nxm => "IPV6_FLABEL",
        Field::IcmpType if !nxm => "ICMPV4_TYPE",
        Field::IcmpCode if !nxm => "ICMPV4_CODE",
        Field::NdTarget if !nxm => "IPV6_ND_TARGET",
        Field::NdSll if !nxm => "IPV6_ND_SLL",
        Field::NdTll if !nxm => "IPV6_ND_TLL",
        Field::NdReserved => "ICMPV6_ND_RESERVED",
        Field::NdOptionsType => "ICMPV6_ND_OPTIONS_TYPE",
        Field::TunId if !nxm => "TUNNEL_ID",
        Field::TunSrc => "TUN_IPV4_SRC",
        Field::TunDst => "TUN_IPV4_DST",
        Field::TunErspanIdx => "ERSPAN_IDX",
        Field::TunErspanVer => "ERSPAN_VER",
        Field::TunErspanDir => "ERSPAN_DIR",
        Field::TunErspanHwid => "ERSPAN_HWID",
        Field::TunGtpuFlags => "GTPU_FLAGS",
        Field::TunGtpuMsgtype => "GTPU_MSGTYPE",
        other => {
            if let Some(number) = other.index_from(Field::XReg0, 8) {
                return format!("{prefix}{number}");
            }
            return format!("{prefix}{}", other.name().to_ascii_uppercase());
        }
    };
    format!("{prefix}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_headers() {
        assert_eq!(
            Subfield::whole(Field::EthSrc).to_string(),
            "NXM_OF_ETH_SRC[]"
        );
        assert_eq!(
            Subfield::whole(Field::ArpSha).to_string(),
            "NXM_NX_ARP_SHA[]"
        );
        assert_eq!(
            Subfield::whole(Field::XReg1).to_string(),
            "OXM_OF_PKT_REG1[]"
        );
        assert_eq!(Field::from_name("OXM_OF_IPV4_SRC"), Some(Field::Ipv4Src));
        assert_eq!(Field::from_name("NXM_OF_IN_PORT"), Some(Field::InPort16));
        assert_eq!(Field::from_name("OXM_OF_IN_PORT"), Some(Field::InPort));
    }

    #[test]
    fn bits_must_lie_in_the_field() {
        assert_eq!(
            Subfield::new(Field::Reg0, 0, 16).unwrap().to_string(),
            "NXM_NX_REG0[0..15]"
        );
        assert_eq!(
            Subfield::new(Field::Reg0, 5, 1).unwrap().to_string(),
            "NXM_NX_REG0[5]"
        );
        assert!(Subfield::new(Field::Reg0, 20, 16).is_err());
        assert!(Subfield::new(Field::Reg0, u16::MAX, 2).is_err());
        assert!(Subfield::new(Field::Reg0, 3, 0).is_err());
        assert_eq!(Subfield::new(Field::Reg0, 4, 4).unwrap().mask(), Some(0xf0));
    }
}
