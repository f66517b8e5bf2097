//! The node condition `NetworkUnavailable`: a cloud's route controller sets it to True until it has
//! made a route for the node's pod CIDRs, and Kubernetes keeps pods away by a taint meanwhile.
//!
//! Where Carrick carries the packets itself (`Encap`, and `Hybrid`, which tunnels what a subnet does
//! not carry) no such route is needed: the leader sets it to False once the node's agent is ready. In
//! `NoEncap` the route is what carries the pods, and the condition is left alone.
//!
//! A route controller that sets it to True again is not fought: each time the node waits longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use carrick_k8s::client::{CallError, timely};
use carrick_proto::NodeName;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::reign::Reign;

/// The condition's type.
pub const CONDITION: &str = "NetworkUnavailable";
/// Why it is False.
pub const REASON: &str = "CarrickIsUp";
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// First and longest time a node waits after it was written to.
const WAIT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(10));
/// From this time on somebody else is told to set it, too.
const CONTESTED: u32 = 3;

/// The patch of a Node's status; conditions are merged by type.
fn patch(now: Timestamp) -> Value {
    json!({"status": {"conditions": [{
        "type": CONDITION,
        "status": "False",
        "reason": REASON,
        "message": "Carrick carries packets between nodes on this node",
        "lastHeartbeatTime": now.to_string(),
        "lastTransitionTime": now.to_string(),
    }]}})
}

async fn set(client: &Client, name: &NodeName) -> Result<(), CallError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = Patch::Strategic(patch(Timestamp::now()));
    let params = PatchParams::default();
    let call = nodes.patch_status(name.as_str(), &params, &patch);
    timely("a patch of a Node's status", PATIENCE, call)
        .await
        .map(drop)
}

/// When nodes may be written to again.
#[derive(Debug, Default)]
struct Waits {
    nodes: BTreeMap<NodeName, Wait>,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    /// Writes in a row; the next waits longer with each.
    tries: u32,
    /// Of these, how many the API server took.
    taken: u32,
    until: Instant,
}

impl Waits {
    /// Those of `nodes` that may be written to now; the others are forgotten that need nothing and
    /// whose time is over.
    fn due(&mut self, nodes: Vec<NodeName>, now: Instant) -> Vec<NodeName> {
        let wanted: BTreeSet<&NodeName> = nodes.iter().collect();
        self.nodes
            .retain(|name, wait| wanted.contains(name) || wait.until > now);
        nodes
            .into_iter()
            .filter(|name| self.nodes.get(name).is_none_or(|wait| wait.until <= now))
            .collect()
    }

    /// A node was written to, and the API server took it or did not; how often it did by now.
    fn written(&mut self, name: &NodeName, taken: bool, now: Instant) -> u32 {
        let last = self.nodes.get(name);
        let (tries, before) = last.map_or((0, 0), |wait| (wait.tries, wait.taken));
        let pause = WAIT.0.saturating_mul(1 << tries.min(10)).min(WAIT.1);
        let wait = Wait {
            tries: tries.saturating_add(1),
            taken: before.saturating_add(u32::from(taken)),
            until: now + pause,
        };
        self.nodes.insert(name.clone(), wait);
        wait.taken
    }

    /// When the first of those that wait may be written to.
    fn next(&self) -> Option<Instant> {
        self.nodes.values().map(|wait| wait.until).min()
    }
}

/// Sets the condition while this replica leads, until `stop`.
pub async fn run(
    hub: Arc<Hub>,
    reign: Reign,
    client: Client,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut changed = hub.nodes.subscribe();
    let mut waits = Waits::default();
    loop {
        changed.mark_unchanged();
        if reign.term().is_some() {
            let nodes = hub.ready_nodes(|node| node.unavailable);
            for node in waits.due(nodes, Instant::now()) {
                if stop.is_cancelled() || reign.term().is_none() {
                    break;
                }
                let result = set(&client, &node).await;
                let times = waits.written(&node, result.is_ok(), Instant::now());
                match result {
                    Ok(()) if times == CONTESTED => {
                        warn!(%node, "somebody sets {CONDITION} to True again and again: a cloud's route controller is \
                               not needed here (cloud-controller-manager --configure-cloud-routes=false)");
                    }
                    Ok(()) => {
                        metrics.made_available.inc();
                        info!(%node, "the agent is ready: {CONDITION} is False");
                    }
                    Err(error) => {
                        let cause = carrick_k8s::telemetry::chain(&error);
                        warn!(%node, cause, "{CONDITION} stays True for now");
                    }
                }
            }
        } else {
            // Whoever leads next begins anew.
            waits = Waits::default();
        }
        let next = waits.next();
        let wait = async {
            match next {
                // One whose time is over and that needs nothing is forgotten then.
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changed.changed() => if changed.is_err() { return },
            () = wait => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_set_back_waits_longer_each_time() {
        let name = NodeName::new("a").unwrap();
        let mut waits = Waits::default();
        let mut now = Instant::now();
        let mut last = Duration::ZERO;
        for times in 1..20 {
            assert_eq!(waits.due(vec![name.clone()], now).len(), 1);
            assert_eq!(waits.written(&name, true, now), times);
            assert!(waits.due(vec![name.clone()], now).is_empty());
            let wait = waits.next().unwrap() - now;
            assert!(wait >= last && wait <= WAIT.1, "{wait:?}");
            (last, now) = (wait, now + wait);
        }
        assert_eq!(last, WAIT.1);
        // It stayed as it was set: forgotten, and begun anew another time.
        assert!(waits.due(Vec::new(), now).is_empty());
        assert_eq!(waits.next(), None);
        // Failures are waited for, and are no sign that somebody sets it back.
        assert_eq!(waits.written(&name, false, now), 0);
        assert_eq!(waits.written(&name, true, now), 1);
    }

    #[test]
    fn the_patch_merges_one_condition() {
        let patch = patch(Timestamp::UNIX_EPOCH);
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:00Z");
        assert_eq!(patch["status"].as_object().unwrap().len(), 1);
    }
}
