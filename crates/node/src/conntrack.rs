//! Connections the host's own stack tracks (zone 0): what it translated for a pod or a Service.
//!
//! Open vSwitch's kernel datapath keeps its entries in the same table, in zones of its own: those
//! are not touched here, they are flushed through OpenFlow.

use std::collections::BTreeSet;
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
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;

/// Why connections could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The kernel refused, or has no `nf_conntrack_netlink`.
    #[error("{operation} connections of {what}")]
    Refused {
        /// "listing" or "removing".
        operation: &'static str,
        /// Of what.
        what: String,
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
    let octets: Vec<Vec<u8>> = addresses.iter().map(octets_of).collect();
    let what = format!("{addresses:?}");
    run(namespace, what, move |entry| {
        is_of(entry, |tuple| is_at(tuple, &octets))
    })
    .await
}

/// Where the first packet of UDP connections went: an address, or any of the host's, and a port.
pub type UdpPlace = (Option<IpAddr>, u16);

/// Removes every UDP connection of the host's own stack whose first packet went to one of `places`; returns
/// how many there were. `None` is this process's namespace. A client that keeps sending keeps its connection,
/// and with it the translation it had, or had not, when it began.
///
/// Lists the whole table once, as [`flush_connections`] does.
pub async fn flush_udp(
    namespace: Option<&Namespace>,
    places: BTreeSet<UdpPlace>,
) -> Result<usize, ConntrackError> {
    let what = format!("UDP to {} ports", places.len());
    let places: BTreeSet<(Option<Vec<u8>>, u16)> = places
        .into_iter()
        .map(|(address, port)| (address.as_ref().map(octets_of), port))
        .collect();
    run(namespace, what, move |entry| {
        let original = find(entry, CTA_TUPLE_ORIG)?;
        let (address, port) = udp_destination(original)?;
        let meant =
            places.contains(&(None, port)) || places.contains(&(Some(address.to_vec()), port));
        is_of(entry, |_| meant)
    })
    .await
}

async fn run(
    namespace: Option<&Namespace>,
    what: String,
    matching: impl Fn(&[u8]) -> Option<&[u8]> + Send + 'static,
) -> Result<usize, ConntrackError> {
    let work = move || flush(&what, matching);
    match namespace {
        Some(namespace) => namespace.run(work).await?,
        None => tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| ConntrackError::Thread(io::Error::other(error)))?,
    }
}

fn octets_of(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Removes the entries of which `matching` gives the original tuple.
fn flush(what: &str, matching: impl Fn(&[u8]) -> Option<&[u8]>) -> Result<usize, ConntrackError> {
    let refused = |operation| {
        let what = what.to_owned();
        move |source| ConntrackError::Refused {
            operation,
            what,
            source,
        }
    };
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
        let Some(original) = matching(entry) else {
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

/// The original tuple of an entry in zone 0 of which one of both is meant.
fn is_of(entry: &[u8], meant: impl Fn(&[u8]) -> bool) -> Option<&[u8]> {
    if find(entry, CTA_ZONE).is_some() {
        return None;
    }
    let original = find(entry, CTA_TUPLE_ORIG)?;
    let reply = find(entry, CTA_TUPLE_REPLY)?;
    let ours = |tuple: &[u8]| find(tuple, CTA_TUPLE_ZONE).is_none() && meant(tuple);
    (ours(original) || ours(reply)).then_some(original)
}

/// Whether one of `octets` is an end of a tuple.
fn is_at(tuple: &[u8], octets: &[Vec<u8>]) -> bool {
    find(tuple, CTA_TUPLE_IP)
        .is_some_and(|ip| attributes(ip).any(|(_, end)| octets.iter().any(|octets| octets == end)))
}

/// Where packets of a tuple go, if they are UDP.
fn udp_destination(tuple: &[u8]) -> Option<(&[u8], u16)> {
    let ports = find(tuple, CTA_TUPLE_PROTO)?;
    if find(ports, CTA_PROTO_NUM)? != [UDP] {
        return None;
    }
    let port = u16::from_be_bytes(find(ports, CTA_PROTO_DST_PORT)?.try_into().ok()?);
    let ip = find(tuple, CTA_TUPLE_IP)?;
    let address = find(ip, CTA_IP_V4_DST).or_else(|| find(ip, CTA_IP_V6_DST))?;
    Some((address, port))
}
