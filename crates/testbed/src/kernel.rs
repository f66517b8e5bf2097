//! The kernel of kernel nodes: User-Mode Linux, built from Debian's source package with our options
//! (`hack/uml/kernel.config`), and the library preloaded into it (`hack/uml/registers.c`). Both are
//! cached by content, as [`binaries`](crate::binaries) are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::binaries::cached;
use crate::exec;
use crate::paths;
use crate::progress::Progress;

/// Debian's package with the source; the release our options are for.
pub const SOURCE_PACKAGE: &str = "linux-source-6.12";

/// A kernel that can be started.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The program.
    pub program: PathBuf,
    /// The library that goes into its `LD_PRELOAD`.
    pub preload: PathBuf,
}

/// Builds the kernel, or finds it in the cache.
///
/// # Errors
/// When the source package or a compiler is missing, an option is unknown to that source, or the
/// build fails; what it said is part of the error.
pub fn build(progress: &Progress) -> Result<Kernel> {
    let directory = paths::repository().join("hack/uml");
    let source = directory.join("registers.c");
    let text = read(&source)?;
    let preload = cached(
        "registers",
        &hash(&[&text]),
        &["registers.so"],
        progress,
        |dir| {
            exec::require("gcc", "gcc")?;
            let output = dir.join("registers.so");
            exec::output(
                Command::new("gcc")
                    .args([
                        "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o",
                    ])
                    .args([&output, &source]),
            )
            .map(drop)
        },
    )?;
    let options = read(&directory.join("kernel.config"))?;
    let version = source_version()?;
    let key = hash(&[&version, &options]);
    let program = cached("kernel", &key, &["linux"], progress, |dir| {
        make(dir, &options, progress)
    })?;
    Ok(Kernel {
        program: program.join("linux"),
        preload: preload.join("registers.so"),
    })
}

/// The installed version of the source package.
fn source_version() -> Result<String> {
    let query = ["-W", "-f", "${db:Status-Status} ${Version}", SOURCE_PACKAGE];
    let said = exec::output(Command::new("dpkg-query").args(query)).unwrap_or_default();
    match said.strip_prefix("installed ") {
        Some(version) => Ok(version.to_owned()),
        None => bail!(
            "the kernel of kernel nodes is built from Debian's package {SOURCE_PACKAGE}, which is not installed: \
             run hack/install, or apt-get install {SOURCE_PACKAGE}"
        ),
    }
}

fn make(dir: &Path, options: &str, progress: &Progress) -> Result<()> {
    for (program, package) in [
        ("make", "make"),
        ("gcc", "gcc"),
        ("flex", "flex"),
        ("bison", "bison"),
        ("bc", "bc"),
        ("xz", "xz-utils"),
    ] {
        exec::require(program, package)?;
    }
    progress.say("building the kernel of kernel nodes (5 minutes on two cores, once)");
    let tree = dir.join("tree");
    let make = |target: &[&str]| {
        exec::output(
            Command::new("make")
                .args(["ARCH=um", "SUBARCH=x86_64"])
                .args(target)
                .current_dir(&tree)
                .env("KBUILD_BUILD_USER", "carrick")
                .env("KBUILD_BUILD_HOST", "carrick"),
        )
    };
    let unpacked = tree.join(".unpacked");
    if !unpacked.exists() {
        fs::create_dir_all(&tree).with_context(|| format!("create {}", tree.display()))?;
        exec::output(
            Command::new("tar")
                .args(["--extract", "--strip-components=1", "--file"])
                .arg(format!("/usr/src/{SOURCE_PACKAGE}.tar.xz"))
                .arg("--directory")
                .arg(&tree),
        )?;
        exec::write(&unpacked, "")?;
    }
    make(&["allnoconfig"])?;
    let file = tree.join(".config");
    exec::write(&file, read(&file)? + options)?;
    make(&["olddefconfig"])?;
    let unknown = unheeded(options, &read(&file)?);
    if !unknown.is_empty() {
        bail!(
            "{SOURCE_PACKAGE} does not heed these lines of hack/uml/kernel.config: {}",
            unknown.join(" ")
        );
    }
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    make(&[&format!("-j{jobs}"), "linux"])?;
    fs::rename(tree.join("linux"), dir.join("linux")).context("take the kernel out of its tree")?;
    fs::remove_dir_all(&tree).with_context(|| format!("remove {}", tree.display()))
}

/// Options that were asked for and are not in the configuration: their dependencies are not met.
fn unheeded<'a>(options: &'a str, config: &str) -> Vec<&'a str> {
    options
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|line| !config.lines().any(|set| set == *line))
        .collect()
}

fn hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
        hash.update([0]);
    }
    let mut text = hex::encode(hash.finalize());
    text.truncate(16);
    text
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_whose_dependencies_are_not_met_are_told() {
        let options = "# a comment\nCONFIG_A=y\nCONFIG_B=y\n";
        let config = "CONFIG_A=y\n# CONFIG_B is not set\n";
        assert_eq!(unheeded(options, config), ["CONFIG_B=y"]);
    }

    #[test]
    fn every_part_is_in_the_key() {
        assert_ne!(hash(&["a", "b"]), hash(&["ab", ""]));
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
    }
}
