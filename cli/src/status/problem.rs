//! What is wrong, where, and what to do about it.

use std::collections::BTreeMap;

use serde::Serialize;

/// Names of subjects that are written out; the rest is counted.
const NAMED: usize = 3;

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The network is not what was asked for: `status` exits with 2.
    Error,
    /// Somebody should know.
    Warning,
}

/// One thing that is wrong, with all the places where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// Where: "network", "operator", "node worker-1", …
    pub subjects: Vec<String>,
    /// What.
    pub what: String,
    /// What to do, when more can be said than `what` does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

impl Problem {
    /// The places in words: three names and a count.
    pub fn place(&self) -> String {
        carrick_k8s::telemetry::some(&self.subjects, NAMED)
    }
}

/// Collects problems. The same thing in several places is one problem.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<Problem>,
    index: BTreeMap<(Severity, String, String), usize>,
}

impl Problems {
    /// Something is broken.
    pub fn error(&mut self, subject: &str, what: impl Into<String>, mend: impl Into<String>) {
        self.add(Severity::Error, subject, what.into(), mend.into());
    }

    /// Something is doubtful.
    pub fn warning(&mut self, subject: &str, what: impl Into<String>, mend: impl Into<String>) {
        self.add(Severity::Warning, subject, what.into(), mend.into());
    }

    fn add(&mut self, severity: Severity, subject: &str, what: String, mend: String) {
        let at = *self
            .index
            .entry((severity, what.clone(), mend.clone()))
            .or_insert(self.found.len());
        match self.found.get_mut(at) {
            Some(problem) if problem.subjects.iter().any(|known| known == subject) => {}
            Some(problem) => problem.subjects.push(subject.to_owned()),
            None => self.found.push(Problem {
                severity,
                subjects: vec![subject.to_owned()],
                what,
                mend,
            }),
        }
    }

    /// Whether a message is told already.
    pub fn tells(&self, what: &str) -> bool {
        self.found.iter().any(|problem| problem.what.contains(what))
    }

    /// Whether something is broken.
    pub fn any_error(&self) -> bool {
        self.found
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// Errors first, otherwise in the order they were found.
    pub fn finish(mut self) -> Vec<Problem> {
        self.found.sort_by_key(|problem| problem.severity);
        self.found
    }
}
