//! Names of domains that rules of egress name.

use std::fmt;

use crate::problem::quoted;

/// Longest name (RFC 1035 §2.3.4), without the dot of the root.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// `domainNames[]`: one name, or with `*.` every name below one. Lower case, no dot at the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName {
    name: Box<str>,
    below: bool,
}

/// Why a text is no domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is no domain name", quoted(.0))]
pub struct NoDomainName(String);

impl NoDomainName {
    pub(crate) const MEND: &'static str =
        "write two labels or more, as example.org, or *.example.org for all names below it";
}

impl DomainName {
    /// Reads what the API takes (`DomainName` in network-policy-api v1alpha2), within the bounds of
    /// RFC 1035.
    ///
    /// # Errors
    /// It is no name of two labels or more.
    pub fn parse(text: &str) -> Result<Self, NoDomainName> {
        let wrong = || NoDomainName(text.to_owned());
        let whole = text.strip_suffix('.').unwrap_or(text);
        let (below, name) = match whole.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, whole),
        };
        let labels = name.split('.');
        let fine = name.len() <= MAX_NAME && labels.clone().count() >= 2;
        if !fine || !labels.clone().all(is_label) {
            return Err(wrong());
        }
        Ok(Self {
            name: name.to_ascii_lowercase().into(),
            below,
        })
    }

    /// The name without `*.`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is for all names below [`Self::name`], of any number of labels, and not for that.
    pub const fn is_wildcard(&self) -> bool {
        self.below
    }

    /// Whether it is for this name, in any case and with or without the dot of the root.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
        let own = self.name.as_bytes();
        if !self.below {
            return name.eq_ignore_ascii_case(own);
        }
        let Some(labels) = name.len().checked_sub(own.len() + 1) else {
            return false;
        };
        let (labels, rest) = name.split_at(labels);
        !labels.is_empty() && rest.starts_with(b".") && rest[1..].eq_ignore_ascii_case(own)
    }
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= MAX_LABEL
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_')
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_the_api_says() {
        let exact = DomainName::parse("Kubernetes.io.").unwrap();
        assert_eq!(exact.to_string(), "kubernetes.io");
        assert!(exact.matches("KUBERNETES.io."));
        for other in ["www.kubernetes.io", "my-kubernetes.io", "wikipedia.org", ""] {
            assert!(!exact.matches(other), "{other}");
        }
        let below = DomainName::parse("*.kubernetes.io").unwrap();
        for name in ["www.kubernetes.io", "latest.blog.Kubernetes.IO."] {
            assert!(below.matches(name), "{name}");
        }
        for other in [
            "kubernetes.io",
            "my-kubernetes.io",
            ".kubernetes.io",
            "é.io",
        ] {
            assert!(!below.matches(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("{}.org", "a".repeat(64));
        let longer = "abcdefg.".repeat(32) + "org";
        for text in [
            "", "*", "*.", "org", "*.org", "a..b", "-a.org", "a-.org", "a.*.org", "w*.a.org",
            "a b.org", "é.org", ".", "..", &long, &longer,
        ] {
            assert!(DomainName::parse(text).is_err(), "{text:?}");
        }
    }
}
