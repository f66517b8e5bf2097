//! Health checks of load balancers (`spec.healthCheckNodePort`).

use super::input::{Service, ServiceName, ServiceType, TrafficPolicy};

/// A port of the node on which a load balancer asks whether to send here: 200 with at least one
/// ready endpoint of the Service on this node, 503 without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: ServiceName,
    /// The port to listen on.
    pub port: u16,
    /// Ready endpoints on this node, the most of any port and family.
    pub local_endpoints: usize,
}

pub(super) fn health_check(service: &Service, local_endpoints: usize) -> Option<HealthCheck> {
    let wanted = service.kind == ServiceType::LoadBalancer
        && service.external_policy == TrafficPolicy::Local;
    Some(HealthCheck {
        service: service.name.clone(),
        port: service.health_check_node_port.filter(|_| wanted)?,
        local_endpoints,
    })
}
