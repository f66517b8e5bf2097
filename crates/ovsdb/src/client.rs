//! The client: a handle on a task that owns the connection.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::{Command, Driver, Ended};
use crate::lock::{Lock, Taking};
use crate::monitor::{Monitor, MonitorRequest, MonitorState};
use crate::operation::{Operation, OperationError, OperationResult, ResultError, results};
use crate::schema::Schema;

/// Requests that may wait for the connection's task: more callers than that wait their turn.
const COMMANDS: usize = 64;

/// How a client behaves (probes: RFC 7047 §4.1.11). The defaults suit a server on the same machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// The database.
    pub database: String,
    /// How long [`Client::connect`] tries.
    pub connect_timeout: Duration,
    /// How long a request may take, waiting for a lost connection included.
    pub request_timeout: Duration,
    /// After this long without a word from the server it is asked; after twice as long the
    /// connection counts as lost.
    pub probe_interval: Duration,
    /// First and longest pause between attempts to connect.
    pub backoff: (Duration, Duration),
    /// The longest message accepted. A monitored row is about a kilobyte.
    pub max_message: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            database: "Open_vSwitch".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            probe_interval: Duration::from_secs(5),
            backoff: (Duration::from_millis(20), Duration::from_secs(2)),
            max_message: 64 << 20,
        }
    }
}

/// Whether there is a connection.
#[derive(Debug, Clone)]
pub enum Connection {
    /// There is none, for this reason.
    Disconnected {
        /// The last attempt's error, for people.
        reason: Arc<str>,
    },
    /// There is one.
    Connected {
        /// Counts connections from 1.
        generation: u64,
        /// The database's schema, as read on this connection.
        schema: Arc<Schema>,
    },
}

/// A client of one database (RFC 7047 §4). Clones share the connection; it ends when the last is dropped.
///
/// One task owns the socket. It connects again by itself, with growing pauses, and sets the monitors
/// up again; requests that were sent and not answered fail with [`RequestError::Disconnected`],
/// those not yet sent wait for the next connection.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    commands: mpsc::Sender<Command>,
    /// What its caller has no more use for: never waited for, so that a drop can send; at most as
    /// many as there are monitors, locks and requests.
    ended: mpsc::UnboundedSender<Ended>,
    connection: watch::Receiver<Connection>,
    options: Options,
    /// Numbers monitors, locks and requests.
    next_id: AtomicU64,
}

impl Client {
    /// Connects to the `Open_vSwitch` database by a unix socket.
    ///
    /// # Errors
    /// When there is no connection within [`Options::connect_timeout`].
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        Self::connect_with(path, Options::default()).await
    }

    /// Connects as the options say.
    ///
    /// # Errors
    /// When there is no connection within [`Options::connect_timeout`].
    pub async fn connect_with(
        path: impl AsRef<Path>,
        options: Options,
    ) -> Result<Self, ConnectError> {
        let path = path.as_ref().to_owned();
        let timeout = options.connect_timeout;
        let client = Self::start(path.clone(), options);
        let mut connection = client.connection();
        let connected = connection.wait_for(|state| matches!(state, Connection::Connected { .. }));
        if let Ok(Ok(_)) = tokio::time::timeout(timeout, connected).await {
            return Ok(client);
        }
        let reason = match &*client.shared.connection.borrow() {
            Connection::Disconnected { reason } => reason.to_string(),
            Connection::Connected { .. } => String::new(),
        };
        Err(ConnectError::NotConnected {
            path,
            timeout,
            reason,
        })
    }

    /// Starts a client that connects when it can.
    #[must_use]
    pub fn start(path: PathBuf, options: Options) -> Self {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (ended, endings) = mpsc::unbounded_channel();
        let reason = Arc::from("no attempt has been made yet");
        let (state, connection) = watch::channel(Connection::Disconnected { reason });
        let driver = Driver::new(path, options.clone(), receiver, endings, state);
        // The task ends when the last client is dropped: its command channel closes.
        tokio::spawn(driver.run());
        let shared = Shared {
            commands,
            ended,
            connection,
            options,
            next_id: AtomicU64::new(1),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Whether there is a connection, now and as it changes.
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.shared.connection.clone()
    }

    /// The schema of the present connection, or of none.
    #[must_use]
    pub fn schema(&self) -> Option<Arc<Schema>> {
        match &*self.shared.connection.borrow() {
            Connection::Connected { schema, .. } => Some(schema.clone()),
            Connection::Disconnected { .. } => None,
        }
    }

    /// Runs the operations as one transaction: all of them or none.
    ///
    /// # Errors
    /// [`TransactError::Result`] when the server refused (nothing changed);
    /// [`TransactError::Request`] when no answer came: what happened is then unknown, and the caller
    /// must read before it tries again.
    pub async fn transact(
        &self,
        operations: Vec<Operation>,
    ) -> Result<Vec<OperationResult>, TransactError> {
        let count = operations.len();
        let mut params = vec![json!(self.shared.options.database)];
        params.extend(operations.iter().map(Operation::to_json));
        let reply = self.call("transact", Value::Array(params)).await?;
        Ok(results(&reply, count)?)
    }

    /// The databases the server has (RFC 7047 §4.1.1).
    ///
    /// # Errors
    /// When no answer came, or a malformed one.
    pub async fn list_databases(&self) -> Result<Vec<String>, RequestError> {
        let reply = self.call("list_dbs", json!([])).await?;
        serde_json::from_value(reply).map_err(|source| RequestError::Reply { source })
    }

    /// Asks the server for an echo (RFC 7047 §4.1.11).
    ///
    /// # Errors
    /// When no answer came.
    pub async fn echo(&self) -> Result<(), RequestError> {
        self.call("echo", json!([])).await.map(drop)
    }

    /// Returns when the caches of this client's monitors show everything that was committed before
    /// the call, by whomever: the server sends updates before the reply to a transaction.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn barrier(&self) -> Result<(), TransactError> {
        self.transact(Vec::new()).await.map(drop)
    }

    /// Monitors tables; returns when the cache has their content.
    ///
    /// # Errors
    /// When no answer came, or the server refused.
    pub async fn monitor(&self, request: MonitorRequest) -> Result<Monitor, RequestError> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(MonitorState::new(id, request));
        // Made first: dropped on an error below, it takes the request back.
        let monitor = Monitor::new(state.clone(), self.clone());
        self.request(|reply| Command::Monitor { state, reply })
            .await?;
        Ok(monitor)
    }

    pub(crate) fn cancel(&self, monitor: u64) {
        // The task is gone only when nobody is left to care.
        self.shared.ended.send(Ended::Monitor(monitor)).ok();
    }

    pub(crate) fn unlock(&self, lock: u64) {
        self.shared.ended.send(Ended::Lock(lock)).ok();
    }

    /// Asks for a lock (RFC 7047 §4.1.8); returns when the server has heard of it, which may be
    /// long before it is [held](Lock::held).
    ///
    /// # Errors
    /// When no answer came, or this client has asked for it already.
    pub async fn lock(&self, name: impl Into<String>) -> Result<Lock, RequestError> {
        self.take(name.into(), Taking::InTurn).await
    }

    /// Takes a lock from whoever holds it (RFC 7047 §4.1.9).
    ///
    /// # Errors
    /// As [`Client::lock`].
    pub async fn steal(&self, name: impl Into<String>) -> Result<Lock, RequestError> {
        self.take(name.into(), Taking::ByForce).await
    }

    async fn take(&self, name: String, taking: Taking) -> Result<Lock, RequestError> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (state, held) = watch::channel(false);
        // Made first: dropped on an error below, it takes the request back.
        let lock = Lock::new(id, name.clone(), held, self.clone());
        self.request(|reply| Command::Lock {
            id,
            name,
            taking,
            held: state,
            reply,
        })
        .await?;
        Ok(lock)
    }

    /// A request that is cancelled (RFC 7047 §4.1.4) when this future is dropped or times out.
    async fn call(&self, method: &'static str, params: Value) -> Result<Value, RequestError> {
        let number = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let mut given_up = GivenUp {
            shared: &self.shared,
            number: Some(number),
        };
        let answer = self
            .request(|reply| Command::Call {
                number,
                method,
                params,
                reply,
            })
            .await;
        if !matches!(answer, Err(RequestError::TimedOut { .. })) {
            given_up.number = None;
        }
        answer
    }

    async fn request<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, RequestError>>) -> Command,
    ) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        let timeout = self.shared.options.request_timeout;
        let exchange = async {
            self.shared
                .commands
                .send(command(reply))
                .await
                .map_err(|_| RequestError::Ended)?;
            answer.await.map_err(|_| RequestError::Ended)?
        };
        // A request given up before it was sent is never sent: its reply channel is closed.
        tokio::time::timeout(timeout, exchange)
            .await
            .map_err(|_| RequestError::TimedOut { timeout })?
    }
}

/// Tells the task of a request whose caller no longer waits.
struct GivenUp<'a> {
    shared: &'a Shared,
    number: Option<u64>,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.shared.ended.send(Ended::Call(number)).ok();
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No attempt succeeded in time.
    #[error("no connection to {} within {timeout:?}: {reason}", path.display())]
    NotConnected {
        /// The socket.
        path: PathBuf,
        /// How long was tried.
        timeout: Duration,
        /// The last attempt's error.
        reason: String,
    },
}

/// Why a request has no result (errors of JSON-RPC: RFC 7047 §3.1).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The connection was lost before the answer came: the request may or may not have been done.
    #[error("the connection was lost before the answer")]
    Disconnected,
    /// No answer in time: the request may or may not have been done.
    #[error("no answer within {timeout:?}")]
    TimedOut {
        /// The deadline.
        timeout: Duration,
    },
    /// The server answered with an error.
    #[error("the server refused the request: {error}")]
    Refused {
        /// Its words.
        error: String,
    },
    /// The answer cannot be read.
    #[error("the answer cannot be read")]
    Reply {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The request is longer than the longest message allowed.
    #[error("a request of {length} bytes is too long (at most {limit})")]
    TooLong {
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The client's task has ended.
    #[error("the client has ended")]
    Ended,
}

/// Why a transaction has no results (RFC 7047 §4.1.3).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactError {
    /// No answer: what happened is unknown.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The server refused, and nothing was changed; or its answer cannot be read.
    #[error(transparent)]
    Result(#[from] ResultError),
}

impl TransactError {
    /// The server's refusal, when that is what it was: nothing was changed.
    #[must_use]
    pub fn refused(&self) -> Option<&OperationError> {
        match self {
            Self::Result(ResultError::Refused(error)) => Some(error),
            Self::Result(_) | Self::Request(_) => None,
        }
    }
}

/// Why a connection ended; for the log and [`Connection::Disconnected`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("cannot read")]
    Read(#[source] io::Error),
    #[error("cannot write")]
    Write(#[source] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server is silent")]
    Silent,
    #[error("the server does not read: {0} bytes are waiting")]
    Stuck(usize),
    #[error("the stream is broken")]
    Frame(#[from] crate::frame::FrameError),
    #[error("the stream is broken")]
    Message(#[from] crate::message::MessageError),
    #[error("an update cannot be applied")]
    Update(#[from] crate::cache::UpdateError),
    #[error("the reply to {method} cannot be used: {text}")]
    Reply { method: &'static str, text: String },
    #[error("the schema cannot be used")]
    Schema(#[from] crate::schema::SchemaError),
    #[error("the server ended the monitor")]
    MonitorCancelled,
}
