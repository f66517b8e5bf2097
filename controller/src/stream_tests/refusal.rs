//! What ends a stream or never opens one.

use carrick_policy::parse_network_policy_json;
use carrick_proto::v1::{self, agent_message};
use carrick_proto::{Key, Number, limits};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tonic::Code;

use crate::index::{PolicyKind, ResourceVersion};
use crate::objects::{Event, NodeObject, PolicyObject};

use super::harness::*;

#[tokio::test]
async fn a_leader_stops_at_its_deadline_though_nobody_told_its_streams() {
    let replica = Replica::standby(&[node("a", 1)], &[]).await;
    replica.lead(1);
    let mut agent = Agent::new("a");
    agent.connect(replica.address).await;
    // As after SIGSTOP: the deadline is past, the term is not yet cancelled.
    replica.throne.lead(1, Instant::now());
    replica.hub.apply(vec![Event::Pod(pod("late", "a"))]);
    assert!(matches!(agent.drained().await, End::NotLeader(_)));
    assert!(
        !agent.held.contains_key(&pod_key("late")),
        "sent after the deadline"
    );
}

#[tokio::test]
async fn addresses_of_other_nodes_are_not_believed() {
    let replica = Replica::leader(1, &[node("a", 1), node("b", 2)], &[]).await;
    let mut agent = Agent::new("a");
    agent.addresses = vec![holding("u1", "10.0.1.5"), holding("u2", "10.0.2.5")];
    agent.connect(replica.address).await;
    assert_eq!(replica.hub.figures().addresses, 1);
}

#[tokio::test]
async fn a_stolen_token_used_for_another_nodes_stream_is_refused() {
    let replica = Replica::leader(1, &[node("a", 1), node("b", 2)], &[pod("secret", "b")]).await;
    let mut thief = Agent::new("b");
    thief.token = "token-a".into();
    thief.open(replica.address).await.unwrap();
    match thief.drained().await {
        End::Status(status) => {
            assert_eq!(status.code(), Code::PermissionDenied);
            assert!(
                status
                    .message()
                    .contains("bound to node a, the stream is for node b")
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(thief.held.is_empty());
    assert_eq!(replica.hub.figures().connected, 0);
}

#[tokio::test]
async fn who_shows_no_valid_token_is_refused() {
    let replica = Replica::leader(1, &[node("a", 1)], &[]).await;
    for token in ["", "forged"] {
        let mut agent = Agent::new("a");
        agent.token = token.into();
        let status = agent.open(replica.address).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{token:?}");
    }
    replica.cluster.away(true);
    let status = Agent::new("a").open(replica.address).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn what_the_protocol_does_not_have_ends_the_stream() {
    let replica = Replica::leader(1, &[node("a", 1)], &[]).await;
    let end = |end: End| match end {
        End::Status(status) => status.code(),
        other => panic!("{other:?}"),
    };
    // No hello first.
    let mut agent = Agent::new("a");
    let first = agent_message::Message::Report(v1::AgentReport::default());
    agent.open_with(replica.address, first).await.unwrap();
    assert_eq!(end(agent.drained().await), Code::FailedPrecondition);
    // A hello that is none.
    let bad = v1::Hello {
        protocol: 1,
        node: "../a".into(),
        ..v1::Hello::default()
    };
    agent
        .open_with(replica.address, agent_message::Message::Hello(bad))
        .await
        .unwrap();
    assert_eq!(end(agent.drained().await), Code::InvalidArgument);
    // A node nobody knows (the token is for it, the Node object is gone).
    replica.cluster.token("token-x", "x");
    let mut unknown = Agent::new("x");
    unknown.open(replica.address).await.unwrap();
    assert_eq!(end(unknown.drained().await), Code::NotFound);
    // Nonsense in the middle.
    let mut agent = Agent::new("a");
    agent.connect(replica.address).await;
    let report = v1::AgentReport {
        ready: true,
        tunnel_endpoints: vec!["nowhere".into()],
    };
    agent.say(agent_message::Message::Report(report)).await;
    assert_eq!(end(agent.drained().await), Code::InvalidArgument);
    eventually("it is forgotten", || replica.hub.figures().connected == 0).await;
}

#[tokio::test]
async fn a_second_stream_of_a_node_ends_the_first() {
    let replica = Replica::leader(1, &[node("a", 1)], &[]).await;
    let (mut old, mut new) = (Agent::new("a"), Agent::new("a"));
    old.connect(replica.address).await;
    new.connect(replica.address).await;
    assert!(matches!(old.drained().await, End::Status(status) if status.code() == Code::Aborted));
    replica.see(Event::Pod(pod("u1", "a"))).await;
    new.until(|agent| agent.held.contains_key(&pod_key("u1")))
        .await;
    assert_eq!(replica.hub.figures().connected, 1);
}

#[tokio::test]
async fn a_node_that_is_gone_ends_its_stream() {
    let replica = Replica::leader(1, &[node("a", 1)], &[]).await;
    let mut agent = Agent::new("a");
    agent.connect(replica.address).await;
    replica.see(Event::NodeGone(name("a"))).await;
    assert!(matches!(agent.drained().await, End::Status(s) if s.code() == Code::NotFound));
    assert!(
        agent.held.contains_key(&Key::Node),
        "it keeps what it holds"
    );
    // Registered again with another CIDR: the same agent continues without a restart.
    replica
        .see(Event::Node(NodeObject {
            uid: "again".into(),
            ..node("a", 9)
        }))
        .await;
    eventually("the node is back", || replica.hub.figures().nodes == 1).await;
    agent.connect(replica.address).await;
    let record = &agent.held[&Key::Node];
    assert!(format!("{record:?}").contains("10.0.9.0"), "{record:?}");
}

#[tokio::test]
async fn an_agent_with_a_higher_number_is_served_by_a_higher_epoch_only() {
    let mut replica = Replica::leader(1, &[node("a", 1)], &[]).await;
    let mut agent = Agent::new("a");
    // The Lease was deleted: the new leader began at 1 while agents have numbers of epoch 7.
    agent.number = Number::new(7, 30);
    let opening = agent.open(replica.address);
    let demanded = timeout(DEADLINE, replica.demands.recv());
    let (opened, demanded) = tokio::join!(opening, demanded);
    opened.unwrap();
    assert_eq!(demanded.unwrap(), Some(7));
    assert_eq!(agent.batches, 0);
    replica.lead(8);
    agent.until(|agent| agent.complete).await;
    assert_eq!(agent.number.epoch(), 8);
}

/// One policy for all pods that are not called `l=v<i>`: every one selects by words of its own.
fn policy_of_its_own(i: usize) -> PolicyObject {
    let object = json!({
        "metadata": {"name": format!("p{i}"), "namespace": "default", "uid": format!("p{i}")},
        "spec": {"podSelector": {"matchExpressions": [
            {"key": "l", "operator": "NotIn", "values": [format!("v{i}")]},
        ]}},
    });
    let policy = parse_network_policy_json(&object).unwrap().policy;
    PolicyObject {
        name: policy.name.clone(),
        policy: Some(policy),
        version: ResourceVersion::default(),
    }
}

#[tokio::test]
async fn an_agent_is_told_why_it_is_not_told_more_than_it_takes() {
    let leader = Replica::leader(1, &[node("a", 1)], &[pod("u1", "a")]).await;
    let many: Vec<PolicyObject> = (0..=limits::GROUPS).map(policy_of_its_own).collect();
    leader
        .see(Event::Policies(PolicyKind::NetworkPolicy, many))
        .await;
    let known = || leader.hub.figures().policies > limits::GROUPS;
    eventually("all are known", known).await;
    let mut agent = Agent::new("a");
    agent.open(leader.address).await.unwrap();
    let End::Status(status) = agent.drained().await else {
        panic!("it was told more than it takes");
    };
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    let expected = format!("{} sets of policies are for one pod", limits::GROUPS + 1);
    assert!(status.message().contains(&expected), "{status}");
    assert_eq!(leader.hub.figures().connected, 0);

    // One fewer is taken.
    let gone = policy_of_its_own(0).name;
    leader.see(Event::PolicyGone(gone)).await;
    let fewer = || leader.hub.figures().policies == limits::GROUPS;
    eventually("one is gone", fewer).await;
    agent.connect(leader.address).await;
}
