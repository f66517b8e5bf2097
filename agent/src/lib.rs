//! The agent: CNI, OpenFlow pipeline, routes and state of one node.
//!
//! ```text
//! core      plan desired records ledgerfile before status firewall podmtu  data in, data out
//! drivers   host (netlink, nftables, sysctls)  switchdb (OVSDB)  flows (OpenFlow)  journal sole
//! services  object feed kept view tell: core; watch (the API server), driver, host, health: Services
//! policy    driver view                                               policies, fed by the records
//! wiring    run programmer pass stream session controllers readiness info api cleanup
//! cni ipam portmap                                                 the CNI server and addresses
//! ```
//!
//! # Tasks
//!
//! | task | inputs | outputs | ends |
//! |---|---|---|---|
//! | `programmer` | committed records, attachments, requests, the switch's connections | switch, host stack, saved commit, `realized`, `settings` | last, with its token |
//! | `stream` | controller addresses, address changes, `realized`, the report | committed records, quarantine | with the token |
//! | `controllers` | EndpointSlices | controller addresses, on disk as well | with the token |
//! | `readiness` | the report | CNI files, condition `Ready` | with the token |
//! | `fabric` | the plan, the other nodes' answers to pings | conditions `FabricCarriesMTU`, in NoEncap `FabricRoutesPods` | with the token |
//! | `links` | the kernel's word on links and addresses | a new pass of the programmer | with the token |
//! | `peers` | the other nodes' routes, their answers to pings | condition `PeersReachable` | with the token |
//! | `health` | health checks that Services want | HTTP answers on their ports | with the token |
//! | `services` | Services and EndpointSlices | changes for the programmer | with the token |
//! | `info` | the report | `AgentInfo` | with the token |
//! | `cni`, `collect` | the plugin's socket; sandboxes that are gone | attachments, requests to the programmer | with the token, after open commands |
//! | `http`, `socket` | read-only requests | JSON, health, metrics | last |
//!
//! [`run`] owns and awaits all of them; one that ends by itself ends the agent.
//!
//! # Invariants
//!
//! - One agent per node: `sole` is taken before anything is opened.
//! - One writer: only the programmer writes to the switch and the host's stack, and only after
//!   `carrick switch` said that this start is restored, and on a host without a switch of its own.
//! - What is programmed was durable first: journal and ledger, then the switch, then the saved
//!   commit, then the acknowledgement.
//! - Ending leaves everything forwarding; only `agent cleanup` takes anything away.

pub mod api;
pub mod before;
pub mod cleanup;
pub mod cni;
pub mod config;
pub mod controllers;
pub mod desired;
pub mod fabric;
pub mod firewall;
pub mod flows;
pub mod host;
pub mod info;
pub mod ipam;
pub mod journal;
mod laps;
pub mod ledgerfile;
pub mod links;
pub mod metrics;
pub mod node;
pub mod otherswitch;
pub mod pass;
pub mod paths;
pub mod peers;
pub mod plan;
pub mod podmtu;
pub mod podnetwork;
pub mod policy;
pub mod portmap;
pub mod programmer;
pub mod readiness;
pub mod records;
mod run;
pub mod services;
pub mod session;
pub mod sole;
pub mod status;
pub mod stream;
pub mod switchdb;

use std::path::PathBuf;

use clap::Subcommand;

pub use run::run;

/// Arguments of `carrick agent`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Name of this node.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// Name of this pod; empty outside one.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,
    /// The effective configuration.
    #[arg(long, default_value = carrick_api::names::path::CONFIG_FILE)]
    pub config: PathBuf,
    /// Keep all files below this directory instead of the usual places (tests).
    #[arg(long, hide = true)]
    pub root: Option<PathBuf>,
    /// How log lines look: text or json.
    #[arg(long, default_value = "text")]
    pub log_format: carrick_k8s::telemetry::Format,
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Subcommands of `carrick agent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Remove everything of Carrick's from this node, report it and wait to be ended.
    Cleanup,
}
