//! `ipam.mode: NodeIPAM`: whether the cluster CIDRs can work here, and what of them may change.

use std::collections::BTreeSet;
use std::net::IpAddr;

use carrick_api::networking::IpamMode;
use ipnet::IpNet;

use crate::effective::{Effective, NodeIpam};
use crate::facts::Facts;
use crate::validate::{count, overlap, some};
use crate::verdict::{Doubt, Refusal};

/// Field of the ranges.
const CLUSTER_CIDRS: &str = "spec.ipam.nodeIPAM.clusterCIDRs";
/// Most ranges; each is looked at for every node.
const CLUSTER_CIDRS_MAX: usize = 8;
/// Shortest and longest prefix of a node's IPv4 CIDR. A /28 has 13 addresses for pods beside
/// network, broadcast and gateway: with less the pods every node runs would fill it.
const MASK_V4: (u8, u8) = (8, 28);
/// And of an IPv6 CIDR. A /112 has as many addresses as a switch has ports: with less there is
/// nothing to win, as there is no want of IPv6 addresses, and a node that runs out.
const MASK_V6: (u8, u8) = (16, 112);
/// Addresses that mean something else everywhere; agents program no pod CIDR there.
const RESERVED: [&str; 7] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/96",
    "fe80::/10",
    "ff00::/8",
];

fn family(cidr: &IpNet) -> &'static str {
    match cidr {
        IpNet::V4(_) => "IPv4",
        IpNet::V6(_) => "IPv6",
    }
}

fn families<'a>(cidrs: impl IntoIterator<Item = &'a IpNet>) -> BTreeSet<&'static str> {
    cidrs.into_iter().map(family).collect()
}

fn refusal(field: &str, reason: String, mend: impl Into<String>) -> Refusal {
    Refusal {
        field: field.to_owned(),
        reason,
        mend: mend.into(),
    }
}

/// What is wrong with `ipam` in this cluster.
pub fn refusals(effective: &Effective, facts: &Facts) -> Vec<Refusal> {
    let Some(ipam) = &effective.node_ipam else {
        return Vec::new();
    };
    if effective.ipam == IpamMode::NodeCIDR {
        return vec![refusal(
            CLUSTER_CIDRS,
            "it acts in ipam.mode NodeIPAM only, and the mode is NodeCIDR, where \
             kube-controller-manager allocates the pod CIDRs of nodes"
                .to_owned(),
            "leave it out, or set ipam.mode to NodeIPAM and run kube-controller-manager with \
             --allocate-node-cidrs=false",
        )];
    }
    let mut found = Vec::new();
    let texts = &ipam.cluster_cidrs;
    if texts.is_empty() {
        found.push(refusal(
            CLUSTER_CIDRS,
            "it is empty, and ipam.mode NodeIPAM allocates the pod CIDRs of nodes out of it"
                .to_owned(),
            "name at least one range that nothing else uses, 10.128.0.0/14 or fd00:10:128::/48",
        ));
    }
    if texts.len() > CLUSTER_CIDRS_MAX {
        found.push(refusal(
            CLUSTER_CIDRS,
            format!(
                "it has {} ranges and may have {CLUSTER_CIDRS_MAX}",
                texts.len()
            ),
            "name fewer and larger ones",
        ));
    }
    for text in texts {
        let parsed: Option<IpNet> = text.parse().ok();
        if parsed.is_none_or(|cidr| cidr.trunc() != cidr) {
            found.push(refusal(
                CLUSTER_CIDRS,
                format!("{text} is no CIDR without host bits"),
                "write it as an address and the length of its prefix, 10.128.0.0/14",
            ));
        }
    }
    found.extend(masks(ipam));
    let cidrs = ipam.parsed();
    found.extend(places(&cidrs, effective, facts));
    let services = families(&facts.service_cidrs);
    if !cidrs.is_empty() && !services.is_empty() && families(&cidrs).is_disjoint(&services) {
        let names: Vec<&str> = services.into_iter().collect();
        found.push(refusal(
            CLUSTER_CIDRS,
            format!(
                "Services have {} addresses here and pods would have none of that family, so no pod could serve one",
                names.join(" and ")
            ),
            format!("add an {} range", names.join(" or ")),
        ));
    }
    found
}

/// The lengths of prefixes: each by itself, and beside the ranges.
fn masks(ipam: &NodeIpam) -> Vec<Refusal> {
    let mut found = Vec::new();
    for (field, mask, (least, most)) in [
        (
            "spec.ipam.nodeIPAM.nodeMaskSizeIPv4",
            ipam.node_mask_size_ipv4,
            MASK_V4,
        ),
        (
            "spec.ipam.nodeIPAM.nodeMaskSizeIPv6",
            ipam.node_mask_size_ipv6,
            MASK_V6,
        ),
    ] {
        if !(least..=most).contains(&mask) {
            found.push(refusal(
                field,
                format!("{mask} is not between {least} and {most}"),
                format!("set it to {least} to {most}; each node's pods get their addresses from one CIDR of that size"),
            ));
        }
    }
    for cidr in ipam.parsed() {
        let (field, mask) = match cidr {
            IpNet::V4(_) => ("nodeMaskSizeIPv4", ipam.node_mask_size_ipv4),
            IpNet::V6(_) => ("nodeMaskSizeIPv6", ipam.node_mask_size_ipv6),
        };
        if cidr.prefix_len() > mask {
            found.push(refusal(
                CLUSTER_CIDRS,
                format!("{cidr} is smaller than the /{mask} that one node gets ({field})"),
                format!("name a range of /{mask} or larger, or raise {field}"),
            ));
        }
    }
    found
}

/// Where the ranges lie.
fn places(cidrs: &[IpNet], effective: &Effective, facts: &Facts) -> Vec<Refusal> {
    let mut found = Vec::new();
    let mut refuse = |cidr: &IpNet, with: String, mend: &str| {
        found.push(refusal(
            CLUSTER_CIDRS,
            format!("{cidr} overlaps {with}"),
            mend,
        ));
    };
    let reserved: Vec<IpNet> = RESERVED
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect();
    let api: Option<IpAddr> = effective.api_server.host.parse().ok();
    for (index, cidr) in cidrs.iter().enumerate() {
        if let Some(other) = cidrs[..index].iter().find(|other| overlap(cidr, other)) {
            refuse(
                cidr,
                format!("{other}, which is in the list too"),
                "name ranges that are apart; the wider of two is enough",
            );
        }
        if let Some(range) = facts
            .service_cidrs
            .iter()
            .find(|range| overlap(cidr, range))
        {
            refuse(
                cidr,
                format!("the Service range {range}"),
                "choose a range apart from it: an address must be a pod's or a Service's",
            );
        }
        if let Some(range) = reserved.iter().find(|range| overlap(cidr, range)) {
            refuse(
                cidr,
                format!("{range}, which is reserved"),
                "choose a range of unicast addresses, of RFC 1918, RFC 6598 or fc00::/7 for example",
            );
        }
        let on_it = facts.nodes.iter().find_map(|node| {
            let address = node
                .addresses
                .iter()
                .find(|address| cidr.contains(*address))?;
            Some((node.name.as_str(), *address))
        });
        if let Some((node, address)) = on_it {
            refuse(
                cidr,
                format!("the address {address} of node {node}"),
                "choose a range that no host has an address in",
            );
        } else if let Some(address) = api.filter(|address| cidr.contains(address)) {
            refuse(
                cidr,
                format!("the API server's address {address}"),
                "choose a range that no host has an address in",
            );
        }
    }
    found
}

/// What is doubtful about `ipam` in this cluster.
pub fn doubts(effective: &Effective, facts: &Facts) -> Vec<Doubt> {
    let mut found = Vec::new();
    let Some(ipam) = effective
        .node_ipam
        .as_ref()
        .filter(|_| effective.ipam == IpamMode::NodeIPAM)
    else {
        return found;
    };
    let cidrs = ipam.parsed();
    let missing: Vec<&str> = families(&facts.service_cidrs)
        .difference(&families(&cidrs))
        .copied()
        .collect();
    if !missing.is_empty() {
        found.push(Doubt {
            name: "services-without-pod-family",
            message: format!(
                "Services can have {} addresses and pods will have none: such Services have no endpoints. Add a range of \
                 that family to {CLUSTER_CIDRS} before the network runs.",
                missing.join(" and ")
            ),
        });
    }
    let outside: Vec<String> = facts
        .nodes
        .iter()
        .flat_map(|node| node.pod_cidrs.iter().map(move |cidr| (node, cidr)))
        .filter(|(_, cidr)| !cidrs.iter().any(|range| range.contains(*cidr)))
        .map(|(node, cidr)| format!("{cidr} of node {}", node.name))
        .collect();
    if !outside.is_empty() {
        let names: Vec<&str> = outside.iter().map(String::as_str).collect();
        found.push(Doubt {
            name: "pod-cidrs-outside-cluster-cidrs",
            message: format!(
                "pod CIDRs are outside {CLUSTER_CIDRS}: {}. Where kube-controller-manager allocates them, run it with \
                 --allocate-node-cidrs=false. Nodes keep what they have until their Node objects are deleted and \
                 registered again.",
                some(&names)
            ),
        });
    }
    for family_name in families(&cidrs) {
        let room = cidrs
            .iter()
            .filter(|cidr| family(cidr) == family_name)
            .map(|cidr| blocks(cidr, ipam))
            .fold(0_u128, u128::saturating_add);
        let nodes = facts.nodes.len();
        if u128::try_from(nodes).unwrap_or(u128::MAX) > room {
            found.push(Doubt {
                name: "cluster-cidrs-too-small",
                message: format!(
                    "{} have room in the {family_name} ranges of {CLUSTER_CIDRS}, and there are {nodes}. Add a range.",
                    count(usize::try_from(room).unwrap_or(usize::MAX), "node")
                ),
            });
        }
    }
    found
}

/// How many nodes' CIDRs a range holds.
fn blocks(cidr: &IpNet, ipam: &NodeIpam) -> u128 {
    let mask = match cidr {
        IpNet::V4(_) => ipam.node_mask_size_ipv4,
        IpNet::V6(_) => ipam.node_mask_size_ipv6,
    };
    match mask.checked_sub(cidr.prefix_len()) {
        Some(bits) => 1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX),
        None => 0,
    }
}

/// What of `next` must not be applied over `last` while the network runs. More room is always
/// welcome; what a node uses stays.
pub fn change(last: &Effective, next: &Effective, facts: &Facts) -> Vec<Refusal> {
    let (Some(last), Some(next)) = (&last.node_ipam, &next.node_ipam) else {
        return Vec::new();
    };
    let (before, after) = (last.parsed(), next.parsed());
    let mut found = Vec::new();
    let lost: Vec<String> = facts
        .nodes
        .iter()
        .flat_map(|node| node.pod_cidrs.iter().map(move |cidr| (node, cidr)))
        .filter(|(_, cidr)| before.iter().any(|range| range.contains(*cidr)))
        .filter(|(_, cidr)| !after.iter().any(|range| range.contains(*cidr)))
        .map(|(node, cidr)| format!("{cidr} of node {}", node.name))
        .collect();
    if !lost.is_empty() {
        let names: Vec<&str> = lost.iter().map(String::as_str).collect();
        let gone: Vec<String> = before
            .iter()
            .filter(|range| !after.iter().any(|wider| wider.contains(*range)))
            .map(ToString::to_string)
            .collect();
        found.push(refusal(
            CLUSTER_CIDRS,
            format!(
                "{} cannot be taken out while the network runs: nodes use {}",
                gone.join(", "),
                some(&names)
            ),
            format!(
                "put {} back, and add other ranges beside it; it may go once no node uses it",
                gone.join(", ")
            ),
        ));
    }
    if families(&before) != families(&after) {
        let names = |cidrs: &[IpNet]| {
            families(cidrs)
                .into_iter()
                .collect::<Vec<_>>()
                .join(" and ")
        };
        found.push(refusal(
            CLUSTER_CIDRS,
            format!(
                "{} cannot become {} while the network runs: nodes keep the CIDRs they have",
                names(&before),
                names(&after)
            ),
            "leave the IP families as they were; or delete the Networking (pods lose their network) and create it \
             again",
        ));
    }
    found
}

#[cfg(test)]
#[path = "nodeipam_tests.rs"]
mod tests;
