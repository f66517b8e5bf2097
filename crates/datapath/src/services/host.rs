//! What the host needs so that its processes and the world outside reach Services in the switch:
//! nftables sets, chains that never change, and routes to the gateway.
//!
//! - A packet to a node port becomes one to a virtual address of the same port
//!   ([`Virtual::NodePort`], [`Virtual::NodePortLocal`]), which is routed to the switch.
//! - A packet to a cluster IP, an external IP or an address of a load balancer is routed as it is.
//! - Where any node's endpoint may answer (policy `Cluster`), the source becomes the gateway's address, so
//!   that the answer comes back through this node. With policy `Local` it stays.
//! - A port that nobody answers for is rejected here, with RST or ICMP, and the switch leaves it alone:
//!   so it is rejected even while the agent is away.
//!
//! The table itself is written by [`host_table`](super::host_table).
//!
//! Everything that changes is an element of a set: a change is a few elements, whatever the size.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::claim::{FrontendKind, Place, Wanted};
use super::input::{NodeView, ProxyMode, Service, TrafficPolicy};
use super::render::{Context, ranges};
use super::tables::{VIRTUAL_V4, VIRTUAL_V6};
use crate::tunnel::IpFamily;

/// The widest route to cluster IPs: the API server's own limit of a Service CIDR is 20 bits.
const CLUSTER_IP_BITS: u8 = 20;

/// An element of a set: the set's name, and the element in nft's language.
pub(super) type Element = (String, String);

/// What one Service adds to the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostPart {
    pub(super) elements: BTreeSet<Element>,
    pub(super) cluster_ips: BTreeSet<IpAddr>,
    /// Addresses from outside that are routed to the switch.
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// What must be done to the host, in this order: remove elements, add elements, add routes, remove
/// routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostChange {
    /// Elements to add, by set of [`super::SERVICES_TABLE`].
    pub added: BTreeMap<String, BTreeSet<String>>,
    /// Elements to remove.
    pub removed: BTreeMap<String, BTreeSet<String>>,
    /// Destinations to route to the gateway's virtual next hop, with the gateway's source.
    pub routed: BTreeSet<IpNet>,
    /// Destinations not to route any more.
    pub unrouted: BTreeSet<IpNet>,
}

impl HostChange {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Everything the host holds for Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostServices {
    elements: BTreeMap<String, BTreeSet<String>>,
    /// How many Services more than one have an element, while it passes from one to another.
    shared: BTreeMap<Element, usize>,
    /// Cluster IPs by the widest network they may be routed with, each with how many Services have it.
    cluster_ips: BTreeMap<IpNet, BTreeMap<IpAddr, usize>>,
    /// Addresses from outside, each with how many Services have a port of it.
    addresses: BTreeMap<IpAddr, usize>,
}

/// Adds what one frontend needs of the host.
pub(super) fn elements(
    to: &mut HostPart,
    service: &Service,
    context: Context<'_>,
    wanted: &Wanted,
    policy: TrafficPolicy,
    nobody: bool,
) {
    if context.options.mode != ProxyMode::Full {
        return;
    }
    let (protocol, port) = (wanted.claim.protocol.name(), wanted.claim.port);
    let service_port = format!("{protocol} . {port}");
    let family = match wanted.claim.place {
        Place::Address(address) => IpFamily::from(address),
        Place::Node(family) => family,
    };
    let mut add = |set: &str, element: String| {
        to.elements.insert((set_name(set, family), element));
    };
    let local = policy == TrafficPolicy::Local;
    let address = match (wanted.claim.place, wanted.own) {
        (Place::Node(_), None) => {
            add(
                match (nobody, local) {
                    (true, _) => "rejected-node-ports",
                    (false, true) => "node-ports-local",
                    (false, false) => "node-ports",
                },
                service_port,
            );
            return;
        }
        (Place::Node(_), Some(own)) => {
            let set = if local { "own-local" } else { "own" };
            if !nobody {
                add(set, format!("{own} . {service_port}"));
            }
            own
        }
        (Place::Address(address), _) => {
            if wanted.kind != FrontendKind::ClusterIp && !local && !nobody {
                add("masqueraded", format!("{address} . {service_port}"));
            }
            address
        }
    };
    if nobody {
        add("rejected", format!("{address} . {service_port}"));
    }
    if wanted.kind == FrontendKind::LoadBalancer && !service.source_ranges.is_empty() {
        add("restricted", format!("{address} . {service_port}"));
        // Overlapping elements of an interval set are refused, the wider one says it all.
        for range in widest(&ranges(service, address)) {
            let set = format!("allowed-{protocol}");
            add(&set, format!("{address} . {port} . {range}"));
        }
    }
    // Without a gateway of the family there is no way to the switch.
    let routed = context
        .node
        .gateway
        .iter()
        .any(|own| IpFamily::from(own) == family);
    match (wanted.claim.place, wanted.kind) {
        _ if !routed => {}
        (Place::Node(_), _) => {}
        (Place::Address(address), FrontendKind::ClusterIp) => {
            to.cluster_ips.insert(address);
        }
        (Place::Address(address), _) => {
            to.addresses.insert(address);
        }
    }
}

pub(super) fn set_name(set: &str, family: IpFamily) -> String {
    let digit = match family {
        IpFamily::V4 => '4',
        IpFamily::V6 => '6',
    };
    format!("{set}{digit}")
}

/// The ranges that no other one contains.
pub(super) fn widest(ranges: &[IpNet]) -> Vec<IpNet> {
    let contained = |range: &IpNet| {
        ranges
            .iter()
            .any(|other| other != range && other.contains(range))
    };
    ranges
        .iter()
        .filter(|range| !contained(range))
        .copied()
        .collect()
}

impl HostServices {
    /// The sets with their elements.
    pub fn elements(&self) -> &BTreeMap<String, BTreeSet<String>> {
        &self.elements
    }

    /// Everything that must be routed to the gateway, the ranges of virtual addresses with it.
    pub fn routes(&self) -> BTreeSet<IpNet> {
        let clusters = self.cluster_ips.values().filter_map(covering);
        let mut routes: BTreeSet<IpNet> = clusters.collect();
        routes.extend(self.addresses.keys().copied().map(IpNet::from));
        routes
    }

    /// Replaces what one Service adds; what changes by it is added to `change`.
    pub(super) fn replace(&mut self, old: &HostPart, new: &HostPart, change: &mut HostChange) {
        for element in old.elements.difference(&new.elements) {
            self.remove_element(element, change);
        }
        for element in new.elements.difference(&old.elements) {
            self.add_element(element, change);
        }
        let touched = old
            .cluster_ips
            .symmetric_difference(&new.cluster_ips)
            .filter_map(|address| widest_cluster(*address));
        let touched: BTreeSet<IpNet> = touched.collect();
        let before: BTreeSet<IpNet> = touched
            .iter()
            .filter_map(|n| self.cluster_route(n))
            .collect();
        for address in old.cluster_ips.difference(&new.cluster_ips) {
            if let Some(network) = widest_cluster(*address)
                && let Some(known) = self.cluster_ips.get_mut(&network)
            {
                release(known, address);
                if known.is_empty() {
                    self.cluster_ips.remove(&network);
                }
            }
        }
        for address in new.cluster_ips.difference(&old.cluster_ips) {
            if let Some(network) = widest_cluster(*address) {
                *self
                    .cluster_ips
                    .entry(network)
                    .or_default()
                    .entry(*address)
                    .or_default() += 1;
            }
        }
        let after: BTreeSet<IpNet> = touched
            .iter()
            .filter_map(|n| self.cluster_route(n))
            .collect();
        for route in before.difference(&after) {
            unroute(change, *route);
        }
        for route in after.difference(&before) {
            route_to(change, *route);
        }
        for address in old.addresses.difference(&new.addresses) {
            release(&mut self.addresses, address);
            if !self.addresses.contains_key(address) {
                unroute(change, IpNet::from(*address));
            }
        }
        for address in new.addresses.difference(&old.addresses) {
            let count = self.addresses.entry(*address).or_default();
            *count += 1;
            if *count == 1 {
                route_to(change, IpNet::from(*address));
            }
        }
    }

    fn add_element(&mut self, element: &Element, change: &mut HostChange) {
        let (set, text) = element;
        if self
            .elements
            .entry(set.clone())
            .or_default()
            .insert(text.clone())
        {
            move_to(&mut change.added, &mut change.removed, set, text);
        } else {
            *self.shared.entry(element.clone()).or_default() += 1;
        }
    }

    fn remove_element(&mut self, element: &Element, change: &mut HostChange) {
        if let Some(more) = self.shared.get_mut(element) {
            *more -= 1;
            if *more == 0 {
                self.shared.remove(element);
            }
            return;
        }
        let (set, text) = element;
        if let Some(elements) = self.elements.get_mut(set) {
            elements.remove(text);
            if elements.is_empty() {
                self.elements.remove(set);
            }
        }
        move_to(&mut change.removed, &mut change.added, set, text);
    }

    fn cluster_route(&self, network: &IpNet) -> Option<IpNet> {
        covering(self.cluster_ips.get(network)?)
    }
}

fn move_to(
    to: &mut BTreeMap<String, BTreeSet<String>>,
    from: &mut BTreeMap<String, BTreeSet<String>>,
    set: &str,
    element: &str,
) {
    if let Some(elements) = from.get_mut(set)
        && elements.remove(element)
    {
        if elements.is_empty() {
            from.remove(set);
        }
        return;
    }
    to.entry(set.to_owned())
        .or_default()
        .insert(element.to_owned());
}

fn route_to(change: &mut HostChange, route: IpNet) {
    if !change.unrouted.remove(&route) {
        change.routed.insert(route);
    }
}

fn unroute(change: &mut HostChange, route: IpNet) {
    if !change.routed.remove(&route) {
        change.unrouted.insert(route);
    }
}

fn release(counts: &mut BTreeMap<IpAddr, usize>, address: &IpAddr) {
    if let Some(count) = counts.get_mut(address) {
        *count -= 1;
        if *count == 0 {
            counts.remove(address);
        }
    }
}

/// The widest network that a cluster IP is routed with.
fn widest_cluster(address: IpAddr) -> Option<IpNet> {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let network = IpNet::new(address, bits - CLUSTER_IP_BITS).ok()?;
    Some(network.trunc())
}

/// The smallest network that holds all of some addresses of one family: one route for thousands of
/// cluster IPs, as the range they come from is nowhere said.
fn covering(addresses: &BTreeMap<IpAddr, usize>) -> Option<IpNet> {
    let (first, _) = addresses.first_key_value()?;
    let (last, _) = addresses.last_key_value()?;
    let common = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return None,
    };
    let network = IpNet::new(*first, u8::try_from(common).ok()?).ok()?;
    Some(network.trunc())
}

/// Ranges of the virtual addresses, which are routed to the gateway in mode `Full`, by the families
/// the gateway has.
pub fn virtual_routes(node: &NodeView) -> BTreeSet<IpNet> {
    let ranges = [VIRTUAL_V4, VIRTUAL_V6].into_iter();
    let ranges = ranges.filter_map(|range| range.parse::<IpNet>().ok());
    let has = |family| node.gateway.iter().any(|own| IpFamily::from(own) == family);
    ranges
        .filter(|range| has(IpFamily::from(range.addr())))
        .collect()
}
