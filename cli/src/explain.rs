//! `carrickctl explain`: what becomes of a packet to a Service, as a node's agent tells it
//! (`/v1/services/explain`), or of a connection between two places ([`policy`]).

mod policy;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::connect::Cluster;
use crate::exit::Exit;
use crate::nodeapi;
use crate::output::{self, Format, say};
use crate::table::{Table, clean};

/// Longest word of a question: a Service's name is two labels of 63 characters.
const WORD_MAX: usize = 127;
/// Endpoints of a kind that are listed for people; `-o json` has all of them.
const NAMED: usize = 10;
/// For `--help`.
pub const EXAMPLES: &str = "Examples:
  carrickctl explain --node worker-1 kube-system/kube-dns:dns
  carrickctl explain --node worker-1 10.96.0.10:53/udp --from 10.244.1.7
  carrickctl explain --node worker-1 '[fd00:96::a]:80' --from host
  carrickctl explain --node worker-1 192.0.2.80:443 --from outside -o json
  carrickctl explain shop/web-7d4 shop/db-0 --port 5432
  carrickctl explain 203.0.113.9 shop/web-7d4 --port 53/udp";

/// Arguments of `carrickctl explain`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// With --node: ADDRESS:PORT[/PROTOCOL] (IPv6 in brackets, tcp if not said), or
    /// NAMESPACE/SERVICE[:PORT-NAME-OR-NUMBER]: its cluster IPs, for clients outside its other
    /// addresses. With a second place: who connects, NAMESPACE/POD or an address.
    #[arg(value_name = "PLACE")]
    pub place: String,
    /// Whom it connects to, NAMESPACE/POD or an address: policies at both ends are asked.
    #[arg(value_name = "TO", conflicts_with_all = ["node", "from"])]
    pub to: Option<policy::End>,
    /// The port it connects to, NUMBER[/PROTOCOL]; without it a protocol that has none, as ICMP.
    #[arg(long, value_name = "PORT", requires = "to", conflicts_with = "node")]
    pub port: Option<policy::Port>,
    /// The node whose agent is asked about a Service: the one that the client's packet meets first.
    #[arg(long, value_name = "NODE", required_unless_present = "to")]
    pub node: Option<String>,
    /// Who sends to a Service: pod (of that node), host, outside, or the client's address, which
    /// source ranges may ask for [default: pod].
    #[arg(long, value_name = "CLIENT")]
    pub from: Option<From>,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
}

/// What is asked for, understood before the cluster is.
#[derive(Debug)]
pub enum Question {
    /// What becomes of a packet to a Service.
    Service {
        /// The node that it meets first.
        node: String,
        /// What it is sent to.
        destination: Destination,
        /// Who sends it.
        from: From,
    },
    /// Whether policies let a connection pass.
    Policy {
        /// Who connects.
        from: policy::End,
        /// To whom.
        to: policy::End,
        /// To which port.
        port: Option<policy::Port>,
    },
}

impl Args {
    /// Holds the words to what may be asked.
    ///
    /// # Errors
    /// A word is none.
    pub fn question(&self) -> anyhow::Result<Question> {
        let place = &self.place;
        let context = || format!("invalid value {place:?} for <PLACE>");
        Ok(match &self.to {
            Some(to) => Question::Policy {
                from: place.parse().with_context(context)?,
                to: to.clone(),
                port: self.port,
            },
            None => Question::Service {
                // Without it there is a second place: clap says so.
                node: self.node.clone().unwrap_or_default(),
                destination: place.parse().with_context(context)?,
                from: self.from.unwrap_or(From::Pod),
            },
        })
    }
}

/// What the packet is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// An address, port and protocol.
    Address(SocketAddr, &'static str),
    /// `namespace/name` of a Service, and one of its ports.
    Service(String, Option<String>),
}

/// Who sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// A pod of the node.
    Pod,
    /// The node's host network.
    Host,
    /// A machine outside.
    Outside,
    /// Whoever has this address.
    Address(IpAddr),
}

/// A word of the command line that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotUnderstood {
    /// Neither of the two forms.
    #[error(
        "write ADDRESS:PORT[/PROTOCOL], e.g. 10.96.0.10:53/udp or [fd00:96::a]:80, or NAMESPACE/SERVICE[:PORT], e.g. \
         kube-system/kube-dns:dns"
    )]
    Destination,
    /// An address with a port or protocol that is none.
    #[error("the port is a number from 1 to 65535, and the protocol tcp, udp or sctp")]
    Port,
    /// None of the words.
    #[error("write pod, host, outside or the client's IP address")]
    From,
}

impl std::str::FromStr for Destination {
    type Err = NotUnderstood;

    fn from_str(text: &str) -> Result<Self, NotUnderstood> {
        let (place, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
        if let Ok(address) = place.parse::<SocketAddr>() {
            let known = ["tcp", "udp", "sctp"].into_iter();
            let mut known = known.filter(|known| known.eq_ignore_ascii_case(protocol));
            let protocol = known.next().ok_or(NotUnderstood::Port)?;
            if address.port() == 0 {
                return Err(NotUnderstood::Port);
            }
            // A scope says nothing to another machine.
            return Ok(Self::Address(
                SocketAddr::new(address.ip(), address.port()),
                protocol,
            ));
        }
        let (service, port) = match text.split_once(':') {
            Some((service, port)) => (service, Some(port)),
            None => (text, None),
        };
        let (namespace, name) = service.split_once('/').ok_or(NotUnderstood::Destination)?;
        let all = [Some(namespace), Some(name), port];
        if text.len() > 2 * WORD_MAX || !all.into_iter().flatten().all(is_label) {
            return Err(NotUnderstood::Destination);
        }
        Ok(Self::Service(service.to_owned(), port.map(str::to_owned)))
    }
}

impl std::str::FromStr for From {
    type Err = NotUnderstood;

    fn from_str(text: &str) -> Result<Self, NotUnderstood> {
        match text {
            "pod" => Ok(Self::Pod),
            "host" => Ok(Self::Host),
            "outside" => Ok(Self::Outside),
            _ => text
                .parse()
                .map(Self::Address)
                .map_err(|_| NotUnderstood::From),
        }
    }
}

fn is_label(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= WORD_MAX && text.chars().all(fits)
}

/// What to ask the agent for: of words that were understood, and of no others.
fn path(to: &Destination, from: From) -> String {
    let mut path = "/v1/services/explain?".to_owned();
    // Writing into a String cannot fail.
    let _ = match to {
        Destination::Address(to, protocol) => {
            let (address, port) = (to.ip(), to.port());
            write!(path, "address={address}&port={port}&protocol={protocol}")
        }
        Destination::Service(name, None) => write!(path, "service={name}"),
        Destination::Service(name, Some(port)) => write!(path, "service={name}&port={port}"),
    };
    let _ = match from {
        From::Pod => write!(path, "&from=pod"),
        From::Host => write!(path, "&from=host"),
        From::Outside => write!(path, "&from=outside"),
        From::Address(address) => write!(path, "&from={address}"),
    };
    path
}

/// Runs it.
///
/// # Errors
/// The agent cannot be asked, or the answer not printed.
pub async fn run(cluster: &Cluster, question: &Question, format: Format) -> anyhow::Result<Exit> {
    let (node, path) = match question {
        Question::Policy { from, to, port } => {
            return policy::run(cluster, from, to, *port, format).await;
        }
        Question::Service {
            node,
            destination,
            from,
        } => (node, path(destination, *from)),
    };
    let value = nodeapi::get(cluster, node, &path).await?;
    let answer: Answer = serde_json::from_value(value).map_err(|error| {
        anyhow::anyhow!("the agent is of another version than this carrickctl: {error}")
    })?;
    if !answer.listed {
        say(
            "the agent has not read all Services from the API server, or spec.serviceProxy.mode is Disabled; \
             carrickctl status tells which",
        );
    }
    if answer.more > 0 {
        let more = answer.more;
        say(&format!(
            "{more} more addresses and ports are not told: name one port, NAMESPACE/SERVICE:PORT"
        ));
    }
    output::print(format, &answer, || answer.text())?;
    Ok(Exit::Well)
}

/// What the agent answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    listed: bool,
    client: Said,
    explanations: Vec<Explanation>,
    more: usize,
}

/// A name for programs and a sentence for people.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    reason: String,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frontend: Option<Frontend>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location: Option<Said>,
    path: Said,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
    outcome: Said,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Said>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    affinity_seconds: Option<u16>,
    endpoints: Vec<Endpoint>,
    findings: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Frontend {
    kind: String,
    address: String,
    protocol: String,
    port: u16,
}

#[derive(Debug, Serialize, Deserialize)]
struct Policy {
    #[serde(rename = "policy")]
    value: String,
    reason: String,
    message: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    address: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    local: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_out: Option<Said>,
}

impl Answer {
    /// For people: a few lines for each frontend.
    fn text(&self) -> String {
        let texts = self.explanations.iter();
        let texts: Vec<String> = texts.map(|told| told.text(&self.client)).collect();
        texts.join("\n")
    }
}

impl Explanation {
    fn text(&self, client: &Said) -> String {
        let mut facts = Table::headless();
        let mut fact = |name: &str, value: String| facts.row([name.to_owned(), value]);
        fact("from", client.message.clone());
        if let Some(service) = &self.service {
            let port = self.port_name.as_ref();
            let port = port.map(|port| format!(", port {port}"));
            fact("service", format!("{service}{}", port.unwrap_or_default()));
        }
        if let Some(frontend) = &self.frontend {
            fact("meets", frontend.text());
        }
        fact("path", self.path.message.clone());
        if let Some(location) = &self.location {
            fact("address", location.message.clone());
        }
        if let Some(policy) = &self.policy {
            fact("policy", format!("{}: {}", policy.value, policy.message));
        }
        fact("outcome", self.outcome.message.clone());
        if let Some(source) = &self.source {
            fact("source", source.message.clone());
        }
        if let Some(seconds) = self.affinity_seconds {
            let text = format!(
                "a client keeps its endpoint until {seconds} s after its last connection began"
            );
            fact("affinity", text);
        }
        let mut text = facts.render();
        let (taking, left_out): (Vec<&Endpoint>, Vec<&Endpoint>) = self
            .endpoints
            .iter()
            .partition(|endpoint| endpoint.left_out.is_none());
        list(&mut text, "endpoints", &taking);
        list(&mut text, "left out", &left_out);
        if !self.findings.is_empty() {
            text.push_str("findings\n");
            for finding in &self.findings {
                let _ = writeln!(text, "  {}", clean(finding));
            }
        }
        text
    }
}

fn list(text: &mut String, title: &str, endpoints: &[&Endpoint]) {
    if endpoints.is_empty() {
        return;
    }
    let _ = writeln!(text, "{title} ({})", endpoints.len());
    let mut table = Table::headless().indented(2);
    for endpoint in endpoints.iter().take(NAMED) {
        let why = endpoint.left_out.as_ref().map(|why| why.message.clone());
        match why {
            Some(why) => table.row([endpoint.place(), endpoint.home(), why]),
            None => table.row([endpoint.place(), endpoint.home()]),
        }
    }
    text.push_str(&table.render());
    let more = endpoints.len().saturating_sub(NAMED);
    if more > 0 {
        let _ = writeln!(text, "  and {more} more (-o json has all)");
    }
}

impl Endpoint {
    fn place(&self) -> String {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).to_string(),
            None => self.address.to_string(),
        }
    }

    fn home(&self) -> String {
        match (&self.pod, self.local) {
            (Some(pod), _) => format!("pod {pod} of this node"),
            (None, true) => "on this node".to_owned(),
            (None, false) => "elsewhere".to_owned(),
        }
    }
}

impl Frontend {
    fn text(&self) -> String {
        let Self {
            kind,
            address,
            protocol,
            port,
        } = self;
        match address.parse::<IpAddr>() {
            Ok(address) => format!("{kind} {}/{protocol}", SocketAddr::new(address, *port)),
            Err(_) => format!("{kind} {port}/{protocol} at this node's addresses ({address})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn understood(text: &str) -> Result<String, NotUnderstood> {
        Ok(path(&text.parse()?, From::Pod))
    }

    #[test]
    fn destinations_become_requests_of_known_words() {
        for (text, query) in [
            ("10.96.0.10:53", "address=10.96.0.10&port=53&protocol=tcp"),
            (
                "10.96.0.10:53/UDP",
                "address=10.96.0.10&port=53&protocol=udp",
            ),
            (
                "[fd00:96::a]:80/sctp",
                "address=fd00:96::a&port=80&protocol=sctp",
            ),
            ("kube-system/kube-dns", "service=kube-system/kube-dns"),
            (
                "kube-system/kube-dns:dns",
                "service=kube-system/kube-dns&port=dns",
            ),
            ("a/b:80", "service=a/b&port=80"),
        ] {
            let expected = format!("/v1/services/explain?{query}&from=pod");
            assert_eq!(understood(text), Ok(expected), "{text}");
        }
        for (text, error) in [
            ("10.96.0.10:0", NotUnderstood::Port),
            ("10.96.0.10:80/icmp", NotUnderstood::Port),
            ("10.96.0.10", NotUnderstood::Destination),
            ("10.96.0.10:65536", NotUnderstood::Destination),
            ("fd00:96::a:80/tcp", NotUnderstood::Destination),
            ("web", NotUnderstood::Destination),
            ("web:80", NotUnderstood::Destination),
            ("a/b/c", NotUnderstood::Destination),
            ("a/b:", NotUnderstood::Destination),
            ("a/b&from=host", NotUnderstood::Destination),
            ("A/b", NotUnderstood::Destination),
            ("/b", NotUnderstood::Destination),
        ] {
            assert_eq!(understood(text), Err(error), "{text}");
        }
        let to: Destination = "a/b".parse().unwrap();
        for (text, query) in [
            ("host", "host"),
            ("outside", "outside"),
            ("10.1.0.5", "10.1.0.5"),
            ("fd00::5", "fd00::5"),
        ] {
            let path = path(&to, text.parse().unwrap());
            assert_eq!(
                path,
                format!("/v1/services/explain?service=a/b&from={query}")
            );
        }
        assert_eq!("node".parse::<From>(), Err(NotUnderstood::From));
        assert_eq!("10.1.0.5&x=y".parse::<From>(), Err(NotUnderstood::From));
    }

    fn answer() -> serde_json::Value {
        let said = |reason: &str, message: &str| json!({"reason": reason, "message": message});
        let not_ready = said("NotReady", "not ready");
        let mut endpoints = vec![
            json!({"address": "10.1.0.5", "port": 8080, "local": true, "pod": "shop/web-1"}),
            json!({"address": "10.1.1.5", "port": 8080, "local": false}),
            json!({"address": "fd00::5", "local": true, "leftOut": said("OtherFamily", "of the other IP family")}),
        ];
        endpoints.extend((1..=12).map(|last| {
            let address = format!("10.1.2.{last}");
            json!({"address": address, "port": 8080, "local": false, "leftOut": not_ready})
        }));
        json!({
            "listed": true,
            "client": said("Outside", "a machine outside (203.0.113.7)"),
            "explanations": [{
                "service": "shop/web", "portName": "http",
                "frontend": {"kind": "NodePort", "address": "IPv4", "protocol": "tcp", "port": 30080},
                "path": said("HostTranslates", "the host translates"),
                "policy": {"policy": "Local", "reason": "ExternalTrafficPolicy", "message": "the Service's"},
                "outcome": said("Answered", "one of the endpoints answers"),
                "source": said("Client", "the client's own"),
                "affinitySeconds": 10800,
                "endpoints": endpoints,
                "findings": ["clients\u{1b}[2J stay"],
            }, {
                "path": said("NoService", "no Service has this address and port"),
                "location": said("OtherNode", "node b itself has it"),
                "outcome": said("NotServed", "not served by Carrick"),
                "endpoints": [], "findings": [],
            }],
            "more": 0,
        })
    }

    #[test]
    fn an_explanation_has_few_lines() {
        let answer: Answer = serde_json::from_value(answer()).unwrap();
        insta::assert_snapshot!(answer.text());
    }

    #[test]
    fn programs_get_what_the_agent_said() {
        let told: Answer = serde_json::from_value(answer()).unwrap();
        assert_eq!(serde_json::to_value(&told).unwrap(), answer());
    }
}
