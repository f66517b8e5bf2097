//! Collects orphans: as process 1 of a container the supervisor inherits the children of whatever
//! ended there before them (a shell of `kubectl exec`, for example).

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, warn};

/// How long a child is dead before it is taken for an orphan.
const PAUSE: Duration = Duration::from_secs(2);

/// Process ids of the children the supervisor itself waits for.
static OURS: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// A child somebody here waits for: the reaper leaves it alone until this is dropped.
#[derive(Debug)]
pub(crate) struct Ours(Option<i32>);

impl Ours {
    /// Starts a child. The reaper waits meanwhile: it never sees one that is not noted yet.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<(Child, Self)> {
        let mut ours = ours();
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        ours.extend(pid);
        Ok((child, Self(pid)))
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let mut ours = ours();
        // Only one: the kernel may have given the id of a child waited for to the next one already.
        if let Some(at) = ours.iter().position(|pid| Some(*pid) == self.0) {
            ours.swap_remove(at);
        }
    }
}

/// A list of numbers is whole whoever panicked with it.
fn ours() -> MutexGuard<'static, Vec<i32>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs until it is dropped; does nothing unless this is process 1. Our own children ([`Ours`]) are
/// waited for by those that started them and are left alone, as is any child that died just now.
pub(crate) async fn run() {
    if std::process::id() != 1 {
        return std::future::pending().await;
    }
    let mut children = match signal(SignalKind::child()) {
        Ok(children) => children,
        Err(error) => {
            warn!(%error, "orphans will not be collected");
            return std::future::pending().await;
        }
    };
    let mut dead = BTreeSet::new();
    loop {
        tokio::select! {
            signal = children.recv(), if dead.is_empty() => if signal.is_none() { return },
            () = tokio::time::sleep(PAUSE), if !dead.is_empty() => {}
        }
        let now = zombies(Path::new("/proc"));
        let long_dead: BTreeSet<i32> = now.intersection(&dead).copied().collect();
        collect(&long_dead);
        dead = now.difference(&long_dead).copied().collect();
    }
}

/// Collects those that nobody here waits for.
fn collect(dead: &BTreeSet<i32>) {
    // Held to the end: an id freed here must not become a new child's before we are through.
    let ours = ours();
    for pid in dead.iter().filter(|pid| !ours.contains(pid)) {
        match waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(status) => debug!(pid, ?status, "collected an orphan"),
            Err(error) => debug!(pid, %error, "an orphan was collected by another"),
        }
    }
}

/// Our dead children: state `Z` and parent 1 in `/proc/<pid>/stat`.
fn zombies(proc: &Path) -> BTreeSet<i32> {
    let Ok(entries) = std::fs::read_dir(proc) else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(proc.join(pid.to_string()).join("stat"));
            stat.is_ok_and(|stat| is_dead_child(&stat))
        })
        .collect()
}

/// The fields after the name, which may hold anything: state, then parent (proc_pid_stat(5)).
fn is_dead_child(stat: &str) -> bool {
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return false;
    };
    let mut fields = rest.split_whitespace();
    fields.next() == Some("Z") && fields.next() == Some("1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{Id, waitid};

    #[test]
    fn dead_children_are_told_from_others() {
        assert!(is_dead_child("12 (a) b) Z 1 12 12 0"));
        assert!(!is_dead_child("12 (sh) S 1 12 12 0"));
        assert!(!is_dead_child("12 (sh) Z 2 12 12 0"));
        assert!(!is_dead_child(""));
    }

    #[expect(
        clippy::zombie_processes,
        reason = "the reaper under test is who waits for it"
    )]
    #[tokio::test]
    async fn a_child_we_wait_for_is_never_collected() {
        let (mut ours, held) = Ours::spawn(Command::new("sh").args(["-c", "exit 7"])).unwrap();
        let orphan = std::process::Command::new("true").spawn().unwrap();
        let pids = [ours.id().unwrap(), orphan.id()].map(|pid| i32::try_from(pid).unwrap());
        for pid in pids {
            // Peeks: the child stays to be waited for.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            waitid(Id::Pid(Pid::from_raw(pid)), flags).unwrap();
        }
        collect(&pids.into());
        assert_eq!(ours.wait().await.unwrap().code(), Some(7));
        let gone = waitpid(Pid::from_raw(pids[1]), Some(WaitPidFlag::WNOHANG));
        assert_eq!(gone, Err(nix::errno::Errno::ECHILD));
        drop(held);
        assert!(!super::ours().contains(&pids[0]));
    }
}
