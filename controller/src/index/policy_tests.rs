//! Index and log together: an agent that applies what it is told holds what the index says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use carrick_policy::{
    GroupKey, Members, NodeState, PodRecord, Policy, parse_cluster_network_policy_json,
    parse_network_policy_json,
};
use carrick_proto::{ContentHash, GroupHash};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use serde_json::{Value, json};

use super::*;
use crate::log::{Lacking, Log, Position};
use crate::objects::{NamespaceObject, PodNetwork, PodObject, PodPeer, PolicyObject};

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn node(i: u8) -> NodeObject {
    NodeObject {
        name: name(&format!("n{i}")),
        uid: format!("n{i}"),
        created: 0,
        pod_cidrs: vec![],
        bad_cidr: None,
        addresses: vec![],
        tainted: false,
        unavailable: false,
        labels: BTreeMap::new(),
        peer: NodePeer {
            labels: BTreeMap::from([("n".to_owned(), i.to_string())]),
            addresses: vec![[192, 0, 2, i].into()],
        },
    }
}

fn pod(i: u8, on: u8, label: u8, address: bool) -> PodObject {
    let uid = PodUid::new(&format!("u{i}")).unwrap();
    PodObject {
        runtime_uid: uid.clone(),
        uid,
        created: 0,
        namespace: format!("s{}", i % 2),
        name: format!("p{i}"),
        node: name(&format!("n{on}")),
        network: PodNetwork::Attached,
        peer: PodPeer {
            labels: BTreeMap::from([("l".to_owned(), label.to_string())]),
            addresses: address
                .then_some(IpAddr::from([10, 0, 0, i]))
                .into_iter()
                .collect(),
            ports: Arc::default(),
        },
    }
}

fn namespace(i: u8, label: u8) -> NamespaceObject {
    NamespaceObject {
        facts: carrick_policy::Namespace {
            name: format!("s{i}").into(),
            labels: BTreeMap::from([("l".to_owned(), label.to_string())]),
        },
        version: ResourceVersion::default(),
    }
}

fn network_policy(i: u8, to: u8, from: u8, of: Option<u8>) -> Policy {
    let selector = |label: u8| json!({"matchLabels": {"l": label.to_string()}});
    let mut peer = json!({"podSelector": selector(from)});
    if let (Some(of), Value::Object(peer)) = (of, &mut peer) {
        peer.insert("namespaceSelector".to_owned(), selector(of));
    }
    let object = json!({
        "metadata": {"name": format!("p{i}"), "namespace": format!("s{}", i % 2), "uid": format!("p{i}")},
        "spec": {"podSelector": selector(to), "ingress": [{"from": [peer]}]},
    });
    parse_network_policy_json(&object).unwrap().policy
}

fn cluster_policy(to: u8) -> Policy {
    let nodes = json!({"matchLabels": {"n": to.to_string()}});
    let object = json!({
        "metadata": {"name": "c", "uid": "c"},
        "spec": {
            "tier": "Admin", "priority": 1,
            "subject": {"namespaces": {"matchLabels": {"l": to.to_string()}}},
            "egress": [{"action": "Deny", "to": [{"nodes": nodes}]}],
        },
    });
    parse_cluster_network_policy_json(&object).unwrap().policy
}

fn policy(policy: Policy) -> Event {
    Event::Policy(PolicyObject {
        name: policy.name.clone(),
        policy: Some(policy),
        version: ResourceVersion::default(),
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0u8..12, 0u8..3, 0u8..3, any::<bool>())
            .prop_map(|(i, on, label, address)| Event::Pod(pod(i, on, label, address))),
        3 => (0u8..12).prop_map(|i| Event::PodGone(pod(i, 0, 0, false).uid)),
        2 => (0u8..2, 0u8..3).prop_map(|(i, label)| Event::Namespace(namespace(i, label))),
        1 => (0u8..2).prop_map(|i| Event::NamespaceGone(namespace(i, 0).facts.name)),
        4 => (0u8..5, 0u8..3, 0u8..3, proptest::option::of(0u8..3))
            .prop_map(|(i, to, from, of)| policy(network_policy(i, to, from, of))),
        2 => (0u8..5).prop_map(|i| Event::PolicyGone(network_policy(i, 0, 0, None).name)),
        1 => (0u8..3).prop_map(|to| policy(cluster_policy(to))),
        1 => Just(Event::PolicyGone(cluster_policy(0).name)),
        1 => (0u8..5, 0u8..3).prop_map(|(i, to)| {
            let all = [network_policy(i, to, 0, None)].map(|policy| PolicyObject {
                name: policy.name.clone(),
                policy: Some(policy),
        version: ResourceVersion::default(),
            });
            Event::Policies(PolicyKind::NetworkPolicy, all.into())
        }),
    ]
}

/// What an agent does with what it is told.
#[derive(Default)]
struct Agent {
    records: BTreeMap<Key, Arc<Entry>>,
    groups: BTreeMap<GroupKey, Members>,
    cursor: Option<Position>,
}

impl Agent {
    fn take(&mut self, lacking: Lacking) {
        for entry in lacking.changed {
            match entry.body() {
                Body::Group(group) => {
                    drop(self.groups.insert(group.group, group.members.clone()));
                }
                _ => drop(self.records.insert(entry.key(), entry)),
            }
        }
        for difference in lacking.groups {
            let group = difference.group;
            let members = self.groups.get_mut(&group).expect("a group it holds");
            for member in &difference.removed {
                members.remove(member);
            }
            members.extend(difference.added);
            assert_eq!(
                GroupHash::of(&group, members).content_hash(),
                difference.hash
            );
        }
        for key in lacking.removed {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) {
        match key {
            Key::Group(group) => drop(self.groups.remove(group)),
            _ => drop(self.records.remove(key)),
        }
    }

    fn held(&self) -> BTreeMap<Key, ContentHash> {
        let records = self.records.iter();
        let records = records.map(|(key, entry)| (key.clone(), entry.hash()));
        let groups = self.groups.iter().map(|(group, members)| {
            let hash = GroupHash::of(group, members);
            (Key::Group(*group), hash.content_hash())
        });
        records.chain(groups).collect()
    }

    fn state(&self) -> NodeState {
        let mut state = NodeState {
            groups: self.groups.clone(),
            ..NodeState::default()
        };
        for entry in self.records.values() {
            match entry.body() {
                Body::Policy(policy) => {
                    state
                        .policies
                        .insert(policy.name.clone(), Arc::clone(policy));
                }
                Body::Pod(pod) => {
                    let record = PodRecord {
                        uid: pod.uid.as_str().into(),
                        namespace: pod.namespace.as_str().into(),
                        name: pod.name.as_str().into(),
                        labels: pod.labels.clone(),
                        ports: Arc::clone(&pod.ports),
                        groups: pod.groups.clone(),
                    };
                    state.pods.insert(Arc::clone(&record.uid), record);
                }
                _ => {}
            }
        }
        state
    }
}

#[derive(Debug, Clone)]
enum Action {
    See(Vec<Event>),
    Send(u8),
    Reconnect(u8),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => proptest::collection::vec(event(), 1..5).prop_map(Action::See),
        3 => (0u8..3).prop_map(Action::Send),
        1 => (0u8..3).prop_map(Action::Reconnect),
    ]
}

fn see(index: &mut Index, log: &mut Log, events: Vec<Event>) {
    let mut changes = Vec::new();
    for event in events {
        index.apply(event, &mut changes);
    }
    let namespaces: Vec<Arc<str>> = index.withholding().cloned().collect();
    for namespace in namespaces {
        let pods = index.withheld(&namespace);
        assert!(index.vouch(&namespace, &Listed::default(), &pods));
    }
    let changes = index.settle(changes);
    log.publish(changes, |group| index.members(group));
}

fn expected(index: &Index, node: &str) -> NodeState {
    let policies = index.policies.index();
    let node = policies.node(node);
    node.map(|node| policies.node_state(node))
        .unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_agent_holds_what_the_index_says(
        actions in proptest::collection::vec(action(), 1..80)
    ) {
        let (mut index, mut log) = (Index::default(), Log::default());
        see(&mut index, &mut log, (0..3).map(|i| Event::Node(node(i))).collect());
        let mut agents: [Agent; 3] = Default::default();
        for action in actions {
            let i = match action {
                Action::See(events) => {
                    see(&mut index, &mut log, events);
                    continue;
                }
                Action::Send(i) => {
                    let agent = &mut agents[usize::from(i)];
                    let Some(cursor) = agent.cursor else { continue };
                    let Ok(lacking) = log.since(&name(&format!("n{i}")), cursor) else {
                        agent.cursor = None;
                        continue;
                    };
                    agent.take(lacking);
                    i
                }
                Action::Reconnect(i) => {
                    let agent = &mut agents[usize::from(i)];
                    let resumption = log.resume(&name(&format!("n{i}")), &agent.held());
                    agent.take(resumption.lacking);
                    for key in &resumption.doubtful {
                        agent.remove(key);
                    }
                    i
                }
            };
            let agent = &mut agents[usize::from(i)];
            agent.cursor = Some(log.position());
            prop_assert_eq!(agent.state(), expected(&index, &format!("n{i}")));
        }
    }
}

#[test]
fn one_pod_more_in_a_group_concerns_only_who_needs_the_group() {
    let (mut index, mut log) = (Index::default(), Log::default());
    let nodes = (0..3).map(|i| Event::Node(node(i)));
    let rest = [
        Event::Namespace(namespace(0, 0)),
        Event::Pod(pod(0, 0, 1, true)),
        Event::Pod(pod(2, 1, 2, true)),
        policy(network_policy(0, 1, 2, None)),
    ];
    see(&mut index, &mut log, nodes.chain(rest).collect());
    let before = log.position();
    see(&mut index, &mut log, vec![Event::Pod(pod(4, 1, 2, true))]);
    let lacking = |i: u8| log.since(&name(&format!("n{i}")), before).unwrap();
    let (holder, home, other) = (lacking(0), lacking(1), lacking(2));
    assert_eq!((holder.changed.len(), holder.groups.len()), (0, 1));
    assert_eq!(holder.groups[0].added.len(), 1);
    assert_eq!((home.changed.len(), home.groups.len()), (1, 0));
    assert_eq!(other, Lacking::default());
}

#[test]
fn a_policy_that_is_refused_is_for_nobody() {
    let (mut index, mut log) = (Index::default(), Log::default());
    let sound = network_policy(0, 1, 2, None);
    let refused = PolicyObject {
        name: sound.name.clone(),
        policy: None,
        version: ResourceVersion::default(),
    };
    let name = sound.name.clone();
    let pod = Event::Pod(pod(0, 0, 1, true));
    see(
        &mut index,
        &mut log,
        vec![Event::Node(node(0)), pod, policy(sound)],
    );
    assert_eq!(expected(&index, "n0").policies.len(), 1);
    see(&mut index, &mut log, vec![Event::Policy(refused)]);
    assert_eq!(expected(&index, "n0").policies.len(), 0);
    assert!(index.knows_policy(&name), "it exists");
}
