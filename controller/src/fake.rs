//! A stand-in for the API server's answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use carrick_k8s::client::CallError;
use carrick_policy::PolicyName;
use carrick_proto::{NodeName, PodUid};
use parking_lot::Mutex;

use crate::cluster::{Cluster, Refusal};
use crate::index::Listed;

/// Knows tokens, nodes and pods; counts what it is asked.
#[derive(Debug, Default)]
pub struct FakeCluster {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tokens: BTreeMap<String, String>,
    nodes: BTreeSet<NodeName>,
    pods: BTreeMap<NodeName, BTreeSet<PodUid>>,
    policies: BTreeSet<PolicyName>,
    listed: BTreeMap<String, Listed>,
    questions: usize,
    away: bool,
    reviews: usize,
    lists: usize,
}

impl FakeCluster {
    /// `token` is bound to `node`.
    pub fn token(&self, token: &str, node: &str) {
        self.state.lock().tokens.insert(token.into(), node.into());
    }

    /// `node` exists.
    pub fn node(&self, node: &str) {
        self.state.lock().nodes.insert(NodeName::new(node).unwrap());
    }

    /// A pod exists on `node`.
    pub fn pod(&self, node: &str, uid: &str) {
        let node = NodeName::new(node).unwrap();
        self.state
            .lock()
            .pods
            .entry(node)
            .or_default()
            .insert(PodUid::new(uid).unwrap());
    }

    /// A policy exists.
    pub fn policy(&self, name: PolicyName) {
        self.state.lock().policies.insert(name);
    }

    /// What there is of policy for pods of the namespace.
    pub fn listed(&self, namespace: &str, listed: Listed) {
        self.state.lock().listed.insert(namespace.into(), listed);
    }

    /// How often it was asked what there is of policy.
    pub fn questions(&self) -> usize {
        self.state.lock().questions
    }

    /// Answers nothing, or answers again.
    pub fn away(&self, away: bool) {
        self.state.lock().away = away;
    }

    /// TokenReviews so far.
    pub fn reviews(&self) -> usize {
        self.state.lock().reviews
    }

    /// Lists and reads so far.
    pub fn lists(&self) -> usize {
        self.state.lock().lists
    }
}

fn gone() -> CallError {
    CallError::TimedOut {
        what: "a question to the fake",
        limit: Duration::from_secs(1),
    }
}

#[tonic::async_trait]
impl Cluster for FakeCluster {
    async fn review(&self, token: &str) -> Result<NodeName, Refusal> {
        let mut state = self.state.lock();
        state.reviews += 1;
        if state.away {
            return Err(Refusal::Unavailable {
                problem: "away".into(),
            });
        }
        let node = state.tokens.get(token).ok_or(Refusal::Invalid)?;
        NodeName::new(node).map_err(|_| Refusal::Unbound)
    }

    async fn pods_on(&self, node: &NodeName) -> Result<BTreeSet<PodUid>, CallError> {
        let mut state = self.state.lock();
        state.lists += 1;
        if state.away {
            return Err(gone());
        }
        Ok(state.pods.get(node).cloned().unwrap_or_default())
    }

    async fn nodes_among(
        &self,
        nodes: &BTreeSet<NodeName>,
    ) -> Result<BTreeSet<NodeName>, CallError> {
        let mut state = self.state.lock();
        state.lists += 1;
        if state.away {
            return Err(gone());
        }
        Ok(state.nodes.intersection(nodes).cloned().collect())
    }

    async fn policies_among(
        &self,
        policies: &BTreeSet<PolicyName>,
    ) -> Result<BTreeSet<PolicyName>, CallError> {
        let mut state = self.state.lock();
        state.lists += usize::from(!policies.is_empty());
        if state.away {
            return Err(gone());
        }
        Ok(state.policies.intersection(policies).cloned().collect())
    }

    async fn policy_for(&self, namespace: &str) -> Result<Listed, CallError> {
        let mut state = self.state.lock();
        state.questions += 1;
        if state.away {
            return Err(gone());
        }
        Ok(state.listed.get(namespace).cloned().unwrap_or_default())
    }
}
