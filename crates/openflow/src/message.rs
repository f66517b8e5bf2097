//! Messages and their envelope (OpenFlow 1.5.1 §7.1).

use crate::error::{DecodeError, DecodeReason, EncodeError};
use crate::flow::FlowMod;
use crate::group::GroupMod;
use crate::id::Xid;
use crate::meter::MeterMod;
use crate::wire::{Put, Reader};

pub mod asynchronous;
pub mod bundle;
mod error;
mod error_names;
pub mod multipart;
pub mod nicira;
pub mod packet;
pub mod port;
pub mod session;

pub use asynchronous::{AsyncConfig, FlowRemoved, FlowRemovedReason, PortChange, PortStatus};
pub use bundle::{BundleAdd, BundleControl, BundleId, ControlType};
pub use error::{ErrorMessage, ErrorName};
pub use multipart::{MultipartReply, MultipartRequest};
pub use nicira::{CtFlush, CtTuple, PacketInFormat, TlvCommand, TlvMap, TlvTable, TlvTableMod};
pub use packet::{PacketIn, PacketIn2, PacketOut};
pub use port::{Port, PortStats};
pub use session::{Features, Hello, Role, SwitchConfig};

/// The version byte of OpenFlow 1.5.
pub const VERSION: u8 = 0x06;
/// Bytes of the header of every message.
pub const HEADER: usize = 8;
/// The most bytes a message can have.
pub const MAX_MESSAGE: usize = 0xffff;

/// The header of every message (`struct ofp_header`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The version: [`VERSION`], or another one in a HELLO.
    pub version: u8,
    /// `enum ofp_type`.
    pub kind: u8,
    /// Bytes of the message with this header.
    pub length: u16,
    /// Pairs replies with requests.
    pub xid: Xid,
}

impl Header {
    /// Reads a header. Only the length is checked.
    ///
    /// # Errors
    /// When there are fewer than 8 bytes, or the length is less than 8.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("ofp_header.version")?;
        let kind = reader.u8("ofp_header.type")?;
        let start = reader;
        let length = reader.u16("ofp_header.length")?;
        let xid = Xid(reader.u32("ofp_header.xid")?);
        if usize::from(length) < HEADER {
            return start.error("ofp_header.length", DecodeReason::Length(length.into()));
        }
        Ok(Self {
            version,
            kind,
            length,
            xid,
        })
    }
}

/// `enum ofp_type`.
pub(crate) mod kind {
    pub(crate) const HELLO: u8 = 0;
    pub(crate) const ERROR: u8 = 1;
    pub(crate) const ECHO_REQUEST: u8 = 2;
    pub(crate) const ECHO_REPLY: u8 = 3;
    pub(crate) const EXPERIMENTER: u8 = 4;
    pub(crate) const FEATURES_REQUEST: u8 = 5;
    pub(crate) const FEATURES_REPLY: u8 = 6;
    pub(crate) const GET_CONFIG_REQUEST: u8 = 7;
    pub(crate) const GET_CONFIG_REPLY: u8 = 8;
    pub(crate) const SET_CONFIG: u8 = 9;
    pub(crate) const PACKET_IN: u8 = 10;
    pub(crate) const FLOW_REMOVED: u8 = 11;
    pub(crate) const PORT_STATUS: u8 = 12;
    pub(crate) const PACKET_OUT: u8 = 13;
    pub(crate) const FLOW_MOD: u8 = 14;
    pub(crate) const GROUP_MOD: u8 = 15;
    pub(crate) const MULTIPART_REQUEST: u8 = 18;
    pub(crate) const MULTIPART_REPLY: u8 = 19;
    pub(crate) const BARRIER_REQUEST: u8 = 20;
    pub(crate) const BARRIER_REPLY: u8 = 21;
    pub(crate) const ROLE_REQUEST: u8 = 24;
    pub(crate) const ROLE_REPLY: u8 = 25;
    pub(crate) const GET_ASYNC_REQUEST: u8 = 26;
    pub(crate) const GET_ASYNC_REPLY: u8 = 27;
    pub(crate) const SET_ASYNC: u8 = 28;
    pub(crate) const METER_MOD: u8 = 29;
    pub(crate) const BUNDLE_CONTROL: u8 = 33;
    pub(crate) const BUNDLE_ADD_MESSAGE: u8 = 34;
}

/// A message without its transaction id (OpenFlow 1.5.1 §7.1, `enum ofp_type`; Open vSwitch's `enum
/// ofpraw`). Unknown ones are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// The first message of each side (`OFPT_HELLO`).
    Hello(Hello),
    /// Something was refused (`OFPT_ERROR`).
    Error(ErrorMessage),
    /// Asks for its bytes back (`OFPT_ECHO_REQUEST`).
    EchoRequest(Vec<u8>),
    /// Gives them back (`OFPT_ECHO_REPLY`).
    EchoReply(Vec<u8>),
    /// Asks what the switch is (`OFPT_FEATURES_REQUEST`).
    FeaturesRequest,
    /// What the switch is (`OFPT_FEATURES_REPLY`).
    FeaturesReply(Features),
    /// Asks for the configuration (`OFPT_GET_CONFIG_REQUEST`).
    GetConfigRequest,
    /// The configuration (`OFPT_GET_CONFIG_REPLY`).
    GetConfigReply(SwitchConfig),
    /// Sets the configuration (`OFPT_SET_CONFIG`).
    SetConfig(SwitchConfig),
    /// A packet, in the standard form (`OFPT_PACKET_IN`).
    PacketIn(PacketIn),
    /// A packet, in Open vSwitch's form (`NXT_PACKET_IN2`).
    PacketIn2(PacketIn2),
    /// Continues a packet that was paused (`NXT_RESUME`).
    Resume(PacketIn2),
    /// A flow went (`OFPT_FLOW_REMOVED`).
    FlowRemoved(FlowRemoved),
    /// A port changed (`OFPT_PORT_STATUS`).
    PortStatus(PortStatus),
    /// Sends a packet (`OFPT_PACKET_OUT`).
    PacketOut(PacketOut),
    /// Changes flows (`OFPT_FLOW_MOD`).
    FlowMod(FlowMod),
    /// Changes groups (`OFPT_GROUP_MOD`).
    GroupMod(GroupMod),
    /// Changes meters (`OFPT_METER_MOD`).
    MeterMod(MeterMod),
    /// Asks for descriptions or statistics (`OFPT_MULTIPART_REQUEST`).
    MultipartRequest(MultipartRequest),
    /// A part of the answer (`OFPT_MULTIPART_REPLY`).
    MultipartReply(MultipartReply),
    /// Asks for an answer when all before it is done (`OFPT_BARRIER_REQUEST`).
    BarrierRequest,
    /// All before it is done (`OFPT_BARRIER_REPLY`).
    BarrierReply,
    /// Asks for a role (`OFPT_ROLE_REQUEST`).
    RoleRequest(Role),
    /// The role (`OFPT_ROLE_REPLY`).
    RoleReply(Role),
    /// Asks which asynchronous messages come (`OFPT_GET_ASYNC_REQUEST`).
    GetAsyncRequest,
    /// Which asynchronous messages come (`OFPT_GET_ASYNC_REPLY`).
    GetAsyncReply(AsyncConfig),
    /// Sets which asynchronous messages come (`OFPT_SET_ASYNC`).
    SetAsync(AsyncConfig),
    /// Opens, closes, commits or discards a bundle (`OFPT_BUNDLE_CONTROL`).
    BundleControl(BundleControl),
    /// Puts a message into a bundle (`OFPT_BUNDLE_ADD_MESSAGE`).
    BundleAdd(BundleAdd),
    /// In which form packets come (`NXT_SET_PACKET_IN_FORMAT`).
    SetPacketInFormat(PacketInFormat),
    /// By which number `controller` actions name this connection (`NXT_SET_CONTROLLER_ID`).
    SetControllerId(u16),
    /// Changes the mapping of Geneve options to tunnel metadata (`NXT_TLV_TABLE_MOD`).
    TlvTableMod(TlvTableMod),
    /// Asks for that mapping (`NXT_TLV_TABLE_REQUEST`).
    TlvTableRequest,
    /// That mapping (`NXT_TLV_TABLE_REPLY`).
    TlvTableReply(TlvTable),
    /// Forgets all connections of a zone (`NXT_CT_FLUSH_ZONE`).
    CtFlushZone(u16),
    /// Forgets connections by tuple and zone (`NXT_CT_FLUSH`).
    CtFlush(CtFlush),
    /// What this crate does not know.
    Unknown {
        /// `enum ofp_type`.
        kind: u8,
        /// All behind the header.
        body: Vec<u8>,
    },
}

impl Message {
    /// Decodes one whole message.
    ///
    /// # Errors
    /// When the version is not 1.5 (HELLO and ERROR may have any), the length is not that of
    /// `bytes`, or the body is not what its type says.
    pub fn decode(bytes: &[u8]) -> Result<(Xid, Self), DecodeError> {
        let header = Header::decode(bytes)?;
        let mut reader = Reader::new(bytes);
        if usize::from(header.length) != bytes.len() {
            return reader.error(
                "ofp_header.length",
                DecodeReason::Length(header.length.into()),
            );
        }
        let any_version = header.kind == kind::HELLO || header.kind == kind::ERROR;
        if header.version != VERSION && !any_version {
            return reader.error("ofp_header.version", DecodeReason::Version(header.version));
        }
        reader.skip(HEADER, "ofp_header")?;
        let body = &mut reader;
        let message = match header.kind {
            kind::HELLO => Self::Hello(Hello::read(header.version, body)?),
            kind::ERROR => Self::Error(ErrorMessage::read(body)?),
            kind::ECHO_REQUEST => Self::EchoRequest(body.rest().to_vec()),
            kind::ECHO_REPLY => Self::EchoReply(body.rest().to_vec()),
            kind::EXPERIMENTER => nicira::read(body)?,
            kind::FEATURES_REQUEST => Self::FeaturesRequest,
            kind::FEATURES_REPLY => Self::FeaturesReply(Features::read(body)?),
            kind::GET_CONFIG_REQUEST => Self::GetConfigRequest,
            kind::GET_CONFIG_REPLY => Self::GetConfigReply(SwitchConfig::read(body)?),
            kind::SET_CONFIG => Self::SetConfig(SwitchConfig::read(body)?),
            kind::PACKET_IN => Self::PacketIn(PacketIn::read(body)?),
            kind::FLOW_REMOVED => Self::FlowRemoved(FlowRemoved::read(body)?),
            kind::PORT_STATUS => Self::PortStatus(PortStatus::read(body)?),
            kind::PACKET_OUT => Self::PacketOut(PacketOut::read(body)?),
            kind::FLOW_MOD => Self::FlowMod(FlowMod::read(body)?),
            kind::GROUP_MOD => Self::GroupMod(GroupMod::read(body)?),
            kind::METER_MOD => Self::MeterMod(MeterMod::read(body)?),
            kind::MULTIPART_REQUEST => Self::MultipartRequest(MultipartRequest::read(body)?),
            kind::MULTIPART_REPLY => Self::MultipartReply(MultipartReply::read(body)?),
            kind::BARRIER_REQUEST => Self::BarrierRequest,
            kind::BARRIER_REPLY => Self::BarrierReply,
            kind::ROLE_REQUEST => Self::RoleRequest(Role::read(body)?),
            kind::ROLE_REPLY => Self::RoleReply(Role::read(body)?),
            kind::GET_ASYNC_REQUEST => Self::GetAsyncRequest,
            kind::GET_ASYNC_REPLY => Self::GetAsyncReply(AsyncConfig::read(body)?),
            kind::SET_ASYNC => Self::SetAsync(AsyncConfig::read(body)?),
            kind::BUNDLE_CONTROL => Self::BundleControl(BundleControl::read(body)?),
            kind::BUNDLE_ADD_MESSAGE => Self::BundleAdd(BundleAdd::read(body)?),
            other => Self::Unknown {
                kind: other,
                body: body.rest().to_vec(),
            },
        };
        Ok((header.xid, message))
    }

    /// Appends the message with its header.
    ///
    /// # Errors
    /// When something does not fit: more than 64 KiB in all, a list longer than its length field.
    /// What was appended is removed.
    pub fn encode(&self, xid: Xid, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        let result = self.encode_at(start, xid, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn encode_at(&self, start: usize, xid: Xid, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.u8(VERSION);
        out.u8(self.kind());
        out.u16(0);
        out.u32(xid.0);
        match self {
            Self::Hello(hello) => hello.put(out),
            Self::Error(error) => error.put(out),
            Self::EchoRequest(bytes) | Self::EchoReply(bytes) => out.bytes(bytes),
            Self::FeaturesReply(features) => features.put(out),
            Self::GetConfigReply(config) | Self::SetConfig(config) => config.put(out),
            Self::PacketIn(packet) => packet.put(out)?,
            Self::FlowRemoved(removed) => removed.put(out)?,
            Self::PortStatus(status) => status.put(out)?,
            Self::PacketOut(packet) => packet.put(out)?,
            Self::FlowMod(change) => change.put(out)?,
            Self::GroupMod(change) => change.put(out)?,
            Self::MeterMod(change) => change.put(out),
            Self::MultipartRequest(request) => request.put(out)?,
            Self::MultipartReply(reply) => reply.put(out)?,
            Self::RoleRequest(role) | Self::RoleReply(role) => role.put(out),
            Self::GetAsyncReply(config) | Self::SetAsync(config) => config.put(out),
            Self::BundleControl(control) => control.put(out),
            Self::BundleAdd(add) => add.put(out),
            Self::FeaturesRequest
            | Self::GetConfigRequest
            | Self::BarrierRequest
            | Self::BarrierReply
            | Self::GetAsyncRequest => {}
            Self::Unknown { body, .. } => out.bytes(body),
            nicira => nicira::put(out, nicira)?,
        }
        finish(out, start)
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => kind::HELLO,
            Self::Error(_) => kind::ERROR,
            Self::EchoRequest(_) => kind::ECHO_REQUEST,
            Self::EchoReply(_) => kind::ECHO_REPLY,
            Self::FeaturesRequest => kind::FEATURES_REQUEST,
            Self::FeaturesReply(_) => kind::FEATURES_REPLY,
            Self::GetConfigRequest => kind::GET_CONFIG_REQUEST,
            Self::GetConfigReply(_) => kind::GET_CONFIG_REPLY,
            Self::SetConfig(_) => kind::SET_CONFIG,
            Self::PacketIn(_) => kind::PACKET_IN,
            Self::FlowRemoved(_) => kind::FLOW_REMOVED,
            Self::PortStatus(_) => kind::PORT_STATUS,
            Self::PacketOut(_) => kind::PACKET_OUT,
            Self::FlowMod(_) => kind::FLOW_MOD,
            Self::GroupMod(_) => kind::GROUP_MOD,
            Self::MeterMod(_) => kind::METER_MOD,
            Self::MultipartRequest(_) => kind::MULTIPART_REQUEST,
            Self::MultipartReply(_) => kind::MULTIPART_REPLY,
            Self::BarrierRequest => kind::BARRIER_REQUEST,
            Self::BarrierReply => kind::BARRIER_REPLY,
            Self::RoleRequest(_) => kind::ROLE_REQUEST,
            Self::RoleReply(_) => kind::ROLE_REPLY,
            Self::GetAsyncRequest => kind::GET_ASYNC_REQUEST,
            Self::GetAsyncReply(_) => kind::GET_ASYNC_REPLY,
            Self::SetAsync(_) => kind::SET_ASYNC,
            Self::BundleControl(_) => kind::BUNDLE_CONTROL,
            Self::BundleAdd(_) => kind::BUNDLE_ADD_MESSAGE,
            Self::Unknown { kind, .. } => *kind,
            Self::PacketIn2(_)
            | Self::Resume(_)
            | Self::SetPacketInFormat(_)
            | Self::SetControllerId(_)
            | Self::TlvTableMod(_)
            | Self::TlvTableRequest
            | Self::TlvTableReply(_)
            | Self::CtFlushZone(_)
            | Self::CtFlush(_) => kind::EXPERIMENTER,
        }
    }
}

/// Appends a header and what `put` appends.
#[cfg(feature = "connection")]
pub(crate) fn encode_with(
    out: &mut Vec<u8>,
    xid: Xid,
    kind: u8,
    put: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.u8(VERSION);
    out.u8(kind);
    out.u16(0);
    out.u32(xid.0);
    put(out)?;
    finish(out, start)
}

/// Writes the length of the message that starts at `start`.
pub(crate) fn finish(out: &mut Vec<u8>, start: usize) -> Result<(), EncodeError> {
    let length = out.len() - start;
    let field = u16::try_from(length).map_err(|_| EncodeError::TooLong {
        what: "message",
        length,
        limit: MAX_MESSAGE,
    })?;
    out.patch_u16(start + 2, field);
    Ok(())
}
