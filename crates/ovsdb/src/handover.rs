//! Who may write flows: `carrick switch` and the agent never write at the same time.
//!
//! Each start of ovs-vswitchd has an id, kept in `Open_vSwitch.external_ids`:
//!
//! 1. Before it starts ovs-vswitchd, `carrick switch` sets `carrick-start=<id>` and removes
//!    `carrick-restored`.
//! 2. It replays the agent's last commit.
//! 3. It sets `carrick-restored=<id>` and writes no more until the next start.
//!
//! An agent writes to a bridge only by a connection that it opened *before* it read from the server
//! that both keys hold the same id: [`SwitchDb::restored_now`](crate::switch::SwitchDb::restored_now). When
//! ovs-vswitchd is started again that connection is lost, and what it writes with it; a new
//! connection reaches a switch whose new id was set before it started, so the agent's next reading
//! finds the keys differ until the replay is done.

use std::fmt;

use uuid::Uuid;

use crate::operation::{Condition, Mutation, Mutator, Operation};
use crate::rows::{OpenVSwitch, table};
use crate::value::Datum;

/// The key with the id of ovs-vswitchd's present start.
pub const START: &str = "carrick-start";
/// The key with the id of the start whose replay is done.
pub const RESTORED: &str = "carrick-restored";
/// The key with what came of the replay, for people and for the agent's condition: `restored …`,
/// `nothing …`, `unusable …` or `failed …`.
pub const RESULT: &str = "carrick-restore-result";

/// The id of one start of ovs-vswitchd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StartId(Uuid);

impl StartId {
    /// An id unlike any other.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for StartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The present start, once its replay is done.
#[must_use]
pub fn restored(root: &OpenVSwitch) -> Option<StartId> {
    let start = root.external_ids.get(START)?;
    let restored = root.external_ids.get(RESTORED)?;
    if start != restored {
        return None;
    }
    Uuid::parse_str(start).ok().map(StartId)
}

fn mutate(mutations: Vec<Mutation>) -> Operation {
    // The table has one row.
    let conditions: Vec<Condition> = Vec::new();
    Operation::Mutate {
        table: table::OPEN_VSWITCH.to_owned(),
        conditions,
        mutations,
    }
}

/// Step 1: a new start; nobody may write.
#[must_use]
pub fn begin(id: StartId) -> Operation {
    let id = id.to_string();
    mutate(vec![
        Mutation::new(
            "external_ids",
            Mutator::Delete,
            Datum::set([START, RESTORED, RESULT]),
        ),
        Mutation::new(
            "external_ids",
            Mutator::Insert,
            Datum::map([(START, id.as_str())]),
        ),
    ])
}

/// Step 3: the replay is done, with this result; the agent may write.
#[must_use]
pub fn finish(id: StartId, result: &str) -> Operation {
    let id = id.to_string();
    let keys = Datum::map([(RESTORED, id.as_str()), (RESULT, result)]);
    mutate(vec![
        Mutation::new(
            "external_ids",
            Mutator::Delete,
            Datum::set([RESTORED, RESULT]),
        ),
        Mutation::new("external_ids", Mutator::Insert, keys),
    ])
}
