//! Removes what a kube-proxy leaves on a host: chains of iptables-nft, its nftables tables, and the link of
//! mode ipvs. Only once ours is in place and no kube-proxy runs here, and once only: rules that come back are
//! somebody's who still runs, which is said and not fought.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use carrick_k8s::telemetry::{chain, some};
use carrick_node::{Netlink, NetlinkError, Nft, NftError};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::status::Fact;

pub mod rules;

use rules::{Removal, TABLE, TableName};

/// How often is looked.
const CHECK: Duration = Duration::from_secs(30);
/// Looking takes at most one part of so many of the time.
const LOOKING: u32 = 100;
/// For so long there must have been something of a kube-proxy and no kube-proxy.
const QUIET: Duration = Duration::from_mins(1);
/// Attempts to remove something; then a person has to.
const ATTEMPTS: u32 = 5;
/// Where a kube-proxy has its metrics, unless it is told otherwise.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// The link of mode ipvs.
const IPVS_LINK: &str = "kube-ipvs0";
/// Virtual servers of ipvs, behind three lines of heading.
const IPVS: (&str, usize) = ("/proc/net/ip_vs", 3);
/// Lists the tables of iptables' old kernel interface, which nft does not see.
const LEGACY: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
/// What a sentence names.
const NAMED: usize = 5;

const MEND: &str = "run kube-proxy --cleanup there, or restart the host once no kube-proxy is started on it any more";

/// Why leftovers cannot be read or removed.
#[derive(Debug, thiserror::Error)]
pub enum LeftoverError {
    /// Rules.
    #[error("the rules of a kube-proxy")]
    Rules(#[from] NftError),
    /// The link.
    #[error("the link {IPVS_LINK} of a kube-proxy")]
    Link(#[from] NetlinkError),
}

/// What of a kube-proxy is on the host, and may be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    tables: BTreeSet<TableName>,
    chains: BTreeMap<TableName, Removal>,
    link: bool,
}

impl Found {
    /// Each, in words.
    pub fn words(&self) -> Vec<String> {
        let tables = self.tables.iter();
        let tables = tables.map(|(family, name)| format!("table {family} {name}"));
        let chains = self.chains.iter().map(|((family, name), removal)| {
            let chains = removal.chains.join(", ");
            format!("table {family} {name}: {chains}")
        });
        let link = self.link.then(|| format!("link {IPVS_LINK}"));
        tables.chain(chains).chain(link).collect()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Nothing,
    Wait,
    Remove,
    CameBack,
    GiveUp,
}

/// What is remembered between looks.
#[derive(Debug, Default)]
struct Memory {
    quiet: Option<Instant>,
    removed: bool,
    attempts: u32,
}

impl Memory {
    fn next(&mut self, is_empty: bool, now: Instant) -> Next {
        if is_empty {
            // What comes from now on may be of one that starts.
            self.quiet = None;
            return Next::Nothing;
        }
        let quiet = *self.quiet.get_or_insert(now);
        if self.removed {
            Next::CameBack
        } else if self.attempts >= ATTEMPTS {
            Next::GiveUp
        } else if now - quiet < QUIET {
            Next::Wait
        } else {
            Next::Remove
        }
    }
}

/// A kube-proxy's leftovers in one network namespace.
#[derive(Debug)]
pub struct Leftovers {
    nft: Nft,
    netlink: Netlink,
    memory: Memory,
    looked: Option<(Instant, Duration)>,
    fact: Fact,
}

impl Leftovers {
    /// Those of the namespace that both work in.
    pub fn new(nft: Nft, netlink: Netlink) -> Self {
        let text = "a kube-proxy is looked for once Services are in place";
        Self {
            nft,
            netlink,
            memory: Memory::default(),
            looked: None,
            fact: Fact::unknown("NotLooked", text),
        }
    }

    /// What is known.
    pub fn fact(&self) -> Fact {
        self.fact.clone()
    }

    /// Looks where that is due, and removes what may be removed. Call while ours is in place; `port` says why
    /// kube-proxy's health port is not ours, if it is not.
    pub async fn look(&mut self, port: Option<String>) {
        let now = Instant::now();
        let due =
            { self.looked }.is_none_or(|(when, cost)| now - when >= CHECK.max(cost * LOOKING));
        if !due {
            return;
        }
        let fact = match runs(port).await {
            Some(why) => {
                self.memory.quiet = None;
                let text =
                    format!("a kube-proxy runs on this node ({why}); its rules are left alone");
                Fact::fails("Runs", text)
            }
            None => self
                .settle(now)
                .await
                .unwrap_or_else(|error| Fact::unknown("NotReadable", chain(&error))),
        };
        if self.fact.reason != fact.reason {
            info!(
                reason = fact.reason,
                message = fact.message,
                "kube-proxy on this node"
            );
        }
        self.fact = fact;
        self.looked = Some((now, now.elapsed()));
    }

    async fn settle(&mut self, now: Instant) -> Result<Fact, LeftoverError> {
        let mut found = self.survey().await?;
        let next = self.memory.next(found.is_empty(), now);
        if next == Next::Remove {
            self.memory.attempts += 1;
            let words = found.words().join(", ");
            match self.remove(&found).await {
                Ok(()) => {
                    info!(words, "removed what a kube-proxy had left");
                    self.memory.removed = true;
                    found = self.survey().await?;
                }
                Err(error) => {
                    warn!(
                        error = chain(&error),
                        "what a kube-proxy left could not be removed"
                    );
                    let text = format!(
                        "{words} of a kube-proxy could not be removed: {}",
                        chain(&error)
                    );
                    return Ok(Fact::fails("Left", text));
                }
            }
        }
        let words = found.words();
        let names: Vec<&str> = words.iter().map(String::as_str).collect();
        let names = some(&names, NAMED);
        Ok(match next {
            _ if found.is_empty() => clean(),
            Next::Wait | Next::Nothing => Fact::fails(
                "Waiting",
                format!(
                    "{names} of a kube-proxy are removed when none has run for {} s",
                    QUIET.as_secs()
                ),
            ),
            Next::Remove | Next::GiveUp => {
                Fact::fails("Left", format!("{names} of a kube-proxy are left: {MEND}"))
            }
            Next::CameBack => Fact::fails(
                "CameBack",
                format!(
                    "{names} of a kube-proxy came back and are left alone: somebody starts it on this node; end that, then \
                     {MEND}"
                ),
            ),
        })
    }

    /// What of a kube-proxy is there.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn survey(&self) -> Result<Found, LeftoverError> {
        let there = rules::chains(&self.nft.chains().await?);
        let mut chains = BTreeMap::new();
        for (table, names) in &there.chains {
            let (family, name) = table;
            let mut jumps = Vec::new();
            for other in there.others.get(table).into_iter().flatten() {
                let listing = self.nft.chain(family, name, other).await?;
                jumps.extend(listing.iter().flat_map(rules::jumps));
            }
            if let Some(removal) = rules::removal(table, names, &jumps) {
                chains.insert(table.clone(), removal);
            }
        }
        Ok(Found {
            tables: there.tables,
            chains,
            link: self.netlink.link(IPVS_LINK).await?.is_some(),
        })
    }

    /// Removes it.
    ///
    /// # Errors
    /// Something of it could not be removed.
    pub async fn remove(&self, found: &Found) -> Result<(), LeftoverError> {
        for (family, table) in &found.tables {
            let script = format!("delete table {family} {table}\n");
            self.nft.change(family, table, &script).await?;
        }
        for ((family, table), removal) in &found.chains {
            self.nft.change(family, table, &removal.script).await?;
        }
        if found.link {
            self.netlink.delete_link(IPVS_LINK).await?;
        }
        Ok(())
    }
}

/// Why a kube-proxy runs here, as far as its ports tell.
async fn runs(port: Option<String>) -> Option<String> {
    let connection = tokio::time::timeout(ANSWER, TcpStream::connect(METRICS)).await;
    match connection {
        Ok(Ok(_)) => Some(format!("something answers at {METRICS}")),
        _ => port,
    }
}

/// Nothing is left, as far as can be seen from here.
fn clean() -> Fact {
    let legacy = |path: &&str| {
        let text = std::fs::read_to_string(Path::new(path));
        text.is_ok_and(|text| text.lines().any(|line| line == "nat"))
    };
    let servers = std::fs::read_to_string(IPVS.0).is_ok_and(|text| text.lines().count() > IPVS.1);
    if LEGACY.iter().any(legacy) {
        let text = format!(
            "iptables-legacy has a table nat, which cannot be looked at from here; if kube-proxy made it, {MEND}"
        );
        return Fact::unknown("NotReadable", text);
    }
    if servers {
        let text = format!(
            "{} has virtual servers; if kube-proxy made them, {MEND}",
            IPVS.0
        );
        return Fact::unknown("NotReadable", text);
    }
    Fact::holds(
        "Replaced",
        format!(
            "no kube-proxy runs on this node, and nothing of one is left (no table {TABLE}, no chains)"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_removed_before_it_was_quiet_nor_twice() {
        let start = Instant::now();
        let mut memory = Memory::default();
        assert_eq!(memory.next(false, start), Next::Wait);
        // It was seen to run again.
        memory.quiet = None;
        let later = start + QUIET;
        assert_eq!(memory.next(false, later), Next::Wait);
        assert_eq!(memory.next(false, later + QUIET), Next::Remove);
        memory.removed = true;
        assert_eq!(memory.next(true, later + QUIET), Next::Nothing);
        assert_eq!(memory.next(false, later + 2 * QUIET), Next::CameBack);
        // One that starts where nothing was for long has its time to be seen.
        let mut clean = Memory::default();
        assert_eq!(clean.next(true, start), Next::Nothing);
        assert_eq!(clean.next(false, start + 9 * QUIET), Next::Wait);
        assert_eq!(clean.next(false, start + 10 * QUIET), Next::Remove);
        let mut failing = Memory {
            quiet: Some(start),
            removed: false,
            attempts: ATTEMPTS,
        };
        assert_eq!(failing.next(false, later), Next::GiveUp);
    }
}
