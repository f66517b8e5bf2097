//! The host's part of Services in mode `Full`: table `inet carrick-services`, which changes by elements, and
//! routes to the gateway.
//!
//! A change is one transaction of nft. What only goes leaves the host before the switch, everything else
//! comes after it, so that the host never sends to the switch what that does not know yet. After a start, an error
//! and from time to time the kernel is read, and only what differs is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use carrick_api::names::link;
use carrick_datapath::next_hop;
use carrick_datapath::services::{
    HostChange, HostServices, NodeView, ProxyMode, SERVICES_TABLE, host_table, virtual_routes,
};
use carrick_k8s::telemetry::{chain, some};
use carrick_node::{
    LinkIndex, Netlink, NetlinkError, Nft, NftError, Route, RouteOrigin, flush_udp,
};
use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::plan::HostLink;

mod held;

use held::{Sets, both, gone, script, sets_of, udp_places, without};

/// The family of our table.
const FAMILY: &str = "inet";
/// How often the kernel is read when nothing happened: somebody may have changed it.
const CHECK: Duration = Duration::from_secs(10);
/// Reading takes at most one part of so many of the time.
const READING: u32 = 100;
/// Pause after an error.
const RETRY: Duration = Duration::from_secs(2);
/// Addresses and errors that a sentence names.
const NAMED: usize = 5;

/// Why the host's part is not as it must be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// nftables.
    #[error(
        "the rules of Services on this host: nft must work on it, and table {FAMILY} {SERVICES_TABLE} is ours alone"
    )]
    Rules(#[from] NftError),
    /// Routes cannot be read.
    #[error("the routes of Services on this host")]
    Routes(#[from] NetlinkError),
    /// A route cannot be changed.
    #[error(
        "the route of Services to {destination}: a route of somebody else must not have that destination"
    )]
    Route {
        /// Where to.
        destination: IpNet,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// What the host must be beside the Services themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// The table without elements.
    frame: String,
    node: NodeView,
    /// The gateway as the host has it now: with another one its routes are gone.
    gateway: Option<HostLink>,
    /// Addresses that are never led to the switch, whatever Service claims them.
    kept: BTreeSet<IpAddr>,
}

/// What the kernel has.
#[derive(Debug)]
struct Held {
    gateway: LinkIndex,
    sets: Sets,
    routes: BTreeSet<Route>,
}

/// The host's part of Services.
#[derive(Debug)]
pub(crate) struct ServiceHost {
    nft: Nft,
    netlink: Netlink,
    target: Option<Target>,
    /// None when it must be read.
    held: Option<Held>,
    /// Whether everything that is wanted was compared with it since.
    settled: bool,
    /// When the kernel was read, and what that took.
    read: Option<(Instant, Duration)>,
    /// Nothing is tried before.
    retry: Option<Instant>,
    /// Whether nothing of ours is left, in the other modes.
    left: bool,
    error: Option<String>,
    /// Since when.
    failing: Option<Instant>,
}

impl ServiceHost {
    /// Knows nothing yet.
    pub(crate) fn new(nft: Nft, netlink: Netlink) -> Self {
        Self {
            nft,
            netlink,
            target: None,
            held: None,
            settled: false,
            read: None,
            retry: None,
            left: false,
            error: None,
            failing: None,
        }
    }

    /// Takes what the node is.
    pub(crate) fn set_node(
        &mut self,
        node: &NodeView,
        gateway: Option<&HostLink>,
        kept: BTreeSet<IpAddr>,
    ) {
        let none = HostServices::default();
        let frame = host_table(&none, node, ProxyMode::Full, link::GATEWAY);
        let target = Target {
            frame: frame.unwrap_or_default(),
            node: node.clone(),
            gateway: gateway.cloned(),
            kept,
        };
        if self.target.as_ref() != Some(&target) {
            self.target = Some(target);
            self.held = None;
        }
    }

    /// What went wrong last, with the mend.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Since when the host is not what it must be.
    pub(crate) const fn failing(&self) -> Option<Instant> {
        self.failing
    }

    /// Addresses that Services claim and that are not led to the switch, in words.
    pub(crate) fn kept_off(&self, services: &HostServices) -> Option<String> {
        let target = self.target.as_ref()?;
        let claimed = services.routes();
        let claimed = claimed.iter().map(IpNet::addr);
        let off: Vec<String> = claimed
            .filter(|address| target.kept.contains(address))
            .map(|address| address.to_string())
            .collect();
        (!off.is_empty()).then(|| {
            format!(
                "this host does not reach Services by {}, which the API server or another node has: take it out of \
                 externalIPs and of load balancers",
                some(&off, NAMED)
            )
        })
    }

    /// Whether an address is never led to the switch: the API server or another node has it.
    pub(crate) fn keeps_off(&self, address: IpAddr) -> bool {
        let target = self.target.as_ref();
        target.is_some_and(|target| target.kept.contains(&address))
    }

    /// Takes everything of ours off the host: in the modes that serve none of its clients.
    pub(crate) async fn leave(&mut self) {
        if self.left || self.retry.is_some_and(|retry| Instant::now() < retry) {
            return;
        }
        match self.try_leave().await {
            Ok(()) => {
                self.left = true;
                self.error = None;
            }
            Err(error) => self.fails(&error),
        }
    }

    async fn try_leave(&mut self) -> Result<(), HostError> {
        self.nft.sync(FAMILY, SERVICES_TABLE, None).await?;
        let none = BTreeSet::new();
        let origin = RouteOrigin::CARRICK_SERVICES;
        let outcome = self.netlink.sync_routes(origin, &none).await?;
        match outcome.failed.into_iter().next() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Reads the kernel where that is due, and takes away what is nobody's. Call when Services are known,
    /// before the switch is changed.
    pub(crate) async fn look(&mut self, services: &HostServices) {
        let now = Instant::now();
        let due = match (&self.held, self.read) {
            (Some(_), Some((when, cost))) => now - when >= CHECK.max(cost * READING),
            _ => self.retry.is_none_or(|retry| now >= retry),
        };
        if !due {
            return;
        }
        let done = self.read(services).await;
        self.read = Some((now, now.elapsed()));
        self.settled = false;
        match done {
            Ok(held) => self.held = held,
            Err(error) => return self.fails(&error),
        }
        if let Some(held) = &self.held {
            let wanted = services.elements();
            let extra = without(&held.sets, wanted);
            let going = gone(&extra, &without(wanted, &held.sets));
            self.change(&going, &Sets::new()).await;
        }
    }

    /// What the kernel has, after the frame was put in place; `None` while there is no gateway.
    async fn read(&mut self, services: &HostServices) -> Result<Option<Held>, HostError> {
        let Some(target) = &self.target else {
            return Ok(None);
        };
        let Some(gateway) = self.netlink.link(link::GATEWAY).await? else {
            return Ok(None);
        };
        let framed = self
            .nft
            .framed(FAMILY, SERVICES_TABLE, &target.frame)
            .await?;
        let (sets, same) = match &framed {
            Some(framed) => {
                let (sets, whole) = sets_of(&framed.elements);
                (sets, framed.same && whole)
            }
            None => (Sets::new(), false),
        };
        let sets = if same {
            sets
        } else {
            // What is there stays in force while the table is made anew.
            let stays = both(&sets, services.elements());
            let elements = script(&Sets::new(), &stays);
            let frame = &target.frame;
            let load = self
                .nft
                .load_framed(FAMILY, SERVICES_TABLE, frame, &elements);
            load.await?;
            info!("the host's table of Services was made anew");
            stays
        };
        let routes = self.netlink.routes().await?.into_iter();
        let origin = RouteOrigin::CARRICK_SERVICES;
        Ok(Some(Held {
            gateway: gateway.index,
            sets,
            routes: routes.filter(|route| route.origin == origin).collect(),
        }))
    }

    /// Takes away what only goes with a batch. Call before the switch is changed.
    pub(crate) async fn before(&mut self, change: &HostChange) {
        let Some(held) = &self.held else { return };
        let removed = both(&change.removed, &held.sets);
        let going = gone(&removed, &change.added);
        self.change(&going, &Sets::new()).await;
        // One that is replaced by a wider or narrower one goes after that has come.
        let replaced = |old: &IpNet| {
            let mut new = change.routed.iter();
            new.any(|new| new.contains(old) || old.contains(new))
        };
        let mut unrouted = change.unrouted.clone();
        unrouted.retain(|route| !replaced(route));
        self.change_routes(&BTreeSet::new(), &unrouted).await;
    }

    /// Changes the rest of a batch. Call after the switch has acknowledged it.
    pub(crate) async fn after(&mut self, change: &HostChange) {
        let Some(held) = &self.held else { return };
        let removed = both(&change.removed, &held.sets);
        let added = without(&change.added, &held.sets);
        self.change(&removed, &added).await;
        self.change_routes(&change.routed, &change.unrouted).await;
    }

    /// Makes the host what all Services need, where that is not known to be so. Call when the switch has all
    /// of them.
    pub(crate) async fn settle(&mut self, services: &HostServices) {
        let (Some(held), Some(target)) = (&self.held, &self.target) else {
            return;
        };
        if self.settled {
            return;
        }
        let wanted = services.elements();
        let removed = without(&held.sets, wanted);
        let added = without(wanted, &held.sets);
        let mut routes = services.routes();
        routes.extend(virtual_routes(&target.node));
        let there: BTreeSet<IpNet> = held.routes.iter().map(|route| route.destination).collect();
        let gone: BTreeSet<IpNet> = there.difference(&routes).copied().collect();
        self.change(&removed, &added).await;
        self.change_routes(&routes, &gone).await;
        if self.held.is_some() {
            self.settled = true;
            self.retry = None;
            self.error = None;
            self.failing = None;
        }
    }

    /// Changes elements by one transaction, where there is anything to change.
    async fn change(&mut self, removed: &Sets, added: &Sets) {
        let Some(held) = &mut self.held else { return };
        if removed.is_empty() && added.is_empty() {
            return;
        }
        let script = script(removed, added);
        match self.nft.change(FAMILY, SERVICES_TABLE, &script).await {
            Ok(()) => {
                held::apply(&mut held.sets, removed, added);
                let count = |sets: &Sets| sets.values().map(BTreeSet::len).sum::<usize>();
                let places = udp_places([removed, added]);
                let (removed, added) = (count(removed), count(added));
                info!(removed, added, "rules of Services on the host changed");
                if !places.is_empty()
                    && let Err(error) = flush_udp(None, places).await
                {
                    // Those who pause come to their endpoint all the same.
                    warn!(
                        error = chain(&error),
                        "UDP connections to Services may lead nowhere"
                    );
                }
            }
            Err(error) => self.fails(&error.into()),
        }
    }

    /// Adds routes, then removes routes; one that fails does not keep others.
    async fn change_routes(&mut self, routed: &BTreeSet<IpNet>, unrouted: &BTreeSet<IpNet>) {
        let (Some(held), Some(target)) = (&mut self.held, &self.target) else {
            return;
        };
        let mut failed = Vec::new();
        let known: BTreeMap<IpNet, Route> = held
            .routes
            .iter()
            .map(|route| (route.destination, route.clone()))
            .collect();
        let mut added = 0;
        for route in routed
            .iter()
            .filter_map(|destination| target.route(*destination, held.gateway))
        {
            let done = match known.get(&route.destination) {
                Some(held) if *held == route => continue,
                Some(_) => self.netlink.replace_route(&route).await,
                None => self.netlink.add_route(&route).await,
            };
            match done {
                Ok(()) => {
                    held.routes
                        .retain(|held| held.destination != route.destination);
                    held.routes.insert(route);
                    added += 1;
                }
                Err(source) => failed.push((route.destination, source)),
            }
        }
        let removed: Vec<Route> = held
            .routes
            .iter()
            .filter(|route| {
                unrouted.contains(&route.destination) || target.keeps_off(&route.destination)
            })
            .cloned()
            .collect();
        for route in &removed {
            match self.netlink.delete_route(route).await {
                Ok(()) => {
                    held.routes.remove(route);
                }
                Err(source) => failed.push((route.destination, source)),
            }
        }
        if added + removed.len() > 0 {
            let removed = removed.len();
            info!(removed, added, "routes of Services on the host changed");
        }
        if let Some((destination, source)) = failed.into_iter().next() {
            self.fails(&HostError::Route {
                destination,
                source,
            });
        }
    }

    fn fails(&mut self, error: &HostError) {
        let text = chain(error);
        if self.error.as_ref() != Some(&text) {
            warn!(
                error = text,
                "the host's part of Services could not be changed"
            );
        }
        self.error = Some(text);
        self.held = None;
        self.settled = false;
        self.retry = Some(Instant::now() + RETRY);
        self.failing.get_or_insert_with(Instant::now);
    }
}

impl Target {
    fn keeps_off(&self, destination: &IpNet) -> bool {
        destination.prefix_len() == destination.max_prefix_len()
            && self.kept.contains(&destination.addr())
    }

    /// The route to a destination, which the host's own packets take with the gateway's source.
    fn route(&self, destination: IpNet, gateway: LinkIndex) -> Option<Route> {
        let family = |own: &IpAddr| own.is_ipv4() == destination.addr().is_ipv4();
        let source = self.node.gateway.iter().find(family)?;
        if self.keeps_off(&destination) {
            return None;
        }
        let mut route = Route::via(destination, gateway, next_hop(source), Some(source));
        route.origin = RouteOrigin::CARRICK_SERVICES;
        Some(route)
    }
}
