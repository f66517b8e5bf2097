//! The startup taint: removed from a node when its agent says that the node can carry pods.

use std::sync::Arc;
use std::time::Duration;

use carrick_k8s::client::{CallError, timely};
use carrick_proto::NodeName;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::reign::Reign;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a node whose patch failed waits.
const RETRY: Duration = Duration::from_secs(5);

/// A taint could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum TaintError {
    /// A request failed.
    #[error("cannot remove the startup taint of node {node}")]
    Request {
        /// The node.
        node: NodeName,
        /// The cause.
        #[source]
        source: CallError,
    },
    /// The patch was not made as the API wants it.
    #[error("cannot express the removal of node {node}'s startup taint")]
    Patch {
        /// The node.
        node: NodeName,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

/// The JSON patch (RFC 6902) that removes every taint with `key` and fails if any of them is not
/// where it was. Other taints, and changes to them at the same time, are left alone.
#[must_use]
pub fn removal(node: &Node, key: &str) -> Option<Value> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    let mut operations = Vec::new();
    // From the back, so that indexes stay true.
    for (index, taint) in taints
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, taint)| taint.key == key)
    {
        let path = format!("/spec/taints/{index}");
        operations.push(json!({"op": "test", "path": path, "value": taint}));
        operations.push(json!({"op": "remove", "path": path}));
    }
    (!operations.is_empty()).then_some(Value::Array(operations))
}

async fn remove(client: &Client, name: &NodeName, key: &str) -> Result<bool, TaintError> {
    let request = |source| TaintError::Request {
        node: name.clone(),
        source,
    };
    let nodes: Api<Node> = Api::all(client.clone());
    let read = timely("a Node", PATIENCE, nodes.get_opt(name.as_str()))
        .await
        .map_err(request)?;
    let Some(removal) = read.and_then(|node| removal(&node, key)) else {
        return Ok(false);
    };
    let patch =
        Patch::<()>::Json(
            serde_json::from_value(removal).map_err(|source| TaintError::Patch {
                node: name.clone(),
                source,
            })?,
        );
    let params = PatchParams::default();
    timely(
        "a patch of a Node",
        PATIENCE,
        nodes.patch(name.as_str(), &params, &patch),
    )
    .await
    .map_err(request)?;
    Ok(true)
}

/// Removes startup taints while this replica leads, until `stop`.
pub async fn run(
    hub: Arc<Hub>,
    reign: Reign,
    client: Client,
    key: String,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut changed = hub.nodes.subscribe();
    loop {
        changed.mark_unchanged();
        let mut failed = false;
        if reign.term().is_some() {
            for node in hub.ready_nodes(|node| node.tainted) {
                if stop.is_cancelled() || reign.term().is_none() {
                    break;
                }
                match remove(&client, &node, &key).await {
                    Ok(true) => {
                        metrics.untainted.inc();
                        info!(%node, key, "the agent is ready: the startup taint is removed");
                    }
                    // The watch is behind, or someone else removed it.
                    Ok(false) => {}
                    Err(error) => {
                        failed = true;
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        warn!(%error, cause, "a startup taint stays for now");
                    }
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changed.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(taints: &Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"taints": taints}}))
            .unwrap()
    }

    #[test]
    fn only_the_startup_taint_goes() {
        let node = node(&json!([
            {"key": "s", "effect": "NoSchedule"},
            {"key": "other", "effect": "NoExecute"},
            {"key": "s", "effect": "NoExecute", "value": "v"},
        ]));
        assert_eq!(
            removal(&node, "s"),
            Some(json!([
                {"op": "test", "path": "/spec/taints/2", "value": {"key": "s", "effect": "NoExecute", "value": "v"}},
                {"op": "remove", "path": "/spec/taints/2"},
                {"op": "test", "path": "/spec/taints/0", "value": {"key": "s", "effect": "NoSchedule"}},
                {"op": "remove", "path": "/spec/taints/0"},
            ]))
        );
    }

    #[test]
    fn a_node_without_it_is_left_alone() {
        assert_eq!(
            removal(
                &node(&json!([{"key": "other", "effect": "NoSchedule"}])),
                "s"
            ),
            None
        );
        assert_eq!(removal(&Node::default(), "s"), None);
    }
}
