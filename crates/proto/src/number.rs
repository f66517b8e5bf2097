//! Positions in the log.

use std::cmp::Ordering;
use std::fmt;

use crate::v1;

/// A position in the log: the leader's epoch, then the sequence in it. [`Number::NOTHING`] comes
/// before every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Number {
    // The order of the fields is the order of comparison.
    epoch: u64,
    sequence: u64,
}

impl Number {
    /// What an agent has that has never committed.
    pub const NOTHING: Self = Self {
        epoch: 0,
        sequence: 0,
    };

    /// The position `sequence` of the leader that serves by `epoch`.
    #[must_use]
    pub const fn new(epoch: u64, sequence: u64) -> Self {
        Self { epoch, sequence }
    }

    /// The epoch: one per leadership.
    #[must_use]
    pub const fn epoch(self) -> u64 {
        self.epoch
    }

    /// The sequence within the epoch.
    #[must_use]
    pub const fn sequence(self) -> u64 {
        self.sequence
    }

    /// The next position of the same epoch.
    #[must_use]
    pub const fn next(self) -> Self {
        Self {
            epoch: self.epoch,
            sequence: self.sequence.saturating_add(1),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

impl From<v1::Number> for Number {
    fn from(number: v1::Number) -> Self {
        Self::new(number.epoch, number.sequence)
    }
}

/// A missing number is [`Number::NOTHING`]: proto3 leaves out what is zero.
impl From<Option<v1::Number>> for Number {
    fn from(number: Option<v1::Number>) -> Self {
        number.map_or(Self::NOTHING, Self::from)
    }
}

impl From<Number> for v1::Number {
    fn from(number: Number) -> Self {
        Self {
            epoch: number.epoch,
            sequence: number.sequence,
        }
    }
}

impl PartialOrd for v1::Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for v1::Number {
    fn cmp(&self, other: &Self) -> Ordering {
        Number::from(*self).cmp(&Number::from(*other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_comes_before_the_sequence() {
        assert!(Number::new(2, 1) > Number::new(1, 900));
        assert!(Number::new(2, 2) > Number::new(2, 1));
        assert!(Number::NOTHING < Number::new(0, 1));
        assert!(
            v1::Number {
                epoch: 2,
                sequence: 0
            } > v1::Number {
                epoch: 1,
                sequence: 9
            }
        );
        assert_eq!(Number::from(None), Number::NOTHING);
        assert_eq!(Number::new(3, 4).next().to_string(), "3.5");
    }
}
