//! What a bed is made of.

use std::path::PathBuf;

use carrick_testbed::{ClusterDns, IpFamily, KubeProxy, NodeKind, PodCidrs};

use super::Past;

/// Which cluster to start.
#[derive(Debug, Clone)]
pub struct BedSpec {
    /// Name of the cluster.
    pub name: &'static str,
    /// Number of nodes.
    pub nodes: usize,
    /// Address families of nodes and pods.
    pub family: IpFamily,
    /// Prefix length of a node's IPv4 pod CIDR.
    pub mask: u8,
    /// What the nodes are made of: kernel nodes get the kernel datapath.
    pub kind: NodeKind,
    /// So many of the last nodes are kernel nodes in any case.
    pub kernel_nodes: usize,
    /// Who gives nodes their pod CIDRs.
    pub pod_cidrs: PodCidrs,
    /// `spec.traffic` of its Networking beside the transport interface, as JSON.
    pub traffic: &'static str,
    /// Further fields of its `spec`, as JSON.
    pub more: &'static str,
    /// What landed before on its nodes.
    pub previous: Past,
    /// kube-proxy.
    pub kube_proxy: KubeProxy,
    /// Cluster DNS; it waits for somebody who serves its cluster IP.
    pub dns: ClusterDns,
    /// Archives of further images that its nodes have.
    pub images: Vec<PathBuf>,
}

impl BedSpec {
    /// Two nodes in namespaces, IPv4 and IPv6, a /20 of addresses per node, Geneve, CoreDNS.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            nodes: 2,
            family: IpFamily::Dual,
            mask: 20,
            kind: NodeKind::Namespace,
            kernel_nodes: 0,
            pod_cidrs: PodCidrs::ControllerManager,
            traffic: "{}",
            more: "{}",
            previous: Past::Absent,
            kube_proxy: KubeProxy::None,
            dns: ClusterDns::CoreDns,
            images: Vec::new(),
        }
    }
}
