use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn schema() -> Schema {
    Schema::from_json(
        &json!({"name": "db", "version": "1.0.0", "tables": {"T": {"columns": {
        "name": {"type": "string"},
        "one": {"type": {"key": "integer", "min": 0, "max": 1}},
        "set": {"type": {"key": "integer", "min": 0, "max": "unlimited"}},
        "map": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}}}}}}),
    )
    .unwrap()
}

const ROW: &str = "00000000-0000-0000-0000-000000000001";

fn updates(kind: &str, row: &Value) -> Value {
    json!({"T": {ROW: {kind: row}}})
}

fn apply(cache: &mut Cache, kind: &str, row: &Value) -> Result<Vec<Change>, UpdateError> {
    cache.apply(&schema(), UpdateFormat::Update2, &updates(kind, row))
}

fn only(cache: &Cache) -> Arc<Row> {
    cache.row("T", &Uuid::from_u128(1)).unwrap().clone()
}

#[test]
fn a_row_lives_through_insert_modify_and_delete() {
    let mut cache = Cache::indexed([("T", "name")]);
    let row =
        json!({"name": "a", "set": ["set", [1, 2]], "map": ["map", [["k", "v"], ["l", "w"]]]});
    let changes = apply(&mut cache, "insert", &row).unwrap();
    assert!(matches!(
        changes.as_slice(),
        [Change {
            change: RowChange::Insert { .. },
            ..
        }]
    ));

    let difference = json!({"name": "b", "one": 7, "set": ["set", [2, 3]],
        "map": ["map", [["k", "v"], ["l", "x"], ["m", "y"]]]});
    let changes = apply(&mut cache, "modify", &difference).unwrap();
    assert!(matches!(
        changes.as_slice(),
        [Change {
            change: RowChange::Modify { .. },
            ..
        }]
    ));
    let row = only(&cache);
    assert_eq!(row.get("set"), Some(&Datum::set([1, 3])));
    assert_eq!(row.get("map"), Some(&Datum::map([("l", "x"), ("m", "y")])));
    assert_eq!(row.get("one"), Some(&Datum::from(7)));
    assert!(cache.find("T", "name", &Atom::from("a")).is_none());
    assert!(cache.find("T", "name", &Atom::from("b")).is_some());
    assert!(cache.find("T", "one", &Atom::from(7)).is_some());

    // An optional scalar is written whole, and back at its default it is absent.
    apply(&mut cache, "modify", &json!({"one": ["set", []]})).unwrap();
    assert_eq!(only(&cache).get("one"), None);

    let changes = apply(&mut cache, "delete", &Value::Null).unwrap();
    assert!(matches!(
        changes.as_slice(),
        [Change {
            change: RowChange::Delete { .. },
            ..
        }]
    ));
    assert_eq!(cache.len("T"), 0);
    assert!(cache.find("T", "name", &Atom::from("b")).is_none());
}

#[test]
fn a_name_passes_from_one_row_to_another_in_one_update() {
    let other = "00000000-0000-0000-0000-000000000002";
    for (first, second) in [(ROW, other), (other, ROW)] {
        let mut cache = Cache::indexed([("T", "name")]);
        let insert = json!({"T": {first: {"insert": {"name": "a"}}}});
        cache
            .apply(&schema(), UpdateFormat::Update2, &insert)
            .unwrap();
        let swap = json!({"T": {second: {"insert": {"name": "a"}}, first: {"delete": null}}});
        cache
            .apply(&schema(), UpdateFormat::Update2, &swap)
            .unwrap();
        let (uuid, _) = cache.find("T", "name", &Atom::from("a")).unwrap();
        assert_eq!(uuid.to_string(), second);
    }
}

#[test]
fn a_whole_copy_after_a_reconnect_becomes_differences() {
    let mut cache = Cache::default();
    let old = json!({"T": {ROW: {"initial": {"name": "a"}},
        "00000000-0000-0000-0000-000000000002": {"initial": {"name": "b"}},
        "00000000-0000-0000-0000-000000000003": {"initial": {"name": "c"}}}});
    cache.apply(&schema(), UpdateFormat::Update2, &old).unwrap();
    let new = json!({"T": {ROW: {"initial": {"name": "a"}},
        "00000000-0000-0000-0000-000000000002": {"initial": {"name": "B"}},
        "00000000-0000-0000-0000-000000000004": {"initial": {"name": "d"}}}});
    let changes = cache
        .replace(&schema(), UpdateFormat::Update2, &new)
        .unwrap();
    let kinds: Vec<_> = changes
        .iter()
        .map(|change| {
            let kind = match change.change {
                RowChange::Insert { .. } => "insert",
                RowChange::Modify { .. } => "modify",
                RowChange::Delete { .. } => "delete",
            };
            (change.uuid.as_u128(), kind)
        })
        .collect();
    assert_eq!(kinds, [(2, "modify"), (3, "delete"), (4, "insert")]);
    assert_eq!(cache.len("T"), 3);
}

#[test]
fn the_older_format_is_understood() {
    let mut cache = Cache::default();
    let mut apply = |update: Value| {
        cache.apply(
            &schema(),
            UpdateFormat::Rfc7047,
            &json!({"T": {ROW: update}}),
        )
    };
    let new = json!({"name": "a", "one": ["set", []], "set": ["set", [1]]});
    apply(json!({"new": new})).unwrap();
    let new = json!({"name": "a", "one": 3, "set": ["set", [1, 2]]});
    apply(json!({"old": {"one": ["set", []]}, "new": new})).unwrap();
    let row = only(&cache);
    assert_eq!(
        (row.get("one"), row.get("set")),
        (Some(&Datum::from(3)), Some(&Datum::set([1, 2])))
    );
    let gone = json!({"T": {ROW: {"old": {"name": "a"}}}});
    cache
        .apply(&schema(), UpdateFormat::Rfc7047, &gone)
        .unwrap();
    assert_eq!(cache.len("T"), 0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let bad = [
        json!([]),
        json!({"X": {}}),
        json!({"T": []}),
        json!({"T": {"x": {}}}),
        json!({"T": {ROW: {}}}),
        json!({"T": {ROW: {"modify": {"name": "x"}}}}),
        json!({"T": {ROW: {"insert": {"unknown": 1}}}}),
        json!({"T": {ROW: {"insert": {"name": null}}}}),
        json!({"T": {ROW: {"insert": []}}}),
    ];
    for updates in bad {
        let mut cache = Cache::default();
        assert!(
            cache
                .apply(&schema(), UpdateFormat::Update2, &updates)
                .is_err(),
            "{updates}"
        );
    }
    let mut cache = Cache::default();
    apply(&mut cache, "insert", &json!({"set": ["set", [1]]})).unwrap();
    assert!(apply(&mut cache, "modify", &json!({"set": ["map", []]})).is_err());
}

proptest! {
    // The difference of two sets or maps, computed as the server does, leads from one to the other.
    #[test]
    fn differences_lead_from_old_to_new(
        old in prop::collection::btree_map("[a-c]", "[x-z]", 0..4),
        new in prop::collection::btree_map("[a-c]", "[x-z]", 0..4),
        set in prop::collection::btree_set(0i64..6, 0..5),
        goal in prop::collection::btree_set(0i64..6, 0..5),
    ) {
        let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
        let come = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
        let difference = Datum::map(gone.chain(come).map(|(k, v)| (k.as_str(), v.as_str())));
        prop_assert_eq!(merged(Datum::from(&old), difference), Some(Datum::from(&new)));

        let difference: BTreeSet<i64> = set.symmetric_difference(&goal).copied().collect();
        prop_assert_eq!(merged(Datum::set(set), Datum::set(difference)), Some(Datum::set(goal)));
    }
}
