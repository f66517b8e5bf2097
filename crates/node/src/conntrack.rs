//! Connections the host's own stack tracks (zone 0): what it translated for a pod.
//!
//! Open vSwitch's kernel datapath keeps its entries in the same table, in zones of its own: those
//! are not touched here, they are flushed through OpenFlow.

use std::io;
use std::net::IpAddr;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use crate::namespace::{Namespace, NamespaceError};
use crate::raw::{NESTED, Want, attribute, attributes, exchange, find};

// include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
const NETFILTER_HEADER: usize = 4;
const CT_GET: u16 = (1 << 8) | 1;
const CT_DELETE: u16 = (1 << 8) | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_ZONE: u16 = 3;

/// Why connections could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The kernel refused, or has no `nf_conntrack_netlink`.
    #[error("{operation} connections of {addresses:?}")]
    Refused {
        /// "listing" or "removing".
        operation: &'static str,
        /// The addresses.
        addresses: Vec<IpAddr>,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error("removing connections")]
    Namespace(#[from] NamespaceError),
    /// The thread died.
    #[error("removing connections")]
    Thread(#[source] io::Error),
}

/// Removes every connection of the host's own stack that has one of `addresses` at an end, in
/// either direction; returns how many there were. `None` is this process's namespace.
///
/// Lists the whole table once, tens of milliseconds on a big node: pass many addresses at once.
pub async fn flush_connections(
    namespace: Option<&Namespace>,
    addresses: Vec<IpAddr>,
) -> Result<usize, ConntrackError> {
    let work = move || flush(&addresses);
    match namespace {
        Some(namespace) => namespace.run(work).await?,
        None => tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| ConntrackError::Thread(io::Error::other(error)))?,
    }
}

fn flush(addresses: &[IpAddr]) -> Result<usize, ConntrackError> {
    let refused = |operation| {
        let addresses = addresses.to_vec();
        move |source| ConntrackError::Refused {
            operation,
            addresses,
            source,
        }
    };
    let octets: Vec<Vec<u8>> = addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        })
        .collect();
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(refused("listing"))?;
    socket.bind_auto().map_err(refused("listing"))?;
    let every_family = [0; NETFILTER_HEADER];
    let entries =
        exchange(&socket, CT_GET, Want::Dump, &every_family).map_err(refused("listing"))?;
    let mut removed = 0;
    for entry in &entries {
        let Some((header, entry)) = entry.split_at_checked(NETFILTER_HEADER) else {
            continue;
        };
        let Some(original) = matching(entry, &octets) else {
            continue;
        };
        let mut request = header.to_vec();
        request.extend(attribute(CTA_TUPLE_ORIG | NESTED, original));
        if let Some(id) = find(entry, CTA_ID) {
            request.extend(attribute(CTA_ID, id));
        }
        match exchange(&socket, CT_DELETE, Want::One, &request) {
            Ok(_) => removed += 1,
            // It ended by itself meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            Err(error) => return Err(refused("removing")(error)),
        }
    }
    Ok(removed)
}

/// The original tuple of an entry in zone 0 that has one of `octets` as an address.
fn matching<'a>(entry: &'a [u8], octets: &[Vec<u8>]) -> Option<&'a [u8]> {
    if find(entry, CTA_ZONE).is_some() {
        return None;
    }
    let original = find(entry, CTA_TUPLE_ORIG)?;
    let reply = find(entry, CTA_TUPLE_REPLY)?;
    let ours = |tuple: &[u8]| {
        find(tuple, CTA_TUPLE_ZONE).is_none()
            && find(tuple, CTA_TUPLE_IP).is_some_and(|ip| {
                attributes(ip).any(|(_, end)| octets.iter().any(|octets| octets == end))
            })
    };
    (ours(original) || ours(reply)).then_some(original)
}
