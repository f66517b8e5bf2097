//! What both APIs have.

use std::fmt;
use std::sync::Arc;

use crate::domain::DomainName;
use crate::network::Network;
use crate::policy::{GroupSelector, Peers, PodSelector, PolicyName, Scope};
use crate::port::PortMatch;
use crate::problem::{Problem, quoted};
use crate::selector::Selector;

use super::Refused;

/// Longest name of an object (DNS subdomain, RFC 1123) and of anything else that is compared.
const MAX_NAME: usize = 253;

/// Checks a name from `metadata`. The API server let it pass; this keeps messages and paths safe
/// from what did not come from there.
pub(super) fn object_name<'a>(field: &str, text: Option<&'a str>) -> Result<&'a str, Refused> {
    let text = text.unwrap_or_default();
    let fine = !text.is_empty()
        && text.len() <= MAX_NAME
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if fine {
        Ok(text)
    } else {
        Err(Refused(Problem::new(
            field,
            format_args!("{} is no name of an object", quoted(text)),
            "use up to 253 lower case letters, digits, '-' and '.'",
        )))
    }
}

/// `metadata.uid`, of which only equality matters.
pub(super) fn uid(name: &PolicyName, text: Option<&str>) -> Result<Arc<str>, Refused> {
    match text {
        Some(text) if !text.is_empty() && text.len() <= MAX_NAME => Ok(text.into()),
        _ => Err(Refused(Problem::new(
            "metadata.uid",
            format_args!("of {name} is empty or too long"),
            "create the object with the API server, which gives it one",
        ))),
    }
}

/// A port number of the API, which has them as 32 bits with a sign.
pub(super) fn port_number(field: &dyn fmt::Display, number: i32) -> Result<u16, Problem> {
    u16::try_from(number)
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| {
            Problem::new(
                field,
                format_args!("{number} is no port number"),
                "use a number from 1 to 65535",
            )
        })
}

/// Peers as they are read, before they are put in order.
#[derive(Debug, Default)]
pub(super) struct PeerList {
    pub(super) any: bool,
    pub(super) groups: Vec<GroupSelector>,
    pub(super) networks: Vec<Network>,
    pub(super) domains: Vec<DomainName>,
}

impl PeerList {
    pub(super) fn is_empty(&self) -> bool {
        !self.any && self.groups.is_empty() && self.networks.is_empty() && self.domains.is_empty()
    }

    /// Sorted and without duplicates. With everyone and a rule of egress that names ports, those
    /// are looked up in all pods.
    pub(super) fn finish(mut self, named_ports_of_peers: bool) -> Peers {
        if self.any {
            self.groups.clear();
            self.networks.clear();
            self.domains.clear();
            if named_ports_of_peers {
                self.groups.push(all_pods());
            }
        }
        Peers {
            any: self.any,
            groups: distinct(self.groups),
            networks: distinct(self.networks),
            domains: distinct(self.domains),
        }
    }
}

/// Every pod of every namespace.
fn all_pods() -> GroupSelector {
    GroupSelector::Pods(PodSelector {
        scope: Scope::Selected(Selector::default()),
        pods: Selector::default(),
    })
}

/// Sorted and without duplicates.
pub(super) fn distinct<T: Ord>(mut list: Vec<T>) -> Box<[T]> {
    list.sort_unstable();
    list.dedup();
    list.into()
}

/// Ports in order; whether any is a name.
pub(super) fn has_names(ports: Option<&[PortMatch]>) -> bool {
    ports.into_iter().flatten().any(PortMatch::is_named)
}
