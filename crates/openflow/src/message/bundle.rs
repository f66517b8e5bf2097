//! Bundles: many modifications as one (OpenFlow 1.5.1 §7.3.10).

use crate::error::DecodeError;
use crate::wire::{Put, Reader};

/// The number of a bundle within a connection (OpenFlow 1.5.1 §7.3.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BundleId(pub u32);

/// All or nothing (`OFPBF_ATOMIC`).
pub const ATOMIC: u16 = 1;
/// In the order in which they were added (`OFPBF_ORDERED`).
pub const ORDERED: u16 = 2;

/// What is done with a bundle (`enum ofp_bundle_ctrl_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ControlType(pub u16);

impl ControlType {
    /// Opens it.
    pub const OPEN_REQUEST: Self = Self(0);
    /// It is open.
    pub const OPEN_REPLY: Self = Self(1);
    /// Nothing more comes.
    pub const CLOSE_REQUEST: Self = Self(2);
    /// It is closed.
    pub const CLOSE_REPLY: Self = Self(3);
    /// Applies it.
    pub const COMMIT_REQUEST: Self = Self(4);
    /// It is applied.
    pub const COMMIT_REPLY: Self = Self(5);
    /// Drops it.
    pub const DISCARD_REQUEST: Self = Self(6);
    /// It is dropped.
    pub const DISCARD_REPLY: Self = Self(7);
}

/// Opens, closes, commits or discards a bundle (`struct ofp_bundle_ctrl_msg`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BundleControl {
    /// Which bundle.
    pub bundle: BundleId,
    /// What is done.
    pub control: ControlType,
    /// [`ATOMIC`] and [`ORDERED`].
    pub flags: u16,
}

impl BundleControl {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bundle = BundleId(reader.u32("bundle_control.bundle_id")?);
        let control = ControlType(reader.u16("bundle_control.type")?);
        let flags = reader.u16("bundle_control.flags")?;
        reader.rest();
        Ok(Self {
            bundle,
            control,
            flags,
        })
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.u32(self.bundle.0);
        out.u16(self.control.0);
        out.u16(self.flags);
    }
}

/// Puts a message into a bundle (`struct ofp_bundle_add_msg`). Its transaction id must be that of
/// the message within.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleAdd {
    /// Which bundle.
    pub bundle: BundleId,
    /// [`ATOMIC`] and [`ORDERED`].
    pub flags: u16,
    /// The message, whole.
    pub message: Vec<u8>,
}

impl BundleAdd {
    /// Bytes before the message within, this message's header included.
    #[cfg(feature = "connection")]
    pub(crate) const OVERHEAD: usize = 16;

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bundle = BundleId(reader.u32("bundle_add.bundle_id")?);
        reader.skip(2, "bundle_add.pad")?;
        let flags = reader.u16("bundle_add.flags")?;
        Ok(Self {
            bundle,
            flags,
            message: reader.rest().to_vec(),
        })
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.u32(self.bundle.0);
        out.zeros(2);
        out.u16(self.flags);
        out.bytes(&self.message);
    }
}
