//! When the node can carry pods: the datapath is programmed and the runtime finds our network.
//!
//! Readiness is local: a lost controller does not make an agent unready, or its loss would restart
//! every agent of the cluster.

use std::sync::Arc;
use std::time::Duration;

use carrick_api::agentinfo::condition;
use carrick_k8s::health::Health;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cni::install::{OtherNetworks, Places, install};
use crate::node::Node;
use crate::status::{Fact, Report};
use carrick_k8s::telemetry::chain;

/// How often the runtime's files are looked at: somebody may have removed them.
const LOOK: Duration = Duration::from_mins(1);
/// Pause after the files could not be written.
const RETRY: Duration = Duration::from_secs(5);
/// Name of the readiness check.
pub const CNI_CHECK: &str = "cni";

/// Where CNI files go.
pub fn places(node: &Node) -> Places {
    Places {
        plugin: node.paths.plugin.clone(),
        bin_dir: node.paths.cni_bin.clone(),
        conf_dir: node.paths.cni_conf.clone(),
        conf_file: node.config.cni.conf_file.clone(),
    }
}

/// Installs the CNI files once the datapath is programmed, keeps them, and says when the node is
/// ready, until `shutdown`.
pub async fn run(node: Arc<Node>, health: Health, shutdown: CancellationToken) {
    health.unready(CNI_CHECK, "waiting for the datapath");
    let mut reports = node.board.watch();
    loop {
        let report = reports.borrow_and_update().clone();
        let pause = if report.holds(condition::DATAPATH_READY) {
            install_files(&node, &health).await
        } else {
            LOOK
        };
        node.board
            .set(condition::READY, ready(&node.board.report()));
        let wake = async {
            // Most changes of the report do not concern readiness.
            loop {
                if reports.changed().await.is_err() {
                    return;
                }
                let now = reports.borrow_and_update();
                if concerns(&now) != concerns(&report) {
                    return;
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = wake => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn concerns(report: &Report) -> (Option<&Fact>, bool) {
    (
        report.conditions.get(condition::DATAPATH_READY),
        report.cni_installed,
    )
}

async fn install_files(node: &Arc<Node>, health: &Health) -> Duration {
    let places = places(node);
    let others = if node.config.cni.exclusive {
        OtherNetworks::SetAside
    } else {
        OtherNetworks::Leave
    };
    let installed = tokio::task::spawn_blocking(move || install(&places, others)).await;
    let outcome = match installed {
        Ok(Ok(installed)) => {
            for file in &installed.written {
                info!(file = %file.display(), "installed");
            }
            for file in &installed.set_aside {
                info!(file = %file.display(), "set another network's file aside");
            }
            Ok(())
        }
        Ok(Err(error)) => Err(chain(&error)),
        Err(error) => Err(error.to_string()),
    };
    match outcome {
        Ok(()) => {
            health.ready(CNI_CHECK);
            node.board.update(|report| report.cni_installed = true);
            LOOK
        }
        Err(error) => {
            warn!(error, "the CNI files could not be installed");
            health.unready(CNI_CHECK, error.clone());
            node.board.update(|report| report.last_error = error);
            RETRY
        }
    }
}

/// The condition `Ready` of a report.
pub fn ready(report: &Report) -> Fact {
    match report.conditions.get(condition::DATAPATH_READY) {
        Some(fact) if fact.status == carrick_k8s::condition::Status::True => {
            if report.cni_installed {
                Fact::holds("Ready", "the node carries pods")
            } else {
                Fact::fails("CNINotInstalled", report.last_error.clone())
            }
        }
        Some(fact) => Fact::fails(fact.reason, fact.message.clone()),
        None => Fact::fails("Starting", "the agent has just started"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_datapath_and_cni_and_not_the_controller() {
        let mut report = Report::default();
        assert_eq!(ready(&report).reason, "Starting");
        report
            .conditions
            .insert(condition::DATAPATH_READY, Fact::holds("Programmed", ""));
        assert_eq!(ready(&report).reason, "CNINotInstalled");
        report.cni_installed = true;
        report
            .conditions
            .insert(condition::CONTROLLER_CONNECTED, Fact::fails("NoStream", ""));
        assert_eq!(ready(&report).reason, "Ready");
        report
            .conditions
            .insert(condition::DATAPATH_READY, Fact::fails("SwitchAway", "gone"));
        assert_eq!(ready(&report).message, "gone");
    }
}
