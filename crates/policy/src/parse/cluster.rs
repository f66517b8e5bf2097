//! ClusterNetworkPolicy of `policy.networking.k8s.io/v1alpha2`.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize as _;
use serde_json::Value;

use super::part::{PeerList, distinct, has_names, object_name, port_number, uid};
use super::{Parsed, Refused};
use crate::cluster_network_policy::{
    ClusterNetworkPolicySpec, EgressPeer, IngressPeer, NamespacedPod, PortNumbers, ProtocolMatch,
    Subject,
};
use crate::domain::{DomainName, NoDomainName};
use crate::network::{Network, parse_cidr};
use crate::policy::{
    Action, Direction, GroupSelector, Isolation, Peers, PodSelector, Policy, PolicyName, Rule,
    Scope, Tier,
};
use crate::port::{PortMatch, Protocol, is_port_name};
use crate::problem::{Problem, Problems, bounded, quoted};
use crate::selector::Selector;

/// Lowest precedence (ClusterNetworkPolicySpec.Priority).
const MAX_PRIORITY: u16 = 1000;

/// Reads a ClusterNetworkPolicy that was not decoded yet: one that does not fit the types is
/// refused like any other that cannot be read.
pub fn parse_cluster_network_policy_json(object: &Value) -> Result<Parsed, Refused> {
    let text = |name: &str| object.get("metadata")?.get(name)?.as_str();
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let spec = ClusterNetworkPolicySpec::deserialize(spec).map_err(|error| {
        Refused(Problem::new(
            "spec",
            bounded(&error.to_string()),
            "write it as policy.networking.k8s.io/v1alpha2 has it",
        ))
    })?;
    parse_cluster_network_policy(text("name"), text("uid"), &spec)
}

/// Reads a ClusterNetworkPolicy.
pub fn parse_cluster_network_policy(
    name: Option<&str>,
    object_uid: Option<&str>,
    spec: &ClusterNetworkPolicySpec,
) -> Result<Parsed, Refused> {
    let name = PolicyName::cluster(object_name("metadata.name", name)?);
    let uid = uid(&name, object_uid)?;
    let refuse =
        |field, reason: &dyn fmt::Display, mend| Refused(Problem::new(field, reason, mend));
    let tier = match spec.tier.as_str() {
        "Admin" => Tier::Admin,
        "Baseline" => Tier::Baseline,
        other => {
            let reason = format_args!("{} is no tier", quoted(other));
            return Err(refuse("spec.tier", &reason, "use Admin or Baseline"));
        }
    };
    let priority = u16::try_from(spec.priority)
        .ok()
        .filter(|priority| *priority <= MAX_PRIORITY)
        .ok_or_else(|| {
            let reason = format_args!("{} is out of range", spec.priority);
            refuse("spec.priority", &reason, "use a number from 0 to 1000")
        })?;
    let applied_to = subject(&spec.subject).map_err(Refused)?;
    let mut problems = Problems::default();
    let mut rules = Vec::new();
    for (n, rule) in spec.ingress.iter().flatten().enumerate() {
        let written = Written {
            direction: Direction::Ingress,
            position: n,
            name: rule.name.as_deref(),
            action: &rule.action,
            protocols: rule.protocols.as_deref(),
        };
        rules.extend(written.read(&rule.from, ingress_peer, &mut problems));
    }
    for (n, rule) in spec.egress.iter().flatten().enumerate() {
        let written = Written {
            direction: Direction::Egress,
            position: n,
            name: rule.name.as_deref(),
            action: &rule.action,
            protocols: rule.protocols.as_deref(),
        };
        rules.extend(written.read(&rule.to, egress_peer, &mut problems));
    }
    Ok(Parsed {
        policy: Policy {
            name,
            uid,
            tier,
            priority,
            applied_to,
            isolation: Isolation::default(),
            rules: rules.into(),
        },
        problems,
    })
}

fn subject(subject: &Subject) -> Result<PodSelector, Problem> {
    let field = &"spec.subject";
    match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => all_of(namespaces, field),
        (None, Some(pods)) => namespaced_pods(pods, field),
        (None, None) => Err(Problem::new(
            field,
            "has none of the fields that are known here",
            "use namespaces or pods",
        )),
        (Some(_), Some(_)) => Err(two_fields(field)),
    }
}

fn two_fields(field: &dyn fmt::Display) -> Problem {
    Problem::new(field, "has more than one field", "leave one of them")
}

fn all_of(namespaces: &LabelSelector, field: &dyn fmt::Display) -> Result<PodSelector, Problem> {
    let namespaces = Selector::parse(namespaces, &format_args!("{field}.namespaces"))?;
    Ok(PodSelector {
        scope: Scope::Selected(namespaces),
        pods: Selector::default(),
    })
}

fn namespaced_pods(pods: &NamespacedPod, field: &dyn fmt::Display) -> Result<PodSelector, Problem> {
    let namespaces = Selector::parse(
        &pods.namespace_selector,
        &format_args!("{field}.pods.namespaceSelector"),
    )?;
    let pods = Selector::parse(
        &pods.pod_selector,
        &format_args!("{field}.pods.podSelector"),
    )?;
    Ok(PodSelector {
        scope: Scope::Selected(namespaces),
        pods,
    })
}

/// A rule as it is written, but for its peers.
struct Written<'a> {
    direction: Direction,
    position: usize,
    name: Option<&'a str>,
    action: &'a str,
    protocols: Option<&'a [ProtocolMatch]>,
}

/// Reads a peer of a rule with this action.
type ReadPeer<P> = fn(&P, Action, &mut PeerList, &dyn fmt::Display) -> Result<(), Problem>;

impl Written<'_> {
    /// The rule as it is enforced; `None` when it closes to one that accepts nothing.
    fn read<P>(&self, peers: &[P], peer: ReadPeer<P>, problems: &mut Problems) -> Option<Rule> {
        let path = format!("spec.{}[{}]", self.direction, self.position);
        let action = match self.action {
            "Accept" => Some(Action::Accept),
            "Deny" => Some(Action::Deny),
            "Pass" => Some(Action::Pass),
            other => {
                problems.push(Problem::new(
                    format_args!("{path}.action"),
                    format_args!("{} is no action: the rule denies everything", quoted(other)),
                    "use Accept, Deny or Pass",
                ));
                None
            }
        };
        let before = problems.len();
        // For what else is wrong: an unknown action closes as one that denies.
        let read_as = action.unwrap_or(Action::Deny);
        let ports = self.ports(&path, problems);
        let peers = self.peers(&path, peers, peer, read_as, ports.as_deref(), problems);
        let (action, peers, ports) = match action {
            Some(action) if problems.len() == before => (action, peers, ports),
            Some(Action::Accept) => return None,
            _ => (Action::Deny, Peers::any(), None),
        };
        Some(Rule {
            direction: self.direction,
            position: u32::try_from(self.position).unwrap_or(u32::MAX),
            name: self.name.filter(|name| !name.is_empty()).map(Into::into),
            action,
            peers,
            ports,
        })
    }

    fn ports(&self, path: &str, problems: &mut Problems) -> Option<Box<[PortMatch]>> {
        let protocols = self.protocols.filter(|protocols| !protocols.is_empty())?;
        let mut list = Vec::with_capacity(protocols.len());
        for (n, protocol) in protocols.iter().enumerate() {
            match protocol_match(protocol, &format_args!("{path}.protocols[{n}]")) {
                Ok(port) => list.push(port),
                Err(problem) => problems.push(problem),
            }
        }
        Some(distinct(list))
    }

    fn peers<P>(
        &self,
        path: &str,
        peers: &[P],
        peer: ReadPeer<P>,
        action: Action,
        ports: Option<&[PortMatch]>,
        problems: &mut Problems,
    ) -> Peers {
        let side = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        if peers.is_empty() {
            problems.push(Problem::new(
                format_args!("{path}.{side}"),
                "is empty",
                "name at least one peer; {namespaces: {}} is every pod",
            ));
        }
        let mut list = PeerList::default();
        for (n, written) in peers.iter().enumerate() {
            let field = format_args!("{path}.{side}[{n}]");
            if let Err(problem) = peer(written, action, &mut list, &field) {
                problems.push(problem);
            }
        }
        let named = self.direction == Direction::Egress && has_names(ports);
        let nodes = |group: &GroupSelector| matches!(group, GroupSelector::Nodes(_));
        if named
            && (!list.networks.is_empty()
                || !list.domains.is_empty()
                || list.groups.iter().any(nodes))
        {
            problems.push(Problem::new(
                format_args!("{path}.protocols"),
                "names a port, which networks, nodes and domainNames have not",
                "name the port by its number, or make two rules",
            ));
        }
        list.finish(named)
    }
}

fn ingress_peer(
    peer: &IngressPeer,
    _: Action,
    list: &mut PeerList,
    field: &dyn fmt::Display,
) -> Result<(), Problem> {
    let group = match (&peer.namespaces, &peer.pods) {
        (Some(namespaces), None) => all_of(namespaces, field)?,
        (None, Some(pods)) => namespaced_pods(pods, field)?,
        (None, None) => {
            return Err(Problem::new(
                field,
                "has none of the fields that are known here",
                "use namespaces or pods",
            ));
        }
        (Some(_), Some(_)) => return Err(two_fields(field)),
    };
    list.groups.push(GroupSelector::Pods(group));
    Ok(())
}

fn egress_peer(
    peer: &EgressPeer,
    action: Action,
    list: &mut PeerList,
    field: &dyn fmt::Display,
) -> Result<(), Problem> {
    let EgressPeer {
        namespaces,
        pods,
        nodes,
        networks,
        domain_names,
    } = peer;
    match (namespaces, pods, nodes, networks, domain_names) {
        (Some(namespaces), None, None, None, None) => {
            list.groups
                .push(GroupSelector::Pods(all_of(namespaces, field)?));
        }
        (None, Some(pods), None, None, None) => {
            list.groups
                .push(GroupSelector::Pods(namespaced_pods(pods, field)?));
        }
        (None, None, Some(nodes), None, None) => {
            let nodes = Selector::parse(nodes, &format_args!("{field}.nodes"))?;
            list.groups.push(GroupSelector::Nodes(nodes));
        }
        (None, None, None, Some(networks), None) => {
            some("networks", networks, field)?;
            for (n, text) in networks.iter().enumerate() {
                let cidr = parse_cidr(&text.0).map_err(|error| {
                    let field = format_args!("{field}.networks[{n}]");
                    Problem::new(field, &error, error.mend())
                })?;
                list.networks.push(Network::new(cidr));
            }
        }
        (None, None, None, None, Some(names)) => {
            some("domainNames", names, field)?;
            if action != Action::Accept {
                return Err(Problem::new(
                    format_args!("{field}.domainNames"),
                    "is in a rule that does not accept",
                    "use networks here, or accept names before a rule that denies",
                ));
            }
            for (n, text) in names.iter().enumerate() {
                let name = DomainName::parse(text).map_err(|error| {
                    let field = format_args!("{field}.domainNames[{n}]");
                    Problem::new(field, error, NoDomainName::MEND)
                })?;
                list.domains.push(name);
            }
        }
        (None, None, None, None, None) => {
            return Err(Problem::new(
                field,
                "has none of the fields that are known here",
                "use namespaces, pods, nodes, networks or domainNames",
            ));
        }
        _ => return Err(two_fields(field)),
    }
    Ok(())
}

/// A list that is there must not be empty.
fn some<T>(name: &str, list: &[T], field: &dyn fmt::Display) -> Result<(), Problem> {
    if list.is_empty() {
        return Err(Problem::new(
            format_args!("{field}.{name}"),
            "is empty",
            "list at least one",
        ));
    }
    Ok(())
}

fn protocol_match(
    protocol: &ProtocolMatch,
    field: &dyn fmt::Display,
) -> Result<PortMatch, Problem> {
    let ProtocolMatch {
        tcp,
        udp,
        sctp,
        destination_named_port,
    } = protocol;
    let (protocol, name, matched) = match (tcp, udp, sctp, destination_named_port) {
        (Some(tcp), None, None, None) => (Protocol::Tcp, "tcp", tcp),
        (None, Some(udp), None, None) => (Protocol::Udp, "udp", udp),
        (None, None, Some(sctp), None) => (Protocol::Sctp, "sctp", sctp),
        (None, None, None, Some(name)) => {
            if !is_port_name(name) {
                return Err(Problem::new(
                    format_args!("{field}.destinationNamedPort"),
                    format_args!("{} is no name of a port", quoted(name)),
                    "use up to 15 lower case letters, digits and '-'",
                ));
            }
            return Ok(PortMatch::Named(None, name.as_str().into()));
        }
        (None, None, None, None) => {
            return Err(Problem::new(
                field,
                "has none of the fields that are known here",
                "use tcp, udp, sctp or destinationNamedPort",
            ));
        }
        _ => return Err(two_fields(field)),
    };
    let Some(PortNumbers { number, range }) = &matched.destination_port else {
        return Ok(PortMatch::Protocol(protocol));
    };
    let field = format!("{field}.{name}.destinationPort");
    match (number, range) {
        (Some(number), None) => {
            let number = port_number(&format_args!("{field}.number"), *number)?;
            Ok(PortMatch::Range(protocol, number, number))
        }
        (None, Some(range)) => {
            let first = port_number(&format_args!("{field}.range.start"), range.start)?;
            let last = port_number(&format_args!("{field}.range.end"), range.end)?;
            if last <= first {
                return Err(Problem::new(
                    format_args!("{field}.range"),
                    format_args!("end, {last}, is not greater than start, {first}"),
                    "write the lower number as start; for one port use number",
                ));
            }
            Ok(PortMatch::Range(protocol, first, last))
        }
        (None, None) => Err(Problem::new(
            field,
            "has none of the fields that are known here",
            "use number or range",
        )),
        (Some(_), Some(_)) => Err(two_fields(&field)),
    }
}
