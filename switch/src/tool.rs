//! Runs the small tools of Open vSwitch: `ovsdb-tool`, `ovs-appctl`, `modprobe`.

use std::ffi::OsStr;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::reaper::Ours;

/// None of them works on anything large.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a tool; its standard output.
pub(crate) async fn run(
    program: &'static str,
    args: &[impl AsRef<OsStr>],
) -> Result<String, ToolError> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let (process, _ours) =
        Ours::spawn(&mut command).map_err(|source| ToolError::Start { program, source })?;
    let output = timeout(DEADLINE, process.wait_with_output())
        .await
        .map_err(|_| ToolError::Slow { program })?
        .map_err(|source| ToolError::Start { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words.trim().lines().last().unwrap_or_default().to_owned();
    Err(ToolError::Failed {
        program,
        status: output.status,
        words,
    })
}

/// Why a tool was of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    #[error("cannot start {program}")]
    Start {
        program: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{program} does not end")]
    Slow { program: &'static str },
    #[error("{program} failed ({status}): {words}")]
    Failed {
        program: &'static str,
        status: ExitStatus,
        words: String,
    },
}
