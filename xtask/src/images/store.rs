//! buildah with a store of our own: nothing of the user's containers is touched.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use carrick_testbed::{Progress, archive};

/// A directory of layers with its lock held.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: File,
}

/// What an image is built from.
#[derive(Debug)]
pub struct Recipe {
    /// The Containerfile.
    pub containerfile: PathBuf,
    /// Files of the build context, by their own names.
    pub files: Vec<PathBuf>,
    /// Build arguments.
    pub arguments: BTreeMap<&'static str, String>,
}

impl Store {
    /// Opens a store, waiting for whoever uses it.
    pub fn open(dir: &Path, progress: &Progress) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let lock = File::create(dir.join("lock")).context("create the store's lock")?;
        if lock.try_lock().is_err() {
            progress.say("waiting for another build of images");
            lock.lock().context("lock the store")?;
        }
        // What an interrupted build left.
        for left in ["context", "run", "pushed"] {
            fs::remove_dir_all(dir.join(left)).ok();
        }
        let store = Self {
            dir: dir.to_path_buf(),
            _lock: lock,
        };
        store.buildah(&["rm", "--all"]).ok();
        Ok(store)
    }

    /// Makes an image of one layer out of a root file system, unless the store has it. Its name.
    pub fn base(&self, tar: &Path, name: &str) -> Result<String> {
        if self.buildah(&["inspect", "--type", "image", name]).is_ok() {
            return Ok(name.to_owned());
        }
        let context = self.context(&[tar.to_path_buf()])?;
        let file = tar
            .file_name()
            .and_then(|name| name.to_str())
            .context("a base without a name")?;
        fs::write(
            context.join("Containerfile"),
            format!("FROM scratch\nADD {file} /\n"),
        )
        .context("write a Containerfile")?;
        self.buildah(&[
            "bud",
            "--quiet",
            "--timestamp",
            "0",
            "--tag",
            name,
            &text(&context),
        ])?;
        Ok(name.to_owned())
    }

    /// Builds an image and writes it as an OCI archive. Layers are not compressed: the archive goes to
    /// nodes on this machine, and compressing the base costs more than everything else.
    pub fn build(&self, recipe: &Recipe, reference: &str, target: &Path) -> Result<()> {
        let context = self.context(&recipe.files)?;
        let containerfile = text(&recipe.containerfile);
        let arguments: Vec<String> = recipe
            .arguments
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut words = vec!["bud", "--quiet", "--timestamp", "0", "--tag", reference];
        for argument in &arguments {
            words.extend(["--build-arg", argument]);
        }
        let context = text(&context);
        words.extend(["--file", &containerfile, &context]);
        self.buildah(&words)?;
        let pushed = self.dir.join("pushed");
        fs::remove_dir_all(&pushed).ok();
        self.buildah(&[
            "push",
            "--quiet",
            "--disable-compression",
            "--format",
            "oci",
            reference,
            &format!("dir:{}", pushed.display()),
        ])?;
        archive::pack(&pushed, reference, target)?;
        fs::remove_dir_all(&pushed).with_context(|| format!("remove {}", pushed.display()))?;
        // The archive is what is kept; the base stays, under its own name.
        self.buildah(&["rmi", reference])
    }

    /// A fresh build context with these files.
    fn context(&self, files: &[PathBuf]) -> Result<PathBuf> {
        let context = self.dir.join("context");
        fs::remove_dir_all(&context).ok();
        fs::create_dir_all(&context).with_context(|| format!("create {}", context.display()))?;
        for file in files {
            let to = context.join(file.file_name().context("a file without a name")?);
            fs::hard_link(file, &to)
                .or_else(|_| fs::copy(file, &to).map(drop))
                .with_context(|| format!("copy {}", file.display()))?;
        }
        Ok(context)
    }

    fn buildah(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new("buildah")
            .env("BUILDAH_ISOLATION", "chroot")
            .args(["--storage-driver", "vfs", "--root"])
            .arg(self.dir.join("layers"))
            .arg("--runroot")
            .arg(self.dir.join("run"))
            .args(arguments)
            .output()
            .context("start buildah (Debian package buildah; hack/install installs it)")?;
        if !output.status.success() {
            bail!(
                "buildah {}: {}\n{}{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }
}

/// Makes a root file system with packages, as a tar file.
pub fn mmdebstrap(
    packages: &[&str],
    suite: &str,
    options: &[&str],
    mirror: &str,
    tar: &Path,
) -> Result<()> {
    let partial = tar.with_extension("partial.tar");
    let mut command = Command::new("mmdebstrap");
    command
        .env("SOURCE_DATE_EPOCH", "0")
        .args([
            "--quiet",
            "--mode=root",
            "--variant=essential",
            "--format=tar",
        ])
        .arg(format!("--include={}", packages.join(",")))
        .args(options)
        .arg(suite)
        .arg(&partial);
    if !mirror.is_empty() {
        command.arg(mirror);
    }
    let output = command
        .output()
        .context("start mmdebstrap (Debian package mmdebstrap; hack/install installs it)")?;
    ensure!(
        output.status.success(),
        "mmdebstrap: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    fs::rename(&partial, tar).with_context(|| format!("write {}", tar.display()))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use carrick_testbed::archive::Archive;

    use super::*;

    #[test]
    fn images_are_reproducible() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut tar = tar::Builder::new(File::create(path("root.tar")).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(4);
        header.set_mtime(1);
        tar.append_data(&mut header, "etc/base", &b"base"[..])
            .unwrap();
        tar.finish().unwrap();
        fs::write(path("program"), "program").unwrap();
        fs::write(
            path("Containerfile"),
            "ARG BASE\nFROM ${BASE}\nCOPY program /usr/bin/\nLABEL a=b\n",
        )
        .unwrap();
        let mut digests = Vec::new();
        for attempt in ["first", "second"] {
            let store = Store::open(&path(attempt), &Progress::quiet()).unwrap();
            let base = store.base(&path("root.tar"), "localhost/base:1").unwrap();
            let recipe = Recipe {
                containerfile: path("Containerfile"),
                files: vec![path("program")],
                arguments: BTreeMap::from([("BASE", base)]),
            };
            let archive = path(&format!("{attempt}.tar"));
            store.build(&recipe, "localhost/thing:1", &archive).unwrap();
            digests.push(Archive::open(&archive).unwrap().digest().to_owned());
            // The clock goes on, file times change: neither may show.
            File::options()
                .write(true)
                .open(path("program"))
                .unwrap()
                .set_modified(std::time::SystemTime::UNIX_EPOCH)
                .unwrap();
        }
        assert_eq!(digests[0], digests[1]);
    }
}
