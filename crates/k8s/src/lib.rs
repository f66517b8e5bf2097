//! What every component needs of Kubernetes and of running inside it: a client, server-side apply,
//! events, conditions, leader election by a Lease, certificates, logs, health and metrics.
//!
//! ```text
//! client      the API server by an explicit endpoint, credentials reloaded from their files
//! apply       server-side apply by one field manager; deletion that is idempotent
//! condition   metav1.Condition lists that keep their transition times
//! event       events for what a person should notice
//! election    pure: evaluate(state, now) -> step        elector   its driver on a Lease
//! pki         pure: CA, leaf and their rotation, one step at a time
//! http        /livez /readyz /metrics                    health    what they answer
//! telemetry   tracing to stderr                          shutdown  SIGTERM as a token
//! ```
//!
//! Invariants:
//!
//! - A leader is a leader until its deadline and not an instant longer, whether or not the API
//!   server answers; the epoch it serves by stands in the Lease before anyone is told of it.
//! - No function here logs or prints key material; types that hold it redact their `Debug`.
//! - Tasks: [`elector::Elector::run`] (ends with its token, after giving the Lease back) and the
//!   server of [`http::serve`] (ends with its token, after open requests). Whoever starts one
//!   awaits it.
//!
//! This crate knows no resource of Carrick's and no component.

pub mod apply;
pub mod client;
pub mod condition;
pub mod election;
pub mod elector;
pub mod event;
pub mod health;
pub mod http;
pub mod pki;
pub mod shutdown;
pub mod telemetry;
