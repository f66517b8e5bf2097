//! `serviceProxy`: who serves Services.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::effective::{KubeProxy, ServiceProxyMode};

/// `serviceProxy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceProxy {
    /// Disabled leaves Services to a kube-proxy. ClusterIP serves the cluster IPs of Services for pods, in
    /// the switch of their node; a kube-proxy serves everything else (node ports, addresses of load
    /// balancers, external IPs, and the hosts themselves), so it must run on every node. Full serves all of
    /// it, and no kube-proxy is needed; the agents must reach the API server without one (spec.apiServer).
    /// Default: Full; Disabled for an object that was first applied by a release whose default that was.
    /// It can be changed while the network runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ServiceProxyMode>,
    /// What is done about a kube-proxy that runs, in mode Full. Auto disables it once every agent serves
    /// Services, where nobody else manages it, and else keeps it and says so in the condition
    /// KubeProxyReplaced. Keep leaves it alone. Disable is Auto, but the network is Degraded where it may
    /// not be disabled. It is disabled by a node selector, and enabled before another mode rolls out and
    /// before the network is removed. Default: Auto in mode Full. It can be changed while the network runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_proxy: Option<KubeProxy>,
    /// Services that are left to another proxy in every mode, each as namespace/name. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 64),
        // Two labels of DNS (RFC 1123) and the slash.
        inner(
            length(min = 3, max = 127),
            regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?/[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
        ),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub skip_services: Option<Vec<String>>,
    /// Ranges of the nodes' own addresses that have node ports, in mode Full. Empty: every address of a
    /// node, and 127.0.0.1. Default: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 16),
        inner(length(min = 4, max = 49)),
        extend("x-kubernetes-list-type" = "set", "x-kubernetes-validations" = [{
            "rule": "self.all(range, isCIDR(range))",
            "message": "serviceProxy.nodePortAddresses holds ranges such as 192.0.2.0/24 or 2001:db8::/64"
        }])
    )]
    pub node_port_addresses: Option<Vec<String>>,
}
