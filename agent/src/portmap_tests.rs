use std::sync::Arc;

use carrick_node::MacAddr;

use super::*;
use crate::ipam::{Attachment, AttachmentKey, PodRef, PortMapping};

fn attachment(
    id: &str,
    addresses: &[&str],
    mappings: &[(u16, u16, Protocol, Option<&str>)],
) -> Attachment {
    Attachment {
        key: AttachmentKey {
            container_id: id.to_owned(),
            ifname: "eth0".to_owned(),
        },
        netns: "/run/netns/x".into(),
        pod: PodRef {
            namespace: "n".to_owned(),
            name: id.to_owned(),
            uid: id.to_owned(),
        },
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        mac: MacAddr([2; 6]),
        host_link: "car000000000000".to_owned(),
        ofport: 100,
        port_mappings: mappings
            .iter()
            .map(
                |&(host_port, container_port, protocol, host_ip)| PortMapping {
                    host_port,
                    container_port,
                    protocol,
                    host_ip: host_ip.map(|text| text.parse().unwrap()),
                },
            )
            .collect(),
        state: AttachmentState::Ready,
    }
}

fn all(attachments: Vec<Attachment>) -> Attachments {
    Arc::new(
        attachments
            .into_iter()
            .map(|a| (a.key.clone(), Arc::new(a)))
            .collect(),
    )
}

fn cidrs() -> Vec<IpNet> {
    vec!["10.1.0.0/24".parse().unwrap(), "fd01::/64".parse().unwrap()]
}

#[test]
fn without_host_ports_there_is_nothing() {
    let attachments = all(vec![attachment("a", &["10.1.0.2"], &[])]);
    assert_eq!(render(&attachments, "gw", &cidrs()), "");
}

#[test]
fn mappings_become_map_elements() {
    let mut leaving = attachment("z", &["10.1.0.9"], &[(9, 9, Protocol::Tcp, None)]);
    leaving.state = AttachmentState::Removing;
    let attachments = all(vec![
        attachment(
            "a",
            &["10.1.0.2", "fd01::2"],
            &[
                (80, 8080, Protocol::Tcp, None),
                (53, 5353, Protocol::Udp, Some("192.0.2.1")),
            ],
        ),
        attachment(
            "b",
            &["10.1.0.3"],
            &[(80, 1, Protocol::Tcp, None), (7, 7, Protocol::Sctp, None)],
        ),
        leaving,
    ]);
    insta::assert_snapshot!(render(&attachments, "carrick-gw0", &cidrs()));
}

/// `0.0.0.0` used to open the port on IPv6, too.
#[test]
fn an_unspecified_host_address_is_every_one_of_its_family() {
    let both = ["10.1.0.2", "fd01::2"];
    let render = |mappings: &[_]| render(&all(vec![attachment("a", &both, mappings)]), "gw", &[]);
    let v4 = render(&[(80, 8080, Protocol::Tcp, Some("0.0.0.0"))]);
    assert!(v4.contains("tcp . 80 : 10.1.0.2 . 8080"), "{v4}");
    assert!(!v4.contains("fd01::2"), "{v4}");
    let v6 = render(&[(80, 8080, Protocol::Tcp, Some("::"))]);
    assert!(v6.contains("tcp . 80 : fd01::2 . 8080"), "{v6}");
    assert!(!v6.contains("10.1.0.2"), "{v6}");
    let one = render(&[(80, 8080, Protocol::Tcp, Some("2001:db8::1"))]);
    assert!(
        one.contains("2001:db8::1 . tcp . 80 : fd01::2 . 8080"),
        "{one}"
    );
}

#[test]
fn mappings_overlap_when_a_connection_could_be_for_both() {
    let mapping = |host: Option<&str>| PortMapping {
        host_port: 80,
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: host.map(|text| text.parse().unwrap()),
    };
    for (a, b, expect) in [
        (None, None, true),
        (None, Some("192.0.2.1"), true),
        (Some("0.0.0.0"), Some("192.0.2.1"), true),
        (Some("::"), Some("192.0.2.1"), false),
        (Some("::"), Some("0.0.0.0"), false),
        (Some("192.0.2.2"), Some("192.0.2.1"), false),
        (Some("192.0.2.1"), Some("192.0.2.1"), true),
    ] {
        let (a, b) = (mapping(a), mapping(b));
        assert_eq!(
            (a.overlaps(&b), b.overlaps(&a)),
            (expect, expect),
            "{a:?} {b:?}"
        );
    }
    let udp = PortMapping {
        protocol: Protocol::Udp,
        ..mapping(None)
    };
    assert!(!udp.overlaps(&mapping(None)));
}
