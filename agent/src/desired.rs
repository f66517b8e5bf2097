//! What the switch's database must say, from the plan (pure).

use std::collections::BTreeMap;
use std::sync::Arc;

use carrick_api::names::link;
use carrick_datapath::{DatapathKind, Port, Tunnel, TunnelProtocol};
use carrick_ovsdb::desired::{
    BridgeConfig, DatapathType, FailMode, InterfaceType, OfPort, PortConfig, SwitchConfig,
};

use crate::ipam::Attachment;
use crate::plan::{HostLinks, NodePlan};

/// Key in `external_ids` that says whose a bridge or port is.
pub const OWNER: &str = "carrick";

/// Bridges and ports for this plan and these attachments.
///
/// `fail_mode=secure` is set in the transaction that adds the bridge: set later it would wipe the
/// flows. The MTU of pods' ports is theirs; the gateway gets `mtu_request`, which Open vSwitch keeps
/// when ports come and go.
pub fn switch_config<'a>(
    plan: &NodePlan,
    attachments: impl Iterator<Item = &'a Attachment>,
    links: &HostLinks,
) -> SwitchConfig {
    let datapath = match plan.datapath {
        DatapathKind::System => DatapathType::System,
        DatapathKind::Netdev => DatapathType::Netdev,
    };
    let mut integration = BridgeConfig::new(link::INTEGRATION_BRIDGE, datapath);
    integration.external_ids = owned("integration");
    integration.ports.extend(plan.tunnel.map(tunnel_port));
    integration.ports.push(gateway_port(plan));
    integration.ports.extend(attachments.map(pod_port));
    let mut config = SwitchConfig {
        bridges: vec![integration],
        ..SwitchConfig::default()
    };
    if plan.transport.bridged {
        config.bridges.push(transport_bridge(plan, links));
    } else {
        config
            .absent_bridges
            .insert(link::TRANSPORT_BRIDGE.to_owned());
    }
    config
}

/// The same without the transport interface in its bridge.
pub fn without_transport(
    plan: &NodePlan,
    attachments: &[Arc<Attachment>],
    links: &HostLinks,
) -> SwitchConfig {
    let mut config = switch_config(plan, attachments.iter().map(Arc::as_ref), links);
    for bridge in &mut config.bridges {
        bridge.ports.retain(|port| port.name != plan.transport.link);
    }
    config
}

fn owned(role: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(OWNER.to_owned(), role.to_owned())])
}

/// One port for all tunnels: flows say where each packet goes (`remote_ip=flow`). The key is 0 and
/// matched, so that foreign virtual networks on the same UDP port are not taken for ours; GRE has no
/// key then, which Open vSwitch takes for 0, and 4 bytes less of header.
fn tunnel_port(tunnel: Tunnel) -> PortConfig {
    let kind = match tunnel.protocol {
        TunnelProtocol::Geneve => InterfaceType::Geneve,
        TunnelProtocol::Vxlan => InterfaceType::Vxlan,
        TunnelProtocol::Gre => InterfaceType::Gre,
    };
    let mut port = PortConfig::new(link::TUNNEL, kind)
        .option("remote_ip", "flow")
        .external_id(OWNER, "tunnel");
    if tunnel.protocol != TunnelProtocol::Gre {
        port = port.option("key", "0");
    }
    // Its own port is the default of each protocol.
    if tunnel.port != tunnel.protocol.iana_port()
        && let Some(number) = tunnel.port
    {
        port = port.option("dst_port", number.to_string());
    }
    if tunnel.checksum {
        port = port.option("csum", "true");
    }
    port.ofport_request = OfPort::new(Port::TUNNEL.0);
    port
}

fn gateway_port(plan: &NodePlan) -> PortConfig {
    let mut port =
        PortConfig::new(link::GATEWAY, InterfaceType::Internal).external_id(OWNER, "gateway");
    port.ofport_request = OfPort::new(Port::GATEWAY.0);
    port.mac = Some(plan.gateway.mac.to_string());
    port.mtu_request = Some(plan.mtu);
    port
}

fn pod_port(attachment: &Attachment) -> PortConfig {
    let mut port = PortConfig::new(&attachment.host_link, InterfaceType::System)
        .external_id(OWNER, "pod")
        .external_id("carrick-container", &attachment.key.container_id)
        .external_id("carrick-interface", &attachment.key.ifname)
        .external_id("carrick-pod", attachment.pod.to_string())
        .external_id("carrick-pod-uid", &attachment.pod.uid);
    port.ofport_request = u16::try_from(attachment.ofport).ok().and_then(OfPort::new);
    port
}

/// The transport interface's bridge, where tunnels of the userspace datapath end: an ordinary learning switch with the
/// interface's own MAC address, so that neighbours notice nothing.
fn transport_bridge(plan: &NodePlan, links: &HostLinks) -> BridgeConfig {
    let nic = &plan.transport.link;
    let mut bridge = BridgeConfig::new(link::TRANSPORT_BRIDGE, DatapathType::Netdev);
    bridge.fail_mode = FailMode::Standalone;
    bridge.external_ids = owned("transport");
    if let Some(mac) = links.get(nic).and_then(|link| link.mac) {
        bridge
            .other_config
            .insert("hwaddr".to_owned(), mac.to_string());
    }
    bridge
        .ports
        .push(PortConfig::new(nic, InterfaceType::System).external_id(OWNER, "transport"));
    bridge
}
