//! `cargo xtask images`: the two images, without a registry and without a container engine.
//!
//! A base root file system is made once per package list by mmdebstrap and kept as an image in a
//! store of our own; each image is that base and one layer with our binaries, built by buildah and
//! written as an OCI archive. Everything is keyed by the content of what goes in: the tag of an image
//! is the hash of its input, so a node never runs a stale one, and nothing is built twice. Same input,
//! same digest: times are clamped to zero.

mod binaries;
mod store;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use carrick_testbed::archive::Archive;
use carrick_testbed::{Progress, retention};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use binaries::Binaries;
use store::{Recipe, Store};

/// The Debian release of the bases.
const SUITE: &str = "bookworm";
/// Archives kept per image: the newest, and those before for a cluster that still runs them.
const KEPT: usize = 4;

/// Options of `cargo xtask images`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Cargo profile of the binaries: dev or release.
    #[arg(long, default_value = "dev")]
    profile: String,
    /// Tag of both images; otherwise it is the hash of what is in them.
    #[arg(long)]
    tag: Option<String>,
    /// Base image of both instead of a Debian made here: for those who have a registry.
    #[arg(long)]
    base: Option<String>,
    /// Build again although the archives are there, and fail when a digest differs.
    #[arg(long)]
    verify: bool,
    /// The images of the commit in hack/previous instead, for tests that upgrade from it (json only).
    #[arg(long, conflicts_with_all = ["profile", "tag", "base", "verify"])]
    previous: bool,
    /// What to print: table or json.
    #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
    output: String,
}

/// One image that was built.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// `carrick` or `carrick-ovs`.
    pub name: String,
    /// What a pod names it by.
    pub reference: String,
    /// Digest of its manifest.
    pub digest: String,
    /// The OCI archive.
    pub archive: PathBuf,
}

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Cargo profile of the binaries.
    pub profile: String,
    /// Tag instead of the hash.
    pub tag: Option<String>,
    /// Base image instead of ours.
    pub base: Option<String>,
    /// Another tree of this repository than the one this program is of.
    pub tree: Option<PathBuf>,
}

/// Builds both images and prints them.
pub fn run(args: Args) -> Result<()> {
    let progress = Progress::stderr();
    if args.previous {
        let previous = crate::previous::build(&progress)?;
        return crate::print(serde_json::to_string_pretty(&previous)?);
    }
    let options = Options {
        profile: args.profile,
        tag: args.tag,
        base: args.base,
        tree: None,
    };
    let images = build(&options, &progress)?;
    if args.verify {
        verify(&options, &images, &progress)?;
    }
    if args.output == "json" {
        return crate::print(serde_json::to_string_pretty(&images)?);
    }
    for image in &images {
        crate::print(format!(
            "{}  {}  {}",
            image.reference,
            image.digest,
            image.archive.display()
        ))?;
    }
    Ok(())
}

/// Builds both images, or takes them from the cache.
pub fn build(options: &Options, progress: &Progress) -> Result<Vec<Image>> {
    let cache = cache()?;
    let images = build_into(&cache, options, progress)?;
    for image in &images {
        prune(&cache, &image.name)?;
    }
    Ok(images)
}

/// As [`build`], with the archives in a directory of the caller's.
pub fn build_into(directory: &Path, options: &Options, progress: &Progress) -> Result<Vec<Image>> {
    // First what takes long and needs no lock of ours.
    let plan = plan(options, progress)?;
    let store = Store::open(&cache()?.join("store"), progress)?;
    plan.into_iter()
        .map(|(name, files)| image(directory, &store, name, &files, options, progress))
        .collect()
}

/// Builds both images again, in an empty store, and compares.
fn verify(options: &Options, images: &[Image], progress: &Progress) -> Result<()> {
    progress.say("building both images again to compare");
    let work = tempfile::tempdir_in(cache()?)?;
    let store = Store::open(&work.path().join("store"), progress)?;
    for ((name, files), first) in plan(options, progress)?.into_iter().zip(images) {
        let second = image(work.path(), &store, name, &files, options, progress)?;
        ensure!(
            first.digest == second.digest,
            "{name} is not reproducible: first {}, then {}",
            first.digest,
            second.digest
        );
        progress.say(format!("{name}: the same digest again"));
    }
    Ok(())
}

/// The images and the files of ours in them.
fn plan(options: &Options, progress: &Progress) -> Result<[(&'static str, Vec<PathBuf>); 2]> {
    let Binaries {
        carrick,
        carrickctl,
        carrick_cni,
    } = Binaries::build(options, progress)?;
    Ok([
        ("carrick", vec![carrick.clone(), carrickctl, carrick_cni]),
        ("carrick-ovs", vec![carrick]),
    ])
}

/// Builds one image, or finds it by the hash of its input.
fn image(
    cache: &Path,
    store: &Store,
    name: &str,
    files: &[PathBuf],
    options: &Options,
    progress: &Progress,
) -> Result<Image> {
    let tree = options.tree.clone().unwrap_or_else(crate::root);
    let recipe = tree.join("images").join(name);
    let packages = recipe.join("packages");
    let base = match &options.base {
        Some(base) => Base::Image(base.clone()),
        None => Base::Root(root_file_system(&packages, progress)?),
    };
    let mut inputs = BTreeMap::new();
    for file in files
        .iter()
        .chain([&packages, &recipe.join("Containerfile")])
    {
        inputs.insert(file_name(file)?, hash_file(file)?);
    }
    inputs.insert("base".to_owned(), base.key()?);
    let hash = hash_text(&serde_json::to_string(&inputs)?);
    let tag = options
        .tag
        .clone()
        .unwrap_or_else(|| format!("dev-{}", short(&hash)));
    let reference = format!("localhost/{name}:{tag}");
    // A tag of the user's choice says nothing about the content: the hash names the file all the same.
    let archive = cache.join(format!("{name}-{tag}-{}.tar", short(&hash)));
    if archive.exists() {
        // So that pruning goes by use.
        fs::File::open(&archive)?.set_modified(std::time::SystemTime::now())?;
    } else {
        progress.say(format!("building {reference}"));
        let base = match &base {
            Base::Image(image) => image.clone(),
            Base::Root(tar) => {
                store.base(tar, &format!("localhost/carrick-base:{}", base.key()?))?
            }
        };
        let mut all = files.to_vec();
        all.push(packages);
        let arguments = BTreeMap::from([
            ("BASE", base),
            ("VERSION", env!("CARGO_PKG_VERSION").to_owned()),
            ("REVISION", short(&hash).to_owned()),
        ]);
        let recipe = Recipe {
            containerfile: recipe.join("Containerfile"),
            files: all,
            arguments,
        };
        store.build(&recipe, &reference, &archive)?;
    }
    let digest = Archive::open(&archive)?.digest().to_owned();
    Ok(Image {
        name: name.to_owned(),
        reference,
        digest,
        archive,
    })
}

/// What an image stands on.
enum Base {
    /// An image of the user's.
    Image(String),
    /// A root file system made here.
    Root(PathBuf),
}

impl Base {
    fn key(&self) -> Result<String> {
        match self {
            Self::Image(name) => Ok(name.clone()),
            Self::Root(tar) => Ok(short(&file_name(tar)?.replacen("base-", "", 1)).to_owned()),
        }
    }
}

/// A Debian with the packages of a list, as a tar file: made once per list.
fn root_file_system(packages: &Path, progress: &Progress) -> Result<PathBuf> {
    let text =
        fs::read_to_string(packages).with_context(|| format!("read {}", packages.display()))?;
    let list: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let mirror = std::env::var("CARRICK_DEBIAN_MIRROR").unwrap_or_default();
    let hash = hash_text(&format!("{SUITE} {mirror} {} {SLIM:?}", list.join(" ")));
    let tar = cache()?.join(format!("base-{}.tar", short(&hash)));
    if tar.exists() {
        return Ok(tar);
    }
    progress.say(format!(
        "making a Debian root file system with {} (a minute)",
        list.join(", ")
    ));
    store::mmdebstrap(&list, SUITE, SLIM, &mirror, &tar)?;
    Ok(tar)
}

/// What does not belong into an image: documentation, translations, and what the making left.
const SLIM: &[&str] = &[
    // A runtime makes its own devices.
    "--skip=output/dev",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    "--customize-hook=rm -rf \"$1\"/var/cache/* \"$1\"/var/log/* \"$1\"/var/lib/apt/lists/* \"$1\"/etc/machine-id \"$1\"/etc/hostname \"$1\"/etc/resolv.conf",
];

/// Removes the oldest archives of an image.
fn prune(cache: &Path, name: &str) -> Result<()> {
    let archives = fs::read_dir(cache)
        .with_context(|| format!("read {}", cache.display()))?
        .flatten()
        .filter(|entry| {
            // "carrick-" begins "carrick-ovs-" too.
            let file = entry.file_name().to_string_lossy().into_owned();
            let stem = file
                .strip_suffix(".tar")
                .and_then(|stem| stem.strip_prefix(name));
            let rest = stem.and_then(|rest| rest.strip_prefix('-'));
            rest.is_some_and(|rest| name == "carrick-ovs" || !rest.starts_with("ovs-"))
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
    retention::keep_newest(archives, KEPT)
}

/// Where images are kept.
pub fn cache() -> Result<PathBuf> {
    let dir = carrick_testbed::paths::cache()?.join("images");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned)
        .with_context(|| format!("{} has no name", path.display()))
}

fn hash_file(path: &Path) -> Result<String> {
    let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    Ok(hex::encode(Sha256::digest(content)))
}

fn hash_text(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_archives_of_one_image_go() {
        let dir = tempfile::tempdir().unwrap();
        let start = std::time::SystemTime::UNIX_EPOCH;
        for number in 0..KEPT + 2 {
            for name in ["carrick", "carrick-ovs"] {
                let file =
                    fs::File::create(dir.path().join(format!("{name}-dev-{number}.tar"))).unwrap();
                file.set_modified(start + std::time::Duration::from_secs(number as u64))
                    .unwrap();
            }
        }
        fs::write(dir.path().join("base-1.tar"), "").unwrap();
        prune(dir.path(), "carrick").unwrap();
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(
            !names.contains(&"carrick-dev-1.tar".to_owned())
                && names.contains(&"carrick-dev-2.tar".to_owned())
        );
        assert_eq!(
            names
                .iter()
                .filter(|name| name.starts_with("carrick-ovs-"))
                .count(),
            KEPT + 2
        );
        assert!(names.contains(&"base-1.tar".to_owned()));
    }
}
