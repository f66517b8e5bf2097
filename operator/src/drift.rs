//! What others put into our operands.
//!
//! A forced server-side apply sets our fields and takes them over, but leaves what another manager
//! added: a sidecar, an environment variable, a toleration. The API server records who owns which
//! field (`metadata.managedFields`, fieldsV1: KEP-555); whatever somebody else owns inside our
//! content and we do not ask for is drift, and is taken out by JSON patch.

use serde_json::{Map, Value, json};

/// Top-level fields whose content is ours alone. Metadata and status are shared; a
/// ServiceAccount's `secrets` and `imagePullSecrets` belong to platforms that fill them in.
const ROOTS: [&str; 5] = ["spec", "data", "binaryData", "rules", "subjects"];

/// `kubectl rollout restart` writes this: a wish that was already granted, not drift. Taking it
/// out would restart everything a second time.
const RESTARTED_AT: &str = "/spec/template/metadata/annotations/kubectl.kubernetes.io~1restartedAt";

/// A field that somebody else added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Who.
    pub manager: String,
    /// Where, as a JSON pointer into the live object.
    pub pointer: String,
}

/// Every field of `live` that a manager other than `ours` owns and `desired` does not have.
pub fn foreign(live: &Value, desired: &Value, ours: &str) -> Vec<Foreign> {
    let mut found = Vec::new();
    let entries = live
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    for entry in entries.into_iter().flatten() {
        let manager = entry
            .get("manager")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let subresource = entry
            .get("subresource")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if manager == ours || !subresource.is_empty() {
            continue;
        }
        let Some(fields) = entry.get("fieldsV1").and_then(Value::as_object) else {
            continue;
        };
        for root in ROOTS {
            if let Some(Value::Object(below)) = fields.get(&format!("f:{root}")) {
                let place = Place {
                    live: live.get(root),
                    desired: desired.get(root),
                    pointer: format!("/{root}"),
                };
                walk(below, &place, manager, &mut found);
            }
        }
    }
    found.retain(|field| field.pointer != RESTARTED_AT);
    found.sort_by(|a, b| a.pointer.cmp(&b.pointer));
    found.dedup_by(|a, b| a.pointer == b.pointer);
    found
}

/// The JSON patch that takes `fields` out of the object with this resource version.
pub fn removal(fields: &[Foreign], resource_version: &str) -> Value {
    let mut pointers: Vec<&str> = fields.iter().map(|field| field.pointer.as_str()).collect();
    // Later elements of a list first, so that indices stay true.
    pointers.sort_by(|a, b| natural(b).cmp(&natural(a)));
    let mut operations = vec![json!({
        "op": "test", "path": "/metadata/resourceVersion", "value": resource_version,
    })];
    operations.extend(
        pointers
            .iter()
            .map(|path| json!({"op": "remove", "path": path})),
    );
    Value::Array(operations)
}

/// A pointer in parts that compare numbers as numbers.
fn natural(pointer: &str) -> Vec<(usize, &str)> {
    pointer
        .split('/')
        .map(|part| (part.parse().unwrap_or(0), part))
        .collect()
}

struct Place<'a> {
    live: Option<&'a Value>,
    desired: Option<&'a Value>,
    pointer: String,
}

fn walk(fields: &Map<String, Value>, at: &Place<'_>, manager: &str, found: &mut Vec<Foreign>) {
    for (key, below) in fields {
        let Some(child) = step(key, at) else { continue };
        if child.live.is_none() {
            continue;
        }
        if child.desired.is_none() {
            found.push(Foreign {
                manager: manager.to_owned(),
                pointer: child.pointer,
            });
        } else if let Value::Object(below) = below {
            walk(below, &child, manager, found);
        }
    }
}

/// Follows one path element of fieldsV1: `f:` a field, `k:` a list element by its keys, `v:` a set
/// element by its value. `.` (the element itself) and `i:` (atomic lists have none) lead nowhere.
fn step<'a>(key: &str, at: &Place<'a>) -> Option<Place<'a>> {
    if let Some(name) = key.strip_prefix("f:") {
        return Some(Place {
            live: at.live?.get(name),
            desired: at.desired.and_then(|desired| desired.get(name)),
            pointer: format!(
                "{}/{}",
                at.pointer,
                name.replace('~', "~0").replace('/', "~1")
            ),
        });
    }
    let matches: Box<dyn Fn(&Value) -> bool> = if let Some(keys) = key.strip_prefix("k:") {
        let Ok(Value::Object(keys)) = serde_json::from_str(keys) else {
            return None;
        };
        // A key that the element does not spell out has its default; in ours that is enough.
        Box::new(move |item| {
            keys.iter()
                .all(|(name, value)| item.get(name).is_none_or(|have| have == value))
        })
    } else if let Some(value) = key.strip_prefix("v:") {
        let Ok(value) = serde_json::from_str::<Value>(value) else {
            return None;
        };
        Box::new(move |item| *item == value)
    } else {
        return None;
    };
    let list = at.live?.as_array()?;
    let index = list.iter().position(&matches)?;
    let desired = at.desired.and_then(Value::as_array).into_iter().flatten();
    Some(Place {
        live: list.get(index),
        desired: { desired }.find(|item| matches(item)),
        pointer: format!("{}/{index}", at.pointer),
    })
}

/// Where the content of two versions of an object differs, as JSON pointers; at most `most`.
///
/// Metadata that the API server keeps, and status, are not content.
pub fn differences(before: &Value, after: &Value, most: usize) -> Vec<String> {
    let mut found = Vec::new();
    for root in root_fields(before, after) {
        compare(
            before.get(&root),
            after.get(&root),
            &format!("/{root}"),
            most,
            &mut found,
        );
    }
    for field in ["labels", "annotations"] {
        let pointer = format!("/metadata/{field}");
        compare(
            before.pointer(&pointer),
            after.pointer(&pointer),
            &pointer,
            most,
            &mut found,
        );
    }
    found
}

fn root_fields(before: &Value, after: &Value) -> Vec<String> {
    let mut roots: Vec<String> = [before, after]
        .iter()
        .filter_map(|value| value.as_object())
        .flat_map(Map::keys)
        .filter(|key| !matches!(key.as_str(), "metadata" | "status" | "kind" | "apiVersion"))
        .cloned()
        .collect();
    roots.sort();
    roots.dedup();
    roots
}

fn compare(
    before: Option<&Value>,
    after: Option<&Value>,
    pointer: &str,
    most: usize,
    found: &mut Vec<String>,
) {
    if found.len() >= most || before == after {
        return;
    }
    match (before, after) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                compare(
                    a.get(key),
                    b.get(key),
                    &format!("{pointer}/{key}"),
                    most,
                    found,
                );
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                compare(Some(a), Some(b), &format!("{pointer}/{index}"), most, found);
            }
        }
        _ => found.push(pointer.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn live(managed: &Value) -> Value {
        json!({
            "metadata": {"resourceVersion": "7", "managedFields": managed},
            "spec": {"replicas": 3, "template": {
                "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now", "x/y": "z"}},
                "spec": {"containers": [
                    {"name": "spy", "image": "spy"},
                    {"name": "agent", "image": "ours", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                     "ports": [{"containerPort": 1, "protocol": "TCP"}]},
                    {"name": "late", "image": "late"},
                ]},
            }},
        })
    }

    fn desired() -> Value {
        json!({"spec": {"template": {"spec": {"containers": [
            {"name": "agent", "image": "ours", "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 1}]},
        ]}}}})
    }

    fn entry(manager: &str, subresource: &str, fields: &Value) -> Value {
        json!({"manager": manager, "operation": "Update", "subresource": subresource, "fieldsV1": fields})
    }

    fn pointers(found: &[Foreign]) -> Vec<&str> {
        found.iter().map(|field| field.pointer.as_str()).collect()
    }

    fn meddled() -> Value {
        json!({"f:spec": {"f:replicas": {}, "f:template": {
            "f:metadata": {"f:annotations": {".": {}, "f:kubectl.kubernetes.io/restartedAt": {}, "f:x/y": {}}},
            "f:spec": {"f:containers": {
                "k:{\"name\":\"spy\"}": {".": {}, "f:image": {}, "f:name": {}},
                "k:{\"name\":\"late\"}": {".": {}, "f:image": {}},
                "k:{\"name\":\"agent\"}": {
                    "f:image": {},
                    "f:env": {"k:{\"name\":\"B\"}": {".": {}, "f:value": {}}},
                    "f:ports": {"k:{\"containerPort\":1,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                },
                "k:{\"name\":\"gone\"}": {},
            }},
        }}})
    }

    #[test]
    fn what_others_added_is_found_and_what_is_ours_is_not() {
        let live = live(&json!([
            entry(
                "carrick-operator",
                "",
                &json!({"f:spec": {"f:replicas": {}}})
            ),
            entry(
                "kube-controller-manager",
                "status",
                &json!({"f:status": {}})
            ),
            entry("somebody", "", &meddled()),
        ]));
        let found = foreign(&live, &desired(), "carrick-operator");
        assert_eq!(
            pointers(&found),
            [
                "/spec/replicas",
                "/spec/template/metadata",
                "/spec/template/spec/containers/0",
                "/spec/template/spec/containers/1/env/1",
                "/spec/template/spec/containers/2",
            ]
        );
        assert!(found.iter().all(|field| field.manager == "somebody"));
    }

    #[test]
    fn a_restart_by_kubectl_stays() {
        let live = live(&json!([entry(
            "kubectl-rollout",
            "",
            &json!({"f:spec": {"f:template": {
            "f:metadata": {"f:annotations": {"f:kubectl.kubernetes.io/restartedAt": {}}}}}})
        )]));
        let desired = json!({"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}});
        assert_eq!(foreign(&live, &desired, "carrick-operator"), []);
    }

    #[test]
    fn the_patch_removes_from_the_end_and_only_from_what_was_seen() {
        let fields: Vec<Foreign> = ["/spec/c/2", "/spec/c/10", "/spec/c/1/env/0", "/spec/a"]
            .iter()
            .map(|pointer| Foreign {
                manager: String::new(),
                pointer: (*pointer).to_owned(),
            })
            .collect();
        let patch = removal(&fields, "7");
        let paths: Vec<&str> = patch
            .as_array()
            .unwrap()
            .iter()
            .map(|op| op["path"].as_str().unwrap())
            .collect();
        assert_eq!(
            paths,
            [
                "/metadata/resourceVersion",
                "/spec/c/10",
                "/spec/c/2",
                "/spec/c/1/env/0",
                "/spec/a"
            ]
        );
    }

    #[test]
    fn differences_are_named_and_bounded() {
        let before = json!({"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}, "spec": {"a": [1, 2], "b": 1}, "status": 1});
        let after = json!({"metadata": {"resourceVersion": "2"}, "spec": {"a": [1, 3], "b": 2}, "status": 2});
        assert_eq!(
            differences(&before, &after, 9),
            ["/spec/a/1", "/spec/b", "/metadata/labels"]
        );
        assert_eq!(differences(&before, &after, 1), ["/spec/a/1"]);
        assert!(differences(&before, &before, 9).is_empty());
    }

    proptest! {
        // managedFields come from the API server, but anybody can write them.
        #[test]
        fn hostile_managed_fields_do_no_harm(keys in proptest::collection::vec("(f:|k:|v:|i:)?[a-z{}\":0-9]{0,12}", 0..6)) {
            let mut fields = json!({});
            for key in keys {
                fields = json!({"f:spec": {key: fields}});
            }
            let live = live(&json!([entry("x", "", &fields)]));
            for field in foreign(&live, &desired(), "carrick-operator") {
                prop_assert!(live.pointer(&field.pointer).is_some());
            }
        }
    }
}
