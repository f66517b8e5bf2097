//! What the controller told this node, on disk: one journal record per batch.
//!
//! A batch is durable before anything is programmed from it, so an agent that starts without a
//! controller or API server programs what was last told. The payload is the batch's protobuf
//! encoding: what the wire refuses, the disk refuses by the same code. Differences of groups are on disk as they
//! came; a compaction writes wholes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use carrick_policy::{GroupKey, NodeUpdate, PodRecord};
use carrick_proto::{
    Body, ContentHash, Delta, Entry, GroupFacts, Invalid, Key, NodeFacts, Number, PodFacts,
    RouteFacts, v1,
};
use parking_lot::Mutex;
use prost::Message as _;

use crate::ipam::PodRef;
use crate::journal::{Journal, JournalError, Recovery};

mod groups;

use groups::Groups;
pub use groups::Misfit;

/// A journal below this many bytes is never compacted.
const COMPACT_ABOVE: u64 = 1 << 20;
/// Bytes of records after which a compaction begins another journal record.
const CHUNK: usize = 256 << 10;

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
    /// A difference does not fit the group that is held. [`RecordStore::held`] names the group no more until it
    /// came whole.
    #[error("number {number} has a difference of group {group} that does not fit")]
    Misfit {
        /// The batch's number.
        number: Number,
        /// Which group.
        group: GroupKey,
        /// Why.
        #[source]
        source: Misfit,
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

/// Everything this node was told, as of a number. Copies share the records; of groups there is the hash alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    number: Number,
    /// A batch has said that nothing is missing.
    whole: bool,
    entries: BTreeMap<Key, Arc<Entry>>,
    groups: BTreeMap<GroupKey, ContentHash>,
}

impl Committed {
    /// The position in the controller's log.
    pub const fn number(&self) -> Number {
        self.number
    }

    /// Whether the controller has told everything once, and nothing of it was lost.
    pub const fn is_whole(&self) -> bool {
        self.whole
    }

    /// Every record's key and hash.
    pub fn held(&self) -> impl Iterator<Item = (Key, ContentHash)> {
        let groups = self.groups.iter();
        let groups = groups.map(|(group, hash)| (Key::Group(*group), *hash));
        let entries = self.entries.iter();
        let entries = entries.map(|(key, entry)| (key.clone(), entry.hash()));
        entries.chain(groups)
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.len() + self.groups.len()
    }

    /// Whether there is no record at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        if is_manifest_hash(&pod.uid) {
            return self
                .pods()
                .find(|facts| facts.namespace == pod.namespace && facts.name == pod.name);
        }
        let key = Key::Pod(carrick_proto::PodUid::new(&pod.uid).ok()?);
        match self.entries.get(&key)?.body() {
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
        self.whole |= delta.complete;
        for key in &delta.removed {
            match key {
                Key::Group(group) => drop(self.groups.remove(group)),
                key => drop(self.entries.remove(key)),
            }
        }
        for entry in &delta.changed {
            match entry.key() {
                Key::Group(group) => drop(self.groups.insert(group, entry.hash())),
                key => drop(self.entries.insert(key, Arc::new(entry.clone()))),
            }
        }
        for difference in &delta.groups {
            self.groups.insert(difference.group, difference.hash);
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
    groups: Groups,
    /// Groups whose difference did not fit: the controller is to send them whole.
    doubted: BTreeSet<GroupKey>,
    /// Pods and policies that changed since that was asked for.
    touched: BTreeSet<Key>,
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
        let mut groups = Groups::default();
        let mut refused = None;
        for record in &opened.records {
            let fitting = decode(record).and_then(|delta| {
                let checked = groups.check(&committed.groups, &delta);
                checked.map_err(|(group, misfit)| format!("group {group}: {misfit}"))?;
                Ok(delta)
            });
            match fitting {
                Ok(delta) => {
                    committed.apply(&delta);
                    groups.apply(&delta);
                }
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
            committed.whole = false;
        }
        let inner = Inner {
            journal: opened.journal,
            touched: committed.entries.keys().cloned().collect(),
            committed: Arc::new(committed),
            groups,
            doubted: BTreeSet::new(),
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

    /// What the controller need not send: the position in its log, and the records with their hashes.
    pub fn held(&self) -> (Number, BTreeMap<Key, ContentHash>) {
        let inner = self.inner.lock();
        let doubted = |key: &Key| matches!(key, Key::Group(group) if inner.doubted.contains(group));
        let held = inner.committed.held();
        let held = held.filter(|(key, _)| !doubted(key)).collect();
        (inner.committed.number, held)
    }

    /// What is committed now, and what of it policies are made of that changed since this was asked for last.
    pub fn take(&self) -> (Arc<Committed>, NodeUpdate) {
        let mut inner = self.inner.lock();
        let mut update = NodeUpdate {
            groups: inner.groups.take(),
            ..NodeUpdate::default()
        };
        for key in std::mem::take(&mut inner.touched) {
            let body = inner.committed.entries.get(&key).map(|entry| entry.body());
            match (key, body) {
                (Key::Pod(uid), Some(Body::Pod(pod))) => {
                    let record = pod_record(pod);
                    update.pods.insert(uid.as_str().into(), Some(record));
                }
                (Key::Pod(uid), _) => drop(update.pods.insert(uid.as_str().into(), None)),
                (Key::Policy(name), Some(Body::Policy(policy))) => {
                    let policy = Some(Arc::clone(policy));
                    update.policies.insert(name, policy);
                }
                (Key::Policy(name), _) => drop(update.policies.insert(name, None)),
                (Key::Node | Key::Route(_) | Key::Group(_), _) => {}
            }
        }
        (Arc::clone(&inner.committed), update)
    }

    /// Makes a batch durable, then current.
    ///
    /// # Errors
    /// The number is older than the committed one, a difference does not fit, or the disk refused: nothing has
    /// changed.
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
        if let Err((group, source)) = inner.groups.check(&inner.committed.groups, delta) {
            inner.doubted.insert(group);
            return Err(CommitError::Misfit {
                number,
                group,
                source,
            });
        }
        let journal = |source| CommitError::Journal { number, source };
        let mut next = Committed::clone(&inner.committed);
        next.apply(delta);
        for entry in &delta.changed {
            if let Key::Group(group) = entry.key() {
                inner.doubted.remove(&group);
            }
        }
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
        inner.groups.apply(delta);
        let changed = delta.changed.iter().map(Entry::key);
        let touched = delta.removed.iter().cloned().chain(changed);
        inner
            .touched
            .extend(touched.filter(|key| matches!(key, Key::Pod(_) | Key::Policy(_))));
        Ok(Arc::clone(&inner.committed))
    }
}

impl Inner {
    fn compact(&mut self) -> Result<(), JournalError> {
        let number = self.committed.number;
        let empty = || v1::Batch {
            number: Some(number.into()),
            ..v1::Batch::default()
        };
        let groups = self.groups.iter().map(|(group, members)| {
            let facts = GroupFacts {
                group: *group,
                members: members.clone(),
            };
            Entry::new(Body::Group(facts)).to_wire()
        });
        let entries = self.committed.entries.values().map(|entry| entry.to_wire());
        let mut payloads = Vec::new();
        let (mut batch, mut bytes) = (empty(), 0);
        for record in groups.chain(entries) {
            bytes += record.encoded_len();
            batch.changed.push(record);
            if bytes > CHUNK {
                payloads.push(std::mem::replace(&mut batch, empty()).encode_to_vec());
                bytes = 0;
            }
        }
        batch.complete = self.committed.whole;
        payloads.push(batch.encode_to_vec());
        self.journal.compact(&payloads)?;
        self.compacted = self.journal.length();
        Ok(())
    }
}

fn pod_record(pod: &PodFacts) -> PodRecord {
    PodRecord {
        uid: pod.uid.as_str().into(),
        namespace: pod.namespace.as_str().into(),
        name: pod.name.as_str().into(),
        labels: pod.labels.clone(),
        ports: Arc::clone(&pod.ports),
        groups: pod.groups.clone(),
    }
}

fn decode(payload: &[u8]) -> Result<Delta, String> {
    let batch = v1::Batch::decode(payload).map_err(|error| error.to_string())?;
    Delta::try_from(batch).map_err(|error: Invalid| error.to_string())
}

#[cfg(test)]
mod tests;
