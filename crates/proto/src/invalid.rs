//! Why a message was refused.

/// A message that does not say what the protocol lets it say. The peer that sent it is broken or
/// hostile: the stream is closed with this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A message or field that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// The field, as the .proto file names it.
        field: &'static str,
    },
    /// Too many items or too many bytes.
    #[error("{field} has {found} items or bytes, at most {limit} are allowed")]
    TooLarge {
        /// The field, as the .proto file names it.
        field: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Text that is not of its type.
    #[error("{field}: {text:?} is not {expected}")]
    Malformed {
        /// The field, as the .proto file names it.
        field: &'static str,
        /// What was found, cut to a readable length.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A record whose key and body are of different kinds or name different objects.
    #[error("the record {key:?} holds another object than its key says")]
    KeyMismatch {
        /// The key that came with the body.
        key: String,
    },
}

impl Invalid {
    pub(crate) fn malformed(field: &'static str, text: &str, expected: &'static str) -> Self {
        Self::Malformed {
            field,
            text: text.chars().take(80).collect(),
            expected,
        }
    }
}

pub(crate) fn at_most(field: &'static str, found: usize, limit: usize) -> Result<(), Invalid> {
    if found > limit {
        Err(Invalid::TooLarge {
            field,
            found,
            limit,
        })
    } else {
        Ok(())
    }
}
