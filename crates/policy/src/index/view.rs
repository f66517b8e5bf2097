//! What is known, as nodes are told of it.

use std::net::IpAddr;
use std::sync::Arc;

use super::{GroupRef, Index, PeerKind, Pod, PolicyEntry};
use crate::group::{GroupKey, GroupKind};
use crate::id::{NodeId, PodId, SelectionId};
use crate::port::NamedPort;
use crate::state::{EnforcedPolicy, MemberKey, Members, NodeState, PodRecord};

impl Index {
    /// The node's name. Ids are good until the next change.
    pub fn node_name(&self, node: NodeId) -> &Arc<str> {
        &self.nodes[node].name
    }

    /// The node of that name, if it is known or has pods.
    pub fn node(&self, name: &str) -> Option<NodeId> {
        self.node_ids.get(name).copied()
    }

    /// All nodes, sorted by name.
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.node_ids.values().copied().collect();
        nodes.sort_unstable_by(|a, b| self.nodes[*a].name.cmp(&self.nodes[*b].name));
        nodes
    }

    /// The policy of that name, as it is enforced.
    pub fn policy(&self, name: &crate::PolicyName) -> Option<&Arc<EnforcedPolicy>> {
        let entry = self.policies[*self.policy_ids.get(name)?].as_ref()?;
        Some(&entry.enforced)
    }

    /// The record of the pod of that UID.
    pub fn pod_record(&self, uid: &str) -> Option<PodRecord> {
        self.pod_ids.get(uid).map(|pod| self.record(*pod))
    }

    /// Members of a group of peers, if any policy names it.
    pub fn members(&self, key: &GroupKey) -> Option<Members> {
        self.group(key).map(|group| self.members_of(group))
    }

    /// Everything the node needs.
    pub fn node_state(&self, node: NodeId) -> NodeState {
        let mut state = NodeState::default();
        for pod in self.nodes[node].pods.iter() {
            self.add_pod(pod, &mut state);
        }
        state
    }

    /// What the pod's node needs for this pod alone, and the node's addresses.
    pub(crate) fn pod_state(&self, uid: &str) -> Option<(NodeState, &[IpAddr])> {
        let pod = *self.pod_ids.get(uid)?;
        let mut state = NodeState::default();
        self.add_pod(pod, &mut state);
        Some((state, &self.nodes[self.pods[pod].node].addresses))
    }

    fn add_pod(&self, pod: PodId, state: &mut NodeState) {
        let record = self.record(pod);
        state.pods.insert(Arc::clone(&record.uid), record);
        for selection in self.classes[self.pods[pod].class].selections.iter() {
            self.add_policies(selection, state);
        }
    }

    fn add_policies(&self, selection: SelectionId, state: &mut NodeState) {
        let Some(applied) = &self.selections[selection].applied else {
            return;
        };
        for policy in applied.policies.iter() {
            let Some(PolicyEntry {
                enforced, groups, ..
            }) = &self.policies[policy]
            else {
                continue;
            };
            if state.policies.contains_key(&enforced.name) {
                continue;
            }
            state
                .policies
                .insert(enforced.name.clone(), Arc::clone(enforced));
            for group in groups {
                let key = self.group_key(*group);
                let members = || self.members_of(*group);
                state.groups.entry(key).or_insert_with(members);
            }
        }
    }

    pub(crate) fn record(&self, pod: PodId) -> PodRecord {
        let Pod {
            uid,
            name,
            class,
            ports,
            ..
        } = &self.pods[pod];
        let class = &self.classes[*class];
        let applied = class.selections.iter().filter_map(|selection| {
            let entry = &self.selections[selection];
            entry.applied.as_ref()?;
            Some(GroupKey::new(GroupKind::AppliedTo, entry.hash))
        });
        let mut groups: Vec<GroupKey> = applied.collect();
        groups.sort_unstable();
        PodRecord {
            uid: Arc::clone(uid),
            namespace: Arc::clone(&self.namespaces[class.namespace].name),
            name: Arc::clone(name),
            labels: self.texts.spell(&class.labels),
            ports: Arc::clone(ports),
            groups,
        }
    }

    fn group(&self, key: &GroupKey) -> Option<GroupRef> {
        let selection = self.selection_ids.get(key.hash());
        let group = match (key.kind(), selection) {
            (GroupKind::AppliedTo, _) => return None,
            (GroupKind::Addresses, Some(id)) => GroupRef::Pods(*id, PeerKind::Addresses),
            (GroupKind::NamedPorts, Some(id)) => GroupRef::Pods(*id, PeerKind::NamedPorts),
            (_, None) => GroupRef::Nodes(*self.node_selection_ids.get(key.hash())?),
        };
        self.peer(group).map(|_| group)
    }

    pub(crate) fn members_of(&self, group: GroupRef) -> Members {
        let mut members = Members::new();
        match group {
            GroupRef::Pods(selection, kind) => {
                let classes = self.selections[selection].classes.iter();
                for pod in classes.flat_map(|class| self.classes[class].pods.iter()) {
                    let pod = &self.pods[pod];
                    for address in &pod.addresses {
                        let key = (Arc::clone(&pod.uid), *address);
                        members.insert(key, said_ports(pod, kind));
                    }
                }
            }
            GroupRef::Nodes(selection) => {
                for node in self.node_selections[selection].members.iter() {
                    let node = &self.nodes[node];
                    for address in &node.addresses {
                        let key = (Arc::clone(&node.name), *address);
                        members.insert(key, Arc::default());
                    }
                }
            }
        }
        members
    }

    /// What the address is in the group now: `None` if no member.
    pub(crate) fn member(&self, group: GroupRef, key: &MemberKey) -> Option<Arc<[NamedPort]>> {
        let (owner, address) = key;
        let has = |addresses: &[IpAddr]| addresses.contains(address);
        match group {
            GroupRef::Pods(selection, kind) => {
                let pod = &self.pods[*self.pod_ids.get(owner)?];
                let selected = self.selections[selection].classes.contains(pod.class);
                (selected && has(&pod.addresses)).then(|| said_ports(pod, kind))
            }
            GroupRef::Nodes(selection) => {
                let id = *self.node_ids.get(owner)?;
                let selected = self.node_selections[selection].members.contains(id);
                (selected && has(&self.nodes[id].addresses)).then(Arc::default)
            }
        }
    }

    /// The node a pod is on.
    pub(crate) fn node_of(&self, uid: &str) -> Option<NodeId> {
        self.pod_ids.get(uid).map(|pod| self.pods[*pod].node)
    }
}

/// What the group says of the pod's ports.
fn said_ports(pod: &Pod, kind: PeerKind) -> Arc<[NamedPort]> {
    match kind {
        PeerKind::Addresses => Arc::default(),
        PeerKind::NamedPorts => Arc::clone(&pod.ports),
    }
}
