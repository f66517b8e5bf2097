//! Any bytes as the agent's last commit.

#![no_main]

#[path = "../checks/datapath.rs"]
mod datapath;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| datapath::commit(bytes));
