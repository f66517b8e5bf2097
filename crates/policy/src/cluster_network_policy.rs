//! `ClusterNetworkPolicy` of `policy.networking.k8s.io/v1alpha2`, as network-policy-api v0.2.0 has
//! it in its experimental channel (`apis/v1alpha2/clusternetworkpolicy_types.go` and
//! `config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml`).
//!
//! The types take more than the schema lets pass: the CRD in the cluster may be another version's,
//! and one object that does not decode must not stop a watch. What is not meant to be is found when
//! the policy is read ([`crate::parse_cluster_network_policy`]).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API's group.
pub const GROUP: &str = "policy.networking.k8s.io";
/// The API's version.
pub const VERSION: &str = "v1alpha2";
/// The object's kind.
pub const KIND: &str = "ClusterNetworkPolicy";
/// The resource's name in paths.
pub const PLURAL: &str = "clusternetworkpolicies";

/// Which pods the policy is for, and what it does with their connections.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkPolicySpec {
    /// When the policy is read: Admin before NetworkPolicies, Baseline after them for pods that none
    /// of them isolates.
    #[schemars(extend("enum" = ["Admin", "Baseline"]))]
    pub tier: String,
    /// Its place in the tier: lower is read first. Policies of one priority are read in the order of
    /// their names.
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,
    /// The pods it is for.
    pub subject: Subject,
    /// Rules for connections to these pods, in the order they are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 25))]
    pub ingress: Option<Vec<IngressRule>>,
    /// Rules for connections from these pods, in the order they are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 25))]
    pub egress: Option<Vec<EgressRule>>,
}

/// The pods a policy is for: exactly one field. Pods on their node's network are never selected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Subject {
    /// All pods of the namespaces with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Pods by their own labels and those of their namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

/// Pods by their own labels and those of their namespaces.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedPod {
    /// Labels of namespaces; empty selects all.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// Labels of pods; empty selects all.
    pub pod_selector: LabelSelector,
}

/// What becomes of some connections to the pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IngressRule {
    /// What the rule is called in messages and counters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub name: Option<String>,
    /// Accept and Deny decide; Pass skips the rest of the tier.
    #[schemars(extend("enum" = ["Accept", "Deny", "Pass"]))]
    pub action: String,
    /// Where connections come from: any of these.
    #[schemars(length(min = 1, max = 25))]
    pub from: Vec<IngressPeer>,
    /// Which packets; absent is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 25))]
    pub protocols: Option<Vec<ProtocolMatch>>,
}

/// What becomes of some connections from the pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(self.to.exists(peer, has(peer.networks) || has(peer.nodes) || has(peer.domainNames)) \
        && has(self.protocols) && self.protocols.exists(protocol, has(protocol.destinationNamedPort)))",
    "message": "networks, nodes and domainNames have no named ports: name the port by its number",
}]))]
pub struct EgressRule {
    /// What the rule is called in messages and counters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub name: Option<String>,
    /// Accept and Deny decide; Pass skips the rest of the tier.
    #[schemars(extend("enum" = ["Accept", "Deny", "Pass"]))]
    pub action: String,
    /// Where connections go to: any of these.
    #[schemars(length(min = 1, max = 25))]
    pub to: Vec<EgressPeer>,
    /// Which packets; absent is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 25))]
    pub protocols: Option<Vec<ProtocolMatch>>,
}

/// Who connects: exactly one field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct IngressPeer {
    /// All pods of the namespaces with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Pods by their own labels and those of their namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
}

/// Whom the pods connect to: exactly one field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct EgressPeer {
    /// All pods of the namespaces with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Pods by their own labels and those of their namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<NamespacedPod>,
    /// Addresses of the nodes with these labels; empty selects all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<LabelSelector>,
    /// Ranges of addresses. Pods within them are meant, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 25),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub networks: Option<Vec<Cidr>>,
    /// Names of domains whose addresses are meant, learned from the answers that pods get; in rules
    /// that accept only. `*.` stands for one label or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 25),
        inner(regex(pattern = r"^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub domain_names: Option<Vec<String>>,
}

/// A range of addresses, as `10.0.0.0/8` or `fd00::/8`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("x-kubernetes-validations" = [{
    "rule": "isCIDR(self)",
    "message": "write an address and a length, as 10.0.0.0/8 or fd00::/8",
}]))]
pub struct Cidr(#[schemars(length(max = 43))] pub String);

/// A protocol, or ports by their names: exactly one field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct ProtocolMatch {
    /// TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TransportMatch>,
    /// UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<TransportMatch>,
    /// SCTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sctp: Option<TransportMatch>,
    /// Container ports that the destination pod calls so, of any protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_named_port: Option<String>,
}

/// What of a protocol with ports is matched.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1))]
pub struct TransportMatch {
    /// Where packets go to; absent is every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<PortNumbers>,
}

/// A port or a range of them: exactly one field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct PortNumbers {
    /// One port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub number: Option<i32>,
    /// From one port to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<PortRange>,
}

/// Ports from `start` to `end`, both included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.start < self.end",
    "message": "end must be greater than start: for one port use number",
}]))]
pub struct PortRange {
    /// The first port.
    #[schemars(range(min = 1, max = 65535))]
    pub start: i32,
    /// The last port, greater than the first.
    #[schemars(range(min = 1, max = 65535))]
    pub end: i32,
}

/// What is known of the policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterNetworkPolicyStatus {
    /// What is known of it.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
