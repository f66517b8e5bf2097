//! Whether other nodes answer through the network: pings from this node's gateway to theirs.
//!
//! The operator's rollouts wait for this word of a node before the next one's turn. A few peers are
//! asked, others when these do not answer: one node that is down says nothing about this one. It
//! says no only when in several rounds nobody of a family answered, and nothing (`Unknown`) from the
//! moment its switch goes until it was asked again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use carrick_api::agentinfo::condition;
use carrick_datapath::gateway_address;
use carrick_k8s::telemetry::chain;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::node::Node;
use crate::status::{Board, Fact, Report};

/// Peers asked in one round.
const PEERS: usize = 3;
/// Rounds without an answer before it is said.
const ROUNDS: u32 = 3;
/// How long a peer may take.
const LIMIT: Duration = Duration::from_secs(1);
/// Pause between rounds while nothing is known or nobody answers.
const SOON: Duration = Duration::from_secs(2);
/// Pause between rounds while all is well.
const CALM: Duration = Duration::from_secs(30);

/// Rounds of pings, without the pings.
#[derive(Debug, Default)]
pub struct Rounds {
    /// Where in the ring of nodes the next round begins.
    next: usize,
    /// Rounds in a row in which a family had no answer.
    silent: u32,
}

/// Addresses to ask, each family's by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    /// IPv4 gateways.
    pub v4: BTreeSet<IpAddr>,
    /// IPv6 gateways.
    pub v6: BTreeSet<IpAddr>,
}

impl Targets {
    /// Both families.
    pub fn all(&self) -> BTreeSet<IpAddr> {
        self.v4.union(&self.v6).copied().collect()
    }

    /// Families that are asked and have no answer.
    fn silent(&self, answered: &BTreeSet<IpAddr>) -> Vec<&'static str> {
        [("IPv4", &self.v4), ("IPv6", &self.v6)]
            .into_iter()
            .filter(|(_, asked)| !asked.is_empty() && asked.is_disjoint(answered))
            .map(|(family, _)| family)
            .collect()
    }
}

impl Rounds {
    /// Whom to ask. `peers` are the other nodes' gateways by name, sorted; `own` families count only.
    pub fn targets(&self, node: &str, own: &[IpAddr], peers: &[(String, Vec<IpAddr>)]) -> Targets {
        let mut targets = Targets::default();
        if peers.is_empty() {
            return targets;
        }
        // Each node asks those after it in the ring, so that nobody is asked by all.
        let start = peers.partition_point(|(name, _)| name.as_str() < node) + self.next;
        let ring = (0..peers.len().min(PEERS)).map(|step| &peers[(start + step) % peers.len()]);
        for address in ring.flat_map(|(_, addresses)| addresses) {
            let has_family = own.iter().any(|own| own.is_ipv6() == address.is_ipv6());
            match address {
                IpAddr::V4(_) if has_family => targets.v4.insert(*address),
                IpAddr::V6(_) if has_family => targets.v6.insert(*address),
                _ => false,
            };
        }
        targets
    }

    /// What a round has shown; none while it is too early to tell.
    pub fn heard(&mut self, targets: &Targets, answered: &BTreeSet<IpAddr>) -> Option<Fact> {
        let silent = targets.silent(answered);
        if silent.is_empty() {
            *self = Self { silent: 0, ..*self };
            return Some(Fact::holds("PeersAnswer", ""));
        }
        self.next += PEERS;
        self.silent = self.silent.saturating_add(1);
        (self.silent >= ROUNDS).then(|| {
            Fact::fails(
                "NoPeerAnswers",
                format!(
                    "no other node's gateway answers over {}; look at the firewall and the MTU \
                     between the nodes: carrickctl check tells more",
                    silent.join(" and ")
                ),
            )
        })
    }
}

/// The other nodes' gateways by name, sorted.
fn peers(node: &Node) -> Vec<(String, Vec<IpAddr>)> {
    let committed = node.committed();
    let mut peers: Vec<_> = committed
        .routes()
        .map(|route| {
            let gateways = route
                .pod_cidrs
                .iter()
                .filter_map(|cidr| gateway_address(*cidr));
            (route.node.to_string(), gateways.collect::<Vec<_>>())
        })
        .collect();
    peers.sort();
    peers
}

fn is_ready(report: &Report) -> bool {
    report.holds(condition::READY)
}

/// Asks until `shutdown`, while the node is ready.
pub async fn run(node: Arc<Node>, shutdown: CancellationToken) {
    let mut rounds = Rounds::default();
    let mut reports = node.board.watch();
    // Two agents' answers on one host (tests) are told apart by it.
    let identifier = u16::try_from(std::process::id() & 0xffff).unwrap_or(1);
    loop {
        let ready = is_ready(&reports.borrow_and_update());
        let pause = round(&node, &mut rounds, identifier).await;
        let turned = async {
            while is_ready(&reports.borrow_and_update()) == ready {
                if reports.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = turned => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Takes back what was said: it is no word about a switch that comes now.
fn forget(board: &Board, rounds: &mut Rounds) {
    *rounds = Rounds::default();
    if board
        .report()
        .conditions
        .contains_key(condition::PEERS_REACHABLE)
    {
        let fact = Fact::unknown(
            "NodeNotReady",
            "other nodes are asked once this one is ready",
        );
        board.set(condition::PEERS_REACHABLE, fact);
    }
}

async fn round(node: &Node, rounds: &mut Rounds, identifier: u16) -> Duration {
    let report = node.board.report();
    if !is_ready(&report) {
        forget(&node.board, rounds);
        return SOON;
    }
    let peers = peers(node);
    let targets = rounds.targets(&node.name, &report.gateway_addresses, &peers);
    let all = targets.all();
    let fact = if all.is_empty() {
        // A node that has not heard of others yet may hear soon; one that is alone has none to ask.
        report
            .holds(condition::CONTROLLER_CONNECTED)
            .then(|| Fact::holds("NoPeers", "there is no other node to ask"))
    } else {
        match carrick_node::ping(&all, identifier, LIMIT).await {
            Ok(answered) => rounds.heard(&targets, &answered),
            Err(error) => {
                let error = chain(&error);
                debug!(error, "no pings can be sent");
                Some(Fact::unknown("CannotPing", error))
            }
        }
    };
    let Some(fact) = fact else {
        return SOON;
    };
    let well = fact.status == carrick_k8s::condition::Status::True;
    if report.conditions.get(condition::PEERS_REACHABLE) != Some(&fact) {
        info!(reason = fact.reason, message = fact.message, "other nodes");
    }
    node.board.set(condition::PEERS_REACHABLE, fact);
    if well { CALM } else { SOON }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrick_k8s::condition::Status;

    fn ring(count: u8) -> Vec<(String, Vec<IpAddr>)> {
        (0..count)
            .map(|n| {
                let v4 = IpAddr::from([10, 0, n, 1]);
                let v6 = IpAddr::from([0xfd00, 0, 0, u16::from(n), 0, 0, 0, 1]);
                (format!("n{n}"), vec![v4, v6])
            })
            .collect()
    }

    fn own() -> Vec<IpAddr> {
        vec!["10.9.9.1".parse().unwrap(), "fd99::1".parse().unwrap()]
    }

    #[test]
    fn the_nodes_after_this_one_are_asked() {
        let rounds = Rounds::default();
        let targets = rounds.targets("n3", &own(), &ring(5));
        let expect: BTreeSet<IpAddr> = ["10.0.3.1", "10.0.4.1", "10.0.0.1"]
            .map(|address| address.parse().unwrap())
            .into();
        assert_eq!(targets.v4, expect);
        assert_eq!(targets.v6.len(), 3);
        let only_v4 = rounds.targets("n3", &own()[..1], &ring(5));
        assert!(only_v4.v6.is_empty() && only_v4.v4.len() == 3);
        assert_eq!(rounds.targets("n3", &own(), &[]), Targets::default());
        assert_eq!(rounds.targets("x", &own(), &ring(1)).v4.len(), 1);
    }

    #[test]
    fn one_answer_of_each_family_is_enough() {
        let mut rounds = Rounds::default();
        let targets = rounds.targets("n0", &own(), &ring(5));
        let mut answered: BTreeSet<IpAddr> = targets.v4.iter().take(1).copied().collect();
        assert_eq!(rounds.heard(&targets, &answered), None, "too early to tell");
        answered.extend(targets.v6.iter().take(1));
        let fact = rounds.heard(&targets, &answered).unwrap();
        assert_eq!(fact.status, Status::True);
    }

    #[test]
    fn an_answer_by_the_switch_before_is_taken_back() {
        let board = Board::default();
        let mut rounds = Rounds { next: 6, silent: 2 };
        forget(&board, &mut rounds);
        assert_eq!((rounds.next, rounds.silent), (0, 0));
        assert!(board.report().conditions.is_empty(), "nothing was said yet");
        board.set(condition::PEERS_REACHABLE, Fact::holds("PeersAnswer", ""));
        forget(&board, &mut rounds);
        let fact = board.report().conditions[condition::PEERS_REACHABLE].clone();
        assert_eq!(fact.status, Status::Unknown);
    }

    #[test]
    fn silence_is_said_after_others_were_asked_too() {
        let mut rounds = Rounds::default();
        let mut asked = BTreeSet::new();
        for round in 1..=ROUNDS {
            let targets = rounds.targets("n0", &own(), &ring(20));
            asked.extend(targets.v4.clone());
            let fact = rounds.heard(&targets, &targets.v4);
            assert_eq!(fact.is_some(), round == ROUNDS);
            if let Some(fact) = fact {
                assert_eq!(fact.status, Status::False);
                assert!(fact.message.contains("over IPv6;"), "{}", fact.message);
            }
        }
        assert_eq!(asked.len(), PEERS * ROUNDS as usize);
    }
}
