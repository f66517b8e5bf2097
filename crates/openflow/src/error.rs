//! What can go wrong with bytes, values and text. None of these is ever a panic.

use thiserror::Error;

use crate::field::Field;

/// Bytes that are not what they should be: where, in which field of the message (OpenFlow 1.5.1 §7, or
/// Open vSwitch's `nicira-ext.h`), and why.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field} at byte {offset}: {reason}")]
pub struct DecodeError {
    /// Offset from the start of what was decoded.
    pub offset: usize,
    /// The wire field, named as in the specification or in Open vSwitch's headers.
    pub field: &'static str,
    /// Why.
    pub reason: DecodeReason,
}

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeReason {
    /// The bytes end too early.
    #[error("needs {need} bytes, {have} are left")]
    Truncated {
        /// Bytes needed.
        need: usize,
        /// Bytes left.
        have: usize,
    },
    /// A length field that cannot be.
    #[error("length {0} cannot be")]
    Length(usize),
    /// A value that cannot be.
    #[error("value {0:#x} cannot be")]
    Value(u64),
    /// A version other than OpenFlow 1.5.
    #[error("version {0:#04x} is not OpenFlow 1.5 (0x06)")]
    Version(u8),
    /// Bits of the value that the mask leaves out, or bits beyond the field's width, are set.
    #[error("value has bits outside of its mask or width")]
    Bits,
    /// A mask on a field that takes none.
    #[error("the field takes no mask")]
    NotMaskable,
    /// A field given twice.
    #[error("the field is given twice")]
    Duplicate,
    /// A field without the fields it depends on.
    #[error("a prerequisite is missing")]
    Prerequisite,
    /// Actions nested deeper than [`crate::MAX_DEPTH`].
    #[error("nested too deep")]
    Depth,
}

/// A value that does not fit its place on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Something is longer than its length field can say.
    #[error("{what} takes {length} bytes, at most {limit} fit")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The most that fits.
        limit: usize,
    },
    /// A number is larger than its place.
    #[error("{what} is {value}, at most {limit} fits")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The most that fits.
        limit: u64,
    },
    /// A combination that has no form on the wire.
    #[error("{what}: {reason}")]
    Invalid {
        /// What.
        what: &'static str,
        /// Why.
        reason: &'static str,
    },
}

/// Text that is not in `ovs-ofctl` syntax.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{token}` {reason}")]
pub struct ParseError {
    /// The part that is wrong.
    pub token: String,
    /// What is wrong with it.
    pub reason: String,
}

impl ParseError {
    /// An error about `token`. The token is cut to 80 characters.
    pub fn new(token: &str, reason: impl Into<String>) -> Self {
        Self {
            token: token.chars().take(80).collect(),
            reason: reason.into(),
        }
    }
}

/// A match that the switch would refuse.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MatchError {
    /// The value has bits beyond the field's width.
    #[error("{}: {value:#x} does not fit {} bits", field.name(), field.info().bits)]
    Width {
        /// The field.
        field: Field,
        /// Its value.
        value: u128,
    },
    /// The field takes no mask.
    #[error("{} takes no mask", field.name())]
    NotMaskable {
        /// The field.
        field: Field,
    },
    /// The field needs another field that is absent or has another value.
    #[error("{} needs {}", field.name(), field.info().prerequisite.describe())]
    Prerequisite {
        /// The field.
        field: Field,
    },
    /// The field got two values that no packet can have at once.
    #[error("{} is given twice", field.name())]
    Conflict {
        /// The field.
        field: Field,
    },
    /// A value's size does not suit the field (Geneve options up to 16 bytes).
    #[error("{}: a value of {bytes} bytes is not supported", field.name())]
    Size {
        /// The field.
        field: Field,
        /// Size of the value in bytes.
        bytes: usize,
    },
    /// There is no such register.
    #[error("there is no register {0}")]
    Register(u8),
}
