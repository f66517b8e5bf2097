//! A run: events for some minutes, checks after each, a table at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use carrick_testbed::NodeKind;

use super::event::{Event, Shape, Way};
use super::scene::{Cost, Scene, told};
use super::sequence::Sequence;
use crate::bed::{Bed, BedSpec};
use crate::traffic::Loss;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// After this no event begins.
    pub time: Duration,
    /// Which events come.
    pub seed: u64,
    /// What they come to.
    pub shape: Shape,
}

/// What becomes of the cluster of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// It is taken down.
    Down,
    /// It is left as it is.
    Keep,
}

/// Brings a cluster up and breaks it for as long as the plan says.
///
/// # Errors
/// Something did not hold, or did not come back; the text tells the seed, the events so far and the
/// components' last words.
pub fn run(plan: &Plan, afterwards: Afterwards) -> Result<()> {
    let bed = Bed::up(&BedSpec {
        nodes: plan.shape.nodes,
        kind: plan.shape.kind,
        ..BedSpec::new("chaos")
    })?;
    let result = on(&bed, plan).map_err(|error| anyhow!("{error:#}\n{}", bed.report("chaos")));
    if afterwards == Afterwards::Keep {
        return result;
    }
    // What failed first is told first.
    let down = bed.down();
    result.and(down)
}

/// Breaks a cluster that is there, of the plan's shape, for as long as the plan says.
///
/// # Errors
/// As [`run`], without the components' words.
pub fn on(bed: &Bed, plan: &Plan) -> Result<()> {
    let mut run = Run {
        bed,
        plan,
        begun: Instant::now(),
        costs: Vec::new(),
    };
    let result = run.play();
    say(&run.table())?;
    result.map_err(|error| {
        let again = again(plan);
        let events: Vec<String> = run
            .costs
            .iter()
            .map(|cost| cost.event.to_string())
            .collect();
        anyhow!(
            "{error:#}\nagain with: {again}\nevents that held: {}",
            events.join(", ")
        )
    })
}

/// The command line of a run.
fn again(plan: &Plan) -> String {
    let kernel = match plan.shape.kind {
        NodeKind::Kernel => " --kernel",
        NodeKind::Namespace => "",
    };
    format!(
        "cargo xtask chaos --minutes {} --seed {} --nodes {}{kernel}",
        plan.time.as_secs() / 60,
        plan.seed,
        plan.shape.nodes
    )
}

/// Prints a result.
fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("write to standard output")
}

struct Run<'a> {
    bed: &'a Bed,
    plan: &'a Plan,
    begun: Instant,
    costs: Vec<Cost>,
}

impl Run<'_> {
    fn play(&mut self) -> Result<()> {
        let mut scene = Scene::start(self.bed, "chaos")?;
        let (again, logs) = (again(self.plan), self.bed.logs().display());
        say(&format!("{again}  # logs: {logs}"))?;
        self.begun = Instant::now();
        let mut sequence = Sequence::new(self.plan.seed, self.plan.shape);
        let mut result = Ok(());
        while result.is_ok() && self.begun.elapsed() < self.plan.time {
            let Some(event) = sequence.next() else { break };
            result = self.step(&mut scene, event);
        }
        if let (Ok(()), Some(event)) = (&result, sequence.close()) {
            result = self.step(&mut scene, event);
        }
        // What lasts would hide what the report asks.
        scene.mend();
        result.and(scene.stop())
    }

    fn step(&mut self, scene: &mut Scene<'_>, event: Event) -> Result<()> {
        let cost = scene.play(event)?;
        let seconds = self.begun.elapsed().as_secs();
        let checked = cost.checked.join(" ");
        say(&format!(
            "{seconds:>5} s  {event}  [{checked}]  {}",
            told(&cost.losses)
        ))?;
        self.costs.push(cost);
        Ok(())
    }

    fn table(&self) -> String {
        let mut text = format!(
            "\n{} events in {} s, seed {}\n{:<52} {:>6} {:>8} {:>6} {:>8} {:>12}\n",
            self.costs.len(),
            self.begun.elapsed().as_secs(),
            self.plan.seed,
            "event",
            "took s",
            "gap ms",
            "lost",
            "streams",
            "connections"
        );
        for cost in &self.costs {
            let worst = worst(&cost.losses);
            let _ = writeln!(
                text,
                "{:<52} {:>6} {:>8} {:>6} {:>8} {:>12}",
                cost.event.to_string(),
                cost.took.as_secs(),
                worst.gap.as_millis(),
                worst.pings,
                worst.streams,
                worst.connections
            );
        }
        text
    }
}

/// The worst of all ways, in each respect.
fn worst(losses: &BTreeMap<Way, Loss>) -> Loss {
    let none = Loss::default();
    losses
        .values()
        .fold(none, |worst, loss| worst.or_worse(loss))
}
