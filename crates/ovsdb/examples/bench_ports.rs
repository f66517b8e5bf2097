//! Adds a thousand ports to a real switch: ours, each its own transaction and all in one, against
//! `ovs-vsctl` once per port and the Python client. For `cargo xtask bench ovsdb`: an array of JSON
//! objects.
//!
//! ```text
//! cargo run --release -p carrick-ovsdb --example bench_ports -- PYTHON [PORTS]
//! ```
//!
//! `PYTHON` knows the `ovs` client (`cargo xtask tools` installs it).

#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carrick_ovsdb::desired::{BridgeConfig, DatapathType, InterfaceType, PortConfig, SwitchConfig};
use carrick_ovsdb::switch::SwitchDb;
use carrick_testkit::figure::{Goal, figure};
use carrick_testkit::ovs::{Datapath, Ovs, SCHEMA};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::Value;

const BRIDGE: &str = "br-int";
/// Ports that are added before it is another's turn.
const TURN: u32 = 50;

/// What a client needed.
#[derive(Debug, Clone, Copy)]
struct Cost {
    wall: f64,
    cpu: f64,
}

impl Cost {
    const NONE: Self = Self {
        wall: 0.0,
        cpu: 0.0,
    };

    fn add(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }

    /// Time on a core in percent of the wall.
    fn percent(self) -> f64 {
        self.cpu / self.wall * 100.0
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut args = std::env::args_os().skip(1);
    let usage = "usage: bench_ports PYTHON [PORTS], an interpreter that knows the `ovs` client";
    let python = PathBuf::from(args.next().context(usage)?);
    let ports = match args.next() {
        None => 1000,
        Some(text) => text
            .to_str()
            .and_then(|text| text.parse().ok())
            .context(usage)?,
    };
    let (each, idl, vsctl) = one_by_one(&python, ports).await?;
    let all = ours_at_once(ports).await.context("ours, at once")?;
    let speed = |cost: Cost| f64::from(ports) / cost.wall;
    let figures = [
        figure(
            &format!("{ports} ports, a transaction each until cur_cfg (peer: ovs-vsctl per port)"),
            "ports/s",
            speed(each),
            Some(speed(vsctl)),
            Goal::RatioAtLeast(1.7),
        ),
        figure(
            &format!("{ports} ports, a transaction each until cur_cfg (peer: Python ovs)"),
            "ports/s",
            speed(each),
            Some(speed(idl)),
            Goal::RatioAtLeast(1.0),
        ),
        figure(
            &format!("{ports} ports, one transaction until cur_cfg (peer: ovs-vsctl per port)"),
            "ports/s",
            speed(all),
            Some(speed(vsctl)),
            Goal::RatioAtLeast(10.0),
        ),
        figure(
            "client CPU with a transaction each (peer: Python ovs)",
            "% of wall",
            each.percent(),
            Some(idl.percent()),
            Goal::OursAtMost(5.0),
        ),
    ];
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

fn port(number: u32) -> PortConfig {
    PortConfig::new(format!("p{number}"), InterfaceType::Internal)
}

fn config(ports: u32) -> SwitchConfig {
    let mut bridge = BridgeConfig::new(BRIDGE, DatapathType::Netdev);
    bridge.ports = (0..ports).map(port).collect();
    SwitchConfig {
        bridges: vec![bridge],
        ..SwitchConfig::default()
    }
}

/// Time of this process on a core.
fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let microseconds =
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(microseconds.try_into()?))
}

/// Ours, the Python client and `ovs-vsctl`, each on a switch of its own (it gets slower with every
/// port), a few ports each in turns: what else runs on the machine slows all alike.
async fn one_by_one(python: &Path, ports: u32) -> Result<(Cost, Cost, Cost)> {
    let switches = [Ovs::start()?, Ovs::start()?, Ovs::start()?];
    for ovs in &switches {
        ovs.add_bridge(BRIDGE, Datapath::Userspace)?;
    }
    let [mine, idls, vsctls] = &switches;
    let switch = SwitchDb::connect(mine.db_socket()).await?;
    let (mut each, mut idl, mut vsctl) = (Cost::NONE, Cost::NONE, Cost::NONE);
    let mut first = 0;
    while first < ports {
        let turn = first..ports.min(first + TURN);
        each.add(
            ours(&switch, turn.clone())
                .await
                .context("ours, one by one")?,
        );
        idl.add(with_python(idls, python, turn.clone()).context("the Python client")?);
        vsctl.add(with_vsctl(vsctls, turn).context("ovs-vsctl, one by one")?);
        first += TURN;
    }
    Ok((each, idl, vsctl))
}

async fn ours(switch: &SwitchDb, numbers: Range<u32>) -> Result<Cost> {
    let (start, used) = (Instant::now(), cpu()?);
    for number in numbers {
        switch.add_port(BRIDGE, port(number)).await?;
    }
    let (wall, cpu) = (start.elapsed(), cpu()?.saturating_sub(used));
    Ok(Cost {
        wall: wall.as_secs_f64(),
        cpu: cpu.as_secs_f64(),
    })
}

async fn ours_at_once(ports: u32) -> Result<Cost> {
    let ovs = Ovs::start()?;
    let switch = SwitchDb::connect(ovs.db_socket()).await?;
    switch.apply(config(0)).await?;
    let (start, used) = (Instant::now(), cpu()?);
    let applied = switch.apply(config(ports)).await?;
    let (wall, cpu) = (start.elapsed(), cpu()?.saturating_sub(used));
    ensure!(applied.failed.is_empty(), "{:?}", applied.failed);
    Ok(Cost {
        wall: wall.as_secs_f64(),
        cpu: cpu.as_secs_f64(),
    })
}

fn with_vsctl(ovs: &Ovs, numbers: Range<u32>) -> Result<Cost> {
    let start = Instant::now();
    for number in numbers {
        let name = format!("p{number}");
        let internal = ["--", "set", "int", &name, "type=internal"];
        ovs.vsctl(&[["add-port", BRIDGE, &name].as_slice(), &internal].concat())?;
    }
    // Time on a core is not asked for: mostly it is that of starting a process.
    Ok(Cost {
        wall: start.elapsed().as_secs_f64(),
        cpu: 0.0,
    })
}

fn with_python(ovs: &Ovs, python: &Path, numbers: Range<u32>) -> Result<Cost> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bench_ports.py");
    let count = numbers.end - numbers.start;
    let output = Command::new(python)
        .arg(script)
        .arg(ovs.db_socket())
        .args([
            SCHEMA,
            BRIDGE,
            &numbers.start.to_string(),
            &count.to_string(),
        ])
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let cost: Value = serde_json::from_slice(&output.stdout)?;
    let value = |name: &str| {
        cost.get(name)
            .and_then(Value::as_f64)
            .context("the client's figures")
    };
    Ok(Cost {
        wall: value("wall")?,
        cpu: value("cpu")?,
    })
}
