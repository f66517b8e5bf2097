//! Tunnels between nodes: protocols, ports, and what they take of each packet.

use std::net::IpAddr;

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<IpAddr> for IpFamily {
    fn from(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// The protocol of a tunnel. All of them carry Ethernet frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TunnelProtocol {
    /// RFC 8926, over UDP.
    Geneve,
    /// RFC 7348, over UDP.
    Vxlan,
    /// RFC 2784 without a key (RFC 2890), an IP protocol of its own.
    Gre,
}

impl TunnelProtocol {
    /// The UDP port IANA gave to it; `None` for a protocol without ports.
    pub const fn iana_port(self) -> Option<u16> {
        match self {
            Self::Geneve => Some(6081),
            Self::Vxlan => Some(4789),
            Self::Gre => None,
        }
    }
}

/// The tunnel of modes that have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// Its protocol.
    pub protocol: TunnelProtocol,
    /// Its UDP port; `None` for a protocol without ports.
    pub port: Option<u16>,
    /// Whether outer packets carry a checksum over what is in them.
    pub checksum: bool,
}

impl Tunnel {
    /// A tunnel on its protocol's own port, without checksums.
    pub const fn new(protocol: TunnelProtocol) -> Self {
        Self {
            protocol,
            port: protocol.iana_port(),
            checksum: false,
        }
    }

    /// Bytes it takes of the transport's MTU: the inner Ethernet header (14), its own header, UDP's
    /// (8) where it has one, and the outer IP header (20, or 40 for IPv6).
    pub const fn overhead(self, outer: IpFamily) -> u16 {
        let header = match self.protocol {
            // 8 bytes and no options (RFC 8926 §3.4), 8 bytes (RFC 7348 §5), each after UDP.
            TunnelProtocol::Geneve | TunnelProtocol::Vxlan => 8 + 8,
            // 4 bytes, 4 more with a checksum (RFC 2784 §2).
            TunnelProtocol::Gre if self.checksum => 8,
            TunnelProtocol::Gre => 4,
        };
        let ip = match outer {
            IpFamily::V4 => 20,
            IpFamily::V6 => 40,
        };
        14 + header + ip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_add_up() {
        let takes = |protocol, checksum, outer| {
            let tunnel = Tunnel {
                checksum,
                ..Tunnel::new(protocol)
            };
            tunnel.overhead(outer)
        };
        for checksum in [false, true] {
            for protocol in [TunnelProtocol::Geneve, TunnelProtocol::Vxlan] {
                assert_eq!(takes(protocol, checksum, IpFamily::V4), 50);
                assert_eq!(takes(protocol, checksum, IpFamily::V6), 70);
            }
        }
        assert_eq!(takes(TunnelProtocol::Gre, false, IpFamily::V4), 38);
        assert_eq!(takes(TunnelProtocol::Gre, true, IpFamily::V4), 42);
        assert_eq!(takes(TunnelProtocol::Gre, false, IpFamily::V6), 58);
    }
}
