//! Namespaces and selectors of them.

use std::sync::Arc;

use super::{Index, Namespace, NamespaceSelection, ScopeId};
use crate::group::hash_selector;
use crate::id::{ClassId, IdSet, NamespaceId, NamespaceSelectionId, SelectionId};
use crate::label::LabelSet;
use crate::objects;
use crate::selector::Selector;

impl Index {
    pub(super) fn namespace_is(&mut self, namespace: &objects::Namespace) {
        let id = self.namespace_id(&namespace.name);
        let entry = &self.namespaces[id];
        if entry.known && self.texts.are(&entry.labels, &namespace.labels) {
            return;
        }
        self.forget_labels(id);
        let labels = self.texts.labels(&namespace.labels);
        self.namespace_matching.insert_thing(&labels, id);
        let candidates = self.namespace_matching.queries((), &labels);
        let selections: IdSet<NamespaceSelectionId> = candidates
            .filter(|selection| self.namespace_selections[*selection].query.matches(&labels))
            .collect();
        let entry = &mut self.namespaces[id];
        entry.known = true;
        entry.labels = labels;
        self.select_namespace(id, selections);
    }

    pub(super) fn namespace_gone(&mut self, name: &str) {
        let Some(id) = self.namespace_ids.get(name).copied() else {
            return;
        };
        if self.namespaces[id].known {
            self.forget_labels(id);
            let selections = self.selecting_all();
            self.select_namespace(id, selections);
            self.release_namespace(id);
        }
    }

    /// The namespace of that name, known or not.
    pub(super) fn namespace_id(&mut self, name: &Arc<str>) -> NamespaceId {
        if let Some(id) = self.namespace_ids.get(name) {
            return *id;
        }
        let id = self.namespaces.insert(Namespace {
            name: Arc::clone(name),
            ..Namespace::default()
        });
        self.namespace_ids.insert(Arc::clone(name), id);
        let selections = self.selecting_all();
        self.select_namespace(id, selections);
        id
    }

    /// Selectors of namespaces that select those that are not known.
    fn selecting_all(&self) -> IdSet<NamespaceSelectionId> {
        let unlabelled = LabelSet::default();
        let candidates = self.namespace_matching.queries((), &unlabelled);
        candidates
            .filter(|selection| self.namespace_selections[*selection].query.selects_all())
            .collect()
    }

    /// Forgets a namespace that is neither known nor named.
    pub(super) fn release_namespace(&mut self, id: NamespaceId) {
        let entry = &self.namespaces[id];
        if entry.known || entry.users > 0 || !entry.classes.is_empty() {
            return;
        }
        let entry = self.namespaces.retire(id);
        for selection in entry.selections.iter() {
            self.namespace_selections[selection].namespaces.remove(id);
        }
        self.namespace_ids.remove(&entry.name);
    }

    fn forget_labels(&mut self, id: NamespaceId) {
        let entry = &mut self.namespaces[id];
        if entry.known {
            entry.known = false;
            let labels = std::mem::take(&mut entry.labels);
            self.namespace_matching.remove_thing(&labels, id);
            self.texts.release_labels(&labels);
        }
    }

    /// These selectors select the namespace now: its pods leave the groups of others and enter the
    /// groups of these.
    fn select_namespace(&mut self, id: NamespaceId, selections: IdSet<NamespaceSelectionId>) {
        let before = std::mem::take(&mut self.namespaces[id].selections);
        let classes: Vec<ClassId> = self.namespaces[id].classes.iter().collect();
        for gone in before.but(&selections) {
            self.namespace_selections[gone].namespaces.remove(id);
            for class in &classes {
                let scoped = |selection: &SelectionId| {
                    self.selections[*selection].scope == ScopeId::Selected(gone)
                };
                let selected = self.classes[*class].selections.iter();
                let left: Vec<SelectionId> = selected.filter(scoped).collect();
                for selection in left {
                    self.leave(*class, selection);
                }
            }
        }
        for new in selections.but(&before) {
            self.namespace_selections[new].namespaces.insert(id);
            for class in &classes {
                for selection in self.selecting(*class, ScopeId::Selected(new)) {
                    self.enter(*class, selection);
                }
            }
        }
        self.namespaces[id].selections = selections;
    }

    /// The selector of namespaces, made if it is new; one user more.
    pub(super) fn acquire_namespace_selection(
        &mut self,
        selector: &Selector,
    ) -> NamespaceSelectionId {
        let hash = hash_selector(selector);
        if let Some(id) = self.namespace_selection_ids.get(&hash) {
            self.namespace_selections[*id].users += 1;
            return *id;
        }
        let query = self.texts.query(selector);
        let namespaces: IdSet<NamespaceId> = if query.selects_all() {
            let mut all: Vec<NamespaceId> = self.namespace_ids.values().copied().collect();
            all.sort_unstable();
            all.into_iter().collect()
        } else {
            let candidates = self.namespace_matching.things(&query);
            candidates
                .filter(|namespace| query.matches(&self.namespaces[*namespace].labels))
                .collect()
        };
        let id = self
            .namespace_selections
            .insert(NamespaceSelection::default());
        for namespace in namespaces.iter() {
            self.namespaces[namespace].selections.insert(id);
        }
        self.namespace_matching.insert_query((), &query, id);
        self.namespace_selection_ids.insert(hash, id);
        self.namespace_selections[id] = NamespaceSelection {
            hash,
            query,
            namespaces,
            users: 1,
        };
        id
    }

    /// One user fewer. The last one has unlinked its classes, so nothing follows from this.
    pub(super) fn release_namespace_selection(&mut self, id: NamespaceSelectionId) {
        let entry = &mut self.namespace_selections[id];
        entry.users = entry.users.saturating_sub(1);
        if entry.users > 0 {
            return;
        }
        let entry = self.namespace_selections.retire(id);
        for namespace in entry.namespaces.iter() {
            self.namespaces[namespace].selections.remove(id);
        }
        self.namespace_matching.remove_query((), &entry.query, id);
        self.texts.release_query(&entry.query);
        self.namespace_selection_ids.remove(&entry.hash);
    }
}
