//! The part of the pipeline that serves all Services: what is the same however many there are.
//!
//! ```text
//! ct-state ─new─▶ service ─▶ service-affinity ─▶ service-select ─┬─▶ group ─▶ ct(nat) ─▶ egress-policy
//!                    │        (learned flows)                    │     └─▶ service-learn ─┐
//!                    └─▶ group ─▶ ct(nat)                        └─▶ service-endpoint ◀───┘
//! ```
//!
//! Registers: `reg0[10]` a client's packet that has its endpoint, `reg3` or `xxreg3` address of the endpoint that affinity chose, `reg4[0..15]` its port,
//! `reg4[16]` one is chosen, `reg6` hash bits that choose a shard, `reg7` the group of the port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::group::{MAX_SHARD_BITS, hash_group_line};
use super::input::ProxyMode;
use crate::flow::{Proto, goto};
use crate::pipeline::{CT_ZONE, ESTABLISHED, Source, Stage};
use crate::state::{NodeState, Pod, Port};
use crate::table::Table;
use crate::tunnel::IpFamily;

/// The conntrack zone of hairpin connections, whose source is translated as well: an entry has room for
/// one translation.
pub const CT_ZONE_SNAT: u16 = 65521;
/// `ct_mark` bit of a connection to a Service.
pub const CT_MARK_SERVICE: &str = "0x2/0x2";
/// `reg0` bit: a packet from a client to a Service, which has its endpoint. Connection tracking's own
/// fields are gone where this is asked: the switch clears them when a connection is committed.
pub(super) const TO_ENDPOINT: &str = "0x400/0x400";
/// `reg4` bit: affinity has chosen an endpoint.
pub(super) const SELECTED: u32 = 0x1_0000;

/// Link-local addresses of our own: never forwarded by anybody else.
pub const VIRTUAL_V4: &str = "169.254.77.0/24";
/// Unique local addresses of our own (RFC 4193; the random part spells "carrick"): link-local ones
/// cannot be routed.
pub const VIRTUAL_V6: &str = "fd63:6172:7269:636b::/64";

/// An address that exists between the host and the switch only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Virtual {
    /// Where the host sends packets to node ports of policy `Cluster`.
    NodePort,
    /// Where the host sends packets to node ports of policy `Local`.
    NodePortLocal,
    /// What an endpoint sees as the source when it is its own client, and the host when its own
    /// connection comes back to it.
    Hairpin,
}

/// The virtual address of a family. The first address of the range is the next hop of routes.
pub const fn virtual_address(which: Virtual, family: IpFamily) -> IpAddr {
    let last = match which {
        Virtual::NodePort => 2,
        Virtual::NodePortLocal => 3,
        Virtual::Hairpin => 4,
    };
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::new(169, 254, 77, last)),
        IpFamily::V6 => {
            let prefix = [0xfd63, 0x6172, 0x7269, 0x636b];
            let [a, b, c, d] = prefix;
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, last as u16))
        }
    }
}

const FAMILIES: [(IpFamily, Proto); 2] = [(IpFamily::V4, Proto::Ip), (IpFamily::V6, Proto::Ipv6)];

/// Flows and groups that all Services share.
pub(crate) fn service_tables(stage: &mut Stage<'_>, groups: &mut Vec<String>, state: &NodeState) {
    stage.miss(Table::HairpinReply, "drop");
    stage.miss(Table::Service, goto(Table::EgressPolicy));
    for table in [
        Table::ServiceAffinity,
        Table::ServiceSelect,
        Table::ServiceShard,
        Table::ServiceLearn,
        Table::ServiceEndpoint,
    ] {
        // Learned flows and buckets return here when nothing is found; nothing else comes.
        stage.miss(table, "drop");
    }
    stage.miss(Table::Hairpin, goto(Table::Output));
    if state.services == ProxyMode::Disabled {
        return;
    }
    groups.extend((1..=MAX_SHARD_BITS).map(hash_group_line));

    let new = stage.flow(Table::CtState, 190, Proto::Any);
    stage.add(new.on("ct_state", "+new+trk").goto(Table::Service));
    // The first packet sent again: it has its endpoint already.
    let again = stage
        .flow(Table::CtState, 195, Proto::Any)
        .on("ct_state", "+new+trk")
        .on("ct_mark", CT_MARK_SERVICE);
    let to = goto(Table::EgressPolicy);
    stage.add(again.actions(format!("set_field:{TO_ENDPOINT}->reg0,{to}")));
    let established = stage
        .flow(Table::CtState, 205, Proto::Any)
        .on("ct_state", "-new-rpl+trk")
        .on("ct_mark", "0x3/0x3");
    let to = goto(Table::Routing);
    stage.add(established.actions(format!(
        "set_field:{ESTABLISHED}->reg0,set_field:{TO_ENDPOINT}->reg0,{to}"
    )));

    // What affinity remembers goes on; what it remembers of an endpoint that is gone is chosen anew.
    let chosen = |stage: &mut Stage<'_>, table, priority| {
        let flow = stage.flow(table, priority, Proto::Any);
        flow.on("reg4", format!("{SELECTED:#x}/{SELECTED:#x}"))
    };
    let flow = chosen(stage, Table::ServiceSelect, 200).goto(Table::ServiceEndpoint);
    stage.add(flow);
    let gone = chosen(stage, Table::ServiceEndpoint, 100);
    stage.add(gone.actions(format!(
        "set_field:0/{SELECTED:#x}->reg4,resubmit(,{})",
        Table::ServiceSelect.id()
    )));

    for (family, proto) in FAMILIES {
        let own = virtual_address(Virtual::Hairpin, family);
        // Its own table, not this one again: what has no entry would go round.
        let reply = stage.flow(Table::Conntrack, 210, proto).dst(own);
        stage.add(reply.actions(format!(
            "ct(table={},zone={CT_ZONE_SNAT},nat)",
            Table::HairpinReply.id()
        )));
        let track = stage.flow(Table::HairpinReply, 200, proto);
        stage.add(track.actions(format!(
            "ct(table={},zone={CT_ZONE},nat)",
            Table::CtState.id()
        )));
    }
    for (proto, field, net) in [
        (Proto::Ip, "nw_dst", VIRTUAL_V4),
        (Proto::Ipv6, "ipv6_dst", VIRTUAL_V6),
    ] {
        let nobody = stage.flow(Table::Routing, 145, proto).on(field, net);
        stage.add(nobody.drop());
    }
    // The host's own connection to an endpoint on a host's network, or outside: back to the host.
    let back = stage
        .flow(Table::Routing, 100, Proto::Any)
        .on("reg0", format!("{:#x}/0xf", Source::Gateway as u8))
        .on("ct_mark", CT_MARK_SERVICE);
    let gateway = state.gateway;
    stage.add(back.actions(format!(
        "set_field:{}->eth_dst,set_field:{}->reg1,{}",
        gateway.mac,
        gateway.port,
        goto(Table::IngressEstablished)
    )));
    hairpin(stage, gateway.port);
}

/// Flows of a pod that may be its own client.
pub(crate) fn hairpin_flows(stage: &mut Stage<'_>, state: &NodeState, pod: &Pod) {
    if state.services != ProxyMode::Disabled {
        hairpin(stage, pod.port);
    }
}

/// What goes back to where it came from gets another source: an endpoint does not answer itself, and
/// the host drops packets from its own address. Not the replies, which have their own.
fn hairpin(stage: &mut Stage<'_>, port: Port) {
    for (family, proto) in FAMILIES {
        let flow = stage
            .flow(Table::Hairpin, 200, proto)
            .on("reg1", port)
            .in_port(port)
            .on("reg0", TO_ENDPOINT);
        stage.add(flow.actions(format!(
            "ct(commit,table={},zone={CT_ZONE_SNAT},nat(src={}))",
            Table::Output.id(),
            virtual_address(Virtual::Hairpin, family)
        )));
    }
}
