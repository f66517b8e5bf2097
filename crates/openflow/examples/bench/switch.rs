//! A real switch, against `ovs-ofctl` on the same socket in the same run.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use carrick_openflow::connection::Connection;
use carrick_openflow::{FlowFilter, FlowMod, Match, Mod, TableId};
use carrick_testkit::figure::{Goal, figure};
use carrick_testkit::ovs::Ovs;
use serde_json::Value;

use crate::{clock, flows};

/// Each is measured as often, in turns, and its best counts: the first run grows the switch's heap.
const ROUNDS: u32 = 3;

/// Installing and dumping `count` flows.
pub async fn figures(connection: &Connection, ovs: &Ovs, count: u32) -> Result<Vec<Value>> {
    let flows = flows::policies(count)?;
    let file = ovs.run_dir().join("bench.flows");
    let lines: Vec<String> = flows.iter().map(ToString::to_string).collect();
    std::fs::write(&file, lines.join("\n") + "\n")?;
    let (file, target) = (file.display().to_string(), ovs.target("br-bench"));
    let clear = [Mod::from(FlowMod::delete(TableId::ALL, Match::any()))];

    let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        connection.bundle(&clear).await?;
        let (wall, _) = ofctl(ovs, &["--bundle", "add-flows", &target, &file])?;
        theirs = theirs.min(wall);
        connection.bundle(&clear).await?;
        let start = Instant::now();
        let mods: Vec<Mod> = flows::adds(&flows).into_iter().map(Mod::from).collect();
        connection.bundle(&mods).await?;
        connection.barrier().await?;
        ours = ours.min(start.elapsed());
    }
    let rate = |time: Duration| f64::from(count) / time.as_secs_f64();
    let install = figure(
        "install 100,000 flows in one bundle (peer: ovs-ofctl --bundle add-flows)",
        "flows/s",
        rate(ours),
        Some(rate(theirs)),
        Goal::RatioAtLeast(0.95),
    );

    let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
    let (mut our_cpu, mut their_cpu) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let (wall, cpu) = ofctl(ovs, &["dump-flows", &target])?;
        (theirs, their_cpu) = (theirs.min(wall), their_cpu.min(cpu));
        let (start, before) = (Instant::now(), clock::own()?);
        let dumped = connection.dump_flows(FlowFilter::default()).await?;
        ours = ours.min(start.elapsed());
        our_cpu = our_cpu.min(clock::own()?.saturating_sub(before));
        ensure!(dumped.len() == flows.len(), "{} flows", dumped.len());
    }
    connection.bundle(&clear).await?;
    Ok(vec![
        install,
        figure(
            "dump 100,000 flows into typed values (peer: ovs-ofctl dump-flows to a file)",
            "flows/s",
            rate(ours),
            Some(rate(theirs)),
            Goal::RatioAtLeast(1.4),
        ),
        figure(
            "CPU of the client of that dump",
            "ms",
            our_cpu.as_secs_f64() * 1e3,
            Some(their_cpu.as_secs_f64() * 1e3),
            Goal::RatioAtMost(0.4),
        ),
    ])
}

/// Runs `ovs-ofctl`, its output to a file; its wall and CPU time.
fn ofctl(ovs: &Ovs, args: &[&str]) -> Result<(Duration, Duration)> {
    let out = File::create(ovs.run_dir().join("ofctl.out")).context("make a file")?;
    let before = clock::children()?;
    let start = Instant::now();
    let output = Command::new("ovs-ofctl")
        .args(["-O", "OpenFlow15"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(out)
        .output()
        .context("run ovs-ofctl")?;
    let wall = start.elapsed();
    ensure!(
        output.status.success(),
        "ovs-ofctl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((wall, clock::children()?.saturating_sub(before)))
}
