//! Reads the kernel's ruleset and changes it as [`super::changes`] says.

use std::path::Path;

use carrick_api::effective::HostFirewall;
use carrick_api::names::link;
use carrick_k8s::telemetry::chain;
use carrick_node::{Nft, NftError};
use tracing::info;

use super::{Change, Survey, changes, fact, ruleset, survey};
use crate::status::Fact;

/// Lists the tables of iptables' old kernel interface, which nft does not see.
const LEGACY: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// Other people's firewalls in one network namespace.
#[derive(Debug)]
pub struct Firewalls {
    nft: Nft,
}

impl Firewalls {
    /// Those of the namespace that `nft` works in.
    pub const fn new(nft: Nft) -> Self {
        Self { nft }
    }

    /// Makes our rules what they must be; the condition that says what was found.
    pub async fn sync(&self, wanted: HostFirewall) -> Fact {
        let mut survey = match self.survey().await {
            Ok(survey) => survey,
            Err(error) => {
                let text = format!("the host's firewalls cannot be read: {}", chain(&error));
                return Fact::unknown("NotReadable", text);
            }
        };
        let mut failed = Vec::new();
        let changes = changes(&survey, wanted, link::GATEWAY);
        for change in &changes {
            failed.extend(self.apply(change).await);
        }
        if !changes.is_empty() {
            match self.survey().await {
                Ok(after) => survey = after,
                Err(error) => failed.push(chain(&error)),
            }
        }
        if LEGACY.iter().any(|path| has_filter(Path::new(path))) {
            let text = "iptables-legacy has a table filter, which cannot be looked at from here";
            survey.unread.push(text.to_owned());
        }
        fact(&survey, wanted, &failed, link::GATEWAY)
    }

    /// Takes all our rules out again; what is left, in words.
    pub async fn leave(&self) -> Vec<String> {
        let survey = match self.survey().await {
            Ok(survey) => survey,
            Err(error) => return vec![chain(&error)],
        };
        let mut left = Vec::new();
        for change in changes(&survey, HostFirewall::Report, link::GATEWAY) {
            left.extend(self.apply(&change).await);
        }
        // What cannot be read may hold a rule of ours.
        left.extend(survey.unread);
        left
    }

    async fn apply(&self, change: &Change) -> Option<String> {
        let Change {
            family,
            table,
            script,
        } = change;
        match self.nft.change(family, table, script).await {
            Ok(()) => {
                info!(
                    family,
                    table, script, "changed the table of a foreign firewall"
                );
                None
            }
            Err(error) => Some(chain(&error)),
        }
    }

    async fn survey(&self) -> Result<Survey, NftError> {
        let chains = self.nft.chains().await?;
        let mut tables = Vec::new();
        let mut unread = Vec::new();
        for (family, name) in ruleset::tables_with_hooks(&chains) {
            // Ours, and the Service proxy's: it may be large, and drops nothing of pods.
            if [carrick_datapath::INET_TABLE, "kube-proxy"].contains(&name.as_str()) {
                continue;
            }
            match self.nft.table(&family, &name).await {
                Ok(Some((json, plain))) => {
                    tables.push(ruleset::table(&family, &name, &json, &plain));
                }
                Ok(None) => {}
                Err(error) => unread.push(chain(&error)),
            }
        }
        let mut survey = survey(&tables, link::GATEWAY);
        survey.unread = unread;
        Ok(survey)
    }
}

fn has_filter(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line == "filter"))
}
