//! The images of what landed before, for tests that upgrade from it and go back.
//!
//! `hack/previous` names the commit. Its tree is taken out of the repository's history and built by the
//! same verbs as today's; what is built is kept by the hash of the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use carrick_testbed::{Progress, retention};
use serde::{Deserialize, Serialize};

use crate::images::{self, Image, Options};

/// The file that names the commit.
const FILE: &str = "hack/previous";
/// Trees whose images are kept.
const KEPT: usize = 2;

/// A tree of the past and its images.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Previous {
    /// The commit.
    pub commit: String,
    /// Its files.
    pub tree: PathBuf,
    /// Its images.
    pub images: Vec<Image>,
}

/// Builds the images of the commit in `hack/previous`, or finds them in the cache.
pub fn build(progress: &Progress) -> Result<Previous> {
    let file = crate::root().join(FILE);
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let commit = commit(&text)?;
    let tree = tree_of(commit)?;
    let all = images::cache()?.join("previous");
    let directory = all.join(&tree);
    let written = directory.join("images.json");
    if let Ok(text) = fs::read_to_string(&written) {
        let known: Previous =
            serde_json::from_str(&text).with_context(|| format!("read {}", written.display()))?;
        // So that pruning goes by use.
        fs::File::open(&written)?.set_modified(std::time::SystemTime::now())?;
        return Ok(Previous {
            commit: commit.to_owned(),
            ..known
        });
    }
    progress.say(format!("taking {commit} out of the history"));
    let files = directory.join("tree");
    extract(commit, &files)?;
    let options = Options {
        profile: "dev".to_owned(),
        tree: Some(files.clone()),
        ..Options::default()
    };
    let previous = Previous {
        commit: commit.to_owned(),
        images: images::build_into(&directory, &options, progress)?,
        tree: files,
    };
    let unfinished = directory.join("images.json.new");
    fs::write(&unfinished, serde_json::to_string_pretty(&previous)?)
        .and_then(|()| fs::rename(&unfinished, &written))
        .with_context(|| format!("write {}", written.display()))?;
    prune(&all)?;
    Ok(previous)
}

/// The commit in the text of `hack/previous`: its only line that is no comment.
fn commit(text: &str) -> Result<&str> {
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    match (lines.next(), lines.next()) {
        (Some(commit), None)
            if commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()) =>
        {
            Ok(commit)
        }
        _ => bail!("{FILE} must hold one line with the 40 hexadecimal digits of a commit"),
    }
}

fn git(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    // Whoever owns the checkout: nothing in it is run by git here.
    command.args(["-c", "safe.directory=*", "-C"]);
    command.arg(crate::root()).args(arguments);
    command
}

/// The hash of the commit's tree.
fn tree_of(commit: &str) -> Result<String> {
    let output = git(&["rev-parse", "--verify", "--quiet"])
        .arg(format!("{commit}^{{tree}}"))
        .output()
        .context("start git")?;
    ensure!(
        output.status.success(),
        "the commit {commit} of {FILE} is not in this repository: fetch the whole history \
         (git fetch --unshallow)"
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Writes the files of a commit to a directory, as of now: cargo takes what is older than its
/// artifacts for built.
fn extract(commit: &str, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("remove {}", to.display()))?;
    }
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    let mut archive = git(&["archive", commit])
        .stdout(Stdio::piped())
        .spawn()
        .context("start git archive")?;
    let stream = archive.stdout.take().context("git archive has no output")?;
    let unpacked = Command::new("tar")
        .args(["--extract", "--touch", "--directory"])
        .arg(to)
        .stdin(stream)
        .status()
        .context("start tar")?;
    let archived = archive.wait().context("wait for git archive")?;
    ensure!(
        archived.success() && unpacked.success(),
        "git archive {commit}: {archived}; tar: {unpacked}"
    );
    Ok(())
}

/// Removes the trees that were not used for longest.
fn prune(all: &Path) -> Result<()> {
    let trees = fs::read_dir(all)
        .with_context(|| format!("read {}", all.display()))?
        .flatten()
        .map(|entry| {
            let used = fs::metadata(entry.path().join("images.json")).and_then(|m| m.modified());
            (used.ok(), entry.path())
        });
    retention::keep_newest(trees, KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_one_commit() {
        let id = "5a1e75e0123456789abcdef0123456789abcdef0";
        assert_eq!(commit(&format!("# why\n{id}\n")).unwrap(), id);
        for wrong in ["", "# nothing\n", "main\n", &format!("{id}\n{id}\n")] {
            assert!(commit(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_commit_of_this_checkout_is_well_formed() {
        let text = fs::read_to_string(crate::root().join(FILE)).unwrap();
        commit(&text).unwrap();
    }
}
