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

use carrick_datapath::policy::{Connected, Enforcer};
use carrick_datapath::{Addresses, IdLedger, Kind, MAX_OBJECTS, Port};
use carrick_openflow::{Flow, FlowModCommand, Mod};
use carrick_policy::{
    Direction, EnforcedPolicy, GroupKey, Index, Isolation, Labels, NodeId, NodeState, NodeUpdate,
    PodRecord, PolicyName, Tier,
};
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
        for change in &changes {
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
        self.enforcer.release(&mut self.ledger);
        Ok(changes.len())
    }

    /// The switch holds what the enforcer says it does.
    fn holds(&mut self) -> Result<(), TestCaseError> {
        let flows = self.enforcer.flows().unwrap();
        let text: Vec<String> = flows.iter().map(ToString::to_string).collect();
        let lines: Vec<&str> = self.enforcer.lines().unwrap().collect();
        prop_assert_eq!(lines, text);
        let flows = flows.into_iter();
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

const POD: &str = "uid-1";

fn group() -> GroupKey {
    "applied-to/00112233445566778899aabbccddeeff"
        .parse()
        .unwrap()
}

/// Policies of these names that isolate the pod in both directions: each needs two ids.
fn isolating(names: &[&str]) -> NodeUpdate {
    let policies = names.iter().map(|name| {
        let name = PolicyName::namespaced("n", name);
        let policy = EnforcedPolicy {
            uid: "u".into(),
            name: name.clone(),
            tier: Tier::NetworkPolicy,
            priority: 0,
            applied_to: group(),
            isolation: Isolation {
                ingress: true,
                egress: true,
            },
            rules: Box::default(),
        };
        (name, Some(Arc::new(policy)))
    });
    NodeUpdate {
        policies: policies.collect(),
        ..NodeUpdate::default()
    }
}

fn gone(name: &str) -> NodeUpdate {
    NodeUpdate {
        policies: BTreeMap::from([(PolicyName::namespaced("n", name), None)]),
        ..NodeUpdate::default()
    }
}

/// A node with one pod in the group, without policies.
fn node_of_a_pod() -> Node {
    let record = PodRecord {
        uid: POD.into(),
        namespace: "n".into(),
        name: "p".into(),
        labels: Labels::default(),
        ports: Arc::default(),
        groups: vec![group()],
    };
    let mut node = Node::default();
    let update = NodeUpdate {
        pods: BTreeMap::from([(POD.into(), Some(record))]),
        ..NodeUpdate::default()
    };
    node.enforcer.apply(update, &mut node.ledger).unwrap();
    let pod = Connected {
        port: Port(101),
        addresses: Addresses {
            v4: Some([10, 1, 0, 5].into()),
            v6: None,
        },
    };
    node.enforcer.connect(&POD.into(), pod);
    node
}

#[test]
fn policies_that_found_no_id_are_entered_when_there_are_some() {
    let mut node = node_of_a_pod();
    // One is left.
    for id in 2..=u32::try_from(MAX_OBJECTS).unwrap() {
        node.ledger.reserve(Kind::PolicyRule, id);
    }
    let update = isolating(&["a", "b", "c"]);
    let first = node.enforcer.apply(update, &mut node.ledger).unwrap_err();
    assert!(first.to_string().contains("n/a/u"), "{first}");
    let waiting: Vec<String> = node.enforcer.waiting().map(ToString::to_string).collect();
    assert_eq!(waiting.len(), 3, "{waiting:?}");
    assert_eq!(node.sync().unwrap(), 0);
    // One that goes waits no longer.
    let again = node.enforcer.apply(gone("b"), &mut node.ledger);
    assert!(again.is_err());
    assert_eq!(node.enforcer.waiting().count(), 2);
    node.ledger.retain(Kind::PolicyRule, |_| true);
    let nothing = NodeUpdate::default();
    node.enforcer.apply(nothing, &mut node.ledger).unwrap();
    assert_eq!(node.enforcer.waiting().count(), 0);
    node.sync().unwrap();
    node.holds().unwrap();
    let mut other = node_of_a_pod();
    let update = isolating(&["a", "c"]);
    other.enforcer.apply(update, &mut other.ledger).unwrap();
    let places = |enforcer: &Enforcer| -> Vec<String> {
        enforcer.flows().unwrap().iter().map(key).collect()
    };
    assert_eq!(places(&node.enforcer), places(&other.enforcer));
}

#[test]
fn a_group_is_left_with_its_last_policy_and_no_sooner() {
    let mut node = node_of_a_pod();
    let update = isolating(&["a", "b"]);
    node.enforcer.apply(update, &mut node.ledger).unwrap();
    node.enforcer.apply(gone("a"), &mut node.ledger).unwrap();
    // The other is for the pod still, wherever that goes.
    node.enforcer.disconnect(&POD.into());
    assert!(node.enforcer.flows().unwrap().is_empty());
    let pod = Connected {
        port: Port(102),
        addresses: Addresses {
            v4: Some([10, 1, 0, 6].into()),
            v6: None,
        },
    };
    node.enforcer.connect(&POD.into(), pod);
    assert!(!node.enforcer.flows().unwrap().is_empty());
    node.enforcer.apply(gone("b"), &mut node.ledger).unwrap();
    assert!(node.enforcer.flows().unwrap().is_empty());
    node.sync().unwrap();
    assert_eq!(node.ledger.len(Kind::PolicyRule), 0);
}

#[test]
fn a_policy_made_again_before_the_switch_has_answered_keeps_its_ids() {
    let mut node = node_of_a_pod();
    let made = || isolating(&["a"]);
    node.enforcer.apply(made(), &mut node.ledger).unwrap();
    node.sync().unwrap();
    let before = node.enforcer.flows().unwrap();
    node.enforcer.apply(gone("a"), &mut node.ledger).unwrap();
    assert_eq!(node.enforcer.changes().unwrap().len(), before.len());
    node.enforcer.apply(made(), &mut node.ledger).unwrap();
    node.enforcer.release(&mut node.ledger);
    assert_eq!(node.ledger.len(Kind::PolicyRule), 2);
    assert_eq!(node.enforcer.flows().unwrap(), before);
    // What has to be told is the policy, which the switch has lost meanwhile.
    assert_eq!(node.enforcer.changes().unwrap().len(), before.len());
    // The one that goes before it was ever told keeps nothing either.
    node.enforcer.apply(gone("a"), &mut node.ledger).unwrap();
    assert_eq!(node.ledger.len(Kind::PolicyRule), 2);
    node.enforcer.changes().unwrap();
    node.enforcer.release(&mut node.ledger);
    assert_eq!(node.ledger.len(Kind::PolicyRule), 0);
}

#[test]
fn a_switch_that_holds_something_else_is_told_the_difference_alone() {
    let mut node = node_of_a_pod();
    let update = isolating(&["a"]);
    node.enforcer.apply(update, &mut node.ledger).unwrap();
    let all = node.enforcer.flows().unwrap();
    assert!(node.enforcer.difference(all.clone()).unwrap().is_empty());
    // Nothing waits to be told either.
    assert!(node.enforcer.changes().unwrap().is_empty());
    let mut held = all;
    let mut foreign = held.pop().unwrap();
    foreign.priority = 7;
    held.push(foreign);
    assert_eq!(node.enforcer.difference(held).unwrap().len(), 2);
}
