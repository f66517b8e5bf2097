//! End-to-end tests on a real Kubernetes: the bed they run on.
//!
//! [`fixture::Fixtures`] starts each cluster once; [`Bed`] is a cluster with Carrick on it;
//! [`chaos`] breaks a bed under [`traffic`] and measures what that costs;
//! [`pod::Pod`] a test pod whose network namespace tests run commands in. Everything waits for
//! conditions with a deadline ([`wait::until`]), nothing sleeps for luck.

pub mod bed;
pub mod chaos;
mod command;
pub mod crowd;
pub mod fixture;
mod images;
pub mod pod;
pub mod portrait;
pub mod prober;
pub mod program;
pub mod rollout;
pub mod timeline;
pub mod traffic;
pub mod wait;

pub use bed::Bed;
pub use pod::Pod;
