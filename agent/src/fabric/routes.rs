//! Whether the network between the nodes carries pods' addresses, where nothing is tunnelled.
//!
//! In `NoEncap` a packet to another node's pod leaves this one with the pod's own address, and the
//! fabric must know which node that is on. A node that answers at its own address but not at its
//! gateway's, which is an address of its pods' range, is behind a fabric that does not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use carrick_k8s::telemetry::some;
use ipnet::IpNet;

use super::{NAMED, Peer, ROUNDS, of_family};
use crate::status::Fact;

/// Pod CIDRs that do not answer though their nodes do.
#[derive(Debug, Default)]
pub struct Routes {
    /// Rounds in a row, by node and range.
    silent: BTreeMap<(String, IpNet), u32>,
}

impl Routes {
    /// Forgets nodes and ranges that are gone.
    pub fn retain(&mut self, peers: &[Peer]) {
        self.silent.retain(|(name, cidr), _| {
            find(peers, name).is_some_and(|peer| peer.pods.iter().any(|(pods, _)| pods == cidr))
        });
    }

    /// Nodes under suspicion; one may come twice.
    pub fn suspects(&self) -> impl Iterator<Item = &str> {
        self.silent.keys().map(|(name, _)| name.as_str())
    }

    /// Whether some suspicion is neither cleared nor told.
    pub fn are_open(&self) -> bool {
        self.silent.values().any(|rounds| *rounds < ROUNDS)
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

    /// What is to be said; nothing new while it is too early to tell.
    pub fn fact(&self, peers: &[Peer]) -> Option<Fact> {
        let routes: Vec<String> = self
            .silent
            .iter()
            .filter(|(_, rounds)| **rounds >= ROUNDS)
            .filter_map(|((name, cidr), _)| {
                let via = of_family(&find(peers, name)?.addresses, cidr.addr()).next()?;
                Some(format!("{cidr} via {via} (node {name})"))
            })
            .collect();
        if routes.is_empty() {
            let all_answer = self.silent.is_empty();
            return all_answer.then(|| Fact::holds("PodsAnswer", ""));
        }
        Some(Fact::fails(
            "PodsDoNotAnswer",
            format!(
                "{} pod CIDRs do not answer though their nodes do. In mode NoEncap the network between \
                 the nodes must route each node's pod CIDRs to it (and must not check source \
                 addresses): {}. Or set traffic.mode to Encap or Hybrid",
                routes.len(),
                some(&routes, NAMED)
            ),
        ))
    }
}

fn find<'a>(peers: &'a [Peer], name: &str) -> Option<&'a Peer> {
    let at = peers.binary_search_by(|peer| peer.name.as_str().cmp(name));
    peers.get(at.ok()?)
}

#[cfg(test)]
mod tests {
    use carrick_k8s::condition::Status;

    use super::super::tests::peer;
    use super::*;

    fn answers(peers: &[&Peer], gateways: bool) -> BTreeSet<IpAddr> {
        let own = peers.iter().flat_map(|peer| peer.addresses.clone());
        let of_pods = peers.iter().flat_map(|peer| &peer.pods);
        let of_pods = of_pods.map(|(_, gateway)| *gateway);
        own.chain(of_pods.filter(|_| gateways)).collect()
    }

    #[test]
    fn a_range_that_is_not_routed_is_named_with_its_route_until_it_answers() {
        let peers: Vec<Peer> = (0..20).map(peer).collect();
        let asked: Vec<&Peer> = peers.iter().take(8).collect();
        let mut routes = Routes::default();
        for round in 1..=ROUNDS {
            let mut answered = answers(&asked, true);
            answered.remove(&peers[3].pods[0].1);
            routes.heard(&asked, &answered);
            let told = routes.fact(&peers).is_some();
            assert_eq!(told, round == ROUNDS, "round {round}");
            assert_eq!(routes.are_open(), !told);
        }
        let fact = routes.fact(&peers).unwrap();
        assert_eq!(fact.status, Status::False);
        let message = fact.message;
        let route = "10.244.3.0/24 via 192.0.2.3 (node node003)";
        assert!(
            message.starts_with("1 pod CIDRs") && message.contains(route),
            "{message}"
        );
        assert_eq!(routes.suspects().collect::<Vec<_>>(), ["node003"]);
        routes.heard(&asked, &answers(&asked, true));
        assert_eq!(routes.fact(&peers).unwrap().status, Status::True);
    }

    #[test]
    fn a_node_that_is_down_says_nothing_and_one_that_left_is_forgotten() {
        let peers: Vec<Peer> = (0..5).map(peer).collect();
        let asked: Vec<&Peer> = peers.iter().collect();
        let mut routes = Routes::default();
        for _ in 0..10 {
            routes.heard(&asked, &BTreeSet::new());
        }
        assert_eq!(routes.suspects().count(), 0);
        for _ in 0..10 {
            routes.heard(&asked, &answers(&asked, false));
        }
        let message = routes.fact(&peers).unwrap().message;
        assert!(message.starts_with("5 pod CIDRs"), "{message}");
        assert!(message.contains("(node node002) and 2 more."), "{message}");
        routes.retain(&peers[..1]);
        let message = routes.fact(&peers).unwrap().message;
        assert!(message.starts_with("1 pod CIDRs"), "{message}");
    }
}
