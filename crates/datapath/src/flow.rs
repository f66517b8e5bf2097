//! A flow as it is written: table, priority, match and actions in the syntax of ovs-ofctl(8).
//!
//! Rendering makes text, because text is what a person reviews in a golden file, what the saved
//! commit holds and what `ovs-ofctl` takes; [`crate::Desired::to_switch`] turns it into the types
//! the switch is driven with, and so checks every line.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::cookie::CookieParts;
use crate::services::Protocol;
use crate::state::{MacAddr, Port};
use crate::table::Table;
use crate::tunnel::IpFamily;

/// One flow of the desired state.
///
/// The order (table, then falling priority, then match) is that of golden files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowLine {
    /// Table it stands in.
    pub table: Table,
    /// Its priority.
    pub priority: u16,
    /// Whose flow it is.
    pub cookie: CookieParts,
    /// The match, without table and priority; empty matches everything.
    pub matches: String,
    /// The actions, comma-separated.
    pub actions: String,
}

impl FlowLine {
    /// What makes a flow the same flow: a switch holds one per table, priority and match.
    pub fn key(&self) -> (Table, std::cmp::Reverse<u16>, &str) {
        (self.table, std::cmp::Reverse(self.priority), &self.matches)
    }
}

impl fmt::Display for FlowLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table,
            priority,
            cookie,
            matches,
            actions,
        } = self;
        write!(
            f,
            "cookie={:#x},table={},priority={priority}",
            cookie.to_bits(),
            table.id()
        )?;
        if !matches.is_empty() {
            write!(f, ",{matches}")?;
        }
        write!(f, " actions={actions}")
    }
}

/// Builds one flow; each method adds one term of the match. Prerequisites (`ip`, `arp`, `icmp6`)
/// come first by the constructors of [`Proto`].
#[derive(Debug, Clone)]
pub(crate) struct FlowBuilder {
    line: FlowLine,
}

/// The protocol a match begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proto {
    /// Any packet.
    Any,
    /// IPv4.
    Ip,
    /// IPv6.
    Ipv6,
    /// ARP.
    Arp,
    /// An ICMPv6 message by type. The code is always matched with it for neighbour discovery:
    /// the kernel exports the ND fields into its megaflow only when type and code are exact, so
    /// that without it one good message lets every forged one pass.
    Icmp6 { message: u8 },
    /// A transport protocol over IPv4 or IPv6.
    Transport {
        protocol: Protocol,
        family: IpFamily,
    },
}

impl Proto {
    pub(crate) const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ip,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    pub(crate) const fn of_net(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::Ip,
            IpNet::V6(_) => Self::Ipv6,
        }
    }
}

impl FlowBuilder {
    pub(crate) fn new(table: Table, priority: u16, cookie: CookieParts, proto: Proto) -> Self {
        let matches = match proto {
            Proto::Any => String::new(),
            Proto::Ip => "ip".to_owned(),
            Proto::Ipv6 => "ipv6".to_owned(),
            Proto::Arp => "arp".to_owned(),
            Proto::Icmp6 { message } => format!("icmp6,icmp_type={message}"),
            Proto::Transport { protocol, family } => match family {
                IpFamily::V4 => protocol.name().to_owned(),
                IpFamily::V6 => format!("{}6", protocol.name()),
            },
        };
        Self {
            line: FlowLine {
                table,
                priority,
                cookie,
                matches,
                actions: String::new(),
            },
        }
    }

    /// Adds a term; writing into a `String` cannot fail.
    pub(crate) fn on(mut self, field: &str, value: impl fmt::Display) -> Self {
        if !self.line.matches.is_empty() {
            self.line.matches.push(',');
        }
        let _ = write!(self.line.matches, "{field}={value}");
        self
    }

    pub(crate) fn in_port(self, port: Port) -> Self {
        self.on("in_port", port)
    }

    pub(crate) fn eth_src(self, mac: MacAddr) -> Self {
        self.on("dl_src", mac)
    }

    pub(crate) fn src(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.on("nw_src", v4),
            IpAddr::V6(v6) => self.on("ipv6_src", v6),
        }
    }

    pub(crate) fn dst(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.on("nw_dst", v4),
            IpAddr::V6(v6) => self.on("ipv6_dst", v6),
        }
    }

    pub(crate) fn src_net(self, net: IpNet) -> Self {
        match net.trunc() {
            IpNet::V4(v4) => self.on("nw_src", v4),
            IpNet::V6(v6) => self.on("ipv6_src", v6),
        }
    }

    pub(crate) fn dst_net(self, net: IpNet) -> Self {
        match net.trunc() {
            IpNet::V4(v4) => self.on("nw_dst", v4),
            IpNet::V6(v6) => self.on("ipv6_dst", v6),
        }
    }

    pub(crate) fn actions(mut self, actions: impl Into<String>) -> FlowLine {
        self.line.actions = actions.into();
        self.line
    }

    pub(crate) fn goto(self, table: Table) -> FlowLine {
        self.actions(goto(table))
    }

    pub(crate) fn drop(self) -> FlowLine {
        self.actions("drop")
    }
}

/// `goto_table:N`.
pub(crate) fn goto(table: Table) -> String {
    format!("goto_table:{}", table.id())
}
