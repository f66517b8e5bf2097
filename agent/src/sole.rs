//! One agent per node: a lock that is taken before anything of the node's is opened.
//!
//! A second agent, started by mistake, would open the journals while the first appends to them and
//! cut off what it takes for an unfinished write. The kernel drops the lock when its process ends,
//! however it ends; the file's content only tells the next one who holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The most bytes that are read of who holds the lock.
const MAX_HOLDER: u64 = 512;

/// This process is the node's agent for as long as it keeps this.
#[derive(Debug)]
pub struct Sole {
    /// Closed by the kernel at the latest; the lock goes with it.
    _file: File,
}

/// Why this process is not the node's agent.
#[derive(Debug, thiserror::Error)]
pub enum SoleError {
    /// Another process is.
    #[error(
        "another agent runs on this node: {holder} holds {}; nothing was touched. \
         Two agents would break each other's state: remove one of them", path.display()
    )]
    Taken {
        /// The lock's file.
        path: PathBuf,
        /// What the holder wrote into it.
        holder: String,
    },
    /// The lock cannot be asked for.
    #[error("{operation} the agent's lock {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        operation: &'static str,
        /// The lock's file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Sole {
    /// Takes the lock at `path` for `holder`, a few words for whoever meets it.
    ///
    /// # Errors
    /// Another process holds it, or the file cannot be made.
    pub fn take(path: &Path, holder: &str) -> Result<Self, SoleError> {
        let fail = |operation| {
            move |source| SoleError::Io {
                operation,
                path: path.to_owned(),
                source,
            }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(fail("opening"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SoleError::Taken {
                    path: path.to_owned(),
                    holder: holder_of(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(fail("locking")(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(holder.as_bytes()))
            .map_err(fail("writing"))?;
        Ok(Self { _file: file })
    }
}

/// Who wrote the file last; it may be between its lock and its words.
fn holder_of(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.take(MAX_HOLDER).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    match read {
        Ok(_) if !text.is_empty() => text,
        Ok(_) | Err(_) => "a process that has not said its name yet".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_by_the_name_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.lock");
        let first = Sole::take(&path, "pod carrick-agent-aaaaa").unwrap();
        let error = Sole::take(&path, "pod carrick-agent-bbbbb").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("pod carrick-agent-aaaaa"), "{text}");
        assert!(text.contains("agent.lock"), "{text}");
        drop(first);
        // A shorter name leaves nothing of the longer one.
        let second = Sole::take(&path, "pod b").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "pod b");
        drop(second);
    }

    #[test]
    fn who_holds_it_without_a_name_is_told_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.lock");
        let _first = Sole::take(&path, "").unwrap();
        let text = Sole::take(&path, "x").unwrap_err().to_string();
        assert!(text.contains("not said its name"), "{text}");
    }

    #[test]
    fn an_absent_directory_is_an_error_with_its_path() {
        let path = Path::new("/nonexistent/agent.lock");
        let text = Sole::take(path, "x").unwrap_err().to_string();
        assert_eq!(text, "opening the agent's lock /nonexistent/agent.lock");
    }
}
