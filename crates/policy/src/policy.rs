//! A policy as it is enforced: defaults resolved, rules in the order they are read, selectors in
//! normal form. Both APIs become this.

use std::fmt;
use std::sync::Arc;

use crate::domain::DomainName;
use crate::network::Network;
use crate::port::PortMatch;
use crate::selector::Selector;

/// Which policy: a NetworkPolicy has a namespace, a ClusterNetworkPolicy has none. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    namespace: Option<Arc<str>>,
    name: Arc<str>,
}

impl PolicyName {
    /// A NetworkPolicy.
    pub fn namespaced(namespace: &str, name: &str) -> Self {
        Self {
            namespace: Some(namespace.into()),
            name: name.into(),
        }
    }

    /// A ClusterNetworkPolicy.
    pub fn cluster(name: &str) -> Self {
        Self {
            namespace: None,
            name: name.into(),
        }
    }

    /// The namespace of a NetworkPolicy.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "NetworkPolicy {namespace}/{}", self.name),
            None => write!(f, "ClusterNetworkPolicy {}", self.name),
        }
    }
}

/// Tiers in the order they are read (ClusterNetworkPolicySpec.Tier).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Cluster-wide rules that nothing overrides.
    Admin,
    /// NetworkPolicies: they add up, and a pod they select in a direction is isolated in it.
    NetworkPolicy,
    /// Cluster-wide rules for pods that no NetworkPolicy isolates.
    Baseline,
}

/// Which packets of a pod a rule is for, as the pod sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Connections to the pod.
    Ingress,
    /// Connections from the pod.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// What a rule does with a connection it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The connection is allowed, and no other rule of the direction is read.
    Accept,
    /// It is dropped, and no other rule is read.
    Deny,
    /// The rest of the tier is skipped.
    Pass,
}

/// Directions in which a NetworkPolicy isolates the pods it selects (`policyTypes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Isolation {
    /// What is not accepted is denied to enter.
    pub ingress: bool,
    /// What is not accepted is denied to leave.
    pub egress: bool,
}

impl Isolation {
    /// Whether it isolates in this direction.
    pub const fn of(self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// Which namespaces a group of pods is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The one of this name.
    Namespace(Arc<str>),
    /// Those whose labels are selected.
    Selected(Selector),
}

/// Pods by their namespaces and labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodSelector {
    /// Of which namespaces.
    pub scope: Scope,
    /// With which labels.
    pub pods: Selector,
}

/// What a group of peers consists of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupSelector {
    /// Pods with these labels in these namespaces.
    Pods(PodSelector),
    /// Nodes with these labels.
    Nodes(Selector),
}

impl fmt::Display for PodSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pods = &self.pods;
        match &self.scope {
            Scope::Namespace(namespace) => write!(f, "pods {pods} of namespace {namespace}"),
            Scope::Selected(namespaces) => write!(f, "pods {pods} of namespaces {namespaces}"),
        }
    }
}

impl fmt::Display for GroupSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods(pods) => write!(f, "{pods}"),
            Self::Nodes(nodes) => write!(f, "nodes {nodes}"),
        }
    }
}

/// A policy; `A` and `G` are how it names groups: what they consist of, or [`crate::GroupKey`] once
/// they are interned ([`crate::EnforcedPolicy`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy<A = PodSelector, G = GroupSelector> {
    /// Which one.
    pub name: PolicyName,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Its tier.
    pub tier: Tier,
    /// Its place in the tier: lower is read first. Always 0 for a NetworkPolicy.
    pub priority: u16,
    /// The pods it is for.
    pub applied_to: A,
    /// Directions in which those are isolated; of a NetworkPolicy only.
    pub isolation: Isolation,
    /// Its rules, those of a direction in the order they are read.
    pub rules: Box<[Rule<G>]>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule<G = GroupSelector> {
    /// Its direction.
    pub direction: Direction,
    /// Its place among the rules of that direction in the object.
    pub position: u32,
    /// Its name, where the API has one and it was given.
    pub name: Option<Box<str>>,
    /// What it does.
    pub action: Action,
    /// Who is at the other end.
    pub peers: Peers<G>,
    /// Which packets; `None` is every packet, of whatever protocol.
    pub ports: Option<Box<[PortMatch]>>,
}

/// Who is at the other end: anyone of any of these. Sorted, without duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers<G = GroupSelector> {
    /// Everyone.
    pub any: bool,
    /// Members of groups. Ports by name are looked up here only in rules of egress; with `any`
    /// the group of all pods is there for that.
    pub groups: Box<[G]>,
    /// Ranges of addresses.
    pub networks: Box<[Network]>,
    /// Addresses that these names were resolved to.
    pub domains: Box<[DomainName]>,
}

impl<G> Default for Peers<G> {
    fn default() -> Self {
        Self {
            any: false,
            groups: Box::default(),
            networks: Box::default(),
            domains: Box::default(),
        }
    }
}

impl<G> Peers<G> {
    /// Everyone.
    pub fn any() -> Self {
        Self {
            any: true,
            ..Self::default()
        }
    }
}

/// Where a policy is read among others: by tier, then priority, then name. Policies of one tier and
/// priority may be read in any order (ClusterNetworkPolicySpec.Priority); by name it is always the
/// same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank<'a> {
    /// The tier.
    pub tier: Tier,
    /// The priority within it.
    pub priority: u16,
    /// The policy.
    pub name: &'a PolicyName,
}

impl<A, G> Policy<A, G> {
    /// Where it is read.
    pub const fn rank(&self) -> Rank<'_> {
        Rank {
            tier: self.tier,
            priority: self.priority,
            name: &self.name,
        }
    }
}

impl<G> Rule<G> {
    /// Whether it needs to know how its peers call their ports: those of a rule of ingress are
    /// looked up in the pod it is for.
    pub fn names_ports_of_peers(&self) -> bool {
        let mut ports = self.ports.iter().flatten();
        self.direction == Direction::Egress && ports.any(PortMatch::is_named)
    }
}
