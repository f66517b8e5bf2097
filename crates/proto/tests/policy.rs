//! What a node is told of policy survives the wire, whatever the policies of a random cluster say; what is hostile
//! is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

mod support;

use std::collections::BTreeMap;

use carrick_policy::{GroupKey, MemberKey, Members};
use carrick_proto::{
    Body, Delta, Entry, GroupDifference, GroupFacts, GroupHash, Invalid, Number, PodFacts, PodUid,
    v1,
};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use support::generate::{PODS, world};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn what_nodes_are_told_survives_the_wire(world in world(PODS)) {
        let index = world.index();
        for node in index.nodes() {
            let state = index.node_state(node);
            let pods = state.pods.into_values().map(|pod| Body::Pod(PodFacts {
                uid: PodUid::new(&pod.uid).unwrap(),
                namespace: pod.namespace.to_string(),
                name: pod.name.to_string(),
                labels: pod.labels,
                ports: pod.ports,
                groups: pod.groups,
            }));
            let policies = state.policies.into_values().map(Body::Policy);
            let groups = state.groups.into_iter();
            let groups = groups.map(|(group, members)| Body::Group(GroupFacts { group, members }));
            for body in pods.chain(policies).chain(groups) {
                let entry = Entry::new(body);
                let read = Entry::from_wire(entry.to_wire());
                prop_assert_eq!(read, Ok(Some(entry)));
            }
        }
    }
}

fn group() -> GroupKey {
    "addresses/062aba0419c33e2f50402d923987f00c"
        .parse()
        .unwrap()
}

fn members(owners: &[u8]) -> Members {
    let members = owners.iter().map(|owner| {
        let ports = if owner % 3 == 0 {
            named_port(*owner)
        } else {
            Vec::new()
        };
        (member(*owner), ports.into())
    });
    members.collect()
}

fn member(owner: u8) -> MemberKey {
    (format!("uid-{owner}").into(), [10, 1, 0, owner].into())
}

fn named_port(number: u8) -> Vec<carrick_policy::NamedPort> {
    vec![carrick_policy::NamedPort {
        name: "web".into(),
        protocol: carrick_policy::Protocol::Tcp,
        port: u16::from(number) + 1,
    }]
}

fn owners() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::btree_set(0_u8..40, 0..20).prop_map(|set| set.into_iter().collect())
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn differences_survive_the_wire_and_lead_to_the_hash_of_the_whole(before in owners(), after in owners()) {
        let (before, after) = (members(&before), members(&after));
        let mut hash = GroupHash::of(&group(), &before);
        let removed: BTreeMap<_, _> = before.iter().filter(|(member, _)| !after.contains_key(*member)).collect();
        let added: Members = after
            .iter()
            .filter(|(member, _)| !before.contains_key(*member))
            .map(|(member, ports)| (member.clone(), ports.clone()))
            .collect();
        for (member, ports) in &removed {
            hash.remove(member, ports);
        }
        for (member, ports) in &added {
            hash.add(member, ports);
        }
        let whole = Entry::new(Body::Group(GroupFacts { group: group(), members: after }));
        prop_assert_eq!(hash.content_hash(), whole.hash());
        let delta = Delta {
            number: Number::new(1, 1),
            groups: vec![GroupDifference {
                group: group(),
                hash: whole.hash(),
                removed: removed.into_keys().cloned().collect(),
                added,
            }],
            ..Delta::default()
        };
        prop_assert_eq!(Delta::try_from(delta.to_wire()), Ok(delta));
    }
}

#[test]
fn a_hostile_difference_is_refused() {
    let difference = || v1::GroupDifference {
        group: group().to_string(),
        hash: vec![0; 16],
        added: vec![],
        removed: vec![v1::GroupMember {
            owner: "uid-1".into(),
            address: "10.1.0.1".into(),
            ports: vec![],
        }],
    };
    let read = |groups: Vec<v1::GroupDifference>, changed: Vec<v1::Record>| {
        let batch = v1::Batch {
            number: Some(v1::Number::default()),
            groups,
            changed,
            ..v1::Batch::default()
        };
        Delta::try_from(batch)
    };
    assert!(read(vec![difference()], vec![]).is_ok());
    let whole = Entry::new(Body::Group(GroupFacts {
        group: group(),
        members: Members::new(),
    }));
    assert!(read(vec![difference(), difference()], vec![]).is_err());
    assert!(read(vec![difference()], vec![whole.to_wire()]).is_err());
    let wrong: [fn(&mut v1::GroupDifference); 5] = [
        |wrong| wrong.group = "later/1".into(),
        |wrong| wrong.hash.truncate(15),
        |wrong| wrong.removed[0].address = "10.1.0".into(),
        |wrong| wrong.removed[0].owner = "a".repeat(254),
        |wrong| wrong.removed[0].ports.push(v1::NamedPort::default()),
    ];
    for (number, change) in wrong.into_iter().enumerate() {
        let mut wrong = difference();
        change(&mut wrong);
        assert!(read(vec![wrong], vec![]).is_err(), "{number}");
    }
}

fn rule(change: impl FnOnce(&mut v1::PolicyRule)) -> Result<Option<Entry>, Invalid> {
    let mut rule = v1::PolicyRule {
        direction: v1::Direction::Egress.into(),
        action: v1::Action::Accept.into(),
        any_peer: true,
        any_port: true,
        ..v1::PolicyRule::default()
    };
    change(&mut rule);
    rule.any_port = rule.ports.is_empty();
    Entry::from_wire(v1::Record {
        key: "policy/default/web".into(),
        hash: Vec::new(),
        body: Some(v1::record::Body::Policy(v1::PolicyRecord {
            namespace: "default".into(),
            name: "web".into(),
            uid: "uid".into(),
            tier: v1::Tier::NetworkPolicy.into(),
            applied_to: "applied-to/062aba0419c33e2f50402d923987f00c".into(),
            rules: vec![rule],
            ..v1::PolicyRecord::default()
        })),
    })
}

/// What is done to a rule.
type Change = Box<dyn FnOnce(&mut v1::PolicyRule)>;

#[test]
fn a_rule_that_does_not_say_what_it_must_is_refused() {
    let fine = rule(|_| {}).unwrap().unwrap();
    let Body::Policy(policy) = fine.into_body() else {
        panic!("a policy");
    };
    assert_eq!(policy.rules.len(), 1);
    let port = |protocol: v1::Protocol, first, last, name: &str| v1::PortMatch {
        protocol: protocol.into(),
        first,
        last,
        name: name.into(),
    };
    let (tcp, any) = (v1::Protocol::Tcp, v1::Protocol::Unspecified);
    let wrong: Vec<Change> = vec![
        Box::new(|rule| rule.direction = 7),
        Box::new(|rule| rule.action = 0),
        Box::new(|rule| rule.groups.push("pods/x".into())),
        Box::new(|rule| rule.domains.push("localhost".into())),
        Box::new(|rule| rule.networks.push(v1::Network::default())),
        Box::new(|rule| {
            rule.networks.push(v1::Network {
                cidr: "10.0.0.0/8".into(),
                except: vec!["11.0.0.0/16".into()],
            });
        }),
        Box::new(move |rule| rule.ports.push(port(any, 80, 80, ""))),
        Box::new(move |rule| rule.ports.push(port(tcp, 81, 80, ""))),
        Box::new(move |rule| rule.ports.push(port(tcp, 0, 80, ""))),
        Box::new(move |rule| rule.ports.push(port(tcp, 80, 65_536, ""))),
        Box::new(move |rule| rule.ports.push(port(tcp, 0, 0, "HTTP"))),
    ];
    for (number, change) in wrong.into_iter().enumerate() {
        assert!(rule(change).is_err(), "{number}");
    }
}
