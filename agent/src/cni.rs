//! The CNI server: what `carrick-cni` asks over the unix socket, answered here.
//!
//! ```text
//! network.rs     PodNetwork: what the CNI needs from the rest of the agent (a seam: real and fake)
//! request.rs     the framed request, its environment and network configuration, validated (pure)
//! result.rs      the result of ADD in each version of the specification (pure)
//! error.rs       errors and their codes (pure)
//! alias.rs       what a pod's link on the host says of itself, to be found again by (pure)
//! recover.rs     attachments the journal lost, found in the kernel
//! sandbox.rs     the kernel's side of one attachment: veth, addresses, routes
//! server.rs      ADD, DEL, CHECK, GC, STATUS, in order per container
//! socket.rs      the unix socket
//! collect.rs     sandboxes that are gone, links nobody owns, deferred DELs
//! install.rs     binary and configuration list on the host
//! ```
//!
//! Wiring, in the agent's main:
//!
//! ```text
//! let (store, report) = AttachmentStore::open(STATE_DIR/attachments.journal, &read_boot_id()?, now)?;
//! let sysctls = Sysctls::at(HOST_PROC_SYS_NET);
//! let sandboxes = Sandboxes::new(Netlink::open()?, sysctls.clone());
//! let server = Arc::new(CniServer::new(network, store, sandboxes, sysctls, origin));
//! socket::serve(server.clone(), socket::listen(CNI_SOCKET)?, shutdown)          one task
//! collect::collect_forever(server, RUN_DIR/cni-deferred, shutdown)              one task
//! install::install(..) when the node can carry pods; install::uninstall(..) in `agent cleanup`
//! ```

mod alias;
pub mod collect;
mod error;
pub mod install;
pub mod network;
mod recover;
mod request;
mod result;
mod sandbox;
mod server;
pub mod socket;

pub use error::{CniError, Code};
pub use recover::Recovered;
pub use request::{Answer, CniVersion, Frame, Request};
pub use sandbox::{SandboxError, Sandboxes};
pub use server::{CniServer, RECORD_LIMIT};
