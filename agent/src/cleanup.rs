//! `agent cleanup`: takes everything of ours off a node and gives back what it had.
//!
//! Every step is idempotent; what fails is collected, the rest goes on, and all is tried again
//! until nothing is left. Order matters: the runtime stops using us first; addresses go back to the
//! transport interface before its bridge goes; the memory of what was before goes last.
//!
//! The switch still runs then, and its run directory with it. The operator ends it after every node
//! has reported, and this process after that: our directories themselves go at the very end.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carrick_api::agentinfo::{AgentInfoStatus, condition};
use carrick_api::effective::EffectiveConfig;
use carrick_api::names::link;
use carrick_k8s::condition::{Status, set};
use carrick_ovsdb::desired::SwitchConfig;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::before::BeforeFile;
use crate::cni::install::{Places, uninstall};
use crate::host::{Host, HostErrors};
use crate::info::write;
use crate::ipam::read_boot_id;
use crate::paths::Paths;
use crate::switchdb::SwitchDriver;
use carrick_k8s::telemetry::chain;

/// Pause between attempts.
const RETRY: Duration = Duration::from_secs(5);
/// How long the switch may be away before its bridges are taken for gone with it.
const SWITCH_LIMIT: Duration = Duration::from_secs(10);
/// Name of our configuration list where the configuration cannot be read any more.
const DEFAULT_CONF_FILE: &str = "05-carrick.conflist";

/// Cleans the node, reports `Cleaned` in its `AgentInfo`, and waits for `shutdown`.
///
/// # Errors
/// The state directory cannot be read at all.
pub async fn run(
    node: &str,
    config: Option<&EffectiveConfig>,
    paths: &Paths,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let conf_file = config.map_or(DEFAULT_CONF_FILE, |config| config.cni.conf_file.as_str());
    let cleaned = AtomicBool::new(false);
    let report = async {
        loop {
            let left = clean(paths, conf_file).await;
            cleaned.store(left.is_empty(), Ordering::Relaxed);
            for problem in &left {
                warn!(problem, "cleanup");
            }
            if left.is_empty() {
                info!("the node is clean");
            }
            let reported = report(node, &left, &shutdown).await;
            if left.is_empty() && reported {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = report => shutdown.cancelled().await,
    }
    if cleaned.load(Ordering::Relaxed) {
        for problem in remove_directories(paths) {
            warn!(problem, "cleanup");
        }
    }
    Ok(())
}

async fn report(node: &str, left: &[String], shutdown: &CancellationToken) -> bool {
    let Some(connection) = crate::run::connect(shutdown).await else {
        return false;
    };
    let mut conditions = Vec::new();
    let (status, reason, message) = if left.is_empty() {
        (
            Status::True,
            "Clean",
            "nothing of Carrick's is left on this node".to_owned(),
        )
    } else {
        (Status::False, "Left", left.join("; "))
    };
    let now = Timestamp::now();
    set(
        &mut conditions,
        condition::CLEANED,
        status,
        reason,
        &message,
        None,
        now,
    );
    let ready = "the agent was removed from this node";
    set(
        &mut conditions,
        condition::READY,
        Status::False,
        "Removed",
        ready,
        None,
        now,
    );
    let status = AgentInfoStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        conditions,
        ..AgentInfoStatus::default()
    };
    match write(&connection.client, node, status).await {
        Ok(()) => true,
        Err(error) => {
            warn!(error = chain(&error), "the cleanup could not be reported");
            false
        }
    }
}

/// One attempt; what is left, in words.
pub async fn clean(paths: &Paths, conf_file: &str) -> Vec<String> {
    let mut errors = HostErrors::default();
    uninstall_cni(paths, conf_file, &mut errors);
    let boot_id = match read_boot_id() {
        Ok(boot_id) => boot_id,
        Err(error) => {
            errors.push(&error);
            return errors.0;
        }
    };
    let opened = BeforeFile::open(&paths.before(), &boot_id)
        .map_err(|error| chain(&error))
        .and_then(|(before, _)| Host::open(paths, before).map_err(|error| chain(&error)));
    let mut host = match opened {
        Ok(host) => host,
        Err(error) => {
            errors.0.push(error);
            return errors.0;
        }
    };
    // First the table that hides the transport interface from the host it is given back to.
    host.remove_tables(&mut errors).await;
    host.leave_firewalls(&mut errors).await;
    let before = errors.0.len();
    host.give_back_transport(&mut errors).await;
    if errors.0.len() == before {
        remove_bridges(paths, &mut host, &mut errors).await;
    }
    host.remove_pod_links(&mut errors).await;
    host.remove_stack(&mut errors).await;
    if errors.0.is_empty() {
        remove_state(paths, &mut errors);
    }
    errors.0
}

fn uninstall_cni(paths: &Paths, conf_file: &str, errors: &mut HostErrors) {
    let places = Places {
        plugin: paths.plugin.clone(),
        bin_dir: paths.cni_bin.clone(),
        conf_dir: paths.cni_conf.clone(),
        conf_file: conf_file.to_owned(),
    };
    for error in uninstall(&places) {
        errors.push(&error);
    }
}

/// Removes our bridges by the switch. Where no switch answers, links it has left are deleted.
async fn remove_bridges(paths: &Paths, host: &mut Host, errors: &mut HostErrors) {
    let absent = [link::INTEGRATION_BRIDGE, link::TRANSPORT_BRIDGE]
        .map(str::to_owned)
        .into();
    let config = SwitchConfig {
        absent_bridges: absent,
        ..SwitchConfig::default()
    };
    if paths.database().exists() {
        let mut switch = SwitchDriver::new(paths.database());
        let mut connection = switch.connection();
        let connected = connection
            .wait_for(|state| matches!(state, carrick_ovsdb::client::Connection::Connected { .. }));
        if matches!(
            tokio::time::timeout(SWITCH_LIMIT, connected).await,
            Ok(Ok(_))
        ) {
            if let Err(error) = switch.apply(config).await {
                errors.push(&error);
            }
            return;
        }
        warn!("the switch does not answer; links it left are deleted");
    }
    for name in [
        link::GATEWAY,
        link::INTEGRATION_BRIDGE,
        link::TRANSPORT_BRIDGE,
    ] {
        host.remove_link(name, errors).await;
    }
}

/// Removes our directories, unless the switch still runs in them. What is left, in words.
pub fn remove_directories(paths: &Paths) -> Vec<String> {
    let mut left = Vec::new();
    // A socket nobody listens on refuses.
    if std::os::unix::net::UnixStream::connect(paths.database()).is_ok() {
        left.push(
            "the switch still runs: its run directory is left to the next cleanup".to_owned(),
        );
    } else {
        remove_tree(&paths.run_on_host, &mut left);
    }
    remove_tree(&paths.state_on_host, &mut left);
    left
}

fn remove_tree(directory: &Path, left: &mut Vec<String>) {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            left.push(format!("removing {}: {error}", directory.display()));
        }
        Ok(()) | Err(_) => {}
    }
}

/// Removes our files. The switch's run directory is the switch's: it ends after us.
fn remove_state(paths: &Paths, errors: &mut HostErrors) {
    remove_contents(&paths.state, None, errors);
    remove_contents(&paths.run, Some(&paths.switch), errors);
}

fn remove_contents(directory: &Path, keep: Option<&Path>, errors: &mut HostErrors) {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            errors
                .0
                .push(format!("reading {}: {error}", directory.display()));
            return;
        }
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if keep == Some(path.as_path()) {
            continue;
        }
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_directory {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        if let Err(error) = removed {
            errors
                .0
                .push(format!("removing {}: {error}", path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_files_go() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("run");
        let switch = run.join("openvswitch");
        std::fs::create_dir_all(&switch).unwrap();
        std::fs::write(switch.join("db.sock"), "").unwrap();
        std::fs::write(run.join("commit.json"), "").unwrap();
        std::fs::create_dir(run.join("cni-deferred")).unwrap();
        let mut errors = HostErrors::default();
        remove_contents(&run, Some(&switch), &mut errors);
        remove_contents(&directory.path().join("absent"), None, &mut errors);
        assert!(errors.0.is_empty(), "{:?}", errors.0);
        let left: Vec<_> = std::fs::read_dir(&run)
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .collect();
        assert_eq!(left, [switch]);
    }
}
