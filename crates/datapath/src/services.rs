//! Services: which endpoint answers for which address, as flows and groups of the switch and as
//! rules of the host.
//!
//! ```text
//! Service, EndpointSlice ──▶ Index ──select──▶ ResolvedPort ─┐
//!                              │                             ├─render─▶ flows, groups ──▶ Batch (a bundle)
//!                            Claims (who has which address) ─┘          elements of nftables sets
//! ```
//!
//! [`Proxy`] is what an agent holds: single changes go in, and [`Proxy::next_batch`] says what has to
//! change in the switch and on the host for the Services concerned, and for no other. Nothing of the
//! whole is computed again for one change.
//!
//! Invariants:
//! - What is rendered for a Service depends on that Service, its slices, the node, the ledger and the
//!   claims on its addresses, on nothing else; so a restart renders the same bytes.
//! - An address, protocol and port leads to one Service at most ([`Claim`]); the others are told of
//!   it by a [`Finding`].
//! - A group fits into one message and, without affinity, its hash into 256 values. Buckets are never
//!   inserted or removed one by one: see [`MAX_MEMBERS`].
//! - Every number in the switch (cookie of a Service, number of a group) is the ledger's.
//!
//! Why it is as it is: docs/adr/0005-services-in-the-switch.md.

mod bundle;
mod claim;
mod explain;
mod finding;
mod group;
mod health;
mod host;
mod index;
mod input;
mod proxy;
mod recover;
mod render;
mod select;
mod stale;
mod table_text;
mod tables;

pub use claim::{Claim, FrontendKind, Place};
pub use explain::{
    Client, Destination, Examined, ExplainError, Explanation, OtherProxy, Outcome, Path, PolicyBy,
    SourceSeen,
};
pub use finding::Finding;
pub use group::MAX_MEMBERS;
pub use health::HealthCheck;
pub use host::{HostChange, HostServices, virtual_routes};
pub use index::{Index, Resolved, ResolvedPort};
pub use input::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, Ingress, IngressMode, NodeView, Options,
    Protocol, ProxyMode, Service, ServiceName, ServicePort, ServiceType, TrafficPolicy,
};
pub use proxy::{Batch, BatchError, Frontend, Proxy};
pub use recover::{Adopted, RecoverServicesError};
pub use select::{Backend, Candidate, LeftOut, Selection, judged, select};
pub use stale::StaleConnections;
pub use table_text::{SERVICES_TABLE, host_table};
pub use tables::{CT_MARK_SERVICE, CT_ZONE_SNAT, VIRTUAL_V4, VIRTUAL_V6, Virtual, virtual_address};
pub(crate) use tables::{hairpin_flows, service_tables};
