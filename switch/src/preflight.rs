//! Whether this host can run our Open vSwitch.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::tool;

/// How long the supervisor before us may take to end.
const HANDOVER: Duration = Duration::from_secs(20);

/// The run directory, held against a second supervisor as long as this value lives.
#[derive(Debug)]
pub(crate) struct RunDir {
    _lock: Flock<File>,
}

/// Makes the run directory and locks it, waiting for a supervisor that is about to end.
pub(crate) async fn hold(run_dir: &Path) -> Result<RunDir, PreflightError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| PreflightError::RunDir { path, source }
    };
    std::fs::create_dir_all(run_dir).map_err(fail(run_dir))?;
    let path = run_dir.join("supervisor.lock");
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
    };
    let mut file = open().map_err(fail(&path))?;
    let start = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(RunDir { _lock: lock }),
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(fail(&path)(errno.into())),
        }
        if start.elapsed() > HANDOVER {
            return Err(PreflightError::Held { path });
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Ends daemons that a killed supervisor left in our own run directory. In a container there are
/// none: they die with process 1.
pub(crate) async fn end_leftovers(run_dir: &Path) {
    for daemon in ["ovs-vswitchd", "ovsdb-server"] {
        let control = run_dir.join(format!("{daemon}.ctl"));
        // A socket nobody listens on is only a file: no process is started for it.
        if std::os::unix::net::UnixStream::connect(&control).is_err() {
            continue;
        }
        let args = [
            "--timeout=5".as_ref(),
            "-t".as_ref(),
            control.as_os_str(),
            "exit".as_ref(),
        ];
        match tool::run("ovs-appctl", &args).await {
            Ok(_) => {
                warn!(daemon, "a daemon was left from before and has been ended");
                // Its answer comes before its end; the socket is closed by the end.
                let start = Instant::now();
                while std::os::unix::net::UnixStream::connect(&control).is_ok()
                    && start.elapsed() < HANDOVER
                {
                    sleep(Duration::from_millis(20)).await;
                }
            }
            Err(error) => debug!(daemon, %error, "no daemon left from before"),
        }
    }
}

/// Refuses a network namespace in which another ovs-vswitchd runs. `/proc/net/unix` lists the
/// sockets of the namespace whatever process and mount namespace they are in.
pub(crate) fn refuse_other_switch(run_dir: &Path) -> Result<(), PreflightError> {
    let path = Path::new("/proc/net/unix");
    let sockets = std::fs::read(path).map_err(|source| PreflightError::Sockets {
        path: path.to_owned(),
        source,
    })?;
    match foreign_control_socket(&String::from_utf8_lossy(&sockets), run_dir) {
        None => Ok(()),
        Some(socket) => Err(PreflightError::OtherSwitch { socket }),
    }
}

/// The control socket of an ovs-vswitchd that is not ours, of those `/proc/net/unix` lists.
fn foreign_control_socket(sockets: &str, run_dir: &Path) -> Option<PathBuf> {
    sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .map(Path::new)
        .filter(|path| path.parent() != Some(run_dir))
        .find(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(|name| name.strip_prefix("ovs-vswitchd."))
                .is_some_and(|rest| {
                    Path::new(rest).extension().is_some_and(|e| e == "ctl") || rest == "ctl"
                })
        })
        .map(Path::to_owned)
}

/// Loads the kernel's datapath where we may. Otherwise the kernel loads it when ovs-vswitchd asks
/// for its netlink family; where neither works the agent says so when it needs it.
pub(crate) async fn load_module() {
    if Path::new("/sys/module/openvswitch").exists() {
        return;
    }
    match tool::run("modprobe", &["openvswitch"]).await {
        Ok(_) => info!("loaded the kernel module openvswitch"),
        Err(error) => debug!(%error, "the kernel module openvswitch was not loaded here"),
    }
}

/// Raises the limit of open files to the hard limit: ovs-vswitchd needs some per port.
pub(crate) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        } else {
            Ok(())
        }
    });
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

/// Why this host cannot run our Open vSwitch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreflightError {
    #[error("cannot use the run directory: {}", path.display())]
    RunDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another supervisor holds {} and does not end; stop it first", path.display())]
    Held { path: PathBuf },
    #[error("cannot read {}", path.display())]
    Sockets {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "this host already runs an Open vSwitch of its own (its control socket is {}), and two would \
         remove each other's ports. Stop and disable it (on Debian: systemctl disable --now \
         openvswitch-switch), or take this node out of Carrick",
        socket.display()
    )]
    OtherSwitch { socket: PathBuf },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_switch_is_found_by_its_control_socket() {
        let own = Path::new("/run/carrick/openvswitch");
        let header = "Num RefCount Protocol Flags Type St Inode Path\n";
        let line = |path: &str| format!("ffff: 00000002 00000000 00010000 0001 01 1234 {path}\n");
        let found = |paths: &[&str]| {
            let lines: String = paths.iter().map(|path| line(path)).collect();
            foreign_control_socket(&format!("{header}{lines}"), own)
        };
        assert_eq!(found(&[]), None);
        let ours = "/run/carrick/openvswitch/ovs-vswitchd.ctl";
        assert_eq!(
            found(&[ours, "/run/openvswitch/db.sock", "@abstract", ""]),
            None
        );
        let theirs = "/var/run/openvswitch/ovs-vswitchd.812.ctl";
        assert_eq!(found(&[ours, theirs]), Some(PathBuf::from(theirs)));
        assert!(found(&["/elsewhere/ovs-vswitchd.ctl"]).is_some());
        assert_eq!(found(&["/run/openvswitch/ovsdb-server.7.ctl"]), None);
    }
}
