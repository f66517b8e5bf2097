//! The figures of OpenFlow, for `cargo xtask bench openflow`: an array of JSON objects.
//!
//! ```text
//! cargo run --release -p carrick-openflow --features connection --example bench -- PYTHON
//! ```
//!
//! `PYTHON` knows os-ken (`cargo xtask tools` installs it). The switch is a private one, in a network
//! namespace of its own.

#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

mod clock;
mod codec;
mod flows;
mod switch;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use carrick_openflow::connection::{Config, Connection};
use carrick_testkit::ovs::{Datapath, Ovs};

/// Flows in the switch: what a large node has.
const FLOWS: u32 = 100_000;

#[tokio::main]
async fn main() -> Result<()> {
    let python = std::env::args_os()
        .nth(1)
        .context("usage: bench PYTHON, an interpreter that knows os-ken")?;
    let mut figures = codec::figures(&PathBuf::from(python))?;
    let ovs = Ovs::start()?;
    ovs.add_bridge("br-bench", Datapath::Userspace)?;
    let (connection, packets, notices, driver) = Connection::new(Config::new(ovs.mgmt("br-bench")));
    drop((packets, notices));
    let driver = tokio::spawn(driver.run());
    connection.connected().await?;
    figures.extend(switch::figures(&connection, &ovs, FLOWS).await?);
    drop(connection);
    driver.await?;
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}
