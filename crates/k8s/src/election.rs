//! Who leads: a pure function from what is known of the Lease to the next step.
//!
//! Time is a [`Duration`] since the driver's start, by a monotonic clock; the clocks of different
//! machines are never compared. A follower counts a holder's time from when *it* saw the Lease
//! change; a leader counts its own from when it *sent* the renewal that succeeded. With
//! `deadline < lease` the leader has stopped before anyone may follow it:
//!
//! ```text
//! leader    sends renewal ──────── deadline ─► stops
//! follower        └─ sees the change at or after that ──────────── lease ─► may acquire
//! ```
//!
//! Every acquisition raises the epoch, also one by the same identity: a container that was
//! restarted in its pod has lost its log and must not continue the numbers of the old one.

use std::time::Duration;

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a holder that was not seen to renew keeps the Lease.
    pub lease: Duration,
    /// How long after its last successful renewal a leader stops. Less than `lease`.
    pub deadline: Duration,
    /// Between renewals, and between a follower's looks at the Lease.
    pub period: Duration,
    /// How long one request may take.
    pub attempt: Duration,
}

impl Default for Timing {
    /// A follower takes over at most 14 s after the leader died, 2 s after it said goodbye.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(12),
            deadline: Duration::from_secs(8),
            period: Duration::from_secs(2),
            attempt: Duration::from_secs(4),
        }
    }
}

/// What the Lease said when it was last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseFacts {
    /// Who holds it; empty or absent = free.
    pub holder: Option<String>,
    /// Where the holder is reached.
    pub address: Option<String>,
    /// The epoch in its annotation.
    pub epoch: u64,
    /// How long it says a holder keeps it.
    pub duration: Duration,
    /// Changes with every renewal (renewTime and resourceVersion as text; never compared as time).
    pub beat: String,
}

/// What is known of the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Knowledge {
    /// Not read yet, or an attempt to write showed that what was read is old.
    Unknown,
    /// There is none. `held_until`: it was there and held, so its holder may still be serving.
    Absent {
        /// Until when the holder of the vanished Lease is respected.
        held_until: Option<Duration>,
    },
    /// It is there and has looked like this since.
    Present {
        /// What it says.
        facts: LeaseFacts,
        /// When this was first seen.
        since: Duration,
    },
}

/// What we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Another leads, or nobody.
    Follower,
    /// We lead.
    Leader {
        /// The epoch we serve by.
        epoch: u64,
        /// When the last successful write was sent.
        renewed: Duration,
    },
}

/// Everything the next step follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Our name in the Lease.
    pub identity: String,
    /// How long things take.
    pub timing: Timing,
    /// What we are.
    pub role: Role,
    /// What is known of the Lease.
    pub lease: Knowledge,
    /// When the Lease was last read or written, in vain or not.
    pub tried: Option<Duration>,
    /// When knowledge was last refreshed from the API server.
    pub read: Option<Duration>,
    /// The highest epoch ever seen, in the Lease or told by [`State::demand`].
    pub highest: u64,
    /// An epoch the one we serve by must exceed, because an agent has numbers of it that are not
    /// ours.
    pub exceed: u64,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing until then.
    Wait {
        /// When to ask again.
        until: Duration,
    },
    /// Read the Lease.
    Read,
    /// Make the Lease, with us as its holder.
    Create {
        /// The epoch to write.
        epoch: u64,
    },
    /// Take the Lease, if it still is as it was read.
    Acquire {
        /// The epoch to write.
        epoch: u64,
    },
    /// Keep the Lease, if it still is as it was read.
    Renew {
        /// The epoch to write: the one served by, or a higher one that was demanded.
        epoch: u64,
    },
    /// Stop serving now.
    StepDown,
}

/// How a step that wrote ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The Lease says what was written.
    Written,
    /// Someone else wrote first, or the Lease is gone: read it again.
    Conflict,
    /// No answer, or a refusal that says nothing about the Lease.
    Failed,
}

impl State {
    /// A follower that knows nothing.
    #[must_use]
    pub fn new(identity: String, timing: Timing) -> Self {
        Self {
            identity,
            timing,
            role: Role::Follower,
            lease: Knowledge::Unknown,
            tried: None,
            read: None,
            highest: 0,
            exceed: 0,
        }
    }

    /// The Lease was read at `now` (the time the answer came).
    pub fn observed(&mut self, facts: Option<LeaseFacts>, now: Duration) {
        self.read = Some(now);
        if let Some(facts) = facts {
            self.highest = self.highest.max(facts.epoch);
            let ours = facts.holder.as_deref() == Some(self.identity.as_str());
            let unchanged = match &self.lease {
                Knowledge::Present { facts: old, since } if *old == facts => Some(*since),
                _ => None,
            };
            if !ours && matches!(self.role, Role::Leader { .. }) && is_held(&facts) {
                // Another holds it: our time is over, whatever the deadline says.
                self.lose(now);
            }
            self.lease = Knowledge::Present {
                facts,
                since: unchanged.unwrap_or(now),
            };
        } else {
            let held_until = match &self.lease {
                Knowledge::Present { facts, .. } if is_held(facts) => Some(now + facts.duration),
                Knowledge::Absent { held_until } => *held_until,
                _ => None,
            };
            self.lease = Knowledge::Absent { held_until };
        }
    }

    /// Makes the deadline pass, so that the next step is to step down.
    fn lose(&mut self, now: Duration) {
        if let Role::Leader { renewed, .. } = &mut self.role {
            *renewed = now.saturating_sub(self.timing.deadline);
        }
    }

    /// An agent has numbers of `epoch` that are not ours: the one we serve by must be higher.
    pub fn demand(&mut self, epoch: u64) {
        self.highest = self.highest.max(epoch);
        self.exceed = self.exceed.max(epoch);
    }

    /// A write that was sent at `sent` ended. `facts` is the Lease as it was written.
    pub fn wrote(
        &mut self,
        epoch: u64,
        sent: Duration,
        outcome: Outcome,
        facts: Option<LeaseFacts>,
    ) {
        self.tried = Some(sent);
        match outcome {
            Outcome::Written => {
                self.role = Role::Leader {
                    epoch,
                    renewed: sent,
                };
                self.highest = self.highest.max(epoch);
                if let Some(facts) = facts {
                    self.lease = Knowledge::Present { facts, since: sent };
                    self.read = Some(sent);
                }
            }
            // A write without an answer may have been done: read before the next.
            Outcome::Conflict | Outcome::Failed => self.read = None,
        }
    }

    /// A read that was sent at `sent` got no answer.
    pub fn read_failed(&mut self, sent: Duration) {
        self.tried = Some(sent);
    }

    /// We have stopped serving.
    pub fn stepped_down(&mut self) {
        self.role = Role::Follower;
        self.read = None;
    }
}

fn is_held(facts: &LeaseFacts) -> bool {
    facts
        .holder
        .as_deref()
        .is_some_and(|holder| !holder.is_empty())
}

/// The next step. Pure: asked twice with the same arguments it says the same.
#[must_use]
pub fn evaluate(state: &State, now: Duration) -> Step {
    match state.role {
        Role::Leader { epoch, renewed } => lead(state, epoch, renewed, now),
        Role::Follower => follow(state, now),
    }
}

fn lead(state: &State, epoch: u64, renewed: Duration, now: Duration) -> Step {
    let deadline = renewed + state.timing.deadline;
    if now >= deadline {
        return Step::StepDown;
    }
    let wanted = if state.exceed >= epoch {
        state.highest + 1
    } else {
        epoch
    };
    let next_try = state
        .tried
        .map_or(Duration::ZERO, |tried| tried + state.timing.period);
    let retry_failed = state.tried.is_some_and(|tried| tried > renewed);
    if (wanted > epoch && !retry_failed) || now >= next_try {
        return match &state.lease {
            // What is there is not known: look before writing.
            _ if state.read.is_none() => Step::Read,
            Knowledge::Unknown => Step::Read,
            Knowledge::Absent { .. } => Step::Create { epoch: wanted },
            Knowledge::Present { .. } => Step::Renew { epoch: wanted },
        };
    }
    Step::Wait {
        until: next_try.min(deadline),
    }
}

fn follow(state: &State, now: Duration) -> Step {
    let next_try = state
        .tried
        .map_or(Duration::ZERO, |tried| tried + state.timing.period);
    if now < next_try {
        return Step::Wait { until: next_try };
    }
    // Act on what was read just now only.
    let fresh = state
        .read
        .is_some_and(|read| now < read + state.timing.period);
    if !fresh {
        return Step::Read;
    }
    let look_again = state.read.map_or(now, |read| read + state.timing.period);
    let epoch = state.highest + 1;
    match &state.lease {
        Knowledge::Unknown => Step::Read,
        Knowledge::Absent { held_until } => match held_until {
            Some(until) if now < *until => Step::Wait {
                until: look_again.min(*until),
            },
            _ => Step::Create { epoch },
        },
        Knowledge::Present { facts, since } => {
            let ours = facts.holder.as_deref() == Some(state.identity.as_str());
            let expires = *since + facts.duration;
            if ours || !is_held(facts) || now >= expires {
                Step::Acquire { epoch }
            } else {
                Step::Wait {
                    until: look_again.min(expires),
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "election_tests.rs"]
mod tests;
