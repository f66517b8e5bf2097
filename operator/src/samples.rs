//! Clusters and specs for tests.

use std::collections::BTreeMap;

use carrick_api::effective::{Endpoint, ServiceProxyMode};
use carrick_api::networking::NetworkingSpec;

use crate::effective::{self, Effective};
use crate::facts::{AgentsSeen, Facts, Installation, NodeFact, Presence, Probe, Reach};
use crate::provider;

pub(crate) fn node(name: &str, cidr: &str) -> NodeFact {
    NodeFact {
        name: name.into(),
        labels: BTreeMap::from([("kubernetes.io/os".into(), "linux".into())]),
        pod_cidrs: cidr.split(',').map(|cidr| cidr.parse().unwrap()).collect(),
        reach: Reach::Reachable,
        ..NodeFact::default()
    }
}

pub(crate) fn facts() -> Facts {
    Facts {
        nodes: vec![
            node("node1", "10.244.0.0/24"),
            node("node2", "10.244.1.0/24"),
            node("node3", "10.244.2.0/24"),
        ],
        service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
        reached: Endpoint {
            host: "172.30.0.1".into(),
            port: 6443,
        },
        kubernetes_service: vec!["10.96.0.1".parse().unwrap()],
        kubeadm_config: Presence::Absent,
        api_server_probe: Probe::NotTried,
        agents: AgentsSeen::default(),
    }
}

pub(crate) fn installation() -> Installation {
    Installation {
        namespace: "carrick-system".into(),
        version: "0.1.0".into(),
        carrick_image: "localhost/carrick:0.1.0".into(),
        carrick_ovs_image: "localhost/carrick-ovs:0.1.0".into(),
        pull_secrets: Vec::new(),
    }
}

pub(crate) fn effective() -> Effective {
    effective_of(&NetworkingSpec::default())
}

pub(crate) fn effective_of(spec: &NetworkingSpec) -> Effective {
    let facts = facts();
    let detection = provider::detect(&facts);
    effective::resolve(
        spec,
        &installation(),
        &facts,
        &detection,
        ServiceProxyMode::Full,
    )
}

/// A spec as a person writes it.
pub(crate) fn spec(yaml: &str) -> NetworkingSpec {
    serde_saphyr::from_str(yaml).unwrap()
}
