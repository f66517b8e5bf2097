//! Whose an address is, and when it may be another's.

use carrick_policy::parse_network_policy_json;
use carrick_proto::Key;
use serde_json::json;

use crate::index::ResourceVersion;
use crate::objects::{Event, NamespaceObject, PodObject, PolicyObject};

use super::harness::*;

/// Pods of the namespace may be reached by those with the label `peer`.
fn from_peers() -> Event {
    let object = json!({
        "metadata": {"name": "from-peers", "namespace": "default", "uid": "from-peers"},
        "spec": {
            "podSelector": {},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"peer": "yes"}}}]}],
        },
    });
    let policy = parse_network_policy_json(&object).unwrap().policy;
    Event::Policy(PolicyObject {
        name: policy.name.clone(),
        policy: Some(policy),
        version: ResourceVersion::default(),
    })
}

fn namespace() -> Event {
    Event::Namespace(NamespaceObject {
        facts: carrick_policy::Namespace {
            name: "default".into(),
            labels: std::collections::BTreeMap::new(),
        },
        version: ResourceVersion::default(),
    })
}

/// A pod with the label, whose status names these addresses.
fn peer(uid: &str, on: &str, status: &[&str]) -> PodObject {
    let mut object = pod(uid, on);
    object.peer.labels.insert("peer".into(), "yes".into());
    object.peer.addresses = status.iter().map(|text| text.parse().unwrap()).collect();
    object
}

/// A leader with a peer `u1` on node a, and a pod on node b that it may reach.
async fn leader(epoch: u64, status: &[&str]) -> Replica {
    let pods = [peer("u1", "a", status), pod("u2", "b")];
    let leader = Replica::leader(epoch, &[node("a", 1), node("b", 2)], &pods).await;
    leader.see(namespace()).await;
    leader.see(from_peers()).await;
    leader
}

#[tokio::test]
async fn an_address_is_a_members_as_soon_as_its_agent_says_so() {
    let leader = leader(1, &[]).await;
    let (mut a, mut b) = (Agent::new("a"), Agent::new("b"));
    b.connect(leader.address).await;
    a.connect(leader.address).await;
    a.change(&[holding("u1", "10.0.1.5")], &[]).await;
    b.until(|agent| agent.names("10.0.1.5")).await;
}

#[tokio::test]
async fn an_address_rests_until_every_node_that_was_told_of_it_has_forgotten_it() {
    let leader = leader(1, &["10.0.1.5"]).await;
    let (mut a, mut b) = (Agent::new("a"), Agent::new("b"));
    a.addresses.push(holding("u1", "10.0.1.5"));
    b.connect(leader.address).await;
    a.connect(leader.address).await;
    b.until(|agent| agent.names("10.0.1.5")).await;
    eventually("both have acknowledged", || {
        leader.hub.figures().behind == 0
    })
    .await;

    a.change(&[], &[release(1, "u1", "10.0.1.5")]).await;
    let waits = || leader.hub.figures().quarantined == 1;
    eventually("it rests", waits).await;
    // Node a holds the group, too, and forgets.
    a.until(|agent| !agent.names("10.0.1.5")).await;
    assert!(waits(), "node b has not forgotten it");
    b.until(|agent| !agent.names("10.0.1.5")).await;
    a.until(|agent| agent.freed("10.0.1.5", 1)).await;
    assert_eq!(leader.hub.figures().quarantined, 0);
}

#[tokio::test]
async fn an_address_that_was_given_back_is_no_members_whatever_the_status_says() {
    let leader = leader(1, &["10.0.1.5"]).await;
    let (mut a, mut b) = (Agent::new("a"), Agent::new("b"));
    a.addresses.push(holding("u1", "10.0.1.5"));
    b.connect(leader.address).await;
    a.connect(leader.address).await;
    b.until(|agent| agent.names("10.0.1.5")).await;
    a.change(&[], &[release(1, "u1", "10.0.1.5")]).await;
    b.until(|agent| !agent.names("10.0.1.5")).await;

    // The kubelet's next report names it still; so does a new stream's first.
    let mut late = peer("u1", "a", &["10.0.1.5"]);
    late.peer.labels.insert("more".into(), "labels".into());
    leader.see(Event::Pod(late)).await;
    leader.see(Event::Pod(peer("u3", "b", &["10.0.2.9"]))).await;
    b.until(|agent| agent.names("10.0.2.9")).await;
    assert!(!b.names("10.0.1.5"));
    a.addresses.clear();
    a.connect(leader.address).await;
    leader
        .see(Event::Pod(peer("u4", "b", &["10.0.2.10"])))
        .await;
    b.until(|agent| agent.names("10.0.2.10")).await;
    assert!(!b.names("10.0.1.5"));
}

#[tokio::test]
async fn nothing_waits_for_an_agent_that_is_away() {
    let leader = leader(1, &["10.0.1.5"]).await;
    let (mut a, mut b) = (Agent::new("a"), Agent::new("b"));
    a.addresses.push(holding("u1", "10.0.1.5"));
    b.connect(leader.address).await;
    a.connect(leader.address).await;
    b.until(|agent| agent.names("10.0.1.5")).await;
    b.link = None;
    eventually("b is away", || leader.hub.figures().connected == 1).await;
    a.change(&[], &[release(1, "u1", "10.0.1.5")]).await;
    a.until(|agent| !agent.names("10.0.1.5")).await;
    assert_eq!(leader.hub.figures().quarantined, 0);
    assert!(!a.freed("10.0.1.5", 1), "node b may name it still");
}

#[tokio::test]
async fn nothing_waits_for_a_node_that_is_gone() {
    let leader = leader(1, &["10.0.1.5"]).await;
    let (mut a, mut b) = (Agent::new("a"), Agent::new("b"));
    a.addresses.push(holding("u1", "10.0.1.5"));
    b.connect(leader.address).await;
    a.connect(leader.address).await;
    b.until(|agent| agent.names("10.0.1.5")).await;
    b.link = None;
    eventually("b is away", || leader.hub.figures().connected == 1).await;
    // While b has to forget an address, its Node goes: by a listing, which names only who is there.
    leader.see(Event::PodGone(peer("u1", "a", &[]).uid)).await;
    a.until(|agent| !agent.names("10.0.1.5")).await;
    leader.see(Event::Nodes(vec![node("a", 1)])).await;
    let alone = || leader.hub.figures().nodes == 1;
    eventually("the node is gone", alone).await;
    // Its pod is still there, so its ledger is; nobody reads it.
    leader
        .see(Event::Pod(peer("u5", "b", &["10.0.2.20"])))
        .await;
    leader.see(Event::PodGone(peer("u5", "b", &[]).uid)).await;
    a.change(&[], &[release(1, "u1", "10.0.1.5")]).await;
    a.until(|agent| agent.freed("10.0.1.5", 1)).await;
}

#[tokio::test]
async fn a_new_leader_takes_no_address_away_before_its_agent_was_heard() {
    let first = leader(1, &[]).await;
    let (mut a, mut b) = (Agent::new("a"), Agent::new("b"));
    a.addresses.push(holding("u1", "10.0.1.5"));
    a.connect(first.address).await;
    b.connect(first.address).await;
    b.until(|agent| agent.names("10.0.1.5")).await;
    first.throne.follow(None);

    // It knows the pod's status only, which names no address yet.
    let pods = [peer("u1", "a", &[]), pod("u2", "b")];
    let second = Replica::standby(&[node("a", 1), node("b", 2)], &pods).await;
    second.see(namespace()).await;
    second.see(from_peers()).await;
    let infos = ["a", "b"].map(|text| (name(text), vec![]));
    second.see(Event::Infos(infos.into())).await;
    let known = || second.hub.figures().policies == 1;
    eventually("everything is known", known).await;
    second.lead(2);
    let before = b.members_by_key();
    b.open(second.address).await.unwrap();
    let greeted = || second.hub.figures().connected == 1;
    eventually("b was heard", greeted).await;
    a.connect(second.address).await;
    b.until(|agent| agent.complete).await;
    assert_eq!(b.members_by_key(), before);
    assert!(b.held.keys().any(|key| matches!(key, Key::Group(_))));
}

#[tokio::test]
async fn a_new_leader_does_not_wait_for_agents_that_are_away() {
    let replica = Replica::standby(&[node("a", 1), node("b", 2)], &[]).await;
    let infos = ["a", "b"].map(|text| (name(text), vec![]));
    replica.see(Event::Infos(infos.into())).await;
    let known = || replica.hub.figures().nodes == 2;
    eventually("nodes are known", known).await;
    replica.lead(1);
    let mut a = Agent::new("a");
    a.connect(replica.address).await;
}
