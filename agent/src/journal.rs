//! The agent's one durable store: an append-only file of checksummed records.
//!
//! Each record is a whole step of its owner's state ("these attachments changed"), so a crash
//! leaves either all of a step or nothing of it:
//!
//! ```text
//! record  = magic u32 | length u32 | crc32c(payload) u32 | crc32c(first 12 bytes) u32 | payload
//! append  = write, fdatasync; only then does the owner act on it
//! compact = NAME.tmp: write, fsync; rename over NAME; fsync of the directory
//! ```
//!
//! Invariants:
//! - What [`Journal::append`] returned `Ok` for is found again by [`Journal::open`], whatever is
//!   killed when; what it returned `Err` for is not.
//! - A record cut short at the end (a crash while appending) is dropped and told. A damaged record
//!   with an intact one behind it is damage to what was once committed: the file is set aside as
//!   `NAME.corrupt-N`, every intact record of it is kept, and the owner is told.
//! - A full disk leaves the file as it was before the append.
//!
//! No clock, no tasks: callers run it where blocking is allowed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// First bytes of every record: "CRJ1".
const MAGIC: u32 = 0x4352_4a31;
/// Magic, length and two checksums.
const HEADER: usize = 16;
/// The longest payload: the state of a whole node fits many times over.
const MAX_PAYLOAD: usize = 64 << 20;
/// The longest file that is read at start; above, something other than us wrote it.
const MAX_FILE: u64 = 1 << 30;
/// How many files are set aside per journal before the oldest name is used again.
const MAX_SET_ASIDE: u32 = 16;

/// Why a journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// An operation on the file or its directory failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A payload is longer than a record may hold.
    #[error("a record of {length} bytes for {} is longer than {MAX_PAYLOAD}", path.display())]
    TooLong {
        /// The journal.
        path: PathBuf,
        /// Length of the payload.
        length: usize,
    },
    /// An earlier write failed half-way and could not be undone: only a compaction mends it.
    #[error("{} must be rewritten after an earlier failed write", path.display())]
    NeedsCompaction {
        /// The journal.
        path: PathBuf,
    },
    /// A value could not be encoded.
    #[error("encoding a record for {}", path.display())]
    Encode {
        /// The journal.
        path: PathBuf,
        /// The encoder's answer.
        #[source]
        source: serde_json::Error,
    },
}

impl JournalError {
    /// Whether the disk (or a quota) is full.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ))
    }
}

/// What [`Journal::open`] found besides records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// There was no file: a first start, or somebody removed it.
    Created,
    /// Every byte belonged to an intact record.
    Intact,
    /// The end of the file was an unfinished append of this many bytes, now cut off.
    TornTail {
        /// Bytes dropped.
        bytes: u64,
    },
    /// The file was damaged. It lies at `set_aside`; the intact records were kept in a new one.
    Corrupt {
        /// Where the damaged file is now.
        set_aside: PathBuf,
        /// Bytes that belonged to no intact record.
        lost: u64,
    },
}

/// An open journal and what was in it.
#[derive(Debug)]
pub struct Opened {
    /// The journal, ready to append.
    pub journal: Journal,
    /// Payloads in the order of their append.
    pub records: Vec<Vec<u8>>,
    /// How the file was found.
    pub recovery: Recovery,
}

impl Opened {
    /// The payloads as values; those that do not parse (written by another version) are counted.
    pub fn decode<T: DeserializeOwned>(&self) -> (Vec<T>, usize) {
        let mut unknown = 0;
        let mut values = Vec::with_capacity(self.records.len());
        for record in &self.records {
            match serde_json::from_slice(record) {
                Ok(value) => values.push(value),
                Err(_) => unknown += 1,
            }
        }
        (values, unknown)
    }
}

/// An append-only file of records. One owner; `&mut self` serialises its writers.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    length: u64,
    /// Bytes of records since the last compaction.
    appended: u64,
    /// The file's state on disk is unknown; only `compact` may write.
    broken: bool,
}

impl Journal {
    /// Opens (or creates, with its directory) the journal at `path` and reads its records.
    pub fn open(path: impl Into<PathBuf>) -> Result<Opened, JournalError> {
        let path = path.into();
        let directory = parent(&path);
        fs::create_dir_all(directory).map_err(io_error("creating", directory))?;
        let bytes = match read_bounded(&path) {
            Ok(bytes) => Some(bytes),
            Err(source) if source.kind() == io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(JournalError::Io {
                    operation: "reading",
                    path,
                    source,
                });
            }
        };
        let Some(bytes) = bytes else {
            let file = replace(&path, &[])?;
            sync_directory(directory)?;
            let journal = Self {
                path,
                file,
                length: 0,
                appended: 0,
                broken: false,
            };
            return Ok(Opened {
                journal,
                records: Vec::new(),
                recovery: Recovery::Created,
            });
        };
        let scan = scan(&bytes);
        let total = bytes.len() as u64;
        if scan.damaged {
            // The damaged file keeps its name until the new one is whole: a crash here loses nothing.
            let set_aside = free_name(&path);
            // A leftover of an earlier attempt may go: its content is in the file we link.
            let _ = fs::remove_file(&set_aside);
            fs::hard_link(&path, &set_aside).map_err(io_error("setting aside", &path))?;
            let file = OpenOptions::new()
                .read(true)
                .open(&path)
                .map_err(io_error("opening", &path))?;
            let mut journal = Self {
                path,
                file,
                length: 0,
                appended: 0,
                broken: true,
            };
            journal.compact(&scan.records)?;
            let lost = total.saturating_sub(scan.intact_bytes);
            return Ok(Opened {
                journal,
                records: scan.records,
                recovery: Recovery::Corrupt { set_aside, lost },
            });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io_error("opening", &path))?;
        let mut journal = Self {
            path,
            file,
            length: scan.intact_bytes,
            appended: scan.intact_bytes,
            broken: false,
        };
        let recovery = if total > scan.intact_bytes {
            journal.cut_to(scan.intact_bytes)?;
            Recovery::TornTail {
                bytes: total - scan.intact_bytes,
            }
        } else {
            Recovery::Intact
        };
        Ok(Opened {
            journal,
            records: scan.records,
            recovery,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes appended since the last compaction (or in the file, after opening it): owners compact
    /// when this is many times what their state needs.
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends one record and waits until the disk has it.
    ///
    /// On error the record is not in the journal. After [`JournalError::NeedsCompaction`] the
    /// owner calls [`Journal::compact`] with its whole state.
    pub fn append(&mut self, payload: &[u8]) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError::NeedsCompaction {
                path: self.path.clone(),
            });
        }
        let record = encode(&self.path, payload)?;
        let written = self
            .file
            .seek(SeekFrom::Start(self.length))
            .and_then(|_| self.file.write_all(&record))
            .map_err(io_error("appending to", &self.path));
        // A failed fsync may have dropped dirty pages: what the disk holds is then unknown, and
        // asking again would lie. The compaction writes a new file.
        let synced = written.and_then(|()| {
            self.file.sync_data().map_err(|source| {
                self.broken = true;
                JournalError::Io {
                    operation: "syncing",
                    path: self.path.clone(),
                    source,
                }
            })
        });
        match synced {
            Ok(()) => {
                self.length += record.len() as u64;
                self.appended += record.len() as u64;
                Ok(())
            }
            Err(error) => {
                if self.cut_to(self.length).is_err() {
                    self.broken = true;
                }
                Err(error)
            }
        }
    }

    /// Appends one record that holds `value` as JSON.
    pub fn append_json<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), JournalError> {
        let payload = serde_json::to_vec(value).map_err(|source| JournalError::Encode {
            path: self.path.clone(),
            source,
        })?;
        self.append(&payload)
    }

    /// Replaces the file by one that holds exactly `payloads`. On error the old file stays valid.
    pub fn compact<P: AsRef<[u8]>>(&mut self, payloads: &[P]) -> Result<(), JournalError> {
        let mut bytes = Vec::new();
        for payload in payloads {
            bytes.extend_from_slice(&encode(&self.path, payload.as_ref())?);
        }
        self.file = replace(&self.path, &bytes)?;
        self.length = bytes.len() as u64;
        self.appended = 0;
        // Until the directory is on disk a crash may bring the old file back, and what would be
        // appended to the new one now would be lost with it.
        self.broken = true;
        sync_directory(parent(&self.path))?;
        self.broken = false;
        Ok(())
    }

    /// Replaces the file by one record per value, as JSON.
    pub fn compact_json<T: Serialize>(
        &mut self,
        values: impl IntoIterator<Item = T>,
    ) -> Result<(), JournalError> {
        let mut payloads = Vec::new();
        for value in values {
            payloads.push(
                serde_json::to_vec(&value).map_err(|source| JournalError::Encode {
                    path: self.path.clone(),
                    source,
                })?,
            );
        }
        self.compact(&payloads)
    }

    fn cut_to(&mut self, length: u64) -> Result<(), JournalError> {
        self.file
            .set_len(length)
            .and_then(|()| self.file.sync_all())
            .map_err(io_error("truncating", &self.path))
    }
}

/// Writes `bytes` to `path` so that a reader (and a crash) meets the old or the new content: a
/// temporary file beside it, fsync, rename, fsync of the directory. Mode 0600.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), JournalError> {
    replace(path, bytes)?;
    sync_directory(parent(path))
}

/// Renames `path` to `path.corrupt-N`, the first free N, and tells the new name.
pub fn set_aside(path: &Path) -> Result<PathBuf, JournalError> {
    let target = free_name(path);
    fs::rename(path, &target).map_err(io_error("setting aside", path))?;
    sync_directory(parent(path))?;
    Ok(target)
}

fn free_name(path: &Path) -> PathBuf {
    let name = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".corrupt-{n}"));
        PathBuf::from(name)
    };
    (1..MAX_SET_ASIDE)
        .map(name)
        .find(|candidate| !candidate.exists())
        .unwrap_or_else(|| name(MAX_SET_ASIDE))
}

fn replace(path: &Path, bytes: &[u8]) -> Result<File, JournalError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let result = (|| {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io_error("creating", &temporary))?;
        file.write_all(bytes)
            .map_err(io_error("writing", &temporary))?;
        file.sync_all().map_err(io_error("syncing", &temporary))?;
        fs::rename(&temporary, path).map_err(io_error("renaming to", path))?;
        Ok(file)
    })();
    if result.is_err() {
        // Best effort: on a full disk the half-written file is what fills it.
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn sync_directory(directory: &Path) -> Result<(), JournalError> {
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(io_error("syncing", directory))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io {
        operation,
        path,
        source,
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn encode(path: &Path, payload: &[u8]) -> Result<Vec<u8>, JournalError> {
    let too_long = || JournalError::TooLong {
        path: path.to_owned(),
        length: payload.len(),
    };
    if payload.len() > MAX_PAYLOAD {
        return Err(too_long());
    }
    let length = u32::try_from(payload.len()).map_err(|_| too_long())?;
    let mut record = Vec::with_capacity(HEADER + payload.len());
    record.extend_from_slice(&MAGIC.to_be_bytes());
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(&crc32c(payload).to_be_bytes());
    let header = crc32c(&record);
    record.extend_from_slice(&header.to_be_bytes());
    record.extend_from_slice(payload);
    Ok(record)
}

/// What a file holds.
struct Scan {
    records: Vec<Vec<u8>>,
    /// Sum of the intact records' lengths; a torn tail begins there when nothing is damaged.
    intact_bytes: u64,
    /// An intact record follows bytes that are none.
    damaged: bool,
}

fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan {
        records: Vec::new(),
        intact_bytes: 0,
        damaged: false,
    };
    let mut rest = bytes;
    let mut skipping = false;
    while !rest.is_empty() {
        if let Some((payload, after)) = record_at(rest) {
            scan.damaged |= skipping;
            skipping = false;
            scan.records.push(payload.to_vec());
            scan.intact_bytes += (HEADER + payload.len()) as u64;
            rest = after;
            continue;
        }
        // Not a record here: look for the next one by its magic.
        skipping = true;
        let next = rest
            .windows(4)
            .skip(1)
            .position(|window| window == MAGIC.to_be_bytes())
            .map_or(rest.len(), |at| at + 1);
        rest = rest.get(next..).unwrap_or_default();
    }
    // Garbage from the first byte on, with no record at all, is not an unfinished first append
    // (that one begins with our magic or a part of it, or reads as zeros).
    if scan.records.is_empty() && skipping {
        let head = bytes.get(..4).unwrap_or(bytes);
        let unfinished = MAGIC.to_be_bytes().starts_with(head) || bytes.iter().all(|&b| b == 0);
        scan.damaged |= !unfinished;
    }
    scan
}

/// The intact record at the start of `bytes`, and what follows it.
fn record_at(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let word = |at: usize| -> Option<u32> {
        let slice: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(slice))
    };
    if word(0)? != MAGIC || crc32c(bytes.get(..12)?) != word(12)? {
        return None;
    }
    let length = usize::try_from(word(4)?).ok()?;
    if length > MAX_PAYLOAD {
        return None;
    }
    let payload = bytes.get(HEADER..HEADER + length)?;
    (crc32c(payload) == word(8)?)
        .then(|| (payload, bytes.get(HEADER + length..).unwrap_or_default()))
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0_u32; 256];
        let mut index = 0;
        while index < 256 {
            #[expect(clippy::cast_possible_truncation, reason = "index is below 256")]
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 {
                    (value >> 1) ^ 0x82f6_3b78
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    let mut crc = !0_u32;
    for &byte in bytes {
        let index = (crc ^ u32::from(byte)) & 0xff;
        crc = (crc >> 8) ^ TABLE[index as usize];
    }
    !crc
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
