//! Whether policies let a connection between two places pass, and which rule says so: the agents of both ends
//! tell it (`/v1/policies/explain`).

use std::net::IpAddr;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::connect::Cluster;
use crate::exit::Exit;
use crate::nodeapi;
use crate::output::{self, Format};
use crate::podname::PodName;
use crate::table::Table;

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A pod.
    Pod(PodName),
    /// Whoever has this address.
    Address(IpAddr),
}

/// A port with its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    number: u16,
    protocol: &'static str,
}

/// A word of the command line that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotUnderstood {
    /// Neither a pod nor an address.
    #[error("write NAMESPACE/POD or an IP address; a Service is explained with --node")]
    End,
    /// No port.
    #[error("write NUMBER[/PROTOCOL]: a number from 1 to 65535, and tcp, udp or sctp")]
    Port,
}

impl std::str::FromStr for End {
    type Err = NotUnderstood;

    fn from_str(text: &str) -> Result<Self, NotUnderstood> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let pod = text.parse().map_err(|_| NotUnderstood::End)?;
        Ok(Self::Pod(pod))
    }
}

impl std::str::FromStr for Port {
    type Err = NotUnderstood;

    fn from_str(text: &str) -> Result<Self, NotUnderstood> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let mut known = ["tcp", "udp", "sctp"].into_iter();
        let protocol = known.find(|known| known.eq_ignore_ascii_case(protocol));
        match (number.parse(), protocol) {
            (Ok(number), Some(protocol)) if number != 0 => Ok(Self { number, protocol }),
            _ => Err(NotUnderstood::Port),
        }
    }
}

/// An end, looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// `NAMESPACE/NAME`; none for a mere address.
    pod: Option<String>,
    /// The node of a pod.
    node: Option<String>,
    /// It uses its node's network.
    on_host: bool,
    addresses: Vec<IpAddr>,
}

impl Place {
    fn address(&self, v4: bool) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|address| address.is_ipv4() == v4)
    }

    /// The node whose agent judges, and the pod that it judges for.
    fn judge(&self) -> Option<(&str, &str)> {
        let (node, pod) = (self.node.as_deref()?, self.pod.as_deref()?);
        (!self.on_host).then_some((node, pod))
    }

    fn text(&self, address: IpAddr) -> String {
        match (&self.pod, &self.node) {
            (Some(pod), Some(node)) => format!("{pod} {address} on {node}"),
            _ => address.to_string(),
        }
    }

    /// Why nobody judges here.
    fn unjudged(&self) -> String {
        if self.on_host {
            "not judged: no policy is for a pod on its node's network".to_owned()
        } else {
            "not judged: it is no pod".to_owned()
        }
    }
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    pod: String,
    address: IpAddr,
    direction: String,
    accepted: bool,
    reason: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<Rule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    policies: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    passed: Vec<Rule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Rule {
    policy: String,
    position: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

/// One family's connection.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    source: IpAddr,
    destination: IpAddr,
    /// Whether both ends let its first packet pass.
    accepted: bool,
    /// What the source's node says; none if no pod of the switch sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    egress: Option<Answer>,
    /// What the destination's node says.
    #[serde(skip_serializing_if = "Option::is_none")]
    ingress: Option<Answer>,
    #[serde(skip)]
    text: String,
}

/// Runs it.
pub(super) async fn run(
    cluster: &Cluster,
    from: &End,
    to: &End,
    port: Option<Port>,
    format: Format,
) -> anyhow::Result<Exit> {
    let from = look_up(cluster, from).await?;
    let to = look_up(cluster, to).await?;
    if from.judge().is_none() && to.judge().is_none() {
        bail!("neither end is a pod that policies can be for: name one as NAMESPACE/POD");
    }
    let families = [true, false].map(|v4| Some((from.address(v4)?, to.address(v4)?)));
    let mut explanations = Vec::new();
    for (source, destination) in families.into_iter().flatten() {
        let egress = ask(cluster, &from, "egress", destination, port).await?;
        let ingress = ask(cluster, &to, "ingress", source, port).await?;
        explanations.push(explanation(
            (&from, source, egress),
            (&to, destination, ingress),
            port,
        ));
    }
    if explanations.is_empty() {
        bail!("the two have no addresses of the same family");
    }
    let text = || {
        let texts: Vec<&str> = explanations.iter().map(|told| &*told.text).collect();
        texts.join("\n")
    };
    output::print(format, &explanations, text)?;
    Ok(Exit::Well)
}

async fn look_up(cluster: &Cluster, end: &End) -> anyhow::Result<Place> {
    let pod = match end {
        End::Address(address) => {
            return Ok(Place {
                pod: None,
                node: None,
                on_host: false,
                addresses: vec![*address],
            });
        }
        End::Pod(pod) => pod,
    };
    place(&pod.to_string(), &pod.look_up(cluster).await?)
}

fn place(name: &str, pod: &Pod) -> anyhow::Result<Place> {
    let spec = pod.spec.as_ref();
    let Some(node) = spec.and_then(|spec| spec.node_name.clone()) else {
        bail!("pod {name} is bound to no node yet: no policy acts on it");
    };
    let status = pod.status.as_ref();
    let listed = status.and_then(|status| status.pod_ips.as_ref());
    let addresses: Vec<IpAddr> = listed
        .into_iter()
        .flatten()
        .filter_map(|listed| listed.ip.parse().ok())
        .collect();
    if addresses.is_empty() {
        bail!("pod {name} has no address yet: its node has not made its network");
    }
    Ok(Place {
        pod: Some(name.to_owned()),
        node: Some(node),
        on_host: spec.and_then(|spec| spec.host_network) == Some(true),
        addresses,
    })
}

async fn ask(
    cluster: &Cluster,
    at: &Place,
    direction: &str,
    peer: IpAddr,
    port: Option<Port>,
) -> anyhow::Result<Option<Answer>> {
    let Some((node, pod)) = at.judge() else {
        return Ok(None);
    };
    let value = nodeapi::get(cluster, node, &path(pod, direction, peer, port)).await?;
    let answer = serde_json::from_value(value);
    answer.map(Some).map_err(|error| {
        anyhow!("the agent of node {node} is of another version than this carrickctl: {error}")
    })
}

/// What to ask the agent for: of words that were understood, and of no others.
fn path(pod: &str, direction: &str, peer: IpAddr, port: Option<Port>) -> String {
    let path = format!("/v1/policies/explain?pod={pod}&direction={direction}&peer={peer}");
    match port {
        Some(Port { number, protocol }) => format!("{path}&port={number}&protocol={protocol}"),
        None => path,
    }
}

fn explanation(
    (from, source, egress): (&Place, IpAddr, Option<Answer>),
    (to, destination, ingress): (&Place, IpAddr, Option<Answer>),
    port: Option<Port>,
) -> Explanation {
    let mut facts = Table::headless();
    let mut fact = |name: &str, value: String| facts.row([name.to_owned(), value]);
    fact("from", from.text(source));
    let port = match port {
        Some(Port { number, protocol }) => format!("port {number}/{protocol}"),
        None => "a protocol without ports".to_owned(),
    };
    fact("to", format!("{}, {port}", to.text(destination)));
    for (name, place, answer) in [("leaves", from, &egress), ("enters", to, &ingress)] {
        let Some(answer) = answer else {
            fact(name, place.unjudged());
            continue;
        };
        let mut text = answer.message.clone();
        if !answer.cookies.is_empty() {
            text = format!("{text} (cookie {})", answer.cookies.join(", "));
        }
        fact(name, text);
    }
    let judged = [&egress, &ingress];
    let accepted = judged
        .iter()
        .all(|answer| answer.as_ref().is_none_or(|answer| answer.accepted));
    let outcome = if accepted {
        "a new connection passes"
    } else {
        "a new connection is dropped"
    };
    fact("outcome", outcome.to_owned());
    Explanation {
        text: facts.render(),
        source,
        destination,
        accepted,
        egress,
        ingress,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ends_and_ports_are_understood_or_refused() {
        let pod = |namespace: &str, name: &str| {
            End::Pod(PodName {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        };
        for (text, end) in [
            ("shop/web-1", pod("shop", "web-1")),
            ("shop/a.b", pod("shop", "a.b")),
            ("10.0.0.1", End::Address([10, 0, 0, 1].into())),
        ] {
            assert_eq!(text.parse(), Ok(end), "{text}");
        }
        for text in [
            "web",
            "a/b/c",
            "/b",
            "a/",
            "a/b&x=y",
            "A/b",
            "a/..",
            "10.0.0.1:80",
        ] {
            assert_eq!(text.parse::<End>(), Err(NotUnderstood::End), "{text}");
        }
        let port: Port = "53/UDP".parse().unwrap();
        let peer = "fd00::5".parse().unwrap();
        assert_eq!(
            path("shop/web", "egress", peer, Some(port)),
            "/v1/policies/explain?pod=shop/web&direction=egress&peer=fd00::5&port=53&protocol=udp"
        );
        for text in ["0", "65536", "80/icmp", "http", "80/"] {
            assert_eq!(text.parse::<Port>(), Err(NotUnderstood::Port), "{text}");
        }
    }

    fn place(pod: &str, node: &str, address: &str) -> Place {
        Place {
            pod: Some(pod.to_owned()),
            node: Some(node.to_owned()),
            on_host: false,
            addresses: vec![address.parse().unwrap()],
        }
    }

    fn answer(direction: &str, accepted: bool, reason: &str, message: &str) -> Answer {
        let cookies = if accepted {
            json!([])
        } else {
            json!(["0x0506000000000007"])
        };
        serde_json::from_value(json!({
            "pod": "p", "address": "10.0.0.1", "direction": direction, "accepted": accepted,
            "reason": reason, "message": message, "cookies": cookies,
        }))
        .unwrap()
    }

    #[test]
    fn a_connection_passes_if_both_ends_say_so() {
        let from = place("shop/web-1", "worker-1", "10.0.1.5");
        let to = place("shop/db-0", "worker-2", "10.0.2.7");
        let port = "5432".parse().ok();
        let leaves = answer(
            "Egress",
            true,
            "Default",
            "egress is accepted: nothing isolates the pod and no rule denies it",
        );
        let enters = answer(
            "Ingress",
            false,
            "Isolated",
            "ingress is denied: no rule accepts it, and the pod is isolated by NetworkPolicy shop/closed",
        );
        let told = explanation(
            (&from, from.addresses[0], Some(leaves.clone())),
            (&to, to.addresses[0], Some(enters)),
            port,
        );
        assert!(!told.accepted);
        insta::assert_snapshot!(told.text);
        let host = Place {
            on_host: true,
            ..to
        };
        let told = explanation(
            (&from, from.addresses[0], Some(leaves)),
            (&host, host.addresses[0], None),
            None,
        );
        assert!(told.accepted);
        assert!(told.text.contains("on its node's network"), "{}", told.text);
    }

    #[test]
    fn pods_that_have_no_network_yet_say_so() {
        let pod = |value: serde_json::Value| serde_json::from_value::<Pod>(value).unwrap();
        let text = |value| super::place("a/b", &pod(value)).unwrap_err().to_string();
        assert!(text(json!({"spec": {"containers": []}})).contains("bound to no node"));
        let bound = json!({"spec": {"containers": [], "nodeName": "n"}});
        assert!(text(bound).contains("no address yet"));
    }
}
