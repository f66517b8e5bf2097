//! The switch's database: whether the switch is there, restored, and has the bridges and ports.
//!
//! Whether it is restored is asked of the database itself, never taken from the cache, which may lie
//! behind by a start: see [`flows`](crate::flows) for what depends on it.

use std::path::PathBuf;
use std::time::Duration;

use carrick_ovsdb::client::{Client, Connection, Options, TransactError};
use carrick_ovsdb::desired::{Applied, SwitchConfig};
use carrick_ovsdb::handover::StartId;
use carrick_ovsdb::rows::{Interface, OpenVSwitch, TableRow as _};
use carrick_ovsdb::switch::{StartError, SwitchDb, SwitchError};
use tokio::sync::watch;

/// How long the switch may take to act on a change.
const ACT: Duration = Duration::from_secs(30);

/// Why the switch cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum SwitchDbError {
    /// There is no connection to its database.
    #[error("the switch is away: {reason}")]
    Away {
        /// The last attempt's error.
        reason: String,
    },
    /// The database answers, but `carrick switch` has not finished its start.
    #[error("the switch is starting: its last commit is not restored yet")]
    Restoring,
    /// Another start of it is restored by now: what was found out holds for one before.
    #[error("the switch was started anew meanwhile")]
    Anew,
    /// The database does not tell whether it is restored.
    #[error("asking the switch's database whether its last commit is restored")]
    Ask(#[source] TransactError),
    /// The database refuses to be monitored.
    #[error("reading the switch's database")]
    Start(#[from] StartError),
    /// The change was refused or not acted on.
    #[error("changing the switch's database")]
    Change(#[from] SwitchError),
}

/// The switch's database. Connects by itself and again.
#[derive(Debug)]
pub struct SwitchDriver {
    client: Client,
    db: Option<SwitchDb>,
}

/// One start of the switch, restored: of another one nothing is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchStart {
    /// Which.
    pub id: StartId,
    /// Version of Open vSwitch.
    pub version: Option<String>,
}

impl SwitchDriver {
    /// A driver for the database at `socket`; must be called within the runtime.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            client: Client::start(socket, Options::default()),
            db: None,
        }
    }

    /// Whether there is a connection, as it changes.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.client.connection()
    }

    /// The switch's database, once connected.
    async fn db(&mut self) -> Result<&SwitchDb, SwitchDbError> {
        if let Connection::Disconnected { reason } = &*self.client.connection().borrow() {
            return Err(SwitchDbError::Away {
                reason: reason.to_string(),
            });
        }
        let db = match self.db.take() {
            Some(db) => db,
            None => SwitchDb::start(self.client.clone(), ACT).await?,
        };
        Ok(self.db.insert(db))
    }

    /// Which start of the switch this is, as the database says now.
    ///
    /// # Errors
    /// It is away or still starting.
    pub async fn start(&mut self) -> Result<SwitchStart, SwitchDbError> {
        let db = self.db().await?;
        let restored = db.restored_now().await.map_err(SwitchDbError::Ask)?;
        let id = restored.ok_or(SwitchDbError::Restoring)?;
        let root = OpenVSwitch::one(&db.monitor().cache());
        let version = root.and_then(|root| root.ovs_version);
        Ok(SwitchStart { id, version })
    }

    /// Makes sure that this start is still the one that is restored.
    ///
    /// # Errors
    /// It is another one, or [`Self::start`] fails.
    pub async fn still(&mut self, id: StartId) -> Result<(), SwitchDbError> {
        if self.start().await?.id == id {
            Ok(())
        } else {
            Err(SwitchDbError::Anew)
        }
    }

    /// Names of interfaces the database has.
    ///
    /// # Errors
    /// The switch is away.
    pub async fn interfaces(&mut self) -> Result<Vec<Interface>, SwitchDbError> {
        let db = self.db().await?;
        let cache = db.monitor().cache();
        Ok(Interface::all(&cache).collect())
    }

    /// Makes bridges and ports what they must be.
    ///
    /// # Errors
    /// The switch is away or did not act.
    pub async fn apply(&mut self, config: SwitchConfig) -> Result<Applied, SwitchDbError> {
        Ok(self.db().await?.apply(config).await?)
    }

    /// Removes a port of the integration bridge.
    ///
    /// # Errors
    /// The switch is away or did not act.
    pub async fn remove_port(&mut self, port: &str) -> Result<(), SwitchDbError> {
        let bridge = carrick_api::names::link::INTEGRATION_BRIDGE;
        Ok(self.db().await?.del_port(bridge, port).await?)
    }
}
