//! `cargo xtask chaos`: faults drawn at random, under continuous traffic.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use carrick_e2e::chaos::event::{Event, Shape};
use carrick_e2e::chaos::run::{self, Afterwards, Plan};
use carrick_e2e::chaos::sequence::Sequence;
use carrick_testbed::NodeKind;

/// Arguments of `chaos`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For how many minutes events begin; the last one is waited for.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Which events come: the same ones for the same seed, number of nodes and kind.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    nodes: u8,
    /// Nodes with kernels of their own: the kernel datapath, power failures, full disks, clocks.
    #[arg(long)]
    kernel: bool,
    /// Leave the cluster (its name is chaos) when all is done.
    #[arg(long)]
    keep: bool,
    /// Print the first so many events and start nothing.
    #[arg(long, value_name = "COUNT")]
    list: Option<usize>,
}

/// Runs it; fails when something did not hold.
pub fn run(args: &Args) -> Result<ExitCode> {
    let shape = Shape {
        nodes: usize::from(args.nodes),
        kind: if args.kernel {
            NodeKind::Kernel
        } else {
            NodeKind::Namespace
        },
    };
    if let Some(count) = args.list {
        let events = Sequence::new(args.seed, shape).take(count);
        let lines: Vec<String> = events.map(|event: Event| event.to_string()).collect();
        crate::print(lines.join("\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let afterwards = if args.keep {
        Afterwards::Keep
    } else {
        Afterwards::Down
    };
    let plan = Plan {
        time: Duration::from_mins(args.minutes),
        seed: args.seed,
        shape,
    };
    run::run(&plan, afterwards)?;
    Ok(ExitCode::SUCCESS)
}
