//! Policy of one node in the switch: what the controller says in, modifications of flows out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use carrick_openflow::{Flow, FlowMod, MatchError, Mod, State, diff};
use carrick_policy::{
    Direction, EnforcedPolicy, GroupKey, GroupUpdate, Members, NodeState, NodeUpdate, PodRecord,
    PolicyName, Tier,
};

use super::clause::Clause;
use super::order::priorities;
use super::part::{Connected, EnforcedPart, Outline, Part, ledger_key, outlines};
use super::place::{Place, Purpose, cookie, shown};
use crate::cookie::Kind;
use crate::ledger::{IdLedger, LedgerError};

/// How often a flow is wanted for what: several members may have one address.
type Purposes = BTreeMap<Purpose, u32>;

/// All policy of one node, and what the switch was last told of it.
#[derive(Debug, Default)]
pub struct Enforcer {
    state: NodeState,
    connected: BTreeMap<Arc<str>, Connected>,
    parts: BTreeMap<PolicyName, Vec<Part>>,
    /// Policies by the group of pods they are for, and by the groups of peers they name.
    subjects: HashMap<GroupKey, BTreeSet<PolicyName>>,
    peers: HashMap<GroupKey, BTreeSet<PolicyName>>,
    flows: HashMap<Place, Purposes>,
    /// What flows were that may have changed since the switch was told.
    told: BTreeMap<Place, Vec<Purpose>>,
    /// Every flow as text but for `unwritten`, which have changed since.
    text: BTreeMap<Place, String>,
    unwritten: BTreeSet<Place>,
    /// Policies that have no flows, because the ledger had no ids for them.
    waiting: BTreeSet<PolicyName>,
    /// Keys of the ledger whose flows go with the next changes.
    freed: BTreeSet<String>,
    /// Keys whose flows go with changes that were asked for and may not be acknowledged yet.
    leaving: BTreeSet<String>,
}

impl Enforcer {
    /// What the controller said, as far as it was applied.
    pub const fn state(&self) -> &NodeState {
        &self.state
    }

    /// A pod of this node has a port; the same pod may come with another one.
    pub fn connect(&mut self, uid: &Arc<str>, pod: Connected) {
        self.with_pod(uid, |all| {
            all.connected.insert(Arc::clone(uid), pod);
        });
    }

    /// A pod has none any more.
    pub fn disconnect(&mut self, uid: &Arc<str>) {
        self.with_pod(uid, |all| {
            all.connected.remove(uid);
        });
    }

    /// Takes in what the controller says, and enters policies that had no ids before.
    ///
    /// # Errors
    /// The ledger is full. [Some policies](Self::waiting) have no ids and are not enforced; what is enforced
    /// is whole.
    pub fn apply(&mut self, update: NodeUpdate, ledger: &mut IdLedger) -> Result<(), LedgerError> {
        let NodeUpdate {
            pods,
            policies,
            groups,
        } = update;
        let mut has_order = false;
        for name in policies.keys() {
            let old = self.state.policies.get(name);
            has_order |= old.is_some_and(|old| old.tier != Tier::NetworkPolicy);
            self.forget(name);
        }
        for (uid, record) in pods {
            self.with_pod(&uid, |all| match record {
                Some(record) => drop(all.state.pods.insert(Arc::clone(&uid), record)),
                None => drop(all.state.pods.remove(&uid)),
            });
        }
        for (key, update) in groups {
            self.group(key, update);
        }
        for (name, policy) in policies {
            if let Some(policy) = policy {
                self.waiting.insert(name.clone());
                self.state.policies.insert(name, policy);
            }
        }
        let waiting = self.waiting.iter();
        let mut waiting = waiting.filter_map(|name| self.state.policies.get(name));
        has_order |= waiting.any(|policy| policy.tier != Tier::NetworkPolicy);
        // Most policies are of the tier that has none.
        let order = if has_order {
            self.order()
        } else {
            Order::new()
        };
        if has_order {
            self.reorder(&order);
        }
        let mut first = Ok(());
        for name in std::mem::take(&mut self.waiting) {
            if let Err(error) = self.enter_policy(&name, &order, ledger) {
                self.waiting.insert(name);
                first = first.and(Err(error));
            }
        }
        first
    }

    /// Policies that have no flows, because the ledger had no ids for them.
    pub fn waiting(&self) -> impl Iterator<Item = &PolicyName> {
        self.waiting.iter()
    }

    /// What the switch must be told since this was asked for last: flows added and changed, then flows
    /// removed, for one bundle.
    ///
    /// # Errors
    /// A flow cannot be written: the switch need not be told of anything yet.
    pub fn changes(&mut self) -> Result<Vec<Mod>, MatchError> {
        let (mut flows, mut removed) = (Vec::new(), Vec::new());
        for (place, before) in &self.told {
            let now = self.flows.get(place);
            let unchanged = now.map_or(before.is_empty(), |now| shown(now.keys()).eq(before));
            if unchanged {
                continue;
            }
            match now {
                Some(now) => {
                    let flow = place.flow(now.keys())?;
                    let known = !before.is_empty() && cookie(before.iter()) == cookie(now.keys());
                    let change = if known {
                        FlowMod::modify_strict(flow)
                    } else {
                        FlowMod::add(flow)
                    };
                    flows.push(change.into());
                }
                None => removed.push(FlowMod::delete_strict(&place.flow(before.iter())?).into()),
            }
        }
        flows.append(&mut removed);
        self.all_told();
        Ok(flows)
    }

    /// As [`Self::changes`], for a switch that holds `flows` of policy, whatever it was told.
    ///
    /// # Errors
    /// A flow cannot be written.
    pub fn difference(&mut self, flows: Vec<Flow>) -> Result<Vec<Mod>, MatchError> {
        let canonical = |flows| {
            let mut state = State {
                flows,
                ..State::default()
            };
            state.canonicalize();
            state
        };
        let (held, wanted) = (canonical(flows), canonical(self.flows()?));
        self.all_told();
        Ok(diff(&held, &wanted, &carrick_openflow::Learned::default()).bundle)
    }

    fn all_told(&mut self) {
        self.told.clear();
        self.leaving.append(&mut self.freed);
    }

    /// Gives back the ids of what has left the switch. Call once it has acknowledged all it was told.
    pub fn release(&mut self, ledger: &mut IdLedger) {
        for key in std::mem::take(&mut self.leaving) {
            ledger.release(Kind::PolicyRule, &key);
        }
    }

    /// What a policy has in the switch; nothing while it waits.
    pub fn parts(&self, name: &PolicyName) -> impl Iterator<Item = EnforcedPart<'_>> {
        let parts = self.parts.get(name).into_iter().flatten();
        parts.map(|part| EnforcedPart {
            direction: part.direction,
            rule: part.rule(),
            table: part.table,
            priority: part.priority,
            id: part.object,
        })
    }

    /// How many flows there are by the ids of what they are for. Flows that rules share count for each.
    pub fn flows_by_id(&self) -> BTreeMap<u32, usize> {
        let mut count = BTreeMap::new();
        for purpose in self.flows.values().flat_map(BTreeMap::keys) {
            *count.entry(purpose.id()).or_default() += 1;
        }
        count
    }

    /// Forgets the ids of everything else, once nothing in the switch carries them.
    pub fn retain_ids(&self, ledger: &mut IdLedger) {
        let policies = self.state.policies.values();
        let mut keys: HashSet<String> = policies.flat_map(|policy| ledger_keys(policy)).collect();
        keys.extend(self.leaving.iter().chain(&self.freed).cloned());
        ledger.retain(Kind::PolicyRule, |key| keys.contains(key));
    }

    /// Whether a policy for a pod has no flows, because the ledger had no ids for it. Which one.
    pub fn lacks(&self, uid: &str) -> Option<&PolicyName> {
        let record = self.state.pods.get(uid)?;
        self.waiting.iter().find(|name| {
            let policy = self.state.policies.get(*name);
            policy.is_some_and(|policy| record.groups.binary_search(&policy.applied_to).is_ok())
        })
    }

    /// Every flow, in the order of tables, priorities and matches.
    ///
    /// # Errors
    /// A flow cannot be written.
    pub fn flows(&self) -> Result<Vec<Flow>, MatchError> {
        let sorted: BTreeMap<&Place, &Purposes> = self.flows.iter().collect();
        let flows = sorted
            .into_iter()
            .map(|(place, purposes)| place.flow(purposes.keys()));
        flows.collect()
    }

    /// As [`Self::flows`], in the syntax of `ovs-ofctl`. What has not changed since this was asked for last is
    /// not written anew.
    ///
    /// # Errors
    /// A flow cannot be written.
    pub fn lines(&mut self) -> Result<impl Iterator<Item = &str>, MatchError> {
        while let Some(place) = self.unwritten.last() {
            match self.flows.get(place) {
                Some(purposes) => {
                    let line = place.flow(purposes.keys())?.to_string();
                    self.text.insert(*place, line);
                }
                None => drop(self.text.remove(place)),
            }
            self.unwritten.pop_last();
        }
        Ok(self.text.values().map(String::as_str))
    }

    /// Changes what is known of a pod, and what policies for it say.
    fn with_pod(&mut self, uid: &Arc<str>, change: impl FnOnce(&mut Self)) {
        self.pod_clauses(uid, Self::drop_one);
        change(self);
        self.pod_clauses(uid, Self::want);
    }

    fn pod_clauses(&mut self, uid: &Arc<str>, act: fn(&mut Self, Place, Purpose)) {
        let Some((record, pod)) = self.pod(uid) else {
            return;
        };
        let named = Arc::clone(&record.ports);
        let policies: BTreeSet<PolicyName> = record
            .groups
            .iter()
            .filter_map(|group| self.subjects.get(group))
            .flatten()
            .cloned()
            .collect();
        let mut all = Vec::new();
        for part in policies.iter().filter_map(|name| self.parts.get(name)) {
            for part in part {
                part.each(|dimension| part.of_pod(dimension, pod, &named), &mut all);
            }
        }
        for (place, purpose) in all {
            act(self, place, purpose);
        }
    }

    /// A pod that the controller knows and that is connected.
    fn pod(&self, uid: &str) -> Option<(&PodRecord, Connected)> {
        Some((self.state.pods.get(uid)?, *self.connected.get(uid)?))
    }

    fn group(&mut self, key: GroupKey, update: GroupUpdate) {
        let empty = Members::new();
        let old = self.state.groups.get(&key).unwrap_or(&empty);
        let differs = |members: &Members, other: &Members| -> Members {
            let differing = members
                .iter()
                .filter(|(member, ports)| other.get(*member) != Some(*ports));
            differing
                .map(|(member, ports)| (member.clone(), Arc::clone(ports)))
                .collect()
        };
        let (removed, added) = match &update {
            GroupUpdate::Whole(new) => (differs(old, new), differs(new, old)),
            GroupUpdate::Gone => (old.clone(), Members::new()),
            GroupUpdate::Difference { removed, added } => {
                let gone = removed.iter().chain(added.keys());
                let gone =
                    gone.filter_map(|member| Some((member.clone(), old.get(member)?.clone())));
                (gone.collect(), added.clone())
            }
        };
        self.member_clauses(key, &removed, Self::drop_one);
        self.member_clauses(key, &added, Self::want);
        let mut change = NodeUpdate::default();
        change.groups.insert(key, update);
        self.state.apply(change);
    }

    fn member_clauses(
        &mut self,
        key: GroupKey,
        members: &Members,
        act: fn(&mut Self, Place, Purpose),
    ) {
        let mut all = Vec::new();
        let policies = self.peers.get(&key).into_iter().flatten();
        for parts in policies.filter_map(|name| self.parts.get(name)) {
            for part in parts.iter().filter(|part| part.groups().contains(&key)) {
                for ((_, address), named) in members {
                    part.each(
                        |dimension| part.of_member(dimension, *address, named),
                        &mut all,
                    );
                }
            }
        }
        for (place, purpose) in all {
            act(self, place, purpose);
        }
    }

    /// Takes a policy out.
    fn forget(&mut self, name: &PolicyName) {
        for part in self.parts.remove(name).unwrap_or_default() {
            self.part_clauses(&part, Self::drop_one);
            leave(&mut self.subjects, &part.policy.applied_to, name);
            for group in part.groups() {
                leave(&mut self.peers, group, name);
            }
        }
        self.waiting.remove(name);
        if let Some(policy) = self.state.policies.remove(name) {
            self.freed.extend(ledger_keys(&policy));
        }
    }

    fn enter_policy(
        &mut self,
        name: &PolicyName,
        order: &Order,
        ledger: &mut IdLedger,
    ) -> Result<(), LedgerError> {
        let Some(policy) = self.state.policies.get(name).cloned() else {
            return Ok(());
        };
        let mut parts = Vec::new();
        for outline in outlines(&policy) {
            let mut object = 0;
            if outline.counts() {
                let key = ledger_key(&policy, outline.direction, &outline.what);
                self.freed.remove(&key);
                self.leaving.remove(&key);
                object = ledger.id(Kind::PolicyRule, &key)?;
            }
            let in_order = outline
                .rule
                .and_then(|rule| order.get(&(name.clone(), rule)).copied());
            parts.push(outline.part(&policy, object, in_order));
        }
        for part in &parts {
            self.part_clauses(part, Self::want);
            for group in part.groups() {
                self.peers.entry(*group).or_default().insert(name.clone());
            }
        }
        let subjects = self.subjects.entry(policy.applied_to).or_default();
        subjects.insert(name.clone());
        self.parts.insert(name.clone(), parts);
        Ok(())
    }

    /// Everything a part has flows for.
    fn part_clauses(&mut self, part: &Part, act: fn(&mut Self, Place, Purpose)) {
        let mut all = Vec::new();
        part.each(|dimension| part.fixed(dimension), &mut all);
        for (uid, record) in &self.state.pods {
            let is_for = record.groups.binary_search(&part.policy.applied_to).is_ok();
            if let (true, Some(pod)) = (is_for, self.connected.get(uid)) {
                part.each(
                    |dimension| part.of_pod(dimension, *pod, &record.ports),
                    &mut all,
                );
            }
        }
        for group in part.groups() {
            for ((_, address), named) in self.state.groups.get(group).into_iter().flatten() {
                part.each(
                    |dimension| part.of_member(dimension, *address, named),
                    &mut all,
                );
            }
        }
        if part.dimensions.len() > 1 {
            all.push((
                part.place(Clause::Conjunction(part.object)),
                part.decision(),
            ));
        }
        for (place, purpose) in all {
            act(self, place, purpose);
        }
    }

    /// Priorities of the rules of tiers that have an order.
    fn order(&self) -> Order {
        let mut order = Order::new();
        for tier in [Tier::Admin, Tier::Baseline] {
            let of_tier = self.state.policies.values();
            let mut policies: Vec<&Arc<EnforcedPolicy>> =
                of_tier.filter(|policy| policy.tier == tier).collect();
            policies.sort_unstable_by_key(|policy| policy.rank());
            for direction in [Direction::Egress, Direction::Ingress] {
                let mut rules = Vec::new();
                for policy in &policies {
                    let own = policy.rules.iter().enumerate();
                    let own = own.filter(|(_, rule)| rule.direction == direction);
                    rules.extend(own.map(|(index, _)| (policy, index)));
                }
                let wanted: Vec<u16> = rules.iter().map(|(policy, _)| policy.priority).collect();
                let given = priorities(&wanted);
                let each = rules.into_iter().zip(given);
                order.extend(
                    each.map(|((policy, rule), given)| ((policy.name.clone(), rule), given)),
                );
            }
        }
        order
    }

    /// Moves rules whose priority changed.
    fn reorder(&mut self, order: &Order) {
        let moved = |part: &Part| {
            let wanted = order.get(&(part.name().clone(), part.rule?))?;
            (*wanted != part.priority).then_some(*wanted)
        };
        let parts = self.parts.values().flatten();
        let moving: Vec<(Part, u16)> = parts
            .filter_map(|part| Some((part.clone(), moved(part)?)))
            .collect();
        for (old, priority) in moving {
            let new = Part {
                priority,
                ..old.clone()
            };
            self.part_clauses(&old, Self::drop_one);
            self.part_clauses(&new, Self::want);
            let parts = self.parts.get_mut(old.name()).into_iter().flatten();
            for part in parts.filter(|part| **part == old) {
                part.priority = priority;
            }
        }
    }

    fn note(&mut self, place: Place) {
        self.unwritten.insert(place);
        let flows = &self.flows;
        self.told.entry(place).or_insert_with(|| {
            let now = flows.get(&place);
            now.map_or_else(Vec::new, |now| shown(now.keys()).copied().collect())
        });
    }

    fn want(&mut self, place: Place, purpose: Purpose) {
        self.note(place);
        let count = self.flows.entry(place).or_default().entry(purpose);
        *count.or_default() += 1;
    }

    fn drop_one(&mut self, place: Place, purpose: Purpose) {
        self.note(place);
        let Some(purposes) = self.flows.get_mut(&place) else {
            return;
        };
        if let Some(count) = purposes.get_mut(&purpose) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                purposes.remove(&purpose);
            }
        }
        if purposes.is_empty() {
            self.flows.remove(&place);
        }
    }
}

/// Keys of the ledger that a policy has.
fn ledger_keys(policy: &EnforcedPolicy) -> impl Iterator<Item = String> {
    let counted = outlines(policy).into_iter().filter(Outline::counts);
    counted.map(|outline| ledger_key(policy, outline.direction, &outline.what))
}

/// Takes a policy out of a group's, and the group with its last one.
fn leave(
    by_group: &mut HashMap<GroupKey, BTreeSet<PolicyName>>,
    group: &GroupKey,
    name: &PolicyName,
) {
    if let Some(set) = by_group.get_mut(group) {
        set.remove(name);
        if set.is_empty() {
            by_group.remove(group);
        }
    }
}

/// Priorities by policy and the rule's place in it.
type Order = BTreeMap<(PolicyName, usize), u16>;

impl Part {
    const fn place(&self, clause: Clause) -> Place {
        Place {
            table: self.table,
            priority: self.priority,
            clause,
        }
    }

    const fn decision(&self) -> Purpose {
        Purpose::Decide {
            effect: self.effect,
            object: self.object,
        }
    }

    /// The flows that something adds to its dimensions.
    fn each(
        &self,
        clauses: impl Fn(&super::part::Dimension) -> Vec<Clause>,
        to: &mut Vec<(Place, Purpose)>,
    ) {
        // A rule has three at most.
        let of = u8::try_from(self.dimensions.len()).unwrap_or(u8::MAX);
        for (number, dimension) in (0_u8..).zip(&self.dimensions) {
            let purpose = match of {
                1 => self.decision(),
                _ => Purpose::Clause {
                    conjunction: self.object,
                    number,
                    of,
                },
            };
            let clauses = clauses(dimension).into_iter();
            to.extend(clauses.map(|clause| (self.place(clause), purpose)));
        }
    }
}
