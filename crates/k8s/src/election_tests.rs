use proptest::prelude::*;

use super::*;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn lease(holder: &str, epoch: u64, beat: &str) -> LeaseFacts {
    LeaseFacts {
        holder: Some(holder.to_owned()),
        address: None,
        epoch,
        duration: secs(12),
        beat: beat.to_owned(),
    }
}

fn follower() -> State {
    State::new("me".into(), Timing::default())
}

fn leader(epoch: u64, renewed: Duration) -> State {
    let mut state = follower();
    state.wrote(
        epoch,
        renewed,
        Outcome::Written,
        Some(lease("me", epoch, "1")),
    );
    state
}

#[test]
fn a_first_replica_creates_the_lease() {
    let mut state = follower();
    assert_eq!(evaluate(&state, secs(0)), Step::Read);
    state.observed(None, secs(0));
    assert_eq!(evaluate(&state, secs(0)), Step::Create { epoch: 1 });
    state.wrote(1, secs(0), Outcome::Written, Some(lease("me", 1, "1")));
    assert_eq!(
        state.role,
        Role::Leader {
            epoch: 1,
            renewed: secs(0)
        }
    );
    assert_eq!(evaluate(&state, secs(1)), Step::Wait { until: secs(2) });
    assert_eq!(evaluate(&state, secs(2)), Step::Renew { epoch: 1 });
}

#[test]
fn a_follower_waits_a_whole_lease_from_the_last_change_it_saw() {
    let mut state = follower();
    state.observed(Some(lease("other", 4, "1")), secs(0));
    state.observed(Some(lease("other", 4, "2")), secs(10));
    assert!(matches!(evaluate(&state, secs(11)), Step::Wait { .. }));
    state.observed(Some(lease("other", 4, "2")), secs(21));
    assert_eq!(evaluate(&state, secs(21)), Step::Wait { until: secs(22) });
    assert_eq!(evaluate(&state, secs(22)), Step::Acquire { epoch: 5 });
}

#[test]
fn a_lease_given_back_is_taken_at_once() {
    let mut state = follower();
    state.observed(Some(lease("", 4, "1")), secs(1));
    assert_eq!(evaluate(&state, secs(1)), Step::Acquire { epoch: 5 });
}

#[test]
fn a_restarted_container_takes_its_own_lease_with_a_new_epoch() {
    let mut state = follower();
    state.observed(Some(lease("me", 4, "1")), secs(1));
    assert_eq!(evaluate(&state, secs(1)), Step::Acquire { epoch: 5 });
}

#[test]
fn a_leader_stops_at_its_deadline_while_the_api_server_is_away() {
    let mut state = leader(3, secs(100));
    let mut now = secs(100);
    loop {
        match evaluate(&state, now) {
            Step::Wait { until } => now = until,
            Step::Renew { epoch } => {
                assert_eq!(epoch, 3);
                state.wrote(epoch, now, Outcome::Failed, None);
            }
            Step::Read => state.read_failed(now),
            Step::StepDown => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(now, secs(108));
}

#[test]
fn a_leader_that_finds_another_holder_stops_at_once() {
    let mut state = leader(3, secs(100));
    state.wrote(3, secs(102), Outcome::Conflict, None);
    assert_eq!(evaluate(&state, secs(104)), Step::Read);
    state.observed(Some(lease("other", 4, "9")), secs(104));
    assert_eq!(evaluate(&state, secs(104)), Step::StepDown);
    state.stepped_down();
    assert_eq!(evaluate(&state, secs(104)), Step::Read);
}

#[test]
fn a_leader_survives_an_edit_of_its_lease_by_a_person() {
    let mut state = leader(3, secs(100));
    state.wrote(3, secs(102), Outcome::Conflict, None);
    assert_eq!(evaluate(&state, secs(104)), Step::Read);
    state.observed(Some(lease("me", 3, "edited")), secs(104));
    assert_eq!(evaluate(&state, secs(104)), Step::Renew { epoch: 3 });
}

#[test]
fn a_deleted_lease_is_made_again_by_its_leader_and_respected_by_followers() {
    let mut held = leader(7, secs(100));
    held.wrote(7, secs(102), Outcome::Conflict, None);
    held.observed(None, secs(104));
    assert_eq!(evaluate(&held, secs(104)), Step::Create { epoch: 7 });

    let mut state = follower();
    state.observed(Some(lease("other", 7, "1")), secs(100));
    state.observed(None, secs(102));
    assert!(matches!(evaluate(&state, secs(102)), Step::Wait { .. }));
    state.observed(None, secs(113));
    assert_eq!(evaluate(&state, secs(114)), Step::Create { epoch: 8 });
}

#[test]
fn an_agents_higher_epoch_is_exceeded_in_the_lease() {
    let mut state = leader(1, secs(100));
    state.demand(0);
    assert!(matches!(evaluate(&state, secs(101)), Step::Wait { .. }));
    state.demand(9);
    assert_eq!(evaluate(&state, secs(101)), Step::Renew { epoch: 10 });
    state.wrote(10, secs(101), Outcome::Written, Some(lease("me", 10, "2")));
    assert_eq!(
        state.role,
        Role::Leader {
            epoch: 10,
            renewed: secs(101)
        }
    );
    state.demand(9);
    assert!(matches!(evaluate(&state, secs(101)), Step::Wait { .. }));
}

#[test]
fn an_epoch_equal_to_ours_in_an_agents_hands_is_exceeded_too() {
    // The Lease was deleted and made anew with a low epoch that meets an agent's.
    let mut state = leader(1, secs(100));
    state.demand(1);
    assert_eq!(evaluate(&state, secs(101)), Step::Renew { epoch: 2 });
}

proptest! {
    /// Two replicas, any schedule of lost and late answers: never two leaders whose times overlap,
    /// and never the same epoch twice.
    #[test]
    fn never_two_leaders(
        failures in proptest::collection::vec((any::<bool>(), any::<bool>(), 0u64..3000), 1..300)
    ) {
        let timing = Timing::default();
        let mut replicas = [State::new("a".into(), timing), State::new("b".into(), timing)];
        let mut server: Option<(LeaseFacts, u64)> = None;
        let mut seen = [0u64; 2];
        let mut beat = 0u64;
        let mut epochs = std::collections::BTreeMap::<u64, &str>::new();
        let mut now = Duration::ZERO;
        for (turn, (lost, second, step_ms)) in failures.into_iter().enumerate() {
            now += Duration::from_millis(step_ms);
            let who = (turn + usize::from(second)) % 2;
            let name = ["a", "b"][who];
            let state = &mut replicas[who];
            match evaluate(state, now) {
                Step::Wait { .. } => {}
                Step::StepDown => state.stepped_down(),
                Step::Read => {
                    if lost {
                        state.read_failed(now);
                    } else {
                        seen[who] = server.as_ref().map_or(0, |(_, version)| *version);
                        state.observed(server.as_ref().map(|(facts, _)| facts.clone()), now);
                    }
                }
                Step::Create { epoch } | Step::Acquire { epoch } | Step::Renew { epoch } => {
                    let current = server.as_ref().map_or(0, |(_, version)| *version);
                    if current == seen[who] {
                        beat += 1;
                        let facts = lease(name, epoch, &beat.to_string());
                        server = Some((facts.clone(), beat));
                        if lost {
                            // Written, but the answer never came.
                            state.wrote(epoch, now, Outcome::Failed, None);
                        } else {
                            seen[who] = beat;
                            state.wrote(epoch, now, Outcome::Written, Some(facts));
                            let other = *epochs.entry(epoch).or_insert(name);
                            prop_assert_eq!(other, name, "epoch {} served by both", epoch);
                        }
                    } else {
                        state.wrote(epoch, now, Outcome::Conflict, None);
                    }
                }
            }
            let leading = |state: &State| matches!(
                state.role,
                Role::Leader { renewed, .. } if now < renewed + timing.deadline
            );
            prop_assert!(!(leading(&replicas[0]) && leading(&replicas[1])), "two leaders at {:?}", now);
        }
    }
}
