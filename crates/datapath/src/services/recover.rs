//! After a restart: what the switch holds is taken as told, so that only what differs is sent.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use carrick_openflow::{
    Action, Cookie, Flow, FlowKey, FlowMod, Group, GroupId, GroupMod, Mod, State,
};

use super::bundle::{parse, remove_own};
use super::group::{GroupSpec, group_id};
use super::host::{HostChange, HostPart, HostServices};
use super::index::Resolved;
use super::proxy::{BatchError, Proxy};
use super::render::{Rendered, service_key};
use crate::cookie::{CookieParts, Kind};
use crate::flow::FlowLine;
use crate::ledger::IdLedger;
use crate::switch::LineError;
use crate::table::Table;

/// What [`Proxy::adopt`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Services whose state in the switch is what it must be.
    pub same: usize,
    /// Services that wait to be rendered.
    pub differing: usize,
    /// Flows and groups of Services that are not there any more.
    pub orphans: usize,
}

/// Why the switch's state could not be adopted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverServicesError {
    /// A Service cannot be rendered.
    #[error(transparent)]
    Render(#[from] BatchError),
    /// What was rendered is not what the switch takes.
    #[error(transparent)]
    Line(#[from] LineError),
}

/// Services' own flows and groups of a dump, and which of them nobody was found for.
struct Dump<'a> {
    /// With their place in the dump.
    flows: HashMap<FlowKey<'a>, (usize, &'a Flow)>,
    groups: HashMap<GroupId, &'a Group>,
}

/// What of a dump nobody was found for: flows by their place, groups by number.
struct Left {
    flows: BTreeSet<usize>,
    groups: HashSet<GroupId>,
}

impl<'a> Dump<'a> {
    fn of(dumped: &'a State) -> Self {
        let flows = dumped.flows.iter().enumerate();
        let own = flows.filter(|(_, flow)| owner(flow.cookie).is_some());
        let groups = dumped
            .groups
            .iter()
            .filter(|group| group_id(group.id.0).is_some());
        Self {
            flows: own
                .map(|(place, flow)| (flow.key(), (place, flow)))
                .collect(),
            groups: groups.map(|group| (group.id, group)).collect(),
        }
    }
}

/// The Service whose flow it is; not what its affinity has learned.
fn owner(cookie: Cookie) -> Option<u32> {
    let parts = CookieParts::from_bits(cookie.0)?;
    (parts.kind == Kind::Service).then_some(parts.object)
}

impl Proxy {
    /// Gives Services and groups that have no id in the ledger those that the (canonical) dump of the
    /// switch has for them, found by the Services' frontends, and keeps all ids of the dump from being
    /// given to others. How many came back. Call before [`Proxy::adopt`].
    ///
    /// # Errors
    /// A Service cannot be rendered.
    pub fn recover_ids(
        &self,
        ledger: &mut IdLedger,
        dumped: &State,
    ) -> Result<usize, RecoverServicesError> {
        let dump = Dump::of(dumped);
        for (_, flow) in dump.flows.values() {
            ledger.reserve(Kind::Service, owner(flow.cookie).unwrap_or_default());
            for group in named(flow) {
                ledger.reserve(Kind::ServiceGroup, group);
            }
        }
        for group in dump.groups.keys() {
            ledger.reserve(Kind::ServiceGroup, group_id(group.0).unwrap_or_default());
        }
        let known = |resolved: &Resolved, ledger: &IdLedger| {
            ledger
                .get(Kind::Service, &service_key(&resolved.service))
                .is_some()
        };
        let mut recovered = 0;
        let mut probe = ledger.clone();
        for name in self.index.names() {
            let resolved = self.index.resolve(name);
            if resolved.is_none_or(|resolved| known(&resolved, ledger)) {
                continue;
            }
            let Some(rendered) = self.render(name, &mut probe)? else {
                continue;
            };
            recovered += recover_service(&rendered, &probe, ledger, &dump)?;
        }
        Ok(recovered)
    }

    /// Takes the (canonical) dump of the switch as what it was told. Services that differ from it wait
    /// for [`Proxy::next_batch`], and so does what is no Service's any more. Call after a start, when all
    /// Services and slices are known, and after a bundle that was not acknowledged.
    ///
    /// The host is as the next batches expect it when [`super::host_table`] is loaded whole and the
    /// routes of [`HostServices::routes`] are there: what earlier batches said of it is not said again.
    ///
    /// # Errors
    /// A Service cannot be rendered; call again.
    pub fn adopt(
        &mut self,
        ledger: &mut IdLedger,
        dumped: &State,
    ) -> Result<Adopted, RecoverServicesError> {
        let dump = Dump::of(dumped);
        let mut left = Left {
            flows: dump.flows.values().map(|(place, _)| *place).collect(),
            groups: dump.groups.keys().copied().collect(),
        };
        let mut adopted = Adopted::default();
        let mut rendered = BTreeMap::new();
        let mut dirty = BTreeSet::new();
        let mut host = HostServices::default();
        for name in self.index.names() {
            let Some(desired) = self.render(name, ledger)? else {
                continue;
            };
            let (mut present, same) = present(&desired, &dump, &mut left)?;
            host.replace(
                &HostPart::default(),
                &desired.host,
                &mut HostChange::default(),
            );
            if same {
                adopted.same += 1;
            } else {
                adopted.differing += 1;
                // Who answered before is not known: all its UDP clients start anew.
                present.udp.clear();
                dirty.insert(name.clone());
            }
            rendered.insert(name.clone(), present);
        }
        self.orphans.clear();
        let gone = left
            .flows
            .iter()
            .filter_map(|place| dumped.flows.get(*place));
        self.orphans
            .extend(gone.map(|flow| Mod::from(remove_own(flow))));
        let mut gone: Vec<GroupId> = left.groups.into_iter().collect();
        gone.sort_unstable();
        self.orphans
            .extend(gone.into_iter().map(|id| Mod::from(GroupMod::Delete(id))));
        let known: HashSet<u32> = rendered.values().map(|rendered| rendered.object).collect();
        self.orphans.extend(forgotten_affinity(dumped, &known));
        adopted.orphans = self.orphans.len();
        (self.rendered, self.dirty, self.host) = (rendered, dirty, host);
        Ok(adopted)
    }
}

/// Removes learned flows of Services that went while nobody looked: `delete_learned` has removed the
/// others with the flow that learned them.
fn forgotten_affinity(dumped: &State, known: &HashSet<u32>) -> Vec<Mod> {
    let learned = dumped.flows.iter().filter_map(|flow| {
        let parts = CookieParts::from_bits(flow.cookie.0)?;
        let gone = parts.kind == Kind::Affinity && !known.contains(&parts.object);
        gone.then_some(flow.cookie)
    });
    let mut cookies: Vec<Cookie> = learned.collect();
    cookies.sort_unstable();
    cookies.dedup();
    let remove = |cookie| Mod::from(FlowMod::delete_by_cookie(cookie, u64::MAX));
    cookies.into_iter().map(remove).collect()
}

/// What of a rendering is in the dump, and whether that is all of it.
fn present(
    desired: &Rendered,
    dump: &Dump<'_>,
    left: &mut Left,
) -> Result<(Rendered, bool), LineError> {
    let mut same = true;
    let mut held = |line: &FlowLine| -> Result<bool, LineError> {
        let flow: Flow = parse(line.to_string())?;
        let flow = flow.canonical();
        let found = dump.flows.get(&flow.key());
        if let Some((place, _)) = found {
            left.flows.remove(place);
        }
        let equal = found.is_some_and(|(_, found)| **found == flow);
        same &= equal;
        Ok(equal)
    };
    let mut rendered = desired.clone();
    rendered.flows = Vec::with_capacity(desired.flows.len());
    for line in &desired.flows {
        if held(line)? {
            rendered.flows.push(line.clone());
        }
    }
    let mut members = true;
    for line in desired.member_flows() {
        members &= held(&line)?;
    }
    if !members {
        // Those that are there are added again, which changes nothing.
        rendered.remembering.clear();
    }
    rendered.groups = Vec::with_capacity(desired.groups.len());
    for spec in &desired.groups {
        let Some(found) = dump.groups.get(&GroupId(spec.number)) else {
            same = false;
            continue;
        };
        left.groups.remove(&found.id);
        let wanted: Group = parse(spec.to_line())?;
        let equal = wanted.canonical() == **found;
        same &= equal;
        let members = if equal {
            spec.members.clone()
        } else {
            // It has anything but its members: it is changed, not added.
            Box::default()
        };
        rendered.groups.push(GroupSpec { members, ..*spec });
    }
    Ok((rendered, same))
}

/// Ids of groups of ours that a flow names: in its actions, or in `reg7`.
fn named(flow: &Flow) -> Vec<u32> {
    let reg7 = carrick_openflow::Field::reg(7);
    let value = |field, value: u128| {
        let number = u32::try_from(value).ok()?;
        (Some(field) == reg7).then(|| group_id(number)).flatten()
    };
    let matched = flow.match_.fields().iter().map(|m| (m.field(), m.value()));
    let actions = flow.instructions.apply.iter();
    let mut ids: Vec<u32> = matched
        .filter_map(|(field, number)| value(field, number))
        .collect();
    ids.extend(actions.filter_map(|action| match action {
        Action::Group(group) => group_id(group.0),
        Action::SetField(set) => value(set.field(), set.value()),
        _ => None,
    }));
    ids
}

/// Adopts what a Service's flows in the dump carry: rendered with ids of the probe, they have the
/// same places in the switch, and name their groups in the same order.
fn recover_service(
    rendered: &Rendered,
    probe: &IdLedger,
    ledger: &mut IdLedger,
    dump: &Dump<'_>,
) -> Result<usize, LineError> {
    let keys: HashMap<u32, &str> = rendered
        .group_keys
        .iter()
        .filter_map(|key| Some((probe.get(Kind::ServiceGroup, key)?, key.as_ref())))
        .collect();
    let mut recovered = 0;
    let mut wholes: HashMap<u32, u32> = HashMap::new();
    for line in rendered
        .flows
        .iter()
        .filter(|line| line.table == Table::Service)
    {
        let flow: Flow = parse(line.to_string())?;
        let flow = flow.canonical();
        let Some((_, found)) = dump.flows.get(&flow.key()) else {
            continue;
        };
        let object = owner(found.cookie).unwrap_or_default();
        recovered += usize::from(ledger.adopt(Kind::Service, &rendered.key, object));
        for (mine, theirs) in named(&flow).into_iter().zip(named(found)) {
            wholes.insert(mine, theirs);
            if let Some(key) = keys.get(&mine) {
                recovered += usize::from(ledger.adopt(Kind::ServiceGroup, key, theirs));
            }
        }
    }
    // Shards stand behind the number of the whole, one for each value of the hash bits.
    let shards = |flow: &Flow| -> Option<(u32, (u128, u128), u32)> {
        let whole = flow.match_.get(carrick_openflow::Field::reg(7)?)?.0;
        let index = flow.match_.get(carrick_openflow::Field::reg(6)?)?;
        let group = flow
            .instructions
            .apply
            .iter()
            .find_map(|action| match action {
                Action::Group(group) => group_id(group.0),
                _ => None,
            });
        Some((group_id(u32::try_from(whole).ok()?)?, index, group?))
    };
    let mine = rendered
        .flows
        .iter()
        .filter(|line| line.table == Table::ServiceShard);
    for line in mine {
        let flow: Flow = parse(line.to_string())?;
        let Some((whole, index, group)) = shards(&flow.canonical()) else {
            continue;
        };
        let theirs = dump.flows.values().find_map(|(_, found)| {
            let (other, other_index, theirs) = shards(found)?;
            let same = wholes.get(&whole) == Some(&other) && other_index == index;
            same.then_some(theirs)
        });
        if let (Some(key), Some(theirs)) = (keys.get(&group), theirs) {
            recovered += usize::from(ledger.adopt(Kind::ServiceGroup, key, theirs));
        }
    }
    Ok(recovered)
}
