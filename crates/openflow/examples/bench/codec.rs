//! Bytes and comparison, on one core: against os-ken, and the bytes against `ovs-ofctl`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use carrick_openflow::{Instructions, Learned, Message, State, Xid, diff};
use carrick_testkit::figure::{Goal, figure};
use serde_json::Value;

use crate::{clock, flows};

#[expect(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared with the tests, which use all of it and may panic"
)]
#[path = "../../tests/support/capture.rs"]
mod capture;

/// Messages encoded and decoded at once.
const COUNT: u32 = 100_000;
/// Messages for the peers, which are slower.
const SAMPLE: usize = 1_000;
/// Runs that are measured together, and how often the best is looked for.
const ROUNDS: u32 = 10;

/// Encoding, decoding, the bytes, and the difference of 100,000 flows.
pub fn figures(python: &Path) -> Result<Vec<Value>> {
    let flows = flows::policies(COUNT)?;
    let messages: Vec<_> = flows::adds(&flows)
        .into_iter()
        .map(Message::FlowMod)
        .collect();
    let mut out = Vec::with_capacity(256);
    let encode = best(|| {
        for message in &messages {
            out.clear();
            message.encode(Xid(1), &mut out)?;
            std::hint::black_box(out.as_slice());
        }
        Ok(())
    })?;
    let encoded: Vec<Vec<u8>> = messages
        .iter()
        .map(|message| {
            let mut bytes = Vec::new();
            message.encode(Xid(1), &mut bytes).map(|()| bytes)
        })
        .collect::<Result<_, _>>()?;
    let decode = best(|| {
        for bytes in &encoded {
            std::hint::black_box(Message::decode(bytes)?);
        }
        Ok(())
    })?;
    let sample = encoded.get(..SAMPLE).context("too few messages")?;
    let (their_encode, their_decode) = os_ken(python, sample)?;
    let equal = equal_bytes(flows.get(..SAMPLE).context("too few flows")?, sample)?;

    let dumped = State {
        flows: flows.clone(),
        ..State::default()
    };
    let mut desired = State {
        flows,
        ..State::default()
    };
    for flow in desired.flows.iter_mut().step_by(10_000) {
        flow.instructions = Instructions::drop();
    }
    let learned = Learned::default();
    ensure!(
        diff(&dumped, &desired, &learned).bundle.len() == 10,
        "the difference is not ten flows"
    );
    let compare = best(|| {
        std::hint::black_box(diff(&dumped, &desired, &learned));
        Ok(())
    })?;
    let rate = |time: Duration| f64::from(COUNT) / time.as_secs_f64() / 1e6;
    Ok(vec![
        figure(
            "encode policy flow-mods (peer: os-ken)",
            "M/s",
            rate(encode),
            Some(their_encode / 1e6),
            Goal::OursAtLeast(2.0),
        ),
        figure(
            "decode policy flow-mods (peer: os-ken)",
            "M/s",
            rate(decode),
            Some(their_decode / 1e6),
            Goal::OursAtLeast(1.0),
        ),
        figure(
            "policy flow-mods with the bytes of ovs-ofctl",
            "%",
            equal * 100.0,
            None,
            Goal::OursAtLeast(100.0),
        ),
        figure(
            "difference of 100,000 flows, 10 differ",
            "ms",
            compare.as_secs_f64() * 1e3,
            None,
            Goal::OursAtMost(100.0),
        ),
    ])
}

/// The best of five times ten.
fn best(mut run: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut result = Duration::MAX;
    for _ in 0..5 {
        let start = clock::thread()?;
        for _ in 0..ROUNDS {
            run()?;
        }
        result = result.min(clock::thread()?.saturating_sub(start) / ROUNDS);
    }
    Ok(result)
}

/// What os-ken encodes and decodes in a second.
fn os_ken(python: &Path, messages: &[Vec<u8>]) -> Result<(f64, f64)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/third_opinion.py");
    let mut child = Command::new(python)
        .arg(script)
        .args(["bench", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start os-ken")?;
    let mut text = String::new();
    for message in messages {
        for byte in message {
            write!(text, "{byte:02x}")?;
        }
        text.push('\n');
    }
    // The script reads all before it writes.
    child
        .stdin
        .take()
        .context("os-ken's standard input")?
        .write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "os-ken: {}", output.status);
    let rates: Value = serde_json::from_slice(&output.stdout)?;
    let rate = |name: &str| {
        rates
            .get(name)
            .and_then(Value::as_f64)
            .context("os-ken's figures")
    };
    Ok((rate("encode")?, rate("decode")?))
}

/// The part of the messages that `ovs-ofctl` sends byte for byte (but for the transaction id).
fn equal_bytes(flows: &[carrick_openflow::Flow], ours: &[Vec<u8>]) -> Result<f64> {
    let scratch = capture::Scratch::new("bench-bytes");
    let file = scratch.0.join("flows");
    let lines: Vec<String> = flows.iter().map(ToString::to_string).collect();
    std::fs::write(&file, lines.join("\n") + "\n")?;
    let (sent, result) =
        capture::capture(&scratch.0, &["add-flows"], &[&file.display().to_string()]);
    result.map_err(|error| anyhow::anyhow!("ovs-ofctl: {error}"))?;
    let without_xid = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.iter_mut().skip(4).take(4).for_each(|byte| *byte = 0);
        bytes
    };
    let theirs = sent.iter().filter(|message| message.get(1) == Some(&14));
    let equal = theirs
        .zip(ours)
        .filter(|(theirs, ours)| without_xid(theirs) == without_xid(ours))
        .count();
    Ok(f64::from(u32::try_from(equal)?) / f64::from(u32::try_from(ours.len())?))
}
