//! Whose agents a new leader waits for.

use std::collections::BTreeSet;
use std::time::Duration;

use carrick_proto::NodeName;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a new leader waits for agents to say which addresses their pods have, before it tells
/// any of them what it lacks: an address that a status does not have yet must not be taken from
/// groups that have it.
const PATIENCE: Duration = Duration::from_secs(3);

/// The agents that were not heard in this term.
#[derive(Debug, Default)]
pub(super) struct RollCall {
    missing: watch::Sender<Missing>,
}

#[derive(Debug, Default)]
struct Missing {
    nodes: BTreeSet<NodeName>,
    until: Option<Instant>,
}

impl RollCall {
    /// A term begins: these are to be heard.
    pub(super) fn begin(&self, nodes: BTreeSet<NodeName>) {
        self.missing.send_replace(Missing {
            nodes,
            until: Some(Instant::now() + PATIENCE),
        });
    }

    /// The agent was heard, or its node is gone.
    pub(super) fn answered(&self, node: &NodeName) {
        self.missing
            .send_if_modified(|missing| missing.nodes.remove(node) && missing.nodes.is_empty());
    }

    /// Waits until all were heard, but not for ever.
    pub(super) async fn complete(&self) {
        let mut missing = self.missing.subscribe();
        let Some(until) = missing.borrow().until else {
            return;
        };
        let complete = missing.wait_for(|missing| missing.nodes.is_empty());
        if tokio::time::timeout_at(until, complete).await.is_err() {
            // Nobody waits for the others any more.
            self.missing.send_modify(|missing| missing.nodes.clear());
        }
    }
}
