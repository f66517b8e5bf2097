//! A daemon of Open vSwitch as our child: started in the foreground, its log read line by line.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use tokio::process::{Child as Process, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::reaper::Ours;

/// How long a daemon may take to end by SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// The longest line of a log that is forwarded whole.
const LINE: usize = 8 << 10;

/// A daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daemon {
    Ovsdb,
    Vswitchd,
}

impl Daemon {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ovsdb => "ovsdb-server",
            Self::Vswitchd => "ovs-vswitchd",
        }
    }
}

/// A running daemon. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Child {
    daemon: Daemon,
    process: Process,
    _ours: Ours,
    log: JoinHandle<()>,
}

impl Child {
    /// Starts a daemon with its own arguments and those all daemons get.
    pub(crate) fn start(daemon: Daemon, run_dir: &Path, args: &[String]) -> io::Result<Self> {
        let file = |suffix| run_dir.join(format!("{}.{suffix}", daemon.name()));
        let mut command = Command::new(daemon.name());
        command
            .args(args)
            .arg(format!("--unixctl={}", file("ctl").display()))
            .arg(format!("--pidfile={}", file("pid").display()))
            .args(["--no-chdir", "-vsyslog:off", "-vfile:off", "-vconsole:info"])
            .arg("-vPATTERN:console:%p|%c|%m")
            .env("OVS_RUNDIR", run_dir)
            .env("OVS_DBDIR", run_dir)
            .env("OVS_LOGDIR", run_dir)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let (mut process, ours) = Ours::spawn(&mut command)?;
        let stderr = process.stderr.take();
        let log = tokio::spawn(async move {
            if let Some(stderr) = stderr {
                forward(daemon, BufReader::new(stderr)).await;
            }
        });
        info!(daemon = daemon.name(), pid = process.id(), "started");
        Ok(Self {
            daemon,
            process,
            _ours: ours,
            log,
        })
    }

    /// Waits for its end, by itself.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Ends it by SIGTERM, or by SIGKILL when that does not help.
    pub(crate) async fn stop(mut self) {
        let name = self.daemon.name();
        let pid = self.process.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid
            && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
        {
            warn!(daemon = name, %error, "cannot send SIGTERM");
        }
        match timeout(GRACE, self.process.wait()).await {
            Ok(Ok(status)) => info!(daemon = name, %status, "stopped"),
            Ok(Err(error)) => warn!(daemon = name, %error, "cannot wait for its end"),
            Err(_) => {
                warn!(daemon = name, "does not end by SIGTERM and is killed");
                self.process.kill().await.ok();
            }
        }
        // The pipe is closed now: the rest of the log is short.
        timeout(GRACE, self.log).await.ok();
    }
}

/// Forwards a log, each line at its own level.
async fn forward(daemon: Daemon, mut log: impl AsyncBufRead + Unpin) {
    let daemon = daemon.name();
    let mut line = Vec::new();
    loop {
        match read_line(&mut log, &mut line).await {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => {
                warn!(daemon, %error, "cannot read the log");
                return;
            }
        }
        let text = String::from_utf8_lossy(&line);
        let mut parts = text.splitn(3, '|');
        let (level, module, message) = match (parts.next(), parts.next(), parts.next()) {
            (Some(level), Some(module), Some(message)) => (level, module, message),
            _ => ("INFO", "", &*text),
        };
        match level {
            "EMER" | "ERR" => error!(daemon, module, "{message}"),
            "WARN" => warn!(daemon, module, "{message}"),
            "DBG" => debug!(daemon, module, "{message}"),
            _ => info!(daemon, module, "{message}"),
        }
    }
}

/// Reads a line of at most [`LINE`] bytes and skips the rest of a longer one. False at the end.
async fn read_line(log: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let available = log.fill_buf().await?;
        if available.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = end.unwrap_or(available.len());
        let room = LINE.saturating_sub(line.len()).min(part);
        line.extend(available.iter().take(room));
        let used = end.map_or(part, |end| end + 1);
        log.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_at_their_longest_and_the_last_needs_no_end() {
        let text = [b"one\n\n".as_slice(), &vec![b'x'; LINE + 100], b"\nlast"].concat();
        let mut log = BufReader::with_capacity(64, text.as_slice());
        let mut line = Vec::new();
        let mut lengths = Vec::new();
        while read_line(&mut log, &mut line).await.unwrap() {
            lengths.push(line.len());
        }
        assert_eq!(lengths, [3, 0, LINE, 4]);
    }
}
