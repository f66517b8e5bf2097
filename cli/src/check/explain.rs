//! From a pattern of failures to its likely cause and the next step. Pure.

use std::collections::BTreeSet;

use super::plan::{Family, Kind, Path};
use super::report::{NotTested, Tested, Why};

/// What the failures have in common, the likeliest first.
pub fn explain(tests: &[Tested], not_tested: &[NotTested]) -> Vec<String> {
    let mut hints = Vec::new();
    let all = Tests(tests.iter().collect());
    let failed = all.failed();
    if !not_tested.iter().all(|missing| missing.pod.is_empty()) {
        hints.push(
            "a test pod did not start: the reason above is the kubelet's. `carrickctl status` tells whether the node's agent is ready; `kubectl -n carrick-system logs daemonset/carrick-agent` (or the pod of that node) has the agent's side".to_owned(),
        );
    }
    if failed.0.is_empty() {
        return hints;
    }
    if failed.because(Why::WrongPod).any() {
        hints.push("another pod than the one asked answered: two pods have one address, or a stale route leads to another node. Compare `kubectl get pods -A -o wide` with `carrickctl get agents`".to_owned());
    }
    if failed.because(Why::SourceChanged).any() {
        hints.push("pods' source addresses are changed on the way: another NAT rule on the hosts catches pod traffic. Look for masquerade rules that are not in table `inet carrick`: `nft list ruleset | grep -B5 masquerade`".to_owned());
    }
    let between = all.on(&[Path::PodToPodOtherNode]).kind(Kind::Tcp);
    let hosts = all.on(&[Path::HostToHost]);
    let same = all.on(&[Path::PodToPodSameNode]);
    if between.fail_all() {
        if hosts.fail_all() && hosts.any() {
            hints.push("the nodes do not reach each other at all, pods or not: look at the network below Carrick (routes, security groups, firewalls between nodes)".to_owned());
        } else {
            hints.push("no pod reaches a pod on another node. With a tunnel, its packets (UDP 6081 for Geneve, 4789 for VXLAN, IP protocol 47 for GRE) must pass between the nodes' transport addresses (`carrickctl get agents -o json`, tunnelEndpoints), in security groups and host firewalls; without one, the fabric must send each node's pod CIDRs to that node (`kubectl get nodes -o custom-columns=NAME:.metadata.name,CIDRS:.spec.podCIDRs`)".to_owned());
        }
    } else if let Some(node) = one_node(&between) {
        hints.push(format!("only node {node} is cut off from the others: `carrickctl status` tells how its agent is; if it is well, look for a firewall that drops the tunnel on that node or, in a mode without one, for the route to its pod CIDRs"));
    }
    let small = |family| {
        all.on(&[Path::PodToPodOtherNode])
            .family(family)
            .kind(Kind::Tcp)
    };
    for (family, other) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        if small(family).fail_all() && small(other).any() && !small(other).failed().any() {
            hints.push(format!("only {} fails between nodes: the cause is in that family's routes or firewall (ip6tables and nftables `inet` chains have it apart)", family.as_str()));
        }
    }
    let large = failed.only(|test| {
        test.kind == Kind::Mtu
            && all.0.iter().any(|small| {
                small.kind == Kind::Tcp
                    && small.failure.is_none()
                    && (&small.from, &small.to, small.family) == (&test.from, &test.to, test.family)
            })
    });
    if large.any() {
        let across = [
            Path::PodToPodOtherNode,
            Path::PodToHostOtherNode,
            Path::HostToPodOtherNode,
        ];
        if large.on(&across).0.len() == large.0.len() {
            hints.push("small packets pass between nodes and full ones do not: the network below carries less than the transport interface's MTU says. Find the real one with `ping -M do -s SIZE` between nodes; then lower the interface's MTU, or set spec.traffic.mtu (of a network that runs it can only be raised: delete the Networking and create it again)".to_owned());
        } else {
            hints.push("small packets pass and full ones do not, also on one node: an interface has another MTU than its agent says. Compare `ip link` in a pod, `ip link show carrick-gw0` on its node and MTU in `carrickctl get agents`".to_owned());
        }
    }
    if same.failed().any() {
        let nodes: BTreeSet<&str> = same
            .failed()
            .0
            .iter()
            .map(|test| test.from_node.as_str())
            .collect();
        let nodes: Vec<&str> = nodes.into_iter().take(3).collect();
        hints.push(format!("pods on one node do not reach each other: the switch there is at fault, not the network between nodes. `carrickctl status`, then `carrickctl flows {}`", nodes.join(" or ")));
    }
    let to_host = all.on(&[Path::PodToHostSameNode, Path::PodToHostOtherNode]);
    let from_host = all.on(&[Path::HostToPodSameNode, Path::HostToPodOtherNode]);
    if to_host.kind(Kind::Tcp).failed().any() && !same.failed().any() {
        if hosts.failed().any() {
            hints.push("hosts do not reach each other on the probes' port either: a firewall closes it, which says little about pods. Choose an open one with --port, or leave hosts out with --skip-host".to_owned());
        } else if !from_host.kind(Kind::Tcp).failed().any() {
            hints.push("pods do not reach hosts, but hosts reach pods: a firewall on the hosts drops what comes from pods. `nft list ruleset` (or firewalld's, ufw's own command) on the host shows the chain; a drop in another table beats Carrick's accept".to_owned());
        }
    }
    let tcp = |path| all.on(&[path]).kind(Kind::Tcp).failed().any();
    let gateway =
        tcp(Path::HostToPodSameNode) || (tcp(Path::HostToPodOtherNode) && !between.failed().any());
    if gateway && !same.failed().any() {
        hints.push("hosts do not reach pods, so kubelet probes fail too: look at carrick-gw0 and its routes on the node (`ip addr show carrick-gw0`, `ip route`), and at the host's own firewall for output".to_owned());
    }
    if hints.is_empty() {
        hints.push("no pattern: run it again; if the same tests fail, compare the failing nodes in `carrickctl get agents` and read their agents' logs".to_owned());
    }
    hints
}

/// The one node that all failures share, when others work.
fn one_node<'a>(tests: &Tests<'a>) -> Option<&'a str> {
    let failed = tests.failed();
    let nodes: BTreeSet<&str> = tests.0.iter().map(|test| test.from_node.as_str()).collect();
    let mut shared = nodes.iter().filter(|node| {
        let touches = |test: &&&Tested| test.from_node == **node || test.to_node == **node;
        failed.any() && failed.0.iter().all(|test| touches(&test))
    });
    let node = shared.next()?;
    // With two nodes nobody can tell which.
    (shared.next().is_none() && nodes.len() > 2).then_some(*node)
}

struct Tests<'a>(Vec<&'a Tested>);

impl Tests<'_> {
    fn only(&self, keep: impl Fn(&Tested) -> bool) -> Self {
        Self(self.0.iter().copied().filter(|test| keep(test)).collect())
    }

    fn on(&self, paths: &[Path]) -> Self {
        self.only(|test| paths.contains(&test.path))
    }

    fn kind(&self, kind: Kind) -> Self {
        self.only(|test| test.kind == kind)
    }

    fn family(&self, family: Family) -> Self {
        self.only(|test| test.family == family)
    }

    fn because(&self, why: Why) -> Self {
        self.only(|test| test.failure == Some(why))
    }

    fn failed(&self) -> Self {
        self.only(|test| test.failure.is_some())
    }

    fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// There are some, and all failed.
    fn fail_all(&self) -> bool {
        self.any() && self.0.iter().all(|test| test.failure.is_some())
    }
}
