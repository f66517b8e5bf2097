//! The images under test and those that landed before, built by `cargo xtask images`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use carrick_testbed::{Progress, binaries};
use serde_json::Value;

use crate::command::{root, succeed};

/// Both images of one tree.
pub struct ImageSet {
    /// Their archives.
    pub archives: Vec<PathBuf>,
    /// Chart values that name them.
    pub values: Vec<(String, String)>,
}

impl ImageSet {
    /// From what `cargo xtask images` prints.
    fn read(images: &Value) -> Result<Self> {
        let mut values = vec![("images.registry".to_owned(), "localhost".to_owned())];
        let mut archives = Vec::new();
        for image in images.as_array().into_iter().flatten() {
            let archive = image["archive"]
                .as_str()
                .context("an image without an archive")?;
            archives.push(PathBuf::from(archive));
            let reference = image["reference"]
                .as_str()
                .context("an image without a name")?;
            let tag = reference
                .rsplit(':')
                .next()
                .context("an image without a tag")?
                .to_owned();
            match image["name"].as_str() {
                Some("carrick") => values.push(("images.carrick.tag".to_owned(), tag)),
                Some("carrick-ovs") => values.push(("images.carrickOvs.tag".to_owned(), tag)),
                other => bail!("an image named {other:?}"),
            }
        }
        Ok(Self { archives, values })
    }
}

/// What nodes run.
pub struct Images {
    /// The images under test.
    pub set: ImageSet,
    /// The test pods' image.
    pub agnhost: String,
    /// Its archive.
    pub agnhost_archive: PathBuf,
    /// carrickctl on this machine.
    pub carrickctl: PathBuf,
}

impl Images {
    /// Builds (or finds) the images.
    pub fn build(progress: &Progress) -> Result<Self> {
        progress.say("building images");
        let mut command = binaries::cargo();
        command.args(["xtask", "images", "--output", "json"]);
        let images: Value = serde_json::from_str(&succeed(&mut command, None)?)?;
        let set = ImageSet::read(&images)?;
        let agnhost = carrick_testbed::images::agnhost(&binaries::kubernetes(progress)?)?;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root().join("target"), PathBuf::from);
        let carrickctl = target.join("stripped/debug/carrickctl");
        Ok(Self {
            set,
            agnhost: agnhost.name().to_owned(),
            agnhost_archive: agnhost.path().to_owned(),
            carrickctl,
        })
    }
}

/// What landed before: its chart and its images.
pub struct Previous {
    /// Its chart.
    pub chart: PathBuf,
    /// Its images.
    pub set: ImageSet,
}

impl Previous {
    /// Builds (or finds) the images of the commit in `hack/previous`.
    pub fn build(progress: &Progress) -> Result<Self> {
        progress.say("building the images of what landed before");
        let mut command = binaries::cargo();
        command.args(["xtask", "images", "--previous", "--output", "json"]);
        let previous: Value = serde_json::from_str(&succeed(&mut command, None)?)?;
        let tree = previous["tree"].as_str().context("a tree without a path")?;
        Ok(Self {
            chart: PathBuf::from(tree).join("charts/carrick"),
            set: ImageSet::read(&previous["images"])?,
        })
    }
}
