//! Subnets and addresses of a cluster, all derived from its index.
//!
//! Management and transport networks lie in 198.18.0.0/15 (RFC 2544, benchmarks between isolated
//! networks: no user's network) and in a unique local /48.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::spec::IpFamily;

/// Host number of the control plane (and of the gateway) on the management network.
const CONTROL_PLANE: u8 = 1;
/// Host number of the host on the management network.
const HOST: u8 = 254;
/// Host number of node 0; nodes are counted from 1.
const NODES: u8 = 10;

/// Pods, IPv4.
pub const POD_CIDR_V4: &str = "10.244.0.0/16";
/// Pods, IPv6: a /64 for each of 256 nodes.
pub const POD_CIDR_V6: &str = "fd00:10:244::/56";
/// Services, IPv4.
pub const SERVICE_CIDR_V4: &str = "10.96.0.0/16";
/// Services, IPv6.
pub const SERVICE_CIDR_V6: &str = "fd00:10:96::/112";

/// A network of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Management = 0,
    Transport = 1,
}

/// Addresses of a cluster.
#[derive(Debug, Clone, Copy)]
pub struct Addressing {
    index: u8,
    family: IpFamily,
}

impl Addressing {
    /// For the cluster with this index.
    #[must_use]
    pub fn new(index: u8, family: IpFamily) -> Self {
        Self { index, family }
    }

    /// The control plane on the management network, the primary family first.
    #[must_use]
    pub fn control_plane(self) -> Vec<IpNet> {
        self.on(Network::Management, CONTROL_PLANE)
    }

    /// The host on the management network.
    #[must_use]
    pub fn host(self) -> Vec<IpNet> {
        self.on(Network::Management, HOST)
    }

    /// A node, counted from 1, on the management network (`eth0`).
    #[must_use]
    pub fn node(self, number: usize) -> Vec<IpNet> {
        self.on(Network::Management, node_host(number))
    }

    /// A node, counted from 1, on the transport network (`eth1`).
    #[must_use]
    pub fn node_transport(self, number: usize) -> Vec<IpNet> {
        self.on(Network::Transport, node_host(number))
    }

    /// `https://` and the API server's address and port.
    #[must_use]
    pub fn api_server(self) -> String {
        match self.api_host() {
            IpAddr::V4(address) => format!("https://{address}:6443"),
            IpAddr::V6(address) => format!("https://[{address}]:6443"),
        }
    }

    /// The API server's address.
    #[must_use]
    pub fn api_host(self) -> IpAddr {
        self.v4_or_v6(Network::Management, CONTROL_PLANE)
    }

    /// Pod CIDRs of the cluster.
    #[must_use]
    pub fn pod_cidrs(self) -> Vec<&'static str> {
        self.choose(POD_CIDR_V4, POD_CIDR_V6)
    }

    /// Service CIDRs.
    #[must_use]
    pub fn service_cidrs(self) -> Vec<&'static str> {
        self.choose(SERVICE_CIDR_V4, SERVICE_CIDR_V6)
    }

    /// Addresses of the `kubernetes` Service.
    #[must_use]
    pub fn kubernetes_service(self) -> Vec<IpAddr> {
        let v4 = IpAddr::from(Ipv4Addr::new(10, 96, 0, 1));
        let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1));
        self.choose(v4, v6)
    }

    /// Addresses of the cluster's DNS, the tenth of each Service CIDR, as kubeadm has it.
    #[must_use]
    pub fn cluster_dns(self) -> Vec<IpAddr> {
        let v4 = IpAddr::from(Ipv4Addr::new(10, 96, 0, 10));
        let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa));
        self.choose(v4, v6)
    }

    fn choose<T>(self, v4: T, v6: T) -> Vec<T> {
        match self.family {
            IpFamily::V4 => vec![v4],
            IpFamily::V6 => vec![v6],
            IpFamily::Dual => vec![v4, v6],
        }
    }

    fn v4_or_v6(self, network: Network, host: u8) -> IpAddr {
        if self.family.has_v4() {
            self.v4(network, host).into()
        } else {
            self.v6(network, host).into()
        }
    }

    fn v4(self, network: Network, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18 + network as u8, self.index, host)
    }

    fn v6(self, network: Network, host: u8) -> Ipv6Addr {
        let (index, network) = (u16::from(self.index), network as u16);
        Ipv6Addr::new(0xfd00, 0xca, index, network, 0, 0, 0, u16::from(host))
    }

    fn on(self, network: Network, host: u8) -> Vec<IpNet> {
        // Both prefix lengths are in range: `new_assert` cannot fail.
        self.choose(
            IpNet::new_assert(self.v4(network, host).into(), 24),
            IpNet::new_assert(self.v6(network, host).into(), 64),
        )
    }
}

/// A node's host number; the specification bounds `number` to 200.
fn node_host(number: usize) -> u8 {
    NODES.saturating_add(u8::try_from(number).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_and_networks_are_apart() {
        let a = Addressing::new(0, IpFamily::Dual);
        let b = Addressing::new(1, IpFamily::Dual);
        for net in a.node(1).iter().chain(&a.node_transport(1)) {
            for other in b.node(1).iter().chain(&b.node_transport(1)) {
                assert!(
                    !net.contains(other) && !other.contains(net),
                    "{net} {other}"
                );
            }
        }
        assert_eq!(a.node(3)[0].to_string(), "198.18.0.13/24");
        assert_eq!(b.node_transport(3)[1].to_string(), "fd00:ca:1:1::d/64");
        assert_eq!(
            Addressing::new(2, IpFamily::V6).api_server(),
            "https://[fd00:ca:2::1]:6443"
        );
        assert_eq!(b.api_server(), "https://198.18.1.1:6443");
    }
}
