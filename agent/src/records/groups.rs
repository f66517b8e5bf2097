//! Groups of peers: held once, changed in place. A group may have as many members as the cluster has pods, so
//! nothing copies one because one member is new.

use std::collections::{BTreeMap, BTreeSet};

use carrick_policy::{GroupKey, GroupUpdate, MemberKey, Members};
use carrick_proto::{Body, ContentHash, Delta, GroupDifference, GroupHash, Key, limits};

/// Why a difference cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// There is nothing to apply it to.
    #[error("this node does not hold the group")]
    NotHeld,
    /// What it leads to is not what the controller has.
    #[error("the group that it leads to has another hash than the controller says")]
    OtherHash,
    /// The group would have too many members.
    #[error("the group would have more than {} members", limits::MEMBERS)]
    TooLarge,
}

/// What of a group nobody has taken yet.
#[derive(Debug)]
enum Touched {
    /// It is new, another one, or gone.
    Whole,
    /// Some members came, went or call their ports otherwise.
    Members(BTreeSet<MemberKey>),
}

/// Groups with their members, and what changed of them since that was asked for.
#[derive(Debug, Default)]
pub(super) struct Groups {
    all: BTreeMap<GroupKey, Members>,
    touched: BTreeMap<GroupKey, Touched>,
}

impl Groups {
    /// Every group.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&GroupKey, &Members)> {
        self.all.iter()
    }

    /// Whether the differences of a batch fit what is held with these `hashes`.
    ///
    /// # Errors
    /// The first that does not.
    pub(super) fn check(
        &self,
        hashes: &BTreeMap<GroupKey, ContentHash>,
        delta: &Delta,
    ) -> Result<(), (GroupKey, Misfit)> {
        let differences = delta.groups.iter();
        let mut differences = differences.filter_map(|difference| {
            let gone = delta.removed.contains(&Key::Group(difference.group));
            let held = hashes.get(&difference.group).filter(|_| !gone);
            let misfit = self.misfit(held.copied(), difference)?;
            Some((difference.group, misfit))
        });
        differences.next().map_or(Ok(()), Err)
    }

    fn misfit(&self, held: Option<ContentHash>, difference: &GroupDifference) -> Option<Misfit> {
        let (Some(held), Some(members)) = (held, self.all.get(&difference.group)) else {
            return Some(Misfit::NotHeld);
        };
        let mut hash = GroupHash::resume(held);
        let mut length = members.len();
        let gone: BTreeSet<&MemberKey> = difference.removed.iter().collect();
        let replaced = difference.added.keys();
        let replaced = replaced.filter(|member| !gone.contains(member));
        for member in gone.iter().copied().chain(replaced) {
            if let Some(ports) = members.get(member) {
                hash.remove(member, ports);
                length -= 1;
            }
        }
        for (member, ports) in &difference.added {
            hash.add(member, ports);
            length += 1;
        }
        if length > limits::MEMBERS {
            return Some(Misfit::TooLarge);
        }
        (hash.content_hash() != difference.hash).then_some(Misfit::OtherHash)
    }

    /// Takes in a batch that was [checked](Self::check).
    pub(super) fn apply(&mut self, delta: &Delta) {
        for key in &delta.removed {
            if let Key::Group(group) = key
                && self.all.remove(group).is_some()
            {
                self.touched.insert(*group, Touched::Whole);
            }
        }
        for entry in &delta.changed {
            if let Body::Group(facts) = entry.body() {
                self.all.insert(facts.group, facts.members.clone());
                self.touched.insert(facts.group, Touched::Whole);
            }
        }
        for difference in &delta.groups {
            let members = self.all.entry(difference.group).or_default();
            let touched = self.touched.entry(difference.group);
            let touched = touched.or_insert_with(|| Touched::Members(BTreeSet::new()));
            if let Touched::Members(touched) = touched {
                touched.extend(difference.removed.iter().cloned());
                touched.extend(difference.added.keys().cloned());
            }
            for member in &difference.removed {
                members.remove(member);
            }
            let added = difference.added.iter();
            members.extend(added.map(|(member, ports)| (member.clone(), ports.clone())));
        }
    }

    /// What changed since this was asked for last.
    pub(super) fn take(&mut self) -> BTreeMap<GroupKey, GroupUpdate> {
        let touched = std::mem::take(&mut self.touched).into_iter();
        let updates = touched.map(|(group, touched)| {
            let update = match (self.all.get(&group), touched) {
                (None, _) => GroupUpdate::Gone,
                (Some(members), Touched::Members(touched)) if touched.len() < members.len() => {
                    let (mut removed, mut added) = (Vec::new(), Members::new());
                    for member in touched {
                        match members.get(&member) {
                            Some(ports) => drop(added.insert(member, ports.clone())),
                            None => removed.push(member),
                        }
                    }
                    GroupUpdate::Difference { removed, added }
                }
                (Some(members), _) => GroupUpdate::Whole(members.clone()),
            };
            (group, update)
        });
        updates.collect()
    }
}
