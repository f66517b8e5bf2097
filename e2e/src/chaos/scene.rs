//! A bed under traffic, on which events are played one after the other and checked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::act::{act, end, wait_pods};
use super::check::{self, Baseline, Programs};
use super::event::{Event, Lasting, Shape, Strike, Way};
use super::expect::{allowance, is_cut, recovery, refusals};
use super::sequence::may_come;
use crate::bed::Bed;
use crate::traffic::{Loss, Traffic};

/// What an event cost.
#[derive(Debug)]
pub struct Cost {
    /// It.
    pub event: Event,
    /// Until everything got through again.
    pub took: Duration,
    /// What each way lost.
    pub losses: BTreeMap<Way, Loss>,
    /// What was checked after it.
    pub checked: Vec<&'static str>,
}

/// What events on a bed depend on.
pub fn shape_of(bed: &Bed) -> Shape {
    Shape {
        nodes: bed.node_names().len(),
        kind: bed.kind(),
    }
}

/// A bed with traffic on it.
pub struct Scene<'a> {
    bed: &'a Bed,
    traffic: Traffic<'a>,
    baseline: Baseline,
    shape: Shape,
    /// What lasts, and since when.
    open: Option<(Lasting, Instant)>,
}

impl<'a> Scene<'a> {
    /// Starts the traffic and looks at what there is.
    pub fn start(bed: &'a Bed, suite: &str) -> Result<Self> {
        let traffic = Traffic::start_policed(bed, suite)?;
        wait_pods(bed, Duration::from_mins(2))?;
        for node in bed.node_names() {
            bed.settled(&node)?;
        }
        Ok(Self {
            bed,
            traffic,
            baseline: Baseline::read(bed)?,
            shape: shape_of(bed),
            open: None,
        })
    }

    /// Does an event, waits until everything gets through again, and checks what must hold.
    pub fn play(&mut self, event: Event) -> Result<Cost> {
        let before = self.open.map(|(lasting, _)| lasting);
        ensure!(
            may_come(event, before, self.shape),
            "{event} may not come here while {before:?} lasts"
        );
        self.tried(event, before)
            .with_context(|| format!("after {event}"))
    }

    fn tried(&mut self, event: Event, before: Option<Lasting>) -> Result<Cost> {
        let bed = self.bed;
        let programs = Programs::read(bed)?;
        let counted = self.traffic.look()?;
        let denied = self.traffic.denied()?;
        let begun = Instant::now();
        let since = self.open.map_or(begun, |(_, since)| since);
        self.open = match event {
            Event::Begin(lasting) => Some((lasting, begun)),
            Event::End(_) => None,
            Event::Strike(_) => self.open,
        };
        let stays = self.open.map(|(lasting, _)| lasting);
        act(bed, &mut self.traffic, event)?;
        let cut = |way| is_cut(stays, way);
        self.traffic.wait_flowing_but(cut, recovery(event))?;
        let took = begun.elapsed();
        let losses = self.traffic.losses(&counted)?;
        // A gap that ends here may have begun with what lasted before it.
        let lasted = since.elapsed();
        // All of them: where else something was lost tells a broken node from a busy machine.
        let broken: Vec<String> = losses
            .iter()
            .filter_map(|(way, loss)| {
                let most = allowance(event, before, *way, self.shape, lasted);
                check::allowed(loss, *way, most, refusals(event, before, *way, self.shape)).err()
            })
            .map(|error| error.to_string())
            .collect();
        ensure!(
            broken.is_empty(),
            "{}; all that was lost: {}",
            broken.join("; "),
            told(&losses)
        );
        check::tried(&denied, &self.traffic.denied()?)?;
        programs.kept(bed, event)?;
        check::only_our_flows(bed)?;
        let mut checked = vec!["traffic", "policy", "flows", "commit"];
        if check::can_ask(stays) {
            check::one_writer(bed)?;
            check::nothing_leaks(bed)?;
            checked.extend(["writers", "leaks"]);
        }
        if stays.is_none() {
            self.baseline.holds(bed)?;
            checked.push("growth");
        }
        if matches!(event, Event::Strike(Strike::PowerOff(_))) {
            // Other processes with other counts run there now.
            self.baseline = Baseline::read(bed)?;
        }
        Ok(Cost {
            event,
            took,
            losses,
            checked,
        })
    }

    /// Ends what lasts, whatever it is like, so that a report can be made.
    pub fn mend(&mut self) {
        if let Some((lasting, _)) = self.open.take() {
            // The first error is the one that is told.
            end(self.bed, lasting).ok();
        }
    }

    /// Ends the traffic and removes its pods.
    pub fn stop(self) -> Result<()> {
        self.traffic.stop()
    }
}

/// Ways that lost something, in words.
pub fn told(losses: &BTreeMap<Way, Loss>) -> String {
    let lost: Vec<String> = losses
        .iter()
        .filter(|(_, loss)| **loss != Loss::default())
        .map(|(way, loss)| {
            format!(
                "{way}: {} ms, {} pings, {} streams, {} connections",
                loss.gap.as_millis(),
                loss.pings,
                loss.streams,
                loss.connections
            )
        })
        .collect();
    if lost.is_empty() {
        "nothing lost".to_owned()
    } else {
        lost.join("; ")
    }
}

/// Plays events on a bed as one test, and leaves it as it was.
pub fn play(bed: &Bed, suite: &str, events: &[Event]) -> Result<Vec<Cost>> {
    let mut scene = Scene::start(bed, suite)?;
    let mut costs = Vec::new();
    for event in events {
        match scene.play(*event) {
            Ok(cost) => costs.push(cost),
            Err(error) => {
                scene.mend();
                scene.stop().ok();
                return Err(error);
            }
        }
    }
    scene.stop()?;
    Ok(costs)
}
