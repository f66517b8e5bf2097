//! Values below `/proc/sys/net`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::namespace::{Namespace, NamespaceError};

/// Why a sysctl could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The key leads out of the tree, or is empty.
    #[error("{key:?} is not a key below /proc/sys/net")]
    Key {
        /// The key.
        key: String,
    },
    /// The file could not be read or written.
    #[error("{operation} sysctl {key}")]
    Io {
        /// "reading" or "writing".
        operation: &'static str,
        /// The key.
        key: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The namespace could not be entered.
    #[error("setting sysctls")]
    Namespace(#[from] NamespaceError),
}

/// A tree of sysctls: `/proc/sys/net`, or where the host's is mounted. Keys are paths in it
/// (`ipv4/ip_forward`). What is read and written belongs to the calling thread's network namespace,
/// wherever the tree is mounted.
#[derive(Debug, Clone)]
pub struct Sysctls {
    root: PathBuf,
}

impl Default for Sysctls {
    fn default() -> Self {
        Self::at("/proc/sys/net")
    }
}

impl Sysctls {
    /// The tree mounted at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn file(&self, key: &str) -> Result<PathBuf, SysctlError> {
        let plain = !key.is_empty() && key.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if plain {
            Ok(self.root.join(Path::new(key)))
        } else {
            Err(SysctlError::Key {
                key: key.to_owned(),
            })
        }
    }

    /// Reads a value, without the line's end.
    pub fn get(&self, key: &str) -> Result<String, SysctlError> {
        let text = fs::read_to_string(self.file(key)?).map_err(|source| SysctlError::Io {
            operation: "reading",
            key: key.to_owned(),
            source,
        })?;
        Ok(text.trim().to_owned())
    }

    /// Writes a value unless it is there already, and returns the one before when it was another.
    pub fn set(&self, key: &str, value: &str) -> Result<Option<String>, SysctlError> {
        let before = self.get(key)?;
        if before == value {
            return Ok(None);
        }
        fs::write(self.file(key)?, value).map_err(|source| SysctlError::Io {
            operation: "writing",
            key: key.to_owned(),
            source,
        })?;
        Ok(Some(before))
    }

    /// Makes `desired` true, goes on after errors, and adds to `previous` what each key held before
    /// we first changed it: what [`Self::restore`] writes back.
    pub fn apply(
        &self,
        desired: &BTreeMap<String, String>,
        previous: &mut BTreeMap<String, String>,
    ) -> Vec<SysctlError> {
        let mut errors = Vec::new();
        for (key, value) in desired {
            match self.set(key, value) {
                Ok(Some(before)) => {
                    previous.entry(key.clone()).or_insert(before);
                }
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// Writes remembered values back. Keys that are gone with their interface are no error.
    pub fn restore(&self, previous: &BTreeMap<String, String>) -> Vec<SysctlError> {
        let mut errors = Vec::new();
        for (key, value) in previous {
            if let Err(error) = self.set_if_there(key, value) {
                errors.push(error);
            }
        }
        errors
    }

    /// Writes a value unless the key is not there: its interface is gone, or the kernel has none of it.
    pub fn set_if_there(&self, key: &str, value: &str) -> Result<(), SysctlError> {
        match self.set(key, value) {
            Err(SysctlError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(())
            }
            set => set.map(drop),
        }
    }

    /// Writes `values` inside `namespace`, the first error ends it. Keys marked optional (an absent
    /// file is no error) start with '-', as in sysctl.d(5).
    pub async fn set_in(
        &self,
        namespace: &Namespace,
        values: Vec<(String, String)>,
    ) -> Result<(), SysctlError> {
        let tree = self.clone();
        namespace
            .run(move || {
                for (key, value) in values {
                    match key.strip_prefix('-') {
                        Some(key) => tree.set_if_there(key, &value)?,
                        None => drop(tree.set(&key, &value)?),
                    }
                }
                Ok(())
            })
            .await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previous_values_are_remembered_once_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("ipv4")).unwrap();
        fs::write(dir.path().join("ipv4/ip_forward"), "0\n").unwrap();
        let tree = Sysctls::at(dir.path());
        let mut previous = BTreeMap::new();
        let desired = |value: &str| {
            BTreeMap::from([
                ("ipv4/ip_forward".to_owned(), value.to_owned()),
                ("ipv4/absent".to_owned(), "1".to_owned()),
            ])
        };
        assert_eq!(tree.apply(&desired("1"), &mut previous).len(), 1);
        assert_eq!(tree.apply(&desired("2"), &mut previous).len(), 1);
        assert_eq!(tree.get("ipv4/ip_forward").unwrap(), "2");
        assert_eq!(previous["ipv4/ip_forward"], "0");
        previous.insert("ipv4/gone".to_owned(), "1".to_owned());
        assert!(tree.restore(&previous).is_empty());
        assert_eq!(tree.get("ipv4/ip_forward").unwrap(), "0");
    }

    #[test]
    fn keys_stay_inside_the_tree() {
        let tree = Sysctls::default();
        for key in ["", "/etc/passwd", "../kernel/panic", "ipv4//x", "ipv4/./x"] {
            assert!(
                matches!(tree.get(key), Err(SysctlError::Key { .. })),
                "{key}"
            );
        }
    }
}
