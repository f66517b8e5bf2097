//! How Services get into the switch, in numbers.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Counted by the driver. Clones count together.
#[derive(Debug, Clone)]
pub struct SyncMetrics {
    /// Bundles that the switch has acknowledged.
    pub bundles: Counter,
    /// Modifications in them.
    pub modifications: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Seconds from the first change that was waiting to the switch's acknowledgement of all.
    pub duration: Histogram,
}

impl Default for SyncMetrics {
    fn default() -> Self {
        Self {
            bundles: Counter::default(),
            modifications: Counter::default(),
            failures: Counter::default(),
            // 1 ms to 16 s.
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
        }
    }
}

impl SyncMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "services_bundles",
            "Bundles of changes to Services that the switch has acknowledged",
            self.bundles.clone(),
        );
        registry.register(
            "services_modifications",
            "Flows and groups of Services that were changed",
            self.modifications.clone(),
        );
        registry.register(
            "services_failures",
            "Attempts to change Services in the switch that failed",
            self.failures.clone(),
        );
        registry.register_with_unit(
            "services_sync_duration",
            "From the first waiting change of Services to the acknowledgement of all by the switch",
            Unit::Seconds,
            self.duration.clone(),
        );
    }
}
