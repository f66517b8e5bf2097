//! Hostile policies. The fuzz target's inputs on a stable compiler; `cargo fuzz` (see `fuzz/`) looks
//! for more.

#![expect(clippy::expect_used, reason = "tests say what they expect")]

#[path = "../../../fuzz/checks/policy.rs"]
mod checks;
#[path = "../../../fuzz/checks/replay.rs"]
mod replay;

#[test]
fn any_bytes_as_policies() {
    replay::replay("policy_objects", checks::objects);
}
