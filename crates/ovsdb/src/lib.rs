//! An OVSDB client: RFC 7047 with `monitor_cond_since`, a cache and desired-state helpers.
//!
//! ```no_run
//! use carrick_ovsdb::desired::{BridgeConfig, DatapathType, InterfaceType, PortConfig, SwitchConfig};
//! use carrick_ovsdb::switch::SwitchDb;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let switch = SwitchDb::connect("/run/openvswitch/db.sock").await?;
//! let mut bridge = BridgeConfig::new("br-int", DatapathType::Netdev);
//! bridge.ports.push(PortConfig::new("gw0", InterfaceType::Internal));
//! let applied = switch.apply(SwitchConfig { bridges: vec![bridge], ..Default::default() }).await?;
//! println!("gw0 is OpenFlow port {}", applied.ports["gw0"].ofport);
//!
//! let pod = PortConfig::new("veth0", InterfaceType::System).option("n_rxq", "1");
//! let state = switch.add_port("br-int", pod).await?; // shares a transaction with its contemporaries
//! println!("veth0 is OpenFlow port {}", state.ofport);
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! ```text
//! value  schema  operation   values, types and operations of the RFC; JSON both ways     pure
//! frame  message             bytes to JSON texts to messages                             pure
//! cache  rows                a copy kept by updates; typed rows of it                    pure
//! handover                   who may write flows                                         pure
//! desired  plan              what shall be, and the operations that lead there           pure
//! client (driver)  monitor   the connection and its task
//! lock                       one holder of a name among clients
//! switch                     the task that makes the switch equal to what shall be
//! ```
//!
//! # Tasks
//!
//! | task | inputs | ends |
//! |---|---|---|
//! | `driver` | requests (bounded), the socket | when the last [`client::Client`] is dropped |
//! | `switch` | what shall be (bounded) | when the last [`switch::SwitchDb`] is dropped |
//!
//! # Invariants
//!
//! - A transaction's update is in the cache before its reply is given to the caller.
//! - Nothing is retried whose outcome is unknown, without reading first.
//! - Bytes from the server never panic and never cost unbounded memory ([`client::Options`]).
//! - Columns that an older server lacks are neither asked for nor written.

pub mod cache;
pub mod client;
pub mod desired;
mod driver;
pub mod foreign;
pub mod frame;
pub mod handover;
pub mod lock;
pub mod message;
pub mod monitor;
pub mod operation;
mod pending;
mod plan;
pub mod rows;
pub mod schema;
pub mod switch;
pub mod value;
