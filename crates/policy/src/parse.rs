//! From API objects to [`Policy`]. Nothing here panics, whatever an object holds.
//!
//! A policy whose subjects cannot be known is refused as a whole: it is for nobody. What cannot be
//! read within it closes: of a NetworkPolicy, which only ever accepts, the peer or port is left
//! out, and its pods stay isolated; of a ClusterNetworkPolicy, as its API wants it ("fail closed"),
//! a rule that accepts matches nothing, and one that denies or passes denies everything of its
//! direction. Each such part is a [`Problem`].

mod cluster;
mod namespaced;
mod part;

pub use cluster::{parse_cluster_network_policy, parse_cluster_network_policy_json};
pub use namespaced::{parse_network_policy, parse_network_policy_json};

use crate::policy::Policy;
use crate::problem::{Problem, Problems};

/// A policy that is enforced, and what of it is not as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The policy.
    pub policy: Policy,
    /// Parts of it that close, for a condition.
    pub problems: Problems,
}

/// A policy that is not enforced at all, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy is not enforced: {0}")]
pub struct Refused(pub Problem);

#[cfg(test)]
mod tests;
