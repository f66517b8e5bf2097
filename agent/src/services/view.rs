//! Services as the read API shows them.

use std::collections::BTreeMap;

use carrick_datapath::IpFamily;
use carrick_datapath::services::{
    Frontend, FrontendKind, Place, Proxy, ServiceName, TrafficPolicy,
};
use serde::Serialize;
use tokio::sync::oneshot;

use super::explain::{Explained, Question, Refusal};

/// Questions that may wait for the programmer.
pub const QUERIES: usize = 16;

/// A question of the read API.
#[derive(Debug)]
pub enum Query {
    /// What is served.
    Services {
        /// One Service with its backends; all, with how many backends each has, without a name.
        service: Option<ServiceName>,
        /// The answer.
        reply: oneshot::Sender<Answer>,
    },
    /// What becomes of a packet.
    Explain {
        /// Which packet.
        question: Box<Question>,
        /// The answer.
        reply: oneshot::Sender<Result<Explained, Refusal>>,
    },
}

/// Services of this node.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Whether all of them were read from the API server.
    pub listed: bool,
    /// Services that wait to be programmed.
    pub pending: usize,
    /// By `namespace/name`.
    pub services: BTreeMap<String, ServiceView>,
}

/// One Service.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Where clients reach it; none where it is not served.
    pub frontends: Vec<FrontendView>,
    /// What is not as it was asked for, a sentence each.
    pub findings: Vec<String>,
}

/// One address and port.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendView {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: &'static str,
    /// The address; `IPv4` or `IPv6` for every address of the node.
    pub address: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The port.
    pub port: u16,
    /// `Cluster` or `Local`.
    pub policy: &'static str,
    /// How many endpoints answer.
    pub backend_count: usize,
    /// Those, as `address:port`, where one Service was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// The Service that has the address instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<String>,
}

/// What a proxy has to say to a question.
pub(crate) fn answer(proxy: &Proxy, listed: bool, asked: Option<&ServiceName>) -> Answer {
    let mut services: BTreeMap<String, ServiceView> = BTreeMap::new();
    let known = proxy.index().names();
    for name in known.filter(|name| asked.is_none_or(|asked| asked == *name)) {
        let frontends = proxy.frontends(name).into_iter();
        let view = ServiceView {
            frontends: frontends
                .map(|found| frontend(&found, asked.is_some()))
                .collect(),
            findings: Vec::new(),
        };
        services.insert(name.to_string(), view);
    }
    for (name, finding) in proxy.findings() {
        if let Some(view) = services.get_mut(name.as_str()) {
            view.findings.push(finding.to_string());
        }
    }
    Answer {
        listed,
        pending: proxy.pending(),
        services,
    }
}

fn frontend(found: &Frontend, with_backends: bool) -> FrontendView {
    let backends = found.backends.iter().filter(|_| with_backends);
    FrontendView {
        kind: kind_name(found.kind),
        address: place_name(found.claim.place),
        protocol: found.claim.protocol.name(),
        port: found.claim.port,
        policy: policy_name(found.policy),
        backend_count: found.backends.len(),
        backends: backends
            .map(|backend| std::net::SocketAddr::new(backend.address, backend.port).to_string())
            .collect(),
        claimed_by: found.claimed_by.as_ref().map(ToString::to_string),
    }
}

pub(super) const fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::ExternalIp => "ExternalIP",
    }
}

pub(super) fn place_name(place: Place) -> String {
    match place {
        Place::Address(address) => address.to_string(),
        Place::Node(IpFamily::V4) => "IPv4".to_owned(),
        Place::Node(IpFamily::V6) => "IPv6".to_owned(),
    }
}

pub(super) const fn policy_name(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{feed, object};
    use super::*;

    #[test]
    fn one_service_is_shown_with_its_backends_and_all_with_their_number() {
        let mut proxy = feed::tests::proxy();
        let service = json!({
            "metadata": {"name": "web", "namespace": "n"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
        });
        let slice = json!({
            "metadata": {"name": "web-1", "namespace": "n",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["10.1.0.5"]}],
        });
        let service = object::service(&serde_json::from_value(service).unwrap());
        let slice = object::endpoint_slice(&serde_json::from_value(slice).unwrap());
        proxy.upsert_service(service.unwrap());
        proxy.upsert_slice(&slice.unwrap());
        let mut frontend = json!({
            "kind": "ClusterIP", "address": "10.96.0.7", "protocol": "tcp", "port": 80,
            "policy": "Cluster", "backendCount": 1,
        });
        let text = |asked: Option<&ServiceName>| {
            serde_json::to_value(answer(&proxy, true, asked)).unwrap()
        };
        let all = text(None);
        assert_eq!(all["services"]["n/web"]["frontends"], json!([frontend]));
        assert_eq!((&all["listed"], &all["pending"]), (&json!(true), &json!(1)));
        frontend["backends"] = json!(["10.1.0.5:8080"]);
        let one = text(Some(&ServiceName::new("n", "web")));
        assert_eq!(one["services"]["n/web"]["frontends"], json!([frontend]));
        let none = text(Some(&ServiceName::new("n", "other")));
        assert_eq!(none["services"], json!({}));
    }
}
