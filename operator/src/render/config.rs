//! What operands read: the effective configuration and the CA bundle.

use std::collections::BTreeMap;

use carrick_api::names::object;
use k8s_openapi::api::core::v1::ConfigMap;
use sha2::{Digest, Sha256};

use super::{Input, meta};
use crate::object::{Kind, Object, ObjectError};

/// Key of the configuration with this hash in its ConfigMap; it is mounted at
/// `names::path::CONFIG_FILE`.
///
/// A key for each content: a pod reads the configuration its own template names, whatever else a
/// rollout has put there meanwhile, and one that starts before its kubelet has seen the new key
/// waits for it instead of starting with the old.
pub(crate) fn config_key(hash: &str) -> String {
    format!("config-{hash}.json")
}
/// Key of the bundle in its ConfigMap; it is mounted at `names::path::CA_BUNDLE_FILE`.
pub(crate) const CA_KEY: &str = "ca.crt";

/// The ConfigMaps and the hash of the configuration.
pub(crate) struct Config {
    pub(crate) objects: Vec<Object>,
    /// In the pod templates of its readers, so that a change rolls them in order. The CA bundle is
    /// not part of it: readers read it again when its file changes.
    pub(crate) hash: String,
}

pub(crate) fn config(input: &Input<'_>) -> Result<Config, ObjectError> {
    let config = input.effective.config(input.facts);
    let text = serde_json::to_string_pretty(&config).map_err(|source| ObjectError {
        kind: Kind::ConfigMap,
        source,
    })?;
    let hash = hex::encode(&Sha256::digest(text.as_bytes())[..8]);
    let key = config_key(&hash);
    let one = |name: &str, key: &str, value: String| {
        Object::new(
            Kind::ConfigMap,
            &ConfigMap {
                metadata: meta(input, name, "carrick-config"),
                data: Some(BTreeMap::from([(key.to_owned(), value)])),
                ..ConfigMap::default()
            },
        )
    };
    Ok(Config {
        objects: vec![
            one(object::CONFIG, &key, text)?,
            one(object::CA_BUNDLE, CA_KEY, input.ca_bundle.to_owned())?,
        ],
        hash,
    })
}
