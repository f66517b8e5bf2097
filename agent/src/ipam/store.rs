//! The state behind a journal, shared by the CNI server, the pipeline and the stream.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use carrick_api::names::link::POD_PREFIX;
use carrick_node::MacAddr;
use ipnet::IpNet;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::attachment::{
    Attachment, AttachmentKey, AttachmentState, Attachments, HeldAddresses, PodRef, PortMapping,
    ReleasedAddresses,
};
use super::state::{AllocateError, Record, State};
use crate::journal::{Journal, JournalError, Recovery};

/// A journal below this many bytes is never compacted.
const COMPACT_ABOVE: u64 = if cfg!(test) { 2 << 10 } else { 1 << 20 };
/// Records per journal record in a compaction.
const CHUNK: usize = 256;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no address or port.
    #[error("allocating addresses for {pod}")]
    Allocate {
        /// The pod.
        pod: PodRef,
        /// What is missing.
        #[source]
        source: AllocateError,
    },
    /// The step could not be made durable, so it did not happen.
    #[error("recording {key}")]
    Journal {
        /// The attachment.
        key: AttachmentKey,
        /// The disk's answer.
        #[source]
        source: JournalError,
    },
    /// The attachment exists already.
    #[error("{key} exists already")]
    Exists {
        /// The attachment.
        key: AttachmentKey,
    },
    /// There is no such attachment.
    #[error("{key} is not known")]
    Unknown {
        /// The attachment.
        key: AttachmentKey,
    },
}

/// How the store was found at start: for a condition and an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// The journal's own report.
    pub recovery: Recovery,
    /// Records this version does not understand (skipped).
    pub unknown_records: usize,
    /// Attachments of an earlier boot: their addresses wait in quarantine for the same UID.
    pub of_earlier_boot: usize,
}

/// What ADD asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Sandbox and interface.
    pub key: AttachmentKey,
    /// Path of the sandbox's network namespace.
    pub netns: PathBuf,
    /// The pod.
    pub pod: PodRef,
    /// `hostPort`s.
    pub port_mappings: Vec<PortMapping>,
}

/// How full the pools are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUsage {
    /// Addresses held by attachments.
    pub in_use: usize,
    /// Released addresses that rest.
    pub in_quarantine: usize,
    /// Addresses that can be handed out now.
    pub free: u128,
    /// Addresses taken out of quarantine before their time, since the last connection to a
    /// controller: worth a condition.
    pub early_reuse: u64,
}

/// The durable store of attachments. Methods that change it block on the disk (an fsync): call
/// them where blocking is allowed.
///
/// `now` is a monotonic time since any fixed origin of this process.
#[derive(Debug)]
pub struct AttachmentStore {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    journal: Journal,
    state: State,
    /// Applied, but not yet in the journal (the disk was full): written before anything else.
    pending: Vec<Record>,
    compacted: u64,
    early_reuse: u64,
    snapshot: Option<Attachments>,
}

impl AttachmentStore {
    /// Opens the store at `path`. Attachments of another boot are gone with their sandboxes: their
    /// addresses go to quarantine, where the same UIDs find them.
    pub fn open(
        path: impl Into<PathBuf>,
        boot_id: &str,
        now: Duration,
    ) -> Result<(Self, OpenReport), JournalError> {
        let opened = Journal::open(path)?;
        // Record by record: one of a newer version must not hide its neighbours.
        let (batches, mut unknown_records) = opened.decode::<Vec<serde_json::Value>>();
        let mut state = State::default();
        for value in batches.into_iter().flatten() {
            match serde_json::from_value::<Record>(value) {
                Ok(record) => state.apply(&record, now),
                Err(_) => unknown_records += 1,
            }
        }
        let mut pending = Vec::new();
        let mut of_earlier_boot = 0;
        if state.boot() != boot_id {
            let keys: Vec<_> = state.attachments().keys().cloned().collect();
            of_earlier_boot = keys.len();
            pending.extend(keys.into_iter().map(Record::Remove));
            pending.push(Record::Boot(boot_id.to_owned()));
            for record in &pending {
                state.apply(record, now);
            }
        }
        let inner = Inner {
            journal: opened.journal,
            state,
            pending,
            compacted: 0,
            early_reuse: 0,
            snapshot: None,
        };
        let store = Self {
            inner: Mutex::new(inner),
        };
        let report = OpenReport {
            recovery: opened.recovery,
            unknown_records,
            of_earlier_boot,
        };
        Ok((store, report))
    }

    /// Sets the node's pod CIDRs and returns those too small to hold a pod. Until the first call
    /// nothing can be reserved.
    pub fn set_pools(&self, cidrs: &[IpNet]) -> Vec<IpNet> {
        let mut inner = self.inner.lock();
        if inner.state.pools() == cidrs {
            return Vec::new();
        }
        inner.state.set_pools(cidrs)
    }

    /// A stream to a leading controller is open since `now` (calling again changes nothing).
    pub fn controller_connected(&self, now: Duration) {
        let mut inner = self.inner.lock();
        inner.state.set_connected_since(Some(now));
        inner.early_reuse = 0;
    }

    /// The stream ended: rests are counted anew from the next connection.
    pub fn controller_lost(&self) {
        self.inner.lock().state.set_connected_since(None);
    }

    /// Reserves addresses, MAC, link name and OpenFlow port. They are on disk when this returns.
    pub fn reserve(&self, request: Request, now: Duration) -> Result<Arc<Attachment>, StoreError> {
        let mut inner = self.inner.lock();
        if inner.state.get(&request.key).is_some() {
            return Err(StoreError::Exists { key: request.key });
        }
        let mut records = Vec::new();
        let rested = inner.state.rested(now);
        if !rested.is_empty() {
            // In memory first: it decides what is free. The record goes along with the next step.
            let free = Record::Free(rested);
            inner.state.apply(&free, now);
            inner.pending.push(free);
        }
        let allocation = match inner.state.allocate(&request.pod.uid) {
            Ok(allocation) => allocation,
            Err(source) => {
                return Err(StoreError::Allocate {
                    pod: request.pod,
                    source,
                });
            }
        };
        let digest = digest(&request.key);
        let attachment = Arc::new(Attachment {
            host_link: host_link(&digest),
            mac: mac(&digest),
            key: request.key,
            netns: request.netns,
            pod: request.pod,
            addresses: allocation.addresses,
            ofport: allocation.ofport,
            port_mappings: request.port_mappings,
            state: AttachmentState::Adding,
        });
        records.push(Record::Put(Arc::clone(&attachment)));
        inner.commit(&attachment.key, &records, now)?;
        inner.early_reuse += allocation.early.len() as u64;
        Ok(attachment)
    }

    /// Records an attachment as it was found on the node (after the journal was lost).
    pub fn adopt(&self, attachment: Attachment, now: Duration) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        let key = attachment.key.clone();
        inner.commit(&key, &[Record::Put(Arc::new(attachment))], now)?;
        Ok(())
    }

    /// ADD succeeded.
    pub fn ready(&self, key: &AttachmentKey, now: Duration) -> Result<Arc<Attachment>, StoreError> {
        let mut inner = self.inner.lock();
        let Some(attachment) = inner.state.get(key) else {
            return Err(StoreError::Unknown { key: key.clone() });
        };
        let mut attachment = Attachment::clone(attachment);
        attachment.state = AttachmentState::Ready;
        let attachment = Arc::new(attachment);
        inner.commit(key, &[Record::Put(Arc::clone(&attachment))], now)?;
        Ok(attachment)
    }

    /// DEL begins: from now on no flows are rendered for it. In memory only (a DEL that dies is
    /// asked for again).
    pub fn removing(&self, key: &AttachmentKey) -> Option<Arc<Attachment>> {
        let mut inner = self.inner.lock();
        if inner.state.mark(key, AttachmentState::Removing) {
            inner.snapshot = None;
        }
        inner.state.get(key).cloned()
    }

    /// The attachment is gone from the node: its addresses go to quarantine. Never fails: when the
    /// disk is full the record waits and is written before the next one, so that nothing durable
    /// ever contradicts it; the error is for the log.
    pub fn release(&self, key: &AttachmentKey, now: Duration) -> Released {
        let mut inner = self.inner.lock();
        let Some(attachment) = inner.state.get(key).cloned() else {
            return Released::default();
        };
        let deferred = inner
            .commit_or_defer(key, vec![Record::Remove(key.clone())], now)
            .err();
        let release = inner.state.last_release();
        Released {
            addresses: Some(ReleasedAddresses {
                pod: attachment.pod.clone(),
                addresses: attachment.addresses.clone(),
                release,
            }),
            deferred,
        }
    }

    /// The controller says that every node forgot these addresses as they were released then
    /// (`AddressesFree`). Addresses in use, and those released once more since, are left alone.
    pub fn release_quarantine(&self, released: &[(IpAddr, u64)], now: Duration) {
        let mut inner = self.inner.lock();
        let resting = inner.state.resting(released);
        if resting.is_empty() {
            return;
        }
        // No fsync for this: when it is lost, the address rests once more.
        let record = Record::Free(resting);
        inner.state.apply(&record, now);
        inner.pending.push(record);
    }

    /// Tries again to write what waits since the disk was full, and compacts. For a periodic task.
    pub fn maintain(&self, now: Duration) -> Result<(), JournalError> {
        let mut inner = self.inner.lock();
        let rested = inner.state.rested(now);
        if !rested.is_empty() {
            let record = Record::Free(rested);
            inner.state.apply(&record, now);
            inner.pending.push(record);
        }
        if inner.pending.is_empty() {
            return Ok(());
        }
        inner.write(&[])
    }

    /// One attachment.
    pub fn get(&self, key: &AttachmentKey) -> Option<Arc<Attachment>> {
        self.inner.lock().state.get(key).cloned()
    }

    /// All attachments now.
    pub fn attachments(&self) -> Attachments {
        let mut inner = self.inner.lock();
        if let Some(snapshot) = &inner.snapshot {
            return Arc::clone(snapshot);
        }
        let snapshot = inner.state.attachments();
        inner.snapshot = Some(Arc::clone(&snapshot));
        snapshot
    }

    /// Every address in use, and every one in quarantine, for the stream's `Hello`.
    pub fn reported_addresses(&self) -> (Vec<HeldAddresses>, Vec<ReleasedAddresses>) {
        let inner = self.inner.lock();
        (inner.state.held(), inner.state.released())
    }

    /// How full the pools are.
    pub fn usage(&self) -> PoolUsage {
        let inner = self.inner.lock();
        PoolUsage {
            in_use: inner.state.in_use(),
            in_quarantine: inner.state.in_quarantine(),
            free: inner.state.free(),
            early_reuse: inner.early_reuse,
        }
    }
}

/// What [`AttachmentStore::release`] did.
#[derive(Debug, Default)]
pub struct Released {
    /// What it held, `None` when it was not known.
    pub addresses: Option<ReleasedAddresses>,
    /// Why the record is not on disk yet.
    pub deferred: Option<StoreError>,
}

impl Inner {
    /// Makes `records` durable, then applies them; on error nothing has changed.
    fn commit(
        &mut self,
        key: &AttachmentKey,
        records: &[Record],
        now: Duration,
    ) -> Result<(), StoreError> {
        self.write(records).map_err(|source| StoreError::Journal {
            key: key.clone(),
            source,
        })?;
        self.apply(records, now);
        Ok(())
    }

    /// Applies `records` and makes them durable now or before the next step.
    fn commit_or_defer(
        &mut self,
        key: &AttachmentKey,
        records: Vec<Record>,
        now: Duration,
    ) -> Result<(), StoreError> {
        let written = self.write(&records);
        self.apply(&records, now);
        written.map_err(|source| {
            self.pending.extend(records);
            StoreError::Journal {
                key: key.clone(),
                source,
            }
        })
    }

    fn apply(&mut self, records: &[Record], now: Duration) {
        for record in records {
            self.state.apply(record, now);
        }
        self.snapshot = None;
    }

    /// Writes what waits and `records` as one journal record.
    fn write(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if self.journal.appended() > COMPACT_ABOVE.max(8 * self.compacted) {
            // A compaction that fails (a full disk) leaves the journal as it is: appending may work.
            let _ = self.compact();
        }
        let result = self.append(records);
        if let Err(JournalError::NeedsCompaction { .. }) = result {
            self.compact()?;
            return self.append(records);
        }
        result
    }

    fn append(&mut self, records: &[Record]) -> Result<(), JournalError> {
        if self.pending.is_empty() && records.is_empty() {
            return Ok(());
        }
        let batch: Vec<&Record> = self.pending.iter().chain(records).collect();
        self.journal.append_json(&batch)?;
        self.pending.clear();
        Ok(())
    }

    /// The state in memory holds what is pending, so that is written with it.
    fn compact(&mut self) -> Result<(), JournalError> {
        let records = self.state.records();
        self.journal.compact_json(records.chunks(CHUNK))?;
        self.pending.clear();
        self.compacted = self.journal.length();
        Ok(())
    }
}

fn digest(key: &AttachmentKey) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(key.container_id.as_bytes());
    hasher.update(b"/");
    hasher.update(key.ifname.as_bytes());
    hasher.finalize().into()
}

/// The name of an attachment's link on the host: made from its key alone, so that a DEL finds the
/// link when all state is lost.
pub fn host_link_name(key: &AttachmentKey) -> String {
    host_link(&digest(key))
}

/// The MAC of an attachment, made from its key alone.
pub fn mac_of(key: &AttachmentKey) -> MacAddr {
    mac(&digest(key))
}

/// `car` and 12 hexadecimal digits: 15 bytes, the longest name a link may have.
fn host_link(digest: &[u8; 32]) -> String {
    let (head, _) = digest.split_at(6);
    format!("{POD_PREFIX}{}", hex::encode(head))
}

fn mac(digest: &[u8; 32]) -> MacAddr {
    let mut seed = [0; 6];
    seed.copy_from_slice(digest.split_at(26).1);
    MacAddr::local(seed)
}

/// The host's boot id (`/proc/sys/kernel/random/boot_id`).
pub fn read_boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

#[cfg(test)]
impl AttachmentStore {
    /// Addresses in quarantine, the longest-released first.
    fn quarantine_order(&self) -> Vec<IpAddr> {
        self.inner.lock().state.quarantine_order()
    }

    /// Free addresses and who held them last.
    fn remembered(&self) -> Vec<(PodRef, IpAddr)> {
        self.inner.lock().state.remembered()
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
