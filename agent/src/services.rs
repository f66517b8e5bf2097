//! Services of the cluster, as this node's agent knows and serves them.
//!
//! ```text
//! API server ──▶ watch ──object──▶ Change ──▶ driver: feed ──▶ Proxy ──Batch──▶ the switch
//!                                               ▲                       └────▶ host: nftables, routes
//!                          read API ──Query─────┘
//! ```
//!
//! Where a kube-proxy is replaced, `leftovers` removes what it leaves on the host once ours is in place.
//!
//! The driver belongs to the programmer, the one writer. Until both kinds of objects were listed whole once, what
//! the switch holds of Services stays as it is: an agent that starts while the API server is away changes
//! nothing.

pub(crate) mod driver;
pub mod explain;
pub mod feed;
pub mod health;
pub(crate) mod host;
mod kept;
pub mod leftovers;
pub mod metrics;
pub mod object;
pub mod tell;
pub mod view;
pub mod watch;
