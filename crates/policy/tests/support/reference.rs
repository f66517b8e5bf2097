//! What becomes of a connection, written from the API documents and naive on purpose: every object
//! is looked at for every connection. It uses the objects' types and nothing else of the code under
//! test.
//!
//! NetworkPolicy: the field descriptions of `networking.k8s.io/v1` (Kubernetes v1.34) and
//! kubernetes.io/docs/concepts/services-networking/network-policies. ClusterNetworkPolicy: those of
//! `policy.networking.k8s.io/v1alpha2` (network-policy-api v0.2.0).

use std::collections::BTreeMap;
use std::net::IpAddr;

use carrick_policy::cluster_network_policy::{
    ClusterNetworkPolicySpec, EgressPeer, IngressPeer, NamespacedPod, ProtocolMatch, Subject,
};
use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::world::{TestPod, World};

/// Names that addresses were learned for.
pub type Names = BTreeMap<IpAddr, Vec<String>>;

/// A connection.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// A protocol with ports and the port; `None` for another protocol.
    pub port: Option<(&'static str, u16)>,
}

/// Whether the pod at the source may send it.
pub fn may_leave(world: &World, names: &Names, probe: Probe) -> bool {
    let source = pod_at(world, probe.source).expect("a pod is at the source");
    if probe.source == probe.destination {
        return true;
    }
    let admin = cluster_egress(world, names, probe, source, "Admin");
    if let Some(decided) = admin {
        return decided;
    }
    let mut isolated = false;
    for ((namespace, _), spec) in &world.network_policies {
        if *namespace != source.namespace || !pod_selected(spec, source) {
            continue;
        }
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let rules = spec.egress.as_deref().unwrap_or_default();
        // "If this field is not specified, it will default based on the existence of ingress or
        // egress rules; policies that contain an egress section are assumed to affect egress."
        let affects = if types.is_empty() {
            !rules.is_empty()
        } else {
            types.iter().any(|text| text == "Egress")
        };
        if !affects {
            continue;
        }
        isolated = true;
        for rule in rules {
            let ports = rule.ports.as_deref().unwrap_or_default();
            let peers = rule.to.as_deref().unwrap_or_default();
            let destination = pod_at(world, probe.destination);
            if peers.is_empty() && namespaced_ports(ports, probe, destination) {
                return true;
            }
            for peer in peers {
                let selected = is_peer(world, namespace, peer, probe.destination);
                // A range of addresses has no pods that could call their ports something.
                let named = destination.filter(|_| peer.ip_block.is_none());
                if selected && namespaced_ports(ports, probe, named) {
                    return true;
                }
            }
        }
    }
    if isolated {
        return false;
    }
    cluster_egress(world, names, probe, source, "Baseline").unwrap_or(true)
}

/// Whether the pod at the destination gets it.
pub fn may_enter(world: &World, probe: Probe) -> bool {
    let destination = pod_at(world, probe.destination).expect("a pod is at the destination");
    let host = world.nodes.get(&destination.node);
    let own_node = host.is_some_and(|node| node.addresses.contains(&probe.source));
    if probe.source == probe.destination || own_node {
        return true;
    }
    if let Some(decided) = cluster_ingress(world, probe, destination, "Admin") {
        return decided;
    }
    let mut isolated = false;
    for ((namespace, _), spec) in &world.network_policies {
        if *namespace != destination.namespace || !pod_selected(spec, destination) {
            continue;
        }
        let types = spec.policy_types.as_deref().unwrap_or_default();
        if !types.is_empty() && !types.iter().any(|text| text == "Ingress") {
            continue;
        }
        isolated = true;
        for rule in spec.ingress.iter().flatten() {
            let peers = rule.from.as_deref().unwrap_or_default();
            let from = peers.is_empty()
                || peers
                    .iter()
                    .any(|peer| is_peer(world, namespace, peer, probe.source));
            let ports = rule.ports.as_deref().unwrap_or_default();
            if from && namespaced_ports(ports, probe, Some(destination)) {
                return true;
            }
        }
    }
    if isolated {
        return false;
    }
    cluster_ingress(world, probe, destination, "Baseline").unwrap_or(true)
}

fn pod_at(world: &World, address: IpAddr) -> Option<&TestPod> {
    let mut pods = world.pods.values();
    pods.find(|pod| pod.addresses.contains(&address))
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    for (key, value) in selector.match_labels.iter().flatten() {
        if labels.get(key) != Some(value) {
            return false;
        }
    }
    for expression in selector.match_expressions.iter().flatten() {
        let value = labels.get(&expression.key);
        let values = expression.values.as_deref().unwrap_or_default();
        let holds = match expression.operator.as_str() {
            "In" => value.is_some() && values.contains(value.unwrap()),
            "NotIn" => value.is_none() || !values.contains(value.unwrap()),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => panic!("{other}"),
        };
        if !holds {
            return false;
        }
    }
    true
}

/// "If present but empty, it selects all namespaces", and no other selector one that is not there.
fn selects_namespace(world: &World, selector: &LabelSelector, namespace: &str) -> bool {
    let labels = world.namespaces.get(namespace);
    *selector == LabelSelector::default() || labels.is_some_and(|labels| selects(selector, labels))
}

fn pod_selected(spec: &NetworkPolicySpec, pod: &TestPod) -> bool {
    let mut selector = spec.pod_selector.iter();
    selector.all(|selector| selects(selector, &pod.labels))
}

fn is_peer(world: &World, namespace: &str, peer: &NetworkPolicyPeer, address: IpAddr) -> bool {
    if let Some(block) = &peer.ip_block {
        let excepted = block
            .except
            .iter()
            .flatten()
            .any(|cidr| within(cidr, address));
        return within(&block.cidr, address) && !excepted;
    }
    let Some(pod) = pod_at(world, address) else {
        return false;
    };
    let namespace_fits = match &peer.namespace_selector {
        // "Otherwise it selects the pods matching podSelector in the policy's own namespace."
        None => pod.namespace == namespace,
        Some(selector) => selects_namespace(world, selector, &pod.namespace),
    };
    let mut pods = peer.pod_selector.iter();
    namespace_fits && pods.all(|pods| selects(pods, &pod.labels))
}

/// "If this field is empty or missing, this rule matches all ports."
fn namespaced_ports(
    ports: &[NetworkPolicyPort],
    probe: Probe,
    destination: Option<&TestPod>,
) -> bool {
    if ports.is_empty() {
        return true;
    }
    let Some((protocol, number)) = probe.port else {
        return false;
    };
    ports.iter().any(|port| {
        let own = port.protocol.as_deref().unwrap_or("TCP");
        own == protocol
            && match (&port.port, port.end_port) {
                (None, _) => true,
                (Some(IntOrString::Int(first)), None) => i32::from(number) == *first,
                (Some(IntOrString::Int(first)), Some(last)) => {
                    (*first..=last).contains(&i32::from(number))
                }
                (Some(IntOrString::String(name)), _) => {
                    calls(destination, Some(protocol), name, protocol, number)
                }
            }
    })
}

/// Whether the pod calls the port so.
fn calls(
    pod: Option<&TestPod>,
    only: Option<&str>,
    name: &str,
    protocol: &str,
    number: u16,
) -> bool {
    let ports = pod.map(|pod| &*pod.ports).unwrap_or_default();
    ports.iter().any(|(own, own_protocol, own_number)| {
        own == name
            && own_protocol == protocol
            && *own_number == number
            && only.is_none_or(|only| only == protocol)
    })
}

fn within(cidr: &str, address: IpAddr) -> bool {
    let (base, length) = cidr.split_once('/').unwrap();
    let length: u32 = length.parse().unwrap();
    match (base.parse().unwrap(), address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let differ = u32::from(base) ^ u32::from(address);
            length == 0 || differ >> (32 - length) == 0
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let differ = u128::from(base) ^ u128::from(address);
            length == 0 || differ >> (128 - length) == 0
        }
        _ => false,
    }
}

/// Policies of a tier that are for the pod, in the order they are read.
fn of_tier<'a>(
    world: &'a World,
    tier: &str,
    pod: &TestPod,
) -> Vec<(&'a String, &'a ClusterNetworkPolicySpec)> {
    let mut policies: Vec<_> = world
        .cluster_policies
        .iter()
        .filter(|(_, spec)| spec.tier == tier && is_subject(world, &spec.subject, pod))
        .collect();
    // The order among equal priorities is ours to choose: by name.
    policies.sort_by_key(|(name, spec)| (spec.priority, (*name).clone()));
    policies
}

fn is_subject(world: &World, subject: &Subject, pod: &TestPod) -> bool {
    if let Some(namespaces) = &subject.namespaces {
        return selects_namespace(world, namespaces, &pod.namespace);
    }
    namespaced(world, subject.pods.as_ref().unwrap(), pod)
}

fn namespaced(world: &World, selector: &NamespacedPod, pod: &TestPod) -> bool {
    selects_namespace(world, &selector.namespace_selector, &pod.namespace)
        && selects(&selector.pod_selector, &pod.labels)
}

/// `Some` when the tier decides, `None` when the next one does.
fn cluster_ingress(world: &World, probe: Probe, pod: &TestPod, tier: &str) -> Option<bool> {
    let source = pod_at(world, probe.source);
    for (_, spec) in of_tier(world, tier, pod) {
        for rule in spec.ingress.iter().flatten() {
            // "If an implementation sees no fields are set … it should fail closed."
            let unknown = rule.from.iter().any(|peer| *peer == IngressPeer::default());
            let matched = rule.from.iter().any(|peer| {
                source.is_some_and(|source| match (&peer.namespaces, &peer.pods) {
                    (Some(namespaces), _) => {
                        selects_namespace(world, namespaces, &source.namespace)
                    }
                    (_, Some(pods)) => namespaced(world, pods, source),
                    (None, None) => false,
                })
            });
            let matched = matched && cluster_ports(rule.protocols.as_deref(), probe, Some(pod));
            match decide(&rule.action, matched, unknown) {
                Decision::Verdict(verdict) => return Some(verdict),
                Decision::NextTier => return None,
                Decision::NextRule => {}
            }
        }
    }
    None
}

fn cluster_egress(
    world: &World,
    names: &Names,
    probe: Probe,
    pod: &TestPod,
    tier: &str,
) -> Option<bool> {
    let destination = pod_at(world, probe.destination);
    for (_, spec) in of_tier(world, tier, pod) {
        for rule in spec.egress.iter().flatten() {
            let unknown = rule.to.iter().any(|peer| *peer == EgressPeer::default());
            let matched = rule
                .to
                .iter()
                .any(|peer| is_egress_peer(world, names, peer, destination, probe.destination));
            let matched = matched && cluster_ports(rule.protocols.as_deref(), probe, destination);
            match decide(&rule.action, matched, unknown) {
                Decision::Verdict(verdict) => return Some(verdict),
                Decision::NextTier => return None,
                Decision::NextRule => {}
            }
        }
    }
    None
}

fn is_egress_peer(
    world: &World,
    names: &Names,
    peer: &EgressPeer,
    pod: Option<&TestPod>,
    address: IpAddr,
) -> bool {
    if let Some(namespaces) = &peer.namespaces {
        return pod.is_some_and(|pod| selects_namespace(world, namespaces, &pod.namespace));
    }
    if let Some(pods) = &peer.pods {
        return pod.is_some_and(|pod| namespaced(world, pods, pod));
    }
    if let Some(nodes) = &peer.nodes {
        return world
            .nodes
            .values()
            .any(|node| selects(nodes, &node.labels) && node.addresses.contains(&address));
    }
    if let Some(networks) = &peer.networks {
        return networks.iter().any(|cidr| within(&cidr.0, address));
    }
    for pattern in peer.domain_names.iter().flatten() {
        for name in names.get(&address).into_iter().flatten() {
            let hit = match pattern.strip_prefix("*") {
                Some(rest) => name.len() > rest.len() && name.ends_with(rest),
                None => name == pattern,
            };
            if hit {
                return true;
            }
        }
    }
    false
}

fn cluster_ports(
    protocols: Option<&[ProtocolMatch]>,
    probe: Probe,
    destination: Option<&TestPod>,
) -> bool {
    let Some(protocols) = protocols else {
        return true;
    };
    let Some((protocol, number)) = probe.port else {
        return false;
    };
    protocols.iter().any(|own| {
        if let Some(name) = &own.destination_named_port {
            return calls(destination, None, name, protocol, number);
        }
        let of = match protocol {
            "TCP" => &own.tcp,
            "UDP" => &own.udp,
            _ => &own.sctp,
        };
        of.as_ref().is_some_and(|of| match &of.destination_port {
            None => true,
            Some(port) => match (&port.number, &port.range) {
                (Some(one), _) => *one == i32::from(number),
                (_, Some(range)) => (range.start..=range.end).contains(&i32::from(number)),
                (None, None) => panic!("not generated"),
            },
        })
    })
}

enum Decision {
    Verdict(bool),
    NextTier,
    NextRule,
}

/// "For Accept rules, fail closed means: treat the rule as matching no traffic. For Deny and Pass
/// rules, fail closed means: treat the rule as a Deny all rule."
fn decide(action: &str, matched: bool, unknown: bool) -> Decision {
    match (action, unknown, matched) {
        ("Accept", true, _) | (_, false, false) => Decision::NextRule,
        (_, true, _) | ("Deny", false, true) => Decision::Verdict(false),
        ("Accept", false, true) => Decision::Verdict(true),
        ("Pass", false, true) => Decision::NextTier,
        (other, ..) => panic!("{other}"),
    }
}
