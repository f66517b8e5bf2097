//! The effective configuration, read once: a change comes with new pods, in waves.

use std::path::{Path, PathBuf};

use carrick_api::effective::EffectiveConfig;

/// A ConfigMap holds no more.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is longer than a ConfigMap.
    #[error("the configuration {} has {length} bytes, more than {MAX_CONFIG_BYTES}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: u64,
    },
    /// The file is not what the operator writes.
    #[error("the configuration {} is not what the operator writes", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads the configuration.
///
/// # Errors
/// The file is missing, too long or malformed.
pub fn load(path: &Path) -> Result<EffectiveConfig, ConfigError> {
    let read = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    let length = std::fs::metadata(path).map_err(read)?.len();
    if length > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLong {
            path: path.to_owned(),
            length,
        });
    }
    let bytes = std::fs::read(path).map_err(read)?;
    serde_json::from_slice(&bytes).map_err(|source| ConfigError::Parse {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        std::fs::write(&file, "{").unwrap();
        let error = load(&file).unwrap_err();
        assert!(matches!(error, ConfigError::Parse { .. }));
        assert!(error.to_string().contains("config.json"));
        assert!(matches!(
            load(&directory.path().join("absent")),
            Err(ConfigError::Read { .. })
        ));
    }
}
