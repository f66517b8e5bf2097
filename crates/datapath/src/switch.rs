//! From text to the types a switch is driven with, and back from a dump to ids.

use std::collections::{BTreeMap, HashMap};

use carrick_openflow::{Cookie, Flow, Group, GroupId, Learned, Meter, ParseError, State};

use crate::cookie::{CookieParts, Kind};
use crate::ledger::IdLedger;
use crate::render::{Desired, RenderError, render};
use crate::state::NodeState;

/// A line of the desired state is not what the switch takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the line {line:?} cannot be given to a switch")]
pub struct LineError {
    /// The line.
    pub line: String,
    /// Why.
    #[source]
    pub source: ParseError,
}

impl Desired {
    /// The desired state in canonical form, ready for a difference.
    ///
    /// # Errors
    /// A line does not parse.
    pub fn to_switch(&self) -> Result<State, LineError> {
        let flows = self.flows.iter().map(ToString::to_string);
        from_lines(
            flows,
            self.groups.iter().cloned(),
            self.meters.iter().cloned(),
        )
    }

    /// As [`Desired::to_switch`], when `last` gave `known`: lines that both have are not read again.
    /// Most of a node's flows are as they were when one pod comes or goes.
    ///
    /// # Errors
    /// A line does not parse.
    pub fn to_switch_after(&self, last: &Self, known: &State) -> Result<State, LineError> {
        let mut known = last.flows.iter().zip(&known.flows).peekable();
        let mut new = Vec::new();
        let mut flows: Vec<Option<Flow>> = Vec::with_capacity(self.flows.len());
        for line in &self.flows {
            // Both are sorted by their keys.
            while known.next_if(|(old, _)| old.key() < line.key()).is_some() {}
            let same = known.next_if(|(old, _)| *old == line);
            if same.is_none() {
                new.push(line.to_string());
            }
            flows.push(same.map(|(_, flow)| flow.clone()));
        }
        let (groups, meters) = (self.groups.iter().cloned(), self.meters.iter().cloned());
        let read = from_lines(new.into_iter(), groups, meters)?;
        let mut new = read.flows.into_iter();
        let flows = flows
            .into_iter()
            .filter_map(|flow| flow.or_else(|| new.next()));
        Ok(State {
            flows: flows.collect(),
            ..read
        })
    }
}

/// Reads lines of a desired state or of a saved commit, in canonical form.
///
/// # Errors
/// A line does not parse.
pub fn from_lines(
    flows: impl Iterator<Item = String>,
    groups: impl Iterator<Item = String>,
    meters: impl Iterator<Item = String>,
) -> Result<State, LineError> {
    fn parse<T: std::str::FromStr<Err = ParseError>>(line: String) -> Result<T, LineError> {
        line.parse().map_err(|source| LineError { line, source })
    }
    let mut state = State {
        flows: flows.map(parse::<Flow>).collect::<Result<_, _>>()?,
        groups: groups.map(parse::<Group>).collect::<Result<_, _>>()?,
        meters: meters.map(parse::<Meter>).collect::<Result<_, _>>()?,
    };
    state.canonicalize();
    Ok(state)
}

/// Flows and groups in the switch that the difference of [`Desired`] must not touch: those of Services and
/// of policy, which others change one by one.
pub fn learned() -> Learned {
    let mut apart = of_services();
    apart.cookies.extend(of_policy().cookies);
    apart
}

/// Flows and groups of Services, which [`crate::services::Proxy`] changes, and what their affinity has learned.
pub fn of_services() -> Learned {
    let number = (Kind::ServiceGroup as u32) << 24;
    Learned {
        groups: vec![(GroupId(number), 0xff << 24)],
        ..of_kinds(&[Kind::Service, Kind::Affinity])
    }
}

/// Flows of policy, which [`crate::policy::Enforcer`] changes.
pub fn of_policy() -> Learned {
    of_kinds(&[Kind::PolicyRule, Kind::PolicyClause])
}

fn of_kinds(kinds: &[Kind]) -> Learned {
    let cookies = kinds.iter().map(|kind| kind.cookies());
    Learned {
        cookies: cookies.map(|(value, mask)| (Cookie(value), mask)).collect(),
        ..Learned::default()
    }
}

/// Why ids could not be recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The state cannot be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// What was rendered does not parse.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// Gives objects that have no id in the ledger the one their flows in the switch carry, and keeps
/// ids of unknown objects in the switch from being given to anybody. How many ids came back.
///
/// This is how a node whose ledger was lost goes on without changing a flow: an object's flows are
/// found in the (canonical) dump by table, priority and match.
///
/// # Errors
/// The state cannot be rendered.
pub fn recover_ids(
    state: &NodeState,
    ledger: &mut IdLedger,
    dumped: &State,
) -> Result<usize, RecoverError> {
    let owner = |cookie: Cookie| CookieParts::from_bits(cookie.0).filter(|parts| parts.object != 0);
    for parts in dumped.flows.iter().filter_map(|flow| owner(flow.cookie)) {
        ledger.reserve(parts.kind, parts.object);
    }
    let pods = state.pods.keys().map(|key| (Kind::Pod, key));
    let peers = state.peers.keys().map(|key| (Kind::Peer, key));
    let unknown: Vec<(Kind, &String)> = pods
        .chain(peers)
        .filter(|(kind, key)| ledger.get(*kind, key).is_none())
        .collect();
    if unknown.is_empty() {
        return Ok(0);
    }
    let mut probe = ledger.clone();
    let desired = render(state, &mut probe)?.to_switch()?;
    let by_id: BTreeMap<CookieParts, &String> = unknown
        .into_iter()
        .filter_map(|(kind, key)| {
            Some((
                CookieParts {
                    kind,
                    object: probe.get(kind, key)?,
                },
                key,
            ))
        })
        .collect();
    let present: HashMap<_, _> = dumped
        .flows
        .iter()
        .map(|flow| (flow.key(), flow.cookie))
        .collect();
    let mut recovered = 0;
    for flow in &desired.flows {
        let Some(wanted) = owner(flow.cookie) else {
            continue;
        };
        let Some(key) = by_id.get(&wanted) else {
            continue;
        };
        let found = present.get(&flow.key()).copied().and_then(owner);
        if let Some(found) = found.filter(|found| found.kind == wanted.kind) {
            recovered += usize::from(ledger.adopt(found.kind, key, found.object));
        }
    }
    Ok(recovered)
}
