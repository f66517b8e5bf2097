//! `learn` as text (`lib/learn.c`).

use std::fmt;

use super::value::{self, Value};
use super::{List, Result, items, key_value, number, small};
use crate::action::{Learn, LearnFlags, LearnLimit, LearnSource, LearnSpec, LearnTarget};
use crate::error::ParseError;
use crate::field::{Field, Subfield};
use crate::id::{Cookie, TableId};
use crate::match_::MaskedField;

const DEFAULT_PRIORITY: u16 = 0x8000;

pub(super) fn print(learn: &Learn, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("learn(")?;
    let mut list = List::new(f);
    list.item(format_args!("table={}", learn.table))?;
    let timeouts = [
        ("idle_timeout", learn.idle_timeout),
        ("hard_timeout", learn.hard_timeout),
        ("fin_idle_timeout", learn.fin_idle_timeout),
        ("fin_hard_timeout", learn.fin_hard_timeout),
    ];
    for (name, value) in timeouts {
        if value != 0 {
            list.item(format_args!("{name}={value}"))?;
        }
    }
    if learn.priority != DEFAULT_PRIORITY {
        list.item(format_args!("priority={}", learn.priority))?;
    }
    if learn.flags.contains(LearnFlags::SEND_FLOW_REM) {
        list.item(format_args!("send_flow_rem"))?;
    }
    if learn.flags.contains(LearnFlags::DELETE_LEARNED) {
        list.item(format_args!("delete_learned"))?;
    }
    if learn.cookie != Cookie(0) {
        list.item(format_args!("cookie={}", learn.cookie))?;
    }
    if let Some(limit) = learn.limit {
        if limit.flows != 0 || limit.result.is_none() {
            list.item(format_args!("limit={}", limit.flows))?;
        }
        if let Some(result) = limit.result {
            list.item(format_args!("result_dst={result}"))?;
        }
    }
    for spec in &learn.specs {
        print_spec(spec, &mut list)?;
    }
    f.write_str(")")
}

fn print_spec(spec: &LearnSpec, list: &mut List<'_, '_>) -> fmt::Result {
    match (&spec.source, spec.target) {
        (LearnSource::Field(source), LearnTarget::Match(target)) if *source == target => {
            list.item(format_args!("{target}"))
        }
        (LearnSource::Field(source), LearnTarget::Match(target)) => {
            list.item(format_args!("{target}={source}"))
        }
        (LearnSource::Field(source), LearnTarget::Load(target)) => {
            list.item(format_args!("load:{source}->{target}"))
        }
        (LearnSource::Field(source), LearnTarget::Output) => {
            list.item(format_args!("output:{source}"))
        }
        (LearnSource::Value(bytes), LearnTarget::Match(target)) => {
            let whole = target
                .is_whole()
                .then(|| whole_value(target.field(), bytes))
                .flatten();
            match whole {
                Some(value) => list.item(format_args!("{}={}", target.field(), Value(&value))),
                None => list.item(format_args!("{target}={}", Number(bytes))),
            }
        }
        (LearnSource::Value(bytes), LearnTarget::Load(target)) => {
            list.item(format_args!("load:{}->{target}", Number(bytes)))
        }
        (LearnSource::Value(bytes), LearnTarget::Output) => {
            list.item(format_args!("output:{}", Number(bytes)))
        }
    }
}

fn whole_value(field: Field, bytes: &[u8]) -> Option<MaskedField> {
    let value = bytes_value(bytes)?;
    MaskedField::exact(field, value).ok()
}

/// The number that big-endian bytes are, if it has at most 128 bits.
fn bytes_value(bytes: &[u8]) -> Option<u128> {
    let (high, low) = bytes.split_at(bytes.len().saturating_sub(16));
    if high.iter().any(|byte| *byte != 0) {
        return None;
    }
    Some(
        low.iter()
            .fold(0, |value, byte| value << 8 | u128::from(*byte)),
    )
}

/// Displays big-endian bytes as a hexadecimal number.
struct Number<'a>(&'a [u8]);

impl fmt::Display for Number<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match bytes_value(self.0) {
            Some(value) => write!(f, "{value:#x}"),
            None => write!(f, "0x{}", super::Hex(self.0, "")),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Learn> {
    let mut learn = Learn::default();
    let mut limit = None;
    let mut result = None;
    for item in items(text)? {
        let (key, value) = key_value(item);
        match key {
            "table" => learn.table = TableId(small(value)?),
            "priority" => learn.priority = small(value)?,
            "idle_timeout" => learn.idle_timeout = small(value)?,
            "hard_timeout" => learn.hard_timeout = small(value)?,
            "fin_idle_timeout" => learn.fin_idle_timeout = small(value)?,
            "fin_hard_timeout" => learn.fin_hard_timeout = small(value)?,
            "cookie" => learn.cookie = Cookie(small(value)?),
            "send_flow_rem" => learn.flags.0 |= LearnFlags::SEND_FLOW_REM,
            "delete_learned" => learn.flags.0 |= LearnFlags::DELETE_LEARNED,
            "limit" => limit = Some(small(value)?),
            "result_dst" => {
                let bit = value::subfield(value)?;
                if bit.bits() != 1 {
                    return Err(ParseError::new(value, "must be one bit"));
                }
                learn.flags.0 |= LearnFlags::WRITE_RESULT;
                result = Some(bit);
            }
            _ => learn.specs.push(spec(item)?),
        }
    }
    if limit.is_some() || result.is_some() {
        learn.limit = Some(LearnLimit {
            flows: limit.unwrap_or(0),
            result,
        });
    }
    Ok(learn)
}

fn spec(item: &str) -> Result<LearnSpec> {
    if let Some(rest) = item.strip_prefix("load:") {
        let (source, target) = rest
            .split_once("->")
            .ok_or_else(|| ParseError::new(item, "lacks `->`"))?;
        let target = value::subfield(target)?;
        if source.starts_with(|first: char| first.is_ascii_digit()) {
            let source = immediate(number(source)?, target, item)?;
            return Ok(LearnSpec {
                bits: target.bits(),
                source,
                target: LearnTarget::Load(target),
            });
        }
        return from_field(
            value::subfield(source)?,
            LearnTarget::Load(target),
            target.bits(),
            item,
        );
    }
    if let Some(rest) = item.strip_prefix("output:") {
        let source = value::subfield(rest)?;
        return from_field(source, LearnTarget::Output, source.bits(), item);
    }
    let Some((target, source)) = item.split_once('=') else {
        let field = value::subfield(item)?;
        return from_field(field, LearnTarget::Match(field), field.bits(), item);
    };
    let target = value::subfield(target)?;
    if let Ok(source) = value::subfield(source) {
        return from_field(source, LearnTarget::Match(target), target.bits(), item);
    }
    let value = if target.is_whole() {
        let parsed = value::parse(target.field(), source)?;
        if !parsed.is_exact() {
            return Err(ParseError::new(item, "must not be masked"));
        }
        parsed.value()
    } else {
        number(source)?
    };
    let source = immediate(value, target, item)?;
    Ok(LearnSpec {
        bits: target.bits(),
        source,
        target: LearnTarget::Match(target),
    })
}

fn from_field(source: Subfield, target: LearnTarget, bits: u16, item: &str) -> Result<LearnSpec> {
    if source.bits() != bits {
        return Err(ParseError::new(
            item,
            "has sides of different numbers of bits",
        ));
    }
    Ok(LearnSpec {
        bits,
        source: LearnSource::Field(source),
        target,
    })
}

fn immediate(value: u128, target: Subfield, item: &str) -> Result<LearnSource> {
    let bits = target.bits();
    if bits < 128 && value >> bits != 0 {
        return Err(ParseError::new(
            item,
            "has a value that does not fit its bits",
        ));
    }
    let bytes = usize::from(bits.div_ceil(16)) * 2;
    let mut result = vec![0; bytes.saturating_sub(16)];
    let wide = value.to_be_bytes();
    result.extend_from_slice(wide.get(16 - bytes.min(16)..).unwrap_or_default());
    Ok(LearnSource::Value(result))
}
