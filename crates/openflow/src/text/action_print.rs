//! Printing actions and instructions (`ofpacts_format` in `lib/ofp-actions.c`).

use std::fmt;

use super::value::Value;
use super::{Hex, List, learn};
use crate::action::{
    Action, Controller, Ct, CtZone, HashFields, Instructions, Multipath, MultipathAlgorithm, Nat,
    NatAddresses, NatHash, NatKind, PacketInReason, Resubmit, ResubmitTuple,
};
use crate::field::Field;
use crate::id::OfPort;

impl fmt::Display for Instructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        instructions(self, f)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        action(self, f)
    }
}

/// Actions with commas; `drop` where there are none.
pub(super) fn actions(list: &[Action], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if list.is_empty() {
        return f.write_str("drop");
    }
    nested(list, f)
}

/// Actions with commas.
fn nested(list: &[Action], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (index, item) in list.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        action(item, f)?;
    }
    Ok(())
}

pub(super) fn instructions(all: &Instructions, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if all.is_drop() {
        return f.write_str("drop");
    }
    let mut separator = "";
    if !all.apply.is_empty() {
        nested(&all.apply, f)?;
        separator = ",";
    }
    if all.clear {
        write!(f, "{separator}clear_actions")?;
        separator = ",";
    }
    if !all.write.is_empty() {
        write!(f, "{separator}write_actions(")?;
        nested(&all.write, f)?;
        f.write_str(")")?;
        separator = ",";
    }
    if let Some(metadata) = all.metadata {
        write!(f, "{separator}write_metadata:{:#x}", metadata.value)?;
        if metadata.mask != u64::MAX {
            write!(f, "/{:#x}", metadata.mask)?;
        }
        separator = ",";
    }
    if let Some(table) = all.goto {
        write!(f, "{separator}goto_table:{table}")?;
        separator = ",";
    }
    for unknown in &all.unknown {
        write!(f, "{separator}unknown_instruction({})", Hex(unknown, ""))?;
        separator = ",";
    }
    Ok(())
}

fn action(action: &Action, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match action {
        Action::Output { port, max_len } => match port.reserved_name() {
            Some(name) if *port == OfPort::CONTROLLER => write!(f, "{name}:{max_len}"),
            Some(name) => f.write_str(name),
            None => write!(f, "output:{port}"),
        },
        Action::OutputField { source, .. } => write!(f, "output:{source}"),
        Action::OutputTruncated { port, max_len } => {
            write!(f, "output(port={port},max_len={max_len})")
        }
        Action::Group(group) => write!(f, "group:{group}"),
        Action::Meter(meter) => write!(f, "meter:{meter}"),
        Action::SetQueue(queue) => write!(f, "set_queue:{queue}"),
        Action::PopQueue => f.write_str("pop_queue"),
        Action::SetField(field) if field.field() == Field::TunFlags && field.is_exact() => {
            let value = if field.value() == 0 { "0" } else { "oam" };
            write!(f, "set_field:{value}->tun_flags")
        }
        Action::SetField(field) => write!(f, "set_field:{}->{}", Value(field), field.field()),
        Action::Move { source, target } => write!(f, "move:{source}->{target}"),
        Action::Push(field) => write!(f, "push:{field}"),
        Action::Pop(field) => write!(f, "pop:{field}"),
        Action::DecTtl => f.write_str("dec_ttl"),
        Action::DecTtlIds(ids) => {
            f.write_str("dec_ttl(")?;
            let mut list = List::new(f);
            for id in ids {
                list.item(format_args!("{id}"))?;
            }
            f.write_str(")")
        }
        Action::SetTtl(ttl) => write!(f, "mod_nw_ttl:{ttl}"),
        Action::PushVlan(kind) => write!(f, "push_vlan:{kind:#06x}"),
        Action::PopVlan => f.write_str("pop_vlan"),
        Action::PushMpls(kind) => write!(f, "push_mpls:{kind:#06x}"),
        Action::PopMpls(kind) => write!(f, "pop_mpls:{kind:#06x}"),
        Action::SetMplsTtl(ttl) => write!(f, "set_mpls_ttl({ttl})"),
        Action::DecMplsTtl => f.write_str("dec_mpls_ttl"),
        Action::Resubmit(resubmit) => print_resubmit(*resubmit, f),
        Action::Ct(ct) => print_ct(ct, f),
        Action::Nat(nat) => print_nat(nat, f),
        Action::CtClear => f.write_str("ct_clear"),
        Action::Learn(learn) => learn::print(learn, f),
        Action::Conjunction(conjunction) => write!(
            f,
            "conjunction({},{}/{})",
            conjunction.id,
            u16::from(conjunction.clause) + 1,
            conjunction.clauses
        ),
        Action::Controller(controller) => print_controller(controller, f),
        Action::Note(bytes) => write!(f, "note:{}", Hex(bytes, ".")),
        Action::Clone(list) => {
            f.write_str("clone(")?;
            nested(list, f)?;
            f.write_str(")")
        }
        Action::CheckPacketLarger { bytes, target } => {
            write!(f, "check_pkt_larger({bytes})->{target}")
        }
        Action::Multipath(multipath) => print_multipath(multipath, f),
        Action::Exit => f.write_str("exit"),
        Action::DeleteField(field) => write!(f, "delete_field:{field}"),
        Action::FinTimeout { idle, hard } => {
            f.write_str("fin_timeout(")?;
            let mut list = List::new(f);
            if *idle != 0 {
                list.item(format_args!("idle_timeout={idle}"))?;
            }
            if *hard != 0 {
                list.item(format_args!("hard_timeout={hard}"))?;
            }
            f.write_str(")")
        }
        Action::Unknown(bytes) => write!(f, "unknown({})", Hex(bytes, "")),
    }
}

fn print_resubmit(resubmit: Resubmit, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let ct = resubmit.tuple == ResubmitTuple::Conntrack;
    if resubmit.table.is_none() && !ct {
        return match resubmit.port.reserved_name() {
            Some(name) => write!(f, "resubmit:{name}"),
            None => write!(f, "resubmit:{}", resubmit.port),
        };
    }
    f.write_str("resubmit(")?;
    if resubmit.port != OfPort::IN_PORT {
        write!(f, "{}", resubmit.port)?;
    }
    f.write_str(",")?;
    if let Some(table) = resubmit.table {
        write!(f, "{table}")?;
    }
    f.write_str(if ct { ",ct)" } else { ")" })
}

fn print_ct(ct: &Ct, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("ct(")?;
    let mut list = List::new(f);
    if ct.commit {
        list.item(format_args!("commit"))?;
    }
    if ct.force {
        list.item(format_args!("force"))?;
    }
    if ct.other_flags != 0 {
        list.item(format_args!("unknown_flags={:#x}", ct.other_flags))?;
    }
    if let Some(table) = ct.table {
        list.item(format_args!("table={table}"))?;
    }
    match ct.zone {
        CtZone::Field(field) => list.item(format_args!("zone={field}"))?,
        CtZone::Number(0) => {}
        CtZone::Number(zone) => list.item(format_args!("zone={zone}"))?,
    }
    if let Some(nat) = &ct.nat {
        list.item(format_args!("{nat}"))?;
    }
    if !ct.exec.is_empty() {
        list.item(format_args!("exec({})", Nested(&ct.exec)))?;
    }
    match ct.alg {
        0 => {}
        21 => list.item(format_args!("alg=ftp"))?,
        69 => list.item(format_args!("alg=tftp"))?,
        other => list.item(format_args!("alg={other}"))?,
    }
    f.write_str(")")
}

/// Displays actions with commas.
struct Nested<'a>(&'a [Action]);

impl fmt::Display for Nested<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        nested(self.0, f)
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_nat(self, f)
    }
}

fn print_nat(nat: &Nat, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let kind = match nat.kind {
        NatKind::Existing => {
            let bare = nat.addresses.is_none()
                && nat.ports.is_none()
                && !nat.persistent
                && nat.hash == NatHash::Default;
            if bare {
                return f.write_str("nat");
            }
            ""
        }
        NatKind::Source => "src",
        NatKind::Destination => "dst",
    };
    write!(f, "nat({kind}")?;
    if nat.addresses.is_some() || nat.ports.is_some() {
        f.write_str("=")?;
    }
    match nat.addresses {
        None => {}
        Some(NatAddresses::V4(first, last)) => {
            write!(f, "{first}")?;
            if let Some(last) = last {
                write!(f, "-{last}")?;
            }
        }
        Some(NatAddresses::V6(first, last)) => {
            // Brackets only where a port follows.
            let (open, close) = if nat.ports.is_some() {
                ("[", "]")
            } else {
                ("", "")
            };
            write!(f, "{open}{first}{close}")?;
            if let Some(last) = last {
                write!(f, "-{open}{last}{close}")?;
            }
        }
    }
    if let Some((first, last)) = nat.ports {
        write!(f, ":{first}")?;
        if last != 0 {
            write!(f, "-{last}")?;
        }
    }
    if nat.persistent {
        f.write_str(",persistent")?;
    }
    match nat.hash {
        NatHash::Default => {}
        NatHash::Hash => f.write_str(",hash")?,
        NatHash::Random => f.write_str(",random")?,
    }
    f.write_str(")")
}

fn print_controller(controller: &Controller, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("controller(")?;
    let mut list = List::new(f);
    if controller.reason != PacketInReason::ACTION {
        match controller.reason.name() {
            Some(name) => list.item(format_args!("reason={name}"))?,
            None => list.item(format_args!("reason={}", controller.reason.0))?,
        }
    }
    if controller.max_len != u16::MAX {
        list.item(format_args!("max_len={}", controller.max_len))?;
    }
    if controller.controller_id != 0 {
        list.item(format_args!("id={}", controller.controller_id))?;
    }
    if !controller.userdata.is_empty() {
        list.item(format_args!("userdata={}", Hex(&controller.userdata, ".")))?;
    }
    if controller.pause {
        list.item(format_args!("pause"))?;
    }
    if let Some(meter) = controller.meter {
        list.item(format_args!("meter_id={meter}"))?;
    }
    f.write_str(")")
}

fn print_multipath(multipath: &Multipath, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let name = |names: &[&'static str], number: u16| {
        names
            .get(usize::from(number))
            .map_or_else(|| number.to_string(), |n| (*n).to_owned())
    };
    write!(
        f,
        "multipath({},{},{},{},{},{})",
        name(&HashFields::NAMES, multipath.fields.0),
        multipath.basis,
        name(&MultipathAlgorithm::NAMES, multipath.algorithm.0),
        u32::from(multipath.max_link) + 1,
        multipath.argument,
        multipath.target
    )
}
