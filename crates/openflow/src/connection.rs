//! The connection to a switch: a unix socket, kept open.
//!
//! One task, the [`Driver`], owns the socket: it connects, shakes hands, answers echoes, pairs
//! replies with requests, and connects again with back-off when the switch goes. It ends when the
//! last [`Connection`] is dropped; who spawned it awaits it. Everything else happens in the caller's
//! task. Requests never outlive their session: when it ends they fail with
//! [`RequestError::Disconnected`], and [`Connection::generation`] tells that a new one began;
//! [`Connection::only`] gives a handle that never uses another.
//!
//! Queues are bounded: requests wait for room (a slow switch slows its callers); packet-ins and
//! notices that find no room are dropped and counted (a slow caller never slows the switch).
//!
//! ```no_run
//! use carrick_openflow::connection::{Config, Connection};
//! use carrick_openflow::{Learned, State};
//!
//! # async fn example(desired: State) -> Result<(), Box<dyn std::error::Error>> {
//! let (connection, mut packet_ins, _notices, driver) =
//!     Connection::new(Config::new("/run/carrick/openvswitch/br-int.mgmt"));
//! let driver = tokio::spawn(driver.run());
//! connection.connected().await?;
//! let report = connection.synchronize(&desired, &Learned::default()).await?;
//! assert!(connection.synchronize(&desired, &Learned::default()).await?.changes == 0);
//! while let Some(packet) = packet_ins.recv().await {
//!     // packet.userdata says which action sent it.
//! #   let _ = (&packet, report);
//! }
//! drop(connection);
//! driver.await?;
//! # Ok(())
//! # }
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use crate::flow::{FlowFilter, FlowStats};
use crate::group::{Group, GroupStats};
use crate::id::{GroupId, MeterId, OfPort};
use crate::message::multipart::{
    Aggregate, Description, MultipartBody, TableDescription, TableStats,
};
use crate::message::{
    CtFlush, Features, Message, MultipartRequest, PacketIn2, PacketOut, Port, PortStats, TlvTable,
    TlvTableMod,
};
use crate::meter::{Meter, MeterMod, MeterStats};

mod bundle;
mod driver;
mod error;
mod queue;
mod session;

pub use bundle::{Report, SyncError};
pub use driver::Driver;
pub use error::{BundleError, ConnectError, RequestError};
pub use queue::{Notice, Notices, PacketIns};

use session::Session;

/// How to connect (OpenFlow 1.5.1 §6.3; the socket is that of ovs-vswitchd(8), "BRIDGE.mgmt").
#[derive(Debug, Clone)]
pub struct Config {
    /// The socket: `<run directory>/<bridge>.mgmt`.
    pub path: PathBuf,
    /// How long a switch may take for hello, and for one request.
    pub request_timeout: Duration,
    /// How long it may take to commit a bundle.
    pub commit_timeout: Duration,
    /// An echo is sent after so long without a message; three times as long without one ends the
    /// session.
    pub echo_interval: Duration,
    /// The first wait before connecting again; it doubles up to `backoff_limit`.
    pub backoff: Duration,
    /// The longest wait before connecting again.
    pub backoff_limit: Duration,
    /// Packet-ins that wait for the caller; more are dropped and counted.
    pub packet_in_queue: usize,
    /// Removed flows and port changes that wait for the caller; more are dropped and counted.
    pub notice_queue: usize,
    /// The most bytes that the answer to one request may have: 64 MiB hold 400,000 flows.
    pub reply_limit: usize,
}

impl Config {
    /// Defaults for a switch on the same machine.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            request_timeout: Duration::from_secs(30),
            commit_timeout: Duration::from_mins(1),
            echo_interval: Duration::from_secs(5),
            backoff: Duration::from_millis(50),
            backoff_limit: Duration::from_secs(2),
            packet_in_queue: 1024,
            notice_queue: 1024,
            reply_limit: 256 << 20,
        }
    }
}

/// A switch. Cheap to clone; all clones share one socket (the OpenFlow channel, OpenFlow 1.5.1 §6).
///
/// A request goes to the session that stands when it is made. Who has found something out about one
/// session and must not act on another takes a handle of that session alone: [`Connection::only`].
#[derive(Debug, Clone)]
pub struct Connection {
    config: Arc<Config>,
    session: watch::Receiver<Option<Arc<Session>>>,
    /// The one session that this handle may use; without it, whichever stands.
    only: Option<Arc<Session>>,
    /// One bundle at a time: their errors are told apart by transaction ids.
    bundle: Arc<Mutex<()>>,
}

impl Connection {
    /// A connection that is made, and made again, by the driver.
    pub fn new(config: Config) -> (Self, PacketIns, Notices, Driver) {
        let config = Arc::new(config);
        let (packet_sender, packet_ins) = queue::packet_ins(config.packet_in_queue);
        let (notice_sender, notices) = queue::notices(config.notice_queue);
        let (sender, session) = watch::channel(None);
        let driver = Driver::new(Arc::clone(&config), sender, packet_sender, notice_sender);
        let connection = Self {
            config,
            session,
            only: None,
            bundle: Arc::default(),
        };
        (connection, packet_ins, notices, driver)
    }

    /// A handle of the session of this generation alone: once that ends, all its requests fail with
    /// [`RequestError::Disconnected`] and reach no other session, however soon one stands.
    ///
    /// # Errors
    /// [`RequestError::Disconnected`] when that session does not stand now.
    pub fn only(&self, generation: u64) -> Result<Self, RequestError> {
        let session = self.session()?;
        if session.generation != generation {
            return Err(RequestError::Disconnected);
        }
        Ok(Self {
            only: Some(session),
            ..self.clone()
        })
    }

    /// Waits until there is a session; its generation. A handle of [one session](Self::only) does
    /// not wait.
    ///
    /// # Errors
    /// When the driver has ended, or the one session of this handle.
    pub async fn connected(&self) -> Result<u64, RequestError> {
        if self.only.is_some() {
            return self.generation().ok_or(RequestError::Disconnected);
        }
        let mut session = self.session.clone();
        let found = session.wait_for(Option::is_some).await;
        let found = found.map_err(|_| RequestError::Disconnected)?;
        found
            .as_ref()
            .map(|session| session.generation)
            .ok_or(RequestError::Disconnected)
    }

    /// Waits until there is a session of another generation than `known`; its generation. Looks at
    /// all sessions, also from a handle of [one](Self::only).
    ///
    /// # Errors
    /// When the driver has ended.
    pub async fn reconnected(&self, known: u64) -> Result<u64, RequestError> {
        let mut session = self.session.clone();
        let newer = |session: &Option<Arc<Session>>| {
            session
                .as_ref()
                .is_some_and(|session| session.generation != known)
        };
        let found = session
            .wait_for(newer)
            .await
            .map_err(|_| RequestError::Disconnected)?;
        found
            .as_ref()
            .map(|session| session.generation)
            .ok_or(RequestError::Disconnected)
    }

    /// Which session this is, counted from 1; `None` without one. A new session means that the
    /// switch may have lost everything.
    pub fn generation(&self) -> Option<u64> {
        self.session().ok().map(|session| session.generation)
    }

    /// What the switch said it is.
    pub fn features(&self) -> Option<Features> {
        self.session().ok().map(|session| session.features.clone())
    }

    /// Flows with their counters.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn dump_flows(&self, filter: FlowFilter) -> Result<Vec<FlowStats>, RequestError> {
        self.collect(MultipartRequest::Flows(filter), |body| match body {
            MultipartBody::Flows(flows) => Some(flows),
            _ => None,
        })
        .await
    }

    /// The counters of flows, summed.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn aggregate(&self, filter: FlowFilter) -> Result<Aggregate, RequestError> {
        let replies = self
            .collect(MultipartRequest::Aggregate(filter), |body| match body {
                MultipartBody::Aggregate(aggregate) => Some(vec![aggregate]),
                _ => None,
            })
            .await?;
        replies
            .into_iter()
            .next()
            .ok_or(RequestError::Unexpected { what: "aggregate" })
    }

    /// All groups, sorted by number.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn dump_groups(&self) -> Result<Vec<Group>, RequestError> {
        let mut groups = self
            .collect(MultipartRequest::Groups(GroupId::ALL), |body| match body {
                MultipartBody::Groups(groups) => Some(groups),
                _ => None,
            })
            .await?;
        groups.sort_by_key(|group| group.id);
        Ok(groups)
    }

    /// Counters of all groups.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn group_stats(&self) -> Result<Vec<GroupStats>, RequestError> {
        self.collect(
            MultipartRequest::GroupStats(GroupId::ALL),
            |body| match body {
                MultipartBody::GroupStats(stats) => Some(stats),
                _ => None,
            },
        )
        .await
    }

    /// All meters, sorted by number.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn dump_meters(&self) -> Result<Vec<Meter>, RequestError> {
        let mut meters = self
            .collect(MultipartRequest::Meters(MeterId::ALL), |body| match body {
                MultipartBody::Meters(meters) => Some(meters),
                _ => None,
            })
            .await?;
        meters.sort_by_key(|meter| meter.id);
        Ok(meters)
    }

    /// Counters of all meters.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn meter_stats(&self) -> Result<Vec<MeterStats>, RequestError> {
        self.collect(
            MultipartRequest::MeterStats(MeterId::ALL),
            |body| match body {
                MultipartBody::MeterStats(stats) => Some(stats),
                _ => None,
            },
        )
        .await
    }

    /// All ports, sorted by number.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn dump_ports(&self) -> Result<Vec<Port>, RequestError> {
        let mut ports = self
            .collect(MultipartRequest::Ports(OfPort::ANY), |body| match body {
                MultipartBody::Ports(ports) => Some(ports),
                _ => None,
            })
            .await?;
        ports.sort_by_key(|port| port.number);
        Ok(ports)
    }

    /// Counters of all ports.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn port_stats(&self) -> Result<Vec<PortStats>, RequestError> {
        self.collect(
            MultipartRequest::PortStats(OfPort::ANY),
            |body| match body {
                MultipartBody::PortStats(stats) => Some(stats),
                _ => None,
            },
        )
        .await
    }

    /// Counters of all tables.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn table_stats(&self) -> Result<Vec<TableStats>, RequestError> {
        self.collect(MultipartRequest::Tables, |body| match body {
            MultipartBody::Tables(stats) => Some(stats),
            _ => None,
        })
        .await
    }

    /// How all tables are configured.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn table_descriptions(&self) -> Result<Vec<TableDescription>, RequestError> {
        self.collect(MultipartRequest::TableDescriptions, |body| match body {
            MultipartBody::TableDescriptions(tables) => Some(tables),
            _ => None,
        })
        .await
    }

    /// Who made the switch, and its version.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn description(&self) -> Result<Description, RequestError> {
        let replies = self
            .collect(MultipartRequest::Description, |body| match body {
                MultipartBody::Description(description) => Some(vec![*description]),
                _ => None,
            })
            .await?;
        replies.into_iter().next().ok_or(RequestError::Unexpected {
            what: "description",
        })
    }

    /// Waits until the switch has done all that was sent before.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn barrier(&self) -> Result<(), RequestError> {
        let session = self.session()?;
        session
            .request(
                &Message::BarrierRequest,
                "barrier",
                self.config.request_timeout,
            )
            .await?;
        Ok(())
    }

    /// Changes one meter and waits until it is done. Meters go one by one: Open vSwitch refuses
    /// them in bundles.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn meter(&self, change: MeterMod) -> Result<(), RequestError> {
        self.order(Message::MeterMod(change), "meter modification")
            .await
    }

    /// Sends a packet and waits until the switch has taken it.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn packet_out(&self, packet: PacketOut) -> Result<(), RequestError> {
        self.order(Message::PacketOut(packet), "packet-out").await
    }

    /// Lets a paused packet go on.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn resume(&self, packet: PacketIn2) -> Result<(), RequestError> {
        self.order(Message::Resume(packet), "resume").await
    }

    /// Forgets connections by tuple and zone.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn ct_flush(&self, flush: CtFlush) -> Result<(), RequestError> {
        self.order(Message::CtFlush(flush), "connection flush")
            .await
    }

    /// Forgets all connections of a zone.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn ct_flush_zone(&self, zone: u16) -> Result<(), RequestError> {
        self.order(Message::CtFlushZone(zone), "connection flush of a zone")
            .await
    }

    /// The mapping of Geneve options to tunnel metadata.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn tlv_table(&self) -> Result<TlvTable, RequestError> {
        let session = self.session()?;
        let timeout = self.config.request_timeout;
        match session
            .request(&Message::TlvTableRequest, "TLV table", timeout)
            .await?
        {
            Message::TlvTableReply(table) => Ok(table),
            _ => Err(RequestError::Unexpected { what: "TLV table" }),
        }
    }

    /// Changes that mapping.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn change_tlv_table(&self, change: TlvTableMod) -> Result<(), RequestError> {
        self.order(Message::TlvTableMod(change), "TLV table modification")
            .await
    }

    /// Sends any message that has no reply but an error, and a barrier behind it.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn order(&self, message: Message, what: &'static str) -> Result<(), RequestError> {
        self.session()?
            .order(&message, what, self.config.request_timeout)
            .await
    }

    fn session(&self) -> Result<Arc<Session>, RequestError> {
        let session = match &self.only {
            Some(only) => Some(Arc::clone(only)).filter(|session| !session.is_closed()),
            None => self.session.borrow().clone(),
        };
        session.ok_or(RequestError::Disconnected)
    }

    /// The parts of an answer, put together.
    async fn collect<T>(
        &self,
        request: MultipartRequest,
        take: impl Fn(MultipartBody) -> Option<Vec<T>>,
    ) -> Result<Vec<T>, RequestError> {
        let session = self.session()?;
        let parts = session
            .multipart(
                &request,
                self.config.reply_limit,
                self.config.request_timeout,
            )
            .await?;
        let mut result = Vec::new();
        for part in parts {
            let items = take(part).ok_or(RequestError::Unexpected { what: "multipart" })?;
            if result.is_empty() {
                result = items;
            } else {
                result.extend(items);
            }
        }
        Ok(result)
    }
}
