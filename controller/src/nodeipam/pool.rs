//! One cluster CIDR, cut into blocks of a node's size.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::spans::Spans;

/// Most stretches of blocks that rest; beyond it the longest released are free again. Reached only
/// by a controller that saw as many nodes go, and bounds what it remembers of them.
const RESTING: usize = 65_536;

/// Blocks nobody holds, by what happened to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rest {
    /// The order of releases.
    since: u64,
    first: u128,
    last: u128,
}

/// The blocks of one cluster CIDR. A block is *taken* while somebody holds an address of it, then
/// it *rests*, which only the want of free blocks ends; before, it is *free*. Memory and time
/// follow the number of holders, not of blocks: a /32 of /64s is 2^32 blocks.
#[derive(Debug, Clone)]
pub struct Pool {
    cidr: IpNet,
    mask: u8,
    /// Taken and resting blocks.
    unfree: Spans,
    /// Longest released first.
    resting: VecDeque<Rest>,
}

impl Pool {
    /// Blocks with the prefix length `mask`, which is not below that of `cidr`.
    #[must_use]
    pub fn new(cidr: IpNet, mask: u8) -> Self {
        Self {
            cidr: cidr.trunc(),
            mask: mask.clamp(cidr.prefix_len(), cidr.max_prefix_len()),
            unfree: Spans::default(),
            resting: VecDeque::new(),
        }
    }

    /// The cluster CIDR.
    #[must_use]
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// Prefix length of a block.
    #[must_use]
    pub fn mask(&self) -> u8 {
        self.mask
    }

    /// How many blocks there are.
    #[must_use]
    pub fn size(&self) -> u128 {
        1_u128
            .checked_shl(u32::from(self.mask - self.cidr.prefix_len()))
            .unwrap_or(u128::MAX)
    }

    /// How many blocks nobody holds.
    #[must_use]
    pub fn left(&self) -> u128 {
        let resting = self
            .resting
            .iter()
            .map(|rest| (rest.last - rest.first).saturating_add(1))
            .fold(0_u128, u128::saturating_add);
        self.size()
            .saturating_sub(self.unfree.len())
            .saturating_add(resting)
    }

    /// The lowest free block.
    #[must_use]
    pub fn free(&self) -> Option<IpNet> {
        let lowest = self.unfree.lowest_absent();
        (lowest < self.size()).then(|| self.block(lowest)).flatten()
    }

    /// The block that rests longest, and since which release.
    #[must_use]
    pub fn rested(&self) -> Option<(u64, IpNet)> {
        let rest = self.resting.front()?;
        Some((rest.since, self.block(rest.first)?))
    }

    /// Somebody holds `cidr`, of whatever size.
    pub fn hold(&mut self, cidr: IpNet) {
        let Some((first, last)) = self.blocks(cidr) else {
            return;
        };
        // What is free does not rest; that most blocks are makes a hold cheap.
        let known = self.unfree.touches(first, last);
        self.unfree.insert(first, last);
        if known
            && self
                .resting
                .iter()
                .any(|rest| rest.first <= last && first <= rest.last)
        {
            let old = std::mem::take(&mut self.resting);
            for rest in old {
                let mut left = Spans::default();
                left.insert(rest.first, rest.last);
                left.remove(first, last);
                self.resting.extend(left.iter().map(|(first, last)| Rest {
                    first,
                    last,
                    ..rest
                }));
            }
        }
    }

    /// What of this pool `cidr` covers, whole blocks; `None` when nothing.
    #[must_use]
    pub fn cover(&self, cidr: IpNet) -> Option<IpNet> {
        if cidr.contains(&self.cidr) {
            return Some(self.cidr);
        }
        if !self.cidr.contains(&cidr) {
            return None;
        }
        IpNet::new(cidr.network(), cidr.prefix_len().min(self.mask))
            .ok()
            .map(|net| net.trunc())
    }

    /// `cidr` was given back, for the release `since`; those of `still` are held.
    pub fn release(&mut self, cidr: IpNet, still: impl Iterator<Item = IpNet>, since: u64) {
        let Some((first, last)) = self.blocks(cidr) else {
            return;
        };
        let mut left = Spans::default();
        left.insert(first, last);
        for net in still {
            if let Some((first, last)) = self.blocks(net) {
                left.remove(first, last);
            }
        }
        self.resting
            .extend(left.iter().map(|(first, last)| Rest { since, first, last }));
        while self.resting.len() > RESTING {
            if let Some(rest) = self.resting.pop_front() {
                self.unfree.remove(rest.first, rest.last);
            }
        }
    }

    /// First and last block that share an address with `cidr`.
    fn blocks(&self, cidr: IpNet) -> Option<(u128, u128)> {
        let cover = self.cover(cidr)?;
        let base = number(self.cidr.network());
        let index = |address: IpAddr| (number(address) - base) >> self.host_bits();
        // A block of all addresses there are is one block.
        if self.host_bits() >= 128 {
            return Some((0, 0));
        }
        Some((index(cover.network()), index(cover.broadcast())))
    }

    fn block(&self, index: u128) -> Option<IpNet> {
        let offset = index.checked_shl(self.host_bits()).unwrap_or(0);
        let start = number(self.cidr.network()).checked_add(offset)?;
        let address = match self.cidr {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(start).ok()?)),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(start)),
        };
        IpNet::new(address, self.mask).ok()
    }

    fn host_bits(&self) -> u32 {
        u32::from(self.cidr.max_prefix_len() - self.mask)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn nobody() -> std::iter::Empty<IpNet> {
        std::iter::empty()
    }

    #[test]
    fn blocks_are_handed_out_from_the_lowest() {
        let mut pool = Pool::new(net("10.0.0.0/22"), 24);
        assert_eq!(pool.size(), 4);
        pool.hold(net("10.0.1.0/24"));
        for expected in ["10.0.0.0/24", "10.0.2.0/24", "10.0.3.0/24"] {
            let block = pool.free().unwrap();
            assert_eq!(block, net(expected));
            pool.hold(block);
        }
        assert_eq!((pool.free(), pool.left()), (None, 0));
    }

    #[test]
    fn a_huge_pool_costs_its_holders() {
        let mut pool = Pool::new(net("fd00::/16"), 112);
        assert_eq!(pool.size(), 1 << 96);
        pool.hold(net("fd00::/17"));
        assert_eq!(pool.free(), Some(net("fd00:8000::/112")));
        pool.hold(net("::/0"));
        assert_eq!((pool.free(), pool.left()), (None, 0));
        let everything = Pool::new(net("::/0"), 0);
        assert_eq!(everything.free(), Some(net("::/0")));
    }

    #[test]
    fn holders_of_other_sizes_count() {
        let mut pool = Pool::new(net("10.0.0.0/22"), 24);
        // Half a block is a block, and two blocks are two.
        pool.hold(net("10.0.0.128/25"));
        pool.hold(net("10.0.2.0/23"));
        pool.hold(net("192.168.0.0/24"));
        assert_eq!((pool.free(), pool.left()), (Some(net("10.0.1.0/24")), 1));
        // A block rests only when nobody holds a part of it.
        pool.hold(net("10.0.0.0/26"));
        pool.release(net("10.0.0.128/25"), [net("10.0.0.0/26")].into_iter(), 1);
        assert_eq!(pool.rested(), None);
        pool.release(net("10.0.0.0/26"), nobody(), 2);
        assert_eq!(pool.rested(), Some((2, net("10.0.0.0/24"))));
        pool.release(net("10.0.2.0/23"), [net("10.0.3.0/24")].into_iter(), 3);
        assert_eq!(pool.left(), 3);
    }

    #[test]
    fn the_longest_released_comes_first_and_a_holder_ends_the_rest() {
        let mut pool = Pool::new(net("10.0.0.0/23"), 24);
        pool.hold(net("10.0.0.0/23"));
        pool.release(net("10.0.1.0/24"), nobody(), 1);
        pool.release(net("10.0.0.0/24"), nobody(), 2);
        assert_eq!(pool.free(), None);
        assert_eq!(pool.rested(), Some((1, net("10.0.1.0/24"))));
        pool.hold(net("10.0.1.0/24"));
        assert_eq!(pool.rested(), Some((2, net("10.0.0.0/24"))));
        assert_eq!(pool.left(), 1);
    }

    #[test]
    fn what_rests_is_bounded() {
        let mut pool = Pool::new(net("fd00::/32"), 64);
        for since in 0..=u64::try_from(RESTING).unwrap() {
            let block = pool.free().unwrap();
            pool.hold(block);
            if since == 0 {
                pool.hold(net("fd00:0:0:2::/63"));
            }
            pool.release(block, nobody(), since);
        }
        assert_eq!(pool.resting.len(), RESTING);
        assert_eq!(pool.free(), Some(net("fd00::/64")), "the longest released");
    }
}
