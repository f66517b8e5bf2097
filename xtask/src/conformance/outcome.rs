//! What a case came to, out of the report that the tests write of themselves (Ginkgo's JSON report).

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// The end of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Passed,
    /// It does not, and this is what it said.
    Failed(String),
    /// It was not run, for this reason.
    Skipped(String),
}

/// What a case came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The case's whole name.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// How long it ran.
    pub time: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    run_time: u64,
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: String,
}

impl Spec {
    fn name(&self) -> String {
        let containers = self.container_hierarchy_texts.iter().flatten();
        let texts: Vec<_> = containers
            .chain([&self.leaf_node_text])
            .map(String::as_str)
            .filter(|text| !text.is_empty())
            .collect();
        texts.join(" ")
    }
}

/// The names of all cases, from the report of a run without action.
pub fn names(report: &[u8]) -> Result<Vec<String>> {
    Ok(specs(report)?
        .iter()
        .filter(|spec| spec.leaf_node_type == "It")
        .map(Spec::name)
        .collect())
}

/// What the case of this name came to.
pub fn outcome(report: &[u8], name: &str) -> Result<Outcome> {
    let specs = specs(report)?;
    let spec = specs
        .iter()
        .find(|spec| spec.leaf_node_type == "It" && spec.name() == name)
        .context("the report does not know the case")?;
    let said = || {
        // What stands around the case fails it too.
        let around = specs.iter().filter(|spec| spec.leaf_node_type != "It");
        let failures = std::iter::once(spec)
            .chain(around)
            .filter_map(|spec| spec.failure.as_ref());
        let mut messages = failures.map(|failure| failure.message.trim().to_owned());
        messages
            .next()
            .unwrap_or_else(|| "it did not say why".to_owned())
    };
    let verdict = match spec.state.as_str() {
        "passed" => Verdict::Passed,
        "skipped" if spec.failure.is_some() => Verdict::Skipped(said()),
        "failed" => Verdict::Failed(said()),
        other => Verdict::Failed(format!("{other}: {}", said())),
    };
    Ok(Outcome {
        name: name.to_owned(),
        verdict,
        time: Duration::from_nanos(spec.run_time),
    })
}

fn specs(report: &[u8]) -> Result<Vec<Spec>> {
    let reports: Vec<Report> = serde_json::from_slice(report).context("parse the report")?;
    let Ok([report]) = <[Report; 1]>::try_from(reports) else {
        bail!("the report is not of one suite")
    };
    report.spec_reports.context("the report has no cases")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: &str, failure: &str) -> Vec<u8> {
        format!(
            r#"[{{"SpecReports": [
                {{"ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "passed"}},
                {{"ContainerHierarchyTexts": ["[sig] Things", "far"], "LeafNodeType": "It", "LeafNodeText": "work",
                  "State": "{state}", "RunTime": 1500000000 {failure}}}
            ]}}]"#
        )
        .into_bytes()
    }

    fn verdict(state: &str, failure: &str) -> Verdict {
        outcome(&report(state, failure), "[sig] Things far work")
            .unwrap()
            .verdict
    }

    #[test]
    fn names_are_those_that_a_focus_takes() {
        assert_eq!(
            names(&report("passed", "")).unwrap(),
            ["[sig] Things far work"]
        );
        assert!(names(b"[]").is_err());
    }

    #[test]
    fn a_case_passes_only_when_it_says_so() {
        let failure = r#", "Failure": {"Message": " why\nmore "}"#;
        let text = "why\nmore".to_owned();
        assert_eq!(verdict("passed", ""), Verdict::Passed);
        assert_eq!(verdict("skipped", failure), Verdict::Skipped(text.clone()));
        assert_eq!(verdict("failed", failure), Verdict::Failed(text));
        for state in ["timedout", "panicked", "interrupted", "pending", "skipped"] {
            assert!(matches!(verdict(state, ""), Verdict::Failed(said) if said.starts_with(state)));
        }
        assert!(outcome(&report("passed", ""), "another").is_err());
    }

    #[test]
    fn what_stands_around_a_case_is_told() {
        let report = r#"[{"SpecReports": [
            {"LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "failed", "Failure": {"Message": "no cluster"}},
            {"ContainerHierarchyTexts": ["a"], "LeafNodeType": "It", "LeafNodeText": "b", "State": "skipped"}]}]"#;
        let outcome = outcome(report.as_bytes(), "a b").unwrap();
        assert_eq!(
            outcome.verdict,
            Verdict::Failed("skipped: no cluster".to_owned())
        );
    }
}
