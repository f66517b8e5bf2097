//! The host's table of Services as nft's text: sets, and chains that no Service changes.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ipnet::IpNet;

use super::host::{HostServices, set_name, widest};
use super::input::{NodeView, ProxyMode};
use super::tables::{Virtual, virtual_address};
use crate::tunnel::IpFamily;

/// Table of family `inet` that holds the host's rules of Services. Not [`crate::INET_TABLE`]: that is
/// replaced whole when a peer comes or goes, this one changes by elements.
pub const SERVICES_TABLE: &str = "carrick-services";

/// The sets, without the digit of their family, and the types of their elements behind the address
/// (`ipv4_addr` or `ipv6_addr`, `@` here).
///
/// Sets with ranges have no protocol in their elements: nft 1.0.6 writes a conversion of one byte for
/// `meta l4proto` there, which Linux 6.12 refuses (EOPNOTSUPP).
const SETS: [(&str, &str); 11] = [
    ("allowed-sctp", "@ . inet_service . @"),
    ("allowed-tcp", "@ . inet_service . @"),
    ("allowed-udp", "@ . inet_service . @"),
    ("masqueraded", "@ . inet_proto . inet_service"),
    ("node-ports", "inet_proto . inet_service"),
    ("node-ports-local", "inet_proto . inet_service"),
    ("own", "@ . inet_proto . inet_service"),
    ("own-local", "@ . inet_proto . inet_service"),
    ("rejected", "@ . inet_proto . inet_service"),
    ("rejected-node-ports", "inet_proto . inet_service"),
    ("restricted", "@ . inet_proto . inet_service"),
];

/// The whole table as nft's text, for the first load; afterwards only elements change. `None` when
/// there must be none: in the modes that serve no clients of the host.
///
/// `gateway_link` is the name of the gateway's link.
pub fn host_table(
    services: &HostServices,
    node: &NodeView,
    mode: ProxyMode,
    gateway_link: &str,
) -> Option<String> {
    if mode != ProxyMode::Full {
        return None;
    }
    let mut text = format!("table inet {SERVICES_TABLE} {{\n");
    for family in [IpFamily::V4, IpFamily::V6] {
        let address = match family {
            IpFamily::V4 => "ipv4_addr",
            IpFamily::V6 => "ipv6_addr",
        };
        for (set, of) in SETS {
            let name = set_name(set, family);
            let interval = if set.starts_with("allowed") {
                "    flags interval\n"
            } else {
                ""
            };
            let _ = write!(
                text,
                "  set {name} {{\n    type {}\n{interval}",
                of.replace('@', address)
            );
            if let Some(elements) = services.elements().get(&name) {
                let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
                let _ = writeln!(text, "    elements = {{ {} }}", elements.join(", "));
            }
            text.push_str("  }\n");
        }
    }
    chains(&mut text, node, gateway_link);
    text.push_str("}\n");
    Some(text)
}

/// Chains that no Service changes. Writing into a `String` cannot fail.
fn chains(text: &mut String, node: &NodeView, gw: &str) {
    let families = [(IpFamily::V4, "ip", "4"), (IpFamily::V6, "ip6", "6")];
    text.push_str("  chain to-switch {\n");
    for (family, ip, n) in families {
        let hairpin = virtual_address(Virtual::Hairpin, family);
        // What the switch hands back to the host has its endpoint already.
        let _ = writeln!(text, "    {ip} saddr {hairpin} return");
        for (policy, to) in [("", Virtual::NodePort), ("-local", Virtual::NodePortLocal)] {
            let to = virtual_address(to, family);
            let _ = writeln!(
                text,
                "    {ip} daddr . meta l4proto . th dport @own{policy}{n} dnat {ip} to {to}"
            );
            for condition in node_port_addresses(node, family, ip) {
                let _ = writeln!(
                    text,
                    "    {condition}meta nfproto ipv{n} meta l4proto . th dport @node-ports{policy}{n} dnat {ip} to {to}"
                );
            }
        }
    }
    text.push_str("  }\n");
    for (chain, hook, priority) in [
        ("dnat-pre", "prerouting", "dstnat"),
        ("dnat-out", "output", "-100"),
    ] {
        let _ = write!(
            text,
            "  chain {chain} {{\n    type nat hook {hook} priority {priority}; policy accept;\n    \
             fib daddr type local jump to-switch\n  }}\n"
        );
    }
    text.push_str(
        "  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n",
    );
    for (family, ip, n) in families {
        let (cluster, local) = (Virtual::NodePort, Virtual::NodePortLocal);
        let (cluster, local) = (
            virtual_address(cluster, family),
            virtual_address(local, family),
        );
        let hairpin = virtual_address(Virtual::Hairpin, family);
        let _ = write!(
            text,
            "    oifname \"{gw}\" {ip} daddr {cluster} masquerade\n    \
             oifname \"{gw}\" {ip} daddr . meta l4proto . th dport @masqueraded{n} masquerade\n    \
             oifname != \"{gw}\" {ip} saddr {hairpin} masquerade\n"
        );
        // A pod's packet that comes back from the host would be taken for a forged one.
        for cidr in node
            .pod_cidrs
            .iter()
            .filter(|cidr| IpFamily::from(cidr.addr()) == family)
        {
            let _ = writeln!(
                text,
                "    oifname \"{gw}\" {ip} daddr {local} {ip} saddr {} masquerade",
                cidr.trunc()
            );
        }
    }
    text.push_str("  }\n  chain ranges {\n");
    for (_, ip, n) in families {
        for protocol in ["sctp", "tcp", "udp"] {
            let _ = writeln!(
                text,
                "    {ip} daddr . meta l4proto . th dport @restricted{n} \
                 meta l4proto {protocol} {ip} daddr . th dport . {ip} saddr != @allowed-{protocol}{n} drop"
            );
        }
    }
    text.push_str("  }\n  chain filter-services {\n");
    for (_, ip, n) in families {
        let _ = writeln!(
            text,
            "    {ip} daddr . meta l4proto . th dport @rejected{n} goto nobody"
        );
    }
    text.push_str("  }\n  chain filter-node-ports {\n");
    for (family, ip, n) in families {
        for condition in node_port_addresses(node, family, ip) {
            let _ = writeln!(
                text,
                "    {condition}meta nfproto ipv{n} meta l4proto . th dport @rejected-node-ports{n} goto nobody"
            );
        }
    }
    text.push_str(
        "  }\n  chain nobody {\n    meta l4proto tcp reject with tcp reset\n    reject\n  }\n",
    );
    for (chain, hook) in [
        ("filter-forward", "forward"),
        ("filter-in", "input"),
        ("filter-out", "output"),
    ] {
        let _ = write!(
            text,
            "  chain {chain} {{\n    type filter hook {hook} priority filter - 1; policy accept;\n    \
             ct state new jump filter-services\n    \
             ct state new fib daddr type local jump filter-node-ports\n  }}\n"
        );
    }
    // Before an address of the node is translated.
    for (chain, hook, priority) in [
        ("ranges-pre", "prerouting", "dstnat - 1"),
        ("ranges-out", "output", "-101"),
    ] {
        let _ = write!(
            text,
            "  chain {chain} {{\n    type filter hook {hook} priority {priority}; policy accept;\n    \
             ct state new jump ranges\n  }}\n"
        );
    }
}

/// Conditions on the destination of node ports: one without any condition, or one for the ranges of
/// a family that were asked for; none when these are all of the other family.
fn node_port_addresses(node: &NodeView, family: IpFamily, ip: &str) -> Vec<String> {
    if node.node_port_addresses.is_empty() {
        return vec![String::new()];
    }
    let of_family = node
        .node_port_addresses
        .iter()
        .map(IpNet::trunc)
        .filter(|range| IpFamily::from(range.addr()) == family);
    let ranges: BTreeSet<IpNet> = of_family.collect();
    if ranges.is_empty() {
        return Vec::new();
    }
    let ranges: Vec<IpNet> = ranges.into_iter().collect();
    let ranges: Vec<String> = widest(&ranges).iter().map(ToString::to_string).collect();
    vec![format!("{ip} daddr {{ {} }} ", ranges.join(", "))]
}
