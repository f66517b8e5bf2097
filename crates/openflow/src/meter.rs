//! Meters: rate limits (OpenFlow 1.5.1 §7.3.4.5).

use std::time::Duration;

use crate::id::MeterId;

pub(crate) mod codec;

/// What a meter's rates count (`OFPMF_KBPS` or `OFPMF_PKTPS` of `enum ofp_meter_flags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MeterUnit {
    /// `kbps`.
    KilobitsPerSecond,
    /// `pktps`.
    PacketsPerSecond,
}

/// A meter (OpenFlow 1.5.1 §7.3.4.5, `struct ofp_meter_mod`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Meter {
    /// Its number.
    pub id: MeterId,
    /// What rates count.
    pub unit: MeterUnit,
    /// `burst`: bands have a burst size.
    pub burst: bool,
    /// `stats`: packets are counted.
    pub stats: bool,
    /// Bands; that with the highest rate exceeded acts.
    pub bands: Vec<Band>,
}

impl Meter {
    /// A meter that drops what exceeds `rate`, with `burst` more at a time, and counts.
    pub fn drop_above(id: MeterId, unit: MeterUnit, rate: u32, burst: u32) -> Self {
        let bands = vec![Band {
            kind: BandType::Drop,
            rate,
            burst,
        }];
        Self {
            id,
            unit,
            burst: burst != 0,
            stats: true,
            bands,
        }
    }
}

/// A band of a meter (`struct ofp_meter_band_header`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Band {
    /// What it does.
    pub kind: BandType,
    /// From which rate.
    pub rate: u32,
    /// How much more at a time.
    pub burst: u32,
}

/// What a band does with packets above its rate (`enum ofp_meter_band_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BandType {
    /// Drops them.
    Drop,
    /// Raises the drop precedence of their DSCP by this many levels.
    DscpRemark(u8),
}

/// A meter modification (`enum ofp_meter_mod_command`). Open vSwitch refuses these in bundles: send
/// them one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeterMod {
    /// Adds a meter that must not be there.
    Add(Meter),
    /// Changes a meter that must be there.
    Modify(Meter),
    /// Removes a meter ([`MeterId::ALL`]: all), and the flows that use it.
    Delete(MeterId),
}

/// What the switch counted of a meter (OpenFlow 1.5.1 §7.3.5, `struct ofp_meter_stats`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterStats {
    /// The meter.
    pub id: MeterId,
    /// Flows that use it.
    pub flows: u32,
    /// Packets that came.
    pub packets: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// How long it has been there.
    pub duration: Duration,
    /// Packets and bytes that each band acted on.
    pub bands: Vec<(u64, u64)>,
}
