//! The read-only HTTP API: what this replica knows, for carrickctl and for people.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::hub::Hub;
use crate::reign::Reign;

#[derive(Clone)]
struct Answers {
    hub: Arc<Hub>,
    reign: Reign,
}

/// `GET /v1/status`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusAnswer {
    leader: bool,
    number: String,
    records: usize,
    nodes: usize,
    pods: usize,
    connected_agents: usize,
    agents_behind: usize,
    agents_failing: usize,
    quarantined_addresses: usize,
}

/// One line of `GET /v1/agents`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentAnswer {
    node: String,
    version: String,
    ready: bool,
    realized: String,
    error: Option<String>,
    addresses: usize,
}

/// `/v1/status` and `/v1/agents`.
pub fn routes(hub: Arc<Hub>, reign: Reign) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/agents", get(agents))
        .with_state(Answers { hub, reign })
}

async fn status(State(answers): State<Answers>) -> Json<StatusAnswer> {
    let figures = answers.hub.figures();
    Json(StatusAnswer {
        leader: answers.reign.term().is_some(),
        number: figures.number.to_string(),
        records: figures.records,
        nodes: figures.nodes,
        pods: figures.pods,
        connected_agents: figures.connected,
        agents_behind: figures.behind,
        agents_failing: figures.failing,
        quarantined_addresses: figures.quarantined,
    })
}

async fn agents(State(answers): State<Answers>) -> Json<Vec<AgentAnswer>> {
    let agents = answers.hub.agents().into_iter().map(|agent| AgentAnswer {
        node: agent.node.to_string(),
        version: agent.version,
        ready: agent.ready,
        realized: agent.realized.to_string(),
        error: agent.error,
        addresses: agent.addresses,
    });
    Json(agents.collect())
}
