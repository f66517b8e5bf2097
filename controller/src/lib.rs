//! The controller: computes what each node needs and streams it to its agent.
//!
//! `docs/adr/0002-distribution-protocol.md` argues for the protocol and walks through its failures.
//!
//! ```text
//! core      objects ─► index ─► log        facts, the records they mean, numbers and differences
//!                      quarantine          released addresses and who has to forget them
//!           nodeipam                       which node gets which CIDR (ipam.mode NodeIPAM)
//!           hub                            all of it behind one lock, and the connected agents
//! drivers   watch      Nodes, Pods, AgentInfos, Namespaces, policies ─► facts
//!                                                               (6 tasks, end with the token)
//!           cluster    TokenReviews, looks at what is doubtful;  auth remembers verdicts
//!           service, session               one task per stream, ends with it
//!           tls        accepts connections (1 task) and reloads the certificate (1 task)
//!           barrier    reads what there is of policy for new pods (1 task)
//!           taint, available, info         write to the API     (1 task each)
//!           nodeipam                       claims and gives CIDRs while this replica leads (1 task)
//! wiring    reign      the election, as streams see it          (1 task)
//!           run        starts and ends all of the above
//! ```
//!
//! Invariants:
//!
//! - Only the leader serves, and it stops at its lease's deadline. Numbers an agent sees never
//!   fall: a leader whose epoch is not above an agent's number first writes a higher one.
//! - A record is removed from an agent on evidence only: the watch saw the object go, or a read of
//!   the API server just now did not find it.
//! - A new pod gets its record when every policy that was there before it was seen (ADR 0010).
//! - Nothing is queued per agent: what it lacks is computed when it can be sent.
//! - A stream serves the node its token is bound to and no other.
//! - Nothing is kept that a restart would lose: everything is computed from the API server and from
//!   what agents say when they connect.
//!
//! RBAC it needs: nodes get/list/watch (and patch, for the startup taint or in ipam.mode NodeIPAM),
//! nodes/status patch (but in traffic.mode NoEncap),
//! pods, namespaces, networkpolicies and clusternetworkpolicies get/list/watch, agentinfos get/list/watch, controllerinfos get/list/create/patch/delete and
//! controllerinfos/status patch, tokenreviews create, events create/patch; in its own namespace
//! leases get/create/update (carrick-node-ipam in ipam.mode NodeIPAM only).

mod api;
mod args;
mod auth;
mod available;
mod barrier;
mod cluster;
mod hub;
mod index;
mod info;
mod log;
mod metrics;
mod nodeipam;
mod objects;
mod quarantine;
mod reign;
mod run;
mod service;
mod session;
mod taint;
mod tls;
mod watch;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod stream_tests;

pub use args::{Advertise, Args};
pub use run::{run, run_until};
