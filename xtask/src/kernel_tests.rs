//! `cargo xtask kernel-tests`: the tests that drive an Open vSwitch (`ovs_*`), on the kernel datapath.
//!
//! The machine's own kernel may have none. So a kernel node is started, which sees the machine's files,
//! and the tests' programs run on it as they are.

use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use carrick_testbed::{Cluster, ClusterSpec, NodeKind, Progress};

use crate::programs::{self, Program};

const NAME: &str = "kernel-tests";

/// Arguments of `kernel-tests`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep the node for another run.
    #[arg(long)]
    keep: bool,
    /// Only test files whose name contains this.
    #[arg(long)]
    file: Option<String>,
    /// What the tests' programs get: filters and options as of `cargo test`.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs the tests; the exit code says whether all passed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let progress = Progress::stderr();
    let mut programs = programs::build(&["--test", "ovs_*"])?;
    if let Some(file) = &args.file {
        programs.retain(|program| program.name.contains(file));
    }
    if programs.is_empty() {
        bail!("no test file is left to run");
    }
    let spec = ClusterSpec {
        nodes: 1,
        kind: NodeKind::Kernel,
        ..ClusterSpec::new(NAME)
    };
    let tested =
        Cluster::up_afresh(&spec, &progress).and_then(|cluster| test(&cluster, &programs, args));
    if !args.keep {
        Cluster::down(NAME, &progress)?;
    }
    let failed = tested?;
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    progress.say(format!(
        "failed on the kernel datapath: {}",
        failed.join(", ")
    ));
    Ok(ExitCode::FAILURE)
}

fn test(cluster: &Cluster, programs: &[Program], args: &Args) -> Result<Vec<String>> {
    let node = cluster.node("node1")?;
    let mut failed = Vec::new();
    for program in programs {
        crate::print(format!("=== {} on the kernel datapath", program.name))?;
        let script = r#"cd "$1" && shift && exec env CARRICK_TEST_DATAPATH=system INSTA_UPDATE=no CARGO_MANIFEST_DIR="$PWD" "$@""#;
        // One processor: tests beside each other only make each other slow.
        let status = node
            .command("bash")?
            .args(["-c", script, "test"])
            .args([&program.package, &program.path])
            .arg("--test-threads=1")
            .args(&args.rest)
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("run {}", program.name))?;
        if !status.success() {
            failed.push(program.name.clone());
        }
    }
    Ok(failed)
}
