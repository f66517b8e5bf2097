//! Other people's firewalls: which of their chains drop pods' packets, and the marked rules that let
//! them pass where that was asked for.
//!
//! In nftables a packet meets the base chains of every table at its hook, and one that drops it is
//! enough: that our own table accepts it does not help. So the rule has to stand in the chain that
//! drops. Only what is certain is called a drop ([`walk`]): a chain that may accept pods' packets by
//! a rule we do not understand is left alone and not spoken of.
//!
//! Pure but for [`driver`]: the kernel's ruleset in, findings and changes out.

pub mod driver;
pub mod ruleset;
pub mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use carrick_api::effective::HostFirewall;
use carrick_k8s::telemetry::some;
use carrick_node::is_nft_name;

use crate::status::Fact;
use ruleset::{Hook, Table};
use walk::Outcome;

/// The comment of every rule of ours in a foreign chain.
pub const MARK: &str = "carrick";
/// How many chains a message names.
const EXAMPLES: usize = 6;

/// Which way a packet passes the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// It came in by the gateway.
    FromPods,
    /// It leaves by the gateway.
    ToPods,
}

impl Direction {
    const fn key(self) -> &'static str {
        match self {
            Self::FromPods => "iifname",
            Self::ToPods => "oifname",
        }
    }

    /// The directions a packet at this hook can have.
    const fn at(hook: Hook) -> &'static [Self] {
        match hook {
            Hook::Forward => &[Self::FromPods, Self::ToPods],
            Hook::Input => &[Self::FromPods],
            Hook::Output => &[Self::ToPods],
        }
    }
}

/// A base chain of somebody else, and the direction it drops.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Family of the table.
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// Which of pods' packets.
    pub direction: Direction,
}

impl Finding {
    /// The rule that lets these packets pass, at the head of the chain.
    fn insertion(&self, gateway: &str) -> String {
        let Self {
            family,
            table,
            chain,
            direction,
        } = self;
        format!(
            "insert rule {family} {table} {chain} {} \"{gateway}\" accept comment \"{MARK}\"\n",
            direction.key()
        )
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packets = match self.direction {
            Direction::FromPods => "from pods",
            Direction::ToPods => "to pods",
        };
        write!(
            f,
            "chain {} of table {} {} drops packets {packets}",
            self.chain, self.table, self.family
        )
    }
}

/// A rule of ours in a foreign chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What it is against.
    pub against: Finding,
    /// The kernel's number of it.
    pub handle: u64,
}

/// What the host's firewalls do to pods, and what of ours stands in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Chains that drop pods' packets, our own rules left out of account.
    pub dropping: BTreeSet<Finding>,
    /// Our rules.
    pub held: Vec<Held>,
    /// Names of tables that were not looked at, and why.
    pub unread: Vec<String>,
}

/// Looks at the tables of others.
pub fn survey(tables: &[Table], gateway: &str) -> Survey {
    let mut survey = Survey::default();
    for table in tables {
        for (name, chain) in &table.chains {
            for rule in &chain.rules {
                if let Some(direction) = walk::ours(rule, gateway) {
                    survey.held.push(Held {
                        against: finding(table, name, direction),
                        handle: rule.handle,
                    });
                }
            }
            let Some(base) = &chain.base else { continue };
            for direction in Direction::at(base.hook) {
                if walk::outcome(table, chain, *direction, gateway) == Outcome::Drops {
                    survey.dropping.insert(finding(table, name, *direction));
                }
            }
        }
    }
    survey
}

fn finding(table: &Table, chain: &str, direction: Direction) -> Finding {
    Finding {
        family: table.family.clone(),
        table: table.name.clone(),
        chain: chain.to_owned(),
        direction,
    }
}

/// Changes of one table, as one transaction of nft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Family of the table.
    pub family: String,
    /// The table.
    pub table: String,
    /// The commands.
    pub script: String,
}

/// What makes our rules what they must be: none, or one for each chain that drops.
pub fn changes(survey: &Survey, wanted: HostFirewall, gateway: &str) -> Vec<Change> {
    let mut missing: BTreeSet<&Finding> = match wanted {
        HostFirewall::Report => BTreeSet::new(),
        HostFirewall::InsertRule => survey.dropping.iter().collect(),
    };
    let mut scripts: BTreeMap<(&str, &str), String> = BTreeMap::new();
    for held in &survey.held {
        // The first one of its kind stays, when it is wanted.
        if missing.remove(&held.against) {
            continue;
        }
        let Finding {
            family,
            table,
            chain,
            ..
        } = &held.against;
        let line = format!(
            "delete rule {family} {table} {chain} handle {}\n",
            held.handle
        );
        scripts.entry((family, table)).or_default().push_str(&line);
    }
    for finding in missing {
        // What nft's language would not take as it is stays reported.
        if is_nft_name(&finding.table) && is_nft_name(&finding.chain) {
            let line = finding.insertion(gateway);
            let script = scripts.entry((&finding.family, &finding.table));
            script.or_default().push_str(&line);
        }
    }
    scripts
        .into_iter()
        .map(|((family, table), script)| Change {
            family: family.to_owned(),
            table: table.to_owned(),
            script,
        })
        .collect()
}

/// The condition that says all this. `survey` is of after the changes.
pub fn fact(survey: &Survey, wanted: HostFirewall, failed: &[String], gateway: &str) -> Fact {
    let held: BTreeSet<&Finding> = survey.held.iter().map(|held| &held.against).collect();
    let open: Vec<&Finding> = survey
        .dropping
        .iter()
        .filter(|finding| !held.contains(finding))
        .collect();
    let mut notes: Vec<String> = failed.iter().chain(&survey.unread).cloned().collect();
    if open.is_empty() {
        let (reason, text) = if held.is_empty() {
            (
                "NothingDrops",
                "no chain of another table was found to drop pods' packets".to_owned(),
            )
        } else {
            // A chain has a rule for each direction.
            let chains: BTreeSet<String> = held
                .iter()
                .map(|held| format!("{} {} {}", held.family, held.table, held.chain))
                .collect();
            (
                "RuleInserted",
                format!(
                    "rules with the comment {MARK} let pods' packets pass in {}",
                    some(&Vec::from_iter(chains), EXAMPLES)
                ),
            )
        };
        notes.insert(0, text);
        return Fact::holds(reason, notes.join("; "));
    }
    let list: Vec<String> = open.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "{}. {}",
        some(&list, EXAMPLES),
        mend(open.as_slice(), wanted, gateway)
    );
    for note in notes {
        text = format!("{text}; {note}");
    }
    Fact::fails("DropsPodTraffic", text)
}

fn mend(open: &[&Finding], wanted: HostFirewall, gateway: &str) -> String {
    let by_tool = if open.iter().any(|finding| finding.table == "firewalld") {
        format!(
            "let them pass (firewall-cmd --permanent --zone=trusted --add-interface={gateway}; firewall-cmd --reload)"
        )
    } else {
        let example = open.first().map(|finding| {
            let Finding {
                family,
                table,
                chain,
                direction,
            } = finding;
            format!(
                "nft insert rule {family} {table} {chain} {} {gateway} accept",
                direction.key()
            )
        });
        format!("let them pass ({})", example.unwrap_or_default())
    };
    match wanted {
        HostFirewall::Report => {
            format!(
                "Either {by_tool}, or set hostFirewall: InsertRule, which does that in each of these chains"
            )
        }
        HostFirewall::InsertRule => format!("No rule could be inserted: {by_tool}"),
    }
}

#[cfg(test)]
mod tests;
