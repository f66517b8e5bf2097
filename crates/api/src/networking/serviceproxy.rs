//! `serviceProxy`: who serves Services.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::effective::ServiceProxyMode;

/// `serviceProxy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceProxy {
    /// Disabled leaves Services to a kube-proxy. ClusterIP serves the cluster IPs of Services for pods, in
    /// the switch of their node; a kube-proxy serves everything else (node ports, addresses of load
    /// balancers, external IPs, and the hosts themselves), so it must run on every node. Full, which is to
    /// replace kube-proxy, is refused by this version. Default: Disabled. It can be changed while the network
    /// runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ServiceProxyMode>,
    /// Services that are left to kube-proxy in every mode, each as namespace/name. Default: none.
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
}
