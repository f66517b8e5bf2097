//! os-ken as a third opinion, beside Open vSwitch's and our own: it reads our bytes as what we
//! meant and writes them back, and we read what it writes by itself.
//!
//! `cargo xtask tools` installs it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

#[path = "support/cases.rs"]
mod cases;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use carrick_openflow::field::Field;
use carrick_openflow::message::{Message, MultipartRequest};
use carrick_openflow::{Flow, FlowMod, GroupMod, MeterMod, Xid};
use carrick_testkit::python;
use serde_json::Value;

fn os_ken(verb: &str, messages: &[Vec<u8>]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/third_opinion.py");
    let mut child = Command::new(python::interpreter().unwrap())
        .arg(script)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text: String = messages.iter().map(|message| hex(message) + "\n").collect();
    let mut stdin = child.stdin.take().unwrap();
    // It answers line by line: both pipes must move.
    let writer = thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(Xid(7), &mut bytes).unwrap();
    bytes
}

/// Our fields as os-ken shows them: value and mask of each, in the order of the bytes.
fn ours(flow: &Flow) -> Vec<(Field, u128, Option<u128>)> {
    let fields = flow.match_.fields().iter();
    fields
        .map(|field| {
            let mask = (!field.is_exact()).then(|| field.mask());
            (field.field(), field.value(), mask)
        })
        .collect()
}

fn theirs(answer: &Value) -> Vec<(String, u128, Option<u128>)> {
    let number = |value: &Value| value.as_str().map(|text| text.parse::<u128>().unwrap());
    let fields = answer["match"].as_array().unwrap().iter();
    fields
        .map(|field| {
            let name = field[0].as_str().unwrap().to_owned();
            (name, number(&field[1]).unwrap(), number(&field[2]))
        })
        .collect()
}

#[test]
fn every_field_is_read_by_os_ken_as_what_we_meant() {
    let flows: Vec<Flow> = cases::matches()
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let messages: Vec<_> = flows
        .iter()
        .map(|flow| encode(&Message::FlowMod(FlowMod::add(flow.clone()))))
        .collect();
    let answers = os_ken("read", &messages);
    assert_eq!(answers.len(), flows.len());
    let mut wrong = Vec::new();
    let mut names: BTreeMap<Field, String> = BTreeMap::new();
    let mut compared = 0;
    for ((flow, bytes), answer) in flows.iter().zip(&messages).zip(&answers) {
        if answer.get("error").is_some() {
            wrong.push(format!("{flow}\n  is not read: {answer}"));
            continue;
        }
        let (ours, theirs) = (ours(flow), theirs(answer));
        for ((field, value, mask), (name, their_value, their_mask)) in ours.iter().zip(&theirs) {
            compared += 1;
            if (value, mask) != (their_value, their_mask) {
                wrong.push(format!(
                    "{flow}\n  {field} is {name}={their_value}/{their_mask:?}"
                ));
            }
            // A field has one name wherever it stands.
            let known = names.entry(*field).or_insert_with(|| name.clone());
            if known != name {
                wrong.push(format!("{flow}\n  {field} is {known} and {name}"));
            }
        }
        if ours.len() != theirs.len() || answer["again"].as_str() != Some(&hex(bytes)) {
            wrong.push(format!(
                "{flow}\n  ours   {}\n  answer {answer}",
                hex(bytes)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 200, "{compared} fields");
    let different: BTreeSet<_> = names.values().collect();
    assert_eq!(
        different.len(),
        names.len(),
        "two fields of one name: {names:?}"
    );
}

#[test]
fn every_action_is_read_by_os_ken_and_written_as_the_same_bytes() {
    let flows: Vec<Flow> = cases::actions()
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let messages: Vec<_> = flows
        .iter()
        .map(|flow| encode(&Message::FlowMod(FlowMod::add(flow.clone()))))
        .collect();
    let answers = os_ken("read", &messages);
    let mut wrong = Vec::new();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for ((flow, bytes), answer) in flows.iter().zip(&messages).zip(&answers) {
        let Some(actions) = answer["actions"].as_array() else {
            wrong.push(format!("{flow}\n  is not read: {answer}"));
            continue;
        };
        if answer["again"].as_str() != Some(&hex(bytes)) {
            wrong.push(format!(
                "{flow}\n  ours   {}\n  answer {answer}",
                hex(bytes)
            ));
        }
        for action in actions {
            *kinds
                .entry(action.as_str().unwrap().to_owned())
                .or_default() += 1;
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(kinds.len() > 10, "{kinds:?}");
}

#[test]
fn what_os_ken_writes_is_read_and_written_as_the_same_bytes() {
    let mut kinds = BTreeSet::new();
    for answer in os_ken("write", &[]) {
        let (name, theirs) = (
            answer["name"].as_str().unwrap(),
            answer["hex"].as_str().unwrap(),
        );
        let bytes: Vec<u8> = (0..theirs.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&theirs[at..at + 2], 16).unwrap())
            .collect();
        let (xid, message) = Message::decode(&bytes).unwrap();
        assert_eq!(xid, Xid(7), "{name}");
        let known = match &message {
            Message::Unknown { .. } => false,
            Message::MultipartRequest(request) => {
                !matches!(request, MultipartRequest::Unknown { .. })
            }
            // The meaning, where there is one to tell.
            Message::FlowMod(FlowMod { flow, .. }) => {
                assert_eq!(
                    flow.match_.to_string(),
                    "ip,reg0=0x1/0xf,nw_src=10.0.0.0/8",
                    "{name}"
                );
                assert_eq!(
                    flow.instructions.to_string(),
                    "output:2,goto_table:5",
                    "{name}"
                );
                assert_eq!(
                    (flow.priority, flow.cookie.0, flow.importance),
                    (7, 5, 9),
                    "{name}"
                );
                true
            }
            Message::GroupMod(GroupMod::Add(group) | GroupMod::Modify(group)) => {
                let want = "group_id=5,type=select,bucket=bucket_id:1,weight:7,actions=output:2";
                assert_eq!(group.to_string(), want, "{name}");
                true
            }
            Message::MeterMod(MeterMod::Add(meter) | MeterMod::Modify(meter)) => {
                let band = meter.bands.first().expect(name);
                assert_eq!((meter.id.0, band.rate, band.burst), (3, 100, 10), "{name}");
                true
            }
            _ => true,
        };
        assert!(known, "{name}: {message:?}");
        assert_eq!(hex(&encode(&message)), theirs, "{name}: {message:?}");
        if !kinds.insert(name.to_owned()) {
            panic!("{name} comes twice");
        }
    }
    assert!(kinds.len() >= 40, "{kinds:?}");
}
