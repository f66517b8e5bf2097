//! What must hold of any bytes given to the decoders of OVSDB.

use carrick_ovsdb::cache::{Cache, UpdateFormat};
use carrick_ovsdb::frame::Framer;
use carrick_ovsdb::message::Message;
use carrick_ovsdb::schema::Schema;
use carrick_ovsdb::value::Datum;
use serde_json::{Value, json};

const ROOT: &str = "4c3924ae-0b09-44cf-978c-6e206574dc2d";

/// A stream: cut the same wherever it is split; its messages, values and schemas never panic.
pub fn stream(bytes: &[u8]) {
    let whole = cut(&[bytes]);
    let (left, right) = bytes.split_at(bytes.len() / 2);
    assert_eq!(cut(&[left, right]), whole, "the cut depends on the split");
    for message in whole.iter().flatten() {
        match Message::parse(message) {
            Ok(Message::Response {
                result: Ok(value), ..
            }) => {
                drop(Schema::from_json(&value));
                values(&value, 0);
            }
            Ok(Message::Notification { params, .. } | Message::Request { params, .. }) => {
                values(&params, 0);
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// The messages of a stream; `None` behind them when it is broken.
fn cut(pieces: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
    let mut framer = Framer::new(1 << 20);
    let mut messages = Vec::new();
    for piece in pieces {
        framer.buffer().extend_from_slice(piece);
        loop {
            match framer.next_message() {
                Ok(Some(message)) => messages.push(Some(message.to_vec())),
                Ok(None) => break,
                Err(_) => {
                    messages.push(None);
                    return messages;
                }
            }
        }
    }
    messages
}

/// Each part of a value as a column's value: what is read is read again after writing.
fn values(value: &Value, depth: usize) {
    if let Ok(datum) = Datum::from_json(value) {
        let again = Datum::from_json(&datum.to_json()).expect("what was written is read");
        assert_eq!(again, datum);
    }
    if depth > 4 {
        return;
    }
    match value {
        Value::Array(parts) => parts.iter().for_each(|part| values(part, depth + 1)),
        Value::Object(parts) => parts.values().for_each(|part| values(part, depth + 1)),
        _ => {}
    }
}

/// Updates of a cache, in both formats: no panic; replacing by what is refused changes nothing.
pub fn update(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let schema = Schema::from_json(&schema()).expect("the schema");
    for format in [UpdateFormat::Update2, UpdateFormat::Rfc7047] {
        let mut cache = Cache::default();
        cache
            .apply(&schema, UpdateFormat::Update2, &content())
            .expect("the content");
        let before = cache.len("Open_vSwitch");
        if cache.replace(&schema, format, &value).is_err() {
            assert_eq!(cache.len("Open_vSwitch"), before);
        }
        drop(cache.apply(&schema, format, &value));
    }
}

fn schema() -> Value {
    json!({"name": "Open_vSwitch", "version": "8.3.1", "tables": {
        "Open_vSwitch": {"columns": {
            "cur_cfg": {"type": "integer"},
            "bridges": {"type": {"key": {"type": "uuid", "refTable": "Bridge"}, "min": 0, "max": "unlimited"}},
            "external_ids": {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}}}},
        "Bridge": {"columns": {"name": {"type": "string"}}}}})
}

fn content() -> Value {
    json!({"Open_vSwitch": {ROOT: {"initial": {"cur_cfg": 3,
        "bridges": ["set", []], "external_ids": ["map", [["a", "b"]]]}}}})
}
