//! The binaries in the images: built by cargo, stripped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use carrick_testbed::{Progress, binaries};

use super::Options;

/// The stripped binaries.
#[derive(Debug)]
pub struct Binaries {
    /// The multi-call binary.
    pub carrick: PathBuf,
    /// The command line tool.
    pub carrickctl: PathBuf,
    /// The CNI plugin, static.
    pub carrick_cni: PathBuf,
}

impl Binaries {
    /// Builds what is stale.
    pub fn build(options: &Options, progress: &Progress) -> Result<Self> {
        let Options { profile, tree, .. } = options;
        progress.say(format!("building binaries (profile {profile})"));
        let target = crate::target_dir(&crate::root());
        let cargo = |arguments: &[&str], flags| cargo(tree.as_deref(), profile, arguments, flags);
        cargo(&["--package", "carrick", "--package", "carrick-cli"], None)?;
        // What is copied to hosts must run on any of them: static. A triple of its own keeps the flag
        // away from build scripts and from the other binaries' artifacts.
        let triple = host_triple()?;
        cargo(
            &["--package", "carrick-cni", "--target", &triple],
            Some("-C target-feature=+crt-static"),
        )?;
        let directory = if profile == "dev" { "debug" } else { profile };
        let stripped = match tree {
            None => target.join("stripped").join(directory),
            Some(tree) => tree.join("stripped"),
        };
        fs::create_dir_all(&stripped).with_context(|| format!("create {}", stripped.display()))?;
        let cni = strip(
            &target.join(&triple).join(directory).join("carrick-cni"),
            &stripped,
        )?;
        ensure_static(&cni)?;
        Ok(Self {
            carrick: strip(&target.join(directory).join("carrick"), &stripped)?,
            carrickctl: strip(&target.join(directory).join("carrickctl"), &stripped)?,
            carrick_cni: cni,
        })
    }
}

fn cargo(
    tree: Option<&Path>,
    profile: &str,
    arguments: &[&str],
    flags: Option<&str>,
) -> Result<()> {
    let mut command = binaries::cargo();
    if let Some(tree) = tree {
        // Cargo names artifacts by their place in the workspace and takes another tree's for this one's.
        // Another setting gives ours a name of their own, and the dependencies', which have their own
        // settings, are shared.
        command
            .current_dir(tree)
            .env("CARGO_PROFILE_DEV_DEBUG", "none");
    }
    command
        .args(["build", "--quiet", "--locked", "--profile", profile])
        .args(arguments);
    if let Some(flags) = flags {
        command.env("RUSTFLAGS", flags);
    }
    let status = command.status().context("start cargo")?;
    ensure!(
        status.success(),
        "cargo build {}: {status}",
        arguments.join(" ")
    );
    Ok(())
}

fn strip(from: &Path, directory: &Path) -> Result<PathBuf> {
    let to = directory.join(from.file_name().context("a binary without a name")?);
    let output = Command::new("strip")
        .arg("-o")
        .args([&to, from])
        .output()
        .context("start strip (Debian package binutils; hack/install installs it)")?;
    ensure!(
        output.status.success(),
        "strip {}: {}: {}",
        from.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(to)
}

/// A plugin that needs the host's C library fails on the first host with an older one.
fn ensure_static(binary: &Path) -> Result<()> {
    let output = Command::new("readelf")
        .args(["--program-headers", "--wide"])
        .arg(binary)
        .output();
    let output = output.context("start readelf (Debian package binutils)")?;
    let headers = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "readelf {}: {}",
        binary.display(),
        output.status
    );
    ensure!(
        !headers.contains("INTERP"),
        "{} is not static: it asks for a loader",
        binary.display()
    );
    Ok(())
}

fn host_triple() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("start rustc")?;
    let text = String::from_utf8(output.stdout).context("rustc -vV")?;
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple.map(str::to_owned).context("rustc -vV names no host")
}
