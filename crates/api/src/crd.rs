//! The CustomResourceDefinitions, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, ValidationRule,
};
use kube::CustomResourceExt;

use crate::agentinfo::AgentInfo;
use crate::controllerinfo::ControllerInfo;
use crate::names::NETWORKING_NAME;
use crate::networking::Networking;
use crate::status::NEVER_OBSERVED;

/// A CRD could not be written as text.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// The serializer refused.
    #[error("cannot write the CustomResourceDefinition {name} as YAML")]
    Yaml {
        /// Name of the CRD.
        name: String,
        /// Why.
        #[source]
        source: serde_saphyr::SerializeError,
    },
}

/// Counts up when a CRD changes, so that an operator only ever moves them forward.
///
/// Raise it with every change of the types; `crds/` is compared with it in tests.
pub const CRD_REVISION: u32 = 5;

/// The annotation on a CRD that carries [`CRD_REVISION`].
pub const CRD_REVISION_ANNOTATION: &str = "carrick.dev/crd-revision";

/// Takes the description off the schema of an enum: what describes an optional field would give way
/// to it, and `kubectl explain` would show the name of the type.
pub(crate) fn leave_description_to_fields(schema: &mut schemars::Schema) {
    schema.remove("description");
}

/// The CRDs of carrick.dev, in the order they are applied.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut networking = Networking::crd();
    amend_root(&mut networking, |root| {
        root.x_kubernetes_validations = Some(vec![ValidationRule {
            rule: format!("self.metadata.name == '{NETWORKING_NAME}'"),
            message: Some(format!(
                "there is one network in a cluster, so there is one Networking: name it \"{NETWORKING_NAME}\""
            )),
            ..ValidationRule::default()
        }]);
        // Server-side apply of an empty spec over one with fields leaves null behind, which is no
        // object; a default turns it (and a spec left out) into an empty one.
        if let Some(spec) = root.properties.as_mut().and_then(|p| p.get_mut("spec")) {
            spec.default = Some(JSON(serde_json::json!({})));
        }
        // kstatus takes an object without status for healthy: a fresh one says that nobody looked.
        if let Some(status) = root.properties.as_mut().and_then(|p| p.get_mut("status")) {
            status.default = Some(JSON(
                serde_json::json!({"observedGeneration": NEVER_OBSERVED}),
            ));
        }
    });
    let mut crds = vec![networking, AgentInfo::crd(), ControllerInfo::crd()];
    for crd in &mut crds {
        crd.metadata
            .annotations
            .get_or_insert_default()
            .insert(CRD_REVISION_ANNOTATION.into(), CRD_REVISION.to_string());
        crd.metadata
            .labels
            .get_or_insert_default()
            .insert("app.kubernetes.io/part-of".into(), "carrick".into());
        amend_root(crd, simplify);
    }
    crds
}

/// The CRDs as files: name (without directory) and YAML text.
pub fn crd_yaml() -> Result<Vec<(String, String)>, CrdError> {
    crds()
        .into_iter()
        .map(|crd| {
            let name = crd.metadata.name.clone().unwrap_or_default();
            let text = serde_saphyr::to_string(&crd).map_err(|source| CrdError::Yaml {
                name: name.clone(),
                source,
            })?;
            Ok((
                format!("{name}.yaml"),
                format!("# Generated from crates/api by `cargo xtask gen`; do not edit.\n{text}"),
            ))
        })
        .collect()
}

fn amend_root(crd: &mut CustomResourceDefinition, amend: impl Fn(&mut JSONSchemaProps)) {
    for version in &mut crd.spec.versions {
        if let Some(root) = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut())
        {
            amend(root);
        }
    }
}

/// `Option<T>` makes schemars say `nullable`: a stored null would only confuse CEL's `has()`, and
/// with server-side apply an absent field is the way to say nothing. Unsigned formats are unknown
/// to the API server, which warns of each.
pub fn simplify(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema
        .format
        .as_deref()
        .is_some_and(|format| format.starts_with("uint"))
    {
        schema.format = None;
    }
    for property in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        simplify(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        simplify(items);
    }
}
