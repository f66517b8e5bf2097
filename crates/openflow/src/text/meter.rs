//! Meters as text.

use std::fmt;
use std::str::FromStr;

use super::{Result, items, key_value, small};
use crate::error::ParseError;
use crate::id::MeterId;
use crate::meter::{Band, BandType, Meter, MeterUnit};

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "meter={}", self.id)?;
        f.write_str(match self.unit {
            MeterUnit::KilobitsPerSecond => ",kbps",
            MeterUnit::PacketsPerSecond => ",pktps",
        })?;
        if self.burst {
            f.write_str(",burst")?;
        }
        if self.stats {
            f.write_str(",stats")?;
        }
        for band in &self.bands {
            match band.kind {
                BandType::Drop => write!(f, ",band=type=drop,rate={}", band.rate)?,
                BandType::DscpRemark(level) => {
                    write!(
                        f,
                        ",band=type=dscp_remark,prec_level={level},rate={}",
                        band.rate
                    )?;
                }
            }
            if band.burst != 0 {
                write!(f, ",burst_size={}", band.burst)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Meter {
    type Err = ParseError;

    /// Parses `ovs-ofctl add-meter` syntax and what `dump-meters` prints.
    fn from_str(text: &str) -> Result<Self> {
        let mut id = None;
        let (mut unit, mut burst, mut stats) = (None, false, false);
        let mut bands: Vec<Band> = Vec::new();
        for item in items(text)? {
            let (mut key, mut value) = key_value(item);
            if matches!(key, "band" | "bands") {
                // `band=type=drop`
                (key, value) = key_value(value);
                if key.is_empty() {
                    continue;
                }
            }
            match key {
                "meter" => id = Some(meter_id(value)?),
                "kbps" => unit = Some(MeterUnit::KilobitsPerSecond),
                "pktps" => unit = Some(MeterUnit::PacketsPerSecond),
                "burst" => burst = true,
                "stats" => stats = true,
                "type" => bands.push(Band {
                    kind: match value {
                        "drop" => BandType::Drop,
                        "dscp_remark" => BandType::DscpRemark(0),
                        _ => return Err(ParseError::new(value, "is not a type of band")),
                    },
                    rate: 0,
                    burst: 0,
                }),
                _ => {
                    let band = bands
                        .last_mut()
                        .ok_or_else(|| ParseError::new(key, "is not known in a meter"))?;
                    match key {
                        "rate" => band.rate = small(value)?,
                        "burst_size" => band.burst = small(value)?,
                        "prec_level" => band.kind = BandType::DscpRemark(small(value)?),
                        _ => return Err(ParseError::new(key, "is not known in a band")),
                    }
                }
            }
        }
        let id = id.ok_or_else(|| ParseError::new(text, "lacks a meter number"))?;
        let unit = unit.unwrap_or(MeterUnit::KilobitsPerSecond);
        Ok(Self {
            id,
            unit,
            burst,
            stats,
            bands,
        })
    }
}

fn meter_id(text: &str) -> Result<MeterId> {
    [MeterId::SLOWPATH, MeterId::CONTROLLER, MeterId::ALL]
        .into_iter()
        .find(|id| id.to_string() == text)
        .map_or_else(|| small(text).map(MeterId), Ok)
}
