//! The CRD of ClusterNetworkPolicy, an API of others: brought into the cluster where nobody else has.

use std::collections::BTreeMap;

use carrick_policy::cluster_network_policy::{
    ClusterNetworkPolicySpec, ClusterNetworkPolicyStatus, GROUP, KIND, PLURAL, VERSION,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, CustomResourceSubresourceStatus,
    CustomResourceSubresources, CustomResourceValidation, JSONSchemaProps,
};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::core::schema::StructuralSchemaRewriter;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;

/// Its name.
pub const NAME: &str = "clusternetworkpolicies.policy.networking.k8s.io";
/// Groups of Kubernetes need this: where the API was reviewed.
const APPROVED: &str = "api-approved.kubernetes.io";
/// As upstream's own CRD says (network-policy-api v0.2.0).
const REVIEW: &str = "https://github.com/kubernetes-sigs/network-policy-api/pull/347";
/// By which upstream's CRDs say what release they are of, and of which of its two sets.
const BUNDLE: (&str, &str) = ("policy.networking.k8s.io/bundle-version", "v0.2.0");
/// The set that has nodes, names of ports and names of domains.
const CHANNEL: (&str, &str) = ("policy.networking.k8s.io/channel", "experimental");
/// Says whose a CRD is.
const PART_OF: &str = "app.kubernetes.io/part-of";
const OURS: &str = "carrick";

/// Whether a CRD that is there was brought by us, and nobody has taken it over since. `kubectl apply` of another
/// release leaves our label on it, and says which release it is.
pub fn is_ours(existing: &CustomResourceDefinition) -> bool {
    let annotations = existing.annotations();
    // Without either it is of a version of ours that did not say it.
    let mut said = [BUNDLE, CHANNEL].into_iter();
    existing.labels().get(PART_OF).map(String::as_str) == Some(OURS)
        && said.all(|(name, value)| annotations.get(name).is_none_or(|said| said == value))
}

/// The CRD.
///
/// # Errors
/// The types' schema is none that the API server knows.
pub fn crd() -> Result<CustomResourceDefinition, serde_json::Error> {
    let root = JSONSchemaProps {
        type_: Some("object".to_owned()),
        description: Some(
            "A policy for pods of any namespace: in tier Admin it is read before their NetworkPolicies, in tier \
             Baseline after them."
                .to_owned(),
        ),
        required: Some(vec!["metadata".to_owned(), "spec".to_owned()]),
        properties: Some(BTreeMap::from([
            (
                "metadata".to_owned(),
                JSONSchemaProps {
                    type_: Some("object".to_owned()),
                    ..JSONSchemaProps::default()
                },
            ),
            ("spec".to_owned(), schema::<ClusterNetworkPolicySpec>()?),
            (
                "status".to_owned(),
                schema::<ClusterNetworkPolicyStatus>()?,
            ),
        ])),
        ..JSONSchemaProps::default()
    };
    let column = |name: &str, type_: &str, path: &str| CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: type_.to_owned(),
        json_path: path.to_owned(),
        ..CustomResourceColumnDefinition::default()
    };
    let version = CustomResourceDefinitionVersion {
        name: VERSION.to_owned(),
        served: true,
        storage: true,
        schema: Some(CustomResourceValidation {
            open_api_v3_schema: Some(root),
        }),
        subresources: Some(CustomResourceSubresources {
            status: Some(CustomResourceSubresourceStatus::default()),
            scale: None,
        }),
        additional_printer_columns: Some(vec![
            column("Tier", "string", ".spec.tier"),
            column("Priority", "string", ".spec.priority"),
            column("Age", "date", ".metadata.creationTimestamp"),
        ]),
        ..CustomResourceDefinitionVersion::default()
    };
    let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Ok(CustomResourceDefinition {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            annotations: Some([(APPROVED, REVIEW), BUNDLE, CHANNEL].map(text).into()),
            labels: Some([(PART_OF, OURS)].map(text).into()),
            ..ObjectMeta::default()
        },
        spec: CustomResourceDefinitionSpec {
            group: GROUP.to_owned(),
            names: CustomResourceDefinitionNames {
                kind: KIND.to_owned(),
                list_kind: Some(format!("{KIND}List")),
                plural: PLURAL.to_owned(),
                singular: Some(KIND.to_lowercase()),
                short_names: Some(vec!["cnp".to_owned()]),
                ..CustomResourceDefinitionNames::default()
            },
            scope: "Cluster".to_owned(),
            versions: vec![version],
            ..CustomResourceDefinitionSpec::default()
        },
        status: None,
    })
}

/// The schema of a type in the form that a CRD takes (KEP-1111 calls it structural).
fn schema<T: JsonSchema>() -> Result<JSONSchemaProps, serde_json::Error> {
    let mut settings = SchemaSettings::openapi3().with_transform(StructuralSchemaRewriter);
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema: JSONSchemaProps = serde_json::from_value(schema.to_value())?;
    carrick_api::crd::simplify(&mut schema);
    schema.title = None;
    Ok(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crd_is_as_it_was_reviewed() {
        let text = serde_saphyr::to_string(&crd().unwrap()).unwrap();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn who_takes_the_label_off_takes_the_crd_over() {
        let mut crd = crd().unwrap();
        assert!(is_ours(&crd));
        crd.metadata.labels = None;
        assert!(!is_ours(&crd));
        crd.metadata.labels = Some(BTreeMap::from([(PART_OF.to_owned(), "other".to_owned())]));
        assert!(!is_ours(&crd));
    }

    /// Bug: our label stayed on it, and the operator put its own release back at its next start.
    #[test]
    fn another_release_that_was_applied_over_ours_is_somebody_elses() {
        for (name, value) in [(BUNDLE.0, "v0.3.0"), (CHANNEL.0, "standard")] {
            let mut crd = crd().unwrap();
            crd.annotations_mut()
                .insert(name.to_owned(), value.to_owned());
            assert!(!is_ours(&crd), "{name}");
            crd.annotations_mut().remove(name);
            assert!(
                is_ours(&crd),
                "one that does not say it is an older version's of ours"
            );
        }
    }
}
