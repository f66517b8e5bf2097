//! Test programs of the workspace, built and not yet run.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use carrick_testbed::binaries;
use serde_json::Value;

/// A test file's program and its package's directory.
#[derive(Debug)]
pub struct Program {
    /// Name of the test file, or of the library or binary whose unit tests these are.
    pub name: String,
    /// The program.
    pub path: PathBuf,
    /// The package's directory, where cargo runs it.
    pub package: PathBuf,
}

/// Builds what `cargo test` with these arguments would run; sorted.
pub fn build(arguments: &[&str]) -> Result<Vec<Program>> {
    let output = binaries::cargo()
        .args(["test", "--workspace", "--locked", "--no-run"])
        .args(arguments)
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
    let test = message["profile"]["test"].as_bool()?;
    (message["reason"] == "compiler-artifact" && test).then(|| Program {
        name: name.to_owned(),
        path: path.into(),
        package: manifest.parent().unwrap_or(manifest).to_path_buf(),
    })
}
