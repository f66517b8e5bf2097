//! Starts the supervisor again and again and measures from its start until the agent's last commit
//! is in the switch. Prints an array of figures as `cargo xtask bench ovsdb --json` does.
//!
//! ```text
//! cargo build --release -p carrick-switch && \
//! cargo run --release -p carrick-switch --example bench_restart -- target/release/carrick-switch [FLOWS] [TIMES]
//! ```

#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carrick_ovsdb::client::{Client, Options};
use carrick_ovsdb::desired::{BridgeConfig, DatapathType, InterfaceType, PortConfig, SwitchConfig};
use carrick_ovsdb::handover;
use carrick_ovsdb::rows::{OpenVSwitch, switch_request};
use carrick_ovsdb::switch::SwitchDb;
use carrick_testkit::figure::{Goal, figure};
use carrick_testkit::ovs::{Ovs, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let program = PathBuf::from(args.next().context("the supervisor's program is missing")?);
    let flows: usize = args.next().map_or(Ok(10_000), |text| text.parse())?;
    let times: usize = args.next().map_or(Ok(20), |text| text.parse())?;
    let ovs = Ovs::empty()?;
    fs::write(ovs.run_dir().join("test-boot-id"), "boot-1")?;

    let mut child = start(&ovs, &program)?;
    released(&ovs, None).await?;
    let switch = SwitchDb::connect(ovs.db_socket()).await?;
    let mut bridge = BridgeConfig::new("br-int", DatapathType::Netdev);
    bridge
        .ports
        .push(PortConfig::new("gw0", InterfaceType::Internal));
    switch
        .apply(SwitchConfig {
            bridges: vec![bridge],
            ..SwitchConfig::default()
        })
        .await?;
    drop(switch);
    fs::write(ovs.run_dir().join("commit.json"), commit(flows).to_string())?;

    let mut took = Vec::new();
    for _ in 0..times {
        let before = ovs.vsctl(&["get", "Open_vSwitch", ".", "external_ids:carrick-start"])?;
        stop(&mut child)?;
        let begun = Instant::now();
        child = start(&ovs, &program)?;
        released(&ovs, Some(before.trim().trim_matches('"'))).await?;
        took.push(begun.elapsed());
        let result = ovs.vsctl(&[
            "get",
            "Open_vSwitch",
            ".",
            "external_ids:carrick-restore-result",
        ])?;
        ensure!(
            result.contains(&format!("restored {flows} flows")),
            "{result}"
        );
    }
    stop(&mut child)?;
    took.sort();
    let p95 = took
        .get((took.len() * 95).div_ceil(100).saturating_sub(1))
        .copied()
        .unwrap_or_default();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    let figure = |name: &str, value: Duration| {
        let name = format!("switch restart until {flows} flows are back, {name} of {times}");
        figure(&name, "s", value.as_secs_f64(), None, Goal::OursAtMost(0.5))
    };
    println!(
        "{}",
        serde_json::to_string_pretty(&[figure("p95", p95), figure("median", median)])?
    );
    Ok(())
}

fn start(ovs: &Ovs, program: &PathBuf) -> Result<Child> {
    let file = |name: &str| ovs.run_dir().join(name);
    let log = fs::File::create(file("supervisor.log"))?;
    let mut command = ovs.command(program);
    command
        .arg("--run-dir")
        .arg(ovs.run_dir())
        .arg("--commit-file")
        .arg(file("commit.json"));
    command
        .arg("--boot-id")
        .arg(file("test-boot-id"))
        .stdout(log)
        .stderr(Stdio::inherit());
    Ok(command.spawn()?)
}

fn stop(child: &mut Child) -> Result<()> {
    kill(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM)?;
    wait("the supervisor to end", || {
        child.try_wait().is_ok_and(|status| status.is_some())
    })
}

/// Waits until a start other than `before` is released.
async fn released(ovs: &Ovs, before: Option<&str>) -> Result<()> {
    let pause = Duration::from_millis(2);
    let options = Options {
        backoff: (pause, pause),
        ..Options::default()
    };
    let client = Client::connect_with(ovs.db_socket(), options).await?;
    let monitor = client.monitor(switch_request()).await?;
    let released = monitor.wait_for(|cache| {
        let id = handover::restored(&OpenVSwitch::one(cache)?)?;
        (Some(id.to_string().as_str()) != before).then_some(())
    });
    Ok(tokio::time::timeout(Duration::from_mins(1), released).await?)
}

fn commit(flows: usize) -> serde_json::Value {
    let flow = |number: usize| {
        let [_, high, middle, low] = u32::try_from(number).unwrap_or_default().to_be_bytes();
        format!(
            "cookie={number:#x}, table=30, priority=200,tcp,nw_src=10.{high}.{middle}.{low},tp_dst=80 \
             actions=set_field:0x100/0x100->reg0,goto_table:50"
        )
    };
    json!({"version": 1, "bootId": "boot-1", "datapath": "netdev", "bridge": "br-int",
        "flows": (0..flows).map(flow).collect::<Vec<_>>(), "groups": [], "meters": []})
}
