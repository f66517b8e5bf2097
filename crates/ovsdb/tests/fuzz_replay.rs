//! Hostile bytes from a server. The fuzz targets' inputs on a stable compiler; `cargo fuzz`
//! (see `fuzz/`) looks for more.

#![expect(clippy::expect_used, reason = "tests say what they expect")]

#[path = "../../../fuzz/checks/ovsdb.rs"]
mod checks;
#[path = "../../../fuzz/checks/replay.rs"]
mod replay;

#[test]
fn any_bytes_as_a_stream() {
    replay::replay("ovsdb_stream", checks::stream);
}

#[test]
fn any_bytes_as_an_update() {
    replay::replay("ovsdb_update", checks::update);
}
