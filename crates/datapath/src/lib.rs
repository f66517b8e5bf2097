//! The switch pipeline of one node as pure functions: what the node is goes in, everything its
//! switch and its host must hold comes out.
//!
//! ```text
//! NodeState ─┐                       ┌─ Desired { flows, groups, meters } ─ diff ─▶ switch
//! IdLedger ──┴─▶ render ─────────────┤
//!                                    └─ Commit (saved, replayed by `carrick switch`)
//! NodeState + HostInput ─▶ render_host ─▶ HostDesired { addresses, routes, sysctls, nft tables }
//! ```
//!
//! Invariants:
//! - Rendering is deterministic and sorted; a restart renders the same bytes. Nothing encodes a
//!   restart: ids come from the [`IdLedger`], which is an input.
//! - [`Table`] numbers, registers and cookies mean the same in every configuration and version.
//! - No pod, no flow: a port that is not in [`NodeState::pods`] is dropped in the first table, and
//!   nothing is delivered to it.
//! - A packet passes conntrack once per node (one recirculation); a test counts it.
//! - Services are apart ([`services`]): there may be thousands, and one change renders one of them.
//!
//! The crate knows no clock, no file, no socket and no runtime.

mod admit;
mod commit;
mod cookie;
mod flow;
mod host;
mod ledger;
mod mtu;
mod pipeline;
pub mod policy;
mod render;
pub mod services;
mod state;
mod switch;
mod table;
mod tunnel;

pub use admit::{Holder, Refused, admit_own, admit_peers, overlap};
pub use commit::{COMMIT_VERSION, Commit, CommitError, DatapathKind, MAX_COMMIT_BYTES};
pub use cookie::{CookieParts, Kind};
pub use flow::FlowLine;
pub use host::{
    HostDesired, HostInput, HostNeighbour, HostRoute, INET_TABLE, NETDEV_TABLE, NEXT_HOP_V4,
    NEXT_HOP_V6, NftFamily, NftTable, RouteLink, Snat, is_link_name, next_hop, render_host,
};
pub use ledger::{IdLedger, LedgerError, MAX_OBJECTS};
pub use mtu::{MAX_MTU, MIN_V4_MTU, MIN_V6_MTU, MtuError, pod_mtu};
pub use pipeline::{CT_MARK_ALLOWED, CT_ZONE};
pub use render::{Desired, LeftOut, RenderError, render};
pub use state::{
    Addresses, Gateway, MacAddr, MacAddrError, Mode, NodeState, Peer, Pod, Port, VIRTUAL_MAC, Way,
    gateway_address,
};
pub use switch::{
    LineError, RecoverError, from_lines, learned, of_policy, of_services, recover_ids,
};
pub use table::Table;
pub use tunnel::{IpFamily, Tunnel, TunnelProtocol};
