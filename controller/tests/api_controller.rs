//! The controller against a real etcd and kube-apiserver: tokens and their node claims, the Lease,
//! the startup taint, `ControllerInfo`, TLS, and an API server that does not answer.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by failing"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use carrick_api::effective::{
    Cni, DatapathType, EffectiveConfig, Endpoint, SnatMode, Traffic, TrafficMode, TunnelProtocol,
};
use carrick_controller::{Args, run_until};
use carrick_k8s::client::from_config;
use carrick_k8s::pki::{LeafNames, Pki, rotation::Policy};
use carrick_k8s::telemetry::Format;
use carrick_proto::v1::distribution_client::DistributionClient;
use carrick_proto::v1::{self, agent_message, controller_message};
use carrick_proto::{Delta, Entry, Greeting, NodeName, NodeReport, Number, PROTOCOL};
use carrick_testkit::apiserver::ApiServer;
use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint as Channel};
use tonic::{Code, Status, Streaming};

/// Longer than anything takes on a busy machine; only a failure waits for it.
const DEADLINE: Duration = Duration::from_mins(1);
/// How often a condition is asked.
const POLL: Duration = Duration::from_millis(20);
const NAMESPACE: &str = "carrick-system";
const TAINT: &str = "carrick.dev/agent-not-ready";

/// A cluster of two nodes with an agent each and no kubelet.
struct Cluster {
    server: ApiServer,
    pki: Pki,
    dir: tempfile::TempDir,
}

/// Where the network is.
#[derive(Debug, Clone, Copy)]
enum Where {
    Pod,
    Host,
}

impl Cluster {
    fn start() -> Self {
        let server = ApiServer::start().expect("etcd and kube-apiserver start");
        for (_, text) in carrick_api::crd_yaml().expect("the CRDs are YAML") {
            server
                .kubectl_with_input(&["create", "-f", "-"], &text)
                .unwrap();
        }
        server.kubectl(&["create", "namespace", NAMESPACE]).unwrap();
        for account in ["carrick-agent", "other"] {
            server
                .kubectl(&["create", "serviceaccount", account, "-n", NAMESPACE])
                .unwrap();
        }
        let established = [
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "crd",
        ];
        for name in ["agentinfos.carrick.dev", "controllerinfos.carrick.dev"] {
            server
                .kubectl(&[&established[..], &[name]].concat())
                .unwrap();
        }
        let (dir, pki) = (tempfile::tempdir().unwrap(), new_pki("ca"));
        write_leaf(dir.path(), &pki);
        let cluster = Self { server, pki, dir };
        cluster.node("node-a", "10.0.1.0/24", "192.0.2.1");
        cluster.node("node-b", "10.0.2.0/24", "192.0.2.2");
        cluster
    }

    fn create(&self, text: &str) {
        self.server
            .kubectl_with_input(&["create", "-f", "-"], text)
            .unwrap();
    }

    fn node(&self, name: &str, cidr: &str, address: &str) {
        self.create(&format!(
            r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}"}},
                "spec":{{"podCIDR":"{cidr}","podCIDRs":["{cidr}"],
                "taints":[{{"key":"{TAINT}","effect":"NoSchedule"}},
                          {{"key":"example.com/other","effect":"NoSchedule"}}]}}}}"#
        ));
        let status = format!(
            r#"{{"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}}]}}}}"#
        );
        let patch = [
            "patch",
            "node",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status,
        ];
        self.server.kubectl(&patch).unwrap();
        self.pod(&format!("agent-{name}"), name, "carrick-agent", Where::Host);
    }

    /// Makes a pod that is bound to a node; its record's key.
    fn pod(&self, name: &str, node: &str, account: &str, place: Where) -> String {
        let host = matches!(place, Where::Host);
        self.create(&format!(
            r#"{{"apiVersion":"v1","kind":"Pod",
                "metadata":{{"name":"{name}","namespace":"{NAMESPACE}"}},
                "spec":{{"nodeName":"{node}","serviceAccountName":"{account}",
                "hostNetwork":{host},"terminationGracePeriodSeconds":0,
                "containers":[{{"name":"c","image":"none"}}]}}}}"#
        ));
        let uid = self.get(&[
            "pod",
            name,
            "-n",
            NAMESPACE,
            "-o",
            "jsonpath={.metadata.uid}",
        ]);
        format!("pod/{uid}")
    }

    fn get(&self, what: &[&str]) -> String {
        self.server
            .kubectl(&[&["get"], what].concat())
            .unwrap()
            .trim()
            .to_owned()
    }

    fn token(&self, account: &str, pod: &str, audience: &str) -> String {
        let args = [
            "create",
            "token",
            account,
            "-n",
            NAMESPACE,
            "--audience",
            audience,
        ];
        let bound = ["--bound-object-kind", "Pod", "--bound-object-name", pod];
        self.server
            .kubectl(&[&args[..], &bound].concat())
            .unwrap()
            .trim()
            .to_owned()
    }

    fn agent_token(&self, node: &str) -> String {
        self.token(
            "carrick-agent",
            &format!("agent-{node}"),
            "carrick-controller",
        )
    }

    async fn controller(&self, pod: &str) -> Controller {
        Controller::start(&self.server.kubeconfig(), self.dir.path(), pod).await
    }
}

fn new_pki(name: &str) -> Pki {
    let names = LeafNames {
        dns: ["carrick-controller".to_owned()].into(),
        ..LeafNames::default()
    };
    Pki::default()
        .advance(name, &names, Timestamp::now(), &Policy::default())
        .unwrap()
        .0
}

fn write_leaf(directory: &Path, pki: &Pki) {
    for (name, bytes) in pki.leaf_data() {
        std::fs::write(directory.join(name), bytes).unwrap();
    }
}

/// A port nobody listens on now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// One replica.
struct Controller {
    address: SocketAddr,
    http: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Controller {
    async fn start(kubeconfig: &Path, tls_dir: &Path, pod: &str) -> Self {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        let address = SocketAddr::new(local, free_port());
        let http = SocketAddr::new(local, free_port());
        let args = Args {
            config: "/nonexistent".into(),
            tls_dir: tls_dir.to_owned(),
            listen: Some(address),
            http,
            advertise: Some(local),
            namespace: NAMESPACE.into(),
            pod: pod.into(),
            node: "node-a".into(),
            log_format: Format::Text,
        };
        let stop = CancellationToken::new();
        let connection = from_config(config).unwrap();
        let task = tokio::spawn(run_until(args, effective(), connection, stop.clone()));
        let controller = Self {
            address,
            http,
            stop,
            task,
        };
        controller.ready().await;
        controller
    }

    /// Waits for `/readyz`: a standby, too, is ready once its caches are warm.
    async fn ready(&self) {
        let until = Instant::now() + DEADLINE;
        loop {
            let answer = self.asked("/readyz").await;
            if answer.starts_with("HTTP/1.1 200") {
                return;
            }
            assert!(Instant::now() < until, "not ready: {answer}");
            assert!(!self.task.is_finished(), "the controller ended");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn asked(&self, path: &str) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Ok(mut stream) = tokio::net::TcpStream::connect(self.http).await else {
            return String::new();
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        if stream.write_all(request.as_bytes()).await.is_ok() {
            let _ = stream.read_to_string(&mut answer).await;
        }
        answer
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.task)
            .await
            .expect("it ends in time")
            .unwrap()
            .unwrap();
    }
}

fn effective() -> EffectiveConfig {
    EffectiveConfig {
        api_server: Endpoint {
            host: "127.0.0.1".into(),
            port: 1,
        },
        traffic: Traffic {
            mode: TrafficMode::Encap,
            tunnel_protocol: TunnelProtocol::Geneve,
            mtu: 0,
            transport_interface: String::new(),
            snat: SnatMode::Auto,
        },
        datapath: DatapathType::Auto,
        cni: Cni {
            bin_dir: String::new(),
            conf_dir: String::new(),
            conf_file: String::new(),
            exclusive: true,
        },
        startup_taint: Some(TAINT.into()),
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        log_level: "info".into(),
    }
}

/// One agent, over TLS and with a real token.
struct Agent {
    node: String,
    token: String,
    ca: String,
    number: Number,
    held: BTreeSet<String>,
    entries: Vec<Entry>,
    stream: Option<(
        mpsc::Sender<v1::AgentMessage>,
        Streaming<v1::ControllerMessage>,
    )>,
}

#[derive(Debug)]
enum End {
    NotLeader(String),
    Status(Status),
    Closed,
}

impl Agent {
    fn new(cluster: &Cluster, node: &str) -> Self {
        Self {
            node: node.into(),
            token: cluster.agent_token(node),
            ca: cluster.pki.bundle(),
            number: Number::NOTHING,
            held: BTreeSet::new(),
            entries: vec![],
            stream: None,
        }
    }

    async fn open(&mut self, address: SocketAddr) -> Result<(), Status> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .domain_name("carrick-controller");
        let channel = Channel::from_shared(format!("https://{address}"))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let hello = Greeting {
            protocol: PROTOCOL,
            node: NodeName::new(&self.node).unwrap(),
            version: "test".into(),
            number: self.number,
            held: self
                .entries
                .iter()
                .map(|entry| (entry.key(), entry.hash()))
                .collect(),
            addresses: vec![],
            released: vec![],
            report: NodeReport {
                ready: true,
                tunnel_endpoints: vec![],
            },
        };
        let (out, outgoing) = mpsc::channel(16);
        let message = Some(agent_message::Message::Hello(hello.into()));
        out.try_send(v1::AgentMessage { message }).unwrap();
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        let bearer = format!("Bearer {}", self.token).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let incoming = DistributionClient::new(channel)
            .subscribe(request)
            .await?
            .into_inner();
        self.stream = Some((out, incoming));
        Ok(())
    }

    async fn step(&mut self) -> Result<(), End> {
        let (_, incoming) = self.stream.as_mut().unwrap();
        let next = timeout(DEADLINE, incoming.message()).await;
        let message = match next.expect("a message in time") {
            Ok(Some(message)) => message,
            Ok(None) => return Err(End::Closed),
            Err(status) => return Err(End::Status(status)),
        };
        match message.message.unwrap() {
            controller_message::Message::Batch(batch) => {
                let delta = Delta::try_from(batch).unwrap();
                assert!(delta.number >= self.number, "a number fell");
                self.number = delta.number;
                let touched: BTreeSet<_> = delta
                    .changed
                    .iter()
                    .map(Entry::key)
                    .chain(delta.removed)
                    .collect();
                self.entries.retain(|entry| !touched.contains(&entry.key()));
                self.entries.extend(delta.changed);
                self.held = self
                    .entries
                    .iter()
                    .map(|entry| entry.key().to_string())
                    .collect();
            }
            controller_message::Message::NotLeader(other) => {
                return Err(End::NotLeader(other.leader));
            }
            controller_message::Message::AddressesFree(_) => {}
        }
        Ok(())
    }

    async fn until_it_holds(&mut self, keys: &[&str]) {
        let wanted: BTreeSet<String> = keys.iter().map(ToString::to_string).collect();
        while self.held != wanted {
            if let Err(end) = self.step().await {
                panic!("the stream ended: {end:?}");
            }
        }
    }

    async fn drained(&mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    /// Opens a stream to whoever leads and holds `keys` in the end, trying as an agent does.
    async fn served(&mut self, controllers: &[SocketAddr], keys: &[&str]) -> SocketAddr {
        let until = Instant::now() + DEADLINE;
        loop {
            for address in controllers {
                if self.open(*address).await.is_ok() && self.step().await.is_ok() {
                    self.until_it_holds(keys).await;
                    return *address;
                }
            }
            assert!(Instant::now() < until, "nobody serves");
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "never came true: {what}");
        tokio::time::sleep(POLL).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_served_by_its_token_and_its_node_loses_the_startup_taint() {
    let cluster = Cluster::start();
    let web = cluster.pod("web", "node-a", "default", Where::Pod);
    cluster.pod("host", "node-a", "default", Where::Host);
    let controller = cluster.controller("controller-0").await;
    let all = [controller.address];
    let mut agent = Agent::new(&cluster, "node-a");
    agent.served(&all, &["node", "route/node-b", &web]).await;
    assert_eq!(agent.number.epoch(), 1);

    // A pod that comes gets a record; one that goes loses it.
    let next = cluster.pod("next", "node-a", "default", Where::Pod);
    agent
        .until_it_holds(&["node", "route/node-b", &web, &next])
        .await;
    let delete = [
        "delete",
        "pod",
        "web",
        "-n",
        NAMESPACE,
        "--force",
        "--grace-period=0",
    ];
    cluster.server.kubectl(&delete).unwrap();
    agent.until_it_holds(&["node", "route/node-b", &next]).await;

    // The taint of ours goes, the other stays, and the other node keeps both.
    let taints = |node: &str| cluster.get(&["node", node, "-o", "jsonpath={.spec.taints[*].key}"]);
    eventually("the startup taint is gone", || {
        !taints("node-a").contains(TAINT)
    })
    .await;
    assert!(taints("node-a").contains("example.com/other"));
    assert!(taints("node-b").contains(TAINT));

    // A node whose pod CIDR overlaps is told so and not routed.
    cluster.node("node-c", "10.0.1.0/25", "192.0.2.3");
    cluster.node("node-d", "10.0.4.0/24", "192.0.2.4");
    agent
        .until_it_holds(&["node", "route/node-b", "route/node-d", &next])
        .await;
    let mut loser = Agent::new(&cluster, "node-c");
    loser
        .served(
            &all,
            &["node", "route/node-a", "route/node-b", "route/node-d"],
        )
        .await;
    let problem = format!("{:?}", loser.entries);
    assert!(
        problem.contains("overlaps 10.0.1.0/24 of node node-a"),
        "{problem}"
    );

    // What it says about itself.
    let info = |path: &str| {
        let path = format!("jsonpath={path}");
        let get = ["get", "controllerinfo", "controller-0", "-o", &path];
        cluster
            .server
            .kubectl(&get)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    eventually("the ControllerInfo leads", || {
        info("{.status.leader}") == "true"
    })
    .await;
    assert_eq!(info("{.status.address}"), controller.address.to_string());
    let metrics = controller.asked("/metrics").await;
    assert!(
        metrics.contains("carrick_controller_startup_taints_removed_total"),
        "{metrics}"
    );
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_the_nodes_agents_are_refused() {
    let cluster = Cluster::start();
    cluster.pod("stranger", "node-a", "other", Where::Host);
    let controller = cluster.controller("controller-0").await;
    let mut agent = Agent::new(&cluster, "node-a");
    agent
        .served(&[controller.address], &["node", "route/node-b"])
        .await;

    // Node b's token, stolen, for node a's stream.
    let mut thief = Agent::new(&cluster, "node-a");
    thief.token = cluster.agent_token("node-b");
    thief.open(controller.address).await.unwrap();
    match thief.drained().await {
        End::Status(status) => {
            assert_eq!(status.code(), Code::PermissionDenied);
            assert!(
                status.message().contains("bound to node node-b"),
                "{status:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(thief.held.is_empty());

    // Another account's, another audience's, one bound to nothing, and nonsense.
    let audience = ["-n", NAMESPACE, "--audience", "carrick-controller"];
    let unbound = [&["create", "token", "carrick-agent"], &audience[..]].concat();
    let tokens = [
        cluster.token("other", "stranger", "carrick-controller"),
        cluster.token(
            "carrick-agent",
            "agent-node-a",
            "https://kubernetes.default.svc",
        ),
        cluster.server.kubectl(&unbound).unwrap().trim().to_owned(),
        "nonsense".to_owned(),
    ];
    for token in tokens {
        let mut agent = Agent::new(&cluster, "node-a");
        agent.token = token;
        let status = agent.open(controller.address).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    }

    // The real agent's stream was not touched by any of them.
    let web = cluster.pod("web", "node-a", "default", Where::Pod);
    agent.until_it_holds(&["node", "route/node-b", &web]).await;
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_above_an_agents_number_is_in_the_lease_before_it_is_used() {
    let cluster = Cluster::start();
    let controller = cluster.controller("controller-0").await;
    let all = [controller.address];
    let mut agent = Agent::new(&cluster, "node-a");
    agent.served(&all, &["node", "route/node-b"]).await;
    assert_eq!(agent.number.epoch(), 1);
    // As after the Lease was deleted: another agent has numbers of a higher epoch.
    let mut elder = Agent::new(&cluster, "node-b");
    elder.number = Number::new(7, 30);
    elder.served(&all, &["node", "route/node-a"]).await;
    assert_eq!(elder.number.epoch(), 8);
    let lease = cluster.get(&["lease", "carrick-controller", "-n", NAMESPACE, "-o", "json"]);
    assert!(lease.contains(r#""carrick.dev/epoch": "8""#), "{lease}");
    // The first agent's stream stands and goes on by the new epoch.
    let web = cluster.pod("web", "node-a", "default", Where::Pod);
    agent.until_it_holds(&["node", "route/node-b", &web]).await;
    assert_eq!(agent.number.epoch(), 8);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_and_continues_the_streams() {
    let cluster = Cluster::start();
    let web = cluster.pod("web", "node-a", "default", Where::Pod);
    let first = cluster.controller("controller-0").await;
    let mut agent = Agent::new(&cluster, "node-a");
    agent
        .served(&[first.address], &["node", "route/node-b", &web])
        .await;
    let second = cluster.controller("controller-1").await;

    // The standby names the leader, from the Lease.
    let mut lost = Agent::new(&cluster, "node-b");
    let until = Instant::now() + DEADLINE;
    loop {
        lost.open(second.address).await.unwrap();
        match lost.drained().await {
            End::NotLeader(leader) if leader == first.address.to_string() => break,
            End::NotLeader(_) => assert!(Instant::now() < until, "the leader is not named"),
            other => panic!("{other:?}"),
        }
    }

    // The leader ends as a rollout ends it; a pod comes while nobody leads.
    let both = [first.address, second.address];
    let began = Instant::now();
    first.end().await;
    agent.drained().await;
    let between = cluster.pod("between", "node-a", "default", Where::Pod);
    let by = agent
        .served(&both, &["node", "route/node-b", &web, &between])
        .await;
    println!(
        "served by the standby {:?} after the leader was told to end",
        began.elapsed()
    );
    assert_eq!(by, second.address);
    assert_eq!(agent.number.epoch(), 2);
    let lease = cluster.get(&["lease", "carrick-controller", "-n", NAMESPACE, "-o", "json"]);
    assert!(lease.contains(r#""carrick.dev/epoch": "2""#), "{lease}");
    second.end().await;
}

/// A leader that dies without a word, in a runtime of its own that is dropped.
#[test]
fn a_standby_takes_over_from_a_leader_that_died() {
    let cluster = Cluster::start();
    let (first, second) = (
        tokio::runtime::Runtime::new(),
        tokio::runtime::Runtime::new(),
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    let dying = first.block_on(cluster.controller("controller-0"));
    let mut agent = Agent::new(&cluster, "node-a");
    let keys = ["node", "route/node-b"];
    second.block_on(agent.served(&[dying.address], &keys));
    let heir = second.block_on(cluster.controller("controller-1"));
    let began = Instant::now();
    first.shutdown_timeout(Duration::from_secs(1));
    second.block_on(agent.served(&[dying.address, heir.address], &keys));
    let took = began.elapsed();
    println!("served by the standby {took:?} after the leader died");
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert_eq!(agent.number.epoch(), 2);
    second.block_on(heir.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_an_api_server_closes_its_streams_at_the_deadline() {
    let mut cluster = Cluster::start();
    let controller = cluster.controller("controller-0").await;
    let all = [controller.address];
    let mut agent = Agent::new(&cluster, "node-a");
    agent.served(&all, &["node", "route/node-b"]).await;
    cluster.server.freeze().unwrap();
    let frozen = Instant::now();
    let end = agent.drained().await;
    let took = frozen.elapsed();
    assert!(matches!(end, End::NotLeader(_)), "{end:?}");
    assert!(
        took < Duration::from_secs(10),
        "served {took:?} without a lease"
    );
    println!("streams closed {took:?} after the API server froze");
    assert!(
        controller
            .asked("/readyz")
            .await
            .starts_with("HTTP/1.1 200"),
        "a warm standby"
    );

    // It comes back: the same replica leads again, by another epoch, and nothing is sent anew.
    cluster.server.thaw().unwrap();
    let held = agent.held.clone();
    agent.served(&all, &["node", "route/node-b"]).await;
    assert_eq!((agent.number.epoch(), &agent.held), (2, &held));

    // It dies and comes back: watches go on.
    cluster.server.stop_server();
    let end = agent.drained().await;
    assert!(matches!(end, End::NotLeader(_)), "{end:?}");
    cluster.server.start_server().unwrap();
    let late = cluster.pod("late", "node-a", "default", Where::Pod);
    agent.served(&all, &["node", "route/node-b", &late]).await;
    assert!(agent.number.epoch() >= 3);
    controller.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_certificate_is_served_without_a_restart() {
    let cluster = Cluster::start();
    let controller = cluster.controller("controller-0").await;
    let all = [controller.address];
    let mut agent = Agent::new(&cluster, "node-a");
    agent.served(&all, &["node", "route/node-b"]).await;
    // Another CA signs; an agent trusts it once its bundle has it.
    let other = new_pki("other");
    write_leaf(cluster.dir.path(), &other);
    let mut fresh = Agent::new(&cluster, "node-b");
    fresh.ca = other.bundle();
    fresh.served(&all, &["node", "route/node-a"]).await;
    // The stream that stood stands.
    let web = cluster.pod("web", "node-a", "default", Where::Pod);
    agent.until_it_holds(&["node", "route/node-b", &web]).await;
    controller.end().await;
}
