//! A flow of policy: where it stands, what for, and how the switch is told of it.

use carrick_openflow::{Action, Flow, Instructions, MatchError, TableId};

use super::clause::Clause;
use super::part::Effect;
use crate::cookie::{CookieParts, Kind};
use crate::table::Table;

/// A flow of the switch by what makes it itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) table: Table,
    pub(super) priority: u16,
    pub(super) clause: Clause,
}

/// What a flow is there for. What decides comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    Decide {
        effect: Effect,
        object: u32,
    },
    Clause {
        conjunction: u32,
        number: u8,
        of: u8,
    },
}

/// What shows of a flow's purposes: the first that decides, or all that share it.
pub(super) fn shown<'a>(
    purposes: impl Iterator<Item = &'a Purpose>,
) -> impl Iterator<Item = &'a Purpose> {
    let mut decided = false;
    purposes.take_while(move |purpose| {
        let goes_on = !decided;
        decided = matches!(purpose, Purpose::Decide { .. });
        goes_on
    })
}

/// Whose flow it is: the rule's that decides, nobody's where rules share what they match.
pub(super) fn cookie<'a>(mut purposes: impl Iterator<Item = &'a Purpose>) -> CookieParts {
    match purposes.next() {
        Some(Purpose::Decide { object, .. }) => CookieParts {
            kind: Kind::PolicyRule,
            object: *object,
        },
        _ => CookieParts {
            kind: Kind::PolicyClause,
            object: 0,
        },
    }
}

impl Place {
    pub(super) fn flow<'a>(
        &self,
        purposes: impl Iterator<Item = &'a Purpose> + Clone,
    ) -> Result<Flow, MatchError> {
        let instructions = match purposes.clone().next() {
            Some(Purpose::Decide { effect, .. }) => match effect {
                Effect::Drop => Instructions::drop(),
                Effect::Goto(table) => Instructions {
                    goto: Some(TableId(table.id())),
                    ..Instructions::default()
                },
            },
            _ => Instructions {
                apply: purposes
                    .clone()
                    .filter_map(|purpose| purpose.action())
                    .collect(),
                ..Instructions::default()
            },
        };
        let bits = cookie(purposes).to_bits();
        let (table, match_) = (TableId(self.table.id()), self.clause.to_match()?);
        let flow = Flow::new(table, self.priority, match_, instructions);
        Ok(flow.with_cookie(carrick_openflow::Cookie(bits)))
    }
}

impl Purpose {
    /// The id of what it is for.
    pub(super) const fn id(self) -> u32 {
        match self {
            Self::Decide { object, .. } => object,
            Self::Clause { conjunction, .. } => conjunction,
        }
    }

    fn action(self) -> Option<Action> {
        match self {
            Self::Clause {
                conjunction,
                number,
                of,
            } => Some(Action::conjunction(conjunction, number, of)),
            Self::Decide { .. } => None,
        }
    }
}
