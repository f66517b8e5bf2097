//! Fields: what can be matched, read and written, from one static table.

use std::fmt;
use std::sync::LazyLock;

use rustc_hash::FxHashMap;

mod subfield;
mod table;

pub use subfield::{Subfield, SubfieldError};
pub use table::Field;

use table::TABLE;

/// The identity of a field on the wire: an OXM or NXM header without length and mask bit
/// (OpenFlow 1.5.1 §7.2.3.2, `lib/nx-match.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Header {
    /// `oxm_class`; 0xffff for experimenters.
    pub class: u16,
    /// `oxm_field`, 7 bits.
    pub number: u8,
    /// The experimenter, 0 unless the class is 0xffff.
    pub experimenter: u32,
}

impl Header {
    /// The class of experimenter fields.
    pub const EXPERIMENTER: u16 = 0xffff;

    /// A header. `experimenter` counts only in class 0xffff.
    pub const fn new(class: u16, number: u8, experimenter: u32) -> Self {
        Self {
            class,
            number,
            experimenter,
        }
    }

    /// Bytes of the header on the wire.
    pub const fn len(self) -> usize {
        if self.class == Self::EXPERIMENTER {
            8
        } else {
            4
        }
    }

    /// A header is never empty.
    pub const fn is_empty(self) -> bool {
        false
    }
}

/// Which masks a field takes ("Maskable" in ovs-fields(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maskable {
    /// Only whole values.
    Exact,
    /// Any mask.
    Arbitrary,
}

/// Whether actions may write a field ("Access" in ovs-fields(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Matched and read only.
    ReadOnly,
    /// Written by `set_field`, `load`, `move`.
    ReadWrite,
}

/// What a packet must be for a field to exist in it (ovs-fields(7), "Prerequisites").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prerequisite {
    /// Exists always.
    None,
    /// An Ethernet packet, which all packets are here.
    Ethernet,
    /// A VLAN tag.
    VlanVid,
    /// `eth_type` 0x8847 or 0x8848.
    Mpls,
    /// `eth_type=0x800`.
    Ipv4,
    /// `eth_type=0x86dd`.
    Ipv6,
    /// Either of the two.
    Ip,
    /// `eth_type` 0x806 or 0x8035.
    Arp,
    /// IP and protocol 6.
    Tcp,
    /// IP and protocol 17.
    Udp,
    /// IP and protocol 132.
    Sctp,
    /// IPv4 and protocol 1.
    Icmpv4,
    /// IPv6 and protocol 58.
    Icmpv6,
    /// ICMPv6 type 135 or 136, code 0.
    Nd,
    /// ICMPv6 type 135, code 0.
    NdSolicit,
    /// ICMPv6 type 136, code 0.
    NdAdvert,
    /// `eth_type=0x894f`.
    Nsh,
    /// A tracked packet (`ct_state=+trk`).
    Ct,
}

impl Prerequisite {
    /// In words, for messages.
    pub fn describe(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Ethernet => "an Ethernet packet",
            Self::VlanVid => "a VLAN (vlan_vid or vlan_tci with 0x1000)",
            Self::Mpls => "eth_type 0x8847 or 0x8848",
            Self::Ipv4 => "eth_type 0x800",
            Self::Ipv6 => "eth_type 0x86dd",
            Self::Ip => "eth_type 0x800 or 0x86dd",
            Self::Arp => "eth_type 0x806 or 0x8035",
            Self::Tcp => "eth_type 0x800 or 0x86dd and nw_proto 6",
            Self::Udp => "eth_type 0x800 or 0x86dd and nw_proto 17",
            Self::Sctp => "eth_type 0x800 or 0x86dd and nw_proto 132",
            Self::Icmpv4 => "eth_type 0x800 and nw_proto 1",
            Self::Icmpv6 => "eth_type 0x86dd and nw_proto 58",
            Self::Nd => "icmpv6_type 135 or 136 and icmpv6_code 0",
            Self::NdSolicit => "icmpv6_type 135 and icmpv6_code 0",
            Self::NdAdvert => "icmpv6_type 136 and icmpv6_code 0",
            Self::Nsh => "eth_type 0x894f",
            Self::Ct => "ct_state with +trk and eth_type 0x800 or 0x86dd",
        }
    }
}

/// How a value is written as text ("Format" in ovs-fields(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Decimal; hexadecimal when masked.
    Decimal,
    /// Hexadecimal with `0x`.
    Hex,
    /// `aa:bb:cc:dd:ee:ff`.
    Ethernet,
    /// Dotted quad, mask as prefix length where it is one.
    Ipv4,
    /// RFC 5952, mask as prefix length where it is one.
    Ipv6,
    /// A port of 32 bits: number or reserved name.
    Port,
    /// A port of 16 bits.
    Port16,
    /// `no`, `yes`, `first`, `later`, `not_later`.
    Frag,
    /// `+new-rel…`.
    CtState,
    /// `+syn-ack…`.
    TcpFlags,
    /// `+oam`.
    TunFlags,
    /// `(namespace,type)`.
    PacketType,
}

/// One row of the table: what Open vSwitch's `meta-flow.h` says of each field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldInfo {
    /// The field.
    pub field: Field,
    /// Its name in ovs-fields(7).
    pub name: &'static str,
    /// Other names it is known by.
    pub aliases: &'static [&'static str],
    /// The header that is sent.
    pub header: Header,
    /// Further headers that are understood.
    pub other_headers: &'static [Header],
    /// Bytes on the wire (the most, for `tun_metadata`).
    pub bytes: u16,
    /// Bits that may be other than zero.
    pub bits: u16,
    /// Which masks it takes.
    pub maskable: Maskable,
    /// What a packet must be for it to exist.
    pub prerequisite: Prerequisite,
    /// How it is written.
    pub format: Format,
    /// Whether actions may write it.
    pub access: Access,
}

impl FieldInfo {
    /// Whether the size on the wire depends on the switch's TLV table.
    pub const fn is_variable(&self) -> bool {
        self.bytes > 16
    }

    /// All bits that may be set, for fields of up to 128 bits; all ones for larger ones.
    pub const fn all_ones(&self) -> u128 {
        if self.bits >= 128 {
            u128::MAX
        } else {
            (1 << self.bits) - 1
        }
    }
}

static BY_HEADER: LazyLock<FxHashMap<Header, Field>> = LazyLock::new(|| {
    TABLE
        .iter()
        .flat_map(|row| {
            std::iter::once(row.header)
                .chain(row.other_headers.iter().copied())
                .map(|h| (h, row.field))
        })
        .collect()
});

/// For classes 0x0000, 0x0001, 0x8000 and 0x8001 the place in the table by number; 255 is none.
static COMMON: [[u8; 128]; 4] = common();

const fn common() -> [[u8; 128]; 4] {
    let mut result = [[u8::MAX; 128]; 4];
    let mut index = 0;
    while index < TABLE.len() {
        let row = &TABLE[index];
        let mut other = 0;
        let mut header = row.header;
        loop {
            if matches!(header.class, 0x0000 | 0x0001 | 0x8000 | 0x8001) {
                let line = (header.class & 1) | (header.class >> 14);
                result[line as usize][header.number as usize] = row.field as u8;
            }
            if other == row.other_headers.len() {
                break;
            }
            header = row.other_headers[other];
            other += 1;
        }
        index += 1;
    }
    result
}

static BY_NAME: LazyLock<FxHashMap<&'static str, Field>> = LazyLock::new(|| {
    TABLE
        .iter()
        .flat_map(|row| {
            std::iter::once(row.name)
                .chain(row.aliases.iter().copied())
                .map(|name| (name, row.field))
        })
        .collect()
});

impl Field {
    /// The row of the table.
    pub fn info(self) -> &'static FieldInfo {
        // The enumeration and the table come from the same rows.
        &TABLE[self as usize]
    }

    /// Its name in ovs-fields(7).
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// All fields in the order of the wire.
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        TABLE.iter().map(|row| row.field)
    }

    /// The field of a header.
    pub fn from_header(header: Header) -> Option<Self> {
        match header.class {
            // The classes of nearly all fields, without hashing.
            0x0000 | 0x0001 | 0x8000 | 0x8001 => {
                let row = usize::from((header.class & 1) | (header.class >> 14));
                let place = COMMON.get(row)?.get(usize::from(header.number))?;
                TABLE.get(usize::from(*place)).map(|row| row.field)
            }
            _ => BY_HEADER.get(&header).copied(),
        }
    }

    /// The field of a name: `reg0`, `ip_src`, `nw_src`, or `NXM_NX_REG0`, `OXM_OF_ETH_SRC`.
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some(field) = BY_NAME.get(name) {
            return Some(*field);
        }
        subfield::from_header_name(name)
    }

    /// Register `number`, 0–15.
    pub fn reg(number: u8) -> Option<Self> {
        Self::nth(Self::Reg0, number, 16)
    }

    /// 64-bit register `number`, 0–7.
    pub fn xreg(number: u8) -> Option<Self> {
        Self::nth(Self::XReg0, number, 8)
    }

    /// 128-bit register `number`, 0–3.
    pub fn xxreg(number: u8) -> Option<Self> {
        Self::nth(Self::XxReg0, number, 4)
    }

    /// Tunnel metadata `number`, 0–63.
    pub fn tun_metadata(number: u8) -> Option<Self> {
        Self::nth(Self::TunMetadata0, number, 64)
    }

    fn nth(first: Self, number: u8, count: u8) -> Option<Self> {
        if number >= count {
            return None;
        }
        TABLE
            .get(first as usize + usize::from(number))
            .map(|row| row.field)
    }

    /// How far behind `first` the field stands, when it is one of `count` such fields.
    pub(crate) fn index_from(self, first: Self, count: u8) -> Option<u8> {
        (self as u8)
            .checked_sub(first as u8)
            .filter(|index| *index < count)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_consistent() {
        let mut headers = rustc_hash::FxHashSet::default();
        let mut names = rustc_hash::FxHashSet::default();
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.field as usize, index);
            assert!(row.bits <= row.bytes * 8, "{}", row.name);
            assert!(row.header.number < 128);
            for header in std::iter::once(&row.header).chain(row.other_headers) {
                assert!(headers.insert(*header), "{} shares a header", row.name);
            }
            for name in std::iter::once(&row.name).chain(row.aliases) {
                assert!(names.insert(*name), "{name} twice");
                assert_eq!(Field::from_name(name), Some(row.field));
            }
        }
    }

    #[test]
    fn numbered_fields() {
        assert_eq!(Field::reg(15), Some(Field::Reg15));
        assert_eq!(Field::reg(16), None);
        assert_eq!(Field::xxreg(3), Some(Field::XxReg3));
        assert_eq!(Field::Reg7.index_from(Field::Reg0, 16), Some(7));
        assert_eq!(Field::XReg0.index_from(Field::Reg0, 16), None);
    }
}
