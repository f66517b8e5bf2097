//! The plugin as a runtime starts it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};

fn plugin(command: &str, stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_carrick-cni"))
        .env_clear()
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "c0ffee")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_NETNS", "/run/netns/x")
        .env("CNI_ARGS", "K8S_POD_NAME=p")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It reads no more than it takes.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    output
}

fn printed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn config(directory: &Path) -> String {
    let socket = directory.join("cni.sock");
    json!({"cniVersion": "1.0.0", "name": "carrick", "type": "carrick-cni", "socket": socket})
        .to_string()
}

/// An agent that answers one request and returns it.
fn agent(directory: &Path, answer: Option<Value>) -> JoinHandle<Value> {
    let listener = UnixListener::bind(directory.join("cni.sock")).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request).unwrap();
        if let Some(answer) = answer {
            let bytes = answer.to_string();
            stream
                .write_all(&u32::try_from(bytes.len()).unwrap().to_be_bytes())
                .unwrap();
            stream.write_all(bytes.as_bytes()).unwrap();
        }
        serde_json::from_slice(&request).unwrap()
    })
}

#[test]
fn version_is_answered_without_an_agent() {
    for (stdin, version) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        ("", "1.1.0"),
        ("{", "1.1.0"),
    ] {
        let output = plugin("VERSION", stdin);
        assert!(output.status.success());
        let expect =
            json!({"cniVersion": version, "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]});
        assert_eq!(printed(&output), expect);
    }
}

#[test]
fn a_request_goes_to_the_agent_and_its_answer_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let result = json!({"cniVersion": "1.0.0", "ips": []});
    let agent = agent(directory.path(), Some(json!({"exit": 0, "output": result})));
    let stdin = config(directory.path());
    let output = plugin("ADD", &stdin);
    assert!(output.status.success());
    assert_eq!(printed(&output), result);
    let expect = json!({
        "command": "ADD", "containerId": "c0ffee", "ifname": "eth0", "netns": "/run/netns/x",
        "args": "K8S_POD_NAME=p", "config": stdin,
    });
    assert_eq!(agent.join().unwrap(), expect);
}

#[test]
fn success_without_output_prints_nothing_and_errors_end_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let first = agent(directory.path(), Some(json!({"exit": 0, "output": null})));
    let output = plugin("DEL", &config(directory.path()));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    first.join().unwrap();
    fs::remove_file(directory.path().join("cni.sock")).unwrap();
    let error = json!({"cniVersion": "1.0.0", "code": 11, "msg": "later"});
    let second = agent(directory.path(), Some(json!({"exit": 1, "output": error})));
    let output = plugin("ADD", &config(directory.path()));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(printed(&output), error);
    second.join().unwrap();
}

#[test]
fn without_an_agent_each_command_says_what_the_specification_wants() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    for (command, code) in [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)] {
        let output = plugin(command, &config);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert_eq!(printed(&output)["code"], code, "{command}");
        assert_eq!(printed(&output)["cniVersion"], "1.0.0");
    }
}

#[test]
fn a_del_without_an_agent_is_written_down() {
    let directory = tempfile::tempdir().unwrap();
    let output = plugin("DEL", &config(directory.path()));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    let file = directory.path().join("cni-deferred/c0ffee.eth0.json");
    let frame: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(frame["command"], "DEL");
    assert_eq!(frame["containerId"], "c0ffee");
    // Where the network is not installed there is nothing to remember.
    let output = plugin("DEL", &config(&directory.path().join("absent")));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn an_agent_that_dies_while_it_works_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let agent = agent(directory.path(), None);
    let output = plugin("ADD", &config(directory.path()));
    assert_eq!(printed(&output)["code"], 11);
    agent.join().unwrap();
}

#[test]
fn bad_input_is_an_answer_not_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    for command in ["", "add", "FROB", "\u{1}"] {
        let output = plugin(command, "{");
        assert_eq!(printed(&output)["code"], 4, "{command:?}");
    }
    let long = " ".repeat(4 << 20);
    assert_eq!(printed(&plugin("ADD", &long))["code"], 5);
    let agent = agent(directory.path(), Some(json!("nonsense")));
    assert_eq!(
        printed(&plugin("ADD", &config(directory.path())))["code"],
        11
    );
    agent.join().unwrap();
}
