//! Whether a change may be applied to the network that runs.
//!
//! Compares with what was applied last, every default explicit. A refusal leaves the running
//! network as it is. What only matters to a running network is allowed while no agent is ready:
//! a mistake in the first install can simply be corrected.

use carrick_api::effective::{DatapathType, TunnelProtocol};

use crate::effective::Effective;
use crate::facts::{AgentsSeen, Facts};
use crate::nodeipam;
use crate::validate::in_scope;
use crate::verdict::{Doubt, Refusal};

const AGAIN: &str = "put the old value back; or delete the Networking (pods lose their network) and create it again";

/// What of `next` must not be applied over `last`.
pub fn refusals(last: &Effective, next: &Effective, facts: &Facts) -> Vec<Refusal> {
    let mut found = Vec::new();
    let agents = &facts.agents;
    if agents.ready == 0 {
        return found;
    }
    let mut changed = |field: &str, from: String, to: String, why: &str| {
        found.push(Refusal {
            field: field.to_owned(),
            reason: format!("{from} cannot become {to} while the network runs: {why}"),
            mend: AGAIN.to_owned(),
        });
    };
    if last.traffic.mode != next.traffic.mode {
        changed(
            "spec.traffic.mode",
            format!("{:?}", last.traffic.mode),
            format!("{:?}", next.traffic.mode),
            "nodes would not understand each other half-way",
        );
    }
    if last.traffic.tunnel_protocol != next.traffic.tunnel_protocol {
        changed(
            "spec.traffic.tunnel.protocol",
            format!("{:?}", last.traffic.tunnel_protocol),
            format!("{:?}", next.traffic.tunnel_protocol),
            "nodes would not understand each other half-way",
        );
    }
    let ports = [last, next].map(|effective| effective.traffic.tunnel_udp_port());
    if let [Some(from), Some(to)] = ports
        && from != to
        && last.traffic.tunnel_protocol == next.traffic.tunnel_protocol
    {
        changed(
            "spec.traffic.tunnel.port",
            from.to_string(),
            to.to_string(),
            "nodes would not understand each other half-way",
        );
    }
    if next.traffic.tunnel_protocol == TunnelProtocol::GRE
        && next.traffic.tunnel_checksum
        && !last.traffic.tunnel_checksum
    {
        changed(
            "spec.traffic.tunnel.checksum",
            "false".to_owned(),
            "true".to_owned(),
            "with GRE it takes 4 bytes, and running pods would go on sending packets that are too large",
        );
    }
    if last.ipam != next.ipam {
        changed(
            "spec.ipam.mode",
            format!("{:?}", last.ipam),
            format!("{:?}", next.ipam),
            "pods keep the addresses they have",
        );
    }
    if is_userspace(last.datapath) != is_userspace(next.datapath) {
        changed(
            "spec.datapath.type",
            format!("{:?}", last.datapath),
            format!("{:?}", next.datapath),
            "the bridges and every pod's port would be made again",
        );
    } else if let Some(node) = facts.nodes.iter().find(|node| {
        in_scope(next, node)
            && is_userspace(last.datapath_on(&node.labels))
                != is_userspace(next.datapath_on(&node.labels))
    }) {
        changed(
            "spec.nodeConfigs",
            format!("{:?} on node {}", last.datapath_on(&node.labels), node.name),
            format!("{:?}", next.datapath_on(&node.labels)),
            "the node's bridges and every pod's port would be made again",
        );
    }
    if let Some(running) = running_mtu(last, agents)
        && next.traffic.mtu != 0
        && i32::from(next.traffic.mtu) < running
    {
        changed(
            "spec.traffic.mtu",
            running.to_string(),
            next.traffic.mtu.to_string(),
            "running pods would go on sending packets that are too large",
        );
    }
    for (field, from, to) in [
        ("spec.cni.binDir", &last.cni.bin_dir, &next.cni.bin_dir),
        ("spec.cni.confDir", &last.cni.conf_dir, &next.cni.conf_dir),
        (
            "spec.cni.confFile",
            &last.cni.conf_file,
            &next.cni.conf_file,
        ),
    ] {
        if from != to {
            changed(
                field,
                from.clone(),
                to.clone(),
                "the files at the old place would stay and be read",
            );
        }
    }
    found.extend(nodeipam::change(last, next, facts));
    found
}

/// What of `next` may be unwelcome over `last`.
pub fn doubts(last: &Effective, next: &Effective) -> Vec<Doubt> {
    if last.traffic.mtu != 0 && next.traffic.mtu == 0 {
        return vec![Doubt {
            name: "mtu-may-shrink",
            message: format!(
                "traffic.mtu was {} and is now computed from the transport interface; where that gives less, running \
                 pods go on sending packets that are too large until they are made again.",
                last.traffic.mtu
            ),
        }];
    }
    Vec::new()
}

fn is_userspace(datapath: DatapathType) -> bool {
    datapath == DatapathType::Userspace
}

fn running_mtu(last: &Effective, agents: &AgentsSeen) -> Option<i32> {
    if last.traffic.mtu != 0 {
        Some(i32::from(last.traffic.mtu))
    } else {
        agents.largest_mtu
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use carrick_api::effective::TrafficMode;

    fn agents() -> Facts {
        Facts {
            agents: AgentsSeen {
                ready: 3,
                largest_mtu: Some(1450),
            },
            ..samples::facts()
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Effective), fields: &[&str]) {
        let last = samples::effective();
        let mut next = last.clone();
        change(&mut next);
        let found = refusals(&last, &next, &agents());
        let found: Vec<_> = found.iter().map(|refusal| refusal.field.as_str()).collect();
        assert_eq!(found, fields);
        assert!(refusals(&last, &next, &samples::facts()).is_empty());
    }

    #[test]
    fn an_unsafe_change_of_a_running_network_is_refused() {
        check(|_| {}, &[]);
        check(|next| next.datapath = DatapathType::Kernel, &[]);
        check(
            |next| next.datapath = DatapathType::Userspace,
            &["spec.datapath.type"],
        );
        check(
            |next| next.traffic.mode = TrafficMode::Hybrid,
            &["spec.traffic.mode"],
        );
        check(
            |next| next.traffic.tunnel_protocol = TunnelProtocol::VXLAN,
            &["spec.traffic.tunnel.protocol"],
        );
        check(
            |next| next.traffic.tunnel_port = 7000,
            &["spec.traffic.tunnel.port"],
        );
        // What it was all the time.
        check(|next| next.traffic.tunnel_port = 6081, &[]);
        check(|next| next.traffic.tunnel_checksum = true, &[]);
        check(|next| next.traffic.snat_randomly = true, &[]);
        check(|next| next.traffic.mtu = 1400, &["spec.traffic.mtu"]);
        check(|next| next.traffic.mtu = 1450, &[]);
        check(|next| next.traffic.mtu = 8950, &[]);
        check(
            |next| next.cni.conf_dir = "/x".into(),
            &["spec.cni.confDir"],
        );
        check(|next| next.cni.exclusive = false, &[]);
        let own = |labels: &str| {
            let json = format!(
                r#"[{{"name": "a", "nodeSelector": {{"matchLabels": {{{labels}}}}},
                     "datapath": {{"type": "Userspace"}}}}]"#
            );
            serde_json::from_str(&json).unwrap()
        };
        // No node has it yet.
        check(|next| next.node_configs = own(r#""pool": "gpu""#), &[]);
        check(
            |next| next.node_configs = own(r#""kubernetes.io/os": "linux""#),
            &["spec.nodeConfigs"],
        );
        check(|next| next.controller.replicas = 3, &[]);
        check(|next| next.taint_key = "a/b".into(), &[]);
    }

    #[test]
    fn an_mtu_set_before_counts_rather_than_what_agents_report() {
        let mut last = samples::effective();
        last.traffic.mtu = 1400;
        let mut next = last.clone();
        next.traffic.mtu = 1390;
        assert_eq!(refusals(&last, &next, &agents()).len(), 1);
        next.traffic.mtu = 1420;
        assert!(refusals(&last, &next, &agents()).is_empty());
        next.traffic.mtu = 0;
        assert!(refusals(&last, &next, &agents()).is_empty());
        assert_eq!(doubts(&last, &next)[0].name, "mtu-may-shrink");
    }

    #[test]
    fn a_checksum_that_makes_packets_too_large_is_refused() {
        let mut last = samples::effective();
        last.traffic.tunnel_protocol = TunnelProtocol::GRE;
        let mut next = last.clone();
        next.traffic.tunnel_checksum = true;
        let found = refusals(&last, &next, &agents());
        assert_eq!(found[0].field, "spec.traffic.tunnel.checksum");
        assert!(refusals(&next, &last, &agents()).is_empty());
    }
}
