//! Released addresses and who still has to forget them.
//!
//! An address may be used again when every agent whose records named it has acknowledged a batch
//! without it (an agent acknowledges after it has flushed the address's connection entries). Today
//! no record names a pod's address, so spans are empty and an address is free as soon as its
//! release is known; records of policies will give spans.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use carrick_proto::{NodeName, Number};

/// Addresses that wait.
#[derive(Debug, Default)]
pub struct Quarantine {
    waiting: BTreeMap<(NodeName, IpAddr), Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// The batch that no longer names the address.
    number: Number,
    span: BTreeSet<NodeName>,
}

/// Addresses that may be used again, by the node that released them.
pub type Freed = BTreeMap<NodeName, BTreeSet<IpAddr>>;

impl Quarantine {
    /// `node` released `address`; the agents in `span` must acknowledge `number` first.
    pub fn release(
        &mut self,
        node: NodeName,
        address: IpAddr,
        number: Number,
        span: BTreeSet<NodeName>,
        freed: &mut Freed,
    ) {
        if span.is_empty() {
            self.waiting.remove(&(node.clone(), address));
            freed.entry(node).or_default().insert(address);
        } else {
            self.waiting
                .insert((node, address), Waiting { number, span });
        }
    }

    /// The agent of `node` has committed `number`.
    pub fn realized(&mut self, node: &NodeName, number: Number, freed: &mut Freed) {
        self.settle(freed, |waiting| {
            if number >= waiting.number {
                waiting.span.remove(node);
            }
        });
    }

    /// `node` is gone, and with it everything that remembered addresses.
    pub fn gone(&mut self, node: &NodeName, freed: &mut Freed) {
        self.waiting.retain(|(owner, _), _| owner != node);
        self.settle(freed, |waiting| {
            waiting.span.remove(node);
        });
    }

    fn settle(&mut self, freed: &mut Freed, mut acknowledge: impl FnMut(&mut Waiting)) {
        self.waiting.retain(|(node, address), waiting| {
            acknowledge(waiting);
            if waiting.span.is_empty() {
                freed.entry(node.clone()).or_default().insert(*address);
            }
            !waiting.span.is_empty()
        });
    }

    /// How many addresses wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn address() -> IpAddr {
        "10.0.0.7".parse().unwrap()
    }

    #[test]
    fn an_address_nobody_was_told_of_is_free_at_once() {
        let (mut quarantine, mut freed) = (Quarantine::default(), Freed::new());
        quarantine.release(
            node("a"),
            address(),
            Number::new(1, 1),
            BTreeSet::new(),
            &mut freed,
        );
        assert_eq!(
            freed,
            Freed::from([(node("a"), BTreeSet::from([address()]))])
        );
        assert_eq!(quarantine.len(), 0);
    }

    #[test]
    fn an_address_waits_for_every_agent_of_its_span() {
        let (mut quarantine, mut freed) = (Quarantine::default(), Freed::new());
        let span = BTreeSet::from([node("b"), node("c")]);
        quarantine.release(node("a"), address(), Number::new(1, 5), span, &mut freed);
        quarantine.realized(&node("b"), Number::new(1, 4), &mut freed);
        quarantine.realized(&node("c"), Number::new(1, 5), &mut freed);
        assert!(freed.is_empty());
        quarantine.realized(&node("b"), Number::new(2, 1), &mut freed);
        assert_eq!(
            freed,
            Freed::from([(node("a"), BTreeSet::from([address()]))])
        );
    }

    #[test]
    fn a_node_that_is_gone_holds_nothing_back() {
        let (mut quarantine, mut freed) = (Quarantine::default(), Freed::new());
        let span = BTreeSet::from([node("b")]);
        quarantine.release(
            node("a"),
            address(),
            Number::new(1, 5),
            span.clone(),
            &mut freed,
        );
        quarantine.gone(&node("b"), &mut freed);
        assert_eq!(freed.len(), 1);
        quarantine.release(node("a"), address(), Number::new(1, 5), span, &mut freed);
        quarantine.gone(&node("a"), &mut freed);
        assert_eq!(quarantine.len(), 0);
    }
}
