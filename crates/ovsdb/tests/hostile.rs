//! A server that lies, stutters and stops: nothing of it panics, hangs or grows without bound.

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

use std::time::Duration;

use carrick_ovsdb::cache::{Cache, UpdateFormat};
use carrick_ovsdb::client::{Client, Connection, Options};
use carrick_ovsdb::message::Message;
use carrick_ovsdb::rows::{OpenVSwitch, switch_request};
use carrick_ovsdb::schema::Schema;
use carrick_ovsdb::value::Datum;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

const ROOT: &str = "4c3924ae-0b09-44cf-978c-6e206574dc2d";

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
        "bridges": ["set", []], "external_ids": ["map", [["a", "\"}]é"]]]}}}})
}

/// What a server answers to get_schema and to the first monitor, and an update.
fn script() -> Vec<u8> {
    let nil = "00000000-0000-0000-0000-000000000000";
    let update = json!({"Open_vSwitch": {ROOT: {"modify": {"cur_cfg": 4}}}});
    [
        json!({"id": 1, "error": null, "result": schema()}),
        json!({"id": 2, "error": null, "result": [false, nil, content()]}),
        json!({"id": null, "method": "update3", "params": [1, nil, update]}),
        json!({"id": "echo", "method": "echo", "params": []}),
    ]
    .iter()
    .map(Value::to_string)
    .collect::<String>()
    .into_bytes()
}

fn options() -> Options {
    Options {
        backoff: (Duration::from_millis(1), Duration::from_millis(1)),
        max_message: 100_000,
        probe_interval: Duration::from_secs(30),
        ..Options::default()
    }
}

async fn read_some(stream: &mut UnixStream) {
    let mut buffer = [0; 4096];
    let read = timeout(Duration::from_secs(10), stream.read(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    assert!(read > 0);
}

#[tokio::test]
async fn a_conversation_cut_at_any_byte_ends_in_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let script = script();
    let server = tokio::spawn(async move {
        for cut in (0..script.len()).step_by(7) {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_some(&mut stream).await;
            // In two pieces, then the end.
            let (head, tail) = script.get(..cut).unwrap().split_at(cut / 2);
            for piece in [head, tail] {
                stream.write_all(piece).await.unwrap();
            }
        }
        let (mut stream, _) = listener.accept().await.unwrap();
        read_some(&mut stream).await;
        // The schema, and when the monitor is asked for, the rest.
        let end = json!({"id": 1, "error": null, "result": schema()})
            .to_string()
            .len();
        stream.write_all(&script[..end]).await.unwrap();
        read_some(&mut stream).await;
        stream.write_all(&script[end..]).await.unwrap();
        read_some(&mut stream).await; // the answer to the echo
        stream
    });
    let client = Client::start(socket, options());
    // Each attempt may be lost in the middle of a request: asked again until it is done.
    let monitor = timeout(Duration::from_mins(1), async {
        loop {
            if let Ok(monitor) = client.monitor(switch_request()).await {
                break monitor;
            }
        }
    });
    // The monitor's number grows with each attempt; the script answers to the first request of a
    // connection, whatever its number, so the content arrives; the update names monitor 1 only.
    let monitor = monitor.await.unwrap();
    let found = monitor.wait_for(OpenVSwitch::one);
    let root = timeout(Duration::from_secs(10), found).await.unwrap();
    assert_eq!(root.external_ids["a"], "\"}]é");
    server.await.unwrap();
}

#[tokio::test]
async fn rubbish_of_every_kind_ends_the_connection_and_says_why() {
    let update = json!({"T": {}});
    let endless = format!("{{\"x\":\"{}", "y".repeat(200_000));
    let monitored = |content: Value| json!({"id": 2, "error": null, "result": content}).to_string();
    let nil = "00000000-0000-0000-0000-000000000000";
    let cases: Vec<(String, &str)> = vec![
        ("rubbish".to_owned(), "a message begins with byte 0x72"),
        ("{\"a\":}".to_owned(), "a message is not JSON"),
        ("{}".to_owned(), "neither a request nor a response"),
        (endless, "longer than 100000 bytes"),
        (monitored(json!([])), "cannot be used"),
        (monitored(json!([false, "x", {}])), "cannot be used"),
        (monitored(json!([false, nil, update])), "names table \"T\""),
        (
            monitored(json!([false, nil, {"Bridge": {ROOT: {"modify": {}}}}])),
            "was never seen",
        ),
    ];
    for (answer, why) in cases {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let client = Client::start(socket, options());
        let asking = tokio::spawn({
            let client = client.clone();
            async move { client.monitor(switch_request()).await.map(drop) }
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(listener);
        read_some(&mut stream).await;
        let schema = json!({"id": 1, "error": null, "result": schema()}).to_string();
        stream.write_all(schema.as_bytes()).await.unwrap();
        read_some(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        assert!(asking.await.unwrap().is_err(), "{why}");
        // The listener is gone: the next attempt's reason follows this one's, so look at both.
        let mut connection = client.connection();
        let told = timeout(Duration::from_secs(10), async {
            loop {
                match &*connection.borrow_and_update() {
                    Connection::Disconnected { reason } => break reason.to_string(),
                    Connection::Connected { .. } => {}
                }
                connection.changed().await.unwrap();
            }
        });
        let told = told.await.unwrap();
        assert!(
            told.contains(why) || told.contains("cannot connect"),
            "{told} for {why}"
        );
    }
}

#[test]
fn every_truncation_of_a_message_is_an_error() {
    let text = script();
    let text = String::from_utf8(text).unwrap();
    let whole = json!({"id": 2, "error": null, "result": content()}).to_string();
    assert!(text.contains("update3"));
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        assert!(Message::parse(&whole.as_bytes()[..end]).is_err(), "{end}");
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof![
            Just("set"),
            Just("map"),
            Just("uuid"),
            Just("initial"),
            Just("insert"),
            Just("modify"),
            Just("delete"),
            Just("new"),
            Just("old"),
            Just(ROOT),
            Just("Bridge"),
            Just("name"),
            Just("Open_vSwitch"),
            Just("bridges"),
            Just("external_ids"),
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 4, |inner| {
        let key = prop_oneof![
            Just("initial"),
            Just("insert"),
            Just("modify"),
            Just("delete"),
            Just("new"),
            Just("old"),
            Just(ROOT),
            Just("Bridge"),
            Just("name"),
            Just("Open_vSwitch"),
            Just("bridges"),
            Just("external_ids"),
            Just("cur_cfg"),
            Just("tables"),
            Just("columns"),
            Just("type"),
            Just("key"),
            Just("min"),
            Just("max"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.prop_map(str::to_owned), inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_json_panics_any_decoder(value in json_value(), second in json_value()) {
        let _ = Datum::from_json(&value);
        let _ = Schema::from_json(&value);
        let _ = Message::parse(value.to_string().as_bytes());
        let schema = Schema::from_json(&schema()).unwrap();
        for format in [UpdateFormat::Update2, UpdateFormat::Rfc7047] {
            let mut cache = Cache::default();
            cache.apply(&schema, UpdateFormat::Update2, &content()).unwrap();
            // What is refused by `replace` leaves the cache as it was.
            let before = cache.len("Open_vSwitch");
            if cache.replace(&schema, format, &value).is_err() {
                prop_assert_eq!(cache.len("Open_vSwitch"), before);
            }
            let _ = cache.apply(&schema, format, &json!({"Bridge": {ROOT: {"insert": value}}}));
            let _ = cache.apply(&schema, format, &json!({"Open_vSwitch": {ROOT: {"modify": second}}}));
            let _ = cache.apply(&schema, format, &json!({"Open_vSwitch": {ROOT: second}}));
        }
    }

    #[test]
    fn no_bytes_panic_the_message_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(&bytes);
    }

    #[test]
    fn flipped_bytes_panic_nothing(at in 0usize..4000, byte in any::<u8>()) {
        let mut bytes = json!({"id": 1, "error": null, "result": schema()}).to_string().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(Message::Response { result: Ok(result), .. }) = Message::parse(&bytes) {
            let _ = Schema::from_json(&result);
        }
    }
}

#[tokio::test]
async fn an_older_server_is_asked_by_the_older_methods() {
    // It knows neither monitor_cond_since nor monitor_cond, but what RFC 7047 says.
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        for id in 1..=4 {
            let mut buffer = vec![0; 4096];
            let read = stream.read(&mut buffer).await.unwrap();
            let request: Value = serde_json::from_slice(&buffer[..read]).unwrap();
            let method = request["method"].as_str().unwrap().to_owned();
            let new = json!({"Open_vSwitch": {ROOT: {"new": {"cur_cfg": 3,
                "external_ids": ["map", [["a", "1"]]]}}}});
            let (result, error) = match method.as_str() {
                "get_schema" => (schema(), Value::Null),
                "monitor" => (new, Value::Null),
                _ => (Value::Null, json!("unknown method")),
            };
            let answer = json!({"id": id, "result": result, "error": error}).to_string();
            stream.write_all(answer.as_bytes()).await.unwrap();
            asked.push(method);
        }
        let update = json!({"Open_vSwitch": {ROOT: {"old": {"cur_cfg": 3}, "new": {"cur_cfg": 4,
            "external_ids": ["map", [["a", "1"]]]}}}});
        let update = json!({"id": null, "method": "update", "params": [1, update]}).to_string();
        stream.write_all(update.as_bytes()).await.unwrap();
        (asked, stream)
    });
    let client = Client::connect_with(&socket, options()).await.unwrap();
    let monitor = client.monitor(switch_request()).await.unwrap();
    let acted = monitor.wait_for(|cache| OpenVSwitch::one(cache).filter(|root| root.cur_cfg == 4));
    let root = timeout(Duration::from_secs(10), acted).await.unwrap();
    assert_eq!(root.external_ids["a"], "1");
    let (asked, _stream) = server.await.unwrap();
    assert_eq!(
        asked,
        [
            "get_schema",
            "monitor_cond_since",
            "monitor_cond",
            "monitor"
        ]
    );
}
