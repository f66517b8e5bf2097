//! Free numbers as intervals: addresses of a pod CIDR and OpenFlow ports.
//!
//! A /64 is one interval as long as nobody uses an address of it; taking and giving back cost
//! O(log n) of the number of gaps, whatever the size of the range.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The gateway's address in a pod CIDR: its first host address. `None` when the CIDR is too small
/// to hold a gateway and a pod.
pub fn gateway(cidr: &IpNet) -> Option<IpAddr> {
    let (first, _) = host_range(cidr)?;
    Some(to_address(cidr, first))
}

/// First and last host address as numbers: IPv4 without network and broadcast, IPv6 without the
/// subnet-router anycast address (RFC 4291 §2.6.1).
fn host_range(cidr: &IpNet) -> Option<(u128, u128)> {
    let network = to_number(cidr.network());
    let last = to_number(cidr.broadcast());
    let (first, last) = match cidr {
        IpNet::V4(_) => (network.checked_add(1)?, last.checked_sub(1)?),
        IpNet::V6(_) => (network.checked_add(1)?, last),
    };
    (first < last).then_some((first, last))
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn to_address(cidr: &IpNet, number: u128) -> IpAddr {
    match cidr {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(
            u32::try_from(number).unwrap_or(u32::MAX),
        )),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// Disjoint, never adjacent intervals of free numbers: start → end, both inclusive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Intervals(BTreeMap<u128, u128>);

impl Intervals {
    pub(super) fn of(first: u128, last: u128) -> Self {
        Self(BTreeMap::from([(first, last)]))
    }

    /// Frees `number`; freeing what is free changes nothing.
    pub(super) fn insert(&mut self, number: u128) {
        let (mut start, mut end) = (number, number);
        if let Some((&before, &before_end)) = self.0.range(..=number).next_back() {
            if before_end >= number {
                return;
            }
            if before_end + 1 == number {
                start = before;
            }
        }
        if let Some(after) = number.checked_add(1)
            && let Some(after_end) = self.0.remove(&after)
        {
            end = after_end;
        }
        self.0.insert(start, end);
    }

    /// Takes `number` out; false when it was not free.
    pub(super) fn remove(&mut self, number: u128) -> bool {
        let Some((&start, &end)) = self.0.range(..=number).next_back() else {
            return false;
        };
        if end < number {
            return false;
        }
        self.0.remove(&start);
        if start < number {
            self.0.insert(start, number - 1);
        }
        if number < end {
            self.0.insert(number + 1, end);
        }
        true
    }

    /// The first free number from `cursor` on, around the end.
    pub(super) fn next(&self, cursor: u128) -> Option<u128> {
        if let Some((_, &end)) = self.0.range(..=cursor).next_back()
            && end >= cursor
        {
            return Some(cursor);
        }
        self.0
            .range(cursor..)
            .next()
            .or_else(|| self.0.iter().next())
            .map(|(&start, _)| start)
    }

    /// How many numbers are free.
    pub(super) fn len(&self) -> u128 {
        self.0.iter().fold(0_u128, |sum, (start, end)| {
            sum.saturating_add((end - start).saturating_add(1))
        })
    }
}

/// The addresses of one pod CIDR but the gateway's, handed out in turn so that one just given back
/// comes last.
#[derive(Debug, Clone)]
pub(super) struct AddressPool {
    cidr: IpNet,
    free: Intervals,
    cursor: u128,
}

impl AddressPool {
    /// `None` when the CIDR cannot hold a pod.
    pub(super) fn new(cidr: IpNet) -> Option<Self> {
        let cidr = cidr.trunc();
        let (gateway, last) = host_range(&cidr)?;
        let first = gateway + 1;
        Some(Self {
            cidr,
            free: Intervals::of(first, last),
            cursor: first,
        })
    }

    pub(super) fn cidr(&self) -> &IpNet {
        &self.cidr
    }

    pub(super) fn is_v4(&self) -> bool {
        matches!(self.cidr, IpNet::V4(_))
    }

    /// Whether this pool hands out `address` (the gateway's is never).
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address)
            && host_range(&self.cidr).is_some_and(|(gateway, last)| {
                let number = to_number(address);
                gateway < number && number <= last
            })
    }

    /// The address that goes next. It stays free until [`Self::take`].
    pub(super) fn next(&self) -> Option<IpAddr> {
        self.free
            .next(self.cursor)
            .map(|number| to_address(&self.cidr, number))
    }

    /// Takes an address out and moves the turn behind it.
    pub(super) fn take(&mut self, address: IpAddr) {
        if self.owns(address) && self.free.remove(to_number(address)) {
            self.cursor = to_number(address).saturating_add(1);
        }
    }

    /// Gives an address back; foreign ones are ignored.
    pub(super) fn give_back(&mut self, address: IpAddr) {
        if self.owns(address) {
            self.free.insert(to_number(address));
        }
    }

    pub(super) fn free(&self) -> u128 {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_gateway_is_the_first_host_address() {
        for (cidr, expect) in [
            ("10.1.2.0/24", Some("10.1.2.1")),
            ("10.1.2.7/24", Some("10.1.2.1")),
            ("10.0.0.0/30", Some("10.0.0.1")),
            ("10.0.0.0/31", None),
            ("10.0.0.0/32", None),
            ("255.255.255.255/32", None),
            ("fd00::/64", Some("fd00::1")),
            ("fd00::/127", None),
            ("fd00::/126", Some("fd00::1")),
            ("::/0", Some("::1")),
            ("0.0.0.0/0", Some("0.0.0.1")),
        ] {
            assert_eq!(
                gateway(&net(cidr)).map(|a| a.to_string()).as_deref(),
                expect,
                "{cidr}"
            );
        }
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_handed_out() {
        let mut pool = AddressPool::new(net("10.0.0.0/29")).unwrap();
        let mut seen = Vec::new();
        while let Some(address) = pool.next() {
            pool.take(address);
            seen.push(address.to_string());
        }
        assert_eq!(
            seen,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        for foreign in ["10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.0.8", "fd00::2"] {
            pool.give_back(foreign.parse().unwrap());
            assert_eq!(pool.next(), None, "{foreign}");
        }
    }

    #[test]
    fn what_comes_back_goes_last() {
        let mut pool = AddressPool::new(net("fd00::/120")).unwrap();
        let first = pool.next().unwrap();
        pool.take(first);
        pool.give_back(first);
        assert_ne!(pool.next(), Some(first));
    }

    proptest! {
        #[test]
        fn intervals_are_a_set(steps in proptest::collection::vec((0_u128..40, any::<bool>(), 0_u128..45), 0..200)) {
            let mut model: BTreeSet<u128> = (5..=30).collect();
            let mut intervals = Intervals::of(5, 30);
            for (number, give, cursor) in steps {
                if give {
                    model.insert(number);
                    intervals.insert(number);
                } else {
                    prop_assert_eq!(model.remove(&number), intervals.remove(number));
                }
                let expect = model.range(cursor..).next().or_else(|| model.iter().next()).copied();
                prop_assert_eq!(intervals.next(cursor), expect);
                prop_assert_eq!(intervals.len(), model.len() as u128);
                // Never adjacent: the fewest intervals possible.
                let starts: Vec<_> = intervals.0.iter().collect();
                prop_assert!(starts.windows(2).all(|w| w[0].1 + 1 < *w[1].0));
            }
        }
    }
}
