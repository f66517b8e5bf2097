//! A cluster in a few lines, and what must hold of every rollout in it: pods start or do not,
//! nodes come and go, people delete pods, and the operator dies between any two of its actions.

mod world;

use carrick_api::networking::OnFailure;
use carrick_api::status::RolloutPhase;
use proptest::prelude::*;

use super::Part;
use world::{Event, Fault, World};

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        2 => Just(Fault::None),
        1 => Just(Fault::Image),
        1 => Just(Fault::ControllerCrashes),
        1 => Just(Fault::ControllerStalls),
        2 => (0..4usize).prop_map(Fault::AgentCrashes),
        2 => (0..4usize).prop_map(Fault::AgentStalls),
        2 => (0..4usize).prop_map(Fault::PeersSilent),
        2 => (0..4usize).prop_map(Fault::SwitchCrashes),
        2 => (0..4usize).prop_map(Fault::NodeDies),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Nothing),
        4 => (0..4usize).prop_map(Event::Kill),
        1 => (0..8usize).prop_map(Event::DeleteAgent),
        1 => (0..8usize).prop_map(Event::Toggle),
        1 => Just(Event::Join),
        1 => (0..8usize).prop_map(Event::Leave),
        1 => any::<bool>().prop_map(Event::Pause),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_rollout_ends_all_new_or_all_old_or_stands_still(
        nodes in 1..6usize,
        fault in fault(),
        switch_changes in any::<bool>(),
        pause in any::<bool>(),
        events in proptest::collection::vec(event(), 0..80),
    ) {
        let on_failure = if pause { OnFailure::Pause } else { OnFailure::Rollback };
        // Where no node is left that reports it stands still.
        let dies = matches!(fault, Fault::NodeDies(_));
        let nodes = nodes + usize::from(dies);
        let mut events = events;
        events.retain(|event| !dies || !matches!(event, Event::Toggle(_) | Event::Leave(_)));
        let mut world = World::new(nodes, fault, switch_changes, on_failure);
        let end = world.run(&events);
        let (good, target) = (world.good.clone(), world.target.clone());
        match end {
            RolloutPhase::Complete => {
                prop_assert!(world.all_at(&target));
                prop_assert_eq!(&world.record.good.as_ref().unwrap().render, &target);
                prop_assert_eq!(&world.record.attempt, &None);
            }
            RolloutPhase::RolledBack => {
                prop_assert!(!pause && fault != Fault::None || !events.is_empty());
                prop_assert!(world.all_at(&good), "{:#?}", world);
                prop_assert!(!world.status.as_ref().unwrap().failures.is_empty());
            }
            RolloutPhase::Failed => {
                prop_assert!(pause);
                prop_assert!(!world.status.as_ref().unwrap().failures.is_empty());
            }
            RolloutPhase::Agents | RolloutPhase::Switches => {
                // A node that came after the end does not work: nothing more is taken away.
                prop_assert!(fault != Fault::None && !events.is_empty());
                prop_assert_eq!(&world.record.good.as_ref().unwrap().render, &target);
                prop_assert!(!world.status.as_ref().unwrap().waiting_for.is_empty());
            }
            other => prop_assert!(false, "ended in {other:?}"),
        }
        if !switch_changes {
            prop_assert!(!world.restarted.contains(&Part::Switch));
        }
        // Where no node reports there is none to pull on.
        let reporting = !events.iter().any(|event| matches!(event, Event::Toggle(_)));
        if fault == Fault::Image && reporting {
            prop_assert!(world.applied.is_empty(), "nothing changes before the images are there");
        }
    }

    /// Killing the operator changes nothing of the sequence.
    #[test]
    fn a_killed_operator_goes_on_where_things_are(
        nodes in 1..5usize,
        fault in fault(),
        switch_changes in any::<bool>(),
        kills in proptest::collection::vec(0..4usize, 0..60),
    ) {
        let nodes = nodes + usize::from(matches!(fault, Fault::NodeDies(_)));
        let mut calm = World::new(nodes, fault, switch_changes, OnFailure::Rollback);
        let end = calm.run(&[]);
        if let (RolloutPhase::RolledBack, Some(attempt)) = (end, &calm.record.attempt) {
            let crashes = matches!(
                fault,
                Fault::ControllerCrashes | Fault::AgentCrashes(_) | Fault::SwitchCrashes(_)
            );
            let reason = { attempt.failure.as_ref() }.map(|failure| failure.reason.as_str());
            prop_assert_eq!(crashes, reason == Some("CrashLoopBackOff"), "{:#?}", attempt);
            // Whoever goes back waits for no node in vain, but for one that is not heard any more.
            let given_up = !attempt.given_up.is_empty();
            prop_assert!(!given_up || matches!(fault, Fault::NodeDies(_)), "{:#?}", attempt);
        }
        let mut killed = World::new(nodes, fault, switch_changes, OnFailure::Rollback);
        let kills: Vec<Event> = kills.into_iter().map(Event::Kill).collect();
        prop_assert_eq!(end, killed.run(&kills));
        prop_assert_eq!(&calm.applied, &killed.applied);
        prop_assert_eq!(&calm.live, &killed.live);
        let pods = |world: &World| -> Vec<(String, Vec<String>)> {
            world
                .nodes
                .iter()
                .map(|(name, node)| {
                    (name.clone(), node.pods.values().map(|pod| pod.hash.clone()).collect())
                })
                .collect()
        };
        prop_assert_eq!(pods(&calm), pods(&killed));
    }
}
