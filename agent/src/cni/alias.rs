//! What a pod's link on the host says of itself: the key of its attachment and its host ports, in its
//! alias.
//!
//! People read it in `ip -details link`; [`super::recover`] reads it when the journal is lost.

use std::fmt;
use std::net::IpAddr;

use crate::ipam::{Attachment, AttachmentKey, PodRef, PortMapping, Protocol};

/// The longest alias a link may have (`IFALIASZ`, less the end).
const MAX_ALIAS: usize = 255;
/// In place of host ports that did not fit.
const LEFT_OUT: &str = "?";

/// The content of an alias: `ns/name uid=… id=… if=… port=…`, and ` hostports=…` if there are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LinkAlias {
    pub(super) key: AttachmentKey,
    /// Namespace and name are empty when they did not fit.
    pub(super) pod: PodRef,
    pub(super) ofport: u32,
    /// `None` when there are some and they did not fit.
    pub(super) port_mappings: Option<Vec<PortMapping>>,
}

impl LinkAlias {
    pub(super) fn of(attachment: &Attachment) -> Self {
        Self {
            key: attachment.key.clone(),
            pod: attachment.pod.clone(),
            ofport: attachment.ofport,
            port_mappings: Some(attachment.port_mappings.clone()),
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
        let port_mappings = match words.next().map(|word| word.strip_prefix("hostports=")) {
            None => Some(Vec::new()),
            Some(Some(LEFT_OUT)) => None,
            Some(Some(list)) => Some(list.split(',').map(mapping).collect::<Option<_>>()?),
            Some(None) => return None,
        };
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
            port_mappings,
        })
    }

    /// ` hostports=…`, or nothing where there are none.
    fn hostports(&self) -> String {
        match self.port_mappings.as_deref() {
            None => format!(" hostports={LEFT_OUT}"),
            Some([]) => String::new(),
            Some(mappings) => {
                let words: Vec<String> = mappings.iter().map(word).collect();
                format!(" hostports={}", words.join(","))
            }
        }
    }
}

impl fmt::Display for LinkAlias {
    /// The name gives way to host ports, which nobody else knows; they give way to the key. Empty when
    /// not even that fits: better no alias than one that misleads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{}/{}", self.pod.namespace, self.pod.name);
        let key = format!(
            "uid={} id={} if={} port={}",
            self.pod.uid, self.key.container_id, self.key.ifname, self.ofport
        );
        let ports = self.hostports();
        let left_out = match ports.as_str() {
            "" => String::new(),
            _ => format!(" hostports={LEFT_OUT}"),
        };
        let tries = [
            format!("{name} {key}{ports}"),
            format!("/ {key}{ports}"),
            format!("{name} {key}{left_out}"),
            format!("/ {key}{left_out}"),
        ];
        let fits = |text: &&String| text.len() <= MAX_ALIAS;
        f.write_str(tries.iter().find(fits).map_or("", String::as_str))
    }
}

/// `8080:80/tcp`, and `@address` when it is for one address of the node.
fn word(mapping: &PortMapping) -> String {
    let protocol = match mapping.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    let at = mapping.host_ip.map(|host| format!("@{host}"));
    let (from, to) = (mapping.host_port, mapping.container_port);
    format!("{from}:{to}/{protocol}{}", at.unwrap_or_default())
}

fn mapping(word: &str) -> Option<PortMapping> {
    let (rest, host_ip) = match word.split_once('@') {
        Some((rest, host)) => (rest, Some(host.parse::<IpAddr>().ok()?)),
        None => (word, None),
    };
    let (ports, protocol) = rest.split_once('/')?;
    let (from, to) = ports.split_once(':')?;
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    Some(PortMapping {
        host_port: port(from)?,
        container_port: port(to)?,
        protocol: match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return None,
        },
        host_ip,
    })
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
            port_mappings: Some(Vec::new()),
        }
    }

    fn host_ports(count: u16) -> Vec<PortMapping> {
        let host_ip = |port: u16| match port % 3 {
            0 => None,
            1 => Some("192.0.2.1".parse().unwrap()),
            _ => Some("::".parse().unwrap()),
        };
        let make = |port| PortMapping {
            host_port: 30_000 + port,
            container_port: 80,
            protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][usize::from(port % 3)],
            host_ip: host_ip(port),
        };
        (0..count).map(make).collect()
    }

    #[test]
    fn host_ports_are_read_back_or_said_to_be_left_out() {
        let container = "c".repeat(64);
        let with = |name: &str, count| LinkAlias {
            port_mappings: Some(host_ports(count)),
            ..alias(name, &container)
        };
        let few = with("web-0", 4);
        assert!(
            few.to_string()
                .contains(" hostports=30000:80/tcp,30001:80/udp@192.0.2.1,")
        );
        assert_eq!(LinkAlias::parse(&few.to_string()), Some(few));
        // A long name gives way.
        let named = with(&"n".repeat(100), 4);
        let read = LinkAlias::parse(&named.to_string()).unwrap();
        assert_eq!(
            (read.pod.name.as_str(), &read.port_mappings),
            ("", &named.port_mappings)
        );
        let many = with("web-0", 40);
        let text = many.to_string();
        assert!(
            text.len() <= MAX_ALIAS && text.starts_with("default/web-0 "),
            "{text}"
        );
        assert_eq!(LinkAlias::parse(&text).unwrap().port_mappings, None);
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
            "a/b uid=u id=c if=eth0 port=1 hostports=",
            "a/b uid=u id=c if=eth0 port=1 hostports=80",
            "a/b uid=u id=c if=eth0 port=1 hostports=0:80/tcp",
            "a/b uid=u id=c if=eth0 port=1 hostports=80:80/icmp",
            "a/b uid=u id=c if=eth0 port=1 hostports=80:80/tcp@here",
            "a/b uid=u id=c if=eth0 port=1 hostports=80:80/tcp more",
        ] {
            assert_eq!(LinkAlias::parse(text), None, "{text}");
        }
    }
}
