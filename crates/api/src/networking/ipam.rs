//! `ipam`: where pod addresses come from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `ipam`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.mode) && self.mode == 'NodeIPAM') || (has(self.nodeIPAM) && has(self.nodeIPAM.clusterCIDRs) && size(self.nodeIPAM.clusterCIDRs) > 0)",
    "message": "ipam.mode NodeIPAM needs ipam.nodeIPAM.clusterCIDRs: name the ranges that the pod CIDRs of nodes are allocated from"
}, {
    "rule": "(has(self.mode) && self.mode == 'NodeIPAM') || !has(self.nodeIPAM) || !has(self.nodeIPAM.clusterCIDRs) || size(self.nodeIPAM.clusterCIDRs) == 0",
    "message": "ipam.nodeIPAM.clusterCIDRs acts in ipam.mode NodeIPAM only: set that mode, or leave the list out where kube-controller-manager allocates (its --cluster-cidr)"
}]))]
pub struct Ipam {
    /// NodeCIDR takes addresses from each node's spec.podCIDRs, which kube-controller-manager
    /// allocates. NodeIPAM is for clusters where it allocates none: Carrick's controller gives
    /// every node one CIDR of each family out of nodeIPAM.clusterCIDRs. Default: NodeCIDR.
    /// Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<IpamMode>,
    /// What mode NodeIPAM allocates.
    #[serde(default, rename = "nodeIPAM", skip_serializing_if = "Option::is_none")]
    pub node_ipam: Option<NodeIpam>,
}

/// `ipam.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = crate::crd::leave_description_to_fields)]
pub enum IpamMode {
    /// `Node.spec.podCIDRs`, allocated by kube-controller-manager.
    NodeCIDR,
    /// `Node.spec.podCIDRs`, allocated by Carrick's controller.
    NodeIPAM,
}

/// `ipam.nodeIPAM`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeIpam {
    /// Ranges that the pod CIDRs of nodes are allocated from, of one or both families. Those of a
    /// family are used in their order. They overlap neither each other nor Services nor nodes'
    /// addresses. One can be added while the network runs; one that no node uses can be taken out.
    /// The family of the first is the pods' primary one.
    #[serde(
        default,
        rename = "clusterCIDRs",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(
        length(max = 8),
        inner(length(min = 1, max = 43)),
        extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = [{
            "rule": "self.all(range, isCIDR(range) && cidr(range) == cidr(range).masked())",
            "message": "each of ipam.nodeIPAM.clusterCIDRs is a CIDR without host bits, 10.128.0.0/14 or fd00:10:128::/48"
        }])
    )]
    pub cluster_cidrs: Option<Vec<String>>,
    /// Prefix length of each node's IPv4 CIDR: 24 gives 253 pods a node. Nodes that have one keep
    /// it. Default: 24.
    #[serde(
        default,
        rename = "nodeMaskSizeIPv4",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 8, max = 28))]
    pub node_mask_size_ipv4: Option<u8>,
    /// Prefix length of each node's IPv6 CIDR. Nodes that have one keep it. Default: 64.
    #[serde(
        default,
        rename = "nodeMaskSizeIPv6",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 16, max = 112))]
    pub node_mask_size_ipv6: Option<u8>,
}
