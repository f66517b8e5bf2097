//! What must hold of any bytes given to the agent: by the CNI plugin, and in its files.

use std::fs;
use std::path::Path;

use carrick_agent::cni::{Frame, Request};
use carrick_agent::journal::Journal;
use carrick_agent::ledgerfile::LedgerFile;
use serde_json::Value;

/// A request of the CNI plugin: no panic, and what is refused says why.
pub fn cni_request(bytes: &[u8]) {
    let Ok(frame) = serde_json::from_slice::<Frame>(bytes) else {
        return;
    };
    if let Err(error) = Request::parse(&frame) {
        assert!(!error.to_string().is_empty());
    }
}

/// A journal in `directory`: it opens whatever it holds, keeps its intact records, and is intact
/// when it is opened again.
pub fn journal(directory: &Path, bytes: &[u8]) {
    let path = directory.join("journal");
    fs::write(&path, bytes).expect("write the journal");
    let opened = Journal::open(&path).expect("any journal opens");
    drop(opened.decode::<Value>());
    let records = opened.records;
    drop(opened.journal);
    let again = Journal::open(&path).expect("it opens again");
    assert_eq!(again.records, records, "records are kept");
    assert_eq!(
        again.recovery,
        carrick_agent::journal::Recovery::Intact,
        "what was opened once is whole"
    );
}

/// A ledger in `directory`: it opens whatever it holds.
pub fn ledger(directory: &Path, bytes: &[u8]) {
    let path = directory.join("ledger.json");
    fs::write(&path, bytes).expect("write the ledger");
    LedgerFile::open(&path, "boot").expect("any ledger opens");
}
