//! Ports and what they counted (OpenFlow 1.5.1 §7.2.1, §7.3.5.6).

use std::time::Duration;

use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::flow::codec::{put_duration, read_duration};
use crate::id::{MacAddr, OfPort};
use crate::wire::{Put, Reader, padding};

/// `OFP_MAX_PORT_NAME_LEN`.
const NAME: usize = 16;

/// A port of a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub number: OfPort,
    /// Its Ethernet address.
    pub address: MacAddr,
    /// The interface's name: at most 15 bytes, what is not UTF-8 is replaced.
    pub name: String,
    /// `enum ofp_port_config`.
    pub config: u32,
    /// `enum ofp_port_state`.
    pub state: u32,
    /// Properties, as they came.
    pub properties: Vec<u8>,
}

impl Port {
    /// `OFPPC_PORT_DOWN`.
    pub const DOWN: u32 = 1;
    /// `OFPPS_LINK_DOWN`.
    pub const LINK_DOWN: u32 = 1;

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let number = OfPort(reader.u32("port.port_no")?);
        let length = usize::from(reader.u16("port.length")?);
        let Some(payload) = length.checked_sub(6) else {
            return start.error("port.length", DecodeReason::Length(length));
        };
        let mut body = reader.sub(payload, "port")?;
        body.skip(2, "port.pad")?;
        let address = MacAddr(body.array("port.hw_addr")?);
        body.skip(2, "port.pad2")?;
        let name = text(&body.array::<NAME>("port.name")?);
        let config = body.u32("port.config")?;
        let state = body.u32("port.state")?;
        Ok(Self {
            number,
            address,
            name,
            config,
            state,
            properties: body.rest().to_vec(),
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let name = self.name.as_bytes();
        if name.len() >= NAME {
            return Err(EncodeError::TooLong {
                what: "port name",
                length: name.len(),
                limit: 15,
            });
        }
        let length = 40 + self.properties.len();
        let field = u16::try_from(length).map_err(|_| EncodeError::TooLong {
            what: "port",
            length,
            limit: usize::from(u16::MAX),
        })?;
        out.u32(self.number.0);
        out.u16(field);
        out.zeros(2);
        out.bytes(&self.address.0);
        out.zeros(2);
        out.bytes(name);
        out.zeros(NAME - name.len());
        out.u32(self.config);
        out.u32(self.state);
        out.bytes(&self.properties);
        Ok(())
    }
}

/// A string that ends at the first zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a port counted; `u64::MAX` is what the switch does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortStats {
    /// Its number.
    pub number: OfPort,
    /// How long it has been there.
    pub duration: Duration,
    /// Packets received and sent.
    pub packets: (u64, u64),
    /// Bytes received and sent.
    pub bytes: (u64, u64),
    /// Packets dropped on receiving and on sending.
    pub dropped: (u64, u64),
    /// Errors on receiving and on sending.
    pub errors: (u64, u64),
    /// Properties, as they came.
    pub properties: Vec<u8>,
}

impl PortStats {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let start = *reader;
        let length = usize::from(reader.u16("port_stats.length")?);
        let Some(payload) = length.checked_sub(2) else {
            return start.error("port_stats.length", DecodeReason::Length(length));
        };
        let mut body = reader.sub(payload, "port_stats")?;
        reader.skip(padding(length).min(reader.len()), "port_stats.pad3")?;
        body.skip(2, "port_stats.pad")?;
        let number = OfPort(body.u32("port_stats.port_no")?);
        let duration = read_duration(&mut body)?;
        let mut pair = |field| Ok((body.u64(field)?, body.u64(field)?));
        let packets = pair("port_stats.packets")?;
        let bytes = pair("port_stats.bytes")?;
        let dropped = pair("port_stats.dropped")?;
        let errors = pair("port_stats.errors")?;
        let properties = body.rest().to_vec();
        Ok(Self {
            number,
            duration,
            packets,
            bytes,
            dropped,
            errors,
            properties,
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let length = 80 + self.properties.len();
        out.u16(u16::try_from(length).map_err(|_| EncodeError::TooLong {
            what: "port_stats",
            length,
            limit: usize::from(u16::MAX),
        })?);
        out.zeros(2);
        out.u32(self.number.0);
        put_duration(out, self.duration);
        for (received, sent) in [self.packets, self.bytes, self.dropped, self.errors] {
            out.u64(received);
            out.u64(sent);
        }
        out.bytes(&self.properties);
        out.pad8(start);
        Ok(())
    }
}
