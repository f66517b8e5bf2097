//! Errors a switch reports, by name.

use std::fmt;

use super::error_names::{NICIRA, TABLE};
use crate::error::DecodeError;
use crate::wire::{Put, Reader};

/// `NX_VENDOR_ID`.
const NICIRA_EXPERIMENTER: u32 = 0x0000_2320;

/// A switch refused something (OpenFlow 1.5.1 §7.5.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorMessage {
    /// What is wrong.
    pub name: ErrorName,
    /// The beginning of the message that was refused (at least 64 bytes of it), or a text for
    /// HELLO_FAILED.
    pub data: Vec<u8>,
}

/// The number of an error (`struct ofp_error_msg`, OpenFlow 1.5.1 §7.5.4; experimenters' in Open vSwitch's
/// `ofp-errors.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorName {
    /// A standard error.
    Standard {
        /// `enum ofp_error_type`.
        kind: u16,
        /// The code within the type.
        code: u16,
    },
    /// An error of an experimenter.
    Experimenter {
        /// Whose.
        experimenter: u32,
        /// The code.
        code: u16,
    },
}

impl ErrorName {
    /// The bundle was refused because one of its messages failed (`OFPBFC_MSG_FAILED`).
    pub const BUNDLE_MESSAGE_FAILED: Self = Self::Standard { kind: 17, code: 13 };
    /// The bundle is not known (`OFPBFC_BAD_ID`).
    pub const BUNDLE_BAD_ID: Self = Self::Standard { kind: 17, code: 2 };

    /// Its name in the specification, without that of the type's prefix if unknown.
    pub fn name(self) -> Option<&'static str> {
        let key = match self {
            Self::Standard { kind, code } if kind != NICIRA => (kind, code),
            Self::Experimenter {
                experimenter: NICIRA_EXPERIMENTER,
                code,
            } => (NICIRA, code),
            _ => return None,
        };
        let index = TABLE
            .binary_search_by_key(&key, |(kind, code, _)| (*kind, *code))
            .ok()?;
        TABLE.get(index).map(|(_, _, name)| *name)
    }
}

impl fmt::Display for ErrorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self) {
            (Some(name), _) => f.write_str(name),
            (None, Self::Standard { kind, code }) => write!(f, "error type {kind} code {code}"),
            (None, Self::Experimenter { experimenter, code }) => {
                write!(f, "error {code} of experimenter {experimenter:#x}")
            }
        }
    }
}

impl ErrorMessage {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = reader.u16("error.type")?;
        let code = reader.u16("error.code")?;
        let name = if kind == NICIRA {
            ErrorName::Experimenter {
                experimenter: reader.u32("error.experimenter")?,
                code,
            }
        } else {
            ErrorName::Standard { kind, code }
        };
        Ok(Self {
            name,
            data: reader.rest().to_vec(),
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self.name {
            ErrorName::Standard { kind, code } => {
                out.u16(kind);
                out.u16(code);
            }
            ErrorName::Experimenter { experimenter, code } => {
                out.u16(NICIRA);
                out.u16(code);
                out.u32(experimenter);
            }
        }
        out.bytes(&self.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names() {
        assert!(TABLE.is_sorted());
        assert_eq!(
            ErrorName::BUNDLE_MESSAGE_FAILED.to_string(),
            "OFPBFC_MSG_FAILED"
        );
        let code = 0x0f;
        let name = ErrorName::Experimenter {
            experimenter: NICIRA_EXPERIMENTER,
            code,
        };
        assert_eq!(name.to_string(), "NXBAC_BAD_CONJUNCTION");
        assert_eq!(
            ErrorName::Standard { kind: 99, code: 1 }.to_string(),
            "error type 99 code 1"
        );
    }
}
