//! Facts from what the watches keep and what has to be asked for.

use std::collections::BTreeMap;

use carrick_api::AgentInfo;
use carrick_api::agentinfo;
use carrick_api::effective::Endpoint;
use k8s_openapi::api::core::v1::Node;

use crate::facts::{AgentsSeen, NodeFact, Reach};
use crate::progress::condition;

/// A node as the core sees it.
pub fn node(node: &Node) -> NodeFact {
    let spec = node.spec.clone().unwrap_or_default();
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let unknown = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "Unknown");
    let cidrs = match spec.pod_cidrs {
        Some(cidrs) if !cidrs.is_empty() => cidrs,
        _ => spec.pod_cidr.into_iter().collect(),
    };
    let labels: BTreeMap<String, String> = node
        .metadata
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    NodeFact {
        name: node.metadata.name.clone().unwrap_or_default(),
        labels,
        annotations: node
            .metadata
            .annotations
            .iter()
            .flat_map(|annotations| annotations.keys().cloned())
            .collect(),
        provider_id: spec.provider_id.unwrap_or_default(),
        pod_cidrs: cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
        addresses: node
            .status
            .iter()
            .flat_map(|status| status.addresses.iter().flatten())
            .filter_map(|address| address.address.parse().ok())
            .collect(),
        taints: spec
            .taints
            .unwrap_or_default()
            .into_iter()
            .map(|taint| taint.key)
            .collect(),
        network_unavailable: network_unavailable(node),
        reach: if unknown {
            Reach::Unreachable
        } else {
            Reach::Reachable
        },
    }
}

/// What a cloud's route controller says of a node that it has made no route for.
fn network_unavailable(node: &Node) -> String {
    let conditions = node.status.iter();
    conditions
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == "NetworkUnavailable" && condition.status == "True")
        .map(|condition| match (&condition.reason, &condition.message) {
            (Some(reason), Some(message)) => format!("{reason}: {message}"),
            (Some(text), None) | (None, Some(text)) => text.clone(),
            (None, None) => "no reason given".to_owned(),
        })
        .unwrap_or_default()
}

/// What agents report, summed up.
pub fn agents<'a>(agents: impl Iterator<Item = &'a AgentInfo>) -> AgentsSeen {
    let mut seen = AgentsSeen::default();
    for agent in agents {
        if condition(agent, agentinfo::condition::READY) == Some("True") {
            seen.ready += 1;
            let mtu = agent.status.as_ref().and_then(|status| status.mtu);
            seen.largest_mtu = seen.largest_mtu.max(mtu);
        }
    }
    seen
}

/// The API server as an endpoint of ours.
pub fn endpoint(endpoint: &carrick_k8s::client::Endpoint) -> Endpoint {
    Endpoint {
        host: endpoint.host.clone(),
        port: endpoint.port,
    }
}
