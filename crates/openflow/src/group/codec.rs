//! Groups as bytes (OpenFlow 1.5.1 §7.3.4.3, §7.3.5.10).

use super::{Bucket, Group, GroupMod, GroupStats, GroupType, Selection};
use crate::action::{put_actions, read_actions};
use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::field::Field;
use crate::flow::codec::{put_duration, read_duration};
use crate::id::{BucketId, GroupId, OfPort};
use crate::match_::codec::{check_length, put_header, read_header};
use crate::match_::{MaskedField, all_ones};
use crate::wire::{Put, Reader, padding};

/// `enum ofp_group_mod_command`.
mod command {
    pub(super) const ADD: u16 = 0;
    pub(super) const MODIFY: u16 = 1;
    pub(super) const DELETE: u16 = 2;
    pub(super) const INSERT_BUCKET: u16 = 3;
    pub(super) const REMOVE_BUCKET: u16 = 5;
    /// Open vSwitch's own (`OFPGC11_ADD_OR_MOD`).
    pub(super) const ADD_OR_MODIFY: u16 = 0x8000;
}
/// `enum ofp_group_bucket_prop_type`.
mod bucket_property {
    pub(super) const WEIGHT: u16 = 0;
    pub(super) const WATCH_PORT: u16 = 1;
    pub(super) const WATCH_GROUP: u16 = 2;
}
const EXPERIMENTER: u16 = 0xffff;
/// `NTR_VENDOR_ID`.
const NETRONOME: u32 = 0x0000_154d;
/// `NTRT_SELECTION_METHOD`.
const SELECTION_METHOD: u32 = 1;
/// `NTR_MAX_SELECTION_METHOD_LEN` with the final zero.
const METHOD_BYTES: usize = 16;

fn type_number(kind: GroupType) -> u8 {
    match kind {
        GroupType::All => 0,
        GroupType::Select => 1,
        GroupType::Indirect => 2,
        GroupType::FastFailover => 3,
    }
}

fn read_type(reader: &mut Reader<'_>) -> Result<GroupType, DecodeError> {
    let start = *reader;
    match reader.u8("group.type")? {
        0 => Ok(GroupType::All),
        1 => Ok(GroupType::Select),
        2 => Ok(GroupType::Indirect),
        3 => Ok(GroupType::FastFailover),
        other => start.error("group.type", DecodeReason::Value(other.into())),
    }
}

impl GroupMod {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let command = reader.u16("group_mod.command")?;
        let kind = read_type(reader)?;
        reader.skip(1, "group_mod.pad")?;
        let id = GroupId(reader.u32("group_mod.group_id")?);
        let length = usize::from(reader.u16("group_mod.bucket_array_len")?);
        reader.skip(2, "group_mod.pad2")?;
        let bucket = BucketId(reader.u32("group_mod.command_bucket_id")?);
        let buckets = read_buckets(&mut reader.sub(length, "group_mod.buckets")?)?;
        let selection = read_selection(reader)?;
        let group = Group {
            id,
            kind,
            selection,
            buckets,
        };
        Ok(match command {
            command::ADD => Self::Add(group),
            command::MODIFY => Self::Modify(group),
            command::ADD_OR_MODIFY => Self::AddOrModify(group),
            command::DELETE => Self::Delete(id),
            command::INSERT_BUCKET => Self::InsertBuckets {
                group: id,
                after: bucket,
                buckets: group.buckets,
            },
            command::REMOVE_BUCKET => Self::RemoveBucket { group: id, bucket },
            other => return start.error("group_mod.command", DecodeReason::Value(other.into())),
        })
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (command, group) = match self {
            Self::Add(group) => (command::ADD, group),
            Self::Modify(group) => (command::MODIFY, group),
            Self::AddOrModify(group) => (command::ADD_OR_MODIFY, group),
            Self::Delete(id) => {
                put_head(out, command::DELETE, *id, BucketId::ALL);
                return Ok(());
            }
            Self::InsertBuckets {
                group,
                after,
                buckets,
            } => {
                let start = put_head(out, command::INSERT_BUCKET, *group, *after);
                return put_buckets(out, start, buckets, false);
            }
            Self::RemoveBucket { group, bucket } => {
                put_head(out, command::REMOVE_BUCKET, *group, *bucket);
                return Ok(());
            }
        };
        let start = put_head(out, command, group.id, BucketId::ALL);
        if let Some(kind) = out.get_mut(start - 6) {
            *kind = type_number(group.kind);
        }
        put_buckets(out, start, &group.buckets, group.kind == GroupType::Select)?;
        put_selection(out, group.selection.as_ref())
    }
}

/// Appends all before the buckets; the offset of the length of the buckets.
fn put_head(out: &mut Vec<u8>, command: u16, group: GroupId, bucket: BucketId) -> usize {
    out.u16(command);
    out.zeros(2);
    out.u32(group.0);
    let length = out.len();
    out.zeros(4);
    out.u32(bucket.0);
    length
}

/// Appends buckets and writes their length at `length_at`.
fn put_buckets(
    out: &mut Vec<u8>,
    length_at: usize,
    buckets: &[Bucket],
    weighted: bool,
) -> Result<(), EncodeError> {
    let start = out.len();
    for bucket in buckets {
        put_bucket(out, bucket, weighted)?;
    }
    let length = checked("buckets", out.len() - start)?;
    out.patch_u16(length_at, length);
    Ok(())
}

fn put_bucket(out: &mut Vec<u8>, bucket: &Bucket, weighted: bool) -> Result<(), EncodeError> {
    let start = out.len();
    out.zeros(4);
    out.u32(bucket.id.0);
    let actions = out.len();
    put_actions(out, &bucket.actions)?;
    let length = checked("actions of a bucket", out.len() - actions)?;
    out.patch_u16(start + 2, length);
    if let Some(weight) = bucket.weight.or(weighted.then_some(1)) {
        out.u16(bucket_property::WEIGHT);
        out.u16(8);
        out.u16(weight);
        out.zeros(2);
    }
    let watch = [
        (
            bucket_property::WATCH_PORT,
            bucket.watch_port.map(|port| port.0),
        ),
        (
            bucket_property::WATCH_GROUP,
            bucket.watch_group.map(|group| group.0),
        ),
    ];
    for (kind, value) in watch {
        if let Some(value) = value {
            out.u16(kind);
            out.u16(8);
            out.u32(value);
        }
    }
    let length = checked("bucket", out.len() - start)?;
    out.patch_u16(start, length);
    Ok(())
}

/// Bytes of a bucket on the wire; more than any message holds if it cannot be encoded.
pub(crate) fn bucket_length(bucket: &Bucket) -> usize {
    let mut bytes = Vec::new();
    match put_bucket(&mut bytes, bucket, true) {
        Ok(()) => bytes.len(),
        Err(_) => usize::from(u16::MAX) + 1,
    }
}

fn checked(what: &'static str, length: usize) -> Result<u16, EncodeError> {
    u16::try_from(length).map_err(|_| EncodeError::TooLong {
        what,
        length,
        limit: usize::from(u16::MAX),
    })
}

fn read_buckets(reader: &mut Reader<'_>) -> Result<Vec<Bucket>, DecodeError> {
    let mut buckets = Vec::new();
    while !reader.is_empty() {
        let start = *reader;
        let length = usize::from(reader.u16("bucket.len")?);
        let Some(payload) = length.checked_sub(2) else {
            return start.error("bucket.len", DecodeReason::Length(length));
        };
        let mut body = reader.sub(payload, "bucket")?;
        let actions = usize::from(body.u16("bucket.action_array_len")?);
        let id = BucketId(body.u32("bucket.bucket_id")?);
        let mut actions = body.sub(actions, "bucket.actions")?;
        let mut bucket = Bucket::new(id, read_actions(&mut actions, 0)?);
        while !body.is_empty() {
            let start = body;
            let kind = body.u16("bucket.property.type")?;
            let length = usize::from(body.u16("bucket.property.len")?);
            let Some(payload) = length.checked_sub(4) else {
                return start.error("bucket.property.len", DecodeReason::Length(length));
            };
            let mut value = body.sub(payload, "bucket.property")?;
            body.skip(padding(length).min(body.len()), "bucket.property.pad")?;
            match kind {
                bucket_property::WEIGHT => bucket.weight = Some(value.u16("bucket.weight")?),
                bucket_property::WATCH_PORT => {
                    bucket.watch_port = Some(OfPort(value.u32("bucket.watch_port")?));
                }
                bucket_property::WATCH_GROUP => {
                    bucket.watch_group = Some(GroupId(value.u32("bucket.watch_group")?));
                }
                _ => {}
            }
        }
        buckets.push(bucket);
    }
    Ok(buckets)
}

fn put_selection(out: &mut Vec<u8>, selection: Option<&Selection>) -> Result<(), EncodeError> {
    let Some(selection) = selection else {
        return Ok(());
    };
    let method = selection.method.as_bytes();
    if method.len() >= METHOD_BYTES || method.contains(&0) {
        return Err(EncodeError::TooLong {
            what: "selection method",
            length: method.len(),
            limit: METHOD_BYTES - 1,
        });
    }
    let start = out.len();
    out.u16(EXPERIMENTER);
    out.u16(0);
    out.u32(NETRONOME);
    out.u32(SELECTION_METHOD);
    out.zeros(4);
    out.bytes(method);
    out.zeros(METHOD_BYTES - method.len());
    out.u64(selection.parameter);
    for field in &selection.fields {
        put_header(out, field.field().info().header, false, field.bytes());
        out.uint(field.mask(), field.bytes());
    }
    let length = checked("selection method", out.len() - start)?;
    out.patch_u16(start + 2, length);
    out.pad8(start);
    Ok(())
}

/// Reads group properties up to the end; only the selection method means something here.
fn read_selection(reader: &mut Reader<'_>) -> Result<Option<Selection>, DecodeError> {
    let mut result = None;
    while !reader.is_empty() {
        let start = *reader;
        let kind = reader.u16("group.property.type")?;
        let length = usize::from(reader.u16("group.property.len")?);
        let Some(payload) = length.checked_sub(4) else {
            return start.error("group.property.len", DecodeReason::Length(length));
        };
        let mut body = reader.sub(payload, "group.property")?;
        reader.skip(padding(length).min(reader.len()), "group.property.pad")?;
        if kind != EXPERIMENTER
            || body.u32("group.property.experimenter")? != NETRONOME
            || body.u32("group.property.exp_type")? != SELECTION_METHOD
        {
            continue;
        }
        body.skip(4, "selection_method.pad")?;
        let name = body.array::<METHOD_BYTES>("selection_method.method")?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let method = String::from_utf8_lossy(name).into_owned();
        let parameter = body.u64("selection_method.parameter")?;
        let mut fields = Vec::new();
        while !body.is_empty() {
            let start = body;
            let raw = read_header(&mut body)?;
            let Some(field) = Field::from_header(raw.header) else {
                body.skip(raw.length, "selection_method.fields")?;
                continue;
            };
            let bytes = check_length(&start, field, raw)?;
            let mask = body.uint(bytes.min(16), "selection_method.fields")?;
            body.skip(raw.length - bytes.min(16), "selection_method.fields")?;
            let ones = all_ones(field, bytes.min(16));
            match MaskedField::sized(field, bytes.min(16), mask & ones, mask & ones) {
                Ok(field) => fields.push(field),
                Err(_) => return start.error("selection_method.fields", DecodeReason::Bits),
            }
        }
        result = Some(Selection {
            method,
            parameter,
            fields,
        });
    }
    Ok(result)
}

impl Group {
    /// Whether a switch can describe the group in one message of 64 KiB. Open vSwitch takes larger
    /// ones, in pieces, but then its descriptions of *all* groups cannot be read any more: it cuts
    /// the length to 16 bits.
    ///
    /// # Errors
    /// When it cannot, or a part of it has no form on the wire.
    pub fn check_size(&self) -> Result<(), EncodeError> {
        const LIMIT: usize = crate::message::MAX_MESSAGE - 16;
        let mut bytes = Vec::new();
        self.put(&mut bytes)?;
        if bytes.len() > LIMIT {
            return Err(EncodeError::TooLong {
                what: "group",
                length: bytes.len(),
                limit: LIMIT,
            });
        }
        Ok(())
    }

    /// Reads `struct ofp_group_desc`.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let length = usize::from(reader.u16("group_desc.length")?);
        let Some(payload) = length.checked_sub(2) else {
            return start.error("group_desc.length", DecodeReason::Length(length));
        };
        let mut body = reader.sub(payload, "group_desc")?;
        let kind = read_type(&mut body)?;
        body.skip(1, "group_desc.pad")?;
        let id = GroupId(body.u32("group_desc.group_id")?);
        let length = usize::from(body.u16("group_desc.bucket_array_len")?);
        body.skip(6, "group_desc.pad2")?;
        let buckets = read_buckets(&mut body.sub(length, "group_desc.buckets")?)?;
        let selection = read_selection(&mut body)?;
        Ok(Self {
            id,
            kind,
            selection,
            buckets,
        })
    }

    /// Appends `struct ofp_group_desc`.
    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.u16(0);
        out.u8(type_number(self.kind));
        out.zeros(1);
        out.u32(self.id.0);
        let length_at = out.len();
        out.zeros(8);
        put_buckets(
            out,
            length_at,
            &self.buckets,
            self.kind == GroupType::Select,
        )?;
        put_selection(out, self.selection.as_ref())?;
        let length = checked("group_desc", out.len() - start)?;
        out.patch_u16(start, length);
        Ok(())
    }
}

impl GroupStats {
    /// Reads `struct ofp_group_stats`.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let length = usize::from(reader.u16("group_stats.length")?);
        let Some(payload) = length.checked_sub(2) else {
            return start.error("group_stats.length", DecodeReason::Length(length));
        };
        let mut body = reader.sub(payload, "group_stats")?;
        body.skip(2, "group_stats.pad")?;
        let id = GroupId(body.u32("group_stats.group_id")?);
        let references = body.u32("group_stats.ref_count")?;
        body.skip(4, "group_stats.pad2")?;
        let packets = body.u64("group_stats.packet_count")?;
        let bytes = body.u64("group_stats.byte_count")?;
        let duration = read_duration(&mut body)?;
        let mut buckets = Vec::with_capacity(body.len() / 16);
        while !body.is_empty() {
            let packets = body.u64("bucket_counter.packet_count")?;
            buckets.push((packets, body.u64("bucket_counter.byte_count")?));
        }
        Ok(Self {
            id,
            references,
            packets,
            bytes,
            duration,
            buckets,
        })
    }

    /// Appends `struct ofp_group_stats`.
    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.u16(checked("group_stats", 40 + 16 * self.buckets.len())?);
        out.zeros(2);
        out.u32(self.id.0);
        out.u32(self.references);
        out.zeros(4);
        out.u64(self.packets);
        out.u64(self.bytes);
        put_duration(out, self.duration);
        for (packets, bytes) in &self.buckets {
            out.u64(*packets);
            out.u64(*bytes);
        }
        Ok(())
    }
}
