//! Services on a node of the lab: the proxy's batches given to a real switch and to the host.

use std::fmt::Write as _;

use carrick_datapath::services::{
    HostChange, Options, Proxy, ProxyMode, SERVICES_TABLE, host_table, virtual_routes,
};
use carrick_datapath::{learned, next_hop, render};
use carrick_openflow::FlowModCommand::{Add, Delete, DeleteStrict, Modify, ModifyStrict};
use carrick_openflow::{GroupMod, Mod, State};
use carrick_testkit::ovs::{Datapath, Ovs};

use super::lab::{LabNode, in_netns};
use super::services::{apply, full, view};

/// A node of the lab with its Services.
pub struct LabServices {
    pub proxy: Proxy,
    /// What the switch was told.
    pub told: State,
}

/// Options of a node in the lab.
pub fn options() -> Options {
    Options {
        sctp: Datapath::under_test() == Datapath::Kernel,
        ..full()
    }
}

/// Makes a node serve Services: the shared tables, the host's table and its routes.
pub fn serve(lab: &mut LabNode, n: u8) -> LabServices {
    serve_on(lab, n, Vec::new())
}

/// As [`serve`], with node ports on addresses in these ranges only.
pub fn serve_on(lab: &mut LabNode, n: u8, node_port_addresses: Vec<ipnet::IpNet>) -> LabServices {
    lab.state.services = ProxyMode::Full;
    let mut view = view(n, lab.families);
    view.gateway = lab.state.gateway.addresses;
    view.node_port_addresses = node_port_addresses;
    let proxy = Proxy::new(view, options());
    let services = LabServices {
        proxy,
        told: State::default(),
    };
    LabServices::pipeline(lab);
    let table = host_table(
        services.proxy.host(),
        services.proxy.node(),
        ProxyMode::Full,
        "gw0",
    );
    let mut script = format!("nft -f - <<'EOT'\n{}EOT\n", table.unwrap());
    // Loopback reaches node ports too.
    script += "sysctl -qw net.ipv4.conf.gw0.route_localnet=1\n";
    for net in virtual_routes(services.proxy.node()) {
        script += &route(lab, net);
    }
    must(lab, &script);
    services
}

impl LabServices {
    /// The pipeline without its Services, by difference, which leaves those alone; how many changes.
    pub fn pipeline(lab: &mut LabNode) -> usize {
        let desired = render(&lab.state, &mut lab.ledger)
            .unwrap()
            .to_switch()
            .unwrap();
        let dumped = dump(&lab.ovs);
        let plan = carrick_openflow::diff(&dumped, &desired, &learned());
        send(&lab.ovs, &plan.bundle);
        plan.bundle.len()
    }

    /// Gives everything that waits to the switch and the host.
    pub fn sync(&mut self, lab: &mut LabNode) -> usize {
        let mut changes = 0;
        while let Some(batch) = self.proxy.next_batch(&mut lab.ledger, 100).unwrap() {
            changes += batch.bundle.len();
            send(&lab.ovs, &batch.bundle);
            apply(&mut self.told, &batch.bundle);
            host(lab, &batch.host);
            for stale in &batch.stale {
                let flush = stale.flush();
                let mut reply = String::new();
                if let (Some(address), Some(port)) = (flush.reply.source, flush.reply.source_port) {
                    let family = if address.is_ipv4() {
                        "ct_nw"
                    } else {
                        "ct_ipv6"
                    };
                    reply = format!(" {family}_src={address},ct_nw_proto=17,ct_tp_src={port}");
                }
                let (family, address) = match stale.address {
                    address @ std::net::IpAddr::V4(_) => ("ct_nw", address),
                    address @ std::net::IpAddr::V6(_) => ("ct_ipv6", address),
                };
                let original = format!(
                    "{family}_dst={address},ct_nw_proto=17,ct_tp_dst={}{reply}",
                    stale.port
                );
                let zone = format!("zone={}", flush.zone.unwrap());
                let arguments = original.split(' ').collect::<Vec<_>>();
                let mut line = vec!["dpctl/flush-conntrack", zone.as_str()];
                line.extend(arguments);
                lab.ovs.appctl(&line).unwrap();
            }
            batch.release(&mut lab.ledger);
        }
        changes
    }
}

/// A script of the host for a change, as an agent would do it by netlink.
fn host(lab: &LabNode, change: &HostChange) {
    let mut rules = String::new();
    for (verb, sets) in [("delete", &change.removed), ("add", &change.added)] {
        for (set, elements) in sets {
            let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
            let _ = writeln!(
                rules,
                "{verb} element inet {SERVICES_TABLE} {set} {{ {} }}",
                elements.join(", ")
            );
        }
    }
    let mut script = String::new();
    if !rules.is_empty() {
        let _ = writeln!(script, "nft -f - <<'EOT'\n{rules}EOT");
    }
    for net in &change.routed {
        script += &route(lab, *net);
    }
    for net in &change.unrouted {
        let _ = writeln!(script, "ip route del {net} dev gw0");
    }
    must(lab, &script);
}

fn route(lab: &LabNode, net: ipnet::IpNet) -> String {
    let source = lab
        .state
        .gateway
        .addresses
        .iter()
        .find(|own| own.is_ipv4() == net.addr().is_ipv4())
        .unwrap();
    let via = next_hop(source);
    format!("ip route replace {net} via {via} dev gw0 onlink src {source}\n")
}

fn must(lab: &LabNode, script: &str) {
    let (ok, text) = in_netns(lab.netns(), &format!("set -e\n{script}"));
    assert!(ok, "{script}: {text}");
}

/// What the switch holds, canonical.
pub fn dump(ovs: &Ovs) -> State {
    let target = ovs.target("br-int");
    let lines = |command: &str| -> Vec<String> {
        let text = ovs
            .ofctl(&["--no-stats", command, &target])
            .unwrap_or_else(|_| ovs.ofctl(&[command, &target]).unwrap());
        let lines = text.lines().map(str::trim);
        lines
            .filter(|line| {
                !line.starts_with("OFPST") && !line.starts_with("NXST") && !line.is_empty()
            })
            .map(str::to_owned)
            .collect()
    };
    let flows = lines("dump-flows");
    let groups = lines("dump-groups");
    carrick_datapath::from_lines(flows.into_iter(), groups.into_iter(), std::iter::empty()).unwrap()
}

/// Gives a bundle to the switch as one, in the text of `ovs-ofctl bundle`.
pub fn send(ovs: &Ovs, bundle: &[Mod]) {
    if bundle.is_empty() {
        return;
    }
    let mut text = String::new();
    for change in bundle {
        let line = match change {
            Mod::Flow(change) => {
                let flow = &change.flow;
                let verb = match change.command {
                    Add => "add",
                    Modify => "modify",
                    ModifyStrict => "modify_strict",
                    Delete => "delete",
                    DeleteStrict => "delete_strict",
                };
                let whole = flow.to_string();
                let (head, actions) = whole.split_once(" actions=").unwrap();
                let head: Vec<&str> = head
                    .split(',')
                    .filter(|item| !item.starts_with("cookie="))
                    .collect();
                let head = head.join(",");
                match change.command {
                    Add => format!("flow add {whole}"),
                    ModifyStrict => format!("flow {verb} {head} actions={actions}"),
                    Delete => format!("flow delete cookie={:#x}/-1", flow.cookie.0),
                    _ if change.cookie_mask != 0 => {
                        format!("flow {verb} cookie={:#x}/-1,{head}", flow.cookie.0)
                    }
                    _ => format!("flow {verb} {head}"),
                }
            }
            Mod::Group(change) => match change.as_ref() {
                GroupMod::Add(group) => format!("group add {group}"),
                GroupMod::Modify(group) => format!("group modify {group}"),
                GroupMod::Delete(id) => format!("group delete group_id={id}"),
                other => panic!("not used: {other:?}"),
            },
        };
        text.push_str(&line);
        text.push('\n');
    }
    let file = ovs.run_dir().join("bundle");
    std::fs::write(&file, &text).unwrap();
    let target = ovs.target("br-int");
    let done = ovs.ofctl(&["bundle", &target, file.to_str().unwrap()]);
    assert!(done.is_ok(), "{}\n{text}", done.unwrap_err());
}
