//! Connection entries that lead where nobody answers any more.
//!
//! A UDP client that keeps sending keeps its entry, and with it an endpoint that is gone, or none where
//! there is one now. TCP and SCTP notice by themselves.

use std::net::IpAddr;

use carrick_openflow::message::CtFlush;
use carrick_openflow::message::nicira::CtTuple;

use super::input::Protocol;
use super::select::Backend;
use crate::pipeline::CT_ZONE;

/// UDP entries to forget, with `NXT_CT_FLUSH`, once the batch that brought them is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StaleConnections {
    /// Address clients sent to.
    pub address: IpAddr,
    /// Port clients sent to.
    pub port: u16,
    /// The endpoint that is gone; `None` forgets the connections to all endpoints.
    pub endpoint: Option<Backend>,
}

impl StaleConnections {
    /// What removes the entries from the switch.
    pub fn flush(&self) -> CtFlush {
        CtFlush {
            protocol: Protocol::Udp.number(),
            zone: Some(CT_ZONE),
            original: CtTuple {
                destination: Some(self.address),
                destination_port: Some(self.port),
                ..CtTuple::default()
            },
            reply: self
                .endpoint
                .map_or_else(CtTuple::default, |endpoint| CtTuple {
                    source: Some(endpoint.address),
                    source_port: Some(endpoint.port),
                    ..CtTuple::default()
                }),
        }
    }
}

/// A UDP port as it was programmed: where it was reached, and who answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UdpPort {
    pub(super) frontends: Vec<(IpAddr, u16)>,
    /// Sorted.
    pub(super) serving: Vec<Backend>,
}

/// What is stale when `old` becomes `new`; an empty `UdpPort` stands for one that is not there.
pub(super) fn stale(old: &UdpPort, new: &UdpPort) -> Vec<StaleConnections> {
    let mut all = Vec::new();
    for (address, port) in old.frontends.iter().chain(&new.frontends) {
        let entry = |endpoint| StaleConnections {
            address: *address,
            port: *port,
            endpoint,
        };
        let kept = old.frontends.contains(&(*address, *port))
            && new.frontends.contains(&(*address, *port));
        // What was sent while nobody answered has an entry that leads nowhere, and an address that
        // is no Service's any more leads to none of its endpoints.
        if !kept || old.serving.is_empty() != new.serving.is_empty() {
            all.push(entry(None));
            continue;
        }
        let gone = old
            .serving
            .iter()
            .filter(|endpoint| new.serving.binary_search(endpoint).is_err());
        all.extend(gone.map(|endpoint| entry(Some(*endpoint))));
    }
    all.sort_unstable();
    all.dedup();
    all
}
