//! Faults drawn at random on a running cluster, and what must hold after each.
//!
//! ```text
//! event, sequence, expect   pure: what may happen, what comes next, what it may cost
//! act                       does an event to a bed and waits until its parts are back
//! check                     invariants 1 to 4 of the design, and that nothing piles up
//! scene                     a bed under traffic: plays an event, then checks
//! run                       the loop: one line per event, a table at the end
//! ```
//!
//! Tests of single faults play theirs on a [`scene`] too.

pub mod act;
pub mod check;
pub mod event;
pub mod expect;
mod host;
pub mod run;
pub mod scene;
pub mod sequence;
