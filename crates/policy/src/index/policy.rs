//! Policies and the groups they use.

use std::sync::Arc;

use super::{Applied, GroupRef, Index, PeerKind, Pod, PolicyEntry};
use crate::group::{GroupKey, GroupKind};
use crate::id::{IdSet, NodeId, PolicyId, SelectionId};
use crate::policy::{GroupSelector, Peers, Policy, PolicyName, Rule};
use crate::state::EnforcedPolicy;

impl Index {
    pub(super) fn policy_is(&mut self, policy: Policy) {
        let entry = self.intern(policy);
        let Some(id) = self.policy_ids.get(&entry.enforced.name).copied() else {
            let name = entry.enforced.name.clone();
            let (applied_to, groups) = (entry.applied_to, entry.groups.clone());
            let id = self.policies.insert(Some(entry));
            self.pending.new_policy(id, &name);
            self.policy_ids.insert(name, id);
            self.add_policy(id, applied_to);
            self.add_uses(applied_to, &groups);
            return;
        };
        let Some(old) = self.policies[id].take() else {
            return;
        };
        if old.enforced == entry.enforced {
            self.policies[id] = Some(old);
            self.release(&entry);
            return;
        }
        self.touch_policy(id, &old);
        // What both need is never without a user, so nothing is taken away to be given again.
        let (applied_to, groups) = (entry.applied_to, entry.groups.clone());
        self.policies[id] = Some(entry);
        if old.applied_to != applied_to {
            self.add_policy(id, applied_to);
        }
        self.add_uses(applied_to, &groups);
        self.remove_uses(old.applied_to, &old.groups);
        if old.applied_to != applied_to {
            self.remove_policy(id, old.applied_to);
        }
        self.release(&old);
    }

    pub(super) fn policy_gone(&mut self, name: &PolicyName) {
        let Some(id) = self.policy_ids.remove(name) else {
            return;
        };
        let Some(old) = self.policies.retire(id) else {
            return;
        };
        self.touch_policy(id, &old);
        self.remove_uses(old.applied_to, &old.groups);
        self.remove_policy(id, old.applied_to);
        self.release(&old);
    }

    /// Notes which nodes have the policy, before that changes.
    fn touch_policy(&mut self, id: PolicyId, entry: &PolicyEntry) {
        let now = self.selections[entry.applied_to].applied.as_deref();
        let nodes = now.map(|applied| &applied.nodes);
        self.pending
            .touch_policy(id, &entry.enforced.name, entry.applied_to, nodes);
    }

    /// Groups by keys instead of selectors. Each distinct one is acquired once.
    fn intern(&mut self, policy: Policy) -> PolicyEntry {
        let applied_to = self.acquire_selection(&policy.applied_to);
        let applied_key = GroupKey::new(GroupKind::AppliedTo, self.selections[applied_to].hash);
        let mut used = Vec::new();
        let rules = policy.rules.into_iter().map(|rule| {
            let kind = if rule.names_ports_of_peers() {
                PeerKind::NamedPorts
            } else {
                PeerKind::Addresses
            };
            let peers = rule.peers;
            let groups = peers.groups.iter().map(|selector| {
                let group = self.acquire_group(selector, kind);
                used.push(group);
                self.group_key(group)
            });
            let groups = groups.collect();
            Rule {
                direction: rule.direction,
                position: rule.position,
                name: rule.name,
                action: rule.action,
                peers: Peers {
                    any: peers.any,
                    groups,
                    networks: peers.networks,
                    domains: peers.domains,
                },
                ports: rule.ports,
            }
        });
        let rules = rules.collect();
        // One use for each group, however many rules name it.
        used.sort_unstable();
        let (distinct, surplus) = partition_dedup(used);
        for group in surplus {
            self.release_group(group);
        }
        PolicyEntry {
            enforced: Arc::new(EnforcedPolicy {
                name: policy.name,
                uid: policy.uid,
                tier: policy.tier,
                priority: policy.priority,
                applied_to: applied_key,
                isolation: policy.isolation,
                rules,
            }),
            applied_to,
            groups: distinct.into(),
        }
    }

    fn release(&mut self, entry: &PolicyEntry) {
        for group in &entry.groups {
            self.release_group(*group);
        }
        self.release_selection(entry.applied_to);
    }

    fn acquire_group(&mut self, selector: &GroupSelector, kind: PeerKind) -> GroupRef {
        match selector {
            GroupSelector::Pods(pods) => GroupRef::Pods(self.acquire_selection(pods), kind),
            GroupSelector::Nodes(nodes) => GroupRef::Nodes(self.acquire_node_selection(nodes)),
        }
    }

    fn release_group(&mut self, group: GroupRef) {
        match group {
            GroupRef::Pods(selection, _) => self.release_selection(selection),
            GroupRef::Nodes(selection) => self.release_node_selection(selection),
        }
    }

    /// The policy is for this selection.
    fn add_policy(&mut self, policy: PolicyId, selection: SelectionId) {
        if self.selections[selection].applied.is_none() {
            self.pending.touch_applied(selection, None);
            self.touch_selected(selection);
            let mut nodes = IdSet::<NodeId>::default();
            for class in self.selections[selection].classes.iter() {
                nodes.extend(self.classes[class].nodes.iter());
                if nodes.len() == self.nodes.len() {
                    break;
                }
            }
            self.selections[selection].applied = Some(Box::new(Applied {
                nodes,
                ..Applied::default()
            }));
        }
        if let Some(applied) = &mut self.selections[selection].applied {
            applied.policies.insert(policy);
        }
    }

    /// The policy is not for this selection any more.
    fn remove_policy(&mut self, policy: PolicyId, selection: SelectionId) {
        let Some(applied) = &mut self.selections[selection].applied else {
            return;
        };
        applied.policies.remove(policy);
        if applied.policies.is_empty() {
            self.pending.touch_applied(selection, Some(&applied.nodes));
            self.selections[selection].applied = None;
            self.touch_selected(selection);
        }
    }

    /// Records of the selected pods change: they name the groups that policies are for.
    fn touch_selected(&mut self, selection: SelectionId) {
        for class in self.selections[selection].classes.iter() {
            if self.pending.touch_class(class) {
                for pod in self.classes[class].pods.iter() {
                    let Pod { uid, node, .. } = &self.pods[pod];
                    self.pending.touch_pod(pod, uid, Some(*node));
                }
            }
        }
    }
}

/// Each once, and the rest.
fn partition_dedup(sorted: Vec<GroupRef>) -> (Vec<GroupRef>, Vec<GroupRef>) {
    let mut distinct: Vec<GroupRef> = Vec::with_capacity(sorted.len());
    let mut surplus = Vec::new();
    for group in sorted {
        if distinct.last() == Some(&group) {
            surplus.push(group);
        } else {
            distinct.push(group);
        }
    }
    (distinct, surplus)
}
