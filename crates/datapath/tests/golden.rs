//! The pipeline as a person reviews it: golden files in the syntax of ovs-ofctl. Rewritten by
//! `INSTA_UPDATE=always cargo test -p carrick-datapath --test golden`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::format_push_string,
    reason = "tests say what they expect"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use carrick_datapath::services::ProxyMode;
use carrick_datapath::{
    CookieParts, HostInput, IdLedger, Kind, Mode, NodeState, Snat, Table, Tunnel, TunnelProtocol,
    recover_ids, render, render_host,
};
use proptest::prelude::*;
use support::{Families, node, peer, pod};

fn sample(families: Families, outer: Families) -> NodeState {
    let mut state = node(1, families, outer);
    state.peers.insert("b".into(), peer(2, families, outer));
    state.peers.insert("c".into(), peer(3, families, outer));
    state.pods.insert("c1/eth0".into(), pod(1, 1, families));
    state.pods.insert("c2/eth0".into(), pod(1, 2, families));
    state
}

fn text(state: &NodeState) -> String {
    render(state, &mut IdLedger::default()).unwrap().to_text()
}

#[test]
fn ipv4() {
    insta::assert_snapshot!(text(&sample(Families::V4, Families::V4)));
}

#[test]
fn ipv6() {
    insta::assert_snapshot!(text(&sample(Families::V6, Families::V4)));
}

#[test]
fn dual() {
    insta::assert_snapshot!(text(&sample(Families::Dual, Families::V4)));
}

#[test]
fn tunnels_over_ipv6() {
    insta::assert_snapshot!(text(&sample(Families::Dual, Families::V6)));
}

#[test]
fn nothing_but_the_node() {
    insta::assert_snapshot!(text(&node(1, Families::Dual, Families::V4)));
}

/// What all Services share; Services themselves have golden files of their own.
#[test]
fn services() {
    let mut state = sample(Families::Dual, Families::V4);
    state.services = ProxyMode::Full;
    let without = text(&sample(Families::Dual, Families::V4));
    let without: BTreeSet<&str> = without.lines().collect();
    let with = text(&state);
    let added: Vec<&str> = with
        .lines()
        .filter(|line| !without.contains(line))
        .collect();
    insta::assert_snapshot!(added.join("\n"));
    let lines: BTreeSet<&str> = with.lines().collect();
    let gone: Vec<&str> = without.difference(&lines).copied().collect();
    // Only what tracks connections is another flow: it translates.
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert_eq!(
        render(&state, &mut IdLedger::default())
            .unwrap()
            .to_switch()
            .unwrap()
            .groups
            .len(),
        12
    );
}

#[test]
fn host_tables() {
    let state = sample(Families::Dual, Families::V4);
    let input = HostInput {
        gateway_link: "carrick-gw0",
        snat: Snat::Masquerade {
            fully_random: false,
        },
        tunnel: Some(Tunnel::new(TunnelProtocol::Geneve)),
        hidden_links: BTreeMap::from([("car000000000001".to_owned(), 12), ("eth1".to_owned(), 3)]),
        more_chains: "chain hostports {\n  type nat hook prerouting priority dstnat;\n}\n",
    };
    let host = render_host(&state, &input);
    let tables: Vec<_> = host
        .tables
        .iter()
        .filter_map(|table| table.text.clone())
        .collect();
    insta::assert_snapshot!(tables.join("\n"));
    let rest = (host.addresses, host.neighbours, host.routes, host.sysctls);
    insta::assert_debug_snapshot!("host_rest", rest);
}

/// Nodes b and c are on one subnet with this one, d is not.
fn without_tunnels(mode: Mode) -> NodeState {
    let mut state = sample(Families::Dual, Families::V4);
    let mut far = peer(4, Families::Dual, Families::V4);
    far.endpoints.v4 = Some("172.31.4.4".parse().unwrap());
    state.peers.insert("d".into(), far);
    state.mode = mode;
    if mode == Mode::NoEncap {
        state.tunnel = None;
    }
    state
}

/// What the host routes itself: IPv4 to its neighbours b and c. In NoEncap everything else is the
/// fabric's; in Hybrid it goes through the tunnel.
#[test]
fn modes() {
    for (mode, name, protocol) in [
        (Mode::NoEncap, "no_encap", None),
        (Mode::Hybrid, "hybrid", Some(TunnelProtocol::Gre)),
    ] {
        let state = without_tunnels(mode);
        let input = HostInput {
            gateway_link: "carrick-gw0",
            snat: Snat::Masquerade { fully_random: true },
            tunnel: protocol.map(Tunnel::new),
            hidden_links: BTreeMap::new(),
            more_chains: "",
        };
        let host = render_host(&state, &input);
        let routes: Vec<String> = host
            .routes
            .iter()
            .map(|route| {
                let source = route
                    .source
                    .map_or(String::new(), |from| format!(" src {from}"));
                format!(
                    "{} via {} ({:?}){source}",
                    route.destination, route.via, route.link
                )
            })
            .collect();
        let table = host.tables[0].text.clone().unwrap();
        let flows: Vec<String> = text(&state)
            .lines()
            .filter(|flow| flow.contains("tun") || flow.contains("in_port=1,"))
            .map(str::to_owned)
            .collect();
        let all = format!(
            "routes:\n{}\n\n{table}\nflows of the tunnel:\n{}\n",
            routes.join("\n"),
            flows.join("\n")
        );
        insta::assert_snapshot!(name, all);
    }
}

#[test]
fn host_without_snat_on_the_kernel_datapath() {
    let state = sample(Families::V4, Families::V4);
    let input = HostInput {
        gateway_link: "carrick-gw0",
        snat: Snat::Off,
        tunnel: Some(Tunnel::new(TunnelProtocol::Geneve)),
        hidden_links: BTreeMap::new(),
        more_chains: "",
    };
    let host = render_host(&state, &input);
    assert_eq!(host.tables[1].text, None);
    assert!(
        !host.tables[0]
            .text
            .as_ref()
            .unwrap()
            .contains("@pods4 masquerade")
    );
}

#[test]
fn rendering_twice_gives_the_same_bytes() {
    let state = sample(Families::Dual, Families::V4);
    let mut ledger = IdLedger::default();
    let first = render(&state, &mut ledger).unwrap();
    let after = ledger.clone();
    assert_eq!(render(&state, &mut ledger).unwrap(), first);
    assert_eq!(ledger, after);
}

#[test]
fn no_two_flows_have_one_key_and_all_can_be_given_to_a_switch() {
    for families in [Families::V4, Families::V6, Families::Dual] {
        let desired = render(&sample(families, families), &mut IdLedger::default()).unwrap();
        let keys: BTreeSet<_> = desired
            .flows
            .iter()
            .map(carrick_datapath::FlowLine::key)
            .collect();
        assert_eq!(keys.len(), desired.flows.len());
        let state = desired.to_switch().unwrap();
        assert_eq!(state.flows.len(), desired.flows.len());
    }
}

/// A flow that sends packets on leads to a table that has a miss flow, so nothing ends in the dark.
#[test]
fn every_table_has_its_miss_flow() {
    let desired = render(
        &sample(Families::Dual, Families::V4),
        &mut IdLedger::default(),
    )
    .unwrap();
    for table in Table::ALL {
        let miss = desired
            .flows
            .iter()
            .find(|flow| flow.table == table && flow.priority == 0 && flow.matches.is_empty());
        assert!(
            miss.is_some_and(|flow| flow.cookie == CookieParts::PIPELINE),
            "{table:?}"
        );
    }
}

/// Trap 1 of the kernel datapath: a match on an ND field without `icmp_code=0` is widened to all
/// messages of the type.
#[test]
fn trap_1_every_match_on_an_nd_field_has_the_code() {
    let desired = render(
        &sample(Families::Dual, Families::V4),
        &mut IdLedger::default(),
    )
    .unwrap();
    let mut seen = 0;
    for flow in &desired.flows {
        if flow.matches.contains("nd_") {
            assert!(flow.matches.contains("icmp_code=0"), "{flow}");
            seen += 1;
        }
    }
    assert!(seen > 3);
}

#[test]
fn a_pod_with_a_taken_port_or_address_is_left_out() {
    let mut state = sample(Families::Dual, Families::V4);
    state
        .pods
        .insert("d1/eth0".into(), pod(1, 1, Families::Dual));
    let mut gateway = pod(1, 9, Families::Dual);
    gateway.addresses = state.gateway.addresses;
    state.pods.insert("d2/eth0".into(), gateway);
    let desired = render(&state, &mut IdLedger::default()).unwrap();
    let left_out: Vec<_> = desired
        .left_out
        .iter()
        .map(|pod| pod.pod.as_str())
        .collect();
    assert_eq!(left_out, ["d1/eth0", "d2/eth0"]);
    let plain = render(
        &sample(Families::Dual, Families::V4),
        &mut IdLedger::default(),
    )
    .unwrap();
    assert_eq!(desired.flows, plain.flows);
}

/// The disk was lost, the switch was not: nothing changes.
#[test]
fn ids_come_back_from_the_switch() {
    let state = sample(Families::Dual, Families::V4);
    let mut ledger = IdLedger::default();
    for key in ["gone/eth0", "gone-too/eth0"] {
        ledger.id(Kind::Pod, key).unwrap();
    }
    ledger.retain(Kind::Pod, |_| false);
    let dumped = render(&state, &mut ledger).unwrap().to_switch().unwrap();
    let mut lost = IdLedger::default();
    assert_eq!(recover_ids(&state, &mut lost, &dumped).unwrap(), 4);
    let again = render(&state, &mut lost).unwrap().to_switch().unwrap();
    assert_eq!(again, dumped);
}

/// Ids of objects nobody knows are not given to others while their flows are in the switch.
#[test]
fn an_id_in_the_switch_is_not_given_away() {
    let mut old = node(1, Families::V4, Families::V4);
    old.pods.insert("old/eth0".into(), pod(1, 1, Families::V4));
    let dumped = render(&old, &mut IdLedger::default())
        .unwrap()
        .to_switch()
        .unwrap();
    let mut new = node(1, Families::V4, Families::V4);
    new.pods.insert("new/eth0".into(), pod(1, 2, Families::V4));
    let mut ledger = IdLedger::default();
    recover_ids(&new, &mut ledger, &dumped).unwrap();
    render(&new, &mut ledger).unwrap();
    assert_eq!(ledger.get(Kind::Pod, "new/eth0"), Some(2));
}

proptest! {
    /// What is read again and what is not make no difference.
    #[test]
    fn lines_that_stay_are_not_read_again_and_mean_the_same(
        before in proptest::collection::btree_set(1_u8..30, 0..20),
        after in proptest::collection::btree_map(1_u8..30, any::<bool>(), 0..20),
    ) {
        let mut ledger = IdLedger::default();
        let mut old = node(1, Families::Dual, Families::V4);
        old.pods.extend(before.iter().map(|p| (format!("c{p:03}/eth0"), pod(1, *p, Families::Dual))));
        let last = render(&old, &mut ledger).unwrap();
        let known = last.to_switch().unwrap();
        let mut new = node(1, Families::Dual, Families::V4);
        // Some pods go, some come, some change their families and with them their flows.
        new.pods.extend(after.iter().map(|(p, dual)| {
            let families = if *dual { Families::Dual } else { Families::V4 };
            (format!("c{p:03}/eth0"), pod(1, *p, families))
        }));
        let desired = render(&new, &mut ledger).unwrap();
        let all = desired.to_switch().unwrap();
        prop_assert_eq!(desired.to_switch_after(&last, &known).unwrap(), all);
    }

    /// What one pod adds does not depend on the others: adding pods changes no flow of another.
    #[test]
    fn flows_of_a_pod_do_not_depend_on_others(count in 1_u8..60, dual in any::<bool>()) {
        let families = if dual { Families::Dual } else { Families::V4 };
        let mut state = node(1, families, Families::V4);
        let mut ledger = IdLedger::default();
        let mut before: BTreeSet<String> = BTreeSet::new();
        for p in 1..=count {
            state.pods.insert(format!("c{p:03}/eth0"), pod(1, p, families));
            let desired = render(&state, &mut ledger).unwrap();
            let now: BTreeSet<String> = desired.flows.iter().map(ToString::to_string).collect();
            prop_assert!(before.is_subset(&now));
            before = now;
        }
    }
}
