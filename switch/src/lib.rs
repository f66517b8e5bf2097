//! The switch supervisor, `carrick switch`: runs Open vSwitch and restores the last committed flows.
//!
//! It is the main process of the DaemonSet `carrick-ovs`. It starts ovsdb-server and ovs-vswitchd in
//! a run directory of their own, keeps them running, and after each start of ovs-vswitchd replays
//! what the agent last committed, so that forwarding does not need the agent.
//!
//! # One start
//!
//! 1. *Preflight*: another Open vSwitch in this network namespace is refused (two would remove each
//!    other's ports), and ports that one left in the kernel's datapath; a lock on the run directory
//!    keeps out a second supervisor.
//! 2. *Database*: `conf.db` lies in the run directory, which is on tmpfs: it outlives the container
//!    but not a reboot. It is created, converted to this version's schema (newer or older), or, when
//!    it is of another boot or cannot be read, set aside.
//! 3. ovsdb-server starts.
//! 4. *Mark*: `external_ids:carrick-start=<id>` is set and `carrick-restored` removed, in one
//!    transaction, before ovs-vswitchd starts. From here the agent may not write. On the kernel
//!    datapath, when there is a commit to replay, `other_config:flow-restore-wait` is set too.
//! 5. ovs-vswitchd starts.
//! 6. *Replay*: meters one by one, then groups and flows as one bundle, within a deadline. When it is
//!    then not known what came of it, this ovs-vswitchd is ended and the next one released without a
//!    replay: what was sent could otherwise take effect beside the agent's writing.
//! 7. *Release*: `flow-restore-wait` is removed, ovs-vswitchd acts on it, and `carrick-restored=<id>`
//!    is set. The supervisor writes no more flows; `/readyz` says 200.
//!
//! When ovs-vswitchd ends it goes on at 4, when ovsdb-server ends at 3 without the rest, with growing
//! pauses. Too many short lives in a row end the supervisor: the kubelet starts it again and shows
//! why. [`carrick_ovsdb::handover`] says why the marks suffice for one writer at a time.
//!
//! # Stopping
//!
//! SIGTERM and SIGINT end ovs-vswitchd, then ovsdb-server, by SIGTERM: without `exit --cleanup`, so
//! that the kernel datapath keeps its ports and flows and goes on forwarding what it knows.
//!
//! # What the container needs
//!
//! - `hostNetwork`; user 0; capabilities `NET_ADMIN` and `NET_RAW` and no others; not privileged; no
//!   host PID namespace. (`SYS_MODULE` is not needed: asking for the datapath's netlink family makes
//!   the kernel load `openvswitch`. With it, the supervisor also runs `modprobe`. `IPC_LOCK`,
//!   `SYS_NICE` and `SYS_RESOURCE` are not needed: memory is not locked, priorities are not raised,
//!   and the limit of open files is only raised to the hard limit.)
//! - `/run/carrick` of the host, writable; `/dev/net/tun` for the userspace datapath; `/lib/modules`
//!   read-only, only with `SYS_MODULE`.
//! - Probes: `GET 127.0.0.1:11253` `/livez` and `/readyz`; metrics at `/metrics`.
//! - At least 10 s of grace when it is stopped.
//!
//! # Tasks
//!
//! | task | inputs | ends |
//! |---|---|---|
//! | supervisor (the caller's) | signals, ends of children | by a signal or an error |
//! | `ovsdb-server` keeper | its end | when the supervisor says so |
//! | log readers, one per child | its standard error | with the child |
//! | HTTP | requests on loopback | with the supervisor |
//! | reaper, as process 1 only | SIGCHLD | with the supervisor |

mod child;
mod database;
mod health;
mod keeper;
mod metrics;
mod preflight;
mod reaper;
mod restore;
mod supervisor;
mod tool;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use carrick_api::names;
use tracing_subscriber::EnvFilter;

/// Arguments of `carrick switch`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Open vSwitch's run directory: sockets, pid files and the database.
    #[arg(long, env = "CARRICK_OVS_RUN_DIR", default_value = names::path::OVS_RUN_DIR)]
    pub run_dir: PathBuf,
    /// The agent's last commit.
    #[arg(long, env = "CARRICK_COMMIT_FILE", default_value = names::path::COMMIT_FILE)]
    pub commit_file: PathBuf,
    /// The schema of the Open vSwitch installed.
    #[arg(long, default_value = "/usr/share/openvswitch/vswitch.ovsschema")]
    pub schema: PathBuf,
    /// Where health and metrics are served.
    #[arg(long, default_value_t = SocketAddr::from(([127, 0, 0, 1], names::port::SWITCH_HTTP)))]
    pub http: SocketAddr,
    /// Seconds the replay may take before the switch is released without it.
    #[arg(long, default_value_t = 15)]
    pub restore_deadline: u64,
    /// Log level (error, warn, info, debug, trace) or a filter of tracing-subscriber.
    #[arg(long, env = "CARRICK_LOG", default_value = "info")]
    pub log_level: String,
    /// The running kernel's boot id.
    #[arg(long, hide = true, default_value = "/proc/sys/kernel/random/boot_id")]
    pub boot_id: PathBuf,
}

impl Args {
    fn restore_deadline(&self) -> Duration {
        Duration::from_secs(self.restore_deadline)
    }
}

/// Runs the switch until a signal ends it.
///
/// # Errors
/// When this host cannot run it (the message says what to do), or when Open vSwitch does not stay
/// up.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log_level)
        .with_context(|| format!("{:?} is no log level or filter", args.log_level))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .try_init()
        .map_err(|error| anyhow::anyhow!(error))
        .context("cannot start logging")?;
    supervisor::run(args).await.map_err(anyhow::Error::from)
}
