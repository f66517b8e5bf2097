//! Which clusters there are on this host and which index each has.
//!
//! A cluster's directory holds `cluster.json`, written before anything else is made. A lock on the
//! parent orders the allocation of indexes; a lock per cluster orders `up`, `down` and the rest.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::exec;
use crate::names;
use crate::paths;
use crate::spec::ClusterSpec;

/// What is known of a cluster before anything of it exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// What was asked for.
    pub spec: ClusterSpec,
    /// Its index: subnets and the host's link come from it.
    pub index: u8,
    /// The host's boot id when it was brought up: processes and namespaces of another boot are gone.
    pub boot_id: String,
    /// The current run: a directory of logs.
    pub logs: PathBuf,
}

/// A cluster's directory with its lock held; the lock goes with it.
#[derive(Debug)]
pub struct Locked {
    /// The directory.
    pub dir: PathBuf,
    _lock: File,
}

/// The id of this boot of the host.
pub(crate) fn boot_id() -> Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the boot id")?;
    Ok(id.trim().to_owned())
}

/// Locks a cluster's name, which need not exist, waiting for whoever works on it.
pub(crate) fn lock(name: &str) -> Result<Locked> {
    names::validate(name)?;
    let root = paths::clusters()?;
    // Beside the directory, not in it: `down` removes the directory while it holds the lock.
    let lock = open_lock(&root, &format!(".{name}.lock"))?;
    lock.lock()
        .with_context(|| format!("lock cluster {name}"))?;
    Ok(Locked {
        dir: root.join(name),
        _lock: lock,
    })
}

/// Reads a cluster's record.
pub(crate) fn read(dir: &Path) -> Result<Option<Record>> {
    let file = dir.join("cluster.json");
    match fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("{} is damaged: cluster down removes it", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

/// Writes a cluster's record.
pub(crate) fn write(dir: &Path, record: &Record) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    exec::write(
        &dir.join("cluster.json"),
        serde_json::to_vec_pretty(record)?,
    )
}

/// Takes a free index and writes the record with it.
pub(crate) fn allocate(locked: &Locked, spec: &ClusterSpec, logs: PathBuf) -> Result<Record> {
    let root = paths::clusters()?;
    let registry = open_lock(&root, ".registry.lock")?;
    registry.lock().context("lock the registry of clusters")?;
    let mut taken = BTreeSet::new();
    for name in list()? {
        if let Ok(Some(record)) = read(&root.join(&name)) {
            taken.insert(record.index);
        }
    }
    // A link may be left by a cluster whose directory somebody removed, or by another user's cache.
    let free = |index: &u8| {
        !taken.contains(index)
            && !Path::new("/sys/class/net")
                .join(names::host_link(*index))
                .exists()
    };
    let Some(index) = (0..=u8::MAX).find(free) else {
        bail!("256 clusters are too many; remove some by `cargo xtask cluster down --name …`")
    };
    let record = Record {
        spec: spec.clone(),
        index,
        boot_id: boot_id()?,
        logs,
    };
    write(&locked.dir, &record)?;
    Ok(record)
}

/// Names of the clusters that have a directory.
///
/// # Errors
/// When the directory of clusters cannot be read.
pub fn list() -> Result<Vec<String>> {
    let root = paths::clusters()?;
    let entries = match fs::read_dir(&root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", root.display())),
    };
    let mut names: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

fn open_lock(root: &Path, name: &str) -> Result<File> {
    fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
    let path = root.join(name);
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))
}
