//! What became of a row of pings: pure, time is given.
//!
//! A ping is lost when no answer came within [`LATE`]; an answer that is only late is none lost (a busy
//! machine is late, a broken network loses). A gap is a row of lost pings: from the sending of its first
//! to the sending of the next one that was answered.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// After this a ping without an answer is lost.
pub const LATE: Duration = Duration::from_secs(3);
/// How many gaps are kept; a test that makes more looks at its first ones.
const MAX_GAPS: usize = 10_000;

/// Pings in the order they were sent.
#[derive(Debug)]
pub struct Timeline {
    begun: Instant,
    /// Not judged yet, oldest first: when it was sent, whether it was answered.
    outstanding: VecDeque<(Instant, bool)>,
    /// Number of the oldest one that is not judged.
    first: u64,
    lost: u64,
    /// When the first ping of the row that is being lost was sent.
    losing_since: Option<Instant>,
    /// When the last ping that was answered was sent.
    last_answered: Option<Instant>,
    gaps: Vec<Duration>,
}

impl Timeline {
    /// Nothing was sent yet.
    pub fn new(now: Instant) -> Self {
        Self {
            begun: now,
            outstanding: VecDeque::new(),
            first: 0,
            lost: 0,
            losing_since: None,
            last_answered: None,
            gaps: Vec::new(),
        }
    }

    /// A ping goes out now; its number.
    pub fn send(&mut self, now: Instant) -> u64 {
        self.outstanding.push_back((now, false));
        self.first + self.outstanding.len() as u64 - 1
    }

    /// The answer to a ping came; one that was judged already stays lost.
    pub fn answer(&mut self, number: u64) {
        let place = number
            .checked_sub(self.first)
            .and_then(|place| usize::try_from(place).ok());
        let Some(ping) = place.and_then(|place| self.outstanding.get_mut(place)) else {
            return;
        };
        ping.1 = true;
        self.last_answered = self.last_answered.max(Some(ping.0));
    }

    /// Judges what can be judged.
    pub fn judge(&mut self, now: Instant) {
        while let Some((sent, answered)) = self.outstanding.front().copied() {
            if answered {
                if let Some(since) = self.losing_since.take()
                    && self.gaps.len() < MAX_GAPS
                {
                    self.gaps.push(sent.duration_since(since));
                }
            } else if now.duration_since(sent) > LATE {
                self.lost += 1;
                self.losing_since.get_or_insert(sent);
            } else {
                return;
            }
            self.outstanding.pop_front();
            self.first += 1;
        }
    }

    /// Pings that were judged, lost ones among them.
    pub fn judged(&self) -> u64 {
        self.first
    }

    /// Pings that were lost.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Gaps that have ended, in order.
    pub fn gaps(&self) -> &[Duration] {
        &self.gaps
    }

    /// How long ago the last ping that was answered was sent.
    pub fn silent(&self, now: Instant) -> Duration {
        now.duration_since(self.last_answered.unwrap_or(self.begun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);

    /// Sends one ping a tick; the characters say what becomes of each: answered, late or lost.
    fn played(fates: &str) -> (Timeline, Instant) {
        let begun = Instant::now();
        let mut timeline = Timeline::new(begun);
        let mut now = begun;
        let mut late = Vec::new();
        for fate in fates.chars() {
            let number = timeline.send(now);
            match fate {
                '.' => timeline.answer(number),
                '~' => late.push(number),
                _ => {}
            }
            now += TICK;
            timeline.judge(now);
        }
        for number in late {
            timeline.answer(number);
        }
        now += LATE + TICK;
        timeline.judge(now);
        (timeline, now)
    }

    #[test]
    fn a_row_of_lost_pings_is_one_gap() {
        let (timeline, _) = played("...xxxx..x...");
        assert_eq!(timeline.lost(), 5);
        assert_eq!(timeline.judged(), 13);
        assert_eq!(timeline.gaps(), [4 * TICK, TICK]);
    }

    #[test]
    fn what_is_late_is_not_lost() {
        let (timeline, _) = played("..~~~~..");
        assert_eq!((timeline.lost(), timeline.gaps()), (0, &[][..]));
    }

    #[test]
    fn an_answer_after_the_verdict_changes_nothing() {
        let (mut timeline, now) = played(".x.");
        timeline.answer(1);
        timeline.answer(99);
        timeline.judge(now);
        assert_eq!(timeline.lost(), 1);
    }

    #[test]
    fn silence_is_told_before_it_is_judged() {
        let (timeline, now) = played("...xx");
        assert_eq!(timeline.silent(now), LATE + TICK + 3 * TICK);
        assert!(timeline.gaps().is_empty(), "it has not ended");
        assert_eq!(timeline.lost(), 2);
    }
}
