//! What is wrong with a spec, in sentences that mend it.

use std::fmt;

/// Why a spec is not applied: the field, the reason and the mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Path of the field, "spec.traffic.mtu".
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub mend: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}. To mend it: {}.",
            self.field, self.reason, self.mend
        )
    }
}

/// What is doubtful but not wrong; `spec.acknowledge` accepts it by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The name `spec.acknowledge` takes.
    pub name: &'static str,
    /// What is doubtful and how to mend it.
    pub message: String,
}
