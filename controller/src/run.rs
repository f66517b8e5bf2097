//! Starts and ends everything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use carrick_api::effective::{EffectiveConfig, ServiceProxyMode};
use carrick_api::names::{object, port};
use carrick_k8s::client::{Connection, connect, timely};
use carrick_k8s::election::Timing;
use carrick_k8s::elector::{Candidate, Elector};
use carrick_k8s::health::Health;
use carrick_k8s::{http, shutdown, telemetry};
use carrick_proto::limits;
use carrick_proto::v1::distribution_server::DistributionServer;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::args::Args;
use crate::barrier::Barrier;
use crate::cluster::Kubernetes;
use crate::hub::Hub;
use crate::index::Index;
use crate::info::{self, Me};
use crate::metrics::Metrics;
use crate::nodeipam::NodeIpamTask;
use crate::objects::Event;
use crate::reign::{self, Reign};
use crate::service::Service;
use crate::tls::Serving;
use crate::watch::{Labels, NodeInterest};
use crate::{available, taint, watch as watches};

/// Changes read from watches and not taken in yet. A full channel holds the watches back, which
/// the API server bears for a while and then begins them anew.
const OBSERVATIONS: usize = 4096;
/// Most changes taken in under one number.
const AT_ONCE: usize = 512;
/// How long routes that changed wait for more, so that nodes that join together are one batch.
const GATHER: Duration = Duration::from_millis(50);
/// How often metrics are brought up to date, and how often the main loop says that it lives.
const TICK: Duration = Duration::from_secs(5);
/// A main loop that is silent for this long is not alive.
const SILENCE: Duration = Duration::from_mins(1);
/// How long ending may take before what is left is dropped. Below the pod's grace period.
const ENDING: Duration = Duration::from_secs(15);

/// Runs the controller until SIGTERM or SIGINT.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let config = read_config(&args.config)?;
    if let Err(error) = telemetry::init(&config.log_level, args.log_format) {
        // The process has logs already, or the level is one we do not know.
        warn!(%error, "logs stay as they are");
    }
    let stop = shutdown::on_signal().context("cannot listen for signals")?;
    let connection = connect().await?;
    run_until(args, config, connection, stop).await
}

/// Runs the controller until `stop` is cancelled.
pub async fn run_until(
    args: Args,
    config: EffectiveConfig,
    connection: Connection,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let client = connection.client.clone();
    info!(version = env!("CARGO_PKG_VERSION"), pod = args.pod, api = %connection.endpoint, "controller starts");
    let health = Health::new();
    health.unready("caches", "nothing is listed yet");
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut index = Index::new(config.service_cidrs.clone());
    if config.node_ipam.is_some() {
        index = index.allocating();
    }
    let hub = Arc::new(Hub::new(index));
    let (throne, reign, demands) = reign::reign(Arc::clone(&hub));

    let http_stop = CancellationToken::new();
    let read_api = crate::api::routes(Arc::clone(&hub), reign.clone());
    let http = http::serve(
        args.http,
        Arc::new(registry),
        health.clone(),
        read_api,
        http_stop.clone(),
    )
    .await?;
    let serving = Serving::open(&args.tls_dir)?;
    let listener = listen(args.listen).await?;
    let bound = listener
        .local_addr()
        .context("the gRPC listener has no address")?;
    info!(address = %bound, "listening for agents");

    let tasks = TaskTracker::new();
    let streams = TaskTracker::new();
    tasks.spawn(serving.clone().keep_fresh(stop.child_token()));
    let cluster = Arc::new(Kubernetes::new(client.clone(), &args.namespace));
    let service = Service::new(
        Arc::clone(&hub),
        Arc::clone(&cluster),
        reign.clone(),
        metrics.clone(),
        streams.clone(),
    );
    let grpc_stop = CancellationToken::new();
    let grpc = tokio::spawn(serve(serving, listener, service, grpc_stop.clone()));

    let problems = metrics.policies_not_as_written.clone();
    let watches = start_watches(&client, &config, &hub, problems, &tasks, &stop);
    let observations = watches.await;
    let barrier = Barrier {
        hub: Arc::clone(&hub),
        cluster,
        reign: reign.clone(),
    };
    tasks.spawn(barrier.run(stop.child_token()));
    let main = MainLoop {
        hub: Arc::clone(&hub),
        metrics: metrics.clone(),
        reign: reign.clone(),
        health: health.clone(),
    };
    tasks.spawn(main.run(observations, stop.child_token()));

    let address = match args.advertise.0 {
        Some(address) => Some(address),
        None => own_address(&client, &args.node, &stop).await,
    };
    if let Some(address) = address {
        let address = SocketAddr::new(address, bound.port()).to_string();
        let me = Me {
            pod: args.pod.clone(),
            namespace: args.namespace.clone(),
            node: args.node.clone(),
            address: address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (verdict, node_cidrs) = watch::channel(None);
        if let Some(plan) = config.node_ipam.clone() {
            let task = NodeIpamTask {
                plan,
                namespace: args.namespace.clone(),
                identity: args.pod.clone(),
                client: client.clone(),
                reign: reign.clone(),
                hub: Arc::clone(&hub),
                metrics: metrics.clone(),
                verdict,
            };
            tasks.spawn(task.run(stop.child_token()));
        }
        tasks.spawn(info::run(
            me,
            Arc::clone(&hub),
            reign.clone(),
            health.clone(),
            node_cidrs,
            client.clone(),
            stop.child_token(),
        ));
        if let Some(key) = config.startup_taint.clone() {
            tasks.spawn(taint::run(
                Arc::clone(&hub),
                reign.clone(),
                client.clone(),
                key,
                metrics.clone(),
                stop.child_token(),
            ));
        }
        if config.traffic.mode.carries_pods() {
            tasks.spawn(available::run(
                Arc::clone(&hub),
                reign.clone(),
                client.clone(),
                metrics,
                stop.child_token(),
            ));
        }
        // Only a replica that knows everything may lead.
        if warm(&hub, &stop).await {
            let candidate = Candidate {
                namespace: args.namespace,
                lease: object::CONTROLLER.to_owned(),
                identity: args.pod,
                address,
                timing: Timing::default(),
            };
            let (elector, election) = Elector::new(client, candidate);
            let elector = tasks.spawn(elector.run(stop.child_token()));
            reign::follow(throne, election, demands, stop.child_token()).await;
            if let Err(error) = elector.await {
                error!(%error, "the election ended badly");
            }
        }
    }
    end(stop, tasks, streams, grpc, grpc_stop, http, http_stop).await;
    info!("controller ended");
    Ok(())
}

/// Ends what runs, in an order in which nobody waits for what is already gone: the term first (it
/// is over), then streams, then the gRPC server, then health.
async fn end(
    stop: CancellationToken,
    tasks: TaskTracker,
    streams: TaskTracker,
    grpc: tokio::task::JoinHandle<()>,
    grpc_stop: CancellationToken,
    http: http::Server,
    http_stop: CancellationToken,
) {
    stop.cancel();
    grpc_stop.cancel();
    streams.close();
    tasks.close();
    let orderly = async {
        streams.wait().await;
        if let Err(error) = grpc.await {
            error!(%error, "the gRPC server ended badly");
        }
        tasks.wait().await;
        http_stop.cancel();
        http.ended().await;
    };
    if tokio::time::timeout(ENDING, orderly).await.is_err() {
        warn!("not everything ended in time; the rest is dropped");
    }
}

fn read_config(path: &Path) -> anyhow::Result<EffectiveConfig> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("the configuration {} does not parse", path.display()))
}

/// Listens where asked, or on every address of both families, or of IPv4 where the kernel has no
/// IPv6.
async fn listen(asked: Option<SocketAddr>) -> anyhow::Result<TcpListener> {
    if let Some(address) = asked {
        return TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for agents"));
    }
    let every = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port::CONTROLLER_GRPC));
    match TcpListener::bind(every).await {
        Ok(listener) => Ok(listener),
        Err(first) => {
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port::CONTROLLER_GRPC));
            TcpListener::bind(v4).await.with_context(|| {
                format!("cannot listen for agents, neither on {every} ({first}) nor on {v4}")
            })
        }
    }
}

async fn serve(
    serving: Serving,
    listener: TcpListener,
    service: Service<Kubernetes>,
    stop: CancellationToken,
) {
    let accepted = match serving.accept(listener, stop.child_token()) {
        Ok(accepted) => accepted,
        Err(error) => {
            error!(%error, "agents cannot be served");
            return;
        }
    };
    let distribution = DistributionServer::new(service)
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::ANSWER_BYTES);
    let served = tonic::transport::Server::builder()
        // A peer that vanished without a word is noticed within half a minute.
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        // An agent has one stream, and one more while it opens the next.
        .max_concurrent_streams(Some(4))
        .http2_max_header_list_size(Some(64 * 1024))
        .add_service(distribution)
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        error!(%error, "the gRPC server failed");
    }
}

async fn start_watches(
    client: &Client,
    config: &EffectiveConfig,
    hub: &Arc<Hub>,
    problems: Counter,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> mpsc::Receiver<Event> {
    let (out, observations) = mpsc::channel(OBSERVATIONS);
    let listing = watches::probe_listing(client).await;
    info!(
        ?listing,
        "watching nodes, pods, agentinfos, namespaces and policies"
    );
    let interest = NodeInterest {
        taint: config.startup_taint.clone(),
        labels: match config.service_proxy.mode {
            _ if !config.node_configs.is_empty() => Labels::Kept,
            ServiceProxyMode::Disabled => Labels::Dropped,
            ServiceProxyMode::ClusterIP | ServiceProxyMode::Full => Labels::Zone,
        },
    };
    tasks.spawn(watches::nodes(
        client.clone(),
        listing,
        interest,
        out.clone(),
        stop.child_token(),
    ));
    tasks.spawn(watches::pods(
        client.clone(),
        listing,
        out.clone(),
        stop.child_token(),
    ));
    tasks.spawn(watches::infos(
        client.clone(),
        listing,
        out.clone(),
        stop.child_token(),
    ));
    // Policies are listed after pods: so all that there were for a pod of the first list are seen.
    let policies = watch_policies(client.clone(), listing, problems, out, stop.child_token());
    let policies = Box::pin(policies);
    let (hub, stop) = (Arc::clone(hub), stop.clone());
    tasks.spawn(async move {
        let mut seen = hub.seen();
        while !hub.synced().pods {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = seen.changed() => if changed.is_err() { return },
            }
        }
        policies.await;
    });
    observations
}

async fn watch_policies(
    client: Client,
    listing: watches::Listing,
    problems: Counter,
    out: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let namespaces = watches::namespaces(client.clone(), listing, out.clone(), stop.child_token());
    let network_policies = watches::policies::network_policies(
        client.clone(),
        listing,
        problems.clone(),
        out.clone(),
        stop.child_token(),
    );
    let cluster_network_policies =
        watches::policies::cluster_network_policies(client, listing, problems, out, stop);
    tokio::join!(namespaces, network_policies, cluster_network_policies);
}

/// Takes in what watches observe.
pub(crate) struct MainLoop {
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Metrics,
    pub(crate) reign: Reign,
    pub(crate) health: Health,
}

impl MainLoop {
    /// Takes observations in, wakes agents for routes, shows metrics, until `stop`.
    pub(crate) async fn run(
        self,
        mut observations: mpsc::Receiver<Event>,
        stop: CancellationToken,
    ) {
        let mut events = Vec::with_capacity(AT_ONCE);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut gathering: Option<tokio::time::Instant> = None;
        loop {
            self.health.beat("main", SILENCE);
            tokio::select! {
                () = stop.cancelled() => break,
                count = observations.recv_many(&mut events, AT_ONCE) => {
                    if count == 0 {
                        break;
                    }
                    self.metrics.events.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
                    self.hub.apply(std::mem::take(&mut events));
                    self.say_whether_warm();
                }
                () = self.hub.routes.notified(), if gathering.is_none() => {
                    gathering = Some(tokio::time::Instant::now() + GATHER);
                }
                () = at(gathering), if gathering.is_some() => {
                    gathering = None;
                    self.hub.wake_everyone();
                }
                _ = tick.tick() => {
                    self.metrics.show(&self.hub.figures(), self.reign.term().is_some());
                }
            }
        }
        self.health.rest("main");
    }

    fn say_whether_warm(&self) {
        let synced = self.hub.synced();
        if synced.all() {
            self.health.ready("caches");
        } else {
            self.health.unready("caches", synced.missing());
        }
    }
}

async fn at(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits until everything was listed; false when told to stop before.
async fn warm(hub: &Hub, stop: &CancellationToken) -> bool {
    let began = Instant::now();
    let mut said = Instant::now();
    loop {
        let synced = hub.synced();
        if synced.all() {
            info!(took = ?began.elapsed(), "caches are warm");
            return true;
        }
        if said.elapsed() > Duration::from_secs(10) {
            said = Instant::now();
            warn!(missing = synced.missing(), "caches are still cold");
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}

/// The first InternalIP of our Node; waits for the API server. `None` when told to stop.
async fn own_address(client: &Client, node: &str, stop: &CancellationToken) -> Option<IpAddr> {
    let nodes: Api<Node> = Api::all(client.clone());
    loop {
        match timely("our Node", Duration::from_secs(10), nodes.get(node)).await {
            Ok(found) => {
                let facts = watches::node_object(&found, &NodeInterest::default());
                if let Some(address) = facts.and_then(|facts| facts.addresses.first().copied()) {
                    return Some(address);
                }
                warn!(node, "our Node has no InternalIP yet");
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(node, %error, cause, "our Node cannot be read yet");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
    }
}
