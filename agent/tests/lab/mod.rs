//! A small cluster on one machine: real switches, real agents as processes of their own, and a
//! controller that a test plays.
//!
//! A node is a switch's namespace. Its agent is this test program once more, run in that namespace
//! with `CARRICK_TEST_AGENT` set; it can be killed like any process. The controller listens on each
//! node's own loopback.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

pub mod controller;
pub mod kubernetes;
pub mod modes;
pub mod policies;
pub mod services;
mod shell;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use carrick_agent::cni::{Answer, Frame};
use carrick_agent::paths::Paths;
use carrick_ovsdb::handover::StartId;
use carrick_testkit::ovs::{Datapath, Ovs};

pub use shell::{fingerprint, in_netns, must, ping, wait, wait_within};

static NUMBER: AtomicU32 = AtomicU32::new(0);
const KILL: nix::sys::signal::Signal = nix::sys::signal::Signal::SIGKILL;
/// How long anything may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// In the agent's process: runs the agent with the arguments from the environment and ends.
pub fn agent_main() {
    let Ok(text) = std::env::var("CARRICK_TEST_AGENT") else {
        return;
    };
    let words: Vec<&str> = text.split(' ').collect();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = <AgentCli as clap::Parser>::parse_from(words).args;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let result = runtime.block_on(carrick_agent::run(args));
    if let Err(error) = &result {
        eprintln!("carrick agent: {error:#}");
    }
    std::process::exit(i32::from(result.is_err()));
}

#[derive(Debug, clap::Parser)]
struct AgentCli {
    #[command(flatten)]
    args: carrick_agent::Args,
}

/// A node: its switch, directories and agent.
pub struct LabNode {
    pub name: String,
    pub ovs: Ovs,
    pub root: tempfile::TempDir,
    pub paths: Paths,
    pub n: u8,
    /// The program that is the agent, unless it is this one.
    program: Option<PathBuf>,
    /// By which the agent reaches an API server; one that is not there without one.
    kubeconfig: PathBuf,
    agent: Option<Child>,
    starts: u32,
    pods: Vec<String>,
}

impl Drop for LabNode {
    fn drop(&mut self) {
        self.kill_agent();
        for netns in &self.pods {
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
        if std::thread::panicking() {
            eprintln!("--- agent log of {} ---\n{}", self.name, self.log());
        }
    }
}

impl LabNode {
    /// Node `n`: a switch that is there and restored, `eth0` with 172.30.0.n, no agent.
    pub fn new(n: u8) -> Self {
        let ovs = Ovs::start().expect("Open vSwitch starts");
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        for directory in [&paths.state, &paths.run, &paths.cni_bin, &paths.cni_conf] {
            std::fs::create_dir_all(directory).unwrap();
        }
        std::os::unix::fs::symlink(ovs.run_dir(), &paths.switch).unwrap();
        std::fs::write(&paths.plugin, "#!/bin/sh\n").unwrap();
        let node = Self {
            name: format!("node{n}"),
            ovs,
            root,
            paths,
            n,
            program: None,
            kubeconfig: "/nonexistent".into(),
            agent: None,
            starts: 0,
            pods: vec![],
        };
        let netns = node.netns().to_owned();
        must(
            &netns,
            &format!(
                "ip link add eth0 type veth peer name mgmt0 && ip addr add 172.30.0.{n}/24 dev eth0 && \
             ip link set eth0 up && ip link set mgmt0 up"
            ),
        );
        node.write_config(0);
        node.mark_restored(node.begin_start());
        node
    }

    pub fn netns(&self) -> &str {
        self.ovs.netns()
    }

    pub fn write_config(&self, mtu: u16) {
        self.write_traffic(&serde_json::json!({"mtu": mtu}));
    }

    /// Writes a configuration with these fields of `traffic`; the others are the usual ones.
    pub fn write_traffic(&self, fields: &serde_json::Value) {
        let mut traffic = serde_json::json!({
            "mode": "Encap", "tunnelProtocol": "Geneve", "mtu": 0,
            "transportInterface": "eth1", "snat": "Auto",
        });
        for (key, value) in fields.as_object().unwrap() {
            traffic[key] = value.clone();
        }
        let config = serde_json::json!({
            "apiServer": {"host": "127.0.0.1", "port": 1},
            "traffic": traffic,
            "datapath": match Datapath::under_test() {
                Datapath::Userspace => "Userspace",
                Datapath::Kernel => "Kernel",
            },
            "cni": {
                "binDir": "/opt/cni/bin", "confDir": "/etc/cni/net.d",
                "confFile": "10-carrick.conflist", "exclusive": true,
            },
            "startupTaint": null,
            "serviceCidrs": ["10.96.0.0/16"],
            // The programs as they are shipped are measured: they say what they would say.
            "logLevel": match self.program {
                None => "carrick_agent=debug,info",
                Some(_) => "info",
            },
        });
        std::fs::write(self.root.path().join("config.json"), config.to_string()).unwrap();
    }

    /// Sets one more field of the configuration.
    pub fn configure(&self, field: &str, value: serde_json::Value) {
        let path = self.root.path().join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config[field] = value;
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// What `carrick switch` does before it starts the switch: the start that follows is a new one,
    /// and nobody may write.
    pub fn begin_start(&self) -> StartId {
        let id = StartId::random();
        let start = format!("external_ids:carrick-start={id}");
        let root = ["Open_vSwitch", "."];
        self.ovs
            .vsctl(&[
                "--no-wait",
                "remove",
                root[0],
                root[1],
                "external_ids",
                "carrick-restored",
                "--",
                "set",
                root[0],
                root[1],
                &start,
            ])
            .unwrap();
        id
    }

    /// What `carrick switch` does when this start of the switch is restored.
    pub fn mark_restored(&self, start: StartId) {
        let restored = format!("external_ids:carrick-restored={start}");
        self.ovs
            .vsctl(&["set", "Open_vSwitch", ".", &restored])
            .unwrap();
    }

    /// From now on the agent is this `carrick`, not this program once more.
    pub fn run_program(&mut self, program: &Path) {
        self.program = Some(program.to_owned());
    }

    /// From now on an agent that starts has this kubeconfig.
    pub fn use_kubeconfig(&mut self, path: PathBuf) {
        self.kubeconfig = path;
    }

    pub fn start_agent(&mut self) {
        self.spawn("");
    }

    fn spawn(&mut self, command: &str) {
        self.starts += 1;
        let log = std::fs::File::create(self.log_file(self.starts)).unwrap();
        let child = self
            .agent_command(command)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(child);
    }

    fn agent_command(&self, arguments: &str) -> Command {
        let root = self.root.path().display();
        let line = format!(
            "agent --node-name {} --config {root}/config.json --root {root}{arguments}",
            self.name
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.netns()]);
        match &self.program {
            Some(program) => command.arg(program).args(line.split(' ')),
            None => command
                .arg(std::env::current_exe().unwrap())
                .args(["agent_process", "--exact", "--nocapture"])
                .env("CARRICK_TEST_AGENT", line),
        };
        command
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.root.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs one more agent on the node to its end; whether it ended well, and what it said.
    pub fn second_agent(&self) -> (bool, String) {
        let mut command = self.agent_command(" --pod-name second");
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// The agent's process id.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().expect("an agent was started").id()
    }

    fn log_file(&self, start: u32) -> PathBuf {
        self.root.path().join(format!("agent-{start}.log"))
    }

    /// The log of the last agent.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file(self.starts)).unwrap_or_default()
    }

    /// SIGKILL: nothing is tidied up.
    pub fn kill_agent(&mut self) {
        if let Some(mut child) = self.agent.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; the agent must end well.
    pub fn stop_agent(&mut self) {
        let Some(mut child) = self.agent.take() else {
            return;
        };
        let stopped = Command::new("kill")
            .arg(child.id().to_string())
            .status()
            .unwrap();
        assert!(stopped.success());
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "the agent ended with {status}");
                return;
            }
            if start.elapsed() > LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the agent did not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs `agent cleanup` until the node is clean.
    pub fn cleanup(&mut self) {
        self.kill_agent();
        self.spawn(" cleanup");
        wait("the node to be clean", || {
            self.log().contains("the node is clean")
        });
        self.stop_agent();
    }

    /// A GET on the read API.
    pub fn api(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = UnixStream::connect(self.paths.api_socket()).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n")?.1.to_owned();
        Some((status, body))
    }

    /// `/v1/state`'s report.
    pub fn report(&self) -> serde_json::Value {
        let body = self
            .api("/v1/state")
            .map(|(_, body)| body)
            .unwrap_or_default();
        let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        json["report"].clone()
    }

    pub fn condition(&self, name: &str) -> (String, String) {
        let fact = &self.report()["conditions"][name];
        let text = |key: &str| fact[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("message"))
    }

    pub fn wait_ready(&self) {
        wait(&format!("{} to be ready", self.name), || {
            self.api("/readyz").is_some_and(|(status, _)| status == 200)
                && self.condition("Ready").0 == "True"
        });
    }

    /// A pod's namespace, without a network.
    pub fn sandbox(&mut self) -> (String, String) {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let netns = format!("ckagt-{}-{number}", std::process::id());
        assert!(
            Command::new("ip")
                .args(["netns", "add", &netns])
                .status()
                .unwrap()
                .success()
        );
        must(&netns, "ip link set lo up");
        self.pods.push(netns.clone());
        (
            netns,
            format!(
                "{:064x}",
                u64::from(std::process::id()) << 20 | u64::from(number)
            ),
        )
    }

    /// What a runtime does.
    pub fn cni(&self, command: &str, sandbox: &(String, String), pod: &Pod) -> Answer {
        let frame = Frame {
            command: command.into(),
            container_id: sandbox.1.clone(),
            netns: format!("/var/run/netns/{}", sandbox.0),
            ifname: "eth0".into(),
            args: pod.cni_args(&sandbox.1),
            config: r#"{"cniVersion":"1.0.0","name":"carrick","type":"carrick-cni"}"#.into(),
        };
        let mut stream = UnixStream::connect(self.paths.cni_socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let bytes = serde_json::to_vec(&frame).unwrap();
        stream
            .write_all(&u32::try_from(bytes.len()).unwrap().to_be_bytes())
            .unwrap();
        stream.write_all(&bytes).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// Adds a pod; its sandbox and addresses without prefix.
    pub fn add_pod(&mut self, pod: &Pod) -> ((String, String), Vec<String>) {
        let sandbox = self.sandbox();
        let answer = self.cni("ADD", &sandbox, pod);
        assert_eq!(answer.exit, 0, "{}", answer.output);
        let addresses = answer.output["ips"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ip| {
                ip["address"]
                    .as_str()
                    .unwrap()
                    .split('/')
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        (sandbox, addresses)
    }

    /// The bridge's flows without what counts or ages, sorted.
    pub fn flows(&self) -> Vec<String> {
        let dump = self
            .ovs
            .ofctl(&["--no-stats", "dump-flows", &self.ovs.target("br-int")])
            .unwrap();
        let mut flows: Vec<String> = dump
            .lines()
            // ovs-ofctl prints a header only sometimes.
            .filter(|line| line.contains("actions="))
            .map(|line| line.trim().to_owned())
            .collect();
        flows.sort();
        flows
    }

    /// The youngest flow's age in seconds.
    pub fn youngest_flow(&self) -> f64 {
        self.ages().into_iter().fold(f64::MAX, f64::min)
    }

    /// The oldest flow's age in seconds.
    pub fn oldest_flow(&self) -> f64 {
        self.ages().into_iter().fold(0.0, f64::max)
    }

    fn ages(&self) -> Vec<f64> {
        let dump = self
            .ovs
            .ofctl(&["dump-flows", &self.ovs.target("br-int")])
            .unwrap();
        dump.lines()
            .filter_map(|line| {
                line.split("duration=")
                    .nth(1)?
                    .split('s')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect()
    }

    /// kill -9 of the switch, and a new start on an empty database, as on tmpfs.
    pub fn restart_switch(&mut self) {
        self.ovs.stop_vswitchd(KILL).unwrap();
        self.ovs.stop_ovsdb(KILL).unwrap();
        std::fs::remove_file(self.ovs.db_file()).unwrap();
        self.ovs.create_database().unwrap();
        self.ovs.start_ovsdb().unwrap();
        self.ovs.vsctl(&["--no-wait", "init"]).unwrap();
        let start = self.begin_start();
        self.ovs.start_vswitchd().unwrap();
        self.mark_restored(start);
    }

    /// Waits until a switch that was started again has these flows. The agent may be ready for the one
    /// before until it notices.
    pub fn wait_programmed_again(&self, flows: &[String]) {
        wait("the switch to be programmed again", || {
            let answers = self
                .ovs
                .ofctl(&["dump-aggregate", &self.ovs.target("br-int")]);
            answers.is_ok() && self.flows() == flows
        });
    }

    /// kill -9 of ovs-vswitchd and a new start, of which `carrick switch` has not yet said that it
    /// is restored.
    pub fn restart_vswitchd(&mut self) -> StartId {
        self.ovs.stop_vswitchd(KILL).unwrap();
        let start = self.begin_start();
        self.ovs.start_vswitchd().unwrap();
        start
    }
}

/// A pod as the API has it.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    pub uid: String,
}

impl Pod {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            uid: format!("uid-{name}"),
        }
    }

    /// `CNI_ARGS` of a runtime for its sandbox.
    pub fn cni_args(&self, container: &str) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={};\
             K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={}",
            self.name, self.uid
        )
    }
}

/// Connects the transport interfaces of two nodes: 172.31.0.n and fd00:31::n.
pub fn wire(a: &LabNode, b: &LabNode) {
    let mac = |n: u8| format!("02:31:00:00:00:{n:02x}");
    let made = Command::new("ip")
        .args([
            "-n",
            a.netns(),
            "link",
            "add",
            "eth1",
            "address",
            &mac(a.n),
            "type",
            "veth",
        ])
        .args([
            "peer",
            "name",
            "eth1",
            "address",
            &mac(b.n),
            "netns",
            b.netns(),
        ])
        .status()
        .unwrap();
    assert!(made.success());
    for node in [a, b] {
        must(
            node.netns(),
            &format!(
                "ethtool -K eth1 tx off >/dev/null; ip addr add 172.31.0.{n}/24 dev eth1 && \
             ip addr add fd00:31::{n}/64 dev eth1 nodad && ip link set eth1 up && \
             ip route add 192.0.2.0/24 via 172.31.0.254 dev eth1 onlink",
                n = node.n
            ),
        );
    }
}

/// A file below a node's root.
pub fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    bytes[0] ^= 0xff;
    std::fs::write(path, bytes).unwrap();
}
