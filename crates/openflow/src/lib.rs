//! OpenFlow 1.5 with the Nicira extensions as Open vSwitch 3.1 speaks it: bytes ⇄ types ⇄ text.
//!
//! The codec is pure: no sockets, no clock. Bytes from outside are hostile: every read is checked,
//! nesting is bounded, nothing is allocated that the bytes at hand do not pay for. What is not
//! known (fields, actions, messages) is kept byte for byte. What does not fit the wire is an error
//! of the encoder, never a wrap. One static table ([`field`]) drives encoding, decoding, text,
//! documentation and tests.
//!
//! The connection to a switch is behind the feature `connection`; it is the only part that does IO.
//!
//! ```
//! use carrick_openflow::field::Field;
//! use carrick_openflow::{Action, Cookie, Flow, Instructions, Match, OfPort, TableId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let m = Match::builder().ipv4().in_port(OfPort(101)).nw_src("10.244.1.7".parse()?, 32).build()?;
//! let actions = [Action::set_reg(0, 0x3, 0xf)?, Action::set_field(Field::CtMark, 1u32)?];
//! let flow = Flow::new(TableId(10), 200, m, Instructions::apply(actions).and_goto(TableId(20)))
//!     .with_cookie(Cookie(0x1001));
//! let text = flow.to_string();
//! assert_eq!(text.parse::<Flow>()?, flow);
//! # Ok(())
//! # }
//! ```

pub mod action;
mod canonical;
#[cfg(feature = "connection")]
pub mod connection;
pub mod diff;
pub mod error;
pub mod field;
pub mod flow;
pub mod group;
pub mod id;
pub mod match_;
pub mod message;
pub mod meter;
mod text;
mod wire;

pub use action::{Action, Instructions};
pub use diff::{Learned, Mod, Plan, State, diff};
pub use error::{DecodeError, DecodeReason, EncodeError, MatchError, ParseError};
pub use field::{Field, Subfield};
pub use flow::{Flow, FlowFilter, FlowFlags, FlowKey, FlowMod, FlowModCommand, FlowStats};
pub use group::{Bucket, Group, GroupMod, GroupStats, GroupType, Selection};
pub use id::{BucketId, Cookie, GroupId, MacAddr, MeterId, OfPort, TableId, Xid};
pub use match_::{MaskedField, Match, MatchBuilder};
pub use message::Message;
pub use meter::{Band, BandType, Meter, MeterMod, MeterStats, MeterUnit};

/// How deep actions may nest (`clone` in `clone`, `ct` in `clone`): Open vSwitch's limit is the same
/// order.
pub const MAX_DEPTH: usize = 16;
