//! What an event may cost: pure.
//!
//! The rule is one sentence: ways that an event does not concern lose nothing. The rest says which ways it
//! concerns, for how long, and whether connections may break there.

use std::time::Duration;

use carrick_testbed::NodeKind;

use super::event::{Event, Lasting, Part, Shape, Strike, Way};

/// On the userspace datapath every packet waits for a turn of ovs-vswitchd's own threads: so much may be
/// missing on a busy machine without a fault (half a second was seen with ten times as much to do as
/// processors). The kernel's datapath has no such excuse.
const USERSPACE_NOISE: Duration = Duration::from_secs(1);
/// The same for new connections, each of which is given up after 4 s.
const USERSPACE_REFUSALS: u64 = 2;
/// Until a switch forwards again: its start, and the replay of the agent's commit.
pub const SWITCH_START: Duration = Duration::from_secs(20);
/// Until the tunnel's device is there again (docs/adr/0003): the kernel forwards all else meanwhile.
pub const TUNNEL_START: Duration = Duration::from_secs(3);
/// Neighbours are asked again and congestion control starts over.
const AFTER_A_LINK: Duration = Duration::from_secs(5);

/// What a way may lose from before an event until everything gets through again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// No gap longer than this, and no stream.
    Gap(Duration),
    /// A gap of at most this; streams may break.
    Break(Duration),
    /// It ends with its node and is taken up again by whoever measures.
    Ends,
}

impl Allowance {
    fn rank(self) -> (u8, Duration) {
        match self {
            Self::Gap(most) => (0, most),
            Self::Break(most) => (1, most),
            Self::Ends => (2, Duration::ZERO),
        }
    }

    /// The more generous of both.
    #[must_use]
    pub fn or_more(self, other: Self) -> Self {
        if other.rank() > self.rank() {
            other
        } else {
            self
        }
    }
}

/// What a way may lose by an event, while `open` lasts for at most `lasted`.
pub fn allowance(
    event: Event,
    open: Option<Lasting>,
    way: Way,
    shape: Shape,
    lasted: Duration,
) -> Allowance {
    let quiet = Allowance::Gap(match shape.kind {
        NodeKind::Namespace => USERSPACE_NOISE,
        NodeKind::Kernel => Duration::ZERO,
    });
    let here = match event {
        Event::Strike(strike) => of_strike(strike, way, shape, quiet),
        Event::Begin(lasting) | Event::End(lasting) => of_lasting(lasting, way, quiet, lasted),
    };
    let meanwhile = open.map_or(quiet, |lasting| of_lasting(lasting, way, quiet, lasted));
    here.or_more(meanwhile)
}

fn of_strike(strike: Strike, way: Way, shape: Shape, quiet: Allowance) -> Allowance {
    match strike {
        Strike::Kill(part) => of_part(part, way, shape, quiet),
        Strike::KillTwo(one, two) => {
            of_part(one, way, shape, quiet).or_more(of_part(two, way, shape, quiet))
        }
        Strike::PowerOff(node) | Strike::RegisterAgain(node) if way.touches(node) => {
            Allowance::Ends
        }
        _ => quiet,
    }
}

fn of_part(part: Part, way: Way, shape: Shape, quiet: Allowance) -> Allowance {
    let (Part::Vswitchd(node) | Part::Database(node)) = part else {
        return quiet;
    };
    if !way.touches(node) {
        return quiet;
    }
    match (shape.kind, part) {
        // It forwards in its own threads and remembers connections there.
        (NodeKind::Namespace, _) => Allowance::Break(SWITCH_START),
        (NodeKind::Kernel, _) if way.crosses(node) => Allowance::Gap(TUNNEL_START),
        (NodeKind::Kernel, _) => quiet,
    }
}

fn of_lasting(lasting: Lasting, way: Way, quiet: Allowance, lasted: Duration) -> Allowance {
    match lasting {
        Lasting::LinkCut(node) if way.crosses(node) => Allowance::Gap(lasted + AFTER_A_LINK),
        // What is lost is lost by chance: a row of ten in 5 % comes once in 10^13.
        Lasting::Lossy(node) if way.crosses(node) => {
            quiet.or_more(Allowance::Gap(Duration::from_millis(500)))
        }
        // Its beginning and its end reorder and drop what is in the queue.
        Lasting::Slow(node) if way.crosses(node) => {
            quiet.or_more(Allowance::Gap(Duration::from_secs(1)))
        }
        _ => quiet,
    }
}

/// How many new connections may fail on a way: a switch that starts answers no first packet.
pub fn refusals(event: Event, open: Option<Lasting>, way: Way, shape: Shape) -> u64 {
    if may_refuse(event, open, way) {
        return u64::MAX;
    }
    match shape.kind {
        NodeKind::Namespace => USERSPACE_REFUSALS,
        NodeKind::Kernel => 0,
    }
}

fn may_refuse(event: Event, open: Option<Lasting>, way: Way) -> bool {
    let part = |part: Part| match part {
        Part::Vswitchd(node) | Part::Database(node) => way.touches(node),
        _ => false,
    };
    let lasting = |lasting: Lasting| match lasting {
        Lasting::LinkCut(node) | Lasting::Lossy(node) | Lasting::Slow(node) => way.crosses(node),
        _ => false,
    };
    let here = match event {
        Event::Strike(Strike::Kill(one)) => part(one),
        Event::Strike(Strike::KillTwo(one, two)) => part(one) || part(two),
        Event::Strike(Strike::PowerOff(node) | Strike::RegisterAgain(node)) => way.touches(node),
        Event::Strike(_) => false,
        Event::Begin(what) | Event::End(what) => lasting(what),
    };
    here || open.is_some_and(lasting)
}

/// Whether nothing gets through on a way for as long as `open` lasts.
pub fn is_cut(open: Option<Lasting>, way: Way) -> bool {
    matches!(open, Some(Lasting::LinkCut(node)) if way.crosses(node))
}

/// How long until everything gets through again.
pub fn recovery(event: Event) -> Duration {
    match event {
        Event::Strike(Strike::PowerOff(_) | Strike::RegisterAgain(_)) => Duration::from_mins(3),
        // A kubelet that lost its connection to the runtime counts from there.
        _ => Duration::from_mins(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::sequence::Sequence;

    const KERNEL: Shape = Shape {
        nodes: 3,
        kind: NodeKind::Kernel,
    };
    const NAMESPACE: Shape = Shape {
        nodes: 3,
        kind: NodeKind::Namespace,
    };
    const LASTED: Duration = Duration::from_secs(30);

    /// Invariant 1 of the design: forwarding outlives its makers.
    #[test]
    fn no_maker_of_flows_may_cost_a_packet() {
        for shape in [KERNEL, NAMESPACE] {
            let noise = match shape.kind {
                NodeKind::Kernel => Duration::ZERO,
                NodeKind::Namespace => USERSPACE_NOISE,
            };
            for part in [
                Part::Agent(0),
                Part::ControllerLeader,
                Part::ControllerStandby,
                Part::Operator,
                Part::Kubelet(1),
                Part::Runtime(2),
            ] {
                for way in Way::all(3) {
                    let event = Event::Strike(Strike::Kill(part));
                    let most = allowance(event, None, way, shape, LASTED);
                    assert_eq!(most, Allowance::Gap(noise), "{part} on {way}");
                }
            }
        }
    }

    #[test]
    fn a_way_that_touches_no_node_of_an_event_loses_nothing() {
        for shape in [KERNEL, NAMESPACE] {
            for seed in 0..100 {
                let mut sequence = Sequence::new(seed, shape);
                for _ in 0..100 {
                    let open = sequence.open();
                    let Some(event) = sequence.next() else {
                        break;
                    };
                    let mut nodes: Vec<_> = open.and_then(Lasting::node).into_iter().collect();
                    nodes.extend(
                        match event {
                            Event::Begin(lasting) | Event::End(lasting) => vec![lasting.node()],
                            Event::Strike(Strike::Kill(part)) => vec![part.node()],
                            Event::Strike(Strike::KillTwo(one, two)) => {
                                vec![one.node(), two.node()]
                            }
                            Event::Strike(
                                Strike::PowerOff(node)
                                | Strike::RegisterAgain(node)
                                | Strike::Corrupt(node, _)
                                | Strike::OtherBoot(node, _)
                                | Strike::SecondAgent(node)
                                | Strike::Crowd(node, _)
                                | Strike::DeleteBehind(node)
                                | Strike::ClockJump(node, _)
                                | Strike::OutOfMemory(node),
                            ) => vec![Some(node)],
                            Event::Strike(Strike::Rotate | Strike::Policies(_)) => vec![],
                        }
                        .into_iter()
                        .flatten(),
                    );
                    for way in Way::all(3) {
                        if nodes.iter().any(|node| way.touches(*node)) {
                            continue;
                        }
                        let most = allowance(event, open, way, shape, LASTED);
                        assert!(
                            matches!(most, Allowance::Gap(gap) if gap <= USERSPACE_NOISE),
                            "{event} while {open:?}: {most:?} on {way}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_cut_link_stops_what_crosses_it_and_nothing_else() {
        let open = Some(Lasting::LinkCut(1));
        assert!(is_cut(open, Way::Across(0, 1)) && is_cut(open, Way::Across(1, 2)));
        assert!(!is_cut(open, Way::Within(1)) && !is_cut(open, Way::Across(2, 0)));
        assert!(!is_cut(None, Way::Across(0, 1)));
    }

    #[test]
    fn a_switch_costs_a_tunnel_on_the_kernel_datapath_and_all_of_its_node_in_userspace() {
        let event = Event::Strike(Strike::Kill(Part::Vswitchd(0)));
        let of = |way, shape| allowance(event, None, way, shape, LASTED);
        assert_eq!(of(Way::Within(0), KERNEL), Allowance::Gap(Duration::ZERO));
        assert_eq!(of(Way::Across(2, 0), KERNEL), Allowance::Gap(TUNNEL_START));
        assert_eq!(
            of(Way::Within(0), NAMESPACE),
            Allowance::Break(SWITCH_START)
        );
        assert_eq!(
            of(Way::Across(1, 2), NAMESPACE),
            Allowance::Gap(USERSPACE_NOISE)
        );
    }
}
