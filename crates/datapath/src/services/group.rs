//! Select groups: the endpoints of one port, family and policy, in pieces that the switch can balance
//! well.
//!
//! Facts of Open vSwitch 3.1 this rests on:
//! - `dp_hash` maps at most 256 hash values to buckets; a group that needs more is balanced by an upcall
//!   for each connection (`group_setup_dp_hash_table` in ofproto/ofproto-dpif.c). It takes the next power
//!   of two of total weight ÷ least weight, so that ten buckets of one weight share 16 values: six get
//!   two, four get one.
//! - Inserting a bucket makes the table from the inserted buckets alone, and all connections go to
//!   them; removing one leaves no table, and each connection is an upcall
//!   (github.com/openvswitch/ovs-issues/issues/357; the test
//!   `a_bucket_cannot_be_inserted_or_removed` holds it). So a change sends the group whole, and groups
//!   are small.
//! - Behind `dp_hash` the datapath's cache leads every hash value past what was learned a moment ago: a
//!   client's next connection may come before the cache is swept. With affinity the group therefore chooses
//!   by fields of the packet (`selection_method=hash`), which stand in the cache's match: the client's next
//!   connection is another port, so the switch is asked and finds what it learned. There is an upcall for a
//!   client and not for a connection, and no table of hash values.
//! - All select groups that a packet meets see one hash. A group of groups must use other bits of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::select::Backend;
use super::tables::{CT_MARK_SERVICE, SELECTED};
use crate::cookie::Kind;
use crate::pipeline::CT_ZONE;
use crate::table::Table;

/// The most endpoints of one group without affinity: with twice their weight and one bucket more their
/// hash has 255 values, rounded up to the 256 that the switch maps.
pub const MAX_MEMBERS: usize = 127;

/// The most endpoints of one group with affinity, which must fit into one message of 64 KiB: a bucket
/// has 88 bytes at most.
pub(super) const MAX_REMEMBERED: usize = 512;

/// The most hash bits that choose a shard: half a million endpoints.
pub(super) const MAX_SHARD_BITS: u32 = 12;

/// The hash values of one group; the bits behind choose the shard.
const GROUP_BITS: u32 = 8;

/// The number of a group in the switch: the kind in the highest byte as in cookies, below it the id
/// of the ledger.
pub(super) const fn group_number(id: u32) -> u32 {
    ((Kind::ServiceGroup as u32) << 24) | (id & 0x00ff_ffff)
}

/// The id in the ledger of a group of ours.
pub(super) const fn group_id(number: u32) -> Option<u32> {
    if number >> 24 == Kind::ServiceGroup as u32 {
        Some(number & 0x00ff_ffff)
    } else {
        None
    }
}

/// The number of the group that hashes and hands `bits` bits of the hash on.
pub(crate) const fn hash_group(bits: u32) -> u32 {
    ((Kind::Pipeline as u32) << 24) | bits
}

/// The group [`hash_group`]: one bucket, for its hash alone. The flow that sent here has set `reg7`.
pub(super) fn hash_group_line(bits: u32) -> String {
    let (first, last) = (GROUP_BITS, GROUP_BITS + bits - 1);
    format!(
        "group_id={},type=select,selection_method=dp_hash,bucket=bucket_id:1,weight:1,\
         actions=move:NXM_NX_DP_HASH[{first}..{last}]->NXM_NX_REG6[0..{}],resubmit(,{})",
        hash_group(bits),
        bits - 1,
        Table::ServiceShard.id()
    )
}

/// What a bucket does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Translates at once.
    Translate,
    /// Writes the endpoint to registers, for a flow that learns and one that translates.
    Remember,
}

/// A group of the switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GroupSpec {
    /// Its number in the switch.
    pub(super) number: u32,
    pub(super) choice: Choice,
    /// Sorted, at most [`MAX_MEMBERS`] or [`MAX_REMEMBERED`]. Empty: it is in the switch, with something
    /// else in it.
    pub(super) members: Box<[Backend]>,
}

impl GroupSpec {
    /// The group as `ovs-ofctl add-group` takes it.
    pub(super) fn to_line(&self) -> String {
        match self.choice {
            Choice::Translate => self.by_connection(),
            Choice::Remember => self.by_client(),
        }
    }

    /// By the client's address and port: once its entry has timed out, a client may be led elsewhere. The switch
    /// leaves out the ports of other protocols. A bucket has its endpoint's own number: when endpoints come and
    /// go, only their clients move.
    fn by_client(&self) -> String {
        let field = match self.members.first().map(|first| first.address) {
            Some(IpAddr::V6(_)) => "ipv6_src",
            Some(IpAddr::V4(_)) | None => "ip_src",
        };
        let mut line = format!(
            "group_id={},type=select,selection_method=hash,fields({field},tcp_src,udp_src,sctp_src)",
            self.number
        );
        let mut taken = BTreeSet::new();
        for member in &self.members {
            let mut id = bucket_number(*member);
            while !taken.insert(id) {
                id = (id + 1) % BUCKETS;
            }
            self.bucket(&mut line, id, 1, *member);
        }
        line
    }

    /// Each endpoint has eight hash values where there is room, so that shares differ by an eighth and
    /// not by half. What makes the switch take that many values is a last bucket of weight 1, which
    /// repeats the first endpoint.
    fn by_connection(&self) -> String {
        let mut line = format!(
            "group_id={},type=select,selection_method=dp_hash",
            self.number
        );
        let weight = (255 / self.members.len().max(1)).clamp(1, 8);
        let mut id = 0_u32;
        for member in &self.members {
            id += 1;
            self.bucket(&mut line, id, weight, *member);
        }
        if let Some(first) = self.members.first() {
            self.bucket(&mut line, id + 1, 1, *first);
        }
        line
    }

    /// Writing into a `String` cannot fail.
    fn bucket(&self, line: &mut String, id: u32, weight: usize, member: Backend) {
        let _ = write!(line, ",bucket=bucket_id:{id},weight:{weight},actions=");
        match self.choice {
            Choice::Translate => line.push_str(&translate(member)),
            Choice::Remember => {
                let _ = write!(
                    line,
                    "{},resubmit(,{})",
                    remember(member),
                    Table::ServiceLearn.id()
                );
            }
        }
    }
}

/// Numbers of buckets end far below those that OpenFlow reserves.
const BUCKETS: u32 = 1 << 31;

/// A number that is the same in every group, on every node and in every version: FNV-1a of address and
/// port.
fn bucket_number(endpoint: Backend) -> u32 {
    let fold = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let address = match endpoint.address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let hash = address.iter().fold(0x811c_9dc5, fold);
    endpoint.port.to_be_bytes().iter().fold(hash, fold) % BUCKETS
}

/// Translates to an endpoint, and goes on with the policy of the sender.
pub(super) fn translate(to: Backend) -> String {
    let Backend { address, port } = to;
    let address = match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    format!(
        "ct(commit,table={},zone={CT_ZONE},nat(dst={address}:{port}),\
         exec(set_field:{CT_MARK_SERVICE}->ct_mark))",
        Table::EgressPolicy.id()
    )
}

/// Writes an endpoint to `reg3` or `xxreg3` and `reg4`.
fn remember(endpoint: Backend) -> String {
    let Backend { address, port } = endpoint;
    let register = match address {
        IpAddr::V4(v4) => format!("set_field:{:#x}->reg3", v4.to_bits()),
        IpAddr::V6(v6) => format!("set_field:{:#x}->xxreg3", v6.to_bits()),
    };
    format!(
        "{register},set_field:{:#x}/0x1ffff->reg4",
        SELECTED | u32::from(port)
    )
}

/// The match on what [`remember`] wrote.
pub(super) fn remembered(endpoint: Backend) -> String {
    let Backend { address, port } = endpoint;
    let register = match address {
        IpAddr::V4(v4) => format!("reg3={:#x}", v4.to_bits()),
        IpAddr::V6(v6) => format!("xxreg3={:#x}", v6.to_bits()),
    };
    format!("{register},reg4={:#x}/0x1ffff", SELECTED | u32::from(port))
}

/// How many hash bits choose among the shards of so many endpoints; 0 for one group.
pub(super) fn shard_bits(members: usize, choice: Choice) -> u32 {
    let most = match choice {
        Choice::Translate => MAX_MEMBERS,
        Choice::Remember => MAX_REMEMBERED,
    };
    let shards = members.div_ceil(most).next_power_of_two();
    shards.trailing_zeros().min(MAX_SHARD_BITS)
}

/// Splits sorted endpoints into `2^bits` runs whose lengths differ by one at most. A change moves at
/// most one endpoint over each border between two runs.
pub(super) fn shards(members: &[Backend], bits: u32) -> Vec<&[Backend]> {
    let count = 1_usize << bits;
    let border = |index: usize| index * members.len() / count;
    (0..count)
        .filter_map(|index| members.get(border(index)..border(index + 1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(count: usize) -> Vec<Backend> {
        (0..count)
            .map(|n| Backend {
                address: IpAddr::from((0x0a00_0000 + u32::try_from(n).unwrap()).to_be_bytes()),
                port: 80,
            })
            .collect()
    }

    /// What `group_setup_dp_hash_table` computes: the hash values a group needs.
    fn hash_values(line: &str) -> u64 {
        let weights: Vec<u64> = line
            .split("weight:")
            .skip(1)
            .map(|rest| rest.split(',').next().unwrap().parse().unwrap())
            .collect();
        let total: u64 = weights.iter().sum();
        let least = weights.iter().min().unwrap();
        total.div_ceil(*least).next_power_of_two().max(16)
    }

    proptest! {
        #[test]
        fn every_group_keeps_to_the_datapaths_hash(count in 1_usize..5000) {
            let all = members(count);
            let bits = shard_bits(count, Choice::Translate);
            let shards = shards(&all, bits);
            prop_assert_eq!(shards.len(), 1 << bits);
            prop_assert_eq!(&shards.concat(), &all);
            for shard in shards {
                prop_assert!((1..=MAX_MEMBERS).contains(&shard.len()));
                let spec = GroupSpec { number: 1, choice: Choice::Translate, members: shard.into() };
                let line = spec.to_line();
                let values = hash_values(&line);
                prop_assert!(values <= 256);
                // At least two values each: shares of two endpoints are as 3 to 2 at worst.
                prop_assert!(values >= 2 * shard.len() as u64);
                prop_assert!(line.len() < 32 << 10);
            }
        }

        #[test]
        fn one_endpoint_more_moves_few(count in 128_usize..3000, at in any::<prop::sample::Index>()) {
            let mut after = members(count);
            let gone = after.remove(at.index(count));
            let before = {
                let mut all = after.clone();
                all.push(gone);
                all.sort();
                all
            };
            let bits = shard_bits(before.len(), Choice::Translate);
            if shard_bits(after.len(), Choice::Translate) == bits {
                let moved: usize = shards(&before, bits)
                    .into_iter()
                    .zip(shards(&after, bits))
                    .map(|(old, new)| new.iter().filter(|m| !old.contains(m)).count())
                    .sum();
                prop_assert!(moved < 1 << bits);
            }
        }
    }

    #[test]
    fn shards_begin_above_one_group() {
        assert_eq!(shard_bits(0, Choice::Translate), 0);
        assert_eq!(shard_bits(MAX_MEMBERS, Choice::Translate), 0);
        assert_eq!(shard_bits(MAX_MEMBERS + 1, Choice::Translate), 1);
        assert_eq!(shard_bits(1000, Choice::Translate), 3);
        assert_eq!(shard_bits(5000, Choice::Translate), 6);
    }

    /// Two endpoints of one number are told apart, the same way each time; and the largest group fits
    /// into a message.
    #[test]
    fn buckets_of_affinity_have_numbers_of_their_own() {
        let spec = GroupSpec {
            number: 1,
            choice: Choice::Remember,
            members: members(MAX_REMEMBERED).into(),
        };
        let group: carrick_openflow::Group = spec.to_line().parse().unwrap();
        let ids: BTreeSet<u32> = group.buckets.iter().map(|bucket| bucket.id.0).collect();
        assert_eq!(ids.len(), MAX_REMEMBERED);
        assert_eq!(shard_bits(MAX_REMEMBERED, Choice::Remember), 0);
        assert_eq!(shard_bits(MAX_REMEMBERED + 1, Choice::Remember), 1);
        let one = GroupSpec {
            members: members(MAX_REMEMBERED)[7..8].into(),
            ..spec
        };
        let one: carrick_openflow::Group = one.to_line().parse().unwrap();
        assert!(ids.contains(&one.buckets[0].id.0));
    }
}
