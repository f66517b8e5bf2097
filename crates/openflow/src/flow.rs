//! Flows and their modifications (OpenFlow 1.5.1 §7.3.4.2).

use std::time::Duration;

use crate::action::Instructions;
use crate::id::{Cookie, GroupId, OfPort, TableId};
use crate::match_::Match;

pub(crate) mod codec;

/// A flow entry as it is wanted, or as a dump shows it less its counters (OpenFlow 1.5.1 §7.3.4.2,
/// `struct ofp_flow_mod`).
///
/// Two flows with the same [`FlowKey`] cannot be in a switch at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Its table.
    pub table: TableId,
    /// Higher wins.
    pub priority: u16,
    /// What packets it is for.
    pub match_: Match,
    /// Whose it is.
    pub cookie: Cookie,
    /// What it does.
    pub instructions: Instructions,
    /// Seconds without a packet until it goes, 0 for never.
    pub idle_timeout: u16,
    /// Seconds until it goes, 0 for never.
    pub hard_timeout: u16,
    /// Flags.
    pub flags: FlowFlags,
    /// What goes last when a table is full.
    pub importance: u16,
}

impl Default for Flow {
    /// Table 0, priority 32768 as ovs-ofctl has it, every packet, dropped.
    fn default() -> Self {
        Self {
            table: TableId(0),
            priority: 0x8000,
            match_: Match::any(),
            cookie: Cookie(0),
            instructions: Instructions::drop(),
            idle_timeout: 0,
            hard_timeout: 0,
            flags: FlowFlags::NONE,
            importance: 0,
        }
    }
}

impl Flow {
    /// A flow without cookie, timeouts and flags.
    pub fn new(table: TableId, priority: u16, match_: Match, instructions: Instructions) -> Self {
        Self {
            table,
            priority,
            match_,
            instructions,
            ..Self::default()
        }
    }

    /// With this cookie.
    #[must_use]
    pub fn with_cookie(mut self, cookie: Cookie) -> Self {
        self.cookie = cookie;
        self
    }

    /// What makes it itself within a switch.
    pub fn key(&self) -> FlowKey<'_> {
        FlowKey {
            table: self.table,
            priority: self.priority,
            match_: &self.match_,
        }
    }

    /// The form in which flows are compared: what the switch considers equal, and what it changes
    /// when it keeps a flow, is equal afterwards.
    pub fn canonicalize(&mut self) {
        crate::canonical::flow(self);
    }

    /// [`Self::canonicalize`] on a copy.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let mut flow = self.clone();
        flow.canonicalize();
        flow
    }
}

/// What makes a flow itself within a switch (OpenFlow 1.5.1 §5.2: table, priority and match).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey<'a> {
    /// The table.
    pub table: TableId,
    /// The priority.
    pub priority: u16,
    /// The match.
    pub match_: &'a Match,
}

/// Flags of a flow (`enum ofp_flow_mod_flags`); unknown bits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlowFlags(pub u16);

impl FlowFlags {
    /// None.
    pub const NONE: Self = Self(0);
    /// `send_flow_rem`: its removal is told.
    pub const SEND_FLOW_REM: Self = Self(1);
    /// `check_overlap`: refused when another of the same priority overlaps.
    pub const CHECK_OVERLAP: Self = Self(2);
    /// `reset_counts`: counters start anew when it replaces another.
    pub const RESET_COUNTS: Self = Self(4);
    /// `no_packet_counts`.
    pub const NO_PACKET_COUNTS: Self = Self(8);
    /// `no_byte_counts`.
    pub const NO_BYTE_COUNTS: Self = Self(16);

    /// Whether all of `flags` are set.
    pub fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

impl std::ops::BitOr for FlowFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a flow modification does (`enum ofp_flow_mod_command`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowModCommand {
    /// Adds, or replaces one of the same key; counters start anew.
    Add,
    /// Changes the actions of all that match; counters stay.
    Modify,
    /// Changes the actions of the one with this key; counters stay.
    ModifyStrict,
    /// Removes all that match.
    Delete,
    /// Removes the one with this key.
    DeleteStrict,
}

/// A flow modification (OpenFlow 1.5.1 §7.3.4.2, `struct ofp_flow_mod`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowMod {
    /// What is done.
    pub command: FlowModCommand,
    /// The flow. For [`FlowModCommand::Add`] its cookie is set; otherwise the cookie is compared
    /// under `cookie_mask` and the flow's own stays.
    pub flow: Flow,
    /// Which bits of the cookie must be equal, for all commands but add.
    pub cookie_mask: u64,
    /// Only flows that output here ([`OfPort::ANY`]: all), for deletions.
    pub out_port: OfPort,
    /// Only flows that send to this group ([`GroupId::ANY`]: all), for deletions.
    pub out_group: GroupId,
}

impl FlowMod {
    /// A modification without conditions on cookie, port and group.
    pub fn new(command: FlowModCommand, flow: Flow) -> Self {
        Self {
            command,
            flow,
            cookie_mask: 0,
            out_port: OfPort::ANY,
            out_group: GroupId::ANY,
        }
    }

    /// Adds a flow.
    pub fn add(flow: Flow) -> Self {
        Self::new(FlowModCommand::Add, flow)
    }

    /// Changes the actions of a flow; counters stay.
    pub fn modify_strict(flow: Flow) -> Self {
        Self::new(FlowModCommand::ModifyStrict, flow)
    }

    /// Removes a flow.
    pub fn delete_strict(flow: &Flow) -> Self {
        let mut key = Flow::new(
            flow.table,
            flow.priority,
            flow.match_.clone(),
            Instructions::drop(),
        );
        key.cookie = Cookie(0);
        Self::new(FlowModCommand::DeleteStrict, key)
    }

    /// Removes every flow of a table ([`TableId::ALL`]: of all tables) that matches.
    pub fn delete(table: TableId, match_: Match) -> Self {
        Self::new(
            FlowModCommand::Delete,
            Flow::new(table, 0, match_, Instructions::drop()),
        )
    }

    /// Removes every flow whose cookie equals `cookie` under `mask`.
    pub fn delete_by_cookie(cookie: Cookie, mask: u64) -> Self {
        let mut result = Self::delete(TableId::ALL, Match::any());
        result.flow.cookie = cookie;
        result.cookie_mask = mask;
        result
    }
}

/// A flow in a dump, with what the switch counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowStats {
    /// The flow.
    pub flow: Flow,
    /// How long it has been there.
    pub duration: Duration,
    /// How long no packet matched it, if the switch tells.
    pub idle: Option<Duration>,
    /// Packets that matched.
    pub packets: u64,
    /// Bytes that matched.
    pub bytes: u64,
}

/// What a flow dump is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowFilter {
    /// The table ([`TableId::ALL`]: all).
    pub table: TableId,
    /// Only flows that output here ([`OfPort::ANY`]: all).
    pub out_port: OfPort,
    /// Only flows that send to this group ([`GroupId::ANY`]: all).
    pub out_group: GroupId,
    /// Only flows whose cookie equals this one under the mask.
    pub cookie: Cookie,
    /// Bits of the cookie that must be equal.
    pub cookie_mask: u64,
    /// Only flows at least as specific as this.
    pub match_: Match,
}

impl Default for FlowFilter {
    fn default() -> Self {
        Self {
            table: TableId::ALL,
            out_port: OfPort::ANY,
            out_group: GroupId::ANY,
            cookie: Cookie(0),
            cookie_mask: 0,
            match_: Match::any(),
        }
    }
}
