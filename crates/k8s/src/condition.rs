//! Lists of `metav1.Condition`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Longest message of a condition in bytes (metav1 validation).
const MESSAGE_LIMIT: usize = 32_768;

/// `status` of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can tell now.
    Unknown,
}

impl Status {
    /// The text Kubernetes writes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// Whether [`set`] changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The list says something new and is to be written.
    Changed,
    /// The list says what it said.
    Same,
}

/// Sets the condition of type `type_`, keeping `lastTransitionTime` while the status stays. The
/// list stays sorted by type, so that two writers of the same facts write the same bytes.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: Status,
    reason: &str,
    message: &str,
    observed_generation: Option<i64>,
    now: Timestamp,
) -> Change {
    let mut end = message.len().min(MESSAGE_LIMIT);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let mut fresh = Condition {
        type_: type_.to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.to_owned(),
        message: message[..end].to_owned(),
        observed_generation,
        last_transition_time: Time(now),
    };
    let change = if let Some(old) = conditions.iter_mut().find(|c| c.type_ == type_) {
        if old.status == fresh.status {
            fresh.last_transition_time = old.last_transition_time.clone();
        }
        if *old == fresh {
            Change::Same
        } else {
            *old = fresh;
            Change::Changed
        }
    } else {
        conditions.push(fresh);
        Change::Changed
    };
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    change
}

/// The status of the condition of type `type_`; `Unknown` when there is none.
#[must_use]
pub fn status_of(conditions: &[Condition], type_: &str) -> Status {
    match conditions
        .iter()
        .find(|c| c.type_ == type_)
        .map(|c| c.status.as_str())
    {
        Some("True") => Status::True,
        Some("False") => Status::False,
        _ => Status::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let (first, later) = (
            Timestamp::from_second(1_000).unwrap(),
            Timestamp::from_second(2_000).unwrap(),
        );
        let mut list = vec![];
        assert_eq!(
            set(
                &mut list,
                "Ready",
                Status::False,
                "Waiting",
                "m",
                Some(1),
                first
            ),
            Change::Changed
        );
        assert_eq!(
            set(
                &mut list,
                "Ready",
                Status::False,
                "Waiting",
                "m",
                Some(1),
                later
            ),
            Change::Same
        );
        assert_eq!(
            set(
                &mut list,
                "Ready",
                Status::False,
                "Waiting",
                "other",
                Some(1),
                later
            ),
            Change::Changed
        );
        assert_eq!(list[0].last_transition_time.0, first);
        set(&mut list, "Ready", Status::True, "Fine", "", Some(1), later);
        assert_eq!(list[0].last_transition_time.0, later);
        set(
            &mut list,
            "Available",
            Status::True,
            "Fine",
            "",
            None,
            later,
        );
        assert_eq!(list[0].type_, "Available");
        assert_eq!(status_of(&list, "Ready"), Status::True);
        assert_eq!(status_of(&list, "Else"), Status::Unknown);
    }
}
