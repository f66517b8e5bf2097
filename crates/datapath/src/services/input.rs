//! What the proxy is told: Services, their endpoints and the node, as plain data. Whoever fills these
//! in resolves defaults and nil as the Kubernetes API documents them; each field says how.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use carrick_policy::Protocol;

use crate::state::Addresses;

/// A Service's namespace and name, as `namespace/name`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The Service `name` of `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}").into())
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `Service.spec.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceType {
    /// Served on its cluster IPs and external IPs. Without cluster IPs it is headless: ignored.
    ClusterIp,
    /// Served on node ports as well.
    NodePort,
    /// Served on the addresses of its load balancer as well.
    LoadBalancer,
    /// A DNS name: ignored.
    ExternalName,
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`; the API's default is `Cluster`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TrafficPolicy {
    /// Any endpoint.
    #[default]
    Cluster,
    /// Endpoints of this node only.
    Local,
}

/// `LoadBalancerIngress.ipMode` (KEP-1860).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum IngressMode {
    /// Packets arrive with this address: it is served here. The API's default.
    #[default]
    Vip,
    /// The load balancer is a proxy with an address of its own: not served here.
    Proxy,
}

/// An entry of `Service.status.loadBalancer.ingress` that has an IP address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ingress {
    /// The address.
    pub address: IpAddr,
    /// How packets arrive.
    pub mode: IngressMode,
}

/// `Service.spec.ports[]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// Its name, by which endpoints are found; empty where the Service has one port without a name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port clients speak to.
    pub port: u16,
    /// The port of every node; `None` where none is allocated
    /// (`allocateLoadBalancerNodePorts: false`).
    pub node_port: Option<u16>,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// `metadata.uid`: a Service made again under the same name is another one.
    pub uid: Arc<str>,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIPs` without `None`: empty makes it headless.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`, those with an IP address.
    pub ingress: Vec<Ingress>,
    /// `spec.loadBalancerSourceRanges`; empty allows everybody.
    pub source_ranges: Vec<IpNet>,
    /// Seconds a client stays with its endpoint after its last connection
    /// (`sessionAffinityConfig.clientIP.timeoutSeconds`), with `sessionAffinity: ClientIP` only.
    pub affinity_seconds: Option<u32>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`; `None` for 0.
    pub health_check_node_port: Option<u16>,
    /// Whether it has one of the labels `service.kubernetes.io/service-proxy-name` and
    /// `service.kubernetes.io/headless`, by which it is another proxy's or nobody's.
    pub other_proxy: bool,
}

impl Service {
    /// Whether this Service has addresses that a proxy serves at all.
    pub fn is_served(&self) -> bool {
        self.kind != ServiceType::ExternalName && !self.cluster_ips.is_empty() && !self.other_proxy
    }
}

/// Conditions of an endpoint (`EndpointConditions`), nil resolved: `ready` and `serving` nil are
/// true, `terminating` nil is false.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conditions {
    /// It takes traffic: serving and not terminating, or the Service publishes addresses that are not
    /// ready (`publishNotReadyAddresses`, which the API applies to this condition).
    pub ready: bool,
    /// It would take traffic if it were not terminating (KEP-1672).
    pub serving: bool,
    /// It is being shut down.
    pub terminating: bool,
}

impl Conditions {
    /// Ready, serving and not terminating.
    pub const READY: Self = Self {
        ready: true,
        serving: true,
        terminating: false,
    };
}

/// `EndpointSlice.endpoints[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its first address; the API gives no meaning to others.
    pub address: IpAddr,
    /// Its conditions.
    pub conditions: Conditions,
    /// `nodeName`.
    pub node: Option<String>,
    /// `hints.forZones[].name` (KEP-2433): zones whose clients it is for.
    pub zone_hints: Vec<String>,
    /// `hints.forNodes[].name` (KEP-3015): nodes whose clients it is for.
    pub node_hints: Vec<String>,
}

/// `EndpointSlice.ports[]` with a port number; others (nil: "all ports") are left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointPort {
    /// Name of the Service's port it is for.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port number at the endpoint.
    pub port: u16,
}

/// An EndpointSlice of address type IPv4 or IPv6; others are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its namespace, which is its Service's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Service it belongs to (label `kubernetes.io/service-name`).
    pub service: ServiceName,
    /// Its ports.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// How much of Services is ours (`serviceProxy.mode`).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum ProxyMode {
    /// Nothing.
    #[default]
    Disabled,
    /// Cluster IPs for pods, beside a kube-proxy.
    ClusterIp,
    /// Everything.
    Full,
}

/// What of the node matters to Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Name of the Node object.
    pub name: String,
    /// Its zone (label `topology.kubernetes.io/zone`); empty where it has none.
    pub zone: String,
    /// Addresses of the host: an external IP among them is served like a node port.
    pub addresses: BTreeSet<IpAddr>,
    /// Ranges of `serviceProxy.nodePortAddresses`; empty means every address of the host.
    pub node_port_addresses: Vec<IpNet>,
    /// The gateway's addresses: what the host's own packets come from.
    pub gateway: Addresses,
    /// Pod CIDRs of this node.
    pub pod_cidrs: Vec<IpNet>,
}

/// What is chosen for the whole proxy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Whose Services are ours.
    pub mode: ProxyMode,
    /// Services that are left alone (`serviceProxy.skipServices`).
    pub skip: BTreeSet<ServiceName>,
    /// Whether SCTP can be served: not on the userspace datapath, whose conntrack knows no ports of it.
    pub sctp: bool,
}
