//! Whether this host can run our Open vSwitch.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use carrick_api::names::link;
use carrick_ovsdb::foreign::{self, Foreign, Places};
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

/// Refuses a host that has an Open vSwitch of its own.
pub(crate) fn refuse_other_switch(run_dir: &Path) -> Result<(), PreflightError> {
    let mut ours = vec![run_dir.to_owned()];
    ours.extend(run_dir.canonicalize());
    let places = Places::of_host(&ours, link::is_switch_port);
    match foreign::find(&places) {
        Ok(None) => Ok(()),
        Ok(Some(found)) => Err(PreflightError::OtherSwitch(found)),
        Err(source) => Err(PreflightError::Sockets {
            path: places.sockets.to_owned(),
            source,
        }),
    }
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
    #[error("{0}")]
    OtherSwitch(Foreign),
}
