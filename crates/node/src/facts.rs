//! What makes a link reachable, so that it can move to another one and back: the userspace datapath
//! needs its transport NIC inside a bridge, with the address on the bridge's internal port.

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::link::{Link, LinkIndex};
use crate::netlink::{Netlink, NetlinkError};
use crate::route::{Route, RouteOrigin};

/// A link with its addresses and the routes through it. Serialise it before moving anything: it is
/// what a cleanup gives back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFacts {
    /// The link.
    pub link: Link,
    /// Its addresses but link-local IPv6, which every link makes for itself.
    pub addresses: Vec<Address>,
    /// Routes through it but the kernel's own, which come with the addresses.
    pub routes: Vec<Route>,
}

impl Netlink {
    /// Reads a link with all that makes it reachable. `None` when there is no such link.
    pub async fn facts(&self, name: &str) -> Result<Option<LinkFacts>, NetlinkError> {
        let Some(link) = self.link(name).await? else {
            return Ok(None);
        };
        let addresses = self
            .addresses(Some(link.index))
            .await?
            .into_iter()
            .filter(|address| !(address.scope_link && address.net.addr().is_ipv6()))
            .collect();
        let routes = self
            .routes()
            .await?
            .into_iter()
            .filter(|route| route.link == link.index && route.origin != RouteOrigin::KERNEL)
            .collect();
        Ok(Some(LinkFacts {
            link,
            addresses,
            routes,
        }))
    }

    /// Puts the addresses and routes of `facts` on link `to` and takes the addresses off link
    /// `from`, as far as it has them. `to` must be up. Collects errors and goes on: an address that
    /// could not be moved stays where it was. Doing it again changes nothing.
    pub async fn move_facts(
        &self,
        facts: &LinkFacts,
        from: LinkIndex,
        to: LinkIndex,
    ) -> Vec<NetlinkError> {
        let mut errors = Vec::new();
        for address in &facts.addresses {
            // First off, then on: with both, the kernel has two equal prefix routes and takes the
            // wrong one; the gap is one system call.
            if let Err(error) = self.delete_address(from, address.net).await {
                errors.push(error);
                continue;
            }
            let moved = Address {
                link: to,
                ..address.clone()
            };
            if let Err(error) = self.put_address(&moved).await {
                errors.push(error);
                let back = Address {
                    link: from,
                    ..address.clone()
                };
                errors.extend(self.put_address(&back).await.err());
            }
        }
        // On-link routes first: gateways are looked up through them.
        let (direct, through): (Vec<_>, Vec<_>) = facts
            .routes
            .iter()
            .partition(|route| route.gateway.is_none());
        for route in direct.into_iter().chain(through) {
            let moved = Route {
                link: to,
                ..route.clone()
            };
            errors.extend(self.replace_route(&moved).await.err());
            let left = Route {
                link: from,
                ..route.clone()
            };
            errors.extend(self.delete_route(&left).await.err());
        }
        errors
    }
}
