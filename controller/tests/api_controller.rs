//! The controller against a real etcd and kube-apiserver: tokens and their node claims, the Lease,
//! the startup taint, `ControllerInfo`, TLS, and an API server that does not answer.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by failing"
)]

mod lab;

use std::time::Duration;

use carrick_k8s::pki::rotation::Policy;
use carrick_proto::Number;
use jiff::{SignedDuration, Timestamp};
use lab::{
    Agent, Cluster, DEADLINE, End, NAMESPACE, POLL, TAINT, Where, eventually, leaf_names, new_pki,
    pki_made, write_leaf,
};
use tokio::time::Instant;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_served_by_its_token_and_its_node_loses_the_startup_taint() {
    let cluster = Cluster::start();
    let web = cluster.pod("web", "node-a", "default", Where::Pod);
    cluster.pod("host", "node-a", "default", Where::Host);
    let controller = cluster.controller("controller-0").await;
    let all = [controller.address];
    let mut agent = Agent::new(&cluster, "node-a");
    agent.served(&all, &["node", "route/node-b", &web]).await;
    assert_eq!(agent.number.epoch(), 1);

    // A pod that comes gets a record; one that goes loses it.
    let next = cluster.pod("next", "node-a", "default", Where::Pod);
    agent
        .until_it_holds(&["node", "route/node-b", &web, &next])
        .await;
    let delete = [
        "delete",
        "pod",
        "web",
        "-n",
        NAMESPACE,
        "--force",
        "--grace-period=0",
    ];
    cluster.server.kubectl(&delete).unwrap();
    agent.until_it_holds(&["node", "route/node-b", &next]).await;

    // The taint of ours goes, the other stays, and the other node keeps both.
    let taints = |node: &str| cluster.get(&["node", node, "-o", "jsonpath={.spec.taints[*].key}"]);
    eventually("the startup taint is gone", || {
        !taints("node-a").contains(TAINT)
    })
    .await;
    assert!(taints("node-a").contains("example.com/other"));
    assert!(taints("node-b").contains(TAINT));

    // A node whose pod CIDR overlaps is told so and not routed.
    cluster.node("node-c", "10.0.1.0/25", "192.0.2.3");
    cluster.node("node-d", "10.0.4.0/24", "192.0.2.4");
    agent
        .until_it_holds(&["node", "route/node-b", "route/node-d", &next])
        .await;
    let mut loser = Agent::new(&cluster, "node-c");
    loser
        .served(
            &all,
            &["node", "route/node-a", "route/node-b", "route/node-d"],
        )
        .await;
    let problem = format!("{:?}", loser.entries);
    assert!(
        problem.contains("overlaps 10.0.1.0/24 of node node-a"),
        "{problem}"
    );

    // What it says about itself.
    let info = |path: &str| {
        let path = format!("jsonpath={path}");
        let get = ["get", "controllerinfo", "controller-0", "-o", &path];
        cluster
            .server
            .kubectl(&get)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    eventually("the ControllerInfo leads", || {
        info("{.status.leader}") == "true"
    })
    .await;
    assert_eq!(info("{.status.address}"), controller.address.to_string());
    let metrics = controller.asked("/metrics").await;
    assert!(
        metrics.contains("carrick_controller_startup_taints_removed_total"),
        "{metrics}"
    );
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_the_nodes_agents_are_refused() {
    let cluster = Cluster::start();
    cluster.pod("stranger", "node-a", "other", Where::Host);
    let controller = cluster.controller("controller-0").await;
    let mut agent = Agent::new(&cluster, "node-a");
    agent
        .served(&[controller.address], &["node", "route/node-b"])
        .await;

    // Node b's token, stolen, for node a's stream.
    let mut thief = Agent::new(&cluster, "node-a");
    thief.token = cluster.agent_token("node-b");
    thief.open(controller.address).await.unwrap();
    match thief.drained().await {
        End::Status(status) => {
            assert_eq!(status.code(), Code::PermissionDenied);
            assert!(
                status.message().contains("bound to node node-b"),
                "{status:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(thief.held.is_empty());

    // Another account's, another audience's, one bound to nothing, and nonsense.
    let audience = ["-n", NAMESPACE, "--audience", "carrick-controller"];
    let unbound = [&["create", "token", "carrick-agent"], &audience[..]].concat();
    let tokens = [
        cluster.token("other", "stranger", "carrick-controller"),
        cluster.token(
            "carrick-agent",
            "agent-node-a",
            "https://kubernetes.default.svc",
        ),
        cluster.server.kubectl(&unbound).unwrap().trim().to_owned(),
        "nonsense".to_owned(),
    ];
    for token in tokens {
        let mut agent = Agent::new(&cluster, "node-a");
        agent.token = token;
        let status = agent.open(controller.address).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    }

    // The real agent's stream was not touched by any of them.
    let web = cluster.pod("web", "node-a", "default", Where::Pod);
    agent.until_it_holds(&["node", "route/node-b", &web]).await;
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_above_an_agents_number_is_in_the_lease_before_it_is_used() {
    let cluster = Cluster::start();
    let controller = cluster.controller("controller-0").await;
    let all = [controller.address];
    let mut agent = Agent::new(&cluster, "node-a");
    agent.served(&all, &["node", "route/node-b"]).await;
    assert_eq!(agent.number.epoch(), 1);
    // As after the Lease was deleted: another agent has numbers of a higher epoch.
    let mut elder = Agent::new(&cluster, "node-b");
    elder.number = Number::new(7, 30);
    elder.served(&all, &["node", "route/node-a"]).await;
    assert_eq!(elder.number.epoch(), 8);
    let lease = cluster.get(&["lease", "carrick-controller", "-n", NAMESPACE, "-o", "json"]);
    assert!(lease.contains(r#""carrick.dev/epoch": "8""#), "{lease}");
    // The first agent's stream stands and goes on by the new epoch.
    let web = cluster.pod("web", "node-a", "default", Where::Pod);
    agent.until_it_holds(&["node", "route/node-b", &web]).await;
    assert_eq!(agent.number.epoch(), 8);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_and_continues_the_streams() {
    let cluster = Cluster::start();
    let web = cluster.pod("web", "node-a", "default", Where::Pod);
    let first = cluster.controller("controller-0").await;
    let mut agent = Agent::new(&cluster, "node-a");
    agent
        .served(&[first.address], &["node", "route/node-b", &web])
        .await;
    let second = cluster.controller("controller-1").await;

    // The standby names the leader, from the Lease.
    let mut lost = Agent::new(&cluster, "node-b");
    let until = Instant::now() + DEADLINE;
    loop {
        lost.open(second.address).await.unwrap();
        match lost.drained().await {
            End::NotLeader(leader) if leader == first.address.to_string() => break,
            End::NotLeader(_) => assert!(Instant::now() < until, "the leader is not named"),
            other => panic!("{other:?}"),
        }
    }

    // The leader ends as a rollout ends it; a pod comes while nobody leads.
    let both = [first.address, second.address];
    let began = Instant::now();
    first.end().await;
    agent.drained().await;
    let between = cluster.pod("between", "node-a", "default", Where::Pod);
    let by = agent
        .served(&both, &["node", "route/node-b", &web, &between])
        .await;
    println!(
        "served by the standby {:?} after the leader was told to end",
        began.elapsed()
    );
    assert_eq!(by, second.address);
    assert_eq!(agent.number.epoch(), 2);
    let lease = cluster.get(&["lease", "carrick-controller", "-n", NAMESPACE, "-o", "json"]);
    assert!(lease.contains(r#""carrick.dev/epoch": "2""#), "{lease}");
    second.end().await;
}

/// A leader that dies without a word, in a runtime of its own that is dropped.
#[test]
fn a_standby_takes_over_from_a_leader_that_died() {
    let cluster = Cluster::start();
    let (first, second) = (
        tokio::runtime::Runtime::new(),
        tokio::runtime::Runtime::new(),
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    let dying = first.block_on(cluster.controller("controller-0"));
    let mut agent = Agent::new(&cluster, "node-a");
    let keys = ["node", "route/node-b"];
    second.block_on(agent.served(&[dying.address], &keys));
    let heir = second.block_on(cluster.controller("controller-1"));
    let began = Instant::now();
    first.shutdown_timeout(Duration::from_secs(1));
    second.block_on(agent.served(&[dying.address, heir.address], &keys));
    let took = began.elapsed();
    println!("served by the standby {took:?} after the leader died");
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert_eq!(agent.number.epoch(), 2);
    second.block_on(heir.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_an_api_server_closes_its_streams_at_the_deadline() {
    let mut cluster = Cluster::start();
    let controller = cluster.controller("controller-0").await;
    let all = [controller.address];
    let mut agent = Agent::new(&cluster, "node-a");
    agent.served(&all, &["node", "route/node-b"]).await;
    cluster.server.freeze().unwrap();
    let frozen = Instant::now();
    let end = agent.drained().await;
    let took = frozen.elapsed();
    assert!(matches!(end, End::NotLeader(_)), "{end:?}");
    assert!(
        took < Duration::from_secs(10),
        "served {took:?} without a lease"
    );
    println!("streams closed {took:?} after the API server froze");
    assert!(
        controller
            .asked("/readyz")
            .await
            .starts_with("HTTP/1.1 200"),
        "a warm standby"
    );

    // It comes back: the same replica leads again, by another epoch, and nothing is sent anew.
    cluster.server.thaw().unwrap();
    let held = agent.held.clone();
    agent.served(&all, &["node", "route/node-b"]).await;
    assert_eq!((agent.number.epoch(), &agent.held), (2, &held));

    // It dies and comes back: watches go on.
    cluster.server.stop_server();
    let end = agent.drained().await;
    assert!(matches!(end, End::NotLeader(_)), "{end:?}");
    cluster.server.start_server().unwrap();
    let late = cluster.pod("late", "node-a", "default", Where::Pod);
    agent.served(&all, &["node", "route/node-b", &late]).await;
    assert!(agent.number.epoch() >= 3);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_certificate_is_served_without_a_restart() {
    let cluster = Cluster::start();
    let controller = cluster.controller("controller-0").await;
    let all = [controller.address];
    let mut agent = Agent::new(&cluster, "node-a");
    agent.served(&all, &["node", "route/node-b"]).await;
    // Another CA signs; an agent trusts it once its bundle has it.
    let other = new_pki("other");
    write_leaf(cluster.dir.path(), &other);
    let mut fresh = Agent::new(&cluster, "node-b");
    fresh.ca = other.bundle();
    fresh.served(&all, &["node", "route/node-a"]).await;
    // The stream that stood stands.
    let web = cluster.pod("web", "node-a", "default", Where::Pod);
    agent.until_it_holds(&["node", "route/node-b", &web]).await;
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_ends_no_stream_and_its_successor_serves_again() {
    let cluster = Cluster::start();
    let controller = cluster.controller("controller-0").await;
    let all = [controller.address];
    let mut agent = Agent::new(&cluster, "node-a");
    agent.served(&all, &["node", "route/node-b"]).await;
    // A year lives a leaf, and its CA ten.
    let two_years_ago = Timestamp::now() - SignedDuration::from_hours(2 * 365 * 24);
    let expired = pki_made("lasting", two_years_ago);
    write_leaf(cluster.dir.path(), &expired);
    let mut late = Agent::new(&cluster, "node-b");
    late.ca = expired.bundle();
    let until = Instant::now() + DEADLINE;
    loop {
        let refused = late.open(controller.address).await.unwrap_err();
        if refused.message().contains("certificate expired") {
            break;
        }
        assert!(Instant::now() < until, "it is not served: {refused}");
        tokio::time::sleep(POLL).await;
    }
    // The stream that stood stands.
    let web = cluster.pod("web", "node-a", "default", Where::Pod);
    agent.until_it_holds(&["node", "route/node-b", &web]).await;
    // What the operator does as soon as it looks.
    let (mended, _, _) = expired
        .advance(
            "lasting",
            &leaf_names(),
            Timestamp::now(),
            &Policy::default(),
        )
        .unwrap();
    write_leaf(cluster.dir.path(), &mended);
    late.served(&all, &["node", "route/node-a"]).await;
    controller.end().await;
}

/// Sets a node's condition as a cloud's route controller does.
fn no_route(cluster: &Cluster, node: &str) {
    let status = r#"{"status":{"conditions":[
        {"type":"NetworkUnavailable","status":"True","reason":"NoRouteCreated","message":"none"},
        {"type":"MemoryPressure","status":"False","reason":"Enough","message":"some"}]}}"#;
    let patch = [
        "patch",
        "node",
        node,
        "--subresource=status",
        "--type=strategic",
        "-p",
        status,
    ];
    cluster.server.kubectl(&patch).unwrap();
}

/// Status and reason of a node's `NetworkUnavailable`, and how many conditions it has.
fn availability(cluster: &Cluster, node: &str) -> String {
    let path = "jsonpath={.status.conditions[?(@.type=='NetworkUnavailable')]['status','reason']} \
                {.status.conditions[*].type}";
    cluster.get(&["node", node, "-o", path])
}

const UNAVAILABLE: &str = "True NoRouteCreated NetworkUnavailable MemoryPressure";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_agent_is_ready_has_a_network_whatever_a_cloud_says() {
    let cluster = Cluster::start();
    for node in ["node-a", "node-b"] {
        no_route(&cluster, node);
        assert_eq!(availability(&cluster, node), UNAVAILABLE);
    }
    let controller = cluster.controller("controller-0").await;
    let mut agent = Agent::new(&cluster, "node-a");
    let all = [controller.address];
    agent.served(&all, &["node", "route/node-b"]).await;
    let available = "False CarrickIsUp NetworkUnavailable MemoryPressure";
    eventually("the node is available", || {
        availability(&cluster, "node-a") == available
    })
    .await;
    assert_eq!(
        availability(&cluster, "node-b"),
        UNAVAILABLE,
        "its agent is not ready"
    );
    // Set again, it is answered again, later.
    no_route(&cluster, "node-a");
    eventually("the node is available again", || {
        availability(&cluster, "node-a") == available
    })
    .await;
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_clouds_routes_carry_pods_its_condition_is_left_alone() {
    let cluster = Cluster::start();
    no_route(&cluster, "node-a");
    let mut config = lab::effective();
    config.traffic.mode = carrick_api::effective::TrafficMode::NoEncap;
    let controller = cluster.controller_by("controller-0", config).await;
    let mut agent = Agent::new(&cluster, "node-a");
    let all = [controller.address];
    agent.served(&all, &["node", "route/node-b"]).await;
    // What is written to ready nodes was written.
    let taints = || cluster.get(&["node", "node-a", "-o", "jsonpath={.spec.taints[*].key}"]);
    eventually("the startup taint is gone", || !taints().contains(TAINT)).await;
    assert_eq!(availability(&cluster, "node-a"), UNAVAILABLE);
    let metrics = controller.asked("/metrics").await;
    assert!(
        metrics.contains("carrick_controller_nodes_made_available_total 0"),
        "{metrics}"
    );
    controller.end().await;
}
