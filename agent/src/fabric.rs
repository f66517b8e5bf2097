//! Whether the network between the nodes carries pods' addresses, where nothing is tunnelled.
//!
//! In `NoEncap` a packet to another node's pod leaves this one with the pod's own address, and the
//! fabric must know which node that is on. A node that answers at its own address but not at its
//! gateway's, which is an address of its pods' range, is behind a fabric that does not. A node that
//! answers nowhere is down, or says nothing about the fabric in any case.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use carrick_api::agentinfo::condition;
use carrick_datapath::gateway_address;
use carrick_k8s::telemetry::chain;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::node::Node;
use crate::status::Fact;

/// Nodes asked in one round beside those under suspicion.
const PEERS: usize = 8;
/// Nodes under suspicion that are asked in every round.
const SUSPECTS: usize = 32;
/// Rounds in a row in which only the node's own address answered, before it is said.
const ROUNDS: u32 = 3;
/// Nodes named in the condition.
const NAMED: usize = 3;
/// How long a node may take.
const LIMIT: Duration = Duration::from_secs(1);
/// Pause between rounds while nodes are suspected or were never asked.
const SOON: Duration = Duration::from_secs(2);
/// Pause between rounds otherwise.
const CALM: Duration = Duration::from_secs(30);

/// Another node as it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Its pod CIDRs, each with the gateway in it.
    pub pods: Vec<(IpNet, IpAddr)>,
}

/// What was found out so far, without the pings.
#[derive(Debug, Default)]
pub struct Probes {
    /// Where in the list of peers the next round begins, and how many were asked since the start.
    next: usize,
    asked: usize,
    /// Rounds in a row in which a pod CIDR did not answer though its node did.
    silent: BTreeMap<(String, IpNet), u32>,
}

impl Probes {
    /// Whom to ask: suspects first. `peers` are sorted by name.
    pub fn next<'a>(&mut self, peers: &'a [Peer]) -> Vec<&'a Peer> {
        self.silent
            .retain(|(name, cidr), _| is_current(peers, name, *cidr));
        let suspects: BTreeSet<&str> = self.silent.keys().map(|(name, _)| name.as_str()).collect();
        let mut chosen: Vec<&Peer> = peers
            .iter()
            .filter(|peer| suspects.contains(peer.name.as_str()))
            .take(SUSPECTS)
            .collect();
        let ring = (0..peers.len().min(PEERS)).map(|step| &peers[(self.next + step) % peers.len()]);
        chosen.extend(ring.filter(|peer| !suspects.contains(peer.name.as_str())));
        self.next = self.next.wrapping_add(PEERS);
        self.asked = self.asked.saturating_add(PEERS);
        chosen
    }

    /// What a round has shown.
    pub fn heard(&mut self, asked: &[&Peer], answered: &BTreeSet<IpAddr>) {
        for peer in asked {
            for (cidr, gateway) in &peer.pods {
                let key = (peer.name.clone(), *cidr);
                if answered.contains(gateway) {
                    self.silent.remove(&key);
                } else if of_family(&peer.addresses, *gateway).any(|own| answered.contains(&own)) {
                    let rounds = self.silent.entry(key).or_default();
                    *rounds = rounds.saturating_add(1);
                }
            }
        }
    }

    /// Whether everybody was asked once and nobody is suspected.
    pub fn is_calm(&self, peers: usize) -> bool {
        self.asked >= peers && self.silent.is_empty()
    }

    /// What is to be said; nothing new while it is too early to tell.
    pub fn fact(&self, peers: &[Peer]) -> Option<Fact> {
        let dropped: Vec<_> = self
            .silent
            .iter()
            .filter(|(_, rounds)| **rounds >= ROUNDS)
            .map(|(key, _)| key)
            .collect();
        if dropped.is_empty() {
            let all_answer = self.silent.is_empty();
            return all_answer.then(|| Fact::holds("PodsAnswer", ""));
        }
        let routes: Vec<String> = dropped
            .iter()
            .take(NAMED)
            .filter_map(|(name, cidr)| {
                let peer = peers.iter().find(|peer| peer.name == *name)?;
                let via = of_family(&peer.addresses, cidr.addr()).next()?;
                Some(format!("{cidr} via {via} (node {name})"))
            })
            .collect();
        let more = match dropped.len() - routes.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(Fact::fails(
            "PodsDoNotAnswer",
            format!(
                "{} pod CIDRs do not answer though their nodes do. In mode NoEncap the network between \
                 the nodes must route each node's pod CIDRs to it (and must not check source \
                 addresses): {}{more}. Or set traffic.mode to Encap or Hybrid",
                dropped.len(),
                routes.join(", ")
            ),
        ))
    }
}

fn is_current(peers: &[Peer], name: &str, cidr: IpNet) -> bool {
    peers
        .binary_search_by(|peer| peer.name.as_str().cmp(name))
        .is_ok_and(|at| peers[at].pods.iter().any(|(pods, _)| *pods == cidr))
}

fn of_family(addresses: &[IpAddr], like: IpAddr) -> impl Iterator<Item = IpAddr> {
    addresses
        .iter()
        .copied()
        .filter(move |address| address.is_ipv4() == like.is_ipv4())
}

/// The other nodes, sorted by name.
fn peers(node: &Node) -> Vec<Peer> {
    let committed = node.committed();
    let mut peers: Vec<Peer> = committed
        .routes()
        .map(|route| Peer {
            name: route.node.to_string(),
            addresses: route.tunnel_endpoints.clone(),
            pods: route
                .pod_cidrs
                .iter()
                .filter_map(|cidr| Some((*cidr, gateway_address(*cidr)?)))
                .collect(),
        })
        .collect();
    peers.sort_by(|one, other| one.name.cmp(&other.name));
    peers
}

/// Asks until `shutdown`, while the node is ready. For nodes in mode `NoEncap`.
pub async fn run(node: Arc<Node>, shutdown: CancellationToken) {
    let mut probes = Probes::default();
    // Two agents' answers on one host (tests) are told apart by it; the other bit by those of `peers`.
    let identifier = u16::try_from(std::process::id() & 0x7fff).unwrap_or(1) | 0x8000;
    loop {
        let pause = round(&node, &mut probes, identifier).await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn round(node: &Node, probes: &mut Probes, identifier: u16) -> Duration {
    if !node.board.report().holds(condition::READY) {
        return SOON;
    }
    let peers = peers(node);
    let asked = probes.next(&peers);
    let targets: BTreeSet<IpAddr> = asked
        .iter()
        .flat_map(|peer| {
            let gateways = peer.pods.iter().map(|(_, gateway)| *gateway);
            peer.addresses.iter().copied().chain(gateways)
        })
        .collect();
    match carrick_node::ping(&targets, identifier, LIMIT).await {
        Ok(answered) => probes.heard(&asked, &answered),
        Err(error) => {
            debug!(error = chain(&error), "no pings can be sent");
            return SOON;
        }
    }
    let report = node.board.report();
    let known = report.conditions.get(condition::FABRIC_ROUTES_PODS);
    if let Some(fact) = probes.fact(&peers)
        && known != Some(&fact)
    {
        info!(
            reason = fact.reason,
            message = fact.message,
            "the network between the nodes"
        );
        node.board.set(condition::FABRIC_ROUTES_PODS, fact);
    }
    if probes.is_calm(peers.len()) {
        CALM
    } else {
        SOON
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrick_k8s::condition::Status;

    fn peer(n: u8) -> Peer {
        let cidr: IpNet = format!("10.244.{n}.0/24").parse().unwrap();
        Peer {
            name: format!("node{n:03}"),
            addresses: vec![IpAddr::from([192, 0, 2, n])],
            pods: vec![(cidr, IpAddr::from([10, 244, n, 1]))],
        }
    }

    fn answers(peers: &[&Peer], gateways: bool) -> BTreeSet<IpAddr> {
        let mut answered: BTreeSet<IpAddr> = peers
            .iter()
            .flat_map(|peer| peer.addresses.clone())
            .collect();
        if gateways {
            answered.extend(
                peers
                    .iter()
                    .flat_map(|peer| &peer.pods)
                    .map(|(_, gateway)| gateway),
            );
        }
        answered
    }

    #[test]
    fn everybody_is_asked_in_turn() {
        let peers: Vec<Peer> = (0..20).map(peer).collect();
        let mut probes = Probes::default();
        let mut seen = BTreeSet::new();
        while !probes.is_calm(peers.len()) {
            let asked = probes.next(&peers);
            assert!(asked.len() <= PEERS);
            seen.extend(asked.iter().map(|peer| peer.name.clone()));
            probes.heard(&asked, &answers(&asked, true));
            assert_eq!(probes.fact(&peers).unwrap().status, Status::True);
        }
        assert_eq!(seen.len(), 20);
        assert!(probes.next(&[]).is_empty());
    }

    #[test]
    fn a_range_that_is_not_routed_is_named_with_its_route_until_it_answers() {
        let peers: Vec<Peer> = (0..20).map(peer).collect();
        let mut probes = Probes::default();
        for round in 1..=ROUNDS {
            let asked = probes.next(&peers);
            let lost = asked
                .iter()
                .find(|peer| peer.name == "node003")
                .copied()
                .unwrap();
            let mut answered = answers(&asked, true);
            answered.remove(&lost.pods[0].1);
            probes.heard(&asked, &answered);
            let told = probes.fact(&peers).is_some();
            assert_eq!(told, round == ROUNDS, "round {round}");
        }
        let fact = probes.fact(&peers).unwrap();
        assert_eq!(fact.status, Status::False);
        let message = fact.message;
        let route = "10.244.3.0/24 via 192.0.2.3 (node node003)";
        assert!(
            message.starts_with("1 pod CIDRs") && message.contains(route),
            "{message}"
        );
        assert!(!probes.is_calm(peers.len()));
        let asked = probes.next(&peers);
        probes.heard(&asked, &answers(&asked, true));
        assert_eq!(probes.fact(&peers).unwrap().status, Status::True);
    }

    #[test]
    fn a_node_that_is_down_says_nothing_and_one_that_left_is_forgotten() {
        let peers: Vec<Peer> = (0..3).map(peer).collect();
        let mut probes = Probes::default();
        for _ in 0..10 {
            let asked = probes.next(&peers);
            probes.heard(&asked, &BTreeSet::new());
        }
        assert!(probes.is_calm(3));
        for _ in 0..10 {
            let asked = probes.next(&peers);
            probes.heard(&asked, &answers(&asked, false));
        }
        assert!(
            probes
                .fact(&peers)
                .unwrap()
                .message
                .starts_with("3 pod CIDRs")
        );
        probes.next(&peers[..1]);
        assert!(
            probes
                .fact(&peers)
                .unwrap()
                .message
                .starts_with("1 pod CIDRs")
        );
    }
}
