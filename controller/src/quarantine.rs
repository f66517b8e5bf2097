//! Released addresses and who still has to forget them.
//!
//! Groups of peers name pods' addresses, so an address may be used again when every agent that held
//! a group with it has acknowledged a batch without it. Without such an agent it is free as soon as
//! its release is known.
//!
//! An address is waited for by its last release: one that was given to its pod again meanwhile and
//! released once more waits anew. An acknowledgement costs what waits for it, not all that waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use carrick_proto::{Freed, NodeName, Number};

/// Addresses that wait.
#[derive(Debug, Default)]
pub struct Quarantine {
    /// By the node that released them.
    waiting: HashMap<NodeName, BTreeMap<IpAddr, Waiting>>,
    /// By the agent that must acknowledge.
    awaited: HashMap<NodeName, BTreeSet<Awaited>>,
}

/// The number to acknowledge, and which address of which node waits for that.
type Awaited = (Number, NodeName, IpAddr);

#[derive(Debug)]
struct Waiting {
    /// The node's own name for this release.
    release: u64,
    /// Who must acknowledge which number.
    span: Span,
}

/// Agents that may hold something that is no longer so, and the number each must acknowledge.
pub type Span = BTreeMap<NodeName, Number>;

/// Releases whose addresses may be used again, by the node that told them.
pub type FreedBy = BTreeMap<NodeName, BTreeSet<Freed>>;

impl Quarantine {
    /// `node` released an address; the agents in `span` must acknowledge first.
    pub fn release(&mut self, node: NodeName, released: Freed, span: Span, freed: &mut FreedBy) {
        self.withdraw(&node, released.address);
        if span.is_empty() {
            freed.entry(node).or_default().insert(released);
            return;
        }
        for (agent, number) in &span {
            let awaited = (*number, node.clone(), released.address);
            self.awaited
                .entry(agent.clone())
                .or_default()
                .insert(awaited);
        }
        let waiting = Waiting {
            release: released.release,
            span,
        };
        let of_node = self.waiting.entry(node).or_default();
        of_node.insert(released.address, waiting);
    }

    /// The agent of `node` has committed `number`.
    pub fn realized(&mut self, node: &NodeName, number: Number, freed: &mut FreedBy) {
        let Some(awaited) = self.awaited.get_mut(node) else {
            return;
        };
        let mut done = Vec::new();
        while awaited.first().is_some_and(|first| first.0 <= number) {
            done.extend(awaited.pop_first());
        }
        if awaited.is_empty() {
            self.awaited.remove(node);
        }
        for awaited in done {
            self.acknowledge(node, awaited, freed);
        }
    }

    /// `node` is gone, and with it everything that remembered addresses.
    pub fn gone(&mut self, node: &NodeName, freed: &mut FreedBy) {
        self.forget(node);
        for awaited in self.awaited.remove(node).unwrap_or_default() {
            self.acknowledge(node, awaited, freed);
        }
    }

    /// Forgets what `node` released: its agent names its releases anew.
    pub fn forget(&mut self, node: &NodeName) {
        let addresses = self.waiting.get(node);
        let addresses: Vec<IpAddr> = addresses
            .map(|waiting| waiting.keys().copied().collect())
            .unwrap_or_default();
        for address in addresses {
            self.withdraw(node, address);
        }
    }

    /// `agent` is through with this.
    fn acknowledge(&mut self, agent: &NodeName, awaited: Awaited, freed: &mut FreedBy) {
        let (_, node, address) = awaited;
        let of_node = self.waiting.get_mut(&node);
        let Some(waiting) = of_node.and_then(|of_node| of_node.get_mut(&address)) else {
            return;
        };
        waiting.span.remove(agent);
        if waiting.span.is_empty() {
            let release = waiting.release;
            self.withdraw(&node, address);
            let released = Freed { address, release };
            freed.entry(node).or_default().insert(released);
        }
    }

    /// Nobody is waited for any more because of this address: a pod has it again, or how long it
    /// rests is for its own node to decide.
    pub fn withdraw(&mut self, node: &NodeName, address: IpAddr) {
        let Some(of_node) = self.waiting.get_mut(node) else {
            return;
        };
        let Some(waiting) = of_node.remove(&address) else {
            return;
        };
        if of_node.is_empty() {
            self.waiting.remove(node);
        }
        for (agent, number) in &waiting.span {
            if let Some(awaits) = self.awaited.get_mut(agent) {
                awaits.remove(&(*number, node.clone(), address));
                if awaits.is_empty() {
                    self.awaited.remove(agent);
                }
            }
        }
    }

    /// How many addresses wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn released(release: u64) -> Freed {
        Freed {
            address: "10.0.0.7".parse().unwrap(),
            release,
        }
    }

    fn freed_of(name: &str, release: u64) -> FreedBy {
        FreedBy::from([(node(name), BTreeSet::from([released(release)]))])
    }

    fn nothing_is_left(quarantine: &Quarantine) -> bool {
        quarantine.len() == 0 && quarantine.waiting.is_empty() && quarantine.awaited.is_empty()
    }

    #[test]
    fn an_address_nobody_was_told_of_is_free_at_once() {
        let (mut quarantine, mut freed) = (Quarantine::default(), FreedBy::new());
        let span = Span::new();
        quarantine.release(node("a"), released(3), span, &mut freed);
        assert_eq!(freed, freed_of("a", 3));
        assert!(nothing_is_left(&quarantine));
    }

    #[test]
    fn an_address_waits_for_every_agent_of_its_span() {
        let (mut quarantine, mut freed) = (Quarantine::default(), FreedBy::new());
        let number = Number::new(1, 5);
        let span = Span::from([(node("b"), number), (node("c"), number)]);
        quarantine.release(node("a"), released(3), span, &mut freed);
        quarantine.realized(&node("b"), Number::new(1, 4), &mut freed);
        quarantine.realized(&node("c"), Number::new(1, 5), &mut freed);
        assert!(freed.is_empty());
        quarantine.realized(&node("b"), Number::new(2, 1), &mut freed);
        assert_eq!(freed, freed_of("a", 3));
        assert!(nothing_is_left(&quarantine));
    }

    #[test]
    fn an_address_that_is_released_once_more_waits_anew() {
        let (mut quarantine, mut freed) = (Quarantine::default(), FreedBy::new());
        let (first, second) = (Number::new(1, 5), Number::new(1, 9));
        let span = |number| Span::from([(node("b"), number)]);
        quarantine.release(node("a"), released(3), span(first), &mut freed);
        quarantine.release(node("a"), released(4), span(second), &mut freed);
        quarantine.realized(&node("b"), first, &mut freed);
        assert!(
            freed.is_empty(),
            "the first release was ended for the second"
        );
        quarantine.realized(&node("b"), second, &mut freed);
        assert_eq!(freed, freed_of("a", 4));
        assert!(nothing_is_left(&quarantine));
    }

    #[test]
    fn a_node_that_is_gone_holds_nothing_back() {
        let (mut quarantine, mut freed) = (Quarantine::default(), FreedBy::new());
        let span = Span::from([(node("b"), Number::new(1, 5))]);
        quarantine.release(node("a"), released(3), span.clone(), &mut freed);
        quarantine.gone(&node("b"), &mut freed);
        assert_eq!(freed.len(), 1);
        quarantine.release(node("a"), released(4), span, &mut freed);
        quarantine.gone(&node("a"), &mut freed);
        assert!(nothing_is_left(&quarantine));
    }

    /// 5,000 agents acknowledge; each must cost what waits for it.
    #[test]
    fn an_acknowledgement_costs_what_waits_for_it() {
        let (mut quarantine, mut freed) = (Quarantine::default(), FreedBy::new());
        let address = |i: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + i));
        for i in 0..20_000 {
            let released = Freed {
                address: address(i),
                release: 1,
            };
            let number = Number::new(1, u64::from(i));
            let span = Span::from([(node(&format!("n{}", i % 5000)), number)]);
            quarantine.release(node("a"), released, span, &mut freed);
        }
        assert_eq!(quarantine.len(), 20_000);
        for i in 0..5000 {
            quarantine.realized(
                &node(&format!("n{i}")),
                Number::new(1, 1_000_000),
                &mut freed,
            );
        }
        assert_eq!(freed[&node("a")].len(), 20_000);
        assert!(nothing_is_left(&quarantine));
    }
}
