//! What of Kubernetes objects matters to policy, as plain data. Whoever fills these in leaves out
//! pods on their node's network and pods in a terminal phase: policy neither selects them nor
//! means them as peers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::policy::{Policy, PolicyName};
use crate::port::NamedPort;

/// Labels as objects have them.
pub type Labels = BTreeMap<String, String>;

/// A Namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels. The API server adds `kubernetes.io/metadata.name`.
    pub labels: Labels,
}

/// A Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// IP addresses of `status.addresses`.
    pub addresses: Vec<IpAddr>,
}

/// A Pod that is bound to a node and has, or will have, a port on its switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.uid`: a pod made again under the same name is another one.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The node it is bound to.
    pub node: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses: none until it has some, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Container ports that have names.
    pub ports: Arc<[NamedPort]>,
}

/// One change of what is known of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A Namespace is there or has changed.
    Namespace(Namespace),
    /// A Namespace is gone.
    NamespaceGone(Arc<str>),
    /// A Node is there or has changed.
    Node(Node),
    /// A Node is gone.
    NodeGone(Arc<str>),
    /// A Pod is there or has changed.
    Pod(Pod),
    /// The Pod of this UID, if it is known, has these addresses.
    PodAddresses(Arc<str>, Vec<IpAddr>),
    /// The Pod of this UID is gone, done or bound to no node.
    PodGone(Arc<str>),
    /// A policy is there or has changed.
    Policy(Policy),
    /// A policy is gone, or is refused now.
    PolicyGone(PolicyName),
}
