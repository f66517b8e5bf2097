//! Monitors: a cache of part of the database, kept by the server's updates, and the stream of its
//! changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard};
use serde_json::{Map, Value, json};
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

use crate::cache::{Cache, Change, UpdateError, UpdateFormat};
use crate::client::Client;
use crate::schema::Schema;

/// How many updates a reader of changes may lie behind before it is told that it missed some: with
/// an update per pod event, minutes; each is a few kilobytes of shared rows.
const CHANGES: usize = 1024;

/// What to monitor (`monitor_cond_since`, ovsdb-server(7) §4.1.15): tables and their columns. Tables and columns that the server's schema lacks are
/// left out, so that an older switch can be monitored.
#[derive(Debug, Clone, Default)]
pub struct MonitorRequest {
    tables: BTreeMap<String, MonitorTable>,
}

#[derive(Debug, Clone)]
struct MonitorTable {
    columns: Vec<String>,
    index: Option<String>,
}

impl MonitorRequest {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Also this table, these columns.
    #[must_use]
    pub fn table<C: Into<String>>(
        mut self,
        table: impl Into<String>,
        columns: impl IntoIterator<Item = C>,
    ) -> Self {
        let columns = columns.into_iter().map(Into::into).collect();
        self.tables.insert(
            table.into(),
            MonitorTable {
                columns,
                index: None,
            },
        );
        self
    }

    /// Rows of a table already named are found fast by this column, of which values are unique.
    #[must_use]
    pub fn indexed(mut self, table: &str, column: impl Into<String>) -> Self {
        if let Some(table) = self.tables.get_mut(table) {
            table.index = Some(column.into());
        }
        self
    }

    fn empty_cache(&self) -> Cache {
        Cache::indexed(
            self.tables
                .iter()
                .filter_map(|(name, t)| Some((name.as_str(), t.index.as_deref()?))),
        )
    }

    /// `<monitor-requests>` (RFC 7047 §4.1.5) of what the schema has.
    pub(crate) fn to_json(&self, schema: &Schema) -> Value {
        let table = |(name, table): (&String, &MonitorTable)| {
            schema.tables.get(name.as_str())?;
            let columns = table
                .columns
                .iter()
                .filter(|column| schema.has(name, column));
            let columns = columns.map(|column| json!(column)).collect::<Vec<_>>();
            Some((name.clone(), json!([{"columns": columns}])))
        };
        Value::Object(self.tables.iter().filter_map(table).collect::<Map<_, _>>())
    }
}

/// One committed update of the database as far as it is monitored (`update3`, ovsdb-server(7) §4.1.16).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeSet {
    /// The cache's version after it.
    pub version: u64,
    /// The changes, sorted by table and row.
    pub changes: Vec<Change>,
}

/// The part of a monitor that the client's task writes.
#[derive(Debug)]
pub(crate) struct MonitorState {
    pub(crate) id: u64,
    pub(crate) request: MonitorRequest,
    content: RwLock<Content>,
    version: watch::Sender<u64>,
    changes: broadcast::Sender<Arc<ChangeSet>>,
}

#[derive(Debug)]
struct Content {
    cache: Cache,
    /// The last transaction the cache contains, when the server tells.
    last_txn: Option<Uuid>,
}

/// Whether an update adds to the cache or is all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Changes since the last.
    Delta,
    /// Everything.
    Whole,
}

impl MonitorState {
    pub(crate) fn new(id: u64, request: MonitorRequest) -> Self {
        let cache = request.empty_cache();
        Self {
            id,
            request,
            content: RwLock::new(Content {
                cache,
                last_txn: None,
            }),
            version: watch::Sender::new(0),
            changes: broadcast::Sender::new(CHANGES),
        }
    }

    /// The transaction to resume from; nil when there is none.
    pub(crate) fn last_txn(&self) -> Uuid {
        self.content.read().last_txn.unwrap_or_default()
    }

    /// Forgets where to resume: the next reply is taken whole.
    pub(crate) fn forget(&self) {
        self.content.write().last_txn = None;
    }

    pub(crate) fn update(
        &self,
        schema: &Schema,
        format: UpdateFormat,
        scope: Scope,
        last_txn: Option<Uuid>,
        updates: &Value,
    ) -> Result<(), UpdateError> {
        let changes = {
            let mut content = self.content.write();
            let changes = match scope {
                Scope::Delta => content.cache.apply(schema, format, updates)?,
                Scope::Whole => content.cache.replace(schema, format, updates)?,
            };
            content.last_txn = last_txn.filter(|txn| !txn.is_nil());
            changes
        };
        let mut version = 0;
        self.version.send_modify(|current| {
            *current += 1;
            version = *current;
        });
        if !changes.is_empty() {
            // Nobody listening is no error.
            self.changes
                .send(Arc::new(ChangeSet { version, changes }))
                .ok();
        }
        Ok(())
    }
}

/// A cache of part of the database. Dropping it ends the monitor; clones share it.
///
/// Updates are applied in the order of the server's commits, and the update of a client's own
/// transaction before that transaction's reply: after [`Client::transact`] the cache shows it.
#[derive(Debug, Clone)]
pub struct Monitor {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    state: Arc<MonitorState>,
    client: Client,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.client.cancel(self.state.id);
    }
}

impl Monitor {
    pub(crate) fn new(state: Arc<MonitorState>, client: Client) -> Self {
        Self {
            handle: Arc::new(Handle { state, client }),
        }
    }

    /// The cache as it is now. Do not hold it across an await: updates wait for it.
    #[must_use]
    pub fn cache(&self) -> CacheRef<'_> {
        CacheRef(self.handle.state.content.read())
    }

    /// Changes from now on.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes {
            receiver: self.handle.state.changes.subscribe(),
        }
    }

    /// Waits until `look` finds what it looks for in the cache; it is asked now and after each
    /// update. There is no deadline: the caller sets one.
    pub async fn wait_for<T>(&self, mut look: impl FnMut(&Cache) -> Option<T>) -> T {
        let mut version = self.handle.state.version.subscribe();
        loop {
            version.mark_unchanged();
            if let Some(found) = look(&self.cache()) {
                return found;
            }
            // The sender lives in the state this monitor holds: it cannot end first.
            if version.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A borrowed [`Cache`].
#[derive(Debug)]
pub struct CacheRef<'a>(RwLockReadGuard<'a, Content>);

impl std::ops::Deref for CacheRef<'_> {
    type Target = Cache;

    fn deref(&self) -> &Cache {
        &self.0.cache
    }
}

/// The stream of changes.
#[derive(Debug)]
pub struct Changes {
    receiver: broadcast::Receiver<Arc<ChangeSet>>,
}

impl Changes {
    /// The next changes.
    ///
    /// # Errors
    /// [`Missed::Lagged`] when the reader was too slow: read the cache anew and go on.
    pub async fn next(&mut self) -> Result<Arc<ChangeSet>, Missed> {
        self.receiver.recv().await.map_err(|error| match error {
            broadcast::error::RecvError::Lagged(updates) => Missed::Lagged { updates },
            broadcast::error::RecvError::Closed => Missed::Closed,
        })
    }
}

/// Why there is no next change.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missed {
    /// Updates were dropped because the reader was too slow.
    #[error("{updates} updates were missed; read the cache again")]
    Lagged {
        /// How many.
        updates: u64,
    },
    /// The monitor is gone.
    #[error("the monitor has ended")]
    Closed,
}
