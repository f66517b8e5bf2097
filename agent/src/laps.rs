//! What a piece of work took, part by part: for the log, where somebody asks why a pod came late.

use std::fmt;
use std::time::{Duration, Instant};

/// Parts of one piece of work, in their order.
#[derive(Debug)]
pub struct Laps {
    last: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Laps {
    /// The work begins.
    pub fn start() -> Self {
        Self {
            last: Instant::now(),
            parts: Vec::new(),
        }
    }

    /// A part ends, and the next begins.
    pub fn lap(&mut self, part: &'static str) {
        let now = Instant::now();
        self.parts.push((part, now.duration_since(self.last)));
        self.last = now;
    }

    /// A part that ran beside others.
    pub fn beside(&mut self, part: &'static str, took: Duration) {
        self.parts.push((part, took));
    }
}

impl fmt::Display for Laps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (part, took)) in self.parts.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{part} {:.1} ms", took.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

/// How long work took that ran beside other work.
pub async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let begun = Instant::now();
    let done = work.await;
    (done, begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_in_their_order() {
        let mut laps = Laps::start();
        laps.beside("pair", Duration::from_micros(3140));
        laps.beside("port", Duration::from_millis(20));
        assert_eq!(laps.to_string(), "pair 3.1 ms, port 20.0 ms");
        assert_eq!(Laps::start().to_string(), "");
    }
}
