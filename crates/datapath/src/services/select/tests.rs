use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The model, as the API documents say it, one sentence a line and with no thought of cost.
fn model(candidates: &[Candidate]) -> Selection {
    // "If an endpoint is in several slices": the one that can take traffic speaks for it.
    let mut endpoints: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let known = endpoints
            .iter_mut()
            .find(|known| known.address == candidate.address && known.port == candidate.port);
        let score = |c: &Candidate| {
            4 * i32::from(c.conditions.ready)
                + 2 * i32::from(c.conditions.serving)
                + i32::from(c.local)
        };
        match known {
            Some(known) if score(candidate) > score(known) => *known = *candidate,
            Some(_) => {}
            None => endpoints.push(*candidate),
        }
    }
    let ready: Vec<Candidate> = endpoints
        .iter()
        .copied()
        .filter(|e| e.conditions.ready)
        .collect();
    // "serving … if no endpoints are ready": terminating endpoints that serve are the fallback.
    let fallback: Vec<Candidate> = endpoints
        .iter()
        .copied()
        .filter(|e| e.conditions.serving && e.conditions.terminating)
        .collect();
    // "hints … ignored if any endpoint has none, or if none is for here".
    let mut cluster = ready.clone();
    let all_zone = ready.iter().all(|e| e.for_zone.is_some());
    let here_zone: Vec<Candidate> = ready
        .iter()
        .copied()
        .filter(|e| e.for_zone == Some(true))
        .collect();
    if all_zone && !here_zone.is_empty() {
        cluster = here_zone;
    }
    let all_node = ready.iter().all(|e| e.for_node.is_some());
    let here_node: Vec<Candidate> = ready
        .iter()
        .copied()
        .filter(|e| e.for_node == Some(true))
        .collect();
    if all_node && !here_node.is_empty() {
        cluster = here_node;
    }
    if ready.is_empty() {
        cluster.clone_from(&fallback);
    }
    let mut local: Vec<Candidate> = ready.iter().copied().filter(|e| e.local).collect();
    let local_ready = local.len();
    if local.is_empty() {
        local = fallback.iter().copied().filter(|e| e.local).collect();
    }
    let serving: Vec<Candidate> = endpoints
        .iter()
        .copied()
        .filter(|e| e.conditions.ready || e.conditions.serving)
        .collect();
    let sorted = |list: Vec<Candidate>| {
        let mut list: Vec<Backend> = list
            .into_iter()
            .map(|e| Backend {
                address: e.address,
                port: e.port,
            })
            .collect();
        list.sort();
        list
    };
    Selection {
        cluster: sorted(cluster),
        local: sorted(local),
        serving: sorted(serving),
        local_ready,
    }
}

fn candidate() -> impl Strategy<Value = Candidate> {
    // Few addresses, so that several slices speak of one endpoint; hints agree for one endpoint,
    // as which of two equals speaks for it says nothing.
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    (0_u8..12, 0_u16..2, conditions, any::<bool>()).prop_map(
        |(host, port, (ready, serving, terminating), local)| Candidate {
            address: IpAddr::from([10, 0, 0, host]),
            port: 80 + port,
            conditions: Conditions {
                ready,
                serving,
                terminating,
            },
            local,
            for_zone: None,
            for_node: None,
        },
    )
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let hints = prop::collection::vec(
        prop_oneof![4 => Just(Some(true)), 4 => Just(Some(false)), 1 => Just(None)],
        12,
    );
    (
        prop::collection::vec(candidate(), 0..20),
        hints.clone(),
        hints,
        0_u8..4,
    )
        .prop_map(|(mut list, zones, nodes, kinds)| {
            let mut state: BTreeMap<_, Conditions> = BTreeMap::new();
            for candidate in &mut list {
                let IpAddr::V4(address) = candidate.address else {
                    continue;
                };
                let host = usize::from(address.octets()[3]);
                candidate.for_zone = zones[host].filter(|_| kinds & 1 != 0);
                candidate.for_node = nodes[host].filter(|_| kinds & 2 != 0);
                // Of equals either may speak: let them be equal in all.
                let key = (
                    candidate.address,
                    candidate.port,
                    candidate.conditions.ready,
                    candidate.conditions.serving,
                );
                candidate.conditions = *state.entry(key).or_insert(candidate.conditions);
            }
            list
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn selection_is_what_the_documents_say(list in candidates()) {
        prop_assert_eq!(select(list.clone()), model(&list));
    }
}

fn one(host: u8, ready: bool, serving: bool, terminating: bool) -> Candidate {
    Candidate {
        address: IpAddr::from([10, 0, 0, host]),
        port: 80,
        conditions: Conditions {
            ready,
            serving,
            terminating,
        },
        local: host % 2 == 1,
        for_zone: None,
        for_node: None,
    }
}

fn hosts(list: &[Backend]) -> Vec<String> {
    list.iter()
        .map(|backend| backend.address.to_string())
        .collect()
}

/// KEP-1669: while all pods of a node are terminating they still answer for policy Local.
#[test]
fn terminating_endpoints_are_the_last_resort_of_each_policy() {
    let selection = select(vec![one(1, false, true, true), one(2, true, true, false)]);
    assert_eq!(hosts(&selection.cluster), ["10.0.0.2"]);
    assert_eq!(hosts(&selection.local), ["10.0.0.1"]);
    assert_eq!(selection.local_ready, 0);
    let nobody = select(vec![one(1, false, false, true)]);
    assert_eq!(nobody, Selection::default());
}

/// KEP-2433: one endpoint without a hint, and all hints are ignored.
#[test]
fn one_missing_hint_spoils_all() {
    let mut near = one(1, true, true, false);
    let mut far = one(2, true, true, false);
    near.for_zone = Some(true);
    far.for_zone = Some(false);
    assert_eq!(hosts(&select(vec![near, far]).cluster), ["10.0.0.1"]);
    far.for_zone = None;
    assert_eq!(select(vec![near, far]).cluster.len(), 2);
}

/// KEP-3015: with hints for nodes and for zones, a node that has an endpoint keeps to itself, one that
/// has none takes its zone.
#[test]
fn hints_for_nodes_beat_hints_for_zones() {
    let mut here = one(1, true, true, false);
    let mut near = one(2, true, true, false);
    (here.for_node, here.for_zone) = (Some(true), Some(true));
    (near.for_node, near.for_zone) = (Some(false), Some(true));
    assert_eq!(hosts(&select(vec![here, near]).cluster), ["10.0.0.1"]);
    here.for_node = Some(false);
    assert_eq!(select(vec![here, near]).cluster.len(), 2);
}
