//! What the controller told this node, on disk: one journal record per batch.
//!
//! A batch is durable before anything is programmed from it, so an agent that starts without a
//! controller or API server programs what was last told. The payload is the batch's protobuf
//! encoding: what the wire refuses, the disk refuses by the same code.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use carrick_proto::{
    Body, Delta, Entry, Invalid, Key, NodeFacts, Number, PodFacts, RouteFacts, v1,
};
use parking_lot::Mutex;
use prost::Message as _;

use crate::ipam::PodRef;
use crate::journal::{Journal, JournalError, Recovery};

/// A journal below this many bytes is never compacted.
const COMPACT_ABOVE: u64 = 1 << 20;
/// Records per journal record in a compaction: about 200 KB.
const CHUNK: usize = 1024;

/// Why a batch was not committed. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The number is lower than what is committed.
    #[error("number {offered} is older than the committed {held}")]
    Older {
        /// What the controller sent.
        offered: Number,
        /// What this node has.
        held: Number,
    },
    /// The disk did not take it.
    #[error("recording number {number}")]
    Journal {
        /// The batch's number.
        number: Number,
        /// The disk's answer.
        #[source]
        source: JournalError,
    },
}

/// Everything this node was told, as of a number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    number: Number,
    entries: BTreeMap<Key, Entry>,
}

impl Committed {
    /// The position in the controller's log.
    pub const fn number(&self) -> Number {
        self.number
    }

    /// Every record.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no record at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// This node's own Node.
    pub fn node(&self) -> Option<&NodeFacts> {
        match self.entries.get(&Key::Node)?.body() {
            Body::Node(node) => Some(node),
            _ => None,
        }
    }

    /// The other nodes.
    pub fn routes(&self) -> impl Iterator<Item = &RouteFacts> {
        self.entries
            .values()
            .filter_map(|entry| match entry.body() {
                Body::Route(route) => Some(route),
                _ => None,
            })
    }

    /// The record of a pod as the CNI knows it, which opens its port.
    ///
    /// Of a static pod the CNI is told the hash of its manifest, 32 hexadecimal digits, instead of
    /// the UID its mirror has in the API: such a pod is found by namespace and name. Every other
    /// is found by UID alone, because a StatefulSet's next pod has the name of its predecessor.
    pub fn pod(&self, pod: &PodRef) -> Option<&PodFacts> {
        let of_entry = |entry: &'_ Entry| -> bool { matches!(entry.body(), Body::Pod(_)) };
        if is_manifest_hash(&pod.uid) {
            return self
                .pods()
                .find(|facts| facts.namespace == pod.namespace && facts.name == pod.name);
        }
        let key = Key::Pod(carrick_proto::PodUid::new(&pod.uid).ok()?);
        match self
            .entries
            .get(&key)
            .filter(|entry| of_entry(entry))?
            .body()
        {
            Body::Pod(facts) => Some(facts),
            _ => None,
        }
    }

    /// The pods of this node.
    pub fn pods(&self) -> impl Iterator<Item = &PodFacts> {
        self.entries
            .values()
            .filter_map(|entry| match entry.body() {
                Body::Pod(pod) => Some(pod),
                _ => None,
            })
    }

    fn apply(&mut self, delta: &Delta) {
        self.number = self.number.max(delta.number);
        for key in &delta.removed {
            self.entries.remove(key);
        }
        for entry in &delta.changed {
            self.entries.insert(entry.key(), entry.clone());
        }
    }
}

fn is_manifest_hash(uid: &str) -> bool {
    uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// How the records were found at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// The journal's own report.
    pub recovery: Recovery,
    /// Batches that did not parse, with the last reason.
    pub refused: Option<(usize, String)>,
}

/// The records behind their journal. Methods that change it block on the disk.
#[derive(Debug)]
pub struct RecordStore {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    journal: Journal,
    committed: Arc<Committed>,
    compacted: u64,
}

impl RecordStore {
    /// Opens the store.
    ///
    /// # Errors
    /// The disk cannot be read or written; a damaged file is set aside and no error.
    pub fn open(path: PathBuf) -> Result<(Self, OpenReport), JournalError> {
        let opened = Journal::open(path)?;
        let mut committed = Committed::default();
        let mut refused = None;
        for record in &opened.records {
            match decode(record) {
                Ok(delta) => committed.apply(&delta),
                Err(reason) => {
                    let count = refused.map_or(1, |(count, _): (usize, String)| count + 1);
                    refused = Some((count, reason));
                }
            }
        }
        let recovery = opened.recovery;
        let damaged = refused.is_some() || matches!(recovery, Recovery::Corrupt { .. });
        if damaged {
            // What is missing must be sent again: the controller compares hashes, so the records
            // that are whole stay, and only the number must not claim what was lost.
            committed.number = Number::NOTHING;
        }
        let inner = Inner {
            journal: opened.journal,
            committed: Arc::new(committed),
            compacted: 0,
        };
        let store = Self {
            inner: Mutex::new(inner),
        };
        if damaged {
            store.inner.lock().compact()?;
        }
        Ok((store, OpenReport { recovery, refused }))
    }

    /// What is committed now.
    pub fn committed(&self) -> Arc<Committed> {
        Arc::clone(&self.inner.lock().committed)
    }

    /// Makes a batch durable, then current.
    ///
    /// # Errors
    /// The number is older than the committed one, or the disk refused: nothing has changed.
    pub fn commit(&self, delta: &Delta) -> Result<Arc<Committed>, CommitError> {
        let mut inner = self.inner.lock();
        let held = inner.committed.number;
        let number = delta.number;
        if number < held {
            return Err(CommitError::Older {
                offered: number,
                held,
            });
        }
        let journal = |source| CommitError::Journal { number, source };
        let mut next = Committed::clone(&inner.committed);
        next.apply(delta);
        if next == *inner.committed {
            return Ok(Arc::clone(&inner.committed));
        }
        let payload = delta.to_wire().encode_to_vec();
        if inner.journal.appended() > COMPACT_ABOVE.max(8 * inner.compacted) {
            // On a full disk the old journal stays valid and appending may still work.
            let _ = inner.compact();
        }
        match inner.journal.append(&payload) {
            Ok(()) => {}
            Err(JournalError::NeedsCompaction { .. }) => {
                inner.compact().map_err(journal)?;
                inner.journal.append(&payload).map_err(journal)?;
            }
            Err(error) => return Err(journal(error)),
        }
        inner.committed = Arc::new(next);
        Ok(Arc::clone(&inner.committed))
    }
}

impl Inner {
    fn compact(&mut self) -> Result<(), JournalError> {
        let entries: Vec<&Entry> = self.committed.entries.values().collect();
        let number = self.committed.number;
        let wire = |entries: &[&Entry]| v1::Batch {
            number: Some(number.into()),
            changed: entries.iter().map(|entry| entry.to_wire()).collect(),
            removed: Vec::new(),
            complete: false,
            groups: Vec::new(),
        };
        let mut payloads: Vec<Vec<u8>> = entries
            .chunks(CHUNK)
            .map(|chunk| wire(chunk).encode_to_vec())
            .collect();
        if payloads.is_empty() {
            payloads.push(wire(&[]).encode_to_vec());
        }
        self.journal.compact(&payloads)?;
        self.compacted = self.journal.length();
        Ok(())
    }
}

fn decode(payload: &[u8]) -> Result<Delta, String> {
    let batch = v1::Batch::decode(payload).map_err(|error| error.to_string())?;
    Delta::try_from(batch).map_err(|error: Invalid| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrick_proto::{NodeName, PodUid};

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
                entries: (0..3000)
                    .map(|i| pod(&format!("u{i}"), "p"))
                    .map(|e| (e.key(), e))
                    .collect(),
            });
            inner.compact().unwrap();
        }
        let before = store.committed();
        drop(store);
        assert_eq!(RecordStore::open(path).unwrap().0.committed(), before);
    }
}
