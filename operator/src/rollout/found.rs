//! A network of whose making nothing is known, taken for the last good render: an operator without
//! ordered rollouts made it, or its record cannot be read.

use std::collections::BTreeMap;

use carrick_api::names::object;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::Value;

use super::observe::{annotation, live};
use super::record::{Stored, StoredKind};
use super::{Good, Parts, Render};
use crate::progress::Running;
use crate::render::RENDER_HASH;

/// Whether an operator with ordered rollouts made a part of it.
pub fn is_marked(running: &Running) -> bool {
    let workloads = [
        running.controller.as_ref().map(|found| &found.metadata),
        running.agent.as_ref().map(|found| &found.metadata),
        running.switch.as_ref().map(|found| &found.metadata),
    ];
    let mut workloads = workloads.into_iter().flatten();
    workloads.any(|meta| annotation(meta, RENDER_HASH).is_some())
}

/// What runs, as a render to go back to; none when a workload is missing.
pub fn found(running: &Running, config: Option<Value>) -> Option<Good> {
    let (controller, agent, switch) = (
        running.controller.as_ref()?,
        running.agent.as_ref()?,
        running.switch.as_ref()?,
    );
    let live = live(running, &BTreeMap::new());
    let hashes = Parts::of(|part| {
        let live = live.get(part).as_ref();
        live.map(|live| live.hash.clone()).unwrap_or_default()
    });
    let image = |spec: Option<&PodSpec>| {
        spec.and_then(|spec| spec.containers.first()?.image.clone())
            .unwrap_or_default()
    };
    let pod = |set: &DaemonSet| {
        image(
            set.spec
                .as_ref()
                .and_then(|spec| spec.template.spec.as_ref()),
        )
    };
    let images = [pod(agent), pod(switch)];
    let typed = |kind, name: &str, api, body: Option<Value>, hash: Option<&str>| {
        Some(Stored {
            kind,
            name: name.to_owned(),
            body: cleaned(body?, api, &format!("{kind:?}"), hash),
        })
    };
    let mut objects: Vec<Stored> = [
        typed(
            StoredKind::Deployment,
            object::CONTROLLER,
            "apps/v1",
            serde_json::to_value(controller).ok(),
            Some(&hashes.controller),
        ),
        typed(
            StoredKind::DaemonSet,
            object::AGENT,
            "apps/v1",
            serde_json::to_value(agent).ok(),
            Some(&hashes.agent),
        ),
        typed(
            StoredKind::DaemonSet,
            object::SWITCH,
            "apps/v1",
            serde_json::to_value(switch).ok(),
            Some(&hashes.switch),
        ),
    ]
    .into_iter()
    .collect::<Option<_>>()?;
    objects.extend(typed(
        StoredKind::ConfigMap,
        object::CONFIG,
        "v1",
        config,
        None,
    ));
    for set in objects
        .iter_mut()
        .filter(|o| o.kind == StoredKind::DaemonSet)
    {
        if let Some(Value::Object(spec)) = set.body.get_mut("spec") {
            // Going back is ordered, too.
            spec.insert(
                "updateStrategy".to_owned(),
                serde_json::json!({"type": "OnDelete"}),
            );
        }
    }
    Some(Good {
        render: Render {
            hashes,
            images,
            version: String::new(),
        },
        objects,
        effective: Value::Null,
    })
}

/// A live object as it could have been applied.
fn cleaned(mut body: Value, api: &str, kind: &str, hash: Option<&str>) -> Value {
    let metadata = body.get("metadata").cloned().unwrap_or_default();
    let mut kept = serde_json::Map::new();
    for field in ["name", "namespace", "labels"] {
        if let Some(value) = metadata.get(field) {
            kept.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(hash) = hash {
        kept.insert(
            "annotations".to_owned(),
            serde_json::json!({RENDER_HASH: hash}),
        );
    }
    if let Value::Object(fields) = &mut body {
        fields.remove("status");
        fields.insert("metadata".to_owned(), Value::Object(kept));
        fields.insert("apiVersion".to_owned(), Value::String(api.to_owned()));
        fields.insert("kind".to_owned(), Value::String(kind.to_owned()));
    }
    body
}
