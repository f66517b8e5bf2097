//! Addresses of links.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use crate::link::LinkIndex;
use crate::netlink::{Netlink, NetlinkError, Outcome};

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// The link.
    pub link: LinkIndex,
    /// The address (host bits included) and its prefix length.
    pub net: IpNet,
    /// Link scope: `fe80::/10`, `169.254.0.0/16`.
    pub scope_link: bool,
    /// It has a lifetime: DHCP or a router advertisement made it.
    pub dynamic: bool,
    /// The kernel makes no route for its prefix.
    pub no_prefix_route: bool,
    /// Duplicate address detection has not finished, or found another holder.
    pub unusable: bool,
}

/// What of a link's addresses [`Netlink::sync_addresses`] leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLocal {
    /// Keep link-local IPv6 addresses.
    Keep,
    /// Every address that is not desired goes.
    Remove,
}

impl Netlink {
    /// Addresses of one link, or of all.
    pub async fn addresses(&self, link: Option<LinkIndex>) -> Result<Vec<Address>, NetlinkError> {
        let operation = || match link {
            Some(index) => format!("listing addresses of link {}", index.0),
            None => "listing addresses".to_owned(),
        };
        let messages = self
            .dump(
                RouteNetlinkMessage::GetAddress(AddressMessage::default()),
                operation,
            )
            .await?;
        let mut addresses: Vec<_> = messages
            .into_iter()
            .filter_map(address_of)
            .filter(|address| link.is_none_or(|index| address.link == index))
            .collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// Adds an address without duplicate address detection. `Ok` when it is there already.
    pub async fn add_address(&self, link: LinkIndex, net: IpNet) -> Result<(), NetlinkError> {
        let address = Address {
            link,
            net,
            scope_link: false,
            dynamic: false,
            no_prefix_route: false,
            unusable: false,
        };
        self.put_address(&address).await
    }

    /// Adds an address as it was read from another link.
    pub(crate) async fn put_address(&self, address: &Address) -> Result<(), NetlinkError> {
        let mut message = message_for(address.link, address.net);
        let mut flags = AddressFlags::Permanent;
        if address.net.addr().is_ipv6() {
            flags |= AddressFlags::Nodad;
        }
        if address.no_prefix_route {
            flags |= AddressFlags::Noprefixroute;
        }
        if address.scope_link {
            message.header.scope = AddressScope::Link;
        }
        message.attributes.push(AddressAttribute::Flags(flags));
        if let IpNet::V4(net) = address.net
            && net.prefix_len() < 31
        {
            message
                .attributes
                .push(AddressAttribute::Broadcast(net.broadcast()));
        }
        let operation = || format!("adding {} to link {}", address.net, address.link.0);
        let message = RouteNetlinkMessage::NewAddress(message);
        match self
            .change(message, NLM_F_CREATE | NLM_F_EXCL, operation)
            .await
        {
            Err(error) if error.is_exists() => Ok(()),
            result => result,
        }
    }

    /// Removes an address. `Ok` when it is not there.
    pub async fn delete_address(&self, link: LinkIndex, net: IpNet) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(message_for(link, net));
        let operation = || format!("removing {net} from link {}", link.0);
        match self.change(message, 0, operation).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    /// Makes `desired` the addresses of a link.
    pub async fn sync_addresses(
        &self,
        link: LinkIndex,
        desired: &BTreeSet<IpNet>,
        link_local: LinkLocal,
    ) -> Result<Outcome<IpNet>, NetlinkError> {
        let present = self.addresses(Some(link)).await?;
        let mut outcome = Outcome::default();
        for address in &present {
            let kept = link_local == LinkLocal::Keep && is_link_local(address.net.addr());
            if !desired.contains(&address.net) && !kept {
                outcome.record_remove(address.net, self.delete_address(link, address.net).await);
            }
        }
        for &net in desired {
            if !present.iter().any(|address| address.net == net) {
                outcome.record_add(net, self.add_address(link, net).await);
            }
        }
        Ok(outcome)
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn message_for(link: LinkIndex, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link.0;
    message.header.prefix_len = net.prefix_len();
    message.header.family = family(&net.addr());
    message
        .attributes
        .push(AddressAttribute::Address(net.addr()));
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message
}

pub(crate) fn family(address: &IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn address_of(message: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let mut local = None;
    let mut peer = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Address(address) => peer = Some(address),
            AddressAttribute::Flags(all) => flags = all,
            _ => {}
        }
    }
    // IFA_LOCAL is the address; IFA_ADDRESS is the same but on point-to-point links.
    let net = IpNet::new(local.or(peer)?, message.header.prefix_len).ok()?;
    Some(Address {
        link: LinkIndex(message.header.index),
        net,
        scope_link: message.header.scope == AddressScope::Link,
        dynamic: !flags.contains(AddressFlags::Permanent),
        no_prefix_route: flags.contains(AddressFlags::Noprefixroute),
        unusable: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
    })
}
