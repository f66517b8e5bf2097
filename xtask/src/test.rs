//! `cargo xtask test`: the tests of the workspace but the end-to-end ones, in three lanes.
//!
//! Cargo runs one test program after the other. Those that start a control plane or a cluster wait most of
//! the time: two of them run beside all the others.

use std::collections::VecDeque;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use carrick_testbed::{Progress, binaries};

use crate::programs::{self, Program};

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only test programs whose name contains this; no documentation's examples then.
    program: Option<String>,
}

/// Runs the tests; the exit code says whether all passed.
pub fn run(args: &Args) -> Result<ExitCode> {
    let progress = Progress::stderr();
    progress.say("building the tests");
    let mut programs = programs::build(&["--exclude", "carrick-e2e"])?;
    if let Some(wanted) = &args.program {
        programs.retain(|program| program.name.contains(wanted));
    }
    let (waiting, working): (VecDeque<_>, VecDeque<_>) = programs.into_iter().partition(waits);
    let queues = [Mutex::new(waiting), Mutex::new(working)];
    let failed = Mutex::new(Vec::new());
    let lanes = thread::scope(|scope| {
        let lanes = [&queues[0], &queues[0], &queues[1]].map(|queue| {
            let (failed, progress) = (&failed, &progress);
            scope.spawn(move || {
                while let Some(program) = next(queue) {
                    one(&program, failed, progress)?;
                }
                anyhow::Ok(())
            })
        });
        lanes.map(|lane| {
            lane.join()
                .unwrap_or_else(|_| Err(anyhow!("a lane panicked")))
        })
    });
    for lane in lanes {
        lane?;
    }
    if args.program.is_none() {
        let examples = binaries::cargo()
            .args(["test", "--workspace", "--locked", "--doc", "--quiet"])
            .args(["--exclude", "carrick-e2e"])
            .status()
            .context("start cargo")?;
        if !examples.success() {
            note(&failed, "examples of the documentation".to_owned());
        }
    }
    let failed = failed
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    progress.say(format!("failed: {}", failed.join(", ")));
    Ok(ExitCode::FAILURE)
}

fn next(queue: &Mutex<VecDeque<Program>>) -> Option<Program> {
    queue
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .pop_front()
}

/// Starts a control plane or a cluster.
fn waits(program: &Program) -> bool {
    program.name.starts_with("api_") || ["cluster", "kernel"].contains(&program.name.as_str())
}

/// Runs one program and prints what it said, whole.
fn one(program: &Program, failed: &Mutex<Vec<String>>, progress: &Progress) -> Result<()> {
    let package = program.package.file_name().unwrap_or_default();
    let title = format!("{} of {}", program.name, package.to_string_lossy());
    let begun = Instant::now();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(&program.path)
        .current_dir(&program.package)
        .env("CARGO_MANIFEST_DIR", &program.package)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {title}"))?;
    let text = String::from_utf8_lossy(&stdout);
    let summary = text
        .lines()
        .find(|line| line.starts_with("test result"))
        .unwrap_or("it said nothing");
    progress.say(format!(
        "{title}: {summary} ({:.0} s)",
        begun.elapsed().as_secs_f64()
    ));
    if !status.success() {
        crate::print(format!(
            "--- {title}: {status}\n{text}{}",
            String::from_utf8_lossy(&stderr)
        ))?;
        note(failed, title);
    }
    Ok(())
}

fn note(failed: &Mutex<Vec<String>>, what: String) {
    failed
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .push(what);
}
