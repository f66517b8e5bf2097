use super::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn plan(clusters: &[&str], v4: u8, v6: u8) -> NodeIpam {
    NodeIpam {
        cluster_cidrs: clusters.iter().map(|text| net(text)).collect(),
        node_mask_size_ipv4: v4,
        node_mask_size_ipv6: v6,
    }
}

fn node(text: &str, cidrs: &[&str]) -> Node {
    Node {
        name: name(text),
        uid: format!("uid-{text}"),
        created: 0,
        cidrs: cidrs.iter().map(|text| net(text)).collect(),
        malformed: None,
        version: "1".into(),
    }
}

/// What each node that has a claim is to get, as text.
fn assigned(allocator: &Allocator) -> Vec<(String, String)> {
    let text = |cidrs: &[IpNet]| {
        let texts: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
        texts.join(",")
    };
    allocator
        .assignments()
        .map(|a| (a.node.to_string(), text(&a.cidrs)))
        .collect()
}

/// Claims for all nodes and writes them.
fn settle(allocator: &mut Allocator) {
    allocator.allocate(usize::MAX);
    let all: Vec<Assignment> = allocator.assignments().collect();
    for assignment in all {
        allocator.node_is(Node {
            name: assignment.node,
            uid: assignment.uid,
            created: 0,
            cidrs: assignment.cidrs,
            malformed: None,
            version: "2".into(),
        });
    }
}

#[test]
fn nodes_get_one_cidr_of_every_family_in_the_order_of_the_clusters() {
    let plan = plan(&["fd00::/48", "10.0.0.0/23", "10.9.0.0/24"], 24, 64);
    let mut allocator = Allocator::new(&plan);
    allocator.nodes_are(vec![
        node("c", &[]),
        node("a", &[]),
        node("b", &["10.0.0.0/24", "fd00::/64"]),
    ]);
    assert_eq!(allocator.without(), 2);
    allocator.allocate(usize::MAX);
    let expected = [
        ("a".to_owned(), "fd00:0:0:1::/64,10.0.1.0/24".to_owned()),
        ("c".to_owned(), "fd00:0:0:2::/64,10.9.0.0/24".to_owned()),
    ];
    assert_eq!(assigned(&allocator), expected);
    assert!(allocator.findings().is_empty());
}

#[test]
fn who_was_registered_first_is_served_first_and_claims_are_bounded() {
    let mut allocator = Allocator::new(&plan(&["10.0.0.0/22"], 24, 64));
    let late = Node {
        created: 5,
        ..node("a", &[])
    };
    allocator.nodes_are(vec![late, node("z", &[]), node("y", &[])]);
    assert_eq!(allocator.allocate(2), [name("y"), name("z")]);
    assert!(
        allocator.allocate(2).is_empty(),
        "two are to be written first"
    );
    allocator.node_is(node("y", &["10.0.0.0/24"]));
    assert_eq!(allocator.allocate(2), [name("a")]);
}

#[test]
fn a_full_pool_is_told_by_node_and_family_and_a_node_that_goes_makes_room() {
    let plan = plan(&["10.0.0.0/24", "fd00::/48"], 25, 64);
    let mut allocator = Allocator::new(&plan);
    allocator.nodes_are(vec![node("a", &[]), node("b", &[]), node("c", &[])]);
    settle(&mut allocator);
    let found = allocator.findings();
    assert_eq!(found.len(), 1);
    let text = found[0].to_string();
    assert!(
        text.contains(
            "node c gets no pod CIDR: no IPv4 CIDR is left in 10.0.0.0/24 (cut into /25)"
        ),
        "{text}"
    );
    assert_eq!(allocator.without(), 1);
    // Nothing of the other family was taken for it.
    let left: Vec<_> = allocator.left().collect();
    assert_eq!(left, [(Family::V4, 0), (Family::V6, 65_534)]);
    allocator.node_gone(&name("a"));
    settle(&mut allocator);
    assert!(allocator.findings().is_empty());
    assert_eq!(
        allocator.nodes[&name("c")].node.cidrs[0],
        net("10.0.0.0/25")
    );
}

#[test]
fn what_was_given_back_is_given_out_last_and_the_longest_released_first() {
    let mut allocator = Allocator::new(&plan(&["10.0.0.0/24", "10.1.0.0/24"], 25, 64));
    allocator.nodes_are(vec![node("a", &[]), node("b", &[]), node("c", &[])]);
    settle(&mut allocator);
    allocator.node_gone(&name("b"));
    allocator.node_gone(&name("a"));
    for (new, expected) in [
        ("d", "10.1.0.128/25"),
        ("e", "10.0.0.128/25"),
        ("f", "10.0.0.0/25"),
    ] {
        allocator.node_is(node(new, &[]));
        settle(&mut allocator);
        assert_eq!(allocator.nodes[&name(new)].node.cidrs, [net(expected)]);
    }
    // A node registered again is another node.
    let again = Node {
        uid: "other".into(),
        ..node("f", &[])
    };
    allocator.node_is(again);
    assert_eq!(allocator.without(), 1);
}

#[test]
fn an_old_event_takes_no_cidr_away() {
    let mut allocator = Allocator::new(&plan(&["10.0.0.0/16"], 24, 64));
    allocator.node_is(node("a", &["10.0.0.0/24"]));
    allocator.node_is(node("a", &[]));
    assert_eq!(allocator.without(), 0);
    allocator.node_is(node("b", &[]));
    allocator.allocate(1);
    // Somebody else was faster: what was claimed is free again.
    allocator.node_is(node("b", &["10.0.7.0/24"]));
    assert_eq!(allocator.assignments().count(), 0);
    let left: Vec<_> = allocator.left().collect();
    assert_eq!(left, [(Family::V4, 254)]);
}

#[test]
fn a_claim_of_a_leader_before_is_kept_for_its_node() {
    let mut allocator = Allocator::new(&plan(&["10.0.0.0/16"], 24, 64));
    allocator.nodes_are(vec![
        node("a", &[]),
        node("b", &[]),
        node("c", &["10.0.5.0/24"]),
    ]);
    allocator.restore(&name("b"), "uid-b", &[net("10.0.0.0/24")]);
    // Void: another registration, one that has CIDRs, and one that is gone.
    allocator.restore(&name("a"), "older", &[net("10.0.1.0/24")]);
    allocator.restore(&name("c"), "uid-c", &[net("10.0.2.0/24")]);
    allocator.restore(&name("d"), "uid-d", &[net("10.0.3.0/24")]);
    allocator.allocate(usize::MAX);
    let expected = [
        ("a".to_owned(), "10.0.1.0/24".to_owned()),
        ("b".to_owned(), "10.0.0.0/24".to_owned()),
    ];
    assert_eq!(assigned(&allocator), expected);
}

#[test]
fn what_others_allocated_is_counted_and_reported_and_not_changed() {
    let mut allocator = Allocator::new(&plan(&["10.0.0.0/22"], 24, 64));
    let bad = Node {
        malformed: Some("10.0.0.1/24".into()),
        ..node("bad", &[])
    };
    let late = Node {
        created: 9,
        ..node("late", &["10.0.1.0/24"])
    };
    allocator.nodes_are(vec![
        node("wide", &["10.0.0.0/23"]),
        late,
        node("far", &["172.16.0.0/24"]),
        bad,
        node("new", &[]),
    ]);
    settle(&mut allocator);
    assert_eq!(
        allocator.nodes[&name("new")].node.cidrs,
        [net("10.0.2.0/24")]
    );
    let reasons: Vec<_> = allocator.findings().iter().map(Finding::reason).collect();
    assert_eq!(
        reasons,
        ["CIDROverlap", "CIDRMalformed", "CIDROutsideCluster"]
    );
    let overlap = allocator.findings()[0].to_string();
    assert!(
        overlap.contains("10.0.1.0/24 of node late overlaps 10.0.0.0/23 of node wide"),
        "{overlap}"
    );
    // The overlap stays taken until the last holder goes.
    allocator.node_gone(&name("wide"));
    assert_eq!(allocator.left().next(), Some((Family::V4, 2)));
}

#[test]
fn five_thousand_nodes_out_of_a_large_cluster_are_quick() {
    let plan = plan(&["10.0.0.0/8", "fd00::/32"], 24, 64);
    let mut allocator = Allocator::new(&plan);
    let nodes = (0..5_000)
        .map(|index| node(&format!("n{index}"), &[]))
        .collect();
    let began = Instant::now();
    allocator.nodes_are(nodes);
    settle(&mut allocator);
    assert!(allocator.findings().is_empty());
    for index in 0..2_500 {
        allocator.node_gone(&name(&format!("n{index}")));
    }
    let took = began.elapsed();
    assert_eq!(allocator.left().next(), Some((Family::V4, 65_536 - 2_500)));
    // A hundredth of it without optimisation on an idle machine.
    assert!(took < Duration::from_secs(20), "{took:?}");
}

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    /// A node comes, perhaps with CIDRs by somebody else.
    Comes(u8, Vec<IpNet>),
    /// A node goes.
    Goes(u8),
    /// Claims are made, and the first so many are written.
    Allocate(usize, usize),
}

fn foreign() -> impl Strategy<Value = Vec<IpNet>> {
    // In and around the clusters, larger and smaller than a node's.
    let v4 = (0_u32..24, 25_u8..=30).prop_map(|(index, mask)| {
        let address = 0x0a00_0000 + index * 8;
        IpNet::new(std::net::Ipv4Addr::from_bits(address).into(), mask)
            .unwrap()
            .trunc()
    });
    prop_oneof![
        3 => Just(Vec::new()),
        1 => v4.prop_map(|cidr| vec![cidr]),
        1 => (0_u128..6).prop_map(|index| {
            let address = 0xfd00_u128 << 112 | index << 12;
            vec![IpNet::new(std::net::Ipv6Addr::from_bits(address).into(), 116).unwrap()]
        }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_u8..12, foreign()).prop_map(|(node, cidrs)| Step::Comes(node, cidrs)),
        2 => (0_u8..12).prop_map(Step::Goes),
        3 => (1_usize..5, 0_usize..5).prop_map(|(most, written)| Step::Allocate(most, written)),
    ];
    proptest::collection::vec(step, 0..60)
}

fn share(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Everything by comparing everything with everything.
#[derive(Default)]
struct Model {
    clusters: Vec<(IpNet, u8)>,
    holders: BTreeMap<String, (u64, Vec<IpNet>)>,
}

impl Model {
    fn blocks(&self, family: Family) -> impl Iterator<Item = IpNet> {
        self.clusters
            .iter()
            .filter(move |(cluster, _)| Family::of(cluster) == family)
            .flat_map(|(cluster, mask)| cluster.subnets(*mask).unwrap())
    }

    fn free(&self, family: Family) -> Vec<IpNet> {
        let held: Vec<IpNet> = self.holders.values().flat_map(|(_, c)| c.clone()).collect();
        self.blocks(family)
            .filter(|block| !held.iter().any(|other| share(*block, *other)))
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Never an overlap, never outside, and a free one is found when and only when there is one;
    /// the same nodes and claims, told in another order to an allocator that was just started, give
    /// the same answer, and it is the lowest.
    #[test]
    fn the_allocator_does_what_trying_everything_does(steps in steps()) {
        let plan = plan(&["10.0.0.0/26", "fd00::/114", "10.0.0.96/27"], 28, 116);
        let mut allocator = Allocator::new(&plan);
        let mut model = Model {
            clusters: plan.cluster_cidrs.iter().map(|c| (*c, plan.node_mask_size(c))).collect(),
            ..Model::default()
        };
        let mut generation = 0_u64;
        for step in steps {
            match step {
                Step::Comes(index, cidrs) => {
                    let text = format!("n{index}");
                    let known = model.holders.get(&text).map(|(g, held)| (*g, held.clone()));
                    let (uid, cidrs) = match known {
                        // CIDRs are set once.
                        Some((uid, held)) if !held.is_empty() => (uid, held),
                        Some((uid, _)) => (uid, cidrs),
                        None => {
                            generation += 1;
                            (generation, cidrs)
                        }
                    };
                    // A node with a claim keeps to it here; the other case has a test of its own.
                    let claimed = allocator.assignments().any(|a| a.node.as_str() == text);
                    if !claimed {
                        allocator.node_is(Node {
                            uid: uid.to_string(),
                            cidrs: cidrs.clone(),
                            ..node(&text, &[])
                        });
                        model.holders.insert(text, (uid, cidrs));
                    }
                }
                Step::Goes(index) => {
                    let text = format!("n{index}");
                    allocator.node_gone(&name(&text));
                    model.holders.remove(&text);
                }
                Step::Allocate(most, written) => {
                    let fresh: BTreeSet<NodeName> = allocator.allocate(most).into_iter().collect();
                    for assignment in allocator.assignments().collect::<Vec<_>>() {
                        if !fresh.contains(&assignment.node) {
                            continue;
                        }
                        prop_assert_eq!(assignment.cidrs.len(), 2);
                        for cidr in &assignment.cidrs {
                            let free = model.free(Family::of(cidr));
                            prop_assert!(free.contains(cidr), "{} of {:?}", cidr, free);
                        }
                        let text = assignment.node.to_string();
                        model.holders.get_mut(&text).unwrap().1 = assignment.cidrs;
                    }
                    let waits = model.holders.values().any(|(_, held)| held.is_empty());
                    let room = allocator.assignments().count() < most;
                    if waits && room {
                        let full = [Family::V4, Family::V6].iter().any(|f| model.free(*f).is_empty());
                        prop_assert!(full, "a free CIDR was not found");
                        prop_assert!(allocator.exhausted().count() > 0);
                    }
                    for assignment in allocator.assignments().take(written).collect::<Vec<_>>() {
                        allocator.node_is(Node {
                            uid: assignment.uid,
                            cidrs: assignment.cidrs,
                            ..node(assignment.node.as_str(), &[])
                        });
                    }
                }
            }
            for (family, left) in allocator.left() {
                prop_assert_eq!(left, model.free(family).len() as u128);
            }
        }
        // After a restart: whatever the order, the same answer.
        let claims: Vec<Assignment> = allocator.assignments().collect();
        let facts = |text: &str, uid: u64, held: &[IpNet]| {
            let claimed = claims.iter().any(|claim| claim.node.as_str() == text);
            Node {
                uid: uid.to_string(),
                cidrs: if claimed { Vec::new() } else { held.to_vec() },
                ..node(text, &[])
            }
        };
        let all: Vec<Node> = model.holders.iter().map(|(text, (uid, held))| facts(text, *uid, held)).collect();
        let mut answers = Vec::new();
        for reversed in [false, true] {
            let mut again = Allocator::new(&plan);
            let mut all = all.clone();
            if reversed {
                all.reverse();
            }
            again.nodes_are(all);
            for claim in &claims {
                again.restore(&claim.node, &claim.uid, &claim.cidrs);
            }
            again.allocate(usize::MAX);
            answers.push((assigned(&again), again.findings()));
        }
        prop_assert_eq!(&answers[0], &answers[1]);
        // And it is the lowest of the first cluster CIDR that has one, node by node.
        for (text, (uid, held)) in model.holders.clone() {
            if !held.is_empty() {
                continue;
            }
            let lowest: Option<Vec<IpNet>> = [Family::V4, Family::V6]
                .iter()
                .map(|family| model.free(*family).first().copied())
                .collect();
            let expected = lowest.as_ref().map(|cidrs| {
                cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            });
            let answer = answers[0].0.iter().find(|(node, _)| *node == text).map(|(_, cidrs)| cidrs.clone());
            prop_assert_eq!(answer, expected);
            if let Some(cidrs) = lowest {
                model.holders.insert(text, (uid, cidrs));
            }
        }
    }
}
