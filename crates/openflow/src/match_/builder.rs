//! Building a match: errors are collected and told once, by [`MatchBuilder::build`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{FieldValue, Match};
use crate::error::MatchError;
use crate::field::Field;
use crate::id::{MacAddr, OfPort};

/// Builds a [`Match`]. The first error stops everything and comes out of [`Self::build`].
///
/// ```
/// use carrick_openflow::{Match, OfPort, field::Field};
///
/// let m = Match::builder()
///     .ipv4()
///     .in_port(OfPort(101))
///     .nw_src("10.244.1.0".parse().unwrap(), 24)
///     .field_masked(Field::Reg0, 0x3u32, 0xfu32)
///     .build()
///     .unwrap();
/// assert_eq!(m.to_string(), "ip,reg0=0x3/0xf,in_port=101,nw_src=10.244.1.0/24");
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct MatchBuilder {
    inner: Match,
    error: Option<MatchError>,
}

impl MatchBuilder {
    /// Every packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `field=value`.
    pub fn field(self, field: Field, value: impl FieldValue) -> Self {
        let ones = field.info().all_ones();
        let value = value.bits();
        if value & !ones != 0 {
            return self.fail(MatchError::Width { field, value });
        }
        self.put(field, value, ones)
    }

    /// `field=value/mask`. Bits of the value outside of the mask are dropped.
    pub fn field_masked(self, field: Field, value: impl FieldValue, mask: impl FieldValue) -> Self {
        let (value, mask) = (value.bits(), mask.bits());
        if mask & !field.info().all_ones() != 0 {
            return self.fail(MatchError::Width { field, value: mask });
        }
        self.put(field, value & mask, mask)
    }

    /// Tunnel metadata `number` whose mapped option has `bytes` bytes (at most 16).
    pub fn tun_metadata(self, number: u8, bytes: usize, value: u128, mask: u128) -> Self {
        let Some(field) = Field::tun_metadata(number) else {
            return self.fail(MatchError::Register(number));
        };
        if bytes == 0 || bytes > 16 {
            return self.fail(MatchError::Size { field, bytes });
        }
        self.change(|inner| inner.add(field, bytes, value, mask))
    }

    /// `eth_type=value`.
    pub fn eth_type(self, value: u16) -> Self {
        self.field(Field::EthType, value)
    }

    /// `ip`.
    pub fn ipv4(self) -> Self {
        self.eth_type(0x0800)
    }

    /// `ipv6`.
    pub fn ipv6(self) -> Self {
        self.eth_type(0x86dd)
    }

    /// `arp`.
    pub fn arp(self) -> Self {
        self.eth_type(0x0806)
    }

    /// `nw_proto=value`; the family must be given too.
    pub fn ip_proto(self, value: u8) -> Self {
        self.field(Field::IpProto, value)
    }

    /// `icmp6,icmp_type=kind,icmp_code=code`: what ND matches need, with the family.
    pub fn icmpv6(self, kind: u8, code: u8) -> Self {
        self.ipv6()
            .ip_proto(58)
            .field(Field::Icmpv6Type, kind)
            .field(Field::Icmpv6Code, code)
    }

    /// `in_port=port`.
    pub fn in_port(self, port: OfPort) -> Self {
        self.field(Field::InPort, port)
    }

    /// `dl_src=address`.
    pub fn eth_src(self, address: MacAddr) -> Self {
        self.field(Field::EthSrc, address)
    }

    /// `dl_dst=address`.
    pub fn eth_dst(self, address: MacAddr) -> Self {
        self.field(Field::EthDst, address)
    }

    /// `nw_src` or `ipv6_src`, by the address; the family must be given too.
    pub fn nw_src(self, address: IpAddr, prefix: u8) -> Self {
        match address {
            IpAddr::V4(address) => self.ipv4_prefix(Field::Ipv4Src, address, prefix),
            IpAddr::V6(address) => self.ipv6_prefix(Field::Ipv6Src, address, prefix),
        }
    }

    /// `nw_dst` or `ipv6_dst`, by the address; the family must be given too.
    pub fn nw_dst(self, address: IpAddr, prefix: u8) -> Self {
        match address {
            IpAddr::V4(address) => self.ipv4_prefix(Field::Ipv4Dst, address, prefix),
            IpAddr::V6(address) => self.ipv6_prefix(Field::Ipv6Dst, address, prefix),
        }
    }

    /// An IPv4 prefix in any field of 32 bits.
    pub fn ipv4_prefix(self, field: Field, address: Ipv4Addr, prefix: u8) -> Self {
        self.prefix(field, address.bits(), 32, prefix)
    }

    /// An IPv6 prefix in any field of 128 bits.
    pub fn ipv6_prefix(self, field: Field, address: Ipv6Addr, prefix: u8) -> Self {
        self.prefix(field, address.bits(), 128, prefix)
    }

    /// `reg<number>=value/mask`.
    pub fn reg(self, number: u8, value: u32, mask: u32) -> Self {
        match Field::reg(number) {
            Some(field) => self.field_masked(field, value, mask),
            None => self.fail(MatchError::Register(number)),
        }
    }

    /// `ct_state`: bits that must be set and bits that must not, of
    /// [`ct_state`](super::ct_state).
    pub fn ct_state(self, set: u32, clear: u32) -> Self {
        if set & clear != 0 {
            return self.fail(MatchError::Conflict {
                field: Field::CtState,
            });
        }
        self.field_masked(Field::CtState, set, set | clear)
    }

    /// `ct_mark=value/mask`.
    pub fn ct_mark(self, value: u32, mask: u32) -> Self {
        self.field_masked(Field::CtMark, value, mask)
    }

    /// Checks prerequisites.
    ///
    /// # Errors
    /// The first thing that was wrong.
    pub fn build(self) -> Result<Match, MatchError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.inner.check_prerequisites()?;
        Ok(self.inner)
    }

    fn prefix(self, field: Field, value: u128, width: u8, prefix: u8) -> Self {
        if prefix > width {
            return self.fail(MatchError::Width {
                field,
                value: prefix.into(),
            });
        }
        if prefix == 0 {
            return self;
        }
        let ones = if width == 128 {
            u128::MAX
        } else {
            (1 << width) - 1
        };
        let mask = ones & (ones << (width - prefix));
        self.put(field, value & mask, mask)
    }

    fn put(self, field: Field, value: u128, mask: u128) -> Self {
        let bytes = usize::from(field.info().bytes);
        if bytes > 16 {
            return self.fail(MatchError::Size { field, bytes });
        }
        self.change(|inner| inner.add(field, bytes, value, mask))
    }

    fn change(mut self, change: impl FnOnce(&mut Match) -> Result<(), MatchError>) -> Self {
        if self.error.is_none() {
            self.error = change(&mut self.inner).err();
        }
        self
    }

    fn fail(mut self, error: MatchError) -> Self {
        self.error.get_or_insert(error);
        self
    }
}
