//! nftables: tables of ours, each replaced as a whole or chain by chain in one transaction, only where
//! it differs; and a look at other people's.
//!
//! The kernel tells a table back in another form than it was given, so equality is on two texts:
//! what was wanted last time, and how the kernel showed it right after; of a chain that was added
//! without a look, how it showed it at the next one. Both are kept in a file, so that a restart does not
//! replace what is in place; without the file the table is replaced once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::namespace::{Namespace, NamespaceError};

mod frame;

pub use frame::Framed;

/// How long one run of nft may take: it waits for others that hold the ruleset.
const LIMIT: Duration = Duration::from_secs(30);
/// The largest listing that is read: a host's own firewall has some thousand rules at most.
const MAX_LISTING: usize = 16 << 20;
/// How much of nft's complaint is kept.
const MAX_COMPLAINT: usize = 2000;

/// Why a table could not be made as desired.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// `nft` could not be run.
    #[error("running {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// `nft` refused.
    #[error("nft {operation} {family} {table}: {status}: {complaint}")]
    Refused {
        /// "list", "replace" or "change".
        operation: &'static str,
        /// The table's family.
        family: String,
        /// The table's name.
        table: String,
        /// How nft ended.
        status: ExitStatus,
        /// What it said.
        complaint: String,
    },
    /// `nft -j` told something that is no JSON, or too much of it.
    #[error("reading what nft tells of {what}: {reason}")]
    Json {
        /// Of what.
        what: String,
        /// Why it cannot be read.
        reason: String,
    },
    /// Not a name nft would take.
    #[error("{name:?} is not a name of a family or table")]
    Name {
        /// The name.
        name: String,
    },
    /// The namespace could not be entered.
    #[error("running nft")]
    Namespace(#[from] NamespaceError),
}

/// What [`Nft::sync`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The kernel had it already.
    Unchanged,
    /// The table was made or replaced.
    Replaced,
    /// The table was removed.
    Removed,
}

/// Whether the kernel is asked what it has before it is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It is: somebody else may have changed it.
    Again,
    /// What is known counts. What must go and what is new are read and removed by the next look: both take
    /// the kernel or nft milliseconds, for which a pod would wait.
    Remember,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    desired: String,
    /// None until it was read.
    listing: Option<String>,
}

impl Known {
    /// Whether the kernel shows a chain as it did, or for the first time.
    fn is_shown_as(&mut self, shown: Option<&str>) -> bool {
        let Some(shown) = shown else {
            return false;
        };
        self.listing.get_or_insert_with(|| shown.to_owned()) == shown
    }
}

/// Whether a name stands in nft's language as it is: a letter, then letters, digits, `_` and `-`.
pub fn is_nft_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    name.starts_with(|first: char| first.is_ascii_alphabetic()) && name.bytes().all(plain)
}

/// The tables of one network namespace. One owner, so that runs do not overlap.
#[derive(Debug)]
pub struct Nft {
    program: PathBuf,
    namespace: Option<Namespace>,
    memory: Option<PathBuf>,
    known: BTreeMap<String, Known>,
}

impl Nft {
    /// Tables of this process's namespace. `memory` is a file that lives as long as this boot (the
    /// tables do not live longer): what it holds saves a replacement after a restart.
    pub fn new(memory: Option<PathBuf>) -> Self {
        let known = memory
            .as_ref()
            .and_then(|path| std::fs::read(path).ok())
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self {
            program: PathBuf::from("nft"),
            namespace: None,
            memory,
            known,
        }
    }

    /// The same in another namespace.
    #[must_use]
    pub fn in_namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Makes table `family` `table` what `desired` says: a whole `table FAMILY NAME { … }`, or
    /// `None` when it must not exist. Atomic: packets meet the old or the new table.
    pub async fn sync(
        &mut self,
        family: &str,
        table: &str,
        desired: Option<&str>,
    ) -> Result<Applied, NftError> {
        for name in [family, table] {
            if !is_nft_name(name) {
                return Err(NftError::Name {
                    name: name.to_owned(),
                });
            }
        }
        let key = format!("{family} {table}");
        let listing = self.list(family, table).await?;
        let Some(desired) = desired else {
            self.known.remove(&key);
            self.known
                .retain(|known, _| !known.starts_with(&format!("{key} ")));
            if listing.is_none() {
                return Ok(Applied::Unchanged);
            }
            self.change(family, table, &format!("delete table {family} {table}\n"))
                .await?;
            self.remember();
            return Ok(Applied::Removed);
        };
        let same = |known: &Known| {
            known.desired == desired && known.listing.is_some() && known.listing == listing
        };
        if self.known.get(&key).is_some_and(same) {
            return Ok(Applied::Unchanged);
        }
        let script = format!("table {family} {table}\ndelete table {family} {table}\n{desired}\n");
        self.change(family, table, &script).await?;
        if let Some(listing) = self.list(family, table).await? {
            let listing = Some(listing);
            self.known.insert(
                key,
                Known {
                    desired: desired.to_owned(),
                    listing,
                },
            );
            self.remember();
        }
        Ok(Applied::Replaced)
    }

    /// Makes the chains of table `family` `table`, which has nothing else, what `desired` says: by name a
    /// whole `chain NAME { … }` each. Only chains that differ are changed, in one transaction.
    pub async fn sync_chains(
        &mut self,
        family: &str,
        table: &str,
        desired: &BTreeMap<String, String>,
        look: Look,
    ) -> Result<Applied, NftError> {
        for name in [family, table]
            .into_iter()
            .chain(desired.keys().map(String::as_str))
        {
            if !is_nft_name(name) {
                return Err(NftError::Name {
                    name: name.to_owned(),
                });
            }
        }
        let prefix = format!("{family} {table} ");
        // Chains that the kernel may have.
        let mut present: BTreeSet<String> = BTreeSet::new();
        if look == Look::Again {
            let listing = self.list(family, table).await?.unwrap_or_default();
            let shown = chains_of(&listing);
            self.known
                .retain(|key, known| match key.strip_prefix(&prefix) {
                    Some(chain) => known.is_shown_as(shown.get(chain).copied()),
                    None => true,
                });
            present.extend(shown.keys().map(|&chain| chain.to_owned()));
        }
        present.extend(
            self.known
                .keys()
                .filter_map(|key| Some(key.strip_prefix(&prefix)?.to_owned())),
        );
        let mut extra = present.clone();
        extra.retain(|chain| look == Look::Again && !desired.contains_key(chain));
        let new: BTreeMap<&str, &String> = desired
            .iter()
            .map(|(chain, text)| (chain.as_str(), text))
            .filter(|(chain, text)| {
                let known = self.known.get(&format!("{prefix}{chain}"));
                known.is_none_or(|known| known.desired != **text)
            })
            .collect();
        if new.is_empty() && extra.is_empty() {
            return Ok(Applied::Unchanged);
        }
        let mut script = format!("table {family} {table} {{ }}\n");
        let changed = new.keys().copied().filter(|chain| present.contains(*chain));
        for chain in extra.iter().map(String::as_str).chain(changed) {
            // Added first: whether the kernel has it does not matter then.
            for verb in ["add", "flush", "delete"] {
                let _ = writeln!(script, "{verb} chain {family} {table} {chain}");
            }
        }
        let texts: String = new.values().map(|text| text.as_str()).collect();
        let _ = writeln!(script, "table {family} {table} {{\n{texts}}}");
        // Unknown until they were read back.
        let changed = |chain: &str| extra.contains(chain) || new.contains_key(chain);
        self.known
            .retain(|key, _| !key.strip_prefix(&prefix).is_some_and(changed));
        self.change(family, table, &script).await?;
        let listing = match look {
            Look::Again => self.list(family, table).await?.unwrap_or_default(),
            Look::Remember => String::new(),
        };
        let shown = chains_of(&listing);
        for (chain, text) in new {
            let known = Known {
                desired: text.clone(),
                listing: shown.get(chain).map(|&shown| shown.to_owned()),
            };
            self.known.insert(format!("{prefix}{chain}"), known);
        }
        self.remember();
        Ok(Applied::Replaced)
    }

    /// The table as the kernel shows it, without counters; `None` when there is none.
    pub async fn list(&self, family: &str, table: &str) -> Result<Option<String>, NftError> {
        let run = self
            .run(&["-s", "-n", "list", "table", family, table], "")
            .await?;
        if run.status.success() {
            return Ok(Some(run.stdout));
        }
        if run.stderr.contains("No such file or directory") {
            return Ok(None);
        }
        Err(refused("list", family, table, &run))
    }

    /// Every chain of every table, without rules, as libnftables-json(5) has it.
    pub async fn chains(&self) -> Result<serde_json::Value, NftError> {
        let run = self.run(&["-j", "list", "chains"], "").await?;
        if !run.status.success() {
            return Err(refused("list", "chains of", "all tables", &run));
        }
        json("chains", &run)
    }

    /// A chain, as libnftables-json(5) has it; `None` when there is none.
    pub async fn chain(
        &self,
        family: &str,
        table: &str,
        chain: &str,
    ) -> Result<Option<serde_json::Value>, NftError> {
        let run = self
            .run(&["-j", "-a", "list", "chain", family, table, chain], "")
            .await?;
        if run.stderr.contains("No such file or directory") {
            return Ok(None);
        }
        if !run.status.success() {
            return Err(refused("list", family, table, &run));
        }
        json(chain, &run).map(Some)
    }

    /// A table, as libnftables-json(5) has it, and in nft's language with the handles of rules;
    /// `None` when there is none.
    pub async fn table(
        &self,
        family: &str,
        table: &str,
    ) -> Result<Option<(serde_json::Value, String)>, NftError> {
        let mut runs = Vec::new();
        for options in [&["-j"][..], &["-a", "-s", "-n"]] {
            let arguments = [options, &["list", "table", family, table]].concat();
            let run = self.run(&arguments, "").await?;
            if run.stderr.contains("No such file or directory") {
                return Ok(None);
            }
            if !run.status.success() {
                return Err(refused("list", family, table, &run));
            }
            runs.push(run);
        }
        let (Some(plain), Some(told)) = (runs.pop(), runs.pop()) else {
            return Ok(None);
        };
        Ok(Some((json(table, &told)?, plain.stdout)))
    }

    /// Runs commands on a table as one transaction.
    pub async fn change(&self, family: &str, table: &str, script: &str) -> Result<(), NftError> {
        let run = self.run(&["-f", "-"], script).await?;
        if run.status.success() {
            Ok(())
        } else {
            Err(refused("change", family, table, &run))
        }
    }

    /// Losing the memory costs one replacement: no error.
    fn remember(&self) {
        if let Some(path) = &self.memory
            && let Ok(bytes) = serde_json::to_vec(&self.known)
        {
            let mut temporary = path.as_os_str().to_owned();
            temporary.push(".tmp");
            if std::fs::write(&temporary, bytes).is_ok() {
                let _ = std::fs::rename(&temporary, path);
            }
        }
    }

    async fn run(&self, arguments: &[&str], stdin: &str) -> Result<Run, NftError> {
        let run_error = |source| NftError::Run {
            program: self.program.clone(),
            source,
        };
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = match &self.namespace {
            None => command.spawn(),
            Some(namespace) => {
                let runtime = tokio::runtime::Handle::current();
                // A child is born in its thread's namespace.
                namespace
                    .run(move || {
                        let _entered = runtime.enter();
                        command.spawn()
                    })
                    .await?
            }
        }
        .map_err(run_error)?;
        let input = child.stdin.take();
        let exchange = async move {
            if let Some(mut input) = input {
                // nft that ends early says why on stderr.
                let _ = input.write_all(stdin.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(LIMIT, exchange)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(run_error)?;
        Ok(Run {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// The chains in a listing of tables, by name, as they are shown.
fn chains_of(listing: &str) -> BTreeMap<&str, &str> {
    listing
        .split("\n\tchain ")
        .skip(1)
        .filter_map(|rest| {
            let (name, _) = rest.split_once(" {")?;
            let (body, _) = rest.split_once("\n\t}")?;
            Some((name, body))
        })
        .collect()
}

struct Run {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

fn json(what: &str, run: &Run) -> Result<serde_json::Value, NftError> {
    let error = |reason: String| NftError::Json {
        what: what.to_owned(),
        reason,
    };
    if run.stdout.len() > MAX_LISTING {
        return Err(error(format!("it has more than {MAX_LISTING} bytes")));
    }
    // Without anything to tell nft tells nothing at all.
    if run.stdout.trim().is_empty() {
        return Ok(serde_json::Value::Null);
    }
    serde_json::from_str(&run.stdout).map_err(|source| error(source.to_string()))
}

fn refused(operation: &'static str, family: &str, table: &str, run: &Run) -> NftError {
    NftError::Refused {
        operation,
        family: family.to_owned(),
        table: table.to_owned(),
        status: run.status,
        complaint: run.stderr.trim().chars().take(MAX_COMPLAINT).collect(),
    }
}
