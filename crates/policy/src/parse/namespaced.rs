//! NetworkPolicy of `networking.k8s.io/v1`.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use serde::Deserialize as _;
use serde_json::Value;

use super::part::{PeerList, distinct, has_names, object_name, port_number, uid};
use super::{Parsed, Refused};
use crate::network::{Network, parse_cidr};
use crate::policy::{
    Action, Direction, GroupSelector, Isolation, PodSelector, Policy, PolicyName, Rule, Scope, Tier,
};
use crate::port::{PortMatch, Protocol, is_port_name};
use crate::problem::{Problem, Problems, bounded, quoted};
use crate::selector::Selector;

/// Reads a NetworkPolicy that was not decoded yet: one that does not fit the types is refused like
/// any other that cannot be read.
pub fn parse_network_policy_json(object: &Value) -> Result<Parsed, Refused> {
    let object = NetworkPolicy::deserialize(object).map_err(|error| {
        Refused(Problem::new(
            "spec",
            bounded(&error.to_string()),
            "write it as networking.k8s.io/v1 has it",
        ))
    })?;
    parse_network_policy(&object)
}

/// Reads a NetworkPolicy.
pub fn parse_network_policy(object: &NetworkPolicy) -> Result<Parsed, Refused> {
    let metadata = &object.metadata;
    let namespace = object_name("metadata.namespace", metadata.namespace.as_deref())?;
    let name = object_name("metadata.name", metadata.name.as_deref())?;
    let name = PolicyName::namespaced(namespace, name);
    let uid = uid(&name, metadata.uid.as_deref())?;
    let nothing = NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&nothing);

    let mut reader = Reader {
        namespace: namespace.into(),
        problems: Problems::default(),
    };
    let applied_to = reader
        .pods(None, spec.pod_selector.as_ref(), &"spec")
        .map_err(Refused)?;
    let isolation = reader.isolation(spec);
    let mut rules = Vec::new();
    if isolation.ingress {
        for (n, rule) in spec.ingress.iter().flatten().enumerate() {
            rules.extend(reader.rule(
                Direction::Ingress,
                n,
                rule.from.as_deref(),
                rule.ports.as_deref(),
            ));
        }
    }
    if isolation.egress {
        for (n, rule) in spec.egress.iter().flatten().enumerate() {
            rules.extend(reader.rule(
                Direction::Egress,
                n,
                rule.to.as_deref(),
                rule.ports.as_deref(),
            ));
        }
    }
    Ok(Parsed {
        policy: Policy {
            name,
            uid,
            tier: Tier::NetworkPolicy,
            priority: 0,
            applied_to,
            isolation,
            rules: rules.into(),
        },
        problems: reader.problems,
    })
}

struct Reader {
    namespace: Arc<str>,
    problems: Problems,
}

impl Reader {
    /// `policyTypes`: without it, ingress, and egress if there are rules of it.
    fn isolation(&mut self, spec: &NetworkPolicySpec) -> Isolation {
        let types = spec.policy_types.as_deref().unwrap_or_default();
        if types.is_empty() {
            return Isolation {
                ingress: true,
                egress: spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
            };
        }
        let mut isolation = Isolation::default();
        for (n, text) in types.iter().enumerate() {
            match text.as_str() {
                "Ingress" => isolation.ingress = true,
                "Egress" => isolation.egress = true,
                other => self.problems.push(Problem::new(
                    format_args!("spec.policyTypes[{n}]"),
                    format_args!("{} is no type", quoted(other)),
                    "use Ingress or Egress",
                )),
            }
        }
        isolation
    }

    /// A rule; `None` when nothing is left that it could accept.
    fn rule(
        &mut self,
        direction: Direction,
        position: usize,
        peers: Option<&[NetworkPolicyPeer]>,
        ports: Option<&[NetworkPolicyPort]>,
    ) -> Option<Rule> {
        let side = match direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let path = format!("spec.{direction}[{position}]");
        let ports = match ports {
            None | Some([]) => None,
            Some(ports) => {
                let mut list = Vec::with_capacity(ports.len());
                for (n, port) in ports.iter().enumerate() {
                    match port_match(port, &format_args!("{path}.ports[{n}]")) {
                        Ok(port) => list.push(port),
                        Err(problem) => self.problems.push(problem),
                    }
                }
                Some(distinct(list))
            }
        };
        let mut list = PeerList::default();
        match peers {
            None | Some([]) => list.any = true,
            Some(peers) => {
                for (n, peer) in peers.iter().enumerate() {
                    let field = format_args!("{path}.{side}[{n}]");
                    if let Err(problem) = self.peer(peer, &mut list, &field) {
                        self.problems.push(problem);
                    }
                }
            }
        }
        let named = direction == Direction::Egress && has_names(ports.as_deref());
        if named && !list.networks.is_empty() {
            self.problems.push(Problem::new(
                format_args!("{path}.ports"),
                "names ports, which ranges of addresses in ipBlock have not: there they match nothing",
                "use a rule with port numbers for the ranges",
            ));
        }
        let nothing = list.is_empty() || ports.as_ref().is_some_and(|ports| ports.is_empty());
        (!nothing).then(|| Rule {
            direction,
            position: u32::try_from(position).unwrap_or(u32::MAX),
            name: None,
            action: Action::Accept,
            peers: list.finish(named),
            ports,
        })
    }

    fn peer(
        &self,
        peer: &NetworkPolicyPeer,
        list: &mut PeerList,
        field: &dyn fmt::Display,
    ) -> Result<(), Problem> {
        let NetworkPolicyPeer {
            ip_block,
            namespace_selector,
            pod_selector,
        } = peer;
        match (ip_block, namespace_selector, pod_selector) {
            (Some(block), None, None) => {
                list.networks.push(network(block, field)?);
            }
            (None, None, None) => {
                return Err(Problem::new(
                    field,
                    "has none of the fields that are known here",
                    "use ipBlock, or podSelector, namespaceSelector or both",
                ));
            }
            (Some(_), _, _) => {
                return Err(Problem::new(
                    field,
                    "has ipBlock beside a selector",
                    "make two peers of it",
                ));
            }
            (None, namespaces, pods) => {
                let pods = self.pods(namespaces.as_ref(), pods.as_ref(), field)?;
                list.groups.push(GroupSelector::Pods(pods));
            }
        }
        Ok(())
    }

    fn pods(
        &self,
        namespaces: Option<&LabelSelector>,
        pods: Option<&LabelSelector>,
        field: &dyn fmt::Display,
    ) -> Result<PodSelector, Problem> {
        let parse = |selector: Option<&LabelSelector>, name: &str| match selector {
            None => Ok(Selector::default()),
            Some(selector) => Selector::parse(selector, &format_args!("{field}.{name}")),
        };
        let scope = match namespaces {
            None => Scope::Namespace(self.namespace.clone()),
            some => Scope::Selected(parse(some, "namespaceSelector")?),
        };
        Ok(PodSelector {
            scope,
            pods: parse(pods, "podSelector")?,
        })
    }
}

fn network(block: &IPBlock, field: &dyn fmt::Display) -> Result<Network, Problem> {
    let cidr = parse_cidr(&block.cidr).map_err(|error| {
        Problem::new(format_args!("{field}.ipBlock.cidr"), &error, error.mend())
    })?;
    let mut except = Vec::new();
    for (n, text) in block.except.iter().flatten().enumerate() {
        except.push(parse_cidr(text).map_err(|error| {
            let field = format_args!("{field}.ipBlock.except[{n}]");
            Problem::new(field, &error, error.mend())
        })?);
    }
    Network::without(cidr, except)
        .map_err(|error| Problem::new(format_args!("{field}.ipBlock.except"), &error, error.mend()))
}

fn port_match(port: &NetworkPolicyPort, field: &dyn fmt::Display) -> Result<PortMatch, Problem> {
    let protocol = match port.protocol.as_deref() {
        None | Some("") => Protocol::Tcp,
        Some(text) => Protocol::parse(text).ok_or_else(|| {
            Problem::new(
                format_args!("{field}.protocol"),
                format_args!("{} is no protocol", quoted(text)),
                "use TCP, UDP or SCTP",
            )
        })?,
    };
    let number = |name: &str, value: i32| port_number(&format_args!("{field}.{name}"), value);
    match (&port.port, port.end_port) {
        (None, None) => Ok(PortMatch::Protocol(protocol)),
        (Some(IntOrString::Int(first)), end) => {
            let first = number("port", *first)?;
            let last = end.map_or(Ok(first), |end| number("endPort", end))?;
            if last < first {
                return Err(Problem::new(
                    format_args!("{field}.endPort"),
                    format_args!("{last} is less than port, {first}"),
                    "write the lower number as port",
                ));
            }
            Ok(PortMatch::Range(protocol, first, last))
        }
        (Some(IntOrString::String(name)), None) => {
            if !is_port_name(name) {
                return Err(Problem::new(
                    format_args!("{field}.port"),
                    format_args!("{} is no name of a port", quoted(name)),
                    "use a number, or up to 15 lower case letters, digits and '-'",
                ));
            }
            Ok(PortMatch::Named(Some(protocol), name.as_str().into()))
        }
        (None | Some(IntOrString::String(_)), Some(_)) => Err(Problem::new(
            format_args!("{field}.endPort"),
            "is there without a number as port",
            "write the first number of the range as port",
        )),
    }
}
