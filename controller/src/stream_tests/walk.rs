//! The walk-throughs.

use carrick_proto::v1::agent_message;
use carrick_proto::{Key, NodeReport, PodUid};

use crate::objects::{Event, NodeObject};

use super::harness::*;

#[tokio::test]
async fn a_new_agent_gets_its_node_the_routes_and_its_pods() {
    let nodes = [node("a", 1), node("b", 2)];
    let replica = Replica::leader(1, &nodes, &[pod("u1", "a"), pod("u2", "b")]).await;
    let mut agent = Agent::new("a");
    agent.connect(replica.address).await;
    assert_eq!(agent.keys(), ["node", "route/b", "pod/u1"]);
    assert_eq!(agent.batches, 1);
    assert_eq!(agent.number.epoch(), 1);
    let at = agent.number;
    eventually("the acknowledgement counts", || {
        replica
            .hub
            .agents()
            .first()
            .is_some_and(|seen| seen.realized == at)
    })
    .await;
}

#[tokio::test]
async fn walk_leader_change() {
    let (nodes, pods) = ([node("a", 1), node("b", 2)], [pod("u1", "a")]);
    let first = Replica::leader(1, &nodes, &pods).await;
    let second = Replica::standby(&nodes, &pods).await;
    let mut agent = Agent::new("a");
    agent.connect(first.address).await;
    let (held, records) = (agent.held.clone(), agent.records);

    // The standby says where to go.
    second.throne.follow(Some(first.address.to_string()));
    let mut lost = Agent::new("b");
    lost.open(second.address).await.unwrap();
    let told = lost.drained().await;
    assert!(
        matches!(&told, End::NotLeader(to) if *to == first.address.to_string()),
        "{told:?}"
    );
    assert_eq!(second.cluster.reviews(), 0, "a standby asks nothing");

    // The leader loses its lease: it closes, and sends nothing more.
    first.throne.follow(None);
    assert!(matches!(agent.drained().await, End::NotLeader(to) if to.is_empty()));

    // The next one continues the agent's stream and sends nothing but its number.
    second.lead(2);
    agent.connect(second.address).await;
    assert_eq!((agent.held.clone(), agent.records), (held, records));
    assert_eq!(agent.number.epoch(), 2);

    // And then goes on with what is new.
    second.see(Event::Pod(pod("u2", "a"))).await;
    agent
        .until(|agent| agent.held.contains_key(&pod_key("u2")))
        .await;
}

#[tokio::test]
async fn walk_agent_restart() {
    let nodes = [node("a", 1), node("b", 2)];
    let replica = Replica::leader(4, &nodes, &[pod("u1", "a"), pod("u2", "a")]).await;
    let mut agent = Agent::new("a");
    agent.connect(replica.address).await;
    // It goes away with what is on its disk; meanwhile one pod goes, one comes, a node moves.
    agent.link = None;
    let moved = NodeObject {
        addresses: vec![[192, 0, 2, 77].into()],
        ..node("b", 2)
    };
    replica.hub.apply(vec![
        Event::PodGone(PodUid::new("u1").unwrap()),
        Event::Pod(pod("u3", "a")),
        Event::Node(moved),
    ]);
    let before = agent.records;
    agent.connect(replica.address).await;
    assert_eq!(agent.keys(), ["node", "route/b", "pod/u2", "pod/u3"]);
    assert_eq!(agent.records - before, 3, "only what differs");
    assert_eq!(
        replica.cluster.lists(),
        0,
        "the leader saw u1 go: nothing is doubtful"
    );
}

#[tokio::test]
async fn walk_absent_controller() {
    // Nobody leads: the agent is told so, keeps what it holds, and is served when there is a leader.
    let (nodes, pods) = ([node("a", 1)], [pod("u1", "a")]);
    let replica = Replica::standby(&nodes, &pods).await;
    let mut agent = Agent::new("a");
    for _ in 0..3 {
        agent.open(replica.address).await.unwrap();
        assert!(matches!(agent.drained().await, End::NotLeader(to) if to.is_empty()));
    }
    assert_eq!(agent.batches, 0);
    replica.lead(1);
    agent.connect(replica.address).await;
    assert_eq!(agent.keys(), ["node", "pod/u1"]);
}

#[tokio::test]
async fn walk_pod_created_during_a_leader_change() {
    let nodes = [node("a", 1)];
    let first = Replica::leader(1, &nodes, &[]).await;
    let second = Replica::standby(&nodes, &[]).await;
    let mut agent = Agent::new("a");
    agent.connect(first.address).await;
    first.throne.follow(None);
    agent.drained().await;
    // Created while nobody leads: the standby's watch sees it, the next leader sends it.
    second.see(Event::Pod(pod("between", "a"))).await;
    eventually("the standby's caches are warm", || {
        second.hub.figures().pods == 1
    })
    .await;
    second.lead(2);
    agent.connect(second.address).await;
    agent
        .until(|agent| agent.held.contains_key(&pod_key("between")))
        .await;
}

#[tokio::test]
async fn a_new_leader_that_is_behind_takes_no_pods_record_away() {
    let nodes = [node("a", 1), node("b", 2)];
    // The first leader sent a record and a route the second has not seen yet.
    let first = Replica::leader(1, &nodes, &[pod("fresh", "a"), pod("old", "a")]).await;
    let mut agent = Agent::new("a");
    agent.connect(first.address).await;
    first.throne.follow(None);
    agent.drained().await;

    let second = Replica::leader(2, &[node("a", 1)], &[]).await;
    // At the API server the pod and the node exist; the other pod is gone, unseen by this replica.
    second.cluster.pod("a", "fresh");
    second.cluster.node("b");
    agent.connect(second.address).await;
    agent
        .until(|agent| !agent.held.contains_key(&pod_key("old")))
        .await;
    assert_eq!(
        agent.keys(),
        ["node", "route/b", "pod/fresh"],
        "removed on evidence only"
    );
    assert_eq!(
        second.cluster.lists(),
        2,
        "one list of pods, one look at nodes"
    );
    // The watch arrives: nothing changes for the agent.
    let records = agent.records;
    second.see(Event::Pod(pod("fresh", "a"))).await;
    second.see(Event::Pod(pod("next", "a"))).await;
    agent
        .until(|agent| agent.held.contains_key(&pod_key("next")))
        .await;
    assert!(agent.records - records <= 2);
    second
        .see(Event::PodGone(PodUid::new("fresh").unwrap()))
        .await;
    agent
        .until(|agent| !agent.held.contains_key(&pod_key("fresh")))
        .await;
}

#[tokio::test]
async fn without_the_api_server_nothing_doubtful_is_taken_away() {
    let nodes = [node("a", 1)];
    let first = Replica::leader(1, &nodes, &[pod("u1", "a")]).await;
    let mut agent = Agent::new("a");
    agent.connect(first.address).await;
    first.throne.follow(None);
    agent.drained().await;
    let second = Replica::leader(2, &nodes, &[]).await;
    // It knows the token from a moment ago.
    let mut earlier = Agent::new("a");
    earlier.connect(second.address).await;
    second.cluster.away(true);
    agent.connect(second.address).await;
    eventually("the look has failed", || second.cluster.lists() > 0).await;
    second.see(Event::Node(node("b", 2))).await;
    let route = Key::Route(name("b"));
    agent.until(|agent| agent.held.contains_key(&route)).await;
    assert!(agent.held.contains_key(&pod_key("u1")));
}

#[tokio::test]
async fn walk_reused_address() {
    let replica = Replica::leader(1, &[node("a", 1)], &[pod("u1", "a")]).await;
    let mut agent = Agent::new("a");
    agent.addresses = vec![holding("u1", "10.0.1.5")];
    agent.connect(replica.address).await;
    assert_eq!(replica.hub.figures().addresses, 1);

    // The pod goes: its address is released, and free when every span has acknowledged (none has
    // heard of it today).
    agent.change(&[], &[release(1, "u1", "10.0.1.5")]).await;
    agent.until(|agent| agent.freed("10.0.1.5", 1)).await;
    assert_eq!(replica.hub.figures().addresses, 0);

    // The next pod gets it and releases it, too. Whatever is said of the first release by then names
    // the first: the agent knows that it is not the last.
    agent.change(&[holding("u2", "10.0.1.5")], &[]).await;
    let late = [release(1, "u1", "10.0.1.5"), release(2, "u0", "10.0.1.6")];
    agent.change(&[], &late).await;
    agent.until(|agent| agent.freed("10.0.1.6", 2)).await;
    assert_eq!(replica.hub.figures().addresses, 1, "u2 has it");
    agent.change(&[], &[release(3, "u2", "10.0.1.5")]).await;
    agent.until(|agent| agent.freed("10.0.1.5", 3)).await;
    assert_eq!(replica.hub.figures().addresses, 0);
}

#[tokio::test]
async fn a_new_leader_is_told_what_was_released_before_it_led() {
    let nodes = [node("a", 1)];
    let first = Replica::leader(1, &nodes, &[]).await;
    let mut agent = Agent::new("a");
    agent.connect(first.address).await;
    first.throne.follow(None);
    agent.drained().await;
    // Nobody leads while a pod goes; another one's address has been in quarantine for long.
    agent.addresses = vec![holding("u3", "10.0.1.7")];
    agent.released = vec![release(4, "u1", "10.0.1.5"), release(9, "u2", "10.0.1.6")];
    // Of another node's range: not its own to release.
    agent.released.push(release(10, "u4", "10.0.2.9"));
    let second = Replica::leader(2, &nodes, &[]).await;
    agent.connect(second.address).await;
    agent
        .until(|agent| agent.freed("10.0.1.5", 4) && agent.freed("10.0.1.6", 9))
        .await;
    assert_eq!(agent.freed.len(), 2, "{:?}", agent.freed);
    assert_eq!(second.hub.figures().addresses, 1);
}

#[tokio::test]
async fn an_old_sandbox_that_goes_leaves_the_new_ones_address() {
    let replica = Replica::leader(1, &[node("a", 1)], &[pod("u1", "a")]).await;
    let mut agent = Agent::new("a");
    agent.addresses = vec![holding("u1", "10.0.1.5")];
    agent.connect(replica.address).await;
    // The sandbox is made again before the old one is taken down.
    agent.change(&[holding("u1", "10.0.1.6")], &[]).await;
    agent.change(&[], &[release(1, "u1", "10.0.1.5")]).await;
    agent.until(|agent| agent.freed("10.0.1.5", 1)).await;
    assert_eq!(replica.hub.figures().addresses, 1);
}

#[tokio::test]
async fn a_report_moves_tunnels_and_readiness() {
    let tainted = NodeObject {
        tainted: true,
        ..node("a", 1)
    };
    let replica = Replica::leader(1, &[tainted, node("b", 2)], &[]).await;
    let (mut a, mut b) = (Agent::new("a"), Agent::new("b"));
    a.report.ready = false;
    a.connect(replica.address).await;
    b.connect(replica.address).await;
    assert!(replica.hub.ready_nodes(|node| node.tainted).is_empty());
    let report = NodeReport {
        ready: true,
        tunnel_endpoints: vec![[198, 51, 100, 1].into()],
    };
    a.say(agent_message::Message::Report(report.into())).await;
    b.until(|agent| format!("{:?}", agent.held).contains("198.51.100.1"))
        .await;
    assert_eq!(replica.hub.ready_nodes(|node| node.tainted), [name("a")]);
}
