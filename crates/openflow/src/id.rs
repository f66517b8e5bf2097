//! Typed identifiers. Each is a number on the wire; none may be taken for another.

use std::fmt;

macro_rules! number {
    ($(#[doc = $doc:literal])* $name:ident($inner:ty)) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }

        impl From<$name> for $inner {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl From<$name> for u128 {
            fn from(value: $name) -> Self {
                Self::from(value.0)
            }
        }
    };
}

number! {
    /// A flow table (`ofp_table`, OpenFlow 1.5.1 §7.2.1). 0–254; 255 means all tables in requests.
    TableId(u8)
}
number! {
    /// A port as OpenFlow numbers it (32 bits; `ofp_port_no`, OpenFlow 1.5.1 §7.2.1).
    OfPort(u32)
}
number! {
    /// A group (`ofp_group`, OpenFlow 1.5.1 §7.3.4.3).
    GroupId(u32)
}
number! {
    /// A meter (`ofp_meter`, OpenFlow 1.5.1 §7.3.4.5).
    MeterId(u32)
}
number! {
    /// Opaque number of a flow's owner: 64 bits, never interpreted by the switch.
    Cookie(u64)
}
number! {
    /// Transaction id that pairs a reply with its request (OpenFlow 1.5.1 §7.1).
    Xid(u32)
}
number! {
    /// A bucket within a group (OpenFlow 1.5.1 §7.3.4.3).
    BucketId(u32)
}

impl TableId {
    /// All tables, in requests only (`OFPTT_ALL`).
    pub const ALL: Self = Self(0xff);
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl OfPort {
    /// The largest number of a real port (`OFPP_MAX`).
    pub const MAX: Self = Self(0xffff_feff);
    /// "No output port set" of the action set (`OFPP_UNSET`).
    pub const UNSET: Self = Self(0xffff_fff7);
    /// Send it out of the port it came in (`OFPP_IN_PORT`).
    pub const IN_PORT: Self = Self(0xffff_fff8);
    /// Submit a packet-out to the first table (`OFPP_TABLE`).
    pub const TABLE: Self = Self(0xffff_fff9);
    /// Forward as an ordinary switch would (`OFPP_NORMAL`).
    pub const NORMAL: Self = Self(0xffff_fffa);
    /// All ports but the ingress and those that do not flood (`OFPP_FLOOD`).
    pub const FLOOD: Self = Self(0xffff_fffb);
    /// All ports but the ingress (`OFPP_ALL`).
    pub const ALL: Self = Self(0xffff_fffc);
    /// Send to the controllers (`OFPP_CONTROLLER`).
    pub const CONTROLLER: Self = Self(0xffff_fffd);
    /// The bridge's own port (`OFPP_LOCAL`).
    pub const LOCAL: Self = Self(0xffff_fffe);
    /// Wildcard in requests; also "none" (`OFPP_ANY`).
    pub const ANY: Self = Self(0xffff_ffff);

    const NAMES: [(Self, &'static str); 9] = [
        (Self::IN_PORT, "IN_PORT"),
        (Self::TABLE, "TABLE"),
        (Self::NORMAL, "NORMAL"),
        (Self::FLOOD, "FLOOD"),
        (Self::ALL, "ALL"),
        (Self::CONTROLLER, "CONTROLLER"),
        (Self::LOCAL, "LOCAL"),
        (Self::ANY, "ANY"),
        (Self::UNSET, "UNSET"),
    ];

    /// The name of a reserved port, as ovs-ofctl writes it.
    pub fn reserved_name(self) -> Option<&'static str> {
        Self::NAMES
            .iter()
            .find(|(port, _)| *port == self)
            .map(|(_, name)| *name)
    }

    /// The reserved port of that name, upper or lower case; `NONE` is `ANY`.
    pub fn from_reserved_name(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("none") {
            return Some(Self::ANY);
        }
        Self::NAMES
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(name))
            .map(|(port, _)| *port)
    }

    /// The 16-bit form of OpenFlow 1.0, in which reserved ports keep their place at the end. Nicira
    /// actions carry ports like this. `None` when it does not fit.
    pub fn to_u16(self) -> Option<u16> {
        if self.0 >= 0xffff_ff00 {
            u16::try_from(self.0 - 0xffff_0000).ok()
        } else {
            u16::try_from(self.0).ok().filter(|port| *port < 0xff00)
        }
    }

    /// The port of a 16-bit number of OpenFlow 1.0.
    pub fn from_u16(port: u16) -> Self {
        if port >= 0xff00 {
            Self(u32::from(port) + 0xffff_0000)
        } else {
            Self(u32::from(port))
        }
    }
}

impl fmt::Display for OfPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reserved_name() {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl GroupId {
    /// The largest number of a real group (`OFPG_MAX`).
    pub const MAX: Self = Self(0xffff_ff00);
    /// All groups, in a deletion or a request (`OFPG_ALL`).
    pub const ALL: Self = Self(0xffff_fffc);
    /// Wildcard in flow requests (`OFPG_ANY`).
    pub const ANY: Self = Self(0xffff_ffff);
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl MeterId {
    /// The largest number of a real meter (`OFPM_MAX`).
    pub const MAX: Self = Self(0xffff_0000);
    /// The meter of packets to the switch's slow path (`OFPM_SLOWPATH`).
    pub const SLOWPATH: Self = Self(0xffff_fffd);
    /// The meter of packets to the controller (`OFPM_CONTROLLER`).
    pub const CONTROLLER: Self = Self(0xffff_fffe);
    /// All meters, in a deletion or a request (`OFPM_ALL`).
    pub const ALL: Self = Self(0xffff_ffff);
}

impl fmt::Display for MeterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SLOWPATH => f.write_str("slowpath"),
            Self::CONTROLLER => f.write_str("controller"),
            Self::ALL => f.write_str("all"),
            Self(number) => number.fmt(f),
        }
    }
}

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl BucketId {
    /// The largest number of a real bucket (`OFPG_BUCKET_MAX`).
    pub const MAX: Self = Self(0xffff_ff00);
    /// The first bucket, as a place for insertion or removal (`OFPG_BUCKET_FIRST`).
    pub const FIRST: Self = Self(0xffff_fffd);
    /// The last bucket, as a place for insertion or removal (`OFPG_BUCKET_LAST`).
    pub const LAST: Self = Self(0xffff_fffe);
    /// All buckets (`OFPG_BUCKET_ALL`).
    pub const ALL: Self = Self(0xffff_ffff);
}

/// An Ethernet address (IEEE 802, 48 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All ones.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address of the lower 48 bits.
    pub fn from_bits(bits: u128) -> Self {
        let bytes = bits.to_be_bytes();
        let mut address = [0; 6];
        address.copy_from_slice(&bytes[10..]);
        Self(address)
    }
}

impl From<MacAddr> for u128 {
    fn from(address: MacAddr) -> Self {
        address
            .0
            .iter()
            .fold(0, |bits, byte| (bits << 8) | Self::from(*byte))
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for MacAddr {
    type Err = crate::error::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len()));
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| Self::Err::new(text, "is not an Ethernet address"))?;
        }
        if parts.next().is_some() {
            return Err(Self::Err::new(text, "is not an Ethernet address"));
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_keep_their_place_in_16_bits() {
        assert_eq!(OfPort::LOCAL.to_u16(), Some(0xfffe));
        assert_eq!(OfPort::from_u16(0xfff8), OfPort::IN_PORT);
        assert_eq!(OfPort(0xfeff).to_u16(), Some(0xfeff));
        assert_eq!(OfPort(0x1_0000).to_u16(), None);
        assert_eq!(OfPort(0xff00).to_u16(), None);
    }

    #[test]
    fn mac_text() {
        let mac: MacAddr = "02:00:0a:f4:01:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:0a:f4:01:02");
        assert_eq!(MacAddr::from_bits(u128::from(mac)), mac);
        assert!("02:00:0a:f4:01".parse::<MacAddr>().is_err());
        assert!("02:00:0a:f4:01:02:03".parse::<MacAddr>().is_err());
    }
}
