//! `carrick`: one binary for every part that runs in a cluster.
//!
//! `carrick operator`, `carrick controller`, `carrick agent [cleanup]`, `carrick switch` and `carrick
//! probe`. Each is a library with `Args` and `run`; this file only chooses one, installs the one TLS provider and
//! turns an error into an exit code.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Carrick, a Kubernetes networking appliance.
#[derive(Debug, Parser)]
#[command(name = "carrick", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    component: Component,
}

/// The part to run.
#[derive(Debug, Subcommand)]
enum Component {
    /// The agent of one node, or the removal of everything it made there.
    Agent(carrick_agent::Args),
    /// What agents learn of nodes and pods from: a leader and its warm standby.
    Controller(carrick_controller::Args),
    /// Turns the Networking object into everything else and keeps it that way.
    Operator(carrick_operator::Args),
    /// Open vSwitch of one node: started, kept running and given the agent's last flows.
    Switch(carrick_switch::Args),
    /// The two ends of `carrickctl check`'s connectivity test.
    Probe(carrick_cli::probe::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The one place where a fatal error is told; the subscriber may not stand yet.
            tracing::error!(error = format!("{error:#}"), "ended with an error");
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("carrick: {error:#}\n").as_bytes(),
            );
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match cli.component {
            Component::Agent(args) => carrick_agent::run(args).await,
            Component::Controller(args) => carrick_controller::run(args).await,
            Component::Operator(args) => carrick_operator::run(args).await,
            Component::Switch(args) => carrick_switch::run(args).await,
            Component::Probe(args) => carrick_cli::probe::run(args).await,
        }
    })
}
