//! What the kernel holds of the host's part of Services, and what to change of it (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use carrick_datapath::services::SERVICES_TABLE;
use carrick_node::UdpPlace;
use ipnet::IpNet;
use serde_json::Value;

/// Elements by set, in nft's language.
pub(super) type Sets = BTreeMap<String, BTreeSet<String>>;

/// Elements as nft tells them in the words the proxy uses, and whether that was all of them: what
/// somebody else has added may be anything.
pub(super) fn sets_of(told: &BTreeMap<String, Vec<Value>>) -> (Sets, bool) {
    let mut sets = Sets::new();
    let mut whole = true;
    for (set, elements) in told {
        for element in elements {
            match element_of(set, element) {
                Some(text) => {
                    sets.entry(set.clone()).or_default().insert(text);
                }
                None => whole = false,
            }
        }
    }
    (sets, whole)
}

/// `[ADDRESS .] PROTOCOL . PORT` or `ADDRESS . PORT . RANGE`, by the name of the set.
fn element_of(set: &str, element: &Value) -> Option<String> {
    let mut parts = element.get("concat")?.as_array()?.iter();
    let mut text = String::new();
    if !set.contains("node-ports") {
        let address: IpAddr = parts.next()?.as_str()?.parse().ok()?;
        let _ = write!(text, "{address} . ");
    }
    if set.starts_with("allowed") {
        let port = u16::try_from(parts.next()?.as_u64()?).ok()?;
        let _ = write!(text, "{port} . {}", range_of(parts.next()?)?);
        return parts.next().is_none().then_some(text);
    }
    let protocol = match parts.next()? {
        Value::Number(number) => match number.as_u64()? {
            6 => "tcp",
            17 => "udp",
            132 => "sctp",
            _ => return None,
        },
        _ => return None,
    };
    let port = u16::try_from(parts.next()?.as_u64()?).ok()?;
    let _ = write!(text, "{protocol} . {port}");
    parts.next().is_none().then_some(text)
}

/// A range, which nft shows as an address where it is one.
fn range_of(value: &Value) -> Option<IpNet> {
    if let Some(text) = value.as_str() {
        return Some(IpNet::from(text.parse::<IpAddr>().ok()?));
    }
    let prefix = value.get("prefix")?;
    let address: IpAddr = prefix.get("addr")?.as_str()?.parse().ok()?;
    let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
    IpNet::new(address, length).ok()
}

/// What is in `these` and not in `those`.
pub(super) fn without(these: &Sets, those: &Sets) -> Sets {
    let none = BTreeSet::new();
    let left = these.iter().map(|(set, elements)| {
        let known = those.get(set).unwrap_or(&none);
        (set.clone(), elements.difference(known).cloned().collect())
    });
    left.filter(|(_, elements): &(String, BTreeSet<String>)| !elements.is_empty())
        .collect()
}

/// What is in both.
pub(super) fn both(these: &Sets, those: &Sets) -> Sets {
    without(these, &without(these, those))
}

/// Of `removed` what only goes: a frontend that is in another set afterwards passes from one to the other in
/// one transaction, so that it is never without a rule.
pub(super) fn gone(removed: &Sets, added: &Sets) -> Sets {
    let family = |set: &str| set.chars().last();
    let passes = |set: &str, element: &String| {
        let others = added
            .iter()
            .filter(|(other, _)| family(other) == family(set));
        others
            .into_iter()
            .any(|(_, elements)| elements.contains(element))
    };
    let mut gone = removed.clone();
    for (set, elements) in &mut gone {
        elements.retain(|element| !passes(set, element));
    }
    gone.retain(|_, elements| !elements.is_empty());
    gone
}

/// Takes a change into what is held.
pub(super) fn apply(held: &mut Sets, removed: &Sets, added: &Sets) {
    for (set, elements) in removed {
        if let Some(known) = held.get_mut(set) {
            known.retain(|element| !elements.contains(element));
            if known.is_empty() {
                held.remove(set);
            }
        }
    }
    for (set, elements) in added {
        let known = held.entry(set.clone()).or_default();
        known.extend(elements.iter().cloned());
    }
}

/// Where UDP connections went that a change of elements concerns: what they are translated to was decided by
/// their first packet.
pub(super) fn udp_places(changes: [&Sets; 2]) -> BTreeSet<UdpPlace> {
    let mut places = BTreeSet::new();
    for (set, elements) in changes.into_iter().flatten() {
        if set.starts_with("allowed")
            || set.starts_with("masqueraded")
            || set.starts_with("restricted")
        {
            continue;
        }
        for element in elements {
            let mut parts = element.rsplit(" . ");
            let port = parts.next().and_then(|port| port.parse().ok());
            if let Some(port) = port
                && parts.next() == Some("udp")
            {
                let address = parts.next().and_then(|address| address.parse().ok());
                places.insert((address, port));
            }
        }
    }
    places
}

/// The commands of a change, for one transaction.
pub(super) fn script(removed: &Sets, added: &Sets) -> String {
    let mut script = String::new();
    for (verb, sets) in [("delete", removed), ("add", added)] {
        for (set, elements) in sets {
            let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
            let _ = writeln!(
                script,
                "{verb} element inet {SERVICES_TABLE} {set} {{ {} }}",
                elements.join(", ")
            );
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sets(list: &[(&str, &[&str])]) -> Sets {
        let sets = list.iter().map(|(set, elements)| {
            let elements = elements.iter().map(|&element| element.to_owned());
            ((*set).to_owned(), elements.collect())
        });
        sets.collect()
    }

    #[test]
    fn elements_are_read_as_they_are_written() {
        let told = [
            (
                "node-ports4",
                json!([{"concat": [6, 30080]}, {"concat": [132, 7]}]),
            ),
            ("own6", json!([{"concat": ["fd00::1", 17, 53]}])),
            (
                "allowed-tcp4",
                json!([
                    {"concat": ["192.0.2.80", 80, {"prefix": {"addr": "10.0.0.0", "len": 8}}]},
                    {"concat": ["192.0.2.80", 80, "192.0.2.1"]},
                ]),
            ),
        ];
        let told: BTreeMap<String, Vec<Value>> = told
            .into_iter()
            .map(|(set, held)| (set.to_owned(), held.as_array().unwrap().clone()))
            .collect();
        let expected = sets(&[
            ("node-ports4", &["sctp . 7", "tcp . 30080"]),
            ("own6", &["fd00::1 . udp . 53"]),
            (
                "allowed-tcp4",
                &[
                    "192.0.2.80 . 80 . 10.0.0.0/8",
                    "192.0.2.80 . 80 . 192.0.2.1/32",
                ],
            ),
        ]);
        assert_eq!(sets_of(&told), (expected, true));
        for strange in [
            json!({"elem": {"val": {"concat": [6, 80]}, "timeout": 5}}),
            json!({"concat": [6, {"range": [1, 9]}]}),
            json!({"concat": [6, 80, 1]}),
            json!({"concat": [1, 80]}),
            json!(7),
        ] {
            let told = BTreeMap::from([("node-ports4".to_owned(), vec![strange.clone()])]);
            assert_eq!(sets_of(&told), (Sets::new(), false), "{strange}");
        }
    }

    #[test]
    fn what_passes_to_another_set_is_never_in_none() {
        let removed = sets(&[
            ("node-ports4", &["tcp . 1", "tcp . 2"]),
            ("node-ports6", &["tcp . 2"]),
        ]);
        let added = sets(&[("rejected-node-ports4", &["tcp . 2"])]);
        let expected = sets(&[("node-ports4", &["tcp . 1"]), ("node-ports6", &["tcp . 2"])]);
        assert_eq!(gone(&removed, &added), expected);
        let mut held = removed.clone();
        apply(&mut held, &removed, &added);
        assert_eq!(held, added);
        assert_eq!(
            both(&removed, &sets(&[("node-ports4", &["tcp . 2"])])),
            sets(&[("node-ports4", &["tcp . 2"])])
        );
        assert_eq!(without(&removed, &removed), Sets::new());
        let udp = sets(&[
            ("rejected-node-ports4", &["udp . 30053", "tcp . 5"]),
            ("own6", &["fd00::1 . udp . 53"]),
            ("masqueraded4", &["192.0.2.80 . udp . 53"]),
        ]);
        let own = "fd00::1".parse().unwrap();
        let expected = [(None, 30053), (Some(own), 53)].into();
        assert_eq!(udp_places([&udp, &removed]), expected);
        assert_eq!(
            script(&sets(&[("own4", &["a", "b"])]), &added),
            "delete element inet carrick-services own4 { a, b }\n\
             add element inet carrick-services rejected-node-ports4 { tcp . 2 }\n"
        );
    }
}
