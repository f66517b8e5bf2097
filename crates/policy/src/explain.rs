//! Which rule decides of a connection, from what its node holds and from nothing else: what an
//! agent programs says the same.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::group::GroupKey;
use crate::index::Index;
use crate::policy::{Action, Direction, PolicyName, Rule, Tier};
use crate::port::{NamedPort, PortMatch, Protocol};
use crate::state::{EnforcedPolicy, NodeState, PodRecord};

/// A connection, by its first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Where it comes from, as the node that judges it sees it.
    pub source: IpAddr,
    /// Where it goes to, Services translated.
    pub destination: IpAddr,
    /// Its protocol and destination port.
    pub transport: Transport,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A protocol with ports, and the destination port.
    Port(Protocol, u16),
    /// Any other protocol, as ICMP: rules that name ports do not match it.
    Other,
}

/// What a judgement depends on beside policies.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Addresses of the pod's node.
    pub host: &'a [IpAddr],
    /// Names that addresses were learned for.
    pub names: &'a BTreeMap<IpAddr, Vec<String>>,
}

/// What becomes of a connection in one direction, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The direction.
    pub direction: Direction,
    /// Whether it is let through.
    pub accepted: bool,
    /// Why.
    pub reason: Reason,
    /// Rules that passed it on before that, in the order they were read.
    pub passed: Vec<RuleName>,
}

/// Why a connection is accepted or denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A rule says so.
    Rule(RuleName),
    /// These NetworkPolicies isolate the pod, and none of their rules accepts it.
    Isolated(Vec<PolicyName>),
    /// Nothing says otherwise.
    Default,
    /// A pod may always speak to itself.
    Itself,
    /// A node may always speak to its pods: the kubelet probes them.
    OwnNode,
}

/// Names a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName {
    /// Its policy.
    pub policy: PolicyName,
    /// Its direction.
    pub direction: Direction,
    /// Its place in the object.
    pub position: u32,
    /// Its name, if it has one.
    pub name: Option<Box<str>>,
}

impl NodeState {
    /// What becomes of a connection to or from one of the node's pods; `None` if it is not here.
    pub fn judge(
        &self,
        uid: &str,
        direction: Direction,
        connection: &Connection,
        around: Surroundings<'_>,
    ) -> Option<Judgement> {
        let pod = self.pods.get(uid)?;
        let mut passed = Vec::new();
        let (accepted, reason) = if connection.source == connection.destination {
            (true, Reason::Itself)
        } else if direction == Direction::Ingress && around.host.contains(&connection.source) {
            (true, Reason::OwnNode)
        } else {
            let judge = Judge {
                state: self,
                pod,
                direction,
                connection,
                names: around.names,
            };
            judge.decide(&mut passed)
        };
        Some(Judgement {
            direction,
            accepted,
            reason,
            passed,
        })
    }
}

impl Index {
    /// The same from what the index knows: the pod's node need not be asked.
    pub fn judge(
        &self,
        uid: &str,
        direction: Direction,
        connection: &Connection,
        names: &BTreeMap<IpAddr, Vec<String>>,
    ) -> Option<Judgement> {
        let (state, host) = self.pod_state(uid)?;
        let around = Surroundings { host, names };
        state.judge(uid, direction, connection, around)
    }
}

struct Judge<'a> {
    state: &'a NodeState,
    pod: &'a PodRecord,
    direction: Direction,
    connection: &'a Connection,
    names: &'a BTreeMap<IpAddr, Vec<String>>,
}

impl Judge<'_> {
    /// Tier after tier: Admin, NetworkPolicies, Baseline, and then everything is accepted.
    fn decide(&self, passed: &mut Vec<RuleName>) -> (bool, Reason) {
        let policies = self.state.policies.values();
        let mut policies: Vec<&EnforcedPolicy> = policies
            .map(|policy| &**policy)
            .filter(|policy| self.pod.groups.binary_search(&policy.applied_to).is_ok())
            .collect();
        policies.sort_unstable_by_key(|policy| policy.rank());
        for tier in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline] {
            let of_tier = policies.iter().filter(|policy| policy.tier == tier);
            let rules = of_tier
                .clone()
                .flat_map(|policy| policy.rules.iter().map(|rule| (&policy.name, rule)));
            let first = rules
                .filter(|(_, rule)| rule.direction == self.direction)
                .find(|(_, rule)| self.matches(rule));
            if let Some((policy, rule)) = first {
                let name = RuleName {
                    policy: policy.clone(),
                    direction: rule.direction,
                    position: rule.position,
                    name: rule.name.clone(),
                };
                match rule.action {
                    Action::Accept => return (true, Reason::Rule(name)),
                    Action::Deny => return (false, Reason::Rule(name)),
                    Action::Pass => passed.push(name),
                }
                continue;
            }
            let isolating: Vec<PolicyName> = of_tier
                .filter(|policy| policy.isolation.of(self.direction))
                .map(|policy| policy.name.clone())
                .collect();
            if !isolating.is_empty() {
                return (false, Reason::Isolated(isolating));
            }
        }
        (true, Reason::Default)
    }

    fn matches(&self, rule: &Rule<GroupKey>) -> bool {
        let Some(ports) = &rule.ports else {
            return self.is_peer(rule);
        };
        let Transport::Port(protocol, port) = self.connection.transport else {
            return false;
        };
        let any = |named: bool, names: &[NamedPort]| {
            let mut ports = ports.iter().filter(|port| port.is_named() == named);
            ports.any(|own: &PortMatch| own.matches(protocol, port, names))
        };
        match self.direction {
            Direction::Ingress => {
                (any(false, &[]) || any(true, &self.pod.ports)) && self.is_peer(rule)
            }
            // The destination says how it calls its ports: as a member of the rule's groups.
            Direction::Egress => {
                any(false, &[]) && self.is_peer(rule)
                    || self.memberships(rule).any(|names| any(true, names))
            }
        }
    }

    /// The address at the other end.
    const fn other(&self) -> IpAddr {
        match self.direction {
            Direction::Ingress => self.connection.source,
            Direction::Egress => self.connection.destination,
        }
    }

    fn is_peer(&self, rule: &Rule<GroupKey>) -> bool {
        let peers = &rule.peers;
        let other = self.other();
        let names = self
            .names
            .get(&other)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let is_named = || {
            let mut domains = peers.domains.iter();
            domains.any(|domain| names.iter().any(|name| domain.matches(name)))
        };
        peers.any
            || peers.networks.iter().any(|network| network.contains(other))
            || self.memberships(rule).next().is_some()
            || is_named()
    }

    /// What the rule's groups say of the address at the other end, where they have it.
    fn memberships<'a>(
        &'a self,
        rule: &'a Rule<GroupKey>,
    ) -> impl Iterator<Item = &'a [NamedPort]> + 'a {
        let other = self.other();
        let groups = rule.peers.groups.iter();
        groups
            .filter_map(|group| self.state.groups.get(group))
            .flatten()
            .filter(move |((_, address), _)| *address == other)
            .map(|(_, ports)| &**ports)
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.direction, self.position)?;
        if let Some(name) = &self.name {
            write!(f, " ({name})")?;
        }
        write!(f, " of {}", self.policy)
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.accepted { "accepted" } else { "denied" };
        write!(f, "{} is {verdict}", self.direction)?;
        match &self.reason {
            Reason::Rule(rule) => write!(f, " by {rule}")?,
            Reason::Isolated(policies) => {
                f.write_str(": no rule accepts it, and the pod is isolated by ")?;
                for (n, policy) in policies.iter().enumerate() {
                    write!(f, "{}{policy}", if n == 0 { "" } else { ", " })?;
                }
            }
            Reason::Default => f.write_str(": nothing isolates the pod and no rule denies it")?,
            Reason::Itself => f.write_str(": it is the pod's own")?,
            Reason::OwnNode => f.write_str(": it comes from the pod's node")?,
        }
        for rule in &self.passed {
            write!(f, "; passed by {rule}")?;
        }
        Ok(())
    }
}
