//! From outcomes to what is told. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::explain::explain;
use super::plan::{Family, Kind, Path, Test};
use crate::probe::{Failure, Outcome};
use crate::table::{Table, clean};

/// Failed tests that are listed for people; all are in JSON.
const LISTED: usize = 20;

/// One test and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tested {
    /// The asking pod.
    pub from: String,
    /// Its node.
    pub from_node: String,
    /// The asked pod.
    pub to: String,
    /// Its node.
    pub to_node: String,
    /// The way.
    pub path: Path,
    /// IPv4 or IPv6.
    pub family: Family,
    /// What was tried.
    pub kind: Kind,
    /// Where, and how many bytes.
    pub target: String,
    /// Why it failed; nothing when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Why>,
    /// The failure in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Time for the whole exchange.
    pub micros: u64,
}

/// Why a test failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// No answer in time.
    Timeout,
    /// Refused by somebody.
    Refused,
    /// No route.
    Unreachable,
    /// The packet does not fit.
    TooBig,
    /// Other bytes came back.
    Corrupt,
    /// Another pod answered.
    WrongPod,
    /// The source address was changed on the way.
    SourceChanged,
    /// Anything else.
    Other,
}

impl From<Failure> for Why {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Timeout => Self::Timeout,
            Failure::Refused => Self::Refused,
            Failure::Unreachable => Self::Unreachable,
            Failure::TooBig => Self::TooBig,
            Failure::Corrupt => Self::Corrupt,
            Failure::Other => Self::Other,
        }
    }
}

/// Judges what the probe says: the right pod must have answered, and seen us as we are.
pub fn judge(test: &Test, outcome: Option<&Outcome>, silence: &str) -> Tested {
    let (failure, message) = match outcome {
        None => (Some(Why::Other), silence.to_owned()),
        Some(outcome) => match (outcome.failure, &outcome.answered_by, outcome.seen_as) {
            (Some(failure), _, _) => (Some(failure.into()), outcome.message.clone()),
            (None, Some(name), _) if *name != test.to => (
                Some(Why::WrongPod),
                format!("{name} answered instead of {}", test.to),
            ),
            (None, _, Some(seen))
                if test.path.keeps_source() && !test.from_addresses.contains(&seen) =>
            {
                (
                    Some(Why::SourceChanged),
                    format!("the other end saw {seen} as the source"),
                )
            }
            _ => (None, String::new()),
        },
    };
    Tested {
        from: test.from.clone(),
        from_node: test.from_node.clone(),
        to: test.to.clone(),
        to_node: test.to_node.clone(),
        path: test.path,
        family: test.family,
        kind: test.kind,
        target: test.target.to_string(),
        failure,
        message,
        micros: outcome.map_or(0, |outcome| outcome.micros),
    }
}

/// A pod that did not start, or a node that was not tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotTested {
    /// The node.
    pub node: String,
    /// The pod; empty when none was made.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Why.
    pub reason: String,
}

/// What is counted for one way, family and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// Tests that passed.
    pub passed: usize,
    /// All.
    pub total: usize,
}

/// One line of the summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The way.
    pub path: Path,
    /// IPv4 or IPv6.
    pub family: Family,
    /// By kind.
    pub counts: BTreeMap<Kind, Count>,
    /// The slowest small TCP exchange that passed.
    pub slowest_micros: Option<u64>,
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Everything was tested and passed.
    pub passed: bool,
    /// Nodes that took part.
    pub nodes: Vec<String>,
    /// The image of the test pods.
    pub image: String,
    /// Counted.
    pub summary: Vec<Line>,
    /// What could not be tested.
    pub not_tested: Vec<NotTested>,
    /// Likely causes and what to do next.
    pub hints: Vec<String>,
    /// Each test.
    pub tests: Vec<Tested>,
}

/// Counts and explains.
pub fn report(
    nodes: Vec<String>,
    image: String,
    tests: Vec<Tested>,
    not_tested: Vec<NotTested>,
) -> Report {
    let mut lines: BTreeMap<(Path, Family), Line> = BTreeMap::new();
    for test in &tests {
        let line = lines
            .entry((test.path, test.family))
            .or_insert_with(|| Line {
                path: test.path,
                family: test.family,
                counts: BTreeMap::new(),
                slowest_micros: None,
            });
        let count = line.counts.entry(test.kind).or_default();
        count.total += 1;
        if test.failure.is_none() {
            count.passed += 1;
            if test.kind == Kind::Tcp {
                line.slowest_micros = line.slowest_micros.max(Some(test.micros));
            }
        }
    }
    let hints = explain(&tests, &not_tested);
    Report {
        passed: not_tested.is_empty() && tests.iter().all(|test| test.failure.is_none()),
        nodes,
        image,
        summary: lines.into_values().collect(),
        not_tested,
        hints,
        tests,
    }
}

impl Report {
    /// Text for people: the summary, then what failed, why that may be, and the verdict last,
    /// where the eye is.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.summary.is_empty() {
            let kinds = [Kind::Tcp, Kind::Udp, Kind::Bulk, Kind::Mtu];
            let [tcp, udp, bulk, mtu] = kinds.map(Kind::as_str);
            let mut table = Table::new(["PATH", "FAMILY", tcp, udp, bulk, mtu, "SLOWEST TCP"]);
            for line in &self.summary {
                let count = |kind: Kind| {
                    line.counts
                        .get(&kind)
                        .map(|count| format!("{}/{}", count.passed, count.total))
                        .unwrap_or_default()
                };
                table.row([
                    line.path.as_str().into(),
                    line.family.as_str().into(),
                    count(Kind::Tcp),
                    count(Kind::Udp),
                    count(Kind::Bulk),
                    count(Kind::Mtu),
                    line.slowest_micros.map(millis).unwrap_or_default(),
                ]);
            }
            text.push_str(&table.render());
        }
        self.failures(&mut text);
        // Writing into a String cannot fail.
        for hint in &self.hints {
            let _ = write!(text, "\nlikely: {}\n", clean(hint));
        }
        let failed = self
            .tests
            .iter()
            .filter(|test| test.failure.is_some())
            .count();
        let total = self.tests.len();
        let missing = match self.not_tested.len() {
            0 => String::new(),
            n => format!(", {n} not tested"),
        };
        let nodes = match self.nodes.len() {
            1 => "1 node".to_owned(),
            n => format!("{n} nodes"),
        };
        let _ = if self.passed {
            writeln!(text, "\npassed: {total} tests on {nodes}")
        } else {
            writeln!(
                text,
                "\nfailed: {failed} of {total} tests on {nodes}{missing}"
            )
        };
        text
    }

    fn failures(&self, text: &mut String) {
        if !self.not_tested.is_empty() {
            let mut table = Table::new(["NOT TESTED", "POD", "REASON"]);
            for missing in &self.not_tested {
                table.row([
                    missing.node.clone(),
                    missing.pod.clone(),
                    missing.reason.clone(),
                ]);
            }
            text.push('\n');
            text.push_str(&table.render());
        }
        let failed: Vec<_> = self
            .tests
            .iter()
            .filter(|test| test.failure.is_some())
            .collect();
        if failed.is_empty() {
            return;
        }
        let mut table = Table::new(["FAILED", "FROM NODE", "TO NODE", "TRIED", "TARGET", "WHY"]);
        for test in failed.iter().take(LISTED) {
            table.row([
                test.path.as_str().into(),
                test.from_node.clone(),
                test.to_node.clone(),
                test.kind.as_str().into(),
                test.target.clone(),
                test.message.clone(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
        if failed.len() > LISTED {
            let _ = writeln!(
                text,
                "and {} more: -o json has them all",
                failed.len() - LISTED
            );
        }
    }
}

fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10)
}
