//! Pods and the classes they are of.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Class, GroupRef, Index, PeerKind, Pod, ScopeId};
use crate::id::{ClassId, NodeId, PodId, SelectionId};
use crate::objects;

impl Index {
    pub(super) fn pod_is(&mut self, pod: objects::Pod) {
        if let Some(id) = self.pod_ids.get(&pod.uid).copied() {
            if self.is_same_place(id, &pod) {
                self.pod_says(id, &pod);
                return;
            }
            self.remove_pod(id);
        }
        let namespace = self.namespace_id(&pod.namespace);
        let node = self.node_id(&pod.node);
        let labels = self.texts.labels(&pod.labels);
        let class = match self.class_ids.get(&(namespace, labels.clone())) {
            Some(class) => {
                let class = *class;
                self.texts.release_labels(&labels);
                class
            }
            None => self.new_class(Class {
                namespace,
                labels,
                ..Class::default()
            }),
        };
        let id = self.pods.insert(Pod {
            uid: Arc::clone(&pod.uid),
            name: pod.name,
            node,
            class,
            addresses: addresses(pod.addresses),
            ports: pod.ports,
        });
        self.pending.touch_pod(id, &pod.uid, None);
        self.pod_ids.insert(pod.uid, id);
        self.classes[class].pods.insert(id);
        self.nodes[node].pods.insert(id);
        self.note_pod(id, false);
        if self.classes[class].nodes.insert(node) {
            let selections: Vec<SelectionId> = self.classes[class].selections.iter().collect();
            for selection in selections {
                self.gain(selection, node);
            }
        }
    }

    pub(super) fn pod_addresses(&mut self, uid: &str, list: Vec<IpAddr>) {
        let Some(id) = self.pod_ids.get(uid).copied() else {
            return;
        };
        let addresses = addresses(list);
        if self.pods[id].addresses != addresses {
            self.note_pod(id, true);
            self.pods[id].addresses = addresses;
            self.note_pod(id, false);
        }
    }

    pub(super) fn pod_gone(&mut self, uid: &str) {
        if let Some(id) = self.pod_ids.get(uid).copied() {
            self.remove_pod(id);
        }
    }

    /// Whether nothing differs that decides which groups the pod is in and who needs them.
    fn is_same_place(&self, id: PodId, pod: &objects::Pod) -> bool {
        let old = &self.pods[id];
        let class = &self.classes[old.class];
        *self.nodes[old.node].name == *pod.node
            && *self.namespaces[class.namespace].name == *pod.namespace
            && old.name == pod.name
            && self.texts.are(&class.labels, &pod.labels)
    }

    /// Takes over addresses and names of ports.
    fn pod_says(&mut self, id: PodId, pod: &objects::Pod) {
        let old = &self.pods[id];
        let same_addresses = *old.addresses == *pod.addresses;
        let same_ports = old.ports == pod.ports;
        if same_addresses && same_ports {
            return;
        }
        self.note_pod(id, true);
        let node = self.pods[id].node;
        if !same_ports {
            self.pending.touch_pod(id, &pod.uid, Some(node));
        }
        let entry = &mut self.pods[id];
        entry.addresses = addresses(pod.addresses.clone());
        entry.ports = Arc::clone(&pod.ports);
        self.note_pod(id, false);
    }

    fn remove_pod(&mut self, id: PodId) {
        self.note_pod(id, true);
        let Pod {
            uid, node, class, ..
        } = self.pods.retire(id);
        self.pending.touch_pod(id, &uid, Some(node));
        self.pod_ids.remove(&uid);
        self.classes[class].pods.remove(id);
        self.nodes[node].pods.remove(id);
        if !self.has_class(node, class) {
            self.classes[class].nodes.remove(node);
            let selections: Vec<SelectionId> = self.classes[class].selections.iter().collect();
            for selection in selections {
                self.lose(selection, node);
            }
        }
        if self.classes[class].pods.is_empty() {
            self.remove_class(class);
        }
        self.release_node(node);
    }

    /// Whether a pod of the class is on the node. A node has few pods, so they are looked at
    /// instead of being counted for every class.
    fn has_class(&self, node: NodeId, class: ClassId) -> bool {
        let mut pods = self.nodes[node].pods.iter();
        pods.any(|pod| self.pods[pod].class == class)
    }

    /// Notes that the pod's addresses are, or were, members of the groups it is in.
    pub(super) fn note_pod(&mut self, id: PodId, member: bool) {
        let class = self.pods[id].class;
        let selections = self.classes[class].selections.iter();
        let peers: Vec<GroupRef> = selections
            .flat_map(|selection| self.peer_groups(selection))
            .collect();
        self.note_pod_in(id, &peers, member);
    }

    /// Groups of peers that the selection is, or was when nodes were told last.
    pub(super) fn peer_groups(&self, selection: SelectionId) -> impl Iterator<Item = GroupRef> {
        let used = PeerKind::ALL.map(|kind| {
            let group = GroupRef::Pods(selection, kind);
            self.is_followed(group).then_some(group)
        });
        used.into_iter().flatten()
    }

    /// The same for these groups.
    pub(super) fn note_pod_in(&mut self, id: PodId, groups: &[GroupRef], member: bool) {
        let Pod {
            uid,
            addresses,
            ports,
            ..
        } = &self.pods[id];
        if addresses.is_empty() || groups.is_empty() {
            return;
        }
        let (uid, addresses, ports) = (Arc::clone(uid), addresses.clone(), Arc::clone(ports));
        for group in groups {
            let was = member.then(|| match group {
                GroupRef::Pods(_, PeerKind::NamedPorts) => Arc::clone(&ports),
                _ => Arc::default(),
            });
            self.note_members(*group, &uid, &addresses, was.as_ref());
        }
    }

    fn new_class(&mut self, class: Class) -> ClassId {
        let namespace = class.namespace;
        let key = (namespace, class.labels.clone());
        let id = self.classes.insert(class);
        self.matching.insert_thing(&key.1, id);
        self.class_ids.insert(key, id);
        self.namespaces[namespace].classes.insert(id);
        let selected = self.namespaces[namespace].selections.iter();
        let scopes: Vec<ScopeId> = selected
            .map(ScopeId::Selected)
            .chain([ScopeId::Namespace(namespace)])
            .collect();
        for scope in scopes {
            for selection in self.selecting(id, scope) {
                self.link(id, selection);
            }
        }
        id
    }

    fn remove_class(&mut self, id: ClassId) {
        let class = self.classes.retire(id);
        for selection in class.selections.iter() {
            self.selections[selection].classes.remove(id);
        }
        self.matching.remove_thing(&class.labels, id);
        self.texts.release_labels(&class.labels);
        self.namespaces[class.namespace].classes.remove(id);
        let namespace = class.namespace;
        self.class_ids.remove(&(namespace, class.labels));
        self.release_namespace(namespace);
    }

    /// Selectors of the scope that select the class.
    pub(super) fn selecting(&self, class: ClassId, scope: ScopeId) -> Vec<SelectionId> {
        let labels = &self.classes[class].labels;
        let candidates = self.matching.queries(scope, labels);
        candidates
            .filter(|selection| self.selections[*selection].query.matches(labels))
            .collect()
    }

    /// The class is selected; what follows for its pods is up to the caller.
    pub(super) fn link(&mut self, class: ClassId, selection: SelectionId) {
        self.classes[class].selections.insert(selection);
        self.selections[selection].classes.insert(class);
    }

    fn unlink(&mut self, class: ClassId, selection: SelectionId) {
        self.classes[class].selections.remove(selection);
        self.selections[selection].classes.remove(class);
    }

    /// A class with pods is selected now.
    pub(super) fn enter(&mut self, class: ClassId, selection: SelectionId) {
        self.link(class, selection);
        self.note_class(class, selection, false);
        let nodes: Vec<NodeId> = self.classes[class].nodes.iter().collect();
        for node in nodes {
            self.gain(selection, node);
        }
    }

    /// A class with pods is not selected any more.
    pub(super) fn leave(&mut self, class: ClassId, selection: SelectionId) {
        self.note_class(class, selection, true);
        self.unlink(class, selection);
        let nodes: Vec<NodeId> = self.classes[class].nodes.iter().collect();
        for node in nodes {
            self.lose(selection, node);
        }
    }

    fn note_class(&mut self, class: ClassId, selection: SelectionId, member: bool) {
        let pods: Vec<PodId> = self.classes[class].pods.iter().collect();
        let groups: Vec<GroupRef> = self.peer_groups(selection).collect();
        let applied = self.selections[selection].applied.is_some();
        for pod in pods {
            if applied {
                let Pod { uid, node, .. } = &self.pods[pod];
                self.pending.touch_pod(pod, uid, Some(*node));
            }
            self.note_pod_in(pod, &groups, member);
        }
    }
}

/// Each address once, in the order given.
fn addresses(list: Vec<IpAddr>) -> SmallVec<[IpAddr; 2]> {
    let mut distinct = SmallVec::new();
    for address in list {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    distinct
}
