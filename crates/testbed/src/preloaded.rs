//! What a node's containerd keeps with images in it from the start, made once per set of images.
//!
//! To import and unpack an image takes seconds on every node, and the better part of a minute on a
//! kernel node, whose system calls are slow. Here it is done once, on the host, and copied: as a
//! directory for namespace nodes, as a disk for kernel nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::archive::Archive;
use crate::binaries::cached;
use crate::exec;
use crate::guest;
use crate::node::CONTAINERD;
use crate::paths;
use crate::progress::Progress;
use crate::retention;
use crate::spec::NodeKind;

const SCRIPT: &str = include_str!("preload.sh");
/// A file of containerd's that is there when it has run.
const DATABASE: &str = "containerd/io.containerd.metadata.v1.bolt/meta.db";
/// A kernel node's disk with the same.
const DISK: &str = "disk";
/// Where both are cached.
const CACHE: &str = "preloaded";
/// Sets of images that are kept.
const KEPT: usize = 4;

/// What nodes of a kind start from.
#[derive(Debug, Clone)]
pub struct Preloaded(PathBuf);

impl Preloaded {
    /// Imports the images, or finds them in the cache.
    ///
    /// # Errors
    /// When containerd refuses an archive; what it said is part of the error.
    pub fn make(kind: NodeKind, images: &[Archive], progress: &Progress) -> Result<Self> {
        let file = match kind {
            NodeKind::Namespace => DATABASE,
            NodeKind::Kernel => DISK,
        };
        let dir = cached(CACHE, &key(file, images), &[file], progress, |dir| {
            progress.say(format!(
                "importing {} images once for all nodes",
                images.len()
            ));
            import(dir, images)?;
            if kind == NodeKind::Kernel {
                let tree = dir.join("tree");
                fs::create_dir_all(&tree)?;
                fs::rename(dir.join(CONTAINERD), tree.join(CONTAINERD))?;
                guest::format_disk(&dir.join(DISK), &tree)?;
                fs::remove_dir_all(&tree)?;
            }
            Ok(())
        })?;
        // So that pruning goes by use.
        fs::File::open(dir.join(file))?.set_modified(SystemTime::now())?;
        prune(&paths::cache()?.join(CACHE))?;
        Ok(Self(dir))
    }

    /// Gives a namespace node its directory `name`, if there is something for it, unless it has it.
    pub(crate) fn copy_directory(&self, name: &str, target: &Path) -> Result<()> {
        let source = self.0.join(name);
        if target.exists() || !source.is_dir() {
            return Ok(());
        }
        copy(&["-a"], &source, target)
    }

    /// Gives a kernel node its disk unless it has one.
    pub(crate) fn copy_disk(&self, target: &Path) -> Result<()> {
        if target.exists() {
            return Ok(());
        }
        copy(&["--sparse=always"], &self.0.join(DISK), target)
    }
}

/// Copies under another name until it is whole.
fn copy(options: &[&str], source: &Path, target: &Path) -> Result<()> {
    let partial = target.with_extension("partial");
    fs::remove_dir_all(&partial).ok();
    exec::output(
        Command::new("cp")
            .args(options)
            .args([source, partial.as_path()]),
    )?;
    fs::rename(&partial, target).with_context(|| format!("create {}", target.display()))
}

fn import(dir: &Path, images: &[Archive]) -> Result<()> {
    // What an interrupted import left.
    for left in [CONTAINERD, "tree"] {
        fs::remove_dir_all(dir.join(left)).ok();
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "bash", "-c", SCRIPT])
        .arg("preload")
        .arg(dir)
        .args(images.iter().map(Archive::path));
    exec::output(&mut command).map(drop)
}

fn key(form: &str, images: &[Archive]) -> String {
    let mut hash = Sha256::new();
    for part in [SCRIPT, form]
        .into_iter()
        .chain(images.iter().flat_map(|i| [i.name(), i.digest()]))
    {
        hash.update(part);
        hash.update([0]);
    }
    let mut text = hex::encode(hash.finalize());
    text.truncate(16);
    text
}

/// Removes the sets that were not used for the longest time, and what interrupted imports left.
fn prune(root: &Path) -> Result<()> {
    let mut sets = Vec::new();
    for entry in fs::read_dir(root).with_context(|| format!("read {}", root.display()))? {
        let dir = entry?.path();
        let used = [DATABASE, DISK]
            .iter()
            .find_map(|file| fs::metadata(dir.join(file)).ok()?.modified().ok());
        if let Some(used) = used {
            sets.push((used, dir));
        }
    }
    retention::keep_newest(sets, KEPT)
}
