//! Where things lie: the cache, a cluster's state, the repository.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The cache directory: `$CARRICK_CACHE`, `$XDG_CACHE_HOME/carrick` or `~/.cache/carrick`.
///
/// # Errors
/// When none of the variables, nor `HOME`, is set.
pub fn cache() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("CARRICK_CACHE") {
        return Ok(dir.into());
    }
    if let Some(dir) = env::var_os("XDG_CACHE_HOME") {
        return Ok(Path::new(&dir).join("carrick"));
    }
    let home = env::var_os("HOME").context("HOME is not set: set CARRICK_CACHE to a directory")?;
    Ok(Path::new(&home).join(".cache/carrick"))
}

/// Programs by their usual names (kubectl, helm, kube-apiserver, …), as links into the cache.
///
/// # Errors
/// As [`cache`].
pub fn bin() -> Result<PathBuf> {
    Ok(cache()?.join("bin"))
}

/// One directory per cluster.
///
/// # Errors
/// As [`cache`].
pub fn clusters() -> Result<PathBuf> {
    Ok(cache()?.join("clusters"))
}

/// Logs of a cluster's runs; they outlive the cluster.
///
/// # Errors
/// As [`cache`].
pub fn logs(cluster: &str) -> Result<PathBuf> {
    Ok(cache()?.join("logs").join(cluster))
}

/// The repository this crate was built from.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
