//! Metrics.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::hub::Figures;
use crate::nodeipam::allocator::Family as IpFamily;

/// How a token was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Review {
    /// The agent's, bound to a node.
    Accepted,
    /// Not valid, or someone else's.
    Refused,
    /// The API server could not be asked.
    Unavailable,
    /// Valid, but for another node than the stream's.
    Stolen,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    result: Review,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FamilyLabels {
    family: &'static str,
}

/// What is counted. Clones share the counters.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Batches sent to agents.
    pub batches: Counter,
    /// Records and removals sent to agents.
    pub records_sent: Counter,
    /// Changes read from watches.
    pub events: Counter,
    /// Startup taints removed.
    pub untainted: Counter,
    /// `NetworkUnavailable` conditions set to False.
    pub made_available: Counter,
    /// Nodes that got pod CIDRs.
    pub node_cidrs_allocated: Counter,
    /// Generations of policies that are not enforced as they are written.
    pub policies_not_as_written: Counter,
    without_cidrs: Gauge,
    cidrs_left: Family<FamilyLabels, Gauge>,
    reviews: Family<ReviewLabels, Counter>,
    leader: Gauge,
    epoch: Gauge<u64, AtomicU64>,
    sequence: Gauge<u64, AtomicU64>,
    connected: Gauge,
    behind: Gauge,
    failing: Gauge,
    records: Gauge,
    nodes: Gauge,
    pods: Gauge,
    withheld: Gauge,
    policies: Gauge,
    addresses: Gauge,
    quarantined: Gauge,
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Metrics {
    /// Registers everything under `carrick_controller_`.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("carrick_controller");
        r.register(
            "batches_sent",
            "Batches sent to agents",
            self.batches.clone(),
        );
        r.register(
            "records_sent",
            "Records and removals sent to agents",
            self.records_sent.clone(),
        );
        r.register(
            "watch_events",
            "Changes read from watches",
            self.events.clone(),
        );
        r.register(
            "startup_taints_removed",
            "Startup taints removed from nodes",
            self.untainted.clone(),
        );
        r.register(
            "nodes_made_available",
            "Conditions NetworkUnavailable of nodes that were set to False",
            self.made_available.clone(),
        );
        r.register(
            "node_cidrs_allocated",
            "Nodes that got pod CIDRs from this replica (ipam.mode NodeIPAM)",
            self.node_cidrs_allocated.clone(),
        );
        r.register(
            "nodes_without_cidrs",
            "Nodes without pod CIDRs, by the replica that allocates them",
            self.without_cidrs.clone(),
        );
        r.register(
            "node_cidrs_left",
            "CIDRs in the cluster CIDRs that no node holds, by the replica that allocates them",
            self.cidrs_left.clone(),
        );
        r.register(
            "token_checks",
            "Tokens of agents by how they were judged",
            self.reviews.clone(),
        );
        r.register("leader", "1 while this replica leads", self.leader.clone());
        r.register("epoch", "Epoch of the log", self.epoch.clone());
        r.register("sequence", "Sequence of the log", self.sequence.clone());
        r.register(
            "agents_connected",
            "Agents with a stream to this replica",
            self.connected.clone(),
        );
        r.register(
            "agents_behind",
            "Connected agents that have not acknowledged the newest number",
            self.behind.clone(),
        );
        r.register(
            "agents_failing",
            "Connected agents that could not program a batch",
            self.failing.clone(),
        );
        r.register(
            "records",
            "Records in the log over all nodes",
            self.records.clone(),
        );
        r.register("nodes", "Nodes known", self.nodes.clone());
        r.register("pods", "Pods with a record", self.pods.clone());
        r.register(
            "pods_withheld",
            "New pods that get no record yet: not all policies of their namespaces were seen",
            self.withheld.clone(),
        );
        r.register(
            "policies",
            "Policies that are enforced",
            self.policies.clone(),
        );
        r.register(
            "policies_not_as_written",
            "Generations of policies that are refused, or parts of which cannot be read",
            self.policies_not_as_written.clone(),
        );
        r.register(
            "pod_addresses",
            "Addresses that pods hold by their agents' reports",
            self.addresses.clone(),
        );
        r.register(
            "quarantined_addresses",
            "Released addresses that wait for other nodes",
            self.quarantined.clone(),
        );
    }

    /// Counts a token.
    pub fn review(&self, result: Review) {
        self.reviews.get_or_create(&ReviewLabels { result }).inc();
    }

    /// How many nodes have no pod CIDRs.
    pub fn nodes_without_cidrs(&self, count: usize) {
        self.without_cidrs.set(gauge(count));
    }

    /// How many CIDRs of a family no node holds.
    pub fn node_cidrs_left(&self, family: IpFamily, left: u128) {
        let labels = FamilyLabels {
            family: match family {
                IpFamily::V4 => "ipv4",
                IpFamily::V6 => "ipv6",
            },
        };
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        self.cidrs_left.get_or_create(&labels).set(left);
    }

    /// Shows the hub's numbers.
    pub fn show(&self, figures: &Figures, leader: bool) {
        self.leader.set(i64::from(leader));
        self.epoch.set(figures.number.epoch());
        self.sequence.set(figures.number.sequence());
        self.connected.set(gauge(figures.connected));
        self.behind.set(gauge(figures.behind));
        self.failing.set(gauge(figures.failing));
        self.records.set(gauge(figures.records));
        self.nodes.set(gauge(figures.nodes));
        self.pods.set(gauge(figures.pods));
        self.withheld.set(gauge(figures.withheld));
        self.policies.set(gauge(figures.policies));
        self.addresses.set(gauge(figures.addresses));
        self.quarantined.set(gauge(figures.quarantined));
    }
}
