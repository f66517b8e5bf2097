//! Attachments of pods to this node's network, and the addresses they hold.
//!
//! ```text
//! attachment.rs  what an attachment is: container, pod, addresses, MAC, link, OpenFlow port
//! pool.rs        free numbers as intervals (pure): addresses of a CIDR, OpenFlow ports
//! former.rs      addresses that pods held once, by order of release, address and pod (pure)
//! state.rs       attachments, pools and quarantine as one value; every change is a record (pure)
//! store.rs       AttachmentStore: the state behind a journal, and a watch of its snapshots
//! ```
//!
//! Invariants (property-tested against a naive model, with a crash at every byte of the journal):
//! - An address belongs to at most one attachment. It is in the journal before anybody uses it.
//! - A released address is handed out again only to the same pod UID, or after the controller said
//!   that every node forgot just this release of it ([`AttachmentStore::release_quarantine`]), or after
//!   60 s connected to a controller; without a controller the longest-released goes first, only on
//!   exhaustion.
//! - A pod whose sandbox is made again gets its address back, in quarantine or after it, unless
//!   another pod got it meanwhile: who held a free address last is remembered, for a bounded number.
//! - OpenFlow ports and MACs of an attachment never change while this boot lasts.

mod attachment;
mod former;
mod pool;
mod state;
mod store;

pub use attachment::{
    Attachment, AttachmentKey, AttachmentState, Attachments, HeldAddresses, PodRef, PortMapping,
    Protocol, ReleasedAddresses,
};
pub use pool::gateway;
pub use state::{AllocateError, FIRST_POD_PORT, LAST_POD_PORT, QUARANTINE};
pub use store::{
    AttachmentStore, OpenReport, PoolUsage, Released, Request, StoreError, host_link_name, mac_of,
    read_boot_id,
};
