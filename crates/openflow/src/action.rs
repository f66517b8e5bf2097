//! What is done with a packet (ovs-actions(7)).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::error::MatchError;
use crate::field::{Field, Subfield};
use crate::id::{GroupId, MacAddr, MeterId, OfPort, TableId};
use crate::match_::{FieldValue, MaskedField};

mod codec;
mod ct;
mod learn;
mod nicira;

pub(crate) use codec::{put_actions, read_actions};
pub use ct::{Ct, CtZone, Nat, NatAddresses, NatHash, NatKind};
pub use learn::{Learn, LearnFlags, LearnLimit, LearnSource, LearnSpec, LearnTarget};

/// One action (OpenFlow 1.5.1 §7.2.6; `enum ofp_raw_action_type` in Open vSwitch's
/// `lib/ofp-actions.c`). Unknown
/// ones are kept byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// `output:port` (`OFPAT_OUTPUT`). `max_len` counts for [`OfPort::CONTROLLER`] only; 0
    /// otherwise.
    Output {
        /// Where to.
        port: OfPort,
        /// Bytes of the packet that go to the controller, 0xffff for all.
        max_len: u16,
    },
    /// `output:reg1[0..15]` (`NXAST_OUTPUT_REG`, `NXAST_OUTPUT_REG2`): to the port a field holds.
    OutputField {
        /// The bits that hold the port.
        source: Subfield,
        /// Bytes of the packet that go to the controller, if it is that.
        max_len: u16,
    },
    /// `output(port=…,max_len=…)` (`NXAST_OUTPUT_TRUNC`): a truncated copy.
    OutputTruncated {
        /// Where to.
        port: OfPort,
        /// The most bytes that are sent.
        max_len: u32,
    },
    /// `group:id` (`OFPAT_GROUP`).
    Group(GroupId),
    /// `meter:id` (`OFPAT_METER`).
    Meter(MeterId),
    /// `set_queue:id` (`OFPAT_SET_QUEUE`).
    SetQueue(u32),
    /// `pop_queue` (`NXAST_POP_QUEUE`).
    PopQueue,
    /// `set_field:value/mask->field` (`OFPAT_SET_FIELD`); what `load` (`NXAST_REG_LOAD`) and
    /// `mod_*` are, too.
    SetField(MaskedField),
    /// `move:source->target` (`OFPAT_COPY_FIELD`, `NXAST_REG_MOVE`); both have as many bits.
    Move {
        /// Where bits are read.
        source: Subfield,
        /// Where they are written.
        target: Subfield,
    },
    /// `push:field` (`NXAST_STACK_PUSH`): onto the stack.
    Push(Subfield),
    /// `pop:field` (`NXAST_STACK_POP`): from the stack.
    Pop(Subfield),
    /// `dec_ttl` (`OFPAT_DEC_NW_TTL`); a packet whose TTL ends goes to controller 0.
    DecTtl,
    /// `dec_ttl(ids)` (`NXAST_DEC_TTL_CNT_IDS`): a packet whose TTL ends goes to these controllers.
    DecTtlIds(Vec<u16>),
    /// `mod_nw_ttl:ttl` (`OFPAT_SET_NW_TTL`).
    SetTtl(u8),
    /// `push_vlan:ethertype` (`OFPAT_PUSH_VLAN`).
    PushVlan(u16),
    /// `pop_vlan` or `strip_vlan` (`OFPAT_POP_VLAN`).
    PopVlan,
    /// `push_mpls:ethertype` (`OFPAT_PUSH_MPLS`).
    PushMpls(u16),
    /// `pop_mpls:ethertype` (`OFPAT_POP_MPLS`).
    PopMpls(u16),
    /// `set_mpls_ttl:ttl` (`OFPAT_SET_MPLS_TTL`).
    SetMplsTtl(u8),
    /// `dec_mpls_ttl` (`OFPAT_DEC_MPLS_TTL`).
    DecMplsTtl,
    /// `resubmit(port,table)` (`NXAST_RESUBMIT_TABLE`).
    Resubmit(Resubmit),
    /// `ct(…)` (`NXAST_CT`).
    Ct(Box<Ct>),
    /// `nat(…)` (`NXAST_NAT`) outside of `ct`: Open vSwitch refuses it, so it appears only as it
    /// came.
    Nat(Box<Nat>),
    /// `ct_clear` (`NXAST_CT_CLEAR`).
    CtClear,
    /// `learn(…)` (`NXAST_LEARN`, `NXAST_LEARN2`).
    Learn(Box<Learn>),
    /// `conjunction(id,clause/clauses)` (`NXAST_CONJUNCTION`).
    Conjunction(Conjunction),
    /// `controller(…)` (`NXAST_CONTROLLER`, `NXAST_CONTROLLER2`).
    Controller(Box<Controller>),
    /// `note:bytes` (`NXAST_NOTE`); as many bytes as fill the action: 6, 14, 22, …
    Note(Box<[u8]>),
    /// `clone(…)` (`NXAST_CLONE`): done with a copy of the packet.
    Clone(Vec<Action>),
    /// `check_pkt_larger(bytes)->bit` (`NXAST_CHECK_PKT_LARGER`).
    CheckPacketLarger {
        /// The length that is compared with.
        bytes: u16,
        /// The bit that is written.
        target: Subfield,
    },
    /// `multipath(…)` (`NXAST_MULTIPATH`).
    Multipath(Box<Multipath>),
    /// `exit` (`NXAST_EXIT`): no further action.
    Exit,
    /// `delete_field:field` (`NXAST_DELETE_FIELD`), of tunnel metadata.
    DeleteField(Field),
    /// `fin_timeout(…)` (`NXAST_FIN_TIMEOUT`): timeouts of this flow after FIN or RST.
    FinTimeout {
        /// Idle timeout in seconds, 0 for unchanged.
        idle: u16,
        /// Hard timeout in seconds, 0 for unchanged.
        hard: u16,
    },
    /// What this crate does not know: the whole action with its header.
    Unknown(Box<[u8]>),
}

/// `resubmit(port,table[,ct])` (`struct nx_action_resubmit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Resubmit {
    /// The ingress port that is looked up; [`OfPort::IN_PORT`] for the packet's own.
    pub port: OfPort,
    /// The table; `None` for the current one.
    pub table: Option<TableId>,
    /// Which addresses and ports are looked up.
    pub tuple: ResubmitTuple,
}

/// Which addresses and ports a resubmitted packet is looked up with (`NXAST_RESUBMIT_TABLE_CT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ResubmitTuple {
    /// The packet's.
    #[default]
    Packet,
    /// Those of the connection's original direction.
    Conntrack,
}

/// `conjunction(id,clause/clauses)` (`struct nx_action_conjunction`): the flow is one of `clauses`
/// dimensions of a conjunction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conjunction {
    /// What `conj_id` will be when all dimensions match.
    pub id: u32,
    /// Which dimension, from 0. (Text counts from 1.)
    pub clause: u8,
    /// How many dimensions, 2–64.
    pub clauses: u8,
}

/// `controller(…)` (`struct nx_action_controller2`): the packet goes to a controller as a
/// packet-in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Controller {
    /// Bytes of the packet that are sent, 0xffff for all.
    pub max_len: u16,
    /// Which connection: the number set by SET_CONTROLLER_ID, 0 by default.
    pub controller_id: u16,
    /// Why, as the packet-in tells.
    pub reason: PacketInReason,
    /// Bytes that come back in the packet-in.
    pub userdata: Vec<u8>,
    /// Whether the packet waits for a resume.
    pub pause: bool,
    /// The meter the packet-in counts against.
    pub meter: Option<MeterId>,
    /// How it is sent; Open vSwitch's old form holds the first three only.
    pub form: ControllerForm,
}

/// The two forms of [`Controller`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ControllerForm {
    /// `NXAST_CONTROLLER` where that suffices.
    #[default]
    Shortest,
    /// `NXAST_CONTROLLER2`.
    Properties,
}

impl Default for Controller {
    fn default() -> Self {
        Self {
            max_len: u16::MAX,
            controller_id: 0,
            reason: PacketInReason::ACTION,
            userdata: Vec::new(),
            pause: false,
            meter: None,
            form: ControllerForm::Shortest,
        }
    }
}

/// Why a packet came (`enum ofp_packet_in_reason`, OpenFlow 1.5.1 §7.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketInReason(pub u8);

impl PacketInReason {
    /// No flow matched and no table-miss flow was there.
    pub const NO_MATCH: Self = Self(0);
    /// An action sent it.
    pub const ACTION: Self = Self(1);
    /// Its TTL is not valid.
    pub const INVALID_TTL: Self = Self(2);
    /// An action of the action set sent it.
    pub const ACTION_SET: Self = Self(3);
    /// An action of a group bucket sent it.
    pub const GROUP: Self = Self(4);
    /// An action of a packet-out sent it.
    pub const PACKET_OUT: Self = Self(5);

    /// As ovs-ofctl writes it.
    pub fn name(self) -> Option<&'static str> {
        [
            "no_match",
            "action",
            "invalid_ttl",
            "action_set",
            "group",
            "packet_out",
        ]
        .get(usize::from(self.0))
        .copied()
    }
}

/// `multipath(fields,basis,algorithm,links,arg,target)` (`struct nx_action_multipath`): hashes the
/// packet to one of several links.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Multipath {
    /// What is hashed.
    pub fields: HashFields,
    /// Seed of the hash.
    pub basis: u16,
    /// How the hash becomes a link.
    pub algorithm: MultipathAlgorithm,
    /// The number of links less one.
    pub max_link: u16,
    /// Argument of the algorithm.
    pub argument: u32,
    /// Where the link is written.
    pub target: Subfield,
}

/// What is hashed (`enum nx_hash_fields`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashFields(pub u16);

impl HashFields {
    /// Names in order of their numbers.
    pub(crate) const NAMES: [&'static str; 6] = [
        "eth_src",
        "symmetric_l4",
        "symmetric_l3l4",
        "symmetric_l3l4+udp",
        "nw_src",
        "nw_dst",
    ];
}

/// How a hash becomes a link (`enum nx_mp_algorithm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MultipathAlgorithm(pub u16);

impl MultipathAlgorithm {
    /// Names in order of their numbers.
    pub(crate) const NAMES: [&'static str; 4] = ["modulo_n", "hash_threshold", "hrw", "iter_hash"];
}

impl Action {
    /// `output:port`.
    pub fn output(port: OfPort) -> Self {
        Self::Output {
            port,
            max_len: if port == OfPort::CONTROLLER {
                u16::MAX
            } else {
                0
            },
        }
    }

    /// `in_port`: out of the port it came in.
    pub fn in_port() -> Self {
        Self::output(OfPort::IN_PORT)
    }

    /// `output:field` (`output:reg1`).
    pub fn output_field(source: impl Into<Subfield>) -> Self {
        Self::OutputField {
            source: source.into(),
            max_len: u16::MAX,
        }
    }

    /// `set_field:value->field`.
    ///
    /// # Errors
    /// When the value does not fit the field.
    pub fn set_field(field: Field, value: impl FieldValue) -> Result<Self, MatchError> {
        MaskedField::exact(field, value.bits()).map(Self::SetField)
    }

    /// `set_field:value/mask->field`.
    ///
    /// # Errors
    /// When value or mask do not fit the field.
    pub fn set_field_masked(
        field: Field,
        value: impl FieldValue,
        mask: impl FieldValue,
    ) -> Result<Self, MatchError> {
        MaskedField::masked(field, value.bits(), mask.bits()).map(Self::SetField)
    }

    /// `set_field:value/mask->reg<number>`.
    ///
    /// # Errors
    /// When there is no such register.
    pub fn set_reg(number: u8, value: u32, mask: u32) -> Result<Self, MatchError> {
        let field = Field::reg(number).ok_or(MatchError::Register(number))?;
        Self::set_field_masked(field, value, mask)
    }

    /// `load:value->target`.
    ///
    /// # Errors
    /// When the value does not fit the bits, or these lie beyond the first 128.
    pub fn load(value: u128, target: Subfield) -> Result<Self, MatchError> {
        let field = target.field();
        let mask = target.mask().ok_or(MatchError::Width { field, value })?;
        if value > mask >> target.start() {
            return Err(MatchError::Width { field, value });
        }
        MaskedField::masked(field, value << target.start(), mask).map(Self::SetField)
    }

    /// `move:source->target` of whole fields or parts.
    ///
    /// # Errors
    /// When they differ in width.
    pub fn move_field(
        source: impl Into<Subfield>,
        target: impl Into<Subfield>,
    ) -> Result<Self, MatchError> {
        let (source, target) = (source.into(), target.into());
        if source.bits() != target.bits() {
            return Err(MatchError::Width {
                field: target.field(),
                value: source.bits().into(),
            });
        }
        Ok(Self::Move { source, target })
    }

    /// `set_field:address->eth_src`.
    pub fn set_eth_src(address: MacAddr) -> Self {
        Self::SetField(MaskedField::whole(Field::EthSrc, address.into()))
    }

    /// `set_field:address->eth_dst`.
    pub fn set_eth_dst(address: MacAddr) -> Self {
        Self::SetField(MaskedField::whole(Field::EthDst, address.into()))
    }

    /// `set_field:address->tun_dst`.
    pub fn set_tun_dst(address: Ipv4Addr) -> Self {
        Self::SetField(MaskedField::whole(Field::TunDst, address.bits()))
    }

    /// `set_field:address->tun_ipv6_dst`.
    pub fn set_tun_ipv6_dst(address: Ipv6Addr) -> Self {
        Self::SetField(MaskedField::whole(Field::TunIpv6Dst, address.bits()))
    }

    /// `resubmit(,table)`.
    pub fn resubmit(table: TableId) -> Self {
        Self::Resubmit(Resubmit {
            port: OfPort::IN_PORT,
            table: Some(table),
            tuple: ResubmitTuple::Packet,
        })
    }

    /// `conjunction(id,clause/clauses)`; `clause` counts from 0.
    pub fn conjunction(id: u32, clause: u8, clauses: u8) -> Self {
        Self::Conjunction(Conjunction {
            id,
            clause,
            clauses,
        })
    }
}

/// What a flow does with a packet (OpenFlow 1.5.1 §7.2.5): each instruction at most once, in the
/// switch's order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Instructions {
    /// Done at once, in order (`OFPIT_APPLY_ACTIONS`).
    pub apply: Vec<Action>,
    /// `clear_actions` (`OFPIT_CLEAR_ACTIONS`): empties the action set.
    pub clear: bool,
    /// `write_actions(…)` (`OFPIT_WRITE_ACTIONS`): into the action set.
    pub write: Vec<Action>,
    /// `write_metadata:value/mask` (`OFPIT_WRITE_METADATA`).
    pub metadata: Option<WriteMetadata>,
    /// `goto_table:table` (`OFPIT_GOTO_TABLE`).
    pub goto: Option<TableId>,
    /// What this crate does not know: whole instructions with their headers.
    pub unknown: Vec<Box<[u8]>>,
}

/// `write_metadata:value/mask` (OpenFlow 1.5.1 §7.2.5, `OFPIT_WRITE_METADATA`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WriteMetadata {
    /// The value; no bits outside of the mask.
    pub value: u64,
    /// Which bits are written.
    pub mask: u64,
}

impl Instructions {
    /// Nothing: the packet is dropped.
    pub fn drop() -> Self {
        Self::default()
    }

    /// `actions`, nothing else.
    pub fn apply(actions: impl IntoIterator<Item = Action>) -> Self {
        Self {
            apply: actions.into_iter().collect(),
            ..Self::default()
        }
    }

    /// `goto_table:table`, nothing else.
    pub fn goto(table: TableId) -> Self {
        Self {
            goto: Some(table),
            ..Self::default()
        }
    }

    /// And then `goto_table:table`.
    #[must_use]
    pub fn and_goto(mut self, table: TableId) -> Self {
        self.goto = Some(table);
        self
    }

    /// Whether nothing is done.
    pub fn is_drop(&self) -> bool {
        self.apply.is_empty()
            && !self.clear
            && self.write.is_empty()
            && self.metadata.is_none()
            && self.goto.is_none()
            && self.unknown.is_empty()
    }
}

impl From<Vec<Action>> for Instructions {
    fn from(apply: Vec<Action>) -> Self {
        Self {
            apply,
            ..Self::default()
        }
    }
}
