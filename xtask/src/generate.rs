//! `cargo xtask gen`: rewrites what is generated from the Rust types and the protocol.
//!
//! Each generator is an example of the crate that owns the source, and a test of that crate fails
//! when the file in the repository is stale.

use anyhow::{Context, Result, ensure};
use carrick_testbed::binaries;

/// Options of `cargo xtask gen`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Package, example, arguments (relative to the repository's root).
const GENERATORS: &[(&str, &str, &[&str])] = &[
    ("carrick-proto", "generate", &[]),
    ("carrick-api", "crds", &["crds", "charts/carrick/crds"]),
    ("carrick-cli", "reference", &[]),
];

/// Runs every generator.
pub fn run(_: &Args) -> Result<()> {
    let progress = carrick_testbed::Progress::stderr();
    for (package, example, arguments) in GENERATORS {
        progress.say(format!("generating: {package} {example}"));
        let status = binaries::cargo()
            .args([
                "run",
                "--quiet",
                "--package",
                package,
                "--example",
                example,
                "--",
            ])
            .args(*arguments)
            .status()
            .context("start cargo")?;
        ensure!(status.success(), "generator {package} {example}: {status}");
    }
    Ok(())
}
