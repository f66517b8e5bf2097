//! Any bytes as the agent's ledger.

#![no_main]

use std::sync::LazyLock;

#[expect(dead_code, reason = "other targets use the rest")]
#[path = "../checks/agent.rs"]
mod agent;

static DIRECTORY: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a directory"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::ledger(DIRECTORY.path(), bytes));
