//! What a person asks for.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::names;

/// Address families of nodes, pods and Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// IPv4 only.
    V4,
    /// IPv6 only: nodes have no IPv4 address but loopback's.
    V6,
    /// Both, IPv4 first.
    Dual,
}

impl IpFamily {
    /// Whether IPv4 is among them.
    #[must_use]
    pub fn has_v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is among them.
    #[must_use]
    pub fn has_v6(self) -> bool {
        self != Self::V4
    }
}

impl FromStr for IpFamily {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "v4" => Ok(Self::V4),
            "v6" => Ok(Self::V6),
            "dual" => Ok(Self::Dual),
            _ => bail!("IP family {text:?} is none of v4, v6, dual"),
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
            Self::Dual => "dual",
        })
    }
}

/// Whether kubelets register with the taint that keeps pods away until the network is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartupTaint {
    /// `carrick.dev/agent-not-ready:NoSchedule`.
    Enabled,
    /// None.
    Disabled,
}

/// What nodes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// Namespaces of the host: quick and small, the host's kernel.
    #[default]
    Namespace,
    /// A kernel of their own (User-Mode Linux): the kernel datapath of Open vSwitch, real reboots.
    Kernel,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "namespace nodes",
            Self::Kernel => "kernel nodes",
        })
    }
}

/// Who gives nodes their pod CIDRs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodCidrs {
    /// kube-controller-manager.
    #[default]
    ControllerManager,
    /// Nobody here: it is started with `--allocate-node-cidrs=false`.
    Nobody,
}

/// Whether kube-proxy serves Services on every node, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KubeProxy {
    /// There is none: cluster IPs lead nowhere until the network serves them.
    #[default]
    None,
    /// By nftables.
    Nftables,
    /// By iptables.
    Iptables,
}

impl FromStr for KubeProxy {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "nftables" => Ok(Self::Nftables),
            "iptables" => Ok(Self::Iptables),
            _ => bail!("kube-proxy's mode {text:?} is none of nftables, iptables, none"),
        }
    }
}

impl fmt::Display for KubeProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

/// Whether names of Services resolve in pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClusterDns {
    /// They do not.
    #[default]
    None,
    /// CoreDNS answers behind a cluster IP, which somebody must serve.
    CoreDns,
}

/// What a cluster shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Its name: lower-case letters, digits and dashes, at most 32.
    pub name: String,
    /// Number of nodes, 1 to 200; they are called node1, node2, ….
    pub nodes: usize,
    /// Address families.
    pub family: IpFamily,
    /// Prefix length of a node's IPv4 pod CIDR out of 10.244.0.0/16.
    pub node_mask_v4: u8,
    /// The startup taint.
    pub startup_taint: StartupTaint,
    /// What the nodes are made of. Records of older clusters do not say.
    #[serde(default)]
    pub kind: NodeKind,
    /// So many of the last nodes have kernels of their own, whatever the others are made of.
    #[serde(default)]
    pub kernel_nodes: usize,
    /// Who gives nodes their pod CIDRs.
    #[serde(default)]
    pub pod_cidrs: PodCidrs,
    /// kube-proxy.
    #[serde(default)]
    pub kube_proxy: KubeProxy,
    /// Cluster DNS.
    #[serde(default)]
    pub dns: ClusterDns,
    /// Archives of images that nodes have from their start.
    #[serde(default)]
    pub images: Vec<PathBuf>,
}

impl ClusterSpec {
    /// Three nodes in namespaces, IPv4, no taint, neither kube-proxy nor cluster DNS.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            nodes: 3,
            family: IpFamily::V4,
            node_mask_v4: 24,
            startup_taint: StartupTaint::Disabled,
            kind: NodeKind::Namespace,
            kernel_nodes: 0,
            pod_cidrs: PodCidrs::ControllerManager,
            kube_proxy: KubeProxy::None,
            dns: ClusterDns::None,
            images: Vec::new(),
        }
    }

    /// What a node is made of; the first is number 1.
    #[must_use]
    pub fn kind_of(&self, number: usize) -> NodeKind {
        if number > self.nodes.saturating_sub(self.kernel_nodes) {
            NodeKind::Kernel
        } else {
            self.kind
        }
    }

    /// The kinds of nodes there are.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = NodeKind> + use<> {
        let (first, last) = (self.kind_of(1), self.kind_of(self.nodes));
        std::iter::once(first).chain((first != last).then_some(last))
    }

    pub(crate) fn validate(&self) -> Result<()> {
        names::validate(&self.name)?;
        ensure!(
            (1..=200).contains(&self.nodes),
            "a cluster has 1 to 200 nodes, not {}",
            self.nodes
        );
        ensure!(
            self.kernel_nodes <= self.nodes,
            "{} of {} nodes cannot have kernels of their own",
            self.kernel_nodes,
            self.nodes
        );
        ensure!(
            (17..=28).contains(&self.node_mask_v4),
            "a node's pod CIDR is a /17 to /28 of 10.244.0.0/16, not a /{}",
            self.node_mask_v4
        );
        let fit = 1_usize << (self.node_mask_v4 - 16);
        ensure!(
            !self.family.has_v4() || self.nodes <= fit,
            "10.244.0.0/16 holds {fit} pod CIDRs of /{}, fewer than {} nodes",
            self.node_mask_v4,
            self.nodes
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_nodes_than_pod_cidrs_are_refused() {
        let mut spec = ClusterSpec::new("a");
        (spec.nodes, spec.node_mask_v4) = (17, 20);
        assert!(
            spec.validate()
                .unwrap_err()
                .to_string()
                .contains("holds 16 pod CIDRs of /20")
        );
        spec.nodes = 16;
        spec.validate().unwrap();
        spec.nodes = 0;
        spec.validate().unwrap_err();
    }

    #[test]
    fn the_last_nodes_may_have_kernels_of_their_own() {
        let mut spec = ClusterSpec::new("a");
        assert_eq!(spec.kinds().collect::<Vec<_>>(), [NodeKind::Namespace]);
        spec.kernel_nodes = 1;
        assert_eq!(
            [1, 2, 3].map(|number| spec.kind_of(number)),
            [NodeKind::Namespace, NodeKind::Namespace, NodeKind::Kernel]
        );
        assert_eq!(spec.kinds().count(), 2);
        spec.kernel_nodes = 4;
        spec.validate().unwrap_err();
    }
}
