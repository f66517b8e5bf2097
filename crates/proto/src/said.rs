//! What agents say, in its typed form.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::entry::ContentHash;
use crate::invalid::{Invalid, at_most};
use crate::key::{Key, NodeName};
use crate::limits;
use crate::net::{parse_address, parse_addresses};
use crate::number::Number;
use crate::v1;

/// The addresses a pod's sandbox holds ([`v1::PodAddress`]). The UID is the one the CNI was told,
/// which is not the Pod object's for a static pod; so it is text here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodHolding {
    /// UID as the container runtime told it.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The addresses, one per family as a rule.
    pub addresses: Vec<IpAddr>,
}

impl PodHolding {
    /// The message for this.
    #[must_use]
    pub fn to_wire(&self) -> v1::PodAddress {
        v1::PodAddress {
            uid: self.uid.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
        }
    }

    fn list(field: &'static str, pods: Vec<v1::PodAddress>) -> Result<Vec<Self>, Invalid> {
        at_most(field, pods.len(), limits::PODS)?;
        pods.into_iter().map(Self::try_from).collect()
    }
}

impl TryFrom<v1::PodAddress> for PodHolding {
    type Error = Invalid;

    fn try_from(pod: v1::PodAddress) -> Result<Self, Invalid> {
        at_most("uid", pod.uid.len(), limits::UID)?;
        at_most("namespace", pod.namespace.len(), limits::NAME)?;
        at_most("name", pod.name.len(), limits::NAME)?;
        Ok(Self {
            addresses: parse_addresses("addresses", &pod.addresses)?,
            uid: pod.uid,
            namespace: pod.namespace,
            name: pod.name,
        })
    }
}

/// Addresses that a pod's sandbox held and that rest ([`v1::Release`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Which release this is, by the agent's own count.
    pub number: u64,
    /// UID of the pod as the container runtime told it.
    pub uid: String,
    /// The addresses, one per family as a rule.
    pub addresses: Vec<IpAddr>,
}

impl Release {
    fn to_wire(&self) -> v1::Release {
        v1::Release {
            number: self.number,
            uid: self.uid.clone(),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
        }
    }

    fn list(releases: Vec<v1::Release>) -> Result<Vec<Self>, Invalid> {
        at_most("released", releases.len(), limits::PODS)?;
        releases.into_iter().map(Self::try_from).collect()
    }
}

impl TryFrom<v1::Release> for Release {
    type Error = Invalid;

    fn try_from(release: v1::Release) -> Result<Self, Invalid> {
        at_most("uid", release.uid.len(), limits::UID)?;
        Ok(Self {
            number: release.number,
            addresses: parse_addresses("addresses", &release.addresses)?,
            uid: release.uid,
        })
    }
}

/// An address and the release of it that every node has forgotten ([`v1::FreedAddress`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Freed {
    /// The address.
    pub address: IpAddr,
    /// Its release.
    pub release: u64,
}

impl Freed {
    /// What [`v1::AddressesFree`] frees.
    ///
    /// # Errors
    /// There are too many, or one is no address.
    pub fn list(free: v1::AddressesFree) -> Result<Vec<Self>, Invalid> {
        at_most("freed", free.freed.len(), limits::FREED)?;
        let parse = |freed: v1::FreedAddress| {
            Ok(Self {
                address: parse_address("address", &freed.address)?,
                release: freed.release,
            })
        };
        free.freed.into_iter().map(parse).collect()
    }

    /// The message that frees these.
    #[must_use]
    pub fn to_wire(freed: impl IntoIterator<Item = Self>) -> v1::AddressesFree {
        let freed = freed.into_iter().map(|freed| v1::FreedAddress {
            address: freed.address.to_string(),
            release: freed.release,
        });
        v1::AddressesFree {
            freed: freed.collect(),
        }
    }
}

/// What changed in the addresses of a node's pods ([`v1::AddressReport`]).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressChange {
    /// Addresses that pods now hold, beside those they held.
    pub assigned: Vec<PodHolding>,
    /// Addresses that pods held; in quarantine until `AddressesFree` names them.
    pub released: Vec<Release>,
}

impl TryFrom<v1::AddressReport> for AddressChange {
    type Error = Invalid;

    fn try_from(report: v1::AddressReport) -> Result<Self, Invalid> {
        Ok(Self {
            assigned: PodHolding::list("assigned", report.assigned)?,
            released: Release::list(report.released)?,
        })
    }
}

impl From<AddressChange> for v1::AddressReport {
    fn from(change: AddressChange) -> Self {
        Self {
            assigned: change.assigned.iter().map(PodHolding::to_wire).collect(),
            released: change.released.iter().map(Release::to_wire).collect(),
        }
    }
}

/// The agent's own state ([`v1::AgentReport`]).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeReport {
    /// The node can carry pods: the startup taint may go.
    pub ready: bool,
    /// Where tunnels to this node end; one per family at most.
    pub tunnel_endpoints: Vec<IpAddr>,
}

impl TryFrom<v1::AgentReport> for NodeReport {
    type Error = Invalid;

    fn try_from(report: v1::AgentReport) -> Result<Self, Invalid> {
        let tunnel_endpoints = parse_addresses("tunnel_endpoints", &report.tunnel_endpoints)?;
        let v4 = tunnel_endpoints.iter().filter(|a| a.is_ipv4()).count();
        let v6 = tunnel_endpoints.len() - v4;
        at_most("tunnel_endpoints of one family", v4.max(v6), 1)?;
        if let Some(local) = tunnel_endpoints.iter().find(|a| a.is_loopback()) {
            return Err(Invalid::malformed(
                "tunnel_endpoints",
                &local.to_string(),
                "an address other nodes reach",
            ));
        }
        Ok(Self {
            ready: report.ready,
            tunnel_endpoints,
        })
    }
}

impl From<NodeReport> for v1::AgentReport {
    fn from(report: NodeReport) -> Self {
        Self {
            ready: report.ready,
            tunnel_endpoints: report
                .tunnel_endpoints
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

/// The acknowledgement of a batch ([`v1::Realized`]).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Realized {
    /// The committed position.
    pub number: Number,
    /// Why it could not be programmed, when it was only stored.
    pub error: Option<String>,
}

impl TryFrom<v1::Realized> for Realized {
    type Error = Invalid;

    fn try_from(realized: v1::Realized) -> Result<Self, Invalid> {
        Ok(Self {
            number: realized
                .number
                .ok_or(Invalid::Missing { field: "number" })?
                .into(),
            error: Some(limits::cut(&realized.error).to_owned()).filter(|e| !e.is_empty()),
        })
    }
}

impl From<Realized> for v1::Realized {
    fn from(realized: Realized) -> Self {
        Self {
            number: Some(realized.number.into()),
            error: realized
                .error
                .as_deref()
                .map(limits::cut)
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

/// How an agent opens its stream ([`v1::Hello`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The protocol it speaks.
    pub protocol: u32,
    /// Its node.
    pub node: NodeName,
    /// Its version, for people.
    pub version: String,
    /// The highest position it has committed.
    pub number: Number,
    /// What it holds: keys and hashes computed from what it has.
    pub held: BTreeMap<Key, ContentHash>,
    /// Every pod address in use on its node.
    pub addresses: Vec<PodHolding>,
    /// Every pod address in quarantine there.
    pub released: Vec<Release>,
    /// Its state.
    pub report: NodeReport,
}

impl TryFrom<v1::Hello> for Greeting {
    type Error = Invalid;

    fn try_from(hello: v1::Hello) -> Result<Self, Invalid> {
        at_most("held", hello.held.len(), limits::RECORDS)?;
        at_most("version", hello.version.len(), limits::VERSION)?;
        let mut held = BTreeMap::new();
        for line in hello.held {
            // What a newer agent holds and this controller does not know is left alone.
            if let Some(key) = Key::parse_known(&line.key)? {
                held.insert(key, ContentHash::try_from(line.hash.as_slice())?);
            }
        }
        Ok(Self {
            protocol: hello.protocol,
            node: NodeName::new(&hello.node)?,
            version: hello.version,
            number: hello.number.into(),
            held,
            addresses: PodHolding::list("addresses", hello.addresses)?,
            released: Release::list(hello.released)?,
            report: hello.report.unwrap_or_default().try_into()?,
        })
    }
}

impl From<Greeting> for v1::Hello {
    fn from(greeting: Greeting) -> Self {
        Self {
            protocol: greeting.protocol,
            node: greeting.node.to_string(),
            version: greeting.version,
            number: Some(greeting.number.into()),
            held: greeting
                .held
                .into_iter()
                .map(|(key, hash)| v1::Held {
                    key: key.to_string(),
                    hash: hash.as_bytes().to_vec(),
                })
                .collect(),
            addresses: greeting.addresses.iter().map(PodHolding::to_wire).collect(),
            released: greeting.released.iter().map(Release::to_wire).collect(),
            report: Some(greeting.report.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting() -> Greeting {
        Greeting {
            protocol: crate::PROTOCOL,
            node: NodeName::new("a").unwrap(),
            version: "0.1.0".into(),
            number: Number::new(3, 9),
            held: BTreeMap::from([(
                Key::Node,
                ContentHash::try_from([7; 16].as_slice()).unwrap(),
            )]),
            addresses: vec![PodHolding {
                uid: "u".into(),
                namespace: "n".into(),
                name: "p".into(),
                addresses: vec!["10.0.0.2".parse().unwrap()],
            }],
            released: vec![Release {
                number: 7,
                uid: "gone".into(),
                addresses: vec!["10.0.0.3".parse().unwrap()],
            }],
            report: NodeReport {
                ready: true,
                tunnel_endpoints: vec!["192.0.2.1".parse().unwrap()],
            },
        }
    }

    #[test]
    fn a_greeting_survives_the_wire() {
        assert_eq!(
            Greeting::try_from(v1::Hello::from(greeting())),
            Ok(greeting())
        );
    }

    #[test]
    fn a_hostile_hello_is_refused() {
        let good = v1::Hello::from(greeting());
        let mut bad = vec![];
        bad.push(v1::Hello {
            node: "../a".into(),
            ..good.clone()
        });
        bad.push(v1::Hello {
            version: "v".repeat(200),
            ..good.clone()
        });
        bad.push(v1::Hello {
            held: vec![v1::Held {
                key: "node".into(),
                hash: vec![1],
            }],
            ..good.clone()
        });
        bad.push(v1::Hello {
            report: Some(v1::AgentReport {
                ready: true,
                tunnel_endpoints: vec!["127.0.0.1".into()],
            }),
            ..good.clone()
        });
        bad.push(v1::Hello {
            report: Some(v1::AgentReport {
                ready: true,
                tunnel_endpoints: vec!["192.0.2.1".into(), "192.0.2.2".into()],
            }),
            ..good.clone()
        });
        bad.push(v1::Hello {
            addresses: vec![v1::PodAddress::default(); limits::PODS + 1],
            ..good.clone()
        });
        bad.push(v1::Hello {
            released: vec![v1::Release::default(); limits::PODS + 1],
            ..good.clone()
        });
        bad.push(v1::Hello {
            released: vec![v1::Release {
                addresses: vec!["10.0.0.0/8".into()],
                ..v1::Release::default()
            }],
            ..good
        });
        for hello in bad {
            assert!(Greeting::try_from(hello).is_err());
        }
    }

    proptest::proptest! {
        /// Bytes from outside are refused or understood; what is understood survives the wire.
        #[test]
        fn any_bytes_are_refused_or_understood(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)
        ) {
            use prost::Message as _;
            if let Ok(hello) = v1::Hello::decode(bytes.as_slice())
                && let Ok(greeting) = Greeting::try_from(hello)
            {
                let again = Greeting::try_from(v1::Hello::from(greeting.clone()));
                proptest::prop_assert_eq!(again, Ok(greeting));
            }
            if let Ok(batch) = v1::Batch::decode(bytes.as_slice())
                && let Ok(delta) = crate::Delta::try_from(batch)
            {
                let again = crate::Delta::try_from(delta.to_wire());
                let again = again.map(|again| (again.changed, again.groups));
                proptest::prop_assert_eq!(again, Ok((delta.changed, delta.groups)));
            }
            if let Ok(report) = v1::AddressReport::decode(bytes.as_slice()) {
                let _ = AddressChange::try_from(report);
            }
            if let Ok(free) = v1::AddressesFree::decode(bytes.as_slice())
                && let Ok(freed) = Freed::list(free)
            {
                let again = Freed::list(Freed::to_wire(freed.clone()));
                proptest::prop_assert_eq!(again, Ok(freed));
            }
        }
    }

    #[test]
    fn an_error_text_is_cut_not_refused() {
        let long = v1::Realized {
            number: Some(v1::Number::default()),
            error: "e".repeat(9999),
        };
        assert_eq!(
            Realized::try_from(long).unwrap().error.unwrap().len(),
            limits::TEXT
        );
    }
}
