//! Protocols and ports that rules name, and names that pods give their ports.

use std::fmt;
use std::sync::Arc;

/// A transport protocol that has ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP, the API's default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Every protocol that has ports.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Reads the API's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.as_str() == text)
    }

    /// The API's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Its name in lower case, as ovs-ofctl, nft and the CNI write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Its number in an IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A destination port, or several, that a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Every port of a protocol.
    Protocol(Protocol),
    /// From the first to the last port, both included.
    Range(Protocol, u16, u16),
    /// Ports that the destination pod calls so; of every protocol where none is named.
    Named(Option<Protocol>, Box<str>),
}

impl PortMatch {
    /// Whether it is a name.
    pub const fn is_named(&self) -> bool {
        matches!(self, Self::Named(..))
    }

    /// Whether it is for packets to this port, if the destination calls its ports so.
    pub fn matches(&self, protocol: Protocol, port: u16, names: &[NamedPort]) -> bool {
        match self {
            Self::Protocol(own) => *own == protocol,
            Self::Range(own, first, last) => *own == protocol && (*first..=*last).contains(&port),
            Self::Named(own, name) => {
                own.is_none_or(|own| own == protocol)
                    && names.iter().any(|named| {
                        named.port == port && named.protocol == protocol && *named.name == **name
                    })
            }
        }
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(protocol) => write!(f, "{protocol}"),
            Self::Range(protocol, first, last) if first == last => write!(f, "{protocol}/{first}"),
            Self::Range(protocol, first, last) => write!(f, "{protocol}/{first}-{last}"),
            Self::Named(Some(protocol), name) => write!(f, "{protocol}/{name}"),
            Self::Named(None, name) => write!(f, "{name}"),
        }
    }
}

/// A container port that has a name (`ContainerPort`). A pod may call several so: of different
/// protocols, or in different containers; a rule that names them is for all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// What the pod calls it.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// Whether it can be a port's name (RFC 6335 §5.1, as the API has it): up to 15 of `a-z0-9-` with
/// a letter among them, no `-` at either end and none beside another.
pub fn is_port_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=15).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.iter().any(u8::is_ascii_lowercase)
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_several_ports() {
        let names = [
            (Protocol::Tcp, 53),
            (Protocol::Udp, 53),
            (Protocol::Tcp, 9153),
        ]
        .map(|(protocol, port)| NamedPort {
            name: "dns".into(),
            protocol,
            port,
        });
        let any = PortMatch::Named(None, "dns".into());
        assert!(any.matches(Protocol::Tcp, 53, &names));
        assert!(any.matches(Protocol::Udp, 53, &names));
        assert!(any.matches(Protocol::Tcp, 9153, &names));
        assert!(!any.matches(Protocol::Udp, 9153, &names));
        let udp = PortMatch::Named(Some(Protocol::Udp), "dns".into());
        assert!(!udp.matches(Protocol::Tcp, 53, &names));
        assert!(!udp.matches(Protocol::Udp, 53, &[]));
    }

    #[test]
    fn names_are_those_the_api_takes() {
        for fine in ["a", "http", "p8080", "a-b", "123456789012345a"] {
            assert_eq!(is_port_name(fine), fine.len() <= 15, "{fine}");
        }
        for wrong in ["", "80", "-a", "a-", "a--b", "HTTP", "a_b"] {
            assert!(!is_port_name(wrong), "{wrong}");
        }
    }
}
