//! The transport interface's way into its bridge and back, on the userspace datapath.
//!
//! What the interface has (addresses, routes) moves to the bridge and is remembered, so that it can be
//! given back, and put on the bridge again when that is made anew. Where the bridge stands, its addresses
//! are the host's own matter: what somebody gives it or takes from it is remembered in the place of what
//! was there.

use std::time::Duration;

use carrick_api::names::link;
use carrick_k8s::telemetry::chain;
use carrick_node::{Address, AdminState, LinkFacts, LinkIndex, MacAddr, Route, RouteOrigin};
use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Host, HostErrors, LINK_LIMIT};
use crate::plan::HostLinks;

/// How long a family may have no address on the bridge before it gets back what it had: whoever replaces
/// an address may take the old one away first.
const REPLACING: Duration = Duration::from_secs(5);

/// The bridge that everything was moved to.
#[derive(Debug, Default)]
pub(super) struct Bridge {
    moved_to: Option<LinkIndex>,
    /// Its MAC address then. Open vSwitch sets the bridge down to give it another one, and the kernel drops
    /// its routes and IPv6 addresses.
    mac: Option<MacAddr>,
    /// Since when something is missing there.
    lost: Option<Instant>,
    /// The interface has routes of its own: whoever sets it up gives it addresses first, and routes when
    /// those may have moved already.
    has_left: bool,
}

impl Bridge {
    /// Whether what is missing on the bridge must be put there: at once on a new one, else after a
    /// while.
    fn is_due(&mut self, index: LinkIndex, now: Instant) -> bool {
        if self.moved_to != Some(index) {
            return true;
        }
        now.duration_since(*self.lost.get_or_insert(now)) >= REPLACING
    }
}

impl Host {
    /// Takes over what somebody did to the bridge's addresses.
    pub(super) async fn follow_bridge(&mut self, links: &HostLinks) {
        let Some(saved) = &self.before.get().transport else {
            return;
        };
        let Some(bridge) = links.get(link::TRANSPORT_BRIDGE) else {
            return;
        };
        // One that is down has lost its IPv6 addresses by that.
        if self.bridge.moved_to != Some(LinkIndex(bridge.index)) || !bridge.up {
            return;
        }
        let families = changed(saved, &bridge.addresses);
        if families.is_empty() {
            return;
        }
        let now = match self.netlink.facts(link::TRANSPORT_BRIDGE).await {
            Ok(Some(now)) => now,
            Ok(None) => return,
            Err(error) => return warn!(error = chain(&error), "the transport bridge"),
        };
        let followed = follow(saved.clone(), &now, &families);
        info!(
            addresses = ?followed.addresses.iter().map(|address| address.net).collect::<Vec<_>>(),
            "the transport bridge has other addresses"
        );
        let update = |before: &mut crate::before::Before| before.transport = Some(followed);
        if let Err(error) = self.before.update(update) {
            warn!(error = chain(&error), "the transport bridge's addresses");
        }
    }

    /// Remembers what the transport interface has, before it goes into a bridge.
    ///
    /// # Errors
    /// In words; nothing must be moved then.
    pub async fn remember_transport(&mut self, nic: &str) -> Result<LinkFacts, String> {
        let facts = self
            .netlink
            .facts(nic)
            .await
            .map_err(|error| chain(&error))?;
        let saved = self.before.get().transport.clone();
        let saved = match saved.filter(|saved| saved.link.name == nic) {
            Some(saved) => Some(saved),
            // The memory was lost (a damaged file is set aside): what the bridge has came from the
            // interface, and a cleanup must be able to give it back.
            None => self
                .netlink
                .facts(link::TRANSPORT_BRIDGE)
                .await
                .map_err(|error| chain(&error))?,
        };
        self.bridge.has_left = facts.as_ref().is_some_and(|now| !now.routes.is_empty());
        let merged = match (facts, saved) {
            (Some(now), Some(saved)) => merge(saved, now),
            (Some(now), _) => now,
            (None, _) => return Err(format!("interface {nic} is gone")),
        };
        self.before
            .update(|before| before.transport = Some(merged.clone()))
            .map_err(|error| chain(&error))?;
        Ok(merged)
    }

    /// Moves the transport interface's addresses and routes to its bridge, as far as they are not
    /// there already (the bridge's link is made anew when the switch restarts).
    pub async fn move_transport(&mut self, saved: &LinkFacts, errors: &mut HostErrors) {
        let wait = self
            .netlink
            .wait_link(link::TRANSPORT_BRIDGE, LINK_LIMIT)
            .await;
        let Some(bridge) = errors.note(wait) else {
            return;
        };
        let nic = self.netlink.link(&saved.link.name).await;
        let Some(Some(nic)) = errors.note(nic) else {
            return;
        };
        for link in [&nic, &bridge] {
            if !link.up {
                errors.note(self.netlink.set_state(link.index, AdminState::Up).await);
            }
        }
        let there = self.netlink.addresses(Some(bridge.index)).await;
        let Some(there) = errors.note(there) else {
            return;
        };
        let left = self.netlink.addresses(Some(nic.index)).await;
        let Some(left) = errors.note(left) else {
            return;
        };
        let gone = |wanted: &Address| !there.iter().any(|held| held.net == wanted.net);
        let stays = |wanted: &Address| left.iter().any(|held| held.net == wanted.net);
        let was_down = self.bridge.moved_to == Some(bridge.index) && self.bridge.mac != bridge.mac;
        let stay = was_down || self.bridge.has_left || saved.addresses.iter().any(stays);
        if !stay && !saved.addresses.iter().any(gone) {
            self.bridge = Bridge {
                moved_to: Some(bridge.index),
                mac: bridge.mac,
                ..Bridge::default()
            };
        } else if !stay && !self.bridge.is_due(bridge.index, Instant::now()) {
            debug!("somebody takes addresses from the transport bridge");
        } else {
            info!(
                from = nic.name,
                to = bridge.name,
                "moving the transport interface's addresses"
            );
            let failed = self
                .netlink
                .move_facts(saved, nic.index, bridge.index)
                .await;
            if failed.is_empty() {
                self.bridge.mac = bridge.mac;
            }
            errors.extend(failed);
        }
    }

    /// Gives the transport interface its addresses and routes back. Idempotent; when an error comes
    /// back, it must be tried again before the bridge goes.
    pub async fn give_back_transport(&mut self, errors: &mut HostErrors) {
        let Some(saved) = self.before.get().transport.clone() else {
            return;
        };
        let count = errors.0.len();
        let nic = self.netlink.link(&saved.link.name).await;
        let Some(Some(nic)) = errors.note(nic) else {
            return;
        };
        if !nic.up && saved.link.up {
            errors.note(self.netlink.set_state(nic.index, AdminState::Up).await);
        }
        let bridge = self.netlink.link(link::TRANSPORT_BRIDGE).await;
        let Some(bridge) = errors.note(bridge) else {
            return;
        };
        // Without the bridge its addresses are gone with it and are only put back.
        let from = bridge.map_or(nic.index, |bridge| bridge.index);
        if from == nic.index {
            for address in &saved.addresses {
                errors.note(self.netlink.add_address(nic.index, address.net).await);
            }
            for route in &saved.routes {
                let mut back = route.clone();
                back.link = nic.index;
                errors.note(self.netlink.replace_route(&back).await);
            }
        } else {
            errors.extend(self.netlink.move_facts(&saved, from, nic.index).await);
        }
        if errors.0.len() == count {
            errors.note(self.before.update(|before| before.transport = None));
        }
    }
}

/// What was saved, and what the interface was given since.
fn merge(mut saved: LinkFacts, now: LinkFacts) -> LinkFacts {
    for address in now.addresses {
        if !saved.addresses.iter().any(|known| known.net == address.net) {
            saved.addresses.push(address);
        }
    }
    for route in now.routes {
        let replaces =
            |other: &Route| other.destination == route.destination && other.metric == route.metric;
        saved.routes.retain(|known| !replaces(known));
        saved.routes.push(route);
    }
    saved.link = now.link;
    saved
}

/// Whether a family is IPv6.
type IsV6 = bool;

fn is_v6(net: &IpNet) -> IsV6 {
    net.addr().is_ipv6()
}

/// Families of which the bridge has other addresses than were moved to it. One without any is none:
/// that is how a replacement begins, or an accident.
fn changed(saved: &LinkFacts, held: &[IpNet]) -> Vec<IsV6> {
    let link_local =
        |net: &&IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
    let of = |v6: IsV6| {
        let held = held.iter().filter(|net| !link_local(net));
        let held = held.filter(move |net| is_v6(net) == v6);
        held.copied().collect::<std::collections::BTreeSet<_>>()
    };
    let other = |v6: &IsV6| {
        let saved = saved.addresses.iter().map(|address| address.net);
        let (now, before) = (of(*v6), saved.filter(|net| is_v6(net) == *v6).collect());
        !now.is_empty() && now != before
    };
    [false, true].into_iter().filter(other).collect()
}

/// What is remembered, with these families as they are now on the bridge.
fn follow(mut saved: LinkFacts, now: &LinkFacts, families: &[IsV6]) -> LinkFacts {
    let concerns = |net: &IpNet| families.contains(&is_v6(net));
    saved.addresses.retain(|address| !concerns(&address.net));
    let addresses = now.addresses.iter();
    saved
        .addresses
        .extend(addresses.filter(|address| concerns(&address.net)).cloned());
    saved.routes.retain(|route| !concerns(&route.destination));
    let routes = now.routes.iter().filter(|route| {
        // Ours are made anew wherever they are needed.
        concerns(&route.destination) && route.origin != RouteOrigin::CARRICK
    });
    saved.routes.extend(routes.cloned());
    saved
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrick_node::Link;

    fn facts(addresses: &[&str], routes: &[(&str, &str, RouteOrigin)]) -> LinkFacts {
        let link = LinkIndex(7);
        let address = |text: &&str| Address {
            link,
            net: text.parse().unwrap(),
            scope_link: false,
            dynamic: false,
            no_prefix_route: false,
            unusable: false,
        };
        let route = |(to, via, origin): &(&str, &str, RouteOrigin)| Route {
            destination: to.parse().unwrap(),
            link,
            gateway: Some(via.parse().unwrap()),
            onlink: false,
            source: None,
            metric: 0,
            mtu: None,
            origin: *origin,
        };
        LinkFacts {
            link: Link {
                index: link,
                name: "eth1".into(),
                mac: None,
                mtu: 1500,
                up: true,
                running: true,
                kind: String::new(),
                alias: String::new(),
                peer: None,
                controller: None,
            },
            addresses: addresses.iter().map(address).collect(),
            routes: routes.iter().map(route).collect(),
        }
    }

    fn held(addresses: &[&str]) -> Vec<IpNet> {
        addresses.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_family_changes_when_it_has_other_addresses_and_not_when_it_has_none() {
        let saved = facts(&["192.0.2.1/24", "fd00::1/64"], &[]);
        for (now, expected) in [
            (&["192.0.2.1/24", "fd00::1/64", "fe80::1/64"][..], &[][..]),
            (&["192.0.2.2/24", "fd00::1/64"], &[false]),
            (&["192.0.2.1/25", "fd00::1/64"], &[false]),
            (&["192.0.2.1/24", "192.0.2.2/24", "fd00::1/64"], &[false]),
            (&["fd00::1/64"], &[]),
            (&["fe80::1/64"], &[]),
            (&["192.0.2.9/24", "fd00::2/64"], &[false, true]),
        ] {
            assert_eq!(changed(&saved, &held(now)), expected, "{now:?}");
        }
    }

    #[test]
    fn a_route_that_the_interface_is_given_takes_the_place_of_the_one_it_had() {
        let via = |text| ("0.0.0.0/0", text, RouteOrigin::STATIC);
        let other = ("10.0.0.0/8", "192.0.2.9", RouteOrigin::STATIC);
        let saved = facts(&["192.0.2.1/24"], &[via("192.0.2.254"), other]);
        let now = facts(&[], &[via("192.0.2.253")]);
        let expected = facts(&["192.0.2.1/24"], &[other, via("192.0.2.253")]);
        assert_eq!(merge(saved, now), expected);
    }

    #[test]
    fn what_was_replaced_on_the_bridge_is_not_put_back() {
        let via = |text| ("0.0.0.0/0", text, RouteOrigin::STATIC);
        let v6 = ("::/0", "fd00::fe", RouteOrigin::STATIC);
        let saved = facts(&["192.0.2.1/24", "fd00::1/64"], &[via("192.0.2.254"), v6]);
        let ours = ("10.10.2.0/24", "198.51.100.2", RouteOrigin::CARRICK);
        // Its IPv6 is lost by accident and comes back.
        let now = facts(&["198.51.100.1/24"], &[via("198.51.100.254"), ours]);
        let expected = facts(
            &["fd00::1/64", "198.51.100.1/24"],
            &[v6, via("198.51.100.254")],
        );
        let families = changed(&saved, &held(&["198.51.100.1/24"]));
        assert_eq!(follow(saved, &now, &families), expected);
    }

    #[test]
    fn what_is_missing_comes_back_at_once_on_a_new_bridge_and_later_on_a_known_one() {
        let mut bridge = Bridge::default();
        let (now, seven) = (Instant::now(), LinkIndex(7));
        assert!(bridge.is_due(seven, now));
        bridge.moved_to = Some(seven);
        assert!(!bridge.is_due(seven, now) && bridge.is_due(LinkIndex(8), now));
        assert!(!bridge.is_due(seven, now + REPLACING / 2));
        assert!(bridge.is_due(seven, now + REPLACING));
    }
}
