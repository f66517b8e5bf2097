//! Network policy as a pure function: pods, namespaces, nodes and policies go in one change at a
//! time; what each node must be told comes out as differences.
//!
//! ```text
//! NetworkPolicy, ClusterNetworkPolicy ──parse──▶ Policy ─┐
//!                                                        ├─▶ Index ──take_changes──▶ Changes ──▶ NodeUpdate
//! Namespace, Node, Pod ──────────────────────────────────┘     │                                     │
//!                                                          node_state ─────▶ NodeState ◀────apply────┘
//!                                                                                │
//!                                                              judge ◀───────────┘
//! ```
//!
//! How the parts relate, from the bottom up:
//!
//! - [`Selector`], [`Network`], [`PortMatch`], [`DomainName`]: what policies name, validated.
//! - [`Policy`]: either API's object with defaults resolved ([`parse_network_policy`],
//!   [`parse_cluster_network_policy`]); what cannot be read closes and is a [`Problem`].
//! - [`Index`]: pods with the same labels in a namespace are one class; each distinct selector is
//!   evaluated once, against classes that an index of labels finds. A selector used for the same
//!   purpose by any number of policies is one group ([`GroupKey`]).
//! - Span: a policy is needed where a pod is that it is for, a group where a policy names it.
//! - [`Changes`]: what nodes were told compared with what they need. [`NodeState`] is what a node
//!   holds; [`NodeState::judge`] decides from it alone, and says which rule did.
//!
//! Invariants:
//!
//! - After any events the index holds what it would if it were made from the objects that are left.
//! - A node that applies the updates it is told holds [`Index::node_state`], and is told of nothing
//!   else.
//! - Keys of groups and the order of rules follow from content: they are the same in every process.
//! - Nothing panics, whatever objects hold.
//!
//! Why it is as it is: docs/adr/0008-policy-index.md. The crate knows no clock, no file, no socket,
//! no runtime and no Kubernetes client.

mod changes;
pub mod cluster_network_policy;
mod domain;
mod explain;
mod group;
mod id;
mod index;
mod label;
mod network;
mod objects;
mod parse;
mod policy;
mod port;
mod problem;
mod selector;
mod state;

pub use changes::{Changes, GroupChange, PodChange, PolicyChange};
pub use domain::{DomainName, NoDomainName};
pub use explain::{Connection, Judgement, Reason, RuleName, Surroundings, Transport};
pub use group::{GroupKey, GroupKind, NoGroupKey};
pub use id::NodeId;
pub use index::{Index, Sizes};
pub use network::{Network, NetworkError};
pub use objects::{Event, Labels, Namespace, Node, Pod};
pub use parse::{
    Parsed, Refused, parse_cluster_network_policy, parse_cluster_network_policy_json,
    parse_network_policy, parse_network_policy_json,
};
pub use policy::{
    Action, Direction, GroupSelector, Isolation, Peers, PodSelector, Policy, PolicyName, Rank,
    Rule, Scope, Tier,
};
pub use port::{NamedPort, PortMatch, Protocol, is_port_name};
pub use problem::{MAX_PROBLEMS, Problem, Problems};
pub use selector::{Operator, Requirement, Selector};
pub use state::{
    EnforcedPolicy, GroupUpdate, MemberKey, Members, NodeState, NodeUpdate, PodRecord,
};
