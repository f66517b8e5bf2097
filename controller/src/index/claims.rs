//! Who claims which CIDR, and who was first.

use std::collections::{BTreeMap, BTreeSet};

use carrick_proto::NodeName;
use ipnet::IpNet;

/// A node's claim; the order is that of registration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// When the node was registered.
    pub created: i64,
    /// The node; decides between registrations of one second.
    pub node: NodeName,
}

/// All claims. Finding those that overlap a CIDR costs the overlaps, not the claims: CIDRs nest or
/// are apart, so they are the ones that begin inside it and its supernets of the lengths in use.
#[derive(Debug, Default)]
pub struct Claims {
    claims: BTreeMap<IpNet, BTreeSet<Claim>>,
    lengths: BTreeMap<(bool, u8), usize>,
}

impl Claims {
    /// Adds a claim.
    pub fn insert(&mut self, cidr: IpNet, claim: Claim) {
        if self.claims.entry(cidr).or_default().insert(claim) {
            *self.lengths.entry(length(&cidr)).or_default() += 1;
        }
    }

    /// Takes a claim back.
    pub fn remove(&mut self, cidr: IpNet, claim: &Claim) {
        let Some(claims) = self.claims.get_mut(&cidr) else {
            return;
        };
        if !claims.remove(claim) {
            return;
        }
        if claims.is_empty() {
            self.claims.remove(&cidr);
        }
        if let Some(count) = self.lengths.get_mut(&length(&cidr)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length(&cidr));
            }
        }
    }

    /// Claims that share an address with `cidr`, those of `cidr` itself among them.
    pub fn overlapping(&self, cidr: IpNet) -> impl Iterator<Item = (&IpNet, &Claim)> {
        let (v6, own) = length(&cidr);
        let above = self
            .lengths
            .range((v6, 0)..(v6, own))
            .filter_map(move |((_, len), _)| IpNet::new(cidr.network(), *len).ok())
            .filter_map(|net| self.claims.get_key_value(&net.trunc()))
            // Those that begin where `cidr` begins are met again below.
            .filter(move |(net, _)| net.network() != cidr.network());
        let widest = if v6 { 128 } else { 32 };
        let inside = IpNet::new(cidr.network(), 0)
            .ok()
            .zip(IpNet::new(cidr.broadcast(), widest).ok())
            .map(|(first, last)| self.claims.range(first..=last));
        above
            .chain(inside.into_iter().flatten())
            .flat_map(|(net, claims)| claims.iter().map(move |claim| (net, claim)))
    }

    /// The first of the claims that overlap `cidr` and came before `claim`, whether or not it is
    /// itself contested: so who loses depends on no third node's fate.
    pub fn earlier(&self, cidr: IpNet, claim: &Claim) -> Option<(IpNet, NodeName)> {
        self.overlapping(cidr)
            .filter(|(_, other)| *other < claim && other.node != claim.node)
            .min_by(|a, b| a.1.cmp(b.1).then(a.0.cmp(b.0)))
            .map(|(net, other)| (*net, other.node.clone()))
    }
}

fn length(cidr: &IpNet) -> (bool, u8) {
    (matches!(cidr, IpNet::V6(_)), cidr.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn claim(created: i64, node: &str) -> Claim {
        Claim {
            created,
            node: NodeName::new(node).unwrap(),
        }
    }

    #[test]
    fn the_first_registration_wins() {
        let mut claims = Claims::default();
        claims.insert(net("10.0.0.0/16"), claim(1, "a"));
        claims.insert(net("10.0.1.0/24"), claim(2, "b"));
        claims.insert(net("10.1.0.0/24"), claim(3, "c"));
        let earlier =
            |cidr: &str, who: &Claim| claims.earlier(net(cidr), who).map(|e| e.1.to_string());
        assert_eq!(earlier("10.0.1.0/24", &claim(2, "b")), Some("a".into()));
        assert_eq!(earlier("10.0.0.0/16", &claim(1, "a")), None);
        assert_eq!(earlier("10.1.0.0/24", &claim(3, "c")), None);
        // In the same second the name decides.
        assert_eq!(earlier("10.1.0.0/24", &claim(3, "d")), Some("c".into()));
    }

    #[test]
    fn families_are_apart_and_removal_frees() {
        let mut claims = Claims::default();
        claims.insert(net("::/0"), claim(1, "a"));
        assert_eq!(claims.overlapping(net("10.0.0.0/8")).count(), 0);
        assert_eq!(claims.overlapping(net("fd00::/64")).count(), 1);
        claims.remove(net("::/0"), &claim(1, "a"));
        assert_eq!(claims.overlapping(net("fd00::/64")).count(), 0);
        assert!(claims.lengths.is_empty());
    }

    proptest! {
        #[test]
        fn overlaps_are_what_comparing_all_finds(
            nets in proptest::collection::vec((any::<u32>(), 0u8..=32, any::<bool>()), 1..60),
            asked in (any::<u32>(), 0u8..=32),
        ) {
            let make = |bits: u32, len: u8| {
                // Few distinct bits, so that nets meet.
                IpNet::new(std::net::IpAddr::V4((bits & 0xf0f0_0000).into()), len).unwrap().trunc()
            };
            let mut claims = Claims::default();
            let mut model = BTreeSet::new();
            for (i, (bits, len, keep)) in nets.into_iter().enumerate() {
                let (cidr, who) = (make(bits, len), claim(i64::try_from(i).unwrap(), "n"));
                claims.insert(cidr, who.clone());
                if keep {
                    model.insert((cidr, who));
                } else {
                    claims.remove(cidr, &who);
                }
            }
            let asked = make(asked.0, asked.1);
            let found: BTreeSet<_> = claims.overlapping(asked).map(|(n, c)| (*n, c.clone())).collect();
            let count = claims.overlapping(asked).count();
            let expected: BTreeSet<_> = model
                .into_iter()
                .filter(|(net, _)| net.contains(&asked) || asked.contains(net))
                .collect();
            prop_assert_eq!(count, expected.len());
            prop_assert_eq!(found, expected);
        }
    }
}
