//! A real etcd and kube-apiserver for tests, on loopback and ports of their own.
//!
//! Each [`ApiServer`] is alone and may be shared between tests of one binary (a `static` too): what it
//! started hangs on a pipe to the test process and dies with it, however that ends. There is no
//! controller manager and no kubelet: no ServiceAccount is made by itself (and none is asked for on
//! pods), nothing is collected as garbage, no pod runs. The programs are those `hack/install` builds.
//!
//! ```no_run
//! use carrick_testkit::apiserver::ApiServer;
//!
//! # fn main() -> anyhow::Result<()> {
//! let server = ApiServer::start()?;
//! println!("{}", server.kubectl(&["get", "namespaces"])?);
//! // kube::Config::from_custom_kubeconfig(kube::config::Kubeconfig::read_from(server.kubeconfig())?, …)
//! # Ok(())
//! # }
//! ```

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use tempfile::TempDir;

/// How long a part may take to become ready on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);
/// How often it is asked.
const POLL: Duration = Duration::from_millis(50);
/// Ports are found free and then taken by another program in time: another try with others.
const ATTEMPTS: usize = 3;

/// A running etcd and kube-apiserver. See the [module](self).
#[derive(Debug)]
pub struct ApiServer {
    dir: TempDir,
    bin: PathBuf,
    port: u16,
    etcd_port: u16,
    // Declared, so dropped, in this order: the server before its store.
    server: Option<Guarded>,
    #[cfg_attr(not(test), expect(dead_code, reason = "held for its end"))]
    etcd: Guarded,
}

impl ApiServer {
    /// Starts both and waits until the server is ready.
    ///
    /// # Errors
    /// When the programs are missing (the error names the mend) or do not become ready; their logs' end
    /// is part of the error.
    pub fn start() -> Result<Self> {
        let bin = binaries()?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::attempt(&bin) {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    fn attempt(bin: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("ckapi-")
            .tempdir()
            .context("create a directory")?;
        let [port, etcd_port, peer_port] = free_ports()?;
        credentials(dir.path(), port)?;
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let etcd = Guarded::start(
            dir.path(),
            &bin.join("etcd"),
            &[
                format!("--data-dir={}", dir.path().join("etcd").display()),
                format!("--listen-client-urls={}", url(etcd_port)),
                format!("--advertise-client-urls={}", url(etcd_port)),
                format!("--listen-peer-urls={}", url(peer_port)),
                format!("--initial-advertise-peer-urls={}", url(peer_port)),
                format!("--initial-cluster=default={}", url(peer_port)),
                "--log-level=warn".to_owned(),
                "--unsafe-no-fsync".to_owned(),
            ],
        )?;
        let mut this = Self {
            dir,
            bin: bin.to_path_buf(),
            port,
            etcd_port,
            server: None,
            etcd,
        };
        this.start_server()?;
        Ok(this)
    }

    /// Ends the API server (SIGKILL); what was stored stays in etcd.
    pub fn stop_server(&mut self) {
        self.server = None;
    }

    /// Starts the API server again, on the same port with the same certificates. Does nothing when it
    /// runs.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_server(&mut self) -> Result<()> {
        if self.server.is_some() {
            return Ok(());
        }
        let file = |name: &str| self.dir.path().join(name).display().to_string();
        let flags = [
            (
                "etcd-servers",
                format!("http://127.0.0.1:{}", self.etcd_port),
            ),
            ("bind-address", "127.0.0.1".to_owned()),
            ("advertise-address", "127.0.0.1".to_owned()),
            ("secure-port", self.port.to_string()),
            (
                "service-cluster-ip-range",
                "10.96.0.0/16,fd00:10:96::/112".to_owned(),
            ),
            ("tls-cert-file", file("server.crt")),
            ("tls-private-key-file", file("server.key")),
            ("client-ca-file", file("ca.crt")),
            ("service-account-key-file", file("sa.pub")),
            ("service-account-signing-key-file", file("sa.key")),
            (
                "service-account-issuer",
                "https://kubernetes.default.svc".to_owned(),
            ),
            ("authorization-mode", "Node,RBAC".to_owned()),
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
            ("allow-privileged", "true".to_owned()),
            ("shutdown-delay-duration", "0s".to_owned()),
            ("v", "1".to_owned()),
        ];
        let flags: Vec<_> = flags
            .iter()
            .map(|(name, value)| format!("--{name}={value}"))
            .collect();
        self.server = Some(Guarded::start(
            self.dir.path(),
            &self.bin.join("kube-apiserver"),
            &flags,
        )?);
        let start = Instant::now();
        loop {
            let Err(error) = self.kubectl(&["get", "--raw=/readyz"]) else {
                return Ok(());
            };
            if start.elapsed() > DEADLINE || self.ended() {
                let logs = [self.log("etcd"), self.log("kube-apiserver")].map(|log| tail(&log));
                self.server = None;
                return Err(error).with_context(|| {
                    format!(
                        "kube-apiserver is not ready after {:?}:\n{}",
                        start.elapsed(),
                        logs.join("\n")
                    )
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Holds the API server where it stands (SIGSTOP): connections stay open and nobody answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Where it serves.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A kubeconfig of a member of `system:masters`; it may impersonate anybody.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.conf")
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// Runs kubectl as an administrator; its standard output.
    ///
    /// # Errors
    /// When kubectl fails; what it said is part of the error.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.run_kubectl(args, None)
    }

    /// Runs kubectl with text on its standard input (`apply -f -`).
    ///
    /// # Errors
    /// When kubectl fails; what it said is part of the error.
    pub fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        self.run_kubectl(args, Some(input))
    }

    fn run_kubectl(&self, args: &[&str], input: Option<&str>) -> Result<String> {
        let mut child = Command::new(self.bin.join("kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--request-timeout=20s")
            .args(args)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start kubectl")?;
        if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
            // A kubectl that ends early says why on standard error.
            pipe.write_all(text.as_bytes()).ok();
        }
        let output = child.wait_with_output().context("wait for kubectl")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "kubectl {}: {}: {}",
                args.join(" "),
                output.status,
                said.trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What `etcd` or `kube-apiserver` has logged.
    #[must_use]
    pub fn log(&self, program: &str) -> String {
        let bytes = fs::read(self.dir.path().join(format!("{program}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn ended(&mut self) -> bool {
        self.server
            .as_mut()
            .is_none_or(|server| !matches!(server.guard.try_wait(), Ok(None)))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let server = self
            .server
            .as_ref()
            .context("the API server does not run")?;
        let pid = server.pid()?;
        signal::kill(pid, signal).with_context(|| format!("send {signal} to process {pid}"))
    }
}

/// A program with a shell beside it that reads our pipe: when the pipe closes, because we drop it or
/// because we died, the shell kills the program. When the program ends, so does the shell.
#[derive(Debug)]
struct Guarded {
    guard: Child,
    pid_file: PathBuf,
}

impl Guarded {
    fn start(dir: &Path, program: &Path, flags: &[String]) -> Result<Self> {
        const GUARD: &str = r#"
            exec 3<&0; pid_file=$1; shift
            "$@" </dev/null 3<&- & pid=$!
            echo $pid >"$pid_file.new"; mv "$pid_file.new" "$pid_file"
            (read -r _ <&3; kill -KILL $pid) 2>/dev/null & reader=$!
            wait $pid; code=$?
            kill $reader 2>/dev/null
            exit $code"#;
        let name = program
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let pid_file = dir.join(format!("{name}.pid"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join(format!("{name}.log")))
            .context("open a log")?;
        fs::remove_file(&pid_file).ok();
        let guard = Command::new("bash")
            .args(["-c", GUARD, "guard"])
            .arg(&pid_file)
            .arg(program)
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self { guard, pid_file })
    }

    fn pid(&self) -> Result<Pid> {
        let text = fs::read_to_string(&self.pid_file)
            .with_context(|| format!("read {}", self.pid_file.display()))?;
        Ok(Pid::from_raw(
            text.trim().parse().context("parse a process id")?,
        ))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        self.guard.wait().ok();
    }
}

/// Where `hack/install` links the programs.
fn binaries() -> Result<PathBuf> {
    let cache = env::var_os("CARRICK_CACHE")
        .map(PathBuf::from)
        .or_else(|| env::var_os("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("carrick")))
        .or_else(|| env::var_os("HOME").map(|dir| Path::new(&dir).join(".cache/carrick")))
        .context("HOME is not set")?;
    let bin = cache.join("bin");
    for program in ["etcd", "kube-apiserver", "kubectl"] {
        if !bin.join(program).is_file() {
            bail!(
                "{} is missing: run hack/install (or cargo xtask tools)",
                bin.join(program).display()
            );
        }
    }
    Ok(bin)
}

/// Three ports nobody listens on now.
fn free_ports() -> Result<[u16; 3]> {
    let mut listeners = Vec::new();
    let mut ports = [0; 3];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

/// Writes the CA, the server's and an administrator's certificate, the token key and a kubeconfig.
fn credentials(dir: &Path, port: u16) -> Result<()> {
    let write = |name: &str, content: &str| {
        let path = dir.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))
    };
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "carrick-testkit-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    write("ca.crt", &ca.pem())?;

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "kube-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names = vec![
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::DnsName("kubernetes.default.svc".try_into()?),
    ];
    write("server.crt", &params.signed_by(&key, &ca)?.pem())?;
    write("server.key", &key.serialize_pem())?;

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:masters");
    params
        .distinguished_name
        .push(DnType::CommonName, "carrick-testkit-admin");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    write("admin.crt", &params.signed_by(&key, &ca)?.pem())?;
    write("admin.key", &key.serialize_pem())?;

    let tokens = KeyPair::generate()?;
    write("sa.pub", &tokens.public_key_pem())?;
    write("sa.key", &tokens.serialize_pem())?;

    // JSON is YAML.
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "certificate-authority": dir.join("ca.crt")}}],
        "users": [{"name": "admin", "user": {
            "client-certificate": dir.join("admin.crt"), "client-key": dir.join("admin.key")}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
    });
    write("admin.conf", &config.to_string())
}

fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(15))
        .copied()
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serves_survives_a_restart_and_leaves_nothing() {
        let mut server = ApiServer::start().unwrap();
        server.kubectl(&["create", "namespace", "kept"]).unwrap();
        server.stop_server();
        server.kubectl(&["get", "namespaces"]).unwrap_err();
        server.start_server().unwrap();
        assert!(
            server
                .kubectl(&["get", "namespace", "kept", "-o=name"])
                .unwrap()
                .contains("kept")
        );
        let pids = [
            server.server.as_ref().unwrap().pid().unwrap(),
            server.etcd.pid().unwrap(),
        ];
        let dir = server.dir.path().to_owned();
        drop(server);
        assert!(!dir.exists());
        for pid in pids {
            assert!(
                signal::kill(pid, None).is_err(),
                "process {pid} is still there"
            );
        }
    }
}
