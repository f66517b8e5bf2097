//! What operands read: the effective configuration and the CA bundle.

use std::collections::BTreeMap;

use carrick_api::effective::EffectiveConfig;
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
    /// In the agents' pod template, so that a change rolls them in order. The CA bundle is not part
    /// of it: readers read it again when its file changes. Nor is what only the controller reads:
    /// another cluster CIDR must not restart an agent on every node.
    pub(crate) hash: String,
    /// In the controller's pod template.
    pub(crate) controller_hash: String,
}

pub(crate) fn config(input: &Input<'_>) -> Result<Config, ObjectError> {
    let config = input.effective.config(input.facts);
    let all = text(&config)?;
    let controller_hash = hash(&all);
    let agents = text(&EffectiveConfig {
        node_ipam: None,
        ..config
    })?;
    let hash = hash(&agents);
    // One key where both are the same.
    let texts = BTreeMap::from([
        (config_key(&controller_hash), all),
        (config_key(&hash), agents),
    ]);
    let bundle = BTreeMap::from([(CA_KEY.to_owned(), input.ca_bundle.to_owned())]);
    let one = |name: &str, data: BTreeMap<String, String>| {
        Object::new(
            Kind::ConfigMap,
            &ConfigMap {
                metadata: meta(input, name, "carrick-config"),
                data: Some(data),
                ..ConfigMap::default()
            },
        )
    };
    Ok(Config {
        objects: vec![one(object::CONFIG, texts)?, one(object::CA_BUNDLE, bundle)?],
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
