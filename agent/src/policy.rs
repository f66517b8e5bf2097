//! Network policy of this node: what the controller tells of it and which ports its pods have go in, changes of
//! the switch come out.
//!
//! ```text
//! records ──NodeUpdate──▶ Enforcer (carrick_datapath) ──changes──▶ the bundle that opens and closes ports
//! open ports ────────────▶    │
//!                             └──▶ lines of the saved commit, a condition, /v1/policies, /v1/policies/explain
//! ```
//!
//! Invariant: no policy, no packets. Policy's changes are in the bundle that opens and closes pods' ports, so the
//! switch never has a pod's port without the pod's policy. A pod whose policy cannot be in the switch has no
//! open port. Where it is not known whether all policies were told (records were lost), policy's flows stay as
//! they are, and only ports are open that were open before.

pub mod counters;
pub(crate) mod driver;
pub mod explain;
mod groups;
pub mod view;

#[cfg(test)]
mod tests;
