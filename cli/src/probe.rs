//! `carrick probe`: the two ends of the connectivity test, run inside pods by `carrickctl check`.
//!
//! ```text
//! serve    answers TCP and UDP on one port of each listed address with its name and the bytes sent
//! connect  asks a list of targets, prints one JSON line for each as it is answered
//! ```
//!
//! No ICMP: that needs a capability. Every byte from the network is hostile: headers have a fixed
//! size, an answer over UDP is never longer than its request, connections and their lifetime are
//! bounded.
//!
//! Tasks: `serve` starts one per address and protocol and one per connection; all end with the
//! process's signal. `connect` runs its targets in one task.

mod client;
mod server;
mod target;
mod wire;

use std::net::IpAddr;
use std::time::Duration;

use clap::Subcommand;

pub(crate) use client::AT_A_TIME;
pub use client::{Failure, Outcome, connect};
pub use server::{ServeError, serve};
pub use target::{Protocol, Target, TargetError};

/// The port of the pods' server when nothing else is asked for.
pub const DEFAULT_PORT: u16 = 11290;

/// Arguments of `carrick probe`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Which end.
    #[command(subcommand)]
    pub command: Command,
}

/// The ends.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Answer probes until SIGTERM.
    Serve(ServeArgs),
    /// Probe targets and print one JSON line for each.
    Connect(ConnectArgs),
}

/// Arguments of `carrick probe serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeArgs {
    /// Addresses to answer on, separated by commas. Each is bound by itself, so that an answer
    /// over UDP leaves by the address that was asked.
    #[arg(long, env = "PROBE_LISTEN", value_delimiter = ',', required = true)]
    pub listen: Vec<IpAddr>,
    /// Port for TCP and UDP.
    #[arg(long, env = "PROBE_PORT", default_value_t = DEFAULT_PORT)]
    pub port: u16,
    /// Name to answer with.
    #[arg(long, env = "POD_NAME", default_value = "probe")]
    pub name: String,
}

/// Arguments of `carrick probe connect`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectArgs {
    /// Time for each target, in milliseconds.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub timeout_ms: u64,
    /// What to probe: PROTOCOL/ADDRESS:PORT/BYTES with PROTOCOL tcp (BYTES are sent and must come
    /// back), udp (one datagram with BYTES of payload) or mtu (one packet of BYTES that nothing may
    /// fragment). Example: `tcp/10.0.1.2:11290/64`, `mtu/[fd00::2]:11290/1430`.
    #[arg(required = true)]
    pub targets: Vec<Target>,
}

/// Runs one end. `connect` prints its results and then fails if any target did.
///
/// # Errors
/// A listener that cannot be bound, standard output that cannot be written, a failed target.
pub async fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Serve(args) => {
            let token = carrick_k8s::shutdown::on_signal()?;
            server::serve(&args.listen, args.port, &args.name, token).await?;
        }
        Command::Connect(args) => {
            let total = args.targets.len();
            let limit = Duration::from_millis(args.timeout_ms);
            let failed = connect(args.targets, limit, |outcome| {
                let line = serde_json::to_string(outcome)?;
                crate::output::out(&format!("{line}\n"))?;
                anyhow::Ok(())
            })
            .await?;
            anyhow::ensure!(failed == 0, "{failed} of {total} targets failed");
        }
    }
    Ok(())
}
