//! Priorities of the rules of a tier whose order counts.

use std::collections::BTreeMap;

/// The priority of the first rule that could be read.
const FIRST: u16 = 60_160;
/// Priorities that a priority of the API has for itself: two policies of 25 rules a direction fit.
const SLOTS: u16 = 60;

/// OpenFlow priorities for rules in the order they are read, each given with its policy's priority (0 to 1000).
///
/// A priority of the API has [`SLOTS`] places of its own, so that a new policy moves nobody but rules of its own
/// priority that are read behind it. Where one has more rules than places, all stand close together instead. It
/// depends on the rules alone: after a restart they are the same. Rules beyond the last place share it.
pub(super) fn priorities(rules: &[u16]) -> Vec<u16> {
    let mut taken = BTreeMap::<u16, u16>::new();
    let spread: Option<Vec<u16>> = rules
        .iter()
        .map(|priority| {
            let place = taken.entry(*priority).or_default();
            let own = FIRST.checked_sub(priority.checked_mul(SLOTS)?)?;
            let found = (*place < SLOTS).then(|| own - *place);
            *place = place.saturating_add(1);
            found
        })
        .collect();
    let close = || {
        let places = (0..rules.len()).map(|place| {
            let place = u16::try_from(place).unwrap_or(u16::MAX);
            FIRST.saturating_sub(place).max(LAST)
        });
        places.collect()
    };
    spread.unwrap_or_else(close)
}

/// No rule has a lower one.
pub(super) const LAST: u16 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_read_first_has_the_higher_priority(mut rules in prop::collection::vec(0_u16..=1000, 0..300)) {
            rules.sort_unstable();
            let all = priorities(&rules);
            prop_assert!(all.windows(2).all(|pair| pair[0] > pair[1]));
            prop_assert!(all.iter().all(|priority| (LAST..=FIRST).contains(priority)));
        }

        #[test]
        fn a_new_policy_moves_nobody_of_another_priority(
            mut rules in prop::collection::vec(0_u16..=1000, 0..50), new in 0_u16..=1000
        ) {
            rules.sort_unstable();
            let before = priorities(&rules);
            let place = rules.partition_point(|priority| *priority <= new);
            let mut more = rules.clone();
            more.insert(place, new);
            let mut after = priorities(&more);
            after.remove(place);
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn more_rules_of_a_priority_than_places_stand_close() {
        let all = priorities(&[7; 100]);
        assert_eq!((all[0], all[99]), (FIRST, FIRST - 99));
    }
}
