//! The agent's last commit: loaded from its file, and replayed into a bridge without any flow.

use std::path::{Path, PathBuf};
use std::time::Duration;

use carrick_datapath::{Commit, LineError, MAX_COMMIT_BYTES, from_lines};
use carrick_openflow::Learned;
use carrick_openflow::connection::{BundleError, Config, Connection, RequestError, SyncError};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use crate::database::set_aside;

/// How often the bridge's socket is tried while ovs-vswitchd starts: it is there after some 100 ms.
const POLL: Duration = Duration::from_millis(5);

/// What the file holds.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// A commit of this boot.
    Commit(Commit),
    /// There is nothing to replay, for this reason.
    Nothing(String),
    /// There is something that cannot be replayed, for this reason.
    Unusable(String),
}

/// Reads the commit. A file that is of no use is set aside.
pub(crate) async fn load(file: &Path, boot_id: &str) -> Loaded {
    match tokio::fs::metadata(file).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Loaded::Nothing("the agent has not committed yet".to_owned());
        }
        Ok(metadata) if metadata.len() > MAX_COMMIT_BYTES => {
            return unusable(file, &format!("{} bytes are too many", metadata.len()));
        }
        Ok(_) | Err(_) => {}
    }
    let bytes = match tokio::fs::read(file).await {
        Ok(bytes) => bytes,
        Err(error) => return unusable(file, &error.to_string()),
    };
    let commit = Commit::from_bytes(&bytes).and_then(|commit| {
        commit.check_boot(boot_id)?;
        Ok(commit)
    });
    match commit {
        Ok(commit) => Loaded::Commit(commit),
        Err(error) => unusable(file, &format!("{:#}", anyhow::Error::from(error))),
    }
}

fn unusable(file: &Path, why: &str) -> Loaded {
    if let Err(error) = set_aside(file, why) {
        warn!(path = %file.display(), %error, "cannot set the file aside");
    }
    Loaded::Unusable(why.to_owned())
}

/// Removes the bridge's socket that an ovs-vswitchd before left: the next one makes its own.
pub(crate) fn forget_socket(run_dir: &Path, commit: &Commit) {
    // Usually there is none; one that stays is found out when nobody answers.
    std::fs::remove_file(socket(run_dir, commit)).ok();
}

fn socket(run_dir: &Path, commit: &Commit) -> PathBuf {
    run_dir.join(format!("{}.mgmt", commit.bridge))
}

/// Replays a commit into a switch that has just started: meters one by one (Open vSwitch refuses them
/// in bundles), then groups and flows as one bundle, all or none, by the deadline.
pub(crate) async fn replay(
    run_dir: &Path,
    commit: &Commit,
    deadline: Instant,
) -> Result<(), ReplayError> {
    let (flows, groups, meters) = (
        commit.flows.clone(),
        commit.groups.clone(),
        commit.meters.clone(),
    );
    // Text of a hundred thousand flows is work for a thread of its own; meanwhile the switch starts.
    let parsed = tokio::task::spawn_blocking(move || {
        from_lines(flows.into_iter(), groups.into_iter(), meters.into_iter())
    });
    let socket = socket(run_dir, commit);
    let state = parsed
        .await
        .map_err(|source| ReplayError::Task { source })??;
    let (connection, packet_ins, notices, driver) = Connection::new(Config {
        backoff: POLL,
        ..Config::new(socket.clone())
    });
    drop((packet_ins, notices));
    let ready = async {
        while !socket.exists() {
            sleep(POLL).await;
        }
        // It ends when the connection is dropped, at the latest when this function returns.
        let driver = tokio::spawn(driver.run());
        connection.connected().await.map(|_| driver)
    };
    let Ok(Ok(driver)) = timeout_at(deadline, ready).await else {
        return Err(ReplayError::NotUp { socket });
    };
    let learned = Learned::default();
    let replay = connection.synchronize(&state, &learned);
    let report = match timeout_at(deadline, replay).await {
        Ok(Ok(report)) => report,
        Ok(Err(source)) if is_settled(&source) => return Err(ReplayError::Refused { source }),
        Ok(Err(source)) => {
            return Err(ReplayError::Unsettled {
                source: Some(source),
            });
        }
        Err(_) => return Err(ReplayError::Unsettled { source: None }),
    };
    info!(
        changes = report.changes,
        meters = report.meters,
        "replayed the agent's last commit"
    );
    drop(connection);
    driver.await.map_err(|source| ReplayError::Task { source })
}

/// Whether nothing that was sent can still change the switch.
fn is_settled(error: &SyncError) -> bool {
    matches!(
        error,
        SyncError::Meter(RequestError::Refused { .. } | RequestError::Encode { .. })
            | SyncError::Bundle(BundleError::Refused { .. } | BundleError::Encode { .. })
    )
}

/// Why a commit was not replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error("the commit cannot be given to a switch")]
    Line(#[from] LineError),
    #[error("{} does not answer in time", socket.display())]
    NotUp { socket: PathBuf },
    #[error("the switch refused the commit")]
    Refused {
        #[source]
        source: SyncError,
    },
    /// What was sent may still take effect: only the end of this ovs-vswitchd makes sure it does not.
    #[error("the switch did not take the commit in time")]
    Unsettled {
        #[source]
        source: Option<SyncError>,
    },
    #[error("a task of the replay failed")]
    Task {
        #[source]
        source: JoinError,
    },
}
