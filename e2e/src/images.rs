//! The images under test, built by `cargo xtask images`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use carrick_testbed::{Progress, binaries};
use serde_json::Value;

use crate::command::{root, succeed};

/// What nodes run.
pub struct Images {
    /// Archives of all of them.
    pub archives: Vec<PathBuf>,
    /// Chart values that name our images.
    values: Vec<(String, String)>,
    /// The test pods' image.
    pub agnhost: String,
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
        let agnhost = binaries::kubernetes(progress)?.agnhost_image()?;
        archives.push(agnhost.path().to_owned());
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root().join("target"), PathBuf::from);
        let carrickctl = target.join("stripped/debug/carrickctl");
        Ok(Self {
            archives,
            values,
            agnhost: agnhost.name().to_owned(),
            carrickctl,
        })
    }

    /// Chart values that name our images.
    pub fn values(&self) -> &[(String, String)] {
        &self.values
    }
}
