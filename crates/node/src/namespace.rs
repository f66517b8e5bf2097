//! Network namespaces by path.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs, statfs};
use tokio::sync::oneshot;

/// What is done inside a namespace are a few system calls: a thread that takes longer is stuck, and
/// is left behind rather than waited for.
const WORK_LIMIT: Duration = Duration::from_secs(15);

/// Why a namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The path cannot be opened.
    #[error("opening network namespace {}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The path is not a namespace (for example the file that is left when it was unmounted).
    #[error("{} is not a network namespace", path.display())]
    NotNamespace {
        /// The path.
        path: PathBuf,
    },
    /// A thread for it could not be started or did not finish.
    #[error("entering network namespace {}", path.display())]
    Enter {
        /// The path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl NamespaceError {
    /// Whether the namespace is gone, as opposed to not reachable.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::NotNamespace { .. } => true,
            Self::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Enter { .. } => false,
        }
    }
}

/// An open network namespace; it lives at least as long as this handle.
#[derive(Debug, Clone)]
pub struct Namespace {
    path: PathBuf,
    file: Arc<File>,
}

impl Namespace {
    /// Opens the namespace at `path`, a bind mount like `/run/netns/NAME` or `/proc/PID/ns/net`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, NamespaceError> {
        let path = path.into();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(source) => return Err(NamespaceError::Open { path, source }),
        };
        match fstatfs(&file) {
            Ok(statistics) if statistics.filesystem_type() == NSFS_MAGIC => {}
            Ok(_) => return Err(NamespaceError::NotNamespace { path }),
            Err(errno) => {
                return Err(NamespaceError::Open {
                    path,
                    source: errno.into(),
                });
            }
        }
        Ok(Self {
            path,
            file: Arc::new(file),
        })
    }

    /// Whether a namespace is mounted at `path`. `Err` when that cannot be told.
    pub fn exists(path: &Path) -> io::Result<bool> {
        match statfs(path) {
            Ok(statistics) => Ok(statistics.filesystem_type() == NSFS_MAGIC),
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Runs `work` on a thread of its own inside the namespace. The thread ends with `work`: no
    /// thread of a runtime ever changes its namespace.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NamespaceError> {
        let enter = |source| NamespaceError::Enter {
            path: self.path.clone(),
            source,
        };
        let (done, result) = oneshot::channel();
        let file = Arc::clone(&self.file);
        thread::Builder::new()
            .name("netns".to_owned())
            .spawn(move || {
                let outcome = setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .map(|()| work())
                    .map_err(io::Error::from);
                // The receiver is gone when its future was dropped: nobody waits for the result.
                let _ = done.send(outcome);
            })
            .map_err(enter)?;
        match tokio::time::timeout(WORK_LIMIT, result).await {
            Ok(Ok(outcome)) => outcome.map_err(enter),
            Ok(Err(_)) => Err(enter(io::Error::other("the thread died"))),
            Err(_) => Err(enter(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer from inside within {WORK_LIMIT:?}"),
            ))),
        }
    }
}
