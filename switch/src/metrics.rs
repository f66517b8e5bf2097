//! Metrics of the supervisor, in one place.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Which daemon.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DaemonLabel {
    pub(crate) daemon: &'static str,
}

/// How a replay ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RestoreLabel {
    pub(crate) result: RestoreResult,
}

/// How a replay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum RestoreResult {
    /// All of the commit is in the switch.
    Restored,
    /// There was nothing to replay.
    Nothing,
    /// The file was of no use.
    Unusable,
    /// The switch refused, or it took too long.
    Failed,
}

/// The metrics and their registry.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) starts: Family<DaemonLabel, Counter>,
    pub(crate) restores: Family<RestoreLabel, Counter>,
    pub(crate) restore_seconds: Gauge<f64, AtomicU64>,
    pub(crate) restored_flows: Gauge<i64, AtomicI64>,
    pub(crate) ready: Gauge<i64, AtomicI64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("carrick_switch"),
            starts: Family::default(),
            restores: Family::default(),
            restore_seconds: Gauge::default(),
            restored_flows: Gauge::default(),
            ready: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "daemon_starts",
            "Starts of a daemon",
            metrics.starts.clone(),
        );
        registry.register(
            "restores",
            "Replays of the agent's last commit, by result",
            metrics.restores.clone(),
        );
        registry.register(
            "last_restore_seconds",
            "From the start of ovs-vswitchd until its flows were back, the last time",
            metrics.restore_seconds.clone(),
        );
        registry.register(
            "last_restored_flows",
            "Flows of the last replay",
            metrics.restored_flows.clone(),
        );
        registry.register(
            "ready",
            "1 when the switch runs and is released",
            metrics.ready.clone(),
        );
        metrics
    }

    /// The metrics as text for Prometheus.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
