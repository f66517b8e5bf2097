use std::sync::Arc;

use carrick_datapath::{Commit, CookieParts, DatapathKind, IdLedger, Kind, MAX_OBJECTS};
use carrick_policy::{EnforcedPolicy, GroupKey, Isolation, PolicyName, Tier};
use carrick_proto::{Body, Delta, Entry, Number, PodFacts, PodUid};
use tokio::sync::mpsc;

use super::driver::{Closed, PolicyDriver};
use crate::records::RecordStore;
use crate::status::Fact;

fn group() -> GroupKey {
    "applied-to/00112233445566778899aabbccddeeff"
        .parse()
        .unwrap()
}

fn pod(uid: &str, groups: Vec<GroupKey>) -> Entry {
    Entry::new(Body::Pod(PodFacts {
        uid: PodUid::new(uid).unwrap(),
        namespace: "n".into(),
        name: uid.into(),
        labels: std::collections::BTreeMap::new(),
        ports: Arc::default(),
        groups,
    }))
}

fn policy() -> Entry {
    Entry::new(Body::Policy(Arc::new(EnforcedPolicy {
        name: PolicyName::namespaced("n", "web"),
        uid: "u".into(),
        tier: Tier::NetworkPolicy,
        priority: 0,
        applied_to: group(),
        isolation: Isolation {
            ingress: true,
            egress: false,
        },
        rules: Box::default(),
    })))
}

fn commit(store: &RecordStore, sequence: u64, changed: Vec<Entry>, complete: bool) {
    let delta = Delta {
        number: Number::new(1, sequence),
        changed,
        complete,
        ..Delta::default()
    };
    store.commit(&delta).unwrap();
}

struct Bed {
    directory: tempfile::TempDir,
    store: RecordStore,
    ledger: IdLedger,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = RecordStore::open(directory.path().join("records")).unwrap();
        Self {
            directory,
            store,
            ledger: IdLedger::default(),
        }
    }

    fn driver(&self) -> PolicyDriver {
        let (_, queries) = mpsc::channel(1);
        PolicyDriver::new(&self.directory.path().join("commit"), queries)
    }
}

fn lines(driver: &mut PolicyDriver) -> Vec<String> {
    let mut commit = sample();
    driver.add_to(&mut commit).unwrap();
    commit.flows
}

fn sample() -> Commit {
    Commit {
        version: carrick_datapath::COMMIT_VERSION,
        boot_id: "b".into(),
        datapath: DatapathKind::System,
        bridge: "br-int".into(),
        flows: vec![],
        groups: vec![],
        meters: vec![],
    }
}

#[test]
fn a_pod_of_which_a_policy_has_no_id_stays_closed() {
    let mut bed = Bed::new();
    for id in 1..=u32::try_from(MAX_OBJECTS).unwrap() {
        bed.ledger.reserve(Kind::PolicyRule, id);
    }
    let records = vec![pod("with", vec![group()]), pod("without", vec![]), policy()];
    commit(&bed.store, 1, records, true);
    let mut driver = bed.driver();
    driver.learn(&bed.store, &mut bed.ledger);
    // Whether it was open before or not.
    for has_been_open in [false, true] {
        let closed = driver.admits("with", has_been_open).unwrap_err();
        assert!(matches!(closed, Closed::NoId { .. }), "{closed}");
        assert!(driver.admits("without", has_been_open).is_ok());
    }
    let fact = driver.fact();
    assert_eq!(fact.reason, "NoId");
    assert!(fact.message.contains("n/web"), "{}", fact.message);
    // Room is found without anything being told.
    bed.ledger.retain(Kind::PolicyRule, |_| true);
    driver.learn(&bed.store, &mut bed.ledger);
    assert!(driver.admits("with", false).is_ok());
    assert_eq!(driver.fact().reason, "Enforced");
}

#[test]
fn before_all_is_told_nothing_is_opened_anew_and_what_was_saved_stays() {
    let mut bed = Bed::new();
    let cookie = |kind| CookieParts { kind, object: 7 }.to_bits();
    let line =
        |kind, table: u8| format!("cookie={:#x}, table={table},ip actions=drop", cookie(kind));
    let saved = line(Kind::PolicyRule, 66);
    let mut before = sample();
    before.flows = vec![saved.clone(), line(Kind::Pod, 0), line(Kind::Service, 24)];
    let path = bed.directory.path().join("commit");
    std::fs::write(path, before.to_bytes().unwrap()).unwrap();
    let records = vec![pod("one", vec![group()]), policy()];
    commit(&bed.store, 1, records, false);
    let mut driver = bed.driver();
    driver.learn(&bed.store, &mut bed.ledger);
    assert_eq!(driver.admits("one", false), Err(Closed::NotTold));
    assert_eq!(driver.admits("one", true), Ok(()));
    assert_eq!(lines(&mut driver), [saved]);
    let Fact { reason, .. } = driver.fact();
    assert_eq!(reason, "WaitingForController");
    commit(&bed.store, 1, vec![], true);
    driver.learn(&bed.store, &mut bed.ledger);
    assert_eq!(driver.admits("one", false), Ok(()));
    assert!(lines(&mut driver).is_empty(), "its port is not open yet");
    assert_eq!(driver.fact().reason, "Enforced");
}
