//! What a pod's link on the host says of itself: the key of its attachment, in its alias.
//!
//! People read it in `ip -details link`; [`super::recover`] reads it when the journal is lost.

use std::fmt;

use crate::ipam::{Attachment, AttachmentKey, PodRef};

/// The longest alias a link may have (`IFALIASZ`, less the end).
const MAX_ALIAS: usize = 255;

/// The content of an alias: `ns/name uid=… id=… if=… port=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkAlias {
    pub(super) key: AttachmentKey,
    /// Namespace and name are empty when they did not fit.
    pub(super) pod: PodRef,
    pub(super) ofport: u32,
}

impl LinkAlias {
    pub(super) fn of(attachment: &Attachment) -> Self {
        Self {
            key: attachment.key.clone(),
            pod: attachment.pod.clone(),
            ofport: attachment.ofport,
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (namespace, name) = words.next()?.split_once('/')?;
        let mut value = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
        let uid = value("uid")?;
        let container_id = value("id")?;
        let ifname = value("if")?;
        let ofport = value("port")?.parse().ok()?;
        if uid.is_empty() || container_id.is_empty() || words.next().is_some() {
            return None;
        }
        let owned = str::to_owned;
        Some(Self {
            key: AttachmentKey {
                container_id: owned(container_id),
                ifname: owned(ifname),
            },
            pod: PodRef {
                namespace: owned(namespace),
                name: owned(name),
                uid: owned(uid),
            },
            ofport,
        })
    }
}

impl fmt::Display for LinkAlias {
    /// Empty when not even the key fits: better no alias than one that misleads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = format!(
            "uid={} id={} if={} port={}",
            self.pod.uid, self.key.container_id, self.key.ifname, self.ofport
        );
        let named = format!("{}/{} {key}", self.pod.namespace, self.pod.name);
        let short = format!("/ {key}");
        let fits = |text: &String| text.len() <= MAX_ALIAS;
        f.write_str(
            [named, short]
                .iter()
                .find(|text| fits(text))
                .map_or("", String::as_str),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(name: &str, container: &str) -> LinkAlias {
        LinkAlias {
            key: AttachmentKey {
                container_id: container.to_owned(),
                ifname: "eth0".to_owned(),
            },
            pod: PodRef {
                namespace: "default".to_owned(),
                name: name.to_owned(),
                uid: "0b4ed7a3-6f0e-4f0c-8a52-6c1b8b7ad0f5".to_owned(),
            },
            ofport: 107,
        }
    }

    #[test]
    fn an_alias_is_read_back() {
        let container = "c".repeat(64);
        let whole = alias("web-0", &container);
        assert_eq!(LinkAlias::parse(&whole.to_string()), Some(whole));
        // Too long a name is left out, the key stays.
        let long = alias(&"n".repeat(200), &container);
        let text = long.to_string();
        assert!(text.len() <= MAX_ALIAS);
        let read = LinkAlias::parse(&text).unwrap();
        assert_eq!(
            (&read.key, &read.pod.uid, read.ofport),
            (&long.key, &long.pod.uid, 107)
        );
        assert_eq!(read.pod.name, "");
        assert_eq!(alias("n", &"c".repeat(250)).to_string(), "");
    }

    #[test]
    fn foreign_aliases_are_none_of_ours() {
        for text in [
            "",
            "uplink",
            "a/b",
            "a/b uid= id=c if=eth0 port=1",
            "a/b uid=u id=c if=eth0 port=x",
            "a/b uid=u id=c if=eth0 port=1 more",
            "a/b id=c uid=u if=eth0 port=1",
        ] {
            assert_eq!(LinkAlias::parse(text), None, "{text}");
        }
    }
}
