//! Groups of peers: each kept once however many nodes need it, with who changed last, so that a
//! node is told the difference since its position. Which nodes need it is in their own ledgers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;
use std::sync::{Arc, Weak};

use carrick_policy::{GroupKey, MemberKey, Members};
use carrick_proto::{Body, ContentHash, Entry, GroupDifference, GroupFacts, GroupHash};
use parking_lot::Mutex;

/// Fewest changed members that a group remembers.
const FEWEST_CHANGES: usize = 16;
/// Most of them. Between the two it remembers as many as it has members: a difference larger than
/// the group is of no use, so what is remembered is never more than what is known.
const MOST_CHANGES: usize = 1024;

/// Every group that a node needs.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: HashMap<GroupKey, Group>,
}

/// What changes of a group's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembersChange {
    /// They are these now, whatever they were.
    Whole(Members),
    /// Some are gone, some are new or call their ports otherwise.
    Difference {
        /// Who is gone.
        removed: Vec<MemberKey>,
        /// Who is new or changed.
        added: Members,
    },
}

/// What a node that holds a group at an older position lacks of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GroupNews {
    Whole(Arc<Entry>),
    Difference(GroupDifference),
}

#[derive(Debug)]
struct Group {
    members: Members,
    hash: GroupHash,
    /// Who changed last, with the position of the change. Who is here and no member is gone.
    changed: BTreeMap<MemberKey, u64>,
    order: BTreeSet<(u64, MemberKey)>,
    /// Changes up to here are forgotten.
    floor: u64,
    /// How many nodes need it.
    holders: usize,
    /// Its record, as long as somebody sends it: nodes that get the whole together share it.
    record: Mutex<Weak<Entry>>,
}

impl Group {
    fn new(key: &GroupKey, position: u64) -> Self {
        Self {
            members: Members::new(),
            hash: GroupHash::new(key),
            changed: BTreeMap::new(),
            order: BTreeSet::new(),
            floor: position,
            holders: 0,
            record: Mutex::default(),
        }
    }

    /// Whether any member differs from what it was.
    fn change(&mut self, removed: &[MemberKey], added: Members, position: u64) -> bool {
        let mut changed = false;
        for member in removed {
            if let Some(ports) = self.members.remove(member) {
                self.hash.remove(member, &ports);
                self.note(member.clone(), position);
                changed = true;
            }
        }
        for (member, ports) in added {
            let old = self.members.insert(member.clone(), Arc::clone(&ports));
            if old.as_ref() == Some(&ports) {
                continue;
            }
            if let Some(old) = old {
                self.hash.remove(&member, &old);
            }
            self.hash.add(&member, &ports);
            self.note(member, position);
            changed = true;
        }
        if changed {
            *self.record.get_mut() = Weak::new();
            self.forget_oldest();
        }
        changed
    }

    fn note(&mut self, member: MemberKey, position: u64) {
        if let Some(old) = self.changed.insert(member.clone(), position) {
            self.order.remove(&(old, member.clone()));
        }
        self.order.insert((position, member));
    }

    fn forget_oldest(&mut self) {
        let most = self.members.len().clamp(FEWEST_CHANGES, MOST_CHANGES);
        while self.order.len() > most {
            if let Some((position, member)) = self.order.pop_first() {
                self.changed.remove(&member);
                self.floor = self.floor.max(position);
            }
        }
    }

    fn whole(&self, group: GroupKey) -> Arc<Entry> {
        let mut record = self.record.lock();
        if let Some(record) = record.upgrade() {
            return record;
        }
        let members = self.members.clone();
        let made = Arc::new(Entry::new(Body::Group(GroupFacts { group, members })));
        *record = Arc::downgrade(&made);
        made
    }

    /// What changed after `after`; not known if that is below the floor.
    fn since(&self, group: GroupKey, after: u64) -> Option<GroupDifference> {
        if after < self.floor {
            return None;
        }
        let least: MemberKey = ("".into(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let from = Bound::Included((after.saturating_add(1), least));
        let mut difference = GroupDifference {
            group,
            hash: self.hash.content_hash(),
            removed: Vec::new(),
            added: Members::new(),
        };
        for (_, member) in self.order.range((from, Bound::Unbounded)) {
            match self.members.get(member) {
                Some(ports) => drop(difference.added.insert(member.clone(), Arc::clone(ports))),
                None => difference.removed.push(member.clone()),
            }
        }
        difference.removed.sort_unstable();
        Some(difference)
    }
}

impl Groups {
    /// Takes a change of members in; whether any differs from what it was. A difference of a group
    /// that nobody needs is of no use: who needs it next brings the whole.
    pub(super) fn change(&mut self, key: &GroupKey, change: MembersChange, position: u64) -> bool {
        match change {
            MembersChange::Difference { removed, added } => match self.groups.get_mut(key) {
                Some(group) => group.change(&removed, added, position),
                None => false,
            },
            MembersChange::Whole(members) => {
                let new = || Group::new(key, position);
                let group = self.groups.entry(*key).or_insert_with(new);
                let gone = group.members.keys();
                let gone = gone.filter(|member| !members.contains_key(*member));
                let gone: Vec<MemberKey> = gone.cloned().collect();
                group.change(&gone, members, position)
            }
        }
    }

    /// Whether members of the group are known.
    pub(super) fn has(&self, key: &GroupKey) -> bool {
        self.groups.contains_key(key)
    }

    /// How many nodes need it.
    pub(super) fn holders(&self, key: &GroupKey) -> usize {
        self.groups.get(key).map_or(0, |group| group.holders)
    }

    /// One node more needs it.
    pub(super) fn hold(&mut self, key: &GroupKey) {
        if let Some(group) = self.groups.get_mut(key) {
            group.holders += 1;
        }
    }

    /// One node needs it no more.
    pub(super) fn release(&mut self, key: &GroupKey) {
        if let Some(group) = self.groups.get_mut(key) {
            group.holders = group.holders.saturating_sub(1);
        }
    }

    /// Forgets it if nobody needs it.
    pub(super) fn tidy(&mut self, key: &GroupKey) {
        if self.groups.get(key).is_some_and(|group| group.holders == 0) {
            self.groups.remove(key);
        }
    }

    /// The hash of its content.
    pub(super) fn hash(&self, key: &GroupKey) -> Option<ContentHash> {
        let group = self.groups.get(key)?;
        Some(group.hash.content_hash())
    }

    /// The whole of it.
    pub(super) fn whole(&self, key: &GroupKey) -> Option<Arc<Entry>> {
        self.groups.get(key).map(|group| group.whole(*key))
    }

    /// What a node lacks that has everything up to `after` and needs it since before that: the
    /// difference, or the whole where changes are forgotten.
    pub(super) fn news(&self, key: &GroupKey, after: u64) -> Option<GroupNews> {
        let group = self.groups.get(key)?;
        let whole = || GroupNews::Whole(group.whole(*key));
        let difference = group.since(*key, after);
        Some(difference.map_or_else(whole, GroupNews::Difference))
    }

    /// How many groups there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }
}
