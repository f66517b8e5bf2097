//! Certificates: a CA of our own, leaves signed by it, and their rotation.
//!
//! ```text
//! Authority ─ issue ─► Leaf            rotation::next_step(view, now, policy) -> Step
//! Pki{current, next?, previous?, leaf?} ─ advance ─► Pki + what was done
//! ```
//!
//! Clients trust the *bundle*: the current CA, the next one while it is being introduced, the
//! previous one while something may still be signed by it. A CA signs only after every client had
//! time to read a bundle that holds it, and leaves the bundle only after its last leaf was replaced.

mod authority;
mod facts;
pub mod rotation;
mod set;

pub use authority::{Authority, Leaf, LeafNames};
pub use facts::{CertificateFacts, inspect};
pub use set::{Pki, PkiData};

/// Work on certificates failed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A key or certificate could not be made.
    #[error("cannot make {what}")]
    Make {
        /// What was to be made.
        what: &'static str,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
    /// Stored PEM does not parse.
    #[error("{what} is not a PEM certificate or key that can be used: {problem}")]
    Parse {
        /// What was read.
        what: &'static str,
        /// Why it does not parse (never its content).
        problem: String,
    },
    /// A time outside what certificates can say.
    #[error("{seconds} seconds since 1970 is no time for a certificate")]
    Time {
        /// The time.
        seconds: i64,
    },
}
