//! What is known of the cluster, and what follows from it, kept up to date change by change.

mod namespace;
mod node;
mod pod;
mod policy;
mod selection;
mod span;
mod view;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::changes::Pending;
use crate::group::{GroupKind, SelectorHash};
use crate::id::{
    Arena, ClassId, IdSet, NamespaceId, NamespaceSelectionId, NodeId, NodeSelectionId, PodId,
    PolicyId, SelectionId,
};
use crate::label::{LabelSet, Matching, Query, Texts};
use crate::objects::Event;
use crate::policy::PolicyName;
use crate::port::NamedPort;
use crate::state::EnforcedPolicy;

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    pub(crate) texts: Texts,

    pub(crate) namespace_ids: HashMap<Arc<str>, NamespaceId>,
    pub(crate) namespaces: Arena<NamespaceId, Namespace>,
    pub(crate) namespace_selection_ids: FxHashMap<SelectorHash, NamespaceSelectionId>,
    pub(crate) namespace_selections: Arena<NamespaceSelectionId, NamespaceSelection>,
    pub(crate) namespace_matching: Matching<(), NamespaceSelectionId, NamespaceId>,

    pub(crate) node_ids: HashMap<Arc<str>, NodeId>,
    pub(crate) nodes: Arena<NodeId, Node>,
    idle_nodes: Vec<NodeId>,
    pub(crate) node_selection_ids: FxHashMap<SelectorHash, NodeSelectionId>,
    pub(crate) node_selections: Arena<NodeSelectionId, NodeSelection>,
    pub(crate) node_matching: Matching<(), NodeSelectionId, NodeId>,

    pub(crate) pod_ids: HashMap<Arc<str>, PodId>,
    pub(crate) pods: Arena<PodId, Pod>,
    pub(crate) class_ids: FxHashMap<(NamespaceId, LabelSet), ClassId>,
    pub(crate) classes: Arena<ClassId, Class>,
    pub(crate) selection_ids: FxHashMap<SelectorHash, SelectionId>,
    pub(crate) selections: Arena<SelectionId, Selection>,
    pub(crate) matching: Matching<ScopeId, SelectionId, ClassId>,

    pub(crate) policy_ids: HashMap<PolicyName, PolicyId>,
    pub(crate) policies: Arena<PolicyId, Option<PolicyEntry>>,

    pub(crate) pending: Pending,
}

/// A namespace that is known, or that pods or selectors name.
#[derive(Debug, Default)]
pub(crate) struct Namespace {
    pub(crate) name: Arc<str>,
    /// Only then its labels count. Until then a selector that looks at none selects it and no other.
    known: bool,
    labels: LabelSet,
    classes: IdSet<ClassId>,
    /// Selectors of namespaces that select it.
    selections: IdSet<NamespaceSelectionId>,
    /// How many selections are for it by its name.
    users: u32,
}

/// A selector of namespaces.
#[derive(Debug, Default)]
pub(crate) struct NamespaceSelection {
    hash: SelectorHash,
    query: Query,
    namespaces: IdSet<NamespaceId>,
    /// How many selections are for it.
    users: u32,
}

/// A node that is known, or that pods are bound to.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) name: Arc<str>,
    known: bool,
    labels: LabelSet,
    addresses: Vec<IpAddr>,
    pods: IdSet<PodId>,
    /// Selectors of nodes that select it.
    selections: IdSet<NodeSelectionId>,
}

/// A selector of nodes that rules name as a peer.
#[derive(Debug, Default)]
pub(crate) struct NodeSelection {
    hash: SelectorHash,
    query: Query,
    /// How many policies name it.
    users: u32,
    members: IdSet<NodeId>,
    peer: Option<Box<PeerUse>>,
}

/// A pod.
#[derive(Debug, Default)]
pub(crate) struct Pod {
    uid: Arc<str>,
    name: Arc<str>,
    node: NodeId,
    class: ClassId,
    addresses: SmallVec<[IpAddr; 2]>,
    ports: Arc<[NamedPort]>,
}

/// Pods of one namespace with the same labels: selectors cannot tell them apart, so they are
/// evaluated for the class.
#[derive(Debug, Default)]
pub(crate) struct Class {
    namespace: NamespaceId,
    labels: LabelSet,
    pods: IdSet<PodId>,
    /// Nodes that at least one of them is on.
    nodes: IdSet<NodeId>,
    /// Selectors that select them.
    selections: IdSet<SelectionId>,
}

/// Which namespaces a selector of pods is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ScopeId {
    Namespace(NamespaceId),
    Selected(NamespaceSelectionId),
}

impl Default for ScopeId {
    fn default() -> Self {
        Self::Namespace(NamespaceId::default())
    }
}

/// A selector of pods, evaluated once for whatever policies use it for.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    hash: SelectorHash,
    scope: ScopeId,
    query: Query,
    /// How many uses policies make of it.
    users: u32,
    classes: IdSet<ClassId>,
    /// Policies are for these pods.
    applied: Option<Box<Applied>>,
    /// They are peers, by [`PeerKind`].
    peers: [Option<Box<PeerUse>>; 2],
}

/// What follows from policies being for a selection.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) policies: IdSet<PolicyId>,
    /// Nodes with at least one of the pods: they need the policies.
    pub(crate) nodes: IdSet<NodeId>,
    /// Groups of peers the policies name, sorted, and how many of them do.
    uses: SmallVec<[(GroupRef, u32); 1]>,
}

/// What follows from a selection being peers of rules.
#[derive(Debug, Default)]
pub(crate) struct PeerUse {
    /// Selections whose policies name it.
    users: IdSet<SelectionId>,
    /// Nodes that need it: those of its users.
    pub(crate) nodes: IdSet<NodeId>,
}

/// What is said of peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PeerKind {
    Addresses,
    NamedPorts,
}

impl PeerKind {
    pub(crate) const ALL: [Self; 2] = [Self::Addresses, Self::NamedPorts];

    const fn place(self) -> usize {
        match self {
            Self::Addresses => 0,
            Self::NamedPorts => 1,
        }
    }

    const fn group(self) -> GroupKind {
        match self {
            Self::Addresses => GroupKind::Addresses,
            Self::NamedPorts => GroupKind::NamedPorts,
        }
    }
}

/// A group of peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum GroupRef {
    Pods(SelectionId, PeerKind),
    Nodes(NodeSelectionId),
}

/// A policy as it is enforced.
#[derive(Debug)]
pub(crate) struct PolicyEntry {
    pub(crate) enforced: Arc<EnforcedPolicy>,
    pub(crate) applied_to: SelectionId,
    /// Groups of peers it names, each once.
    groups: Box<[GroupRef]>,
}

/// How much there is, for metrics and benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Nodes.
    pub nodes: usize,
    /// Namespaces.
    pub namespaces: usize,
    /// Pods.
    pub pods: usize,
    /// Sets of labels that pods of a namespace share.
    pub pod_classes: usize,
    /// Policies.
    pub policies: usize,
    /// Distinct selectors of pods.
    pub pod_selectors: usize,
    /// Distinct selectors of namespaces.
    pub namespace_selectors: usize,
    /// Distinct selectors of nodes.
    pub node_selectors: usize,
    /// Distinct keys and values of labels and selectors.
    pub texts: usize,
}

impl Index {
    /// Takes a change in. What follows from it for nodes is told by [`Index::take_changes`]; any
    /// number of events may come before that.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Namespace(namespace) => self.namespace_is(&namespace),
            Event::NamespaceGone(name) => self.namespace_gone(&name),
            Event::Node(node) => self.node_is(node),
            Event::NodeGone(name) => self.node_gone(&name),
            Event::Pod(pod) => self.pod_is(pod),
            Event::PodAddresses(uid, addresses) => self.pod_addresses(&uid, addresses),
            Event::PodGone(uid) => self.pod_gone(&uid),
            Event::Policy(policy) => self.policy_is(policy),
            Event::PolicyGone(name) => self.policy_gone(&name),
        }
    }

    /// How much there is.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            nodes: self.nodes.len(),
            namespaces: self.namespaces.len(),
            pods: self.pods.len(),
            pod_classes: self.classes.len(),
            policies: self.policies.len(),
            pod_selectors: self.selections.len(),
            namespace_selectors: self.namespace_selections.len(),
            node_selectors: self.node_selections.len(),
            texts: self.texts.len(),
        }
    }

    pub(crate) fn applied(&self, selection: SelectionId) -> Option<&Applied> {
        self.selections[selection].applied.as_deref()
    }

    /// Ids of what is gone may be used again.
    pub(crate) fn recycle(&mut self) {
        self.forget_idle_nodes();
        self.namespaces.recycle();
        self.namespace_selections.recycle();
        self.nodes.recycle();
        self.node_selections.recycle();
        self.pods.recycle();
        self.classes.recycle();
        self.selections.recycle();
        self.policies.recycle();
    }
}
