//! A rule as conjunctions: which dimensions it has, and what each pod, member or range adds to them.

use std::net::IpAddr;
use std::sync::Arc;

use carrick_policy::{
    Action, Direction, EnforcedPolicy, GroupKey, NamedPort, PolicyName, PortMatch, Rule, Tier,
};
use ipnet::IpNet;

use super::clause::{Clause, Ports, single};
use super::range::{port_masks, without};
use crate::state::{Addresses, Port};
use crate::table::Table;
use crate::tunnel::IpFamily;

/// Both families: a clause of ports is for each.
const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];
/// A pod's packets to itself, before any rule.
const ITSELF: u16 = 65_000;
/// NetworkPolicies add up: what a rule of one dimension accepts, before conjunctions.
const ALONE: u16 = 400;
/// Conjunctions of NetworkPolicies, of which a flow has room for some thousands.
const TOGETHER: u16 = 200;
/// How many conjunctions share a priority, and how many priorities there are.
const SHARD: u32 = 2048;
const SHARDS: u32 = 128;
/// What isolates a pod: whatever no NetworkPolicy accepts.
const ISOLATED: u16 = 100;

/// What becomes of a packet that all dimensions match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Effect {
    /// It goes on in this table.
    Goto(Table),
    /// It is dropped.
    Drop,
}

/// Something that a packet must match once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Dimension {
    /// The pod the policy is for.
    Subject,
    /// That pod is sender and receiver.
    Itself,
    /// The pod, and a port of its own.
    SubjectPorts(Box<[PortMatch]>),
    /// Who is at the other end.
    Peer,
    /// Who is at the other end, and a port that it calls so.
    PeerPorts(Box<[PortMatch]>),
    /// The port.
    Ports(Box<[PortMatch]>),
}

/// One conjunction of a rule, or one flow for each of its subjects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) policy: Arc<EnforcedPolicy>,
    /// Place in `policy.rules`; `None` where the policy has it without a rule.
    pub(super) rule: Option<usize>,
    pub(super) direction: Direction,
    pub(super) table: Table,
    pub(super) priority: u16,
    pub(super) effect: Effect,
    /// Its id in the ledger, which is the conjunction's; 0 for what needs no counter of its own.
    pub(super) object: u32,
    pub(super) dimensions: Vec<Dimension>,
}

/// A rule, or what isolates the pods of a policy, as the switch has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnforcedPart<'a> {
    /// Its direction.
    pub direction: Direction,
    /// The rule; none for what the policy has without one.
    pub rule: Option<&'a Rule<GroupKey>>,
    /// Where its flows are.
    pub table: Table,
    /// Their priority.
    pub priority: u16,
    /// Its id in the ledger; 0 for what needs none.
    pub id: u32,
}

/// A pod of this node that is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// Its port of the switch.
    pub port: Port,
    /// Its addresses.
    pub addresses: Addresses,
}

/// Key of a part in the ledger: a policy made again under its name is another.
pub(super) fn ledger_key(policy: &EnforcedPolicy, direction: Direction, what: &str) -> String {
    let (name, uid) = (&policy.name, &policy.uid);
    let namespace = name.namespace().unwrap_or_default();
    format!("{namespace}/{}/{uid}/{direction}/{what}", name.name())
}

/// The table of a tier.
pub(super) const fn table(direction: Direction, tier: Tier) -> Table {
    match (direction, tier) {
        (Direction::Egress, Tier::Admin) => Table::EgressPolicy,
        (Direction::Egress, Tier::NetworkPolicy) => Table::EgressNetworkPolicy,
        (Direction::Egress, Tier::Baseline) => Table::EgressDefault,
        (Direction::Ingress, Tier::Admin) => Table::IngressPolicy,
        (Direction::Ingress, Tier::NetworkPolicy) => Table::IngressNetworkPolicy,
        (Direction::Ingress, Tier::Baseline) => Table::IngressDefault,
    }
}

/// Where what is accepted goes on.
const fn accepted(direction: Direction) -> Table {
    match direction {
        Direction::Egress => Table::Routing,
        Direction::Ingress => Table::Commit,
    }
}

const fn effect(direction: Direction, tier: Tier, action: Action) -> Effect {
    match (action, tier) {
        (Action::Deny, _) => Effect::Drop,
        (Action::Pass, Tier::Admin) => Effect::Goto(table(direction, Tier::NetworkPolicy)),
        (Action::Pass, Tier::NetworkPolicy) => Effect::Goto(table(direction, Tier::Baseline)),
        (Action::Pass, Tier::Baseline) | (Action::Accept, _) => Effect::Goto(accepted(direction)),
    }
}

/// The dimensions of each conjunction that makes a rule: none where it matches nothing.
fn dimensions(rule: &Rule<GroupKey>) -> Vec<Vec<Dimension>> {
    let with_peer = |mut dimensions: Vec<Dimension>| {
        if !rule.peers.any {
            dimensions.push(Dimension::Peer);
        }
        dimensions
    };
    let Some(ports) = &rule.ports else {
        return vec![with_peer(vec![Dimension::Subject])];
    };
    let (named, numbers): (Vec<PortMatch>, Vec<PortMatch>) =
        ports.iter().cloned().partition(PortMatch::is_named);
    let mut all = Vec::new();
    // A pod says itself how it calls its ports; of the others each member of a group does.
    if rule.direction == Direction::Ingress && !named.is_empty() {
        let of_subject = Dimension::SubjectPorts(ports.clone());
        return vec![with_peer(vec![of_subject])];
    }
    if !numbers.is_empty() {
        let numbers = Dimension::Ports(numbers.into());
        all.push(with_peer(vec![Dimension::Subject, numbers]));
    }
    if !named.is_empty() {
        let of_peer = Dimension::PeerPorts(named.into());
        all.push(vec![Dimension::Subject, of_peer]);
    }
    all
}

/// What a part is before it has an id and its place.
pub(super) struct Outline {
    /// What tells it from the policy's others.
    pub(super) what: String,
    pub(super) rule: Option<usize>,
    pub(super) direction: Direction,
    effect: Effect,
    table: Table,
    priority: Option<u16>,
    dimensions: Vec<Dimension>,
}

impl Outline {
    /// The part, with its id and the priority of its rule where the tier has an order.
    pub(super) fn part(
        self,
        policy: &Arc<EnforcedPolicy>,
        object: u32,
        in_order: Option<u16>,
    ) -> Part {
        let alone = self.dimensions.len() == 1;
        let adding_up = || {
            if alone {
                ALONE
            } else {
                // At most `SHARDS`, which fits.
                let shard = u16::try_from(object / SHARD % SHARDS).unwrap_or_default();
                TOGETHER + shard
            }
        };
        Part {
            policy: Arc::clone(policy),
            rule: self.rule,
            direction: self.direction,
            table: self.table,
            priority: self.priority.or(in_order).unwrap_or_else(adding_up),
            effect: self.effect,
            object,
            dimensions: self.dimensions,
        }
    }

    /// Whether it needs an id.
    pub(super) const fn counts(&self) -> bool {
        !matches!(self.priority, Some(ITSELF))
    }
}

/// Every part of a policy.
pub(super) fn outlines(policy: &EnforcedPolicy) -> Vec<Outline> {
    let mut all = Vec::new();
    for direction in [Direction::Egress, Direction::Ingress] {
        all.push(Outline {
            what: "itself".to_owned(),
            rule: None,
            direction,
            effect: Effect::Goto(accepted(direction)),
            table: table(direction, Tier::Admin),
            priority: Some(ITSELF),
            dimensions: vec![Dimension::Itself],
        });
        if policy.isolation.of(direction) {
            all.push(Outline {
                what: "isolation".to_owned(),
                rule: None,
                direction,
                effect: Effect::Drop,
                table: table(direction, Tier::NetworkPolicy),
                priority: Some(ISOLATED),
                dimensions: vec![Dimension::Subject],
            });
        }
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        for (number, dimensions) in dimensions(rule).into_iter().enumerate() {
            all.push(Outline {
                what: format!("{}/{number}", rule.position),
                rule: Some(index),
                direction: rule.direction,
                effect: effect(rule.direction, policy.tier, rule.action),
                table: table(rule.direction, policy.tier),
                priority: None,
                dimensions,
            });
        }
    }
    all
}

impl Part {
    pub(super) fn rule(&self) -> Option<&Rule<GroupKey>> {
        self.policy.rules.get(self.rule?)
    }

    /// Groups of peers that it looks at.
    pub(super) fn groups(&self) -> &[GroupKey] {
        self.rule().map_or(&[], |rule| &rule.peers.groups)
    }

    fn peer(&self, net: IpNet) -> Clause {
        match self.direction {
            Direction::Egress => Clause::Receiver(net),
            Direction::Ingress => Clause::Sender(net),
        }
    }

    /// What a dimension matches whoever the pods are.
    pub(super) fn fixed(&self, dimension: &Dimension) -> Vec<Clause> {
        match dimension {
            Dimension::Ports(ports) => {
                let ports = ports.iter().flat_map(numbers);
                let each = ports.flat_map(|ports| FAMILIES.map(|of| Clause::Ports(of, ports)));
                each.collect()
            }
            Dimension::Peer => {
                let networks = self
                    .rule()
                    .into_iter()
                    .flat_map(|rule| &rule.peers.networks);
                let ranges = networks.flat_map(|range| without(range.cidr(), range.except()));
                ranges.map(|range| self.peer(range)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What a pod that the policy is for adds to a dimension.
    pub(super) fn of_pod(
        &self,
        dimension: &Dimension,
        pod: Connected,
        named: &[NamedPort],
    ) -> Vec<Clause> {
        match (dimension, self.direction) {
            (Dimension::Subject, Direction::Egress) => {
                let addresses = pod.addresses.iter();
                addresses.map(|own| Clause::Sender(single(own))).collect()
            }
            (Dimension::Subject, Direction::Ingress) => vec![Clause::Output(pod.port)],
            (Dimension::Itself, _) => pod.addresses.iter().map(Clause::Itself).collect(),
            (Dimension::SubjectPorts(ports), _) => {
                let all = ports.iter().flat_map(|port| called(port, named));
                let each = all
                    .flat_map(|ports| FAMILIES.map(|of| Clause::OutputPorts(pod.port, of, ports)));
                each.collect()
            }
            _ => Vec::new(),
        }
    }

    /// What a member of one of its groups adds to a dimension.
    pub(super) fn of_member(
        &self,
        dimension: &Dimension,
        address: IpAddr,
        named: &[NamedPort],
    ) -> Vec<Clause> {
        match dimension {
            Dimension::Peer => vec![self.peer(single(address))],
            Dimension::PeerPorts(ports) => {
                let all = ports.iter().flat_map(|port| called(port, named));
                all.map(|ports| Clause::ReceiverPorts(address, ports))
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// The policy.
    pub(super) fn name(&self) -> &PolicyName {
        &self.policy.name
    }
}

/// Numbers of ports, as the switch matches them; nothing for names.
fn numbers(port: &PortMatch) -> Vec<Ports> {
    let masks = |protocol, masks: Vec<(u16, u16)>| {
        let each = masks.into_iter().map(|(value, mask)| Ports {
            protocol,
            value,
            mask,
        });
        each.collect()
    };
    match port {
        PortMatch::Protocol(protocol) => masks(*protocol, vec![(0, 0)]),
        PortMatch::Range(protocol, first, last) => masks(*protocol, port_masks(*first, *last)),
        PortMatch::Named(..) => Vec::new(),
    }
}

/// The same, with names looked up among those a pod gives.
fn called(port: &PortMatch, named: &[NamedPort]) -> Vec<Ports> {
    let PortMatch::Named(..) = port else {
        return numbers(port);
    };
    let mut found: Vec<Ports> = named
        .iter()
        .filter(|own| port.matches(own.protocol, own.port, named))
        .map(|own| Ports {
            protocol: own.protocol,
            value: own.port,
            mask: u16::MAX,
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}
