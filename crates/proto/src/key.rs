//! Names of records.

use std::fmt;
use std::str::FromStr;

use carrick_policy::{GroupKey, PolicyName};

use crate::invalid::Invalid;
use crate::limits;
use crate::policy::{group_key, policy_name};

/// The name of a Node: a DNS subdomain (RFC 1123), as Kubernetes requires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Box<str>);

impl NodeName {
    /// Checks the text.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        let fine = !text.is_empty()
            && text.len() <= limits::NODE_NAME
            && text.split('.').all(|label| {
                let bytes = label.as_bytes();
                let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
                edge(bytes.first())
                    && edge(bytes.last())
                    && bytes
                        .iter()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
            });
        if fine {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::malformed("node", text, "a node's name"))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The UID of a Pod object, as the API server made it (a static pod's is its mirror's).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(Box<str>);

impl PodUid {
    /// Checks the text: printable ASCII without spaces or slashes.
    pub fn new(text: &str) -> Result<Self, Invalid> {
        let fine = !text.is_empty()
            && text.len() <= limits::UID
            && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        if fine {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::malformed("uid", text, "a UID"))
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for PodUid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a record is about: `node`, `route/NODE`, `group/GROUP`, `policy/NAMESPACE/NAME` or `pod/UID`. The order
/// of the variants is the order in which a batch lists its records: first the agent's own Node, at last the
/// pods, whose ports open by their records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The agent's own Node.
    Node,
    /// The way to another node's pods.
    Route(NodeName),
    /// A group that rules name.
    Group(GroupKey),
    /// A policy; a ClusterNetworkPolicy has no namespace.
    Policy(PolicyName),
    /// A pod of this node.
    Pod(PodUid),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Route(node) => write!(f, "route/{node}"),
            Self::Group(group) => write!(f, "group/{group}"),
            Self::Policy(policy) => {
                let namespace = policy.namespace().unwrap_or_default();
                write!(f, "policy/{namespace}/{}", policy.name())
            }
            Self::Pod(uid) => write!(f, "pod/{uid}"),
        }
    }
}

impl FromStr for Key {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.split_once('/') {
            None if text == "node" => Ok(Self::Node),
            Some(("route", node)) => Ok(Self::Route(NodeName::new(node)?)),
            Some(("group", group)) => Ok(Self::Group(group_key(group)?)),
            Some(("policy", policy)) => {
                let wrong = || Invalid::malformed("key", text, "a record's key");
                let (namespace, name) = policy.split_once('/').ok_or_else(wrong)?;
                Ok(Self::Policy(policy_name(namespace, name)?))
            }
            Some(("pod", uid)) => Ok(Self::Pod(PodUid::new(uid)?)),
            _ => Err(Invalid::malformed("key", text, "a record's key")),
        }
    }
}

impl Key {
    /// Like [`FromStr`], but `None` for a kind this code does not know, so that a newer peer's
    /// records are skipped instead of refused.
    pub(crate) fn parse_known(text: &str) -> Result<Option<Self>, Invalid> {
        let kind = text.split_once('/').map_or(text, |(kind, _)| kind);
        match kind {
            "node" | "route" | "group" | "policy" | "pod" => text.parse().map(Some),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_text() {
        for text in [
            "node",
            "route/ip-10-0-0-1.eu-west-1.compute.internal",
            "pod/7f3a",
            "group/addresses/062aba0419c33e2f50402d923987f00c",
            "policy/default/web",
            "policy//deny-all",
        ] {
            assert_eq!(text.parse::<Key>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn hostile_keys_are_refused() {
        for text in [
            "",
            "node/x",
            "route/",
            "route/-a",
            "route/a..b",
            "route/A",
            "pod/",
            "pod/a b",
            "pod/a/b",
            "x/y",
            "group/addresses",
            "group/addresses/x",
            "policy/web",
            "policy//",
            "policy/default/",
            "policy/default/a/b",
        ] {
            assert!(text.parse::<Key>().is_err(), "{text:?}");
        }
        assert!(NodeName::new(&"a".repeat(254)).is_err());
        assert!(PodUid::new(&"a".repeat(129)).is_err());
    }

    #[test]
    fn kinds_of_a_newer_peer_are_unknown_not_wrong() {
        assert_eq!(Key::parse_known("later/1"), Ok(None));
        assert!(Key::parse_known("pod/").is_err());
    }
}
