//! A kernel node: User-Mode Linux, an ordinary process of the host.
//!
//! Its state directory holds what a [`Machine`]'s does and a disk; its processes are in a cgroup of
//! the same name, so killing and removing it is the same too. Root is the host's file system,
//! read-only; what it keeps is on the disk; logs go to the host's directory at once.
//!
//! Commands reach it by ssh over a link of its own, the console, which the node's network does not
//! see. One connection is held open for as long as it runs; a command is a channel of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::addressing::Addressing;
use crate::exec;
use crate::kernel::{self, Kernel};
use crate::links::{self, GuestLinks};
use crate::machine::{Blueprint, Component, Machine, lines};
use crate::names;
use crate::node::NodeHost;
use crate::paths;
use crate::progress::Progress;

const INIT: &str = concat!(
    "#!/bin/bash\nexport PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n",
    "state=$carrick_state name=$carrick_name\n",
    include_str!("machine-lib.sh"),
    include_str!("guest-init.sh")
);
const LAUNCH: &str = include_str!("guest-launch.sh");
const ENTER: &str = include_str!("guest-enter.sh");
/// Memory a node may take; it takes what it uses.
const MEMORY: &str = "2560M";
/// How large a node's disk may become.
const DISK: u64 = 16 << 30;
/// How long it may take to boot on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);
/// Memory mappings a process may have: a guest's are the kernel's, all in one.
const MAPPINGS: u32 = 4_194_304;
const SSHD: &str = "sshd";

/// A kernel node of a cluster, running or not.
#[derive(Debug)]
pub struct Guest {
    machine: Machine,
    index: u8,
}

impl Guest {
    pub(crate) fn new(cluster: &str, name: &str, index: u8, cluster_dir: &Path) -> Self {
        Self {
            machine: Machine::new(cluster, name, cluster_dir),
            index,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.machine.state().join(name)
    }

    /// Keys of the console, and the configuration of both its ends.
    fn write_console(&self, links: &GuestLinks) -> Result<()> {
        for (key, comment) in [("ssh.key", "console"), ("sshd.key", self.machine.name())] {
            let file = self.file(key);
            if !file.with_extension("key.pub").exists() {
                fs::remove_file(&file).ok();
                exec::output(
                    Command::new("ssh-keygen")
                        .args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"])
                        .arg(&file),
                )?;
            }
        }
        let address = links.console_address;
        let host_key =
            fs::read_to_string(self.file("sshd.key.pub")).context("read sshd.key.pub")?;
        exec::write(&self.file("known_hosts"), format!("{address} {host_key}"))?;
        let path = |name: &str| self.file(name).display().to_string();
        let socket = path("ssh");
        // ssh adds 17 characters to it while it makes it.
        ensure!(
            socket.len() + 17 < 108,
            "{socket} is too long for the path of a socket: set CARRICK_CACHE to a shorter one"
        );
        let client = [
            ("Host", "node".to_owned()),
            ("HostName", address.to_string()),
            ("User", "root".to_owned()),
            ("IdentityFile", path("ssh.key")),
            ("IdentitiesOnly", "yes".to_owned()),
            ("UserKnownHostsFile", path("known_hosts")),
            ("StrictHostKeyChecking", "yes".to_owned()),
            ("ControlPath", socket.clone()),
            ("ConnectTimeout", "5".to_owned()),
            // A guest that hangs must not hang whoever waits for a command.
            ("ServerAliveInterval", "10".to_owned()),
            ("ServerAliveCountMax", "6".to_owned()),
            ("BatchMode", "yes".to_owned()),
            ("LogLevel", "ERROR".to_owned()),
        ];
        let server = [
            ("ListenAddress", address.to_string()),
            ("HostKey", path("sshd.key")),
            ("AuthorizedKeysFile", path("ssh.key.pub")),
            ("StrictModes", "no".to_owned()),
            ("UsePAM", "no".to_owned()),
            ("PasswordAuthentication", "no".to_owned()),
            ("PermitRootLogin", "prohibit-password".to_owned()),
            ("MaxSessions", "1000".to_owned()),
            ("PidFile", "none".to_owned()),
            ("PrintLastLog", "no".to_owned()),
            ("UseDNS", "no".to_owned()),
            (
                "SetEnv",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            ),
            ("ForceCommand", "/run/machine/enter".to_owned()),
        ];
        let text = |pairs: &[(&str, String)]| lines(pairs.iter().map(|(k, v)| format!("{k} {v}")));
        exec::write(&self.file("ssh.conf"), text(&client))?;
        exec::write(&self.file("sshd.conf"), text(&server))?;
        self.write_script("enter", ENTER)
    }

    fn write_script(&self, name: &str, content: &str) -> Result<()> {
        let file = self.file(name);
        exec::write(&file, content)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("make {} executable", file.display()))
    }

    /// The processor it is pinned to: on one it is many times faster than on two.
    fn processor(&self, number: usize) -> Result<usize> {
        let allowed = sched_getaffinity(Pid::this()).context("ask which processors there are")?;
        let all: Vec<_> = (0..CpuSet::count())
            .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
            .collect();
        let place = (number + usize::from(self.index)) % all.len().max(1);
        all.get(place).copied().context("no processor is allowed")
    }

    fn launch(
        &self,
        kernel: &Kernel,
        number: usize,
        links: &GuestLinks,
        logs: &Path,
    ) -> Result<()> {
        let console = logs.join("console.log");
        let state = self.machine.state().display();
        let mut words = vec![
            format!("mem={MEMORY}"),
            format!("umid={}", self.machine.name()),
            format!("uml_dir={state}/"),
            // The source of the root's mount: the kubelet cannot parse one without.
            "root=hostfs".to_owned(),
            "rootfstype=hostfs".to_owned(),
            "rootflags=/".to_owned(),
            "ro".to_owned(),
            "con=null".to_owned(),
            "ssl=null".to_owned(),
            "con0=null,fd:1".to_owned(),
            format!("ubd1={state}/disk"),
            "quiet".to_owned(),
            format!("carrick_state={state}"),
            format!("carrick_name={}", self.machine.name()),
            "init=/bin/bash".to_owned(),
        ];
        for (place, tap) in links.taps.iter().enumerate() {
            words.push(format!(
                "vec{place}:transport=tap,ifname={tap},depth=128,gro=1"
            ));
        }
        words.extend(["--".to_owned(), format!("{state}/init.sh")]);
        let processor = self.processor(number)?.to_string();
        exec::detached("bash", &console, |command| {
            command
                .args([self.file("launch.sh"), self.machine.state().to_path_buf()])
                .arg(names::fabric(self.machine.cluster()))
                .arg(processor)
                .args([&kernel.preload, &kernel.program])
                .args(words);
        })
    }

    fn wait_console(&self, logs: &Path, progress: &Progress) -> Result<()> {
        let what = format!("the kernel of {}", self.machine.name());
        let mut launched = false;
        progress
            .wait(&what, DEADLINE, || {
                let runs = self.is_running();
                if launched && !runs {
                    bail!("it has ended");
                }
                launched = runs;
                let mut check = Command::new("ssh");
                check
                    .arg("-F")
                    .arg(self.file("ssh.conf"))
                    .args(["-O", "check", "node"]);
                Ok(exec::output(&mut check)
                    .err()
                    .map(|_| "it boots".to_owned()))
            })
            .with_context(|| fs::read_to_string(logs.join("console.log")).unwrap_or_default())
    }
}

impl NodeHost for Guest {
    fn state(&self) -> &Path {
        self.machine.state()
    }

    /// The node has control groups of its own, all of them.
    fn pod_cgroup(&self) -> String {
        "/".to_owned()
    }

    fn boot(
        &self,
        number: usize,
        addressing: Addressing,
        blueprint: &Blueprint,
        logs: &Path,
        progress: &Progress,
    ) -> Result<()> {
        let kernel = kernel::build(progress)?;
        allow_mappings()?;
        fs::create_dir_all(self.machine.state())
            .with_context(|| format!("create {}", self.machine.state().display()))?;
        if let Some(preloaded) = &blueprint.preloaded {
            preloaded.copy_disk(&self.file("disk"))?;
        }
        let links = links::add_guest(self.machine.cluster(), number, addressing)?;
        self.write_console(&links)?;
        exec::write(&self.file("links"), lines(links.inside.iter().cloned()))?;
        exec::write(&self.file("console"), lines(links.console.iter().cloned()))?;
        exec::write(&self.file("logs"), logs.display().to_string())?;
        let mut blueprint = blueprint.clone();
        blueprint.components.push(Component {
            name: SSHD,
            script: format!(
                "exec nsenter --net=/run/machine/console -- /usr/sbin/sshd -D -e -f {}\n",
                self.file("sshd.conf").display()
            ),
        });
        let disk = Path::new("/run/machine/disk");
        // Wherever the cache lies, the node sees it: configuration and programs are in it.
        let cache = paths::cache()?;
        let seen = cache.display().to_string();
        let binds = blueprint
            .kept
            .iter()
            .map(|(name, target)| (disk.join(name), *target))
            .chain([
                (PathBuf::from("/run/machine/logs"), "/var/log"),
                (cache.clone(), seen.as_str()),
            ]);
        self.machine.write_state(&blueprint, INIT, binds)?;
        exec::write(&self.file("launch.sh"), LAUNCH)?;
        fs::remove_file(self.file("init")).ok();
        self.launch(&kernel, number, &links, logs)?;
        self.wait_console(logs, progress)
    }

    fn kill(&self, progress: &Progress) -> Result<()> {
        self.machine.kill(progress)?;
        fs::remove_file(self.file("ssh")).ok();
        // The kernel's own directory: the next one would take another name.
        fs::remove_dir_all(self.file(self.machine.name())).ok();
        Ok(())
    }

    fn command(&self, program: &OsStr) -> Result<Command> {
        if !self.is_running() {
            bail!(
                "{} of cluster {} does not run; `cargo xtask cluster up` mends it",
                self.machine.name(),
                self.machine.cluster()
            );
        }
        let mut command = Command::new(self.file("enter"));
        command
            .arg(self.machine.state())
            .arg(names::fabric(self.machine.cluster()))
            .arg(program);
        Ok(command)
    }

    fn is_running(&self) -> bool {
        self.machine.pid().is_some()
    }
}

/// A guest's memory is one process's mappings of the host, more than hosts allow by default. The
/// limit is the host's own and stays raised.
fn allow_mappings() -> Result<()> {
    let file = "/proc/sys/vm/max_map_count";
    let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    if text.trim().parse::<u32>().is_ok_and(|now| now >= MAPPINGS) {
        return Ok(());
    }
    fs::write(file, MAPPINGS.to_string())
        .with_context(|| format!("set {file} to {MAPPINGS}, which kernel nodes need"))
}

/// Makes the file `disk` a file system with what is in `tree`.
pub(crate) fn format_disk(disk: &Path, tree: &Path) -> Result<()> {
    File::create(disk)
        .and_then(|file| file.set_len(DISK))
        .with_context(|| format!("create {}", disk.display()))?;
    let mut command = Command::new("mkfs.ext4");
    command
        .args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"])
        .arg("-d")
        .args([tree, disk]);
    exec::output(&mut command).map(drop)
}
