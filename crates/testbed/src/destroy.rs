//! Removes everything a cluster has on the host, from whatever state it is in.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::cgroup::Cgroups;
use crate::exec;
use crate::links;
use crate::machine::Machine;
use crate::names;
use crate::progress::Progress;
use crate::registry;

/// What is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Processes, namespaces, links, mounts and cgroups; what machines keep on disk stays.
    Running,
    /// The directory too.
    All,
}

/// Removes a cluster. Every step is tried, whatever the others say; absent things are fine.
pub fn destroy(name: &str, dir: &Path, extent: Extent, progress: &Progress) -> Result<()> {
    let mut errors = Vec::new();
    let mut attempt = |result: Result<()>| {
        if let Err(error) = result {
            errors.push(format!("{error:#}"));
        }
    };
    let machines = machines(dir);
    // At once: the kernel takes its time to unmount and to end namespaces.
    let kills = each(&machines, |machine| {
        Machine::new(name, machine, dir).kill(progress)
    });
    kills.into_iter().for_each(&mut attempt);
    // From here on by what the host says, not by what we remember: a crash may have kept us from
    // writing it down, or a person may have removed the directory.
    let group = names::cgroup(name);
    match Cgroups::detect() {
        Ok(cgroups) => {
            attempt(cgroups.kill(&group));
            attempt(cgroups.remove(&group));
            cgroups.remove_if_empty(names::CGROUP);
        }
        Err(error) => attempt(Err(error)),
    }
    if let Ok(Some(record)) = registry::read(dir) {
        attempt(links::remove_host_link(record.index));
    }
    for netns in netnses(name) {
        attempt(end_processes(&netns));
        attempt(links::remove_netns(&netns));
    }
    attempt(unmount(dir));
    if extent == Extent::All && dir.exists() {
        let removed = each(&machines, |machine| {
            let dir = dir.join(machine);
            fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
        });
        removed.into_iter().for_each(&mut attempt);
        attempt(fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display())));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(anyhow!(
        "cluster {name} could not be removed whole; run the same command again:\n{}",
        errors.join("\n")
    ))
}

/// Does something for each machine at the same time.
fn each(machines: &[String], work: impl Fn(&str) -> Result<()> + Sync) -> Vec<Result<()>> {
    thread::scope(|scope| {
        let handles: Vec<_> = machines
            .iter()
            .map(|machine| scope.spawn(|| work(machine)))
            .collect();
        let join = |handle: thread::ScopedJoinHandle<'_, Result<()>>| {
            handle
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        };
        handles.into_iter().map(join).collect()
    })
}

/// What is left of a cluster on the host, by the host's word.
pub fn leftovers(name: &str, dir: &Path) -> Vec<String> {
    let mut left: Vec<_> = netnses(name)
        .into_iter()
        .map(|netns| format!("network namespace {netns}"))
        .collect();
    if Cgroups::detect().is_ok_and(|cgroups| cgroups.exists(&names::cgroup(name))) {
        left.push(format!("cgroup {}", names::cgroup(name)));
    }
    left.extend(
        mounts(dir)
            .into_iter()
            .map(|mount| format!("mount {mount}")),
    );
    if dir.exists() {
        left.push(format!("directory {}", dir.display()));
    }
    left
}

/// Machines that have a directory.
fn machines(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let names: BTreeSet<_> = entries
        .flatten()
        .filter(|entry| entry.path().join("init.sh").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.into_iter().collect()
}

/// The cluster's network namespaces; nodes before the fabric that holds their links' other ends.
fn netnses(name: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|netns| names::owns_netns(name, netns))
        .collect();
    found.sort();
    found.reverse();
    found
}

/// Ends what still runs in a namespace of ours: a shell somebody left open, for one.
fn end_processes(netns: &str) -> Result<()> {
    for pid in exec::output(Command::new("ip").args(["netns", "pids", netns]))?.split_whitespace() {
        signal::kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL).ok();
    }
    Ok(())
}

fn unmount(dir: &Path) -> Result<()> {
    for mount in mounts(dir) {
        umount2(mount.as_str(), MntFlags::MNT_DETACH)
            .with_context(|| format!("unmount {mount}"))?;
    }
    Ok(())
}

/// Mounts below a directory in the host's namespace, innermost first.
fn mounts(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<String> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|mount| Path::new(mount).starts_with(dir))
        .map(str::to_owned)
        .collect();
    found.sort();
    found.reverse();
    found
}
