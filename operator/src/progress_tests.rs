//! How progress is told from what the cluster shows.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::facts::{Facts, Reach};
use crate::progress::{Progress, Running, progress};
use crate::samples;

fn set(desired: i32, updated: i32, ready: i32) -> DaemonSet {
    serde_json::from_value(json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 2,
        "desiredNumberScheduled": desired, "currentNumberScheduled": desired, "numberMisscheduled": 0,
        "updatedNumberScheduled": updated, "numberReady": ready}}))
    .unwrap()
}

fn controller(replicas: i32, ready: i32) -> Deployment {
    serde_json::from_value(
        json!({"metadata": {"generation": 1}, "spec": {"replicas": replicas,
        "selector": {}, "template": {}}, "status": {"observedGeneration": 1, "replicas": replicas,
        "updatedReplicas": replicas, "readyReplicas": ready}}),
    )
    .unwrap()
}

fn pod(part: &str, node: &str, ready: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": format!("{part}-{node}"), "labels": {"app.kubernetes.io/name": part}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "r/carrick:0.1.0"}]},
        "status": {"startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": ready, "reason": "ContainersNotReady"}]},
    }))
    .unwrap()
}

fn running() -> Running {
    let mut pods = vec![pod("carrick-controller", "node1", "True")];
    for node in ["node1", "node2", "node3"] {
        pods.push(pod("carrick-agent", node, "True"));
        pods.push(pod("carrick-ovs", node, "True"));
    }
    Running {
        controller: Some(controller(2, 2)),
        agent: Some(set(3, 3, 3)),
        switch: Some(set(3, 3, 3)),
        pods,
        agents: Vec::new(),
        controllers: Vec::new(),
    }
}

fn look(facts: &Facts, running: &Running) -> Progress {
    let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
    progress(&samples::effective(), facts, running, now)
}

#[test]
fn a_network_that_is_ready_everywhere_is_complete() {
    let progress = look(&samples::facts(), &running());
    assert!(progress.complete && progress.available, "{progress:#?}");
    assert_eq!(progress.nodes.summary, "3/3");
    assert_eq!(progress.versions["agent"], "0.1.0 (3)");
}

#[test]
fn a_pod_that_fails_is_named_with_its_node() {
    let mut running = running();
    running.agent = Some(set(3, 3, 2));
    for pod in &mut running.pods {
        if pod.metadata.name.as_deref() == Some("carrick-agent-node2") {
            *pod = self::pod("carrick-agent", "node2", "False");
        }
    }
    let progress = look(&samples::facts(), &running);
    assert!(!progress.complete && !progress.available);
    assert_eq!(progress.nodes.summary, "2/3");
    assert_eq!(progress.nodes.not_ready[0].name, "node2");
    assert!(
        progress.failures[0]
            .sentence()
            .contains("carrick-agent-node2 on node2")
    );
}

#[test]
fn a_node_that_is_gone_counts_in_nothing_and_is_named() {
    let mut facts = samples::facts();
    facts.nodes[2].reach = Reach::Unreachable;
    let mut running = running();
    running.agent = Some(set(3, 2, 2));
    running.switch = Some(set(3, 2, 2));
    let progress = look(&facts, &running);
    assert!(progress.complete && progress.available, "{progress:#?}");
    assert_eq!(progress.unreachable, ["node3"]);
    assert_eq!(
        (
            progress.nodes.summary.as_str(),
            progress.nodes.not_ready_count
        ),
        ("2/2", 1)
    );
}

/// The old word of a replica that led before says nothing of now.
#[test]
fn what_the_leader_says_of_nodes_cidrs_is_heard() {
    let info = |leader: bool, status: &str, message: &str| {
        serde_json::from_value(json!({
            "apiVersion": "carrick.dev/v1alpha1", "kind": "ControllerInfo",
            "metadata": {"name": "c"}, "spec": {}, "status": {"leader": leader, "conditions": [{
                "type": "NodeCIDRsAllocated", "status": status, "reason": "CIDRNotAvailable",
                "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    };
    let mut running = running();
    running.controllers = vec![info(false, "False", "old"), info(true, "True", "")];
    assert_eq!(look(&samples::facts(), &running).node_cidrs, None);
    running.controllers[1] = info(true, "False", "full");
    let said = look(&samples::facts(), &running).node_cidrs;
    assert_eq!(said.as_deref(), Some("full (CIDRNotAvailable)"));
}

#[test]
fn an_update_that_is_not_seen_yet_is_not_complete() {
    let mut running = running();
    if let Some(status) = running.agent.as_mut().and_then(|set| set.status.as_mut()) {
        status.observed_generation = Some(1);
    }
    let progress = look(&samples::facts(), &running);
    assert!(!progress.complete);
    running.agent = None;
    assert!(!look(&samples::facts(), &running).available);
}
