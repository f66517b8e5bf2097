//! Which event comes next: drawn from a seed, and always one that may come.
//!
//! The same seed and [`Shape`] give the same events whatever happens on the cluster, and whatever
//! version of a random number crate the workspace has: the generator is SplitMix64 (Steele, Lea and
//! Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).

use carrick_testbed::NodeKind;

use super::event::{Event, Lasting, Part, Place, Shape, StateFile, Strike};

/// Events after the beginning of something lasting until it ends, its end not counted.
const MOST_MEANWHILE: u64 = 2;

#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`. The bias of a remainder does not matter for a handful of choices.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    fn place(&mut self, shape: Shape) -> Place {
        usize::try_from(self.below(shape.nodes as u64)).unwrap_or_default()
    }

    fn choice<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        let place = usize::try_from(self.below(all.len() as u64)).unwrap_or_default();
        all.get(place).copied()
    }
}

/// An endless row of events.
#[derive(Debug, Clone)]
pub struct Sequence {
    random: Random,
    shape: Shape,
    /// What lasts, and how many more events come until it ends.
    open: Option<(Lasting, u64)>,
}

impl Sequence {
    /// The events of a seed on clusters of a shape.
    pub fn new(seed: u64, shape: Shape) -> Self {
        Self {
            random: Random(seed),
            shape,
            open: None,
        }
    }

    /// What lasts now.
    pub fn open(&self) -> Option<Lasting> {
        self.open.map(|(lasting, _)| lasting)
    }

    /// The event that ends what lasts, at the end of a run.
    pub fn close(&mut self) -> Option<Event> {
        self.open.take().map(|(lasting, _)| Event::End(lasting))
    }

    fn draw(&mut self) -> Option<Event> {
        let node = self.random.place(self.shape);
        // Kills are what happens most.
        let event = match self.random.below(10) {
            0..=3 => Event::Strike(Strike::Kill(self.part()?)),
            4..=5 => Event::Strike(Strike::KillTwo(self.part()?, self.part()?)),
            6..=7 => Event::Begin(self.lasting(node)?),
            _ => Event::Strike(self.strike(node)?),
        };
        Some(event)
    }

    fn part(&mut self) -> Option<Part> {
        let node = self.random.place(self.shape);
        self.random.choice(&[
            Part::Agent(node),
            Part::ControllerLeader,
            Part::ControllerStandby,
            Part::Operator,
            Part::Vswitchd(node),
            Part::Database(node),
            Part::Runtime(node),
            Part::Kubelet(node),
        ])
    }

    fn lasting(&mut self, node: Place) -> Option<Lasting> {
        self.random.choice(&[
            Lasting::ApiServerAway,
            Lasting::EtcdPaused,
            Lasting::LinkCut(node),
            Lasting::LowMtu(node),
            Lasting::Lossy(node),
            Lasting::Slow(node),
            Lasting::DiskFull(node),
            Lasting::FewDescriptors(node),
        ])
    }

    fn strike(&mut self, node: Place) -> Option<Strike> {
        let file = self.random.choice(&[
            StateFile::Attachments,
            StateFile::Records,
            StateFile::Ledger,
            StateFile::Commit,
        ])?;
        let seconds = self.random.choice(&[-3600, -30, 30, 3600])?;
        self.random.choice(&[
            Strike::PowerOff(node),
            Strike::Corrupt(node, file),
            Strike::OtherBoot(node, file),
            Strike::SecondAgent(node),
            Strike::Rotate,
            Strike::Crowd(node, 10),
            Strike::DeleteBehind(node),
            Strike::RegisterAgain(node),
            Strike::ClockJump(node, seconds),
            Strike::OutOfMemory(node),
            Strike::Policies(100),
        ])
    }
}

impl Iterator for Sequence {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if let Some((lasting, 0)) = self.open {
            self.open = None;
            return Some(Event::End(lasting));
        }
        // Something may come in every state, a kill of an agent at the least.
        let event = loop {
            if let Some(event) = self.draw()
                && may_come(event, self.open(), self.shape)
            {
                break event;
            }
        };
        self.open = match (event, self.open) {
            (Event::Begin(lasting), _) => Some((lasting, self.random.below(MOST_MEANWHILE + 1))),
            (_, Some((lasting, left))) => Some((lasting, left - 1)),
            (_, None) => None,
        };
        Some(event)
    }
}

/// Whether a cluster of this shape, on which `open` lasts, comes back from an event by itself.
pub fn may_come(event: Event, open: Option<Lasting>, shape: Shape) -> bool {
    match event {
        Event::End(lasting) => open == Some(lasting),
        Event::Begin(lasting) => open.is_none() && fits_lasting(lasting, shape),
        Event::Strike(strike) => fits(strike, shape) && open.is_none_or(|open| bears(open, strike)),
    }
}

/// Only kernel nodes have it: on namespace nodes it is the host's own.
fn fits_lasting(lasting: Lasting, shape: Shape) -> bool {
    shape.kind == NodeKind::Kernel || !matches!(lasting, Lasting::Slow(_) | Lasting::DiskFull(_))
}

fn fits(strike: Strike, shape: Shape) -> bool {
    match strike {
        Strike::KillTwo(one, two) => one != two && !takes_the_control(one, two),
        // The boot id of a namespace node is the host's: what it kept would not be of another boot. So are
        // its clock and, in control groups of version 1, what a limit does.
        Strike::PowerOff(_) | Strike::ClockJump(..) | Strike::OutOfMemory(_) => {
            shape.kind == NodeKind::Kernel
        }
        // Records are of no boot; a journal's own checksums know every byte.
        Strike::OtherBoot(_, file) => matches!(file, StateFile::Ledger | StateFile::Commit),
        _ => true,
    }
}

/// Both controllers at once leave nobody to take over: a fault of its own, not a chance's.
fn takes_the_control(one: Part, two: Part) -> bool {
    let pair = [one, two];
    pair.contains(&Part::ControllerLeader) && pair.contains(&Part::ControllerStandby)
}

/// Whether a strike can be made, and mends itself, while something lasts.
fn bears(open: Lasting, strike: Strike) -> bool {
    if open.stops_kubernetes() {
        // Who leads cannot be asked; a kubelet that starts without an API server starts nothing.
        let local =
            |part: Part| matches!(part, Part::Agent(_) | Part::Vswitchd(_) | Part::Database(_));
        return match strike {
            Strike::Kill(part) => local(part),
            Strike::KillTwo(one, two) => local(one) && local(two),
            _ => false,
        };
    }
    let there = |node: Place| open.node() == Some(node);
    match (open, strike) {
        // The agent that has the limit must not be exchanged for one without; a kubelet needs a disk for
        // whatever it starts. Open vSwitch's database lies in memory.
        (Lasting::FewDescriptors(_) | Lasting::DiskFull(_), Strike::Kill(part)) => {
            spared(open, part)
        }
        (Lasting::FewDescriptors(_) | Lasting::DiskFull(_), Strike::KillTwo(one, two)) => {
            spared(open, one) && spared(open, two)
        }
        (_, Strike::Kill(_) | Strike::KillTwo(..) | Strike::Rotate) => true,
        // Every agent is to say that it has them.
        (_, Strike::Policies(_)) => false,
        // A start brings a whole link, an empty memory and another agent.
        (
            _,
            Strike::PowerOff(node)
            | Strike::Corrupt(node, _)
            | Strike::OtherBoot(node, _)
            | Strike::SecondAgent(node)
            | Strike::Crowd(node, _)
            | Strike::DeleteBehind(node)
            | Strike::RegisterAgain(node)
            | Strike::ClockJump(node, _)
            | Strike::OutOfMemory(node),
        ) => !there(node),
    }
}

/// Whether a part may be killed while the node it may be on lacks something.
fn spared(open: Lasting, part: Part) -> bool {
    match part {
        Part::Vswitchd(_) | Part::Database(_) => true,
        // Those that move may be there.
        Part::ControllerLeader | Part::ControllerStandby | Part::Operator => {
            !matches!(open, Lasting::DiskFull(_))
        }
        Part::Agent(node) | Part::Runtime(node) | Part::Kubelet(node) => open.node() != Some(node),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SHAPES: [Shape; 3] = [
        Shape {
            nodes: 3,
            kind: NodeKind::Namespace,
        },
        Shape {
            nodes: 3,
            kind: NodeKind::Kernel,
        },
        Shape {
            nodes: 2,
            kind: NodeKind::Kernel,
        },
    ];

    /// Seeds whose events are looked at one by one.
    fn runs() -> impl Iterator<Item = (Shape, u64)> {
        SHAPES
            .into_iter()
            .flat_map(|shape| (0..200).map(move |seed| (shape, seed)))
    }

    #[test]
    fn the_same_seed_gives_the_same_events() {
        for (shape, seed) in runs() {
            let take = || Sequence::new(seed, shape).take(100).collect::<Vec<_>>();
            assert_eq!(take(), take());
        }
        let of = |seed| Sequence::new(seed, SHAPES[0]).take(20).collect::<Vec<_>>();
        assert_ne!(of(1), of(2));
    }

    /// A run that failed is told by its seed: what that means must not change unseen.
    #[test]
    fn the_events_of_seed_1_are_these() {
        let events: Vec<String> = Sequence::new(1, SHAPES[0])
            .take(12)
            .map(|event| event.to_string())
            .collect();
        insta::assert_snapshot!(events.join("\n"));
    }

    #[test]
    fn what_begins_ends_and_nothing_lasts_beside_it() {
        for (shape, seed) in runs() {
            let mut open = None;
            let mut meanwhile = 0;
            for event in Sequence::new(seed, shape).take(300) {
                assert!(may_come(event, open, shape), "{event} while {open:?}");
                match event {
                    Event::Begin(lasting) => {
                        assert_eq!(open.replace(lasting), None);
                        meanwhile = 0;
                    }
                    Event::End(lasting) => assert_eq!(open.take(), Some(lasting)),
                    Event::Strike(_) => meanwhile += 1,
                }
                assert!(
                    open.is_none() || meanwhile <= MOST_MEANWHILE,
                    "{open:?} lasts"
                );
            }
        }
    }

    #[test]
    fn a_run_can_be_closed_at_any_time() {
        for (shape, seed) in runs() {
            let mut sequence = Sequence::new(seed, shape);
            for _ in 0..seed % 40 {
                sequence.next();
            }
            let open = sequence.open();
            assert_eq!(sequence.close(), open.map(Event::End));
            assert_eq!(sequence.open(), None);
        }
    }

    #[test]
    fn both_controllers_are_never_killed_together() {
        for (shape, seed) in runs() {
            for event in Sequence::new(seed, shape).take(300) {
                if let Event::Strike(Strike::KillTwo(one, two)) = event {
                    assert_ne!(one, two);
                    assert!(!takes_the_control(one, two), "{event}");
                }
            }
        }
    }

    #[test]
    fn without_an_api_server_only_what_a_kubelet_mends_alone_is_broken() {
        for (shape, seed) in runs() {
            let mut open: Option<Lasting> = None;
            for event in Sequence::new(seed, shape).take(300) {
                match event {
                    Event::Begin(lasting) => open = Some(lasting),
                    Event::End(_) => open = None,
                    Event::Strike(strike) if open.is_some_and(Lasting::stops_kubernetes) => {
                        let parts = match strike {
                            Strike::Kill(part) => vec![part],
                            Strike::KillTwo(one, two) => vec![one, two],
                            other => panic!("{other} without an API server"),
                        };
                        for part in parts {
                            assert!(part.node().is_some(), "{part}: who leads is not known");
                            assert!(!matches!(part, Part::Kubelet(_) | Part::Runtime(_)));
                        }
                    }
                    Event::Strike(_) => {}
                }
            }
        }
    }

    /// No event is so rare that it never comes, and none comes that a node kind cannot do.
    #[test]
    fn every_kind_of_event_comes() {
        for shape in SHAPES {
            let mut kinds = BTreeSet::new();
            for seed in 0..60 {
                kinds.extend(
                    Sequence::new(seed, shape)
                        .take(100)
                        .map(|event| match event {
                            Event::Strike(strike) => format!("{strike:?}"),
                            Event::Begin(lasting) | Event::End(lasting) => format!("{lasting:?}"),
                        })
                        .map(|text| text.split('(').next().unwrap_or_default().to_owned()),
                );
            }
            let kernel = shape.kind == NodeKind::Kernel;
            assert_eq!(kinds.len(), if kernel { 21 } else { 16 }, "{kinds:?}");
            assert_eq!(kinds.contains("DiskFull"), kernel);
        }
    }
}
