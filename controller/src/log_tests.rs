use std::collections::{BTreeMap, HashSet};

use carrick_proto::{Body, NodeFacts, PodFacts, PodUid, RouteFacts};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn route(node: &str, version: u8) -> Change {
    let entry = Entry::new(Body::Route(RouteFacts {
        node: name(node),
        pod_cidrs: vec![],
        tunnel_endpoints: vec![[192, 0, 2, version].into()],
    }));
    Change {
        scope: Scope::Shared,
        key: entry.key(),
        record: Some(Arc::new(entry)),
    }
}

fn pod(node: &str, uid: &str, version: u8) -> Change {
    let entry = Entry::new(Body::Pod(PodFacts {
        uid: PodUid::new(uid).unwrap(),
        namespace: "n".into(),
        name: format!("p{version}"),
        labels: BTreeMap::new(),
        ports: Arc::default(),
        groups: Vec::new(),
    }));
    Change {
        scope: Scope::Own(name(node)),
        key: entry.key(),
        record: Some(Arc::new(entry)),
    }
}

fn node(text: &str) -> Change {
    let entry = Entry::new(Body::Node(NodeFacts {
        name: name(text),
        uid: "u".into(),
        pod_cidrs: vec![],
        addresses: vec![],
        problem: None,
        labels: std::collections::BTreeMap::new(),
    }));
    Change {
        scope: Scope::Own(name(text)),
        key: Key::Node,
        record: Some(Arc::new(entry)),
    }
}

fn gone(change: Change) -> Change {
    Change {
        record: None,
        ..change
    }
}

fn keys(lacking: &Lacking) -> (Vec<String>, Vec<String>) {
    (
        lacking
            .changed
            .iter()
            .map(|entry| entry.key().to_string())
            .collect(),
        lacking.removed.iter().map(ToString::to_string).collect(),
    )
}

#[test]
fn what_an_agent_lacks_is_what_changed_since() {
    let mut log = Log::default();
    log.lead(3);
    log.publish(
        vec![node("a"), route("a", 1), route("b", 1), pod("a", "u1", 1)],
        |_| None,
    );
    assert_eq!(log.number(), Number::new(3, 1));
    let at = log.position();
    log.publish(
        vec![route("b", 2), gone(pod("a", "u1", 1)), pod("b", "u2", 1)],
        |_| None,
    );
    let lacking = log.since(&name("a"), at).unwrap();
    assert_eq!(
        keys(&lacking),
        (vec!["route/b".into()], vec!["pod/u1".into()])
    );
    assert_eq!(
        log.since(&name("a"), log.position()),
        Ok(Lacking::default())
    );
    // Its own route is nobody's business but others'.
    assert_eq!(keys(&log.since(&name("b"), at).unwrap()).0, ["pod/u2"]);
}

#[test]
fn content_that_is_as_it_was_gets_no_number() {
    let mut log = Log::default();
    log.publish(vec![route("a", 1)], |_| None);
    let number = log.number();
    assert_eq!(
        log.publish(vec![route("a", 1), gone(pod("x", "u", 1))], |_| None),
        Concerned::default()
    );
    assert_eq!(log.number(), number);
}

#[test]
fn a_publication_concerns_whom_it_changes() {
    let mut log = Log::default();
    let concerned = log.publish(vec![pod("a", "u1", 1)], |_| None);
    assert_eq!(
        (concerned.all, concerned.nodes),
        (false, BTreeSet::from([name("a")]))
    );
    assert!(log.publish(vec![route("a", 1)], |_| None).all);
}

#[test]
fn a_resumption_compares_content() {
    let mut log = Log::default();
    log.publish(
        vec![
            route("b", 1),
            route("c", 1),
            pod("a", "u1", 1),
            pod("a", "u2", 1),
        ],
        |_| None,
    );
    log.publish(vec![gone(pod("a", "u2", 1))], |_| None);
    let hash = |change: &Change| change.record.as_ref().unwrap().hash();
    let held = BTreeMap::from([
        (route("b", 1).key, hash(&route("b", 1))),
        (route("c", 1).key, hash(&route("c", 9))),
        (pod("a", "u2", 1).key, hash(&pod("a", "u2", 1))),
        (pod("a", "u3", 1).key, hash(&pod("a", "u3", 1))),
    ]);
    let resumption = log.resume(&name("a"), &held);
    assert_eq!(
        keys(&resumption.lacking),
        (
            vec!["pod/u1".into(), "route/c".into()],
            vec!["pod/u2".into()]
        )
    );
    // Never seen here: only the API server can tell.
    assert_eq!(resumption.doubtful, BTreeSet::from([pod("a", "u3", 1).key]));
}

#[test]
fn tombstones_are_bounded_and_who_lags_behind_them_begins_anew() {
    let mut log = Log::default();
    log.publish(vec![node("a")], |_| None);
    let early = log.position();
    for i in 0..OWN_TOMBSTONES + 10 {
        let uid = format!("u{i}");
        log.publish(vec![pod("a", &uid, 1)], |_| None);
        log.publish(vec![gone(pod("a", &uid, 1))], |_| None);
    }
    assert_eq!(log.since(&name("a"), early), Err(Lagging));
    let own = &log.own[&name("a")];
    assert_eq!(own.tombstones.len(), OWN_TOMBSTONES);
    assert_eq!(own.slots.len(), OWN_TOMBSTONES + 1);
    assert_eq!(own.order.len(), own.slots.len());
    assert_eq!(log.len(), 1);
}

#[test]
fn a_node_that_went_and_came_back_begins_anew() {
    let mut log = Log::default();
    log.publish(vec![node("a"), pod("a", "u1", 1)], |_| None);
    let early = log.position();
    log.publish(vec![gone(node("a")), gone(pod("a", "u1", 1))], |_| None);
    assert!(log.own.is_empty());
    assert_eq!(log.since(&name("a"), early), Err(Lagging));
    log.publish(vec![node("a")], |_| None);
    assert_eq!(log.since(&name("a"), early), Err(Lagging));
}

#[test]
fn an_epoch_never_falls() {
    let mut log = Log::default();
    log.lead(5);
    log.lead(4);
    assert_eq!(log.number().epoch(), 5);
}

/// The naive model: everything there is, and what each agent holds.
#[derive(Default)]
struct Model {
    records: BTreeMap<(Scope, Key), Arc<Entry>>,
}

impl Model {
    fn of(&self, node: &NodeName) -> BTreeMap<Key, ContentHash> {
        self.records
            .iter()
            .filter(|((scope, key), _)| match scope {
                Scope::Shared => *key != Key::Route(node.clone()),
                Scope::Own(owner) => owner == node,
            })
            .map(|((_, key), record)| (key.clone(), record.hash()))
            .collect()
    }
}

#[derive(Debug, Clone)]
enum Action {
    Publish(Vec<(bool, u8, u8, u8, bool)>),
    Send(u8),
    Reconnect(u8),
}

fn action() -> impl Strategy<Value = Action> {
    let change = (any::<bool>(), 0u8..4, 0u8..6, 0u8..3, any::<bool>());
    prop_oneof![
        3 => proptest::collection::vec(change, 1..5).prop_map(Action::Publish),
        3 => (0u8..4).prop_map(Action::Send),
        1 => (0u8..4).prop_map(Action::Reconnect),
    ]
}

proptest! {
    /// However agents connect, lag and reconnect: an agent that was sent everything holds exactly
    /// what the naive model says it must, its number never falls, and it is sent no more than what
    /// changed since.
    #[test]
    fn agents_end_with_what_the_model_says(
        actions in proptest::collection::vec(action(), 1..120)
    ) {
        struct Agent {
            held: BTreeMap<Key, ContentHash>,
            cursor: Option<Position>,
            number: Number,
        }
        let nodes: Vec<NodeName> = (0..4).map(|i| name(&format!("n{i}"))).collect();
        let mut agents: Vec<Agent> = (0..4)
            .map(|_| Agent { held: BTreeMap::new(), cursor: None, number: Number::NOTHING })
            .collect();
        let mut log = Log::default();
        log.lead(1);
        let mut model = Model::default();
        let mut published: Vec<HashSet<(Scope, Key)>> = vec![HashSet::new()];
        for own in (0..4).map(|i| node(&format!("n{i}"))) {
            log.publish(vec![own.clone()], |_| None);
            published.push(HashSet::from([(own.scope.clone(), own.key.clone())]));
            model.records.extend(own.record.map(|record| ((own.scope, own.key), record)));
        }
        for act in actions {
            match act {
                Action::Publish(changes) => {
                    let changes: Vec<Change> = changes
                        .into_iter()
                        .map(|(shared, who, which, version, dead)| {
                            let node = format!("n{who}");
                            let change = if shared {
                                route(&node, version)
                            } else {
                                pod(&node, &format!("n{who}-u{which}"), version)
                            };
                            if dead { gone(change) } else { change }
                        })
                        .collect();
                    for Change { scope, key, record } in changes.clone() {
                        match record {
                            Some(record) => { model.records.insert((scope, key), record); }
                            None => { model.records.remove(&(scope, key)); }
                        }
                    }
                    let before = log.position();
                    log.publish(changes.clone(), |_| None);
                    if log.position() != before {
                        published.push(changes.into_iter().map(|c| (c.scope, c.key)).collect());
                    }
                }
                Action::Send(i) => {
                    let (agent, node) = (&mut agents[usize::from(i)], &nodes[usize::from(i)]);
                    let Some(cursor) = agent.cursor else { continue };
                    match log.since(node, cursor) {
                        Ok(lacking) => {
                            let fresh: HashSet<&Key> = published[usize::try_from(cursor.0).unwrap() + 1..]
                                .iter()
                                .flatten()
                                .filter(|(scope, _)| matches!(scope, Scope::Shared) || *scope == Scope::Own(node.clone()))
                                .map(|(_, key)| key)
                                .collect();
                            prop_assert!(lacking.changed.len() + lacking.removed.len() <= fresh.len());
                            for entry in &lacking.changed {
                                prop_assert!(fresh.contains(&entry.key()));
                                agent.held.insert(entry.key(), entry.hash());
                            }
                            for key in &lacking.removed {
                                agent.held.remove(key);
                            }
                            prop_assert!(log.number() >= agent.number);
                            agent.number = log.number();
                            agent.cursor = Some(log.position());
                            prop_assert_eq!(&agent.held, &model.of(node));
                        }
                        Err(Lagging) => agent.cursor = None,
                    }
                }
                Action::Reconnect(i) => {
                    let (agent, node) = (&mut agents[usize::from(i)], &nodes[usize::from(i)]);
                    let resumption = log.resume(node, &agent.held);
                    for entry in &resumption.lacking.changed {
                        prop_assert_ne!(agent.held.get(&entry.key()), Some(&entry.hash()));
                        agent.held.insert(entry.key(), entry.hash());
                    }
                    // The model stands for the API server here: what is doubtful is gone.
                    for key in resumption.lacking.removed.iter().chain(&resumption.doubtful) {
                        prop_assert!(agent.held.remove(key).is_some());
                    }
                    agent.cursor = Some(log.position());
                    agent.number = log.number();
                    prop_assert_eq!(&agent.held, &model.of(node));
                }
            }
        }
    }
}
