//! Selectors of pods.

use super::{Index, ScopeId, Selection};
use crate::group::hash_pods;
use crate::id::{ClassId, NamespaceSelectionId, SelectionId};
use crate::label::Query;
use crate::policy::{PodSelector, Scope};

impl Index {
    /// The selector, made and evaluated if it is new; one user more.
    pub(super) fn acquire_selection(&mut self, selector: &PodSelector) -> SelectionId {
        let hash = hash_pods(selector);
        if let Some(id) = self.selection_ids.get(&hash) {
            self.selections[*id].users += 1;
            return *id;
        }
        let scope = match &selector.scope {
            Scope::Namespace(name) => {
                let namespace = self.namespace_id(name);
                self.namespaces[namespace].users += 1;
                ScopeId::Namespace(namespace)
            }
            Scope::Selected(namespaces) => {
                ScopeId::Selected(self.acquire_namespace_selection(namespaces))
            }
        };
        let query = self.texts.query(&selector.pods);
        let classes = self.selected(scope, &query);
        self.matching_insert(scope, query, hash, &classes)
    }

    fn matching_insert(
        &mut self,
        scope: ScopeId,
        query: Query,
        hash: [u8; 16],
        classes: &[ClassId],
    ) -> SelectionId {
        let id = self.selections.insert(Selection::default());
        self.matching.insert_query(scope, &query, id);
        self.selection_ids.insert(hash, id);
        self.selections[id] = Selection {
            hash,
            scope,
            query,
            users: 1,
            ..Selection::default()
        };
        for class in classes {
            self.link(*class, id);
        }
        id
    }

    /// Classes that a selector of the scope selects: found by their labels or by their namespaces,
    /// whichever are fewer.
    fn selected(&self, scope: ScopeId, query: &Query) -> Vec<ClassId> {
        let by_labels = self.matching.count(query);
        match scope {
            ScopeId::Namespace(namespace) => {
                let classes = &self.namespaces[namespace].classes;
                if classes.len() <= by_labels {
                    let matching = classes.iter();
                    matching
                        .filter(|class| self.query_selects(query, *class))
                        .collect()
                } else {
                    let matching = self.matching.things(query);
                    matching
                        .filter(|class| self.classes[*class].namespace == namespace)
                        .filter(|class| self.query_selects(query, *class))
                        .collect()
                }
            }
            ScopeId::Selected(selection) => {
                if self.has_more_classes(selection, by_labels) {
                    let namespaces = &self.namespace_selections[selection].namespaces;
                    let matching = self.matching.things(query);
                    matching
                        .filter(|class| namespaces.contains(self.classes[*class].namespace))
                        .filter(|class| self.query_selects(query, *class))
                        .collect()
                } else {
                    let namespaces = self.namespace_selections[selection].namespaces.iter();
                    namespaces
                        .flat_map(|namespace| self.namespaces[namespace].classes.iter())
                        .filter(|class| self.query_selects(query, *class))
                        .collect()
                }
            }
        }
    }

    fn query_selects(&self, query: &Query, class: ClassId) -> bool {
        query.matches(&self.classes[class].labels)
    }

    fn has_more_classes(&self, selection: NamespaceSelectionId, than: usize) -> bool {
        let mut sum = 0;
        let mut namespaces = self.namespace_selections[selection].namespaces.iter();
        namespaces.any(|namespace| {
            // One for the namespace itself.
            sum += 1 + self.namespaces[namespace].classes.len();
            sum > than
        })
    }

    /// One user fewer. The last one has taken its policies and peers back, so nothing follows for
    /// pods and nodes.
    pub(super) fn release_selection(&mut self, id: SelectionId) {
        let entry = &mut self.selections[id];
        entry.users = entry.users.saturating_sub(1);
        if entry.users > 0 {
            return;
        }
        let entry = self.selections.retire(id);
        for class in entry.classes.iter() {
            self.classes[class].selections.remove(id);
        }
        self.matching.remove_query(entry.scope, &entry.query, id);
        self.texts.release_query(&entry.query);
        self.selection_ids.remove(&entry.hash);
        match entry.scope {
            ScopeId::Namespace(namespace) => {
                let users = &mut self.namespaces[namespace].users;
                *users = users.saturating_sub(1);
                self.release_namespace(namespace);
            }
            ScopeId::Selected(selection) => self.release_namespace_selection(selection),
        }
    }
}
