//! Which node gets which CIDR. No clock, no API: nodes in, CIDRs out.
//!
//! - A CIDR is held while a Node has it in its spec or a claim names it for a Node that has none
//!   yet. Only what nobody holds any part of is given out, always within the cluster CIDRs.
//! - The same Nodes and claims give the same answer, in whatever order they were told: the first
//!   cluster CIDR of a family that has a free block gives its lowest. The one thing that is
//!   remembered beside them is what was given back: it rests until nothing else is free, and then
//!   the longest given back goes first. So a pod that is still there on a node that was deleted
//!   does not meet a new node's pods under its address while there is any other address to give.
//!   A restart forgets that order and nothing else.
//! - A Node gets one CIDR of every family or none: the fields can be set once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use carrick_api::effective::NodeIpam;
use carrick_proto::NodeName;
use ipnet::IpNet;

use super::finding::Finding;
use super::pool::Pool;
use crate::index::claims::{Claim, Claims};

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of a CIDR.
    #[must_use]
    pub fn of(cidr: &IpNet) -> Self {
        match cidr {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What of a Node matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// UID of this registration.
    pub uid: String,
    /// When it was registered, in seconds since 1970: who came first is served first.
    pub created: i64,
    /// Its `spec.podCIDRs`.
    pub cidrs: Vec<IpNet>,
    /// One of them that is no CIDR, as it was written.
    pub malformed: Option<String>,
    /// Its resourceVersion.
    pub version: String,
}

impl Node {
    fn is_without(&self) -> bool {
        self.cidrs.is_empty() && self.malformed.is_none()
    }

    fn claim(&self) -> Claim {
        Claim {
            created: self.created,
            node: self.name.clone(),
        }
    }
}

/// A Node and the CIDRs that are claimed for it and not written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The Node's name.
    pub node: NodeName,
    /// UID of this registration.
    pub uid: String,
    /// Its resourceVersion when it was last seen.
    pub version: String,
    /// What it is to get: the primary family first.
    pub cidrs: Vec<IpNet>,
}

/// No CIDR of a family is left.
#[derive(Debug)]
struct Exhausted(Family);

#[derive(Debug)]
struct Known {
    node: Node,
    /// Claimed and not written yet.
    claimed: Vec<IpNet>,
}

impl Known {
    fn held(&self) -> &[IpNet] {
        if self.node.cidrs.is_empty() {
            &self.claimed
        } else {
            &self.node.cidrs
        }
    }
}

/// Every Node, who holds what, and what is left.
#[derive(Debug)]
pub struct Allocator {
    /// By family, that of the first cluster CIDR first; in it the order of the cluster CIDRs.
    families: Vec<(Family, Vec<Pool>)>,
    nodes: BTreeMap<NodeName, Known>,
    held: Claims,
    /// Nodes without CIDRs and claims.
    waiting: BTreeSet<(i64, NodeName)>,
    /// Nodes with claims.
    claimed: BTreeSet<NodeName>,
    /// Those that wait and were tried in vain.
    exhausted: BTreeMap<NodeName, Family>,
    releases: u64,
    revision: u64,
}

impl Allocator {
    /// Knows no Node.
    #[must_use]
    pub fn new(plan: &NodeIpam) -> Self {
        let mut families: Vec<(Family, Vec<Pool>)> = Vec::new();
        for cidr in &plan.cluster_cidrs {
            let family = Family::of(cidr);
            let pool = Pool::new(*cidr, plan.node_mask_size(cidr));
            match families.iter_mut().find(|(known, _)| *known == family) {
                Some((_, pools)) => pools.push(pool),
                None => families.push((family, vec![pool])),
            }
        }
        Self {
            families,
            nodes: BTreeMap::new(),
            held: Claims::default(),
            waiting: BTreeSet::new(),
            claimed: BTreeSet::new(),
            exhausted: BTreeMap::new(),
            releases: 0,
            revision: 0,
        }
    }

    /// A Node is there or has changed. An event older than what is known takes no CIDR away: they
    /// are set once.
    pub fn node_is(&mut self, node: Node) {
        let name = node.name.clone();
        let claimed = match self.nodes.get_mut(&name) {
            Some(known) if known.node.uid == node.uid => {
                let same = known.node.cidrs == node.cidrs && known.node.malformed == node.malformed;
                if same || node.is_without() {
                    known.node.version = node.version;
                    return;
                }
                // It has CIDRs: what was claimed for it and is not among them is free again.
                self.take_out(&name)
            }
            Some(_) => {
                self.node_gone(&name);
                Vec::new()
            }
            None => Vec::new(),
        };
        self.revision += 1;
        let claim = node.claim();
        if node.is_without() {
            self.waiting.insert((node.created, name.clone()));
        }
        for cidr in &node.cidrs {
            self.hold(*cidr, &claim);
        }
        self.nodes.insert(
            name,
            Known {
                node,
                claimed: Vec::new(),
            },
        );
        self.give_back(&claimed);
    }

    /// A Node is gone.
    pub fn node_gone(&mut self, name: &NodeName) {
        let held = self.take_out(name);
        self.give_back(&held);
    }

    /// All Nodes there are.
    pub fn nodes_are(&mut self, all: Vec<Node>) {
        let kept: BTreeSet<&NodeName> = all.iter().map(|node| &node.name).collect();
        let gone: Vec<NodeName> = self
            .nodes
            .keys()
            .filter(|name| !kept.contains(name))
            .cloned()
            .collect();
        for name in gone {
            self.node_gone(&name);
        }
        for node in all {
            self.node_is(node);
        }
    }

    /// Takes over what a leader before claimed for the registration `uid` of a Node. A claim for a
    /// registration that is gone, or that has its CIDRs, is void: nothing can be written by it.
    pub fn restore(&mut self, name: &NodeName, uid: &str, cidrs: &[IpNet]) {
        let open = self.nodes.get(name).is_some_and(|known| {
            known.node.uid == uid && known.node.is_without() && known.claimed.is_empty()
        });
        if open && !cidrs.is_empty() {
            self.claim(name, cidrs.to_vec());
        }
    }

    /// Claims CIDRs for Nodes that have none, first come first served, until `most` have claims.
    /// Returns those that got claims now.
    pub fn allocate(&mut self, most: usize) -> Vec<NodeName> {
        self.exhausted.clear();
        let mut served = Vec::new();
        for (_, name) in self.waiting.clone() {
            if self.claimed.len() >= most {
                break;
            }
            match self.choose() {
                Ok(cidrs) => {
                    self.claim(&name, cidrs);
                    served.push(name);
                }
                Err(Exhausted(family)) => {
                    self.exhausted.insert(name, family);
                }
            }
        }
        served
    }

    /// Nodes with claims that are not written yet.
    pub fn assignments(&self) -> impl Iterator<Item = Assignment> + '_ {
        self.claimed.iter().filter_map(|name| {
            let known = self.nodes.get(name)?;
            Some(Assignment {
                node: name.clone(),
                uid: known.node.uid.clone(),
                version: known.node.version.clone(),
                cidrs: known.claimed.clone(),
            })
        })
    }

    /// Nodes that [`Self::allocate`] found no CIDR for, and the UIDs of their registrations.
    pub fn exhausted(&self) -> impl Iterator<Item = (&NodeName, &str)> {
        self.exhausted.keys().filter_map(|name| {
            let known = self.nodes.get(name)?;
            Some((name, known.node.uid.as_str()))
        })
    }

    /// Changes whenever who holds what does.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Nodes without CIDRs.
    #[must_use]
    pub fn without(&self) -> usize {
        self.waiting.len() + self.claimed.len()
    }

    /// How many CIDRs of each family are left.
    pub fn left(&self) -> impl Iterator<Item = (Family, u128)> + '_ {
        self.families.iter().map(|(family, pools)| {
            let left = pools
                .iter()
                .map(Pool::left)
                .fold(0_u128, u128::saturating_add);
            (*family, left)
        })
    }

    /// What a person should know, the worst first.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut found: Vec<Finding> = self
            .exhausted
            .iter()
            .map(|(node, family)| Finding::Exhausted {
                node: node.clone(),
                family: *family,
                pools: self
                    .pools(*family)
                    .map(|pool| (pool.cidr(), pool.mask()))
                    .collect(),
            })
            .collect();
        for known in self.nodes.values() {
            let node = &known.node;
            if let Some(text) = &node.malformed {
                found.push(Finding::Malformed {
                    node: node.name.clone(),
                    text: text.clone(),
                });
            }
            for cidr in &node.cidrs {
                if let Some((held, other)) = self.held.earlier(*cidr, &node.claim()) {
                    found.push(Finding::Overlap {
                        node: node.name.clone(),
                        cidr: *cidr,
                        other,
                        held,
                    });
                }
                let inside = self
                    .families
                    .iter()
                    .flat_map(|(_, pools)| pools)
                    .any(|pool| pool.cidr().contains(cidr));
                if !inside {
                    found.push(Finding::Outside {
                        node: node.name.clone(),
                        cidr: *cidr,
                    });
                }
            }
        }
        found.sort();
        found
    }

    fn pools(&self, family: Family) -> impl Iterator<Item = &Pool> {
        self.families
            .iter()
            .filter(move |(known, _)| *known == family)
            .flat_map(|(_, pools)| pools)
    }

    /// One CIDR of every family, none of them held yet.
    fn choose(&self) -> Result<Vec<IpNet>, Exhausted> {
        self.families
            .iter()
            .map(|(family, pools)| {
                let free = pools.iter().find_map(Pool::free);
                let rested = || {
                    let oldest = pools.iter().filter_map(Pool::rested).min();
                    oldest.map(|(_, cidr)| cidr)
                };
                free.or_else(rested).ok_or(Exhausted(*family))
            })
            .collect()
    }

    fn claim(&mut self, name: &NodeName, cidrs: Vec<IpNet>) {
        let Some(known) = self.nodes.get_mut(name) else {
            return;
        };
        self.revision += 1;
        let claim = known.node.claim();
        self.waiting.remove(&(claim.created, name.clone()));
        self.claimed.insert(name.clone());
        known.claimed.clone_from(&cidrs);
        for cidr in cidrs {
            self.hold(cidr, &claim);
        }
    }

    fn hold(&mut self, cidr: IpNet, claim: &Claim) {
        self.held.insert(cidr, claim.clone());
        for (_, pools) in &mut self.families {
            for pool in pools {
                pool.hold(cidr);
            }
        }
    }

    /// Forgets a Node; what it held stays taken until it is given back.
    fn take_out(&mut self, name: &NodeName) -> Vec<IpNet> {
        let Some(known) = self.nodes.remove(name) else {
            return Vec::new();
        };
        self.revision += 1;
        self.waiting.remove(&(known.node.created, name.clone()));
        self.claimed.remove(name);
        self.exhausted.remove(name);
        let (claim, held) = (known.node.claim(), known.held().to_vec());
        for cidr in &held {
            self.held.remove(*cidr, &claim);
        }
        held
    }

    fn give_back(&mut self, cidrs: &[IpNet]) {
        for cidr in cidrs {
            self.releases += 1;
            for (_, pools) in &mut self.families {
                for pool in pools {
                    if let Some(cover) = pool.cover(*cidr) {
                        let still = self.held.overlapping(cover).map(|(net, _)| *net);
                        pool.release(*cidr, still, self.releases);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "allocator_tests.rs"]
mod tests;
