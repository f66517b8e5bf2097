use carrick_policy::{GroupKey, MemberKey, Members};
use carrick_proto::GroupHash;

use super::*;

fn node(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn key() -> GroupKey {
    "addresses/062aba0419c33e2f50402d923987f00c"
        .parse()
        .unwrap()
}

fn member(n: u16) -> MemberKey {
    let [high, low] = n.to_be_bytes();
    (format!("u{n}").into(), [10, 0, high, low].into())
}

fn members(all: impl IntoIterator<Item = u16>) -> Members {
    let all = all.into_iter();
    all.map(|n| (member(n), Arc::default())).collect()
}

fn nodes(names: &[&str]) -> Vec<NodeName> {
    names.iter().map(|name| node(name)).collect()
}

fn publish(log: &mut Log, change: GroupChange) -> BTreeSet<NodeName> {
    let groups = vec![change];
    let records = Vec::new();
    log.publish(Changes { records, groups }, |_| None).nodes
}

fn whole(all: impl IntoIterator<Item = u16>, told: &[&str]) -> GroupChange {
    GroupChange {
        group: key(),
        members: Some(MembersChange::Whole(members(all))),
        told: nodes(told),
        kept: Vec::new(),
        lost: Vec::new(),
    }
}

fn difference(removed: &[u16], added: &[u16], kept: &[&str]) -> GroupChange {
    let removed = removed.iter().map(|n| member(*n)).collect();
    let added = members(added.iter().copied());
    GroupChange {
        group: key(),
        members: Some(MembersChange::Difference { removed, added }),
        told: Vec::new(),
        kept: nodes(kept),
        lost: Vec::new(),
    }
}

#[test]
fn who_needs_a_group_gets_it_whole_and_then_by_difference() {
    let mut log = Log::default();
    let start = log.position();
    assert_eq!(
        publish(&mut log, whole([1, 2, 3], &["a", "b"])),
        BTreeSet::from([node("a"), node("b")])
    );
    let before = log.position();
    assert_eq!(log.since(&node("a"), start).unwrap().changed.len(), 1);
    let concerned = publish(&mut log, difference(&[1], &[4], &["a", "b"]));
    assert_eq!(concerned, BTreeSet::from([node("a"), node("b")]));
    publish(&mut log, difference(&[2], &[], &["a", "b"]));
    let lacking = log.since(&node("a"), before).unwrap();
    let expected = GroupDifference {
        group: key(),
        hash: GroupHash::of(&key(), &members([3, 4])).content_hash(),
        removed: vec![member(1), member(2)],
        added: members([4]),
    };
    assert_eq!(lacking.groups, [expected]);
    assert!(lacking.changed.is_empty() && lacking.removed.is_empty());
    assert_eq!(
        log.since(&node("a"), log.position()),
        Ok(Lacking::default())
    );
    // A node that needs it since later than its position gets the whole.
    let told = GroupChange {
        members: None,
        ..whole([], &["c"])
    };
    let seen = log.position();
    assert_eq!(publish(&mut log, told), BTreeSet::from([node("c")]));
    assert_eq!(
        log.since(&node("a"), seen),
        Ok(Lacking::default()),
        "nobody else hears of that"
    );
    let all = log.since(&node("c"), seen).unwrap();
    assert_eq!(
        all.changed[0].hash(),
        GroupHash::of(&key(), &members([3, 4])).content_hash()
    );
}

#[test]
fn members_that_are_as_they_were_get_no_number() {
    let mut log = Log::default();
    publish(&mut log, whole([1], &["a"]));
    let number = log.number();
    assert!(publish(&mut log, difference(&[7], &[1], &["a"])).is_empty());
    assert_eq!(log.number(), number);
}

#[test]
fn a_node_behind_what_is_remembered_of_a_group_gets_the_whole() {
    let mut log = Log::default();
    publish(&mut log, whole(0..4, &["a"]));
    let early = log.position();
    for n in 100..140 {
        publish(&mut log, difference(&[], &[n], &["a"]));
        publish(&mut log, difference(&[n], &[], &["a"]));
    }
    let late = log.position();
    publish(&mut log, difference(&[0], &[], &["a"]));
    let lacking = log.since(&node("a"), early).unwrap();
    assert_eq!((lacking.changed.len(), lacking.groups.len()), (1, 0));
    let lacking = log.since(&node("a"), late).unwrap();
    assert_eq!((lacking.changed.len(), lacking.groups.len()), (0, 1));
}

#[test]
fn a_group_that_nobody_needs_is_forgotten() {
    let mut log = Log::default();
    publish(&mut log, whole([1], &["a", "b"]));
    let before = log.position();
    let lost = |name: &str| GroupChange {
        members: None,
        told: Vec::new(),
        lost: nodes(&[name]),
        ..whole([], &[])
    };
    assert_eq!(publish(&mut log, lost("a")), BTreeSet::from([node("a")]));
    assert_eq!(log.groups.len(), 1);
    publish(&mut log, lost("b"));
    assert_eq!(log.groups.len(), 0);
    assert_eq!(log.len(), 0);
    // Its ledger has nothing else and went with it; a node that exists has its Node there.
    assert_eq!(log.since(&node("a"), before), Err(Lagging));
}

#[test]
fn a_resumption_compares_a_groups_hash() {
    let mut log = Log::default();
    publish(&mut log, whole([1, 2], &["a"]));
    let key_of = Key::Group(key());
    let held = |all: &[u16]| {
        let hash = GroupHash::of(&key(), &members(all.iter().copied()));
        BTreeMap::from([(key_of.clone(), hash.content_hash())])
    };
    let lacks = |held| log.resume(&node("a"), &held).lacking.changed.len();
    assert_eq!(lacks(held(&[1, 2])), 0);
    assert_eq!(lacks(held(&[1])), 1);
    assert_eq!(lacks(BTreeMap::new()), 1);
}
