//! The process: arguments, health, leadership, and the loop.
//!
//! Tasks: the HTTP server and the elector (end with the process's token), the watches (end with
//! leadership). [`run`] owns and awaits all of them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use carrick_api::names::{object, port};
use carrick_k8s::elector::{Candidate, Election, Elector, Leadership};
use carrick_k8s::event::Events;
use carrick_k8s::health::Health;
use carrick_k8s::{client, election, http, shutdown, telemetry};
use kube::Config;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cluster::Cluster;
use crate::facts::Installation;
use crate::metrics::Metrics;
use crate::probe::Prober;
use crate::reconcile::{Look, Reconciler};
use crate::remove_network::{self, RemoveNetwork};
use crate::watch::{Trigger, Watches};
use crate::{crds, gather};
use carrick_k8s::telemetry::chain;

/// Least time between two looks: many changes at once become one look.
const LEAST_GAP: Duration = Duration::from_millis(500);
/// After failures: from here, doubling, to there.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// The loop says that it lives at least this often, or the kubelet restarts the pod.
const BEAT: Duration = Duration::from_mins(10);
/// Name of the readiness check.
const CHECK: &str = "api-server";
/// Name of the loop's heartbeat.
const LOOP: &str = "reconcile";

/// Arguments of `carrick operator`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Log level: error, warn, info, debug, trace, or a filter of tracing-subscriber.
    #[arg(long, env = "CARRICK_LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: String,
    /// Log format: text or json.
    #[arg(
        long,
        env = "CARRICK_LOG_FORMAT",
        default_value = "text",
        global = true
    )]
    pub log_format: telemetry::Format,
    /// Namespace of the operator and its operands; default: the ServiceAccount's.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: Option<String>,
    /// Name of this replica in the leader election.
    #[arg(long, env = "POD_NAME", default_value = "carrick-operator")]
    pub identity: String,
    /// Full reference of the carrick image.
    #[arg(long, env = "CARRICK_IMAGE", default_value = concat!("carrick:", env!("CARGO_PKG_VERSION")))]
    pub carrick_image: String,
    /// Full reference of the carrick-ovs image.
    #[arg(long, env = "CARRICK_OVS_IMAGE", default_value = concat!("carrick-ovs:", env!("CARGO_PKG_VERSION")))]
    pub carrick_ovs_image: String,
    /// Names of pull Secrets for operands, separated by commas.
    #[arg(long, env = "CARRICK_PULL_SECRETS", value_delimiter = ',')]
    pub pull_secrets: Vec<String>,
    /// Address for health and metrics; default: every address, IPv6 and IPv4.
    #[arg(long, env = "CARRICK_OPERATOR_HTTP")]
    pub http: Option<SocketAddr>,
    /// Something else than to operate.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Other things the operator's binary can do.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Delete the Networking and wait until its nodes are clean (the chart's pre-delete hook).
    RemoveNetwork(RemoveNetwork),
    /// Do nothing until a signal comes: holds an image on a node before a rollout.
    Hold,
}

/// Runs the operator until a signal ends it.
pub async fn run(args: Args) -> anyhow::Result<()> {
    telemetry::init(&args.log_level, args.log_format)?;
    if let Some(Command::Hold) = &args.command {
        shutdown::on_signal()
            .context("cannot listen for signals")?
            .cancelled()
            .await;
        return Ok(());
    }
    let config = Config::infer()
        .await
        .context("no way to reach the API server is configured")?;
    if let Some(Command::RemoveNetwork(remove)) = &args.command {
        let connection = client::from_config(config)?;
        return remove_network::run(remove, connection.client).await;
    }
    let token = shutdown::on_signal().context("cannot listen for signals")?;
    Box::pin(operate(args, config, token)).await
}

/// Operates the cluster that `config` leads to until `token` is cancelled.
pub async fn operate(args: Args, config: Config, token: CancellationToken) -> anyhow::Result<()> {
    let connection = client::from_config(config.clone())?;
    let installation = Installation {
        namespace: args
            .namespace
            .unwrap_or_else(|| connection.namespace.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        carrick_image: args.carrick_image,
        carrick_ovs_image: args.carrick_ovs_image,
        pull_secrets: args
            .pull_secrets
            .into_iter()
            .filter(|name| !name.is_empty())
            .collect(),
    };
    info!(
        version = installation.version,
        api_server = %connection.endpoint,
        namespace = installation.namespace,
        "starting"
    );
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let health = Health::new();
    health.unready(CHECK, "the API server was not reached yet");
    let server = serve(args.http, Arc::new(registry), &health, &token).await?;

    let (elector, election) = Elector::new(
        connection.client.clone(),
        Candidate {
            namespace: installation.namespace.clone(),
            lease: object::OPERATOR.to_owned(),
            identity: args.identity.clone(),
            // Serves nobody; followers only see that somebody leads.
            address: args.identity.clone(),
            timing: election::Timing::default(),
        },
    );
    let elector = tokio::spawn(elector.run(token.clone()));
    let operator = Operator {
        config,
        connection,
        installation,
        identity: args.identity,
        metrics,
        health,
    };
    Box::pin(operator.follow_and_lead(&election, &token)).await;
    if let Err(error) = elector.await {
        error!(%error, "the leader election ended badly");
    }
    server.ended().await;
    info!("stopped");
    Ok(())
}

async fn serve(
    address: Option<SocketAddr>,
    registry: Arc<Registry>,
    health: &Health,
    token: &CancellationToken,
) -> anyhow::Result<http::Server> {
    let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port::OPERATOR_HTTP));
    let any4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port::OPERATOR_HTTP));
    let router = axum::Router::new;
    let first = address.unwrap_or(any6);
    match http::serve(
        first,
        Arc::clone(&registry),
        health.clone(),
        router(),
        token.clone(),
    )
    .await
    {
        Ok(server) => Ok(server),
        // A host without IPv6.
        Err(error) if address.is_none() => {
            info!(error = chain(&error), "serving on IPv4 only");
            Ok(http::serve(any4, registry, health.clone(), router(), token.clone()).await?)
        }
        Err(error) => Err(error.into()),
    }
}

struct Operator {
    config: Config,
    connection: client::Connection,
    installation: Installation,
    identity: String,
    metrics: Metrics,
    health: Health,
}

impl Operator {
    /// Leads whenever it may, until `token` is cancelled.
    async fn follow_and_lead(&self, election: &Election, token: &CancellationToken) {
        let mut leadership = election.watch();
        while !token.is_cancelled() {
            // A standby is ready: it would take over at once. Whether the API server answers is
            // seen by the elector's looks at the Lease.
            let valid_until = match &*leadership.borrow_and_update() {
                Leadership::Leading { valid_until, .. } => Some(*valid_until),
                Leadership::Following { leader } => {
                    if leader.is_some() {
                        self.health.ready(CHECK);
                    }
                    None
                }
            };
            if valid_until.is_some_and(|until| Instant::now() < until) {
                self.health.ready(CHECK);
                self.metrics.leader.set(1);
                let ends = token.child_token();
                tokio::select! {
                    () = self.lead(&ends) => {}
                    () = lost(election) => warn!("no longer leading"),
                    () = token.cancelled() => {}
                }
                self.metrics.leader.set(0);
                self.health.rest(LOOP);
                continue;
            }
            tokio::select! {
                () = token.cancelled() => {}
                changed = leadership.changed() => {
                    if changed.is_err() {
                        token.cancelled().await;
                    }
                }
            }
        }
    }

    /// ClusterNetworkPolicy is another's API: a cluster that does not take its CRD has a network.
    fn offer_upstreams_crd(&self, token: &CancellationToken) {
        let (client, token) = (self.connection.client.clone(), token.clone());
        tokio::spawn(async move {
            let mut delay = BACKOFF.0;
            while let Err(error) = crds::offer(&client).await {
                warn!(
                    error = chain(&error),
                    "the CRD of ClusterNetworkPolicy cannot be applied; trying again"
                );
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(delay) => {}
                }
                delay = (delay * 2).min(BACKOFF.1);
            }
        });
    }

    /// Operates. Cancelled by being dropped: every request of it is idempotent.
    async fn lead(&self, token: &CancellationToken) {
        let mut delay = BACKOFF.0;
        while let Err(error) = crds::apply(&self.connection.client).await {
            error!(
                error = chain(&error),
                "the CRDs cannot be applied; trying again"
            );
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(BACKOFF.1);
        }
        self.offer_upstreams_crd(token);
        let trigger = Arc::new(Trigger::default());
        let watches = Watches::start(
            &self.connection.client,
            &self.installation.namespace,
            &trigger,
        );
        watches.ready().await;
        let mut reconciler = Reconciler {
            cluster: Cluster::new(self.connection.client.clone(), &self.installation),
            installation: self.installation.clone(),
            stores: watches.stores.clone(),
            events: Events::new(
                self.connection.client.clone(),
                object::OPERATOR,
                Some(self.identity.clone()),
            ),
            metrics: self.metrics.clone(),
            prober: Prober::new(self.config.clone()),
            reached: gather::endpoint(&self.connection.endpoint),
            applied: None,
            planned: None,
            told: None,
            cleaning_since: None,
            record: None,
            deleted: std::collections::BTreeSet::new(),
            looked: None,
            unread: String::new(),
            kube_proxy_times: 0,
        };
        trigger.look_for_drift();
        let mut delay = BACKOFF.0;
        let mut again = Duration::ZERO;
        while !token.is_cancelled() {
            self.health.beat(LOOP, BEAT);
            tokio::select! {
                () = trigger.wished() => {}
                () = tokio::time::sleep(again) => {}
                () = token.cancelled() => break,
            }
            let look = if trigger.take_drift() {
                Look::Full
            } else {
                Look::Glance
            };
            match Box::pin(reconciler.look(look)).await {
                Ok(next) => {
                    delay = BACKOFF.0;
                    again = next;
                }
                Err(error) => {
                    error!(error = chain(&error), again_in = ?delay, "a look at the Networking failed");
                    if look == Look::Full {
                        trigger.look_for_drift();
                    }
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(BACKOFF.1);
                    again = Duration::ZERO;
                }
            }
            tokio::time::sleep(LEAST_GAP).await;
        }
        watches.stop().await;
    }
}

/// Returns when this replica does not lead any more.
async fn lost(election: &Election) {
    let mut leadership = election.watch();
    loop {
        let until = match &*leadership.borrow_and_update() {
            Leadership::Leading { valid_until, .. } => *valid_until,
            Leadership::Following { .. } => return,
        };
        if Instant::now() >= until {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}
