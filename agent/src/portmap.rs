//! Host ports of pods (`portMappings`) as chains of table `inet carrick` (pure).
//!
//! ```text
//! prerouting, output → hostport_dnat: one map lookup, whatever the number of mappings
//! postrouting        → hostport_masq: pods of this node and the host's 127.0.0.1 get the gateway's
//!                      address, so that the answer comes back this way
//! raw prerouting     → hostport_guard: 127.0.0.0/8 stays what it is although the gateway's
//!                      route_localnet is on (CVE-2020-8558)
//! ```
//!
//! IPv6 has no route_localnet: a host port does not answer on `::1`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::ipam::{AttachmentState, Attachments, Protocol};

/// Where a mapping leads: protocol, port and address of the node (`None`: every one).
type From = (Option<IpAddr>, Protocol, u16);

/// The chains and maps, each a whole `chain … { … }` or `map … { … }`; empty when no attachment has
/// a host port. Attachments that are being removed have none any more.
pub fn render(attachments: &Attachments, gateway_link: &str, pod_cidrs: &[IpNet]) -> String {
    let mut v4 = BTreeMap::new();
    let mut v6 = BTreeMap::new();
    for attachment in attachments.values() {
        if attachment.state == AttachmentState::Removing {
            continue;
        }
        for mapping in &attachment.port_mappings {
            for &address in &attachment.addresses {
                if mapping
                    .host_ip
                    .is_some_and(|host| host.is_ipv4() != address.is_ipv4())
                {
                    continue;
                }
                let host = mapping.host_ip.filter(|host| !host.is_unspecified());
                let from: From = (host, mapping.protocol, mapping.host_port);
                let to = (address, mapping.container_port);
                // Two claims to one port cannot both be in a map: the first, by container, stays.
                let map = if address.is_ipv4() { &mut v4 } else { &mut v6 };
                map.entry(from).or_insert(to);
            }
        }
    }
    if v4.is_empty() && v6.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    let mut rules = String::new();
    for (family, address_type, map) in [("ip", "ipv4_addr", &v4), ("ip6", "ipv6_addr", &v6)] {
        let (exact, any): (Vec<_>, Vec<_>) = map.iter().partition(|((host, ..), _)| host.is_some());
        if !exact.is_empty() {
            let kind = format!(
                "{address_type} . inet_proto . inet_service : {address_type} . inet_service"
            );
            write_map(
                &mut text,
                &format!("hostport_exact_{family}"),
                &kind,
                &exact,
            );
            let lookup = format!("{family} daddr . meta l4proto . th dport");
            let _ = writeln!(
                rules,
                "    dnat {family} to {lookup} map @hostport_exact_{family}"
            );
        }
        if !any.is_empty() {
            let kind = format!("inet_proto . inet_service : {address_type} . inet_service");
            write_map(&mut text, &format!("hostport_any_{family}"), &kind, &any);
            let lookup = "meta l4proto . th dport";
            let _ = writeln!(
                rules,
                "    dnat {family} to {lookup} map @hostport_any_{family}"
            );
        }
    }
    let mut masquerade = String::from("    ct status dnat ip saddr 127.0.0.0/8 masquerade\n");
    let mut cidrs: Vec<&IpNet> = pod_cidrs.iter().collect();
    cidrs.sort();
    for cidr in cidrs {
        let family = if matches!(cidr, IpNet::V4(_)) {
            "ip"
        } else {
            "ip6"
        };
        let cidr = cidr.trunc();
        let _ = writeln!(
            masquerade,
            "    ct status dnat {family} saddr {cidr} masquerade"
        );
    }
    let _ = write!(
        text,
        "  chain hostport_dnat {{\n{rules}  }}\n\
         \x20 chain hostport_pre {{\n    type nat hook prerouting priority dstnat; policy accept;\n    fib daddr type local jump hostport_dnat\n  }}\n\
         \x20 chain hostport_out {{\n    type nat hook output priority -100; policy accept;\n    fib daddr type local jump hostport_dnat\n  }}\n\
         \x20 chain hostport_masq {{\n    type nat hook postrouting priority srcnat - 1; policy accept;\n    oifname != \"{gateway_link}\" return\n{masquerade}  }}\n\
         \x20 chain hostport_guard {{\n    type filter hook prerouting priority raw; policy accept;\n    iifname \"{gateway_link}\" ip daddr 127.0.0.0/8 drop\n  }}\n"
    );
    text
}

fn write_map(text: &mut String, name: &str, kind: &str, entries: &[(&From, &(IpAddr, u16))]) {
    let _ = write!(
        text,
        "  map {name} {{\n    type {kind};\n    elements = {{\n"
    );
    for ((host, protocol, port), (address, target)) in entries {
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let host = host.map(|host| format!("{host} . ")).unwrap_or_default();
        let _ = writeln!(
            text,
            "      {host}{protocol} . {port} : {address} . {target},"
        );
    }
    text.push_str("    };\n  }\n");
}

#[cfg(test)]
#[path = "portmap_tests.rs"]
mod tests;
