//! Ordered rollouts on a real kube-apiserver. Tests play the DaemonSet and Deployment controllers,
//! the kubelets and the agents, and write down in which order pods go.

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

mod bed;

use bed::rollout::{Behaviour, Stage};
use serde_json::json;

const NODES: [&str; 3] = ["node1", "node2", "node3"];

/// A network that runs, and is the last good render.
async fn running() -> Stage {
    let mut stage = Stage::start(&NODES).await;
    stage.bed.apply(&json!({})).unwrap();
    stage.bed.start_operator().await;
    stage.until_phase("Complete").await;
    stage.restarted.clear();
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_goes_controller_first_then_one_node_at_a_time() {
    let mut stage = running().await;
    stage
        .bed
        .apply(&json!({"observability": {"logLevel": "debug"}}))
        .unwrap();
    stage.until_phase("Complete").await;
    assert_eq!(
        stage.restarted,
        [
            "controller",
            "controller",
            "agent node1",
            "agent node2",
            "agent node3"
        ],
        "and no switch: its template did not change"
    );
    assert_eq!(stage.most_away, 1, "never more than one agent away");
    let config = stage.bed.get(&["configmap", "carrick-config"]).unwrap();
    assert_eq!(config["data"].as_object().unwrap().len(), 1, "{config}");

    // Another image of the switch: pulled first, then the switches alone.
    stage.restarted.clear();
    let digest = format!("sha256:{}", "a".repeat(64));
    stage
        .bed
        .apply(&json!({"observability": {"logLevel": "debug"},
            "images": {"digests": {"carrick-ovs": digest}}}))
        .unwrap();
    stage.until_phase("Complete").await;
    assert_eq!(
        stage.restarted,
        ["pre-pull", "switch node1", "switch node2", "switch node3"]
    );
    assert!(stage.bed.get(&["daemonset", "carrick-pre-pull"]).is_none());
    let events = stage.events();
    assert!(
        events.contains("the switches restart as well, one node at a time"),
        "{events}"
    );
    stage.bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_changes_nothing() {
    let mut stage = running().await;
    stage.behave(Behaviour::NoImage("node2"));
    let digest = format!("sha256:{}", "b".repeat(64));
    stage
        .bed
        .apply(&json!({"images": {"digests": {"carrick": digest}}}))
        .unwrap();
    let message = stage.until_phase("RolledBack").await;
    for words in [
        "node2",
        "carrick-pre-pull",
        "ImagePullBackOff",
        "no such manifest",
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(stage.restarted, ["pre-pull"], "nothing restarted");
    assert_eq!(stage.bed.condition("Stalled")["reason"], "RolledBack");
    assert_eq!(stage.bed.condition("Ready")["status"], "False");
    assert_eq!(stage.bed.condition("Degraded")["reason"], "RolledBack");
    let events = stage.events();
    assert!(
        events.contains("RolloutFailed") && events.contains("no such manifest"),
        "{events}"
    );

    // The same is not tried again; another spec is.
    stage.behave(Behaviour::Well);
    stage.restarted.clear();
    stage
        .bed
        .apply(
            &json!({"images": {"digests": {"carrick": digest}}, "rollout": {"stallTimeout": "9m"}}),
        )
        .unwrap();
    stage.until_observed().await;
    assert_eq!(stage.restarted, [""; 0]);
    stage.bed.apply(&json!({})).unwrap();
    stage.until_phase("Complete").await;
    assert_eq!(stage.restarted, [""; 0], "it ran all the time");
    stage.bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_takes_everything_back_in_reverse_order() {
    let mut stage = running().await;
    stage.behave(Behaviour::AgentCrashes("node2"));
    stage
        .bed
        .apply(&json!({"observability": {"logLevel": "debug"}}))
        .unwrap();
    let message = stage.until_phase("RolledBack").await;
    for words in [
        "carrick-agent",
        "node2",
        "container agent",
        "CrashLoopBackOff",
        "no bridge",
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(
        stage.restarted,
        [
            "controller",
            "controller",
            "agent node1",
            "agent node2", // forward
            "agent node2",
            "agent node1",
            "controller",
            "controller", // back
        ]
    );
    let set = stage.bed.get(&["daemonset", "carrick-agent"]).unwrap();
    let config = stage.bed.get(&["configmap", "carrick-config"]).unwrap();
    let hash = &set["spec"]["template"]["metadata"]["annotations"]["carrick.dev/config-hash"];
    let key = format!("config-{}.json", hash.as_str().unwrap());
    let config = config["data"][key].as_str().unwrap();
    assert!(config.contains("\"logLevel\": \"info\""), "{config}");
    assert_eq!(
        stage.bed.networking()["status"]["effective"]["observability"]["logLevel"],
        "info",
        "what runs is shown"
    );
    stage.bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_may_pause_instead() {
    let mut stage = running().await;
    stage.behave(Behaviour::PeersSilent("node1"));
    let rollout = json!({"onFailure": "Pause", "stallTimeout": "3s"});
    stage
        .bed
        .apply(&json!({"observability": {"logLevel": "debug"}, "rollout": rollout}))
        .unwrap();
    let message = stage.until_phase("Failed").await;
    assert!(
        message.contains("PeersUnreachable") && message.contains("node1"),
        "{message}"
    );
    assert_eq!(stage.restarted, ["controller", "controller", "agent node1"]);
    assert_eq!(stage.bed.condition("Stalled")["reason"], "RolloutFailed");

    // Somebody decides to go back.
    stage.behave(Behaviour::Well);
    stage.bed.apply(&json!({})).unwrap();
    stage.until_phase("Complete").await;
    assert_eq!(
        stage.restarted[3..],
        ["agent node1", "controller", "controller"],
        "the reverse of what was done"
    );
    stage.bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_and_killed_it_goes_on_where_things_are() {
    let mut stage = running().await;
    stage.hold_after("agent node1");
    stage
        .bed
        .apply(&json!({"observability": {"logLevel": "debug"}}))
        .unwrap();
    stage.until_restarted("agent node1").await;
    // Killed while node1's agent is away, and while the spec is changed to paused.
    stage.bed.kill_operator();
    stage
        .bed
        .apply(&json!({"observability": {"logLevel": "debug"}, "rollout": {"paused": true}}))
        .unwrap();
    stage.release();
    stage.bed.start_operator().await;
    let message = stage.until_phase("Paused").await;
    assert!(message.contains("paused at 1 of 3"), "{message}");
    assert_eq!(stage.restarted, ["controller", "controller", "agent node1"]);
    assert_eq!(stage.bed.condition("Ready")["reason"], "RolloutPaused");

    // A node that does not report is left out and updated when it comes back.
    stage.unreachable("node3", true);
    stage
        .bed
        .apply(&json!({"observability": {"logLevel": "debug"}}))
        .unwrap();
    let message = stage.until_phase("Complete").await;
    assert!(message.contains("not reporting: node3"), "{message}");
    assert_eq!(
        stage.restarted,
        ["controller", "controller", "agent node1", "agent node2"]
    );
    stage.unreachable("node3", false);
    stage.until_restarted("agent node3").await;
    stage.until_phase("Complete").await;
    assert_eq!(stage.most_away, 1);
    stage.bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_by_kubectl_goes_one_node_at_a_time() {
    let mut stage = running().await;
    let set = ["-n", bed::NAMESPACE, "rollout", "restart", "daemonset"];
    { &stage.bed.server }
        .kubectl(&[set.as_slice(), &["carrick-agent"]].concat())
        .unwrap();
    stage.until_restarted("agent node3").await;
    stage.until_phase("Complete").await;
    assert_eq!(
        stage.restarted,
        ["agent node1", "agent node2", "agent node3"]
    );
    assert_eq!(stage.most_away, 1);
    stage.bed.stop_operator().await;
}
