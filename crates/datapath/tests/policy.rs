//! Policy's flows decide what the node's state says, in random clusters and after random changes of them, however they
//! were reached. What a switch does with conjunctions is a model written from ovs-fields(7).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

mod support {
    pub mod policy;
    pub mod policy_world;
}

use std::collections::BTreeMap;
use std::sync::Arc;

use carrick_datapath::IdLedger;
use carrick_datapath::policy::Enforcer;
use carrick_openflow::{Flow, FlowModCommand, Mod};
use carrick_policy::{Direction, Index, NodeId, NodeState};
use proptest::prelude::*;
use support::policy::{Sent, connected, judged, model, packet};
use support::policy_world::generate::{PODS, change, config, probes, world};
use support::policy_world::world::{World, event};

type Switch = BTreeMap<String, Flow>;

fn key(flow: &Flow) -> String {
    format!("{} {} {}", flow.table.0, flow.priority, flow.match_)
}

/// A node's enforcer with what its switch was told.
#[derive(Default)]
struct Node {
    enforcer: Enforcer,
    ledger: IdLedger,
    switch: Switch,
}

impl Node {
    /// Gives the switch what changed; what is changed or removed must be there, and what is added must not.
    fn sync(&mut self) -> Result<usize, TestCaseError> {
        let changes = self.enforcer.changes().unwrap();
        for change in &changes.bundle {
            let Mod::Flow(change) = change else {
                panic!("{change:?}");
            };
            let key = key(&change.flow);
            match change.command {
                FlowModCommand::Add => drop(self.switch.insert(key, change.flow.clone())),
                FlowModCommand::ModifyStrict => {
                    let old = self.switch.insert(key, change.flow.clone());
                    prop_assert!(old.is_some_and(|old| old != change.flow));
                }
                FlowModCommand::DeleteStrict => prop_assert!(self.switch.remove(&key).is_some()),
                _ => panic!("{change:?}"),
            }
        }
        changes.release(&mut self.ledger);
        Ok(changes.bundle.len())
    }

    /// The switch holds what the enforcer says it does.
    fn holds(&self) -> Result<(), TestCaseError> {
        let flows = self.enforcer.flows().unwrap().into_iter();
        let all: Switch = flows.map(|flow| (key(&flow), flow)).collect();
        prop_assert_eq!(&all, &self.switch);
        Ok(())
    }
}

/// Every verdict of the flows is the state's. How many there are.
fn agree(world: &World, node: &str, state: &NodeState, flows: &[Flow]) -> usize {
    let ports = connected(world, node);
    let mut verdicts = 0;
    for probe in probes(world) {
        for (direction, at) in [
            (Direction::Egress, probe.source),
            (Direction::Ingress, probe.destination),
        ] {
            let Some((uid, pod)) = ports
                .iter()
                .find(|(_, pod)| pod.addresses.iter().any(|own| own == at))
            else {
                continue;
            };
            let expected = judged(world, node, state, uid, direction, probe);
            let sent = model(flows, direction, &packet(world, node, probe, pod.port));
            assert_eq!(
                sent,
                if expected.accepted {
                    Sent::On
                } else {
                    Sent::Dropped
                },
                "{probe:?} {expected}"
            );
            verdicts += 1;
        }
    }
    verdicts
}

fn connect_all(world: &World, name: &str, enforcer: &mut Enforcer) {
    for (uid, pod) in connected(world, name) {
        enforcer.connect(&uid, pod);
    }
}

/// All at once, as a node that is told everything for the first time.
fn at_once(world: &World, index: &Index, node: NodeId, ledger: &mut IdLedger) -> Enforcer {
    let mut enforcer = Enforcer::default();
    let name = index.node_name(node).to_string();
    connect_all(world, &name, &mut enforcer);
    let update = support::policy::whole(&index.node_state(node));
    enforcer.apply(update, ledger).unwrap();
    enforcer
}

proptest! {
    #![proptest_config(config(50))]

    #[test]
    fn flows_decide_what_the_state_says(world in world(PODS)) {
        let index = world.index();
        for node in index.nodes() {
            let mut ledger = IdLedger::default();
            let enforcer = at_once(&world, &index, node, &mut ledger);
            let flows = enforcer.flows().unwrap();
            agree(&world, index.node_name(node), &index.node_state(node), &flows);
        }
    }

    #[test]
    fn changes_lead_to_the_same_flows(start in world(PODS), steps in prop::collection::vec(change(), 1..12)) {
        let mut world = start;
        let mut index = world.index();
        let mut nodes = BTreeMap::<String, Node>::new();
        let names: Vec<String> = index.nodes().into_iter().map(|id| index.node_name(id).to_string()).collect();
        for (id, name) in index.nodes().into_iter().zip(&names) {
            let node = nodes.entry(name.clone()).or_default();
            connect_all(&world, name, &mut node.enforcer);
            let update = support::policy::whole(&index.node_state(id));
            node.enforcer.apply(update, &mut node.ledger).unwrap();
            node.sync()?;
        }
        for step in steps {
            index.apply(event(&step));
            world.change(step);
            let changes = index.take_changes();
            let updates = index.updates(&changes);
            let by_name: BTreeMap<String, _> = updates
                .into_iter()
                .map(|(id, update)| (index.node_name(id).to_string(), update))
                .collect();
            for (name, node) in &mut nodes {
                let pods = connected(&world, name);
                let gone: Vec<Arc<str>> = node
                    .enforcer
                    .state()
                    .pods
                    .keys()
                    .filter(|uid| !pods.contains_key(*uid))
                    .cloned()
                    .collect();
                if let Some(update) = by_name.get(name) {
                    node.enforcer.apply(update.clone(), &mut node.ledger).unwrap();
                }
                for uid in gone {
                    node.enforcer.disconnect(&uid);
                }
                connect_all(&world, name, &mut node.enforcer);
                node.sync()?;
                node.holds()?;
                prop_assert_eq!(node.sync()?, 0);
                if let Some(id) = index.node(name) {
                    let mut ledger = node.ledger.clone();
                    let fresh = at_once(&world, &index, id, &mut ledger).flows().unwrap();
                    prop_assert_eq!(fresh, node.enforcer.flows().unwrap());
                    let flows: Vec<Flow> = node.switch.values().cloned().collect();
                    agree(&world, name, &index.node_state(id), &flows);
                }
            }
        }
    }
}
