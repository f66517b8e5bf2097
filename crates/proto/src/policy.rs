//! Policies, groups and what pods say for them, between `carrick_policy`'s types and the messages.

use std::sync::Arc;

use carrick_policy::{
    Action, Direction, DomainName, EnforcedPolicy, GroupKey, Isolation, MemberKey, Members,
    NamedPort, Network, Peers, PolicyName, PortMatch, Protocol, Rule, Tier, is_port_name,
};

use crate::invalid::{Invalid, at_most};
use crate::limits;
use crate::net::parse_address;
use crate::v1;

/// A policy's name out of its two parts; none of both may hold what a key divides by.
pub(crate) fn policy_name(namespace: &str, name: &str) -> Result<PolicyName, Invalid> {
    let is_name = |text: &str| {
        text.len() <= limits::NAME && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
    };
    if name.is_empty() || !is_name(name) || !is_name(namespace) {
        return Err(Invalid::malformed("name", name, "a policy's name"));
    }
    Ok(if namespace.is_empty() {
        PolicyName::cluster(name)
    } else {
        PolicyName::namespaced(namespace, name)
    })
}

pub(crate) fn group_key(text: &str) -> Result<GroupKey, Invalid> {
    text.parse()
        .map_err(|_| Invalid::malformed("group", text, "a group's key"))
}

fn group_keys(texts: &[String]) -> Result<Vec<GroupKey>, Invalid> {
    at_most("groups", texts.len(), limits::GROUPS)?;
    texts.iter().map(|text| group_key(text)).collect()
}

/// Sorted and without duplicates, as [`carrick_policy::PodRecord::groups`] wants it.
pub(crate) fn pod_groups(texts: &[String]) -> Result<Vec<GroupKey>, Invalid> {
    let mut groups = group_keys(texts)?;
    groups.sort_unstable();
    groups.dedup();
    Ok(groups)
}

pub(crate) fn ports_to_wire(ports: &[NamedPort]) -> Vec<v1::NamedPort> {
    let ports = ports.iter().map(|port| v1::NamedPort {
        name: port.name.to_string(),
        protocol: protocol_to_wire(port.protocol).into(),
        port: port.port.into(),
    });
    ports.collect()
}

pub(crate) fn ports_from_wire(ports: Vec<v1::NamedPort>) -> Result<Arc<[NamedPort]>, Invalid> {
    at_most("ports", ports.len(), limits::PORTS)?;
    let ports = ports.into_iter().map(|port| {
        Ok(NamedPort {
            protocol: required_protocol(port.protocol())?,
            port: number("port", port.port)?,
            name: port_name(&port.name)?.into(),
        })
    });
    ports.collect()
}

fn port_name(text: &str) -> Result<&str, Invalid> {
    if is_port_name(text) {
        Ok(text)
    } else {
        Err(Invalid::malformed("name", text, "a port's name"))
    }
}

fn number(field: &'static str, value: u32) -> Result<u16, Invalid> {
    u16::try_from(value).map_err(|_| Invalid::malformed(field, &value.to_string(), "a port"))
}

const fn protocol_to_wire(protocol: Protocol) -> v1::Protocol {
    match protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
        Protocol::Sctp => v1::Protocol::Sctp,
    }
}

const fn protocol(wire: v1::Protocol) -> Option<Protocol> {
    match wire {
        v1::Protocol::Unspecified => None,
        v1::Protocol::Tcp => Some(Protocol::Tcp),
        v1::Protocol::Udp => Some(Protocol::Udp),
        v1::Protocol::Sctp => Some(Protocol::Sctp),
    }
}

fn required_protocol(wire: v1::Protocol) -> Result<Protocol, Invalid> {
    protocol(wire).ok_or(Invalid::Missing { field: "protocol" })
}

pub(crate) fn policy_to_wire(policy: &EnforcedPolicy) -> v1::PolicyRecord {
    let tier = match policy.tier {
        Tier::Admin => v1::Tier::Admin,
        Tier::NetworkPolicy => v1::Tier::NetworkPolicy,
        Tier::Baseline => v1::Tier::Baseline,
    };
    v1::PolicyRecord {
        namespace: policy.name.namespace().unwrap_or_default().to_owned(),
        name: policy.name.name().to_owned(),
        uid: policy.uid.to_string(),
        tier: tier.into(),
        priority: policy.priority.into(),
        applied_to: policy.applied_to.to_string(),
        isolates_ingress: policy.isolation.ingress,
        isolates_egress: policy.isolation.egress,
        rules: policy.rules.iter().map(rule_to_wire).collect(),
    }
}

pub(crate) fn policy_from_wire(wire: v1::PolicyRecord) -> Result<EnforcedPolicy, Invalid> {
    at_most("uid", wire.uid.len(), limits::UID)?;
    at_most("rules", wire.rules.len(), limits::RULES)?;
    let tier = match wire.tier() {
        v1::Tier::Unspecified => return Err(Invalid::Missing { field: "tier" }),
        v1::Tier::Admin => Tier::Admin,
        v1::Tier::NetworkPolicy => Tier::NetworkPolicy,
        v1::Tier::Baseline => Tier::Baseline,
    };
    let rules = wire.rules.iter().map(rule_from_wire);
    Ok(EnforcedPolicy {
        name: policy_name(&wire.namespace, &wire.name)?,
        uid: wire.uid.into(),
        tier,
        priority: number("priority", wire.priority)?,
        applied_to: group_key(&wire.applied_to)?,
        isolation: Isolation {
            ingress: wire.isolates_ingress,
            egress: wire.isolates_egress,
        },
        rules: rules.collect::<Result<_, _>>()?,
    })
}

fn rule_to_wire(rule: &Rule<GroupKey>) -> v1::PolicyRule {
    let direction = match rule.direction {
        Direction::Ingress => v1::Direction::Ingress,
        Direction::Egress => v1::Direction::Egress,
    };
    let action = match rule.action {
        Action::Accept => v1::Action::Accept,
        Action::Deny => v1::Action::Deny,
        Action::Pass => v1::Action::Pass,
    };
    let peers = &rule.peers;
    let network = |network: &Network| v1::Network {
        cidr: network.cidr().to_string(),
        except: network.except().iter().map(ToString::to_string).collect(),
    };
    let domain = |domain: &DomainName| {
        let below = if domain.is_wildcard() { "*." } else { "" };
        format!("{below}{}", domain.name())
    };
    v1::PolicyRule {
        direction: direction.into(),
        position: rule.position,
        name: rule.name.as_deref().unwrap_or_default().to_owned(),
        action: action.into(),
        any_peer: peers.any,
        groups: peers.groups.iter().map(ToString::to_string).collect(),
        networks: peers.networks.iter().map(network).collect(),
        domains: peers.domains.iter().map(domain).collect(),
        any_port: rule.ports.is_none(),
        ports: rule.ports.iter().flatten().map(port_to_wire).collect(),
    }
}

fn rule_from_wire(wire: &v1::PolicyRule) -> Result<Rule<GroupKey>, Invalid> {
    at_most("name", wire.name.len(), limits::TEXT)?;
    at_most("networks", wire.networks.len(), limits::NETWORKS)?;
    at_most("domains", wire.domains.len(), limits::NETWORKS)?;
    at_most("ports", wire.ports.len(), limits::PORTS)?;
    let direction = match wire.direction() {
        v1::Direction::Unspecified => return Err(Invalid::Missing { field: "direction" }),
        v1::Direction::Ingress => Direction::Ingress,
        v1::Direction::Egress => Direction::Egress,
    };
    let action = match wire.action() {
        v1::Action::Unspecified => return Err(Invalid::Missing { field: "action" }),
        v1::Action::Accept => Action::Accept,
        v1::Action::Deny => Action::Deny,
        v1::Action::Pass => Action::Pass,
    };
    let network = |network: &v1::Network| {
        at_most("except", network.except.len(), limits::NETWORKS)?;
        let wrong = |_| Invalid::malformed("cidr", &network.cidr, "a range with its exceptions");
        Network::parse(&network.cidr, &network.except).map_err(wrong)
    };
    let domain = |text: &String| {
        let wrong = |_| Invalid::malformed("domains", text, "a domain's name");
        DomainName::parse(text).map_err(wrong)
    };
    let ports = match (wire.any_port, &*wire.ports) {
        (true, []) => None,
        (true, _) => return Err(Invalid::malformed("any_port", "true", "false beside ports")),
        (false, ports) => Some(ports.iter().map(port_from_wire).collect::<Result<_, _>>()?),
    };
    Ok(Rule {
        direction,
        position: wire.position,
        name: (!wire.name.is_empty()).then(|| wire.name.as_str().into()),
        action,
        peers: Peers {
            any: wire.any_peer,
            groups: group_keys(&wire.groups)?.into(),
            networks: wire
                .networks
                .iter()
                .map(network)
                .collect::<Result<_, _>>()?,
            domains: wire.domains.iter().map(domain).collect::<Result<_, _>>()?,
        },
        ports,
    })
}

fn port_to_wire(port: &PortMatch) -> v1::PortMatch {
    let (protocol, first, last, name) = match port {
        PortMatch::Protocol(protocol) => (Some(*protocol), 0, 0, ""),
        PortMatch::Range(protocol, first, last) => (Some(*protocol), *first, *last, ""),
        PortMatch::Named(protocol, name) => (*protocol, 0, 0, &**name),
    };
    v1::PortMatch {
        protocol: protocol
            .map_or(v1::Protocol::Unspecified, protocol_to_wire)
            .into(),
        first: first.into(),
        last: last.into(),
        name: name.to_owned(),
    }
}

fn port_from_wire(wire: &v1::PortMatch) -> Result<PortMatch, Invalid> {
    if !wire.name.is_empty() {
        let name = port_name(&wire.name)?;
        return Ok(PortMatch::Named(protocol(wire.protocol()), name.into()));
    }
    let protocol = required_protocol(wire.protocol())?;
    let (first, last) = (number("first", wire.first)?, number("last", wire.last)?);
    match (first, last) {
        (0, 0) => Ok(PortMatch::Protocol(protocol)),
        (first, last) if first <= last && first != 0 => Ok(PortMatch::Range(protocol, first, last)),
        _ => {
            let text = format!("{first}-{last}");
            Err(Invalid::malformed("ports", &text, "a range of ports"))
        }
    }
}

pub(crate) fn members_to_wire(members: &Members) -> Vec<v1::GroupMember> {
    let members = members.iter();
    let members = members.map(|(member, ports)| member_to_wire(member, ports));
    members.collect()
}

pub(crate) fn member_to_wire((owner, address): &MemberKey, ports: &[NamedPort]) -> v1::GroupMember {
    v1::GroupMember {
        owner: owner.to_string(),
        address: address.to_string(),
        ports: ports_to_wire(ports),
    }
}

pub(crate) fn member_key(wire: &v1::GroupMember) -> Result<MemberKey, Invalid> {
    at_most("owner", wire.owner.len(), limits::NODE_NAME)?;
    let address = parse_address("address", &wire.address)?;
    Ok((wire.owner.as_str().into(), address))
}

pub(crate) fn members_from_wire(wire: Vec<v1::GroupMember>) -> Result<Members, Invalid> {
    at_most("members", wire.len(), limits::MEMBERS)?;
    let members = wire
        .into_iter()
        .map(|member| Ok((member_key(&member)?, ports_from_wire(member.ports)?)));
    members.collect()
}
