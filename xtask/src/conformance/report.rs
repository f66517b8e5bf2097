//! The report of a suite, as Markdown.

use std::fmt::Write as _;
use std::time::Duration;

use super::outcome::{Outcome, Verdict};

/// How much of what a failed case said the table has; its log has all.
const SAID: usize = 240;

/// What was run, and on what.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The suite's name.
    pub suite: String,
    /// What it is about.
    pub about: String,
    /// What makes the report again.
    pub command: String,
    /// The cluster, in words.
    pub cluster: String,
}

/// How many cases passed, failed and were skipped.
pub fn counts(outcomes: &[Outcome]) -> String {
    let count = |wanted: fn(&Verdict) -> bool| {
        outcomes
            .iter()
            .filter(|outcome| wanted(&outcome.verdict))
            .count()
    };
    format!(
        "{} passed, {} failed, {} skipped",
        count(|verdict| matches!(verdict, Verdict::Passed)),
        count(|verdict| matches!(verdict, Verdict::Failed(_))),
        count(|verdict| matches!(verdict, Verdict::Skipped(_)))
    )
}

/// The whole page.
pub fn page(setting: &Setting, outcomes: &[Outcome]) -> String {
    let Setting {
        suite,
        about,
        command,
        cluster,
    } = setting;
    let total: Duration = outcomes.iter().map(|outcome| outcome.time).sum();
    let mut page = format!(
        "# Kubernetes' own tests: {suite}\n\n{about}\n\nWritten by `{command}`. The cases, and why some are not run: \
         `hack/suites/{suite}.yaml`.\nCluster: {cluster}.\n\n**{}**; the cases took {:.0} s one after the other.\n\n\
         | case | result | s |\n|---|---|---|\n",
        counts(outcomes),
        total.as_secs_f64()
    );
    for outcome in outcomes {
        page.push_str(&row(outcome));
        page.push('\n');
    }
    page
}

fn row(outcome: &Outcome) -> String {
    let mut row = format!("| {} | ", cell(&outcome.name));
    let time = format!("{:.0}", outcome.time.as_secs_f64());
    // A String takes whatever is written to it.
    let _ = match &outcome.verdict {
        Verdict::Passed => write!(row, "passed | {time} |"),
        Verdict::Failed(said) => write!(row, "**failed**: {} | {time} |", cell(said)),
        Verdict::Skipped(reason) => write!(row, "skipped: {} | |", cell(reason)),
    };
    row
}

/// Text of somebody else's as a cell of a table: one line, nothing that ends the cell or begins markup.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut cell = String::new();
    for character in line.chars().take(SAID) {
        if matches!(character, '|' | '[' | ']' | '<' | '`' | '*' | '_' | '\\') {
            cell.push('\\');
        }
        cell.push(character);
    }
    if line.chars().count() > SAID {
        cell.push('…');
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_row_and_every_skip_its_reason() {
        let outcome = |name: &str, verdict, seconds| Outcome {
            name: name.to_owned(),
            verdict,
            time: Duration::from_secs(seconds),
        };
        let outcomes = [
            outcome("[sig] a", Verdict::Passed, 3),
            outcome("b", Verdict::Failed("no |\n answer".to_owned()), 60),
            outcome("c", Verdict::Skipped("none here".to_owned()), 0),
        ];
        let setting = Setting {
            suite: "things".to_owned(),
            about: "All of them.".to_owned(),
            command: "hack/conformance things".to_owned(),
            cluster: "three nodes".to_owned(),
        };
        let page = page(&setting, &outcomes);
        for part in [
            "# Kubernetes' own tests: things\n",
            "Written by `hack/conformance things`",
            "Cluster: three nodes.",
            "**1 passed, 1 failed, 1 skipped**; the cases took 63 s",
            "| \\[sig\\] a | passed | 3 |\n",
            "| b | **failed**: no \\| answer | 60 |\n",
            "| c | skipped: none here | |\n",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
    }

    #[test]
    fn what_a_case_said_is_cut() {
        let cell = cell(&"é".repeat(SAID + 1));
        assert_eq!(cell.chars().count(), SAID + 1);
        assert!(cell.ends_with('…'));
    }
}
