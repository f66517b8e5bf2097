//! A private Open vSwitch for tests: ovsdb-server and ovs-vswitchd in a network namespace and a
//! run directory of their own.
//!
//! Each [`Ovs`] is alone: its namespace, directory and processes carry the test's process id and a
//! number, so that tests run side by side. Dropping it kills what it started, waits for it, deletes
//! the namespace and the directory. What a killed test left behind is removed by the next start.
//!
//! ```no_run
//! use carrick_testkit::ovs::{Datapath, Ovs};
//!
//! # fn main() -> anyhow::Result<()> {
//! let ovs = Ovs::start()?;
//! ovs.add_bridge("br-int", Datapath::under_test())?;
//! println!("{}", ovs.ofctl(&["dump-flows", &ovs.target("br-int")])?);
//! # Ok(())
//! # }
//! ```

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// How long a part may take to become ready or to end, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often a condition is looked at while waiting.
const POLL: Duration = Duration::from_millis(10);
/// Where Debian's `openvswitch-common` puts the schema.
pub const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Which datapath a bridge gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datapath {
    /// `datapath_type=netdev`: runs anywhere.
    Userspace,
    /// `datapath_type=system`: needs the kernel's `openvswitch`.
    Kernel,
}

impl Datapath {
    /// The one tests run on: the userspace datapath, or the kernel's when `CARRICK_TEST_DATAPATH` is
    /// `system` (`cargo xtask kernel-tests` runs them in a kernel that has it).
    ///
    /// # Panics
    /// When the variable holds anything else: tests would pass on the wrong datapath.
    #[must_use]
    #[expect(clippy::panic, reason = "tests must not go on")]
    pub fn under_test() -> Self {
        match std::env::var("CARRICK_TEST_DATAPATH").as_deref() {
            Err(_) | Ok("netdev") => Self::Userspace,
            Ok("system") => Self::Kernel,
            Ok(other) => panic!("CARRICK_TEST_DATAPATH is {other:?}, not netdev or system"),
        }
    }

    /// The value of the bridge's `datapath_type` column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Userspace => "netdev",
            Self::Kernel => "system",
        }
    }
}

/// A private Open vSwitch. See the [module](self).
#[derive(Debug)]
pub struct Ovs {
    netns: String,
    run_dir: PathBuf,
    ovsdb: Option<Child>,
    vswitchd: Option<Child>,
}

impl Ovs {
    /// Starts ovsdb-server and ovs-vswitchd and waits until a change to the database is acted on.
    ///
    /// # Errors
    /// When a tool is missing (its Debian package is named) or a daemon does not become ready; the
    /// daemon's log is part of the error.
    pub fn start() -> Result<Self> {
        let mut ovs = Self::empty()?;
        ovs.create_database()?;
        ovs.start_ovsdb()?;
        ovs.vsctl(&["--no-wait", "init"])?;
        ovs.start_vswitchd()?;
        Ok(ovs)
    }

    /// Starts ovsdb-server alone: for tests of the OVSDB client.
    ///
    /// # Errors
    /// As [`Ovs::start`].
    pub fn start_database() -> Result<Self> {
        let mut ovs = Self::empty()?;
        ovs.create_database()?;
        ovs.start_ovsdb()?;
        Ok(ovs)
    }

    /// Makes the namespace and the run directory and starts nothing: for tests of what starts the
    /// daemons itself.
    ///
    /// # Errors
    /// When a tool is missing or the namespace cannot be made.
    pub fn empty() -> Result<Self> {
        require("ip", "iproute2")?;
        require("ovsdb-server", "openvswitch-switch")?;
        require("ovs-vswitchd", "openvswitch-switch")?;
        require("ovsdb-tool", "openvswitch-common")?;
        remove_stale();
        let name = format!(
            "ckovs-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let run_dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&run_dir).with_context(|| format!("create {}", run_dir.display()))?;
        let ovs = Self {
            netns: name,
            run_dir,
            ovsdb: None,
            vswitchd: None,
        };
        run(Command::new("ip").args(["netns", "add", &ovs.netns]))?;
        ovs.exec(&["ip", "link", "set", "lo", "up"])?;
        Ok(ovs)
    }

    /// The name of the network namespace, as `ip netns` knows it.
    #[must_use]
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// The run directory: sockets, pid files, logs and `conf.db`.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The database server's socket.
    #[must_use]
    pub fn db_socket(&self) -> PathBuf {
        self.run_dir.join("db.sock")
    }

    /// The database file.
    #[must_use]
    pub fn db_file(&self) -> PathBuf {
        self.run_dir.join("conf.db")
    }

    /// The OpenFlow management socket of a bridge.
    #[must_use]
    pub fn mgmt(&self, bridge: &str) -> PathBuf {
        self.run_dir.join(format!("{bridge}.mgmt"))
    }

    /// The bridge as `ovs-ofctl` wants it: `unix:…/<bridge>.mgmt`.
    #[must_use]
    pub fn target(&self, bridge: &str) -> String {
        format!("unix:{}", self.mgmt(bridge).display())
    }

    /// Adds a bridge with `fail_mode=secure` and waits until the switch has made it.
    ///
    /// # Errors
    /// When `ovs-vsctl` fails or the management socket does not come up.
    pub fn add_bridge(&self, bridge: &str, datapath: Datapath) -> Result<()> {
        let datapath = format!("datapath_type={}", datapath.as_str());
        self.vsctl(&[
            "--may-exist",
            "add-br",
            bridge,
            "--",
            "set",
            "bridge",
            bridge,
            &datapath,
            "fail_mode=secure",
        ])?;
        let socket = self.mgmt(bridge);
        wait(&format!("{} to answer", socket.display()), || {
            UnixStream::connect(&socket).is_ok()
        })
    }

    /// `ovs-vsctl` on this switch; its standard output.
    ///
    /// # Errors
    /// When the command fails; its standard error is part of the error.
    pub fn vsctl(&self, args: &[&str]) -> Result<String> {
        let db = format!("--db=unix:{}", self.db_socket().display());
        run(self
            .tool("ovs-vsctl")
            .args([db.as_str(), "--timeout=30"])
            .args(args))
    }

    /// `ovs-ofctl -O OpenFlow15` with [`Ovs::target`] given by the caller; its standard output.
    ///
    /// # Errors
    /// When the command fails; its standard error is part of the error.
    pub fn ofctl(&self, args: &[&str]) -> Result<String> {
        run(self
            .tool("ovs-ofctl")
            .args(["-O", "OpenFlow15", "--timeout=60"])
            .args(args))
    }

    /// `ovs-appctl` on ovs-vswitchd; its standard output.
    ///
    /// # Errors
    /// When the command fails; its standard error is part of the error.
    pub fn appctl(&self, args: &[&str]) -> Result<String> {
        let control = self.run_dir.join("ovs-vswitchd.ctl");
        run(self
            .tool("ovs-appctl")
            .arg("--timeout=30")
            .arg("-t")
            .arg(control)
            .args(args))
    }

    /// A command, its words first, in the namespace; its standard output.
    ///
    /// # Errors
    /// When the command fails; its standard error is part of the error.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        let Some((program, args)) = words.split_first() else {
            bail!("an empty command")
        };
        run(self.command(program).args(args))
    }

    /// A command in the namespace, with Open vSwitch's directories in its environment. A child
    /// spawned from it has the process id of the program itself.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.tool("ip");
        command.args(["netns", "exec", &self.netns]).arg(program);
        command
    }

    /// A command that talks to the switch by its sockets and needs no namespace.
    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("OVS_RUNDIR", &self.run_dir)
            .env("OVS_LOGDIR", &self.run_dir)
            .env("OVS_DBDIR", &self.run_dir)
            .stdin(Stdio::null());
        command
    }

    /// Creates `conf.db` from Debian's schema.
    ///
    /// # Errors
    /// When `ovsdb-tool` fails.
    pub fn create_database(&self) -> Result<()> {
        run(Command::new("ovsdb-tool")
            .arg("create")
            .arg(self.db_file())
            .arg(SCHEMA))?;
        Ok(())
    }

    /// Starts ovsdb-server and waits for its socket. Does nothing when it runs.
    ///
    /// # Errors
    /// When it ends or its socket does not answer in time.
    pub fn start_ovsdb(&mut self) -> Result<()> {
        if self.ovsdb.is_some() {
            return Ok(());
        }
        let remote = format!("--remote=punix:{}", self.db_socket().display());
        let child = self
            .daemon("ovsdb-server")
            .arg(self.db_file())
            .arg(remote)
            .spawn()?;
        self.ovsdb = Some(child);
        let socket = self.db_socket();
        self.wait_ready("ovsdb-server", move |_| {
            UnixStream::connect(&socket).is_ok()
        })
    }

    /// Starts ovs-vswitchd and waits until it has acted on a change. Does nothing when it runs.
    ///
    /// # Errors
    /// When it ends or does not act in time.
    pub fn start_vswitchd(&mut self) -> Result<()> {
        if self.vswitchd.is_some() {
            return Ok(());
        }
        let db = format!("unix:{}", self.db_socket().display());
        let child = self.daemon("ovs-vswitchd").arg(db).spawn()?;
        self.vswitchd = Some(child);
        self.wait_ready("ovs-vswitchd", |ovs| ovs.appctl(&["version"]).is_ok())?;
        // Without --no-wait: returns when the switch has read the whole configuration.
        self.vsctl(&["set", "Open_vSwitch", ".", "external_ids:testkit=started"])?;
        self.vsctl(&["remove", "Open_vSwitch", ".", "external_ids", "testkit"])?;
        Ok(())
    }

    /// The process id of ovsdb-server.
    #[must_use]
    pub fn ovsdb_pid(&self) -> Option<u32> {
        self.ovsdb.as_ref().map(Child::id)
    }

    /// The process id of ovs-vswitchd.
    #[must_use]
    pub fn vswitchd_pid(&self) -> Option<u32> {
        self.vswitchd.as_ref().map(Child::id)
    }

    /// Sends a signal to ovsdb-server and waits for its end. SIGKILL is `kill -9`.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop_ovsdb(&mut self, signal: Signal) -> Result<()> {
        self.ovsdb.take().map_or(Ok(()), |child| end(child, signal))
    }

    /// Sends a signal to ovs-vswitchd and waits for its end. SIGKILL is `kill -9`.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop_vswitchd(&mut self, signal: Signal) -> Result<()> {
        self.vswitchd
            .take()
            .map_or(Ok(()), |child| end(child, signal))
    }

    /// Stops (SIGTERM) and starts ovsdb-server.
    ///
    /// # Errors
    /// When it does not end or does not start.
    pub fn restart_ovsdb(&mut self) -> Result<()> {
        self.stop_ovsdb(Signal::SIGTERM)?;
        self.start_ovsdb()
    }

    /// Stops (SIGTERM) and starts ovs-vswitchd.
    ///
    /// # Errors
    /// When it does not end or does not start.
    pub fn restart_vswitchd(&mut self) -> Result<()> {
        self.stop_vswitchd(Signal::SIGTERM)?;
        self.start_vswitchd()
    }

    /// What a daemon has logged.
    #[must_use]
    pub fn log(&self, daemon: &str) -> String {
        fs::read_to_string(self.run_dir.join(format!("{daemon}.log"))).unwrap_or_default()
    }

    fn daemon(&self, name: &str) -> Command {
        let mut command = self.command(name);
        for (option, suffix) in [
            ("--unixctl", "ctl"),
            ("--pidfile", "pid"),
            ("--log-file", "log"),
        ] {
            let file = self.run_dir.join(format!("{name}.{suffix}"));
            command.arg(format!("{option}={}", file.display()));
        }
        command.args(["--no-chdir", "-vconsole:off", "-vsyslog:off", "-vfile:info"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn wait_ready(&mut self, daemon: &str, mut ready: impl FnMut(&Self) -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            if ready(self) {
                return Ok(());
            }
            let child = if daemon == "ovsdb-server" {
                &mut self.ovsdb
            } else {
                &mut self.vswitchd
            };
            let ended = child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                bail!("{daemon} ended with {status}:\n{}", self.log(daemon));
            }
            if start.elapsed() > DEADLINE {
                bail!(
                    "{daemon} is not ready after {DEADLINE:?}:\n{}",
                    self.log(daemon)
                );
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        // Teardown goes on whatever fails; a leftover is swept by the next start.
        for child in [self.vswitchd.take(), self.ovsdb.take()]
            .into_iter()
            .flatten()
        {
            end(child, Signal::SIGKILL).ok();
        }
        remove(&self.netns, &self.run_dir);
    }
}

/// Waits until `condition` holds.
///
/// # Errors
/// When it does not hold after 30 s; `what` names it.
pub fn wait(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > DEADLINE {
            bail!("waited {DEADLINE:?} in vain for {what}");
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn end(mut child: Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    signal::kill(pid, signal).with_context(|| format!("send {signal} to {pid}"))?;
    let mut status = None;
    let ended = wait(&format!("process {pid} to end by {signal}"), || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    if ended.is_err() {
        child.kill().ok();
        child.wait().ok();
    }
    ended
}

fn require(program: &str, package: &str) -> Result<()> {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
        || ["/usr/sbin", "/sbin"]
            .iter()
            .any(|dir| Path::new(dir).join(program).is_file());
    if !found {
        bail!("{program} is not installed: apt-get install {package}");
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    if !status.success() {
        bail!(
            "{command:?}: {status}: {}",
            String::from_utf8_lossy(&stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

fn remove(netns: &str, run_dir: &Path) {
    run(Command::new("ip").args(["netns", "delete", netns])).ok();
    fs::remove_dir_all(run_dir).ok();
}

/// Removes what tests left behind whose process is gone: directories name the process that made
/// them, and pid files in them the daemons it started.
fn remove_stale() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some(owner) = name
            .strip_prefix("ckovs-")
            .and_then(|rest| rest.split('-').next())
        else {
            continue;
        };
        if owner.parse::<u32>().is_err() || Path::new("/proc").join(owner).exists() {
            continue;
        }
        for pid in stale_daemons(&entry.path()) {
            signal::kill(pid, Signal::SIGKILL).ok();
        }
        remove(name, &entry.path());
    }
}

/// The daemons named by pid files in `dir` that still run with `dir` on their command line.
fn stale_daemons(dir: &Path) -> Vec<Pid> {
    let read = |file: &Path| -> io::Result<Option<Pid>> {
        let Ok(pid) = fs::read_to_string(file)?.trim().parse::<i32>() else {
            return Ok(None);
        };
        let cmdline = fs::read(format!("/proc/{pid}/cmdline"))?;
        let ours = String::from_utf8_lossy(&cmdline).contains(&*dir.to_string_lossy());
        Ok(ours.then(|| Pid::from_raw(pid)))
    };
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pid"))
        .filter_map(|path| read(&path).ok().flatten())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_restarts_and_leaves_nothing() {
        let mut ovs = Ovs::start().unwrap();
        ovs.add_bridge("br-int", Datapath::under_test()).unwrap();
        let flow = "table=0,priority=1,actions=drop";
        ovs.ofctl(&["add-flow", &ovs.target("br-int"), flow])
            .unwrap();
        assert!(
            ovs.ofctl(&["dump-flows", &ovs.target("br-int")])
                .unwrap()
                .contains("priority=1")
        );
        ovs.stop_vswitchd(Signal::SIGKILL).unwrap();
        ovs.start_vswitchd().unwrap();
        ovs.restart_ovsdb().unwrap();
        assert_eq!(ovs.vsctl(&["list-br"]).unwrap().trim(), "br-int");
        let pids = [ovs.ovsdb_pid().unwrap(), ovs.vswitchd_pid().unwrap()];
        let (netns, dir) = (ovs.netns().to_owned(), ovs.run_dir().to_owned());
        drop(ovs);
        assert!(!dir.exists());
        assert!(!Path::new("/run/netns").join(netns).exists());
        for pid in pids {
            assert!(!Path::new("/proc").join(pid.to_string()).exists());
        }
    }
}
