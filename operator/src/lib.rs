//! The operator: turns the `Networking` object into a controller, a switch and agents, and keeps
//! them that way.
//!
//! ```text
//! core     facts ─► provider ─► effective ─► validate, safety ─► render ─► drift, plan
//!          pods, workloads ─► diagnose, progress ─► report (conditions)      removal (next step)
//!          pods, revisions, last good render ─► rollout (next step)
//!          what another version wrote ─► skew                        kubeproxy (what is done about one)
//! drivers  cluster (reads facts, applies, prunes)    ca (certificates)    crds (only forward)
//! wiring   run ─► reconcile, rolling, takeover, remove (one loop, one object)
//! ```
//!
//! Invariants:
//! - nothing is applied that was refused: a refusal leaves the running network as it is;
//! - one writer: everything is applied by one field manager; fields of others inside specs go;
//! - the core knows no clock, no environment and no client: data in, plan out.

pub mod certificates;
pub mod cluster;
pub mod crds;
pub mod diagnose;
pub mod drift;
pub mod effective;
pub mod facts;
pub mod gather;
pub mod image;
pub mod kubeproxy;
pub mod metrics;
pub mod nodeipam;
pub mod object;
pub mod plan;
pub mod probe;
pub mod progress;
pub mod provider;
pub mod reconcile;
mod record;
pub mod removal;
mod remove;
pub mod remove_network;
pub mod render;
pub mod report;
mod rolling;
pub mod rollout;
mod run;
pub mod safety;
mod sight;
pub mod skew;
mod takeover;
mod tell;
pub mod validate;
pub mod verdict;
pub mod watch;

pub use run::{Args, Command, operate, run};

#[cfg(test)]
mod progress_tests;
#[cfg(test)]
mod render_tests;
#[cfg(test)]
mod samples;
