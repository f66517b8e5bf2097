//! Any bytes as a list of policies.

#![no_main]

#[path = "../checks/policy.rs"]
mod policy;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| policy::objects(bytes));
