//! Any bytes as a stream from ovsdb-server.

#![no_main]

#[expect(dead_code, reason = "other targets use the rest")]
#[path = "../checks/ovsdb.rs"]
mod ovsdb;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ovsdb::stream(bytes));
