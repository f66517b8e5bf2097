//! The flows of the pipeline, stage by stage. Proven by hand on both datapaths before it was
//! written; each comment names what goes wrong without the flow.
//!
//! Registers: `reg0[0..3]` source of the packet ([`Source`]), `reg0[8]` the connection is
//! established, `reg1` the output port, `reg2` scratch of the ARP responder. `reg3` to `reg7` and
//! `xxreg3` are those of Services: see `services/tables.rs`.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cookie::CookieParts;
use crate::flow::{FlowBuilder, FlowLine, Proto, goto};
use crate::services::ProxyMode;
use crate::state::{Gateway, MacAddr, NodeState, Pod, Port, VIRTUAL_MAC};
use crate::table::Table;

/// The conntrack zone of all pod traffic; one serves both families.
pub const CT_ZONE: u16 = 65520;
/// `ct_mark` bit of a connection that policy has let pass.
pub const CT_MARK_ALLOWED: &str = "0x1/0x1";
/// `ct_mark` bit of a connection of a pod that a proxy of its host's has translated: replies go to the host.
const CT_MARK_BY_HOST: &str = "0x4/0x4";
/// [`CT_MARK_ALLOWED`] and [`CT_MARK_BY_HOST`].
const CT_MARK_ALLOWED_BY_HOST: &str = "0x5/0x5";
/// `reg0` bit of a packet of an established connection.
pub(crate) const ESTABLISHED: &str = "0x100/0x100";

/// Neighbour solicitation and advertisement (RFC 4861 §4.3, §4.4).
const NS: u8 = 135;
const NA: u8 = 136;
/// Messages no pod may send to anyone: MLD reports (nobody here listens), router solicitation and
/// advertisement, redirect.
const NOISE: [u8; 4] = [143, 133, 134, 137];

/// Where a packet entered, as `reg0[0..3]`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    Tunnel = 1,
    Gateway = 2,
    Pod = 3,
}

/// Collects flows of one owner.
pub(crate) struct Stage<'a> {
    cookie: CookieParts,
    flows: &'a mut Vec<FlowLine>,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(cookie: CookieParts, flows: &'a mut Vec<FlowLine>) -> Self {
        Self { cookie, flows }
    }

    pub(crate) fn flow(&self, table: Table, priority: u16, proto: Proto) -> FlowBuilder {
        FlowBuilder::new(table, priority, self.cookie, proto)
    }

    pub(crate) fn add(&mut self, line: FlowLine) {
        self.flows.push(line);
    }

    pub(crate) fn miss(&mut self, table: Table, actions: impl Into<String>) {
        let line = self.flow(table, 0, Proto::Any).actions(actions);
        self.add(line);
    }
}

fn classify(source: Source) -> String {
    format!("set_field:{:#x}/0xf->reg0", source as u8)
}

/// Flows that depend on the node alone: miss flows, gateway and tunnel.
pub(crate) fn node_flows(stage: &mut Stage<'_>, state: &NodeState) {
    classifier(stage, state);
    guard_gateway(stage, &state.gateway);
    guard_pods_in_common(stage);
    arp_nd(stage, &state.gateway);
    conntrack(stage, state);
    routing(stage, state);
    output(stage, state);
}

fn classifier(stage: &mut Stage<'_>, state: &NodeState) {
    // A tagged frame matches `ip` too and would be delivered to a neighbour with its tag.
    let tagged = stage.flow(Table::Classifier, 250, Proto::Any);
    stage.add(tagged.on("vlan_tci", "0x1000/0x1000").drop());
    if let Some(tunnel) = state.tunnel {
        for proto in [Proto::Ip, Proto::Ipv6] {
            let from = stage.flow(Table::Classifier, 200, proto).in_port(tunnel);
            let to = goto(Table::Conntrack);
            stage.add(from.actions(format!("{},{to}", classify(Source::Tunnel))));
        }
    }
    let from = stage
        .flow(Table::Classifier, 200, Proto::Any)
        .in_port(state.gateway.port);
    let to = goto(Table::SpoofGuard);
    stage.add(from.actions(format!("{},{to}", classify(Source::Gateway))));
    stage.miss(Table::Classifier, "drop");
}

/// Any source: what the host translates or forwards keeps the one it had, also that of a pod of this node. That
/// it hears pods by the gateway alone is for the host's own rules to see to ([`crate::host`]).
fn guard_gateway(stage: &mut Stage<'_>, gateway: &Gateway) {
    let Gateway {
        port,
        mac,
        addresses,
    } = *gateway;
    for proto in [Proto::Ip, Proto::Ipv6] {
        let any = stage.flow(Table::SpoofGuard, 200, proto).in_port(port);
        stage.add(any.eth_src(mac).goto(Table::Conntrack));
    }
    if let Some(v4) = addresses.v4 {
        let arp = stage
            .flow(Table::SpoofGuard, 200, Proto::Arp)
            .in_port(port)
            .eth_src(mac);
        stage.add(arp.on("arp_sha", mac).on("arp_spa", v4).goto(Table::ArpNd));
    }
    if let Some(v6) = addresses.v6 {
        let answer = stage.flow(Table::SpoofGuard, 215, Proto::Icmp6 { message: NA });
        let answer = answer.on("icmp_code", 0).in_port(port).eth_src(mac);
        stage.add(answer.on("nd_target", v6).goto(Table::ArpNd));
    }
}

/// What holds for every port alike: neighbour discovery that no rule of a port allows, and what
/// no pod may send.
fn guard_pods_in_common(stage: &mut Stage<'_>) {
    for message in [NS, NA] {
        let any = stage.flow(Table::SpoofGuard, 208, Proto::Icmp6 { message });
        stage.add(any.drop());
    }
    for message in NOISE {
        let noise = stage.flow(Table::SpoofGuard, 220, Proto::Icmp6 { message });
        stage.add(noise.drop());
    }
    // Duplicate address detection: nobody here could answer, the address just waits a second.
    let detection = stage.flow(Table::SpoofGuard, 220, Proto::Icmp6 { message: NS });
    stage.add(detection.on("ipv6_src", "::").drop());
    stage.miss(Table::SpoofGuard, "drop");
}

/// An ARP answer made of the request: sender and target change places, `mac` is the answer.
fn arp_answer(mac: MacAddr) -> String {
    format!(
        "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:{mac}->eth_src,set_field:2->arp_op,\
         move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:{mac}->arp_sha,\
         move:NXM_OF_ARP_TPA[]->NXM_NX_REG2[],move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],\
         move:NXM_NX_REG2[]->NXM_OF_ARP_SPA[],IN_PORT"
    )
}

fn arp_nd(stage: &mut Stage<'_>, gateway: &Gateway) {
    if gateway.addresses.v4.is_some() {
        // The host has permanent neighbours and should ask nothing; if it does, all pods are
        // behind the virtual MAC. To a pod everything is behind the gateway.
        let host = stage.flow(Table::ArpNd, 200, Proto::Arp).on("arp_op", 1);
        stage.add(host.in_port(gateway.port).actions(arp_answer(VIRTUAL_MAC)));
        let pods = stage.flow(Table::ArpNd, 190, Proto::Arp).on("arp_op", 1);
        stage.add(pods.actions(arp_answer(gateway.mac)));
    }
    if let Some(v6) = gateway.addresses.v6 {
        // A neighbour advertisement made in the switch is refused by the kernel datapath, so the
        // host's stack answers for the gateway.
        let ask = stage.flow(Table::ArpNd, 200, Proto::Icmp6 { message: NS });
        let ask = ask.on("icmp_code", 0).on("nd_target", v6);
        stage.add(ask.actions(format!("output:{}", gateway.port)));
    }
    stage.miss(Table::ArpNd, "drop");
}

fn conntrack(stage: &mut Stage<'_>, state: &NodeState) {
    // `nat` repeats what the first packet of a connection was given; without Services there is none.
    let nat = match state.services {
        ProxyMode::Disabled => "",
        ProxyMode::ClusterIp | ProxyMode::Full => ",nat",
    };
    for proto in [Proto::Ip, Proto::Ipv6] {
        let track = stage.flow(Table::Conntrack, 200, proto);
        let next = Table::CtState.id();
        stage.add(track.actions(format!("ct(table={next},zone={CT_ZONE}{nat})")));
    }
    stage.miss(Table::Conntrack, "drop");

    let invalid = stage
        .flow(Table::CtState, 210, Proto::Any)
        .on("ct_state", "+inv+trk");
    stage.add(invalid.drop());
    // Related packets (ICMP errors) carry the mark of their connection and pass here as well.
    let established = stage
        .flow(Table::CtState, 200, Proto::Any)
        .on("ct_state", "-new+trk");
    let to = goto(Table::Routing);
    stage.add(
        established
            .on("ct_mark", CT_MARK_ALLOWED)
            .actions(format!("set_field:{ESTABLISHED}->reg0,{to}")),
    );
    stage.miss(Table::CtState, goto(Table::EgressPolicy));
    stage.miss(Table::EgressPolicy, goto(Table::EgressNetworkPolicy));
    stage.miss(Table::EgressNetworkPolicy, goto(Table::EgressDefault));
    stage.miss(Table::EgressDefault, goto(Table::Routing));

    let established = stage.flow(Table::IngressEstablished, 210, Proto::Any);
    stage.add(established.on("reg0", ESTABLISHED).goto(Table::Hairpin));
    stage.miss(Table::IngressEstablished, goto(Table::IngressPolicy));
    // A node may always speak to its pods: the kubelet probes them.
    for own in state.gateway.addresses.iter() {
        let node = stage.flow(Table::IngressPolicy, 65_100, Proto::of(&own));
        let node = node.on("reg0", format!("{:#x}/0xf", Source::Gateway as u8));
        stage.add(node.src(own).goto(Table::Commit));
    }
    stage.miss(Table::IngressPolicy, goto(Table::IngressNetworkPolicy));
    stage.miss(Table::IngressNetworkPolicy, goto(Table::IngressDefault));
    stage.miss(Table::IngressDefault, goto(Table::Commit));

    for proto in [Proto::Ip, Proto::Ipv6] {
        let new = stage
            .flow(Table::Commit, 200, proto)
            .on("ct_state", "+new+trk");
        let to = goto(Table::Hairpin);
        stage.add(new.actions(format!(
            "ct(commit,zone={CT_ZONE},exec(set_field:{CT_MARK_ALLOWED}->ct_mark)),{to}"
        )));
    }
    // A packet of a pod that the host sent back here, to where a proxy of the host's translated it.
    for cidr in &state.pod_cidrs {
        let returned = stage
            .flow(Table::Commit, 210, Proto::of_net(cidr))
            .on("ct_state", "+new+trk")
            .on("reg0", format!("{:#x}/0xf", Source::Gateway as u8))
            .src_net(*cidr);
        let to = goto(Table::Hairpin);
        stage.add(returned.actions(format!(
            "ct(commit,zone={CT_ZONE},exec(set_field:{CT_MARK_ALLOWED_BY_HOST}->ct_mark)),{to}"
        )));
    }
    stage.miss(Table::Commit, goto(Table::Hairpin));
}

fn routing(stage: &mut Stage<'_>, state: &NodeState) {
    let Gateway {
        port,
        mac,
        addresses,
    } = state.gateway;
    let to_host = format!("set_field:{mac}->eth_dst,set_field:{port}->reg1,{}", {
        goto(Table::IngressEstablished)
    });
    for own in addresses.iter() {
        let host = stage.flow(Table::Routing, 200, Proto::of(&own)).dst(own);
        stage.add(host.actions(to_host.clone()));
    }
    // The host alone can undo its translation. A reply it sent here itself has been there.
    for source in [Source::Pod, Source::Tunnel] {
        let reply = stage
            .flow(Table::Routing, 210, Proto::Any)
            .on("ct_state", "+rpl+trk")
            .on("ct_mark", CT_MARK_BY_HOST)
            .on("reg0", format!("{:#x}/0xf", source as u8));
        stage.add(reply.actions(to_host.clone()));
    }
    // An address of this node's range that no pod has: nobody else has it either.
    for cidr in &state.pod_cidrs {
        let nobody = stage
            .flow(Table::Routing, 140, Proto::of_net(cidr))
            .dst_net(*cidr);
        stage.add(nobody.drop());
    }
    for (proto, field, net) in [
        // The host takes packets to its loopback where node ports are reached by it.
        (Proto::Ip, "nw_dst", "127.0.0.0/8"),
        (Proto::Ipv6, "ipv6_dst", "::1"),
        (Proto::Ip, "nw_dst", "224.0.0.0/4"),
        (Proto::Ipv6, "ipv6_dst", "ff00::/8"),
        (Proto::Ipv6, "ipv6_dst", "fe80::/10"),
    ] {
        let local = stage.flow(Table::Routing, 145, proto).on(field, net);
        stage.add(local.drop());
    }
    let outside = stage.flow(Table::Routing, 100, Proto::Any);
    stage.add(
        outside
            .on("reg0", format!("{:#x}/0xf", Source::Pod as u8))
            .actions(to_host),
    );
    stage.miss(Table::Routing, "drop");

    // The host's kernel has taken one from its own packets and the sender's node from those of a
    // tunnel; only what a pod sends loses one here.
    for proto in [Proto::Ip, Proto::Ipv6] {
        let sent = stage.flow(Table::Ttl, 200, proto);
        let sent = sent.on("reg0", format!("{:#x}/0xf", Source::Pod as u8));
        stage.add(sent.actions(format!("dec_ttl,{}", goto(Table::IngressEstablished))));
    }
    stage.miss(Table::Ttl, goto(Table::IngressEstablished));
}

fn output(stage: &mut Stage<'_>, state: &NodeState) {
    if let Some(tunnel) = state.tunnel {
        out_by(stage, tunnel);
    }
    out_by(stage, state.gateway.port);
    hairpin(stage, state.gateway.port);
    stage.miss(Table::Output, "drop");
}

fn out_by(stage: &mut Stage<'_>, port: Port) {
    let flow = stage.flow(Table::Output, 200, Proto::Any).on("reg1", port);
    stage.add(flow.actions("output:NXM_NX_REG1[]"));
}

/// `output` to the port a packet came from is silently left out; `IN_PORT` means it.
fn hairpin(stage: &mut Stage<'_>, port: Port) {
    let flow = stage
        .flow(Table::Output, 210, Proto::Any)
        .on("reg1", port)
        .in_port(port);
    stage.add(flow.actions("IN_PORT"));
}

/// Flows that send packets of pods and of the host to another node's pods.
pub(crate) fn peer_flows(stage: &mut Stage<'_>, cidr: IpNet, destination: IpAddr, tunnel: Port) {
    let set_destination = match destination {
        IpAddr::V4(v4) => format!("set_field:{v4}->tun_dst"),
        IpAddr::V6(v6) => format!("set_field:{v6}->tun_ipv6_dst"),
    };
    // Bit 1 of the source: gateway or pod. What came by a tunnel never leaves by one.
    let route = stage
        .flow(Table::Routing, 150, Proto::of_net(&cidr))
        .on("reg0", "0x2/0x2");
    let to = goto(Table::Ttl);
    stage.add(
        route
            .dst_net(cidr)
            .actions(format!("{set_destination},set_field:{tunnel}->reg1,{to}")),
    );
}

/// Flows that open a pod's port.
pub(crate) fn pod_flows(stage: &mut Stage<'_>, pod: &Pod, gateway: &Gateway) {
    let Pod {
        port,
        mac,
        addresses,
    } = *pod;
    let from = stage.flow(Table::Classifier, 190, Proto::Any).in_port(port);
    let to = goto(Table::SpoofGuard);
    stage.add(from.actions(format!("{},{to}", classify(Source::Pod))));

    for own in addresses.iter() {
        let source = stage
            .flow(Table::SpoofGuard, 200, Proto::of(&own))
            .in_port(port);
        stage.add(source.eth_src(mac).src(own).goto(Table::Conntrack));

        let deliver = stage.flow(Table::Routing, 200, Proto::of(&own)).dst(own);
        stage.add(deliver.actions(format!(
            "set_field:{}->eth_src,set_field:{mac}->eth_dst,set_field:{port}->reg1,{}",
            gateway.mac,
            goto(Table::Ttl)
        )));
    }
    if let Some(v4) = addresses.v4 {
        let arp = stage
            .flow(Table::SpoofGuard, 200, Proto::Arp)
            .in_port(port)
            .eth_src(mac);
        stage.add(arp.on("arp_sha", mac).on("arp_spa", v4).goto(Table::ArpNd));
    }
    if let Some(v6) = addresses.v6 {
        // Linux probes a neighbour from its link-local address: without it the entry for the
        // gateway fails at its next probe.
        for source in [v6.to_string(), "fe80::/10".to_owned()] {
            let ask = stage.flow(Table::SpoofGuard, 215, Proto::Icmp6 { message: NS });
            let ask = ask
                .on("icmp_code", 0)
                .in_port(port)
                .eth_src(mac)
                .on("ipv6_src", source);
            stage.add(ask.on("nd_sll", mac).goto(Table::ArpNd));
        }
        // The host's answer, by the pod's MAC: the probe came from a link-local address that no
        // route knows.
        let answer = stage.flow(Table::ArpNd, 200, Proto::Icmp6 { message: NA });
        let answer = answer
            .on("icmp_code", 0)
            .in_port(gateway.port)
            .on("dl_dst", mac);
        stage.add(answer.actions(format!("output:{port}")));
    }
    out_by(stage, port);
    hairpin(stage, port);
}
