//! Flows as text.

use std::fmt;
use std::str::FromStr;

use super::action_old::Before;
use super::{List, Result, action_parse, action_print, items, key_value, match_, small};
use crate::error::ParseError;
use crate::flow::{Flow, FlowFlags};
use crate::id::{Cookie, TableId};

/// Words for flags, in the order in which they are printed.
const FLAGS: &[(&str, FlowFlags)] = &[
    ("send_flow_rem", FlowFlags::SEND_FLOW_REM),
    ("check_overlap", FlowFlags::CHECK_OVERLAP),
    ("reset_counts", FlowFlags::RESET_COUNTS),
    ("no_packet_counts", FlowFlags::NO_PACKET_COUNTS),
    ("no_byte_counts", FlowFlags::NO_BYTE_COUNTS),
];

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = List::new(f);
        list.item(format_args!("table={}", self.table))?;
        list.item(format_args!("priority={}", self.priority))?;
        if self.cookie != Cookie(0) {
            list.item(format_args!("cookie={}", self.cookie))?;
        }
        let numbers = [
            ("idle_timeout", self.idle_timeout),
            ("hard_timeout", self.hard_timeout),
            ("importance", self.importance),
        ];
        for (name, value) in numbers {
            if value != 0 {
                list.item(format_args!("{name}={value}"))?;
            }
        }
        for (name, flag) in FLAGS {
            if self.flags.contains(*flag) {
                list.item(format_args!("{name}"))?;
            }
        }
        match_::print(&self.match_, &mut list)?;
        f.write_str(" actions=")?;
        action_print::instructions(&self.instructions, f)
    }
}

impl FromStr for Flow {
    type Err = ParseError;

    /// Parses `ovs-ofctl add-flow` syntax, and what `dump-flows` prints (counters are skipped).
    fn from_str(text: &str) -> Result<Self> {
        let (head, actions) = split_actions(text);
        let mut flow = Self::default();
        let mut pairs = Vec::new();
        for item in items(head)? {
            let (key, value) = key_value(item);
            match key {
                "table" => flow.table = TableId(small(value)?),
                "priority" => flow.priority = small(value)?,
                "cookie" => flow.cookie = Cookie(small(value)?),
                "idle_timeout" => flow.idle_timeout = small(value)?,
                "hard_timeout" => flow.hard_timeout = small(value)?,
                "importance" => flow.importance = small(value)?,
                "duration" | "n_packets" | "n_bytes" | "idle_age" | "hard_age" => {}
                _ => match FLAGS
                    .iter()
                    .find(|(name, _)| *name == key && value.is_empty())
                {
                    Some((_, flag)) => flow.flags = flow.flags | *flag,
                    None => pairs.push((key, value)),
                },
            }
        }
        flow.match_ = match_::from_pairs(&pairs)?;
        if let Some(actions) = actions {
            flow.instructions = action_parse::instructions(actions, Before::of(&flow.match_))?;
        }
        Ok(flow)
    }
}

/// Splits at `actions=`, which must begin a word.
pub(super) fn split_actions(text: &str) -> (&str, Option<&str>) {
    for word in ["actions=", "action="] {
        for (index, _) in text.match_indices(word) {
            let begins = text[..index]
                .chars()
                .next_back()
                .is_none_or(|c| c == ',' || c.is_whitespace());
            if begins {
                return (&text[..index], Some(&text[index + word.len()..]));
            }
        }
    }
    (text, None)
}
