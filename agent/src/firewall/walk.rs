//! What becomes of a pod's packet in a chain, as far as it is certain.
//!
//! The packet is any new connection by the gateway, of any protocol and port: a rule that takes only
//! some of these decides nothing about the others. A rule that may take all of them, and whose
//! condition cannot be told from here (addresses, other links, sets, maps), makes the outcome
//! uncertain when it would let them pass.

use serde_json::Value;

use super::ruleset::{Chain, Policy, Rule, Table};
use super::{Direction, MARK};

/// How deep jumps are followed; the kernel allows 16.
const DEPTH: usize = 16;
/// How many rules are looked at for one outcome: beyond, it is uncertain.
const RULES: usize = 4096;

/// What becomes of pods' packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// They are all let pass, or nothing decides on them.
    Passes,
    /// New connections are dropped, but for some kinds of them at most.
    Drops,
    /// It cannot be told.
    Uncertain,
}

/// Which of pods' packets meet a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Meets {
    All,
    /// All or not all.
    Unknown,
    Some,
    None,
}

/// How a walk through a chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Accept,
    Drop,
    Uncertain,
    /// Its rules were passed without a decision.
    Through,
}

/// What becomes of pods' packets in a base chain, our own rules left out of account.
pub fn outcome(table: &Table, chain: &Chain, direction: Direction, gateway: &str) -> Outcome {
    let Some(base) = chain.base else {
        return Outcome::Passes;
    };
    let mut walk = Walk {
        table,
        direction,
        gateway,
        left: RULES,
    };
    match (walk.chain(chain, 0), base.policy) {
        (End::Drop, _) | (End::Through, Policy::Drop) => Outcome::Drops,
        (End::Accept, _) | (End::Through, Policy::Accept) => Outcome::Passes,
        (End::Uncertain, _) => Outcome::Uncertain,
    }
}

/// The direction of a rule of ours; `None` for other people's.
pub fn ours(rule: &Rule, gateway: &str) -> Option<Direction> {
    if rule.comment != MARK {
        return None;
    }
    let [condition, verdict] = rule.statements.as_slice() else {
        return None;
    };
    let condition = condition.get("match")?;
    let is_ours = verdict.get("accept").is_some()
        && condition.get("op")? == "=="
        && condition.get("right")? == gateway;
    let key = condition.pointer("/left/meta/key")?.as_str()?;
    [Direction::FromPods, Direction::ToPods]
        .into_iter()
        .find(|direction| is_ours && direction.key() == key)
}

struct Walk<'a> {
    table: &'a Table,
    direction: Direction,
    gateway: &'a str,
    left: usize,
}

impl Walk<'_> {
    fn chain(&mut self, chain: &Chain, depth: usize) -> End {
        if depth > DEPTH {
            return End::Uncertain;
        }
        for rule in &chain.rules {
            let Some(left) = self.left.checked_sub(1) else {
                return End::Uncertain;
            };
            self.left = left;
            if ours(rule, self.gateway).is_some() {
                continue;
            }
            let mut meets = Meets::All;
            for statement in &rule.statements {
                match self.statement(rule, statement) {
                    Step::Condition(more) => meets = meets.max(more),
                    Step::Nothing => {}
                    Step::End(end) => match (end, meets) {
                        (end, Meets::All) => return end,
                        (End::Accept | End::Uncertain | End::Through, Meets::Unknown) => {
                            return End::Uncertain;
                        }
                        _ => break,
                    },
                    Step::Jump { to, comes_back } => {
                        if meets == Meets::None {
                            break;
                        }
                        let end = match self.table.chains.get(&to) {
                            Some(target) => self.chain(target, depth + 1),
                            None => End::Uncertain,
                        };
                        match (end, meets) {
                            (End::Through, Meets::All) if !comes_back => return End::Through,
                            (End::Through, Meets::Unknown) if !comes_back => return End::Uncertain,
                            (End::Through, _) => {}
                            (end, Meets::All) => return end,
                            (End::Accept | End::Uncertain, Meets::Unknown) => {
                                return End::Uncertain;
                            }
                            _ => {}
                        }
                        break;
                    }
                }
            }
        }
        End::Through
    }

    fn statement(&self, rule: &Rule, statement: &Value) -> Step {
        let Some((kind, content)) = statement
            .as_object()
            .and_then(|object| object.iter().next())
        else {
            return Step::Condition(Meets::Unknown);
        };
        let jump = |comes_back| match content.get("target").and_then(Value::as_str) {
            Some(to) => Step::Jump {
                to: to.to_owned(),
                comes_back,
            },
            None => Step::End(End::Uncertain),
        };
        match kind.as_str() {
            "accept" => Step::End(End::Accept),
            "drop" | "reject" => Step::End(End::Drop),
            // Of a base chain it is the policy's turn; of others the rest of the caller's rules.
            "return" => Step::End(End::Through),
            "jump" => jump(true),
            "goto" => jump(false),
            "match" => Step::Condition(self.condition(content)),
            "limit" | "quota" | "ct count" => Step::Condition(Meets::Some),
            "xt" => xt(rule, content),
            "counter" | "log" | "mangle" | "notrack" | "comment" | "ct helper" | "flow" | "dup"
            | "ct timeout" | "ct expectation" => Step::Nothing,
            "vmap" if decides_on_old_connections(content) => Step::Nothing,
            "vmap" | "queue" => Step::End(End::Uncertain),
            _ => Step::Condition(Meets::Unknown),
        }
    }

    fn condition(&self, condition: &Value) -> Meets {
        let (Some(left), Some(right)) = (condition.get("left"), condition.get("right")) else {
            return Meets::Unknown;
        };
        let negated = condition.get("op").is_some_and(|op| op == "!=");
        if let Some(key) = left.pointer("/meta/key").and_then(Value::as_str) {
            return match key {
                "iifname" | "oifname" => self.link(key, right, negated),
                "l4proto" | "mark" | "pkttype" | "skuid" | "skgid" | "cgroup" if !negated => {
                    Meets::Some
                }
                _ => Meets::Unknown,
            };
        }
        // A mark with a mask. Nobody marks pods' packets but for some (kube-proxy's are to Services).
        if left
            .pointer("/&/0/meta/key")
            .is_some_and(|key| key == "mark")
            && !negated
        {
            return Meets::Some;
        }
        if let Some(key) = left.pointer("/ct/key").and_then(Value::as_str) {
            return match key {
                "state" if negated => Meets::Unknown,
                "state" if mentions(right, "new") => Meets::Unknown,
                _ if negated => Meets::Unknown,
                "state" | "status" | "mark" | "direction" => Meets::Some,
                _ => Meets::Unknown,
            };
        }
        if let Some(protocol) = left.pointer("/payload/protocol").and_then(Value::as_str) {
            let field = left.pointer("/payload/field").and_then(Value::as_str);
            return match protocol {
                "tcp" | "udp" | "udplite" | "sctp" | "dccp" | "th" | "icmp" | "icmpv6" | "igmp"
                | "esp" | "ah" => Meets::Some,
                "ip" if field == Some("protocol") && !negated => Meets::Some,
                "ip6" if field == Some("nexthdr") && !negated => Meets::Some,
                _ => Meets::Unknown,
            };
        }
        if left.get("fib").is_some() && !negated {
            return Meets::Some;
        }
        Meets::Unknown
    }

    fn link(&self, key: &str, right: &Value, negated: bool) -> Meets {
        let mut names: Vec<&str> = Vec::new();
        match (right.as_str(), right.get("set").and_then(Value::as_array)) {
            (Some(name), _) if !name.starts_with('@') => names.push(name),
            (_, Some(set)) => {
                for element in set {
                    let Some(name) = element.as_str() else {
                        return Meets::Unknown;
                    };
                    names.push(name);
                }
            }
            _ => return Meets::Unknown,
        }
        let gateway = names.iter().any(|name| covers(name, self.gateway));
        if key == self.direction.key() {
            return if gateway == negated {
                Meets::None
            } else {
                Meets::All
            };
        }
        // The other link: to or from where, which may be anywhere but between containers.
        let inner = |name: &&str| *name == self.gateway || is_inner(name);
        if !negated && names.iter().all(inner) {
            Meets::Some
        } else {
            Meets::Unknown
        }
    }
}

enum Step {
    Condition(Meets),
    Nothing,
    End(End),
    Jump { to: String, comes_back: bool },
}

/// An extension of iptables, of which JSON tells only the name.
fn xt(rule: &Rule, content: &Value) -> Step {
    let part = |key: &str| content.get(key).and_then(Value::as_str).unwrap_or_default();
    match (part("type"), part("name")) {
        ("match", "conntrack" | "state") => {
            let states = rule
                .text
                .split_once("ct state ")
                .and_then(|(_, rest)| rest.split(' ').next());
            let some = states.is_some_and(|states| !states.split(',').any(|state| state == "new"));
            // What is written otherwise ("ct state != …") begins with no state.
            let known =
                states.is_some_and(|states| states.starts_with(|c: char| c.is_alphabetic()));
            Step::Condition(if some && known {
                Meets::Some
            } else {
                Meets::Unknown
            })
        }
        (
            "match",
            "mark" | "connmark" | "multiport" | "limit" | "hashlimit" | "connlimit" | "addrtype"
            | "recent" | "tcp" | "udp" | "sctp" | "icmp" | "icmp6" | "statistic" | "physdev"
            | "owner" | "string" | "u32" | "time" | "socket",
        ) => Step::Condition(Meets::Some),
        ("target", "REJECT") => Step::End(End::Drop),
        ("match", "comment")
        | (
            "target",
            "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "AUDIT" | "TRACE" | "SET"
            | "CLASSIFY" | "CHECKSUM",
        ) => Step::Nothing,
        ("target", _) => Step::End(End::Uncertain),
        _ => Step::Condition(Meets::Unknown),
    }
}

/// Whether a name of a rule, maybe with `*` at its end, is the link's.
fn covers(name: &str, link: &str) -> bool {
    match name.strip_suffix('*') {
        Some(prefix) => link.starts_with(prefix),
        None => name == link,
    }
}

/// Whether a link leads to containers or to the host itself, by the names that their makers give.
fn is_inner(name: &str) -> bool {
    let bridge = |rest: &str| rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit());
    name == "lo"
        || [
            "docker", "virbr", "lxcbr", "lxdbr", "cni", "podman", "veth", "vnet", "nerdctl",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || name.strip_prefix("br-").is_some_and(bridge)
}

/// `ct state vmap { established : accept, … }` without `new`: it decides on no new connection.
fn decides_on_old_connections(vmap: &Value) -> bool {
    let by_state = vmap
        .pointer("/key/ct/key")
        .is_some_and(|key| key == "state");
    let literal = vmap.get("data").filter(|data| data.get("set").is_some());
    by_state && literal.is_some_and(|data| !mentions(data, "new"))
}

fn mentions(value: &Value, word: &str) -> bool {
    match value {
        Value::String(text) => text == word,
        Value::Array(list) => list.iter().any(|value| mentions(value, word)),
        Value::Object(object) => object.values().any(|value| mentions(value, word)),
        _ => false,
    }
}
