//! A cluster as objects of the API, and the events that tell of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use carrick_policy::cluster_network_policy::ClusterNetworkPolicySpec;
use carrick_policy::{
    Event, Index, Labels, NamedPort, Namespace, Node, NodeState, Pod, PolicyName, Protocol,
    parse_cluster_network_policy, parse_network_policy,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct TestNode {
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq)]
pub struct TestPod {
    pub namespace: String,
    pub name: String,
    pub node: String,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
    /// Name, protocol as the API writes it, number.
    pub ports: Vec<(String, String, u16)>,
}

/// The objects there are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct World {
    pub namespaces: BTreeMap<String, Labels>,
    pub nodes: BTreeMap<String, TestNode>,
    /// By UID.
    pub pods: BTreeMap<String, TestPod>,
    /// By namespace and name.
    pub network_policies: BTreeMap<(String, String), NetworkPolicySpec>,
    pub cluster_policies: BTreeMap<String, ClusterNetworkPolicySpec>,
}

/// One change of a world.
#[derive(Debug, Clone)]
pub enum Change {
    Namespace(String, Option<Labels>),
    Node(String, Option<TestNode>),
    Pod(String, Option<TestPod>),
    NetworkPolicy((String, String), Option<NetworkPolicySpec>),
    ClusterPolicy(String, Option<ClusterNetworkPolicySpec>),
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl World {
    pub fn change(&mut self, change: Change) {
        match change {
            Change::Namespace(name, labels) => set(&mut self.namespaces, name, labels),
            Change::Node(name, node) => set(&mut self.nodes, name, node),
            Change::Pod(uid, pod) => set(&mut self.pods, uid, pod),
            Change::NetworkPolicy(name, spec) => set(&mut self.network_policies, name, spec),
            Change::ClusterPolicy(name, spec) => set(&mut self.cluster_policies, name, spec),
        }
    }

    /// The changes that make this world.
    pub fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        let World {
            namespaces,
            nodes,
            pods,
            network_policies,
            cluster_policies,
        } = self.clone();
        changes.extend(
            namespaces
                .into_iter()
                .map(|(k, v)| Change::Namespace(k, Some(v))),
        );
        changes.extend(nodes.into_iter().map(|(k, v)| Change::Node(k, Some(v))));
        changes.extend(pods.into_iter().map(|(k, v)| Change::Pod(k, Some(v))));
        let policies = network_policies.into_iter();
        changes.extend(policies.map(|(k, v)| Change::NetworkPolicy(k, Some(v))));
        let policies = cluster_policies.into_iter();
        changes.extend(policies.map(|(k, v)| Change::ClusterPolicy(k, Some(v))));
        changes
    }

    /// An index made from these objects at once.
    pub fn index(&self) -> Index {
        let mut index = Index::default();
        for change in self.changes() {
            index.apply(event(&change));
        }
        drop(index.take_changes());
        index
    }
}

/// What every node that has pods needs, by name.
pub fn states(index: &Index) -> BTreeMap<String, NodeState> {
    let nodes = index.nodes().into_iter();
    nodes
        .map(|node| (index.node_name(node).to_string(), index.node_state(node)))
        .filter(|(_, state)| *state != NodeState::default())
        .collect()
}

/// The event of a change, read by the code under test.
pub fn event(change: &Change) -> Event {
    match change.clone() {
        Change::Namespace(name, Some(labels)) => Event::Namespace(Namespace {
            name: name.into(),
            labels,
        }),
        Change::Namespace(name, None) => Event::NamespaceGone(name.into()),
        Change::Node(name, Some(node)) => Event::Node(Node {
            name: name.into(),
            labels: node.labels,
            addresses: node.addresses,
        }),
        Change::Node(name, None) => Event::NodeGone(name.into()),
        Change::Pod(uid, Some(pod)) => {
            let ports = pod
                .ports
                .into_iter()
                .map(|(name, protocol, port)| NamedPort {
                    name: name.into(),
                    protocol: Protocol::parse(&protocol).unwrap(),
                    port,
                });
            Event::Pod(Pod {
                uid: uid.into(),
                namespace: pod.namespace.into(),
                name: pod.name.into(),
                node: pod.node.into(),
                labels: pod.labels,
                addresses: pod.addresses,
                ports: ports.collect(),
            })
        }
        Change::Pod(uid, None) => Event::PodGone(uid.into()),
        Change::NetworkPolicy((namespace, name), spec) => {
            let policy = PolicyName::namespaced(&namespace, &name);
            let Some(spec) = spec else {
                return Event::PolicyGone(policy);
            };
            let mut object = NetworkPolicy::default();
            object.metadata.uid = Some(format!("uid-{namespace}-{name}"));
            object.metadata.namespace = Some(namespace);
            object.metadata.name = Some(name);
            object.spec = Some(spec);
            match parse_network_policy(&object) {
                Ok(parsed) => Event::Policy(parsed.policy),
                Err(_) => Event::PolicyGone(policy),
            }
        }
        Change::ClusterPolicy(name, spec) => {
            let policy = PolicyName::cluster(&name);
            let Some(spec) = spec else {
                return Event::PolicyGone(policy);
            };
            match parse_cluster_network_policy(Some(&name), Some("uid"), &spec) {
                Ok(parsed) => Event::Policy(parsed.policy),
                Err(_) => Event::PolicyGone(policy),
            }
        }
    }
}
