//! Adds a thousand ports to a real switch: ours, each its own transaction and all in one, against
//! `ovs-vsctl` once per port. Prints an array of figures as `cargo xtask bench ovsdb --json` does.
//!
//! ```text
//! cargo run --release -p carrick-ovsdb --example bench_ports -- [PORTS]
//! ```

#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carrick_ovsdb::desired::{BridgeConfig, DatapathType, InterfaceType, PortConfig, SwitchConfig};
use carrick_ovsdb::switch::SwitchDb;
use carrick_testkit::ovs::{Datapath, Ovs};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

const BRIDGE: &str = "br-int";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let ports = std::env::args()
        .nth(1)
        .map_or(Ok(1000), |text| text.parse())?;
    let (each, cpu) = ours_each(ports).await.context("ours, one by one")?;
    let all = ours_at_once(ports).await.context("ours, at once")?;
    let vsctl = vsctl_each(ports).context("ovs-vsctl, one by one")?;
    let vsctl_all = vsctl_at_once(ports).context("ovs-vsctl, at once")?;
    let figures = [
        figure(
            &format!("{ports} ports, a transaction each"),
            each,
            vsctl,
            1.7,
        ),
        figure(&format!("{ports} ports, one transaction"), all, vsctl, 10.0),
        figure(
            &format!("{ports} ports, one transaction each side"),
            all,
            vsctl_all,
            1.0,
        ),
        json!({"name": "client CPU of a transaction each", "unit": "% of wall",
            "ours": round(cpu.as_secs_f64() / each.as_secs_f64() * 100.0), "peer": null, "ratio": null,
            "goal": 5.0, "met": cpu.as_secs_f64() <= 0.05 * each.as_secs_f64()}),
    ];
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn figure(name: &str, ours: Duration, peer: Duration, goal: f64) -> Value {
    let (ours, peer) = (ours.as_secs_f64(), peer.as_secs_f64());
    let ratio = peer / ours;
    json!({"name": name, "unit": "s", "ours": round(ours), "peer": round(peer), "ratio": round(ratio),
        "goal": goal, "met": ratio >= goal})
}

fn port(number: usize) -> PortConfig {
    PortConfig::new(format!("p{number}"), InterfaceType::Internal)
}

fn config(ports: usize) -> SwitchConfig {
    let mut bridge = BridgeConfig::new(BRIDGE, DatapathType::Netdev);
    bridge.ports = (0..ports).map(port).collect();
    SwitchConfig {
        bridges: vec![bridge],
        ..SwitchConfig::default()
    }
}

fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec().try_into().unwrap_or(0), 0)
            + Duration::from_micros(time.tv_usec().try_into().unwrap_or(0))
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

async fn ours_each(ports: usize) -> Result<(Duration, Duration)> {
    let ovs = Ovs::start()?;
    let switch = SwitchDb::connect(ovs.db_socket()).await?;
    switch.apply(config(0)).await?;
    let (start, used) = (Instant::now(), cpu()?);
    for number in 0..ports {
        switch.add_port(BRIDGE, port(number)).await?;
    }
    Ok((start.elapsed(), cpu()?.saturating_sub(used)))
}

async fn ours_at_once(ports: usize) -> Result<Duration> {
    let ovs = Ovs::start()?;
    let switch = SwitchDb::connect(ovs.db_socket()).await?;
    switch.apply(config(0)).await?;
    let start = Instant::now();
    let applied = switch.apply(config(ports)).await?;
    ensure!(applied.failed.is_empty(), "{:?}", applied.failed);
    Ok(start.elapsed())
}

fn vsctl_each(ports: usize) -> Result<Duration> {
    let ovs = Ovs::start()?;
    ovs.add_bridge(BRIDGE, Datapath::Userspace)?;
    let start = Instant::now();
    for number in 0..ports {
        let name = format!("p{number}");
        ovs.vsctl(&[
            "add-port",
            BRIDGE,
            &name,
            "--",
            "set",
            "int",
            &name,
            "type=internal",
        ])?;
    }
    Ok(start.elapsed())
}

fn vsctl_at_once(ports: usize) -> Result<Duration> {
    let ovs = Ovs::start()?;
    ovs.add_bridge(BRIDGE, Datapath::Userspace)?;
    let names: Vec<String> = (0..ports).map(|number| format!("p{number}")).collect();
    let mut args = Vec::new();
    for name in &names {
        args.extend([
            "--",
            "add-port",
            BRIDGE,
            name,
            "--",
            "set",
            "int",
            name,
            "type=internal",
        ]);
    }
    let start = Instant::now();
    ovs.vsctl(&args)?;
    Ok(start.elapsed())
}
