//! Groups by their content: who uses the same selector for the same purpose uses the same group.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::policy::{GroupSelector, PodSelector, Scope};
use crate::selector::{Selector, encode_text};

/// What a group is for, and so what is said of its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupKind {
    /// The pods a policy is for. A pod's record says that it is one of them
    /// ([`crate::PodRecord::groups`]), on its own node only.
    AppliedTo,
    /// Peers: their addresses.
    Addresses,
    /// Peers of a rule that names ports: their addresses and what they call their ports.
    NamedPorts,
}

/// Names a group. It follows from the selector alone, so it is the same in every controller and
/// after every restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    kind: GroupKind,
    hash: SelectorHash,
}

/// The first 16 bytes of SHA-256 over a [`GroupSelector`].
pub(crate) type SelectorHash = [u8; 16];

impl GroupKey {
    /// The group of what the selector selects.
    pub fn of(kind: GroupKind, selector: &GroupSelector) -> Self {
        let hash = match selector {
            GroupSelector::Pods(pods) => hash_pods(pods),
            GroupSelector::Nodes(nodes) => hash_nodes(nodes),
        };
        Self::new(kind, hash)
    }

    pub(crate) const fn new(kind: GroupKind, hash: SelectorHash) -> Self {
        Self { kind, hash }
    }

    /// What it is for.
    pub const fn kind(&self) -> GroupKind {
        self.kind
    }

    /// The hash of its selector.
    pub const fn hash(&self) -> &[u8; 16] {
        &self.hash
    }
}

/// The hash by which selectors of pods are told apart.
pub(crate) fn hash_pods(selector: &PodSelector) -> SelectorHash {
    let mut bytes = Vec::with_capacity(128);
    match &selector.scope {
        Scope::Namespace(namespace) => {
            bytes.push(0);
            encode_text(&mut bytes, namespace);
        }
        Scope::Selected(namespaces) => {
            bytes.push(1);
            namespaces.encode(&mut bytes);
        }
    }
    selector.pods.encode(&mut bytes);
    hash(&bytes)
}

/// The hash by which selectors of nodes are told apart.
pub(crate) fn hash_nodes(nodes: &Selector) -> SelectorHash {
    let mut bytes = vec![2];
    nodes.encode(&mut bytes);
    hash(&bytes)
}

/// The hash by which selectors of namespaces are told apart. It is no group's.
pub(crate) fn hash_selector(selector: &Selector) -> SelectorHash {
    let mut bytes = Vec::with_capacity(64);
    selector.encode(&mut bytes);
    hash(&bytes)
}

fn hash(bytes: &[u8]) -> SelectorHash {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest[..16]);
    hash
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            GroupKind::AppliedTo => "applied-to/",
            GroupKind::Addresses => "addresses/",
            GroupKind::NamedPorts => "named-ports/",
        })?;
        self.hash
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why a text names no group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a group is KIND/ and 32 hexadecimal digits in lower case")]
pub struct NoGroupKey;

impl FromStr for GroupKey {
    type Err = NoGroupKey;

    fn from_str(text: &str) -> Result<Self, NoGroupKey> {
        let (kind, digits) = text.split_once('/').ok_or(NoGroupKey)?;
        let kind = match kind {
            "applied-to" => GroupKind::AppliedTo,
            "addresses" => GroupKind::Addresses,
            "named-ports" => GroupKind::NamedPorts,
            _ => return Err(NoGroupKey),
        };
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != 32 || !digits.bytes().all(is_digit) {
            return Err(NoGroupKey);
        }
        let number = u128::from_str_radix(digits, 16).map_err(|_| NoGroupKey)?;
        Ok(Self::new(kind, number.to_be_bytes()))
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(scope: Scope) -> GroupSelector {
        GroupSelector::Pods(PodSelector {
            scope,
            pods: Selector::default(),
        })
    }

    /// Keys are part of what agents keep: another value here would make every agent fetch every
    /// group again on an upgrade.
    #[test]
    fn a_key_is_fixed() {
        let selector = pods(Scope::Namespace("default".into()));
        insta::assert_snapshot!(
            GroupKey::of(GroupKind::Addresses, &selector),
            @"addresses/062aba0419c33e2f50402d923987f00c"
        );
    }

    #[test]
    fn keys_follow_from_what_is_selected() {
        let selectors = [
            pods(Scope::Namespace("a".into())),
            pods(Scope::Namespace("b".into())),
            pods(Scope::Selected(Selector::default())),
            GroupSelector::Nodes(Selector::default()),
        ];
        let kinds = [
            GroupKind::AppliedTo,
            GroupKind::Addresses,
            GroupKind::NamedPorts,
        ];
        let keys = kinds.into_iter().flat_map(|kind| {
            let selectors = selectors.iter();
            selectors.map(move |selector| GroupKey::of(kind, selector).to_string())
        });
        let distinct: std::collections::BTreeSet<String> = keys.collect();
        assert_eq!(distinct.len(), 12);
        for text in distinct {
            assert_eq!(text.parse::<GroupKey>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let digits = "062aba0419c33e2f50402d923987f00c";
        for text in [
            String::new(),
            "addresses".to_owned(),
            "addresses/".to_owned(),
            format!("pods/{digits}"),
            format!("addresses/{digits}0"),
            format!("addresses/+{}", &digits[1..]),
            format!("addresses/{}", digits.to_uppercase()),
        ] {
            assert_eq!(text.parse::<GroupKey>(), Err(NoGroupKey), "{text}");
        }
    }
}
