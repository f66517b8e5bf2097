//! A figure and its goal, as programs print them for `cargo xtask bench`.

use serde_json::{Value, json};

/// What a goal is about.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// Our own value is at least this.
    OursAtLeast(f64),
    /// Our own value is at most this.
    OursAtMost(f64),
    /// Our value in that of the peer is at least this.
    RatioAtLeast(f64),
    /// Our value in that of the peer is at most this.
    RatioAtMost(f64),
    /// There is none: the figure is there to be seen.
    None,
}

/// One figure. `ratio` is our value in that of the peer.
#[must_use]
pub fn figure(name: &str, unit: &str, ours: f64, peer: Option<f64>, goal: Goal) -> Value {
    let ratio = peer.map(|peer| ours / peer);
    let against = ratio.unwrap_or(f64::NAN);
    let (number, of, sense, met) = match goal {
        Goal::OursAtLeast(goal) => (Some(goal), "ours", ">=", Some(ours >= goal)),
        Goal::OursAtMost(goal) => (Some(goal), "ours", "<=", Some(ours <= goal)),
        Goal::RatioAtLeast(goal) => (Some(goal), "ratio", ">=", Some(against >= goal)),
        Goal::RatioAtMost(goal) => (Some(goal), "ratio", "<=", Some(against <= goal)),
        Goal::None => (None, "ours", "<=", None),
    };
    json!({"name": name, "unit": unit, "ours": ours, "peer": peer, "ratio": ratio,
        "goal": number, "goal_of": of, "goal_sense": sense, "met": met})
}
