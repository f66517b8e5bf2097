//! The id ledger: which object has which 32-bit id.
//!
//! Ids stand in cookies (and later in conjunctions, groups and meters), so they must be the same
//! after a restart; hashes collide at 100,000 objects, so they are allocated. The ledger is an
//! *input* to rendering: it is kept on disk, and where the disk was lost it is recovered from the
//! cookies that the switch still holds.
//!
//! An id is never given to another object while a flow of the old one may still be in the switch:
//! freed ids are used again only after all others (the counter goes round).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cookie::Kind;

/// The most objects of one kind: far beyond what a node holds, so that corrupt state cannot make
/// the ledger grow without end.
pub const MAX_OBJECTS: usize = 1 << 20;

/// Ids of one kind of objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Space {
    /// Object key to id. Ids are unique and never 0.
    ids: BTreeMap<String, u32>,
    /// Where the search for a free id starts.
    next: u32,
    /// The values of `ids`, and ids found in the switch whose object nobody knows.
    #[serde(skip)]
    used: BTreeSet<u32>,
}

/// Ids by kind and key. Two ledgers are equal when they give the same ids. A copy shares the kinds that
/// neither has changed since, so that it costs little and is compared at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdLedger {
    spaces: BTreeMap<String, Arc<Space>>,
}

/// Why an object got no id, or a ledger read from disk is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The kind has [`MAX_OBJECTS`] objects already.
    #[error("no id is left for {kind} {key:?}: {MAX_OBJECTS} objects have one")]
    Full {
        /// Kind of the object.
        kind: &'static str,
        /// Its key.
        key: String,
    },
    /// Two objects have one id, or an object has id 0.
    #[error("the ledger gives id {id} of {kind} to {key:?}, which is 0 or another object's")]
    Conflict {
        /// Kind of the object.
        kind: String,
        /// Its key.
        key: String,
        /// The id.
        id: u32,
    },
}

impl IdLedger {
    /// Checks a ledger read from disk and makes it ready for use.
    ///
    /// # Errors
    /// An id is 0 or stands twice.
    pub fn validated(mut self) -> Result<Self, LedgerError> {
        for (kind, space) in &mut self.spaces {
            let space = Arc::make_mut(space);
            space.used.clear();
            for (key, id) in &space.ids {
                if *id == 0 || !space.used.insert(*id) {
                    return Err(LedgerError::Conflict {
                        kind: kind.clone(),
                        key: key.clone(),
                        id: *id,
                    });
                }
            }
        }
        Ok(self)
    }

    /// The id an object has.
    pub fn get(&self, kind: Kind, key: &str) -> Option<u32> {
        self.spaces.get(kind.name())?.ids.get(key).copied()
    }

    /// The id of an object, given now if it has none.
    ///
    /// # Errors
    /// The kind is full.
    pub fn id(&mut self, kind: Kind, key: &str) -> Result<u32, LedgerError> {
        if let Some(id) = self.get(kind, key) {
            return Ok(id);
        }
        let space = self.space(kind);
        if space.used.len() >= MAX_OBJECTS {
            return Err(LedgerError::Full {
                kind: kind.name(),
                key: key.to_owned(),
            });
        }
        let next = |id: u32| if id >= kind.max_id() { 1 } else { id + 1 };
        let mut id = match space.next {
            id if (1..=kind.max_id()).contains(&id) => id,
            _ => 1,
        };
        while space.used.contains(&id) {
            id = next(id);
        }
        space.next = next(id);
        space.used.insert(id);
        space.ids.insert(key.to_owned(), id);
        Ok(id)
    }

    /// Gives an object the id that its flows in the switch carry. Does nothing and says `false`
    /// when the object has an id or the id another object.
    pub fn adopt(&mut self, kind: Kind, key: &str, id: u32) -> bool {
        let space = self.space(kind);
        if id == 0 || space.ids.contains_key(key) || space.ids.values().any(|other| *other == id) {
            return false;
        }
        space.used.insert(id);
        space.ids.insert(key.to_owned(), id);
        true
    }

    /// Keeps an id that the switch holds from being given to anybody.
    pub fn reserve(&mut self, kind: Kind, id: u32) {
        let known = self.spaces.get(kind.name());
        if id != 0 && !known.is_some_and(|space| space.used.contains(&id)) {
            self.space(kind).used.insert(id);
        }
    }

    /// Forgets objects that are gone; their ids are given again last. Call after the flows that
    /// carry them have left the switch.
    pub fn retain(&mut self, kind: Kind, keep: impl Fn(&str) -> bool) {
        let Some(space) = self.spaces.get(kind.name()) else {
            return;
        };
        // Most often nothing goes, and a copy stays shared.
        if space.used.len() == space.ids.len() && space.ids.keys().all(|key| keep(key)) {
            return;
        }
        let space = self.space(kind);
        space.ids.retain(|key, _| keep(key));
        space.used = space.ids.values().copied().collect();
    }

    /// Forgets one object that is gone: [`Self::retain`] for kinds of which there are many. Call after
    /// the flows and groups that carry its id have left the switch.
    pub fn release(&mut self, kind: Kind, key: &str) {
        if self.get(kind, key).is_none() {
            return;
        }
        let space = self.space(kind);
        if let Some(id) = space.ids.remove(key) {
            space.used.remove(&id);
        }
    }

    /// How many objects of a kind have an id.
    pub fn len(&self, kind: Kind) -> usize {
        self.spaces
            .get(kind.name())
            .map_or(0, |space| space.ids.len())
    }

    /// Whether no object has an id.
    pub fn is_empty(&self) -> bool {
        self.spaces.values().all(|space| space.ids.is_empty())
    }

    /// The key of an id, for people who see it in a cookie.
    pub fn key_of(&self, kind: Kind, id: u32) -> Option<&str> {
        let space = self.spaces.get(kind.name())?;
        space
            .ids
            .iter()
            .find(|(_, other)| **other == id)
            .map(|(key, _)| key.as_str())
    }

    fn space(&mut self, kind: Kind) -> &mut Space {
        Arc::make_mut(self.spaces.entry(kind.name().to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_object_keeps_its_id() {
        let mut ledger = IdLedger::default();
        let first = ledger.id(Kind::Pod, "a").unwrap();
        ledger.id(Kind::Pod, "b").unwrap();
        assert_eq!(ledger.id(Kind::Pod, "a").unwrap(), first);
        assert_eq!(ledger.key_of(Kind::Pod, first), Some("a"));
    }

    #[test]
    fn a_freed_id_is_used_again_last() {
        let mut ledger = IdLedger::default();
        let first = ledger.id(Kind::Pod, "a").unwrap();
        ledger.retain(Kind::Pod, |_| false);
        assert_ne!(ledger.id(Kind::Pod, "b").unwrap(), first);
    }

    #[test]
    fn the_counter_goes_round() {
        let mut ledger = IdLedger::default();
        ledger.id(Kind::Pod, "low").unwrap();
        ledger.space(Kind::Pod).next = u32::MAX;
        assert_eq!(ledger.id(Kind::Pod, "top").unwrap(), u32::MAX);
        assert_eq!(ledger.id(Kind::Pod, "wrapped").unwrap(), 2);
    }

    #[test]
    fn ids_of_groups_leave_room_for_their_kind() {
        let mut ledger = IdLedger::default();
        ledger.space(Kind::ServiceGroup).next = 0x00ff_ffff;
        assert_eq!(ledger.id(Kind::ServiceGroup, "top").unwrap(), 0x00ff_ffff);
        assert_eq!(ledger.id(Kind::ServiceGroup, "wrapped").unwrap(), 1);
        ledger.release(Kind::ServiceGroup, "top");
        ledger.release(Kind::ServiceGroup, "unknown");
        assert_eq!(ledger.id(Kind::ServiceGroup, "next").unwrap(), 2);
        assert_eq!(ledger.len(Kind::ServiceGroup), 2);
    }

    #[test]
    fn an_id_in_the_switch_is_adopted_once() {
        let mut ledger = IdLedger::default();
        assert!(ledger.adopt(Kind::Pod, "a", 7));
        assert!(!ledger.adopt(Kind::Pod, "b", 7));
        assert!(!ledger.adopt(Kind::Pod, "a", 8));
        assert!(!ledger.adopt(Kind::Pod, "c", 0));
        assert_eq!(ledger.get(Kind::Pod, "a"), Some(7));
    }

    #[test]
    fn a_reserved_id_goes_to_nobody() {
        let mut ledger = IdLedger::default();
        ledger.reserve(Kind::Pod, 1);
        assert_eq!(ledger.id(Kind::Pod, "a").unwrap(), 2);
    }

    #[test]
    fn a_ledger_with_an_id_twice_is_refused() {
        let text = r#"{"spaces":{"pod":{"ids":{"a":1,"b":1},"next":2}}}"#;
        let ledger: IdLedger = serde_json::from_str(text).unwrap();
        assert!(matches!(
            ledger.validated(),
            Err(LedgerError::Conflict { id: 1, .. })
        ));
        let zero = r#"{"spaces":{"pod":{"ids":{"a":0},"next":2}}}"#;
        let ledger: IdLedger = serde_json::from_str(zero).unwrap();
        assert!(ledger.validated().is_err());
    }

    proptest! {
        #[test]
        fn ids_survive_the_disk_and_stay_unique(keys in prop::collection::vec("[a-z]{1,3}", 1..60)) {
            let mut ledger = IdLedger::default();
            for (index, key) in keys.iter().enumerate() {
                ledger.id(Kind::Pod, key).unwrap();
                if index % 7 == 6 {
                    ledger.retain(Kind::Pod, |other| other != key.as_str());
                }
            }
            let text = serde_json::to_string(&ledger).unwrap();
            let read: IdLedger = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read.validated().unwrap(), &ledger);
        }
    }
}
