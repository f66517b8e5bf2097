//! `carrickctl status`: how the network is, problems first.

pub mod diagnose;
pub mod problem;
pub mod report;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, interval_at};

use crate::connect::Cluster;
use crate::exit::Exit;
use crate::output::{self, Format};
use crate::snapshot;
use report::Report;

/// How often `--watch` and `--wait` look. Reading costs a handful of lists.
const INTERVAL: Duration = Duration::from_secs(2);

/// Arguments of `carrickctl status`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Format,
    /// Go on, and print again whenever something changed, until Ctrl-C.
    #[arg(long, short, conflicts_with = "wait")]
    pub watch: bool,
    /// Wait until the network is healthy, then print once.
    #[arg(long)]
    pub wait: bool,
    /// The most time --wait takes.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = crate::time::parse)]
    pub timeout: Duration,
}

/// Runs it.
///
/// # Errors
/// What cannot be read or printed. A watch survives an API server that is away for a while.
pub async fn run(cluster: &Cluster, args: &Args) -> anyhow::Result<Exit> {
    if args.watch {
        watch(cluster, args.output).await
    } else if args.wait {
        wait(cluster, args).await
    } else {
        let report = read(cluster).await?;
        print(args.output, &report)?;
        Ok(Exit::healthy(report.healthy))
    }
}

async fn read(cluster: &Cluster) -> anyhow::Result<Report> {
    Ok(report::report(
        &snapshot::read(cluster).await?,
        Timestamp::now(),
    ))
}

fn print(format: Format, report: &Report) -> anyhow::Result<()> {
    Ok(output::print(format, report, || {
        report.text(Timestamp::now())
    })?)
}

async fn watch(cluster: &Cluster, format: Format) -> anyhow::Result<Exit> {
    let mut last: Option<Report> = None;
    let mut failing = false;
    let mut ticks = interval_at(Instant::now(), INTERVAL);
    loop {
        ticks.tick().await;
        let report = match read(cluster).await {
            Ok(report) => report,
            Err(error) if last.is_some() => {
                if !failing {
                    output::say(&format!("cannot read now, trying again: {error:#}"));
                }
                failing = true;
                continue;
            }
            Err(error) => return Err(error),
        };
        failing = false;
        if last.as_ref() == Some(&report) {
            continue;
        }
        if format == Format::Table {
            let now = jiff::Timestamp::now().round(jiff::Unit::Second)?;
            output::out(&format!(
                "{}--- {now}\n",
                if last.is_some() { "\n" } else { "" }
            ))?;
        } else if format == Format::Yaml && last.is_some() {
            output::out("---\n")?;
        }
        print(format, &report)?;
        last = Some(report);
    }
}

async fn wait(cluster: &Cluster, args: &Args) -> anyhow::Result<Exit> {
    let deadline = Instant::now() + args.timeout;
    let mut ticks = interval_at(Instant::now(), INTERVAL);
    let mut said = String::new();
    loop {
        ticks.tick().await;
        let read = read(cluster).await;
        let over = Instant::now() >= deadline;
        let reason = match &read {
            Ok(report) if report.healthy || over => {
                print(args.output, report)?;
                if !report.healthy {
                    output::say(&format!("not healthy within {:?}", args.timeout));
                }
                return Ok(Exit::healthy(report.healthy));
            }
            Err(_) if over => return read.map(|_| Exit::Failed),
            Ok(report) => report
                .problems
                .first()
                .map(|problem| format!("waiting: {}: {}", problem.place(), problem.what))
                .unwrap_or_default(),
            Err(error) => format!("waiting: {error:#}"),
        };
        if reason != said {
            output::say(&reason);
            said = reason;
        }
    }
}
