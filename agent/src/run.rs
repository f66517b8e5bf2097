//! Puts the agent together and takes it down.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use carrick_api::agentinfo::condition;
use carrick_api::effective::ServiceProxyMode;
use carrick_api::names::port;
use carrick_datapath::Commit;
use carrick_k8s::client::Connection;
use carrick_k8s::health::Health;
use carrick_node::{Netlink, Sysctls};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::before::BeforeFile;
use crate::cni::{CniServer, Sandboxes, collect, socket};
use crate::host::Host;
use crate::ipam::{AttachmentStore, read_boot_id};
use crate::journal::Recovery;
use crate::ledgerfile::LedgerFile;
use crate::node::{ADDRESS_CHANGES, Node, REQUESTS, Realized};
use crate::paths::Paths;
use crate::podnetwork::AgentNetwork;
use crate::policy;
use crate::programmer::Programmer;
use crate::records::RecordStore;
use crate::services::driver::Inlets;
use crate::services::health::{self, Problems, Pulse, Told};
use crate::services::metrics::SyncMetrics;
use crate::services::tell::Ends;
use crate::services::view::QUERIES;
use crate::services::watch::{self as services, CHANGES, Outlet};
use crate::sole::Sole;
use crate::status::{Board, Fact};
use crate::stream::StreamInputs;
use crate::{
    Args, Command, api, controllers, fabric, info as agentinfo, links, metrics, peers, readiness,
    stream,
};
use carrick_k8s::telemetry::chain;

/// How long tasks may take to end; then the agent ends without them.
const ENDING: Duration = Duration::from_secs(15);
/// Pause between attempts to make a client for the API server.
const CONNECT_RETRY: Duration = Duration::from_secs(5);

/// Runs the agent, or its cleanup, until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration or the state directory cannot be used, another agent runs on this node, or a
/// task ended that must not.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let config = crate::config::load(&args.config);
    let level = config
        .as_ref()
        .map_or("info", |config| config.log_level.as_str());
    carrick_k8s::telemetry::init(level, args.log_format)?;
    let shutdown = carrick_k8s::shutdown::on_signal()?;
    let paths = args
        .root
        .as_deref()
        .map_or_else(Paths::default, Paths::below);
    match args.command {
        Some(Command::Cleanup) => {
            crate::cleanup::run(&args.node_name, config.ok().as_ref(), &paths, shutdown).await
        }
        None => {
            Agent::open((&args.node_name, &args.pod_name), config?, paths)?
                .run(shutdown)
                .await
        }
    }
}

/// An agent whose stores are open and whose tasks have not begun.
struct Agent {
    /// Kept to the end.
    sole: Sole,
    node: Arc<Node>,
    health: Health,
    programmer: Programmer,
    controllers: watch::Sender<controllers::Addresses>,
    inputs: StreamInputs,
    outlet: Outlet,
    health_checks: (Told, watch::Sender<Problems>),
}

impl Agent {
    fn open(
        (name, pod): (&str, &str),
        config: carrick_api::effective::EffectiveConfig,
        paths: Paths,
    ) -> anyhow::Result<Self> {
        for directory in [&paths.state, &paths.run] {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("creating {}", directory.display()))?;
        }
        // Before a journal is opened: that cuts off what the other one is just writing.
        let sole = Sole::take(&paths.lock(), &holder(pod))?;
        let origin = Instant::now();
        let boot_id = read_boot_id().context("reading the boot id")?;
        let mut damage = Vec::new();
        let (attachments, report) =
            AttachmentStore::open(paths.attachments(), &boot_id, origin.elapsed())?;
        note_recovery(&mut damage, "attachments", &report.recovery);
        if report.unknown_records > 0 {
            damage.push(format!(
                "{} attachment records are unreadable",
                report.unknown_records
            ));
        }
        if report.of_earlier_boot > 0 {
            info!(
                count = report.of_earlier_boot,
                "attachments of an earlier boot are gone"
            );
        }
        let (records, report) = RecordStore::open(paths.records())?;
        note_recovery(&mut damage, "records", &report.recovery);
        if let Some((count, reason)) = report.refused {
            damage.push(format!(
                "{count} batches of records are unreadable: {reason}"
            ));
        }
        let (ledger_file, ledger, aside) = LedgerFile::open(&paths.ledger(), &boot_id)?;
        note_aside(&mut damage, "the id ledger", aside.as_deref());
        let (before, aside) = BeforeFile::open(&paths.before(), &boot_id)?;
        note_aside(&mut damage, "what the host had before", aside.as_deref());
        let (known, aside) = controllers::load(&paths.controllers())?;
        note_aside(&mut damage, "the controller's addresses", aside.as_deref());
        drop_foreign_commit(&paths.commit(), &boot_id);

        let board = Board::default();
        board.set(condition::STATE_INTACT, intact(&damage));
        let host = Host::open(&paths, before).context("opening netlink")?;
        let committed = records.committed();
        let (programmer_requests, requests) = mpsc::channel(REQUESTS);
        let (address_changes, changes) = mpsc::channel(ADDRESS_CHANGES);
        let (service_queries, queries) = mpsc::channel(QUERIES);
        let (policy_queries, asked_of_policy) = mpsc::channel(policy::view::QUERIES);
        let (service_changes, watched) = mpsc::channel(CHANGES);
        let forgotten = watch::Sender::new(0);
        let outlet = Outlet {
            changes: service_changes,
            forgotten: forgotten.subscribe(),
        };
        let (wanted, pulse) = (
            watch::Sender::new(None),
            watch::Sender::new(Pulse::default()),
        );
        let health_problems = watch::Sender::new(Problems::new());
        let told = Told {
            wanted: wanted.subscribe(),
            pulse: pulse.subscribe(),
        };
        let services = Inlets {
            changes: watched,
            forgotten,
            queries,
            health: Ends {
                wanted,
                pulse,
                problems: health_problems.subscribe(),
            },
        };
        info!(
            node = name,
            boot = boot_id,
            number = %committed.number(),
            records = committed.len(),
            attachments = attachments.attachments().len(),
            "starting"
        );
        let node = Arc::new(Node {
            name: name.to_owned(),
            pod: pod.to_owned(),
            config,
            paths,
            boot_id,
            attachments: Arc::new(attachments),
            records: Arc::new(records),
            committed: watch::Sender::new(committed),
            realized: watch::Sender::new(Realized::default()),
            settings: watch::Sender::new(None),
            plan: watch::Sender::new(None),
            board,
            programmer: programmer_requests,
            service_queries,
            policy_queries,
            policy_totals: policy::counters::Totals::default(),
            service_sync: SyncMetrics::default(),
            address_changes,
            addresses_lost: watch::Sender::new(0),
            links_changed: watch::Sender::new(0),
            origin,
        });
        let health = Health::new();
        let ledger = (ledger_file, ledger);
        let node_ = Arc::clone(&node);
        let programmer = Programmer::new(
            node_,
            host,
            ledger,
            health.clone(),
            requests,
            services,
            asked_of_policy,
        );
        let controllers = watch::Sender::new(known);
        let inputs = StreamInputs {
            addresses: controllers.subscribe(),
            changes,
        };
        Ok(Self {
            sole,
            node,
            health,
            programmer,
            controllers,
            inputs,
            outlet,
            health_checks: (told, health_problems),
        })
    }

    async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self {
            sole: _sole,
            node,
            health,
            programmer,
            controllers,
            inputs,
            outlet,
            health_checks: (told, health_problems),
        } = self;
        // The programmer and the servers end last: open CNI commands need them.
        let last = CancellationToken::new();
        let registry = Arc::new(metrics::registry(Arc::clone(&node)));
        let routes = api::routes(Arc::clone(&node));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port::AGENT_HTTP));
        let http = carrick_k8s::http::serve(
            address,
            Arc::clone(&registry),
            health.clone(),
            routes.clone(),
            last.clone(),
        )
        .await?;
        let all = routes.merge(carrick_k8s::http::routes(registry, health.clone()));
        let api = api::serve_socket(&node.paths.api_socket(), all, last.clone())
            .with_context(|| format!("listening on {}", node.paths.api_socket().display()))?;

        let cni = cni_server(&node)?;
        let listener = socket::listen(&node.paths.cni_socket())?;
        cni.recover_at_start().await;
        let programming = tokio::spawn(programmer.run(last.clone()));

        let mut tasks: JoinSet<&'static str> = JoinSet::new();
        let token = shutdown.child_token();
        let until = token.clone();
        tasks.spawn(named(
            "stream",
            stream::run(Arc::clone(&node), inputs, until),
        ));
        let until = token.clone();
        tasks.spawn(named(
            "readiness",
            readiness::run(Arc::clone(&node), health, until),
        ));
        let until = token.clone();
        tasks.spawn(named("peers", peers::run(Arc::clone(&node), until)));
        let until = token.clone();
        tasks.spawn(named("links", links::run(Arc::clone(&node), until)));
        if node.config.service_proxy.mode == ServiceProxyMode::Full {
            let until = token.clone();
            let checks = health::run(told, health_problems, until);
            tasks.spawn(named("health", checks));
        }
        let until = token.clone();
        tasks.spawn(named("fabric", fabric::run(Arc::clone(&node), until)));
        let until = token.clone();
        tasks.spawn(named(
            "kubernetes",
            kubernetes(Arc::clone(&node), controllers, outlet, until),
        ));
        let until = token.clone().cancelled_owned();
        tasks.spawn(named(
            "cni",
            socket::serve(Arc::clone(&cni), listener, until),
        ));
        let until = token.clone().cancelled_owned();
        let deferred = node.paths.deferred();
        tasks.spawn(named(
            "collect",
            collect::collect_forever(cni, deferred, until),
        ));

        let ended = tokio::select! {
            // Tasks see the same end and may be gone before this one looks: that is no failure of theirs.
            biased;
            () = shutdown.cancelled() => None,
            ended = tasks.join_next() => Some(match ended {
                Some(Ok(name)) => format!("task {name} ended"),
                Some(Err(error)) => format!("a task ended badly: {error}"),
                None => "there are no tasks".to_owned(),
            }),
        };
        token.cancel();
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(ENDING, all).await.is_err() {
            error!("tasks did not end in time");
        }
        last.cancel();
        let rest = async {
            if let Err(error) = programming.await {
                error!(%error, "the programmer ended badly");
            }
            http.ended().await;
            let _ = api.await;
        };
        if tokio::time::timeout(ENDING, rest).await.is_err() {
            error!("the programmer did not end in time");
        }
        match ended {
            Some(reason) => anyhow::bail!(reason),
            None => Ok(()),
        }
    }
}

/// Who we are, for a second agent on this node.
fn holder(pod: &str) -> String {
    if pod.is_empty() {
        format!("process {}", std::process::id())
    } else {
        format!("pod {pod}")
    }
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    debug!(task = name, "ended");
    name
}

fn cni_server(node: &Arc<Node>) -> anyhow::Result<Arc<CniServer<AgentNetwork>>> {
    let sysctls = Sysctls::at(&node.paths.proc_sys_net);
    let sandboxes = Sandboxes::new(Netlink::open().context("opening netlink")?, sysctls.clone());
    let network = Arc::new(AgentNetwork::new(Arc::clone(node)));
    let store = Arc::clone(&node.attachments);
    Ok(Arc::new(CniServer::new(
        network,
        store,
        sandboxes,
        sysctls,
        node.origin,
    )))
}

/// What needs the API server: the controller's addresses and Services in, `AgentInfo` out. Nothing else waits
/// for it.
async fn kubernetes(
    node: Arc<Node>,
    addresses: watch::Sender<controllers::Addresses>,
    outlet: Outlet,
    shutdown: CancellationToken,
) {
    let Some(connection) = connect(&shutdown).await else {
        return;
    };
    let path = node.paths.controllers();
    let serves = node.config.service_proxy.mode != ServiceProxyMode::Disabled;
    let Connection {
        client, namespace, ..
    } = connection;
    let services = async {
        if serves {
            services::run(client.clone(), outlet, shutdown.clone()).await;
        }
    };
    tokio::join!(
        services,
        controllers::follow(client.clone(), namespace, path, addresses, shutdown.clone()),
        agentinfo::run(node, client.clone(), shutdown.clone()),
    );
}

/// A client for the API server, as soon as one can be made; `None` when `shutdown` comes first.
pub(crate) async fn connect(shutdown: &CancellationToken) -> Option<Connection> {
    let mut told = false;
    loop {
        match carrick_k8s::client::connect().await {
            Ok(connection) => return Some(connection),
            Err(error) if !told => {
                warn!(
                    error = chain(&error),
                    "no client for the API server can be made yet"
                );
                told = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = tokio::time::sleep(CONNECT_RETRY) => {}
        }
    }
}

fn note_recovery(damage: &mut Vec<String>, what: &str, recovery: &Recovery) {
    match recovery {
        Recovery::Created | Recovery::Intact => {}
        Recovery::TornTail { bytes } => {
            info!(what, bytes, "an unfinished write was dropped");
        }
        Recovery::Corrupt { set_aside, lost } => damage.push(format!(
            "the journal of {what} was damaged ({lost} bytes); it lies at {}",
            set_aside.display()
        )),
    }
}

fn note_aside(damage: &mut Vec<String>, what: &str, aside: Option<&Path>) {
    if let Some(path) = aside {
        damage.push(format!(
            "the file of {what} was damaged; it lies at {}",
            path.display()
        ));
    }
}

fn intact(damage: &[String]) -> Fact {
    if damage.is_empty() {
        return Fact::holds("Intact", "every state file was read whole");
    }
    for text in damage {
        warn!(text, "damaged state was set aside and is rebuilt");
    }
    Fact::fails(
        "SetAside",
        format!("{}; what was lost is rebuilt", damage.join("; ")),
    )
}

/// A saved commit of another boot would only be refused by the switch: ports and connections it
/// speaks of are gone.
fn drop_foreign_commit(path: &Path, boot_id: &str) {
    let Ok(bytes) = std::fs::read(path) else {
        return;
    };
    let ours = Commit::from_bytes(&bytes).and_then(|commit| commit.check_boot(boot_id));
    if let Err(error) = ours {
        info!(reason = %error, "dropping the saved commit");
        if let Err(error) = std::fs::remove_file(path) {
            warn!(%error, path = %path.display(), "the saved commit cannot be removed");
        }
    }
}
