//! What is wrong with a policy, as sentences for its owner.

use std::fmt;

/// How many problems of one policy are kept; the rest is counted. A status holds 20 lines.
pub const MAX_PROBLEMS: usize = 20;
/// How much of a wrong value is repeated, in characters.
const MAX_QUOTED: usize = 80;
/// How much of a decoder's message is passed on, in characters.
const MAX_MESSAGE: usize = 200;

/// A part of a policy that cannot be enforced as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{field}: {reason}; {mend}")]
pub struct Problem {
    /// Path of the field, as `spec.ingress[0].from[2].ipBlock.cidr`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to write instead.
    pub mend: &'static str,
}

impl Problem {
    pub(crate) fn new(
        field: impl fmt::Display,
        reason: impl fmt::Display,
        mend: &'static str,
    ) -> Self {
        Self {
            field: field.to_string(),
            reason: reason.to_string(),
            mend,
        }
    }
}

/// The problems of one policy: the first [`MAX_PROBLEMS`], and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems {
    first: Vec<Problem>,
    count: usize,
}

impl Problems {
    pub(crate) fn push(&mut self, problem: Problem) {
        self.count += 1;
        if self.first.len() < MAX_PROBLEMS {
            self.first.push(problem);
        }
    }

    /// The first ones, in the order of the policy's fields.
    pub fn first(&self) -> &[Problem] {
        &self.first
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A message of somebody else, which may repeat any value.
pub(crate) fn bounded(text: &str) -> String {
    let short = text.chars().take(MAX_MESSAGE);
    short
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A value as it is repeated in a message: bounded, control characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_QUOTED).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_counted_and_capped() {
        let mut problems = Problems::default();
        for n in 0..5000 {
            problems.push(Problem::new(format_args!("f[{n}]"), "is wrong", "mend it"));
        }
        assert_eq!((problems.first().len(), problems.len()), (20, 5000));
        assert_eq!(problems.first()[3].to_string(), "f[3]: is wrong; mend it");
    }

    #[test]
    fn what_is_repeated_is_short_and_printable() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert!(quoted(&"x".repeat(1 << 20)).len() < 100);
    }
}
