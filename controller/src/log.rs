//! The numbered log: every record there is, when it last changed, and what an agent at a given
//! position lacks.
//!
//! A ledger keeps each key once, at the position of its last change, so what an agent lacks costs
//! what has changed since its position and is coalesced by itself: an agent that was slow gets the
//! newest content of each record, however often it changed meanwhile. Keys that are gone stay as
//! tombstones; their number is bounded, and an agent so far behind that some were dropped opens
//! its stream anew, which compares content instead of positions.
//!
//! A group of peers may have many members and be needed by many nodes, so it is kept once, apart
//! ([`group`]): a node's ledger only says that the node needs it, since when, and where it changed
//! last. What an agent lacks of a group that it holds is the members that changed.

mod group;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use carrick_policy::{GroupKey, Members};
use carrick_proto::{ContentHash, Entry, GroupDifference, Key, NodeName, Number};

use crate::index::{Change, Changes, GroupChange, Scope};
pub use group::MembersChange;
use group::{GroupNews, Groups};

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
    /// Groups the agent holds some of whose members changed.
    pub groups: Vec<GroupDifference>,
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
    groups: Groups,
}

/// Which agents a publication concerns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Concerned {
    /// Every agent: routes changed.
    pub all: bool,
    /// These agents.
    pub nodes: BTreeSet<NodeName>,
    /// Of these, those that hold addresses which they are told to forget.
    pub forgetting: BTreeSet<NodeName>,
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
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Gone,
    Record(Arc<Entry>),
    /// A group, needed since this position. Its members are in [`Groups`].
    Group {
        since: u64,
    },
}

impl Content {
    const fn is_live(&self) -> bool {
        !matches!(self, Self::Gone)
    }

    fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Gone, Self::Gone) | (Self::Group { .. }, Self::Group { .. }) => true,
            (Self::Record(one), Self::Record(other)) => one.hash() == other.hash(),
            _ => false,
        }
    }
}

impl From<Option<Arc<Entry>>> for Content {
    fn from(record: Option<Arc<Entry>>) -> Self {
        record.map_or(Self::Gone, Self::Record)
    }
}

impl Ledger {
    /// Whether the content differs from what it was.
    fn put(&mut self, key: Key, content: Content, position: u64, most: usize) -> bool {
        let old = self.slots.get(&key);
        let was = old.map_or(&Content::Gone, |slot| &slot.content);
        if was.says_the_same(&content) {
            return false;
        }
        if let Some(old) = old {
            self.live -= usize::from(old.content.is_live());
            let place = (old.position, key.clone());
            self.order.remove(&place);
            self.tombstones.remove(&place);
        }
        self.live += usize::from(content.is_live());
        self.order.insert((position, key.clone()));
        if !content.is_live() {
            self.tombstones.insert((position, key.clone()));
        }
        self.slots.insert(key, Slot { position, content });
        while self.tombstones.len() > most {
            if let Some((position, key)) = self.tombstones.pop_first() {
                self.slots.remove(&key);
                self.floor = self.floor.max(position);
                self.order.remove(&(position, key));
            }
        }
        true
    }

    /// Members of a group that the node needs changed; whether it needs it.
    fn touch(&mut self, key: Key, position: u64) -> bool {
        let Some(slot) = self.slots.get_mut(&key) else {
            return false;
        };
        if !slot.content.is_live() {
            return false;
        }
        let old = std::mem::replace(&mut slot.position, position);
        self.order.remove(&(old, key.clone()));
        self.order.insert((position, key));
        true
    }

    fn since(
        &self,
        after: u64,
        groups: &Groups,
        lacking: &mut Lacking,
        but: Option<&Key>,
    ) -> Result<(), Lagging> {
        if after < self.floor {
            return Err(Lagging);
        }
        // `Key::Node` is the least of all keys.
        let from = Bound::Included((after.saturating_add(1), Key::Node));
        for (_, key) in self.order.range((from, Bound::Unbounded)) {
            if Some(key) == but {
                continue;
            }
            match (self.slots.get(key).map(|slot| &slot.content), key) {
                (Some(Content::Record(record)), _) => lacking.changed.push(Arc::clone(record)),
                (Some(Content::Group { since }), Key::Group(group)) if *since > after => {
                    lacking.changed.extend(groups.whole(group));
                }
                (Some(Content::Group { .. }), Key::Group(group)) => {
                    match groups.news(group, after) {
                        Some(GroupNews::Whole(record)) => lacking.changed.push(record),
                        Some(GroupNews::Difference(difference)) => lacking.groups.push(difference),
                        None => {}
                    }
                }
                _ => lacking.removed.push(key.clone()),
            }
        }
        Ok(())
    }

    fn live(&self) -> impl Iterator<Item = (&Key, &Content)> {
        let slots = self.slots.iter();
        slots
            .filter(|(_, slot)| slot.content.is_live())
            .map(|(key, slot)| (key, &slot.content))
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

    /// Takes changes in under one number; content that is as it was changes nothing. `members` are
    /// all of a group's, asked for where the log does not know them.
    pub fn publish(
        &mut self,
        changes: impl Into<Changes>,
        members: impl Fn(&GroupKey) -> Option<Members>,
    ) -> Concerned {
        let Changes { records, groups } = changes.into();
        let next = self.position + 1;
        let mut concerned = Concerned::default();
        for Change { scope, key, record } in records {
            match scope {
                Scope::Shared => {
                    let record = record.into();
                    concerned.all |= self.shared.put(key, record, next, SHARED_TOMBSTONES);
                }
                Scope::Own(node) => {
                    if self.put_own(&node, key, record.into(), next) {
                        concerned.nodes.insert(node);
                    }
                }
            }
        }
        for change in groups {
            self.publish_group(change, &members, next, &mut concerned);
        }
        if concerned != Concerned::default() {
            self.position = next;
        }
        concerned
    }

    fn publish_group(
        &mut self,
        change: GroupChange,
        all: impl Fn(&GroupKey) -> Option<Members>,
        next: u64,
        concerned: &mut Concerned,
    ) {
        let GroupChange {
            group,
            mut members,
            told,
            mut kept,
            lost,
        } = change;
        let key = Key::Group(group);
        for node in lost {
            if self.put_own(&node, key.clone(), Content::Gone, next) {
                self.groups.release(&group);
                concerned.forgetting.insert(node.clone());
                concerned.nodes.insert(node);
            }
        }
        // If all that still need it are told of it, it is new, or went and came back meanwhile: what
        // is known of its members is not what they were before this change.
        let again = told.iter().filter(|node| self.needs(node, &key)).cloned();
        let again: Vec<NodeName> = again.collect();
        if !told.is_empty() && self.groups.holders(&group) == again.len() {
            members = all(&group).map(MembersChange::Whole).or(members);
        }
        kept.extend(again);
        let forgets = match &members {
            Some(MembersChange::Difference { removed, .. }) => !removed.is_empty(),
            Some(MembersChange::Whole(_)) => true,
            None => false,
        };
        let changed = members.is_some_and(|members| self.groups.change(&group, members, next));
        for node in kept {
            let own = self.own.get_mut(&node).filter(|_| changed);
            if own.is_some_and(|own| own.touch(key.clone(), next)) {
                if forgets {
                    concerned.forgetting.insert(node.clone());
                }
                concerned.nodes.insert(node);
            }
        }
        for node in told {
            let content = Content::Group { since: next };
            if self.groups.has(&group) && self.put_own(&node, key.clone(), content, next) {
                self.groups.hold(&group);
                concerned.nodes.insert(node);
            }
        }
        self.groups.tidy(&group);
    }

    /// How many records are for the node.
    #[must_use]
    pub fn records_of(&self, node: &NodeName) -> usize {
        self.shared.live + self.own.get(node).map_or(0, |own| own.live)
    }

    /// Whether the node's records name addresses of pods.
    #[must_use]
    pub fn names_addresses(&self, node: &NodeName) -> bool {
        let slots = self.own.get(node).map(|own| &own.slots);
        let mut keys = slots.into_iter().flatten();
        keys.any(|(key, slot)| matches!(key, Key::Group(_)) && slot.content.is_live())
    }

    /// Whether the node has a record of this key.
    fn needs(&self, node: &NodeName, key: &Key) -> bool {
        let slot = self.own.get(node).and_then(|own| own.slots.get(key));
        slot.is_some_and(|slot| slot.content.is_live())
    }

    /// Whether the content differs from what the node's ledger said.
    fn put_own(&mut self, node: &NodeName, key: Key, content: Content, next: u64) -> bool {
        if !content.is_live() && !self.own.contains_key(node) {
            return false;
        }
        // What a ledger of the same node said before is forgotten: a stream that is
        // still at a position of that time must begin anew.
        let floor = self.position;
        let ledger = self.own.entry(node.clone()).or_insert_with(|| Ledger {
            floor,
            ..Ledger::default()
        });
        let changed = ledger.put(key, content, next, OWN_TOMBSTONES);
        // A node that exists has a record of itself, so this one is gone.
        if ledger.live == 0 {
            self.own.remove(node);
        }
        changed
    }

    /// What the agent of `node` lacks that has everything up to `after`.
    pub fn since(&self, node: &NodeName, after: Position) -> Result<Lacking, Lagging> {
        let mut lacking = Lacking::default();
        // A node that exists has a ledger; without one it was gone meanwhile.
        self.own
            .get(node)
            .ok_or(Lagging)?
            .since(after.0, &self.groups, &mut lacking, None)?;
        let own_route = Key::Route(node.clone());
        self.shared
            .since(after.0, &self.groups, &mut lacking, Some(&own_route))?;
        Ok(lacking)
    }

    /// What the agent of `node` lacks that holds `held`, by content.
    #[must_use]
    pub fn resume(&self, node: &NodeName, held: &BTreeMap<Key, ContentHash>) -> Resumption {
        let own_route = Key::Route(node.clone());
        let own = self.own.get(node);
        let desired = own
            .into_iter()
            .flat_map(Ledger::live)
            .chain(self.shared.live().filter(|(key, _)| **key != own_route));
        let mut resumption = Resumption::default();
        let mut wanted = BTreeSet::new();
        for (key, content) in desired {
            wanted.insert(key);
            let hash = self.hash(key, content);
            if hash.is_none() || held.get(key) != hash.as_ref() {
                let record = self.record(key, content);
                resumption.lacking.changed.extend(record);
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

    fn hash(&self, key: &Key, content: &Content) -> Option<ContentHash> {
        match (key, content) {
            (_, Content::Record(record)) => Some(record.hash()),
            (Key::Group(group), Content::Group { .. }) => self.groups.hash(group),
            _ => None,
        }
    }

    fn record(&self, key: &Key, content: &Content) -> Option<Arc<Entry>> {
        match (key, content) {
            (_, Content::Record(record)) => Some(Arc::clone(record)),
            (Key::Group(group), Content::Group { .. }) => self.groups.whole(group),
            _ => None,
        }
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
mod group_tests;
#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
