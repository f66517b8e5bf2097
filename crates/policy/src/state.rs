//! What one node is told: its own pods, the policies they need and the groups those name. An agent
//! holds nothing else, and applies updates to it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::group::GroupKey;
use crate::objects::Labels;
use crate::policy::{Policy, PolicyName};
use crate::port::NamedPort;

/// A pod of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRecord {
    /// Its UID.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// What it calls its ports: for names in rules of ingress.
    pub ports: Arc<[NamedPort]>,
    /// Groups of [`crate::GroupKind::AppliedTo`] that it is in, sorted. Policies with these are
    /// for it.
    pub groups: Vec<GroupKey>,
}

/// Who has an address: the UID of a pod, or the name of a node, and the address.
pub type MemberKey = (Arc<str>, IpAddr);

/// Members of a group of peers, with what they call their ports where the group is of
/// [`crate::GroupKind::NamedPorts`].
pub type Members = BTreeMap<MemberKey, Arc<[NamedPort]>>;

/// A policy with its groups interned.
pub type EnforcedPolicy = Policy<GroupKey, GroupKey>;

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeState {
    /// Its pods by UID.
    pub pods: BTreeMap<Arc<str>, PodRecord>,
    /// Policies for at least one of them.
    pub policies: BTreeMap<PolicyName, Arc<EnforcedPolicy>>,
    /// Groups of peers that those policies name.
    pub groups: BTreeMap<GroupKey, Members>,
}

/// What changes of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupUpdate {
    /// It is this now, whatever it was.
    Whole(Members),
    /// Members that are gone, then members that are new or call their ports otherwise.
    Difference {
        /// Who is gone.
        removed: Vec<MemberKey>,
        /// Who is new or changed.
        added: Members,
    },
    /// Nobody needs it any more.
    Gone,
}

/// What changes for one node: applied as one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeUpdate {
    /// Pods by UID; `None` is gone.
    pub pods: BTreeMap<Arc<str>, Option<PodRecord>>,
    /// Policies; `None` is gone.
    pub policies: BTreeMap<PolicyName, Option<Arc<EnforcedPolicy>>>,
    /// Groups.
    pub groups: BTreeMap<GroupKey, GroupUpdate>,
}

impl NodeState {
    /// Takes an update in.
    pub fn apply(&mut self, update: NodeUpdate) {
        for (uid, record) in update.pods {
            match record {
                Some(record) => drop(self.pods.insert(uid, record)),
                None => drop(self.pods.remove(&uid)),
            }
        }
        for (name, policy) in update.policies {
            match policy {
                Some(policy) => drop(self.policies.insert(name, policy)),
                None => drop(self.policies.remove(&name)),
            }
        }
        for (key, group) in update.groups {
            match group {
                GroupUpdate::Whole(members) => drop(self.groups.insert(key, members)),
                GroupUpdate::Gone => drop(self.groups.remove(&key)),
                GroupUpdate::Difference { removed, added } => {
                    let members = self.groups.entry(key).or_default();
                    for member in &removed {
                        members.remove(member);
                    }
                    members.extend(added);
                }
            }
        }
    }
}
