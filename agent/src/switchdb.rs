//! The switch's database: whether the switch is there, restored, and has the bridges and ports.

use std::path::PathBuf;
use std::time::Duration;

use carrick_ovsdb::client::{Client, Connection, Options};
use carrick_ovsdb::desired::{Applied, SwitchConfig};
use carrick_ovsdb::rows::{Interface, OpenVSwitch, TableRow as _};
use carrick_ovsdb::switch::{StartError, SwitchDb, SwitchError};
use tokio::sync::watch;

/// Key in `Open_vSwitch.external_ids`: which start of the switch this is, set by `carrick switch`.
pub const START: &str = "carrick-start";
/// Key in `Open_vSwitch.external_ids`: the start whose restoration is done. An agent writes to a
/// switch only when it equals [`START`].
pub const RESTORED: &str = "carrick-restored";
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

/// One start of the switch: another generation or start id means that nothing is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchStart {
    /// Value of [`START`].
    pub id: String,
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

    /// Which start of the switch this is.
    ///
    /// # Errors
    /// It is away or still starting.
    pub async fn start(&mut self) -> Result<SwitchStart, SwitchDbError> {
        let db = self.db().await?;
        let cache = db.monitor().cache();
        let root = OpenVSwitch::one(&cache).ok_or(SwitchDbError::Restoring)?;
        match (
            root.external_ids.get(START),
            root.external_ids.get(RESTORED),
        ) {
            (Some(start), Some(restored)) if start == restored => Ok(SwitchStart {
                id: start.clone(),
                version: root.ovs_version,
            }),
            _ => Err(SwitchDbError::Restoring),
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
