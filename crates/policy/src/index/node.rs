//! Nodes, and selectors of them that rules name as peers.

use std::net::IpAddr;
use std::sync::Arc;

use super::{GroupRef, Index, Node, NodeSelection, PeerUse};
use crate::group::hash_nodes;
use crate::id::{IdSet, NodeId, NodeSelectionId};
use crate::objects;
use crate::selector::Selector;

impl Index {
    pub(super) fn node_is(&mut self, node: objects::Node) {
        let id = self.node_id(&node.name);
        let entry = &self.nodes[id];
        if entry.known
            && entry.addresses == node.addresses
            && self.texts.are(&entry.labels, &node.labels)
        {
            return;
        }
        self.forget_node(id);
        let labels = self.texts.labels(&node.labels);
        self.node_matching.insert_thing(&labels, id);
        let candidates = self.node_matching.queries((), &labels);
        let selections: IdSet<NodeSelectionId> = candidates
            .filter(|selection| self.node_selections[*selection].query.matches(&labels))
            .collect();
        for selection in selections.iter() {
            self.node_selections[selection].members.insert(id);
        }
        let entry = &mut self.nodes[id];
        entry.known = true;
        entry.labels = labels;
        entry.addresses = node.addresses;
        entry.selections = selections;
        self.note_node(id, false);
    }

    pub(super) fn node_gone(&mut self, name: &str) {
        let Some(id) = self.node_ids.get(name).copied() else {
            return;
        };
        self.forget_node(id);
        self.release_node(id);
    }

    /// The node of that name, known or not.
    pub(super) fn node_id(&mut self, name: &Arc<str>) -> NodeId {
        if let Some(id) = self.node_ids.get(name) {
            return *id;
        }
        let id = self.nodes.insert(Node {
            name: Arc::clone(name),
            ..Node::default()
        });
        self.node_ids.insert(Arc::clone(name), id);
        id
    }

    /// The node may be neither known nor have pods now. It is forgotten once nodes were told: until
    /// then it may come back, and is the same one.
    pub(super) fn release_node(&mut self, id: NodeId) {
        let entry = &self.nodes[id];
        if !entry.known && entry.pods.is_empty() {
            self.idle_nodes.push(id);
        }
    }

    /// Forgets nodes that did not come back.
    pub(crate) fn forget_idle_nodes(&mut self) {
        for id in std::mem::take(&mut self.idle_nodes) {
            let entry = &self.nodes[id];
            let idle = !entry.known && entry.pods.is_empty();
            if idle && self.node_ids.get(&entry.name) == Some(&id) {
                let Node { name, .. } = self.nodes.retire(id);
                self.node_ids.remove(&name);
                // Whoever is told that it lost something may still ask how it was called.
                self.nodes[id].name = name;
            }
        }
    }

    fn forget_node(&mut self, id: NodeId) {
        if !self.nodes[id].known {
            return;
        }
        self.note_node(id, true);
        let entry = &mut self.nodes[id];
        entry.known = false;
        entry.addresses.clear();
        let labels = std::mem::take(&mut entry.labels);
        let selections = std::mem::take(&mut entry.selections);
        for selection in selections.iter() {
            self.node_selections[selection].members.remove(id);
        }
        self.node_matching.remove_thing(&labels, id);
        self.texts.release_labels(&labels);
    }

    /// Notes that the node's addresses are, or were, members of groups.
    fn note_node(&mut self, id: NodeId, member: bool) {
        let entry = &self.nodes[id];
        let name = Arc::clone(&entry.name);
        let addresses: Vec<IpAddr> = entry.addresses.clone();
        let selections: Vec<NodeSelectionId> = entry.selections.iter().collect();
        let was = member.then(Arc::default);
        for selection in selections {
            self.note_members(GroupRef::Nodes(selection), &name, &addresses, was.as_ref());
        }
    }

    /// The selector of nodes, made if it is new; one user more.
    pub(super) fn acquire_node_selection(&mut self, selector: &Selector) -> NodeSelectionId {
        let hash = hash_nodes(selector);
        if let Some(id) = self.node_selection_ids.get(&hash) {
            self.node_selections[*id].users += 1;
            return *id;
        }
        let query = self.texts.query(selector);
        let candidates = self.node_matching.things(&query);
        let members: IdSet<NodeId> = candidates
            .filter(|node| query.matches(&self.nodes[*node].labels))
            .collect();
        let id = self.node_selections.insert(NodeSelection::default());
        for node in members.iter() {
            self.nodes[node].selections.insert(id);
        }
        self.node_matching.insert_query((), &query, id);
        self.node_selection_ids.insert(hash, id);
        self.node_selections[id] = NodeSelection {
            hash,
            query,
            users: 1,
            members,
            peer: None::<Box<PeerUse>>,
        };
        id
    }

    /// One user fewer.
    pub(super) fn release_node_selection(&mut self, id: NodeSelectionId) {
        let entry = &mut self.node_selections[id];
        entry.users = entry.users.saturating_sub(1);
        if entry.users > 0 {
            return;
        }
        let entry = self.node_selections.retire(id);
        for node in entry.members.iter() {
            self.nodes[node].selections.remove(id);
        }
        self.node_matching.remove_query((), &entry.query, id);
        self.texts.release_query(&entry.query);
        self.node_selection_ids.remove(&entry.hash);
    }
}
