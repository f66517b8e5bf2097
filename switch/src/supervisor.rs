//! The sequence of a start, and what follows when something ends.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use carrick_datapath::DatapathKind;
use carrick_ovsdb::client::{Client, Connection, Options, TransactError};
use carrick_ovsdb::handover::{self, StartId};
use carrick_ovsdb::monitor::Monitor;
use carrick_ovsdb::operation::{Columns, Mutation, Mutator, Operation};
use carrick_ovsdb::rows::{Bridge, OpenVSwitch, TableRow as _, switch_request, table};
use carrick_ovsdb::value::Datum;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};

use crate::child::{Child, Daemon};
use crate::database::{self, DatabaseError};
use crate::health::{self, Health};
use crate::keeper::{Backoff, Keeper, KeeperError};
use crate::metrics::{DaemonLabel, Metrics, RestoreLabel, RestoreResult};
use crate::preflight::{self, PreflightError};
use crate::restore::{self, Loaded, ReplayError};
use crate::{Args, reaper, tool};

/// How long ovs-vswitchd may take to act on its configuration when there is nothing to replay.
const UP: Duration = Duration::from_secs(30);
/// Pause between attempts to write a mark while ovsdb-server is away.
const RETRY: Duration = Duration::from_millis(100);
/// First and longest pause between attempts to reach ovsdb-server: it answers some 30 ms after its
/// start, and an attempt costs less than a thousandth of a core's time.
const CONNECT: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));
/// The key that keeps ovs-vswitchd from flushing the kernel's flows (ovs-vswitchd.conf.db(5)).
const FLOW_RESTORE_WAIT: &str = "flow-restore-wait";

/// Runs until a signal.
pub(crate) async fn run(args: Args) -> Result<(), SupervisorError> {
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|source| SupervisorError::Signal { source })?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|source| SupervisorError::Signal { source })?;
    let stopped = async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let metrics = Arc::new(Metrics::new());
    let (health, healthy) = watch::channel(Health::Starting);
    let http = health::serve(args.http, healthy, metrics.clone())
        .await
        .map_err(|source| SupervisorError::Http {
            address: args.http.to_string(),
            source,
        })?;
    let http = async {
        let source = http
            .await
            .err()
            .unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
        SupervisorError::Http {
            address: args.http.to_string(),
            source,
        }
    };
    let mut others = pin!(async {
        tokio::select! {
            error = http => error,
            () = reaper::run() => SupervisorError::Reaper,
        }
    });
    let mut supervised = pin!(supervise(&args, health, metrics, stopped));
    tokio::select! {
        result = &mut supervised => result,
        error = &mut others => Err(error),
    }
}

async fn supervise(
    args: &Args,
    health: watch::Sender<Health>,
    metrics: Arc<Metrics>,
    stopped: impl Future<Output = &'static str>,
) -> Result<(), SupervisorError> {
    let mut stopped = pin!(stopped);
    let boot_id = tokio::fs::read_to_string(&args.boot_id)
        .await
        .map_err(|source| SupervisorError::BootId {
            path: args.boot_id.clone(),
            source,
        })?;
    let boot_id = boot_id.trim().to_owned();
    let _held = tokio::select! {
        held = preflight::hold(&args.run_dir) => held?,
        _ = &mut stopped => return Ok(()),
    };
    preflight::end_leftovers(&args.run_dir).await;
    preflight::refuse_other_switch(&args.run_dir)?;
    preflight::raise_open_files();
    // Forwarding waits for us: what does not depend on one another is done at once.
    let (database, ()) = tokio::join!(
        database::prepare(&args.run_dir, &args.schema, &boot_id),
        preflight::load_module()
    );
    let database = database?;

    let mut keeper = Keeper::start(args.run_dir.clone(), database, metrics.clone());
    let mut running = None;
    let result = tokio::select! {
        result = Switch::keep(args, &boot_id, &health, &metrics, &mut running) => result,
        error = keeper.failed() => Err(error.into()),
        signal = &mut stopped => {
            info!(signal, "stopping; the kernel datapath keeps its flows");
            Ok(())
        }
    };
    health.send_replace(Health::Starting);
    metrics.ready.set(0);
    if let Some(child) = running.take() {
        child.stop().await;
    }
    keeper.stop().await;
    result
}

/// Whether the agent's last commit is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replaying {
    Yes,
    /// It was tried on the start before, and nobody knows what came of it.
    No,
}

/// How a life of ovs-vswitchd came to its end.
#[derive(Debug)]
enum Life {
    /// By itself.
    Ended(std::process::ExitStatus),
    /// It runs but may still act on the replay: it must end before anybody else writes.
    Unsettled,
}

/// Whether what was sent can no longer change the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Yes,
    No,
}

/// What came of a replay: for metrics, in words, and whether it is over.
#[derive(Debug)]
struct Outcome {
    result: RestoreResult,
    text: String,
    settled: Settled,
}

impl Outcome {
    fn new(result: RestoreResult, text: String) -> Self {
        Self {
            result,
            text,
            settled: Settled::Yes,
        }
    }
}

/// What ovs-vswitchd's starts need.
struct Switch<'a> {
    args: &'a Args,
    client: Client,
    monitor: Monitor,
    metrics: &'a Metrics,
}

impl<'a> Switch<'a> {
    /// Starts ovs-vswitchd again and again. `running` holds the child, for the caller to end.
    async fn keep(
        args: &'a Args,
        boot_id: &str,
        health: &watch::Sender<Health>,
        metrics: &'a Metrics,
        running: &mut Option<Child>,
    ) -> Result<(), SupervisorError> {
        let options = Options {
            backoff: CONNECT,
            ..Options::default()
        };
        let client = Client::start(args.run_dir.join("db.sock"), options);
        let (version, monitor, first) = tokio::join!(
            version(),
            monitored(&client),
            restore::load(&args.commit_file, boot_id)
        );
        let monitor = monitor?;
        let switch = Self {
            args,
            client,
            monitor,
            metrics,
        };
        let initial = |root: Option<&OpenVSwitch>| initialise(root, version.as_deref());
        switch.write("initialise the database", initial).await;
        let mut backoff = Backoff::default();
        let mut loaded = first;
        loop {
            let begun = Instant::now();
            let life = switch.live(loaded, health, running).await?;
            health.send_replace(Health::Starting);
            metrics.ready.set(0);
            let daemon = Daemon::Vswitchd.name();
            let replaying = match life {
                Life::Ended(status) => {
                    error!(daemon, %status, "ended by itself");
                    running.take();
                    Replaying::Yes
                }
                Life::Unsettled => {
                    error!(
                        daemon,
                        "is started again, as it may still act on what it was sent"
                    );
                    if let Some(child) = running.take() {
                        child.stop().await;
                    }
                    Replaying::No
                }
            };
            let Some(pause) = backoff.after(begun.elapsed()) else {
                return Err(KeeperError::Hopeless { daemon }.into());
            };
            sleep(pause).await;
            loaded = match replaying {
                Replaying::Yes => restore::load(&args.commit_file, boot_id).await,
                Replaying::No => Loaded::Unusable("the switch did not take it in time".to_owned()),
            };
        }
    }

    /// One life of ovs-vswitchd: mark, start, replay, release, end.
    async fn live(
        &self,
        loaded: Loaded,
        health: &watch::Sender<Health>,
        running: &mut Option<Child>,
    ) -> Result<Life, SupervisorError> {
        let daemon = Daemon::Vswitchd;
        let id = StartId::random();
        // The cache shows what was committed before.
        self.client.barrier().await.ok();
        let loaded = self.fit(loaded);
        let mut hold = false;
        if let Loaded::Commit(commit) = &loaded {
            restore::forget_socket(&self.args.run_dir, commit);
            hold = commit.datapath == DatapathKind::System;
        }
        let marks = |_: Option<&OpenVSwitch>| vec![handover::begin(id), flow_restore_wait(hold)];
        self.write("mark a new start", marks).await;

        let db = format!("unix:{}", self.args.run_dir.join("db.sock").display());
        let child = Child::start(daemon, &self.args.run_dir, &[db]).map_err(|source| {
            KeeperError::Start {
                daemon: daemon.name(),
                source,
            }
        })?;
        self.metrics
            .starts
            .get_or_create(&DaemonLabel {
                daemon: daemon.name(),
            })
            .inc();
        let child = running.insert(child);
        let begun = Instant::now();
        let released = async {
            let outcome = self
                .replay(loaded, begun + self.args.restore_deadline())
                .await;
            let result = outcome.result;
            self.metrics
                .restores
                .get_or_create(&RestoreLabel { result })
                .inc();
            self.metrics
                .restore_seconds
                .set(begun.elapsed().as_secs_f64());
            if hold {
                // First of all, whatever came of the replay: nothing new is forwarded meanwhile.
                let release = |_: Option<&OpenVSwitch>| vec![flow_restore_wait(false)];
                self.write("end flow-restore-wait", release).await;
            }
            if outcome.settled == Settled::No {
                return;
            }
            // The ports' numbers and errors in the database are now this start's.
            self.acted(begun + UP).await;
            let release = |_: Option<&OpenVSwitch>| vec![handover::finish(id, &outcome.text)];
            self.write("release the switch", release).await;
            let (result, took) = (&outcome.text, begun.elapsed());
            info!(start = %id, result, ?took, "the switch is ready");
            health.send_replace(Health::Ready);
            self.metrics.ready.set(1);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            status = child.ended() => match status {
                Ok(status) => Ok(Life::Ended(status)),
                Err(source) => Err(KeeperError::Wait { daemon: daemon.name(), source }.into()),
            },
            () = released => Ok(Life::Unsettled),
        }
    }

    /// Refuses a commit that does not fit the database.
    fn fit(&self, loaded: Loaded) -> Loaded {
        let Loaded::Commit(commit) = loaded else {
            return loaded;
        };
        let Some(bridge) = Bridge::by_name(&self.monitor.cache(), &commit.bridge) else {
            return Loaded::Nothing(format!("bridge {} is not there", commit.bridge));
        };
        let fits = match bridge.datapath_type.as_str() {
            "" => commit.datapath.as_str() == "system",
            datapath => commit.datapath.as_str() == datapath,
        };
        if fits {
            return Loaded::Commit(commit);
        }
        let (have, want) = (bridge.datapath_type, commit.datapath);
        Loaded::Unusable(format!(
            "the commit is for datapath {want}, the bridge's is {have:?}"
        ))
    }

    /// Replays what was loaded.
    async fn replay(&self, loaded: Loaded, deadline: Instant) -> Outcome {
        let commit = match loaded {
            Loaded::Commit(commit) => commit,
            Loaded::Nothing(why) => {
                return Outcome::new(RestoreResult::Nothing, format!("nothing to restore: {why}"));
            }
            Loaded::Unusable(why) => {
                error!(why, "the agent's last commit cannot be restored");
                return Outcome::new(RestoreResult::Unusable, format!("unusable: {why}"));
            }
        };
        match restore::replay(&self.args.run_dir, &commit, deadline).await {
            Ok(()) => {
                let [flows, groups, meters] =
                    [&commit.flows, &commit.groups, &commit.meters].map(Vec::len);
                self.metrics
                    .restored_flows
                    .set(i64::try_from(flows).unwrap_or(i64::MAX));
                let text = format!("restored {flows} flows, {groups} groups, {meters} meters");
                Outcome::new(RestoreResult::Restored, text)
            }
            Err(error) => {
                let unsettled = matches!(error, ReplayError::Unsettled { .. });
                let settled = if unsettled { Settled::No } else { Settled::Yes };
                let error = format!("{:#}", anyhow::Error::from(error));
                error!(error, "the agent's last commit was not restored");
                Outcome {
                    settled,
                    ..Outcome::new(RestoreResult::Failed, format!("failed: {error}"))
                }
            }
        }
    }

    /// Waits until ovs-vswitchd has acted on its configuration as it is now.
    async fn acted(&self, deadline: Instant) {
        let bump = |root: Option<&OpenVSwitch>| {
            let next = root.map_or(1, |root| root.next_cfg + 1);
            let row = Columns::from([("next_cfg".to_owned(), Datum::from(next))]);
            let table = table::OPEN_VSWITCH.to_owned();
            vec![Operation::Update {
                table,
                conditions: Vec::new(),
                row,
            }]
        };
        self.write("ask for a sign", bump).await;
        let acted = self.monitor.wait_for(|cache| {
            OpenVSwitch::one(cache)
                .filter(|root| root.cur_cfg >= root.next_cfg)
                .map(drop)
        });
        if timeout_at(deadline, acted).await.is_err() {
            warn!("ovs-vswitchd has not acted on its configuration in time");
        }
    }

    /// Writes to the database however long ovsdb-server is away: nothing can go on without it, and
    /// its keeper gives up when it does not come back. Each operation leads to the same end when it
    /// is done twice.
    async fn write(&self, what: &str, operations: impl Fn(Option<&OpenVSwitch>) -> Vec<Operation>) {
        loop {
            let operations = operations(OpenVSwitch::one(&self.monitor.cache()).as_ref());
            if operations.is_empty() {
                return;
            }
            match self.client.transact(operations).await {
                Ok(_) => return,
                Err(error @ TransactError::Result(_)) => {
                    error!(what, %error, "the database refused");
                }
                Err(error) => warn!(what, %error, "cannot write to the database, trying again"),
            }
            sleep(RETRY).await;
        }
    }
}

/// Waits for ovsdb-server and the content of the tables. Its keeper gives up when it never comes;
/// until then there is nothing else to do.
async fn monitored(client: &Client) -> Result<Monitor, SupervisorError> {
    let mut connection = client.connection();
    let connected = connection.wait_for(|state| matches!(state, Connection::Connected { .. }));
    connected
        .await
        .map(drop)
        .map_err(|_| SupervisorError::ClientEnded)?;
    loop {
        match client.monitor(switch_request()).await {
            Ok(monitor) => return Ok(monitor),
            Err(error) => warn!(%error, "cannot monitor the database yet"),
        }
        sleep(RETRY).await;
    }
}

/// The row of table `Open_vSwitch`, when the database is new, and the version in it.
fn initialise(root: Option<&OpenVSwitch>, version: Option<&str>) -> Vec<Operation> {
    let table = table::OPEN_VSWITCH.to_owned();
    let row = Columns::from([("ovs_version".to_owned(), Datum::from(version))]);
    match root {
        None => vec![Operation::Insert {
            table,
            row,
            uuid_name: None,
        }],
        Some(root) if root.ovs_version.as_deref() == version => Vec::new(),
        Some(_) => vec![Operation::Update {
            table,
            conditions: Vec::new(),
            row,
        }],
    }
}

/// The version of Open vSwitch, of which the database tells whoever asks.
async fn version() -> Option<String> {
    match tool::run(Daemon::Vswitchd.name(), &["--version"]).await {
        Ok(text) => text
            .lines()
            .next()?
            .split_whitespace()
            .last()
            .map(str::to_owned),
        Err(error) => {
            warn!(%error, "the version of Open vSwitch is unknown");
            None
        }
    }
}

/// Sets or removes `other_config:flow-restore-wait`.
fn flow_restore_wait(hold: bool) -> Operation {
    let remove = Mutation::new(
        "other_config",
        Mutator::Delete,
        Datum::set([FLOW_RESTORE_WAIT]),
    );
    let mut mutations = vec![remove];
    if hold {
        let set = Datum::map([(FLOW_RESTORE_WAIT, "true")]);
        mutations.push(Mutation::new("other_config", Mutator::Insert, set));
    }
    let table = table::OPEN_VSWITCH.to_owned();
    Operation::Mutate {
        table,
        conditions: Vec::new(),
        mutations,
    }
}

/// Why the supervisor ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupervisorError {
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error("there is no database")]
    Database(#[from] DatabaseError),
    #[error("Open vSwitch cannot be kept running")]
    Keeper(#[from] KeeperError),
    #[error("cannot listen for signals")]
    Signal {
        #[source]
        source: io::Error,
    },
    #[error("cannot serve health on {address}")]
    Http {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the boot id from {}", path.display())]
    BootId {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("orphans can no longer be collected")]
    Reaper,
    #[error("the client of the database ended")]
    ClientEnded,
}
