//! `cargo xtask tools`: programs built from Go modules, the kernel of kernel nodes, and the Python
//! peers of benchmarks and tests. Kubernetes' own tests are left to the verb that runs them.

use std::process::ExitCode;

use anyhow::Result;
use carrick_testbed::{Progress, binaries, kernel, paths};

/// Arguments of `tools`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only what the demo needs: neither kube-proxy, CoreDNS and cnitool, nor the kernel of kernel nodes, nor
    /// Python peers.
    #[arg(long)]
    demo: bool,
}

/// Builds what is not cached and prints the directory with links to the programs.
pub fn run(args: &Args) -> Result<ExitCode> {
    let progress = Progress::stderr();
    binaries::kubernetes(&progress)?;
    binaries::helm(&progress)?;
    if !args.demo {
        binaries::kube_proxy(&progress)?;
        binaries::coredns(&progress)?;
        binaries::cnitool(&progress)?;
        kernel::build(&progress)?;
        carrick_testkit::python::install()?;
    }
    crate::print(paths::bin()?.display())?;
    Ok(ExitCode::SUCCESS)
}
