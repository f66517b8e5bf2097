//! What operands read: the effective configuration and the CA bundle.

use std::collections::BTreeMap;

use carrick_api::effective::EffectiveConfig;
use carrick_api::names::object;
use k8s_openapi::api::core::v1::ConfigMap;
use sha2::{Digest, Sha256};

use super::{Input, meta};
use crate::object::{Kind, Object, ObjectError};

/// Key of the configuration in its ConfigMap; it is mounted at `names::path::CONFIG_FILE`.
pub(crate) const CONFIG_KEY: &str = "config.json";
/// Key of the bundle in its ConfigMap; it is mounted at `names::path::CA_BUNDLE_FILE`.
pub(crate) const CA_KEY: &str = "ca.crt";

/// The ConfigMaps and the hash of the configuration.
pub(crate) struct Config {
    pub(crate) objects: Vec<Object>,
    /// In the agents' pod template, so that a change rolls them in waves. The CA bundle is not part
    /// of it: readers read it again when its file changes. Nor is what only the controller reads:
    /// another cluster CIDR must not restart an agent on every node.
    pub(crate) hash: String,
    /// In the controller's pod template.
    pub(crate) controller_hash: String,
}

pub(crate) fn config(input: &Input<'_>) -> Result<Config, ObjectError> {
    let config = input.effective.config(input.facts);
    let text = text(&config)?;
    let controller_hash = hash(&text);
    let hash = hash(&self::text(&EffectiveConfig {
        node_ipam: None,
        ..config
    })?);
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
            one(object::CONFIG, CONFIG_KEY, text)?,
            one(object::CA_BUNDLE, CA_KEY, input.ca_bundle.to_owned())?,
        ],
        hash,
        controller_hash,
    })
}

fn text(config: &EffectiveConfig) -> Result<String, ObjectError> {
    serde_json::to_string_pretty(config).map_err(|source| ObjectError {
        kind: Kind::ConfigMap,
        source,
    })
}

fn hash(text: &str) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..8])
}
