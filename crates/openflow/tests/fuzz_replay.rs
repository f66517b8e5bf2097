//! Hostile bytes and text. The fuzz targets' inputs on a stable compiler; `cargo fuzz`
//! (see `fuzz/`) looks for more.

#![expect(clippy::expect_used, reason = "tests say what they expect")]

#[path = "../../../fuzz/checks/openflow.rs"]
mod checks;
#[path = "../../../fuzz/checks/replay.rs"]
mod replay;

#[test]
fn any_bytes_as_a_message() {
    replay::replay("openflow_message", checks::message);
}

#[test]
fn any_bytes_as_a_match() {
    replay::replay("openflow_match", checks::fields);
}

#[test]
fn any_text() {
    replay::replay("openflow_text", checks::text);
}
