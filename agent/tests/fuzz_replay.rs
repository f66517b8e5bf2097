//! Hostile requests and files. The fuzz targets' inputs on a stable compiler; `cargo fuzz`
//! (see `fuzz/`) looks for more.

#![expect(clippy::expect_used, reason = "tests say what they expect")]

#[path = "../../fuzz/checks/agent.rs"]
mod checks;
#[path = "../../fuzz/checks/datapath.rs"]
mod commit;
#[path = "../../fuzz/checks/replay.rs"]
mod replay;

#[test]
fn any_bytes_as_a_request_of_the_plugin() {
    replay::replay("agent_cni_request", checks::cni_request);
}

#[test]
fn any_bytes_as_the_last_commit() {
    replay::replay("datapath_commit", commit::commit);
}

#[test]
fn any_bytes_as_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    replay::replay("agent_journal", |bytes| {
        checks::journal(directory.path(), bytes);
    });
}

#[test]
fn any_bytes_as_the_ledger() {
    let directory = tempfile::tempdir().unwrap();
    replay::replay("agent_ledger", |bytes| {
        checks::ledger(directory.path(), bytes);
    });
}
