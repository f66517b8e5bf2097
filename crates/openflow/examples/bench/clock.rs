//! Time on a core, of this thread, this process and its children.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// Time of this thread on a core, in nanoseconds: what else runs on the machine hardly counts.
pub fn thread() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")
        .context("read /proc/thread-self/schedstat")?;
    let first = text.split_whitespace().next();
    let nanoseconds = first.and_then(|field| field.parse().ok());
    Ok(Duration::from_nanos(
        nanoseconds.context("read /proc/thread-self/schedstat")?,
    ))
}

/// User and system time of this process.
pub fn own() -> Result<Duration> {
    usage(UsageWho::RUSAGE_SELF)
}

/// The same of its children that ended and were waited for.
pub fn children() -> Result<Duration> {
    usage(UsageWho::RUSAGE_CHILDREN)
}

fn usage(who: UsageWho) -> Result<Duration> {
    let usage = getrusage(who)?;
    let microseconds =
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(microseconds.try_into()?))
}
