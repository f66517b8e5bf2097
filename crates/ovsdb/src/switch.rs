//! Makes the switch what it shall be: reads, compares, changes in one transaction, waits until the
//! switch has acted, and tells what came of each port.
//!
//! One task does this for all callers, one batch after the other. While the switch acts on a batch,
//! further requests gather and become the next: a hundred ports that arrive together cost a few
//! transactions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use crate::cache::Cache;
use crate::client::{Client, ConnectError, Connection, RequestError, TransactError};
use crate::desired::{Applied, PortConfig, PortError, PortState, SwitchConfig};
use crate::handover::{self, StartId};
use crate::monitor::Monitor;
use crate::operation::{Condition, Mutation, Mutator, Operation};
use crate::plan::{self, Existing, Plan, PortChange};
use crate::rows::{OpenVSwitch, TableRow as _, switch_request, table};

/// Requests that may wait: as many pods as a node may start at once, several times over.
const REQUESTS: usize = 1024;
/// How often a batch is planned: twice when ports are made anew, more when others write, too.
const ATTEMPTS: usize = 6;
/// How long the switch may take to act, unless said otherwise.
const ACT: Duration = Duration::from_secs(30);

/// A handle on the task. Clones share it; it ends when the last is dropped.
#[derive(Debug, Clone)]
pub struct SwitchDb {
    requests: mpsc::Sender<Request>,
    client: Client,
    monitor: Monitor,
}

#[derive(Debug)]
enum Request {
    Apply {
        config: SwitchConfig,
        reply: oneshot::Sender<Result<Applied, SwitchError>>,
    },
    Port {
        change: PortChange,
        reply: oneshot::Sender<Result<Option<PortState>, SwitchError>>,
    },
}

impl Request {
    fn is_given_up(&self) -> bool {
        match self {
            Self::Apply { reply, .. } => reply.is_closed(),
            Self::Port { reply, .. } => reply.is_closed(),
        }
    }
}

impl SwitchDb {
    /// Connects to the database server and reads what is there.
    ///
    /// # Errors
    /// When there is no connection, or the server refuses to be monitored.
    pub async fn connect(socket: impl AsRef<Path>) -> Result<Self, StartError> {
        Self::start(Client::connect(socket).await?, ACT).await
    }

    /// Uses this client. The switch has `act` to act on a change.
    ///
    /// # Errors
    /// When the server refuses to be monitored.
    pub async fn start(client: Client, act: Duration) -> Result<Self, StartError> {
        let monitor = client.monitor(switch_request()).await?;
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let worker = Worker {
            client: client.clone(),
            monitor: monitor.clone(),
            act,
        };
        // The task ends when the last handle is dropped: its channel closes.
        tokio::spawn(worker.run(receiver));
        Ok(Self {
            requests,
            client,
            monitor,
        })
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The cache of the four tables.
    #[must_use]
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Makes the switch what `config` says, all in one transaction (two when ports must be made
    /// anew). The list of a bridge's ports is the whole truth when the request's turn comes: ask for
    /// it where ports are also added, or ports added meanwhile are removed.
    ///
    /// # Errors
    /// When the database could not be changed or the switch did not act. Ports that failed are no
    /// error of the whole: see [`Applied::failed`].
    pub async fn apply(&self, config: SwitchConfig) -> Result<Applied, SwitchError> {
        self.request(|reply| Request::Apply { config, reply }).await
    }

    /// Adds a port, or mends one that is there and differs.
    ///
    /// # Errors
    /// When the switch could not add it ([`SwitchError::Port`]), or for any reason of
    /// [`SwitchDb::apply`].
    pub async fn add_port(&self, bridge: &str, port: PortConfig) -> Result<PortState, SwitchError> {
        self.add(bridge, port, Existing::Keep).await
    }

    /// Adds a port whose device is new: a port of the same name is made anew. The userspace datapath
    /// keeps the old device open otherwise.
    ///
    /// # Errors
    /// As [`SwitchDb::add_port`].
    pub async fn replace_port(
        &self,
        bridge: &str,
        port: PortConfig,
    ) -> Result<PortState, SwitchError> {
        self.add(bridge, port, Existing::Replace).await
    }

    async fn add(
        &self,
        bridge: &str,
        port: PortConfig,
        existing: Existing,
    ) -> Result<PortState, SwitchError> {
        let name = port.name.clone();
        let change = PortChange::Add {
            bridge: bridge.to_owned(),
            port,
            existing,
        };
        let state = self
            .request(|reply| Request::Port { change, reply })
            .await?;
        state.ok_or(SwitchError::Port(PortError::Missing { port: name }))
    }

    /// Removes a port; one that is not there, or is on another bridge, is no error.
    ///
    /// # Errors
    /// As [`SwitchDb::apply`].
    pub async fn del_port(&self, bridge: &str, port: &str) -> Result<(), SwitchError> {
        let change = PortChange::Delete {
            bridge: bridge.to_owned(),
            port: port.to_owned(),
        };
        self.request(|reply| Request::Port { change, reply })
            .await
            .map(drop)
    }

    /// The present start of ovs-vswitchd when its replay is done, `None` when it is not: read from
    /// the server, not from a cache that may lie behind. An agent asks after each new OpenFlow
    /// connection and before it writes to it: see [`handover`](crate::handover).
    ///
    /// # Errors
    /// When the database server gives no answer.
    pub async fn restored_now(&self) -> Result<Option<StartId>, TransactError> {
        self.client.barrier().await?;
        Ok(restored(&self.monitor.cache()))
    }

    /// Waits until [`SwitchDb::restored_now`] says so. There is no deadline: the caller sets one.
    ///
    /// # Errors
    /// When the database server gives no answer.
    pub async fn restored(&self) -> Result<StartId, TransactError> {
        loop {
            if let Some(id) = self.restored_now().await? {
                return Ok(id);
            }
            self.monitor.wait_for(restored).await;
        }
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, SwitchError>>) -> Request,
    ) -> Result<T, SwitchError> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| SwitchError::Ended)?;
        answer.await.map_err(|_| SwitchError::Ended)?
    }
}

fn restored(cache: &Cache) -> Option<StartId> {
    OpenVSwitch::one(cache)
        .as_ref()
        .and_then(handover::restored)
}

struct Worker {
    client: Client,
    monitor: Monitor,
    act: Duration,
}

/// Requests done together.
enum Batch {
    Apply(SwitchConfig, oneshot::Sender<Result<Applied, SwitchError>>),
    Ports(Vec<PortRequest>),
}

type PortRequest = (
    PortChange,
    oneshot::Sender<Result<Option<PortState>, SwitchError>>,
);

impl Worker {
    async fn run(self, mut requests: mpsc::Receiver<Request>) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                match requests.recv().await {
                    Some(request) => waiting.push_back(request),
                    None => return,
                }
            }
            while waiting.len() < REQUESTS
                && let Ok(request) = requests.try_recv()
            {
                waiting.push_back(request);
            }
            match next_batch(&mut waiting) {
                Some(Batch::Apply(config, reply)) => {
                    reply.send(self.apply(&config).await).ok();
                }
                Some(Batch::Ports(batch)) => self.ports(batch).await,
                None => {}
            }
        }
    }

    async fn apply(&self, config: &SwitchConfig) -> Result<Applied, SwitchError> {
        let plan = |done: &BTreeSet<String>, root: &OpenVSwitch| {
            let schema = self.client.schema()?;
            Some(plan::switch(
                &self.monitor.cache(),
                &schema,
                root,
                config,
                done,
            ))
        };
        // What others committed before this request is compared, too. When there is no answer, the
        // plan waits for the connection itself.
        self.client.barrier().await.ok();
        let outcome = self.reach("apply the configuration", plan).await?;
        let mut applied = Applied {
            changed: outcome.changed,
            ..Applied::default()
        };
        let cache = self.monitor.cache();
        for port in config.bridges.iter().flat_map(|bridge| &bridge.ports) {
            let name = port.name.clone();
            let state = match outcome.impossible.get(&name) {
                Some(error) => Err(error.clone()),
                None => plan::state(&cache, port),
            };
            match state {
                Ok(state) => drop(applied.ports.insert(name, state)),
                Err(error) => drop(applied.failed.insert(name, error)),
            }
        }
        Ok(applied)
    }

    async fn ports(&self, batch: Vec<PortRequest>) {
        let outcome = self
            .change_ports(batch.iter().map(|(change, _)| change))
            .await;
        let refused =
            matches!(&outcome, Err(SwitchError::Transact { source }) if source.refused().is_some());
        if refused && batch.len() > 1 {
            // One of them spoils it for all: each on its own.
            for request in batch {
                let outcome = self.change_ports(std::iter::once(&request.0)).await;
                self.answer(request, &outcome);
            }
        } else {
            for request in batch {
                self.answer(request, &outcome);
            }
        }
    }

    fn answer(&self, (change, reply): PortRequest, outcome: &Result<Outcome, SwitchError>) {
        let result = match (outcome, &change) {
            (Err(error), _) => Err(error.clone()),
            (Ok(_), PortChange::Delete { .. }) => Ok(None),
            (Ok(outcome), PortChange::Add { port, .. }) => {
                let state = match outcome.impossible.get(&port.name) {
                    Some(error) => Err(error.clone()),
                    None => plan::state(&self.monitor.cache(), port),
                };
                state.map(Some).map_err(SwitchError::Port)
            }
        };
        reply.send(result).ok();
    }

    async fn change_ports(
        &self,
        changes: impl Iterator<Item = &PortChange> + Clone,
    ) -> Result<Outcome, SwitchError> {
        let names: Vec<&str> = changes.clone().map(PortChange::name).collect();
        let comment = match names.as_slice() {
            [name] => format!("change port {name}"),
            [name, rest @ ..] => format!("change port {name} and {} more", rest.len()),
            [] => return Ok(Outcome::default()),
        };
        let plan = |done: &BTreeSet<String>, _: &OpenVSwitch| {
            let schema = self.client.schema()?;
            Some(plan::ports(
                &self.monitor.cache(),
                &schema,
                changes.clone(),
                done,
            ))
        };
        self.reach(&comment, plan).await
    }

    /// Plans and changes until there is nothing to do, waiting each time for the switch.
    async fn reach(
        &self,
        comment: &str,
        plan: impl Fn(&BTreeSet<String>, &OpenVSwitch) -> Option<Plan>,
    ) -> Result<Outcome, SwitchError> {
        let deadline = Instant::now() + self.act;
        let late = || SwitchError::NotActed { timeout: self.act };
        let mut outcome = Outcome::default();
        let mut done = BTreeSet::new();
        let mut last = None;
        for attempt in 1..=ATTEMPTS {
            let root = timeout_at(deadline, self.monitor.wait_for(OpenVSwitch::one));
            let root = root.await.map_err(|_| SwitchError::NotInitialised)?;
            let Some(plan) = plan(&done, &root) else {
                self.connected(deadline).await?;
                continue;
            };
            outcome.impossible = plan.impossible;
            if plan.operations.is_empty() {
                // Nothing to change, yet the switch may still be acting on what is there.
                self.acted(root.next_cfg, deadline)
                    .await
                    .map_err(|()| late())?;
                return Ok(outcome);
            }
            debug!(
                comment,
                attempt,
                operations = plan.operations.len(),
                "changing the database"
            );
            match self.commit(comment, &root, plan.operations).await {
                Ok(wanted) => {
                    outcome.changed = true;
                    self.acted(wanted, deadline).await.map_err(|()| late())?;
                    if !plan.again {
                        return Ok(outcome);
                    }
                    done.extend(plan.removed);
                }
                Err(error) if error.refused().is_some() => {
                    // Somebody else wrote meanwhile; by now the cache shows it.
                    debug!(comment, attempt, %error, "the database refused the change");
                    last = Some(error);
                }
                Err(
                    error @ TransactError::Request(
                        RequestError::Disconnected | RequestError::TimedOut { .. },
                    ),
                ) => {
                    // Unknown whether it was done: the next plan looks.
                    warn!(comment, attempt, %error, "the outcome of a change is unknown");
                    last = Some(error);
                    self.connected(deadline).await?;
                }
                Err(error) => return Err(SwitchError::transact(error)),
            }
        }
        last.map_or(
            Err(SwitchError::Unsettled { attempts: ATTEMPTS }),
            |error| Err(SwitchError::transact(error)),
        )
    }

    /// Commits and returns the configuration number to wait for.
    async fn commit(
        &self,
        comment: &str,
        root: &OpenVSwitch,
        mut operations: Vec<Operation>,
    ) -> Result<i64, TransactError> {
        let table = || table::OPEN_VSWITCH.to_owned();
        operations.push(Operation::Mutate {
            table: table(),
            conditions: vec![Condition::uuid(root.uuid)],
            mutations: vec![Mutation::new("next_cfg", Mutator::Add, 1)],
        });
        operations.push(Operation::Select {
            table: table(),
            conditions: vec![Condition::uuid(root.uuid)],
            columns: vec!["next_cfg".to_owned()],
        });
        operations.push(Operation::Comment(format!("carrick: {comment}")));
        let select = operations.len().saturating_sub(2);
        let results = self.client.transact(operations).await?;
        let row = results.get(select).and_then(|result| result.rows.first());
        let number = row.map(|row| OpenVSwitch::read(root.uuid, row).next_cfg);
        info!(comment, next_cfg = number, "changed the switch's database");
        // Without a number (the row is gone) there is nothing to wait for; the next plan tells.
        Ok(number.unwrap_or_default())
    }

    /// Waits until the switch has acted on configuration `wanted`.
    async fn acted(&self, wanted: i64, deadline: Instant) -> Result<(), ()> {
        let acted = self.monitor.wait_for(|cache| {
            OpenVSwitch::one(cache)
                .filter(|root| root.cur_cfg >= wanted)
                .map(drop)
        });
        timeout_at(deadline, acted).await.map_err(drop)
    }

    /// Waits for a connection.
    async fn connected(&self, deadline: Instant) -> Result<(), SwitchError> {
        let mut connection = self.client.connection();
        let connected = connection.wait_for(|state| matches!(state, Connection::Connected { .. }));
        match timeout_at(deadline, connected).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(SwitchError::Ended),
            Err(_) => Err(SwitchError::NotConnected { timeout: self.act }),
        }
    }
}

/// What a batch led to.
#[derive(Debug, Default)]
struct Outcome {
    changed: bool,
    impossible: BTreeMap<String, PortError>,
}

/// Takes from the front what can share a transaction: one configuration, or ports each named once.
/// Requests whose callers have gone are dropped.
fn next_batch(waiting: &mut VecDeque<Request>) -> Option<Batch> {
    let mut batch = Vec::new();
    let mut names = BTreeSet::new();
    while let Some(request) = waiting.pop_front() {
        match request {
            request if request.is_given_up() => {}
            Request::Apply { config, reply } if batch.is_empty() => {
                return Some(Batch::Apply(config, reply));
            }
            Request::Port { change, reply } if !names.contains(change.name()) => {
                names.insert(change.name().to_owned());
                batch.push((change, reply));
            }
            request => {
                waiting.push_front(request);
                break;
            }
        }
    }
    (!batch.is_empty()).then_some(Batch::Ports(batch))
}

/// Why a [`SwitchDb`] cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The tables cannot be monitored.
    #[error("cannot monitor the switch's tables")]
    Monitor(#[from] RequestError),
}

/// Why the switch is not what it shall be. Requests that shared a transaction share the error.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SwitchError {
    /// This port is not: the rest of the batch may be.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The database could not be changed.
    #[error("cannot change the switch's database")]
    Transact {
        /// Why.
        #[source]
        source: Arc<TransactError>,
    },
    /// The database was changed but the switch has not acted on it: it does not run, or is very busy.
    #[error("ovs-vswitchd has not acted on the change within {timeout:?}")]
    NotActed {
        /// The deadline.
        timeout: Duration,
    },
    /// There is no connection to the database server.
    #[error("no connection to ovsdb-server for {timeout:?}")]
    NotConnected {
        /// The deadline.
        timeout: Duration,
    },
    /// The database has no row in table `Open_vSwitch`.
    #[error("the switch's database is not initialised")]
    NotInitialised,
    /// Somebody else keeps changing what we change.
    #[error("the switch's database was not settled after {attempts} attempts")]
    Unsettled {
        /// How many.
        attempts: usize,
    },
    /// The task has ended.
    #[error("the switch's task has ended")]
    Ended,
}

impl SwitchError {
    fn transact(source: TransactError) -> Self {
        Self::Transact {
            source: Arc::new(source),
        }
    }
}
