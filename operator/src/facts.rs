//! What the operator knows about the cluster and itself before it decides anything.
//!
//! Gathered by `cluster`, judged by the pure modules.

use std::collections::BTreeMap;
use std::net::IpAddr;

use carrick_api::effective::Endpoint;
use ipnet::IpNet;

/// What is known about the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Every node, sorted by name.
    pub nodes: Vec<NodeFact>,
    /// Ranges of ClusterIPs, from ServiceCIDR objects; empty when the server has none.
    pub service_cidrs: Vec<IpNet>,
    /// The endpoint by which the operator reached the API server.
    pub reached: Endpoint,
    /// Addresses of the `kubernetes` Service; empty when it does not exist yet.
    pub kubernetes_service: Vec<IpAddr>,
    /// kube-system has kubeadm's ConfigMap.
    pub kubeadm_config: Presence,
    /// What came of trying `spec.apiServer`, when it names another endpoint than `reached`.
    pub api_server_probe: Probe,
    /// What agents report.
    pub agents: AgentsSeen,
}

/// Whether something was there when looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    Present,
    /// It is not there.
    Absent,
    /// Looking was not possible (a permission is missing).
    Unknown,
}

/// What came of trying an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Nothing to try.
    NotTried,
    /// An API server answered.
    Answered,
    /// It did not, and why.
    Failed(String),
}

/// What agents report, summed up for the safety check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentsSeen {
    /// Agents that were ready when they last reported.
    pub ready: usize,
    /// The largest pod MTU in use.
    pub largest_mtu: Option<i32>,
}

/// What is known about one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFact {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`, keys only: enough to tell who made the node.
    pub annotations: Vec<String>,
    /// `spec.providerID`, empty when unset.
    pub provider_id: String,
    /// `spec.podCIDRs` that parse.
    pub pod_cidrs: Vec<IpNet>,
    /// `status.addresses` that are addresses.
    pub addresses: Vec<IpAddr>,
    /// Keys of `spec.taints`.
    pub taints: Vec<String>,
    /// Why the node's condition `NetworkUnavailable` is True; empty when it is not.
    pub network_unavailable: String,
    /// The node's lease expired: nothing on it can be seen or changed now.
    pub reach: Reach,
}

/// Whether the control plane hears a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// Its kubelet reports.
    #[default]
    Reachable,
    /// Its kubelet stopped reporting (Ready=Unknown).
    Unreachable,
}

impl NodeFact {
    /// It runs Linux, or does not say what it runs.
    pub fn is_linux(&self) -> bool {
        self.labels
            .get("kubernetes.io/os")
            .is_none_or(|os| os == "linux")
    }

    /// It has every label of the selector.
    pub fn matches(&self, selector: &BTreeMap<String, String>) -> bool {
        selector
            .iter()
            .all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

impl Facts {
    /// Pods of this cluster have IPv6 addresses.
    pub fn has_ipv6(&self) -> bool {
        self.nodes
            .iter()
            .flat_map(|node| &node.pod_cidrs)
            .any(|cidr| matches!(cidr, IpNet::V6(_)))
    }
}

/// What the operator knows about its own installation (its environment, read once at start).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The namespace it runs in; operands live there too.
    pub namespace: String,
    /// Its own version: the operands' target.
    pub version: String,
    /// Full reference of the `carrick` image.
    pub carrick_image: String,
    /// Full reference of the `carrick-ovs` image.
    pub carrick_ovs_image: String,
    /// Names of pull Secrets given to the chart.
    pub pull_secrets: Vec<String>,
}
