//! Services' lines of the last saved commit, kept until the agent knows the Services itself.

use std::path::Path;

use carrick_datapath::{Commit, learned};
use carrick_openflow::{Flow, Group};

/// Lines of a saved commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    /// Flows.
    pub(crate) flows: Vec<String>,
    /// Groups.
    pub(crate) groups: Vec<String>,
}

impl Lines {
    /// What the file at `path` holds of Services; nothing where there is no commit, or none that can be
    /// read: then the switch has nothing to replay either.
    pub(crate) fn of_file(path: &Path) -> Self {
        let commit = std::fs::read(path).ok();
        let commit = commit.and_then(|bytes| Commit::from_bytes(&bytes).ok());
        commit.map(Self::of).unwrap_or_default()
    }

    fn of(commit: Commit) -> Self {
        let apart = learned();
        let is_service = |line: &String| {
            let flow = line.parse::<Flow>();
            flow.is_ok_and(|flow| apart.contains(&flow))
        };
        let is_group = |line: &String| {
            let group = line.parse::<Group>();
            group.is_ok_and(|group| apart.contains_group(group.id))
        };
        Self {
            flows: commit.flows.into_iter().filter(is_service).collect(),
            groups: commit.groups.into_iter().filter(is_group).collect(),
        }
    }

    /// Adds them to a commit, behind the pipeline's.
    pub(crate) fn add_to(self, commit: &mut Commit) {
        commit.flows.extend(self.flows);
        commit.groups.extend(self.groups);
    }
}
