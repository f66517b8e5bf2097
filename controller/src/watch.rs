//! Watches of Nodes, Pods, AgentInfos, Namespaces and policies, boiled down to facts.
//!
//! Each kind is one task: list (streamed where the server can), then changes, again from the start
//! when the server says so. Every listing is consistent (no resourceVersion), so a listing never
//! goes back in time. Objects are dropped as soon as their facts are taken.

pub mod policies;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use carrick_api::AgentInfo;
use carrick_policy::{NamedPort, Protocol, is_port_name};
use carrick_proto::{NodeName, PodUid, limits, parse_address, parse_cidr};
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Container, Namespace, Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::WatchParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event as Watched, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::available;
use crate::index::ResourceVersion;
use crate::objects::{
    Event, NamespaceObject, NodeObject, NodePeer, PodNetwork, PodObject, PodPeer,
};

/// Pods that are done are not watched: their going looks like a deletion.
pub const POD_FIELDS: &str = "status.phase!=Succeeded,status.phase!=Failed";
/// Objects per page where lists are not streamed.
const PAGE: u32 = 500;
/// How long the question whether lists are streamed may take.
const PROBE: Duration = Duration::from_secs(10);
/// Mirror pods (of static pods) say so.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// The UID the container runtime is told for a static pod.
const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";

/// How a server answers a first list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// As a stream that begins with what there is (KEP-3157).
    Streamed,
    /// Page by page.
    Paged,
}

/// Asks whether the API server streams lists.
pub async fn probe_listing(client: &Client) -> Listing {
    let nodes: Api<Node> = Api::all(client.clone());
    let params = WatchParams::streaming_lists().timeout(1);
    let ask = async {
        let stream = nodes.watch_metadata(&params, "").await?;
        // A server that cannot says so in the first answer.
        futures::pin_mut!(stream);
        stream.try_next().await
    };
    match tokio::time::timeout(PROBE, ask).await {
        Ok(Ok(Some(event))) if !matches!(event, kube::api::WatchEvent::Error(_)) => {
            Listing::Streamed
        }
        Ok(answer) => {
            debug!(?answer, "lists are read page by page");
            Listing::Paged
        }
        Err(_) => Listing::Paged,
    }
}

/// How a kind is listed and watched.
pub fn config(listing: Listing) -> watcher::Config {
    match listing {
        Listing::Streamed => watcher::Config::default().streaming_lists(),
        Listing::Paged => watcher::Config::default().page_size(PAGE),
    }
}

/// What of a Node depends on the configuration.
#[derive(Debug, Clone, Default)]
pub struct NodeInterest {
    /// Key of the startup taint.
    pub taint: Option<String>,
    /// What is done with its labels.
    pub labels: Labels,
}

/// What is done with labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Labels {
    /// Nothing differs by them: they are left out, and their changes are no changes.
    #[default]
    Dropped,
    /// The zone's alone is kept: endpoints are chosen by it.
    Zone,
    /// They are kept.
    Kept,
}

/// Label of a Node: its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// Watches Nodes.
pub async fn nodes(
    client: Client,
    listing: Listing,
    interest: NodeInterest,
    out: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let extract = |node: &Node| node_object(node, &interest);
    let pass = Pass {
        extract,
        is: Event::Node,
        gone: |node: &Node| Some(Event::NodeGone(name_of(node.meta())?)),
        all: Event::Nodes,
    };
    run(Api::all(client), config(listing), pass, out, stop).await;
}

/// Watches Pods that are not done.
pub async fn pods(
    client: Client,
    listing: Listing,
    out: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let pass = Pass {
        extract: pod_object,
        is: Event::Pod,
        gone: |pod: &Pod| Some(Event::PodGone(uid_of(pod.meta())?)),
        all: Event::Pods,
    };
    run(
        Api::all(client),
        config(listing).fields(POD_FIELDS),
        pass,
        out,
        stop,
    )
    .await;
}

/// Watches AgentInfos.
pub async fn infos(
    client: Client,
    listing: Listing,
    out: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let pass = Pass {
        extract: info_endpoints,
        is: |(name, endpoints)| Event::Info(name, endpoints),
        gone: |info: &AgentInfo| Some(Event::InfoGone(name_of(info.meta())?)),
        all: Event::Infos,
    };
    run(Api::all(client), config(listing), pass, out, stop).await;
}

/// Watches Namespaces.
pub async fn namespaces(
    client: Client,
    listing: Listing,
    out: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let pass = Pass {
        extract: |namespace: &Namespace| namespace_object(namespace),
        is: Event::Namespace,
        gone: |namespace: &Namespace| {
            let name = namespace.metadata.name.as_deref()?;
            Some(Event::NamespaceGone(name.into()))
        },
        all: Event::Namespaces,
    };
    run(Api::all(client), config(listing), pass, out, stop).await;
}

fn namespace_object(namespace: &Namespace) -> Option<NamespaceObject> {
    let meta = &namespace.metadata;
    Some(NamespaceObject {
        facts: carrick_policy::Namespace {
            name: meta.name.as_deref()?.into(),
            labels: meta.labels.clone().unwrap_or_default(),
        },
        version: ResourceVersion::of(meta.resource_version.as_deref()),
    })
}

/// How one kind becomes events.
struct Pass<X, I, G, A> {
    /// The facts; `None` when the object has none that matter.
    extract: X,
    /// It is so.
    is: I,
    /// It is gone, or has no facts.
    gone: G,
    /// It is all there is.
    all: A,
}

async fn run<K, T, X, I, G, A>(
    api: Api<K>,
    config: watcher::Config,
    pass: Pass<X, I, G, A>,
    out: mpsc::Sender<Event>,
    stop: CancellationToken,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    X: Fn(&K) -> Option<T>,
    I: Fn(T) -> Event,
    G: Fn(&K) -> Option<Event>,
    A: Fn(Vec<T>) -> Event,
{
    let stream = watcher(api, config).default_backoff();
    consume(&K::kind(&()), stream, &pass, &out, &stop, |_| false).await;
}

/// Takes in what a watch shows, until it is told to stop; true if an error ended it.
async fn consume<K, T, X, I, G, A>(
    kind: &str,
    stream: impl Stream<Item = Result<Watched<K>, watcher::Error>>,
    pass: &Pass<X, I, G, A>,
    out: &mpsc::Sender<Event>,
    stop: &CancellationToken,
    ends: fn(&watcher::Error) -> bool,
) -> bool
where
    X: Fn(&K) -> Option<T>,
    I: Fn(T) -> Event,
    G: Fn(&K) -> Option<Event>,
    A: Fn(Vec<T>) -> Event,
{
    futures::pin_mut!(stream);
    let mut listed = Vec::new();
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return false,
            next = stream.next() => next,
        };
        let event = match next {
            None => return false,
            Some(Err(error)) if ends(&error) => return true,
            Some(Err(error)) => {
                warn!(%kind, %error, "a watch failed and is tried again");
                continue;
            }
            Some(Ok(event)) => event,
        };
        let event = match event {
            Watched::Init => {
                listed.clear();
                continue;
            }
            Watched::InitApply(object) => {
                listed.extend((pass.extract)(&object));
                continue;
            }
            Watched::InitDone => Some((pass.all)(std::mem::take(&mut listed))),
            Watched::Apply(object) => match (pass.extract)(&object) {
                Some(facts) => Some((pass.is)(facts)),
                None => (pass.gone)(&object),
            },
            Watched::Delete(object) => (pass.gone)(&object),
        };
        if let Some(event) = event
            && out.send(event).await.is_err()
        {
            return false;
        }
    }
}

fn name_of(meta: &ObjectMeta) -> Option<NodeName> {
    meta.name
        .as_deref()
        .and_then(|name| NodeName::new(name).ok())
}

fn uid_of(meta: &ObjectMeta) -> Option<PodUid> {
    meta.uid.as_deref().and_then(|uid| PodUid::new(uid).ok())
}

fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp
        .as_ref()
        .map_or(0, |time| time.0.as_second())
}

/// The facts of a Node.
#[must_use]
pub fn node_object(node: &Node, interest: &NodeInterest) -> Option<NodeObject> {
    let name = name_of(&node.metadata)?;
    let spec = node.spec.clone().unwrap_or_default();
    let texts = spec
        .pod_cidrs
        .unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
    let mut pod_cidrs = Vec::new();
    let mut bad_cidr = None;
    for text in texts.iter().take(limits::ADDRESSES) {
        match parse_cidr("podCIDRs", text) {
            Ok(cidr) => pod_cidrs.push(cidr),
            Err(_) => bad_cidr = Some(text.chars().take(80).collect()),
        }
    }
    let addresses = node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten())
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| parse_address("addresses", &address.address).ok())
        .take(limits::ADDRESSES)
        .collect();
    let taint = interest.taint.as_deref();
    let tainted =
        taint.is_some_and(|key| spec.taints.iter().flatten().any(|taint| taint.key == key));
    let unavailable = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == available::CONDITION && condition.status == "True");
    Some(NodeObject {
        name,
        uid: node.metadata.uid.clone().unwrap_or_default(),
        created: created(&node.metadata),
        pod_cidrs,
        bad_cidr,
        addresses,
        tainted,
        unavailable,
        labels: match interest.labels {
            Labels::Dropped => BTreeMap::new(),
            Labels::Zone => {
                let labels = node.metadata.labels.iter().flatten();
                labels.filter(|(key, _)| *key == ZONE).map(owned).collect()
            }
            Labels::Kept => node.metadata.labels.iter().flatten().map(owned).collect(),
        },
        peer: NodePeer {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            addresses: node_addresses(node),
        },
    })
}

/// IP addresses of whatever type, each once.
fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let status = node.status.iter();
    let all = status.flat_map(|status| status.addresses.iter().flatten());
    let all = all.filter_map(|address| parse_address("addresses", &address.address).ok());
    let mut addresses: Vec<IpAddr> = all.take(limits::ADDRESSES).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Addresses of a pod's status, the first of each family.
fn pod_addresses(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.iter();
    let all = status.flat_map(|status| {
        let all = status.pod_ips.iter().flatten().map(|ip| &*ip.ip);
        all.chain(status.pod_ip.as_deref())
    });
    let all = all.filter_map(|text| parse_address("podIPs", text).ok());
    let all: Vec<IpAddr> = all.take(limits::ADDRESSES).collect();
    let v4 = all.iter().find(|address| address.is_ipv4());
    let v6 = all.iter().find(|address| address.is_ipv6());
    v4.into_iter().chain(v6).copied().collect()
}

/// Ports with names of containers that run as long as the pod does: sidecars are among those that
/// are called init containers.
fn named_ports(spec: &PodSpec) -> Arc<[NamedPort]> {
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let containers = spec.containers.iter().chain(sidecars);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let ports = ports.filter_map(|port| {
        let name = port.name.as_deref().filter(|name| is_port_name(name))?;
        Some(NamedPort {
            name: name.into(),
            protocol: Protocol::parse(port.protocol.as_deref().unwrap_or("TCP"))?,
            port: u16::try_from(port.container_port)
                .ok()
                .filter(|port| *port != 0)?,
        })
    });
    let mut ports: Vec<NamedPort> = ports.take(limits::PORTS).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.into()
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// The facts of a Pod that is bound to a node.
#[must_use]
pub fn pod_object(pod: &Pod) -> Option<PodObject> {
    let spec = pod.spec.as_ref()?;
    let node = NodeName::new(spec.node_name.as_deref()?).ok()?;
    let uid = uid_of(&pod.metadata)?;
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let detached = spec.host_network == Some(true) || matches!(phase, Some("Succeeded" | "Failed"));
    let annotation = |name: &str| {
        pod.metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(name))
    };
    let runtime_uid = annotation(MIRROR_ANNOTATION)
        .and_then(|_| annotation(HASH_ANNOTATION))
        .and_then(|hash| PodUid::new(hash).ok())
        .unwrap_or_else(|| uid.clone());
    Some(PodObject {
        uid,
        runtime_uid,
        created: created(&pod.metadata),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        node,
        network: if detached {
            PodNetwork::Detached
        } else {
            PodNetwork::Attached
        },
        peer: PodPeer {
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses: pod_addresses(pod),
            ports: named_ports(spec),
        },
    })
}

fn info_endpoints(info: &AgentInfo) -> Option<(NodeName, Vec<std::net::IpAddr>)> {
    let name = name_of(&info.metadata)?;
    let endpoints = info
        .status
        .iter()
        .flat_map(|status| &status.tunnel_endpoints)
        .filter_map(|text| parse_address("tunnelEndpoints", text).ok())
        .filter(|address| !address.is_loopback())
        .take(limits::ADDRESSES)
        .collect();
    Some((name, endpoints))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(taint: &str) -> NodeInterest {
        NodeInterest {
            taint: Some(taint.to_owned()),
            ..NodeInterest::default()
        }
    }
    use serde_json::json;

    fn pod(spec: &serde_json::Value, meta: &serde_json::Value, phase: &str) -> Option<PodObject> {
        let mut metadata = json!({"name": "p", "namespace": "n", "uid": "u1"});
        if let (Some(all), Some(more)) = (metadata.as_object_mut(), meta.as_object()) {
            all.extend(more.clone());
        }
        let pod: Pod = serde_json::from_value(json!({
            "metadata": metadata, "spec": spec, "status": {"phase": phase},
        }))
        .unwrap();
        pod_object(&pod)
    }

    #[test]
    fn pods_without_a_node_have_no_facts() {
        assert_eq!(pod(&json!({"containers": []}), &json!({}), "Pending"), None);
    }

    #[test]
    fn host_network_and_terminal_pods_are_detached() {
        let network = |spec, phase| pod(spec, &json!({}), phase).unwrap().network;
        let plain = json!({"containers": [], "nodeName": "a"});
        assert_eq!(network(&plain, "Running"), PodNetwork::Attached);
        assert_eq!(network(&plain, "Succeeded"), PodNetwork::Detached);
        assert_eq!(network(&plain, "Failed"), PodNetwork::Detached);
        let host = json!({"containers": [], "nodeName": "a", "hostNetwork": true});
        assert_eq!(network(&host, "Running"), PodNetwork::Detached);
    }

    #[test]
    fn what_policy_sees_of_a_pod_is_bounded_and_sound() {
        let port = |name: &str, number: i64, protocol: &str| json!({"name": name, "containerPort": number, "protocol": protocol});
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
            "spec": {
                "nodeName": "a",
                "containers": [{"name": "c", "ports": [
                    port("web", 80, "TCP"), port("NOT A NAME", 81, "TCP"), port("zero", 0, "TCP"),
                    port("big", 65536, "TCP"), port("odd", 82, "ICMP"), {"containerPort": 83},
                ]}],
                "initContainers": [
                    {"name": "sidecar", "restartPolicy": "Always", "ports": [port("proxy", 90, "UDP")]},
                    {"name": "setup", "ports": [port("setup", 91, "TCP")]},
                ],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [
                {"ip": "10.0.0.1"}, {"ip": "nonsense"}, {"ip": "10.0.0.2"}, {"ip": "fd00::1"},
            ]},
        }))
        .unwrap();
        let peer = pod_object(&pod).unwrap().peer;
        assert_eq!(peer.labels["a"], "b");
        let ports: Vec<(&str, u16)> = peer.ports.iter().map(|p| (&*p.name, p.port)).collect();
        assert_eq!(ports, [("proxy", 90), ("web", 80)]);
        let addresses: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn a_static_pod_has_the_uid_the_runtime_is_told() {
        let spec = json!({"containers": [], "nodeName": "a"});
        let mirror = json!({"annotations": {
            "kubernetes.io/config.mirror": "h", "kubernetes.io/config.hash": "h",
        }});
        assert_eq!(
            pod(&spec, &mirror, "Running").unwrap().runtime_uid.as_str(),
            "h"
        );
        let not_mirror = json!({"annotations": {"kubernetes.io/config.hash": "h"}});
        assert_eq!(
            pod(&spec, &not_mirror, "Running")
                .unwrap()
                .runtime_uid
                .as_str(),
            "u1"
        );
    }

    #[test]
    fn a_node_gives_its_cidrs_addresses_and_taint() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u", "labels": {"pool": "gpu", "topology.kubernetes.io/zone": "z1"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::1/64"],
                "taints": [{"key": "carrick.dev/agent-not-ready", "effect": "NoSchedule"}],
            },
            "status": {"addresses": [
                {"type": "Hostname", "address": "a"},
                {"type": "InternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "nonsense"},
            ]},
        }))
        .unwrap();
        let facts = node_object(&node, &by("carrick.dev/agent-not-ready")).unwrap();
        assert_eq!(facts.pod_cidrs.len(), 1);
        assert_eq!(facts.bad_cidr.as_deref(), Some("fd00::1/64"));
        assert_eq!(facts.addresses.len(), 1);
        assert!(facts.tainted);
        assert!(!node_object(&node, &by("other")).unwrap().tainted);
        assert!(
            !node_object(&node, &NodeInterest::default())
                .unwrap()
                .tainted
        );
        assert!(facts.labels.is_empty());
        let interest = NodeInterest {
            labels: Labels::Kept,
            ..NodeInterest::default()
        };
        assert_eq!(node_object(&node, &interest).unwrap().labels["pool"], "gpu");
        let interest = NodeInterest {
            labels: Labels::Zone,
            ..NodeInterest::default()
        };
        let labels = node_object(&node, &interest).unwrap().labels;
        assert_eq!(labels, [(ZONE.to_owned(), "z1".to_owned())].into());
    }
}
