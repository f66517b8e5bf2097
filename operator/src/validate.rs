//! Whether an effective spec can work in this cluster.
//!
//! CEL in the CRD refuses what one object can tell; here is what needs the cluster to tell. What
//! is doubtful but not wrong is a [`Doubt`]: over-strict validation bricks clusters.

use std::net::IpAddr;

use carrick_api::effective::{DatapathType, TrafficMode, TunnelProtocol};
use carrick_api::networking::IpamMode;
use carrick_api::nodeconfig::{self, NodeConfig};
use carrick_k8s::telemetry;
use ipnet::IpNet;

use crate::effective::Effective;
use crate::facts::{Facts, Probe};
use crate::nodeipam;
use crate::verdict::{Doubt, Refusal};

mod serviceproxy;

/// The least MTU of a link that carries IPv6 (RFC 8200 §5).
const IPV6_MIN_MTU: u16 = 1280;
/// The least MTU an IPv4 host must take (RFC 791).
const IPV4_MIN_MTU: u16 = 576;
/// How many examples a message names.
const EXAMPLES: usize = 3;

/// What is wrong with `effective` in this cluster.
pub fn refusals(effective: &Effective, facts: &Facts) -> Vec<Refusal> {
    let mut found = Vec::new();
    let mtu = effective.traffic.mtu;
    if mtu != 0 && mtu < IPV4_MIN_MTU {
        found.push(Refusal {
            field: "spec.traffic.mtu".into(),
            reason: format!("{mtu} is below {IPV4_MIN_MTU}, the least an IPv4 host must take"),
            mend: format!("set it to 0 (computed) or to {IPV4_MIN_MTU} or more"),
        });
    } else if mtu != 0 && mtu < IPV6_MIN_MTU && facts.has_ipv6() {
        found.push(Refusal {
            field: "spec.traffic.mtu".into(),
            reason: format!(
                "{mtu} is below {IPV6_MIN_MTU}, the least IPv6 works with, and pods here have IPv6 addresses"
            ),
            mend: format!("set it to 0 (computed) or to {IPV6_MIN_MTU} or more"),
        });
    }
    // Without a tunnel the transport interface stays the host's.
    let bridges = effective.traffic.mode != TrafficMode::NoEncap;
    if bridges
        && effective.datapath == DatapathType::Userspace
        && effective.traffic.transport_interface.is_empty()
    {
        found.push(Refusal {
            field: "spec.traffic.transport.interface".into(),
            reason: "tunnels of the userspace datapath take the transport interface into a bridge of Open \
                     vSwitch, so it must be named"
                .into(),
            mend:
                "name an interface that every node has and that the kubelet does not use, or set \
                   datapath.type to Auto or traffic.mode to NoEncap"
                    .into(),
        });
    }
    for own in &effective.node_configs {
        let interface = own.transport_interface();
        let interface = interface.unwrap_or(&effective.traffic.transport_interface);
        if bridges && own.datapath_type() == Some(DatapathType::Userspace) && interface.is_empty() {
            found.push(Refusal {
                field: format!("spec.nodeConfigs[{}].traffic.transport.interface", own.name),
                reason: "tunnels of the userspace datapath take the transport interface into a bridge of Open vSwitch, so it must \
                         be named"
                    .into(),
                mend: "name an interface that these nodes have and that the kubelet does not use".into(),
            });
        }
    }
    let azure = facts
        .nodes
        .iter()
        .find(|node| node.provider_id.starts_with("azure://"));
    if let (TrafficMode::Hybrid, Some(node)) = (effective.traffic.mode, azure) {
        found.push(Refusal {
            field: "spec.traffic.mode".into(),
            reason: format!(
                "Hybrid sends pods' packets as they are inside a subnet, and Azure's network drops them (node {} \
                 runs there: providerID {})",
                node.name, node.provider_id
            ),
            mend: "choose Encap; or NoEncap with a route table that sends each node's pod CIDRs to it".into(),
        });
    }
    found.extend(gre_over_ipv6(effective, facts));
    found.extend(serviceproxy::refusal(effective, facts));
    found.extend(nodeipam::refusals(effective, facts));
    if let Probe::Failed(why) = &facts.api_server_probe {
        found.push(Refusal {
            field: "spec.apiServer".into(),
            reason: format!(
                "no API server answers at {}:{} ({why})",
                effective.api_server.host, effective.api_server.port
            ),
            mend: format!(
                "name an endpoint that every node reaches without a Service proxy, or leave it out \
                 to use {}:{}, which the operator reached",
                facts.reached.host, facts.reached.port
            ),
        });
    }
    for (field, path) in [
        ("spec.cni.binDir", &effective.cni.bin_dir),
        ("spec.cni.confDir", &effective.cni.conf_dir),
    ] {
        if path.split('/').any(|part| part == ".." || part == ".") || path.contains("//") {
            found.push(Refusal {
                field: field.into(),
                reason: format!("{path} is not a plain absolute path"),
                mend: "write it without '.', '..' and double slashes".into(),
            });
        }
    }
    found
}

/// The kernel datapath of Open vSwitch has no GRE between IPv6 addresses. Refused where that is certain: an
/// interface that is named may have IPv4 addresses of which Kubernetes knows nothing, and the agents
/// tell then.
fn gre_over_ipv6(effective: &Effective, facts: &Facts) -> Option<Refusal> {
    let traffic = &effective.traffic;
    if traffic.mode == TrafficMode::NoEncap || traffic.tunnel_protocol != TunnelProtocol::GRE {
        return None;
    }
    let refusal = |why: String| Refusal {
        field: "spec.traffic.tunnel.protocol".into(),
        reason: format!(
            "GRE between IPv6 addresses works on the userspace datapath only, and {why}"
        ),
        mend: "choose Geneve or VXLAN, or give the nodes IPv4 addresses".into(),
    };
    // Nodes on the kernel datapath whose tunnels end where the operator can see it.
    let mut nodes = facts
        .nodes
        .iter()
        .filter(|node| in_scope(effective, node))
        .filter(|node| {
            let own = nodeconfig::first_match(&effective.node_configs, &node.labels);
            let datapath = own.and_then(NodeConfig::datapath_type);
            datapath.unwrap_or(effective.datapath) != DatapathType::Userspace
        })
        .peekable();
    if let Some(range) = traffic.transport_cidrs.first() {
        let no_v4 = traffic
            .transport_cidrs
            .iter()
            .all(|range| range.addr().is_ipv6());
        return (no_v4 && nodes.peek().is_some()).then(|| {
            refusal(format!(
                "spec.traffic.transport.cidrs has IPv6 ranges only ({range})"
            ))
        });
    }
    let mut example = None;
    for node in nodes {
        let own = nodeconfig::first_match(&effective.node_configs, &node.labels);
        let interface = own.and_then(NodeConfig::transport_interface);
        let named = !interface.unwrap_or(&traffic.transport_interface).is_empty();
        if named || node.addresses.iter().any(IpAddr::is_ipv4) {
            return None;
        }
        let address = node.addresses.first().map(|address| (node, address));
        example = example.or(address);
    }
    let (node, address) = example?;
    Some(refusal(format!(
        "the nodes have IPv6 addresses only (node {} has {address})",
        node.name
    )))
}

/// What is doubtful about `effective` in this cluster.
pub fn doubts(effective: &Effective, facts: &Facts) -> Vec<Doubt> {
    let mut found = Vec::new();
    let host = effective.api_server.host.as_str();
    if serviceproxy::api_server_is_a_service(effective, facts) {
        found.push(Doubt {
            name: "api-server-is-a-service",
            message: format!(
                "operands reach the API server at {host}, which is the kubernetes Service: that works only \
                 while a Service proxy runs on every node. Set apiServer.host and apiServer.port (or the \
                 chart's values of that name) to an endpoint of the API server itself."
            ),
        });
    }
    let without: Vec<&str> = facts
        .nodes
        .iter()
        .filter(|node| in_scope(effective, node) && node.pod_cidrs.is_empty())
        .map(|node| node.name.as_str())
        .collect();
    // In NodeIPAM the controller gives them theirs, and says so where it cannot.
    if !without.is_empty() && effective.ipam == IpamMode::NodeCIDR {
        found.push(Doubt {
            name: "nodes-without-pod-cidrs",
            message: format!(
                "{} have no spec.podCIDRs, so their pods get no addresses: {}. Run \
                 kube-controller-manager with --allocate-node-cidrs and --cluster-cidr.",
                count(without.len(), "node"),
                some(&without)
            ),
        });
    }
    found.extend(waiting_for_routes(effective, facts));
    found.extend(nodeipam::doubts(effective, facts));
    let overlaps = overlaps(facts);
    if !overlaps.is_empty() {
        let names: Vec<&str> = overlaps.iter().map(String::as_str).collect();
        found.push(Doubt {
            name: "overlapping-pod-cidrs",
            message: format!(
                "pod CIDRs overlap, so those routes are not programmed: {}. Delete the node that has the wrong \
                 range and let it register again.",
                some(&names)
            ),
        });
    }
    found
}

/// Nodes that wait for a cloud to make routes to their pods, where those carry the pods.
fn waiting_for_routes(effective: &Effective, facts: &Facts) -> Option<Doubt> {
    if effective.traffic.mode.carries_pods() {
        // The controller says that the network is available when the agent is ready.
        return None;
    }
    let waiting: Vec<String> = facts
        .nodes
        .iter()
        .filter(|node| in_scope(effective, node) && !node.network_unavailable.is_empty())
        .map(|node| {
            let why: String = node.network_unavailable.chars().take(200).collect();
            format!("{} ({why})", node.name)
        })
        .collect();
    if waiting.is_empty() {
        return None;
    }
    let names: Vec<&str> = waiting.iter().map(String::as_str).collect();
    Some(Doubt {
        name: "nodes-wait-for-cloud-routes",
        message: format!(
            "{} have the condition NetworkUnavailable, so no pods are scheduled there: {}. In NoEncap the cloud's \
             route to a node's pod CIDRs carries its pods: see that the cloud controller manager makes it \
             (--configure-cloud-routes, --cluster-cidr), or choose Encap.",
            count(waiting.len(), "node"),
            some(&names)
        ),
    })
}

/// The node is to carry the network.
pub fn in_scope(effective: &Effective, node: &crate::facts::NodeFact) -> bool {
    node.is_linux()
        && effective
            .agent
            .placement
            .node_selector
            .as_ref()
            .is_none_or(|selector| node.matches(selector))
}

/// Whether two ranges share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Overlaps between nodes' pod CIDRs, and of them with the Service ranges.
///
/// Sorted by start, a range overlaps an earlier one exactly when it overlaps the widest-reaching
/// one before it, so this is linear after the sort and fine for thousands of nodes.
fn overlaps(facts: &Facts) -> Vec<String> {
    let mut ranges: Vec<(IpNet, &str)> = facts
        .nodes
        .iter()
        .flat_map(|node| {
            node.pod_cidrs
                .iter()
                .map(|cidr| (*cidr, node.name.as_str()))
        })
        .collect();
    ranges.sort_by_key(|(cidr, name)| (cidr.network(), cidr.prefix_len(), *name));
    let mut found = Vec::new();
    let mut widest: Option<(IpNet, &str)> = None;
    for (cidr, name) in ranges {
        match widest {
            Some((other, owner)) if overlap(&other, &cidr) => {
                found.push(format!(
                    "{cidr} of node {name} with {other} of node {owner}"
                ));
            }
            _ => widest = Some((cidr, name)),
        }
        if let Some(services) = facts
            .service_cidrs
            .iter()
            .find(|range| overlap(range, &cidr))
        {
            found.push(format!(
                "{cidr} of node {name} with the Service range {services}"
            ));
        }
    }
    found
}

/// "1 node", "3 nodes".
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

/// The first few names, and how many more.
pub fn some(names: &[&str]) -> String {
    telemetry::some(names, EXAMPLES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use proptest::prelude::*;

    pub(super) fn check(spec: &str, change: impl Fn(&mut Facts)) -> Vec<String> {
        let mut facts = samples::facts();
        change(&mut facts);
        let effective = samples::effective_of(&samples::spec(spec));
        refusals(&effective, &facts)
            .iter()
            .map(|refusal| refusal.field.clone())
            .collect()
    }

    #[test]
    fn a_spec_that_cannot_work_here_is_refused() {
        let v6 = |facts: &mut Facts| facts.nodes.push(samples::node("node4", "fd00::/64"));
        assert_eq!(check("{}", |_| {}), [""; 0]);
        assert_eq!(check("{traffic: {mtu: 1279}}", |_| {}), [""; 0]);
        assert_eq!(check("{traffic: {mtu: 1279}}", v6), ["spec.traffic.mtu"]);
        assert_eq!(check("{traffic: {mtu: 1280}}", v6), [""; 0]);
        assert_eq!(check("{traffic: {mtu: 100}}", |_| {}), ["spec.traffic.mtu"]);
        assert_eq!(
            check("{datapath: {type: Userspace}}", |_| {}),
            ["spec.traffic.transport.interface"]
        );
        assert_eq!(
            check(
                "{datapath: {type: Userspace}, traffic: {mode: NoEncap}}",
                |_| {}
            ),
            [""; 0]
        );
        assert_eq!(
            check("{cni: {binDir: /opt/../etc}}", |_| {}),
            ["spec.cni.binDir"]
        );
        let own = |rest: &str| {
            format!(
                "{{nodeConfigs: [{{name: a, nodeSelector: {{}}, datapath: {{type: Userspace}}{rest}}}]}}"
            )
        };
        assert_eq!(
            check(&own(""), |_| {}),
            ["spec.nodeConfigs[a].traffic.transport.interface"]
        );
        let named = own(", traffic: {transport: {interface: eth1}}");
        assert_eq!(check(&named, |_| {}), [""; 0]);
        let bare = own("").replacen('{', "{traffic: {mode: NoEncap}, ", 1);
        assert_eq!(check(&bare, |_| {}), [""; 0]);
        let azure = |facts: &mut Facts| {
            facts.nodes[1].provider_id = "azure:///subscriptions/x/vm".into();
        };
        assert_eq!(
            check("{traffic: {mode: Hybrid}}", azure),
            ["spec.traffic.mode"]
        );
        assert_eq!(check("{traffic: {mode: Hybrid}}", |_| {}), [""; 0]);
        assert_eq!(check("{traffic: {mode: NoEncap}}", azure), [""; 0]);
        let failed = |facts: &mut Facts| facts.api_server_probe = Probe::Failed("refused".into());
        assert_eq!(
            check("{apiServer: {host: a, port: 1}}", failed),
            ["spec.apiServer"]
        );
    }

    #[test]
    fn gre_between_ipv6_addresses_is_refused_on_the_kernel_datapath() {
        let nodes = |addresses: [&'static str; 3]| {
            move |facts: &mut Facts| {
                for (node, address) in facts.nodes.iter_mut().zip(addresses) {
                    node.addresses = address
                        .split(',')
                        .map(|text| text.parse().unwrap())
                        .collect();
                }
            }
        };
        let v6 = nodes(["fd00::1", "fd00::2", "fd00::3"]);
        let refused = ["spec.traffic.tunnel.protocol"];
        let gre = |rest: &str| format!("{{traffic: {{tunnel: {{protocol: GRE}}{rest}}}}}");
        assert_eq!(check(&gre(""), v6), refused);
        assert_eq!(check(&gre(", mode: Hybrid"), v6), refused);
        assert_eq!(check("{traffic: {tunnel: {protocol: VXLAN}}}", v6), [""; 0]);
        // Nodes that have IPv4 too, or whose addresses nobody knows yet.
        assert_eq!(check(&gre(""), |_| {}), [""; 0]);
        let both = nodes([
            "fd00::1,192.0.2.1",
            "fd00::2,192.0.2.2",
            "fd00::3,192.0.2.3",
        ]);
        assert_eq!(check(&gre(""), both), [""; 0]);
        let mixed = nodes(["fd00::1", "192.0.2.2", "fd00::3"]);
        assert_eq!(check(&gre(""), mixed), [""; 0]);
        // An interface of its own may have what Kubernetes does not know; ranges tell it all.
        let interface = ", transport: {interface: eth1}";
        assert_eq!(check(&gre(interface), v6), [""; 0]);
        let range = |range: &str| gre(&format!(", transport: {{cidrs: ['{range}']}}"));
        assert_eq!(check(&range("fd00::/64"), both), refused);
        assert_eq!(check(&range("192.0.2.0/24"), v6), [""; 0]);
        // The userspace datapath can, on all nodes or on those that have it.
        let userspace = format!("{{datapath: {{type: Userspace}}, {}", &gre(interface)[1..]);
        assert_eq!(check(&userspace, v6), [""; 0]);
        let own = "nodeConfigs: [{name: a, nodeSelector: {}, datapath: {type: Userspace}, \
                   traffic: {transport: {interface: eth1}}}]";
        assert_eq!(check(&format!("{{{own}, {}", &gre("")[1..]), v6), [""; 0]);
    }

    #[test]
    fn hybrid_on_azure_is_refused_with_its_evidence() {
        let mut facts = samples::facts();
        facts.nodes[1].provider_id = "azure:///subscriptions/x/vm".into();
        let spec = samples::spec("{traffic: {mode: Hybrid}}");
        let found = refusals(&samples::effective_of(&spec), &facts);
        let text = found[0].to_string();
        for part in [
            "spec.traffic.mode",
            "node node2 runs there: providerID azure:///subscriptions/x/vm",
            "choose Encap",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        // Another cloud's id is none.
        facts.nodes[1].provider_id = "aws:///eu-central-1a/i-1".into();
        assert_eq!(refusals(&samples::effective_of(&spec), &facts), []);
    }

    #[test]
    fn every_refusal_says_how_to_mend_it() {
        let facts = Facts {
            api_server_probe: Probe::Failed("x".into()),
            ..samples::facts()
        };
        let spec =
            "{traffic: {mtu: 1}, datapath: {type: Userspace}, cni: {binDir: /a//b, confDir: /./x}}";
        let found = refusals(&samples::effective_of(&samples::spec(spec)), &facts);
        assert_eq!(found.len(), 5);
        for refusal in found {
            assert!(
                !refusal.mend.is_empty() && refusal.to_string().ends_with('.'),
                "{refusal}"
            );
        }
    }

    #[test]
    fn what_is_doubtful_is_named() {
        let mut facts = samples::facts();
        facts.reached.host = "10.96.0.1".into();
        facts.nodes.push(samples::node("node4", "10.244.1.128/25"));
        facts.nodes.push(samples::node("node5", "10.96.3.0/24"));
        facts.nodes[0].pod_cidrs.clear();
        let mut effective = samples::effective();
        effective.api_server.host = "10.96.0.1".into();
        let found = doubts(&effective, &facts);
        let names: Vec<_> = found.iter().map(|doubt| doubt.name).collect();
        assert_eq!(
            names,
            [
                "api-server-is-a-service",
                "nodes-without-pod-cidrs",
                "overlapping-pod-cidrs"
            ]
        );
        assert!(
            found[2]
                .message
                .contains("10.244.1.128/25 of node node4 with 10.244.1.0/24 of node node2")
        );
        assert!(
            found[2]
                .message
                .contains("10.96.3.0/24 of node node5 with the Service range 10.96.0.0/16")
        );
    }

    #[test]
    fn nodes_that_wait_for_the_clouds_routes_are_named_where_those_carry_pods() {
        let mut facts = samples::facts();
        facts.nodes[1].network_unavailable = "NoRouteCreated: RouteController failed".into();
        let names = |spec: &str| -> Vec<String> {
            let found = doubts(&samples::effective_of(&samples::spec(spec)), &facts);
            found.into_iter().map(|doubt| doubt.message).collect()
        };
        assert_eq!(names("{}"), [""; 0]);
        assert_eq!(names("{traffic: {mode: Hybrid}}"), [""; 0]);
        let found = names("{traffic: {mode: NoEncap}}");
        assert!(
            found[0].contains("node2 (NoRouteCreated: RouteController failed)"),
            "{found:?}"
        );
    }

    proptest! {
        // The sorted sweep finds an overlap exactly when comparing everything with everything does.
        #[test]
        fn overlaps_are_found(ranges in proptest::collection::vec((0u8..16, 20u8..=28), 0..12)) {
            let cidr = |(third, prefix): (u8, u8)| {
                ipnet::Ipv4Net::new([10, 0, third, 0].into(), prefix).unwrap().trunc()
            };
            let mut facts = samples::facts();
            facts.nodes = ranges
                .iter()
                .enumerate()
                .map(|(index, range)| samples::node(&format!("n{index}"), &cidr(*range).to_string()))
                .collect();
            facts.service_cidrs.clear();
            let all: Vec<IpNet> = facts.nodes.iter().map(|node| node.pod_cidrs[0]).collect();
            let any = (0..all.len())
                .any(|i| (0..i).any(|j| overlap(&all[i], &all[j])));
            prop_assert_eq!(!overlaps(&facts).is_empty(), any);
        }
    }
}
