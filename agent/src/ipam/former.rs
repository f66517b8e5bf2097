//! Addresses that pods held once, and who it was (pure).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::attachment::PodRef;

/// An address that a pod held.
#[derive(Debug, Clone)]
pub(super) struct Former {
    pub(super) pod: PodRef,
    pub(super) address: IpAddr,
    /// When it was released.
    pub(super) since: Duration,
    /// Which release of this process that was; the addresses of one attachment share it.
    pub(super) release: u64,
}

/// Such addresses, the longest-released first; each at most once.
#[derive(Debug, Clone, Default)]
pub(super) struct Formers {
    by_order: BTreeMap<u64, Former>,
    by_address: HashMap<IpAddr, u64>,
    by_uid: HashMap<String, BTreeSet<u64>>,
    next: u64,
}

impl Formers {
    /// Adds one behind all others.
    pub(super) fn insert(&mut self, former: Former) {
        self.remove(former.address);
        let order = self.next;
        self.next += 1;
        self.by_address.insert(former.address, order);
        let uid = former.pod.uid.clone();
        self.by_uid.entry(uid).or_default().insert(order);
        self.by_order.insert(order, former);
    }

    pub(super) fn remove(&mut self, address: IpAddr) -> Option<Former> {
        let order = self.by_address.remove(&address)?;
        let former = self.by_order.remove(&order)?;
        if let Some(orders) = self.by_uid.get_mut(&former.pod.uid) {
            orders.remove(&order);
            if orders.is_empty() {
                self.by_uid.remove(&former.pod.uid);
            }
        }
        Some(former)
    }

    pub(super) fn get(&self, address: IpAddr) -> Option<&Former> {
        self.by_order.get(self.by_address.get(&address)?)
    }

    /// All, the longest-released first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Former> {
        self.by_order.values()
    }

    /// Addresses the pod held, the last released first.
    pub(super) fn of_uid<'a>(&'a self, uid: &str) -> impl Iterator<Item = IpAddr> + use<'a> {
        self.by_uid
            .get(uid)
            .into_iter()
            .flat_map(|orders| orders.iter().rev())
            .filter_map(|order| self.by_order.get(order).map(|former| former.address))
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.by_order.len()
    }
}
