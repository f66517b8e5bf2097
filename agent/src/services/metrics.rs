//! How Services get into the switch, in numbers.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
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
    /// The same as a kube-proxy counts.
    pub kube_proxy: KubeProxyMetrics,
}

/// Metrics of a kube-proxy, by the names that dashboards have for them; in mode `Full` only.
#[derive(Debug, Clone)]
pub struct KubeProxyMetrics {
    /// Seconds that a batch took.
    pub sync_duration: Histogram,
    /// Seconds from the time an EndpointSlice says something happened to its being in place.
    pub programming_duration: Histogram,
    /// Slices that came, changed or went.
    pub endpoint_changes: Counter,
    /// Services that came, changed or went.
    pub service_changes: Counter,
    /// When everything was last in place, in seconds since 1970.
    pub last_sync: Gauge<f64, AtomicU64>,
}

impl Default for KubeProxyMetrics {
    fn default() -> Self {
        // The same limits as a kube-proxy's, without which quantiles are others.
        let quarter = [0.25, 0.5].into_iter();
        let seconds = (1..60).map(f64::from);
        let minutes = (60..120).step_by(5).map(f64::from);
        let more = (120..=300).step_by(30).map(f64::from);
        Self {
            sync_duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            programming_duration: Histogram::new(quarter.chain(seconds).chain(minutes).chain(more)),
            endpoint_changes: Counter::default(),
            service_changes: Counter::default(),
            last_sync: Gauge::default(),
        }
    }
}

impl KubeProxyMetrics {
    /// Registers all of them in a registry without a prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "kubeproxy_sync_proxy_rules_duration",
            "How long a batch of changes of Services took",
            Unit::Seconds,
            self.sync_duration.clone(),
        );
        registry.register_with_unit(
            "kubeproxy_network_programming_duration",
            "From what an EndpointSlice tells of to its being in place",
            Unit::Seconds,
            self.programming_duration.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_endpoint_changes",
            "EndpointSlices that came, changed or went",
            self.endpoint_changes.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_service_changes",
            "Services that came, changed or went",
            self.service_changes.clone(),
        );
        registry.register_with_unit(
            "kubeproxy_sync_proxy_rules_last_timestamp",
            "When all Services were last in place, since 1970",
            Unit::Seconds,
            self.last_sync.clone(),
        );
    }
}

impl Default for SyncMetrics {
    fn default() -> Self {
        Self {
            bundles: Counter::default(),
            modifications: Counter::default(),
            failures: Counter::default(),
            // 1 ms to 16 s.
            duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            kube_proxy: KubeProxyMetrics::default(),
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
