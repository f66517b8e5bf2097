//! The Python peers that benchmarks and oracle tests compare with (os-ken, the `ovs` client), in a
//! virtual environment under `~/.cache/carrick/python`.
//!
//! The environment is named by the hash of `hack/python-packages` and renamed into place when it is
//! whole: another list is another environment, and a broken installation is never found.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// What is installed, with versions.
const PACKAGES: &str = include_str!("../../../hack/python-packages");

/// The interpreter that knows the peers.
///
/// # Errors
/// When it has not been installed: the message names the command that does.
pub fn interpreter() -> Result<PathBuf> {
    let python = environment()?.join("bin/python");
    ensure!(
        python.exists(),
        "the Python peers are not installed ({} is missing): run `cargo xtask tools`",
        python.display()
    );
    Ok(python)
}

/// Installs the peers when they are not there; the interpreter that knows them.
///
/// # Errors
/// When `python3 -m venv` or `pip` fails; their words go to standard error.
pub fn install() -> Result<PathBuf> {
    if let Ok(python) = interpreter() {
        return Ok(python);
    }
    let environment = environment()?;
    // Scripts name the interpreter by its path, so they are not used: the environment moves.
    let partial = environment.with_extension(format!("partial-{}", std::process::id()));
    fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    let made = make(&partial).and_then(|()| {
        // Somebody else may have been quicker: theirs is as good.
        fs::rename(&partial, &environment)
            .or_else(|error| {
                if environment.exists() {
                    Ok(())
                } else {
                    Err(error)
                }
            })
            .with_context(|| format!("rename {}", partial.display()))
    });
    // Nothing is there when all went well.
    fs::remove_dir_all(&partial).ok();
    made?;
    interpreter()
}

fn make(partial: &Path) -> Result<()> {
    let list = partial.join("packages");
    fs::write(&list, PACKAGES).with_context(|| format!("write {}", list.display()))?;
    run(Command::new("python3").args(["-m", "venv"]).arg(partial))
        .context("make a virtual environment (Debian: python3-venv)")?;
    run(Command::new(partial.join("bin/python"))
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--requirement",
        ])
        .arg(&list))
    .context("install hack/python-packages")
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().display().to_string();
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start {program}"))?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

/// Where the environment lies, whether it is there or not.
fn environment() -> Result<PathBuf> {
    let cache = if let Some(dir) = env::var_os("CARRICK_CACHE") {
        PathBuf::from(dir)
    } else if let Some(dir) = env::var_os("XDG_CACHE_HOME") {
        Path::new(&dir).join("carrick")
    } else {
        let home = env::var_os("HOME").context("HOME is not set: set CARRICK_CACHE")?;
        Path::new(&home).join(".cache/carrick")
    };
    let mut hasher = DefaultHasher::new();
    PACKAGES.hash(&mut hasher);
    Ok(cache.join(format!("python/{:016x}", hasher.finish())))
}
