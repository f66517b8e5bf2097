//! What opens and configures a session: hello, features, configuration, role.

use super::VERSION;
use crate::error::DecodeError;
use crate::wire::{Put, Reader, padding};

/// The first message of each side (OpenFlow 1.5.1 §7.5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The highest version the sender speaks, from the header.
    pub version: u8,
    /// All versions it speaks, bit by version byte; `None` when it does not say.
    pub versions: Option<u64>,
}

impl Hello {
    /// OpenFlow 1.5 and nothing else.
    pub fn only_1_5() -> Self {
        Self {
            version: VERSION,
            versions: Some(1 << VERSION),
        }
    }

    /// Whether the sender speaks OpenFlow 1.5.
    pub fn speaks_1_5(&self) -> bool {
        match self.versions {
            Some(versions) => versions & 1 << VERSION != 0,
            // Without a list, the lower of both versions is taken.
            None => self.version >= VERSION,
        }
    }

    pub(super) fn read(version: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut versions = None;
        // Elements that cannot be read are none: a hello of another version may hold anything.
        while reader.len() >= 4 {
            let kind = reader.u16("hello.element.type")?;
            let length = usize::from(reader.u16("hello.element.length")?);
            let Some(payload) = length
                .checked_sub(4)
                .filter(|payload| *payload <= reader.len())
            else {
                break;
            };
            let mut body = reader.sub(payload, "hello.element")?;
            reader.skip(padding(length).min(reader.len()), "hello.element.pad")?;
            if kind == 1 && payload >= 4 {
                let low = u64::from(body.u32("hello.bitmap")?);
                let high = if payload >= 8 {
                    u64::from(body.u32("hello.bitmap")?)
                } else {
                    0
                };
                versions = Some(high << 32 | low);
            }
        }
        reader.rest();
        Ok(Self { version, versions })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        if let Some(versions) = self.versions {
            let [.., a, b, c, d] = versions.to_be_bytes();
            out.u16(1);
            out.u16(8);
            out.bytes(&[a, b, c, d]);
        }
    }
}

/// What a switch is (OpenFlow 1.5.1 §7.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// The datapath's id.
    pub datapath: u64,
    /// Packets it can hold back.
    pub buffers: u32,
    /// Tables.
    pub tables: u8,
    /// 0 for the main connection.
    pub auxiliary: u8,
    /// `enum ofp_capabilities`.
    pub capabilities: u32,
}

impl Features {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let datapath = reader.u64("features.datapath_id")?;
        let buffers = reader.u32("features.n_buffers")?;
        let tables = reader.u8("features.n_tables")?;
        let auxiliary = reader.u8("features.auxiliary_id")?;
        reader.skip(2, "features.pad")?;
        let capabilities = reader.u32("features.capabilities")?;
        reader.skip(4, "features.reserved")?;
        Ok(Self {
            datapath,
            buffers,
            tables,
            auxiliary,
            capabilities,
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.u64(self.datapath);
        out.u32(self.buffers);
        out.u8(self.tables);
        out.u8(self.auxiliary);
        out.zeros(2);
        out.u32(self.capabilities);
        out.zeros(4);
    }
}

/// How a switch treats fragments and how much of a packet it sends (OpenFlow 1.5.1 §7.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwitchConfig {
    /// `enum ofp_config_flags`.
    pub flags: u16,
    /// Bytes of a packet that missed. Open vSwitch sends no packets at all to service connections
    /// for which this is 0.
    pub miss_send_len: u16,
}

impl SwitchConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = reader.u16("switch_config.flags")?;
        Ok(Self {
            flags,
            miss_send_len: reader.u16("switch_config.miss_send_len")?,
        })
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.u16(self.flags);
        out.u16(self.miss_send_len);
    }
}

/// The role of a connection among several (OpenFlow 1.5.1 §7.3.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    /// 0 no change, 1 equal, 2 primary, 3 secondary.
    pub role: u32,
    /// Orders claims to be primary.
    pub generation: u64,
}

impl Role {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let role = reader.u32("role.role")?;
        reader.skip(4, "role.pad")?;
        Ok(Self {
            role,
            generation: reader.u64("role.generation_id")?,
        })
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.u32(self.role);
        out.zeros(4);
        out.u64(self.generation);
    }
}
