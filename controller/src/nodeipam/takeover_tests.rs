//! Two replicas that both believe that they lead, for as long as they like, against a model of the
//! API server: steps come in any order, watches lag, and a request lands whenever it likes, or again.
//! What a replica does at each step is what `Session` does; nothing here looks at a clock or a term.

use std::collections::BTreeMap;

use carrick_api::effective::NodeIpam;
use carrick_proto::NodeName;
use ipnet::IpNet;
use proptest::prelude::*;

use super::allocator::{Allocator, Assignment, Node};
use super::claim_lease::ClaimsByUid;
use super::claims_for;

/// What a watch tells.
#[derive(Debug, Clone)]
enum Told {
    Is(Node),
    Gone(NodeName),
}

/// The API server.
#[derive(Debug, Default)]
struct World {
    version: u64,
    nodes: BTreeMap<NodeName, Node>,
    /// Every change of a Node, in order.
    log: Vec<Told>,
    lease: (u64, ClaimsByUid),
    /// Requests on their way: patches of Nodes.
    flights: Vec<Assignment>,
}

impl World {
    fn put(&mut self, mut node: Node) {
        self.version += 1;
        node.version = self.version.to_string();
        self.log.push(Told::Is(node.clone()));
        self.nodes.insert(node.name.clone(), node);
    }

    /// Registers the Node, deletes it, or lets its kubelet write it.
    fn change(&mut self, name: &NodeName, leave: bool) {
        match self.nodes.get(name).cloned() {
            Some(_) if leave => {
                self.nodes.remove(name);
                self.log.push(Told::Gone(name.clone()));
            }
            Some(node) => self.put(node),
            None => {
                let uid = format!("uid-{}", self.version);
                self.put(Node {
                    name: name.clone(),
                    uid,
                    created: 0,
                    cidrs: Vec::new(),
                    malformed: None,
                    version: String::new(),
                });
            }
        }
    }

    /// A patch arrives: as the API server judges it.
    fn land(&mut self, patch: &Assignment) {
        let Some(node) = self.nodes.get(&patch.node) else {
            return;
        };
        if node.uid == patch.uid && node.version == patch.version && node.cidrs.is_empty() {
            let cidrs = patch.cidrs.clone();
            let node = node.clone();
            self.put(Node { cidrs, ..node });
        }
    }
}

/// How far a replica is.
#[derive(Debug)]
enum Stage {
    /// It knows nothing.
    Idle,
    /// It has read the Lease.
    Read(u64, ClaimsByUid),
    /// Its write of the Lease was done.
    Taken(u64, ClaimsByUid),
    /// It has listed the Nodes and watches on from there.
    Serving {
        lease: u64,
        allocator: Box<Allocator>,
        cursor: usize,
    },
}

fn plan() -> NodeIpam {
    NodeIpam {
        cluster_cidrs: vec!["10.0.0.0/26".parse().unwrap()],
        node_mask_size_ipv4: 28,
        node_mask_size_ipv6: 64,
    }
}

/// The replica's next step; `some` says how much of the watch it hears before.
fn advance(stage: Stage, world: &mut World, some: usize) -> Stage {
    match stage {
        Stage::Idle => Stage::Read(world.lease.0, world.lease.1.clone()),
        Stage::Read(version, claims) => {
            if version != world.lease.0 {
                return Stage::Idle;
            }
            world.lease.0 += 1;
            Stage::Taken(world.lease.0, claims)
        }
        Stage::Taken(lease, claims) => {
            let mut allocator = Box::new(Allocator::new(&plan()));
            allocator.nodes_are(world.nodes.values().cloned().collect());
            for (uid, claim) in &claims {
                let name = NodeName::new(&claim.node).unwrap();
                allocator.restore(&name, uid, &claim.pod_cidrs);
            }
            Stage::Serving {
                lease,
                allocator,
                cursor: world.log.len(),
            }
        }
        Stage::Serving {
            mut lease,
            mut allocator,
            cursor,
        } => {
            let heard = (cursor + some).min(world.log.len());
            for told in &world.log[cursor..heard] {
                match told {
                    Told::Is(node) => allocator.node_is(node.clone()),
                    Told::Gone(name) => allocator.node_gone(name),
                }
            }
            let fresh = allocator.allocate(2);
            let open: Vec<Assignment> = allocator.assignments().collect();
            if !fresh.is_empty() {
                if lease != world.lease.0 {
                    return Stage::Idle;
                }
                lease += 1;
                world.lease = (lease, claims_for(&open));
            }
            world.flights.extend(open);
            Stage::Serving {
                lease,
                allocator,
                cursor: heard,
            }
        }
    }
}

/// One thing that happens.
#[derive(Debug, Clone)]
enum Step {
    Node(u8, bool),
    Replica(usize, usize),
    /// A request lands; it may land again later.
    Land(usize),
    /// A replica that met a conflict reads the Node and sends its patch once more.
    Resend(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u8..6, prop::bool::weighted(0.4)).prop_map(|(node, leave)| Step::Node(node, leave)),
        5 => (0_usize..2, 0_usize..4).prop_map(|(replica, some)| Step::Replica(replica, some)),
        3 => any::<usize>().prop_map(Step::Land),
        2 => any::<usize>().prop_map(Step::Resend),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_two_nodes_get_one_cidr_from_two_leaders(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let mut world = World::default();
        let mut replicas = [Stage::Idle, Stage::Idle];
        for step in steps {
            match step {
                Step::Node(index, leave) => {
                    world.change(&NodeName::new(&format!("n{index}")).unwrap(), leave);
                }
                Step::Replica(index, some) => {
                    let stage = std::mem::replace(&mut replicas[index], Stage::Idle);
                    replicas[index] = advance(stage, &mut world, some);
                }
                Step::Land(index) if !world.flights.is_empty() => {
                    let patch = world.flights[index % world.flights.len()].clone();
                    world.land(&patch);
                }
                Step::Resend(index) if !world.flights.is_empty() => {
                    let mut patch = world.flights[index % world.flights.len()].clone();
                    if let Some(node) = world.nodes.get(&patch.node) {
                        patch.version.clone_from(&node.version);
                        world.land(&patch);
                    }
                }
                Step::Land(_) | Step::Resend(_) => {}
            }
            let held: Vec<IpNet> = world.nodes.values().flat_map(|node| node.cidrs.clone()).collect();
            for (index, cidr) in held.iter().enumerate() {
                prop_assert!(!held[..index].contains(cidr), "{} twice: {:#?}", cidr, world);
            }
        }
    }
}
