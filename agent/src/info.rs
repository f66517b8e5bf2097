//! `AgentInfo`: the report as a Kubernetes object, written on change and seldom.

use std::sync::Arc;
use std::time::Duration;

use carrick_api::agentinfo::{
    AgentCounts, AgentInfo, AgentInfoSpec, AgentInfoStatus, ControllerConnection, DatapathInUse,
};
use carrick_datapath::DatapathKind;
use carrick_k8s::apply::{ApplyError, apply, apply_status};
use carrick_k8s::condition;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::api::ObjectMeta;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::node::Node;
use crate::status::Report;
use carrick_k8s::telemetry::chain;

/// Field manager of everything an agent writes.
pub const FIELD_MANAGER: &str = "carrick-agent";
/// Changes that come together are written together, and a node that flaps does not flood.
const SETTLE: Duration = Duration::from_secs(2);
/// First and longest pause after a failed write.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));
/// Longest text of `lastError`.
const ERROR_BYTES: usize = 1024;

/// Writes the node's `AgentInfo` on change until `shutdown`.
pub async fn run(node: Arc<Node>, client: Client, shutdown: CancellationToken) {
    let mut reports = node.board.watch();
    let mut conditions: Vec<Condition> = Vec::new();
    let mut written: Option<AgentInfoStatus> = None;
    let mut failures = 0_u32;
    loop {
        let report = reports.borrow_and_update().clone();
        let status = AgentInfoStatus {
            pod: node.pod.clone(),
            ..status(&report, &mut conditions, Timestamp::now())
        };
        let pause = if written.as_ref() == Some(&status) {
            None
        } else {
            match write(&client, &node.name, status.clone()).await {
                Ok(()) => {
                    failures = 0;
                    written = Some(status);
                    Some(SETTLE)
                }
                Err(error) => {
                    if failures == 0 {
                        warn!(error = chain(&error), "AgentInfo could not be written");
                    } else {
                        debug!(error = chain(&error), "AgentInfo could not be written");
                    }
                    let pause = RETRY.0.saturating_mul(1 << failures.min(10)).min(RETRY.1);
                    failures = failures.saturating_add(1);
                    Some(pause)
                }
            }
        };
        let wait = async {
            match pause {
                Some(pause) => {
                    tokio::time::sleep(pause).await;
                    if failures == 0 {
                        let _ = reports.changed().await;
                    }
                }
                None => {
                    let _ = reports.changed().await;
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = wait => {}
        }
    }
}

/// Writes the object and its status once.
///
/// # Errors
/// The API server refused or did not answer.
pub async fn write(client: &Client, node: &str, status: AgentInfoStatus) -> Result<(), ApplyError> {
    let api: Api<AgentInfo> = Api::all(client.clone());
    let named = |status| AgentInfo {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            ..ObjectMeta::default()
        },
        spec: AgentInfoSpec::default(),
        status,
    };
    match apply_status(&api, FIELD_MANAGER, &named(Some(status.clone()))).await {
        Err(error) if error.status() == Some(404) => {
            apply(&api, FIELD_MANAGER, &named(None)).await?;
            apply_status(&api, FIELD_MANAGER, &named(Some(status)))
                .await
                .map(drop)
        }
        result => result.map(drop),
    }
}

/// The report as `AgentInfo` shows it. `conditions` keeps transition times between calls.
pub fn status(report: &Report, conditions: &mut Vec<Condition>, now: Timestamp) -> AgentInfoStatus {
    for (type_, fact) in &report.conditions {
        condition::set(
            conditions,
            type_,
            fact.status,
            fact.reason,
            &fact.message,
            None,
            now,
        );
    }
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    AgentInfoStatus {
        pod: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        switch_version: report.switch_version.clone().unwrap_or_default(),
        datapath: report.datapath.map(|datapath| match datapath {
            DatapathKind::System => DatapathInUse::Kernel,
            DatapathKind::Netdev => DatapathInUse::Userspace,
        }),
        pod_cidrs: report.pod_cidrs.iter().map(ToString::to_string).collect(),
        tunnel_endpoints: report
            .tunnel_endpoints
            .iter()
            .map(ToString::to_string)
            .collect(),
        gateway_addresses: report
            .gateway_addresses
            .iter()
            .map(ToString::to_string)
            .collect(),
        transport_interface: report.transport_interface.clone(),
        node_config: report.node_config.clone(),
        mtu: report.mtu.map(i32::from),
        counts: Some(AgentCounts {
            flows: count(report.flows),
            groups: count(report.groups),
            pods: count(report.pods),
        }),
        controller: report
            .controller
            .as_ref()
            .map(|stream| ControllerConnection {
                address: stream.address.clone(),
                epoch: i64::try_from(report.realized.epoch()).unwrap_or(i64::MAX),
                since: Some(Time(stream.since)),
            }),
        conditions: conditions.clone(),
        last_error: cut(&report.last_error),
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(ERROR_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Fact;

    #[test]
    fn equal_reports_are_equal_objects() {
        let mut report = Report::default();
        report
            .conditions
            .insert("Ready", Fact::holds("Programmed", ""));
        report.last_error = "ü".repeat(ERROR_BYTES);
        let mut conditions = Vec::new();
        let early = status(&report, &mut conditions, Timestamp::from_second(1).unwrap());
        let late = status(&report, &mut conditions, Timestamp::from_second(2).unwrap());
        assert_eq!(early, late);
        assert!(early.last_error.len() <= ERROR_BYTES);
    }
}
