//! What another version of Carrick wrote. The operator that `helm rollback` starts reads what a newer
//! one left and must neither crash nor stand still.
//!
//! Fields it does not know say nothing. A value it does not know:
//! - in `spec`: nobody can tell what is wanted, so nothing is touched and the status says which field;
//! - in the last applied spec: it is another render, with which nothing can be compared;
//! - in the record of rollouts: an attempt begins anew, a good render is told from what runs;
//! - in a status: as if nothing had been said (the types of `carrick_api` see to that).

use carrick_api::{Networking, NetworkingSpec};
use kube::core::DynamicObject;
use serde_json::Value;

use crate::effective::Effective;
use crate::rollout::Record;
use crate::rollout::record::Stored;
use crate::verdict::Refusal;

/// A Networking whose spec has what this version does not know.
#[derive(Debug)]
pub struct UnknownSpec {
    /// The object with an empty spec.
    pub networking: Networking,
    /// Each field.
    pub refusals: Vec<Refusal>,
}

/// Reads a Networking.
///
/// # Errors
/// Its spec cannot be understood.
pub fn networking(object: DynamicObject) -> Result<Networking, Box<UnknownSpec>> {
    let DynamicObject { metadata, data, .. } = object;
    let field = |name: &str| data.get(name).cloned().unwrap_or_default();
    let named = |spec| Networking {
        metadata: metadata.clone(),
        spec,
        status: serde_json::from_value(field("status")).ok(),
    };
    let spec = match field("spec") {
        Value::Null => Value::Object(serde_json::Map::new()),
        spec => spec,
    };
    match serde_json::from_value(spec.clone()) {
        Ok(spec) => Ok(named(spec)),
        Err(error) => Err(Box::new(UnknownSpec {
            networking: named(NetworkingSpec::default()),
            refusals: unknown_fields(&spec, &error),
        })),
    }
}

/// The fields of a spec that cannot be read, each by itself.
fn unknown_fields(spec: &Value, error: &serde_json::Error) -> Vec<Refusal> {
    let refusal = |field: String, error: &serde_json::Error| Refusal {
        field,
        reason: format!("this version of the operator does not know it ({error})"),
        mend: "start a version that does, or change the field".to_owned(),
    };
    let fields = spec.as_object().into_iter().flatten();
    let unknown: Vec<Refusal> = fields
        .filter_map(|(name, value)| {
            let alone = serde_json::json!({ name: value });
            let error = serde_json::from_value::<NetworkingSpec>(alone).err()?;
            Some(refusal(format!("spec.{name}"), &error))
        })
        .collect();
    if unknown.is_empty() {
        return vec![refusal("spec".to_owned(), error)];
    }
    unknown
}

/// Reads the last applied spec.
///
/// # Errors
/// It is of another version, or damaged: nothing can be compared with it.
pub fn last_applied(bytes: &[u8]) -> Result<Effective, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// Reads the record of rollouts.
///
/// # Errors
/// The last good render cannot be read.
pub fn record(bytes: &[u8]) -> Result<Record, serde_json::Error> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    if let Some(Value::Array(objects)) = value.pointer_mut("/good/objects") {
        // What a newer operator returns besides is nothing that this one would put back.
        objects.retain(|object| serde_json::from_value::<Stored>(object.clone()).is_ok());
    }
    let mut part = |name: &str| value.get_mut(name).map(Value::take).unwrap_or_default();
    Ok(Record {
        good: serde_json::from_value(part("good"))?,
        attempt: serde_json::from_value(part("attempt")).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use serde_json::json;

    #[test]
    fn a_last_applied_spec_of_a_newer_operator_is_another_render() {
        let mut newer = serde_json::to_value(samples::effective()).unwrap();
        newer["waves"] = json!({"size": 3});
        let read = last_applied(newer.to_string().as_bytes()).unwrap();
        assert_eq!(read, samples::effective(), "an unknown field says nothing");
        newer["ipam"] = json!("FromTheFuture");
        assert!(last_applied(newer.to_string().as_bytes()).is_err());
    }

    #[test]
    fn a_record_of_a_newer_operator_can_be_read() {
        let mut newer = json!({
            "good": {"render": {"hashes": {"controller": "c", "agent": "a", "switch": "s"},
                "images": ["i", "o"], "version": "9.0.0", "wave": 3},
                "objects": [{"kind": "DaemonSet", "name": "carrick-agent", "body": {}},
                    {"kind": "StatefulSet", "name": "more", "body": {}}],
                "effective": {}, "more": 1},
            "attempt": {"hash": "h", "spec": "s", "version": "9.0.0", "direction": "Forward"},
            "waves": []});
        let read = record(newer.to_string().as_bytes()).unwrap();
        let good = read.good.unwrap();
        assert_eq!(good.render.version, "9.0.0");
        assert_eq!(good.objects.len(), 1);
        assert_eq!(read.attempt.unwrap().hash, "h");

        newer["attempt"]["direction"] = json!("Sideways");
        let read = record(newer.to_string().as_bytes()).unwrap();
        assert!(read.good.is_some() && read.attempt.is_none());

        newer["good"]["render"]["images"] = json!(["i", "o", "third"]);
        assert!(record(newer.to_string().as_bytes()).is_err());
        assert_eq!(record(b"{}").unwrap(), Record::default());
    }

    #[test]
    fn a_spec_of_a_newer_operator_is_refused_by_its_field() {
        let object = |spec: Value| -> DynamicObject {
            serde_json::from_value(json!({"apiVersion": "carrick.dev/v1alpha1", "kind": "Networking",
                "metadata": {"name": "default", "generation": 4}, "spec": spec,
                "status": {"observedGeneration": 3, "rollout": {"phase": "Canary", "direction": "Forward"},
                    "effective": {"ipam": {"mode": "FromTheFuture"}}}}))
            .unwrap()
        };
        let known = networking(object(json!({"traffic": {"mtu": 1400}, "more": 1}))).unwrap();
        let status = known.status.unwrap();
        assert_eq!(status.observed_generation, 3);
        assert_eq!((status.rollout, status.effective), (None, None));
        let spec = json!({"ipam": {"mode": "FromTheFuture"}, "traffic": {"mtu": 1400}});
        let unknown = networking(object(spec)).unwrap_err();
        let [refusal] = unknown.refusals.as_slice() else {
            panic!("{unknown:?}");
        };
        assert_eq!(refusal.field, "spec.ipam");
        assert!(refusal.reason.contains("FromTheFuture"), "{refusal}");
        assert_eq!(unknown.networking.metadata.generation, Some(4));
    }
}
