//! A machine: network, mount, process, host name and IPC namespaces, and a process 1 of ours in
//! them that supervises components ([`Component`]).
//!
//! The process id and start time of process 1 are kept in the machine's state directory; killing it
//! ends everything in the machine, pods included.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::cgroup::Cgroups;
use crate::exec;
use crate::names;
use crate::node::NodeHost;
use crate::preloaded::Preloaded;
use crate::progress::Progress;

const INIT: &str = concat!(
    "#!/bin/bash\nstate=$1 name=$2\n",
    include_str!("machine-lib.sh"),
    include_str!("machine-init.sh")
);
/// How long process 1 may take to build its namespaces, or to end.
const DEADLINE: Duration = Duration::from_secs(30);

/// A program the machine keeps running.
#[derive(Debug, Clone)]
pub struct Component {
    /// Its name: that of its log, and of its script among the machine's.
    pub name: &'static str,
    /// A shell script that waits for what it needs and then execs the program.
    pub script: String,
}

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// Directories the machine keeps: (their name among what it keeps, where it sees them).
    pub kept: Vec<(&'static str, &'static str)>,
    /// Content of /etc/hosts.
    pub hosts: String,
    /// What runs.
    pub components: Vec<Component>,
    /// What is in its kept directories when it is started for the first time.
    pub preloaded: Option<Preloaded>,
}

/// A machine of a cluster, running or not.
#[derive(Debug, Clone)]
pub struct Machine {
    cluster: String,
    name: String,
    state: PathBuf,
}

impl Machine {
    pub(crate) fn new(cluster: &str, name: &str, cluster_dir: &Path) -> Self {
        Self {
            cluster: cluster.to_owned(),
            name: name.to_owned(),
            state: cluster_dir.join(name),
        }
    }

    /// Its name: that of a node, or `control-plane`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster it belongs to.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its network namespace, as `ip netns` knows it.
    #[must_use]
    pub fn netns(&self) -> String {
        names::netns(&self.cluster, &self.name)
    }

    /// Its cgroup, relative to a hierarchy's root.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("{}/{}", names::cgroup(&self.cluster), self.name)
    }

    /// Its directory on the host.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The process id of its process 1, as the host sees it, when it runs.
    ///
    /// One that was killed and has not ended yet does not run: it takes its namespace with it first,
    /// which lasts, and whoever mends the cluster must not count on it.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process()
            .filter(|(_, life)| *life == Life::Runs)
            .map(|(pid, _)| pid)
    }

    /// Process 1 while there is anything left of it.
    fn process(&self) -> Option<(i32, Life)> {
        let text = fs::read_to_string(self.state.join("init")).ok()?;
        let (pid, start) = text.trim().split_once(' ')?;
        let (started, life) = look(pid)?;
        (started == start).then_some(())?;
        Some((pid.parse().ok()?, life))
    }

    /// Makes cgroups and starts process 1 in the network namespace, which must exist.
    pub(crate) fn start(
        &self,
        blueprint: &Blueprint,
        log: &Path,
        progress: &Progress,
    ) -> Result<()> {
        fs::remove_file(self.state.join("init")).ok();
        for (name, _) in &blueprint.kept {
            let dir = self.state.join(name);
            if let Some(preloaded) = &blueprint.preloaded {
                preloaded.copy_directory(name, &dir)?;
            }
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        self.write_state(
            blueprint,
            INIT,
            blueprint
                .kept
                .iter()
                .map(|(name, target)| (self.state.join(name), *target))
                .chain([(log.to_path_buf(), "/var/log")]),
        )?;
        let log_file = log.join("init.log");
        exec::detached("nsenter", &log_file, |command| {
            command
                .args([&format!("--net=/run/netns/{}", self.netns()), "--"])
                .args([
                    "unshare",
                    "--mount",
                    "--pid",
                    "--fork",
                    "--uts",
                    "--ipc",
                    "--propagation",
                    "private",
                    "--",
                ])
                .arg("bash")
                .args([self.state.join("init.sh"), self.state.clone()])
                .arg(&self.name);
        })?;
        progress
            .wait(&format!("process 1 of {}", self.name), DEADLINE, || {
                Ok(self
                    .pid()
                    .is_none()
                    .then(|| "it builds its namespaces".to_owned()))
            })
            .with_context(|| fs::read_to_string(&log_file).unwrap_or_default())
    }

    /// Writes what process 1 reads out of the state directory, and makes the cgroups.
    pub(crate) fn write_state<'a>(
        &self,
        blueprint: &Blueprint,
        init: &str,
        binds: impl Iterator<Item = (PathBuf, &'a str)>,
    ) -> Result<()> {
        let components = self.state.join("components");
        let file = |name: &str| self.state.join(name);
        fs::remove_dir_all(&components).ok();
        fs::create_dir_all(&components)
            .with_context(|| format!("create {}", components.display()))?;
        let groups = Cgroups::detect()?.create(&self.cgroup())?;
        exec::write(
            &file("cgroups"),
            lines(groups.iter().map(|dir| dir.display().to_string())),
        )?;
        exec::write(
            &file("binds"),
            lines(binds.map(|(source, target)| format!("{} {target}", source.display()))),
        )?;
        exec::write(&file("hosts"), &blueprint.hosts)?;
        exec::write(&file("resolv.conf"), "# no name server\n")?;
        exec::write(&file("init.sh"), init)?;
        for component in &blueprint.components {
            exec::write(&components.join(component.name), &component.script)?;
        }
        Ok(())
    }

    /// Kills the machine with everything in it and waits until it is gone. The network namespace
    /// and what the machine keeps stay.
    pub(crate) fn kill(&self, progress: &Progress) -> Result<()> {
        if let Some((pid, _)) = self.process() {
            // Gone meanwhile: what we want.
            signal::kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            progress.wait(&format!("{} to end", self.name), DEADLINE, || {
                Ok(self
                    .process()
                    .map(|(pid, _)| format!("process {pid} is still there")))
            })?;
        }
        // What was started but had not written its file yet, and unshare itself.
        let cgroups = Cgroups::detect()?;
        cgroups.kill(&self.cgroup())?;
        cgroups.remove(&self.cgroup())?;
        fs::remove_file(self.state.join("init")).ok();
        Ok(())
    }

    /// A command on the machine, in all its namespaces. Standard input, output and error are the
    /// caller's to set.
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let Some(pid) = self.pid() else {
            bail!(
                "{} of cluster {} does not run; `cargo xtask cluster up` mends it",
                self.name,
                self.cluster
            )
        };
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &pid.to_string(),
                "--mount",
                "--uts",
                "--ipc",
                "--net",
                "--pid",
                "--",
            ])
            .arg(program)
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            );
        Ok(command)
    }

    /// Runs a command, its words first, on the machine; its standard output.
    ///
    /// # Errors
    /// When the machine does not run or the command fails; what it said is part of the error.
    pub fn exec<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        let Some((program, args)) = words.split_first() else {
            bail!("an empty command")
        };
        exec::output(self.command(program)?.args(args))
    }

    /// The process id, within the machine, of a component that runs.
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn component_pid(&self, component: &str) -> Result<Option<i32>> {
        let script = r#"cat "/run/machine/pids/$1" 2>/dev/null || :"#;
        Ok(self
            .exec(&["bash", "-c", script, "pid", component])?
            .trim()
            .parse()
            .ok())
    }

    /// Ends a component and keeps it from being started again.
    ///
    /// # Errors
    /// When it does not end in 30 s.
    pub fn stop_component(&self, component: &str, signal: Signal) -> Result<()> {
        NodeHost::stop_component(self, component, signal)
    }

    /// Lets a stopped component start again.
    ///
    /// # Errors
    /// When the machine does not run.
    pub fn start_component(&self, component: &str) -> Result<()> {
        NodeHost::start_component(self, component)
    }

    /// Kills a component (SIGKILL); it is started again at once.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_component(&self, component: &str) -> Result<()> {
        let script = r#"kill -s KILL "$(cat "/run/machine/pids/$1")""#;
        self.exec(&["bash", "-c", script, "kill", component])
            .map(drop)
    }
}

/// Whether a process that is there goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Runs,
    /// SIGKILL is pending, or it is on its way out (`PF_EXITING`, Linux `include/linux/sched.h`).
    Ends,
}

/// When a process was started, in clock ticks since boot, which tells it from a later one with the
/// same id; and whether it goes on. Of a zombie, nothing.
fn look(pid: &str) -> Option<(String, Life)> {
    const PF_EXITING: u64 = 0x4;
    let dir = Path::new("/proc").join(pid);
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split(' ').collect();
    if *fields.first()? == "Z" {
        return None;
    }
    let flags: u64 = fields.get(6)?.parse().ok()?;
    let status = fs::read_to_string(dir.join("status")).ok()?;
    let killed = status
        .lines()
        .filter_map(|line| {
            line.strip_prefix("SigPnd:")
                .or_else(|| line.strip_prefix("ShdPnd:"))
        })
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & (1 << (Signal::SIGKILL as u64 - 1)) != 0);
    let life = if killed || flags & PF_EXITING != 0 {
        Life::Ends
    } else {
        Life::Runs
    };
    Some(((*fields.get(19)?).to_owned(), life))
}

pub(crate) fn lines(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_runs_and_nobody_does_not() {
        let own = std::process::id().to_string();
        let (start, life) = look(&own).unwrap();
        assert!(start.parse::<u64>().unwrap() > 0);
        assert_eq!(life, Life::Runs);
        assert_eq!(look(&own).unwrap().0, start);
        assert_eq!(look("0"), None);
    }

    /// `up` right after a kill took the dying control plane for a running one and then failed.
    #[test]
    fn a_process_that_was_killed_does_not_run_from_that_moment() {
        for _ in 0..50 {
            let mut child = Command::new("sleep").arg("60").spawn().unwrap();
            let pid = child.id().to_string();
            assert_eq!(look(&pid).unwrap().1, Life::Runs);
            child.kill().unwrap();
            let life = look(&pid).map(|(_, life)| life);
            child.wait().unwrap();
            assert!(matches!(life, None | Some(Life::Ends)), "{life:?}");
        }
    }
}
