//! What the operator counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// How a look ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// applied, refused, paused, failed, …
    pub outcome: &'static str,
}

/// A condition of the Networking.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConditionLabel {
    /// Its type.
    pub condition: String,
}

/// The operator's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Looks, by how they ended.
    pub reconciliations: Family<OutcomeLabel, Counter>,
    /// Seconds a look takes.
    pub duration: Histogram,
    /// Fields of others that were taken out of operands.
    pub drift_removed: Counter,
    /// Operands that were changed.
    pub applied: Counter,
    /// 1 while this replica leads.
    pub leader: Gauge,
    /// 1 while a condition of the Networking is True.
    pub conditions: Family<ConditionLabel, Gauge>,
    /// Nodes that should carry the network.
    pub nodes: Gauge,
    /// Nodes that are ready.
    pub nodes_ready: Gauge,
    /// Nodes that the rollout under way has updated.
    pub rollout_nodes: Gauge,
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciliations: Family::default(),
            duration: Histogram::new(exponential_buckets(0.01, 2.0, 12)),
            drift_removed: Counter::default(),
            applied: Counter::default(),
            leader: Gauge::default(),
            conditions: Family::default(),
            nodes: Gauge::default(),
            nodes_ready: Gauge::default(),
            rollout_nodes: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("carrick_operator");
        registry.register(
            "reconciliations",
            "Looks at the Networking, by outcome",
            metrics.reconciliations.clone(),
        );
        registry.register(
            "reconciliation_seconds",
            "Seconds a look at the Networking takes",
            metrics.duration.clone(),
        );
        registry.register(
            "drift_removed",
            "Fields of others that were taken out of operands",
            metrics.drift_removed.clone(),
        );
        registry.register(
            "applied",
            "Operands that were changed",
            metrics.applied.clone(),
        );
        registry.register(
            "leader",
            "1 while this replica leads",
            metrics.leader.clone(),
        );
        registry.register(
            "networking_condition",
            "1 while the condition of the Networking is True",
            metrics.conditions.clone(),
        );
        registry.register(
            "nodes",
            "Nodes that should carry the network",
            metrics.nodes.clone(),
        );
        registry.register(
            "nodes_ready",
            "Nodes that are ready",
            metrics.nodes_ready.clone(),
        );
        registry.register(
            "rollout_nodes_updated",
            "Nodes that have what the last rollout brings",
            metrics.rollout_nodes.clone(),
        );
        metrics
    }
}
