//! The node's kernel: links, addresses, routes, neighbours, nftables, namespaces and sysctls.
//!
//! The only crate that speaks netlink. Everything here is a driver: data in, kernel changed, typed
//! errors out; what is desired is decided elsewhere. Sets are made equal by difference
//! (`sync_addresses`, `sync_routes`, `sync_neighbours`, [`Nft::sync`]), so that doing it again
//! changes nothing, and what fails does not stop the rest ([`Outcome`]).
//!
//! ```text
//! Namespace::open("/run/netns/x")       work in it on threads of its own, never on the runtime's
//! Netlink::open() / open_in(&namespace) one socket, cheap to clone
//!   links, link, wait_link, create_veth, delete_link, set_state/mtu/mac/addr_gen_mode
//!   addresses, add_address, delete_address, sync_addresses(link, {IpNet}, LinkLocal)
//!   routes, sync_routes(RouteOrigin::CARRICK, {Route}), add/replace/delete_route
//!   neighbours, sync_neighbours(link, {Neighbour})      permanent entries only
//!   facts("eth1") -> LinkFacts (serde), move_facts(&facts, from, to): and back again
//! Sysctls::at("/host/proc/sys/net")     get, set, apply + restore of previous values, set_in
//! Nft::new(memory_file)                 sync("inet", "carrick", Some(text)), list
//!   framed, load_framed                 a table whose sets change by elements
//! flush_connections(None, addresses)    the host's own (zone 0) connection entries
//! flush_udp(None, {(address, port)})    the same, by where UDP went
//! disable_tx_checksum(&namespace, link) pods of the userspace datapath
//! ping({addresses}, id, limit)          which of them answer; ping_sizes: packets of which size reach them
//! Monitor::open()                       tells when links or addresses change
//! ```
//!
//! Tasks: one per [`Netlink`] socket; it ends when the last clone is dropped. Threads: one per
//! [`Namespace::run`]; it ends with its work.

mod address;
mod conntrack;
mod ethtool;
mod facts;
mod link;
mod mac;
mod monitor;
mod namespace;
mod neighbour;
mod netlink;
mod nft;
mod ping;
mod raw;
mod route;
mod sysctl;

pub use address::{Address, LinkLocal};
pub use conntrack::{ConntrackError, UdpPlace, flush_connections, flush_udp};
pub use ethtool::{EthtoolError, disable_tx_checksum};
pub use facts::LinkFacts;
pub use link::{AddrGenMode, AdminState, Link, LinkIndex, VethSpec};
pub use mac::{InvalidMac, MacAddr};
pub use monitor::{Change, Monitor};
pub use namespace::{Namespace, NamespaceError};
pub use neighbour::Neighbour;
pub use netlink::{Netlink, NetlinkError, Outcome};
pub use nft::{Applied, Framed, Look, Nft, NftError, is_nft_name};
pub use ping::{Echo, ping, ping_sizes};
pub use route::{Route, RouteOrigin};
pub use sysctl::{SysctlError, Sysctls};
