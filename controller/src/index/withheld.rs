//! New pods whose records wait until every policy that was there before them is known.
//!
//! Watches of different kinds have no common order: a policy that was made a moment before a pod
//! may be seen after it. So what there is of policy is read anew once the pod was seen, and the
//! pod's record opens its port only when all of that has been seen, too (ADR 0010).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use carrick_policy::PolicyName;
use carrick_proto::PodUid;

/// Version of an object. Versions of one resource rise with every change
/// (`metadata.resourceVersion`; KEP-5504 says that they are decimal numbers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ResourceVersion(u64);

impl ResourceVersion {
    /// What the object's metadata says.
    #[must_use]
    pub fn of(text: Option<&str>) -> Self {
        Self(text.and_then(|text| text.parse().ok()).unwrap_or_default())
    }
}

/// What there is of policy for the pods of a namespace, as it was read at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Policies.
    pub policies: Vec<(PolicyName, ResourceVersion)>,
    /// The namespace, if its labels may matter.
    pub namespace: Option<ResourceVersion>,
}

/// Pods whose records are withheld, by namespace.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    namespaces: BTreeMap<Arc<str>, BTreeSet<PodUid>>,
}

impl Withheld {
    pub(super) fn insert(&mut self, namespace: Arc<str>, pod: PodUid) {
        self.namespaces.entry(namespace).or_default().insert(pod);
    }

    pub(super) fn remove(&mut self, namespace: &str, pod: &PodUid) {
        if let Some(pods) = self.namespaces.get_mut(namespace) {
            pods.remove(pod);
            if pods.is_empty() {
                self.namespaces.remove(namespace);
            }
        }
    }

    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.keys()
    }

    pub(super) fn of(&self, namespace: &str) -> BTreeSet<PodUid> {
        self.namespaces.get(namespace).cloned().unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.namespaces.values().map(BTreeSet::len).sum()
    }
}
