//! The supervisor alone, without the multi-call binary: what the integration tests start.

use clap::Parser;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: carrick_switch::Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    carrick_switch::run(Cli::parse().args).await
}
