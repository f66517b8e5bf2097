//! What `/livez` and `/readyz` answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Named readiness checks and heartbeats of long-running tasks. Clones share them.
///
/// Ready means: every check that was declared is passed. Alive means: every task that beats did so
/// within its time. A component with no checks is ready, one with no heartbeats is alive.
#[derive(Debug, Clone, Default)]
pub struct Health {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    checks: BTreeMap<&'static str, Option<String>>,
    beats: BTreeMap<&'static str, (Instant, Duration)>,
}

/// The answer to one question: fine, or what is wrong, one line a check.
pub type Verdict = Result<(), String>;

impl Health {
    /// Nothing declared yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing in here can be left half-changed by a panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares or fails the check `name`; `reason` is a sentence for people.
    pub fn unready(&self, name: &'static str, reason: impl Into<String>) {
        self.lock().checks.insert(name, Some(reason.into()));
    }

    /// Passes the check `name`.
    pub fn ready(&self, name: &'static str) {
        self.lock().checks.insert(name, None);
    }

    /// Says that task `name` lives and will say so again within `within`.
    pub fn beat(&self, name: &'static str, within: Duration) {
        self.lock().beats.insert(name, (Instant::now(), within));
    }

    /// Ends the heartbeats of a task that ended as it should.
    pub fn rest(&self, name: &'static str) {
        self.lock().beats.remove(name);
    }

    /// What `/readyz` answers.
    pub fn readiness(&self) -> Verdict {
        let failed: Vec<String> = self
            .lock()
            .checks
            .iter()
            .filter_map(|(name, reason)| reason.as_ref().map(|reason| format!("{name}: {reason}")))
            .collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(failed.join("\n"))
        }
    }

    /// What `/livez` answers at `now`.
    pub fn liveness(&self, now: Instant) -> Verdict {
        let late: Vec<String> = self
            .lock()
            .beats
            .iter()
            .filter_map(|(name, (last, within))| {
                let silent = now.saturating_duration_since(*last);
                (silent > *within).then(|| format!("{name}: silent for {}s", silent.as_secs()))
            })
            .collect();
        if late.is_empty() {
            Ok(())
        } else {
            Err(late.join("\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_declared_check_passed() {
        let health = Health::new();
        assert_eq!(health.readiness(), Ok(()));
        health.unready("caches", "pods are being listed");
        assert_eq!(
            health.readiness(),
            Err("caches: pods are being listed".into())
        );
        health.ready("caches");
        assert_eq!(health.readiness(), Ok(()));
    }

    #[test]
    fn a_task_that_falls_silent_is_not_alive() {
        let health = Health::new();
        health.beat("loop", Duration::from_secs(10));
        let now = Instant::now();
        assert_eq!(health.liveness(now), Ok(()));
        let later = now + Duration::from_secs(30);
        assert!(
            health
                .liveness(later)
                .unwrap_err()
                .starts_with("loop: silent for ")
        );
        health.rest("loop");
        assert_eq!(health.liveness(later), Ok(()));
    }
}
