//! What nodes hold decides as the API documents say, in random clusters and after random changes of
//! them; and nodes are told no more than what changes for them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;

use carrick_policy::{
    Connection, Direction, GroupUpdate, Index, NodeState, NodeUpdate, Protocol, Surroundings,
    Transport,
};
use proptest::prelude::*;
use support::generate::{PODS, change, config, names, probes, world};
use support::reference::{Names, Probe, may_enter, may_leave};
use support::world::{World, event, states};

type States = BTreeMap<String, NodeState>;

fn connection(probe: Probe) -> Connection {
    Connection {
        source: probe.source,
        destination: probe.destination,
        transport: match probe.port {
            None => Transport::Other,
            Some((protocol, port)) => Transport::Port(Protocol::parse(protocol).unwrap(), port),
        },
    }
}

/// The verdict of the node the address' pod is on, with the reason; `None` if no pod is there.
fn judged(
    world: &World,
    states: &States,
    names: &Names,
    at: IpAddr,
    direction: Direction,
    probe: Probe,
) -> Option<(bool, String)> {
    let mut pods = world.pods.iter();
    let (uid, pod) = pods.find(|(_, pod)| pod.addresses.contains(&at))?;
    let host = world.nodes.get(&pod.node);
    let around = Surroundings {
        host: host.map(|node| &*node.addresses).unwrap_or_default(),
        names,
    };
    let state = states.get(&pod.node).expect("the pod's node has a state");
    let judgement = state.judge(uid, direction, &connection(probe), around);
    let judgement = judgement.expect("the pod is on its node");
    Some((judgement.accepted, judgement.to_string()))
}

/// Every verdict is the reference's. How many there are.
fn agree(world: &World, states: &States) -> Result<usize, TestCaseError> {
    let names = names();
    let mut verdicts = 0;
    for probe in probes(world) {
        let leaves = judged(
            world,
            states,
            &names,
            probe.source,
            Direction::Egress,
            probe,
        );
        if let Some((accepted, why)) = leaves {
            let expected = may_leave(world, &names, probe);
            prop_assert_eq!(accepted, expected, "{:?}: {}", probe, why);
            verdicts += 1;
        }
        let enters = judged(
            world,
            states,
            &names,
            probe.destination,
            Direction::Ingress,
            probe,
        );
        if let Some((accepted, why)) = enters {
            let expected = may_enter(world, probe);
            prop_assert_eq!(accepted, expected, "{:?}: {}", probe, why);
            verdicts += 1;
        }
    }
    Ok(verdicts)
}

/// Everything an update says differs from what the node holds.
fn is_minimal(held: &NodeState, update: &NodeUpdate) -> Result<(), TestCaseError> {
    for (uid, record) in &update.pods {
        prop_assert_ne!(held.pods.get(uid), record.as_ref());
    }
    for (name, policy) in &update.policies {
        prop_assert_ne!(held.policies.get(name), policy.as_ref());
    }
    for (key, group) in &update.groups {
        let members = held.groups.get(key);
        match group {
            GroupUpdate::Whole(_) => prop_assert_eq!(members, None),
            GroupUpdate::Gone => prop_assert!(members.is_some()),
            GroupUpdate::Difference { removed, added } => {
                let members = members.unwrap();
                prop_assert!(!removed.is_empty() || !added.is_empty());
                for member in removed {
                    prop_assert!(members.contains_key(member) && !added.contains_key(member));
                }
                for (member, ports) in added {
                    prop_assert_ne!(members.get(member), Some(ports));
                }
            }
        }
    }
    Ok(())
}

/// Gives every node its update.
fn tell(index: &mut Index, held: &mut States, minimal: bool) -> Result<(), TestCaseError> {
    let changes = index.take_changes();
    for (node, update) in index.updates(&changes) {
        let state = held.entry(index.node_name(node).to_string()).or_default();
        if minimal {
            is_minimal(state, &update)?;
        }
        state.apply(update);
    }
    held.retain(|_, state| *state != NodeState::default());
    Ok(())
}

proptest! {
    #![proptest_config(config(2000))]

    /// Random clusters: the verdict for every pair of addresses and every port.
    #[test]
    fn verdicts_are_those_of_the_documents(world in world(PODS)) {
        let mut index = Index::default();
        for change in world.changes() {
            index.apply(event(&change));
        }
        let mut held = States::new();
        tell(&mut index, &mut held, true)?;
        agree(&world, &held)?;
    }
}

proptest! {
    #![proptest_config(config(250))]

    /// Random changes: after each one nodes hold what they would hold if everything were computed
    /// anew, were told of nothing else, and decide as the documents say.
    #[test]
    fn changes_lead_to_what_a_fresh_index_has(
        mut world in world(7),
        changes in prop::collection::vec(change(), 1..=16),
    ) {
        let mut index = world.index();
        let mut held = states(&index);
        for change in changes {
            index.apply(event(&change));
            world.change(change);
            tell(&mut index, &mut held, true)?;
            let fresh = world.index();
            prop_assert_eq!(&held, &states(&fresh));
            prop_assert_eq!(&held, &states(&index));
            prop_assert_eq!(index.sizes(), fresh.sizes());
            agree(&world, &held)?;
        }
    }

    /// Any number of events before nodes are told.
    #[test]
    fn events_may_be_told_together(
        mut world in world(6),
        batches in prop::collection::vec(prop::collection::vec(change(), 1..=8), 1..=8),
    ) {
        let mut index = world.index();
        let mut held = states(&index);
        for batch in batches {
            for change in batch {
                index.apply(event(&change));
                world.change(change);
            }
            tell(&mut index, &mut held, false)?;
            prop_assert_eq!(&held, &states(&world.index()));
        }
    }
}
