//! What a change does, in words and numbers, before it does it.

use carrick_api::names::object;
use carrick_api::status::{self, Restarts, STATUS_LIST_MAX};

use crate::object::{Id, Kind};
use crate::verdict::Doubt;

/// One thing that applying would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It is not there.
    Create(Id),
    /// It is there, and different in these places (JSON pointers).
    Update(Id, Vec<String>),
    /// Somebody else put this there (JSON pointer), and who.
    Remove(Id, String, String),
    /// It is no longer wanted.
    Delete(Id),
}

impl Action {
    /// In words.
    pub fn sentence(&self) -> String {
        match self {
            Self::Create(id) => format!("create {id}"),
            Self::Update(id, places) => format!("update {id}: {}", places.join(", ")),
            Self::Remove(id, place, who) => format!("remove from {id} what {who} added: {place}"),
            Self::Delete(id) => format!("delete {id}"),
        }
    }

    fn restarts(&self, name: &str) -> bool {
        let (Self::Update(id, _) | Self::Remove(id, ..)) = self else {
            return false;
        };
        let workload = matches!(id.kind, Kind::DaemonSet | Kind::Deployment);
        let template = |place: &String| place.starts_with("/spec/template");
        workload
            && id.name == name
            && match self {
                Self::Update(_, places) => places.iter().any(template),
                Self::Remove(_, place, _) => template(place),
                _ => false,
            }
    }
}

/// How many pods each workload has now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Controllers.
    pub controllers: i32,
    /// Agents.
    pub agents: i32,
    /// Switches.
    pub switches: i32,
}

/// The plan as it is shown.
pub fn plan(
    actions: &[Action],
    doubts: &[Doubt],
    acknowledged: &[String],
    sizes: Sizes,
) -> status::Plan {
    let restart = |name: &str, size: i32| {
        if actions.iter().any(|action| action.restarts(name)) {
            size
        } else {
            0
        }
    };
    let restarts = Restarts {
        controllers: restart(object::CONTROLLER, sizes.controllers),
        agents: restart(object::AGENT, sizes.agents),
        switches: restart(object::SWITCH, sizes.switches),
    };
    status::Plan {
        summary: summary(actions, &restarts),
        restarts,
        steps: actions
            .iter()
            .take(STATUS_LIST_MAX)
            .map(|a| clip(&a.sentence(), 512))
            .collect(),
        warnings: doubts
            .iter()
            .map(|doubt| status::Warning {
                name: doubt.name.to_owned(),
                message: clip(&doubt.message, 1024),
                acknowledged: acknowledged.iter().any(|name| name == doubt.name),
            })
            .collect(),
    }
}

fn summary(actions: &[Action], restarts: &Restarts) -> String {
    if actions.is_empty() {
        return "nothing to change".to_owned();
    }
    let number = |wanted: fn(&Action) -> bool| actions.iter().filter(|a| wanted(a)).count();
    let parts = [
        (number(|a| matches!(a, Action::Create(_))), "created"),
        (number(|a| matches!(a, Action::Update(..))), "changed"),
        (
            number(|a| matches!(a, Action::Remove(..))),
            "foreign fields removed",
        ),
        (number(|a| matches!(a, Action::Delete(_))), "deleted"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let mut text = parts.join(", ");
    let restarted: Vec<String> = [
        (restarts.controllers, "controllers"),
        (restarts.agents, "agents"),
        (
            restarts.switches,
            "switches (an outage on each node, one after the other)",
        ),
    ]
    .iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    if !restarted.is_empty() {
        text = format!("{text}; restarts {}", restarted.join(", "));
    }
    text
}

/// At most `most` bytes, whole characters.
pub fn clip(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(kind: Kind, name: &str) -> Id {
        Id {
            kind,
            name: name.into(),
        }
    }

    #[test]
    fn a_plan_says_what_restarts_before_it_does() {
        let actions = [
            Action::Create(id(Kind::Role, "a")),
            Action::Update(
                id(Kind::DaemonSet, object::AGENT),
                vec!["/spec/template/metadata/annotations/carrick.dev~1config-hash".into()],
            ),
            Action::Update(
                id(Kind::DaemonSet, object::SWITCH),
                vec!["/metadata/labels".into()],
            ),
            Action::Delete(id(Kind::ConfigMap, "old")),
        ];
        let sizes = Sizes {
            controllers: 2,
            agents: 30,
            switches: 30,
        };
        let plan = plan(&actions, &[], &[], sizes);
        assert_eq!(
            plan.summary,
            "1 created, 2 changed, 1 deleted; restarts 30 agents"
        );
        assert_eq!(
            plan.restarts,
            Restarts {
                controllers: 0,
                agents: 30,
                switches: 0
            }
        );
        assert_eq!(plan.steps[3], "delete ConfigMap old");
    }

    #[test]
    fn acknowledged_warnings_say_so() {
        let doubts = [
            Doubt {
                name: "a",
                message: "m".into(),
            },
            Doubt {
                name: "b",
                message: "m".into(),
            },
        ];
        let plan = plan(&[], &doubts, &["b".into()], Sizes::default());
        assert_eq!(plan.summary, "nothing to change");
        assert_eq!(
            plan.warnings
                .iter()
                .map(|w| w.acknowledged)
                .collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn clipping_keeps_characters_whole() {
        assert_eq!(clip("abc", 3), "abc");
        assert_eq!(clip("äöüäöü", 8), "äö…");
    }
}
