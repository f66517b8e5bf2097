//! Policies with any part of them replaced by something else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

#[allow(dead_code, reason = "bytes are the fuzz target's")]
#[path = "../../../fuzz/checks/policy.rs"]
mod checks;
mod support;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};
use support::generate::{cluster_policy, network_policy};

/// Something that may be anywhere.
fn anything() -> impl Strategy<Value = Value> {
    let text = select(vec![
        "",
        "*",
        "*.",
        "a/b",
        "10.0.0.0/8",
        "::ffff:10.0.0.0/104",
        "0.0.0.0/0",
        "10.0.0.0/-1",
        "Deny",
        "http",
        "\u{0}\u{7f}",
        "é",
        "TCP",
        "In",
    ])
    .prop_map(|text| json!(text));
    prop_oneof![
        Just(json!(null)),
        Just(json!({})),
        Just(json!([])),
        any::<i64>().prop_map(|number| json!(number)),
        (-1..70_000).prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        any::<bool>().prop_map(|boolean| json!(boolean)),
        text,
        ".{0,300}".prop_map(|text| json!(text)),
        Just(json!("x".repeat(100_000))),
        Just(Value::Array(vec![json!({"podSelector": {}}); 5000])),
        Just(Value::Array(vec![json!("a.example.org"); 5000])),
    ]
}

/// Every place in a value.
fn places(value: &mut Value) -> usize {
    let within: usize = match value {
        Value::Array(list) => list.iter_mut().map(places).sum(),
        Value::Object(map) => map.values_mut().map(places).sum(),
        _ => 0,
    };
    within + 1
}

/// Replaces what is at a place.
fn replace(value: &mut Value, place: &mut usize, other: &Value) {
    if *place == 0 {
        *value = other.clone();
    }
    *place = place.wrapping_sub(1);
    match value {
        Value::Array(list) if list.len() < 1000 => {
            for value in list {
                replace(value, place, other);
            }
        }
        Value::Object(map) => {
            for value in map.values_mut() {
                replace(value, place, other);
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_object_breaks_anything(
        specs in prop::collection::vec(prop_oneof![network_policy(), cluster_policy()], 1..4),
        wrong in prop::collection::vec((any::<Index>(), any::<Index>(), anything()), 0..4),
    ) {
        let mut objects: Vec<Value> = specs
            .into_iter()
            .map(|spec| json!({
                "metadata": {"namespace": "shop", "name": "web", "uid": "u"},
                "spec": spec,
            }))
            .collect();
        for (which, place, other) in wrong {
            let which = which.index(objects.len());
            let mut place = place.index(places(&mut objects[which]));
            replace(&mut objects[which], &mut place, &other);
        }
        checks::policies(&objects);
    }
}
