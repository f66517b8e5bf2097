//! Which link of the host carries traffic between nodes, and by which addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use carrick_api::effective::{EffectiveConfig, TrafficMode};
use carrick_api::names::link;
use carrick_datapath::{Addresses, DatapathKind};
use ipnet::IpNet;

use super::{HostLink, HostLinks, PlanError};

/// The link that carries traffic between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// The NIC.
    pub link: String,
    /// The link that holds its addresses: itself, or the bridge it is in.
    pub holder: String,
    /// Whether it is in a bridge of Open vSwitch: tunnels of the userspace datapath begin and end there.
    pub bridged: bool,
    /// Its MTU.
    pub mtu: u32,
    /// This node's addresses on it.
    pub endpoints: Addresses,
    /// The subnets it is on.
    pub subnets: Vec<IpNet>,
}

/// Finds it.
///
/// # Errors
/// There is none, or it must not be taken; the text says what mends it.
pub(super) fn transport(
    config: &EffectiveConfig,
    datapath: DatapathKind,
    node_addresses: &[IpAddr],
    links: &HostLinks,
) -> Result<Transport, PlanError> {
    let asked = config.traffic.transport_interface.as_str();
    let cidrs = config.traffic.transport_cidrs.as_slice();
    let bridged = datapath == DatapathKind::Netdev && config.traffic.mode != TrafficMode::NoEncap;
    let no = |reason: String| PlanError::NoTransport { reason };
    let nic = if !asked.is_empty() {
        links.get(asked).ok_or_else(|| {
            no(format!(
                "there is no interface {asked} here: correct traffic.transport.interface"
            ))
        })?
    } else if bridged {
        return Err(no(
            "tunnels of the userspace datapath need traffic.transport.interface".to_owned(),
        ));
    } else if cidrs.is_empty() {
        let held: BTreeSet<IpAddr> = node_addresses.iter().copied().collect();
        links
            .values()
            .find(|link| link.addresses.iter().any(|net| held.contains(&net.addr())))
            .ok_or_else(|| {
                no(format!(
                    "no interface of this node holds one of its InternalIPs ({}): set \
                     traffic.transport.interface",
                    list(node_addresses)
                ))
            })?
    } else {
        links
            .values()
            .find(|link| !endpoints(link, node_addresses, cidrs).is_empty())
            .ok_or_else(|| {
                no(format!(
                    "no interface of this node has an address in traffic.transport.cidrs ({}): add the range \
                     this node's addresses are in",
                    list(cidrs)
                ))
            })?
    };
    // The NIC's addresses are on the bridge it is in; from one of an earlier release, which bridged it
    // without a tunnel too, the pass gives them back.
    let given = |link: &&HostLink| !endpoints(link, node_addresses, cidrs).is_empty();
    let bridge = links.get(link::TRANSPORT_BRIDGE).filter(given);
    let has_them = match datapath {
        DatapathKind::Netdev if bridged || !given(&nic) => bridge.unwrap_or(nic),
        DatapathKind::Netdev | DatapathKind::System => nic,
    };
    let holder = if bridged { has_them } else { nic };
    if bridged
        && let Some(address) = has_them
            .addresses
            .iter()
            .map(IpNet::addr)
            .find(|held| node_addresses.contains(held))
    {
        return Err(PlanError::TransportInUse {
            link: nic.name.clone(),
            address,
        });
    }
    let endpoints = endpoints(has_them, node_addresses, cidrs);
    if endpoints.is_empty() {
        let within = if cidrs.is_empty() {
            String::new()
        } else {
            format!(" in traffic.transport.cidrs ({})", list(cidrs))
        };
        return Err(no(format!(
            "interface {} has no address that other nodes can reach{within}: give it one, or choose another \
             traffic.transport.interface",
            has_them.name
        )));
    }
    let subnets = reachable(has_them).map(|net| net.trunc()).collect();
    Ok(Transport {
        link: nic.name.clone(),
        holder: holder.name.clone(),
        bridged,
        mtu: nic.mtu,
        endpoints,
        subnets,
    })
}

/// A link's addresses that other nodes can reach.
fn reachable(link: &HostLink) -> impl Iterator<Item = IpNet> + '_ {
    let usable = |net: &IpNet| match net.addr() {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback() && !v6.is_unspecified(),
    };
    link.addresses.iter().copied().filter(usable)
}

/// One address per family: the node's own where the link holds it, else the link's first that
/// other nodes can reach; only within `cidrs` where there are any.
fn endpoints(link: &HostLink, node_addresses: &[IpAddr], cidrs: &[IpNet]) -> Addresses {
    let held = || {
        reachable(link)
            .map(|net| net.addr())
            .filter(|address| cidrs.is_empty() || cidrs.iter().any(|range| range.contains(address)))
    };
    let own = held().filter(|address| node_addresses.contains(address));
    Addresses::first_of(own.chain(held()))
}

fn list(items: &[impl ToString]) -> String {
    let words: Vec<_> = items.iter().map(ToString::to_string).collect();
    words.join(", ")
}
