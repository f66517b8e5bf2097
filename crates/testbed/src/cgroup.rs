//! Control groups of a cluster, on hosts with cgroup v1 (or hybrid) and v2.
//!
//! `carrick-testbed/CLUSTER/MACHINE` exists in every v1 hierarchy, or once in v2. Pods live below it
//! (the kubelet's `cgroupRoot`), the machine's own processes in it (v1) or in its leaf `machine`
//! (v2, where a group with children may hold no process). Ending a cluster's processes is ending
//! what is in its groups: nothing escapes them by forking.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

const ROOT: &str = "/sys/fs/cgroup";
/// How long killed processes may take to leave.
const DEADLINE: Duration = Duration::from_secs(20);

/// The host's cgroup file systems.
#[derive(Debug, Clone)]
pub enum Cgroups {
    /// One directory per hierarchy; on hybrid hosts the unified one, without controllers, too.
    V1(Vec<PathBuf>),
    /// The unified hierarchy.
    V2(PathBuf),
}

impl Cgroups {
    /// What this host has.
    pub fn detect() -> Result<Self> {
        let root = Path::new(ROOT);
        if root.join("cgroup.controllers").exists() {
            return Ok(Self::V2(root.to_path_buf()));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
        let hierarchies = v1_hierarchies(&mounts);
        if hierarchies.is_empty() {
            bail!("no cgroup hierarchy is mounted at {ROOT}")
        }
        Ok(Self::V1(hierarchies))
    }

    fn roots(&self) -> &[PathBuf] {
        match self {
            Self::V1(hierarchies) => hierarchies,
            Self::V2(root) => std::slice::from_ref(root),
        }
    }

    /// Makes a group, with its parents, and returns the directories a process joins.
    pub fn create(&self, group: &str) -> Result<Vec<PathBuf>> {
        let mut join = Vec::new();
        for root in self.roots() {
            let mut dir = root.clone();
            for part in Path::new(group) {
                if matches!(self, Self::V2(_)) {
                    delegate(&dir);
                }
                let parent = dir.clone();
                dir.push(part);
                make(&dir)?;
                if matches!(self, Self::V1(_)) {
                    inherit_cpuset(&parent, &dir)?;
                }
            }
            if matches!(self, Self::V2(_)) {
                dir.push("machine");
                make(&dir)?;
            }
            join.push(dir);
        }
        Ok(join)
    }

    /// Kills every process in a group and below.
    pub fn kill(&self, group: &str) -> Result<()> {
        for root in self.roots() {
            let dir = root.join(group);
            // v2 since Linux 5.14; elsewhere the file does not exist.
            if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            let start = Instant::now();
            loop {
                let pids = processes(&dir)?;
                if pids.is_empty() {
                    break;
                }
                if start.elapsed() > DEADLINE {
                    bail!("processes {pids:?} in {} do not end", dir.display());
                }
                for pid in pids {
                    // Gone meanwhile: what we want.
                    signal::kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// Removes a group and everything below it; its processes must be gone or going.
    pub fn remove(&self, group: &str) -> Result<()> {
        for root in self.roots() {
            let dir = root.join(group);
            let start = Instant::now();
            while let Err(error) = remove_tree(&dir) {
                if start.elapsed() > DEADLINE {
                    return Err(error).with_context(|| format!("remove {}", dir.display()));
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Removes a group that may hold others: no error when it does.
    pub fn remove_if_empty(&self, group: &str) {
        for root in self.roots() {
            fs::remove_dir(root.join(group)).ok();
        }
    }

    /// Whether anything of a group is left.
    pub fn exists(&self, group: &str) -> bool {
        self.roots().iter().any(|root| root.join(group).exists())
    }
}

/// Mount points of v1 hierarchies, named ones and a hybrid host's unified one too (runc makes groups
/// there), from /proc/self/mounts.
fn v1_hierarchies(mounts: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (_, dir, kind) = (words.next()?, words.next()?, words.next()?);
            (matches!(kind, "cgroup" | "cgroup2") && dir.starts_with(ROOT)).then(|| dir.into())
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Passes a v2 group's controllers to its children, those it has and may pass.
fn delegate(dir: &Path) {
    let controllers = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        // One at a time: a controller that cannot be passed must not keep the others.
        fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).ok();
    }
}

/// A v1 cpuset group takes no process before it has processors and memory nodes.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let target = dir.join(file);
        let Ok(own) = fs::read_to_string(&target) else {
            continue;
        };
        if own.trim().is_empty() {
            fs::read_to_string(parent.join(file))
                .and_then(|value| fs::write(&target, value))
                .with_context(|| format!("set {}", target.display()))?;
        }
    }
    Ok(())
}

fn make(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("create cgroup {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn processes(dir: &Path) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    for group in tree(dir) {
        match fs::read_to_string(group.join("cgroup.procs")) {
            // 0 stands for a process of another process namespace's parent: not ours to end.
            Ok(text) => pids.extend(
                text.lines()
                    .filter_map(|l| l.parse::<i32>().ok())
                    .filter(|p| *p > 0),
            ),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", group.display())),
        }
    }
    Ok(pids)
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    for group in tree(dir).into_iter().rev() {
        match fs::remove_dir(&group) {
            Err(error) if !gone(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A group and its descendants, parents first.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        all.push(dir);
        todo.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    all
}

/// A group that went while we looked: absent, or no longer a device.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hosts_have_v1_hierarchies_and_named_ones() {
        let mounts = "cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                      tmpfs /sys/fs/cgroup tmpfs rw 0 0\n";
        assert_eq!(
            v1_hierarchies(mounts),
            ["cpuset", "systemd", "unified"].map(|name| Path::new(ROOT).join(name))
        );
    }
}
