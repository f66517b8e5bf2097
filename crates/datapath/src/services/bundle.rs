//! From one rendering of a Service to another: the modifications, in the order of a bundle.

use std::collections::BTreeMap;

use carrick_openflow::{Flow, FlowMod, Group, GroupId, GroupMod, Mod, ParseError};

use super::render::Rendered;
use crate::flow::FlowLine;
use crate::switch::LineError;

/// Modifications of one bundle, by the place they have in it.
#[derive(Default)]
pub(super) struct Bundle {
    groups: Vec<Mod>,
    flows: Vec<Mod>,
    removed_flows: Vec<Mod>,
    removed_groups: Vec<Mod>,
}

impl Bundle {
    pub(super) const fn len(&self) -> usize {
        self.groups.len() + self.flows.len() + self.removed_flows.len() + self.removed_groups.len()
    }

    pub(super) fn in_order(self, orphans: Vec<Mod>) -> Vec<Mod> {
        let mut all = self.groups;
        all.extend(self.flows);
        let (flows, groups): (Vec<Mod>, Vec<Mod>) = orphans
            .into_iter()
            .partition(|orphan| matches!(orphan, Mod::Flow(_)));
        all.extend(self.removed_flows);
        all.extend(flows);
        all.extend(self.removed_groups);
        all.extend(groups);
        all
    }

    /// What leads from one rendering of a Service to another.
    pub(super) fn change(&mut self, old: &Rendered, new: &Rendered) -> Result<(), LineError> {
        let mut left: BTreeMap<u32, _> = old
            .groups
            .iter()
            .map(|group| (group.number, group))
            .collect();
        for group in &new.groups {
            let change = match left.remove(&group.number) {
                Some(old) if old == group => continue,
                Some(_) => GroupMod::Modify,
                None => GroupMod::Add,
            };
            let parsed: Group = parse(group.to_line())?;
            self.groups.push(change(parsed.canonical()).into());
        }
        let gone = left
            .into_keys()
            .map(|number| GroupMod::Delete(GroupId(number)).into());
        self.removed_groups.extend(gone);
        self.change_flows(&old.flows, &new.flows)?;
        if old.remembering != new.remembering || old.object != new.object {
            self.change_flows(&old.member_flows(), &new.member_flows())?;
        }
        Ok(())
    }

    /// Both sorted by their keys.
    fn change_flows(&mut self, old: &[FlowLine], new: &[FlowLine]) -> Result<(), LineError> {
        let mut left = old.iter().peekable();
        for line in new {
            while let Some(gone) = left.next_if(|other| other.key() < line.key()) {
                self.remove(gone)?;
            }
            let known = left.next_if(|other| other.key() == line.key());
            if known == Some(line) {
                continue;
            }
            let flow: Flow = parse(line.to_string())?;
            let flow = flow.canonical();
            let change = match known {
                Some(known) if known.cookie == line.cookie => FlowMod::modify_strict(flow),
                _ => FlowMod::add(flow),
            };
            self.flows.push(change.into());
        }
        for gone in left {
            self.remove(gone)?;
        }
        Ok(())
    }

    /// Removes a flow if it still is this Service's: another may have its key by now, in this bundle or
    /// an earlier one.
    fn remove(&mut self, line: &FlowLine) -> Result<(), LineError> {
        let flow: Flow = parse(line.to_string())?;
        self.removed_flows.push(remove_own(&flow).into());
        Ok(())
    }
}

/// Removes a flow if it has its cookie still.
pub(super) fn remove_own(flow: &Flow) -> FlowMod {
    let mut change = FlowMod::delete_strict(flow);
    change.flow.cookie = flow.cookie;
    change.cookie_mask = u64::MAX;
    change
}

pub(super) fn parse<T: std::str::FromStr<Err = ParseError>>(line: String) -> Result<T, LineError> {
    line.parse().map_err(|source| LineError { line, source })
}
