//! The CRDs hold what the API server and the operator rely on.

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

use carrick_api::crd::{crd_yaml, crds};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;

fn each_schema(
    path: &str,
    schema: &JSONSchemaProps,
    visit: &mut impl FnMut(&str, &JSONSchemaProps),
) {
    visit(path, schema);
    for (name, property) in schema.properties.iter().flatten() {
        each_schema(&format!("{path}.{name}"), property, visit);
    }
    if let Some(
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaPropsOrArray::Schema(items),
    ) = &schema.items
    {
        each_schema(&format!("{path}[]"), items, visit);
    }
}

fn all(visit: &mut impl FnMut(&str, &JSONSchemaProps)) {
    for crd in crds() {
        let root = crd.spec.versions[0]
            .schema
            .as_ref()
            .unwrap()
            .open_api_v3_schema
            .as_ref()
            .unwrap();
        each_schema(&crd.spec.names.kind, root, visit);
    }
}

#[test]
fn every_list_and_map_is_bounded() {
    let mut loose = Vec::new();
    all(&mut |path, schema| {
        if schema.type_.as_deref() == Some("array") && schema.max_items.is_none() {
            loose.push(path.to_owned());
        }
        if schema.additional_properties.is_some() && schema.max_properties.is_none() {
            loose.push(path.to_owned());
        }
    });
    assert!(loose.is_empty(), "unbounded: {loose:#?}");
}

#[test]
fn every_string_of_ours_is_bounded() {
    let mut loose = Vec::new();
    all(&mut |path, schema| {
        let foreign = path.contains(".conditions[]")
            || path.contains(".tolerations[]")
            || path.contains(".metadata")
            || path.ends_with(".apiVersion")
            || path.rsplit('.').next() == Some("kind");
        if schema.type_.as_deref() == Some("string")
            && schema.max_length.is_none()
            && schema.enum_.is_none()
            && schema.format.is_none()
            && !foreign
        {
            loose.push(path.to_owned());
        }
    });
    assert!(loose.is_empty(), "unbounded: {loose:#?}");
}

#[test]
fn every_field_of_ours_is_described_and_no_spec_field_has_a_default() {
    let mut silent = Vec::new();
    all(&mut |path, schema| {
        // The name of a type describes nothing.
        let names_a_type = |text: &str| text.starts_with('`') && text.len() < 40;
        let says = |text: &String| !text.is_empty() && !names_a_type(text);
        let described = schema.description.as_ref().is_some_and(says);
        let foreign = path.ends_with("[]") || path.contains("[].") || path.contains(".metadata");
        if path.contains('.')
            && !described
            && !foreign
            && !path.ends_with(".apiVersion")
            && path.rsplit('.').next() != Some("kind")
        {
            silent.push(path.to_owned());
        }
        if path.starts_with("Networking.spec.") {
            assert!(
                schema.default.is_none(),
                "{path} has a default that the API server would write back"
            );
        }
    });
    assert!(silent.is_empty(), "undescribed: {silent:#?}");
}

#[test]
fn a_fresh_networking_is_never_taken_for_healthy() {
    let crd = crds()
        .into_iter()
        .find(|c| c.spec.names.kind == "Networking")
        .unwrap();
    let root = crd.spec.versions[0]
        .schema
        .as_ref()
        .unwrap()
        .open_api_v3_schema
        .clone()
        .unwrap();
    let status = &root.properties.unwrap()["status"];
    assert_eq!(
        status.default.as_ref().unwrap().0,
        serde_json::json!({"observedGeneration": -1})
    );
}

#[test]
fn the_files_read_back_as_they_were() {
    for (crd, (name, text)) in crds().into_iter().zip(crd_yaml().unwrap()) {
        assert_eq!(
            name,
            format!("{}.yaml", crd.metadata.name.as_ref().unwrap())
        );
        let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(read, serde_json::to_value(&crd).unwrap(), "{name}");
    }
}

#[test]
fn the_generated_files_are_fresh() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for dir in ["crds", "charts/carrick/crds"] {
        for (name, text) in crd_yaml().unwrap() {
            let path = root.join(dir).join(&name);
            let on_disk = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                on_disk == text,
                "{dir}/{name} is stale: run `cargo xtask gen`"
            );
        }
    }
}
