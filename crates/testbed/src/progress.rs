//! Says on standard error what is done and what is waited for.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(100);
/// After how long a wait is announced, and again.
const ANNOUNCE: Duration = Duration::from_secs(5);

/// Where progress goes.
#[derive(Debug, Clone)]
pub struct Progress {
    start: Arc<Instant>,
    quiet: bool,
}

impl Progress {
    /// To standard error, each line with the seconds since now.
    #[must_use]
    pub fn stderr() -> Self {
        Self {
            start: Arc::new(Instant::now()),
            quiet: false,
        }
    }

    /// To nowhere.
    #[must_use]
    pub fn quiet() -> Self {
        Self {
            start: Arc::new(Instant::now()),
            quiet: true,
        }
    }

    /// Says one line.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            // Nobody reads standard error any more: nothing to do about it.
            let _ = writeln!(
                io::stderr(),
                "[{:6.1}s] {}",
                self.start.elapsed().as_secs_f32(),
                line.as_ref()
            );
        }
    }

    /// Waits until `condition` says `Ok(None)`; `Ok(Some(reason))` means not yet, an error ends the wait.
    ///
    /// # Errors
    /// What the condition returned, or that it did not hold by `deadline`.
    pub fn wait(
        &self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut() -> Result<Option<String>>,
    ) -> Result<()> {
        let start = Instant::now();
        let mut announced = start;
        loop {
            let Some(reason) = condition()? else {
                return Ok(());
            };
            if start.elapsed() > deadline {
                bail!(
                    "waited {} s in vain for {what}: {reason}",
                    deadline.as_secs()
                );
            }
            if announced.elapsed() > ANNOUNCE {
                announced = Instant::now();
                self.say(format!("waiting for {what}: {reason}"));
            }
            std::thread::sleep(POLL);
        }
    }
}
