//! Policies and groups as a controller tells of them.

use std::sync::Arc;

use carrick_policy::{
    Action, Direction, EnforcedPolicy, GroupKey, Isolation, MemberKey, Members, NamedPort, Network,
    Peers, PolicyName, PortMatch, Protocol, Rule, Tier,
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
        ports: vec![NamedPort {
            name: "web".into(),
            protocol: Protocol::Tcp,
            port: 8080,
        }]
        .into(),
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

/// A ClusterNetworkPolicy that has rules of every form and changes nothing that these tests look at: ports by
/// number, range and name, and ranges of addresses with exceptions.
pub fn manifold_record() -> Entry {
    let ports = [
        PortMatch::Range(Protocol::Tcp, 81, 81),
        PortMatch::Range(Protocol::Udp, 1000, 1999),
        PortMatch::Protocol(Protocol::Sctp),
        PortMatch::Named(None, "web".into()),
    ];
    let ranges = [
        ("192.0.2.0/24", "192.0.2.128/25"),
        ("2001:db8::/32", "2001:db8:1::/48"),
    ];
    let rule = |direction, action| Rule {
        direction,
        position: 0,
        name: Some("of every form".into()),
        action,
        peers: Peers {
            any: false,
            groups: vec![peers()].into(),
            networks: ranges
                .iter()
                .map(|(cidr, except)| Network::parse(cidr, &[(*except).to_owned()]).unwrap())
                .collect(),
            domains: Box::default(),
        },
        ports: Some(ports.clone().into()),
    };
    Entry::new(Body::Policy(Arc::new(EnforcedPolicy {
        name: PolicyName::cluster("manifold"),
        uid: "uid-manifold".into(),
        tier: Tier::Admin,
        priority: 10,
        applied_to: subjects(),
        isolation: Isolation::default(),
        rules: vec![
            rule(Direction::Ingress, Action::Deny),
            rule(Direction::Egress, Action::Pass),
        ]
        .into(),
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
