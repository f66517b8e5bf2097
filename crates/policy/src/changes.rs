//! What changes for which node: the difference between what nodes were told and what they need
//! now, however many events lie between.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::group::GroupKey;
use crate::id::{ClassId, IdSet, NodeId, PodId, PolicyId, SelectionId};
use crate::index::{GroupRef, Index};
use crate::policy::PolicyName;
use crate::port::NamedPort;
use crate::state::{EnforcedPolicy, GroupUpdate, MemberKey, Members, NodeUpdate};

/// What changes. Every list is sorted; a node in none of an entry's lists needs to hear nothing of
/// it. Ids of nodes are good until the next event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Pods, by UID.
    pub pods: Vec<PodChange>,
    /// Policies, by name.
    pub policies: Vec<PolicyChange>,
    /// Groups of peers, by key.
    pub groups: Vec<GroupChange>,
}

/// A pod whose record changes ([`Index::pod_record`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodChange {
    /// Its UID.
    pub uid: Arc<str>,
    /// The node it is on: it gets the record.
    pub on: Option<NodeId>,
    /// The node it was on and is not any more.
    pub lost: Option<NodeId>,
}

/// A policy that changes, or that other nodes need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyChange {
    /// Which one.
    pub name: PolicyName,
    /// What it is now; `None` if it is gone.
    pub policy: Option<Arc<EnforcedPolicy>>,
    /// Nodes that get it.
    pub told: Arc<[NodeId]>,
    /// Nodes that had it and need it no more.
    pub lost: Arc<[NodeId]>,
}

/// A group of peers that changes, or that other nodes need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupChange {
    /// Which one.
    pub key: GroupKey,
    /// Nodes that get the whole of it ([`Index::members`]).
    pub told: Box<[NodeId]>,
    /// Nodes that have it and get the difference.
    pub kept: Box<[NodeId]>,
    /// Nodes that had it and need it no more.
    pub lost: Box<[NodeId]>,
    /// Who is gone.
    pub removed: Vec<MemberKey>,
    /// Who is new, or calls ports otherwise.
    pub added: Members,
}

impl Changes {
    /// Whether no node needs to hear anything.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.policies.is_empty() && self.groups.is_empty()
    }
}

/// What was so when nodes were told last, of everything that may have changed since.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Classes all of whose pods are in the list: who joins one later is there by that.
    touched_classes: IdSet<ClassId>,
    /// Pods that are in the list: a bit each, for a policy may select all there are.
    touched: IdSet<PodId>,
    /// Where pods were, by UID.
    pods: Vec<(Arc<str>, Option<NodeId>)>,
    touched_policies: IdSet<PolicyId>,
    /// Which nodes had policies whose content changes.
    policies: Vec<(PolicyName, IdSet<NodeId>)>,
    /// Which nodes had the policies for a selection.
    applied: FxHashMap<SelectionId, IdSet<NodeId>>,
    groups: FxHashMap<GroupRef, GroupBefore>,
}

/// What a group was.
#[derive(Debug)]
struct GroupBefore {
    key: GroupKey,
    /// Who had it.
    nodes: IdSet<NodeId>,
    /// What addresses were in it that may have changed; `None` if no members. Not kept of a group
    /// that nobody had.
    members: BTreeMap<MemberKey, Option<Arc<[NamedPort]>>>,
}

impl Pending {
    /// A pod of one UID may be touched as several, one after the other: the first counts.
    pub(crate) fn touch_pod(&mut self, pod: PodId, uid: &Arc<str>, on: Option<NodeId>) {
        if self.touched.insert(pod) {
            self.pods.push((Arc::clone(uid), on));
        }
    }

    /// Whether the pods of the class are still to be touched.
    pub(crate) fn touch_class(&mut self, class: ClassId) -> bool {
        self.touched_classes.insert(class)
    }

    /// A policy that did not exist.
    pub(crate) fn new_policy(&mut self, policy: PolicyId, name: &PolicyName) {
        if self.touched_policies.insert(policy) {
            self.policies.push((name.clone(), IdSet::default()));
        }
    }

    /// A policy that is for a selection: nodes had it that had those of the selection. As with
    /// pods, the first of a name counts.
    pub(crate) fn touch_policy(
        &mut self,
        policy: PolicyId,
        name: &PolicyName,
        selection: SelectionId,
        now: Option<&IdSet<NodeId>>,
    ) {
        if self.touched_policies.insert(policy) {
            let nodes = self.applied.get(&selection).or(now).cloned();
            self.policies
                .push((name.clone(), nodes.unwrap_or_default()));
        }
    }

    pub(crate) fn touch_applied(&mut self, selection: SelectionId, now: Option<&IdSet<NodeId>>) {
        let now = || now.cloned().unwrap_or_default();
        self.applied.entry(selection).or_insert_with(now);
    }

    pub(crate) fn has_group(&self, group: GroupRef) -> bool {
        self.groups.contains_key(&group)
    }

    pub(crate) fn touch_group(&mut self, group: GroupRef, key: GroupKey, nodes: IdSet<NodeId>) {
        self.groups.entry(group).or_insert(GroupBefore {
            key,
            nodes,
            members: BTreeMap::new(),
        });
    }

    pub(crate) fn note_members(
        &mut self,
        group: GroupRef,
        owner: &Arc<str>,
        addresses: &[IpAddr],
        was: Option<&Arc<[NamedPort]>>,
    ) {
        let Some(before) = self.groups.get_mut(&group) else {
            return;
        };
        if before.nodes.is_empty() {
            return;
        }
        for address in addresses {
            let key = (Arc::clone(owner), *address);
            before.members.entry(key).or_insert_with(|| was.cloned());
        }
    }
}

impl Index {
    /// What nodes must be told since this was asked for last.
    pub fn take_changes(&mut self) -> Changes {
        let pending = std::mem::take(&mut self.pending);
        let changes = Changes {
            pods: self.pod_changes(pending.pods),
            policies: self.policy_changes(
                pending.policies,
                &pending.touched_policies,
                pending.applied,
            ),
            groups: self.group_changes(pending.groups),
        };
        self.recycle();
        changes
    }

    /// The same for each node concerned, as one update.
    pub fn updates(&self, changes: &Changes) -> BTreeMap<NodeId, NodeUpdate> {
        let mut updates = BTreeMap::<NodeId, NodeUpdate>::new();
        for change in &changes.pods {
            let uid = &change.uid;
            if let Some(node) = change.lost {
                let pods = &mut updates.entry(node).or_default().pods;
                pods.insert(Arc::clone(uid), None);
            }
            if let Some(node) = change.on {
                let pods = &mut updates.entry(node).or_default().pods;
                pods.insert(Arc::clone(uid), self.pod_record(uid));
            }
        }
        for change in &changes.policies {
            for node in change.told.iter() {
                let policies = &mut updates.entry(*node).or_default().policies;
                policies.insert(change.name.clone(), change.policy.clone());
            }
            for node in change.lost.iter() {
                let policies = &mut updates.entry(*node).or_default().policies;
                policies.insert(change.name.clone(), None);
            }
        }
        for change in &changes.groups {
            let mut say = |nodes: &[NodeId], update: GroupUpdate| {
                for node in nodes {
                    let groups = &mut updates.entry(*node).or_default().groups;
                    groups.insert(change.key, update.clone());
                }
            };
            if !change.told.is_empty() {
                let members = self.members(&change.key).unwrap_or_default();
                say(&change.told, GroupUpdate::Whole(members));
            }
            if !change.kept.is_empty() {
                let (removed, added) = (change.removed.clone(), change.added.clone());
                say(&change.kept, GroupUpdate::Difference { removed, added });
            }
            say(&change.lost, GroupUpdate::Gone);
        }
        updates
    }

    fn pod_changes(&self, mut pending: Vec<(Arc<str>, Option<NodeId>)>) -> Vec<PodChange> {
        pending.sort_by(|(a, _), (b, _)| a.cmp(b));
        pending.dedup_by(|(later, _), (first, _)| later == first);
        let changes = pending.into_iter().filter_map(|(uid, before)| {
            let on = self.node_of(&uid);
            let lost = before.filter(|before| on != Some(*before));
            (on.is_some() || lost.is_some()).then_some(PodChange { uid, on, lost })
        });
        changes.collect()
    }

    fn policy_changes(
        &self,
        mut pending: Vec<(PolicyName, IdSet<NodeId>)>,
        touched: &IdSet<PolicyId>,
        applied: FxHashMap<SelectionId, IdSet<NodeId>>,
    ) -> Vec<PolicyChange> {
        let nobody = IdSet::default();
        let mut changes = Vec::new();
        for (selection, before) in applied {
            let Some(now) = self.applied(selection) else {
                continue;
            };
            // Many policies are for one selection: what they have in common is kept once.
            let told: Arc<[NodeId]> = now.nodes.but(&before).into();
            let lost: Arc<[NodeId]> = before.but(&now.nodes).into();
            if told.is_empty() && lost.is_empty() {
                continue;
            }
            let policies = now.policies.iter().filter(|id| !touched.contains(*id));
            for entry in policies.filter_map(|id| self.policies[id].as_ref()) {
                changes.push(PolicyChange {
                    name: entry.enforced.name.clone(),
                    policy: Some(Arc::clone(&entry.enforced)),
                    told: Arc::clone(&told),
                    lost: Arc::clone(&lost),
                });
            }
        }
        pending.sort_by(|(a, _), (b, _)| a.cmp(b));
        pending.dedup_by(|(later, _), (first, _)| later == first);
        for (name, before) in pending {
            let id = self.policy_ids.get(&name);
            let entry = id.and_then(|id| self.policies[*id].as_ref());
            let now = entry
                .and_then(|entry| self.applied(entry.applied_to))
                .map_or(&nobody, |applied| &applied.nodes);
            let (told, lost): (Vec<NodeId>, _) = (now.iter().collect(), before.but(now));
            if told.is_empty() && lost.is_empty() {
                continue;
            }
            changes.push(PolicyChange {
                policy: entry.map(|entry| Arc::clone(&entry.enforced)),
                name,
                told: told.into(),
                lost: lost.into(),
            });
        }
        changes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        changes
    }

    fn group_changes(&self, pending: FxHashMap<GroupRef, GroupBefore>) -> Vec<GroupChange> {
        let nobody = IdSet::default();
        let mut changes = BTreeMap::<GroupKey, GroupChange>::new();
        for (group, before) in pending {
            let now = self.peer(group).map_or(&nobody, |peer| &peer.nodes);
            let mut change = GroupChange {
                key: before.key,
                told: now.but(&before.nodes).into(),
                kept: Box::default(),
                lost: before.nodes.but(now).into(),
                removed: Vec::new(),
                added: Members::new(),
            };
            for (member, was) in before.members {
                match (was, self.member(group, &member)) {
                    (Some(_), None) => change.removed.push(member),
                    (was, Some(is)) if was.as_ref() != Some(&is) => {
                        change.added.insert(member, is);
                    }
                    _ => {}
                }
            }
            if !change.removed.is_empty() || !change.added.is_empty() {
                change.kept = now.common(&before.nodes).into();
            }
            match changes.entry(before.key) {
                Entry::Vacant(entry) => drop(entry.insert(change)),
                Entry::Occupied(mut entry) => entry.get_mut().follow(&change),
            }
        }
        let concerns = |change: &GroupChange| {
            !change.told.is_empty() || !change.kept.is_empty() || !change.lost.is_empty()
        };
        changes.into_values().filter(concerns).collect()
    }
}

impl GroupChange {
    /// The group was given up and made again under one key: one of the two entries is what nodes
    /// had, the other what they need. Whoever needs it gets the whole, for what lies between is
    /// not known.
    fn follow(&mut self, other: &Self) {
        let union = |a: &[NodeId], b: &[NodeId]| a.iter().chain(b).copied().collect();
        let told: IdSet<NodeId> = union(&self.told, &other.told);
        let lost: IdSet<NodeId> = union(&self.lost, &other.lost);
        self.lost = lost.but(&told).into();
        self.told = told.iter().collect();
        self.kept = Box::default();
        self.removed.clear();
        self.added.clear();
    }
}
