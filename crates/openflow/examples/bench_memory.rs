//! Allocations and memory, for `cargo xtask bench openflow`: a program of its own, since counting
//! allocations costs time and the kernel counts a process's peak once.
//!
//! ```text
//! cargo run --release -p carrick-openflow --example bench_memory
//! ```

#![expect(clippy::print_stdout, reason = "the figures are the program's output")]

#[path = "bench/flows.rs"]
#[expect(dead_code, reason = "shared with another program")]
mod flows;

use allocation_counter::measure;
use anyhow::{Context as _, Result, ensure};
use carrick_openflow::{FlowMod, Instructions, Learned, Message, State, Xid, diff};
use carrick_testkit::figure::{Goal, figure};

const FLOWS: u32 = 100_000;
/// Flow-mods whose allocations are counted: their average must not hide a growing buffer.
const SAMPLE: u32 = 1_000;

fn main() -> Result<()> {
    let memory = difference()?;
    let (encode, decode) = allocations()?;
    let figures = [
        figure(
            "allocations to encode a policy flow-mod",
            "each",
            encode,
            None,
            Goal::OursAtMost(2.0),
        ),
        figure(
            "allocations to decode a policy flow-mod",
            "each",
            decode,
            None,
            Goal::OursAtMost(2.0),
        ),
        figure(
            "peak memory of a process with both sides of that difference",
            "MB",
            memory,
            None,
            Goal::OursAtMost(120.0),
        ),
    ];
    println!("{}", serde_json::to_string_pretty(&figures)?);
    Ok(())
}

/// Allocations per flow-mod: each encoded into a new buffer, each decoded.
fn allocations() -> Result<(f64, f64)> {
    let messages: Vec<_> = flows::policies(SAMPLE)?
        .into_iter()
        .map(|flow| Message::FlowMod(FlowMod::add(flow)))
        .collect();
    let mut encoded = Vec::with_capacity(messages.len());
    let mut failed = 0;
    let encode = measure(|| {
        for message in &messages {
            let mut bytes = Vec::with_capacity(256);
            failed += u32::from(message.encode(Xid(1), &mut bytes).is_err());
            encoded.push(bytes);
        }
    });
    let decode = measure(|| {
        for bytes in &encoded {
            failed += u32::from(std::hint::black_box(Message::decode(bytes)).is_err());
        }
    });
    ensure!(failed == 0, "{failed} messages failed");
    let each =
        |count: u64| -> Result<f64> { Ok(f64::from(u32::try_from(count)?) / f64::from(SAMPLE)) };
    Ok((each(encode.count_total)?, each(decode.count_total)?))
}

/// Megabytes this process had at most: 100,000 flows dumped, as many desired, and the difference.
fn difference() -> Result<f64> {
    let dumped = State {
        flows: flows::policies(FLOWS)?,
        ..State::default()
    };
    let mut desired = State {
        flows: flows::policies(FLOWS)?,
        ..State::default()
    };
    for flow in desired.flows.iter_mut().step_by(10_000) {
        flow.instructions = Instructions::drop();
    }
    let plan = diff(&dumped, &desired, &Learned::default());
    ensure!(plan.bundle.len() == 10, "{} changes", plan.bundle.len());
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kibibytes| kibibytes.parse::<u32>().ok())
        .context("VmHWM of /proc/self/status")?;
    Ok(f64::from(peak) * 1024.0 / 1e6)
}
