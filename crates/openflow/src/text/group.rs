//! Groups as text.

use std::fmt;
use std::str::FromStr;

use super::value::{self, Value};
use super::{List, Result, action_parse, action_print, in_brackets, items, key_value, small};
use crate::error::ParseError;
use crate::field::Field;
use crate::group::{Bucket, Group, GroupType, Selection};
use crate::id::{BucketId, GroupId};
use crate::match_::MaskedField;

const TYPES: &[(GroupType, &str)] = &[
    (GroupType::All, "all"),
    (GroupType::Select, "select"),
    (GroupType::Indirect, "indirect"),
    (GroupType::FastFailover, "ff"),
];

impl fmt::Display for GroupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = TYPES
            .iter()
            .find(|(kind, _)| kind == self)
            .map(|(_, name)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group_id={},type={}", self.id, self.kind)?;
        if let Some(selection) = &self.selection {
            write!(f, ",selection_method={}", selection.method)?;
            if selection.parameter != 0 {
                write!(f, ",selection_param={}", selection.parameter)?;
            }
            if !selection.fields.is_empty() {
                f.write_str(",fields(")?;
                let mut list = List::new(f);
                for field in &selection.fields {
                    let name = field.field().name();
                    if field.mask() == field.field().info().all_ones() {
                        list.item(format_args!("{name}"))?;
                    } else {
                        // The mask is printed as a value: its own mask is whole.
                        let whole = MaskedField::whole(field.field(), field.mask());
                        list.item(format_args!("{name}={}", Value(&whole)))?;
                    }
                }
                f.write_str(")")?;
            }
        }
        for bucket in &self.buckets {
            write!(f, ",bucket=bucket_id:{}", bucket.id.0)?;
            let unsaid = default_weight(self.kind);
            if let Some(weight) = bucket.weight.filter(|weight| Some(*weight) != unsaid) {
                write!(f, ",weight:{weight}")?;
            }
            if let Some(port) = bucket.watch_port {
                write!(f, ",watch_port:{port}")?;
            }
            if let Some(group) = bucket.watch_group {
                write!(f, ",watch_group:{group}")?;
            }
            f.write_str(",actions=")?;
            action_print::actions(&bucket.actions, f)?;
        }
        Ok(())
    }
}

impl FromStr for Group {
    type Err = ParseError;

    /// Parses `ovs-ofctl add-group` syntax and what `dump-groups` prints.
    fn from_str(text: &str) -> Result<Self> {
        let mut parts = split_buckets(text).into_iter();
        let head = parts.next().unwrap_or_default();
        let mut id = None;
        let mut kind = GroupType::All;
        let mut selection: Option<Selection> = None;
        let empty = || Selection {
            method: String::new(),
            parameter: 0,
            fields: Vec::new(),
        };
        for item in items(head)? {
            let (key, value) = key_value(item);
            match key {
                "group_id" => id = Some(GroupId(small(value)?)),
                "type" => {
                    let found = TYPES.iter().find(|(_, name)| *name == value);
                    let also = (value == "fast_failover").then_some(GroupType::FastFailover);
                    kind = found
                        .map(|(kind, _)| *kind)
                        .or(also)
                        .ok_or_else(|| ParseError::new(value, "is not a type of group"))?;
                }
                "selection_method" => {
                    value.clone_into(&mut selection.get_or_insert_with(empty).method);
                }
                "selection_param" | "selection_method_param" => {
                    selection.get_or_insert_with(empty).parameter = small(value)?;
                }
                "fields" => {
                    let inner = if value.starts_with('(') {
                        in_brackets(value)?
                    } else {
                        value
                    };
                    selection.get_or_insert_with(empty).fields = selection_fields(inner)?;
                }
                _ => return Err(ParseError::new(key, "is not known in a group")),
            }
        }
        let id = id.ok_or_else(|| ParseError::new(text, "lacks a group_id"))?;
        let mut buckets = Vec::new();
        for (index, part) in parts.enumerate() {
            let number = u32::try_from(index).map_err(|_| ParseError::new(part, "is too much"))?;
            buckets.push(bucket(part, BucketId(number), kind)?);
        }
        Ok(Self {
            id,
            kind,
            selection,
            buckets,
        })
    }
}

/// Splits at `bucket=` or `buckets=` outside of brackets.
fn split_buckets(text: &str) -> Vec<&str> {
    let mut result = Vec::new();
    let mut start = 0;
    for (index, _) in text.match_indices("bucket") {
        let begins = text[..index]
            .chars()
            .next_back()
            .is_some_and(|c| c == ',' || c.is_whitespace());
        let rest = text.get(index + 6..).unwrap_or_default();
        let rest = rest.strip_prefix('s').unwrap_or(rest);
        if begins
            && index >= start
            && let Some(after) = rest.strip_prefix('=')
        {
            result.push(&text[start..index]);
            start = text.len() - after.len();
        }
    }
    result.push(&text[start..]);
    result
}

fn selection_fields(text: &str) -> Result<Vec<MaskedField>> {
    let mut fields = Vec::new();
    for item in items(text)? {
        let (name, text) = key_value(item);
        let field =
            Field::from_name(name).ok_or_else(|| ParseError::new(name, "is not a known field"))?;
        let mask = match text {
            "" => field.info().all_ones(),
            text => value::parse(field, text)?.value(),
        };
        let masked = MaskedField::masked(field, mask, mask);
        fields.push(masked.map_err(|error| ParseError::new(item, error.to_string()))?);
    }
    // In the order of the wire, each once.
    fields.sort();
    fields.dedup_by_key(|field| field.field());
    Ok(fields)
}

/// The weight of a bucket whose text says none: only select groups share by weight.
fn default_weight(kind: GroupType) -> Option<u16> {
    (kind == GroupType::Select).then_some(1)
}

fn bucket(text: &str, id: BucketId, kind: GroupType) -> Result<Bucket> {
    let mut result = Bucket::new(id, Vec::new());
    result.weight = default_weight(kind);
    let (head, actions) = super::flow::split_actions(text);
    let mut rest = Vec::new();
    for item in items(head)? {
        let (key, text) = key_value(item);
        match key {
            "bucket_id" => result.id = BucketId(small(text)?),
            "weight" => result.weight = Some(small(text)?),
            "watch_port" => result.watch_port = Some(value::port(text)?),
            "watch_group" => result.watch_group = Some(GroupId(small(text)?)),
            _ => rest.push(item),
        }
    }
    result.actions = match actions {
        Some(actions) if rest.is_empty() => action_parse::actions(actions)?,
        Some(_) => {
            return Err(ParseError::new(
                rest.first().unwrap_or(&""),
                "is not known in a bucket",
            ));
        }
        None => action_parse::actions(&rest.join(","))?,
    };
    Ok(result)
}
