//! Figures: how fast the codec and the connection are, against `ovs-ofctl` in the same run.
//!
//! For `cargo xtask bench openflow` and the example `bench`; behind the feature `bench`, as this is
//! the one part of the crate that looks at a clock and starts processes.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::action::{Action, Instructions};
use crate::connection::{BundleError, Connection, RequestError};
use crate::diff::{Learned, Mod, State, diff};
use crate::error::{EncodeError, MatchError};
use crate::field::Field;
use crate::flow::{Flow, FlowFilter, FlowMod};
use crate::id::{Cookie, TableId, Xid};
use crate::match_::Match;
use crate::message::Message;

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What this crate reached.
    pub ours: f64,
    /// What the peer reached in the same run.
    pub peer: Option<f64>,
    /// Our speed in that of the peer (times) or the value itself, as the goal wants it.
    pub ratio: f64,
    /// What is to be reached.
    pub goal: f64,
    /// Whether larger is better.
    pub larger_is_better: bool,
}

impl Figure {
    /// Whether the goal is reached.
    pub fn met(&self) -> bool {
        if self.larger_is_better {
            self.ratio >= self.goal
        } else {
            self.ratio <= self.goal
        }
    }
}

/// Why nothing was measured.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A flow for measuring cannot be built.
    #[error("build a flow")]
    Match(#[from] MatchError),
    /// A flow for measuring cannot be encoded.
    #[error("encode a flow")]
    Encode(#[from] EncodeError),
    /// The switch did not answer.
    #[error("ask the switch")]
    Request(#[from] RequestError),
    /// The switch did not take a bundle.
    #[error("change the switch")]
    Bundle(#[from] BundleError),
    /// `ovs-ofctl` failed.
    #[error("run ovs-ofctl: {0}")]
    Peer(String),
    /// A file or a process failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A flow as network policy has it: six fields, a conjunction.
///
/// # Errors
/// Never for any index; the builder's own error type.
pub fn policy_flow(index: u32) -> Result<Flow, MatchError> {
    let m = Match::builder()
        .ipv4()
        .nw_src(
            Ipv4Addr::from_bits(0x0a00_0000 | index & 0x00ff_ffff).into(),
            32,
        )
        .reg(0, 0x3, 0xf)
        .reg(1, index >> 24, u32::MAX)
        .ct_state(
            crate::match_::ct_state::TRK | crate::match_::ct_state::NEW,
            0,
        )
        .build()?;
    let actions = vec![
        Action::conjunction(index, 0, 3),
        Action::conjunction(index.wrapping_add(1), 1, 3),
    ];
    let cookie = Cookie(0x0100_0000_0000 | u64::from(index));
    Ok(Flow::new(TableId(40), 100, m, Instructions::from(actions)).with_cookie(cookie))
}

/// Encoding and decoding on one core, and the difference of 100,000 flows.
///
/// # Errors
/// See [`BenchError`].
pub fn codec() -> Result<Vec<Figure>, BenchError> {
    const COUNT: u32 = 100_000;
    let flows = (0..COUNT).map(policy_flow).collect::<Result<Vec<_>, _>>()?;
    let messages: Vec<_> = flows
        .iter()
        .map(|flow| Message::FlowMod(FlowMod::add(flow.clone())))
        .collect();
    let mut out = Vec::with_capacity(256);
    let encode = best(|| {
        for message in &messages {
            out.clear();
            message.encode(Xid(1), &mut out)?;
        }
        Ok::<_, EncodeError>(())
    })?;
    let mut bytes = Vec::new();
    let mut ends = Vec::with_capacity(messages.len());
    for message in &messages {
        message.encode(Xid(1), &mut bytes)?;
        ends.push(bytes.len());
    }
    let decode = best(|| {
        let mut start = 0;
        for end in &ends {
            let decoded = Message::decode(bytes.get(start..*end).unwrap_or_default());
            std::hint::black_box(decoded.is_ok());
            start = *end;
        }
        Ok::<_, EncodeError>(())
    })?;
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
    let compare = best(|| {
        std::hint::black_box(diff(&dumped, &desired, &learned).bundle.len());
        Ok::<_, EncodeError>(())
    })?;
    let rate = |time: Duration| f64::from(COUNT) / time.as_secs_f64() / 1e6;
    let milliseconds = compare.as_secs_f64() * 1e3;
    Ok(vec![
        figure(
            "encode policy flow-mods",
            "M/s",
            rate(encode),
            None,
            2.0,
            true,
        ),
        figure(
            "decode policy flow-mods",
            "M/s",
            rate(decode),
            None,
            1.0,
            true,
        ),
        figure(
            "difference of 100,000 flows, 10 differ",
            "ms",
            milliseconds,
            None,
            100.0,
            false,
        ),
    ])
}

/// Installing and dumping `count` flows in a bridge, against `ovs-ofctl` on the same socket. What
/// the bridge holds is deleted.
///
/// # Errors
/// See [`BenchError`].
pub async fn switch(
    connection: &Connection,
    socket: &Path,
    scratch: &Path,
    count: u32,
) -> Result<Vec<Figure>, BenchError> {
    let flows = (0..count).map(policy_flow).collect::<Result<Vec<_>, _>>()?;
    let file = scratch.join("bench.flows");
    let mut text = String::new();
    for flow in &flows {
        text.push_str(&flow.to_string());
        text.push('\n');
    }
    std::fs::write(&file, text).map_err(|source| BenchError::Io {
        what: "write the flows",
        source,
    })?;
    let file = file.display().to_string();
    let target = format!("unix:{}", socket.display());
    let clear = [Mod::from(FlowMod::delete(TableId::ALL, Match::any()))];

    // In turns, and the better of two each: the first run grows the switch's heap.
    let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
    for _ in 0..2 {
        connection.bundle(&clear).await?;
        theirs = theirs.min(ofctl(&["--bundle", "add-flows", &target, &file])?.0);
        connection.bundle(&clear).await?;
        let start = Instant::now();
        let mods: Vec<Mod> = flows
            .iter()
            .map(|flow| FlowMod::add(flow.clone()).into())
            .collect();
        connection.bundle(&mods).await?;
        connection.barrier().await?;
        ours = ours.min(start.elapsed());
    }
    let rate = |time: Duration| f64::from(count) / time.as_secs_f64();
    let install = figure(
        "install flows in one bundle until the barrier",
        "flows/s",
        rate(ours),
        Some(rate(theirs)),
        0.95,
        true,
    );

    let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
    let (mut our_cpu, mut their_cpu) = (Duration::MAX, Duration::MAX);
    for _ in 0..2 {
        let (wall, cpu) = ofctl(&["dump-flows", &target])?;
        (theirs, their_cpu) = (theirs.min(wall), their_cpu.min(cpu));
        let (start, before) = (Instant::now(), own_cpu()?);
        let dumped = connection.dump_flows(FlowFilter::default()).await?;
        std::hint::black_box(dumped.len());
        ours = ours.min(start.elapsed());
        our_cpu = our_cpu.min(own_cpu()?.saturating_sub(before));
    }
    let dump = figure(
        "dump flows into typed values",
        "flows/s",
        rate(ours),
        Some(rate(theirs)),
        1.4,
        true,
    );
    let mut cpu = figure(
        "CPU of the client that dumps",
        "ms",
        our_cpu.as_secs_f64() * 1e3,
        Some(their_cpu.as_secs_f64() * 1e3),
        0.4,
        false,
    );
    cpu.ratio = cpu.ours / (their_cpu.as_secs_f64() * 1e3).max(1.0);
    connection.bundle(&clear).await?;
    Ok(vec![install, dump, cpu])
}

fn figure(
    name: &'static str,
    unit: &'static str,
    ours: f64,
    peer: Option<f64>,
    goal: f64,
    larger_is_better: bool,
) -> Figure {
    let ratio = peer.map_or(ours, |peer| ours / peer);
    Figure {
        name,
        unit,
        ours,
        peer,
        ratio,
        goal,
        larger_is_better,
    }
}

/// The best of five times ten, in time of this thread's core: what else runs on the machine does not count.
fn best<E>(mut run: impl FnMut() -> Result<(), E>) -> Result<Duration, BenchError>
where
    BenchError: From<E>,
{
    let mut result = Duration::MAX;
    for _ in 0..5 {
        let start = thread_cpu()?;
        for _ in 0..ROUNDS {
            run()?;
        }
        result = result.min(thread_cpu()?.saturating_sub(start) / ROUNDS);
    }
    Ok(result)
}

/// Runs that are measured at once: the kernel counts time in ticks of some milliseconds.
const ROUNDS: u32 = 10;

/// Time of this thread on a core, from `/proc/thread-self/schedstat` in nanoseconds.
fn thread_cpu() -> Result<Duration, BenchError> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").map_err(|source| {
        BenchError::Io {
            what: "read /proc/thread-self/schedstat",
            source,
        }
    })?;
    let first = text
        .split_whitespace()
        .next()
        .and_then(|field| field.parse().ok());
    Ok(Duration::from_nanos(first.unwrap_or_default()))
}

/// Runs `ovs-ofctl`; its wall and CPU time. Its output goes nowhere.
fn ofctl(args: &[&str]) -> Result<(Duration, Duration), BenchError> {
    let io = |source| BenchError::Io {
        what: "run ovs-ofctl",
        source,
    };
    let before = children_cpu()?;
    let start = Instant::now();
    let output = Command::new("ovs-ofctl")
        .args(["-O", "OpenFlow15"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(io)?;
    let wall = start.elapsed();
    if !output.status.success() {
        return Err(BenchError::Peer(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ));
    }
    Ok((wall, children_cpu()?.saturating_sub(before)))
}

/// User and system time of this process, from `/proc/self/stat` in ticks of 10 ms.
fn own_cpu() -> Result<Duration, BenchError> {
    cpu(11)
}

/// The same of its children that ended and were waited for.
fn children_cpu() -> Result<Duration, BenchError> {
    cpu(13)
}

fn cpu(first: usize) -> Result<Duration, BenchError> {
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(|source| BenchError::Io {
        what: "read /proc/self/stat",
        source,
    })?;
    // Fields behind the name, which may hold anything but ends with the last bracket.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest.split_whitespace().skip(first).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// `cargo xtask bench` builds with optimisation; without it figures say nothing.
pub fn is_optimized() -> bool {
    !cfg!(debug_assertions)
}

/// The fields [`policy_flow`] matches, for reports.
pub const POLICY_FIELDS: [Field; 5] = [
    Field::EthType,
    Field::Ipv4Src,
    Field::Reg0,
    Field::Reg1,
    Field::CtState,
];
