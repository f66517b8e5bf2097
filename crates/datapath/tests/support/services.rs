//! Services for tests: builders, the naive model of what a client reaches, and a switch in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use carrick_datapath::services::{
    Batch, Conditions, Endpoint, EndpointPort, EndpointSlice, NodeView, Options, Protocol, Proxy,
    ProxyMode, Service, ServiceName, ServicePort, ServiceType, TrafficPolicy,
};
use carrick_datapath::{IdLedger, Table};
use carrick_openflow::action::NatAddresses;
use carrick_openflow::{Action, Field, Flow, FlowModCommand, Group, GroupId, GroupMod, Mod, State};

use super::{Families, node};

/// The node of [`super::node`] with number `n`, in zone `z1`.
pub fn view(n: u8, families: Families) -> NodeView {
    let state = node(n, families, Families::Dual);
    NodeView {
        name: format!("node{n}"),
        zone: "z1".to_owned(),
        addresses: [
            format!("172.31.0.{n}"),
            format!("172.31.1.{n}"),
            format!("fd00:31::{n}"),
        ]
        .map(|address| address.parse().unwrap())
        .into(),
        node_port_addresses: vec![],
        gateway: state.gateway.addresses,
        pod_cidrs: state.pod_cidrs,
    }
}

pub fn full() -> Options {
    Options {
        mode: ProxyMode::Full,
        sctp: true,
        ..Options::default()
    }
}

pub fn service(name: &str, cluster_ips: &[&str], ports: &[(&str, Protocol, u16)]) -> Service {
    Service {
        name: ServiceName::new("default", name),
        uid: format!("uid-{name}").into(),
        kind: ServiceType::ClusterIp,
        cluster_ips: cluster_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: ports
            .iter()
            .map(|(name, protocol, port)| ServicePort {
                name: (*name).into(),
                protocol: *protocol,
                port: *port,
                node_port: None,
            })
            .collect(),
        external_ips: vec![],
        ingress: vec![],
        source_ranges: vec![],
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: None,
        other_proxy: false,
    }
}

pub fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        conditions: Conditions::READY,
        node: Some(node.to_owned()),
        zone_hints: vec![],
        node_hints: vec![],
    }
}

pub fn slice(
    name: &str,
    service: &str,
    ports: &[(&str, Protocol, u16)],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        service: ServiceName::new("default", service),
        ports: ports
            .iter()
            .map(|(name, protocol, port)| EndpointPort {
                name: (*name).into(),
                protocol: *protocol,
                port: *port,
            })
            .collect(),
        endpoints,
    }
}

/// Everything that waits, applied to a switch in memory; the batches.
pub fn drain(proxy: &mut Proxy, ledger: &mut IdLedger, switch: &mut State) -> Vec<Batch> {
    let mut batches = Vec::new();
    while let Some(batch) = proxy.next_batch(ledger, 50).unwrap() {
        apply(switch, &batch.bundle);
        batch.release(ledger);
        batches.push(batch);
    }
    batches
}

/// All lines of a proxy as a canonical state.
pub fn whole(proxy: &Proxy) -> State {
    let (flows, groups) = proxy.lines();
    let flows = flows.map(|flow| flow.to_string());
    sorted(carrick_datapath::from_lines(flows, groups, std::iter::empty()).unwrap())
}

pub fn sorted(mut state: State) -> State {
    state.flows.sort_by_key(ToString::to_string);
    state.groups.sort_by_key(|group| group.id);
    state
}

/// Applies modifications as a switch does, and fails where it would refuse.
pub fn apply(switch: &mut State, bundle: &[Mod]) {
    for change in bundle {
        match change {
            Mod::Flow(change) => {
                let wanted = &change.flow;
                let same = |flow: &Flow| flow.key() == wanted.key();
                let cookie =
                    |flow: &Flow| (flow.cookie.0 ^ wanted.cookie.0) & change.cookie_mask == 0;
                match change.command {
                    FlowModCommand::Add => {
                        for action in &wanted.instructions.apply {
                            if let Action::Group(id) = action {
                                let known = switch.groups.iter().any(|group| group.id == *id);
                                assert!(known || id.0 >> 24 == 1, "flow to unknown group {id}");
                            }
                        }
                        switch.flows.retain(|flow| !same(flow));
                        switch.flows.push(wanted.clone());
                    }
                    FlowModCommand::ModifyStrict => {
                        let flow = switch.flows.iter_mut().find(|flow| same(flow));
                        flow.expect("a flow to modify").instructions = wanted.instructions.clone();
                    }
                    FlowModCommand::DeleteStrict => {
                        switch.flows.retain(|flow| !(same(flow) && cookie(flow)));
                    }
                    FlowModCommand::Delete => switch.flows.retain(|flow| !cookie(flow)),
                    FlowModCommand::Modify => panic!("not used"),
                }
            }
            Mod::Group(change) => match change.as_ref() {
                GroupMod::Add(group) => {
                    assert!(!has(switch, group.id), "group {} is there", group.id);
                    switch.groups.push(group.clone());
                }
                GroupMod::Modify(group) => {
                    assert!(has(switch, group.id), "group {} is not there", group.id);
                    switch.groups.retain(|other| other.id != group.id);
                    switch.groups.push(group.clone());
                }
                GroupMod::Delete(id) => {
                    switch.groups.retain(|group| group.id != *id);
                    let to = |flow: &Flow| flow.instructions.apply.contains(&Action::Group(*id));
                    assert!(
                        !switch.flows.iter().any(to),
                        "a flow leads to removed group {id}"
                    );
                }
                other => panic!("not used: {other:?}"),
            },
        }
    }
}

fn has(switch: &State, id: GroupId) -> bool {
    switch.groups.iter().any(|group| group.id == id)
}

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// In a pod of this node, with this address.
    Pod(IpAddr),
    /// On the host, which the gateway's address stands for.
    Host(IpAddr),
    /// Elsewhere: the host has let its packet pass and kept its source.
    Outside(IpAddr),
}

/// One of each kind and family, and a pod that is no endpoint.
pub fn clients() -> [Client; 7] {
    let ip = |text: &str| text.parse().unwrap();
    [
        Client::Pod(ip("10.10.1.9")),
        Client::Pod(ip("10.10.1.99")),
        Client::Host(ip("10.10.1.1")),
        Client::Outside(ip("203.0.113.7")),
        Client::Pod(ip("fd00:10:1::9")),
        Client::Host(ip("fd00:10:1::1")),
        Client::Outside(ip("2001:db8::7")),
    ]
}

impl Client {
    pub fn address(self) -> IpAddr {
        match self {
            Self::Pod(address) | Self::Host(address) | Self::Outside(address) => address,
        }
    }
}

/// What becomes of a new connection to an address that may be a Service's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// One of these answers.
    Answered(BTreeSet<(IpAddr, u16)>),
    /// Nobody answers, without a word.
    Dropped,
    /// The switch does nothing: not served here, or rejected by the host.
    Passed,
}

/// Whether a Service has an address, as one kind of address.
type Has = fn(&Service, IpAddr) -> bool;

/// What the API documents say of a connection, computed from the objects alone. Hints are not part of it
/// (the selection has a model of its own).
pub fn model(
    node: &NodeView,
    services: &[Service],
    slices: &[EndpointSlice],
    client: Client,
    protocol: Protocol,
    (address, port): (IpAddr, u16),
) -> Outcome {
    // Which Service: cluster IPs first, then addresses of load balancers, then external IPs.
    let mut named: Vec<&Service> = services.iter().collect();
    named.sort_by_key(|service| service.name.clone());
    let kinds: [(bool, Has); 3] = [
        (false, |service, address| {
            service.cluster_ips.contains(&address)
        }),
        (true, |service, address| {
            service.kind == ServiceType::LoadBalancer
                && service
                    .ingress
                    .iter()
                    .any(|ingress| ingress.address == address)
        }),
        (true, |service, address| {
            service.external_ips.contains(&address)
        }),
    ];
    let served = |service: &Service| {
        service
            .cluster_ips
            .iter()
            .any(|own| own.is_ipv4() == address.is_ipv4())
    };
    let found = kinds.iter().enumerate().find_map(|(kind, (outside, has))| {
        named.iter().find_map(|service| {
            let own = service
                .ports
                .iter()
                .find(|own| own.port == port && own.protocol == protocol)?;
            (served(service) && has(service, address)).then_some((kind, *outside, *service, own))
        })
    });
    let Some((kind, outside, service, own)) = found else {
        return Outcome::Passed;
    };
    // Its endpoints: ready ones, or terminating ones that serve.
    let mut ready: BTreeMap<(IpAddr, u16), bool> = BTreeMap::new();
    let mut draining = ready.clone();
    for slice in slices.iter().filter(|slice| slice.service == service.name) {
        for slice_port in &slice.ports {
            if slice_port.name != own.name || slice_port.protocol != protocol {
                continue;
            }
            for endpoint in &slice.endpoints {
                if endpoint.address.is_ipv4() != address.is_ipv4() {
                    continue;
                }
                let key = (endpoint.address, slice_port.port);
                let local = endpoint.node.as_deref() == Some(node.name.as_str());
                let Conditions {
                    ready: is_ready,
                    serving,
                    terminating,
                } = endpoint.conditions;
                if is_ready {
                    ready.insert(key, local);
                }
                if serving && terminating {
                    draining.insert(key, local);
                }
            }
        }
    }
    let of = |local_only: bool| -> BTreeSet<(IpAddr, u16)> {
        let pick = |all: &BTreeMap<(IpAddr, u16), bool>| {
            let chosen = all.iter().filter(|(_, local)| **local || !local_only);
            chosen.map(|(key, _)| *key).collect::<BTreeSet<_>>()
        };
        let chosen = pick(&ready);
        if chosen.is_empty() {
            pick(&draining)
        } else {
            chosen
        }
    };
    let anybody = of(false);
    if anybody.is_empty() && (kind != 1 || service.source_ranges.is_empty()) {
        return Outcome::Passed;
    }
    // Source ranges hold for addresses of load balancers; the host filters what passes it.
    if kind == 1 && !service.source_ranges.is_empty() && matches!(client, Client::Pod(_)) {
        let allowed = service
            .source_ranges
            .iter()
            .any(|range| range.contains(&client.address()));
        if !allowed || anybody.is_empty() {
            return Outcome::Dropped;
        }
    }
    if anybody.is_empty() {
        return Outcome::Passed;
    }
    let local = if outside {
        service.external_policy == TrafficPolicy::Local && matches!(client, Client::Outside(_))
    } else {
        service.internal_policy == TrafficPolicy::Local
    };
    let chosen = of(local);
    if chosen.is_empty() {
        Outcome::Dropped
    } else {
        Outcome::Answered(chosen)
    }
}

/// What a switch in memory does with a new connection: the flows of [`Table::Service`] and what they
/// lead to, followed by hand.
pub fn walk(
    switch: &State,
    client: Client,
    protocol: Protocol,
    (address, port): (IpAddr, u16),
) -> Outcome {
    let mut fields: BTreeMap<Field, u128> = BTreeMap::new();
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let (source, destination, ether) = match address {
        IpAddr::V4(_) => (Field::Ipv4Src, Field::Ipv4Dst, 0x800),
        IpAddr::V6(_) => (Field::Ipv6Src, Field::Ipv6Dst, 0x86dd),
    };
    let to_port = match protocol {
        Protocol::Tcp => Field::TcpDst,
        Protocol::Udp => Field::UdpDst,
        Protocol::Sctp => Field::SctpDst,
    };
    fields.insert(Field::EthType, ether);
    fields.insert(Field::IpProto, protocol.number().into());
    fields.insert(source, bits(client.address()));
    fields.insert(destination, bits(address));
    fields.insert(to_port, port.into());
    let from = if matches!(client, Client::Pod(_)) {
        3
    } else {
        2
    };
    fields.insert(Field::reg(0).unwrap(), from);
    let lookup = |table: Table, fields: &BTreeMap<Field, u128>| {
        let matches = |flow: &&Flow| {
            flow.table.0 == table.id()
                && flow.match_.fields().iter().all(|m| {
                    let value = fields.get(&m.field()).copied().unwrap_or_default();
                    value & m.mask() == m.value()
                })
        };
        switch
            .flows
            .iter()
            .filter(matches)
            .max_by_key(|flow| flow.priority)
    };
    let set_registers = |flow: &Flow, fields: &mut BTreeMap<Field, u128>| {
        for action in &flow.instructions.apply {
            if let Action::SetField(set) = action {
                fields.insert(set.field(), set.value());
            }
        }
    };
    let group_of = |flow: &Flow| {
        flow.instructions
            .apply
            .iter()
            .find_map(|action| match action {
                Action::Group(group) => Some(*group),
                _ => None,
            })
    };
    let members = |id: GroupId| {
        let group = switch.groups.iter().find(|group| group.id == id);
        members(group.expect("the group"))
    };
    let Some(flow) = lookup(Table::Service, &fields) else {
        return Outcome::Passed;
    };
    if flow.instructions.is_drop() {
        return Outcome::Dropped;
    }
    set_registers(flow, &mut fields);
    let flow = match group_of(flow) {
        Some(_) => flow,
        None => lookup(Table::ServiceSelect, &fields).expect("a flow that selects"),
    };
    let group = group_of(flow).expect("a group");
    if group.0 >> 24 != 1 {
        return Outcome::Answered(members(group));
    }
    let mut all = BTreeSet::new();
    for hash in 0..1_u128 << (group.0 & 0xff) {
        fields.insert(Field::reg(6).unwrap(), hash);
        let shard = lookup(Table::ServiceShard, &fields).expect("a shard");
        all.extend(members(group_of(shard).expect("a group")));
    }
    Outcome::Answered(all)
}

/// The endpoints of a group.
pub fn members(group: &Group) -> BTreeSet<(IpAddr, u16)> {
    let buckets = group.buckets.iter();
    buckets.map(|bucket| target(&bucket.actions)).collect()
}

/// The endpoint of a bucket: translated to at once, or put into registers.
fn target(actions: &[Action]) -> (IpAddr, u16) {
    let mut endpoint = (None, None);
    for action in actions {
        match action {
            Action::Ct(ct) => {
                let nat = ct.nat.expect("a translation");
                endpoint.0 = nat.addresses.map(|addresses| match addresses {
                    NatAddresses::V4(v4, _) => IpAddr::V4(v4),
                    NatAddresses::V6(v6, _) => IpAddr::V6(v6),
                });
                endpoint.1 = nat.ports.map(|(port, _)| port);
            }
            Action::SetField(set) if Some(set.field()) == Field::reg(3) => {
                let bits = u32::try_from(set.value()).unwrap();
                endpoint.0 = Some(IpAddr::from(bits.to_be_bytes()));
            }
            Action::SetField(set) if set.field() == Field::XxReg3 => {
                endpoint.0 = Some(IpAddr::from(set.value().to_be_bytes()));
            }
            Action::SetField(set) if Some(set.field()) == Field::reg(4) => {
                endpoint.1 = u16::try_from(set.value() & 0xffff).ok();
            }
            _ => {}
        }
    }
    (endpoint.0.expect("an address"), endpoint.1.expect("a port"))
}
