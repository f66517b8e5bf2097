//! Random clusters with policies: those of `crates/policy`.

#![allow(dead_code, reason = "made for other tests")]

#[path = "../../../policy/tests/support/generate.rs"]
pub mod generate;
#[path = "../../../policy/tests/support/reference.rs"]
pub mod reference;
#[path = "../../../policy/tests/support/world.rs"]
pub mod world;
