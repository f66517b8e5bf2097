//! Policies and groups as a controller tells of them.

use std::sync::Arc;

use carrick_policy::{
    Action, Direction, EnforcedPolicy, GroupKey, Isolation, MemberKey, Members, Peers, PolicyName,
    Rule, Tier,
};
use carrick_proto::{Body, Entry, GroupFacts, PodFacts, PodUid};

use super::Pod;

/// Those that policies of these tests are for.
pub fn subjects() -> GroupKey {
    "applied-to/00112233445566778899aabbccddeeff"
        .parse()
        .unwrap()
}

/// Those that their rules name.
pub fn peers() -> GroupKey {
    "addresses/00112233445566778899aabbccddeeff"
        .parse()
        .unwrap()
}

/// The record of a pod that [`subjects`] has.
pub fn subject_record(pod: &Pod) -> Entry {
    Entry::new(Body::Pod(PodFacts {
        uid: PodUid::new(&pod.uid).unwrap(),
        namespace: "default".into(),
        name: pod.name.clone(),
        labels: Default::default(),
        ports: Arc::default(),
        groups: vec![subjects()],
    }))
}

/// A NetworkPolicy that isolates the subjects in a direction, and accepts the peers if it names them.
pub fn policy_record(name: &str, direction: Direction, with_peers: bool) -> Entry {
    let rule = Rule {
        direction,
        position: 0,
        name: None,
        action: Action::Accept,
        peers: Peers {
            any: false,
            groups: vec![peers()].into(),
            networks: Box::default(),
            domains: Box::default(),
        },
        ports: None,
    };
    Entry::new(Body::Policy(Arc::new(EnforcedPolicy {
        name: PolicyName::namespaced("default", name),
        uid: format!("uid-{name}").into(),
        tier: Tier::NetworkPolicy,
        priority: 0,
        applied_to: subjects(),
        isolation: Isolation {
            ingress: direction == Direction::Ingress,
            egress: direction == Direction::Egress,
        },
        rules: if with_peers {
            vec![rule].into()
        } else {
            Box::default()
        },
    })))
}

/// A pod's address as a member.
pub fn member(pod: &Pod, address: &str) -> MemberKey {
    (pod.uid.as_str().into(), address.parse().unwrap())
}

/// The record of the group of peers.
pub fn peers_record(members: &[MemberKey]) -> Entry {
    Entry::new(Body::Group(GroupFacts {
        group: peers(),
        members: all(members),
    }))
}

/// Members without names of ports.
pub fn all(members: &[MemberKey]) -> Members {
    let members = members.iter();
    members
        .map(|member| (member.clone(), Arc::default()))
        .collect()
}
