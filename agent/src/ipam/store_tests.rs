use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::super::state::QUARANTINE;
use super::*;

fn key(id: u32) -> AttachmentKey {
    AttachmentKey {
        container_id: format!("c{id}"),
        ifname: "eth0".to_owned(),
    }
}

fn request(id: u32, uid: u32) -> Request {
    Request {
        key: key(id),
        netns: format!("/run/netns/{id}").into(),
        pod: PodRef {
            namespace: "default".to_owned(),
            name: format!("pod-{uid}"),
            uid: format!("uid-{uid}"),
        },
        port_mappings: vec![],
    }
}

fn open(path: &Path, cidrs: &[&str]) -> AttachmentStore {
    let (store, report) = AttachmentStore::open(path, "boot", Duration::ZERO).unwrap();
    assert!(
        !matches!(report.recovery, Recovery::Corrupt { .. }),
        "{report:?}"
    );
    assert_eq!(report.unknown_records, 0);
    store.set_pools(
        &cidrs
            .iter()
            .map(|cidr| cidr.parse().unwrap())
            .collect::<Vec<_>>(),
    );
    store
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn exhausted(result: &Result<Arc<Attachment>, StoreError>) -> bool {
    matches!(
        result,
        Err(StoreError::Allocate {
            source: AllocateError::Exhausted { .. },
            ..
        })
    )
}

#[test]
fn an_attachment_survives_a_restart_with_all_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.journal");
    let store = open(&path, &["10.0.0.0/24", "fd00::/64"]);
    let first = store.reserve(request(1, 1), Duration::ZERO).unwrap();
    assert_eq!(
        first.addresses,
        [
            "10.0.0.2".parse::<IpAddr>().unwrap(),
            "fd00::2".parse().unwrap()
        ]
    );
    assert_eq!((first.ofport, first.host_link.len()), (100, 15));
    assert_eq!(first.host_link, host_link_name(&key(1)));
    assert_eq!(first.state, AttachmentState::Adding);
    let ready = store.ready(&key(1), Duration::ZERO).unwrap();
    drop(store);
    let store = open(&path, &["10.0.0.0/24", "fd00::/64"]);
    assert_eq!(store.get(&key(1)).unwrap(), ready);
    assert_eq!(store.attachments().len(), 1);
    assert!(matches!(
        store.reserve(request(1, 1), Duration::ZERO),
        Err(StoreError::Exists { .. })
    ));
    let second = store.reserve(request(2, 2), Duration::ZERO).unwrap();
    assert_eq!(second.addresses[0].to_string(), "10.0.0.3");
    assert_eq!(second.ofport, 101);
}

#[test]
fn the_same_uid_gets_its_address_back_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("a.journal"), &["10.0.0.0/24"]);
    let first = store.reserve(request(1, 1), Duration::ZERO).unwrap();
    store.release(&key(1), Duration::ZERO);
    let other = store.reserve(request(2, 2), Duration::ZERO).unwrap();
    assert_ne!(other.addresses, first.addresses);
    let again = store.reserve(request(3, 1), Duration::ZERO).unwrap();
    assert_eq!(again.addresses, first.addresses);
}

#[test]
fn the_same_uid_gets_its_address_back_after_everybody_forgot_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.journal");
    let cidrs = ["10.0.0.0/24", "fd00::/64"];
    let mut store = open(&path, &cidrs);
    let first = store.reserve(request(1, 1), Duration::ZERO).unwrap();
    // The sandbox goes, the controller frees the address at once, other pods come; then the sandbox
    // is made again. The same when the agent was restarted, and its journal compacted, in between.
    for id in 1..40_u32 {
        let released = store.release(&key(id), Duration::ZERO).addresses.unwrap();
        let freed = released.addresses.iter().map(|a| (*a, released.release));
        store.release_quarantine(&freed.collect::<Vec<_>>(), Duration::ZERO);
        assert_eq!(store.usage().in_quarantine, 0);
        let other = store.reserve(request(1000 + id, 1000 + id), Duration::ZERO);
        assert_ne!(other.unwrap().addresses, first.addresses);
        if id % 3 == 0 {
            store.maintain(Duration::ZERO).unwrap();
            drop(store);
            store = open(&path, &cidrs);
        }
        let again = store.reserve(request(id + 1, 1), Duration::ZERO).unwrap();
        assert_eq!(again.addresses, first.addresses, "round {id}");
    }
}

#[test]
fn a_remembered_address_is_another_pods_when_it_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("a.journal"), &["10.0.0.0/29"]);
    let free = |id: u32| {
        let released = store.release(&key(id), Duration::ZERO).addresses.unwrap();
        store.release_quarantine(&[(released.addresses[0], released.release)], Duration::ZERO);
        released.addresses
    };
    store.controller_connected(Duration::ZERO);
    for id in 1..=5 {
        store.reserve(request(id, id), Duration::ZERO).unwrap();
    }
    let one = free(1);
    let taken = store.reserve(request(6, 6), Duration::ZERO).unwrap();
    assert_eq!(taken.addresses, one);
    assert!(exhausted(&store.reserve(request(7, 1), Duration::ZERO)));
    let two = free(2);
    let other = store.reserve(request(7, 1), Duration::ZERO).unwrap();
    assert_eq!(other.addresses, two);
    assert!(store.remembered().is_empty());
}

#[test]
fn what_is_remembered_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.journal");
    let store = open(&path, &["fd00::/64"]);
    let count = 200;
    for id in 0..count {
        store.reserve(request(id, id), Duration::ZERO).unwrap();
        let released = store.release(&key(id), Duration::ZERO).addresses.unwrap();
        store.release_quarantine(&[(released.addresses[0], released.release)], Duration::ZERO);
    }
    let remembered = store.remembered();
    assert_eq!(remembered.len(), 16);
    let last = remembered.last().unwrap();
    assert_eq!(last.0.uid, format!("uid-{}", count - 1));
    drop(store);
    let again: BTreeSet<_> = open(&path, &["fd00::/64"])
        .remembered()
        .into_iter()
        .collect();
    // The last end of a rest was not written: that address rests once more.
    assert!(remembered.iter().rev().skip(1).all(|f| again.contains(f)));
}

#[test]
fn a_late_word_of_the_controller_does_not_end_a_newer_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("a.journal"), &["10.0.0.0/24"]);
    store.reserve(request(1, 1), Duration::ZERO).unwrap();
    let first = store.release(&key(1), Duration::ZERO).addresses.unwrap();
    // Before the controller answers, the pod has its address again, and it is gone again.
    store.reserve(request(2, 1), Duration::ZERO).unwrap();
    let second = store.release(&key(2), Duration::ZERO).addresses.unwrap();
    assert_eq!(first.addresses, second.addresses);
    assert!(second.release > first.release);
    store.release_quarantine(&[(first.addresses[0], first.release)], Duration::ZERO);
    assert_eq!(store.usage().in_quarantine, 1);
    // A reconnect tells it again, by the same number.
    assert_eq!(store.reported_addresses().1, std::slice::from_ref(&second));
    store.release_quarantine(&[(second.addresses[0], second.release)], Duration::ZERO);
    assert_eq!(store.usage().in_quarantine, 0);
}

#[test]
fn a_released_address_rests_until_everybody_forgot_it() {
    let dir = tempfile::tempdir().unwrap();
    // Room for two pods.
    let path = dir.path().join("a.journal");
    let cidr = ["10.0.0.0/29"];
    let store = open(&path, &cidr);
    for id in 1..=5 {
        store.reserve(request(id, id), Duration::ZERO).unwrap();
    }
    store.controller_connected(seconds(10));
    assert!(exhausted(&store.reserve(request(6, 6), seconds(10))));
    let first = store.release(&key(1), seconds(20)).addresses.unwrap();
    let second = store.release(&key(2), seconds(30)).addresses.unwrap();
    // Connected: the controller decides.
    assert!(exhausted(&store.reserve(request(6, 6), seconds(79))));
    store.release_quarantine(&[(second.addresses[0], second.release)], seconds(79));
    let taken = store.reserve(request(6, 6), seconds(79)).unwrap();
    assert_eq!(taken.addresses, second.addresses);
    // An address in use is not touched by a late message.
    store.release_quarantine(&[(taken.addresses[0], second.release)], seconds(79));
    assert!(exhausted(&store.reserve(request(7, 7), seconds(79))));
    // Connected for 60 s: it is free by itself.
    let rested = store
        .reserve(request(7, 7), seconds(20) + QUARANTINE)
        .unwrap();
    assert_eq!(rested.addresses, first.addresses);
    assert_eq!(store.usage().early_reuse, 0);
    // Not connected, and nothing else left: the longest-released first.
    store.controller_lost();
    store.release(&key(4), seconds(100));
    let oldest = store.get(&key(4));
    assert!(oldest.is_none());
    store.release(&key(3), seconds(110));
    let early = store.reserve(request(8, 8), seconds(500)).unwrap();
    assert_eq!(early.addresses[0].to_string(), "10.0.0.5");
    assert_eq!(store.usage().early_reuse, 1);
    // The time without a controller does not count.
    store.controller_connected(seconds(600));
    assert!(exhausted(&store.reserve(request(9, 9), seconds(659))));
    drop(store);
    // Quarantine outlives a restart, and its time begins again.
    let store = open(&path, &cidr);
    assert_eq!((store.usage().in_use, store.usage().in_quarantine), (4, 1));
    store.controller_connected(Duration::ZERO);
    assert!(exhausted(&store.reserve(request(9, 9), seconds(59))));
    store.reserve(request(9, 9), seconds(60)).unwrap();
}

#[test]
fn another_boot_ends_every_attachment_and_keeps_addresses_for_their_pods() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.journal");
    let store = open(&path, &["10.0.0.0/24"]);
    let old = store.reserve(request(1, 1), Duration::ZERO).unwrap();
    drop(store);
    let (store, report) = AttachmentStore::open(&path, "next boot", Duration::ZERO).unwrap();
    assert_eq!(report.of_earlier_boot, 1);
    store.set_pools(&["10.0.0.0/24".parse().unwrap()]);
    assert!(store.attachments().is_empty());
    let (in_use, resting) = store.reported_addresses();
    assert!(in_use.is_empty());
    assert_eq!(resting[0].addresses, old.addresses);
    assert_ne!(
        store
            .reserve(request(2, 2), Duration::ZERO)
            .unwrap()
            .addresses,
        old.addresses
    );
    assert_eq!(
        store
            .reserve(request(3, 1), Duration::ZERO)
            .unwrap()
            .addresses,
        old.addresses
    );
    drop(store);
    let (_, report) = AttachmentStore::open(&path, "next boot", Duration::ZERO).unwrap();
    assert_eq!(report.of_earlier_boot, 0);
}

#[test]
fn another_cidr_leaves_attachments_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("a.journal"), &["10.0.0.0/24"]);
    let old = store.reserve(request(1, 1), Duration::ZERO).unwrap();
    let unusable = store.set_pools(&[
        "10.9.0.0/24".parse().unwrap(),
        "10.8.0.0/31".parse().unwrap(),
    ]);
    assert_eq!(unusable.len(), 1);
    let new = store.reserve(request(2, 2), Duration::ZERO).unwrap();
    assert_eq!(new.addresses[0].to_string(), "10.9.0.2");
    assert_eq!(store.get(&key(1)).unwrap(), old);
    // The old address is of no pool: it is not handed out, not even to its pod.
    store.release(&key(1), Duration::ZERO);
    let again = store.reserve(request(3, 1), Duration::ZERO).unwrap();
    assert_eq!(again.addresses[0].to_string(), "10.9.0.3");
}

#[test]
fn snapshots_follow_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("a.journal"), &["10.0.0.0/24"]);
    store.reserve(request(1, 1), Duration::ZERO).unwrap();
    let before = store.attachments();
    assert!(Arc::ptr_eq(&before, &store.attachments()));
    let removing = store.removing(&key(1)).unwrap();
    assert_eq!(removing.state, AttachmentState::Removing);
    assert_eq!(before[&key(1)].state, AttachmentState::Adding);
    assert_eq!(
        store.attachments()[&key(1)].state,
        AttachmentState::Removing
    );
    store.release(&key(1), Duration::ZERO);
    assert!(store.attachments().is_empty());
    assert!(store.release(&key(1), Duration::ZERO).addresses.is_none());
}

#[test]
fn a_full_range_of_65_thousand_is_quick() {
    // /dev/shm: this is about time in memory, not about the disk's fsync.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = open(&dir.path().join("a.journal"), &["10.0.0.0/16"]);
    let began = std::time::Instant::now();
    let count = 20_000;
    for id in 0..count {
        store.reserve(request(id, id), Duration::ZERO).unwrap();
    }
    for id in (0..count).step_by(2) {
        store.release(&key(id), Duration::ZERO);
    }
    for id in (0..count).step_by(2) {
        store
            .reserve(request(count + id, id), Duration::ZERO)
            .unwrap();
    }
    assert_eq!(store.usage().in_use, count as usize);
    // Quadratic work would take minutes.
    assert!(began.elapsed() < seconds(60), "{:?}", began.elapsed());
}

/// A small tmpfs that is gone with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "carrick-test"])
            .arg(dir.path())
            .status();
        assert!(mounted.unwrap().success(), "mounting a tmpfs needs root");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_new_addresses_and_loses_none() {
    let disk = SmallDisk::new("64k");
    let path = disk.0.path().join("a.journal");
    let cidr = ["10.0.0.0/16"];
    let store = open(&path, &cidr);
    let mut given = Vec::new();
    let error = (0..10_000)
        .find_map(|id| match store.reserve(request(id, id), Duration::ZERO) {
            Ok(attachment) => {
                given.push(attachment);
                None
            }
            Err(error) => Some(error),
        })
        .unwrap();
    let StoreError::Journal { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(source.is_full(), "{source:?}");
    assert!(given.len() > 20);
    let next = u32::try_from(given.len()).unwrap();
    // Pods can go though nothing can be written (first what is left of the last page is filled).
    // Nobody gets their addresses.
    let deferred = (0..next)
        .find(|&id| store.release(&key(id), Duration::ZERO).deferred.is_some())
        .unwrap();
    assert!(store.get(&key(deferred)).is_none());
    assert!(store.reserve(request(next, next), Duration::ZERO).is_err());
    // A crash now: what was acknowledged is there; the last removal was not on disk.
    drop(store);
    let store = open(&path, &cidr);
    assert_eq!(store.attachments().len(), (next - deferred) as usize);
    for attachment in given.iter().skip(deferred as usize) {
        assert_eq!(store.get(&attachment.key).unwrap(), *attachment);
    }
    // With room again everything goes on, the deferred removal first.
    assert!(
        store
            .release(&key(deferred), Duration::ZERO)
            .deferred
            .is_some()
    );
    let remounted = Command::new("mount")
        .args(["-o", "remount,size=1m"])
        .arg(disk.0.path())
        .status();
    assert!(remounted.unwrap().success());
    let new = store.reserve(request(next, next), Duration::ZERO).unwrap();
    assert!(given.iter().all(|old| old.addresses != new.addresses));
    drop(store);
    let store = open(&path, &cidr);
    assert!(store.get(&key(deferred)).is_none());
    assert!(store.get(&key(next)).is_some());
    assert_eq!(store.usage().in_quarantine, deferred as usize + 1);
}

#[test]
fn a_damaged_journal_is_reported_and_the_rest_of_it_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.journal");
    let store = open(&path, &["10.0.0.0/24"]);
    for id in 0..5 {
        store.reserve(request(id, id), Duration::ZERO).unwrap();
    }
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    let (store, report) = AttachmentStore::open(&path, "boot", Duration::ZERO).unwrap();
    let Recovery::Corrupt { set_aside, .. } = report.recovery else {
        panic!("{report:?}")
    };
    assert!(set_aside.exists());
    assert_eq!(store.attachments().len(), 4);
    // What the node still shows of the lost one is adopted.
    store.set_pools(&["10.0.0.0/24".parse().unwrap()]);
    let lost = (0..5).find(|&id| store.get(&key(id)).is_none()).unwrap();
    let mut found = Attachment::clone(&store.get(&key((lost + 1) % 5)).unwrap());
    found.key = key(lost);
    found.addresses = vec![format!("10.0.0.{}", lost + 2).parse().unwrap()];
    store.adopt(found, Duration::ZERO).unwrap();
    let all: BTreeSet<_> = store
        .attachments()
        .values()
        .flat_map(|a| a.addresses.clone())
        .collect();
    assert_eq!(all.len(), 5);
    let new = store.reserve(request(9, 9), Duration::ZERO).unwrap();
    assert!(!all.contains(&new.addresses[0]));
}

#[derive(Debug, Clone)]
enum Step {
    Add {
        uid: u32,
    },
    Del {
        nth: usize,
    },
    Ready {
        nth: usize,
    },
    Connect,
    Lose,
    Wait(u64),
    Free {
        nth: usize,
    },
    Restart,
    /// The step before is cut somewhere in what it wrote.
    Crash {
        cut: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..8_u32).prop_map(|uid| Step::Add { uid }),
        4 => any::<usize>().prop_map(|nth| Step::Del { nth }),
        2 => any::<usize>().prop_map(|nth| Step::Ready { nth }),
        1 => Just(Step::Connect),
        1 => Just(Step::Lose),
        2 => (1..80_u64).prop_map(Step::Wait),
        2 => any::<usize>().prop_map(|nth| Step::Free { nth }),
        1 => Just(Step::Restart),
        2 => any::<usize>().prop_map(|cut| Step::Crash { cut }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What a person with a sheet of paper would know.
#[derive(Debug, Clone, Default)]
struct Model {
    in_use: BTreeMap<u32, (u32, IpAddr)>,
    /// The longest-released first: UID, address, since when.
    resting: Vec<(u32, IpAddr, u64)>,
    /// Who held a free address last.
    remembered: BTreeMap<IpAddr, u32>,
    connected: Option<u64>,
}

impl Model {
    fn rest_is_over(&mut self, now: u64) {
        if let Some(connected) = self.connected {
            self.end_rest(|_, since| now - since.max(connected) >= QUARANTINE.as_secs());
        }
    }

    fn end_rest(&mut self, over: impl Fn(IpAddr, u64) -> bool) {
        for (uid, address, since) in &self.resting {
            if over(*address, *since) {
                self.remembered.insert(*address, *uid);
            }
        }
        self.resting
            .retain(|(_, address, since)| !over(*address, *since));
    }

    fn is_free(&self, address: &IpAddr) -> bool {
        self.in_use.values().all(|(_, held)| held != address)
            && self.resting.iter().all(|(_, held, _)| held != address)
    }
}

fn nth<T: Clone>(items: impl Iterator<Item = T>, nth: usize) -> Option<T> {
    let items: Vec<T> = items.collect();
    items.get(nth.checked_rem(items.len())?).cloned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_store_is_the_naive_model_whatever_crashes_when(steps in steps()) {
        // Five pods fit.
        let pool: Vec<IpAddr> = (2..=6).map(|host| format!("10.0.0.{host}").parse().unwrap()).collect();
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("a.journal");
        let cidr = ["10.0.0.0/29"];
        let mut store = open(&path, &cidr);
        let mut model = Model::default();
        let mut now = 0_u64;
        let mut next_id = 0_u32;
        let mut before = (fs::read(&path).unwrap(), model.clone());
        for step in steps {
            let snapshot = (fs::read(&path).unwrap(), model.clone());
            let mut reopened = false;
            match step {
                Step::Add { uid } => {
                    let id = next_id;
                    next_id += 1;
                    model.rest_is_over(now);
                    let result = store.reserve(request(id, uid), seconds(now));
                    let mut own: Vec<IpAddr> = model.resting.iter()
                        .filter(|(resting, ..)| *resting == uid).map(|(_, address, _)| *address).collect();
                    if own.is_empty() {
                        own.extend(model.remembered.iter().filter(|(_, last)| **last == uid).map(|(a, _)| *a));
                    }
                    let free: Vec<IpAddr> = pool.iter().filter(|a| model.is_free(a)).copied().collect();
                    let oldest = model.resting.first().map(|(_, address, _)| *address);
                    match result {
                        Ok(attachment) => {
                            let address = attachment.addresses[0];
                            if !own.is_empty() {
                                prop_assert!(own.contains(&address));
                            } else if !free.is_empty() {
                                prop_assert!(free.contains(&address), "{address} is not free");
                            } else {
                                prop_assert_eq!(model.connected, None);
                                prop_assert_eq!(Some(address), oldest);
                            }
                            model.resting.retain(|(_, resting, _)| *resting != address);
                            model.remembered.remove(&address);
                            prop_assert!(model.is_free(&address), "{} twice", address);
                            model.in_use.insert(id, (uid, address));
                        }
                        Err(error) => {
                            prop_assert!(own.is_empty() && free.is_empty(), "{error:?}");
                            prop_assert!(model.connected.is_some() || oldest.is_none(), "{error:?}");
                        }
                    }
                }
                Step::Del { nth: n } => {
                    if let Some(id) = nth(model.in_use.keys().copied(), n) {
                        let released = store.release(&key(id), seconds(now));
                        prop_assert!(released.deferred.is_none());
                        let (uid, address) = model.in_use.remove(&id).unwrap();
                        model.resting.push((uid, address, now));
                    }
                }
                Step::Ready { nth: n } => {
                    if let Some(id) = nth(model.in_use.keys().copied(), n) {
                        store.ready(&key(id), seconds(now)).unwrap();
                    }
                }
                Step::Connect => {
                    store.controller_connected(seconds(now));
                    model.connected.get_or_insert(now);
                }
                Step::Lose => {
                    model.rest_is_over(now);
                    store.maintain(seconds(now)).unwrap();
                    store.controller_lost();
                    model.connected = None;
                }
                Step::Wait(by) => now += by,
                Step::Free { nth: n } => {
                    if let Some(address) = nth(pool.iter().copied(), n) {
                        let (_, resting) = store.reported_addresses();
                        let release = resting.iter().find(|r| r.addresses.contains(&address)).map(|r| r.release);
                        // Any other release than its last does nothing.
                        let late = [(address, release.map_or(1, |release| release - 1))];
                        store.release_quarantine(&late, seconds(now));
                        if let Some(release) = release {
                            store.release_quarantine(&[(address, release)], seconds(now));
                        }
                        model.end_rest(|resting, _| resting == address);
                    }
                }
                Step::Restart => reopened = true,
                Step::Crash { cut } => {
                    let whole = fs::read(&path).unwrap();
                    let kept = before.0.len();
                    // Only an append can be cut: a compaction is a rename.
                    if whole.len() > kept && whole[..kept] == before.0[..] {
                        let at = kept + cut % (whole.len() - kept);
                        fs::write(&path, &whole[..at]).unwrap();
                        model = before.1.clone();
                    }
                    reopened = true;
                }
            }
            if reopened {
                drop(store);
                store = open(&path, &cidr);
                model.connected = None;
                // The end of a rest may be forgotten by a crash: never its begin.
                let known: BTreeSet<IpAddr> = model.resting.iter().map(|(_, a, _)| *a).collect();
                let uid = |pod: &PodRef| -> u32 { pod.uid.trim_start_matches("uid-").parse().unwrap() };
                let mut resting: Vec<(u32, IpAddr)> = Vec::new();
                for released in store.reported_addresses().1 {
                    resting.extend(released.addresses.iter().map(|a| (uid(&released.pod), *a)));
                }
                prop_assert!(known.iter().all(|a| resting.iter().any(|(_, b)| a == b)), "a rest is lost");
                // Who held what is in the journal like all else.
                let remembered: BTreeMap<IpAddr, u32> =
                    store.remembered().iter().map(|(pod, a)| (*a, uid(pod))).collect();
                let lost = |(a, uid): (&IpAddr, &u32)| {
                    remembered.get(a) != Some(uid) && !resting.contains(&(*uid, *a))
                };
                prop_assert!(!model.remembered.iter().any(lost), "{:?} {:?}", model.remembered, remembered);
                model.remembered = remembered;
                // Its order on disk is the order of release; the model learns what came back.
                let order = store.quarantine_order();
                resting.sort_by_key(|(_, a)| order.iter().position(|b| a == b));
                model.resting = resting.into_iter().map(|(uid, a)| (uid, a, 0)).collect();
                now = 0;
            }
            let real: BTreeMap<u32, IpAddr> = store.attachments().values()
                .map(|a| (a.key.container_id[1..].parse().unwrap(), a.addresses[0])).collect();
            let expect: BTreeMap<u32, IpAddr> =
                model.in_use.iter().map(|(id, (_, a))| (*id, *a)).collect();
            prop_assert_eq!(real, expect);
            let ports: BTreeSet<u32> = store.attachments().values().map(|a| a.ofport).collect();
            prop_assert_eq!(ports.len(), store.attachments().len());
            before = snapshot;
        }
    }
}
