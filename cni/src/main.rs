//! carrick-cni: the CNI plugin binary, a pipe from the runtime to the agent.
//!
//! ```text
//! environment + stdin → one frame to the agent's unix socket → its answer → stdout, exit status
//! ```
//!
//! It holds no logic but what must work while the agent does not answer (being upgraded, most likely):
//! VERSION is answered here; ADD says "try again later" (code 11); DEL is written down in
//! `cni-deferred` beside the socket, for the agent to do when it can, and succeeds: a pod must be
//! able to end, and its interface goes with its namespace. Static, `std` and JSON only: it is copied
//! to hosts of any distribution.

mod agent;
mod deferred;

use std::env;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::Call;

/// Where the agent listens, unless the network configuration names another `socket`.
const SOCKET: &str = "/run/carrick/cni.sock";
/// Versions of the specification the agent speaks.
const VERSIONS: [&str; 3] = ["0.4.0", "1.0.0", "1.1.0"];
/// The longest network configuration: GC may name every attachment of a node. Quoted, it fits the
/// agent's longest request.
const MAX_STDIN: u64 = 1 << 20;

/// Error codes of the specification ("Error").
mod code {
    pub(crate) const INVALID_ENVIRONMENT: u32 = 4;
    pub(crate) const IO: u32 = 5;
    pub(crate) const TRY_AGAIN: u32 = 11;
    pub(crate) const NOT_AVAILABLE: u32 = 50;
}

/// What is printed, and how the process ends.
struct Outcome {
    output: Value,
    success: bool,
}

fn main() -> ExitCode {
    let outcome = run();
    let printed = match &outcome.output {
        Value::Null => Ok(()),
        output => writeln!(io::stdout().lock(), "{output}"),
    };
    if outcome.success && printed.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run() -> Outcome {
    let mut stdin = Vec::new();
    let read = io::stdin()
        .lock()
        .take(MAX_STDIN + 1)
        .read_to_end(&mut stdin);
    let text = String::from_utf8_lossy(&stdin).into_owned();
    let config: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let version = config
        .get("cniVersion")
        .and_then(Value::as_str)
        .unwrap_or("1.0.0");
    let command = variable("CNI_COMMAND");
    if command == "VERSION" {
        let newest = config
            .get("cniVersion")
            .and_then(Value::as_str)
            .unwrap_or("1.1.0");
        return Outcome {
            output: json!({"cniVersion": newest, "supportedVersions": VERSIONS}),
            success: true,
        };
    }
    let fail = |code: u32, message: &str, details: &str| failure(version, code, message, details);
    if let Err(error) = read {
        return fail(
            code::IO,
            "reading the network configuration",
            &error.to_string(),
        );
    }
    if stdin.len() as u64 > MAX_STDIN {
        return fail(code::IO, "the network configuration is too long", "");
    }
    if !matches!(command.as_str(), "ADD" | "DEL" | "CHECK" | "GC" | "STATUS") {
        let message = "CNI_COMMAND must be ADD, DEL, CHECK, GC, STATUS or VERSION";
        return fail(
            code::INVALID_ENVIRONMENT,
            message,
            "this is a CNI plugin; runtimes start it",
        );
    }

    let socket = PathBuf::from(
        config
            .get("socket")
            .and_then(Value::as_str)
            .unwrap_or(SOCKET),
    );
    let call = Call {
        frame: json!({
            "command": command,
            "containerId": variable("CNI_CONTAINERID"),
            "netns": variable("CNI_NETNS"),
            "ifname": variable("CNI_IFNAME"),
            "args": variable("CNI_ARGS"),
            "config": text,
        }),
        socket,
        // A new agent listens a few seconds after the old one ended.
        patience: Duration::from_secs(if command == "ADD" { 5 } else { 1 }),
        // The kubelet gives ADD four minutes and DEL two. What the agent has begun it brings to its
        // end, and a DEL can be written down.
        answer_limit: Duration::from_secs(if command == "DEL" { 80 } else { 110 }),
    };
    let error = match call.send() {
        Ok(outcome) => return outcome,
        Err(error) => error,
    };
    let away = "the Carrick agent on this node does not answer";
    let details = format!("{}: {error}", call.socket.display());
    match command.as_str() {
        "DEL" => match deferred::record(&call) {
            Ok(deferred::Recorded::Done(outcome)) => outcome,
            Ok(deferred::Recorded::Kept) => Outcome {
                output: Value::Null,
                success: true,
            },
            Err(error) => fail(
                code::TRY_AGAIN,
                away,
                &format!("{details}; writing it down: {error}"),
            ),
        },
        "STATUS" => fail(code::NOT_AVAILABLE, away, &details),
        _ => fail(code::TRY_AGAIN, away, &details),
    }
}

fn variable(name: &str) -> String {
    env::var_os(name)
        .map(|value| value.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn failure(version: &str, code: u32, message: &str, details: &str) -> Outcome {
    let mut output = json!({"cniVersion": version, "code": code, "msg": message});
    if !details.is_empty()
        && let Some(object) = output.as_object_mut()
    {
        object.insert("details".to_owned(), Value::from(details));
    }
    Outcome {
        output,
        success: false,
    }
}
