//! Meters as bytes (OpenFlow 1.5.1 §7.3.4.5, §7.3.5.13).

use super::{Band, BandType, Meter, MeterMod, MeterStats, MeterUnit};
use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::flow::codec::{put_duration, read_duration};
use crate::id::MeterId;
use crate::wire::{Put, Reader};

/// `enum ofp_meter_flags`.
mod flag {
    pub(super) const KBPS: u16 = 1;
    pub(super) const PKTPS: u16 = 2;
    pub(super) const BURST: u16 = 4;
    pub(super) const STATS: u16 = 8;
}
/// `enum ofp_meter_band_type`.
mod band {
    pub(super) const DROP: u16 = 1;
    pub(super) const DSCP_REMARK: u16 = 2;
}

fn flags(meter: &Meter) -> u16 {
    let unit = match meter.unit {
        MeterUnit::KilobitsPerSecond => flag::KBPS,
        MeterUnit::PacketsPerSecond => flag::PKTPS,
    };
    unit | if meter.burst { flag::BURST } else { 0 } | if meter.stats { flag::STATS } else { 0 }
}

fn read_meter(reader: &mut Reader<'_>) -> Result<Meter, DecodeError> {
    let start = *reader;
    let flags = reader.u16("meter.flags")?;
    let unit = match flags & (flag::KBPS | flag::PKTPS) {
        flag::PKTPS => MeterUnit::PacketsPerSecond,
        flag::KBPS | 0 => MeterUnit::KilobitsPerSecond,
        both => return start.error("meter.flags", DecodeReason::Value(both.into())),
    };
    let id = MeterId(reader.u32("meter.meter_id")?);
    let mut bands = Vec::with_capacity(reader.len() / 16);
    while !reader.is_empty() {
        bands.push(read_band(reader)?);
    }
    let (burst, stats) = (flags & flag::BURST != 0, flags & flag::STATS != 0);
    Ok(Meter {
        id,
        unit,
        burst,
        stats,
        bands,
    })
}

fn read_band(reader: &mut Reader<'_>) -> Result<Band, DecodeError> {
    let start = *reader;
    let kind = reader.u16("meter_band.type")?;
    let length = usize::from(reader.u16("meter_band.len")?);
    let Some(payload) = length.checked_sub(4) else {
        return start.error("meter_band.len", DecodeReason::Length(length));
    };
    let mut body = reader.sub(payload, "meter_band")?;
    let rate = body.u32("meter_band.rate")?;
    let burst = body.u32("meter_band.burst_size")?;
    let kind = match kind {
        band::DROP => BandType::Drop,
        band::DSCP_REMARK => BandType::DscpRemark(body.u8("meter_band.prec_level")?),
        other => return start.error("meter_band.type", DecodeReason::Value(other.into())),
    };
    Ok(Band { kind, rate, burst })
}

fn put_bands(out: &mut Vec<u8>, bands: &[Band]) {
    for band in bands {
        let (kind, level) = match band.kind {
            BandType::Drop => (band::DROP, 0),
            BandType::DscpRemark(level) => (band::DSCP_REMARK, level),
        };
        out.u16(kind);
        out.u16(16);
        out.u32(band.rate);
        out.u32(band.burst);
        out.u8(level);
        out.zeros(3);
    }
}

impl MeterMod {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        match reader.u16("meter_mod.command")? {
            0 => read_meter(reader).map(Self::Add),
            1 => read_meter(reader).map(Self::Modify),
            2 => {
                reader.skip(2, "meter_mod.flags")?;
                let id = MeterId(reader.u32("meter_mod.meter_id")?);
                reader.rest();
                Ok(Self::Delete(id))
            }
            other => start.error("meter_mod.command", DecodeReason::Value(other.into())),
        }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let (command, meter) = match self {
            Self::Add(meter) => (0, meter),
            Self::Modify(meter) => (1, meter),
            Self::Delete(id) => {
                out.u16(2);
                out.u16(0);
                out.u32(id.0);
                return;
            }
        };
        out.u16(command);
        out.u16(flags(meter));
        out.u32(meter.id.0);
        put_bands(out, &meter.bands);
    }
}

impl Meter {
    /// Reads `struct ofp_meter_desc`.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let length = usize::from(reader.u16("meter_desc.length")?);
        let Some(payload) = length.checked_sub(2) else {
            return start.error("meter_desc.length", DecodeReason::Length(length));
        };
        read_meter(&mut reader.sub(payload, "meter_desc")?)
    }

    /// Appends `struct ofp_meter_desc`.
    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.u16(checked("meter_desc", 8 + 16 * self.bands.len())?);
        out.u16(flags(self));
        out.u32(self.id.0);
        put_bands(out, &self.bands);
        Ok(())
    }
}

impl MeterStats {
    /// Reads `struct ofp_meter_stats`.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let id = MeterId(reader.u32("meter_stats.meter_id")?);
        let length = usize::from(reader.u16("meter_stats.len")?);
        let Some(payload) = length.checked_sub(6) else {
            return start.error("meter_stats.len", DecodeReason::Length(length));
        };
        let mut body = reader.sub(payload, "meter_stats")?;
        body.skip(6, "meter_stats.pad")?;
        let flows = body.u32("meter_stats.ref_count")?;
        let packets = body.u64("meter_stats.packet_in_count")?;
        let bytes = body.u64("meter_stats.byte_in_count")?;
        let duration = read_duration(&mut body)?;
        let mut bands = Vec::with_capacity(body.len() / 16);
        while !body.is_empty() {
            let packets = body.u64("band_stats.packet_band_count")?;
            bands.push((packets, body.u64("band_stats.byte_band_count")?));
        }
        Ok(Self {
            id,
            flows,
            packets,
            bytes,
            duration,
            bands,
        })
    }

    /// Appends `struct ofp_meter_stats`.
    pub(crate) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.u32(self.id.0);
        out.u16(checked("meter_stats", 40 + 16 * self.bands.len())?);
        out.zeros(6);
        out.u32(self.flows);
        out.u64(self.packets);
        out.u64(self.bytes);
        put_duration(out, self.duration);
        for (packets, bytes) in &self.bands {
            out.u64(*packets);
            out.u64(*bytes);
        }
        Ok(())
    }
}

fn checked(what: &'static str, length: usize) -> Result<u16, EncodeError> {
    u16::try_from(length).map_err(|_| EncodeError::TooLong {
        what,
        length,
        limit: usize::from(u16::MAX),
    })
}
