//! The saved commit: what the agent last made the switch hold, as a file on tmpfs.
//!
//! The agent writes it after every commit that the switch has acknowledged; `carrick switch`
//! replays it when Open vSwitch starts again, so that forwarding and policy come back without
//! the agent. It is text in the syntax of `ovs-ofctl`, so that a person can read and replay it.
//!
//! A file of another version, boot or datapath is not replayed: port numbers and conntrack
//! entries it speaks of are gone.

use serde::{Deserialize, Serialize};

/// The version of the file's form that this build writes and reads.
pub const COMMIT_VERSION: u32 = 1;

/// The most bytes a commit file may have: 100,000 flows of 600 bytes and as much again.
pub const MAX_COMMIT_BYTES: u64 = 128 << 20;

/// Datapath type of the bridge, in the words of Open vSwitch (`Bridge.datapath_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatapathKind {
    /// The kernel module `openvswitch`.
    System,
    /// The userspace datapath in `ovs-vswitchd` itself.
    Netdev,
}

impl DatapathKind {
    /// The value of `Bridge.datapath_type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Netdev => "netdev",
        }
    }
}

impl std::fmt::Display for DatapathKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The content of the commit file. All lists are sorted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// Form of the file; see [`COMMIT_VERSION`].
    pub version: u32,
    /// `/proc/sys/kernel/random/boot_id` when it was written.
    pub boot_id: String,
    /// Datapath the flows were made for.
    pub datapath: DatapathKind,
    /// Bridge they belong to.
    pub bridge: String,
    /// Flows, one `ovs-ofctl add-flow` argument each.
    pub flows: Vec<String>,
    /// Groups, one `ovs-ofctl add-group` argument each.
    pub groups: Vec<String>,
    /// Meters, one `ovs-ofctl add-meter` argument each.
    pub meters: Vec<String>,
}

/// Why a commit file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The bytes are not the JSON of a commit.
    #[error("the commit file of {length} bytes is not readable")]
    Malformed {
        /// Length of the file.
        length: usize,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The file is larger than any commit of ours.
    #[error("the commit file has {length} bytes, more than {MAX_COMMIT_BYTES}")]
    TooLarge {
        /// Length of the file.
        length: usize,
    },
    /// The file has a form that this build does not know.
    #[error("the commit file has version {found}, this build replays {COMMIT_VERSION}")]
    Version {
        /// Version in the file.
        found: u32,
    },
    /// The file is from before a reboot.
    #[error("the commit file is of boot {found}, this is boot {current}")]
    OtherBoot {
        /// Boot id in the file.
        found: String,
        /// Boot id of the running kernel.
        current: String,
    },
}

impl Commit {
    /// Reads the bytes of a commit file and checks that they are of this version.
    ///
    /// # Errors
    /// The file is too large, not a commit, or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CommitError> {
        let length = bytes.len();
        if length as u64 > MAX_COMMIT_BYTES {
            return Err(CommitError::TooLarge { length });
        }
        let commit: Self = serde_json::from_slice(bytes)
            .map_err(|source| CommitError::Malformed { length, source })?;
        if commit.version == COMMIT_VERSION {
            Ok(commit)
        } else {
            Err(CommitError::Version {
                found: commit.version,
            })
        }
    }

    /// The bytes of the commit file.
    ///
    /// # Errors
    /// Never for commits made of strings; the serializer's signature says it could.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }

    /// Refuses a commit made before the last reboot.
    ///
    /// # Errors
    /// The boot ids differ.
    pub fn check_boot(&self, current: &str) -> Result<(), CommitError> {
        if self.boot_id == current {
            Ok(())
        } else {
            Err(CommitError::OtherBoot {
                found: self.boot_id.clone(),
                current: current.to_owned(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Commit {
        Commit {
            version: COMMIT_VERSION,
            boot_id: "b1".into(),
            datapath: DatapathKind::Netdev,
            bridge: "br-int".into(),
            flows: vec!["table=0,priority=0 actions=drop".into()],
            groups: vec![],
            meters: vec![],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample().to_bytes().unwrap();
        assert_eq!(Commit::from_bytes(&bytes).unwrap(), sample());
        assert!(
            String::from_utf8(bytes)
                .unwrap()
                .contains("\"bootId\": \"b1\"")
        );
    }

    #[test]
    fn another_boot_is_refused() {
        assert!(sample().check_boot("b1").is_ok());
        assert!(matches!(
            sample().check_boot("b2"),
            Err(CommitError::OtherBoot { .. })
        ));
    }

    #[test]
    fn another_version_is_refused() {
        let bytes = Commit {
            version: 2,
            ..sample()
        }
        .to_bytes()
        .unwrap();
        assert!(matches!(
            Commit::from_bytes(&bytes),
            Err(CommitError::Version { found: 2 })
        ));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample().to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(Commit::from_bytes(&bytes[..end]).is_err(), "{end}");
        }
    }
}
