//! The agent's metrics. Values that are state are read when they are asked for.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use carrick_api::agentinfo::condition;
use carrick_api::effective::ServiceProxyMode;

use crate::node::Node;
use crate::policy;

/// The registry of an agent.
pub fn registry(node: Arc<Node>) -> Registry {
    let mut registry = Registry::default();
    if node.config.service_proxy.mode == ServiceProxyMode::Full {
        node.service_sync.kube_proxy.register(&mut registry);
    }
    let own = registry.sub_registry_with_prefix("carrick_agent");
    node.service_sync.register(own);
    own.register_collector(Box::new(policy::counters::Metrics(Arc::clone(&node))));
    own.register_collector(Box::new(State { node }));
    registry
}

/// Gauges of the node's state.
#[derive(Debug)]
struct State {
    node: Arc<Node>,
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let report = self.node.board.report();
        let usage = self.node.attachments.usage();
        let connected = usize::from(report.holds(condition::CONTROLLER_CONNECTED));
        let committed = self.node.committed();
        let gauges = [
            ("flows", "Flows in the integration bridge.", report.flows),
            ("groups", "Groups in the integration bridge.", report.groups),
            ("pods", "Pods whose ports are open.", report.pods),
            ("services", "Services that are known.", report.services),
            ("peers", "Other nodes that are routed to.", report.peers),
            ("records", "Records of the controller.", committed.len()),
            ("addresses_in_use", "Pod addresses in use.", usage.in_use),
            (
                "addresses_in_quarantine",
                "Released addresses that rest.",
                usage.in_quarantine,
            ),
            (
                "controller_connected",
                "Whether the stream to the controller stands.",
                connected,
            ),
            (
                "ready",
                "Whether the node carries pods.",
                usize::from(report.holds(condition::READY)),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
