//! What the host had before us, on disk, so that `agent cleanup` can give it back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use carrick_node::LinkFacts;
use serde::{Deserialize, Serialize};

use crate::journal::{JournalError, set_aside, write_atomically};

/// A sysctl we changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedSysctl {
    /// What it was.
    pub before: String,
    /// What we set.
    pub ours: String,
}

/// The host before us.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Before {
    /// The boot this is about: after another the host has made everything anew by itself.
    pub boot_id: String,
    /// Sysctls by path below `/proc/sys/net`.
    #[serde(default)]
    pub sysctls: BTreeMap<String, ChangedSysctl>,
    /// The transport interface before it went into a bridge of Open vSwitch.
    #[serde(default)]
    pub transport: Option<LinkFacts>,
}

/// The file behind a [`Before`].
#[derive(Debug)]
pub struct BeforeFile {
    path: PathBuf,
    value: Before,
}

impl BeforeFile {
    /// Reads the file. What is of another boot is forgotten; a file that cannot be read is set
    /// aside, and its new name returned.
    ///
    /// # Errors
    /// A damaged file cannot be set aside.
    pub fn open(path: &Path, boot_id: &str) -> Result<(Self, Option<PathBuf>), JournalError> {
        let fresh = || Before {
            boot_id: boot_id.to_owned(),
            ..Before::default()
        };
        let (value, aside) = match std::fs::read(path) {
            Ok(bytes) => match serde_json::from_slice::<Before>(&bytes) {
                Ok(value) if value.boot_id == boot_id => (value, None),
                Ok(_) => (fresh(), None),
                Err(_) => (fresh(), Some(set_aside(path)?)),
            },
            Err(_) => (fresh(), None),
        };
        Ok((
            Self {
                path: path.to_owned(),
                value,
            },
            aside,
        ))
    }

    /// What is remembered.
    pub const fn get(&self) -> &Before {
        &self.value
    }

    /// Changes what is remembered; it is on disk when this returns. Writes nothing when nothing
    /// changes.
    ///
    /// # Errors
    /// The disk refused; then memory is unchanged, too.
    pub fn update(&mut self, change: impl FnOnce(&mut Before)) -> Result<(), JournalError> {
        let mut next = self.value.clone();
        change(&mut next);
        if next == self.value {
            return Ok(());
        }
        let bytes = serde_json::to_vec_pretty(&next).map_err(|source| JournalError::Encode {
            path: self.path.clone(),
            source,
        })?;
        write_atomically(&self.path, &bytes)?;
        self.value = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_boot_forgets_and_damage_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("before.json");
        let (mut file, aside) = BeforeFile::open(&path, "b1").unwrap();
        assert_eq!(aside, None);
        let changed = ChangedSysctl {
            before: "0".into(),
            ours: "1".into(),
        };
        file.update(|before| {
            before
                .sysctls
                .insert("ipv4/ip_forward".into(), changed.clone());
        })
        .unwrap();
        let (again, _) = BeforeFile::open(&path, "b1").unwrap();
        assert_eq!(again.get().sysctls["ipv4/ip_forward"], changed);
        let (rebooted, _) = BeforeFile::open(&path, "b2").unwrap();
        assert!(rebooted.get().sysctls.is_empty());
        std::fs::write(&path, "{").unwrap();
        let (fresh, aside) = BeforeFile::open(&path, "b1").unwrap();
        assert!(aside.unwrap().exists() && fresh.get().sysctls.is_empty());
    }
}
