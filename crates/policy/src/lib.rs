//! Network policy as a pure function.
pub mod cluster_network_policy;
mod domain;
mod network;
mod objects;
mod parse;
mod policy;
mod port;
mod problem;
mod selector;

pub use domain::DomainName;
pub use network::Network;
pub use objects::{Event, Labels, Namespace, Node, Pod};
pub use parse::{
    Parsed, Refused, parse_cluster_network_policy, parse_cluster_network_policy_json,
    parse_network_policy,
};
pub use policy::{
    Action, Direction, GroupSelector, Isolation, Peers, Policy, PolicyName, Rank, Rule, Scope, Tier,
};
pub use port::{NamedPort, PortMatch, Protocol};
pub use problem::{MAX_PROBLEMS, Problem, Problems};
pub use selector::{Operator, Requirement, Selector};
