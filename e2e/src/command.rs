//! Running programs of this machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Runs a command to its end.
pub fn run(command: &mut Command, stdin: Option<&str>) -> Result<Output> {
    command.stdin(if stdin.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // A child that ends early closes the pipe: its exit code tells more than our EPIPE.
        let _ = pipe.write_all(text.as_bytes());
    }
    child
        .wait_with_output()
        .with_context(|| format!("wait for {command:?}"))
}

/// What a successful command printed on standard output; an error holds all it printed.
pub fn succeed(command: &mut Command, stdin: Option<&str>) -> Result<String> {
    let output = run(command, stdin)?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(out);
    }
    let err = String::from_utf8_lossy(&output.stderr);
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    bail!(
        "{} {}: {}\n{out}{err}",
        command.get_program().to_string_lossy(),
        words.join(" "),
        output.status
    )
}
