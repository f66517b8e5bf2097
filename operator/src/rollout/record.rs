//! What outlives the operator: the last good render and the attempt under way.
//!
//! One Secret, read once by each leader and written by it alone. An older operator reads what a
//! newer one wrote, by [`crate::skew`].

use std::collections::{BTreeMap, BTreeSet};

use carrick_api::status::{RolloutDirection, RolloutFailure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Change, Part, Render};
use crate::object::{Id, Kind, Object};

/// What outlives the operator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// What ran last on every reachable node without a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<Good>,
    /// The rollout under way, or the last one that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Attempt>,
}

/// A render that ran.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Good {
    /// What tells it apart.
    pub render: Render,
    /// Workloads and the configuration they read, as they were applied.
    pub objects: Vec<Stored>,
    /// The effective spec it was rendered from; null when it was taken from a cluster that an
    /// operator without ordered rollouts had made.
    #[serde(default)]
    pub effective: Value,
}

/// An object in the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// `Deployment`, `DaemonSet` or `ConfigMap`.
    pub kind: StoredKind,
    /// Its name.
    pub name: String,
    /// The whole object.
    pub body: Value,
}

/// Kinds that go back with a rollback. Permissions do not: those of the operator's own version
/// serve older agents as well, and it may grant no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoredKind {
    /// The configuration.
    ConfigMap,
    /// The controller.
    Deployment,
    /// Agents and switches.
    DaemonSet,
}

impl Stored {
    /// The object, if it is of a kind that goes back with a rollback.
    pub fn new(object: &Object) -> Option<Self> {
        let kind = match object.id.kind {
            Kind::ConfigMap => StoredKind::ConfigMap,
            Kind::Deployment => StoredKind::Deployment,
            Kind::DaemonSet => StoredKind::DaemonSet,
            _ => return None,
        };
        Some(Self {
            kind,
            name: object.id.name.clone(),
            body: object.body.clone(),
        })
    }

    /// As an operand.
    pub fn object(&self) -> Object {
        let kind = match self.kind {
            StoredKind::ConfigMap => Kind::ConfigMap,
            StoredKind::Deployment => Kind::Deployment,
            StoredKind::DaemonSet => Kind::DaemonSet,
        };
        Object {
            id: Id {
                kind,
                name: self.name.clone(),
            },
            body: self.body.clone(),
        }
    }
}

/// What must hold on a node before the next one's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Gate {
    /// Its pods are ready.
    Ready,
    /// Other nodes answer its pings.
    Peers,
    /// Its agent has a stream to a new controller.
    Controller,
}

/// A node whose pod we delete, until it has shown that it works: one that falls silent meanwhile may
/// have done so because of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Of which DaemonSet.
    pub part: Part,
    /// The node.
    pub node: String,
}

/// A rollout under way, or the last one that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// [`Render::hash`] of what is rolled out.
    pub hash: String,
    /// Hash of the spec without `rollout`, and of the images.
    pub spec: String,
    /// The operator's version.
    pub version: String,
    /// Where it goes.
    pub direction: RolloutDirection,
    /// Parts that had to change when it began, those that one before it had changed included.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub parts: BTreeSet<Part>,
    /// Every node that reported had the images: from here on things restart.
    #[serde(default)]
    pub pulled: bool,
    /// Whose turn it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<Turn>,
    /// Nodes that were not well before, and what says nothing about the new render there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub excused: BTreeMap<String, BTreeSet<Gate>>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<RolloutFailure>,
    /// Nodes that did not become ready on the way back.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub given_up: BTreeSet<String>,
    /// Everything is back where it was.
    #[serde(default)]
    pub settled: bool,
}

impl Attempt {
    /// The gate says nothing on this node.
    pub fn excuses(&self, node: &str, gate: Gate) -> bool {
        self.excused
            .get(node)
            .is_some_and(|gates| gates.contains(&gate))
    }
}

impl Record {
    /// The record after `change`. `succeeded` is the good render that [`Change::Succeed`] leaves.
    #[must_use]
    pub fn after(&self, change: &Change, succeeded: impl FnOnce() -> Good) -> Self {
        let mut next = self.clone();
        match change {
            Change::Begin(attempt) => next.attempt = Some(attempt.clone()),
            Change::Fail(failure) => {
                if let Some(attempt) = &mut next.attempt {
                    attempt.failure = Some(failure.clone());
                    attempt.turn = None;
                }
            }
            Change::Turn(turn, gates) => {
                if let Some(attempt) = &mut next.attempt {
                    attempt.turn = Some(turn.clone());
                    let held = attempt.excused.entry(turn.node.clone()).or_default();
                    // Streams to the controller are looked at before any agent's turn.
                    held.retain(|gate| *gate == Gate::Controller);
                    held.extend(gates);
                    attempt.excused.retain(|_, gates| !gates.is_empty());
                }
            }
            Change::Pulled => {
                if let Some(attempt) = &mut next.attempt {
                    attempt.pulled = true;
                }
            }
            Change::Pass => {
                if let Some(attempt) = &mut next.attempt {
                    attempt.turn = None;
                }
            }
            Change::GiveUp(node) => {
                if let Some(attempt) = &mut next.attempt {
                    attempt.given_up.insert(node.clone());
                }
            }
            Change::Settle => {
                if let Some(attempt) = &mut next.attempt {
                    attempt.settled = true;
                }
            }
            Change::Forget => next.attempt = None,
            Change::Succeed => {
                next.attempt = None;
                next.good = Some(succeeded());
            }
        }
        next
    }
}
