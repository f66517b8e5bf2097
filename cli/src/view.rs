//! What agents, controllers and conditions look like in a row or in JSON.

use std::collections::BTreeMap;

use carrick_api::agentinfo::{self, DatapathInUse};
use carrick_api::{AgentInfo, ControllerInfo, controllerinfo};
use carrick_k8s::condition::{Status, status_of};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::{Serialize, Serializer};

use crate::table::Table;
use crate::time::age;

/// A condition as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConditionView {
    /// Its type.
    #[serde(rename = "type")]
    pub type_: String,
    /// True, False or Unknown.
    pub status: String,
    /// A word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// Since when it is so.
    pub since: Timestamp,
}

impl From<&Condition> for ConditionView {
    fn from(condition: &Condition) -> Self {
        Self {
            type_: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            since: condition.last_transition_time.0,
        }
    }
}

/// One node's agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentView {
    /// Its node.
    pub node: String,
    /// The node carries pods.
    #[serde(serialize_with = "tri")]
    pub ready: Status,
    /// The stream to the controller stands.
    #[serde(serialize_with = "tri")]
    pub controller_connected: Status,
    /// Kernel or Userspace.
    pub datapath: Option<DatapathInUse>,
    /// Pods attached.
    pub pods: Option<i32>,
    /// Flows on the integration bridge.
    pub flows: Option<i32>,
    /// Groups on the integration bridge.
    pub groups: Option<i32>,
    /// MTU of pods.
    pub mtu: Option<i32>,
    /// The node's pod CIDRs.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    /// Addresses where tunnels end.
    pub tunnel_endpoints: Vec<String>,
    /// Addresses of the gateway.
    pub gateway_addresses: Vec<String>,
    /// The interface that carries tunnels.
    pub transport_interface: String,
    /// The replica of the controller it talks to, or talked to last.
    pub controller: String,
    /// Version of the agent.
    pub version: String,
    /// Version of Open vSwitch.
    pub switch_version: String,
    /// What it says.
    pub conditions: Vec<ConditionView>,
    /// The last thing that failed.
    pub last_error: String,
}

impl From<&AgentInfo> for AgentView {
    fn from(info: &AgentInfo) -> Self {
        let status = info.status.clone().unwrap_or_default();
        let counts = status.counts.as_ref();
        Self {
            node: info.name_any(),
            ready: status_of(&status.conditions, agentinfo::condition::READY),
            controller_connected: status_of(
                &status.conditions,
                agentinfo::condition::CONTROLLER_CONNECTED,
            ),
            datapath: status.datapath,
            pods: counts.map(|counts| counts.pods),
            flows: counts.map(|counts| counts.flows),
            groups: counts.map(|counts| counts.groups),
            mtu: status.mtu,
            pod_cidrs: status.pod_cidrs,
            tunnel_endpoints: status.tunnel_endpoints,
            gateway_addresses: status.gateway_addresses,
            transport_interface: status.transport_interface,
            controller: status
                .controller
                .map(|controller| controller.address)
                .unwrap_or_default(),
            version: status.version,
            switch_version: status.switch_version,
            conditions: status.conditions.iter().map(ConditionView::from).collect(),
            last_error: status.last_error,
        }
    }
}

/// One replica of the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ControllerView {
    /// Its pod.
    pub name: String,
    /// Its node.
    pub node: String,
    /// It serves agents now.
    pub leader: bool,
    /// It serves, or could take over at once.
    #[serde(serialize_with = "tri")]
    pub ready: Status,
    /// Agents with a stream to it.
    pub agents: i32,
    /// Epoch of its log.
    pub epoch: i64,
    /// Where agents reach it.
    pub address: String,
    /// Its version.
    pub version: String,
    /// What it says.
    pub conditions: Vec<ConditionView>,
    /// The last thing that failed.
    pub last_error: String,
}

impl From<&ControllerInfo> for ControllerView {
    fn from(info: &ControllerInfo) -> Self {
        let status = info.status.clone().unwrap_or_default();
        Self {
            name: info.name_any(),
            node: status.node,
            leader: status.leader,
            ready: status_of(&status.conditions, controllerinfo::condition::READY),
            agents: status.connected_agents,
            epoch: status.epoch,
            address: status.address,
            version: status.version,
            conditions: status.conditions.iter().map(ConditionView::from).collect(),
            last_error: status.last_error,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn tri<S: Serializer>(status: &Status, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(status.as_str())
}

/// "yes", "no" or "?".
pub fn yes(status: Status) -> String {
    match status {
        Status::True => "yes",
        Status::False => "no",
        Status::Unknown => "?",
    }
    .into()
}

fn number(value: Option<i32>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The nodes as people read them.
pub fn agents_table(agents: &[AgentView]) -> Table {
    let mut table = Table::new([
        "NODE",
        "READY",
        "CONTROLLER",
        "DATAPATH",
        "PODS",
        "FLOWS",
        "MTU",
        "POD CIDRS",
        "VERSION",
        "LAST ERROR",
    ]);
    for agent in agents {
        table.row([
            agent.node.clone(),
            yes(agent.ready),
            match agent.controller_connected {
                Status::True => "connected".into(),
                Status::False => "lost".into(),
                Status::Unknown => "?".into(),
            },
            agent
                .datapath
                .map(|datapath| format!("{datapath:?}"))
                .unwrap_or_default(),
            number(agent.pods),
            number(agent.flows),
            number(agent.mtu),
            agent.pod_cidrs.join(","),
            agent.version.clone(),
            agent.last_error.clone(),
        ]);
    }
    table
}

/// The replicas as people read them.
pub fn controllers_table(controllers: &[ControllerView]) -> Table {
    let mut table = Table::new([
        "CONTROLLER",
        "ROLE",
        "READY",
        "AGENTS",
        "EPOCH",
        "NODE",
        "VERSION",
        "LAST ERROR",
    ]);
    for controller in controllers {
        table.row([
            controller.name.clone(),
            if controller.leader {
                "leader"
            } else {
                "standby"
            }
            .into(),
            yes(controller.ready),
            controller.agents.to_string(),
            controller.epoch.to_string(),
            controller.node.clone(),
            controller.version.clone(),
            controller.last_error.clone(),
        ]);
    }
    table
}

/// Conditions as people read them.
pub fn conditions_table(conditions: &[ConditionView], now: Timestamp) -> Table {
    let mut table = Table::new(["CONDITION", "STATUS", "FOR", "REASON", "MESSAGE"]);
    for condition in conditions {
        table.row([
            condition.type_.clone(),
            condition.status.clone(),
            age(condition.since, now),
            condition.reason.clone(),
            condition.message.clone(),
        ]);
    }
    table
}

/// Sorted by name, as everything a person sees.
pub fn sorted<T, K: Ord>(items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> K) -> Vec<T> {
    items
        .into_iter()
        .map(|item| (key(&item), item))
        .collect::<BTreeMap<_, _>>()
        .into_values()
        .collect()
}
