//! The result of ADD in each version of the specification (pure).

use std::net::IpAddr;

use carrick_node::MacAddr;
use serde_json::{Map, Value, json};

use super::network::PodNetworkSettings;
use super::request::CniVersion;
use crate::ipam::Attachment;

/// The gateway of a pod's address: the one of the pod CIDR that holds it.
pub fn gateway_of(address: IpAddr, settings: &PodNetworkSettings) -> Option<IpAddr> {
    let cidr = settings
        .pod_cidrs
        .iter()
        .find(|cidr| cidr.contains(&address))?;
    crate::ipam::gateway(cidr)
}

/// Writes the result of ADD (specification, "ADD Success").
///
/// 0.4.0 wants the address family beside each address; 1.1.0 tells MTUs.
pub fn add_result(
    version: CniVersion,
    attachment: &Attachment,
    host_mac: Option<MacAddr>,
    settings: &PodNetworkSettings,
) -> Value {
    let mut host = Map::new();
    host.insert("name".to_owned(), json!(attachment.host_link));
    if let Some(mac) = host_mac {
        host.insert("mac".to_owned(), json!(mac));
    }
    let mut pod = Map::new();
    pod.insert("name".to_owned(), json!(attachment.key.ifname));
    pod.insert("mac".to_owned(), json!(attachment.mac));
    pod.insert("sandbox".to_owned(), json!(attachment.netns));
    if version >= CniVersion::V110 {
        host.insert("mtu".to_owned(), json!(settings.mtu));
        pod.insert("mtu".to_owned(), json!(settings.mtu));
    }
    let mut ips = Vec::new();
    let mut routes = Vec::new();
    for &address in &attachment.addresses {
        let (family, prefix, any) = match address {
            IpAddr::V4(_) => ("4", 32, "0.0.0.0/0"),
            IpAddr::V6(_) => ("6", 128, "::/0"),
        };
        let mut ip = Map::new();
        if version < CniVersion::V100 {
            ip.insert("version".to_owned(), json!(family));
        }
        ip.insert("interface".to_owned(), json!(1));
        ip.insert("address".to_owned(), json!(format!("{address}/{prefix}")));
        if let Some(gateway) = gateway_of(address, settings) {
            ip.insert("gateway".to_owned(), json!(gateway));
            routes.push(json!({"dst": any, "gw": gateway}));
        }
        ips.push(Value::Object(ip));
    }
    json!({
        "cniVersion": version.as_str(),
        "interfaces": [host, pod],
        "ips": ips,
        "routes": routes,
        "dns": {},
    })
}

#[cfg(test)]
mod tests {
    use super::super::network::DatapathKind;
    use super::*;
    use crate::ipam::{AttachmentKey, AttachmentState, PodRef};

    fn attachment() -> Attachment {
        Attachment {
            key: AttachmentKey {
                container_id: "c1".to_owned(),
                ifname: "eth0".to_owned(),
            },
            netns: "/run/netns/x".into(),
            pod: PodRef {
                namespace: "n".to_owned(),
                name: "p".to_owned(),
                uid: "u".to_owned(),
            },
            addresses: vec!["10.1.0.5".parse().unwrap(), "fd01::5".parse().unwrap()],
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            host_link: "car000000000000".to_owned(),
            ofport: 100,
            port_mappings: vec![],
            state: AttachmentState::Ready,
        }
    }

    fn settings() -> PodNetworkSettings {
        PodNetworkSettings {
            pod_cidrs: vec!["10.1.0.0/24".parse().unwrap(), "fd01::/64".parse().unwrap()],
            gateways: vec![],
            gateway_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            mtu: 1450,
            datapath: DatapathKind::Userspace,
            node_uid: "n1".to_owned(),
        }
    }

    #[test]
    fn results_follow_their_version() {
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 3]));
        let result = |version| add_result(version, &attachment(), mac, &settings());
        let old = result(CniVersion::V040);
        assert_eq!(
            old,
            json!({
                "cniVersion": "0.4.0",
                "interfaces": [
                    {"name": "car000000000000", "mac": "02:00:00:00:00:03"},
                    {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"},
                ],
                "ips": [
                    {"version": "4", "interface": 1, "address": "10.1.0.5/32", "gateway": "10.1.0.1"},
                    {"version": "6", "interface": 1, "address": "fd01::5/128", "gateway": "fd01::1"},
                ],
                "routes": [
                    {"dst": "0.0.0.0/0", "gw": "10.1.0.1"},
                    {"dst": "::/0", "gw": "fd01::1"},
                ],
                "dns": {},
            })
        );
        let middle = result(CniVersion::V100);
        assert_eq!(middle["cniVersion"], "1.0.0");
        assert_eq!(middle["ips"][0].get("version"), None);
        assert_eq!(middle["interfaces"][1].get("mtu"), None);
        let new = result(CniVersion::V110);
        assert_eq!(new["cniVersion"], "1.1.0");
        assert_eq!(new["interfaces"][1]["mtu"], 1450);
    }

    #[test]
    fn an_address_of_another_registration_has_no_gateway() {
        let mut attachment = attachment();
        attachment.addresses = vec!["10.2.0.5".parse().unwrap()];
        let result = add_result(CniVersion::V100, &attachment, None, &settings());
        assert_eq!(
            result["ips"],
            json!([{"interface": 1, "address": "10.2.0.5/32"}])
        );
        assert_eq!(result["routes"], json!([]));
    }
}
