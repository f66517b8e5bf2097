//! What a change costs.

use std::collections::BTreeMap;

use carrick_proto::{Greeting, NodeReport, Number, PROTOCOL};

use crate::hub::Hub;
use crate::index::{Index, Listed, PolicyKind};
use crate::objects::{Event, NodeObject, PodObject};

use super::harness::*;

#[tokio::test]
async fn a_change_goes_to_whom_it_concerns_and_costs_one_batch_each() {
    let nodes: Vec<NodeObject> = (1..=40).map(|i| node(&format!("n{i}"), i)).collect();
    let replica = Replica::leader(1, &nodes, &[]).await;
    let mut agents: Vec<Agent> = (1..=40).map(|i| Agent::new(&format!("n{i}"))).collect();
    for agent in &mut agents {
        agent.connect(replica.address).await;
    }
    assert_eq!(replica.cluster.reviews(), 40, "one TokenReview an agent");
    assert_eq!(
        replica.cluster.lists(),
        0,
        "no read while nothing is doubtful"
    );
    let (batches, records) = (
        replica.metrics.batches.get(),
        replica.metrics.records_sent.get(),
    );
    // Their own record and 39 routes each.
    assert_eq!((batches, records), (40, 40 * 40));

    replica.see(Event::Pod(pod("u1", "n7"))).await;
    agents[6]
        .until(|agent| agent.held.contains_key(&pod_key("u1")))
        .await;
    assert_eq!(
        replica.metrics.batches.get() - batches,
        1,
        "a pod concerns one agent"
    );
    assert_eq!(replica.metrics.records_sent.get() - records, 1);

    // A node that joins concerns all, once each.
    replica.see(Event::Node(node("joins", 99))).await;
    for agent in &mut agents {
        agent
            .until(|agent| agent.keys().contains(&"route/joins".into()))
            .await;
    }
    assert_eq!(replica.metrics.batches.get() - batches, 1 + 40);
    assert_eq!(replica.metrics.records_sent.get() - records, 1 + 40);
}

#[tokio::test]
async fn nodes_that_join_together_are_one_batch() {
    let replica = Replica::leader(1, &[node("a", 1)], &[]).await;
    let mut agent = Agent::new("a");
    agent.connect(replica.address).await;
    for i in 2..=200 {
        replica
            .hub
            .apply(vec![Event::Node(node(&format!("n{i}"), i))]);
    }
    agent.until(|agent| agent.held.len() == 200).await;
    assert!(
        agent.batches <= 3,
        "{} batches for 199 nodes",
        agent.batches
    );
}

#[tokio::test]
async fn a_slow_agent_gets_the_end_of_the_story() {
    let replica = Replica::leader(1, &[node("a", 1), node("b", 2)], &[]).await;
    let mut agent = Agent::new("a");
    agent.connect(replica.address).await;
    // It does not read while a node's address changes 3,000 times; connections and channels take
    // a bounded number of batches.
    for i in 0..3000_u32 {
        let address = std::net::Ipv4Addr::from(0x0a80_0000 + i);
        let moved = NodeObject {
            addresses: vec![address.into()],
            ..node("b", 2)
        };
        replica.hub.apply(vec![Event::Node(moved)]);
        replica.hub.wake_everyone();
        tokio::task::yield_now().await;
    }
    let last = std::net::Ipv4Addr::from(0x0a80_0000 + 2999).to_string();
    agent
        .until(|agent| format!("{:?}", agent.held).contains(&last))
        .await;
    let held = replica.hub.figures().records;
    assert_eq!(held, 4, "history is not kept");
}

/// Prints times; asserts on counts only.
#[tokio::test]
async fn five_thousand_nodes() {
    const NODES: usize = 5000;
    const PODS: usize = 20;
    let nodes: Vec<NodeObject> = (0..NODES)
        .map(|i| NodeObject {
            name: name(&format!("node-{i}")),
            uid: format!("uid-{i}"),
            created: 1,
            pod_cidrs: vec![format!("10.{}.{}.0/24", i / 256, i % 256).parse().unwrap()],
            bad_cidr: None,
            addresses: vec![
                std::net::Ipv4Addr::from(0xac10_0000 + u32::try_from(i).unwrap()).into(),
            ],
            tainted: false,
            unavailable: false,
            labels: std::collections::BTreeMap::new(),
            peer: crate::objects::NodePeer::default(),
        })
        .collect();
    let pods: Vec<PodObject> = (0..NODES * PODS)
        .map(|i| pod(&format!("uid-{i}"), &format!("node-{}", i % NODES)))
        .collect();
    let hub = Hub::new(Index::default());
    let clock = std::time::Instant::now();
    hub.apply(vec![
        Event::Nodes(nodes),
        Event::Pods(pods),
        Event::Infos(vec![]),
        Event::Namespaces(vec![]),
        Event::Policies(PolicyKind::NetworkPolicy, vec![]),
        Event::Policies(PolicyKind::ClusterNetworkPolicy, vec![]),
    ]);
    println!(
        "{NODES} nodes and {} pods taken in: {:?}",
        NODES * PODS,
        clock.elapsed()
    );
    assert_eq!(hub.figures().records, NODES * (2 + PODS));

    let clock = std::time::Instant::now();
    let mut first = None;
    for i in 0..100 {
        let greeting = Greeting {
            protocol: PROTOCOL,
            node: name(&format!("node-{i}")),
            version: String::new(),
            number: Number::NOTHING,
            held: BTreeMap::new(),
            addresses: vec![],
            released: vec![],
            report: NodeReport::default(),
        };
        let session = hub.open(&greeting).unwrap();
        let opened = hub.resume(session, &greeting).unwrap();
        assert_eq!(opened.resumption.lacking.changed.len(), NODES + PODS);
        first.get_or_insert(opened);
    }
    println!("100 cold starts of an agent: {:?}", clock.elapsed());

    let first = first.unwrap();
    let held = first
        .resumption
        .lacking
        .changed
        .iter()
        .map(|entry| (entry.key(), entry.hash()))
        .collect();
    let greeting = Greeting {
        protocol: PROTOCOL,
        node: name("node-0"),
        version: String::new(),
        number: first.number,
        held,
        addresses: vec![],
        released: vec![],
        report: NodeReport::default(),
    };
    let clock = std::time::Instant::now();
    let session = hub.open(&greeting).unwrap();
    let resumed = hub.resume(session, &greeting).unwrap();
    println!(
        "a resumption that finds nothing to send: {:?}",
        clock.elapsed()
    );
    assert!(resumed.resumption.lacking.changed.is_empty());

    let clock = std::time::Instant::now();
    hub.apply(vec![Event::Pod(pod("one-more", "node-0"))]);
    let withheld = hub.withheld("default");
    assert!(hub.vouch("default", &Listed::default(), &withheld));
    let work = hub.work(&resumed.session).unwrap();
    println!("one more pod, to its agent's delta: {:?}", clock.elapsed());
    assert_eq!(
        (work.lacking.changed.len(), work.lacking.removed.len()),
        (1, 0)
    );
}
