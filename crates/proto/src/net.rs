//! Addresses and CIDRs as text (RFC 5952 and RFC 4632).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::invalid::{Invalid, at_most};
use crate::limits;

/// Parses one unicast address. IPv4-mapped IPv6 addresses are refused: they would name the same
/// host twice.
pub fn parse_address(field: &'static str, text: &str) -> Result<IpAddr, Invalid> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| Invalid::malformed(field, text, "an IP address"))?;
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if mapped || broadcast || address.is_unspecified() || address.is_multicast() {
        return Err(Invalid::malformed(field, text, "a unicast address"));
    }
    Ok(address)
}

/// Parses a bounded list of unicast addresses.
pub fn parse_addresses(field: &'static str, texts: &[String]) -> Result<Vec<IpAddr>, Invalid> {
    at_most(field, texts.len(), limits::ADDRESSES)?;
    texts
        .iter()
        .map(|text| parse_address(field, text))
        .collect()
}

/// Parses one CIDR; bits below the mask must be zero, as Kubernetes writes them.
pub fn parse_cidr(field: &'static str, text: &str) -> Result<IpNet, Invalid> {
    let net: IpNet = text
        .parse()
        .map_err(|_| Invalid::malformed(field, text, "a CIDR"))?;
    if net.trunc() != net {
        return Err(Invalid::malformed(field, text, "a CIDR without host bits"));
    }
    Ok(net)
}

/// Parses a bounded list of CIDRs.
pub fn parse_cidrs(field: &'static str, texts: &[String]) -> Result<Vec<IpNet>, Invalid> {
    at_most(field, texts.len(), limits::ADDRESSES)?;
    texts.iter().map(|text| parse_cidr(field, text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unicast() {
        assert!(parse_address("a", "10.0.0.1").is_ok());
        assert!(parse_address("a", "fd00::1").is_ok());
        for text in [
            "",
            "10.0.0",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "::",
            "::ffff:10.0.0.1",
        ] {
            assert!(parse_address("a", text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn cidrs_have_no_host_bits() {
        assert!(parse_cidr("c", "10.0.0.0/24").is_ok());
        assert!(parse_cidr("c", "fd00::/64").is_ok());
        for text in ["10.0.0.1/24", "10.0.0.0", "10.0.0.0/33", "fd00::1/64", "/8"] {
            assert!(parse_cidr("c", text).is_err(), "{text:?}");
        }
    }
}
