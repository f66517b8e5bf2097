//! Services and EndpointSlices of the API as the proxy knows them: nil and defaults resolved as the API
//! documents them, what cannot be served left out.
//!
//! Whoever may write these objects may write anything that the API server's validation lets pass, and
//! other servers let more pass: what does not parse is left out and is no error.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use carrick_datapath::services::{
    Conditions, Endpoint, EndpointPort, EndpointSlice, Ingress, IngressMode, Protocol, Service,
    ServiceName, ServicePort, ServiceType, TrafficPolicy,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

/// Label of an EndpointSlice: the Service it belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Annotation of an EndpointSlice: when what it tells of happened.
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Labels by which Services and EndpointSlices are not ours (`pkg/proxy/apis` of Kubernetes).
pub const NOT_OURS: [&str; 2] = [
    "service.kubernetes.io/service-proxy-name",
    "service.kubernetes.io/headless",
];
/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not set.
const AFFINITY_SECONDS: i32 = 10_800;
/// Endpoints of a slice that count; the API allows as many.
const MAX_ENDPOINTS: usize = 1000;
/// Ports of a slice or Service that count: the API allows 100 in a slice, and as many as fit in a Service.
const MAX_PORTS: usize = 1000;
/// Addresses of a kind that a Service may have.
const MAX_ADDRESSES: usize = 1000;

/// A Service's name, if the object has one.
pub fn service_name(object: &core::Service) -> Option<ServiceName> {
    let metadata = &object.metadata;
    Some(ServiceName::new(
        metadata.namespace.as_deref()?,
        metadata.name.as_deref()?,
    ))
}

/// A Service.
pub fn service(object: &core::Service) -> Option<Service> {
    let spec = object.spec.clone().unwrap_or_default();
    let labels = object.metadata.labels.as_ref();
    let cluster_ips = match (&spec.cluster_ips, &spec.cluster_ip) {
        (Some(all), _) => addresses(all),
        (None, Some(one)) => addresses(std::slice::from_ref(one)),
        (None, None) => Vec::new(),
    };
    let ingress = object
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .flatten()
        .filter_map(|ingress| {
            Some(Ingress {
                address: ingress.ip.as_deref()?.parse().ok()?,
                mode: match ingress.ip_mode.as_deref() {
                    Some("Proxy") => IngressMode::Proxy,
                    _ => IngressMode::Vip,
                },
            })
        });
    let affinity = spec.session_affinity_config.as_ref();
    let affinity = affinity.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let by_client = spec.session_affinity.as_deref() == Some("ClientIP");
    Some(Service {
        name: service_name(object)?,
        uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
        kind: match spec.type_.as_deref() {
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIp,
        },
        cluster_ips,
        ports: spec
            .ports
            .iter()
            .flatten()
            .take(MAX_PORTS)
            .filter_map(service_port)
            .collect(),
        external_ips: addresses(spec.external_ips.as_deref().unwrap_or_default()),
        ingress: ingress.take(MAX_ADDRESSES).collect(),
        source_ranges: parsed(
            spec.load_balancer_source_ranges
                .as_deref()
                .unwrap_or_default(),
        ),
        affinity_seconds: by_client
            .then(|| u32::try_from(affinity.unwrap_or(AFFINITY_SECONDS)).unwrap_or_default()),
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        external_policy: policy(spec.external_traffic_policy.as_deref()),
        health_check_node_port: spec.health_check_node_port.and_then(port_number),
        other_proxy: NOT_OURS
            .iter()
            .any(|label| labels.is_some_and(|labels| labels.contains_key(*label))),
    })
}

fn service_port(port: &core::ServicePort) -> Option<ServicePort> {
    Some(ServicePort {
        name: name_of(port.name.as_deref()),
        protocol: protocol(port.protocol.as_deref())?,
        port: port_number(port.port)?,
        node_port: port.node_port.and_then(port_number),
    })
}

/// Namespace and name of a slice, if the object has them.
pub fn slice_name(object: &discovery::EndpointSlice) -> Option<(String, String)> {
    let metadata = &object.metadata;
    Some((metadata.namespace.clone()?, metadata.name.clone()?))
}

/// An EndpointSlice, if it is a Service's and has addresses of ours.
pub fn endpoint_slice(object: &discovery::EndpointSlice) -> Option<EndpointSlice> {
    let (namespace, name) = slice_name(object)?;
    let is_v4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        _ => return None,
    };
    let labels = object.metadata.labels.as_ref()?;
    if NOT_OURS.iter().any(|label| labels.contains_key(*label)) {
        return None;
    }
    let service = ServiceName::new(&namespace, labels.get(SERVICE_NAME)?);
    let ports = object.ports.iter().flatten().take(MAX_PORTS);
    let endpoints = object.endpoints.iter().take(MAX_ENDPOINTS);
    Some(EndpointSlice {
        namespace,
        name,
        service,
        ports: ports.filter_map(endpoint_port).collect(),
        endpoints: endpoints
            .filter_map(endpoint)
            .filter(|endpoint| endpoint.address.is_ipv4() == is_v4)
            .collect(),
    })
}

fn endpoint_port(port: &discovery::EndpointPort) -> Option<EndpointPort> {
    Some(EndpointPort {
        name: name_of(port.name.as_deref()),
        protocol: protocol(port.protocol.as_deref())?,
        port: port_number(port.port?)?,
    })
}

/// When what a slice tells of happened (a pod became ready), if whoever wrote it says so.
pub fn triggered(object: &discovery::EndpointSlice) -> Option<Timestamp> {
    let annotations = object.metadata.annotations.as_ref()?;
    annotations.get(TRIGGERED)?.parse().ok()
}

fn endpoint(endpoint: &discovery::Endpoint) -> Option<Endpoint> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.clone().unwrap_or_default();
    let zones = hints.for_zones.unwrap_or_default();
    let nodes = hints.for_nodes.unwrap_or_default();
    Some(Endpoint {
        address: endpoint.addresses.first()?.parse().ok()?,
        conditions: Conditions {
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
        },
        node: endpoint.node_name.clone(),
        zone_hints: zones.into_iter().map(|zone| zone.name).collect(),
        node_hints: nodes.into_iter().map(|node| node.name).collect(),
    })
}

fn name_of(name: Option<&str>) -> Arc<str> {
    name.unwrap_or_default().into()
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

/// 0 stands for none.
fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn policy(name: Option<&str>) -> TrafficPolicy {
    match name {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

/// `None`, which headless Services have, is no address.
fn addresses(texts: &[String]) -> Vec<IpAddr> {
    parsed(texts)
}

fn parsed<T: FromStr>(texts: &[String]) -> Vec<T> {
    let parsed = texts.iter().filter_map(|text| text.trim().parse().ok());
    parsed.take(MAX_ADDRESSES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(spec: &Value) -> Service {
        let object = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"}, "spec": spec,
        });
        service(&serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn nil_is_what_the_api_says_it_is() {
        let service = of(&json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80}]}));
        assert_eq!(service.name.as_str(), "shop/web");
        assert_eq!(service.kind, ServiceType::ClusterIp);
        assert_eq!(
            service.cluster_ips,
            ["10.96.0.7".parse::<IpAddr>().unwrap()]
        );
        let [port] = service.ports.as_slice() else {
            panic!("{:?}", service.ports)
        };
        assert_eq!(
            (port.protocol, port.port, port.node_port),
            (Protocol::Tcp, 80, None)
        );
        assert_eq!((&*port.name, service.affinity_seconds), ("", None));
        assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
        assert!(service.is_served());
    }

    #[test]
    fn every_field_is_read() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {
                "type": "LoadBalancer", "clusterIPs": ["10.96.0.7", "fd00:96::7"],
                "externalIPs": ["192.0.2.9", "nonsense"], "healthCheckNodePort": 32000,
                "ports": [
                    {"name": "dns", "protocol": "UDP", "port": 53, "nodePort": 30053},
                    {"name": "odd", "protocol": "DCCP", "port": 54},
                    {"name": "assoc", "protocol": "SCTP", "port": 55, "nodePort": 0},
                ],
                "loadBalancerSourceRanges": ["198.51.100.0/24", " fd00::/8"],
                "sessionAffinity": "ClientIP",
                "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
            },
            "status": {"loadBalancer": {"ingress": [
                {"ip": "203.0.113.5"}, {"ip": "203.0.113.6", "ipMode": "Proxy"},
                {"hostname": "lb.example"},
            ]}},
        });
        let service = service(&serde_json::from_value(object).unwrap()).unwrap();
        assert_eq!(service.kind, ServiceType::LoadBalancer);
        assert_eq!(service.cluster_ips.len(), 2);
        assert_eq!(service.external_ips.len(), 1);
        assert_eq!(service.health_check_node_port, Some(32000));
        let ports: Vec<_> = service
            .ports
            .iter()
            .map(|port| (port.port, port.node_port))
            .collect();
        assert_eq!(ports, [(53, Some(30053)), (55, None)]);
        assert_eq!(service.source_ranges.len(), 2);
        assert_eq!(service.affinity_seconds, Some(10_800));
        let modes: Vec<_> = service.ingress.iter().map(|ingress| ingress.mode).collect();
        assert_eq!(modes, [IngressMode::Vip, IngressMode::Proxy]);
        assert_eq!(
            (service.internal_policy, service.external_policy),
            (TrafficPolicy::Local, TrafficPolicy::Local)
        );
    }

    #[test]
    fn headless_external_and_other_proxies_are_not_served() {
        assert!(!of(&json!({"clusterIP": "None", "ports": [{"port": 80}]})).is_served());
        assert!(!of(&json!({"type": "ExternalName", "externalName": "a.example"})).is_served());
        for label in NOT_OURS {
            let object = json!({
                "metadata": {"name": "web", "namespace": "shop", "labels": {label: "x"}},
                "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
            });
            let service = service(&serde_json::from_value(object).unwrap()).unwrap();
            assert!(!service.is_served());
        }
    }

    fn slice(value: Value) -> Option<EndpointSlice> {
        let mut object = json!({
            "metadata": {"name": "web-1", "namespace": "shop",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": [],
        });
        if let (Some(object), Value::Object(more)) = (object.as_object_mut(), value) {
            object.extend(more);
        }
        endpoint_slice(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn an_endpoints_conditions_and_hints_are_read() {
        let slice = slice(json!({
            "ports": [{"name": "http", "port": 8080}, {"name": "all"}],
            "endpoints": [
                {"addresses": ["10.1.0.5", "10.1.0.6"], "nodeName": "a"},
                {"addresses": ["10.1.0.7"],
                 "conditions": {"ready": false, "serving": true, "terminating": true},
                 "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "a"}]}},
                {"addresses": ["fd00::1"]}, {"addresses": []}, {"addresses": ["nonsense"]},
            ],
        }))
        .unwrap();
        assert_eq!(slice.service, ServiceName::new("shop", "web"));
        assert_eq!(slice.ports.len(), 1);
        let [first, second] = slice.endpoints.as_slice() else {
            panic!("{:?}", slice.endpoints)
        };
        assert_eq!(
            (first.conditions, first.node.as_deref()),
            (Conditions::READY, Some("a"))
        );
        assert!(!second.conditions.ready && second.conditions.serving);
        assert!(second.conditions.terminating);
        assert_eq!(
            (&second.zone_hints, &second.node_hints),
            (&vec!["z1".into()], &vec!["a".into()])
        );
    }

    #[test]
    fn a_slice_of_nobody_or_of_names_is_left_out() {
        assert!(slice(json!({"addressType": "FQDN"})).is_none());
        assert!(slice(json!({"metadata": {"name": "x", "namespace": "shop"}})).is_none());
        let labels = json!({"kubernetes.io/service-name": "web", NOT_OURS[1]: ""});
        let metadata = json!({"name": "x", "namespace": "shop", "labels": labels});
        assert!(slice(json!({"metadata": metadata})).is_none());
    }
}
