//! A model of how a switch decides by policy's flows, and what it decides upon.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use carrick_datapath::policy::Connected;
use carrick_datapath::{Addresses, Port};
use carrick_openflow::{Action, Field, Flow, MaskedField};
use carrick_policy::{
    Connection, Direction, GroupUpdate, Judgement, NodeState, NodeUpdate, Protocol, Surroundings,
    Transport,
};

use super::policy_world::reference::Probe;
use super::policy_world::world::World;

/// What becomes of a packet in the tables of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    On,
    Dropped,
}

/// Values of fields.
pub type Packet = BTreeMap<Field, u128>;

/// The ports and addresses of a node's pods.
pub fn connected(world: &World, node: &str) -> BTreeMap<Arc<str>, Connected> {
    let pods = world.pods.iter().zip(101_u16..);
    let here = pods.filter(|((_, pod), _)| pod.node == node);
    here.map(|((uid, pod), port)| {
        let mut addresses = Addresses::default();
        for address in &pod.addresses {
            match address {
                IpAddr::V4(v4) => addresses.v4 = Some(*v4),
                IpAddr::V6(v6) => addresses.v6 = Some(*v6),
            }
        }
        let port = Port(port);
        (uid.as_str().into(), Connected { port, addresses })
    })
    .collect()
}

/// What a node is told that is told everything.
pub fn whole(state: &NodeState) -> NodeUpdate {
    let NodeState {
        pods,
        policies,
        groups,
    } = state.clone();
    NodeUpdate {
        pods: pods
            .into_iter()
            .map(|(uid, pod)| (uid, Some(pod)))
            .collect(),
        policies: policies
            .into_iter()
            .map(|(name, policy)| (name, Some(policy)))
            .collect(),
        groups: groups
            .into_iter()
            .map(|(key, members)| (key, GroupUpdate::Whole(members)))
            .collect(),
    }
}

/// What the state decides. The flows know of no names, and a node's own packets pass before them.
pub fn judged(
    world: &World,
    node: &str,
    state: &NodeState,
    uid: &str,
    direction: Direction,
    probe: Probe,
) -> Judgement {
    let host = world.nodes.get(node);
    let around = Surroundings {
        host: host.map(|node| &*node.addresses).unwrap_or_default(),
        names: &BTreeMap::new(),
    };
    let connection = Connection {
        source: probe.source,
        destination: probe.destination,
        transport: match probe.port {
            None => Transport::Other,
            Some((protocol, port)) => Transport::Port(Protocol::parse(protocol).unwrap(), port),
        },
    };
    state.judge(uid, direction, &connection, around).unwrap()
}

/// The first packet of a connection, on its way to a port of the switch.
pub fn packet(world: &World, node: &str, probe: Probe, output: Port) -> Packet {
    let mut packet = Packet::from([(Field::Reg1, u128::from(output.0))]);
    let host = world.nodes.get(node);
    let own = host.is_some_and(|node| node.addresses.contains(&probe.source));
    packet.insert(Field::Reg0, if own { 2 } else { 3 });
    match (probe.source, probe.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.insert(Field::EthType, 0x0800);
            packet.insert(Field::Ipv4Src, from.to_bits().into());
            packet.insert(Field::Ipv4Dst, to.to_bits().into());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.insert(Field::EthType, 0x86dd);
            packet.insert(Field::Ipv6Src, from.to_bits());
            packet.insert(Field::Ipv6Dst, to.to_bits());
        }
        _ => panic!("{probe:?}"),
    }
    let (number, field) = match probe.port {
        None => (1, None),
        Some((protocol, port)) => match Protocol::parse(protocol).unwrap() {
            Protocol::Tcp => (6, Some((Field::TcpDst, port))),
            Protocol::Udp => (17, Some((Field::UdpDst, port))),
            Protocol::Sctp => (132, Some((Field::SctpDst, port))),
        },
    };
    packet.insert(Field::IpProto, number);
    if let Some((field, port)) = field {
        packet.insert(field, port.into());
    }
    packet
}

fn matches(flow: &Flow, packet: &Packet, conjunction: Option<u32>) -> bool {
    flow.match_.fields().iter().all(|field: &MaskedField| {
        let value = match field.field() {
            Field::ConjId => conjunction.map(u128::from),
            other => packet.get(&other).copied(),
        };
        value.is_some_and(|value| value & field.mask() == field.value())
    })
}

/// Through the tables of a direction. Misses lead to the next table, and from the last one on.
pub fn model(flows: &[Flow], direction: Direction, packet: &Packet) -> Sent {
    // A node may always speak to its pods.
    if direction == Direction::Ingress && packet[&Field::Reg0] == 2 {
        return Sent::On;
    }
    let tables = match direction {
        Direction::Egress => [30, 32, 34],
        Direction::Ingress => [64, 66, 68],
    };
    let mut next = tables[0];
    while let Some(place) = tables.iter().position(|table| *table == next) {
        match decide(flows, next, packet) {
            Decision::Miss => match tables.get(place + 1) {
                Some(table) => next = *table,
                None => return Sent::On,
            },
            Decision::Drop => return Sent::Dropped,
            Decision::Goto(table) => next = table,
        }
    }
    Sent::On
}

/// What a table does with a packet.
enum Decision {
    Miss,
    Drop,
    Goto(u8),
}

impl Decision {
    fn of(flow: &Flow) -> Self {
        match flow.instructions.goto {
            Some(table) => Self::Goto(table.0),
            None => Self::Drop,
        }
    }
}

fn decide(flows: &[Flow], table: u8, packet: &Packet) -> Decision {
    let of_table = flows.iter().filter(|flow| flow.table.0 == table);
    let matching: Vec<&Flow> = of_table
        .clone()
        .filter(|flow| matches(flow, packet, None))
        .collect();
    let mut priorities: Vec<u16> = matching.iter().map(|flow| flow.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    for priority in priorities.into_iter().rev() {
        let mut clauses = BTreeMap::<u32, (Vec<u8>, u8)>::new();
        for flow in matching.iter().filter(|flow| flow.priority == priority) {
            let mut deciding = true;
            for action in &flow.instructions.apply {
                let Action::Conjunction(clause) = action else {
                    panic!("{action:?}");
                };
                deciding = false;
                let entry = clauses.entry(clause.id).or_default();
                entry.0.push(clause.clause);
                entry.1 = clause.clauses;
            }
            if deciding {
                return Decision::of(flow);
            }
        }
        for (id, (mut met, of)) in clauses {
            met.sort_unstable();
            met.dedup();
            if met.len() == usize::from(of) {
                let decision = of_table.clone().find(|flow| {
                    flow.priority == priority
                        && flow.match_.get(Field::ConjId).is_some()
                        && matches(flow, packet, Some(id))
                });
                let decision = decision.expect("a conjunction decides");
                return Decision::of(decision);
            }
        }
    }
    Decision::Miss
}
