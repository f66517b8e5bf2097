//! The id ledger on disk. It belongs to a boot: after a reboot the switch is empty and ids start
//! anew.

use std::path::{Path, PathBuf};

use carrick_datapath::IdLedger;
use serde::{Deserialize, Serialize};

use crate::journal::{JournalError, set_aside, write_atomically};

/// The ledger and its file.
#[derive(Debug)]
pub struct LedgerFile {
    path: PathBuf,
    boot_id: String,
    /// What the file holds.
    written: IdLedger,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    boot_id: String,
    ledger: IdLedger,
}

impl LedgerFile {
    /// Reads the ledger of this boot; one of another boot is dropped, a damaged one set aside and
    /// its new name returned (ids are then recovered from the switch).
    ///
    /// # Errors
    /// A damaged file cannot be set aside.
    pub fn open(
        path: &Path,
        boot_id: &str,
    ) -> Result<(Self, IdLedger, Option<PathBuf>), JournalError> {
        let (ledger, aside) = match std::fs::read(path) {
            Ok(bytes) => match parse(&bytes) {
                Some(content) if content.boot_id == boot_id => (content.ledger, None),
                Some(_) => (IdLedger::default(), None),
                None => (IdLedger::default(), Some(set_aside(path)?)),
            },
            Err(_) => (IdLedger::default(), None),
        };
        let file = Self {
            path: path.to_owned(),
            boot_id: boot_id.to_owned(),
            written: ledger.clone(),
        };
        Ok((file, ledger, aside))
    }

    /// Makes the ledger durable, unless the file holds it already.
    ///
    /// # Errors
    /// The disk refused: nothing that uses a new id may be programmed.
    pub fn write(&mut self, ledger: &IdLedger) -> Result<(), JournalError> {
        if *ledger == self.written {
            return Ok(());
        }
        let content = Content {
            boot_id: self.boot_id.clone(),
            ledger: ledger.clone(),
        };
        let bytes = serde_json::to_vec(&content).map_err(|source| JournalError::Encode {
            path: self.path.clone(),
            source,
        })?;
        write_atomically(&self.path, &bytes)?;
        self.written = content.ledger;
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Option<Content> {
    let content: Content = serde_json::from_slice(bytes).ok()?;
    let ledger = content.ledger.validated().ok()?;
    Some(Content { ledger, ..content })
}

#[cfg(test)]
mod tests {
    use super::*;
    use carrick_datapath::Kind;

    #[test]
    fn ids_are_of_their_boot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.json");
        let (mut file, mut ledger, aside) = LedgerFile::open(&path, "b1").unwrap();
        assert_eq!(aside, None);
        ledger.id(Kind::Pod, "p").unwrap();
        file.write(&ledger).unwrap();
        assert_eq!(LedgerFile::open(&path, "b1").unwrap().1, ledger);
        assert!(LedgerFile::open(&path, "b2").unwrap().1.is_empty());
    }

    #[test]
    fn a_damaged_ledger_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.json");
        for damage in [
            "{",
            r#"{"bootId":"b1","ledger":{"spaces":{"pod":{"ids":{"a":0},"next":1}}}}"#,
        ] {
            std::fs::write(&path, damage).unwrap();
            let (_, ledger, aside) = LedgerFile::open(&path, "b1").unwrap();
            assert!(ledger.is_empty());
            assert!(aside.unwrap().exists());
        }
    }
}
