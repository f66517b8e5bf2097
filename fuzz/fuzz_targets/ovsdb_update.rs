//! Any bytes as an update of the cache.

#![no_main]

#[expect(dead_code, reason = "other targets use the rest")]
#[path = "../checks/ovsdb.rs"]
mod ovsdb;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ovsdb::update(bytes));
