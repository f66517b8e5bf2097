//! nft's JSON (libnftables-json(5)) as far as a verdict on a pod's packet needs it.

use std::collections::BTreeMap;

use serde_json::Value;

/// Where a base chain is hooked in, of the hooks pods' packets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Between links.
    Forward,
    /// To this host.
    Input,
    /// From this host.
    Output,
}

/// What a base chain does with what no rule decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It passes.
    Accept,
    /// It is dropped.
    Drop,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Its hook.
    pub hook: Hook,
    /// Its policy.
    pub policy: Policy,
}

/// A rule: statements in their order, as nft tells them.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its number, unique in the table.
    pub handle: u64,
    /// Its comment; empty without one.
    pub comment: String,
    /// Its statements.
    pub statements: Vec<Value>,
    /// How nft writes it, where a statement is one of iptables' that JSON only names.
    pub text: String,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chain {
    /// What makes it a base chain at one of our hooks.
    pub base: Option<Base>,
    /// Its rules in their order.
    pub rules: Vec<Rule>,
}

/// A table of somebody else.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// `ip`, `ip6` or `inet`.
    pub family: String,
    /// Its name.
    pub name: String,
    /// Its chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// The tables, of a `list chains`, that have a base chain pods' packets pass; by family and name.
pub fn tables_with_hooks(chains: &Value) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = objects(chains, "chain")
        .filter(|chain| base(chain).is_some())
        .filter_map(|chain| {
            let family = text(chain, "family");
            let known = ["ip", "ip6", "inet"].contains(&family);
            known.then(|| (family.to_owned(), text(chain, "table").to_owned()))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// One table of a `list table`. `plain` is the same in nft's language with handles (`-a`).
pub fn table(family: &str, name: &str, json: &Value, plain: &str) -> Table {
    let texts: BTreeMap<u64, &str> = plain
        .lines()
        .filter_map(|line| {
            let (rule, handle) = line.rsplit_once(" # handle ")?;
            Some((handle.trim().parse().ok()?, rule.trim()))
        })
        .collect();
    let mut chains: BTreeMap<String, Chain> = objects(json, "chain")
        .map(|chain| {
            let base = base(chain);
            (
                text(chain, "name").to_owned(),
                Chain {
                    base,
                    rules: Vec::new(),
                },
            )
        })
        .collect();
    for rule in objects(json, "rule") {
        let handle = rule.get("handle").and_then(Value::as_u64);
        let statements = rule.get("expr").and_then(Value::as_array);
        if let (Some(chain), Some(handle)) = (chains.get_mut(text(rule, "chain")), handle) {
            chain.rules.push(Rule {
                handle,
                comment: text(rule, "comment").to_owned(),
                statements: statements.cloned().unwrap_or_default(),
                text: texts.get(&handle).copied().unwrap_or_default().to_owned(),
            });
        }
    }
    Table {
        family: family.to_owned(),
        name: name.to_owned(),
        chains,
    }
}

fn objects<'a>(json: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    json.get("nftables")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(move |object| object.get(kind))
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn base(chain: &Value) -> Option<Base> {
    let hook = match text(chain, "hook") {
        "forward" => Hook::Forward,
        "input" => Hook::Input,
        "output" => Hook::Output,
        _ => return None,
    };
    if text(chain, "type") != "filter" {
        return None;
    }
    let policy = if text(chain, "policy") == "drop" {
        Policy::Drop
    } else {
        Policy::Accept
    };
    Some(Base { hook, policy })
}
