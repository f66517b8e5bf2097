//! Sizes both sides hold to. What is larger is refused before it is stored.

/// Largest gRPC message of an agent in bytes. A `Hello` that names 5,000 routes and as many other
/// records is near 1 MiB; this leaves room and still bounds a hostile peer.
pub const MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Largest gRPC message of the controller in bytes: a group of [`MEMBERS`] of about 100 bytes is one
/// record, and a record is never split.
pub const ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// A first batch is split when its records exceed this many encoded bytes.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Records one agent may hold or one batch may carry or remove.
pub const RECORDS: usize = 131_072;
/// Pods with addresses in one message: more than a /18 of pods on one node.
pub const PODS: usize = 16_384;
/// Addresses of one pod, or of one node, or of one quarantine message's pod.
pub const ADDRESSES: usize = 64;
/// Addresses named by one `AddressesFree`.
pub const FREED: usize = 65_536;
/// Bytes of a node's name (a DNS subdomain, RFC 1123).
pub const NODE_NAME: usize = 253;
/// Bytes of a UID.
pub const UID: usize = 128;
/// Bytes of a namespace's or a pod's name.
pub const NAME: usize = 253;
/// Labels of a node: more than any node has.
pub const LABELS: usize = 1024;
/// Bytes of a label's key (a DNS subdomain, a slash and a name).
pub const LABEL_KEY: usize = 317;
/// Bytes of a label's value.
pub const LABEL_VALUE: usize = 63;
/// Groups that a pod is in or a rule names.
pub const GROUPS: usize = 16_384;
/// Members of a group: each address of 100,000 pods.
pub const MEMBERS: usize = 262_144;
/// Rules of a policy: an object of 1.5 MiB, as large as etcd takes it, has fewer.
pub const RULES: usize = 65_536;
/// Ranges, exceptions or names of domains of a rule.
pub const NETWORKS: usize = 65_536;
/// Ports of a rule, or named ports of a pod.
pub const PORTS: usize = 65_536;
/// Bytes of a version string.
pub const VERSION: usize = 128;
/// Bytes of an error or problem text; longer ones are cut, not refused.
pub const TEXT: usize = 2048;

/// More of something than the other side takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{count} {what}, and an agent takes {most}")]
pub struct TooMany {
    /// Of what.
    pub what: &'static str,
    /// How many there are.
    pub count: usize,
    /// How many there may be.
    pub most: usize,
}

impl TooMany {
    /// Whether there are at most `most`.
    pub fn check(what: &'static str, count: usize, most: usize) -> Result<(), Self> {
        if count <= most {
            Ok(())
        } else {
            Err(Self { what, count, most })
        }
    }
}

/// Cuts `text` to [`TEXT`] bytes at a character boundary.
#[must_use]
pub fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let long = "ü".repeat(TEXT);
        assert_eq!(cut(&long).len(), TEXT);
        let odd = format!("a{long}");
        assert_eq!(cut(&odd).len(), TEXT - 1);
        assert_eq!(cut("short"), "short");
    }
}
