//! Helm.

use std::path::PathBuf;

use anyhow::{Result, ensure};

/// The helm on `PATH`, or the one that hack/install built.
///
/// # Errors
/// There is neither.
pub fn helm() -> Result<PathBuf> {
    let found = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .map(|dir| dir.join("helm"))
            .find(|helm| helm.is_file())
    });
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let built = std::env::var_os("CARRICK_CACHE")
        .map_or_else(|| home.join(".cache/carrick"), PathBuf::from)
        .join("bin/helm");
    let helm = found.unwrap_or(built);
    ensure!(helm.is_file(), "helm is missing: run hack/install");
    Ok(helm)
}
