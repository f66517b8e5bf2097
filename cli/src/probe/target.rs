//! What a probe asks: `PROTOCOL/ADDRESS:PORT/BYTES`.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::wire::{ANSWER_HEADER, STREAM_MAX};

/// Bytes of IPv4 and UDP header.
const HEADERS_V4: u32 = 28;
/// Bytes of IPv6 and UDP header.
const HEADERS_V6: u32 = 48;

/// How a target is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// A connection; the bytes are sent and must come back.
    Tcp,
    /// One datagram with that many bytes of payload.
    Udp,
    /// One UDP packet of exactly that many bytes, IP header included, that nothing may fragment.
    Mtu,
}

impl Protocol {
    /// The word in a target's text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Mtu => "mtu",
        }
    }
}

/// One thing to probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    protocol: Protocol,
    address: SocketAddr,
    bytes: u32,
}

/// A target's text or size is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not three parts, or an unknown protocol, address or number.
    #[error("{text:?} is not PROTOCOL/ADDRESS:PORT/BYTES with PROTOCOL tcp, udp or mtu")]
    Syntax {
        /// The text.
        text: String,
    },
    /// The size does not fit the protocol.
    #[error("{bytes} bytes are not possible with {protocol}: from {least} to {most}")]
    Size {
        /// What was asked.
        bytes: u32,
        /// For what.
        protocol: &'static str,
        /// The least.
        least: u32,
        /// The most.
        most: u32,
    },
}

impl Target {
    /// A target; `bytes` must fit the protocol: a datagram holds at least an answer's header.
    pub fn new(protocol: Protocol, address: SocketAddr, bytes: u32) -> Result<Self, TargetError> {
        let headers = if address.is_ipv4() {
            HEADERS_V4
        } else {
            HEADERS_V6
        };
        let header = u32::try_from(ANSWER_HEADER).unwrap_or(u32::MAX);
        let most_udp = u32::from(u16::MAX) - HEADERS_V6;
        let (least, most) = match protocol {
            Protocol::Tcp => (0, STREAM_MAX),
            Protocol::Udp => (header, most_udp),
            Protocol::Mtu => (header + headers, u32::from(u16::MAX)),
        };
        if !(least..=most).contains(&bytes) {
            return Err(TargetError::Size {
                bytes,
                protocol: protocol.as_str(),
                least,
                most,
            });
        }
        Ok(Self {
            protocol,
            address,
            bytes,
        })
    }

    /// How it is probed.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The size as the protocol counts it.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Bytes of payload in the datagram, or in the stream after its header.
    pub(super) fn payload(&self) -> usize {
        let headers = match (self.protocol, self.address) {
            (Protocol::Tcp | Protocol::Udp, _) => 0,
            (Protocol::Mtu, SocketAddr::V4(_)) => HEADERS_V4,
            (Protocol::Mtu, SocketAddr::V6(_)) => HEADERS_V6,
        };
        usize::try_from(self.bytes.saturating_sub(headers)).unwrap_or(0)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}",
            self.protocol.as_str(),
            self.address,
            self.bytes
        )
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || TargetError::Syntax {
            text: text.chars().take(80).collect(),
        };
        let mut parts = text.split('/');
        let (Some(protocol), Some(address), Some(bytes), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(syntax());
        };
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "mtu" => Protocol::Mtu,
            _ => return Err(syntax()),
        };
        let address = address.parse().map_err(|_| syntax())?;
        let bytes = bytes.parse().map_err(|_| syntax())?;
        Self::new(protocol, address, bytes)
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_and_value_agree() {
        for text in [
            "tcp/10.0.0.1:11290/64",
            "udp/[fd00::1]:11290/200",
            "mtu/10.0.0.1:1/1450",
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_packet_of_the_mtu_leaves_room_for_its_headers() {
        let v4: Target = "mtu/10.0.0.1:1/1450".parse().unwrap();
        let v6: Target = "mtu/[fd00::1]:1/1450".parse().unwrap();
        assert_eq!((v4.payload(), v6.payload()), (1422, 1402));
    }

    #[test]
    fn wrong_targets_are_refused() {
        for text in [
            "",
            "tcp/10.0.0.1/64",
            "icmp/10.0.0.1:1/64",
            "tcp/10.0.0.1:1/-1",
            "tcp/10.0.0.1:1/64/7",
        ] {
            assert!(
                matches!(text.parse::<Target>(), Err(TargetError::Syntax { .. })),
                "{text}"
            );
        }
        for text in [
            "udp/10.0.0.1:1/10",
            "mtu/[fd00::1]:1/100",
            "tcp/10.0.0.1:1/99999999",
        ] {
            assert!(
                matches!(text.parse::<Target>(), Err(TargetError::Size { .. })),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in ".{0,100}") {
            let _ = text.parse::<Target>();
        }
    }
}
