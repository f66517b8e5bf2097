//! When to make, introduce, promote and drop a CA, and when to sign a new leaf. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::{CertificateFacts, LeafNames};

/// How long certificates live and overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Life of a CA.
    pub ca_validity: Duration,
    /// Life of a leaf.
    pub leaf_validity: Duration,
    /// How long a bundle must have held a CA before it signs, and how long it stays in the bundle
    /// after it was replaced: more than clients take to see a changed ConfigMap.
    pub overlap: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        Self {
            ca_validity: Duration::from_secs(3650 * DAY),
            leaf_validity: Duration::from_secs(365 * DAY),
            overlap: Duration::from_hours(1),
        }
    }
}

/// Everything the next step follows from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The CA that signs.
    pub current: Option<CertificateFacts>,
    /// The CA that will sign.
    pub next: Option<CertificateFacts>,
    /// Since when the bundle holds `next`.
    pub introduced: Option<Timestamp>,
    /// The CA that signed.
    pub previous: Option<CertificateFacts>,
    /// Since when it signs no more.
    pub retired: Option<Timestamp>,
    /// The serving certificate.
    pub leaf: Option<CertificateFacts>,
}

/// Why a leaf is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafReason {
    /// There is none that can be read.
    Missing,
    /// Two thirds of its life are over.
    Aged,
    /// It is valid for other names than it must be.
    Names,
    /// Another CA signed it.
    Authority,
}

/// The next step of the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make the CA that signs from now on: there is none that works, so nothing can overlap.
    CreateAuthority,
    /// Make the next CA and put it into the bundle.
    Introduce,
    /// Let the next CA sign and keep the current one in the bundle.
    Promote,
    /// Take the previous CA out of the bundle.
    Drop,
    /// Sign a new leaf by the current CA.
    Issue(LeafReason),
    /// Nothing to do before then.
    Wait {
        /// When to ask again.
        until: Timestamp,
    },
}

fn part(facts: &CertificateFacts, numerator: i64, denominator: i64) -> Timestamp {
    let begin = facts.not_before.as_second();
    let life = facts.not_after.as_second().saturating_sub(begin);
    let at = begin.saturating_add(life / denominator * numerator);
    Timestamp::from_second(at).unwrap_or(Timestamp::MIN)
}

fn after(time: Timestamp, by: Duration) -> Timestamp {
    let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(time.as_second().saturating_add(seconds)).unwrap_or(Timestamp::MAX)
}

/// The next step; asked again after each until it says [`Step::Wait`].
#[must_use]
pub fn next_step(view: &View, names: &LeafNames, now: Timestamp, policy: &Policy) -> Step {
    let Some(current) = view.current.as_ref().filter(|ca| now < ca.not_after) else {
        return Step::CreateAuthority;
    };
    let mut wake = part(current, 2, 3);
    if now >= wake && view.next.is_none() {
        return Step::Introduce;
    }
    if view.next.is_some() {
        // A time that was lost counts as now: waiting too long is safe.
        let ready = after(view.introduced.unwrap_or(now), policy.overlap);
        if now >= ready {
            return Step::Promote;
        }
        wake = ready;
    }
    if let Some(reason) = leaf_reason(view, current, names, now) {
        return Step::Issue(reason);
    }
    if let Some(leaf) = &view.leaf {
        wake = wake.min(part(leaf, 2, 3));
    }
    if view.previous.is_some() {
        let over = after(view.retired.unwrap_or(now), policy.overlap);
        if now >= over {
            return Step::Drop;
        }
        wake = wake.min(over);
    }
    Step::Wait { until: wake }
}

fn leaf_reason(
    view: &View,
    current: &CertificateFacts,
    names: &LeafNames,
    now: Timestamp,
) -> Option<LeafReason> {
    let Some(leaf) = &view.leaf else {
        return Some(LeafReason::Missing);
    };
    if leaf.issuer_key_id != current.key_id {
        return Some(LeafReason::Authority);
    }
    if leaf.dns != names.dns || leaf.addresses != names.addresses {
        return Some(LeafReason::Names);
    }
    (now >= part(leaf, 2, 3)).then_some(LeafReason::Aged)
}
