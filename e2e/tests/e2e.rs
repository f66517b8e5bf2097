//! End-to-end tests: one process, a few real clusters, tests in order.
//!
//! Each suite names the cluster it needs; a cluster is started when its first test runs and removed
//! when its last one ended (`CARRICK_E2E_KEEP=1` keeps it). Filters work as with `cargo test`; what
//! takes too long for CI is ignored unless `--ignored` or `--include-ignored` is given.

mod suites;

use std::process::ExitCode;
use std::sync::Arc;

use carrick_e2e::fixture::{Fixture, Fixtures};
use libtest_mimic::{Arguments, Trial};

/// One test: its name is `suite::test`.
type Test = (&'static str, fn(&carrick_e2e::Bed) -> anyhow::Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The tests of a cluster share it and stop its parts: never two at once.
    arguments.test_threads = Some(1);
    let fixtures = Arc::new(Fixtures::default());
    let mut trials = Vec::new();
    for (fixture, pace, suite, tests) in suites::all() {
        for (name, run) in tests {
            let fixtures = Arc::clone(&fixtures);
            let full = format!("{suite}::{name}");
            let test_name = full.clone();
            let trial = Trial::test(full, move || {
                fixtures.run(fixture, &test_name, run).map_err(Into::into)
            });
            trials.push(trial.with_ignored_flag(pace == Pace::Slow));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let clean = fixtures.down();
    if conclusion.has_failed() || !clean {
        ExitCode::from(101)
    } else {
        ExitCode::SUCCESS
    }
}

/// Who waits for a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// CI.
    Quick,
    /// `hack/test slow`.
    Slow,
}

/// What `suites::all` returns: fixture, pace, suite name, tests.
pub type Suite = (Fixture, Pace, &'static str, Vec<Test>);
