//! The numbered log: every record there is, when it last changed, and what an agent at a given
//! position lacks.
//!
//! A ledger keeps each key once, at the position of its last change, so what an agent lacks costs
//! what has changed since its position and is coalesced by itself: an agent that was slow gets the
//! newest content of each record, however often it changed meanwhile. Keys that are gone stay as
//! tombstones; their number is bounded, and an agent so far behind that some were dropped opens
//! its stream anew, which compares content instead of positions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use carrick_proto::{ContentHash, Entry, Key, NodeName, Number};

use crate::index::{Change, Scope};

/// Tombstones kept of records every node needs (routes).
const SHARED_TOMBSTONES: usize = 8192;
/// Tombstones kept of one node's records. 256 of about 150 bytes on 5,000 nodes are 190 MB at
/// worst, when every node has seen as many pods go.
const OWN_TOMBSTONES: usize = 256;

/// A position in the log without its epoch: a stream's cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position(u64);

/// What an agent lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lacking {
    /// New and changed records, in the order of their keys.
    pub changed: Vec<Arc<Entry>>,
    /// Keys that are gone.
    pub removed: Vec<Key>,
}

/// What an agent that opens its stream lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resumption {
    /// What is certain.
    pub lacking: Lacking,
    /// Keys the agent holds that this log has never seen: they are gone, or our caches are behind
    /// the ones of the controller that sent them. Only a look at the API server can tell.
    pub doubtful: BTreeSet<Key>,
}

/// The agent is so far behind that removals it missed are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is too far behind: it must open its stream anew")]
pub struct Lagging;

/// The log.
#[derive(Debug, Default)]
pub struct Log {
    epoch: u64,
    position: u64,
    shared: Ledger,
    own: HashMap<NodeName, Ledger>,
}

/// Which agents a publication concerns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Concerned {
    /// Every agent: routes changed.
    pub all: bool,
    /// These agents.
    pub nodes: BTreeSet<NodeName>,
}

#[derive(Debug, Default)]
struct Ledger {
    slots: BTreeMap<Key, Slot>,
    order: BTreeSet<(u64, Key)>,
    tombstones: BTreeSet<(u64, Key)>,
    /// Tombstones up to here may have been dropped.
    floor: u64,
    /// Keys that have a record.
    live: usize,
}

#[derive(Debug)]
struct Slot {
    position: u64,
    record: Option<Arc<Entry>>,
}

impl Ledger {
    /// Whether the content differs from what it was.
    fn put(&mut self, key: Key, record: Option<Arc<Entry>>, position: u64, most: usize) -> bool {
        let old = self.slots.get(&key);
        let same = match (old.and_then(|slot| slot.record.as_ref()), record.as_ref()) {
            (Some(old), Some(new)) => old.hash() == new.hash(),
            (None, None) => true,
            _ => false,
        };
        if same {
            return false;
        }
        if let Some(old) = old {
            self.live -= usize::from(old.record.is_some());
            let place = (old.position, key.clone());
            self.order.remove(&place);
            self.tombstones.remove(&place);
        }
        self.live += usize::from(record.is_some());
        self.order.insert((position, key.clone()));
        if record.is_none() {
            self.tombstones.insert((position, key.clone()));
        }
        self.slots.insert(key, Slot { position, record });
        while self.tombstones.len() > most {
            if let Some((position, key)) = self.tombstones.pop_first() {
                self.slots.remove(&key);
                self.floor = self.floor.max(position);
                self.order.remove(&(position, key));
            }
        }
        true
    }

    fn since(&self, after: u64, lacking: &mut Lacking, but: Option<&Key>) -> Result<(), Lagging> {
        if after < self.floor {
            return Err(Lagging);
        }
        // `Key::Node` is the least of all keys.
        let from = Bound::Included((after.saturating_add(1), Key::Node));
        for (_, key) in self.order.range((from, Bound::Unbounded)) {
            if Some(key) == but {
                continue;
            }
            match self.slots.get(key).and_then(|slot| slot.record.clone()) {
                Some(record) => lacking.changed.push(record),
                None => lacking.removed.push(key.clone()),
            }
        }
        Ok(())
    }

    fn records(&self) -> impl Iterator<Item = (&Key, &Arc<Entry>)> {
        self.slots
            .iter()
            .filter_map(|(key, slot)| slot.record.as_ref().map(|record| (key, record)))
    }
}

impl Log {
    /// The position agents are at that have everything.
    #[must_use]
    pub fn number(&self) -> Number {
        Number::new(self.epoch, self.position)
    }

    /// The same as a cursor.
    #[must_use]
    pub fn position(&self) -> Position {
        Position(self.position)
    }

    /// Numbers are of this epoch from now on. A lower one is ignored.
    pub fn lead(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// How many records there are, over all nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.live + self.own.values().map(|ledger| ledger.live).sum::<usize>()
    }

    /// Takes changes in under one number; content that is as it was changes nothing.
    pub fn publish(&mut self, changes: Vec<Change>) -> Concerned {
        let next = self.position + 1;
        let mut concerned = Concerned::default();
        for Change { scope, key, record } in changes {
            match scope {
                Scope::Shared => {
                    concerned.all |= self.shared.put(key, record, next, SHARED_TOMBSTONES);
                }
                Scope::Own(node) => {
                    if record.is_none() && !self.own.contains_key(&node) {
                        continue;
                    }
                    // What a ledger of the same node said before is forgotten: a stream that is
                    // still at a position of that time must begin anew.
                    let floor = self.position;
                    let ledger = self.own.entry(node.clone()).or_insert_with(|| Ledger {
                        floor,
                        ..Ledger::default()
                    });
                    if ledger.put(key, record, next, OWN_TOMBSTONES) {
                        // A node that exists has a record of itself, so this one is gone.
                        if ledger.live == 0 {
                            self.own.remove(&node);
                        }
                        concerned.nodes.insert(node);
                    }
                }
            }
        }
        if concerned != Concerned::default() {
            self.position = next;
        }
        concerned
    }

    /// What the agent of `node` lacks that has everything up to `after`.
    pub fn since(&self, node: &NodeName, after: Position) -> Result<Lacking, Lagging> {
        let mut lacking = Lacking::default();
        // A node that exists has a ledger; without one it was gone meanwhile.
        self.own
            .get(node)
            .ok_or(Lagging)?
            .since(after.0, &mut lacking, None)?;
        self.shared
            .since(after.0, &mut lacking, Some(&Key::Route(node.clone())))?;
        Ok(lacking)
    }

    /// What the agent of `node` lacks that holds `held`, by content.
    #[must_use]
    pub fn resume(&self, node: &NodeName, held: &BTreeMap<Key, ContentHash>) -> Resumption {
        let own_route = Key::Route(node.clone());
        let own = self.own.get(node);
        let desired = own
            .into_iter()
            .flat_map(Ledger::records)
            .chain(self.shared.records().filter(|(key, _)| **key != own_route));
        let mut resumption = Resumption::default();
        let mut wanted = BTreeSet::new();
        for (key, record) in desired {
            wanted.insert(key);
            if held.get(key) != Some(&record.hash()) {
                resumption.lacking.changed.push(Arc::clone(record));
            }
        }
        for key in held.keys().filter(|key| !wanted.contains(key)) {
            let buried = |ledger: &Ledger| ledger.slots.contains_key(key);
            // Its own route is nobody's business; a tombstone shows that the object was seen to go.
            if *key == own_route || buried(&self.shared) || own.is_some_and(buried) {
                resumption.lacking.removed.push(key.clone());
            } else {
                resumption.doubtful.insert(key.clone());
            }
        }
        resumption
    }

    /// Whether the record is known now, for a doubt that time resolved.
    #[must_use]
    pub fn knows(&self, node: &NodeName, key: &Key) -> bool {
        self.shared.slots.contains_key(key)
            || self
                .own
                .get(node)
                .is_some_and(|own| own.slots.contains_key(key))
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
