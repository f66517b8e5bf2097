//! carrickctl: what a person or a program asks of a Carrick network. It needs a kubeconfig and
//! nothing else: whatever it reads comes from the API server, also an agent's own view (through a
//! pod port-forward), so that Kubernetes RBAC decides who may.
//!
//! ```text
//! args       parse      the command line as a value
//! connect    resolve    kubeconfig and flags -> a client
//! snapshot   read       everything `status` looks at, at one time
//! status, check, get, explain, inspect, uninstall, version      run, each with pure parts that judge and render
//! table, view, output   render: data on standard output, talk on standard error
//! exit       the exit codes
//! probe      the two ends of `check` inside pods: `carrick probe serve|connect`
//! reference  docs/cli.md from the command line
//! ```
//!
//! Invariants:
//!
//! - What comes from the cluster is data: it is cleaned of control characters before a person's
//!   terminal sees it, and every read has a limit.
//! - Judging and rendering are pure functions of what was read and the time.
//! - `check` removes what it made, whatever happens after it made it.
//!
//! No task outlives the command that needs it. This crate knows the API types and Kubernetes, no
//! other part of Carrick.

pub mod args;
pub mod check;
pub mod connect;
pub mod exit;
pub mod explain;
pub mod get;
pub mod groups;
pub mod inspect;
pub mod nodeapi;
pub mod output;
pub mod podname;
pub mod pods;
pub mod policies;
pub mod probe;
pub mod reference;
pub mod run;
pub mod services;
pub mod snapshot;
pub mod status;
pub mod table;
pub mod time;
pub mod uninstall;
pub mod version;
pub mod view;
