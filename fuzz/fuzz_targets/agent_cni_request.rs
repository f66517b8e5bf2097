//! Any bytes as a request of the CNI plugin.

#![no_main]

#[expect(dead_code, reason = "other targets use the rest")]
#[path = "../checks/agent.rs"]
mod agent;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| agent::cni_request(bytes));
