//! kube-proxy on a node of its own: a network namespace, with the kernel's own rules.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use carrick_node::Namespace;
use carrick_testkit::netns::Scratch;

use super::load::Load;
use crate::lab::kubernetes::Relay;
use crate::lab::must;
use crate::process;

/// Where it tells its metrics.
const METRICS: u16 = 10249;

/// How it writes its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Nftables,
    Iptables,
}

impl Mode {
    pub const ALL: [Self; 2] = [Self::Nftables, Self::Iptables];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

/// A running one.
pub struct KubeProxy {
    /// How long its first sync took, or how long it was waited for.
    pub took: Duration,
    pub is_synced: bool,
    netns: Scratch,
    child: Child,
    _relay: Relay,
    log: tempfile::TempDir,
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl KubeProxy {
    /// Starts it and waits until its first sync is done, or patience ends.
    pub async fn start(program: &Path, mode: Mode, load: &Load) -> Self {
        let netns = Scratch::new();
        must(netns.name(), "ip link set lo up");
        must(netns.name(), &super::transport());
        let relay = Relay::open(netns.name(), &load.server).await;
        let log = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(log.path().join("log")).unwrap();
        let begun = Instant::now();
        let child = Command::new("ip")
            .args(["netns", "exec", netns.name()])
            .arg(program)
            .arg(format!("--proxy-mode={mode}"))
            .arg(format!(
                "--kubeconfig={}",
                load.server.kubeconfig().display()
            ))
            .arg(format!("--hostname-override={}", super::NODE))
            .args([
                "--cluster-cidr=10.10.0.0/16",
                // A namespace may not write these sysctls.
                "--conntrack-max-per-core=0",
                "--conntrack-min=0",
            ])
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut proxy = Self {
            took: Duration::ZERO,
            is_synced: false,
            netns,
            child,
            _relay: relay,
            log,
        };
        let namespace = Namespace::open(proxy.netns.path()).unwrap();
        while proxy.took < super::PEERS_PATIENCE && !proxy.is_synced {
            tokio::time::sleep(super::POLL).await;
            proxy.is_synced = namespace.run(has_synced).await.unwrap();
            proxy.took = begun.elapsed();
        }
        let rules = proxy.is_synced.then(|| proxy.rules(mode));
        assert!(
            rules.is_none_or(|rules| rules >= load.services()),
            "{rules:?} rules for {} Services:\n{}",
            load.services(),
            proxy.log()
        );
        proxy
    }

    /// Rules that stand for cluster IPs.
    fn rules(&self, mode: Mode) -> usize {
        let (program, arguments, mark) = match mode {
            Mode::Nftables => (
                "nft",
                &["list", "map", "ip", "kube-proxy", "service-ips"][..],
                " : goto ",
            ),
            Mode::Iptables => ("iptables-save", &["-t", "nat"][..], "cluster IP"),
        };
        let text = self.netns.exec(program, arguments);
        text.matches(mark).count()
    }

    pub fn netns(&self) -> &str {
        self.netns.name()
    }

    pub fn memory(&self) -> f64 {
        process::resident(self.child.id())
    }

    pub fn processor(&self) -> Duration {
        process::processor(self.child.id())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log.path().join("log")).unwrap_or_default()
    }
}

/// Whether it has written its rules once. It does not before it knows all Services and EndpointSlices.
fn has_synced() -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", METRICS)) else {
        return false;
    };
    let mut answer = String::new();
    let asked = stream
        .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .and_then(|()| stream.read_to_string(&mut answer));
    asked.is_ok()
        && answer.lines().any(|line| {
            line.starts_with("kubeproxy_sync_proxy_rules_last_timestamp_seconds")
                && !line.contains("IPv6")
                && !line.ends_with(" 0")
        })
}
