//! The Service `web` on real switches: its endpoints are pods that tell every client their IPv4 address.

use std::net::IpAddr;

use carrick_datapath::Addresses;
use carrick_datapath::services::Protocol::{Tcp, Udp};
use carrick_datapath::services::{Endpoint, Protocol, Service};

use super::Families;
use super::clients::Server;
use super::lab::{LabNode, two_nodes};
use super::lab_services::{LabServices, serve_on};
use super::services::{endpoint, service, slice};

pub const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd00:96::10"];

const PORTS: [(&str, Protocol, u16); 2] = [("web", Tcp, 8080), ("dns", Udp, 5353)];

/// TCP port 80 and UDP port 53.
pub fn web() -> Service {
    service("web", &CLUSTER_IPS, &[("web", Tcp, 80), ("dns", Udp, 53)])
}

/// Node 1 with its Services, a pod there that asks, and pods that may be endpoints of `web`.
pub struct Web {
    /// Ended before the namespaces they run in go.
    _servers: Vec<Server>,
    pub services: LabServices,
    pub node: LabNode,
    other: Option<LabNode>,
    pods: Vec<(Addresses, &'static str)>,
}

impl Web {
    /// On one node: `serving` pods that serve.
    pub fn on_one_node(families: Families, serving: u8) -> Self {
        Self::on(LabNode::start(1, families), None, serving, Vec::new())
    }

    /// On two nodes, with wires of these families between them: one pod on each that serves.
    pub fn on_two_nodes(outer: Families) -> Self {
        Self::on_addresses(outer, Vec::new())
    }

    /// As [`Self::on_two_nodes`], with node ports on addresses in these ranges only.
    pub fn on_addresses(outer: Families, ranges: Vec<ipnet::IpNet>) -> Self {
        let (node, other) = two_nodes(Families::Dual, outer);
        Self::on(node, Some(other), 1, ranges)
    }

    fn on(
        mut node: LabNode,
        mut other: Option<LabNode>,
        serving: u8,
        ranges: Vec<ipnet::IpNet>,
    ) -> Self {
        for p in 1..=1 + serving {
            node.add_pod(p);
        }
        if let Some(other) = &mut other {
            other.add_pod(2 + serving);
        }
        let services = serve_on(&mut node, 1, ranges);
        let here = (1..=usize::from(serving)).map(|index| (node.pod(index), "node1"));
        let there = other.iter().map(|other| (other.pod(0), "node2"));
        let (mut servers, mut pods) = (Vec::new(), Vec::new());
        for (pod, name) in here.chain(there) {
            let addresses = pod.pod.addresses;
            let says = addresses.v4.unwrap().to_string();
            for (_, protocol, port) in PORTS {
                servers.push(Server::start(&pod.netns, &says, protocol, port));
            }
            pods.push((addresses, name));
        }
        Self {
            _servers: servers,
            services,
            node,
            other,
            pods,
        }
    }

    /// The namespace of the pod that asks and never serves.
    pub fn client(&self) -> String {
        self.node.pod(0).netns.clone()
    }

    /// The namespace of node 2.
    pub fn outside(&self) -> String {
        self.other.as_ref().unwrap().netns().to_owned()
    }

    /// The namespace of a pod that serves on node 1.
    pub fn server(&self, index: usize) -> String {
        self.node.pod(1 + index).netns.clone()
    }

    /// All pods that serve but the one that says this name.
    pub fn without(&self, says: &str) -> Vec<usize> {
        let names = self.pods.iter().map(|(pod, _)| pod.v4.unwrap().to_string());
        let others = names.enumerate().filter(|(_, name)| name != says);
        others.map(|(index, _)| index).collect()
    }

    /// Makes the Service this one, with these of the pods that serve as its endpoints.
    pub fn publish(&mut self, service: &Service, pods: &[usize]) {
        self.services.proxy.upsert_service(service.clone());
        self.lead_to(pods);
    }

    /// Makes these of the pods that serve the endpoints; how many changes that was.
    pub fn lead_to(&mut self, pods: &[usize]) -> usize {
        self.endpoints(pods);
        self.services.sync(&mut self.node)
    }

    /// Makes endpoints of what is at an address.
    pub fn lead_to_address(&mut self, address: IpAddr) {
        self.slices(&[(address, "node1")]);
        self.services.sync(&mut self.node);
    }

    /// As [`Self::lead_to`], known to the proxy but not to the switch.
    pub fn endpoints(&mut self, pods: &[usize]) {
        let pods = pods.iter().map(|index| self.pods[*index]);
        let all: Vec<_> = pods
            .flat_map(|(pod, node)| pod.iter().map(move |address| (address, node)))
            .collect();
        self.slices(&all);
    }

    /// Slices of both families.
    fn slices(&mut self, pods: &[(IpAddr, &str)]) {
        for (name, v4) in [("web4", true), ("web6", false)] {
            let here = pods.iter().filter(|(address, _)| address.is_ipv4() == v4);
            let here: Vec<Endpoint> = here
                .map(|(address, node)| endpoint(&address.to_string(), node))
                .collect();
            self.services
                .proxy
                .upsert_slice(&slice(name, "web", &PORTS, here));
        }
    }

    /// Makes the switch forget what it keeps of connections it has seen. Else it counts their last packets
    /// within the next second, and when it does it learns once more what those had learned.
    pub fn forget_connections(&self) {
        self.node.ovs.appctl(&["revalidator/purge"]).unwrap();
    }

    /// The learned flows of session affinity, with their counters.
    pub fn learned(&self) -> Vec<String> {
        let ovs = &self.node.ovs;
        let dump = ovs.ofctl(&["dump-flows", &ovs.target("br-int"), "table=25"]);
        let lines = dump.unwrap();
        let learned = lines.lines().filter(|line| line.contains("cookie=0x5"));
        learned.map(str::to_owned).collect()
    }
}
