//! Keeps ovsdb-server running, and says how long to wait before a daemon is started again.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep};
use tracing::error;

use crate::child::{Child, Daemon};
use crate::metrics::{DaemonLabel, Metrics};

/// A daemon that lived this long was well: counting starts over.
const WELL: Duration = Duration::from_mins(1);
/// First pause after a death, doubled after each further one: the first start is at once, since the
/// network waits for it.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);
/// Short lives in a row after which the supervisor gives up.
const LIVES: u32 = 12;

/// Counts short lives of a daemon.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    short_lives: u32,
}

impl Backoff {
    /// How long to wait after a daemon that lived `lived` has died; `None` when it is hopeless.
    pub(crate) fn after(&mut self, lived: Duration) -> Option<Duration> {
        self.short_lives = if lived >= WELL {
            1
        } else {
            self.short_lives + 1
        };
        match self.short_lives {
            1 => Some(Duration::ZERO),
            lives if lives >= LIVES => None,
            lives => Some((PAUSE * 2u32.pow(lives - 2)).min(LONGEST)),
        }
    }
}

/// The task that keeps ovsdb-server running.
#[derive(Debug)]
pub(crate) struct Keeper {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), KeeperError>>,
}

impl Keeper {
    /// Starts ovsdb-server on this database.
    pub(crate) fn start(run_dir: PathBuf, database: PathBuf, metrics: Arc<Metrics>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(keep(run_dir, database, metrics, stopped));
        Self { stop, task }
    }

    /// Waits until it gives up.
    pub(crate) async fn failed(&mut self) -> KeeperError {
        match (&mut self.task).await {
            Ok(Ok(())) => KeeperError::Hopeless {
                daemon: Daemon::Ovsdb.name(),
            },
            Ok(Err(error)) => error,
            Err(source) => KeeperError::Task { source },
        }
    }

    /// Ends ovsdb-server.
    pub(crate) async fn stop(self) {
        self.stop.send(()).ok();
        self.task.await.ok();
    }
}

async fn keep(
    run_dir: PathBuf,
    database: PathBuf,
    metrics: Arc<Metrics>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<(), KeeperError> {
    let daemon = Daemon::Ovsdb;
    let socket = run_dir.join("db.sock");
    let args = [
        database.display().to_string(),
        format!("--remote=punix:{}", socket.display()),
    ];
    let mut backoff = Backoff::default();
    loop {
        let mut child =
            Child::start(daemon, &run_dir, &args).map_err(|source| KeeperError::Start {
                daemon: daemon.name(),
                source,
            })?;
        metrics
            .starts
            .get_or_create(&DaemonLabel {
                daemon: daemon.name(),
            })
            .inc();
        let begun = Instant::now();
        tokio::select! {
            status = child.ended() => {
                let status = status.map_err(|source| KeeperError::Wait { daemon: daemon.name(), source })?;
                error!(daemon = daemon.name(), %status, "ended by itself");
            }
            _ = &mut stopped => {
                child.stop().await;
                return Ok(());
            }
        }
        let pause = backoff
            .after(begun.elapsed())
            .ok_or(KeeperError::Hopeless {
                daemon: daemon.name(),
            })?;
        tokio::select! {
            () = sleep(pause) => {}
            _ = &mut stopped => return Ok(()),
        }
    }
}

/// Why a daemon cannot be kept running.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeeperError {
    #[error("cannot start {daemon}")]
    Start {
        daemon: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot wait for {daemon}")]
    Wait {
        daemon: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{daemon} does not stay up; its log is above")]
    Hopeless { daemon: &'static str },
    #[error("the task that keeps ovsdb-server running failed")]
    Task {
        #[source]
        source: JoinError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_costs_nothing_and_many_are_hopeless() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = std::iter::from_fn(|| backoff.after(Duration::ZERO)).collect();
        let total: Duration = pauses.iter().sum();
        assert_eq!(pauses[..4], [0, 100, 200, 400].map(Duration::from_millis));
        assert_eq!(pauses.len(), 11);
        assert_eq!(pauses.last(), Some(&LONGEST));
        assert!(total < Duration::from_mins(1), "{total:?}");
        assert_eq!(backoff.after(WELL), Some(Duration::ZERO));
    }
}
