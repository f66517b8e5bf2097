//! Image archives: reads what an OCI archive holds, and writes images from scratch.
//!
//! An image from scratch is one layer with given files; same input, same bytes (no clocks, no owners,
//! files in the order of their paths).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// An index is some hundred bytes; a damaged archive must not fill memory.
const MAX_INDEX: u64 = 1 << 20;

/// An image in a file (`oci-archive`).
#[derive(Debug, Clone)]
pub struct Archive {
    path: PathBuf,
    names: Vec<String>,
    digest: String,
}

impl Archive {
    /// Reads the names and the digest of the one image in an archive.
    ///
    /// # Errors
    /// When the file is no OCI archive, or holds no image or several, or one without a name.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let path = path
            .canonicalize()
            .with_context(|| format!("open {shown}"))?;
        let file = File::open(&path).with_context(|| format!("open {shown}"))?;
        let mut archive = tar::Archive::new(file);
        for entry in archive.entries().with_context(|| format!("read {shown}"))? {
            let entry = entry.with_context(|| format!("read {shown}"))?;
            let name = entry
                .path()
                .with_context(|| format!("read {shown}"))?
                .into_owned();
            if name != Path::new("index.json") && name != Path::new("./index.json") {
                continue;
            }
            let mut text = String::new();
            entry
                .take(MAX_INDEX)
                .read_to_string(&mut text)
                .with_context(|| format!("read the index of {shown}"))?;
            let (names, digest) =
                parse_index(&text).with_context(|| format!("the index of {shown}"))?;
            return Ok(Self {
                path,
                names,
                digest,
            });
        }
        bail!(
            "{shown} has no index.json: it is not an OCI archive (buildah push IMAGE oci-archive:FILE:NAME makes one)"
        )
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image's name with its tag; the first, when it has several.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// All its names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The manifest's digest, `sha256:…`.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

fn parse_index(text: &str) -> Result<(Vec<String>, String)> {
    let index: Value = serde_json::from_str(text)?;
    let manifests = index["manifests"]
        .as_array()
        .context("it has no manifests")?;
    let digests: BTreeSet<_> = manifests.iter().map(|m| m["digest"].as_str()).collect();
    let mut digests = digests.into_iter();
    let (Some(digest), None) = (digests.next(), digests.next()) else {
        bail!("it has not one image, but {} manifests", manifests.len())
    };
    let digest = digest.context("its manifest has no digest")?;
    let names = manifests.iter().map(|manifest| {
        let name = manifest["annotations"][REF_NAME].as_str();
        name.map(str::to_owned).with_context(|| {
            format!("its manifest has no annotation {REF_NAME}: the image has no name")
        })
    });
    Ok((names.collect::<Result<_>>()?, digest.to_owned()))
}

/// Files of an image: where there, without a leading slash, and where on this machine.
pub type Files = BTreeMap<String, PathBuf>;

/// An image from scratch.
#[derive(Debug, Clone)]
pub struct Scratch<'a> {
    /// Its name without a tag; the tag comes from the content.
    pub repository: &'a str,
    /// Further names, with tags, for those who expect it under these.
    pub aliases: &'a [&'a str],
    /// Files: path in the image without a leading slash, file on this machine; all executable.
    pub files: Files,
    /// What it runs.
    pub entrypoint: &'a [&'a str],
    /// Arguments unless given.
    pub command: &'a [&'a str],
    /// OCI labels.
    pub labels: BTreeMap<&'a str, &'a str>,
}

impl Scratch<'_> {
    /// Writes `REPOSITORY-TAG.tar` into `dir` unless it is there.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write(&self, dir: &Path) -> Result<Archive> {
        let layer = self.layer()?;
        let layer_digest = digest(&layer);
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Cmd": self.command, "Labels": self.labels,
                       "Env": ["PATH=/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [&layer_digest]},
            "history": [{"created_by": "carrick-testbed"}],
        }))?;
        let config_digest = digest(&config);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len()}],
        }))?;
        let manifest_digest = digest(&manifest);
        let tag = manifest_digest
            .trim_start_matches("sha256:")
            .get(..12)
            .unwrap_or("dev");
        let name = format!("{}:{tag}", self.repository);
        let base = self
            .repository
            .rsplit('/')
            .next()
            .unwrap_or(self.repository);
        let names: Vec<_> = std::iter::once(name.as_str())
            .chain(self.aliases.iter().copied())
            .collect();
        let index = index(&manifest_digest, manifest.len(), &names)?;
        // Other names are another archive.
        let file = if self.aliases.is_empty() {
            format!("{base}-{tag}.tar")
        } else {
            let hash = hex::encode(Sha256::digest(&index));
            format!("{base}-{tag}-{}.tar", hash.get(..8).unwrap_or_default())
        };
        let path = dir.join(file);
        if !path.exists() {
            let blobs = BTreeMap::from([
                (layer_digest, layer),
                (config_digest, config),
                (manifest_digest, manifest),
            ]);
            std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            replace(&path, &index, &blobs)?;
        }
        Archive::open(&path)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut made = BTreeSet::new();
        for (path, source) in &self.files {
            ensure!(
                !path.starts_with('/'),
                "{path}: paths in an image have no leading slash here"
            );
            let parents: Vec<_> = Path::new(path)
                .ancestors()
                .skip(1)
                .filter(|p| !p.as_os_str().is_empty())
                .collect();
            for parent in parents.into_iter().rev() {
                if made.insert(parent.to_path_buf()) {
                    append(
                        &mut tar,
                        &format!("{}/", parent.display()),
                        tar::EntryType::Directory,
                        &[],
                    )?;
                }
            }
            let content =
                std::fs::read(source).with_context(|| format!("read {}", source.display()))?;
            append(&mut tar, path, tar::EntryType::Regular, &content)?;
        }
        Ok(tar.into_inner()?)
    }
}

/// Packs what `buildah push IMAGE dir:DIRECTORY` wrote into an archive. (buildah's own `oci-archive:`
/// compresses every layer, which costs more than all the rest of a build.)
///
/// # Errors
/// When the directory holds no OCI manifest or a file cannot be read or written.
pub fn pack(directory: &Path, name: &str, path: &Path) -> Result<Archive> {
    let read = |name: &str| {
        let file = directory.join(name);
        std::fs::read(&file).with_context(|| format!("read {}", file.display()))
    };
    let manifest = read("manifest.json")?;
    let parsed: Value = serde_json::from_slice(&manifest).context("parse manifest.json")?;
    let layers = parsed["layers"]
        .as_array()
        .context("the manifest has no layers")?;
    let mut blobs = BTreeMap::new();
    for descriptor in std::iter::once(&parsed["config"]).chain(layers) {
        let digest = descriptor["digest"]
            .as_str()
            .context("a descriptor without a digest")?;
        let hash = digest
            .strip_prefix("sha256:")
            .with_context(|| format!("{digest} is no sha256"))?;
        blobs.insert(digest.to_owned(), read(hash)?);
    }
    let manifest_digest = digest(&manifest);
    let index = index(&manifest_digest, manifest.len(), &[name])?;
    blobs.insert(manifest_digest, manifest);
    replace(path, &index, &blobs)?;
    Archive::open(path)
}

fn index(manifest_digest: &str, size: usize, names: &[&str]) -> Result<Vec<u8>> {
    let manifests: Vec<_> = names
        .iter()
        .map(|name| {
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest_digest,
                   "size": size, "annotations": {REF_NAME: name}})
        })
        .collect();
    Ok(serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    }))?)
}

/// Writes an archive under a name of its own first, so that no reader sees half of it.
fn replace(path: &Path, index: &[u8], blobs: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let partial = path.with_extension("partial");
    write_archive(&partial, index, blobs)
        .and_then(|()| Ok(std::fs::rename(&partial, path)?))
        .with_context(|| format!("write {}", path.display()))
}

fn write_archive(path: &Path, index: &[u8], blobs: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let mut tar = tar::Builder::new(File::create(path)?);
    append(
        &mut tar,
        "oci-layout",
        tar::EntryType::Regular,
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    append(&mut tar, "index.json", tar::EntryType::Regular, index)?;
    for (digest, blob) in blobs {
        let name = format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
        append(&mut tar, &name, tar::EntryType::Regular, blob)?;
    }
    tar.into_inner()?.sync_all()?;
    Ok(())
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    kind: tar::EntryType,
    content: &[u8],
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(u64::try_from(content.len())?);
    tar.append_data(&mut header, path, content)
        .with_context(|| format!("add {path}"))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_input_is_the_same_image_and_can_be_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, "#!/bin/true\n").unwrap();
        let image = Scratch {
            repository: "localhost/thing",
            aliases: &[],
            files: Files::from([("usr/bin/thing".to_owned(), program.clone())]),
            entrypoint: &["/usr/bin/thing"],
            command: &[],
            labels: BTreeMap::new(),
        };
        let first = image.write(&dir.path().join("a")).unwrap();
        let second = image.write(&dir.path().join("b")).unwrap();
        assert_eq!(first.digest(), second.digest());
        assert_eq!(
            std::fs::read(first.path()).unwrap(),
            std::fs::read(second.path()).unwrap()
        );
        assert!(first.name().starts_with("localhost/thing:"));
        std::fs::write(&program, "#!/bin/false\n").unwrap();
        assert_ne!(image.write(dir.path()).unwrap().name(), first.name());
    }

    #[test]
    fn an_image_with_several_names_is_one_image() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, "").unwrap();
        let mut image = Scratch {
            repository: "localhost/thing",
            aliases: &[],
            files: Files::from([("thing".to_owned(), program)]),
            entrypoint: &["/thing"],
            command: &[],
            labels: BTreeMap::new(),
        };
        let one = image.write(dir.path()).unwrap();
        image.aliases = &["example.org/thing:2"];
        let two = image.write(dir.path()).unwrap();
        assert_eq!(one.digest(), two.digest());
        assert_ne!(one.path(), two.path());
        assert_eq!(two.names(), [one.name(), "example.org/thing:2"]);
    }

    #[test]
    fn two_images_in_one_archive_are_refused() {
        let index = r#"{"manifests": [{"digest": "sha256:a"}, {"digest": "sha256:b"}]}"#;
        assert!(
            parse_index(index)
                .unwrap_err()
                .to_string()
                .contains("2 manifests")
        );
        assert!(parse_index(r#"{"manifests": []}"#).is_err());
    }

    #[test]
    fn what_is_no_archive_is_refused_with_the_mend() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        tar::Builder::new(File::create(&path).unwrap())
            .finish()
            .unwrap();
        assert!(
            Archive::open(&path)
                .unwrap_err()
                .to_string()
                .contains("oci-archive")
        );
    }
}
