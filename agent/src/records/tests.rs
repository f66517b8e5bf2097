use super::*;
use carrick_policy::{GroupUpdate, MemberKey, Members};
use carrick_proto::{GroupDifference, NodeName, PodUid};

fn pod(uid: &str, name: &str) -> Entry {
    Entry::new(Body::Pod(PodFacts {
        uid: PodUid::new(uid).unwrap(),
        namespace: "default".into(),
        name: name.into(),
        labels: BTreeMap::new(),
        ports: Arc::default(),
        groups: Vec::new(),
    }))
}

fn route(node: &str) -> Entry {
    Entry::new(Body::Route(RouteFacts {
        node: NodeName::new(node).unwrap(),
        pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
        tunnel_endpoints: vec!["192.0.2.1".parse().unwrap()],
    }))
}

fn delta(sequence: u64, changed: Vec<Entry>, removed: Vec<Key>) -> Delta {
    Delta {
        number: Number::new(1, sequence),
        changed,
        removed,
        ..Delta::default()
    }
}

fn reference(uid: &str, name: &str) -> PodRef {
    PodRef {
        namespace: "default".into(),
        name: name.into(),
        uid: uid.into(),
    }
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.journal");
    let (store, report) = RecordStore::open(path.clone()).unwrap();
    assert_eq!(report.recovery, Recovery::Created);
    store
        .commit(&delta(1, vec![pod("u1", "a"), route("b")], vec![]))
        .unwrap();
    store
        .commit(&delta(2, vec![pod("u2", "c")], vec![pod("u1", "a").key()]))
        .unwrap();
    let before = store.committed();
    drop(store);
    let (store, report) = RecordStore::open(path).unwrap();
    assert_eq!(
        report,
        OpenReport {
            recovery: Recovery::Intact,
            refused: None
        }
    );
    assert_eq!(store.committed(), before);
    assert_eq!(before.number(), Number::new(1, 2));
    assert!(before.pod(&reference("u2", "c")).is_some());
    assert!(before.pod(&reference("u1", "a")).is_none());
}

#[test]
fn an_older_number_is_never_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = RecordStore::open(directory.path().join("r")).unwrap();
    store
        .commit(&delta(5, vec![pod("u1", "a")], vec![]))
        .unwrap();
    let older = store.commit(&delta(4, vec![], vec![pod("u1", "a").key()]));
    assert!(matches!(older, Err(CommitError::Older { .. })));
    assert!(store.committed().pod(&reference("u1", "a")).is_some());
    let newer_epoch = Delta {
        number: Number::new(2, 0),
        ..delta(0, vec![], vec![pod("u1", "a").key()])
    };
    store.commit(&newer_epoch).unwrap();
    assert!(store.committed().is_empty());
}

#[test]
fn damage_keeps_what_is_whole_and_claims_no_number() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.journal");
    let (store, _) = RecordStore::open(path.clone()).unwrap();
    store
        .commit(&delta(1, vec![pod("u1", "a")], vec![]))
        .unwrap();
    store
        .commit(&delta(2, vec![pod("u2", "b")], vec![]))
        .unwrap();
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    let (store, report) = RecordStore::open(path.clone()).unwrap();
    assert!(matches!(report.recovery, Recovery::Corrupt { .. }));
    let committed = store.committed();
    assert_eq!(committed.number(), Number::NOTHING);
    assert!(committed.pod(&reference("u2", "b")).is_some());
    drop(store);
    let (store, report) = RecordStore::open(path).unwrap();
    assert_eq!(report.recovery, Recovery::Intact);
    assert_eq!(store.committed(), committed);
}

#[test]
fn a_static_pod_is_found_by_its_name_and_no_other_is() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = RecordStore::open(directory.path().join("r")).unwrap();
    store
        .commit(&delta(1, vec![pod("0d5ff2b9-1f3c", "web-0")], vec![]))
        .unwrap();
    let committed = store.committed();
    assert!(
        committed
            .pod(&reference("3c1b2a3c1b2a3c1b2a3c1b2a3c1b2a3c", "web-0"))
            .is_some()
    );
    assert!(committed.pod(&reference("another-uid", "web-0")).is_none());
}

#[test]
fn many_batches_are_compacted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r");
    let (store, _) = RecordStore::open(path.clone()).unwrap();
    {
        let mut inner = store.inner.lock();
        inner.committed = Arc::new(Committed {
            number: Number::new(1, 1),
            entries: (0..9000)
                .map(|i| pod(&format!("u{i}"), "p"))
                .map(|entry| (entry.key(), Arc::new(entry)))
                .collect(),
            ..Committed::default()
        });
        inner.compact().unwrap();
    }
    let before = store.committed();
    drop(store);
    assert_eq!(RecordStore::open(path).unwrap().0.committed(), before);
}

fn group() -> GroupKey {
    "addresses/00112233445566778899aabbccddeeff"
        .parse()
        .unwrap()
}

fn member(owner: u16) -> MemberKey {
    let [high, low] = owner.to_be_bytes();
    (format!("uid-{owner}").into(), [10, 1, high, low].into())
}

fn members(owners: impl IntoIterator<Item = u16>) -> Members {
    let owners = owners.into_iter();
    owners
        .map(|owner| (member(owner), Arc::default()))
        .collect()
}

fn whole(owners: impl IntoIterator<Item = u16>) -> Entry {
    Entry::new(Body::Group(GroupFacts {
        group: group(),
        members: members(owners),
    }))
}

/// A batch that makes the group what `after` are.
fn difference(sequence: u64, removed: &[u16], added: &[u16], after: &[u16]) -> Delta {
    Delta {
        groups: vec![GroupDifference {
            group: group(),
            hash: whole(after.iter().copied()).hash(),
            removed: removed.iter().copied().map(member).collect(),
            added: members(added.iter().copied()),
        }],
        ..delta(sequence, vec![], vec![])
    }
}

#[test]
fn a_difference_of_a_group_survives_a_restart_and_a_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records.journal");
    let (store, _) = RecordStore::open(path.clone()).unwrap();
    let first = Delta {
        complete: true,
        ..delta(1, vec![whole([1, 2])], vec![])
    };
    store.commit(&first).unwrap();
    let update = store.take().1;
    assert_eq!(update.groups[&group()], GroupUpdate::Whole(members([1, 2])));
    assert_eq!(store.take().1, NodeUpdate::default());
    store.commit(&difference(2, &[1], &[3], &[2, 3])).unwrap();
    store.commit(&difference(3, &[2], &[1], &[1, 3])).unwrap();
    let (before, update) = store.take();
    let Some(GroupUpdate::Whole(all)) = update.groups.get(&group()) else {
        panic!("three of two are touched: {update:?}");
    };
    assert_eq!(*all, members([1, 3]));
    assert!(before.is_whole());
    for compacted in [false, true] {
        drop(std::mem::replace(
            &mut *store.inner.lock(),
            RecordStore::open(path.clone())
                .unwrap()
                .0
                .inner
                .into_inner(),
        ));
        assert_eq!(store.committed(), before, "{compacted}");
        let (_, update) = store.take();
        assert_eq!(update.groups[&group()], GroupUpdate::Whole(members([1, 3])));
        store.inner.lock().compact().unwrap();
    }
}

#[test]
fn one_member_more_of_a_large_group_is_one_member() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = RecordStore::open(directory.path().join("r")).unwrap();
    store
        .commit(&delta(1, vec![whole(0..100)], vec![]))
        .unwrap();
    store.take();
    let after: Vec<u16> = (0..101).collect();
    store.commit(&difference(2, &[], &[100], &after)).unwrap();
    let expected = GroupUpdate::Difference {
        removed: vec![],
        added: members([100]),
    };
    assert_eq!(store.take().1.groups[&group()], expected);
    store
        .commit(&delta(3, vec![], vec![Key::Group(group())]))
        .unwrap();
    assert_eq!(store.take().1.groups[&group()], GroupUpdate::Gone);
}

#[test]
fn a_difference_that_does_not_fit_changes_nothing_and_the_group_is_asked_for_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = RecordStore::open(directory.path().join("r")).unwrap();
    let not_held = store.commit(&difference(1, &[], &[1], &[1])).unwrap_err();
    let is = |error: &CommitError, misfit| matches!(error, CommitError::Misfit { source, .. } if *source == misfit);
    assert!(is(&not_held, Misfit::NotHeld), "{not_held}");
    store.commit(&delta(1, vec![whole([1])], vec![])).unwrap();
    let key = Key::Group(group());
    assert!(store.held().1.contains_key(&key));
    let with_pod = Delta {
        changed: vec![pod("u1", "a")],
        ..difference(2, &[], &[2], &[1, 2, 3])
    };
    let other = store.commit(&with_pod).unwrap_err();
    assert!(is(&other, Misfit::OtherHash), "{other}");
    assert_eq!(store.committed().number(), Number::new(1, 1));
    assert!(store.committed().pod(&reference("u1", "a")).is_none());
    assert!(!store.held().1.contains_key(&key));
    // The same group whole, though nothing of it is new.
    store.commit(&delta(2, vec![whole([1])], vec![])).unwrap();
    assert!(store.held().1.contains_key(&key));
}

#[test]
fn a_difference_that_does_not_fit_in_the_journal_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r");
    let (store, _) = RecordStore::open(path.clone()).unwrap();
    let first = Delta {
        complete: true,
        ..delta(1, vec![whole([1])], vec![])
    };
    store.commit(&first).unwrap();
    let wrong = difference(2, &[], &[2], &[1]).to_wire().encode_to_vec();
    store.inner.lock().journal.append(&wrong).unwrap();
    drop(store);
    let (store, report) = RecordStore::open(path).unwrap();
    assert_eq!(report.refused.map(|(count, _)| count), Some(1));
    let committed = store.committed();
    assert_eq!(committed.number(), Number::NOTHING);
    assert!(!committed.is_whole());
    assert_eq!(
        store.take().1.groups[&group()],
        GroupUpdate::Whole(members([1]))
    );
}
