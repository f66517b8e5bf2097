//! `cargo xtask kernel-tests`: the tests that drive an Open vSwitch (`ovs_*`), on the kernel datapath.
//!
//! The machine's own kernel may have none. So a kernel node is started, which sees the machine's files,
//! and the tests' programs run on it as they are.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use carrick_testbed::{Cluster, ClusterSpec, NodeKind, Progress, binaries};
use serde_json::Value;

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

/// A test file's program and its package's directory.
struct Program {
    name: String,
    path: PathBuf,
    package: PathBuf,
}

/// Runs the tests; the exit code says whether all passed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let progress = Progress::stderr();
    let mut programs = build()?;
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
    let tested = Cluster::up(&spec, &progress).and_then(|cluster| test(&cluster, &programs, args));
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

/// Builds every `ovs_*` test file of the workspace.
fn build() -> Result<Vec<Program>> {
    let output = binaries::cargo()
        .args(["test", "--workspace", "--locked", "--no-run"])
        .args(["--test", "ovs_*"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut programs: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| program(&serde_json::from_str(line).ok()?))
        .collect();
    programs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(programs)
}

/// The test program a line of cargo's tells of.
fn program(message: &Value) -> Option<Program> {
    let name = message["target"]["name"].as_str()?;
    let path = message["executable"].as_str()?;
    let manifest = Path::new(message["manifest_path"].as_str()?);
    (message["reason"] == "compiler-artifact" && name.starts_with("ovs_")).then(|| Program {
        name: name.to_owned(),
        path: path.into(),
        package: manifest.parent().unwrap_or(manifest).to_path_buf(),
    })
}
