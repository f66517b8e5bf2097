//! What policy makes of the same facts: who is told which policies and groups.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use carrick_policy::{Changes as PolicyChanges, GroupKey, Members, NodeId, PolicyName};
use carrick_proto::{Body, Entry, Key, NodeName, PodFacts, PodUid};

use super::withheld::{Listed, ResourceVersion};
use super::{Change, Changes, GroupChange, Scope};
use crate::log::MembersChange;
use crate::objects::{NamespaceObject, PolicyObject};

/// Network policy, and what follows from it for nodes.
#[derive(Debug, Default)]
pub(super) struct Policies {
    index: carrick_policy::Index,
    namespaces: HashMap<Arc<str>, ResourceVersion>,
    /// Policies that were seen, refused ones too.
    names: HashMap<PolicyKind, HashMap<PolicyName, ResourceVersion>>,
}

/// Which API a policy is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha2`.
    ClusterNetworkPolicy,
}

impl PolicyKind {
    fn of(name: &PolicyName) -> Self {
        if name.namespace().is_some() {
            Self::NetworkPolicy
        } else {
            Self::ClusterNetworkPolicy
        }
    }
}

impl Policies {
    pub(super) fn apply(&mut self, event: carrick_policy::Event) {
        self.index.apply(event);
    }

    pub(super) fn pod_addresses(&mut self, uid: &PodUid, addresses: Vec<IpAddr>) {
        let uid = uid.as_str().into();
        self.apply(carrick_policy::Event::PodAddresses(uid, addresses));
    }

    pub(super) fn namespace_is(&mut self, namespace: NamespaceObject) {
        let NamespaceObject { facts, version } = namespace;
        self.namespaces.insert(Arc::clone(&facts.name), version);
        self.apply(carrick_policy::Event::Namespace(facts));
    }

    pub(super) fn namespace_gone(&mut self, name: &str) {
        if let Some((name, _)) = self.namespaces.remove_entry(name) {
            self.apply(carrick_policy::Event::NamespaceGone(name));
        }
    }

    pub(super) fn namespaces_are(&mut self, all: Vec<NamespaceObject>) {
        let kept: HashSet<&str> = all.iter().map(|namespace| &*namespace.facts.name).collect();
        let gone = self
            .namespaces
            .keys()
            .filter(|name| !kept.contains(&***name));
        let gone: Vec<Arc<str>> = gone.cloned().collect();
        for name in gone {
            self.namespace_gone(&name);
        }
        for namespace in all {
            self.namespace_is(namespace);
        }
    }

    /// A policy that is refused is for nobody, whatever it was before.
    pub(super) fn policy_is(&mut self, object: PolicyObject) {
        let event = match object.policy {
            Some(policy) => carrick_policy::Event::Policy(policy),
            None => carrick_policy::Event::PolicyGone(object.name.clone()),
        };
        let kind = PolicyKind::of(&object.name);
        let names = self.names.entry(kind).or_default();
        names.insert(object.name, object.version);
        self.apply(event);
    }

    pub(super) fn policy_gone(&mut self, name: &PolicyName) {
        let names = self.names.entry(PolicyKind::of(name)).or_default();
        if let Some((name, _)) = names.remove_entry(name) {
            self.apply(carrick_policy::Event::PolicyGone(name));
        }
    }

    pub(super) fn policies_are(&mut self, kind: PolicyKind, all: Vec<PolicyObject>) {
        let kept: HashSet<&PolicyName> = all.iter().map(|object| &object.name).collect();
        let names = self.names.get(&kind).into_iter().flat_map(HashMap::keys);
        let gone: Vec<PolicyName> = names.filter(|name| !kept.contains(name)).cloned().collect();
        for name in gone {
            self.policy_gone(&name);
        }
        for object in all {
            self.policy_is(object);
        }
    }

    /// Whether the policy was seen, and not seen to go.
    pub(super) fn knows(&self, name: &PolicyName) -> bool {
        self.version(name).is_some()
    }

    fn version(&self, name: &PolicyName) -> Option<ResourceVersion> {
        let names = self.names.get(&PolicyKind::of(name))?;
        names.get(name).copied()
    }

    /// Whether all that was read was seen, as it was read or later.
    pub(super) fn has_seen(&self, namespace: &str, listed: &Listed) -> bool {
        let mut policies = listed.policies.iter();
        let of_namespace = self.namespaces.get(namespace).copied();
        policies.all(|(name, version)| self.version(name) >= Some(*version))
            && of_namespace >= listed.namespace
    }

    /// Members of a group that a policy names.
    pub(super) fn members(&self, group: &GroupKey) -> Option<Members> {
        self.index.members(group)
    }

    pub(super) fn sizes(&self) -> carrick_policy::Sizes {
        self.index.sizes()
    }

    /// The record of a pod, under the UID the runtime is told.
    pub(super) fn record(&self, uid: &PodUid, runtime: &PodUid) -> Option<Arc<Entry>> {
        let record = self.index.pod_record(uid.as_str())?;
        Some(Arc::new(Entry::new(Body::Pod(PodFacts {
            uid: runtime.clone(),
            namespace: record.namespace.to_string(),
            name: record.name.to_string(),
            labels: record.labels,
            ports: record.ports,
            groups: record.groups,
        }))))
    }

    /// What nodes must be told of policies and groups; pods whose records change are in `pods`.
    pub(super) fn settle(&mut self, changes: &mut Changes, pods: &mut BTreeSet<PodUid>) {
        let PolicyChanges {
            pods: touched,
            policies,
            groups,
        } = self.index.take_changes();
        let uids = touched.iter().map(|change| PodUid::new(&change.uid));
        pods.extend(uids.filter_map(Result::ok));
        for change in policies {
            let record = change
                .policy
                .map(Body::Policy)
                .map(Entry::new)
                .map(Arc::new);
            let mut say = |nodes: &[NodeId], record: Option<&Arc<Entry>>| {
                for node in self.names_of(nodes) {
                    changes.records.push(Change {
                        scope: Scope::Own(node),
                        key: Key::Policy(change.name.clone()),
                        record: record.cloned(),
                    });
                }
            };
            say(&change.lost, None);
            say(&change.told, record.as_ref());
        }
        for change in groups {
            let differs = !change.removed.is_empty() || !change.added.is_empty();
            let (removed, added) = (change.removed, change.added);
            let members = differs.then_some(MembersChange::Difference { removed, added });
            changes.groups.push(GroupChange {
                group: change.key,
                members,
                told: self.names_of(&change.told),
                kept: self.names_of(&change.kept),
                lost: self.names_of(&change.lost),
            });
        }
    }

    fn names_of(&self, nodes: &[NodeId]) -> Vec<NodeName> {
        let names = nodes.iter().map(|node| self.index.node_name(*node));
        names.filter_map(|name| NodeName::new(name).ok()).collect()
    }

    #[cfg(test)]
    pub(super) fn index(&self) -> &carrick_policy::Index {
        &self.index
    }
}
