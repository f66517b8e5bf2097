//! Any bytes as fields of a match.

#![no_main]

#[expect(dead_code, reason = "other targets use the rest")]
#[path = "../checks/openflow.rs"]
mod openflow;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| openflow::fields(bytes));
