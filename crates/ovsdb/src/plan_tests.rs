use serde_json::{Value, json};

use super::*;
use crate::cache::UpdateFormat;
use crate::desired::DatapathType;

fn schema() -> Schema {
    let string = json!({"type": "string"});
    let optional = |key: &str| json!({"type": {"key": key, "min": 0, "max": 1}});
    let set = json!({"type": {"key": "uuid", "min": 0, "max": "unlimited"}});
    let map = json!({"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}});
    let integer = json!({"type": "integer"});
    let one = |name: &str, columns: Value| (name.to_owned(), json!({"columns": columns}));
    let tables: serde_json::Map<String, Value> = [
        one(
            "Open_vSwitch",
            json!({"bridges": set, "external_ids": map, "other_config": map,
            "cur_cfg": integer, "next_cfg": integer}),
        ),
        one(
            "Bridge",
            json!({"name": string, "datapath_type": string, "fail_mode": optional("string"),
            "ports": set, "external_ids": map, "other_config": map}),
        ),
        one("Port", json!({"name": string, "interfaces": set})),
        // As an older switch: no mtu_request.
        one(
            "Interface",
            json!({"name": string, "type": string, "options": map,
            "ofport": optional("integer"), "ofport_request": optional("integer"),
            "error": optional("string"), "mac": optional("string"), "external_ids": map,
            "other_config": map}),
        ),
    ]
    .into_iter()
    .collect();
    Schema::from_json(&json!({"name": "Open_vSwitch", "version": "1.0.0", "tables": tables}))
        .unwrap()
}

fn uuid(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}

/// A switch with bridge `br` (2) that has its local port (10) and port `p` (11) with the ofport
/// given, and bridge `other` (3) with port `q` (12).
fn cache(ofport: i64) -> Cache {
    let uuids = |numbers: &[u128]| {
        let uuids: Vec<_> = numbers
            .iter()
            .map(|number| json!(["uuid", uuid(*number)]))
            .collect();
        json!(["set", uuids])
    };
    let initial = |row: Value| json!({"initial": row});
    let updates = json!({
        "Open_vSwitch": {uuid(1): initial(json!({"bridges": uuids(&[2, 3]),
            "external_ids": ["map", [["foreign", "x"], ["ours", "old"]]]}))},
        "Bridge": {
            uuid(2): initial(json!({"name": "br", "datapath_type": "netdev", "fail_mode": "secure", "ports": uuids(&[10, 11])})),
            uuid(3): initial(json!({"name": "other", "ports": uuids(&[12])}))},
        "Port": {
            uuid(10): initial(json!({"name": "br", "interfaces": uuids(&[20])})),
            uuid(11): initial(json!({"name": "p", "interfaces": uuids(&[21])})),
            uuid(12): initial(json!({"name": "q", "interfaces": uuids(&[22])}))},
        "Interface": {
            uuid(20): initial(json!({"name": "br", "type": "internal", "ofport": 65534})),
            uuid(21): initial(json!({"name": "p", "ofport": ofport, "ofport_request": 100})),
            uuid(22): initial(json!({"name": "q", "ofport": 1}))}});
    let mut cache = Cache::default();
    cache
        .apply(&schema(), UpdateFormat::Update2, &updates)
        .unwrap();
    cache
}

fn config() -> SwitchConfig {
    let mut bridge = BridgeConfig::new("br", DatapathType::Netdev);
    let port = PortConfig::new("p", InterfaceType::System).ofport(OfPort::new(100).unwrap());
    bridge.ports.push(port);
    SwitchConfig {
        bridges: vec![bridge],
        ..SwitchConfig::default()
    }
}

fn plan(cache: &Cache, config: &SwitchConfig, done: &[&str]) -> Plan {
    let done = done.iter().map(|name| (*name).to_owned()).collect();
    let root = OpenVSwitch::one(cache).unwrap();
    switch(cache, &schema(), &root, config, &done)
}

fn text(plan: &Plan) -> String {
    let lines: Vec<_> = plan
        .operations
        .iter()
        .map(|one| one.to_json().to_string())
        .collect();
    lines
        .join("\n")
        .replace("00000000-0000-0000-0000-0000000000", "")
}

#[test]
fn what_is_as_it_shall_be_needs_nothing() {
    let plan = plan(&cache(100), &config(), &[]);
    assert_eq!((text(&plan).as_str(), plan.again), ("", false));
}

#[test]
fn only_declared_keys_and_bridges_change() {
    let mut config = config();
    config
        .external_ids
        .insert("ours".to_owned(), "new".to_owned());
    config.bridges[0].ports.clear();
    let plan = plan(&cache(100), &config, &[]);
    assert_eq!(
        text(&plan),
        r#"{"op":"mutate","table":"Open_vSwitch","where":[["_uuid","==",["uuid","01"]]],"mutations":[["external_ids","delete","ours"],["external_ids","insert",["map",[["ours","new"]]]]]}
{"op":"mutate","table":"Bridge","where":[["_uuid","==",["uuid","02"]]],"mutations":[["ports","delete",["uuid","0b"]]]}"#
    );
}

#[test]
fn a_port_that_failed_is_made_anew_in_two_transactions_and_only_once() {
    let first = plan(&cache(-1), &config(), &[]);
    assert!(first.again && first.removed.contains("p"));
    assert!(text(&first).contains(r#"["ports","delete",["uuid","0b"]]"#));
    assert!(!text(&first).contains("insert"));
    // Still failing after it was made anew: it stays, and its error is told.
    let second = plan(&cache(-1), &config(), &["p"]);
    assert_eq!((text(&second).as_str(), second.again), ("", false));
}

#[test]
fn a_name_on_a_foreign_bridge_is_impossible_and_left_alone() {
    let mut config = config();
    config.bridges[0]
        .ports
        .push(PortConfig::new("q", InterfaceType::Internal));
    let foreign = plan(&cache(100), &config, &[]);
    assert_eq!(text(&foreign), "");
    assert_eq!(
        foreign.impossible["q"].to_string(),
        "port q is on bridge other"
    );
    // Is the other bridge ours, too, the port moves: first it goes.
    config
        .bridges
        .push(BridgeConfig::new("other", DatapathType::System));
    let ours = plan(&cache(100), &config, &[]);
    assert!(ours.again && ours.impossible.is_empty());
    assert!(
        text(&ours).contains(r#"["ports","delete",["uuid","0c"]]"#),
        "{}",
        text(&ours)
    );
}

#[test]
fn a_new_bridge_comes_whole_and_without_columns_the_server_lacks() {
    let mut bridge = BridgeConfig::new("new", DatapathType::System);
    bridge.ports.push(PortConfig {
        mtu_request: Some(1400),
        ..PortConfig::new("gw", InterfaceType::Internal)
    });
    let config = SwitchConfig {
        bridges: vec![bridge],
        ..SwitchConfig::default()
    };
    let plan = plan(&cache(100), &config, &[]);
    let text = text(&plan);
    assert_eq!(text.matches(r#""op":"insert""#).count(), 5, "{text}");
    assert!(
        text.contains(r#""fail_mode":"secure""#) && !text.contains("mtu_request"),
        "{text}"
    );
    let last = text.lines().last().unwrap();
    assert!(
        last.contains(r#"["bridges","insert",["named-uuid""#),
        "{last}"
    );
}

#[test]
fn single_ports_join_one_mutation_of_their_bridge() {
    let add = |name: &str| PortChange::Add {
        bridge: "br".to_owned(),
        port: PortConfig::new(name, InterfaceType::Internal),
        existing: Existing::Keep,
    };
    let delete = |bridge: &str, port: &str| PortChange::Delete {
        bridge: bridge.to_owned(),
        port: port.to_owned(),
    };
    // A port of another bridge is not removed from ours.
    let changes = [
        add("a"),
        add("b"),
        delete("br", "p"),
        delete("br", "q"),
        delete("none", "p"),
    ];
    let plan = ports(&cache(100), &schema(), changes.iter(), &BTreeSet::new());
    let text = text(&plan);
    assert_eq!(text.matches(r#""op":"mutate""#).count(), 1, "{text}");
    assert!(
        text.contains(r#"["ports","delete",["uuid","0b"]]"#),
        "{text}"
    );
    assert!(
        text.contains(
            r#"["ports","insert",["set",[["named-uuid","row1"],["named-uuid","row3"]]]]"#
        )
    );
}
