use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::objects::{PodNetwork, PodObject, PodPeer};

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn node(text: &str, created: i64, cidrs: &[&str], address: &str) -> NodeObject {
    NodeObject {
        name: name(text),
        uid: format!("uid-{text}-{created}"),
        created,
        pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        bad_cidr: None,
        addresses: vec![address.parse().unwrap()],
        tainted: false,
        unavailable: false,
        labels: std::collections::BTreeMap::new(),
        peer: NodePeer::default(),
    }
}

fn pod(uid: &str, node: &str) -> PodObject {
    PodObject {
        uid: PodUid::new(uid).unwrap(),
        runtime_uid: PodUid::new(uid).unwrap(),
        created: 0,
        namespace: "default".into(),
        name: format!("pod-{uid}"),
        node: name(node),
        network: PodNetwork::Attached,
        peer: PodPeer::default(),
    }
}

/// The records an index means, by playing its changes into a map.
#[derive(Default)]
struct World {
    index: Index,
    records: BTreeMap<(Scope, Key), Arc<Entry>>,
}

impl World {
    fn with_services(cidrs: &[&str]) -> Self {
        let cidrs = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        Self {
            index: Index::new(cidrs),
            ..Self::default()
        }
    }

    fn see(&mut self, event: Event) -> &mut Self {
        let mut changes = vec![];
        self.index.apply(event, &mut changes);
        let changes = self.index.settle(changes);
        self.play(changes.records);
        self
    }

    fn report(&mut self, node: &str, endpoints: &[&str]) -> &mut Self {
        let report = NodeReport {
            ready: true,
            tunnel_endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
        };
        let mut changes = vec![];
        self.index.reported(&name(node), &report, &mut changes);
        self.play(changes);
        self
    }

    fn play(&mut self, changes: Vec<Change>) {
        for Change { scope, key, record } in changes {
            match record {
                Some(record) => self.records.insert((scope, key), record),
                None => self.records.remove(&(scope, key)),
            };
        }
    }

    fn routes(&self) -> Vec<String> {
        self.records
            .values()
            .filter_map(|record| match record.body() {
                Body::Route(route) => Some(format!(
                    "{} {:?} via {:?}",
                    route.node, route.pod_cidrs, route.tunnel_endpoints
                )),
                _ => None,
            })
            .collect()
    }

    fn problem(&self, node: &str) -> Option<String> {
        let record = self.records.get(&(Scope::Own(name(node)), Key::Node))?;
        match record.body() {
            Body::Node(node) => node.problem.clone(),
            _ => None,
        }
    }

    fn pods(&self, node: &str) -> Vec<String> {
        self.records
            .iter()
            .filter(|((scope, key), _)| {
                *scope == Scope::Own(name(node)) && matches!(key, Key::Pod(_))
            })
            .map(|((_, key), record)| match record.body() {
                Body::Pod(pod) => format!("{key} {}/{}", pod.namespace, pod.name),
                _ => unreachable!(),
            })
            .collect()
    }
}

#[test]
fn a_node_gives_itself_a_record_and_everyone_a_route() {
    let mut world = World::default();
    world.see(Event::Node(node(
        "a",
        1,
        &["10.0.0.0/24", "fd00::/64"],
        "192.0.2.1",
    )));
    assert_eq!(
        world.routes(),
        ["a [10.0.0.0/24, fd00::/64] via [192.0.2.1]"]
    );
    assert_eq!(world.problem("a"), None);
    world.see(Event::NodeGone(name("a")));
    assert!(world.records.is_empty());
}

#[test]
fn the_stream_beats_the_agentinfo_and_that_the_node() {
    let mut world = World::default();
    world.see(Event::Node(node("a", 1, &["10.0.0.0/24"], "192.0.2.1")));
    let via = |world: &World| world.routes()[0].split(" via ").nth(1).unwrap().to_owned();
    assert_eq!(via(&world), "[192.0.2.1]");
    world.see(Event::Info(name("a"), vec!["192.0.2.2".parse().unwrap()]));
    assert_eq!(via(&world), "[192.0.2.2]");
    world.report("a", &["192.0.2.3", "fd00::3"]);
    assert_eq!(via(&world), "[192.0.2.3, fd00::3]");
    world.report("a", &[]);
    assert_eq!(via(&world), "[192.0.2.2]");
    world.see(Event::Infos(vec![]));
    assert_eq!(via(&world), "[192.0.2.1]");
}

#[test]
fn a_pod_cidr_that_overlaps_an_earlier_nodes_is_not_programmed() {
    let mut world = World::default();
    // The later registration is seen first: the order of events decides nothing.
    world.see(Event::Node(node("b", 2, &["10.0.0.0/24"], "192.0.2.2")));
    assert_eq!(world.routes().len(), 1);
    world.see(Event::Node(node("a", 1, &["10.0.0.0/16"], "192.0.2.1")));
    assert_eq!(world.routes(), ["a [10.0.0.0/16] via [192.0.2.1]"]);
    let problem = world.problem("b").unwrap();
    assert!(
        problem.contains("10.0.0.0/24 overlaps 10.0.0.0/16 of node a")
            && problem.contains("delete this Node object"),
        "{problem}"
    );
    assert_eq!(world.problem("a"), None);
    // With the first gone, the second is fine.
    world.see(Event::NodeGone(name("a")));
    assert_eq!(world.problem("b"), None);
    assert_eq!(world.routes(), ["b [10.0.0.0/24] via [192.0.2.2]"]);
}

#[test]
fn a_pod_cidr_in_the_service_range_is_not_programmed() {
    let mut world = World::with_services(&["10.96.0.0/12"]);
    world.see(Event::Node(node("a", 1, &["10.100.0.0/24"], "192.0.2.1")));
    assert!(world.routes().is_empty());
    assert!(
        world
            .problem("a")
            .unwrap()
            .contains("overlaps the Service range 10.96.0.0/12")
    );
}

#[test]
fn a_node_without_a_usable_pod_cidr_says_what_is_missing() {
    let mut world = World::default();
    world.see(Event::Node(node("a", 1, &[], "192.0.2.1")));
    assert!(
        world
            .problem("a")
            .unwrap()
            .contains("--allocate-node-cidrs")
    );
    let bad = NodeObject {
        bad_cidr: Some("10.0.0.1/24".into()),
        ..node("a", 1, &[], "192.0.2.1")
    };
    world.see(Event::Node(bad));
    assert!(world.problem("a").unwrap().contains("10.0.0.1/24"));
    assert!(world.routes().is_empty());
}

#[test]
fn a_reregistered_node_is_another_one() {
    let mut world = World::default();
    world.see(Event::Node(node("a", 1, &["10.0.0.0/24"], "192.0.2.1")));
    world.see(Event::Node(node("a", 5, &["10.0.9.0/24"], "192.0.2.9")));
    assert_eq!(world.routes(), ["a [10.0.9.0/24] via [192.0.2.9]"]);
    world.see(Event::Node(node("b", 6, &["10.0.0.0/24"], "192.0.2.2")));
    assert_eq!(world.problem("b"), None);
}

#[test]
fn pods_have_records_where_they_run() {
    let mut world = World::default();
    world
        .see(Event::Pod(pod("u1", "a")))
        .see(Event::Pod(pod("u2", "b")));
    assert_eq!(world.pods("a"), ["pod/u1 default/pod-u1"]);
    world.see(Event::Pod(PodObject {
        network: PodNetwork::Detached,
        ..pod("u1", "a")
    }));
    assert!(world.pods("a").is_empty());
    world.see(Event::Pods(vec![pod("u3", "a")]));
    assert_eq!((world.pods("a").len(), world.pods("b").len()), (1, 0));
    world.see(Event::PodGone(PodUid::new("u3").unwrap()));
    assert!(world.records.is_empty() && world.index.by_runtime.is_empty());
}

#[test]
fn a_forged_mirror_pod_does_not_take_a_static_pods_record() {
    let mut world = World::default();
    let hash = PodUid::new("hash").unwrap();
    let mirror = PodObject {
        runtime_uid: hash.clone(),
        created: 1,
        ..pod("mirror", "a")
    };
    let forged = PodObject {
        runtime_uid: hash,
        created: 2,
        ..pod("forged", "a")
    };
    world
        .see(Event::Pod(forged.clone()))
        .see(Event::Pod(mirror));
    assert_eq!(world.pods("a"), ["pod/hash default/pod-mirror"]);
    world.see(Event::PodGone(forged.uid));
    assert_eq!(world.pods("a"), ["pod/hash default/pod-mirror"]);
}

proptest! {
    /// Whatever the order of events, the records are those of a fresh index that sees only the end.
    #[test]
    fn records_depend_on_the_end_not_on_the_way(
        steps in proptest::collection::vec((0u8..6, 0i64..4, 0u8..8, any::<bool>()), 1..60)
    ) {
        let mut world = World::with_services(&["10.7.0.0/16"]);
        let mut nodes = BTreeMap::new();
        for (who, created, net, gone) in steps {
            let who = format!("n{who}");
            if gone {
                nodes.remove(&who);
                world.see(Event::NodeGone(name(&who)));
            } else {
                // Nested and equal CIDRs meet often.
                let cidr = if net < 4 { format!("10.{net}.0.0/16") } else { format!("10.{}.1.0/24", net - 4 ) };
                let object = node(&who, created, &[&cidr], "192.0.2.1");
                nodes.insert(who, object.clone());
                world.see(Event::Node(object));
            }
        }
        let mut fresh = World::with_services(&["10.7.0.0/16"]);
        fresh.see(Event::Nodes(nodes.into_values().collect()));
        prop_assert_eq!(world.records, fresh.records);
    }
}
