//! Which chains are kube-proxy's, and how they are taken out. Pure.
//!
//! Told from `pkg/proxy` and `pkg/kubelet` of Kubernetes 1.34: the kubelet's are `KUBE-FIREWALL`,
//! `KUBE-KUBELET-CANARY`, `KUBE-IPTABLES-HINT` and, of kubelets before 1.28, `KUBE-MARK-DROP`. They stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

/// kube-proxy's own table in mode nftables.
pub const TABLE: &str = "kube-proxy";
/// Tables of iptables-nft that kube-proxy has chains in.
const TABLES: [&str; 3] = ["nat", "filter", "mangle"];
/// Chains with a name of their own, of modes iptables and ipvs.
const CHAINS: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];
/// What the names of chains of Services and endpoints begin with.
const PREFIXES: [&str; 6] = [
    "KUBE-SVC-",
    "KUBE-SVL-",
    "KUBE-SEP-",
    "KUBE-FW-",
    "KUBE-EXT-",
    "KUBE-XLB-",
];
/// Chains of iptables itself, which kube-proxy puts its jumps into.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Chains that are named of a table.
const NAMED: usize = 3;

/// A table by family and name.
pub type TableName = (String, String);

/// Whether a chain of iptables is kube-proxy's.
pub fn is_kube_proxys(chain: &str) -> bool {
    CHAINS.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// What of kube-proxy's is in the kernel, as far as `nft list chains` tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chains {
    /// Its own tables.
    pub tables: BTreeSet<TableName>,
    /// Its chains in tables of iptables.
    pub chains: BTreeMap<TableName, BTreeSet<String>>,
    /// Others' chains in the same tables, which may lead to its.
    pub others: BTreeMap<TableName, BTreeSet<String>>,
}

/// Reads a `list chains`.
pub fn chains(listing: &Value) -> Chains {
    let mut found = Chains::default();
    let objects = listing["nftables"].as_array().into_iter().flatten();
    for chain in objects.filter_map(|object| object.get("chain")) {
        let text = |key: &str| chain[key].as_str().unwrap_or_default();
        let (family, table, name) = (text("family"), text("table"), text("name"));
        if !["ip", "ip6"].contains(&family) {
            continue;
        }
        let key = (family.to_owned(), table.to_owned());
        if table == TABLE {
            found.tables.insert(key);
        } else if TABLES.contains(&table) {
            let place = if is_kube_proxys(name) {
                &mut found.chains
            } else {
                &mut found.others
            };
            place.entry(key).or_default().insert(name.to_owned());
        }
    }
    found
}

/// A rule that leads to another chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// The chain it is in.
    pub chain: String,
    /// Its number.
    pub handle: u64,
    /// Where it leads.
    pub target: String,
}

/// The jumps of a `list chain`.
pub fn jumps(listing: &Value) -> Vec<Jump> {
    let objects = listing["nftables"].as_array().into_iter().flatten();
    let rules = objects.filter_map(|object| object.get("rule"));
    let jumps = rules.filter_map(|rule| {
        let statements = rule["expr"].as_array()?;
        let target = statements.iter().find_map(|statement| {
            let verdict = statement.get("jump").or_else(|| statement.get("goto"))?;
            verdict["target"].as_str()
        })?;
        Some(Jump {
            chain: rule["chain"].as_str()?.to_owned(),
            handle: rule["handle"].as_u64()?,
            target: target.to_owned(),
        })
    });
    jumps.collect()
}

/// How chains are taken out of a table of iptables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// Some of the chains that go, to be named.
    pub chains: Vec<String>,
    /// One transaction of nft.
    pub script: String,
}

/// Takes kube-proxy's `chains` out of a table of iptables: the jumps of iptables' own chains to them, then the
/// chains. One that somebody else's chain leads to stays. `None` where nothing can be taken out.
pub fn removal(table: &TableName, chains: &BTreeSet<String>, jumps: &[Jump]) -> Option<Removal> {
    let (family, name) = table;
    let is_built_in = |jump: &&Jump| BUILT_IN.contains(&jump.chain.as_str());
    let used: BTreeSet<&String> = { jumps.iter().filter(|jump| !is_built_in(jump)) }
        .map(|jump| &jump.target)
        .collect();
    let going: Vec<&String> = chains
        .iter()
        .filter(|chain| !used.contains(chain))
        .collect();
    if going.is_empty() {
        return None;
    }
    let mut script = String::new();
    for jump in jumps
        .iter()
        .filter(is_built_in)
        .filter(|jump| going.contains(&&jump.target))
    {
        let (chain, handle) = (&jump.chain, jump.handle);
        let _ = writeln!(
            script,
            "delete rule {family} {name} {chain} handle {handle}"
        );
    }
    // All of them are empty before the first goes: they lead to each other.
    for verb in ["flush", "delete"] {
        for chain in &going {
            let _ = writeln!(script, "{verb} chain {family} {name} {chain}");
        }
    }
    let chains = going.into_iter().take(NAMED).cloned().collect();
    Some(Removal { chains, script })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_kubelets_chains_are_not_kube_proxys() {
        for chain in [
            "KUBE-SERVICES",
            "KUBE-SVC-ABC",
            "KUBE-MARK-MASQ",
            "KUBE-NODE-PORT",
            "KUBE-SEP-X",
        ] {
            assert!(is_kube_proxys(chain), "{chain}");
        }
        for chain in [
            "KUBE-FIREWALL",
            "KUBE-KUBELET-CANARY",
            "KUBE-IPTABLES-HINT",
            "KUBE-MARK-DROP",
            "DOCKER",
            "KUBE-ROUTER-FORWARD",
            "KUBE-NWPLCY-X",
        ] {
            assert!(!is_kube_proxys(chain), "{chain}");
        }
    }

    #[test]
    fn a_chain_that_somebody_else_uses_stays() {
        let listing = json!({"nftables": [
            {"rule": {"family": "ip", "table": "nat", "chain": "PREROUTING", "handle": 5,
                "expr": [{"xt": {"type": "match", "name": "comment"}}, {"jump": {"target": "KUBE-SERVICES"}}]}},
            {"rule": {"family": "ip", "table": "nat", "chain": "OTHERS", "handle": 6,
                "expr": [{"jump": {"target": "KUBE-MARK-MASQ"}}]}},
            {"rule": {"family": "ip", "table": "nat", "chain": "OUTPUT", "handle": 7, "expr": [{"accept": null}]}},
        ]});
        let chains = ["KUBE-SERVICES", "KUBE-MARK-MASQ"]
            .map(str::to_owned)
            .into();
        let script = removal(&("ip".into(), "nat".into()), &chains, &jumps(&listing)).unwrap();
        assert_eq!(
            script.script,
            "delete rule ip nat PREROUTING handle 5\nflush chain ip nat KUBE-SERVICES\n\
             delete chain ip nat KUBE-SERVICES\n"
        );
        let used = ["KUBE-MARK-MASQ".to_owned()].into();
        assert_eq!(
            removal(&("ip".into(), "nat".into()), &used, &jumps(&listing)),
            None
        );
    }
}
