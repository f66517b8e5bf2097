//! What becomes of a packet to a Service, as the read API tells it.

use std::net::IpAddr;

use carrick_datapath::services::{Client, Destination, Examined, Explanation, Path, Place, Proxy};
use serde::Serialize;

use super::view::{kind_name, place_name, policy_name};

mod asked;

pub use asked::{Asked, Question, Refusal, Surroundings};

/// The answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Whether all Services were read from the API server.
    pub listed: bool,
    /// Who sends.
    pub client: Said,
    /// One for each frontend that was asked for.
    pub explanations: Vec<ExplanationView>,
    /// How many more there are.
    pub more: usize,
}

/// A name for programs and a sentence for people.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// The name.
    pub reason: &'static str,
    /// The sentence, without its end.
    pub message: String,
}

/// What becomes of a packet to one frontend.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplanationView {
    /// `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Name of the Service's port, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_name: Option<String>,
    /// Where the Service is met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend: Option<FrontendView>,
    /// Whose address it is, where no Service has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Said>,
    /// What brings the packet to its endpoint.
    pub path: Said,
    /// The policy that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyView>,
    /// What becomes of a new connection.
    pub outcome: Said,
    /// The source that the endpoint sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Said>,
    /// How many seconds a client stays with its endpoint after its last connection began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u16>,
    /// All endpoints, those that may get the packet first.
    pub endpoints: Vec<EndpointView>,
    /// What else to know, a sentence each.
    pub findings: Vec<String>,
}

/// An address and port that clients send to.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FrontendView {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalIP`.
    pub kind: &'static str,
    /// The address; `IPv4` or `IPv6` for every address of the node.
    pub address: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The port.
    pub port: u16,
}

/// A traffic policy.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct PolicyView {
    /// `Cluster` or `Local`.
    pub policy: &'static str,
    /// Why it counts.
    #[serde(flatten)]
    pub by: Said,
}

/// An endpoint.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// It runs on this node.
    pub local: bool,
    /// The pod, where it is one of this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Why it gets none of the packets; it may get them without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<Said>,
}

/// What is wrong on this node.
pub(crate) struct Wrong<'a> {
    /// What could not be programmed.
    pub(crate) problems: Vec<String>,
    /// Whether the host never leads an address to the switch.
    pub(crate) kept_off: &'a dyn Fn(IpAddr) -> bool,
}

/// What a proxy has to say to a question.
///
/// # Errors
/// The question has no answer here.
pub(crate) fn explain(
    proxy: &Proxy,
    listed: bool,
    question: &Question,
    wrong: &Wrong<'_>,
) -> Result<Explained, Refusal> {
    let known = &question.known;
    let is_own =
        |address: IpAddr| proxy.node().addresses.contains(&address) || known.own.contains(&address);
    let client = question.client(is_own)?;
    let to = question.destination(client, is_own)?;
    let (explanations, more) = proxy.explain(client, &to)?;
    let told = |explanation| {
        let mut view = view(explanation, known, wrong);
        if let (Destination::Address { address, own, .. }, None) = (&to, &view.service) {
            view.location = Some(location(*address, *own, known, proxy));
        }
        view
    };
    Ok(Explained {
        listed,
        client: client_of(client, known),
        explanations: explanations.into_iter().map(told).collect(),
        more,
    })
}

fn client_of(client: Client, known: &Surroundings) -> Said {
    let (reason, message) = match client {
        Client::Pod(None) => ("Pod", "a pod of this node".to_owned()),
        Client::Pod(Some(address)) => (
            "Pod",
            match known.pods.get(&address) {
                Some(pod) => format!("pod {pod} of this node ({address})"),
                None => format!("a pod of this node ({address})"),
            },
        ),
        Client::Host => ("Host", "a process on this node's host network".to_owned()),
        Client::Outside(None) => ("Outside", "a machine outside".to_owned()),
        Client::Outside(Some(address)) => ("Outside", format!("a machine outside ({address})")),
    };
    Said { reason, message }
}

/// Whose an address is, as far as this node knows.
fn location(address: IpAddr, own: bool, known: &Surroundings, proxy: &Proxy) -> Said {
    let here = proxy.node().pod_cidrs.iter();
    let (reason, message) = if let Some(pod) = known.pods.get(&address) {
        ("PodOfThisNode", format!("pod {pod} of this node has it"))
    } else if own {
        ("ThisNode", "this node itself has it".to_owned())
    } else if here.into_iter().any(|cidr| cidr.contains(&address)) {
        let text = "nobody has it: it is in this node's pod CIDR, and no pod was given it";
        ("Nobody", text.to_owned())
    } else if let Some(node) = known.node_of_pod(address) {
        let text = format!("it is in the pod CIDR of node {node}");
        ("PodOfOtherNode", text)
    } else if let Some(node) = known.node_at(address) {
        ("OtherNode", format!("node {node} itself has it"))
    } else {
        let text = "neither a pod nor a node that this node knows has it: its routes decide";
        ("Outside", text.to_owned())
    };
    Said { reason, message }
}

fn view(explained: Explanation, known: &Surroundings, wrong: &Wrong<'_>) -> ExplanationView {
    let mut findings = explained.findings;
    if let (Path::HostRoutes, Some((_, claim))) = (explained.path, explained.frontend)
        && let Place::Address(address) = claim.place
        && (wrong.kept_off)(address)
    {
        findings.push(format!(
            "this host does not route {address} to the switch, because the API server or another node has it: take it \
             out of externalIPs and of load balancers"
        ));
    }
    if explained.policy.is_some() {
        findings.extend(wrong.problems.iter().cloned());
    }
    let (service, port) = explained.service.unzip();
    let name = port.map(|port| port.name).filter(|name| !name.is_empty());
    ExplanationView {
        service: service.map(|service| service.name.to_string()),
        port_name: name.map(|name| name.to_string()),
        frontend: explained.frontend.map(|(kind, claim)| FrontendView {
            kind: kind_name(kind),
            address: place_name(claim.place),
            protocol: claim.protocol.name(),
            port: claim.port,
        }),
        location: None,
        path: Said {
            reason: explained.path.reason(),
            message: explained.path.to_string(),
        },
        policy: explained.policy.map(|by| PolicyView {
            policy: policy_name(by.policy()),
            by: Said {
                reason: by.reason(),
                message: by.to_string(),
            },
        }),
        outcome: Said {
            reason: explained.outcome.reason(),
            message: explained.outcome.to_string(),
        },
        source: explained.source.map(|seen| Said {
            reason: seen.reason(),
            message: seen.to_string(),
        }),
        affinity_seconds: explained.affinity,
        endpoints: explained
            .endpoints
            .into_iter()
            .map(|endpoint| endpoint_of(endpoint, known))
            .collect(),
        findings,
    }
}

fn endpoint_of(examined: Examined, known: &Surroundings) -> EndpointView {
    EndpointView {
        address: examined.address,
        port: examined.port,
        local: examined.local,
        pod: known.pods.get(&examined.address).cloned(),
        left_out: examined.verdict.err().map(|left_out| Said {
            reason: left_out.reason(),
            message: left_out.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests;
