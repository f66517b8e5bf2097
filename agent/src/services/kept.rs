//! Services' lines of the last saved commit, kept until the agent knows the Services itself.

use std::path::Path;

use carrick_datapath::{Commit, of_services};
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
        let apart = of_services();
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

#[cfg(test)]
mod tests {
    use carrick_datapath::{COMMIT_VERSION, CookieParts, DatapathKind, Kind};

    use super::*;

    #[test]
    fn only_services_lines_are_kept() {
        let cookie =
            |kind, object| format!("cookie=0x{:x}", CookieParts { kind, object }.to_bits());
        let service = format!(
            "{}, table=0,priority=1,ip actions=drop",
            cookie(Kind::Service, 7)
        );
        let pod = format!(
            "{}, table=0,priority=2,ip actions=drop",
            cookie(Kind::Pod, 7)
        );
        let group = |kind: Kind| {
            format!(
                "group_id={},type=all,bucket=actions=drop",
                (kind as u32) << 24 | 7
            )
        };
        let mut commit = Commit {
            version: COMMIT_VERSION,
            boot_id: "b".into(),
            datapath: DatapathKind::System,
            bridge: "br-int".into(),
            flows: vec![pod.clone(), service.clone(), "nonsense".into()],
            groups: vec![group(Kind::Pipeline), group(Kind::ServiceGroup)],
            meters: vec![],
        };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("commit.json");
        assert_eq!(Lines::of_file(&file), Lines::default());
        std::fs::write(&file, commit.to_bytes().unwrap()).unwrap();
        let kept = Lines::of_file(&file);
        let expected = Lines {
            flows: vec![service.clone()],
            groups: vec![group(Kind::ServiceGroup)],
        };
        assert_eq!(kept, expected);
        commit.flows = vec![pod.clone()];
        kept.add_to(&mut commit);
        assert_eq!(commit.flows, [pod, service]);
    }
}
