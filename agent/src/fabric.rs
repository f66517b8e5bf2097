//! What the network between the nodes does to pods' packets, found out by pings.
//!
//! Whether it carries pods' addresses where nothing is tunnelled ([`routes`]), and whether it carries
//! packets of the size that pods' MTU needs ([`paths`]). Both compare two pings: a node that answers
//! the one and not the other tells something about what is between; a node that answers neither is
//! down, or says nothing in any case.
//!
//! The load is bounded whatever the number of nodes: a few peers a round, each node beginning at its own
//! place in the ring, so that nobody is asked by all.

pub mod paths;
pub mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use carrick_api::agentinfo::condition;
use carrick_datapath::{IpFamily, Mode, Way, gateway_address};
use carrick_k8s::telemetry::chain;
use carrick_node::Echo;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::node::Node;
use crate::plan::NodePlan;
use crate::status::Fact;
use paths::Paths;
use routes::Routes;

/// Nodes asked in one round beside those under suspicion.
const PEERS: usize = 8;
/// Nodes under suspicion that are asked in one round.
const SUSPECTS: usize = 32;
/// Rounds in a row in which only the one ping was answered, before it is said: a lost packet, or one
/// that a router's rate limit dropped, is no finding.
const ROUNDS: u32 = 3;
/// Nodes named in a condition.
const NAMED: usize = 3;
/// How long a node may take.
const LIMIT: Duration = Duration::from_secs(1);
/// Pause between rounds while something is to be found out, or nodes were never asked.
const SOON: Duration = Duration::from_secs(2);
/// Pause between rounds while what was found is only waited to be mended.
const TOLD: Duration = Duration::from_secs(10);
/// Pause between rounds otherwise.
const CALM: Duration = Duration::from_secs(30);

/// Another node as it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Its pod CIDRs, each with the gateway in it, where the network must carry pods' addresses.
    pub pods: Vec<(IpNet, IpAddr)>,
    /// Where packets to its pods go on the network, with the size in bytes of the largest.
    pub paths: BTreeMap<IpAddr, u16>,
}

/// The other nodes by a plan, sorted by name.
pub fn peers(plan: &NodePlan) -> Vec<Peer> {
    let state = plan.state(BTreeMap::new());
    let peer = |(name, peer): (&String, &carrick_datapath::Peer)| {
        let mut paths = BTreeMap::new();
        let mut pods = Vec::new();
        for cidr in &peer.pod_cidrs {
            let gateway = gateway_address(*cidr);
            let (address, cost) = match state.way(peer, *cidr) {
                Some(Way::Tunnel(end)) => {
                    let cost = |tunnel: carrick_datapath::Tunnel| tunnel.overhead(end.into());
                    (Some(end), plan.tunnel.map_or(0, cost))
                }
                Some(Way::Direct(neighbour)) => (Some(neighbour), 0),
                Some(Way::Fabric) => (gateway, 0),
                None => (None, 0),
            };
            if let Some(address) = address {
                let size = paths.entry(address).or_default();
                *size = plan.mtu.saturating_add(cost).max(*size);
            }
            if plan.mode == Mode::NoEncap {
                pods.extend(gateway.map(|gateway| (*cidr, gateway)));
            }
        }
        Peer {
            name: name.clone(),
            addresses: peer.endpoints.iter().collect(),
            pods,
            paths,
        }
    };
    state.peers.iter().map(peer).collect()
}

/// Whose turn it is to be asked.
#[derive(Debug, Default)]
pub struct Turns {
    /// How far the ring of peers and that of suspects have been gone round.
    next: usize,
    next_suspect: usize,
    /// How many peers were asked since the start.
    asked: usize,
}

impl Turns {
    /// Whom to ask: suspects and the next few of the others. `peers` are sorted by name; the ring
    /// begins behind the name `own`.
    pub fn next<'a>(
        &mut self,
        own: &str,
        peers: &'a [Peer],
        suspects: &BTreeSet<String>,
    ) -> Vec<&'a Peer> {
        let (suspected, mut others): (Vec<&Peer>, Vec<&Peer>) =
            peers.iter().partition(|peer| suspects.contains(&peer.name));
        let mut chosen = take_round(&suspected, self.next_suspect, SUSPECTS);
        self.next_suspect = self.next_suspect.wrapping_add(SUSPECTS);
        let own = others.partition_point(|peer| peer.name.as_str() < own);
        others.rotate_left(own);
        chosen.extend(take_round(&others, self.next, PEERS));
        self.next = self.next.wrapping_add(PEERS);
        self.asked = self.asked.saturating_add(PEERS);
        chosen
    }

    /// Whether everybody was asked once.
    pub fn were_all(&self, peers: usize) -> bool {
        self.asked >= peers
    }
}

/// At most `count` of the ring from `start` on, none twice.
fn take_round<'a>(ring: &[&'a Peer], start: usize, count: usize) -> Vec<&'a Peer> {
    let turn = |step| ring.get((start % ring.len().max(1) + step) % ring.len().max(1));
    let count = ring.len().min(count);
    (0..count).filter_map(turn).copied().collect()
}

/// What was found out so far.
#[derive(Debug, Default)]
struct Prober {
    plan: Option<Arc<NodePlan>>,
    peers: Vec<Peer>,
    turns: Turns,
    routes: Routes,
    paths: Paths,
}

impl Prober {
    /// Takes a plan that came meanwhile.
    fn follow(&mut self, plan: &Arc<NodePlan>) {
        let known = self.plan.as_ref();
        if known.is_some_and(|known| Arc::ptr_eq(known, plan)) {
            return;
        }
        if known.is_none_or(|known| (known.mtu, known.tunnel) != (plan.mtu, plan.tunnel)) {
            // Other sizes: what passed says nothing of them.
            self.turns.asked = 0;
            self.paths = Paths::default();
        }
        self.peers = peers(plan);
        self.routes.retain(&self.peers);
        self.paths.retain(&self.peers);
        self.plan = Some(Arc::clone(plan));
    }

    fn pause(&self) -> Duration {
        let seeking = self.routes.are_open() || self.paths.are_open();
        if seeking || !self.turns.were_all(self.peers.len()) {
            SOON
        } else if self.routes.suspects().next().is_some() || self.paths.suspects().next().is_some()
        {
            TOLD
        } else {
            CALM
        }
    }

    async fn round(&mut self, node: &Node, identifier: u16) -> Duration {
        let plan = node.plan.borrow().clone();
        let Some(plan) = plan.filter(|_| node.board.report().holds(condition::READY)) else {
            return SOON;
        };
        self.follow(&plan);
        let suspects = self.routes.suspects().chain(self.paths.suspects());
        let suspects = suspects.map(str::to_owned).collect();
        let asked = self.turns.next(&node.name, &self.peers, &suspects);
        let mut echoes = self.paths.echoes(&asked);
        for peer in &asked {
            let gateways = peer.pods.iter().map(|(_, gateway)| *gateway);
            let own = peer.addresses.iter().copied();
            echoes.extend(own.chain(gateways).map(Echo::small));
        }
        let answered = match carrick_node::ping_sizes(&echoes, identifier, LIMIT).await {
            Ok(answered) => answered,
            Err(error) => {
                debug!(error = chain(&error), "no pings can be sent");
                return SOON;
            }
        };
        self.paths.heard(&asked, &echoes, &answered);
        if self.paths.are_open() {
            debug!(paths = ?self.paths, "paths under suspicion");
        }
        let answering = answered.iter().map(|echo| echo.address).collect();
        self.routes.heard(&asked, &answering);
        if plan.mode == Mode::NoEncap {
            say(
                node,
                condition::FABRIC_ROUTES_PODS,
                self.routes.fact(&self.peers),
            );
        }
        let needs = paths::Needs {
            mtu: plan.mtu,
            least: match plan.gateway.addresses.v6 {
                Some(_) => carrick_datapath::MIN_V6_MTU,
                None => carrick_datapath::MIN_V4_MTU,
            },
        };
        say(node, condition::FABRIC_CARRIES_MTU, self.paths.fact(needs));
        self.pause()
    }
}

/// Sets the condition; nothing new while it is too early to tell.
fn say(node: &Node, condition: &'static str, fact: Option<Fact>) {
    let Some(fact) = fact else { return };
    if node.board.report().conditions.get(condition) != Some(&fact) {
        info!(
            condition,
            reason = fact.reason,
            message = fact.message,
            "the network between the nodes"
        );
        node.board.set(condition, fact);
    }
}

/// Asks until `shutdown`, while the node is ready.
pub async fn run(node: Arc<Node>, shutdown: CancellationToken) {
    let mut prober = Prober::default();
    // Two agents' answers on one host (tests) are told apart by it; the other bit by those of `peers`.
    let identifier = u16::try_from(std::process::id() & 0x7fff).unwrap_or(1) | 0x8000;
    loop {
        let pause = prober.round(&node, identifier).await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn of_family(addresses: &[IpAddr], like: IpAddr) -> impl Iterator<Item = IpAddr> {
    addresses
        .iter()
        .copied()
        .filter(move |address| IpFamily::from(*address) == IpFamily::from(like))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Node `n` behind 192.0.2.n with packets of 1500 bytes, and pods in 10.244.n.0/24.
    pub(super) fn peer(n: u8) -> Peer {
        let cidr: IpNet = format!("10.244.{n}.0/24").parse().unwrap();
        let address = IpAddr::from([192, 0, 2, n]);
        Peer {
            name: format!("node{n:03}"),
            addresses: vec![address],
            pods: vec![(cidr, IpAddr::from([10, 244, n, 1]))],
            paths: BTreeMap::from([(address, 1500)]),
        }
    }

    #[test]
    fn everybody_is_asked_in_turn_and_nobody_by_all() {
        let peers: Vec<Peer> = (0..20).map(peer).collect();
        let none = BTreeSet::new();
        let mut turns = Turns::default();
        let mut seen = BTreeSet::new();
        while !turns.were_all(peers.len()) {
            let asked = turns.next("node005", &peers, &none);
            assert!(asked.len() <= PEERS);
            if seen.is_empty() {
                assert_eq!(asked[0].name, "node005");
            }
            seen.extend(asked.iter().map(|peer| peer.name.clone()));
        }
        assert_eq!(seen.len(), 20);
        assert!(turns.next("x", &[], &none).is_empty());
        let few = Turns::default().next("zzz", &peers[..3], &none).len();
        assert_eq!(few, 3);
    }

    #[test]
    fn of_many_suspects_everybody_is_asked_again() {
        let peers: Vec<Peer> = (0..100).map(peer).collect();
        let suspects: BTreeSet<String> = peers[..90].iter().map(|peer| peer.name.clone()).collect();
        let mut turns = Turns::default();
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let asked = turns.next("node000", &peers, &suspects);
            assert!(asked.len() <= PEERS + SUSPECTS);
            seen.extend(asked.iter().map(|peer| peer.name.clone()));
        }
        assert_eq!(seen.len(), 100);
    }
}
