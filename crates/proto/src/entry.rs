//! Records and batches in their typed form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use carrick_policy::{EnforcedPolicy, GroupKey, Members, NamedPort};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::group::{GroupDifference, GroupHash};
use crate::invalid::{Invalid, at_most};
use crate::key::{Key, NodeName, PodUid};
use crate::limits::{self, TooMany};
use crate::net::{parse_addresses, parse_cidrs};
use crate::number::Number;
use crate::policy;
use crate::v1;

/// The first 16 bytes of SHA-256 over a record's encoded body; of a group its [`GroupHash`]. Both sides
/// compute it from the content they hold, so equal hashes mean equal content, whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 16]);

impl ContentHash {
    /// The hash of `body`. Protobuf encodes these messages deterministically: fields in the order
    /// of their numbers, no maps.
    #[must_use]
    pub fn of(body: &Body) -> Self {
        if let Body::Group(group) = body {
            return GroupHash::of(&group.group, &group.members).content_hash();
        }
        let mut encoded = Vec::with_capacity(256);
        body.to_wire().encode(&mut encoded);
        let digest: [u8; 32] = Sha256::digest(&encoded).into();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Self(hash)
    }

    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<&[u8]> for ContentHash {
    type Error = Invalid;

    fn try_from(bytes: &[u8]) -> Result<Self, Invalid> {
        let hash = <[u8; 16]>::try_from(bytes).map_err(|_| Invalid::TooLarge {
            field: "hash",
            found: bytes.len(),
            limit: 16,
        })?;
        Ok(Self(hash))
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The agent's own Node ([`v1::NodeRecord`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// The Node's name.
    pub name: NodeName,
    /// UID of the Node object: another one is another registration.
    pub uid: String,
    /// What pods of this node get their addresses from.
    pub pod_cidrs: Vec<IpNet>,
    /// InternalIP addresses.
    pub addresses: Vec<IpAddr>,
    /// Why `pod_cidrs` must not be used, for a condition.
    pub problem: Option<String>,
    /// The Node's labels, where the configuration differs by them; else none.
    pub labels: BTreeMap<String, String>,
}

/// Another node's pods and where tunnels to it end ([`v1::RouteRecord`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFacts {
    /// The other node.
    pub node: NodeName,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// One address per family at most.
    pub tunnel_endpoints: Vec<IpAddr>,
}

/// A pod of this node ([`v1::PodRecord`]); it opens the pod's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// The Pod object's UID.
    pub uid: PodUid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Container ports that have names.
    pub ports: Arc<[NamedPort]>,
    /// Groups that it is in, sorted: policies with these are for it.
    pub groups: Vec<GroupKey>,
}

/// Who is at the other end of rules ([`v1::GroupRecord`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupFacts {
    /// Which group.
    pub group: GroupKey,
    /// All of it.
    pub members: Members,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// The agent's own Node.
    Node(NodeFacts),
    /// The way to another node's pods.
    Route(RouteFacts),
    /// A group that rules name.
    Group(GroupFacts),
    /// A policy for pods of this node.
    Policy(Arc<EnforcedPolicy>),
    /// A pod of this node.
    Pod(PodFacts),
}

impl Body {
    /// The key of a record with this body.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Node(_) => Key::Node,
            Self::Route(route) => Key::Route(route.node.clone()),
            Self::Group(group) => Key::Group(group.group),
            Self::Policy(policy) => Key::Policy(policy.name.clone()),
            Self::Pod(pod) => Key::Pod(pod.uid.clone()),
        }
    }

    fn to_wire(&self) -> v1::record::Body {
        fn texts<T: ToString>(items: &[T]) -> Vec<String> {
            items.iter().map(ToString::to_string).collect()
        }
        match self {
            Self::Node(node) => v1::record::Body::Node(v1::NodeRecord {
                name: node.name.to_string(),
                uid: node.uid.clone(),
                pod_cidrs: texts(&node.pod_cidrs),
                addresses: texts(&node.addresses),
                problem: node
                    .problem
                    .as_deref()
                    .map(limits::cut)
                    .unwrap_or_default()
                    .to_owned(),
                labels: labels_to_wire(&node.labels),
            }),
            Self::Route(route) => v1::record::Body::Route(v1::RouteRecord {
                node: route.node.to_string(),
                pod_cidrs: texts(&route.pod_cidrs),
                tunnel_endpoints: texts(&route.tunnel_endpoints),
            }),
            Self::Pod(pod) => v1::record::Body::Pod(v1::PodRecord {
                uid: pod.uid.to_string(),
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                labels: labels_to_wire(&pod.labels),
                ports: policy::ports_to_wire(&pod.ports),
                groups: pod.groups.iter().map(ToString::to_string).collect(),
            }),
            Self::Group(group) => v1::record::Body::Group(v1::GroupRecord {
                group: group.group.to_string(),
                members: policy::members_to_wire(&group.members),
            }),
            Self::Policy(policy) => v1::record::Body::Policy(policy::policy_to_wire(policy)),
        }
    }

    fn from_wire(body: v1::record::Body) -> Result<Self, Invalid> {
        Ok(match body {
            v1::record::Body::Node(node) => {
                at_most("uid", node.uid.len(), limits::UID)?;
                Self::Node(NodeFacts {
                    name: NodeName::new(&node.name)?,
                    pod_cidrs: parse_cidrs("pod_cidrs", &node.pod_cidrs)?,
                    addresses: parse_addresses("addresses", &node.addresses)?,
                    problem: Some(limits::cut(&node.problem).to_owned()).filter(|p| !p.is_empty()),
                    uid: node.uid,
                    labels: labels_from_wire(node.labels)?,
                })
            }
            v1::record::Body::Route(route) => Self::Route(RouteFacts {
                node: NodeName::new(&route.node)?,
                pod_cidrs: parse_cidrs("pod_cidrs", &route.pod_cidrs)?,
                tunnel_endpoints: parse_addresses("tunnel_endpoints", &route.tunnel_endpoints)?,
            }),
            v1::record::Body::Pod(pod) => {
                at_most("namespace", pod.namespace.len(), limits::NAME)?;
                at_most("name", pod.name.len(), limits::NAME)?;
                Self::Pod(PodFacts {
                    uid: PodUid::new(&pod.uid)?,
                    namespace: pod.namespace,
                    name: pod.name,
                    labels: labels_from_wire(pod.labels)?,
                    ports: policy::ports_from_wire(pod.ports)?,
                    groups: policy::pod_groups(&pod.groups)?,
                })
            }
            v1::record::Body::Group(group) => Self::Group(GroupFacts {
                group: policy::group_key(&group.group)?,
                members: policy::members_from_wire(group.members)?,
            }),
            v1::record::Body::Policy(wire) => {
                Self::Policy(Arc::new(policy::policy_from_wire(wire)?))
            }
        })
    }
}

fn labels_to_wire(labels: &BTreeMap<String, String>) -> Vec<v1::NodeLabel> {
    let labels = labels.iter().take(limits::LABELS);
    let labels = labels.map(|(key, value)| v1::NodeLabel {
        key: key.clone(),
        value: value.clone(),
    });
    labels.collect()
}

fn labels_from_wire(labels: Vec<v1::NodeLabel>) -> Result<BTreeMap<String, String>, Invalid> {
    at_most("labels", labels.len(), limits::LABELS)?;
    for label in &labels {
        at_most("labels.key", label.key.len(), limits::LABEL_KEY)?;
        at_most("labels.value", label.value.len(), limits::LABEL_VALUE)?;
    }
    let labels = labels.into_iter();
    Ok(labels.map(|label| (label.key, label.value)).collect())
}

/// A record: a body and the hash of its content. The key follows from the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    hash: ContentHash,
    body: Body,
}

impl Entry {
    /// Whether an agent takes a record of this size. The limits are far beyond what a cluster can
    /// have that is served well; who is beyond them is told so instead of sending what is refused.
    pub fn fits(&self) -> Result<(), TooMany> {
        match &self.body {
            Body::Pod(pod) => {
                let what = "sets of policies are for one pod";
                TooMany::check(what, pod.groups.len(), limits::GROUPS)
            }
            Body::Group(group) => {
                let what = "addresses are members of one group";
                TooMany::check(what, group.members.len(), limits::MEMBERS)
            }
            _ => Ok(()),
        }
    }

    /// A record with this body.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self {
            hash: ContentHash::of(&body),
            body,
        }
    }

    /// What the record is about.
    #[must_use]
    pub fn key(&self) -> Key {
        self.body.key()
    }

    /// The hash of the body, computed here.
    #[must_use]
    pub const fn hash(&self) -> ContentHash {
        self.hash
    }

    /// What the record says.
    #[must_use]
    pub const fn body(&self) -> &Body {
        &self.body
    }

    /// What the record says, taken out.
    #[must_use]
    pub fn into_body(self) -> Body {
        self.body
    }

    /// The line of [`v1::Hello::held`] for this record.
    #[must_use]
    pub fn held(&self) -> v1::Held {
        v1::Held {
            key: self.key().to_string(),
            hash: self.hash.0.to_vec(),
        }
    }

    /// The message for this record.
    #[must_use]
    pub fn to_wire(&self) -> v1::Record {
        v1::Record {
            key: self.key().to_string(),
            hash: self.hash.0.to_vec(),
            body: Some(self.body.to_wire()),
        }
    }

    /// Reads a record; `None` for a kind this code does not know. The sender's hash is not taken
    /// over: a newer sender's covers fields that were not understood here, and an agent that later
    /// claimed it would claim to hold them.
    pub fn from_wire(record: v1::Record) -> Result<Option<Self>, Invalid> {
        let Some(key) = Key::parse_known(&record.key)? else {
            return Ok(None);
        };
        let body = Body::from_wire(record.body.ok_or(Invalid::Missing { field: "body" })?)?;
        if body.key() != key {
            return Err(Invalid::KeyMismatch {
                key: key.to_string(),
            });
        }
        Ok(Some(Self::new(body)))
    }
}

/// A batch in its typed form: applied as one, everything in it or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// The position an agent is at once it has committed this.
    pub number: Number,
    /// New and changed records.
    pub changed: Vec<Entry>,
    /// Records that are gone. A key that is not held is no error: what came and went between two
    /// batches is named here, too.
    pub removed: Vec<Key>,
    /// Groups that the agent holds, by difference. None is here twice, nor in `changed` as well.
    pub groups: Vec<GroupDifference>,
    /// The agent now holds all of its records.
    pub complete: bool,
    /// Records and keys of kinds this code does not know; they were left out.
    pub skipped: usize,
}

impl Delta {
    /// The message for this batch.
    #[must_use]
    pub fn to_wire(&self) -> v1::Batch {
        v1::Batch {
            number: Some(self.number.into()),
            changed: self.changed.iter().map(Entry::to_wire).collect(),
            removed: self.removed.iter().map(ToString::to_string).collect(),
            complete: self.complete,
            groups: self.groups.iter().map(GroupDifference::to_wire).collect(),
        }
    }
}

impl TryFrom<v1::Batch> for Delta {
    type Error = Invalid;

    fn try_from(batch: v1::Batch) -> Result<Self, Invalid> {
        at_most("changed", batch.changed.len(), limits::RECORDS)?;
        at_most("removed", batch.removed.len(), limits::RECORDS)?;
        at_most("groups", batch.groups.len(), limits::RECORDS)?;
        let mut delta = Self {
            number: batch
                .number
                .ok_or(Invalid::Missing { field: "number" })?
                .into(),
            complete: batch.complete,
            ..Self::default()
        };
        for record in batch.changed {
            match Entry::from_wire(record)? {
                Some(entry) => delta.changed.push(entry),
                None => delta.skipped += 1,
            }
        }
        for key in batch.removed {
            match Key::parse_known(&key)? {
                Some(key) => delta.removed.push(key),
                None => delta.skipped += 1,
            }
        }
        let changed = delta.changed.iter().map(Entry::key);
        let mut named: BTreeSet<Key> = changed.collect();
        for difference in batch.groups {
            let difference = GroupDifference::try_from(difference)?;
            if !named.insert(Key::Group(difference.group)) {
                let group = difference.group.to_string();
                return Err(Invalid::malformed("groups", &group, "a group named once"));
            }
            delta.groups.push(difference);
        }
        Ok(delta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(node: &str) -> Entry {
        Entry::new(Body::Route(RouteFacts {
            node: NodeName::new(node).unwrap(),
            pod_cidrs: vec![
                "10.1.0.0/24".parse().unwrap(),
                "fd00:1::/64".parse().unwrap(),
            ],
            tunnel_endpoints: vec!["192.0.2.1".parse().unwrap()],
        }))
    }

    #[test]
    fn records_survive_the_wire() {
        let pod = Entry::new(Body::Pod(PodFacts {
            uid: PodUid::new("uid-1").unwrap(),
            namespace: "default".into(),
            name: "web".into(),
            labels: BTreeMap::from([("app".into(), "web".into())]),
            ports: Arc::default(),
            groups: Vec::new(),
        }));
        let node = Entry::new(Body::Node(NodeFacts {
            name: NodeName::new("a").unwrap(),
            uid: "u".into(),
            pod_cidrs: vec![],
            addresses: vec!["fd00::1".parse().unwrap()],
            problem: Some("its pod CIDR overlaps node b's".into()),
            labels: BTreeMap::from([
                ("pool".into(), "gpu".into()),
                ("zone".into(), String::new()),
            ]),
        }));
        for entry in [route("b"), pod, node] {
            assert_eq!(Entry::from_wire(entry.to_wire()), Ok(Some(entry)));
        }
    }

    /// The hash is part of the protocol: another value here would make every agent fetch
    /// everything again on an upgrade.
    #[test]
    fn the_content_hash_is_fixed() {
        assert_eq!(
            route("b").hash().to_string(),
            "e8b03c96f6840d5d49c39c610a898cad"
        );
    }

    #[test]
    fn the_hash_follows_the_content_only() {
        assert_eq!(route("b").hash(), route("b").hash());
        assert_ne!(route("b").hash(), route("c").hash());
    }

    #[test]
    fn a_key_must_name_its_body() {
        let mut record = route("b").to_wire();
        record.key = "route/c".into();
        assert_eq!(
            Entry::from_wire(record),
            Err(Invalid::KeyMismatch {
                key: "route/c".into()
            })
        );
    }

    #[test]
    fn what_a_newer_controller_sends_is_skipped() {
        let batch = v1::Batch {
            number: Some(v1::Number {
                epoch: 1,
                sequence: 1,
            }),
            changed: vec![
                v1::Record {
                    key: "later/1".into(),
                    hash: vec![],
                    body: None,
                },
                route("b").to_wire(),
            ],
            removed: vec!["later/2".into(), "pod/x".into()],
            ..v1::Batch::default()
        };
        let delta = Delta::try_from(batch).unwrap();
        assert_eq!(
            (delta.changed.len(), delta.removed.len(), delta.skipped),
            (1, 1, 2)
        );
    }

    #[test]
    fn a_batch_that_is_partly_wrong_is_wholly_refused() {
        let mut bad = route("b").to_wire();
        if let Some(v1::record::Body::Route(body)) = &mut bad.body {
            body.pod_cidrs.push("10.0.0.1/8".into());
        }
        let batch = v1::Batch {
            number: Some(v1::Number::default()),
            changed: vec![route("c").to_wire(), bad],
            ..v1::Batch::default()
        };
        assert!(Delta::try_from(batch).is_err());
        assert_eq!(
            Delta::try_from(v1::Batch::default()),
            Err(Invalid::Missing { field: "number" })
        );
    }
}
