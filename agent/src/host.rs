//! Makes the host's network stack what it must be: the gateway link, routes, neighbours, sysctls,
//! nftables, and on the userspace datapath the transport interface's way into its bridge.
//!
//! Everything by difference; errors are collected and the rest goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use carrick_api::effective::HostFirewall;
use carrick_api::names::link;
use carrick_datapath::{HostDesired, HostRoute, MacAddr, NftFamily, NftTable, RouteLink};
use carrick_k8s::telemetry::chain;
use carrick_node::{
    AdminState, Link, LinkFacts, LinkLocal, Neighbour, Netlink, NetlinkError, Nft, Route,
    RouteOrigin, Sysctls,
};
use tracing::{debug, info};

use crate::before::{BeforeFile, ChangedSysctl};
use crate::firewall::driver::Firewalls;
use crate::paths::Paths;
use crate::plan::{HostLink, HostLinks, NodePlan};
use crate::status::Fact;

/// How long Open vSwitch may take to make an internal port after the transaction.
const LINK_LIMIT: Duration = Duration::from_secs(10);

/// The host's stack. One owner: the programmer.
#[derive(Debug)]
pub struct Host {
    netlink: Netlink,
    nft: Nft,
    firewalls: Firewalls,
    sysctls: Sysctls,
    before: BeforeFile,
}

/// What went wrong, each with its cause in the text.
#[derive(Debug, Default)]
pub struct HostErrors(pub Vec<String>);

impl HostErrors {
    /// Adds an error with its causes.
    pub fn push(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.0.push(chain(error));
    }

    fn extend<E: std::error::Error + 'static>(&mut self, errors: impl IntoIterator<Item = E>) {
        for error in errors {
            self.push(&error);
        }
    }

    fn note<T, E: std::error::Error + 'static>(&mut self, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.push(&error);
                None
            }
        }
    }
}

impl Host {
    /// Opens the kernel's interfaces.
    ///
    /// # Errors
    /// There is no netlink socket to be had.
    pub fn open(paths: &Paths, before: BeforeFile) -> std::io::Result<Self> {
        Ok(Self {
            netlink: Netlink::open()?,
            nft: Nft::new(Some(paths.nftables())),
            firewalls: Firewalls::new(Nft::new(None)),
            sysctls: Sysctls::at(&paths.proc_sys_net),
            before,
        })
    }

    /// What the host had before us.
    pub const fn before(&self) -> &BeforeFile {
        &self.before
    }

    /// The host's links with their addresses. What the transport interface had before it went into
    /// a bridge stands at the bridge, also while the switch is away and the bridge with it.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn links(&self) -> Result<HostLinks, NetlinkError> {
        let mut links: HostLinks = self
            .netlink
            .links()
            .await?
            .into_iter()
            .map(|link| (link.name.clone(), host_link(&link)))
            .collect();
        for address in self.netlink.addresses(None).await? {
            let held = links.values_mut().find(|link| link.index == address.link.0);
            if let Some(link) = held {
                link.addresses.push(address.net);
            }
        }
        if let Some(saved) = &self.before.get().transport {
            let bridge = links
                .entry(link::TRANSPORT_BRIDGE.to_owned())
                .or_insert_with(|| HostLink {
                    name: link::TRANSPORT_BRIDGE.to_owned(),
                    ..host_link(&saved.link)
                });
            for address in &saved.addresses {
                if !bridge.addresses.contains(&address.net) {
                    bridge.addresses.push(address.net);
                }
            }
        }
        Ok(links)
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
    pub async fn move_transport(&self, saved: &LinkFacts, errors: &mut HostErrors) {
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
        let moved = saved.addresses.iter().all(|wanted| {
            there.iter().any(|held| held.net == wanted.net)
                && !left.iter().any(|held| held.net == wanted.net)
        });
        if !moved {
            info!(
                from = nic.name,
                to = bridge.name,
                "moving the transport interface's addresses"
            );
            errors.extend(
                self.netlink
                    .move_facts(saved, nic.index, bridge.index)
                    .await,
            );
        }
    }

    /// Makes our nftables tables what they must be. On the userspace datapath this comes before a
    /// pod's link is set up.
    pub async fn sync_tables(&mut self, tables: &[NftTable], errors: &mut HostErrors) {
        for NftTable { family, name, text } in tables {
            let applied = self.nft.sync(family.as_str(), name, text.as_deref()).await;
            if let Some(applied) = errors.note(applied) {
                debug!(family = family.as_str(), table = name, ?applied, "nftables");
            }
        }
    }

    /// Names of our tables that must not exist any more.
    pub async fn remove_tables(&mut self, errors: &mut HostErrors) {
        for (family, name) in [
            (NftFamily::Inet, carrick_datapath::INET_TABLE),
            (NftFamily::Netdev, carrick_datapath::NETDEV_TABLE),
        ] {
            errors.note(self.nft.sync(family.as_str(), name, None).await);
        }
    }

    /// Makes our rules in other people's chains what they must be, and says what those do to pods.
    pub async fn sync_firewalls(&self, wanted: HostFirewall) -> Fact {
        self.firewalls.sync(wanted).await
    }

    /// Takes our rules out of other people's chains.
    pub async fn leave_firewalls(&self, errors: &mut HostErrors) {
        errors.0.extend(self.firewalls.leave().await);
    }

    /// Makes gateway, routes, neighbours and sysctls what they must be.
    pub async fn sync_stack(
        &mut self,
        desired: &HostDesired,
        plan: &NodePlan,
        errors: &mut HostErrors,
    ) {
        let (gateway_mac, mtu) = (plan.gateway.mac, plan.mtu);
        let wait = self.netlink.wait_link(link::GATEWAY, LINK_LIMIT).await;
        let Some(gateway) = errors.note(wait) else {
            return;
        };
        self.sync_sysctls(desired, errors).await;
        let mac = carrick_node::MacAddr(gateway_mac.0);
        if gateway.mac != Some(mac) {
            errors.note(self.netlink.set_mac(gateway.index, mac).await);
        }
        if gateway.mtu != u32::from(mtu) {
            errors.note(self.netlink.set_mtu(gateway.index, u32::from(mtu)).await);
        }
        if !gateway.up {
            errors.note(self.netlink.set_state(gateway.index, AdminState::Up).await);
        }
        let addresses = self
            .netlink
            .sync_addresses(gateway.index, &desired.addresses, LinkLocal::Remove)
            .await;
        if let Some(outcome) = errors.note(addresses) {
            errors.extend(outcome.failed);
        }
        let neighbours: BTreeSet<Neighbour> = desired
            .neighbours
            .iter()
            .map(|entry| Neighbour {
                address: entry.address,
                mac: carrick_node::MacAddr(entry.mac.0),
            })
            .collect();
        let outcome = self
            .netlink
            .sync_neighbours(gateway.index, &neighbours)
            .await;
        if let Some(outcome) = errors.note(outcome) {
            errors.extend(outcome.failed);
        }
        let name = plan.transport.holder.as_str();
        let transport = errors.note(self.netlink.link(name).await).flatten();
        let needed = |route: &HostRoute| route.link == RouteLink::Transport;
        if transport.is_none() && desired.routes.iter().any(needed) {
            errors.0.push(format!(
                "the transport interface {name} is gone, and with it the routes to other nodes' pods"
            ));
        }
        let routes: BTreeSet<Route> = desired
            .routes
            .iter()
            .filter_map(|route| {
                let link = match route.link {
                    RouteLink::Gateway => &gateway,
                    RouteLink::Transport => transport.as_ref()?,
                };
                Some(Route::via(
                    route.destination,
                    link.index,
                    route.via,
                    route.source,
                ))
            })
            .collect();
        let outcome = self
            .netlink
            .sync_routes(RouteOrigin::CARRICK, &routes)
            .await;
        if let Some(outcome) = errors.note(outcome) {
            if !outcome.added.is_empty() || !outcome.removed.is_empty() {
                info!(
                    added = outcome.added.len(),
                    removed = outcome.removed.len(),
                    "host routes changed"
                );
            }
            errors.extend(outcome.failed);
        }
    }

    /// Sets sysctls and remembers what they were before the first change.
    async fn sync_sysctls(&mut self, desired: &HostDesired, errors: &mut HostErrors) {
        let mut wanted = desired.sysctls.clone();
        if wanted.contains_key("ipv6/conf/all/forwarding") {
            wanted.extend(self.keep_router_advertisements(errors).await);
        }
        for (key, value) in &wanted {
            match self.sysctls.get(key) {
                Ok(current) if current == *value => {}
                Ok(before) => {
                    let changed = ChangedSysctl {
                        before,
                        ours: value.clone(),
                    };
                    let remembered = self.before.update(|file| {
                        file.sysctls.entry(key.clone()).or_insert(changed);
                    });
                    // Without the memory it could not be given back: leave it as it is.
                    if errors.note(remembered).is_some() {
                        errors.note(self.sysctls.set(key, value));
                    }
                }
                Err(error) => errors.push(&error),
            }
        }
    }

    /// A host that forwards ignores router advertisements unless `accept_ra` is 2: an uplink that
    /// has its address or default route from them would lose it.
    async fn keep_router_advertisements(
        &self,
        errors: &mut HostErrors,
    ) -> std::collections::BTreeMap<String, String> {
        let mut wanted = std::collections::BTreeMap::new();
        let addresses = self.netlink.addresses(None).await;
        let links = self.netlink.links().await;
        let (Some(addresses), Some(links)) = (errors.note(addresses), errors.note(links)) else {
            return wanted;
        };
        for link in links {
            let learned = addresses.iter().any(|address| {
                address.link == link.index && address.dynamic && address.net.addr().is_ipv6()
            });
            let key = format!("ipv6/conf/{}/accept_ra", link.name);
            if learned && self.sysctls.get(&key).is_ok_and(|value| value == "1") {
                wanted.insert(key, "2".to_owned());
            }
        }
        wanted
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

    /// Removes our routes, and gives sysctls back that still have the value we set.
    pub async fn remove_stack(&mut self, errors: &mut HostErrors) {
        let outcome = self
            .netlink
            .sync_routes(RouteOrigin::CARRICK, &BTreeSet::new())
            .await;
        if let Some(outcome) = errors.note(outcome) {
            errors.extend(outcome.failed);
        }
        for (key, changed) in self.before.get().sysctls.clone() {
            // A sysctl that somebody changed since is theirs; one whose link is gone went with it.
            match self.sysctls.get(&key) {
                Ok(current) if current == changed.ours => {
                    if errors
                        .note(self.sysctls.set(&key, &changed.before))
                        .is_none()
                    {
                        continue;
                    }
                }
                Ok(_) | Err(_) => {}
            }
            errors.note(self.before.update(|before| {
                before.sysctls.remove(&key);
            }));
        }
    }

    /// Deletes links whose names begin with the prefix of pods' host ends.
    pub async fn remove_pod_links(&mut self, errors: &mut HostErrors) {
        let links = self.netlink.links().await;
        for link in errors.note(links).unwrap_or_default() {
            if link::is_pod(&link.name) {
                errors.note(self.netlink.delete_link(&link.name).await);
            }
        }
    }

    /// Deletes a link of ours that the switch left behind; one that is not there is no error.
    pub async fn remove_link(&mut self, name: &str, errors: &mut HostErrors) {
        errors.note(self.netlink.delete_link(name).await);
    }
}

fn host_link(link: &Link) -> HostLink {
    HostLink {
        name: link.name.clone(),
        index: link.index.0,
        mtu: link.mtu,
        mac: link.mac.map(|mac| MacAddr(mac.0)),
        addresses: Vec::new(),
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
        let known =
            |other: &Route| other.destination == route.destination && other.metric == route.metric;
        if !saved.routes.iter().any(known) {
            saved.routes.push(route);
        }
    }
    saved.link = now.link;
    saved
}
