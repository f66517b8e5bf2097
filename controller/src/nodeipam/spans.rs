//! A set of numbers, kept as spans: a thousand blocks in a row cost as much as one.

use std::collections::BTreeMap;

/// Disjoint spans that never touch, start → end, both inclusive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans(BTreeMap<u128, u128>);

impl Spans {
    /// Adds every number from `first` to `last`.
    pub fn insert(&mut self, first: u128, last: u128) {
        let (mut start, mut end) = (first, last);
        // What overlaps or touches the new span becomes part of it.
        while let Some((&before, &before_end)) = self.0.range(..=end.saturating_add(1)).next_back()
        {
            if before_end.saturating_add(1) < start {
                break;
            }
            self.0.remove(&before);
            start = start.min(before);
            end = end.max(before_end);
        }
        self.0.insert(start, end);
    }

    /// Takes every number from `first` to `last` out.
    pub fn remove(&mut self, first: u128, last: u128) {
        while let Some((&start, &end)) = self.0.range(..=last).next_back() {
            if end < first {
                break;
            }
            self.0.remove(&start);
            if end > last {
                self.0.insert(last + 1, end);
            }
            if start < first {
                self.0.insert(start, first - 1);
                break;
            }
        }
    }

    /// Whether a number from `first` to `last` is in the set.
    #[must_use]
    pub fn touches(&self, first: u128, last: u128) -> bool {
        let before = self.0.range(..=last).next_back();
        before.is_some_and(|(_, end)| *end >= first)
    }

    /// The lowest number that is not in the set.
    #[must_use]
    pub fn lowest_absent(&self) -> u128 {
        match self.0.first_key_value() {
            Some((0, end)) => end.saturating_add(1),
            _ => 0,
        }
    }

    /// How many numbers are in the set.
    #[must_use]
    pub fn len(&self) -> u128 {
        self.iter().fold(0, |sum: u128, (first, last)| {
            sum.saturating_add((last - first).saturating_add(1))
        })
    }

    /// The spans in order.
    pub fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.0.iter().map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn spans_are_a_set(
            steps in proptest::collection::vec((0_u128..40, 0_u128..8, any::<bool>()), 0..60),
        ) {
            let (mut spans, mut model) = (Spans::default(), BTreeSet::new());
            for (first, length, add) in steps {
                let numbers = first..=first + length;
                if add {
                    spans.insert(first, first + length);
                    model.extend(numbers);
                } else {
                    spans.remove(first, first + length);
                    model.retain(|number| !numbers.contains(number));
                }
                prop_assert_eq!(spans.len(), model.len() as u128);
                let all: BTreeSet<u128> = spans.iter().flat_map(|(a, b)| a..=b).collect();
                prop_assert_eq!(&all, &model);
                for number in 0..50 {
                    let touched = (number..=number + 2).any(|n| model.contains(&n));
                    prop_assert_eq!(spans.touches(number, number + 2), touched);
                }
                let absent = (0..100).find(|number| !model.contains(number)).unwrap();
                prop_assert_eq!(spans.lowest_absent(), absent);
                // They never touch, so that a full pool is one span.
                let ends: Vec<_> = spans.iter().collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            }
        }
    }

    #[test]
    fn the_whole_range_of_numbers_fits() {
        let mut spans = Spans::default();
        spans.insert(0, u128::MAX);
        spans.insert(5, 9);
        assert_eq!(spans.iter().collect::<Vec<_>>(), [(0, u128::MAX)]);
        spans.remove(7, u128::MAX);
        assert_eq!(spans.lowest_absent(), 7);
    }
}
