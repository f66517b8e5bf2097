//! DELs that the agent did not answer, one file each: it does them when it starts, and looks for more
//! every half minute.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::Outcome;
use crate::agent::Call;

/// Beside the agent's socket.
const DIRECTORY: &str = "cni-deferred";
/// More are not written down: then the runtime tries again.
const MAX_FILES: usize = 4096;
/// How long the agent may take when it is asked once more: the runtime's patience is nearly over, and
/// what is written down is not lost.
const AGAIN: Duration = Duration::from_secs(10);

/// What became of a DEL nobody answered.
pub(crate) enum Recorded {
    /// It waits for the agent, or there is nothing to do: the network is not on this node.
    Kept,
    /// The agent came back meanwhile and answered.
    Done(Outcome),
}

/// Writes the request down.
pub(crate) fn record(call: &Call) -> io::Result<Recorded> {
    let text = |key: &str| {
        call.frame
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (container, ifname) = (text("containerId"), text("ifname"));
    if !is_file_name(container) || !is_file_name(ifname) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "CNI_CONTAINERID or CNI_IFNAME is invalid",
        ));
    }
    let Some(run) = call.socket.parent().filter(|run| run.is_dir()) else {
        // After a reboot, or when the network was removed: nothing of the sandbox is left.
        return Ok(Recorded::Kept);
    };
    let directory = run.join(DIRECTORY);
    match fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if fs::read_dir(&directory)?.take(MAX_FILES).count() >= MAX_FILES {
        return Err(io::Error::other("too many wait already"));
    }
    let file = directory.join(format!("{container}.{ifname}.json"));
    write(&file, &serde_json::to_vec(&call.frame)?)?;
    // An agent that started in between has read the directory before the file was there.
    let again = Call {
        frame: call.frame.clone(),
        socket: call.socket.clone(),
        patience: Duration::ZERO,
        answer_limit: AGAIN,
    };
    match again.send() {
        Ok(outcome) => {
            if outcome.success {
                // The agent does it twice otherwise, which does no harm.
                let _ = fs::remove_file(&file);
            }
            Ok(Recorded::Done(outcome))
        }
        Err(_) => Ok(Recorded::Kept),
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(&temporary, path)
}

/// No path, no hidden file, not too long with what is added.
fn is_file_name(text: &str) -> bool {
    (1..=120).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_directory() {
        for good in ["0a1b2c", "a_b.c-d", "eth0"] {
            assert!(is_file_name(good), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", ".hidden", "a\0b", "é"] {
            assert!(!is_file_name(bad), "{bad}");
        }
    }
}
