//! What must hold of any bytes in the place of the agent's last commit.

use carrick_datapath::{Commit, from_lines};

/// A commit: no panic; what is read is read again after writing, and its lines never panic.
pub fn commit(bytes: &[u8]) {
    let Ok(commit) = Commit::from_bytes(bytes) else {
        return;
    };
    let written = commit.to_bytes().expect("a commit is written");
    assert_eq!(
        Commit::from_bytes(&written).expect("what was written is read"),
        commit
    );
    drop(from_lines(
        commit.flows.into_iter(),
        commit.groups.into_iter(),
        commit.meters.into_iter(),
    ));
}
