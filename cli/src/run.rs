//! From the command line to an exit code.

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};
use crate::connect::{Cluster, advice, as_kube};
use crate::exit::Exit;
use crate::output::{self, OutputError, say};
use crate::table::clean;
use crate::{check, explain, get, inspect, status, uninstall, version};

/// Parses, runs, tells errors. The caller has installed a TLS provider.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    telemetry(cli.verbose);
    let result = Box::pin(command(&cli)).await;
    match result {
        Ok(exit) => exit,
        Err(error) if is_broken_pipe(&error) => Exit::Well,
        Err(error) => {
            say(&format!("carrickctl: {}", clean(&words(&error))));
            let endpoint = match Cluster::new(&cli.connect).await {
                Ok(cluster) => cluster.endpoint,
                Err(_) => "the kubeconfig's address".to_owned(),
            };
            if let Some(advice) = advice(error.as_ref(), &endpoint) {
                say(&format!("  try: {advice}"));
            }
            Exit::Failed
        }
    }
}

async fn command(cli: &Cli) -> anyhow::Result<Exit> {
    let cluster = || Cluster::new(&cli.connect);
    match &cli.command {
        Command::Status(args) => status::run(&cluster().await?, args).await,
        Command::Check(args) => check::run(&cluster().await?, args).await,
        Command::Get(args) => get::run(&cluster().await?, args).await,
        Command::Explain(args) => {
            let question = args.question()?;
            explain::run(&cluster().await?, &question, args.output).await
        }
        Command::Inspect(args) => inspect::inspect(&cluster().await?, args).await,
        Command::Flows(args) => inspect::flows(&cluster().await?, args).await,
        Command::Uninstall(args) => uninstall::run(&cluster().await?, args).await,
        Command::Version(args) => version::run(cluster(), args).await,
    }
}

/// clap's own exit code for wrong usage is 2, which is taken here for "not well".
fn usage(error: &clap::Error) -> Exit {
    // A closed pipe is all that can go wrong.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Well,
        _ => Exit::Failed,
    }
}

/// Logs of the libraries go to standard error, and only when asked for.
fn telemetry(verbose: u8) {
    let level = match verbose {
        0 => "off",
        1 => "info,kube=debug",
        _ => "debug",
    };
    // Somebody else's subscriber (tests) is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .try_init();
}

/// The chain of causes. Some libraries repeat their causes in their own words: those are told once.
fn words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let refusal = as_kube(cause).and_then(|error| match error {
            kube::Error::Api(status) => Some(status.message.clone()),
            _ => None,
        });
        let last = refusal.is_some();
        let words = refusal.unwrap_or_else(|| cause.to_string());
        if !text.contains(&words) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&words);
        }
        if last {
            break;
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<OutputError>()
            .is_some_and(output::OutputError::is_broken_pipe)
            || cause
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
