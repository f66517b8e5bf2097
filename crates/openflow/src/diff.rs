//! From what a switch has to what it should have: the least change, in an order in which no packet
//! meets a half state.

use rustc_hash::FxHashMap;

use crate::flow::{Flow, FlowMod};
use crate::group::{Group, GroupMod};
use crate::id::{BucketId, Cookie, GroupId, MeterId, TableId};
use crate::meter::{Meter, MeterMod};

/// Everything in a switch that a controller programs, as dumped or as desired.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Flows; no two with the same [`crate::FlowKey`].
    pub flows: Vec<Flow>,
    /// Groups; no two with the same number.
    pub groups: Vec<Group>,
    /// Meters; no two with the same number.
    pub meters: Vec<Meter>,
}

impl State {
    /// [`Flow::canonical`] and [`Group::canonical`] of everything. [`diff`] wants both sides so.
    pub fn canonicalize(&mut self) {
        for flow in &mut self.flows {
            crate::canonical::flow(flow);
        }
        for group in &mut self.groups {
            crate::canonical::group(group);
        }
    }
}

/// Dumped flows and groups that a difference leaves alone: `learn` made them, or another writer keeps
/// them by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Learned {
    /// Tables that hold learned flows only.
    pub tables: Vec<TableId>,
    /// Cookies of such flows: value and mask.
    pub cookies: Vec<(Cookie, u64)>,
    /// Numbers of such groups: value and mask.
    pub groups: Vec<(GroupId, u32)>,
}

impl Learned {
    /// Whether a dumped flow is one of them.
    pub fn contains(&self, flow: &Flow) -> bool {
        self.tables.contains(&flow.table)
            || self
                .cookies
                .iter()
                .any(|(cookie, mask)| (flow.cookie.0 ^ cookie.0) & mask == 0)
    }

    /// Whether a dumped group is one of them.
    pub fn contains_group(&self, group: GroupId) -> bool {
        self.groups
            .iter()
            .any(|(number, mask)| (group.0 ^ number.0) & mask == 0)
    }
}

/// A modification that may stand in a bundle (OpenFlow 1.5.1 §7.3.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mod {
    /// Of a flow.
    Flow(Box<FlowMod>),
    /// Of a group.
    Group(Box<GroupMod>),
}

impl From<FlowMod> for Mod {
    fn from(value: FlowMod) -> Self {
        Self::Flow(Box::new(value))
    }
}

impl From<GroupMod> for Mod {
    fn from(value: GroupMod) -> Self {
        Self::Group(Box::new(value))
    }
}

/// How to get from one state to another: `meters_before` one by one, `bundle` as one, `meters_after`
/// one by one (Open vSwitch refuses meters in bundles).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Meters to add and to change.
    pub meters_before: Vec<MeterMod>,
    /// Groups to add and change, flows to add and change, flows to remove, groups to remove.
    pub bundle: Vec<Mod>,
    /// Meters to remove.
    pub meters_after: Vec<MeterMod>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.meters_before.is_empty() && self.bundle.is_empty() && self.meters_after.is_empty()
    }
}

/// The least change from `dumped` to `desired`, both canonical (see [`State::canonicalize`]).
///
/// A flow of which only the actions differ is changed by MODIFY_STRICT, so its counters stay; one
/// whose cookie, timeouts, flags or importance differ is added anew, as only that changes them.
/// The result is ordered by what it changes, then as `desired` and `dumped` are.
pub fn diff(dumped: &State, desired: &State, learned: &Learned) -> Plan {
    let mut plan = Plan::default();
    let removed_groups = diff_groups(&mut plan, dumped, desired, learned);
    diff_flows(&mut plan, dumped, desired, learned);
    plan.bundle.extend(
        removed_groups
            .into_iter()
            .map(|id| Mod::from(GroupMod::Delete(id))),
    );
    diff_meters(&mut plan, dumped, desired);
    plan
}

fn diff_groups(
    plan: &mut Plan,
    dumped: &State,
    desired: &State,
    learned: &Learned,
) -> Vec<GroupId> {
    let mut left: FxHashMap<GroupId, &Group> = dumped
        .groups
        .iter()
        .filter(|group| !learned.contains_group(group.id))
        .map(|group| (group.id, group))
        .collect();
    for group in &desired.groups {
        match left.remove(&group.id) {
            None => plan.bundle.extend(in_pieces(group, GroupMod::Add)),
            Some(old) if old != group => plan.bundle.extend(in_pieces(group, GroupMod::Modify)),
            Some(_) => {}
        }
    }
    dumped
        .groups
        .iter()
        .map(|group| group.id)
        .filter(|id| left.contains_key(id))
        .collect()
}

/// Bytes of buckets in one message, which holds 64 KiB in all and stands in another one.
const PIECE: usize = 48 << 10;

/// A group as one modification and, where its buckets do not fit into one message, insertions
/// behind them. (Open vSwitch 3.1 balances a group with `dp_hash` over the last insertion alone: such a
/// group must fit into one message.) A bucket that does not fit by itself is left to the encoder to refuse.
fn in_pieces(group: &Group, first: impl Fn(Group) -> GroupMod) -> Vec<Mod> {
    let mut pieces = vec![Vec::new()];
    let mut used = 0;
    for bucket in &group.buckets {
        let length = crate::group::codec::bucket_length(bucket);
        used += length;
        if used > PIECE && pieces.last().is_some_and(|piece| !piece.is_empty()) {
            pieces.push(Vec::new());
            used = length;
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push(bucket.clone());
        }
    }
    let mut pieces = pieces.into_iter();
    let head = Group {
        buckets: pieces.next().unwrap_or_default(),
        ..group.without_buckets()
    };
    let insert = |buckets| GroupMod::InsertBuckets {
        group: group.id,
        after: BucketId::LAST,
        buckets,
    };
    std::iter::once(first(head))
        .chain(pieces.map(insert))
        .map(Mod::from)
        .collect()
}

fn diff_flows(plan: &mut Plan, dumped: &State, desired: &State, learned: &Learned) {
    let mut left: FxHashMap<_, &Flow> =
        FxHashMap::with_capacity_and_hasher(dumped.flows.len(), rustc_hash::FxBuildHasher);
    left.extend(
        dumped
            .flows
            .iter()
            .filter(|flow| !learned.contains(flow))
            .map(|flow| (flow.key(), flow)),
    );
    for flow in &desired.flows {
        let change = match left.remove(&flow.key()) {
            Some(old) if old == flow => continue,
            Some(old) if same_but_actions(old, flow) => FlowMod::modify_strict(flow.clone()),
            _ => FlowMod::add(flow.clone()),
        };
        plan.bundle.push(change.into());
    }
    if left.is_empty() {
        return;
    }
    for flow in &dumped.flows {
        if left.remove(&flow.key()).is_some() {
            plan.bundle.push(FlowMod::delete_strict(flow).into());
        }
    }
}

fn same_but_actions(old: &Flow, new: &Flow) -> bool {
    (
        old.cookie,
        old.idle_timeout,
        old.hard_timeout,
        old.flags,
        old.importance,
    ) == (
        new.cookie,
        new.idle_timeout,
        new.hard_timeout,
        new.flags,
        new.importance,
    )
}

fn diff_meters(plan: &mut Plan, dumped: &State, desired: &State) {
    let mut left: FxHashMap<MeterId, &Meter> = dumped
        .meters
        .iter()
        .map(|meter| (meter.id, meter))
        .collect();
    for meter in &desired.meters {
        match left.remove(&meter.id) {
            None => plan.meters_before.push(MeterMod::Add(meter.clone())),
            Some(old) if old != meter => plan.meters_before.push(MeterMod::Modify(meter.clone())),
            Some(_) => {}
        }
    }
    let ids = dumped.meters.iter().map(|meter| meter.id);
    plan.meters_after
        .extend(ids.filter(|id| left.contains_key(id)).map(MeterMod::Delete));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_another_writer_are_left_alone() {
        let group = |number| format!("group_id={number},type=indirect,bucket=actions=output:1");
        let state = |numbers: &[u32]| State {
            groups: numbers.iter().map(|n| group(*n).parse().unwrap()).collect(),
            ..State::default()
        };
        let learned = Learned {
            groups: vec![(GroupId(0x0600_0000), 0xff00_0000)],
            ..Learned::default()
        };
        let dumped = state(&[1, 2, 0x0600_0001]);
        let plan = diff(&dumped, &state(&[1]), &learned);
        assert_eq!(plan.bundle, [Mod::from(GroupMod::Delete(GroupId(2)))]);
        let all = diff(&dumped, &state(&[1]), &Learned::default());
        assert_eq!(all.bundle.len(), 2);
    }
}
