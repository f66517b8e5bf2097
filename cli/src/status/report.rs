//! What `carrickctl status` tells: JSON as it stands, or text for people. Pure.

use std::fmt::Write as _;

use carrick_api::NetworkingStatus;
use carrick_api::networking::Management;
use carrick_api::status::{RolloutPhase, RolloutStatus, condition};
use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;

use super::diagnose::diagnose;
use super::problem::{Problem, Severity};
use crate::snapshot::Snapshot;
use crate::table::{Table, clean};
use crate::view::{
    AgentView, ConditionView, ControllerView, agents_table, conditions_table, controllers_table,
    sorted,
};

/// Nodes in the table for people; more are cut to those with problems.
const NODES_SHOWN: usize = 50;

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// No problem is an error.
    pub healthy: bool,
    /// The worst first.
    pub problems: Vec<Problem>,
    /// The Networking; nothing when there is none.
    pub network: Option<Network>,
    /// The Networking's conditions.
    pub conditions: Vec<ConditionView>,
    /// The parts of the network.
    pub components: Vec<Component>,
    /// The controller's replicas.
    pub controllers: Vec<ControllerView>,
    /// The nodes with an agent.
    pub nodes: Vec<AgentView>,
}

/// The Networking in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// `Managed`, `Paused` or `Unmanaged`.
    pub management: String,
    /// Encap, …
    pub mode: String,
    /// Geneve, …
    pub tunnel: String,
    /// What was asked for: Auto, Kernel or Userspace.
    pub datapath: String,
    /// What the cluster is.
    pub provider: String,
    /// The version the operator brings.
    pub version: String,
    /// Ready nodes of all: "3/3".
    pub nodes: String,
    /// The last edit's plan in one sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub plan: String,
    /// The rollout under way, or the last one that failed: "Agents: 3 of 5 nodes (…)".
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rollout: String,
    /// The operator's verdict: "Ready", or why not, in a sentence.
    pub state: String,
    /// Where Carrick's parts run.
    pub namespace: String,
}

/// A part of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// controller, agent or switch.
    pub name: String,
    /// Pods wanted.
    pub desired: i32,
    /// Pods of the newest template.
    pub updated: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Versions that run, with the number of pods.
    pub versions: String,
    /// What hinders.
    pub message: String,
}

/// From what was read to what is told.
pub fn report(snapshot: &Snapshot, now: Timestamp) -> Report {
    let problems = diagnose(snapshot, now);
    let status = snapshot
        .networking
        .as_ref()
        .and_then(|n| n.status.clone())
        .unwrap_or_default();
    Report {
        healthy: problems
            .iter()
            .all(|problem| problem.severity != Severity::Error),
        problems,
        network: snapshot.networking.as_ref().map(|networking| {
            let management = networking.spec.management.unwrap_or(Management::Managed);
            network(&status, &snapshot.namespace, management)
        }),
        conditions: status.conditions.iter().map(ConditionView::from).collect(),
        components: components(&status),
        controllers: sorted(snapshot.controllers.iter(), |info| info.name_any())
            .into_iter()
            .map(ControllerView::from)
            .collect(),
        nodes: sorted(snapshot.agents.iter(), |info| info.name_any())
            .into_iter()
            .map(AgentView::from)
            .collect(),
    }
}

fn network(status: &NetworkingStatus, namespace: &str, management: Management) -> Network {
    let effective = status.effective.as_ref();
    let traffic = effective.and_then(|spec| spec.traffic.as_ref());
    let mode = traffic.and_then(|traffic| traffic.mode);
    let tunnel = traffic.and_then(|traffic| traffic.tunnel.as_ref()?.protocol);
    let datapath = effective.and_then(|spec| spec.datapath.as_ref()?.type_);
    Network {
        management: format!("{management:?}"),
        mode: mode.map(|mode| format!("{mode:?}")).unwrap_or_default(),
        tunnel: tunnel
            .map(|tunnel| format!("{tunnel:?}"))
            .unwrap_or_default(),
        datapath: datapath
            .map(|datapath| format!("{datapath:?}"))
            .unwrap_or_default(),
        provider: status
            .provider
            .as_ref()
            .map(|provider| format!("{:?}", provider.detected))
            .unwrap_or_default(),
        version: status
            .versions
            .as_ref()
            .map(|v| v.target.clone())
            .unwrap_or_default(),
        nodes: status
            .nodes
            .as_ref()
            .map(|nodes| nodes.summary.clone())
            .unwrap_or_default(),
        plan: status
            .plan
            .as_ref()
            .map(|plan| plan.summary.clone())
            .unwrap_or_default(),
        rollout: status.rollout.as_ref().map(rollout).unwrap_or_default(),
        state: status
            .conditions
            .iter()
            .find(|condition| condition.type_ == condition::READY)
            .map(|ready| format!("{}: {}", ready.reason, ready.message))
            .unwrap_or_default(),
        namespace: namespace.to_owned(),
    }
}

/// A rollout in one line; nothing when none is under way.
fn rollout(rollout: &RolloutStatus) -> String {
    if matches!(
        rollout.phase,
        RolloutPhase::Complete | RolloutPhase::Installing
    ) {
        return String::new();
    }
    format!(
        "{:?}, {} of {} nodes updated, {} ready: {}",
        rollout.phase, rollout.updated, rollout.total, rollout.ready, rollout.message
    )
}

fn components(status: &NetworkingStatus) -> Vec<Component> {
    status
        .components
        .iter()
        .map(|component| Component {
            name: component.name.clone(),
            desired: component.desired,
            updated: component.updated,
            ready: component.ready,
            versions: status
                .versions
                .as_ref()
                .and_then(|versions| versions.running.get(&component.name).cloned())
                .unwrap_or_default(),
            message: component.message.clone(),
        })
        .collect()
}

impl Report {
    /// Text for people: problems first, then the evidence.
    pub fn text(&self, now: Timestamp) -> String {
        let mut text = String::new();
        self.head(&mut text);
        self.troubles(&mut text);
        let mut section = |table: &str| {
            text.push('\n');
            text.push_str(table);
        };
        if !self.conditions.is_empty() {
            section(&conditions_table(&self.conditions, now).render());
        }
        if !self.components.is_empty() {
            section(&self.components_table().render());
        }
        if !self.controllers.is_empty() {
            section(&controllers_table(&self.controllers).render());
        }
        if !self.nodes.is_empty() {
            section(&self.nodes_text());
        }
        text
    }

    fn head(&self, text: &mut String) {
        let errors = self
            .problems
            .iter()
            .filter(|p| p.severity == Severity::Error)
            .count();
        let warnings = self.problems.len() - errors;
        let verdict = match (errors, warnings) {
            (0, 0) => "healthy".to_owned(),
            (0, n) => format!("healthy, {}", count(n, "warning")),
            (n, _) => format!("not healthy, {}", count(n, "problem")),
        };
        let mut table = Table::headless();
        table.row(["network".into(), verdict]);
        if let Some(network) = &self.network {
            let mode = [&network.mode, &network.tunnel].map(String::as_str);
            let mode: Vec<_> = mode.into_iter().filter(|word| !word.is_empty()).collect();
            table.row(["state".into(), network.state.clone()]);
            table.row(["mode".into(), mode.join(", ")]);
            table.row(["datapath".into(), network.datapath.clone()]);
            table.row(["provider".into(), network.provider.clone()]);
            table.row(["version".into(), network.version.clone()]);
            table.row(["nodes".into(), network.nodes.clone()]);
            if network.management != "Managed" {
                table.row(["management".into(), network.management.clone()]);
            }
            if !network.plan.is_empty() {
                table.row(["plan".into(), network.plan.clone()]);
            }
            if !network.rollout.is_empty() {
                table.row(["rollout".into(), network.rollout.clone()]);
            }
        }
        text.push_str(&table.render());
    }

    fn troubles(&self, text: &mut String) {
        if !self.problems.is_empty() {
            text.push('\n');
        }
        for problem in &self.problems {
            let severity = match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            // Writing into a String cannot fail.
            let _ = writeln!(
                text,
                "{severity}: {}: {}",
                clean(&problem.place()),
                clean(&problem.what)
            );
            if !problem.mend.is_empty() {
                let _ = writeln!(text, "    mend: {}", clean(&problem.mend));
            }
        }
    }

    fn components_table(&self) -> Table {
        let mut table = Table::new([
            "COMPONENT",
            "DESIRED",
            "UPDATED",
            "READY",
            "VERSIONS",
            "MESSAGE",
        ]);
        for component in &self.components {
            table.row([
                component.name.clone(),
                component.desired.to_string(),
                component.updated.to_string(),
                component.ready.to_string(),
                component.versions.clone(),
                component.message.clone(),
            ]);
        }
        table
    }

    fn nodes_text(&self) -> String {
        if self.nodes.len() <= NODES_SHOWN {
            return agents_table(&self.nodes).render();
        }
        let bad: Vec<AgentView> = self
            .nodes
            .iter()
            .filter(|node| {
                let subject = format!("node {}", node.node);
                self.problems
                    .iter()
                    .any(|problem| problem.subjects.contains(&subject))
            })
            .take(NODES_SHOWN)
            .cloned()
            .collect();
        let hidden = self.nodes.len() - bad.len();
        let table = if bad.is_empty() {
            String::new()
        } else {
            agents_table(&bad).render()
        };
        format!(
            "{table}{} not shown: carrickctl get agents\n",
            count(hidden, "node")
        )
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    }
}
