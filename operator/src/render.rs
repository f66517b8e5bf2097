//! Operands of a network, rendered as typed objects.
//!
//! Pure and deterministic: the same input gives the same bytes, in order of application. Golden
//! files under `tests/golden` show what people get.
//!
//! Operands carry no owner reference to the Networking: a foreground deletion would take them
//! away before the nodes are clean. They are found by their labels.

pub mod agent;
pub mod config;
pub mod controller;
pub mod pod;
pub mod pre_pull;
pub mod rbac;
pub mod switch;

use std::collections::BTreeMap;

use carrick_api::names::OPERATOR_FIELD_MANAGER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::effective::Effective;
use crate::facts::{Facts, Installation};
use crate::object::{Kind, Object, ObjectError};

/// The label every operand has; pruning and watching go by it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The label that tells which part an operand belongs to.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// The label that holds the pods of one workload together.
pub const NAME: &str = "app.kubernetes.io/name";
/// On a pod template: hash of the configuration its pods read.
pub const CONFIG_HASH: &str = "carrick.dev/config-hash";

/// On a workload: hash of what was rendered, so that what is applied can be told from what is not
/// yet, without comparing with what the API server has defaulted.
pub const RENDER_HASH: &str = "carrick.dev/render-hash";
/// On a workload: version of the operator that rendered it.
pub const OPERATOR_VERSION: &str = "carrick.dev/operator-version";

/// What the agents are for at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// They carry the network.
    Network,
    /// They take it off their nodes.
    Cleanup,
}

/// Everything rendering needs.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The spec with its defaults.
    pub effective: &'a Effective,
    /// The cluster.
    pub facts: &'a Facts,
    /// The operator's own installation.
    pub installation: &'a Installation,
    /// The CA certificates agents trust, PEM.
    pub ca_bundle: &'a str,
    /// What the agents are for.
    pub purpose: Purpose,
}

/// Every operand, in order of application.
pub fn render(input: &Input<'_>) -> Result<Vec<Object>, ObjectError> {
    let config = config::config(input)?;
    let mut objects = rbac::objects(input)?;
    objects.extend(config.objects);
    objects.extend(controller::objects(input, &config.controller_hash)?);
    objects.extend(agent::objects(input, &config.hash)?);
    objects.extend(switch::objects(input)?);
    for object in &mut objects {
        if matches!(object.id.kind, Kind::Deployment | Kind::DaemonSet) {
            mark(object, &input.installation.version);
        }
    }
    objects.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(objects)
}

/// Writes on a workload what it was rendered as, and by whom.
fn mark(object: &mut Object, version: &str) {
    let digest = Sha256::digest(object.body.to_string().as_bytes());
    let hash = hex::encode(&digest[..8]);
    if let Some(metadata) = object
        .body
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
    {
        metadata.insert(
            "annotations".to_owned(),
            json!({RENDER_HASH: hash, OPERATOR_VERSION: version}),
        );
    }
}

/// Labels of an operand.
pub(crate) fn labels(component: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (NAME.to_owned(), component.to_owned()),
        (
            COMPONENT.to_owned(),
            component.trim_start_matches("carrick-").to_owned(),
        ),
        ("app.kubernetes.io/part-of".to_owned(), "carrick".to_owned()),
        (MANAGED_BY.to_owned(), OPERATOR_FIELD_MANAGER.to_owned()),
    ])
}

/// Labels that select the pods of one workload. Immutable once applied.
pub(crate) fn selector(component: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(NAME.to_owned(), component.to_owned())])
}

/// Metadata of an operand in the operator's namespace.
pub(crate) fn meta(input: &Input<'_>, name: &str, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(input.installation.namespace.clone()),
        labels: Some(labels(component)),
        ..ObjectMeta::default()
    }
}

/// Metadata of an operand in no namespace.
pub(crate) fn cluster_meta(name: &str, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels(component)),
        ..ObjectMeta::default()
    }
}
