//! Ranges of addresses that rules name.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::problem::quoted;

/// A range of addresses but for some ranges within it (`ipBlock`, `networks[]`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    cidr: IpNet,
    except: Box<[IpNet]>,
}

/// Why a text is no range that can be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// No address and length.
    #[error("{} is no CIDR", quoted(.0))]
    NoCidr(String),
    /// IPv4 in the clothes of IPv6.
    #[error("{0} is an IPv4 range written as IPv6, which no packet has")]
    Mapped(IpNet),
    /// An exception that excepts nothing.
    #[error("{except} is not a part of {cidr}")]
    Outside {
        /// The exception.
        except: IpNet,
        /// The range.
        cidr: IpNet,
    },
    /// An exception that excepts all.
    #[error("{0} is the whole range, so nothing is left")]
    Everything(IpNet),
}

impl NetworkError {
    pub(crate) const fn mend(&self) -> &'static str {
        match self {
            Self::NoCidr(_) => "write an address and a length, as 10.0.0.0/8 or fd00::/8",
            Self::Mapped(_) => "write the IPv4 range, as 10.0.0.0/8",
            Self::Outside { .. } => "name a smaller range within the cidr, or leave the entry out",
            Self::Everything(_) => "leave the peer out, or name a smaller range",
        }
    }
}

/// A CIDR. Bits below the length are cleared. Octets with leading zeros are refused: some readers
/// take them for octal.
pub(crate) fn parse_cidr(text: &str) -> Result<IpNet, NetworkError> {
    let parts = || {
        let (address, length) = text.split_once('/')?;
        let digits = (1..=3).contains(&length.len()) && length.bytes().all(|b| b.is_ascii_digit());
        let length = length.parse().ok().filter(|_| digits)?;
        // The standard library's parser takes no leading zeros; ipnet's does.
        IpNet::new(address.parse().ok()?, length).ok()
    };
    let cidr = parts().ok_or_else(|| NetworkError::NoCidr(text.to_owned()))?;
    match cidr.addr() {
        IpAddr::V6(address) if cidr.prefix_len() >= 96 && is_mapped(address) => {
            Err(NetworkError::Mapped(cidr))
        }
        _ => Ok(cidr.trunc()),
    }
}

/// Whether it is in `::ffff:0:0/96` (RFC 4291 §2.5.5.2).
fn is_mapped(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some()
}

impl Network {
    /// The whole range.
    pub fn new(cidr: IpNet) -> Self {
        Self {
            cidr: cidr.trunc(),
            except: Box::default(),
        }
    }

    /// Without `except`, each of which must be a smaller range within it.
    pub(crate) fn without(cidr: IpNet, mut except: Vec<IpNet>) -> Result<Self, NetworkError> {
        for range in &except {
            if *range == cidr {
                return Err(NetworkError::Everything(*range));
            }
            if !cidr.contains(range) {
                return Err(NetworkError::Outside {
                    except: *range,
                    cidr,
                });
            }
        }
        except.sort_unstable();
        except.dedup();
        Ok(Self {
            cidr,
            except: except.into(),
        })
    }

    /// Reads a range and its exceptions.
    ///
    /// # Errors
    /// One of them is no CIDR, or an exception is no smaller range within it.
    pub fn parse(cidr: &str, except: &[String]) -> Result<Self, NetworkError> {
        let except: Result<Vec<IpNet>, _> = except.iter().map(|text| parse_cidr(text)).collect();
        Self::without(parse_cidr(cidr)?, except?)
    }

    /// The range.
    pub const fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// What is not part of it, sorted.
    pub fn except(&self) -> &[IpNet] {
        &self.except
    }

    /// Whether the address is one of it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|range| range.contains(&address))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cidr)?;
        for (n, range) in self.except.iter().enumerate() {
            write!(f, "{}{range}", if n == 0 { " except " } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_enforced_as_written() {
        assert_eq!(parse_cidr("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        let all = Network::new(parse_cidr("0.0.0.0/0").unwrap());
        assert!(all.contains("255.255.255.255".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()), "IPv4 only");
        // Everything of IPv6 includes the mapped range, and nobody has such an address.
        parse_cidr("::/0").unwrap();
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "010.0.0.0/8",
            "10.0.0.0/8 ",
            "fe80::1%eth0/64",
            "a/8",
        ] {
            let error = parse_cidr(text).unwrap_err();
            assert_eq!(error, NetworkError::NoCidr(text.to_owned()));
        }
        let mapped = parse_cidr("::ffff:10.0.0.0/104").unwrap_err();
        assert!(matches!(mapped, NetworkError::Mapped(_)), "{mapped}");
    }

    #[test]
    fn exceptions_are_smaller_parts() {
        let network = |except: &[&str]| {
            Network::without(
                "10.0.0.0/8".parse().unwrap(),
                except.iter().map(|text| text.parse().unwrap()).collect(),
            )
        };
        let fine = network(&["10.2.0.0/16", "10.1.0.0/16"]).unwrap();
        assert_eq!(
            fine.to_string(),
            "10.0.0.0/8 except 10.1.0.0/16,10.2.0.0/16"
        );
        assert!(fine.contains("10.3.0.1".parse().unwrap()));
        assert!(!fine.contains("10.2.0.1".parse().unwrap()));
        for wrong in ["11.0.0.0/16", "0.0.0.0/0", "fd00::/8"] {
            let error = network(&[wrong]).unwrap_err();
            assert!(matches!(error, NetworkError::Outside { .. }), "{error}");
        }
        let error = network(&["10.0.0.0/8"]).unwrap_err();
        assert!(matches!(error, NetworkError::Everything(_)), "{error}");
    }
}
