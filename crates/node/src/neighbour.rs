//! Permanent neighbour entries.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteType;
use serde::{Deserialize, Serialize};

use crate::address::family;
use crate::link::LinkIndex;
use crate::mac::MacAddr;
use crate::netlink::{Netlink, NetlinkError, Outcome};

/// A permanent neighbour entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Neighbour {
    /// Who.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: MacAddr,
}

impl Netlink {
    /// Permanent entries of a link.
    pub async fn neighbours(&self, link: LinkIndex) -> Result<BTreeSet<Neighbour>, NetlinkError> {
        let messages = self
            .dump(
                RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
                || format!("listing neighbours of link {}", link.0),
            )
            .await?;
        Ok(messages
            .into_iter()
            .filter_map(|message| neighbour_of(message, link))
            .collect())
    }

    /// Adds or replaces a permanent entry.
    pub async fn put_neighbour(
        &self,
        link: LinkIndex,
        neighbour: Neighbour,
    ) -> Result<(), NetlinkError> {
        let mut message = message_for(link, neighbour.address);
        message.header.state = NeighbourState::Permanent;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(
                neighbour.mac.octets().to_vec(),
            ));
        let operation = || {
            format!(
                "adding neighbour {} at {} to link {}",
                neighbour.address, neighbour.mac, link.0
            )
        };
        self.change(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            operation,
        )
        .await
    }

    /// Removes an entry. `Ok` when it is not there.
    pub async fn delete_neighbour(
        &self,
        link: LinkIndex,
        address: IpAddr,
    ) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelNeighbour(message_for(link, address));
        let operation = || format!("removing neighbour {address} from link {}", link.0);
        match self.change(message, 0, operation).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    /// Makes `desired` the permanent entries of a link.
    pub async fn sync_neighbours(
        &self,
        link: LinkIndex,
        desired: &BTreeSet<Neighbour>,
    ) -> Result<Outcome<Neighbour>, NetlinkError> {
        let present = self.neighbours(link).await?;
        let mut outcome = Outcome::default();
        for &neighbour in &present {
            if !desired
                .iter()
                .any(|wanted| wanted.address == neighbour.address)
            {
                let result = self.delete_neighbour(link, neighbour.address).await;
                outcome.record_remove(neighbour, result);
            }
        }
        for &neighbour in desired.difference(&present) {
            outcome.record_add(neighbour, self.put_neighbour(link, neighbour).await);
        }
        Ok(outcome)
    }
}

fn message_for(link: LinkIndex, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(&address);
    message.header.ifindex = link.0;
    message.header.kind = RouteType::Unspec;
    let address = match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message
        .attributes
        .push(NeighbourAttribute::Destination(address));
    message
}

fn neighbour_of(message: RouteNetlinkMessage, link: LinkIndex) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    if message.header.ifindex != link.0 || message.header.state != NeighbourState::Permanent {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddr);
            }
            _ => {}
        }
    }
    Some(Neighbour {
        address: address?,
        mac: mac?,
    })
}
