//! From facts about the cluster to the records each node needs. Plain maps, no clock, no API.

pub(crate) mod addresses;
pub mod claims;
mod pods;
mod policy;
mod withheld;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use carrick_policy::{GroupKey, Members, PolicyName};
use carrick_proto::{Body, Entry, Key, NodeFacts, NodeName, NodeReport, PodUid, RouteFacts};
use ipnet::IpNet;

use crate::log::MembersChange;
use crate::objects::{Event, NodeObject, NodePeer};
use addresses::Addresses;
use claims::{Claim, Claims};
use pods::Pod;
use policy::Policies;
pub use policy::PolicyKind;
use withheld::Withheld;
pub use withheld::{Listed, ResourceVersion};

/// Whose record it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Every node's but the one it is about: routes.
    Shared,
    /// One node's: its Node and its pods.
    Own(NodeName),
}

/// A record that is to be, or is no more. Says nothing about whether it was so before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whose record.
    pub scope: Scope,
    /// Which record.
    pub key: Key,
    /// Its content; `None` when it is gone.
    pub record: Option<Arc<Entry>>,
}

/// A group of peers that changes, or that other nodes need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupChange {
    /// Which group.
    pub group: GroupKey,
    /// What changes of its members; `None` if nothing does.
    pub members: Option<MembersChange>,
    /// Nodes that need it from now on.
    pub told: Vec<NodeName>,
    /// Nodes that needed it already and do so still.
    pub kept: Vec<NodeName>,
    /// Nodes that need it no more.
    pub lost: Vec<NodeName>,
}

/// What is published under one number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Records.
    pub records: Vec<Change>,
    /// Groups of peers.
    pub groups: Vec<GroupChange>,
}

impl From<Vec<Change>> for Changes {
    fn from(records: Vec<Change>) -> Self {
        Self {
            records,
            groups: Vec::new(),
        }
    }
}

/// Who gives nodes their pod CIDRs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum CidrAllocator {
    /// kube-controller-manager.
    #[default]
    Kubernetes,
    /// This controller (`ipam.mode: NodeIPAM`).
    Us,
}

/// What is known of the cluster.
#[derive(Debug, Default)]
pub struct Index {
    service_cidrs: Vec<IpNet>,
    /// Who gives nodes their CIDRs.
    allocator: CidrAllocator,
    nodes: HashMap<NodeName, NodeObject>,
    claims: Claims,
    infos: HashMap<NodeName, Vec<IpAddr>>,
    reports: HashMap<NodeName, Vec<IpAddr>>,
    pods: HashMap<PodUid, Pod>,
    addresses: Addresses,
    policies: Policies,
    withheld: Withheld,
    /// Pods were listed before policies were listed first, so these pods wait for nothing.
    pods_listed: bool,
    /// Places whose pods came or went.
    touched_places: BTreeSet<(NodeName, PodUid)>,
    /// Pods by node and runtime UID, in the order of creation. More than one only when somebody
    /// gave a pod the annotations of another's mirror: the first keeps the record.
    by_runtime: BTreeMap<NodeName, BTreeMap<PodUid, BTreeSet<(i64, PodUid)>>>,
}

impl Index {
    /// Knows nothing but the ranges of ClusterIPs.
    #[must_use]
    pub fn new(service_cidrs: Vec<IpNet>) -> Self {
        Self {
            service_cidrs,
            ..Self::default()
        }
    }

    /// Nodes get their CIDRs from this controller: what is said of a node without one follows.
    #[must_use]
    pub fn allocating(mut self) -> Self {
        self.allocator = CidrAllocator::Us;
        self
    }

    /// The Node named `name`.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&NodeObject> {
        self.nodes.get(name)
    }

    /// How many Nodes and Pods there are.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.nodes.len(), self.pods.len())
    }

    /// Takes a change in; `changes` gets every record that may differ now.
    pub fn apply(&mut self, event: Event, changes: &mut Vec<Change>) {
        match event {
            Event::Node(node) => self.node_is(node, changes),
            Event::NodeGone(name) => self.node_gone(&name, changes),
            Event::Nodes(all) => {
                let kept: HashSet<&NodeName> = all.iter().map(|node| &node.name).collect();
                let gone: Vec<NodeName> = self
                    .nodes
                    .keys()
                    .filter(|name| !kept.contains(name))
                    .cloned()
                    .collect();
                for name in gone {
                    self.node_gone(&name, changes);
                }
                for node in all {
                    self.node_is(node, changes);
                }
            }
            Event::Pod(pod) => self.pod_is(pod),
            Event::PodGone(uid) => self.pod_gone(&uid),
            Event::Pods(all) => {
                let kept: HashSet<&PodUid> = all.iter().map(|pod| &pod.uid).collect();
                let gone: Vec<PodUid> = self
                    .pods
                    .keys()
                    .filter(|uid| !kept.contains(uid))
                    .cloned()
                    .collect();
                for uid in gone {
                    self.pod_gone(&uid);
                }
                for pod in all {
                    self.pod_is(pod);
                }
                self.pods_listed = true;
            }
            Event::Namespace(namespace) => self.policies.namespace_is(namespace),
            Event::NamespaceGone(name) => self.policies.namespace_gone(&name),
            Event::Namespaces(all) => self.policies.namespaces_are(all),
            Event::Policy(policy) => self.policies.policy_is(policy),
            Event::PolicyGone(name) => self.policies.policy_gone(&name),
            Event::Policies(kind, all) => self.policies.policies_are(kind, all),
            Event::Info(name, endpoints) => {
                if self.infos.get(&name) != Some(&endpoints) {
                    self.infos.insert(name.clone(), endpoints);
                    self.route(&name, changes);
                }
            }
            Event::InfoGone(name) => {
                if self.infos.remove(&name).is_some() {
                    self.route(&name, changes);
                }
            }
            Event::Infos(all) => {
                let old = std::mem::take(&mut self.infos);
                self.infos.extend(all);
                let names: BTreeSet<NodeName> =
                    old.keys().chain(self.infos.keys()).cloned().collect();
                for name in names {
                    if old.get(&name) != self.infos.get(&name) {
                        self.route(&name, changes);
                    }
                }
            }
        }
    }

    /// Everything that may differ since this was asked for last: `records`, and what follows from
    /// them and from policies for nodes. A pod's record is here with the policies and groups it is
    /// to be judged by.
    pub fn settle(&mut self, records: Vec<Change>) -> Changes {
        let mut changes = Changes::from(records);
        let mut pods = BTreeSet::new();
        self.policies.settle(&mut changes, &mut pods);
        let mut places = std::mem::take(&mut self.touched_places);
        let pods = pods.iter().filter_map(|uid| self.pods.get(uid));
        places.extend(pods.map(|pod| (pod.place.node.clone(), pod.place.runtime_uid.clone())));
        for place in places {
            self.pod_record(place, &mut changes.records);
        }
        changes
    }

    /// Members of a group that a policy names.
    #[must_use]
    pub fn members(&self, group: &GroupKey) -> Option<Members> {
        self.policies.members(group)
    }

    /// Whether the policy was seen, and not seen to go.
    #[must_use]
    pub fn knows_policy(&self, name: &PolicyName) -> bool {
        self.policies.knows(name)
    }

    /// How many policies are enforced.
    #[must_use]
    pub fn policies(&self) -> usize {
        self.policies.sizes().policies
    }

    /// What a node's agent says of itself; beats what `AgentInfo` and Node say.
    pub fn reported(&mut self, name: &NodeName, report: &NodeReport, changes: &mut Vec<Change>) {
        let old = if report.tunnel_endpoints.is_empty() {
            self.reports.remove(name)
        } else {
            self.reports
                .insert(name.clone(), report.tunnel_endpoints.clone())
        };
        if old.unwrap_or_default() != report.tunnel_endpoints {
            self.route(name, changes);
        }
    }

    fn node_is(&mut self, mut node: NodeObject, changes: &mut Vec<Change>) {
        let name = node.name.clone();
        let NodePeer { labels, addresses } = std::mem::take(&mut node.peer);
        let peer = carrick_policy::Node {
            name: name.as_str().into(),
            labels,
            addresses,
        };
        self.policies.apply(carrick_policy::Event::Node(peer));
        if self.nodes.get(&name) == Some(&node) {
            return;
        }
        let mut contested = BTreeSet::from([name.clone()]);
        self.unclaim(&name, &mut contested);
        let claim = Claim {
            created: node.created,
            node: name.clone(),
        };
        for cidr in &node.pod_cidrs {
            self.neighbours(*cidr, &mut contested);
            self.claims.insert(*cidr, claim.clone());
        }
        self.nodes.insert(name, node);
        for name in contested {
            self.own_node(&name, changes);
            self.route(&name, changes);
        }
    }

    fn node_gone(&mut self, name: &NodeName, changes: &mut Vec<Change>) {
        let mut contested = BTreeSet::from([name.clone()]);
        self.unclaim(name, &mut contested);
        self.nodes.remove(name);
        self.reports.remove(name);
        self.addresses.node_gone(name);
        let gone = carrick_policy::Event::NodeGone(name.as_str().into());
        self.policies.apply(gone);
        for name in contested {
            self.own_node(&name, changes);
            self.route(&name, changes);
        }
    }

    fn unclaim(&mut self, name: &NodeName, contested: &mut BTreeSet<NodeName>) {
        let Some(old) = self.nodes.get(name) else {
            return;
        };
        let claim = Claim {
            created: old.created,
            node: name.clone(),
        };
        for cidr in old.pod_cidrs.clone() {
            self.claims.remove(cidr, &claim);
            self.neighbours(cidr, contested);
        }
    }

    fn neighbours(&self, cidr: IpNet, contested: &mut BTreeSet<NodeName>) {
        contested.extend(
            self.claims
                .overlapping(cidr)
                .map(|(_, claim)| claim.node.clone()),
        );
    }

    /// Why the node's pod CIDRs must not be used, with what mends it.
    fn problem(&self, node: &NodeObject) -> Option<String> {
        if let Some(text) = &node.bad_cidr {
            return Some(format!(
                "the pod CIDR {text:?} is no CIDR without host bits: delete the Node object and let the kubelet register it again"
            ));
        }
        if node.pod_cidrs.is_empty() {
            let text = match self.allocator {
                CidrAllocator::Kubernetes => {
                    "the node has no pod CIDR: run kube-controller-manager with --allocate-node-cidrs and a --cluster-cidr that has room"
                }
                CidrAllocator::Us => {
                    "the node has no pod CIDR yet: where the controller does not give it one, the condition NodeCIDRsAllocated of the leader's ControllerInfo says why"
                }
            };
            return Some(text.to_owned());
        }
        let claim = Claim {
            created: node.created,
            node: node.name.clone(),
        };
        for cidr in &node.pod_cidrs {
            let service = self
                .service_cidrs
                .iter()
                .find(|net| net.contains(cidr) || cidr.contains(*net));
            if let Some(service) = service {
                return Some(format!(
                    "the pod CIDR {cidr} overlaps the Service range {service}: choose cluster CIDRs apart from it, delete the Node object and let the kubelet register it again"
                ));
            }
            if let Some((net, other)) = self.claims.earlier(*cidr, &claim) {
                return Some(format!(
                    "the pod CIDR {cidr} overlaps {net} of node {other}, which was registered earlier: delete this Node object and let the kubelet register it again, so that it gets a range of its own"
                ));
            }
        }
        None
    }

    fn own_node(&self, name: &NodeName, changes: &mut Vec<Change>) {
        let record = self.nodes.get(name).map(|node| {
            Arc::new(Entry::new(Body::Node(NodeFacts {
                name: name.clone(),
                uid: node.uid.clone(),
                pod_cidrs: node.pod_cidrs.clone(),
                addresses: node.addresses.clone(),
                problem: self.problem(node),
                labels: node.labels.clone(),
            })))
        });
        changes.push(Change {
            scope: Scope::Own(name.clone()),
            key: Key::Node,
            record,
        });
    }

    fn route(&self, name: &NodeName, changes: &mut Vec<Change>) {
        let record = self.nodes.get(name).and_then(|node| {
            let tunnel_endpoints = self.endpoints(node);
            // A contested or unreachable CIDR is not programmed anywhere.
            if tunnel_endpoints.is_empty() || self.problem(node).is_some() {
                return None;
            }
            Some(Arc::new(Entry::new(Body::Route(RouteFacts {
                node: name.clone(),
                pod_cidrs: node.pod_cidrs.clone(),
                tunnel_endpoints,
            }))))
        });
        changes.push(Change {
            scope: Scope::Shared,
            key: Key::Route(name.clone()),
            record,
        });
    }

    /// Where tunnels to `node` end: what its agent said on the stream, else in its `AgentInfo`,
    /// else the first InternalIP of each family.
    fn endpoints(&self, node: &NodeObject) -> Vec<IpAddr> {
        let said = self
            .reports
            .get(&node.name)
            .or_else(|| self.infos.get(&node.name));
        if let Some(endpoints) = said.filter(|endpoints| !endpoints.is_empty()) {
            return endpoints.clone();
        }
        let v4 = node.addresses.iter().find(|address| address.is_ipv4());
        let v6 = node.addresses.iter().find(|address| address.is_ipv6());
        v4.into_iter().chain(v6).copied().collect()
    }
}

#[cfg(test)]
mod policy_tests;
#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
