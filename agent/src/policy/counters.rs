//! What rules of policy have decided, as the switch counts it.
//!
//! A rule's flow that decides carries the rule's cookie, so a rule's count is the sum over the flows with its cookie.
//! Policy's tables see packets of connections that were not answered yet: of what a rule accepts that is the first
//! packet of a connection, and whatever its sender repeats meanwhile; of what a rule denies it is each.

use std::collections::BTreeMap;
use std::time::Duration;

use carrick_datapath::policy::Enforcer;
use carrick_datapath::{CookieParts, Kind};
use carrick_openflow::FlowStats;
use carrick_policy::{Action, Direction, Tier};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use serde::Serialize;

/// How often the switch is asked while nobody else asks: what goes with a rule between two of these is not counted.
pub(super) const EVERY: Duration = Duration::from_secs(30);

/// What met the flows of one rule since they are there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes, with their Ethernet headers.
    pub bytes: u64,
}

/// Counts by ids of rules.
pub(crate) type Counts = BTreeMap<u32, Count>;

/// Rules that are alike for who looks at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) direction: Direction,
    pub(super) tier: Tier,
    pub(super) action: Action,
}

/// Counts of what the switch has read.
pub(super) fn by_rule(flows: &[FlowStats]) -> Counts {
    let mut counts = Counts::new();
    for read in flows {
        let Some(parts) = CookieParts::from_bits(read.flow.cookie.0) else {
            continue;
        };
        if parts.kind == Kind::PolicyRule && parts.object != 0 {
            let count = counts.entry(parts.object).or_default();
            count.packets = count.packets.saturating_add(read.packets);
            count.bytes = count.bytes.saturating_add(read.bytes);
        }
    }
    counts
}

/// What rules decided since the agent runs, for metrics.
#[derive(Debug, Default)]
pub struct Totals(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    last: Counts,
    totals: BTreeMap<Class, Count>,
}

impl Totals {
    /// Adds what was counted since the last time. Where a rule's count went down, because one of its flows did, nothing
    /// is added: a packet is never counted twice.
    pub(super) fn add(&self, counts: &Counts, enforcer: &Enforcer) {
        let mut inner = self.0.lock();
        let Inner { last, totals } = &mut *inner;
        for name in enforcer.state().policies.keys() {
            let Some(policy) = enforcer.state().policies.get(name) else {
                continue;
            };
            for part in enforcer.parts(name).filter(|part| part.id != 0) {
                let class = Class {
                    direction: part.direction,
                    tier: policy.tier,
                    action: part.rule.map_or(Action::Deny, |rule| rule.action),
                };
                let now = counts.get(&part.id).copied().unwrap_or_default();
                let before = last.get(&part.id).copied().unwrap_or_default();
                let total = totals.entry(class).or_default();
                total.packets += now.packets.saturating_sub(before.packets);
                total.bytes += now.bytes.saturating_sub(before.bytes);
            }
        }
        last.clone_from(counts);
    }
}

/// `carrick_agent_policy_{packets,bytes}_total` by direction, tier and action: 18 series each at most.
#[derive(Debug)]
pub(crate) struct Metrics(pub(crate) std::sync::Arc<crate::node::Node>);

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let totals = self.0.policy_totals.0.lock().totals.clone();
        let packets = "Packets that rules of policy decided on: first packets of connections, and whatever was denied.";
        let all = [
            ("policy_packets", packets),
            ("policy_bytes", "Bytes of these packets."),
        ];
        for (name, help) in all {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (class, count) in &totals {
                let labels = [
                    ("direction", direction_name(class.direction)),
                    ("tier", super::view::tier_name(class.tier)),
                    ("action", action_name(class.action)),
                ];
                let value = match name {
                    "policy_bytes" => count.bytes,
                    _ => count.packets,
                };
                let counter = ConstCounter::new(value);
                counter.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

pub(super) const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "Ingress",
        Direction::Egress => "Egress",
    }
}

pub(super) const fn action_name(action: Action) -> &'static str {
    match action {
        Action::Accept => "Accept",
        Action::Pass => "Pass",
        Action::Deny => "Deny",
    }
}
