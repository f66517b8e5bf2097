//! The figures of nodes with the programs as they are shipped, for `cargo xtask bench
//! cni|agent|datapath|services`: an array of JSON objects.
//!
//! ```text
//! cargo run --release -p carrick-agent --example bench_node -- cni|agent|datapath CARRICK CARRICK_CNI
//! cargo run --release -p carrick-agent --example bench_node -- services CARRICK CARRICK_CNI KUBE_PROXY [large]
//! ```
//!
//! A node is a real switch in a network namespace and a real agent (`CARRICK agent`). The controller
//! is the one that tests play.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::duration_suboptimal_units,
    clippy::default_trait_access,
    reason = "a program that measures: it shares the tests' node, and what fails ends it"
)]

mod bridges;
mod cni;
mod datapath;
#[path = "../../tests/lab/mod.rs"]
mod lab;
mod memory;
mod node;
mod plugin;
mod process;
mod restart;
mod services;
mod transfer;

use std::path::PathBuf;

const USAGE: &str =
    "usage: bench_node cni|agent|datapath|services CARRICK CARRICK_CNI [KUBE_PROXY [large]]";

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let suite = arguments.next().expect(USAGE);
    match suite.to_str() {
        Some("serve") => return transfer::serve(),
        Some("drive") => {
            let words: Vec<String> = std::env::args().skip(2).collect();
            let [kind, address, seconds] = &words[..] else {
                panic!("{USAGE}")
            };
            return transfer::drive(kind, address, seconds);
        }
        _ => {}
    }
    let mut program = || PathBuf::from(arguments.next().expect(USAGE));
    let programs = node::Programs {
        carrick: program(),
        plugin: program(),
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let figures = match suite.to_str() {
        Some("cni") => cni::figures(&programs).await,
        Some("agent") => {
            let mut figures = memory::figures(&programs).await;
            figures.extend(restart::figures(&programs).await);
            figures
        }
        Some("datapath") => datapath::figures(&programs).await,
        Some("services") => {
            let kube_proxy = PathBuf::from(arguments.next().expect(USAGE));
            let large = arguments.next().is_some_and(|word| word == "large");
            services::figures(&programs, &kube_proxy, large).await
        }
        _ => panic!("{USAGE}"),
    };
    println!("{}", serde_json::to_string_pretty(&figures).unwrap());
}
