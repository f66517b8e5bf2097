//! Span: which nodes need what. A policy is needed where a pod is that it is for; a group of peers
//! where a policy is needed that names it.

use std::net::IpAddr;
use std::sync::Arc;

use super::{GroupRef, Index, PeerUse};
use crate::group::{GroupKey, GroupKind};
use crate::id::{IdSet, NodeId, PodId, SelectionId};
use crate::port::NamedPort;

/// A group with more users than this is looked up by the pods of a node, one with fewer by them.
const FEW_USERS: usize = 2;

impl Index {
    pub(crate) fn peer(&self, group: GroupRef) -> Option<&PeerUse> {
        match group {
            GroupRef::Pods(selection, kind) => {
                self.selections[selection].peers[kind.place()].as_deref()
            }
            GroupRef::Nodes(selection) => self.node_selections[selection].peer.as_deref(),
        }
    }

    fn peer_mut(&mut self, group: GroupRef) -> &mut Option<Box<PeerUse>> {
        match group {
            GroupRef::Pods(selection, kind) => &mut self.selections[selection].peers[kind.place()],
            GroupRef::Nodes(selection) => &mut self.node_selections[selection].peer,
        }
    }

    pub(crate) fn group_key(&self, group: GroupRef) -> GroupKey {
        match group {
            GroupRef::Pods(selection, kind) => {
                GroupKey::new(kind.group(), self.selections[selection].hash)
            }
            GroupRef::Nodes(selection) => {
                GroupKey::new(GroupKind::Addresses, self.node_selections[selection].hash)
            }
        }
    }

    /// A pod of the selection is on the node now.
    pub(super) fn gain(&mut self, selection: SelectionId, node: NodeId) {
        let Some(applied) = &mut self.selections[selection].applied else {
            return;
        };
        if applied.nodes.contains(node) {
            return;
        }
        self.pending.touch_applied(selection, Some(&applied.nodes));
        applied.nodes.insert(node);
        let uses = applied.uses.clone();
        for (group, _) in uses {
            self.group_gains(group, node);
        }
    }

    /// A pod of the selection was on the node; another may still be.
    pub(super) fn lose(&mut self, selection: SelectionId, node: NodeId) {
        let entry = &self.selections[selection];
        let Some(applied) = &entry.applied else {
            return;
        };
        let selected = |pod: PodId| entry.classes.contains(self.pods[pod].class);
        if !applied.nodes.contains(node) || self.nodes[node].pods.iter().any(selected) {
            return;
        }
        self.pending.touch_applied(selection, Some(&applied.nodes));
        let uses = applied.uses.clone();
        if let Some(applied) = &mut self.selections[selection].applied {
            applied.nodes.remove(node);
        }
        for (group, _) in uses {
            self.group_loses(group, node);
        }
    }

    /// Policies for the selection name these groups, each once more.
    pub(super) fn add_uses(&mut self, selection: SelectionId, groups: &[GroupRef]) {
        for group in groups {
            let Some(applied) = &mut self.selections[selection].applied else {
                return;
            };
            match applied
                .uses
                .binary_search_by_key(group, |(group, _)| *group)
            {
                Ok(place) => applied.uses[place].1 += 1,
                Err(place) => {
                    applied.uses.insert(place, (*group, 1));
                    let nodes = applied.nodes.clone();
                    self.touch_group(*group);
                    let peer = self.peer_mut(*group).get_or_insert_default();
                    peer.users.insert(selection);
                    if peer.nodes.is_empty() {
                        peer.nodes = nodes;
                    } else {
                        peer.nodes.extend(nodes.iter());
                    }
                }
            }
        }
    }

    /// Policies for the selection name these groups, each once less.
    pub(super) fn remove_uses(&mut self, selection: SelectionId, groups: &[GroupRef]) {
        for group in groups {
            let Some(applied) = &mut self.selections[selection].applied else {
                return;
            };
            let found = applied
                .uses
                .binary_search_by_key(group, |(group, _)| *group);
            let Ok(place) = found else {
                continue;
            };
            let count = &mut applied.uses[place].1;
            *count = count.saturating_sub(1);
            if *count > 0 {
                continue;
            }
            applied.uses.remove(place);
            let nodes: Vec<NodeId> = applied.nodes.iter().collect();
            self.touch_group(*group);
            let peer = self.peer_mut(*group);
            if let Some(used) = peer {
                used.users.remove(selection);
                if used.users.is_empty() {
                    *peer = None;
                } else {
                    for node in nodes {
                        self.group_loses(*group, node);
                    }
                }
            }
        }
    }

    fn group_gains(&mut self, group: GroupRef, node: NodeId) {
        if self
            .peer(group)
            .is_some_and(|peer| peer.nodes.contains(node))
        {
            return;
        }
        self.touch_group(group);
        if let Some(peer) = self.peer_mut(group) {
            peer.nodes.insert(node);
        }
    }

    fn group_loses(&mut self, group: GroupRef, node: NodeId) {
        let Some(peer) = self.peer(group) else {
            return;
        };
        if !peer.nodes.contains(node) || self.node_needs(node, &peer.users) {
            return;
        }
        self.touch_group(group);
        if let Some(peer) = self.peer_mut(group) {
            peer.nodes.remove(node);
        }
    }

    /// Whether a pod of one of these selections is on the node.
    fn node_needs(&self, node: NodeId, users: &IdSet<SelectionId>) -> bool {
        if users.len() <= FEW_USERS {
            let mut users = users.iter();
            return users.any(|selection| {
                let applied = self.selections[selection].applied.as_deref();
                applied.is_some_and(|applied| applied.nodes.contains(node))
            });
        }
        let mut pods = self.nodes[node].pods.iter();
        pods.any(|pod| {
            let class = &self.classes[self.pods[pod].class];
            class
                .selections
                .iter()
                .any(|selection| users.contains(selection))
        })
    }

    /// Notes who has the group, before that or its members change.
    fn touch_group(&mut self, group: GroupRef) {
        if !self.pending.has_group(group) {
            let nodes = self.peer(group).map(|peer| peer.nodes.clone());
            let key = self.group_key(group);
            self.pending
                .touch_group(group, key, nodes.unwrap_or_default());
        }
    }

    /// Whether it matters who is in the group: nodes need it, or had it when they were told last. A
    /// policy that goes and comes back before nodes are told leaves them with what they had, so
    /// what changes in between is to be told.
    pub(super) fn is_followed(&self, group: GroupRef) -> bool {
        self.peer(group).is_some() || self.pending.has_group(group)
    }

    /// Notes what these addresses were in the group: `None` if no members.
    pub(super) fn note_members(
        &mut self,
        group: GroupRef,
        owner: &Arc<str>,
        addresses: &[IpAddr],
        was: Option<&Arc<[NamedPort]>>,
    ) {
        if !self.is_followed(group) {
            return;
        }
        self.touch_group(group);
        self.pending.note_members(group, owner, addresses, was);
    }
}
