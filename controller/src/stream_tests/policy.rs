//! Policies on the stream, across leaders.

use carrick_policy::{PolicyName, parse_network_policy_json};
use carrick_proto::{Body, Key};
use serde_json::json;

use crate::index::{Listed, ResourceVersion};
use crate::objects::{Event, PolicyObject};

use super::harness::*;

/// Nobody may reach pods of the namespace.
fn deny_all() -> PolicyObject {
    let object = json!({
        "metadata": {"name": "deny", "namespace": "default", "uid": "deny"},
        "spec": {"podSelector": {}},
    });
    let policy = parse_network_policy_json(&object).unwrap().policy;
    PolicyObject {
        name: policy.name.clone(),
        policy: Some(policy),
        version: ResourceVersion::of(Some("7")),
    }
}

fn key() -> Key {
    Key::Policy(PolicyName::namespaced("default", "deny"))
}

/// An agent that was told of the policy by a leader that is gone.
async fn told() -> Agent {
    let first = Replica::leader(1, &[node("a", 1)], &[pod("u1", "a")]).await;
    first.see(Event::Policy(deny_all())).await;
    let mut agent = Agent::new("a");
    agent.open(first.address).await.unwrap();
    agent.until(|agent| agent.held.contains_key(&key())).await;
    first.throne.follow(None);
    agent.drained().await;
    agent
}

#[tokio::test]
async fn a_pods_record_comes_with_its_policies() {
    let agent = told().await;
    let record = agent.held.values().find_map(|entry| match entry.body() {
        Body::Pod(pod) => Some(pod.groups.clone()),
        _ => None,
    });
    let policy = agent.held.get(&key()).map(carrick_proto::Entry::body);
    let Some(Body::Policy(policy)) = policy else {
        panic!("no policy: {policy:?}");
    };
    assert_eq!(record, Some(vec![policy.applied_to]));
}

#[tokio::test]
async fn a_new_leader_that_is_behind_takes_no_policy_away() {
    let mut agent = told().await;
    let second = Replica::leader(2, &[node("a", 1)], &[pod("u1", "a")]).await;
    second
        .cluster
        .policy(PolicyName::namespaced("default", "deny"));
    agent.connect(second.address).await;
    eventually("it was looked for", || second.cluster.lists() > 0).await;
    second.see(Event::Pod(pod("u2", "a"))).await;
    let uid = carrick_proto::PodUid::new("u2").unwrap();
    let other = Key::Pod(uid);
    agent.until(|agent| agent.held.contains_key(&other)).await;
    assert!(agent.held.contains_key(&key()));
}

#[tokio::test]
async fn a_policy_that_went_while_nobody_led_is_taken_away() {
    let mut agent = told().await;
    let second = Replica::leader(2, &[node("a", 1)], &[pod("u1", "a")]).await;
    agent.connect(second.address).await;
    agent.until(|agent| !agent.held.contains_key(&key())).await;
}

/// The policy as the API server has it, in some version.
fn listed(version: &str) -> Listed {
    let name = PolicyName::namespaced("default", "deny");
    Listed {
        policies: vec![(name, ResourceVersion::of(Some(version)))],
        namespace: None,
    }
}

#[tokio::test]
async fn a_new_pod_waits_for_a_policy_that_was_there_before_it() {
    let leader = Replica::leader(1, &[node("a", 1)], &[]).await;
    leader.cluster.listed("default", listed("7"));
    let mut agent = Agent::new("a");
    agent.connect(leader.address).await;
    leader.see(Event::Pod(pod("u1", "a"))).await;
    eventually("it was asked for", || leader.cluster.questions() > 0).await;
    assert_eq!(leader.hub.figures().withheld, 1);
    leader.see(Event::Policy(deny_all())).await;
    agent
        .until(|agent| agent.held.contains_key(&pod_key("u1")))
        .await;
    assert!(agent.held.contains_key(&key()), "open before its policy");
    assert_eq!(leader.hub.figures().withheld, 0);
}

#[tokio::test]
async fn a_new_pod_waits_for_the_version_that_was_there_before_it() {
    let leader = Replica::leader(1, &[node("a", 1)], &[]).await;
    leader.see(Event::Policy(deny_all())).await;
    leader.cluster.listed("default", listed("8"));
    leader.see(Event::Pod(pod("u1", "a"))).await;
    let asked_twice = || leader.cluster.questions() > 1;
    eventually("it was asked for again", asked_twice).await;
    assert_eq!(leader.hub.figures().withheld, 1);
    let newer = PolicyObject {
        version: ResourceVersion::of(Some("9")),
        ..deny_all()
    };
    leader.see(Event::Policy(newer)).await;
    let mut agent = Agent::new("a");
    agent.open(leader.address).await.unwrap();
    agent
        .until(|agent| agent.held.contains_key(&pod_key("u1")))
        .await;
}

#[tokio::test]
async fn a_policy_that_was_read_and_went_holds_no_pod_back() {
    let leader = Replica::leader(1, &[node("a", 1)], &[]).await;
    leader.cluster.listed("default", listed("7"));
    leader.see(Event::Pod(pod("u1", "a"))).await;
    eventually("it was asked for", || leader.cluster.questions() > 0).await;
    leader.cluster.listed("default", Listed::default());
    let mut agent = Agent::new("a");
    agent.open(leader.address).await.unwrap();
    agent
        .until(|agent| agent.held.contains_key(&pod_key("u1")))
        .await;
}

#[tokio::test]
async fn a_new_pod_waits_while_policies_cannot_be_read() {
    let leader = Replica::leader(1, &[node("a", 1)], &[]).await;
    let mut agent = Agent::new("a");
    agent.connect(leader.address).await;
    leader.cluster.away(true);
    leader.see(Event::Pod(pod("u1", "a"))).await;
    eventually("it was asked for", || leader.cluster.questions() > 0).await;
    assert_eq!(leader.hub.figures().withheld, 1);
    leader.cluster.away(false);
    agent
        .until(|agent| agent.held.contains_key(&pod_key("u1")))
        .await;
}
