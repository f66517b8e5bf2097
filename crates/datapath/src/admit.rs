//! Which pod CIDRs may be programmed: overlapping ones would send packets to the wrong node.
//!
//! The controller refuses overlaps for the whole cluster; this is the node's own check, by the
//! records it holds, so that no record whatever makes it route its own pods or Services away.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;

use crate::state::Peer;

/// A range that is not programmed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// The node that claims it.
    pub node: String,
    /// The range.
    pub cidr: IpNet,
    /// Whose range it overlaps.
    pub with: Holder,
    /// The range of that holder.
    pub held: IpNet,
}

/// Who holds a range already.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// The Service range of the cluster.
    Services,
    /// This node.
    ThisNode,
    /// Another node.
    Peer(String),
    /// Addresses that mean something else everywhere (loopback, link-local, multicast, all).
    Reserved,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node, cidr, held, ..
        } = self;
        write!(f, "pod CIDR {cidr} of node {node} overlaps ")?;
        match &self.with {
            Holder::Services => write!(f, "the Service range {held}")?,
            Holder::ThisNode => write!(f, "{held} of this node")?,
            Holder::Peer(other) => write!(f, "{held} of node {other}")?,
            Holder::Reserved => write!(f, "the reserved range {held}")?,
        }
        write!(
            f,
            " and is not routed: delete the node and register it again with another range"
        )
    }
}

/// Whether two ranges share an address.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Ranges no pod CIDR may touch.
fn reserved() -> Vec<IpNet> {
    [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3",
        "::/96",
        "fe80::/10",
        "ff00::/8",
    ]
    .into_iter()
    .filter_map(|text| text.parse().ok())
    .collect()
}

/// What of this node's own pod CIDRs may be used.
pub fn admit_own(node: &str, own: &[IpNet], services: &[IpNet]) -> (Vec<IpNet>, Vec<Refused>) {
    let mut holders: Vec<(Holder, IpNet)> = Vec::new();
    holders.extend(reserved().into_iter().map(|net| (Holder::Reserved, net)));
    holders.extend(services.iter().map(|net| (Holder::Services, *net)));
    let mut refused = Vec::new();
    let admitted = admit_ranges(node, own, &holders, &mut refused);
    (admitted, refused)
}

/// What of the peers' pod CIDRs may be programmed. Between two peers the one whose name comes
/// first keeps a disputed range, so that every node decides alike.
pub fn admit_peers(
    peers: BTreeMap<String, Peer>,
    own: &[IpNet],
    services: &[IpNet],
) -> (BTreeMap<String, Peer>, Vec<Refused>) {
    let mut holders: Vec<(Holder, IpNet)> = Vec::new();
    holders.extend(reserved().into_iter().map(|net| (Holder::Reserved, net)));
    holders.extend(services.iter().map(|net| (Holder::Services, *net)));
    holders.extend(own.iter().map(|net| (Holder::ThisNode, *net)));
    let mut taken = Ranges::default();
    let mut refused = Vec::new();
    let mut admitted = BTreeMap::new();
    for (name, peer) in peers {
        let clear = admit_ranges(&name, &peer.pod_cidrs, &holders, &mut refused);
        let mut pod_cidrs = Vec::with_capacity(clear.len());
        for cidr in clear {
            if let Some((held, other)) = taken.overlapping(cidr) {
                refused.push(Refused {
                    node: name.clone(),
                    cidr,
                    with: Holder::Peer(other.to_owned()),
                    held,
                });
            } else {
                taken.insert(cidr, &name);
                pod_cidrs.push(cidr);
            }
        }
        admitted.insert(
            name,
            Peer {
                pod_cidrs,
                endpoints: peer.endpoints,
            },
        );
    }
    (admitted, refused)
}

fn admit_ranges(
    node: &str,
    cidrs: &[IpNet],
    holders: &[(Holder, IpNet)],
    refused: &mut Vec<Refused>,
) -> Vec<IpNet> {
    let mut admitted = Vec::with_capacity(cidrs.len());
    for cidr in cidrs {
        let cidr = cidr.trunc();
        match holders.iter().find(|(_, held)| overlap(cidr, *held)) {
            Some((with, held)) => refused.push(Refused {
                node: node.to_owned(),
                cidr,
                with: with.clone(),
                held: *held,
            }),
            None => admitted.push(cidr),
        }
    }
    admitted
}

/// Disjoint ranges, ordered by their first address: an overlap is with a neighbour only, so 5,000
/// peers cost 5,000 lookups.
#[derive(Default)]
struct Ranges {
    by_start: BTreeMap<std::net::IpAddr, (IpNet, String)>,
}

impl Ranges {
    fn overlapping(&self, cidr: IpNet) -> Option<(IpNet, &str)> {
        let before = self.by_start.range(..=cidr.network()).next_back();
        let after = self.by_start.range(cidr.network()..).next();
        [before, after]
            .into_iter()
            .flatten()
            .find(|(_, (held, _))| overlap(cidr, *held))
            .map(|(_, (held, name))| (*held, name.as_str()))
    }

    fn insert(&mut self, cidr: IpNet, name: &str) {
        self.by_start
            .insert(cidr.network(), (cidr, name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Addresses;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn peers(list: &[(&str, &[&str])]) -> BTreeMap<String, Peer> {
        list.iter()
            .map(|(name, cidrs)| {
                let peer = Peer {
                    pod_cidrs: nets(cidrs),
                    endpoints: Addresses::default(),
                };
                ((*name).to_owned(), peer)
            })
            .collect()
    }

    #[test]
    fn disjoint_ranges_are_admitted() {
        let (admitted, refused) = admit_peers(
            peers(&[
                ("b", &["10.0.1.0/24", "fd00:1::/64"]),
                ("c", &["10.0.2.0/24"]),
            ]),
            &nets(&["10.0.0.0/24", "fd00::/64"]),
            &nets(&["10.96.0.0/16"]),
        );
        assert!(refused.is_empty());
        assert_eq!(admitted["b"].pod_cidrs.len(), 2);
    }

    #[test]
    fn overlaps_are_refused_and_named() {
        let (admitted, refused) = admit_peers(
            peers(&[
                ("b", &["10.0.0.128/25"]),
                ("c", &["10.96.4.0/24"]),
                ("d", &["10.0.2.0/23"]),
                ("e", &["10.0.3.0/24"]),
                ("f", &["10.0.0.0/8"]),
                ("g", &["127.0.0.0/24"]),
            ]),
            &nets(&["10.0.0.0/24"]),
            &nets(&["10.96.0.0/16"]),
        );
        let with: Vec<_> = refused
            .iter()
            .map(|r| (r.node.as_str(), r.with.clone()))
            .collect();
        assert_eq!(
            with,
            [
                ("b", Holder::ThisNode),
                ("c", Holder::Services),
                ("e", Holder::Peer("d".into())),
                ("f", Holder::Services),
                ("g", Holder::Reserved),
            ]
        );
        assert_eq!(admitted["d"].pod_cidrs, nets(&["10.0.2.0/23"]));
        assert!(admitted["e"].pod_cidrs.is_empty());
        assert!(
            refused[0]
                .to_string()
                .contains("register it again with another range")
        );
    }

    #[test]
    fn a_wide_range_before_its_part_is_found() {
        let (_, refused) = admit_peers(
            peers(&[
                ("a", &["10.4.0.0/14"]),
                ("b", &["10.5.1.0/24"]),
                ("c", &["10.0.0.0/9"]),
            ]),
            &[],
            &[],
        );
        assert_eq!(refused.len(), 2);
    }

    #[test]
    fn own_range_in_the_service_range_is_refused() {
        let (admitted, refused) = admit_own(
            "a",
            &nets(&["10.96.1.0/24", "fd00::/64"]),
            &nets(&["10.96.0.0/12"]),
        );
        assert_eq!(admitted, nets(&["fd00::/64"]));
        assert_eq!(refused.len(), 1);
    }
}
