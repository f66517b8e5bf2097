//! Makes the host's network stack what it must be: the gateway link, routes, neighbours, sysctls,
//! nftables, and on the userspace datapath the transport interface's way into its bridge ([`transport`]).
//!
//! Everything by difference; errors are collected and the rest goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use carrick_api::effective::HostFirewall;
use carrick_api::names::link;
use carrick_datapath::{HostDesired, HostRoute, MacAddr, NftFamily, NftTable, RouteLink};
use carrick_k8s::telemetry::chain;
use carrick_node::{
    AdminState, Link, LinkLocal, Look, Neighbour, Netlink, NetlinkError, Nft, Route, RouteOrigin,
    Sysctls,
};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::before::{BeforeFile, ChangedSysctl};
use crate::firewall::driver::Firewalls;
use crate::paths::Paths;
use crate::plan::{HostLink, HostLinks, NodePlan};
use crate::services::host::ServiceHost;
use crate::services::leftovers::Leftovers;
use crate::status::Fact;

mod transport;

/// How long links that were read count while pods come and go. The kernel tells of every change of a link
/// that is no pod's ([`links`](crate::links)), upon which all are read.
const LINKS_COUNT: Duration = Duration::from_secs(2);
/// How many links are asked for one by one rather than all at once.
const ONE_BY_ONE: usize = 16;

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
    bridge: transport::Bridge,
    /// The links as they were read last, and when all of them were.
    known_links: Option<(HostLinks, Instant)>,
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
            bridge: transport::Bridge::default(),
            known_links: None,
        })
    }

    /// The host as far as Services are concerned. It has a table and routes of its own.
    pub(crate) fn for_services(&self, paths: &Paths) -> ServiceHost {
        let nft = Nft::new(Some(paths.services_table()));
        ServiceHost::new(nft, self.netlink.clone())
    }

    /// The host as far as a kube-proxy's leftovers are concerned.
    pub(crate) fn for_leftovers(&self) -> Leftovers {
        Leftovers::new(Nft::new(None), self.netlink.clone())
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
    pub async fn links(&mut self) -> Result<HostLinks, NetlinkError> {
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
        self.follow_bridge(&links).await;
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
        self.known_links = Some((links.clone(), Instant::now()));
        Ok(links)
    }

    /// The links of [`Self::links`] where they were read not long ago, with the pods' links `new` as they
    /// are now, and of the others those that `may_be` there. Reading takes 30 µs a link, and a pod waits.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn links_with(
        &mut self,
        new: &[&str],
        may_be: impl Fn(&str) -> bool,
    ) -> Result<HostLinks, NetlinkError> {
        let (mut links, read) = match self.known_links.take() {
            Some((links, read)) if read.elapsed() <= LINKS_COUNT && new.len() <= ONE_BY_ONE => {
                (links, read)
            }
            _ => return self.links().await,
        };
        links.retain(|name, _| !link::is_pod(name) || may_be(name));
        for name in new {
            match self.netlink.link(name).await? {
                Some(found) => links.insert(found.name.clone(), host_link(&found)),
                None => links.remove(*name),
            };
        }
        self.known_links = Some((links.clone(), read));
        Ok(links)
    }

    /// A link has changed: all are read next time.
    pub fn forget_links(&mut self) {
        self.known_links = None;
    }

    /// Whether the gateway's link is there. The kernel's silence is no.
    pub async fn has_gateway(&self) -> bool {
        let gateway = self.netlink.link(link::GATEWAY).await;
        gateway.is_ok_and(|link| link.is_some())
    }

    /// Makes an nftables table what it must be. On the userspace datapath this comes before a pod's
    /// link is set up.
    pub async fn sync_table(&mut self, table: &NftTable, look: Look, errors: &mut HostErrors) {
        let (family, name) = (table.family.as_str(), table.name);
        let applied = if table.chains.is_empty() {
            self.nft.sync(family, name, table.text.as_deref()).await
        } else {
            let chains = &table.chains;
            self.nft.sync_chains(family, name, chains, look).await
        };
        if let Some(applied) = errors.note(applied) {
            debug!(family, table = name, ?applied, "nftables");
        }
    }

    /// Names of our tables that must not exist any more.
    pub async fn remove_tables(&mut self, errors: &mut HostErrors) {
        for (family, name) in [
            (NftFamily::Inet, carrick_datapath::services::SERVICES_TABLE),
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
        // Those of router advertisements depend on what they were, and stay while we are here.
        let unwanted =
            |key: &str| !desired.sysctls.contains_key(key) && !key.ends_with("/accept_ra");
        self.give_sysctls_back(unwanted, errors);
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

    /// Removes our routes, and gives sysctls back that still have the value we set.
    pub async fn remove_stack(&mut self, errors: &mut HostErrors) {
        for origin in [RouteOrigin::CARRICK_SERVICES, RouteOrigin::CARRICK] {
            let outcome = self.netlink.sync_routes(origin, &BTreeSet::new()).await;
            if let Some(outcome) = errors.note(outcome) {
                errors.extend(outcome.failed);
            }
        }
        self.give_sysctls_back(|_| true, errors);
    }

    /// Gives those sysctls back that still have the value we set.
    fn give_sysctls_back(&mut self, which: impl Fn(&str) -> bool, errors: &mut HostErrors) {
        let mut sysctls = self.before.get().sysctls.clone();
        sysctls.retain(|key, _| which(key));
        for (key, changed) in sysctls {
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
        up: link.up,
        mac: link.mac.map(|mac| MacAddr(mac.0)),
        addresses: Vec::new(),
    }
}
