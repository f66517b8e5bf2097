//! Real etcd and kube-apiserver, controllers in this process, and agents as far as the protocol goes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use carrick_api::effective::{
    Cni, DatapathType, EffectiveConfig, Endpoint, HostFirewall, SnatMode, Traffic, TrafficMode,
    TunnelProtocol,
};
use carrick_controller::{Advertise, Args, run_until};
use carrick_k8s::client::from_config;
use carrick_k8s::pki::{LeafNames, Pki, rotation::Policy};
use carrick_k8s::telemetry::Format;
use carrick_k8s::telemetry::chain;
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
use tonic::{Status, Streaming};

/// Longer than anything takes on a busy machine; only a failure waits for it.
pub const DEADLINE: Duration = Duration::from_mins(1);
/// How often a condition is asked.
pub const POLL: Duration = Duration::from_millis(20);
pub const NAMESPACE: &str = "carrick-system";
pub const TAINT: &str = "carrick.dev/agent-not-ready";

/// A cluster of two nodes with an agent each and no kubelet.
pub struct Cluster {
    pub server: ApiServer,
    pub pki: Pki,
    pub dir: tempfile::TempDir,
}

/// Where the network is.
#[derive(Debug, Clone, Copy)]
pub enum Where {
    Pod,
    Host,
}

impl Cluster {
    pub fn start() -> Self {
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

    pub fn create(&self, text: &str) {
        self.server
            .kubectl_with_input(&["create", "-f", "-"], text)
            .unwrap();
    }

    pub fn node(&self, name: &str, cidr: &str, address: &str) {
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
    pub fn pod(&self, name: &str, node: &str, account: &str, place: Where) -> String {
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

    pub fn get(&self, what: &[&str]) -> String {
        self.server
            .kubectl(&[&["get"], what].concat())
            .unwrap()
            .trim()
            .to_owned()
    }

    pub fn token(&self, account: &str, pod: &str, audience: &str) -> String {
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

    pub fn agent_token(&self, node: &str) -> String {
        self.token(
            "carrick-agent",
            &format!("agent-{node}"),
            "carrick-controller",
        )
    }

    pub async fn controller(&self, pod: &str) -> Controller {
        self.controller_by(pod, effective()).await
    }

    /// A replica that runs by `config`.
    pub async fn controller_by(&self, pod: &str, config: EffectiveConfig) -> Controller {
        Controller::start(&self.server.kubeconfig(), self.dir.path(), pod, config).await
    }
}

pub fn new_pki(name: &str) -> Pki {
    pki_made(name, Timestamp::now())
}

/// What the operator made at that time.
pub fn pki_made(name: &str, at: Timestamp) -> Pki {
    Pki::default()
        .advance(name, &leaf_names(), at, &Policy::default())
        .unwrap()
        .0
}

pub fn leaf_names() -> LeafNames {
    LeafNames {
        dns: ["carrick-controller".to_owned()].into(),
        ..LeafNames::default()
    }
}

pub fn write_leaf(directory: &Path, pki: &Pki) {
    for (name, bytes) in pki.leaf_data() {
        std::fs::write(directory.join(name), bytes).unwrap();
    }
}

/// A port nobody listens on now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// One replica.
pub struct Controller {
    pub address: SocketAddr,
    pub http: SocketAddr,
    pub stop: CancellationToken,
    pub task: JoinHandle<anyhow::Result<()>>,
}

impl Controller {
    pub async fn start(
        kubeconfig: &Path,
        tls_dir: &Path,
        pod: &str,
        effective: EffectiveConfig,
    ) -> Self {
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
            advertise: Advertise(Some(local)),
            namespace: NAMESPACE.into(),
            pod: pod.into(),
            node: "node-a".into(),
            log_format: Format::Text,
        };
        let stop = CancellationToken::new();
        let connection = from_config(config).unwrap();
        let task = tokio::spawn(run_until(args, effective, connection, stop.clone()));
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
    pub async fn ready(&self) {
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

    pub async fn asked(&self, path: &str) -> String {
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

    pub async fn end(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.task)
            .await
            .expect("it ends in time")
            .unwrap()
            .unwrap();
    }
}

pub fn effective() -> EffectiveConfig {
    EffectiveConfig {
        api_server: Endpoint {
            host: "127.0.0.1".into(),
            port: 1,
        },
        traffic: Traffic {
            mode: TrafficMode::Encap,
            tunnel_protocol: TunnelProtocol::Geneve,
            tunnel_port: 0,
            tunnel_checksum: false,
            mtu: 0,
            transport_interface: String::new(),
            transport_cidrs: Vec::new(),
            snat: SnatMode::Auto,
            snat_randomly: false,
        },
        datapath: DatapathType::Auto,
        host_firewall: HostFirewall::Report,
        service_proxy: carrick_api::effective::ServiceProxy::default(),
        cni: Cni {
            bin_dir: String::new(),
            conf_dir: String::new(),
            conf_file: String::new(),
            exclusive: true,
        },
        startup_taint: Some(TAINT.into()),
        service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
        node_ipam: None,
        node_configs: Vec::new(),
        log_level: "info".into(),
    }
}

/// One agent, over TLS and with a real token.
pub struct Agent {
    pub node: String,
    pub token: String,
    pub ca: String,
    pub number: Number,
    pub held: BTreeSet<String>,
    pub entries: Vec<Entry>,
    pub stream: Option<(
        mpsc::Sender<v1::AgentMessage>,
        Streaming<v1::ControllerMessage>,
    )>,
}

#[derive(Debug)]
pub enum End {
    NotLeader(String),
    Status(Status),
    Closed,
}

impl Agent {
    pub fn new(cluster: &Cluster, node: &str) -> Self {
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

    pub async fn open(&mut self, address: SocketAddr) -> Result<(), Status> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .domain_name("carrick-controller");
        let channel = Channel::from_shared(format!("https://{address}"))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect()
            .await
            .map_err(|error| Status::unavailable(chain(&error)))?;
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

    pub async fn step(&mut self) -> Result<(), End> {
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

    pub async fn until_it_holds(&mut self, keys: &[&str]) {
        let wanted: BTreeSet<String> = keys.iter().map(ToString::to_string).collect();
        while self.held != wanted {
            if let Err(end) = self.step().await {
                panic!("the stream ended: {end:?}");
            }
        }
    }

    pub async fn drained(&mut self) -> End {
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    /// Opens a stream to whoever leads and holds `keys` in the end, trying as an agent does.
    pub async fn served(&mut self, controllers: &[SocketAddr], keys: &[&str]) -> SocketAddr {
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

pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "never came true: {what}");
        tokio::time::sleep(POLL).await;
    }
}
