//! Waiting for conditions.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// How many times longer than on namespace nodes everything may take.
static PATIENCE: AtomicU32 = AtomicU32::new(1);

/// Makes every deadline so many times longer, until it is called again.
pub(crate) fn be_patient(times: u32) {
    PATIENCE.store(times, Ordering::Relaxed);
}

/// Waits until `condition` returns true. Errors of the condition are remembered and shown when the
/// deadline passes.
pub fn until(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    let deadline = deadline * PATIENCE.load(Ordering::Relaxed);
    loop {
        let last = match condition() {
            Ok(true) => return Ok(()),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        if started.elapsed() > deadline {
            match last {
                Some(error) => bail!("waited {deadline:?} for {what}: {error:#}"),
                None => bail!("waited {deadline:?} for {what}"),
            }
        }
        std::thread::sleep(INTERVAL);
    }
}
