//! What the controller takes from Kubernetes objects: plain facts, a fraction of an object's size.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use carrick_policy::{NamedPort, Policy, PolicyName};
use carrick_proto::{NodeName, PodUid};
use ipnet::IpNet;

use crate::index::{PolicyKind, ResourceVersion};

/// A Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeObject {
    /// Its name.
    pub name: NodeName,
    /// UID of this registration.
    pub uid: String,
    /// When it was registered, in seconds since 1970: earlier registrations win a contested CIDR.
    pub created: i64,
    /// What its pods get their addresses from.
    pub pod_cidrs: Vec<IpNet>,
    /// A pod CIDR that does not parse, as it was written.
    pub bad_cidr: Option<String>,
    /// InternalIP addresses in the order of the status.
    pub addresses: Vec<IpAddr>,
    /// The startup taint is on it.
    pub tainted: bool,
    /// Its condition NetworkUnavailable is True: a cloud's route controller has made no route for it.
    pub unavailable: bool,
    /// Its labels, where the configuration differs by them; else none.
    pub labels: BTreeMap<String, String>,
    /// What policy sees of it.
    pub peer: NodePeer,
}

/// What policies see of a Node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodePeer {
    /// All of its labels.
    pub labels: BTreeMap<String, String>,
    /// All IP addresses of its status.
    pub addresses: Vec<IpAddr>,
}

/// Whether a pod gets a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodNetwork {
    /// It has, or will have, a port on its node's bridge.
    Attached,
    /// It uses its node's network, or its containers are done: no record.
    Detached,
}

/// A Pod that is bound to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodObject {
    /// UID of the object.
    pub uid: PodUid,
    /// The UID the container runtime tells the CNI: the object's, but a static pod's is the hash of
    /// its configuration.
    pub runtime_uid: PodUid,
    /// When it was created, in seconds since 1970.
    pub created: i64,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it runs.
    pub node: NodeName,
    /// Whether it gets a record.
    pub network: PodNetwork,
    /// What policy sees of it.
    pub peer: PodPeer,
}

/// What policies see of a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodPeer {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its addresses, as its status has them.
    pub addresses: Vec<IpAddr>,
    /// Ports of its containers that have names.
    pub ports: Arc<[NamedPort]>,
}

/// A Namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceObject {
    /// What policy sees of it.
    pub facts: carrick_policy::Namespace,
    /// Its version.
    pub version: ResourceVersion,
}

/// A NetworkPolicy or ClusterNetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyObject {
    /// Which one.
    pub name: PolicyName,
    /// What is enforced; `None` if it is refused.
    pub policy: Option<Policy>,
    /// Its version.
    pub version: ResourceVersion,
}

/// One change of what is known of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A Node is there or has changed.
    Node(NodeObject),
    /// A Node is gone.
    NodeGone(NodeName),
    /// All Nodes there are (a watch began anew).
    Nodes(Vec<NodeObject>),
    /// A Pod is there or has changed.
    Pod(PodObject),
    /// A Pod is gone, or is bound to no node.
    PodGone(PodUid),
    /// All Pods there are.
    Pods(Vec<PodObject>),
    /// Tunnel endpoints in a node's `AgentInfo`.
    Info(NodeName, Vec<IpAddr>),
    /// A node's `AgentInfo` is gone.
    InfoGone(NodeName),
    /// A Namespace is there or has changed.
    Namespace(NamespaceObject),
    /// A Namespace is gone.
    NamespaceGone(Arc<str>),
    /// All Namespaces there are.
    Namespaces(Vec<NamespaceObject>),
    /// A policy is there or has changed.
    Policy(PolicyObject),
    /// A policy is gone.
    PolicyGone(PolicyName),
    /// All policies of one API there are.
    Policies(PolicyKind, Vec<PolicyObject>),
    /// All `AgentInfo`s there are.
    Infos(Vec<(NodeName, Vec<IpAddr>)>),
}
