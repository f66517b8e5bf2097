//! Notices at once when the host's links or their addresses change, so that the programmer looks again:
//! a transport interface with another MTU or address, or one that is gone and comes back.

use std::sync::Arc;
use std::time::Duration;

use carrick_api::names::link;
use carrick_k8s::telemetry::chain;
use carrick_node::{Change, Monitor};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::node::Node;

/// Changes come in crowds: those of so long are one.
const SETTLE: Duration = Duration::from_millis(100);
/// Least time between two passes for changes of links, so that one that flaps costs little.
const REST: Duration = Duration::from_millis(400);
/// Pause before the kernel is asked for another socket.
const RETRY: Duration = Duration::from_secs(5);

/// Tells the programmer of changes until `shutdown`. Without the kernel's word the programmer looks
/// every two seconds all the same.
pub async fn run(node: Arc<Node>, shutdown: CancellationToken) {
    loop {
        let broken = async {
            match Monitor::open() {
                Ok(monitor) => follow(&node, monitor).await,
                Err(error) => error,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            error = broken => warn!(error = chain(&error), "the kernel does not tell of its links"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn follow(node: &Node, mut monitor: Monitor) -> std::io::Error {
    let wake = || node.links_changed.send_modify(|count| *count += 1);
    // For what changed while nobody listened.
    wake();
    loop {
        match monitor.next().await {
            Ok(changes) if !changes.iter().any(concerns) => continue,
            Ok(changes) => debug!(?changes, "the host's links"),
            Err(error) => return error,
        }
        let crowd = async { while monitor.next().await.is_ok() {} };
        // Whoever of them is left out here has come before the programmer looks.
        let _ = tokio::time::timeout(SETTLE, crowd).await;
        wake();
        tokio::time::sleep(REST).await;
    }
}

/// Pods' links come and go all the time, by our own hand.
fn concerns(change: &Change) -> bool {
    match change {
        Change::Link { name } => !link::is_pod(name),
        Change::Address { .. } | Change::Lost => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_pods_are_not_looked_at() {
        let of = |name: &str| concerns(&Change::Link { name: name.into() });
        assert!(of("eth1") && of(link::GATEWAY) && !of("car0123456789ab"));
        assert!(concerns(&Change::Lost));
    }
}
