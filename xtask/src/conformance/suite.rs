//! Which of Kubernetes' tests a suite runs: a file that a person can review, against the names of all cases.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use carrick_testbed::NodeKind;
use serde::Deserialize;

/// Where the suites are.
const DIRECTORY: &str = "hack/suites";

/// A suite, as its file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// What it is about, for the report.
    pub about: String,
    /// Parts of the names of its cases.
    run: Vec<String>,
    /// Those of them that are not run.
    #[serde(default)]
    skip: Vec<Skip>,
    /// Parts of the names of those that are run where there is little time.
    #[serde(default)]
    quick: Vec<String>,
}

/// Cases that are not run.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    /// Parts of their names.
    cases: Vec<String>,
    /// Why.
    because: String,
    /// Only on this kind of nodes.
    #[serde(default)]
    nodes: Option<NodeKind>,
}

/// What a person asks for of a suite.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What the nodes are made of.
    pub nodes: NodeKind,
    /// A part of the name, in any case of letters.
    pub filter: Option<&'a str>,
    /// Whether there is little time.
    pub quick: bool,
}

/// What becomes of a case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    /// Its whole name.
    pub name: String,
    /// Why it is not run.
    pub skipped: Option<String>,
}

impl Case {
    /// Whether it must have the cluster for itself.
    pub fn is_alone(&self) -> bool {
        ["[Serial]", "[Disruptive]"]
            .iter()
            .any(|mark| self.name.contains(mark))
    }
}

impl Suite {
    /// Reads a suite's file.
    pub fn read(name: &str) -> Result<Self> {
        let file = crate::root().join(DIRECTORY).join(format!("{name}.yaml"));
        ensure!(
            file.is_file(),
            "there is no suite {name:?}; {DIRECTORY} has {}",
            names()?.join(", ")
        );
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        serde_saphyr::from_str(&text).with_context(|| format!("read {}", file.display()))
    }

    /// Its cases among all there are, in the order of their names.
    pub fn select(&self, all: &[String], wanted: Wanted<'_>) -> Result<Vec<Case>> {
        self.check(all)?;
        let filter = wanted.filter.map(str::to_lowercase);
        let mine = |name: &&String| {
            any(&self.run, name)
                && (!wanted.quick || any(&self.quick, name))
                && filter
                    .as_ref()
                    .is_none_or(|filter| name.to_lowercase().contains(filter))
        };
        let cases: BTreeSet<_> = all
            .iter()
            .filter(mine)
            .map(|name| Case {
                name: name.clone(),
                skipped: self.reason(name, wanted.nodes),
            })
            .collect();
        ensure!(!cases.is_empty(), "no case of the suite is named so");
        Ok(cases.into_iter().collect())
    }

    /// Why a case is not run on these nodes.
    fn reason(&self, name: &str, nodes: NodeKind) -> Option<String> {
        self.skip
            .iter()
            .filter(|skip| skip.nodes.is_none_or(|kind| kind == nodes))
            .find(|skip| any(&skip.cases, name))
            .map(|skip| skip.because.clone())
    }

    /// A pattern that names nothing would hide that a case has got another name.
    fn check(&self, all: &[String]) -> Result<()> {
        let skips = self.skip.iter().flat_map(|skip| &skip.cases);
        for pattern in self.run.iter().chain(skips).chain(&self.quick) {
            ensure!(
                all.iter().any(|name| name.contains(pattern)),
                "the pattern {pattern:?} of the suite names no case: take it out, or see what the case is called now"
            );
        }
        Ok(())
    }
}

fn any(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| name.contains(pattern))
}

/// The suites there are.
pub fn names() -> Result<Vec<String>> {
    let directory = crate::root().join(DIRECTORY);
    let entries =
        fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path: &PathBuf| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .filter_map(|path| path.file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
about: things
run: ['Services ', 'DNS ']
skip:
  - {cases: ['[Cloud]'], because: there is none}
  - {cases: [sctp], because: no kernel has it, nodes: namespace}
quick: [basic]
";

    fn all() -> Vec<String> {
        [
            "Services basic",
            "Services on sctp",
            "DNS [Cloud]",
            "Pods basic",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn wanted() -> Wanted<'static> {
        Wanted {
            nodes: NodeKind::Namespace,
            filter: None,
            quick: false,
        }
    }

    fn select(wanted: Wanted<'_>) -> Vec<(String, Option<String>)> {
        let suite: Suite = serde_saphyr::from_str(FILE).unwrap();
        let cases = suite.select(&all(), wanted).unwrap();
        cases.into_iter().map(|c| (c.name, c.skipped)).collect()
    }

    #[test]
    fn skipped_cases_stay_with_their_reason() {
        let reason = |text: &str| Some(text.to_owned());
        assert_eq!(
            select(wanted()),
            [
                ("DNS [Cloud]".to_owned(), reason("there is none")),
                ("Services basic".to_owned(), None),
                ("Services on sctp".to_owned(), reason("no kernel has it")),
            ]
        );
        let kernel = select(Wanted {
            nodes: NodeKind::Kernel,
            ..wanted()
        });
        assert_eq!(kernel[2], ("Services on sctp".to_owned(), None));
    }

    #[test]
    fn a_filter_and_little_time_leave_less() {
        let filtered = select(Wanted {
            filter: Some("dns"),
            ..wanted()
        });
        assert_eq!(filtered.len(), 1);
        let quick = select(Wanted {
            quick: true,
            ..wanted()
        });
        assert_eq!(quick, [("Services basic".to_owned(), None)]);
        let suite: Suite = serde_saphyr::from_str(FILE).unwrap();
        let nothing = Wanted {
            filter: Some("pods"),
            ..wanted()
        };
        assert!(suite.select(&all(), nothing).is_err());
    }

    #[test]
    fn a_pattern_that_names_nothing_is_an_error() {
        let suite: Suite = serde_saphyr::from_str(FILE).unwrap();
        let error = suite.select(&all()[..3], wanted());
        assert!(error.is_ok());
        let error = suite.select(&all()[..2], wanted()).unwrap_err();
        assert!(error.to_string().contains("DNS "), "{error}");
    }

    #[test]
    fn the_suites_of_this_repository_can_be_read() {
        for name in names().unwrap() {
            Suite::read(&name).unwrap();
        }
        assert!(
            Suite::read("nonsense")
                .unwrap_err()
                .to_string()
                .contains("services")
        );
    }
}
