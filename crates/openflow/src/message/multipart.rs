//! Descriptions and statistics: requests and the parts of their answers (OpenFlow 1.5.1 §7.3.5).

use super::port::{Port, PortStats, text};
use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::flow::codec::Counters;
use crate::flow::{FlowFilter, FlowStats};
use crate::group::{Group, GroupStats};
use crate::id::{GroupId, MeterId, OfPort, TableId};
use crate::meter::{Meter, MeterStats};
use crate::wire::{Put, Reader};

/// `OFPMPF_REQ_MORE` and `OFPMPF_REPLY_MORE`.
const MORE: u16 = 1;

/// `enum ofp_multipart_type`.
mod kind {
    pub(super) const DESC: u16 = 0;
    pub(super) const FLOW_DESC: u16 = 1;
    pub(super) const AGGREGATE: u16 = 2;
    pub(super) const TABLE: u16 = 3;
    pub(super) const PORT_STATS: u16 = 4;
    pub(super) const GROUP_STATS: u16 = 6;
    pub(super) const GROUP_DESC: u16 = 7;
    pub(super) const GROUP_FEATURES: u16 = 8;
    pub(super) const METER_STATS: u16 = 9;
    pub(super) const METER_DESC: u16 = 10;
    pub(super) const METER_FEATURES: u16 = 11;
    pub(super) const PORT_DESC: u16 = 13;
    pub(super) const TABLE_DESC: u16 = 14;
}

/// Asks for descriptions or statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MultipartRequest {
    /// Who made the switch.
    Description,
    /// Flows with their counters.
    Flows(FlowFilter),
    /// The counters of flows, summed.
    Aggregate(FlowFilter),
    /// Counters of tables.
    Tables,
    /// How tables are configured.
    TableDescriptions,
    /// Counters of a port, or of all ([`OfPort::ANY`]).
    PortStats(OfPort),
    /// Counters of a group, or of all ([`GroupId::ALL`]).
    GroupStats(GroupId),
    /// A group, or all.
    Groups(GroupId),
    /// What groups can do.
    GroupFeatures,
    /// Counters of a meter, or of all ([`MeterId::ALL`]).
    MeterStats(MeterId),
    /// A meter, or all.
    Meters(MeterId),
    /// What meters can do.
    MeterFeatures,
    /// A port, or all.
    Ports(OfPort),
    /// What this crate does not know.
    Unknown {
        /// `enum ofp_multipart_type`.
        kind: u16,
        /// All behind the multipart header.
        body: Vec<u8>,
    },
}

/// A part of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultipartReply {
    /// Whether more parts follow.
    pub more: bool,
    /// What this part holds.
    pub body: MultipartBody,
}

/// What a part of an answer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MultipartBody {
    /// Who made the switch.
    Description(Box<Description>),
    /// Flows with their counters.
    Flows(Vec<FlowStats>),
    /// The counters of flows, summed.
    Aggregate(Aggregate),
    /// Counters of tables.
    Tables(Vec<TableStats>),
    /// How tables are configured.
    TableDescriptions(Vec<TableDescription>),
    /// Counters of ports.
    PortStats(Vec<PortStats>),
    /// Counters of groups.
    GroupStats(Vec<GroupStats>),
    /// Groups.
    Groups(Vec<Group>),
    /// What groups can do.
    GroupFeatures(GroupFeatures),
    /// Counters of meters.
    MeterStats(Vec<MeterStats>),
    /// Meters.
    Meters(Vec<Meter>),
    /// What meters can do.
    MeterFeatures(MeterFeatures),
    /// Ports.
    Ports(Vec<Port>),
    /// What this crate does not know.
    Unknown {
        /// `enum ofp_multipart_type`.
        kind: u16,
        /// All behind the multipart header.
        body: Vec<u8>,
    },
}

/// Who made a switch (OpenFlow 1.5.1 §7.3.5.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// Manufacturer.
    pub manufacturer: String,
    /// Hardware.
    pub hardware: String,
    /// Software; of Open vSwitch its version.
    pub software: String,
    /// Serial number.
    pub serial: String,
    /// The datapath, for people.
    pub datapath: String,
}

/// Summed counters of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Aggregate {
    /// Flows.
    pub flows: u32,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Counters of a table (OpenFlow 1.5.1 §7.3.5.15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableStats {
    /// Its number.
    pub id: TableId,
    /// Flows in it.
    pub active: u32,
    /// Packets looked up.
    pub lookups: u64,
    /// Packets that matched a flow.
    pub matches: u64,
}

/// How a table is configured (`struct ofp_table_desc`, OpenFlow 1.5.1 §7.3.5.16).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDescription {
    /// Its number.
    pub id: TableId,
    /// `enum ofp_table_config`.
    pub config: u32,
    /// Its properties (`enum ofp_table_mod_prop_type`: eviction, vacancy), as they came.
    pub properties: Vec<u8>,
}

/// What groups can do (OpenFlow 1.5.1 §7.3.5.11); arrays by [`crate::GroupType`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupFeatures {
    /// Types there are, bit by type.
    pub types: u32,
    /// `enum ofp_group_capabilities`.
    pub capabilities: u32,
    /// The most groups of each type.
    pub max_groups: [u32; 4],
    /// Actions of each type, bit by action.
    pub actions: [u32; 4],
}

/// What meters can do (OpenFlow 1.5.1 §7.3.5.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeterFeatures {
    /// The most meters. 0: there are none.
    pub max_meters: u32,
    /// Bands there are, bit by type.
    pub band_types: u32,
    /// `enum ofp_meter_flags`.
    pub capabilities: u32,
    /// The most bands of a meter.
    pub max_bands: u8,
    /// The most colours.
    pub max_color: u8,
}

impl MultipartRequest {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = reader.u16("multipart.type")?;
        reader.skip(6, "multipart.flags")?;
        let mut number = |field| {
            let number = reader.u32(field)?;
            reader.skip(reader.len().min(4), "multipart.pad")?;
            Ok::<_, DecodeError>(number)
        };
        Ok(match kind {
            kind::DESC => Self::Description,
            kind::FLOW_DESC => Self::Flows(FlowFilter::read(reader)?),
            kind::AGGREGATE => Self::Aggregate(FlowFilter::read(reader)?),
            kind::TABLE => Self::Tables,
            kind::TABLE_DESC => Self::TableDescriptions,
            kind::PORT_STATS => Self::PortStats(OfPort(number("port_request.port_no")?)),
            kind::GROUP_STATS => Self::GroupStats(GroupId(number("group_request.group_id")?)),
            kind::GROUP_DESC => Self::Groups(GroupId(number("group_request.group_id")?)),
            kind::GROUP_FEATURES => Self::GroupFeatures,
            kind::METER_STATS => Self::MeterStats(MeterId(number("meter_request.meter_id")?)),
            kind::METER_DESC => Self::Meters(MeterId(number("meter_request.meter_id")?)),
            kind::METER_FEATURES => Self::MeterFeatures,
            kind::PORT_DESC => Self::Ports(OfPort(number("port_request.port_no")?)),
            other => Self::Unknown {
                kind: other,
                body: reader.rest().to_vec(),
            },
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut head = |kind: u16| {
            out.u16(kind);
            out.zeros(6);
        };
        let number = match self {
            Self::Description => {
                head(kind::DESC);
                return Ok(());
            }
            Self::Flows(filter) => {
                head(kind::FLOW_DESC);
                return filter.put(out);
            }
            Self::Aggregate(filter) => {
                head(kind::AGGREGATE);
                return filter.put(out);
            }
            Self::Tables => {
                head(kind::TABLE);
                return Ok(());
            }
            Self::TableDescriptions => {
                head(kind::TABLE_DESC);
                return Ok(());
            }
            Self::GroupFeatures => {
                head(kind::GROUP_FEATURES);
                return Ok(());
            }
            Self::MeterFeatures => {
                head(kind::METER_FEATURES);
                return Ok(());
            }
            Self::Unknown { kind, body } => {
                head(*kind);
                out.bytes(body);
                return Ok(());
            }
            Self::PortStats(port) => {
                head(kind::PORT_STATS);
                port.0
            }
            Self::GroupStats(group) => {
                head(kind::GROUP_STATS);
                group.0
            }
            Self::Groups(group) => {
                head(kind::GROUP_DESC);
                group.0
            }
            Self::MeterStats(meter) => {
                head(kind::METER_STATS);
                meter.0
            }
            Self::Meters(meter) => {
                head(kind::METER_DESC);
                meter.0
            }
            Self::Ports(port) => {
                head(kind::PORT_DESC);
                port.0
            }
        };
        out.u32(number);
        out.zeros(4);
        Ok(())
    }
}

/// Reads items up to the end.
fn list<T>(
    reader: &mut Reader<'_>,
    read: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut items = Vec::new();
    while !reader.is_empty() {
        items.push(read(reader)?);
    }
    Ok(items)
}

impl MultipartReply {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = reader.u16("multipart.type")?;
        let flags = reader.u16("multipart.flags")?;
        reader.skip(4, "multipart.pad")?;
        let body = match kind {
            kind::DESC => MultipartBody::Description(Box::new(Description::read(reader)?)),
            kind::FLOW_DESC => MultipartBody::Flows(list(reader, FlowStats::read)?),
            kind::AGGREGATE => {
                let counters = Counters::read(reader)?;
                MultipartBody::Aggregate(Aggregate {
                    flows: counters.flows,
                    packets: counters.packets,
                    bytes: counters.bytes,
                })
            }
            kind::TABLE => MultipartBody::Tables(list(reader, TableStats::read)?),
            kind::TABLE_DESC => {
                MultipartBody::TableDescriptions(list(reader, TableDescription::read)?)
            }
            kind::PORT_STATS => MultipartBody::PortStats(list(reader, PortStats::read)?),
            kind::GROUP_STATS => MultipartBody::GroupStats(list(reader, GroupStats::read)?),
            kind::GROUP_DESC => MultipartBody::Groups(list(reader, Group::read)?),
            kind::GROUP_FEATURES => MultipartBody::GroupFeatures(GroupFeatures::read(reader)?),
            kind::METER_STATS => MultipartBody::MeterStats(list(reader, MeterStats::read)?),
            kind::METER_DESC => MultipartBody::Meters(list(reader, Meter::read)?),
            kind::METER_FEATURES => MultipartBody::MeterFeatures(MeterFeatures::read(reader)?),
            kind::PORT_DESC => MultipartBody::Ports(list(reader, Port::read)?),
            other => MultipartBody::Unknown {
                kind: other,
                body: reader.rest().to_vec(),
            },
        };
        Ok(Self {
            more: flags & MORE != 0,
            body,
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let flags = if self.more { MORE } else { 0 };
        let mut head = |kind: u16| {
            out.u16(kind);
            out.u16(flags);
            out.zeros(4);
        };
        match &self.body {
            MultipartBody::Description(description) => {
                head(kind::DESC);
                description.put(out)?;
            }
            MultipartBody::Flows(flows) => {
                head(kind::FLOW_DESC);
                flows.iter().try_for_each(|flow| flow.put(out))?;
            }
            MultipartBody::Aggregate(aggregate) => {
                head(kind::AGGREGATE);
                let counters = Counters {
                    flows: aggregate.flows,
                    packets: aggregate.packets,
                    bytes: aggregate.bytes,
                    ..Counters::default()
                };
                counters.put(out, true);
            }
            MultipartBody::Tables(tables) => {
                head(kind::TABLE);
                for table in tables {
                    table.put(out);
                }
            }
            MultipartBody::TableDescriptions(tables) => {
                head(kind::TABLE_DESC);
                tables.iter().try_for_each(|table| table.put(out))?;
            }
            MultipartBody::PortStats(ports) => {
                head(kind::PORT_STATS);
                ports.iter().try_for_each(|port| port.put(out))?;
            }
            MultipartBody::GroupStats(groups) => {
                head(kind::GROUP_STATS);
                groups.iter().try_for_each(|group| group.put(out))?;
            }
            MultipartBody::Groups(groups) => {
                head(kind::GROUP_DESC);
                groups.iter().try_for_each(|group| group.put(out))?;
            }
            MultipartBody::GroupFeatures(features) => {
                head(kind::GROUP_FEATURES);
                features.put(out);
            }
            MultipartBody::MeterStats(meters) => {
                head(kind::METER_STATS);
                meters.iter().try_for_each(|meter| meter.put(out))?;
            }
            MultipartBody::Meters(meters) => {
                head(kind::METER_DESC);
                meters.iter().try_for_each(|meter| meter.put(out))?;
            }
            MultipartBody::MeterFeatures(features) => {
                head(kind::METER_FEATURES);
                features.put(out);
            }
            MultipartBody::Ports(ports) => {
                head(kind::PORT_DESC);
                ports.iter().try_for_each(|port| port.put(out))?;
            }
            MultipartBody::Unknown { kind, body } => {
                head(*kind);
                out.bytes(body);
            }
        }
        Ok(())
    }
}

impl Description {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let manufacturer = text(reader.take(256, "desc.mfr_desc")?);
        let hardware = text(reader.take(256, "desc.hw_desc")?);
        let software = text(reader.take(256, "desc.sw_desc")?);
        let serial = text(reader.take(32, "desc.serial_num")?);
        let datapath = text(reader.take(256, "desc.dp_desc")?);
        Ok(Self {
            manufacturer,
            hardware,
            software,
            serial,
            datapath,
        })
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let parts = [
            (&self.manufacturer, 256),
            (&self.hardware, 256),
            (&self.software, 256),
            (&self.serial, 32),
            (&self.datapath, 256),
        ];
        for (part, size) in parts {
            if part.len() >= size {
                return Err(EncodeError::TooLong {
                    what: "description",
                    length: part.len(),
                    limit: size - 1,
                });
            }
            out.bytes(part.as_bytes());
            out.zeros(size - part.len());
        }
        Ok(())
    }
}

impl TableStats {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = TableId(reader.u8("table_stats.table_id")?);
        reader.skip(3, "table_stats.pad")?;
        let active = reader.u32("table_stats.active_count")?;
        let lookups = reader.u64("table_stats.lookup_count")?;
        Ok(Self {
            id,
            active,
            lookups,
            matches: reader.u64("table_stats.matched_count")?,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.u8(self.id.0);
        out.zeros(3);
        out.u32(self.active);
        out.u64(self.lookups);
        out.u64(self.matches);
    }
}

impl TableDescription {
    /// Bytes before the properties.
    const FIXED: usize = 8;

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let length = usize::from(reader.u16("table_desc.length")?);
        let Some(payload) = length.checked_sub(2) else {
            return start.error("table_desc.length", DecodeReason::Length(length));
        };
        let mut body = reader.sub(payload, "table_desc")?;
        let id = TableId(body.u8("table_desc.table_id")?);
        body.skip(1, "table_desc.pad")?;
        Ok(Self {
            id,
            config: body.u32("table_desc.config")?,
            properties: body.rest().to_vec(),
        })
    }

    fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let length = Self::FIXED + self.properties.len();
        out.u16(u16::try_from(length).map_err(|_| EncodeError::TooLong {
            what: "table description",
            length,
            limit: usize::from(u16::MAX),
        })?);
        out.u8(self.id.0);
        out.zeros(1);
        out.u32(self.config);
        out.bytes(&self.properties);
        Ok(())
    }
}

impl GroupFeatures {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let types = reader.u32("group_features.types")?;
        let capabilities = reader.u32("group_features.capabilities")?;
        let mut max_groups = [0; 4];
        for value in &mut max_groups {
            *value = reader.u32("group_features.max_groups")?;
        }
        let mut actions = [0; 4];
        for value in &mut actions {
            *value = reader.u32("group_features.actions")?;
        }
        Ok(Self {
            types,
            capabilities,
            max_groups,
            actions,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.u32(self.types);
        out.u32(self.capabilities);
        self.max_groups
            .iter()
            .chain(&self.actions)
            .for_each(|value| out.u32(*value));
    }
}

impl MeterFeatures {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let max_meters = reader.u32("meter_features.max_meter")?;
        let band_types = reader.u32("meter_features.band_types")?;
        let capabilities = reader.u32("meter_features.capabilities")?;
        let max_bands = reader.u8("meter_features.max_bands")?;
        let max_color = reader.u8("meter_features.max_color")?;
        reader.skip(2, "meter_features.pad")?;
        reader.rest();
        Ok(Self {
            max_meters,
            band_types,
            capabilities,
            max_bands,
            max_color,
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.u32(self.max_meters);
        out.u32(self.band_types);
        out.u32(self.capabilities);
        out.u8(self.max_bands);
        out.u8(self.max_color);
        out.zeros(2);
    }
}
