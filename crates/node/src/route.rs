//! Routes of the main table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
    RouteProtocol, RouteScope, RouteType,
};
use serde::{Deserialize, Serialize};

use crate::address::family;
use crate::link::LinkIndex;
use crate::netlink::{Netlink, NetlinkError, Outcome};

/// Who made a route (`rtm_protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteOrigin(pub u8);

impl RouteOrigin {
    /// The kernel, with an address.
    pub const KERNEL: Self = Self(2);
    /// An administrator (`proto static`).
    pub const STATIC: Self = Self(4);
    /// Us: 'C'; no daemon in iproute2's `rt_protos` has it.
    pub const CARRICK: Self = Self(67);
    /// Us, for Services: 'D'. They come and go with objects of the API, the others with nodes.
    pub const CARRICK_SERVICES: Self = Self(68);
}

/// The metric an IPv6 route has that asks for none (`IP6_RT_PRIO_USER`).
const DEFAULT_METRIC_V6: u32 = 1024;

/// A unicast route of the main table with one next hop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Out of which link.
    pub link: LinkIndex,
    /// The next hop; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The next hop is on the link though no address says so.
    pub onlink: bool,
    /// The source address packets get that have none yet.
    pub source: Option<IpAddr>,
    /// The lower wins; 0 is the family's default.
    pub metric: u32,
    /// MTU towards the destination.
    pub mtu: Option<u32>,
    /// Who made it.
    pub origin: RouteOrigin,
}

impl Route {
    /// A route of ours through `gateway`, which need not be in any subnet of the link.
    pub fn via(
        destination: IpNet,
        link: LinkIndex,
        gateway: IpAddr,
        source: Option<IpAddr>,
    ) -> Self {
        Self {
            destination: destination.trunc(),
            link,
            gateway: Some(gateway),
            onlink: true,
            source,
            metric: 0,
            mtu: None,
            origin: RouteOrigin::CARRICK,
        }
    }

    /// What the kernel tells routes apart by.
    fn key(&self) -> (IpNet, u32) {
        (self.destination, self.metric)
    }
}

impl Netlink {
    /// Unicast routes of the main table with one next hop. Others (multipath, blackhole) are left
    /// out.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for any in [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ] {
            let mut message = RouteMessage::default();
            message.header.address_family = family(&any);
            let messages = self
                .dump(RouteNetlinkMessage::GetRoute(message), || {
                    "listing routes".to_owned()
                })
                .await?;
            routes.extend(messages.into_iter().filter_map(route_of));
        }
        routes.sort_unstable();
        Ok(routes)
    }

    /// Adds a route. A foreign route to the same destination is not replaced: that is an error.
    pub async fn add_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.put_route(route, NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// Adds a route or replaces the one with its destination and metric.
    pub async fn replace_route(&self, route: &Route) -> Result<(), NetlinkError> {
        self.put_route(route, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Removes a route. `Ok` when it is not there.
    pub async fn delete_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelRoute(message_for(route));
        let operation = || format!("removing the route to {}", route.destination);
        match self.change(message, 0, operation).await {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    /// Makes `desired` the routes of `origin` in the main table; routes of others are not touched.
    pub async fn sync_routes(
        &self,
        origin: RouteOrigin,
        desired: &BTreeSet<Route>,
    ) -> Result<Outcome<Route>, NetlinkError> {
        let present: Vec<Route> = self
            .routes()
            .await?
            .into_iter()
            .filter(|route| route.origin == origin)
            .collect();
        // A route per node and family: looked up, not searched for.
        let wanted: BTreeSet<_> = desired.iter().map(Route::key).collect();
        let held: BTreeMap<_, _> = present.iter().map(|route| (route.key(), route)).collect();
        let mut outcome = Outcome::default();
        for route in present
            .iter()
            .filter(|route| !wanted.contains(&route.key()))
        {
            outcome.record_remove(route.clone(), self.delete_route(route).await);
        }
        for wanted in desired {
            let mut wanted = wanted.clone();
            wanted.origin = origin;
            let result = match held.get(&wanted.key()) {
                Some(held) if **held == wanted => continue,
                Some(_) => self.replace_route(&wanted).await,
                None => self.add_route(&wanted).await,
            };
            outcome.record_add(wanted, result);
        }
        Ok(outcome)
    }

    async fn put_route(&self, route: &Route, flags: u16) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(message_for(route));
        let operation = || match route.gateway {
            Some(gateway) => format!("adding the route to {} via {gateway}", route.destination),
            None => format!("adding the route to {}", route.destination),
        };
        self.change(message, flags, operation).await
    }
}

fn message_for(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let destination = route.destination.trunc();
    message.header.address_family = family(&destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(route.origin.0);
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.gateway.is_none() && destination.addr().is_ipv4() {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    if route.onlink && route.gateway.is_some() {
        message.header.flags = RouteFlags::Onlink;
    }
    let attributes = &mut message.attributes;
    if destination.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(destination.addr().into()));
    }
    attributes.push(RouteAttribute::Oif(route.link.0));
    if let Some(gateway) = route.gateway {
        attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    if let Some(source) = route.source {
        attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    if route.metric != 0 {
        attributes.push(RouteAttribute::Priority(route.metric));
    }
    if let Some(mtu) = route.mtu {
        attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    message
}

fn route_of(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    let header = message.header;
    let mut table = u32::from(header.table);
    let v4 = header.address_family == netlink_packet_route::AddressFamily::Inet;
    let mut destination = None;
    let mut link = None;
    let mut route = Route {
        destination: IpNet::V4(Ipv4Net::default()),
        link: LinkIndex(0),
        gateway: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        source: None,
        metric: 0,
        mtu: None,
        origin: RouteOrigin(header.protocol.into()),
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = id,
            RouteAttribute::Destination(address) => destination = ip(&address),
            RouteAttribute::Gateway(address) => route.gateway = ip(&address),
            RouteAttribute::PrefSource(address) => route.source = ip(&address),
            RouteAttribute::Oif(index) => link = Some(LinkIndex(index)),
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.into_iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(mtu),
                    _ => None,
                });
            }
            RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    if header.kind != RouteType::Unicast
        || table != u32::from(RouteHeader::RT_TABLE_MAIN)
        || header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    if !v4 && route.metric == DEFAULT_METRIC_V6 {
        route.metric = 0;
    }
    route.link = link?;
    route.destination = match destination {
        Some(address) => IpNet::new(address, header.destination_prefix_length).ok()?,
        None if v4 => IpNet::V4(Ipv4Net::default()),
        None => IpNet::V6(Ipv6Net::default()),
    };
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
