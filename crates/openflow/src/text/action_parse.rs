//! Parsing actions and instructions (`ofpacts_parse` in `lib/ofp-actions.c`).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::action_old::{self, Before};
use super::{Result, hex_bytes, in_brackets, items, key_value, learn, number, small, value};
use crate::MAX_DEPTH;
use crate::action::{
    Action, Controller, ControllerForm, Ct, CtZone, HashFields, Instructions, Multipath,
    MultipathAlgorithm, Nat, NatAddresses, NatHash, NatKind, PacketInReason, Resubmit,
    ResubmitTuple, WriteMetadata,
};
use crate::error::ParseError;
use crate::field::{Access, Field};
use crate::id::{GroupId, MeterId, OfPort, TableId};
use crate::match_::MaskedField;

impl FromStr for Instructions {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self> {
        instructions(text, Before::default())
    }
}

impl FromStr for Action {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self> {
        let mut list = actions(text)?;
        match (list.pop(), list.is_empty()) {
            (Some(action), true) => Ok(action),
            _ => Err(ParseError::new(text, "is not one action")),
        }
    }
}

/// Actions without instructions; `drop` is none.
pub(super) fn actions(text: &str) -> Result<Vec<Action>> {
    nested(text, 0, Before::default())
}

fn nested(text: &str, depth: usize, mut before: Before) -> Result<Vec<Action>> {
    if depth > MAX_DEPTH {
        return Err(ParseError::new(text, "is nested too deep"));
    }
    let items = items(text)?;
    if let ["drop"] = items.as_slice() {
        return Ok(Vec::new());
    }
    let mut list = Vec::with_capacity(items.len());
    for item in items {
        push(item, depth, &mut before, &mut list)?;
    }
    Ok(list)
}

/// Parses an item, which may stand for several actions.
fn push(item: &str, depth: usize, before: &mut Before, list: &mut Vec<Action>) -> Result<()> {
    if !action_old::push(item, before, list)? {
        let action = action(item, depth, *before)?;
        before.follow(&action);
        list.push(action);
    }
    Ok(())
}

/// Instructions and actions of a flow; `before` tells what its match says.
pub(super) fn instructions(text: &str, mut before: Before) -> Result<Instructions> {
    let mut result = Instructions::default();
    let all = items(text)?;
    if let ["drop"] = all.as_slice() {
        return Ok(result);
    }
    for item in all {
        let (key, value) = key_value(item);
        let once = |taken: bool| {
            if taken {
                Err(ParseError::new(item, "is given twice"))
            } else {
                Ok(())
            }
        };
        match key {
            "clear_actions" => {
                once(result.clear)?;
                result.clear = true;
            }
            "write_actions" => {
                once(!result.write.is_empty())?;
                result.write = nested(in_brackets(value)?, 1, before)?;
            }
            "write_metadata" => {
                once(result.metadata.is_some())?;
                let (value, mask) = value
                    .split_once('/')
                    .unwrap_or((value, "0xffffffffffffffff"));
                let (value, mask): (u64, u64) = (small(value)?, small(mask)?);
                result.metadata = Some(WriteMetadata {
                    value: value & mask,
                    mask,
                });
            }
            "goto_table" => {
                once(result.goto.is_some())?;
                result.goto = Some(TableId(small(value)?));
            }
            "unknown_instruction" => {
                result.unknown.push(raw(in_brackets(value)?)?);
            }
            _ => {
                let late = result.clear
                    || !result.write.is_empty()
                    || result.metadata.is_some()
                    || result.goto.is_some();
                if late {
                    return Err(ParseError::new(item, "must stand before the instructions"));
                }
                push(item, 0, &mut before, &mut result.apply)?;
            }
        }
    }
    Ok(result)
}

/// Bytes of something unknown: a multiple of 8.
fn raw(text: &str) -> Result<Box<[u8]>> {
    let bytes = hex_bytes(text)?;
    if bytes.len() < 8 || bytes.len() % 8 != 0 {
        return Err(ParseError::new(text, "is not a multiple of 8 bytes"));
    }
    Ok(bytes.into_boxed_slice())
}

fn action(item: &str, depth: usize, before: Before) -> Result<Action> {
    let (key, text) = key_value(item);
    Ok(match key {
        "output" if text.starts_with('(') => output_truncated(text)?,
        "output" => output(text)?,
        "controller" | "CONTROLLER" => controller(text)?,
        "group" => Action::Group(GroupId(small(text)?)),
        "meter" => Action::Meter(MeterId(small(text)?)),
        "set_queue" => Action::SetQueue(small(text)?),
        "pop_queue" => Action::PopQueue,
        "set_field" => {
            let (value, field) = arrow(text)?;
            let field = Field::from_name(field)
                .ok_or_else(|| ParseError::new(field, "is not a known field"))?;
            set(field, value)?
        }
        "load" => {
            let (value, target) = arrow(text)?;
            let target = value::subfield(target)?;
            writable(target.field(), text)?;
            Action::load(number(value)?, target)
                .map_err(|error| ParseError::new(item, error.to_string()))?
        }
        "move" => {
            let (source, target) = arrow(text)?;
            let (source, target) = (value::subfield(source)?, value::subfield(target)?);
            writable(target.field(), text)?;
            if source.bits() != target.bits() {
                return Err(ParseError::new(
                    text,
                    "moves between different numbers of bits",
                ));
            }
            Action::Move { source, target }
        }
        "push" => Action::Push(value::subfield(text)?),
        "pop" => Action::Pop(value::subfield(text)?),
        "mod_dl_src" => set(Field::EthSrc, text)?,
        "mod_dl_dst" => set(Field::EthDst, text)?,
        "mod_nw_src" => set(Field::Ipv4Src, text)?,
        "mod_nw_dst" => set(Field::Ipv4Dst, text)?,
        "mod_nw_ecn" => set(Field::IpEcn, text)?,
        "set_tunnel" | "set_tunnel64" => set(Field::TunId, text)?,
        "set_mpls_label" => set(Field::MplsLabel, unbracketed(text))?,
        "set_mpls_tc" => set(Field::MplsTc, unbracketed(text))?,
        "dec_ttl" if text.is_empty() => Action::DecTtl,
        "dec_ttl" => {
            let ids = items(in_brackets(text)?)?;
            Action::DecTtlIds(ids.into_iter().map(small).collect::<Result<_>>()?)
        }
        "mod_nw_ttl" => Action::SetTtl(small(text)?),
        "push_vlan" => Action::PushVlan(small(text)?),
        "pop_vlan" | "strip_vlan" => Action::PopVlan,
        "push_mpls" => Action::PushMpls(small(text)?),
        "pop_mpls" => Action::PopMpls(small(text)?),
        "set_mpls_ttl" => Action::SetMplsTtl(small(unbracketed(text))?),
        "dec_mpls_ttl" => Action::DecMplsTtl,
        "resubmit" => resubmit(text)?,
        "ct" if text.is_empty() => Action::Ct(Box::default()),
        "ct" => Action::Ct(Box::new(ct(in_brackets(text)?, depth, before)?)),
        "nat" => Action::Nat(Box::new(nat(text)?)),
        "ct_clear" => Action::CtClear,
        "learn" => Action::Learn(Box::new(learn::parse(in_brackets(text)?)?)),
        "conjunction" => conjunction(in_brackets(text)?)?,
        "note" => {
            let mut bytes = hex_bytes(text)?;
            // As many bytes as fill the action, whose header takes 10.
            bytes.resize((bytes.len() + 10).next_multiple_of(8) - 10, 0);
            if bytes.is_empty() {
                bytes.resize(6, 0);
            }
            Action::Note(bytes.into_boxed_slice())
        }
        "clone" => Action::Clone(nested(in_brackets(text)?, depth + 1, before)?),
        "check_pkt_larger" => {
            let (bytes, target) = arrow(text)?;
            let target = value::subfield(target)?;
            if target.bits() != 1 {
                return Err(ParseError::new(item, "writes one bit only"));
            }
            Action::CheckPacketLarger {
                bytes: small(in_brackets(bytes)?)?,
                target,
            }
        }
        "multipath" => multipath(in_brackets(text)?)?,
        "exit" => Action::Exit,
        "delete_field" => Action::DeleteField(
            Field::from_name(text).ok_or_else(|| ParseError::new(text, "is not a known field"))?,
        ),
        "fin_timeout" => fin_timeout(in_brackets(text)?)?,
        "unknown" => Action::Unknown(raw(in_brackets(text)?)?),
        "drop" => return Err(ParseError::new(item, "must stand alone")),
        _ if text.is_empty() => {
            let port = value::port(key)
                .map_err(|_| ParseError::new(item, "is not an action or a port"))?;
            Action::output(port)
        }
        _ => return Err(ParseError::new(item, "is not a known action")),
    })
}

fn unbracketed(text: &str) -> &str {
    text.strip_prefix('(')
        .and_then(|text| text.strip_suffix(')'))
        .unwrap_or(text)
}

fn arrow(text: &str) -> Result<(&str, &str)> {
    text.split_once("->")
        .map(|(left, right)| (left.trim(), right.trim()))
        .ok_or_else(|| ParseError::new(text, "lacks `->`"))
}

fn writable(field: Field, text: &str) -> Result<()> {
    match field.info().access {
        Access::ReadWrite => Ok(()),
        Access::ReadOnly => Err(ParseError::new(
            text,
            format!("writes {field}, which is read-only"),
        )),
    }
}

fn set(field: Field, text: &str) -> Result<Action> {
    writable(field, text)?;
    let parsed: MaskedField = value::parse(field, text)?;
    Ok(Action::SetField(parsed))
}

fn output(text: &str) -> Result<Action> {
    if let Ok(port) = value::port(text) {
        return Ok(Action::output(port));
    }
    match value::subfield(text) {
        Ok(source) => Ok(Action::OutputField {
            source,
            max_len: u16::MAX,
        }),
        Err(error) => match text.split_once(':') {
            // `output:CONTROLLER:128`
            Some((port, max_len)) if value::port(port) == Ok(OfPort::CONTROLLER) => {
                Ok(Action::Output {
                    port: OfPort::CONTROLLER,
                    max_len: small(max_len)?,
                })
            }
            _ => Err(error),
        },
    }
}

fn output_truncated(text: &str) -> Result<Action> {
    let (mut port, mut max_len) = (None, None);
    for item in items(in_brackets(text)?)? {
        match key_value(item) {
            ("port", text) => port = Some(value::port(text)?),
            ("max_len", text) => max_len = Some(small(text)?),
            _ => return Err(ParseError::new(item, "is not known in output")),
        }
    }
    match (port, max_len) {
        (Some(port), Some(max_len)) => Ok(Action::OutputTruncated { port, max_len }),
        _ => Err(ParseError::new(text, "needs port and max_len")),
    }
}

fn controller(text: &str) -> Result<Action> {
    let mut result = Controller::default();
    if text.starts_with('(') {
        for item in items(in_brackets(text)?)? {
            match key_value(item) {
                ("max_len", text) => result.max_len = small(text)?,
                ("id", text) => result.controller_id = small(text)?,
                ("reason", text) => result.reason = reason(text)?,
                ("userdata", text) => result.userdata = hex_bytes(text)?,
                ("pause", "") => result.pause = true,
                ("meter_id", text) => result.meter = Some(MeterId(small(text)?)),
                _ => return Err(ParseError::new(item, "is not known in controller")),
            }
        }
    } else if !text.is_empty() {
        result.max_len = small(text)?;
    }
    let plain = Controller {
        max_len: result.max_len,
        ..Controller::default()
    };
    if result == plain {
        // As ovs-ofctl does.
        return Ok(Action::Output {
            port: OfPort::CONTROLLER,
            max_len: result.max_len,
        });
    }
    result.form = ControllerForm::Shortest;
    Ok(Action::Controller(Box::new(result)))
}

fn reason(text: &str) -> Result<PacketInReason> {
    (0..=5)
        .map(PacketInReason)
        .find(|reason| reason.name() == Some(text))
        .map_or_else(|| small(text).map(PacketInReason), Ok)
}

fn resubmit(text: &str) -> Result<Action> {
    let mut result = Resubmit {
        port: OfPort::IN_PORT,
        table: None,
        tuple: ResubmitTuple::Packet,
    };
    if !text.starts_with('(') {
        result.port = value::port(text)?;
        return Ok(Action::Resubmit(result));
    }
    let inner = in_brackets(text)?;
    let mut parts = inner.split(',').map(str::trim);
    if let Some(port) = parts.next().filter(|port| !port.is_empty()) {
        result.port = value::port(port)?;
    }
    if let Some(table) = parts.next().filter(|table| !table.is_empty()) {
        let number: u8 = small(table)?;
        result.table = (number != u8::MAX).then_some(TableId(number));
    }
    match parts.next() {
        None => {}
        Some("ct") => result.tuple = ResubmitTuple::Conntrack,
        Some(other) => return Err(ParseError::new(other, "is not known in resubmit")),
    }
    Ok(Action::Resubmit(result))
}

fn ct(text: &str, depth: usize, before: Before) -> Result<Ct> {
    let mut result = Ct::default();
    for item in items(text)? {
        let (key, text) = key_value(item);
        match key {
            "commit" => result.commit = true,
            "force" => result.force = true,
            "table" => {
                let table: u8 = small(text)?;
                if table == u8::MAX {
                    return Err(ParseError::new(text, "is not a table of its own"));
                }
                result.table = Some(TableId(table));
            }
            "zone" => {
                result.zone = match small(text) {
                    Ok(zone) => CtZone::Number(zone),
                    Err(_) => CtZone::Field(value::subfield(text)?),
                };
            }
            "alg" => {
                result.alg = match text {
                    "ftp" => 21,
                    "tftp" => 69,
                    other => small(other)?,
                };
            }
            "nat" => result.nat = Some(nat(text)?),
            "exec" => result.exec = nested(in_brackets(text)?, depth + 1, before)?,
            "unknown_flags" => result.other_flags = small::<u16>(text)? & !3,
            _ => return Err(ParseError::new(item, "is not known in ct")),
        }
    }
    Ok(result)
}

fn nat(text: &str) -> Result<Nat> {
    let mut result = Nat::default();
    if text.is_empty() {
        return Ok(result);
    }
    for item in items(in_brackets(text)?)? {
        let (key, range) = item.split_once('=').unwrap_or((item, ""));
        match key {
            "src" | "dst" => {
                if result.kind != NatKind::Existing {
                    return Err(ParseError::new(item, "comes after another of src and dst"));
                }
                result.kind = if key == "src" {
                    NatKind::Source
                } else {
                    NatKind::Destination
                };
                if !range.is_empty() {
                    nat_range(&mut result, range)?;
                }
            }
            "persistent" => result.persistent = true,
            "hash" => result.hash = NatHash::Hash,
            "random" => result.hash = NatHash::Random,
            _ => return Err(ParseError::new(item, "is not known in nat")),
        }
    }
    Ok(result)
}

/// `10.0.0.1-10.0.0.9:1000-2000`, `[fe80::1]-[fe80::2]:80`, `fe80::1-fe80::2`, `:1000-2000`.
fn nat_range(nat: &mut Nat, text: &str) -> Result<()> {
    let wrong = || ParseError::new(text, "is not a range of addresses and ports");
    let (addresses, ports) = if let Some(ports) = text.strip_prefix(':')
        && !ports.starts_with(':')
    {
        ("", Some(ports))
    } else if text.contains('[') {
        let end = text.rfind(']').ok_or_else(wrong)?;
        let (addresses, rest) = text.split_at(end + 1);
        (addresses, rest.strip_prefix(':'))
    } else if text.matches(':').count() > 1 {
        (text, None)
    } else {
        match text.split_once(':') {
            Some((addresses, ports)) => (addresses, Some(ports)),
            None => (text, None),
        }
    };
    if !addresses.is_empty() {
        let (first, last) = match addresses.split_once('-') {
            Some((first, last)) => (first, Some(last)),
            None => (addresses, None),
        };
        let bare = |text: &str| {
            text.trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned()
        };
        nat.addresses = Some(if let Ok(first) = first.parse::<Ipv4Addr>() {
            let last = last.map(str::parse).transpose().map_err(|_| wrong())?;
            NatAddresses::V4(first, last.filter(|last| *last != first))
        } else {
            let first: Ipv6Addr = bare(first).parse().map_err(|_| wrong())?;
            let last = last
                .map(|last| bare(last).parse())
                .transpose()
                .map_err(|_| wrong())?;
            NatAddresses::V6(first, last.filter(|last| *last != first))
        });
    }
    if let Some(ports) = ports {
        let (first, last): (u16, u16) = match ports.split_once('-') {
            Some((first, last)) => (small(first)?, small(last)?),
            None => (small(ports)?, 0),
        };
        if last != 0 && last < first {
            return Err(wrong());
        }
        nat.ports = Some((first, if last == first { 0 } else { last }));
    }
    Ok(())
}

fn conjunction(text: &str) -> Result<Action> {
    let wrong = || ParseError::new(text, "should be id, clause/clauses");
    let (id, rest) = text.split_once(',').ok_or_else(wrong)?;
    let (clause, clauses) = rest.trim().split_once('/').ok_or_else(wrong)?;
    let (clause, clauses): (u8, u8) = (small(clause)?, small(clauses)?);
    if !(2..=64).contains(&clauses) || clause == 0 || clause > clauses {
        return Err(wrong());
    }
    Ok(Action::conjunction(small(id.trim())?, clause - 1, clauses))
}

fn multipath(text: &str) -> Result<Action> {
    let parts = items(text)?;
    let [fields, basis, algorithm, links, argument, target] = parts.as_slice() else {
        return Err(ParseError::new(text, "should have six parts"));
    };
    let named = |names: &[&str], text: &str| match names.iter().position(|name| *name == text) {
        Some(index) => u16::try_from(index).map_err(|_| ParseError::new(text, "is not known")),
        None => small(text),
    };
    let links: u32 = small(links)?;
    let max_link = links
        .checked_sub(1)
        .and_then(|links| u16::try_from(links).ok());
    Ok(Action::Multipath(Box::new(Multipath {
        fields: HashFields(named(&HashFields::NAMES, fields)?),
        basis: small(basis)?,
        algorithm: MultipathAlgorithm(named(&MultipathAlgorithm::NAMES, algorithm)?),
        max_link: max_link.ok_or_else(|| ParseError::new(text, "must have 1 to 65536 links"))?,
        argument: small(argument)?,
        target: value::subfield(target)?,
    })))
}

fn fin_timeout(text: &str) -> Result<Action> {
    let (mut idle, mut hard) = (0, 0);
    for item in items(text)? {
        match key_value(item) {
            ("idle_timeout", text) => idle = small(text)?,
            ("hard_timeout", text) => hard = small(text)?,
            _ => return Err(ParseError::new(item, "is not known in fin_timeout")),
        }
    }
    Ok(Action::FinTimeout { idle, hard })
}
