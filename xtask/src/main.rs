//! Developer verbs: cluster, images, demo, chaos, conformance, bench, test, kernel-tests, gen, tools.
//!
//! Results go to standard output, progress to standard error. Exit codes: 0 done, 1 failed, 2 wrong
//! usage; `cluster shell` passes its command's on.

mod bench;
mod chaos;
mod cluster;
mod conformance;
mod demo;
mod generate;
mod images;
mod kernel_tests;
mod previous;
mod programs;
mod test;
mod tools;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "Developer verbs of Carrick.",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// A real Kubernetes on this machine.
    Cluster(cluster::Args),
    /// Build (or find in the cache) the programs tests and clusters use: Kubernetes, helm, Python peers.
    Tools(tools::Args),
    /// Build the two images as OCI archives (cached by content).
    Images(images::Args),
    /// A cluster with Carrick on it and pods that talk.
    Demo(demo::Args),
    /// Break a cluster at random under continuous traffic, and check what must hold after each event.
    Chaos(chaos::Args),
    /// Kubernetes' own tests of the network, on a cluster with Carrick on it.
    Conformance(conformance::Args),
    /// Figures of the optimised build against other programs, in the same run.
    Bench(bench::Args),
    /// Run all tests but the end-to-end ones, in three lanes.
    Test(test::Args),
    /// Run the Open vSwitch tests (`ovs_*`) on the kernel datapath, on a kernel node.
    KernelTests(kernel_tests::Args),
    /// Rewrite generated files: gRPC code, the CRDs and the reference of carrickctl.
    Gen(generate::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Cluster(args) => cluster::run(args),
        Verb::Tools(args) => tools::run(&args),
        Verb::Images(args) => images::run(args).map(|()| ExitCode::SUCCESS),
        Verb::Demo(args) => demo::run(&args),
        Verb::Chaos(args) => chaos::run(&args),
        Verb::Conformance(args) => conformance::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::KernelTests(args) => kernel_tests::run(&args),
        Verb::Gen(args) => generate::run(&args).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // Nobody reads standard error any more: the exit code says it.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a result on standard output.
fn print(text: impl std::fmt::Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(())
}

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where cargo puts binaries.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}
