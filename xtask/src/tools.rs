//! `cargo xtask tools`: programs built from Go modules, and the kernel of kernel nodes.

use std::process::ExitCode;

use anyhow::Result;
use carrick_testbed::{Progress, binaries, kernel, paths};

/// Arguments of `tools`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Builds what is not cached and prints the directory with links to the programs.
pub fn run(_: &Args) -> Result<ExitCode> {
    let progress = Progress::stderr();
    binaries::kubernetes(&progress)?;
    binaries::helm(&progress)?;
    kernel::build(&progress)?;
    crate::print(paths::bin()?.display())?;
    Ok(ExitCode::SUCCESS)
}
