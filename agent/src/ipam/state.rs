//! Attachments, pools and quarantine as one value (pure: time is a parameter).
//!
//! Decisions return [`Record`]s; [`State::apply`] is the only way the state changes, for a live
//! step and for a step read from the journal alike.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::attachment::{
    Attachment, AttachmentKey, AttachmentState, Attachments, HeldAddresses, PodRef,
    ReleasedAddresses,
};
use super::former::{Former, Formers};
use super::pool::{AddressPool, Intervals};

/// The first OpenFlow port of a pod: below are the tunnel, the gateway and room for more.
pub const FIRST_POD_PORT: u32 = 100;
/// The last one: Open vSwitch hands out ports from 32768 up by itself to whoever does not ask.
pub const LAST_POD_PORT: u32 = 32767;
/// How long a released address rests while connected when the controller says nothing.
pub const QUARANTINE: Duration = Duration::from_mins(1);
/// Free addresses of which it is remembered who held them last: several times the pods of a node.
const REMEMBERED: usize = if cfg!(test) { 16 } else { 1024 };

/// One change of the state, as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Record {
    /// The boot these attachments belong to.
    Boot(String),
    /// An attachment is new or changed.
    Put(Arc<Attachment>),
    /// An attachment is gone; its addresses are in quarantine from now on.
    Remove(AttachmentKey),
    /// An address is in quarantine (compaction writes them, the longest-released first).
    Quarantined {
        /// Who held it.
        pod: PodRef,
        /// The address.
        address: IpAddr,
    },
    /// The quarantine of these addresses is over.
    Free(Vec<IpAddr>),
    /// An address is free, and this pod held it last (compaction writes them, the longest-released
    /// first).
    Remembered {
        /// Who held it.
        pod: PodRef,
        /// The address.
        address: IpAddr,
    },
}

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// The node has no pod CIDR yet, or none that can hold a pod.
    #[error("this node has no usable pod CIDR yet")]
    NoPool,
    /// Every address of a family is used or in quarantine.
    #[error(
        "no free {family} address: {in_use} in use, {quarantined} released and not yet forgotten by other nodes"
    )]
    Exhausted {
        /// "IPv4" or "IPv6".
        family: &'static str,
        /// Addresses of the family in use.
        in_use: usize,
        /// Addresses of the family in quarantine.
        quarantined: usize,
    },
    /// Every OpenFlow port for pods is used.
    #[error("no free OpenFlow port between {FIRST_POD_PORT} and {LAST_POD_PORT}")]
    NoPort,
}

/// A decided, not yet applied, allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Allocation {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ofport: u32,
    /// Addresses taken out of quarantine before their time (no controller, pool empty).
    pub(super) early: Vec<IpAddr>,
}

/// Everything the store keeps.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pools: Vec<AddressPool>,
    attachments: BTreeMap<AttachmentKey, Arc<Attachment>>,
    holders: HashMap<IpAddr, AttachmentKey>,
    /// Released addresses that rest.
    quarantine: Formers,
    /// Free addresses by who held them last: their pod gets them back when its sandbox is made again.
    /// At most [`REMEMBERED`].
    remembered: Formers,
    /// How many releases there were in this process.
    releases: u64,
    ports: Ports,
    boot: String,
    connected_since: Option<Duration>,
}

#[derive(Debug, Clone)]
struct Ports {
    free: Intervals,
    cursor: u128,
}

impl Default for Ports {
    fn default() -> Self {
        let first = u128::from(FIRST_POD_PORT);
        Self {
            free: Intervals::of(first, u128::from(LAST_POD_PORT)),
            cursor: first,
        }
    }
}

impl Ports {
    fn next(&self) -> Option<u32> {
        self.free
            .next(self.cursor)
            .and_then(|port| u32::try_from(port).ok())
    }

    fn take(&mut self, port: u32) {
        if self.free.remove(u128::from(port)) {
            self.cursor = u128::from(port) + 1;
        }
    }

    fn give_back(&mut self, port: u32) {
        if (FIRST_POD_PORT..=LAST_POD_PORT).contains(&port) {
            self.free.insert(u128::from(port));
        }
    }
}

impl State {
    /// Makes `cidrs` the pools; unusable ones are returned. Attachments keep what they have.
    pub(super) fn set_pools(&mut self, cidrs: &[IpNet]) -> Vec<IpNet> {
        let mut unusable = Vec::new();
        self.pools.clear();
        for &cidr in cidrs {
            match AddressPool::new(cidr) {
                Some(pool) => self.pools.push(pool),
                None => unusable.push(cidr),
            }
        }
        let held = self.holders.keys().copied();
        let mut taken: Vec<IpAddr> = held.chain(self.quarantine.addresses()).collect();
        taken.sort_unstable();
        for address in taken {
            for pool in &mut self.pools {
                pool.take(address);
            }
        }
        unusable
    }

    pub(super) fn pools(&self) -> Vec<IpNet> {
        self.pools.iter().map(|pool| *pool.cidr()).collect()
    }

    pub(super) fn boot(&self) -> &str {
        &self.boot
    }

    pub(super) fn set_connected_since(&mut self, since: Option<Duration>) {
        match (since, self.connected_since) {
            (Some(_), Some(_)) => {}
            (since, _) => self.connected_since = since,
        }
    }

    pub(super) fn get(&self, key: &AttachmentKey) -> Option<&Arc<Attachment>> {
        self.attachments.get(key)
    }

    pub(super) fn attachments(&self) -> Attachments {
        Arc::new(self.attachments.clone())
    }

    /// Addresses in use, by pod.
    pub(super) fn held(&self) -> Vec<HeldAddresses> {
        let mut held: BTreeMap<PodRef, Vec<IpAddr>> = BTreeMap::new();
        for attachment in self.attachments.values() {
            held.entry(attachment.pod.clone())
                .or_default()
                .extend(&attachment.addresses);
        }
        held.into_iter()
            .map(|(pod, addresses)| HeldAddresses { pod, addresses })
            .collect()
    }

    /// Addresses in quarantine, by release.
    pub(super) fn released(&self) -> Vec<ReleasedAddresses> {
        let mut released: BTreeMap<u64, ReleasedAddresses> = BTreeMap::new();
        for former in self.quarantine.iter() {
            released
                .entry(former.release)
                .or_insert_with(|| ReleasedAddresses {
                    pod: former.pod.clone(),
                    addresses: Vec::new(),
                    release: former.release,
                })
                .addresses
                .push(former.address);
        }
        released.into_values().collect()
    }

    /// The number of the last release.
    pub(super) fn last_release(&self) -> u64 {
        self.releases
    }

    pub(super) fn in_use(&self) -> usize {
        self.holders.len()
    }

    pub(super) fn in_quarantine(&self) -> usize {
        self.quarantine.len()
    }

    pub(super) fn free(&self) -> u128 {
        self.pools
            .iter()
            .fold(0_u128, |sum, pool| sum.saturating_add(pool.free()))
    }

    /// Addresses whose rest is over by `now`: while connected for [`QUARANTINE`].
    pub(super) fn rested(&self, now: Duration) -> Vec<IpAddr> {
        let Some(connected) = self.connected_since else {
            return Vec::new();
        };
        self.quarantine
            .iter()
            .take_while(|former| now.saturating_sub(former.since.max(connected)) >= QUARANTINE)
            .map(|former| former.address)
            .collect()
    }

    /// Addresses in quarantine, the longest-released first.
    #[cfg(test)]
    pub(super) fn quarantine_order(&self) -> Vec<IpAddr> {
        self.quarantine
            .iter()
            .map(|former| former.address)
            .collect()
    }

    /// Free addresses and who held them last.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> Vec<(PodRef, IpAddr)> {
        let formers = self.remembered.iter();
        formers.map(|f| (f.pod.clone(), f.address)).collect()
    }

    /// Which of these addresses are in quarantine since just that release.
    pub(super) fn resting(&self, released: &[(IpAddr, u64)]) -> Vec<IpAddr> {
        let resting = |(address, release): &(IpAddr, u64)| {
            let former = self.quarantine.get(*address)?;
            (former.release == *release).then_some(*address)
        };
        released.iter().filter_map(resting).collect()
    }

    /// Decides the addresses and the port of a new attachment of pod `uid`. The caller has freed
    /// [`Self::rested`] before.
    pub(super) fn allocate(&self, uid: &str) -> Result<Allocation, AllocateError> {
        if self.pools.is_empty() {
            return Err(AllocateError::NoPool);
        }
        let mut addresses = Vec::with_capacity(2);
        let mut early = Vec::new();
        for v4 in [true, false] {
            if !self.pools.iter().any(|pool| pool.is_v4() == v4) {
                continue;
            }
            let owned = |address: &IpAddr| {
                self.pools
                    .iter()
                    .any(|pool| pool.is_v4() == v4 && pool.owns(*address))
            };
            // Its own, also when everybody has forgotten it by now: nobody else asked for it yet.
            let own = self.quarantine.of_uid(uid);
            let own = own.chain(self.remembered.of_uid(uid)).find(owned);
            let fresh = || {
                self.pools
                    .iter()
                    .filter(|pool| pool.is_v4() == v4)
                    .find_map(AddressPool::next)
            };
            if let Some(address) = own.or_else(fresh) {
                addresses.push(address);
                continue;
            }
            let longest = || {
                self.quarantine
                    .iter()
                    .map(|former| former.address)
                    .find(owned)
            };
            match self.connected_since.is_none().then(longest).flatten() {
                Some(address) => {
                    addresses.push(address);
                    early.push(address);
                }
                None => {
                    return Err(AllocateError::Exhausted {
                        family: if v4 { "IPv4" } else { "IPv6" },
                        in_use: self.holders.keys().filter(|a| a.is_ipv4() == v4).count(),
                        quarantined: self
                            .quarantine
                            .addresses()
                            .filter(|a| a.is_ipv4() == v4)
                            .count(),
                    });
                }
            }
        }
        let ofport = self.ports.next().ok_or(AllocateError::NoPort)?;
        Ok(Allocation {
            addresses,
            ofport,
            early,
        })
    }

    /// Changes the state. Replaying what was applied, in order, gives the same state; a record that
    /// contradicts an earlier one (a salvaged journal) never gives one address two holders: the
    /// later one wins.
    pub(super) fn apply(&mut self, record: &Record, now: Duration) {
        match record {
            Record::Boot(boot) => self.boot.clone_from(boot),
            Record::Put(attachment) => self.put(attachment),
            Record::Remove(key) => self.remove(key, now),
            Record::Quarantined { pod, address } => {
                if !self.holders.contains_key(address) {
                    self.take(*address);
                    self.releases += 1;
                    self.rest(pod.clone(), *address, now);
                }
            }
            Record::Free(addresses) => {
                for &address in addresses {
                    if let Some(former) = self.quarantine.remove(address) {
                        self.give_back(address);
                        self.remember(former);
                    }
                }
            }
            Record::Remembered { pod, address } => {
                let former = Former {
                    pod: pod.clone(),
                    address: *address,
                    since: now,
                    release: self.releases,
                };
                let is_free =
                    !self.holders.contains_key(address) && self.quarantine.get(*address).is_none();
                if is_free {
                    self.remember(former);
                }
            }
        }
    }

    /// Marks an attachment without a record: on disk it stays what it was.
    pub(super) fn mark(&mut self, key: &AttachmentKey, state: AttachmentState) -> bool {
        match self.attachments.get_mut(key) {
            Some(attachment) if attachment.state != state => {
                Arc::make_mut(attachment).state = state;
                true
            }
            _ => false,
        }
    }

    /// The whole state as records, for a compaction.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Boot(self.boot.clone())];
        records.extend(self.remembered.iter().map(|former| Record::Remembered {
            pod: former.pod.clone(),
            address: former.address,
        }));
        records.extend(self.quarantine.iter().map(|former| Record::Quarantined {
            pod: former.pod.clone(),
            address: former.address,
        }));
        records.extend(self.attachments.values().cloned().map(Record::Put));
        records
    }

    fn put(&mut self, attachment: &Arc<Attachment>) {
        if let Some(old) = self.attachments.remove(&attachment.key) {
            for address in &old.addresses {
                self.holders.remove(address);
                if !attachment.addresses.contains(address) {
                    self.give_back(*address);
                }
            }
            self.ports.give_back(old.ofport);
        }
        for &address in &attachment.addresses {
            if let Some(loser) = self.holders.insert(address, attachment.key.clone())
                && let Some(other) = self.attachments.get_mut(&loser)
            {
                Arc::make_mut(other)
                    .addresses
                    .retain(|&held| held != address);
            }
            self.quarantine.remove(address);
            self.remembered.remove(address);
            self.take(address);
        }
        self.ports.take(attachment.ofport);
        self.attachments
            .insert(attachment.key.clone(), Arc::clone(attachment));
    }

    fn remove(&mut self, key: &AttachmentKey, now: Duration) {
        let Some(attachment) = self.attachments.remove(key) else {
            return;
        };
        self.releases += 1;
        for &address in &attachment.addresses {
            self.holders.remove(&address);
            self.rest(attachment.pod.clone(), address, now);
        }
        self.ports.give_back(attachment.ofport);
    }

    /// Puts an address into quarantine, by the present release.
    fn rest(&mut self, pod: PodRef, address: IpAddr, since: Duration) {
        let release = self.releases;
        self.remembered.remove(address);
        self.quarantine.insert(Former {
            pod,
            address,
            since,
            release,
        });
    }

    /// Remembers who held an address that is free now; the one it was longest ago is forgotten.
    fn remember(&mut self, former: Former) {
        self.remembered.insert(former);
        if self.remembered.len() > REMEMBERED {
            let oldest = self.remembered.iter().next().map(|oldest| oldest.address);
            oldest.and_then(|address| self.remembered.remove(address));
        }
    }

    fn take(&mut self, address: IpAddr) {
        for pool in &mut self.pools {
            pool.take(address);
        }
    }

    fn give_back(&mut self, address: IpAddr) {
        for pool in &mut self.pools {
            pool.give_back(address);
        }
    }
}
