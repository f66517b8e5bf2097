//! How much of what a cache or a log directory holds stays.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Removes all but the `kept` newest of these files and directories. What orders them comes with each.
///
/// # Errors
/// When one cannot be removed.
pub fn keep_newest<Age: Ord>(
    entries: impl IntoIterator<Item = (Age, PathBuf)>,
    kept: usize,
) -> Result<()> {
    let mut entries: Vec<_> = entries.into_iter().collect();
    entries.sort();
    let excess = entries.len().saturating_sub(kept);
    for (_, path) in entries.into_iter().take(excess) {
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let entries: Vec<_> = (0..4)
            .map(|age| {
                let path = dir.path().join(age.to_string());
                if age % 2 == 0 {
                    fs::create_dir_all(path.join("within")).unwrap();
                } else {
                    fs::write(&path, "").unwrap();
                }
                (age, path)
            })
            .rev()
            .collect();
        keep_newest(entries.clone(), 2).unwrap();
        let left: Vec<_> = entries.iter().filter(|(_, p)| p.exists()).collect();
        assert_eq!(left, [&entries[0], &entries[1]]);
        keep_newest(left.into_iter().cloned(), 5).unwrap();
        assert!(entries[0].1.exists() && entries[1].1.exists());
    }
}
