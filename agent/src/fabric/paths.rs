//! Whether the network between the nodes carries packets of the size that pods' MTU needs.
//!
//! The size is that of the outer packet of the largest pod packet where nodes are reached by a tunnel,
//! and pods' MTU itself where not. A node that answers a small ping, and round after round none of that
//! size with "don't fragment", is behind a path that takes less than its interfaces say. How much the
//! path does take is searched then, whatever routers say or keep to themselves (RFC 4821 argues why
//! nothing else is to be relied on): a few sizes a round between the largest that passed and the smallest
//! that did not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use carrick_k8s::telemetry::some;
use carrick_node::Echo;

use super::{NAMED, Peer, ROUNDS};
use crate::status::Fact;

/// Sizes tried in one round of a search: three rounds find one of 9,000.
const SIZES: u16 = 20;
/// Searches at a time: each sends as many packets as there are sizes.
const SEARCHES: usize = 4;
/// Rounds in a row in which the search came to the same end, before it is said.
const SURE: u32 = 2;

/// A path: the node, the address it ends at, and the size in bytes it has to take.
type Path = (String, IpAddr, u16);

/// A path on which packets of its size are lost.
#[derive(Debug, Clone, Copy)]
struct Narrow {
    /// Rounds in a row in which smaller packets were answered and those of full size were not.
    rounds: u32,
    /// The largest size that passed, and the smallest above it that did not.
    passes: u16,
    fails: u16,
    /// Rounds in a row in which nothing lay between them.
    sure: u32,
    /// Rounds in a row in which even the largest that once passed was not answered.
    narrower: u32,
}

impl Narrow {
    fn new(least: u16, size: u16) -> Self {
        Self {
            rounds: 0,
            passes: least,
            fails: size,
            sure: 0,
            narrower: 0,
        }
    }

    fn is_suspected(&self) -> bool {
        self.rounds >= ROUNDS
    }

    fn is_told(&self) -> bool {
        self.sure >= SURE
    }

    /// What to send beside the smallest and the full size.
    fn sizes(&self) -> Vec<u16> {
        if !self.is_suspected() {
            return Vec::new();
        }
        let room = self.fails - self.passes;
        // Rounded up, so that two neighbours leave nothing between.
        let step = room.div_ceil(SIZES + 1).max(1);
        let between = (1..=SIZES).map_while(|count| {
            let size = self.passes.checked_add(step.checked_mul(count)?)?;
            (size < self.fails).then_some(size)
        });
        between.chain([self.passes, self.fails]).collect()
    }

    /// What a round has shown in which the smallest size passed and the full one did not.
    fn heard(&mut self, least: u16, size: u16, sent: &BTreeSet<u16>, passed: &BTreeSet<u16>) {
        self.rounds = self.rounds.saturating_add(1);
        if !self.is_suspected() {
            return;
        }
        let best = passed.last().copied().unwrap_or(least);
        if best < self.passes && sent.contains(&self.passes) {
            self.narrower = self.narrower.saturating_add(1);
            if self.narrower >= ROUNDS {
                *self = Self {
                    rounds: self.rounds,
                    ..Self::new(least, size)
                };
            }
            return;
        }
        self.narrower = 0;
        if best >= self.fails {
            // It was lost for another reason then, or the path is wider now.
            self.fails = size;
            self.sure = 0;
        }
        self.passes = self.passes.max(best);
        let lost = sent.iter().copied().find(|size| *size > self.passes);
        self.fails = self.fails.min(lost.unwrap_or(size));
        self.sure = match self.fails - self.passes {
            1 => self.sure.saturating_add(1),
            _ => 0,
        };
    }
}

/// What pods need, for the mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Pods' MTU.
    pub mtu: u16,
    /// The least it may be.
    pub least: u16,
}

/// Paths that take less than they have to.
#[derive(Debug, Default)]
pub struct Paths {
    narrow: BTreeMap<Path, Narrow>,
    /// Some packet of full size has passed somewhere.
    passed: bool,
}

impl Paths {
    /// Forgets paths that are gone.
    pub fn retain(&mut self, peers: &[Peer]) {
        self.narrow.retain(|(name, address, size), _| {
            let at = peers.binary_search_by(|peer| peer.name.cmp(name));
            let peer = at.ok().and_then(|at| peers.get(at));
            peer.is_some_and(|peer| peer.paths.get(address) == Some(size))
        });
    }

    /// Nodes under suspicion; one may come twice.
    pub fn suspects(&self) -> impl Iterator<Item = &str> {
        self.narrow.keys().map(|(name, ..)| name.as_str())
    }

    /// Whether some suspicion is neither cleared nor told.
    pub fn are_open(&self) -> bool {
        self.narrow.values().any(|narrow| !narrow.is_told())
    }

    /// What to send in a round: to everybody who is asked the smallest and the full size, and to some
    /// of the suspects what their searches need.
    pub fn echoes(&self, asked: &[&Peer]) -> BTreeSet<Echo> {
        let mut echoes = BTreeSet::new();
        let mut searches = 0;
        for (key, narrow) in paths(asked).map(|path| {
            let narrow = self.narrow.get(&path);
            (path, narrow)
        }) {
            let (_, address, size) = key;
            echoes.extend([Echo::small(address), Echo::new(address, size)]);
            let Some(narrow) = narrow.filter(|narrow| narrow.is_suspected()) else {
                continue;
            };
            if narrow.fails - narrow.passes > 1 {
                searches += 1;
                if searches > SEARCHES {
                    continue;
                }
            }
            let sizes = narrow.sizes().into_iter();
            echoes.extend(sizes.map(|size| Echo::new(address, size)));
        }
        echoes
    }

    /// What a round has shown.
    pub fn heard(&mut self, asked: &[&Peer], sent: &BTreeSet<Echo>, answered: &BTreeSet<Echo>) {
        for path in paths(asked) {
            let (_, address, size) = path;
            let of = |echoes: &BTreeSet<Echo>| -> BTreeSet<u16> {
                let all = Echo::small(address)..=Echo::new(address, u16::MAX);
                echoes.range(all).map(|echo| echo.bytes).collect()
            };
            let (sent, passed) = (of(sent), of(answered));
            let least = Echo::small(address).bytes;
            if passed.contains(&size) {
                self.passed = true;
                self.narrow.remove(&path);
            } else if !passed.is_empty() && size > least {
                let narrow = self.narrow.entry(path);
                let narrow = narrow.or_insert_with(|| Narrow::new(least, size));
                narrow.heard(least, size, &sent, &passed);
            }
        }
    }

    /// What is to be said; nothing new while it is too early to tell.
    pub fn fact(&self, needs: Needs) -> Option<Fact> {
        let told: Vec<_> = self
            .narrow
            .iter()
            .filter(|(_, narrow)| narrow.is_told())
            .collect();
        let Some(narrowest) = told
            .iter()
            // What the tunnel takes is the same on all of a family's paths.
            .map(|((.., size), narrow)| narrow.passes.saturating_sub(size - needs.mtu.min(*size)))
            .min()
        else {
            let sure = self.narrow.is_empty() && self.passed;
            return sure.then(|| Fact::holds("FullSizePasses", ""));
        };
        let list: Vec<String> = told
            .iter()
            .map(|((name, address, size), narrow)| {
                let passes = narrow.passes;
                format!("{passes} of {size} bytes to {address} (node {name})")
            })
            .collect();
        let lower = if narrowest < needs.least {
            format!(
                " (what passes leaves pods {narrowest}, and they need {})",
                needs.least
            )
        } else {
            format!(
                ". Or give pods a smaller one: set traffic.mtu to {narrowest}, or lower the MTU of the nodes' \
                 transport interfaces"
            )
        };
        Some(Fact::fails(
            "PathTooNarrow",
            format!(
                "the network between the nodes takes smaller packets than its interfaces' MTU says; larger ones \
                 are lost on {} paths: {}. Raise the MTU of the network to what pods' MTU of {} needs{lower}",
                told.len(),
                some(&list, NAMED),
                needs.mtu,
            ),
        ))
    }
}

/// Every path to these nodes.
fn paths<'a>(asked: &'a [&Peer]) -> impl Iterator<Item = Path> + 'a {
    asked.iter().flat_map(|peer| {
        let path = |(address, size): (&IpAddr, &u16)| (peer.name.clone(), *address, *size);
        peer.paths.iter().map(path)
    })
}

#[cfg(test)]
mod tests {
    use carrick_k8s::condition::Status;
    use proptest::prelude::*;

    use super::super::tests::peer;
    use super::*;

    const NEEDS: Needs = Needs {
        mtu: 1450,
        least: 1280,
    };

    /// A round over a network that passes packets up to `width`; `loses` says which others it loses.
    fn round(
        paths: &mut Paths,
        asked: &[&Peer],
        width: u16,
        loses: impl Fn(&Echo) -> bool,
    ) -> usize {
        let sent = paths.echoes(asked);
        let passes = |echo: &&Echo| echo.bytes <= width && !loses(echo);
        let answered = sent.iter().filter(passes).copied().collect();
        paths.heard(asked, &sent, &answered);
        sent.len()
    }

    #[test]
    fn a_narrow_path_is_told_with_what_it_takes_until_it_is_wide_again() {
        let peers: Vec<Peer> = (0..3).map(peer).collect();
        let asked: Vec<&Peer> = peers.iter().collect();
        let mut paths = Paths::default();
        for _ in 0..ROUNDS + 4 {
            assert_eq!(paths.fact(NEEDS), None);
            let sent = paths.echoes(&asked);
            let wide = |echo: &&Echo| echo.bytes <= 1400 || echo.address != peers[1].addresses[0];
            let answered = sent.iter().filter(wide).copied().collect();
            paths.heard(&asked, &sent, &answered);
            if !paths.are_open() {
                break;
            }
        }
        let fact = paths.fact(NEEDS).unwrap();
        assert_eq!(fact.status, Status::False);
        for part in [
            "1400 of 1500 bytes to 192.0.2.1 (node node001)",
            "lost on 1 paths",
            "pods' MTU of 1450",
            "set traffic.mtu to 1350",
        ] {
            assert!(fact.message.contains(part), "{part}: {}", fact.message);
        }
        let needs = Needs {
            least: 1351,
            ..NEEDS
        };
        let message = paths.fact(needs).unwrap().message;
        assert!(
            message.contains("leaves pods 1350, and they need 1351"),
            "{message}"
        );
        assert!(!message.contains("set traffic.mtu"), "{message}");
        assert_eq!(paths.suspects().collect::<Vec<_>>(), ["node001"]);
        round(&mut paths, &asked, 1500, |_| false);
        assert_eq!(paths.fact(NEEDS).unwrap().status, Status::True);
    }

    #[test]
    fn lost_packets_and_nodes_that_are_down_are_no_finding() {
        let peers: Vec<Peer> = (0..3).map(peer).collect();
        let asked: Vec<&Peer> = peers.iter().collect();
        let mut paths = Paths::default();
        for _ in 0..10 {
            round(&mut paths, &asked, 0, |_| false);
            assert_eq!((paths.fact(NEEDS), paths.suspects().count()), (None, 0));
        }
        for turn in 0..10 {
            round(&mut paths, &asked, 1500, |echo| {
                echo.bytes == 1500 && turn % 3 != 0
            });
            assert!(
                paths
                    .fact(NEEDS)
                    .is_none_or(|fact| fact.status == Status::True)
            );
        }
    }

    #[test]
    fn a_path_that_becomes_wider_or_narrower_is_told_anew() {
        let peers = [peer(1)];
        let asked: Vec<&Peer> = peers.iter().collect();
        let mut paths = Paths::default();
        for width in [1400, 1420, 1300, 100] {
            let told = format!("{width} of 1500");
            let rounds = (0..15).position(|_| {
                round(&mut paths, &asked, width, |_| false);
                let fact = paths.fact(NEEDS);
                fact.is_some_and(|fact| fact.message.contains(&told))
            });
            assert!(rounds.is_some(), "{width}: {:?}", paths.fact(NEEDS));
        }
    }

    #[test]
    fn a_round_is_bounded_and_paths_that_are_gone_are_forgotten() {
        let peers: Vec<Peer> = (0..40).map(peer).collect();
        let asked: Vec<&Peer> = peers.iter().collect();
        let mut paths = Paths::default();
        for _ in 0..60 {
            let sent = round(&mut paths, &asked, 1400, |_| false);
            let (each, search) = (4, usize::from(SIZES) + 2);
            assert!(sent <= asked.len() * each + SEARCHES * search, "{sent}");
        }
        assert!(!paths.are_open(), "every search comes to an end");
        let mut other = peers[0].clone();
        other.paths.values_mut().for_each(|size| *size = 1400);
        paths.retain(&[other, peers[1].clone()]);
        assert_eq!(paths.suspects().collect::<Vec<_>>(), ["node001"]);
    }

    proptest! {
        /// Whatever the path takes, and though each third packet is lost, the search ends at it.
        #[test]
        fn the_search_finds_the_width(width in 28u16..9000, seed: u32) {
            let mut peer = peer(1);
            peer.paths.values_mut().for_each(|size| *size = 9000);
            let asked = [&peer];
            let mut paths = Paths::default();
            let found = (0u32..200).any(|turn| {
                // The small ones come through, or the round says nothing.
                let lost = |echo: &Echo| {
                    let mix = (seed ^ turn.wrapping_mul(0x9e37_79b9) ^ u32::from(echo.bytes)).wrapping_mul(0x85eb_ca6b);
                    echo.bytes > 28 && (mix >> 16) % 3 == 0
                };
                round(&mut paths, &asked, width, lost);
                let told = paths.narrow.values().all(|narrow| narrow.is_told() && narrow.passes == width);
                told && turn > 10
            });
            prop_assert!(found, "{:?}", paths.narrow);
        }
    }
}
