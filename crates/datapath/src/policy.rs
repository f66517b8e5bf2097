//! Network policy in the switch.
//!
//! ```text
//! NodeUpdate (crates/policy) ──▶ Enforcer ──changes──▶ one bundle of flow modifications
//! pods and their ports ────────▶    │
//!                                   └ Part: a rule as a conjunction ── Clause: one flow's match
//! ```
//!
//! A rule is a conjunction (ovs-fields(7), "Conjunctive Match Fields") of up to three dimensions: the pod it is for, who is at the other
//! end, the port. Its flows grow with the sum of what it names, and rules that name the same in one table and priority share the flow. A
//! tier has a table for each direction, so that a rule that passes leads to the next table.
//!
//! Which pod a policy is for is matched by the sender's address, which the spoof guard has proven, and by the port a packet leaves by. Only
//! first packets of connections come here.
//!
//! Invariants:
//!
//! - After any changes the flows are those an [`Enforcer`] has that was told everything at once, but for ids.
//! - What the flows decide is what [`carrick_policy::NodeState::judge`] says.

mod clause;
mod enforcer;
mod order;
mod part;
mod place;
mod range;

pub use enforcer::Enforcer;
pub use part::{Connected, EnforcedPart};
