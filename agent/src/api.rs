//! The read-only API: what this node is and holds, as JSON, on loopback and a unix socket.
//!
//! carrickctl reaches it by the API server's port-forward, so Kubernetes RBAC decides who may.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use carrick_datapath::Commit;
use carrick_datapath::services::ServiceName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::ipam::PodRef;
use crate::node::Node;
use crate::policy::view::{Asked as Which, Query as PolicyQuery};
use crate::services::explain::{Refusal, Surroundings};
use crate::services::view::Query as ServiceQuery;

/// How long an answer of the programmer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The routes below `/v1`.
pub fn routes(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v1/state", get(state))
        .route("/v1/attachments", get(attachments))
        .route("/v1/addresses", get(addresses))
        .route("/v1/records", get(records))
        .route("/v1/flows", get(flows))
        .route("/v1/services", get(services))
        .route("/v1/services/explain", get(explain))
        .route("/v1/policies/explain", get(judge))
        .route("/v1/policies/groups", get(groups))
        .route("/v1/policies", get(policies))
        .route("/v1/config", get(config))
        .with_state(node)
}

/// Serves `app` on a unix socket until `shutdown`. A socket that a killed agent left is replaced.
///
/// # Errors
/// The socket cannot be made.
pub fn serve_socket(
    path: &Path,
    app: Router,
    shutdown: CancellationToken,
) -> std::io::Result<tokio::task::JoinHandle<()>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Whoever is root on the host may read; others ask by the API server.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    info!(socket = %path.display(), "serving the read API");
    Ok(tokio::spawn(async move {
        let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned());
        if let Err(error) = serving.await {
            error!(%error, "the read API failed");
        }
    }))
}

/// A report as it goes out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StateAnswer {
    node: String,
    version: &'static str,
    boot_id: String,
    committed: String,
    report: crate::status::Report,
}

async fn state(State(node): State<Arc<Node>>) -> Json<StateAnswer> {
    Json(StateAnswer {
        node: node.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        boot_id: node.boot_id.clone(),
        committed: node.committed().number().to_string(),
        report: node.board.report(),
    })
}

async fn attachments(State(node): State<Arc<Node>>) -> Json<Value> {
    let all = node.attachments.attachments();
    let list: Vec<_> = all.values().map(Arc::as_ref).collect();
    Json(json!({ "attachments": list }))
}

async fn addresses(State(node): State<Arc<Node>>) -> Json<Value> {
    let usage = node.attachments.usage();
    let (in_use, resting) = node.attachments.reported_addresses();
    let entry = |pod: &PodRef, addresses: &[IpAddr]| {
        json!({
            "namespace": pod.namespace,
            "name": pod.name,
            "uid": pod.uid,
            "addresses": addresses,
        })
    };
    let held: Vec<Value> = in_use.iter().map(|h| entry(&h.pod, &h.addresses)).collect();
    let resting: Vec<Value> = resting
        .iter()
        .map(|r| entry(&r.pod, &r.addresses))
        .collect();
    Json(json!({
        "inUse": usage.in_use,
        "inQuarantine": usage.in_quarantine,
        "free": usage.free.to_string(),
        "held": held,
        "resting": resting,
    }))
}

async fn records(State(node): State<Arc<Node>>) -> Json<Value> {
    let committed = node.committed();
    let records: Vec<Value> = committed
        .held()
        .map(|(key, hash)| json!({ "key": key.to_string(), "hash": hash.to_string() }))
        .collect();
    let routes: Vec<Value> = committed
        .routes()
        .map(|route| {
            json!({
                "node": route.node.to_string(),
                "podCIDRs": route.pod_cidrs,
                "tunnelEndpoints": route.tunnel_endpoints,
            })
        })
        .collect();
    Json(json!({
        "number": committed.number().to_string(),
        "records": records,
        "routes": routes,
    }))
}

/// The saved commit: what the switch was last made to hold, in the syntax of ovs-ofctl.
async fn flows(State(node): State<Arc<Node>>) -> Response {
    let commit = std::fs::read(node.paths.commit())
        .ok()
        .and_then(|bytes| Commit::from_bytes(&bytes).ok());
    match commit {
        Some(commit) => Json(commit).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            "nothing was programmed in this boot\n",
        )
            .into_response(),
    }
}

/// What of Services is asked for.
#[derive(Deserialize)]
struct Asked {
    /// `namespace/name`: that one, with its backends.
    service: Option<String>,
}

/// Services: frontends, and how many backends each has.
async fn services(State(node): State<Arc<Node>>, Query(asked): Query<Asked>) -> Response {
    let name = asked.service.as_deref().map(|text| text.split_once('/'));
    let service = match name {
        None => None,
        Some(Some((namespace, name))) => Some(ServiceName::new(namespace, name)),
        Some(None) => {
            let text = "service is namespace/name\n";
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let (reply, answer) = oneshot::channel();
    match answered(
        &node.service_queries,
        ServiceQuery::Services { service, reply },
        answer,
    )
    .await
    {
        Ok(answer) => Json(answer).into_response(),
        Err(response) => response,
    }
}

/// Which policies are asked for.
#[derive(Deserialize)]
struct AskedPolicy {
    /// `NAMESPACE/NAME`, or the `NAME` of a ClusterNetworkPolicy: that one.
    policy: Option<String>,
    /// `NAMESPACE/NAME`: those for this pod.
    pod: Option<String>,
    /// Of groups, this one with all of its members.
    group: Option<String>,
}

impl AskedPolicy {
    /// What the programmer is asked for, and which group.
    ///
    /// # Errors
    /// The pod is none of this node's.
    fn known(self, node: &Node) -> Result<(Which, Option<String>), Box<Response>> {
        let Self { policy, pod, group } = self;
        if let Some(asked) = &pod {
            let committed = node.committed();
            let mut names = committed
                .pods()
                .map(|pod| format!("{}/{}", pod.namespace, pod.name));
            if !names.any(|name| name == *asked) {
                let text =
                    format!("{asked} is no pod of this node that has a network of its own\n");
                return Err(Box::new((StatusCode::NOT_FOUND, text).into_response()));
            }
        }
        Ok((Which { policy, pod }, group))
    }
}

/// Policies for this node's pods, and what they have in the switch.
async fn policies(State(node): State<Arc<Node>>, Query(asked): Query<AskedPolicy>) -> Response {
    let asked = match asked.known(&node) {
        Ok((asked, _)) => asked,
        Err(response) => return *response,
    };
    let (reply, answer) = oneshot::channel();
    let query = PolicyQuery::Policies { asked, reply };
    match answered(&node.policy_queries, query, answer).await {
        Ok(answer) => Json(answer).into_response(),
        Err(response) => response,
    }
}

/// Groups of peers that these policies name.
async fn groups(State(node): State<Arc<Node>>, Query(asked): Query<AskedPolicy>) -> Response {
    let (asked, group) = match asked.known(&node) {
        Ok(known) => known,
        Err(response) => return *response,
    };
    let (reply, answer) = oneshot::channel();
    let query = PolicyQuery::Groups {
        asked,
        group,
        reply,
    };
    match answered(&node.policy_queries, query, answer).await {
        Ok(answer) => Json(answer).into_response(),
        Err(response) => response,
    }
}

/// What becomes of a connection to or from a pod of this node, and which rule says so.
async fn judge(
    State(node): State<Arc<Node>>,
    Query(asked): Query<crate::policy::explain::Asked>,
) -> Response {
    let known = surroundings(&node);
    let question = match asked.question(known.pods, known.own.into_iter().collect()) {
        Ok(question) => question,
        Err(refusal) => {
            let status = match refusal {
                crate::policy::explain::Refusal::NoPod(_) => StatusCode::NOT_FOUND,
                _ => StatusCode::BAD_REQUEST,
            };
            return (status, format!("{refusal}\n")).into_response();
        }
    };
    let (reply, answer) = oneshot::channel();
    let query = PolicyQuery::Explain { question, reply };
    match answered(&node.policy_queries, query, answer).await {
        Ok(answer) => Json(answer).into_response(),
        Err(response) => response,
    }
}

/// What becomes of a packet to a Service, and why.
async fn explain(
    State(node): State<Arc<Node>>,
    Query(asked): Query<crate::services::explain::Asked>,
) -> Response {
    let question = match asked.question(surroundings(&node)) {
        Ok(question) => Box::new(question),
        Err(refusal) => return refused(&refusal),
    };
    let (reply, answer) = oneshot::channel();
    match answered(
        &node.service_queries,
        ServiceQuery::Explain { question, reply },
        answer,
    )
    .await
    {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(refusal)) => refused(&refusal),
        Err(response) => response,
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::NoPlan => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Unknown(_) => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_REQUEST,
    };
    (status, format!("{refusal}\n")).into_response()
}

/// What this node knows of addresses.
fn surroundings(node: &Node) -> Surroundings {
    let mut known = Surroundings::default();
    if let Some(plan) = node.plan.borrow().as_deref() {
        known.own.extend(plan.gateway.addresses.iter());
        known.own.extend(plan.transport.endpoints.iter());
        known.peers.extend(plan.peers.iter().map(|(name, peer)| {
            let of_peer = (peer.pod_cidrs.clone(), peer.endpoints.iter().collect());
            (name.clone(), of_peer)
        }));
    }
    for attachment in node.attachments.attachments().values() {
        let (namespace, name) = (&attachment.pod.namespace, &attachment.pod.name);
        let pod = format!("{namespace}/{name}");
        let addresses = attachment.addresses.iter();
        known
            .pods
            .extend(addresses.map(|address| (*address, pod.clone())));
    }
    known
}

/// Asks the programmer.
async fn answered<Q, T>(
    queries: &mpsc::Sender<Q>,
    query: Q,
    answer: oneshot::Receiver<T>,
) -> Result<T, Response> {
    // With no room for it, the question is dropped and its answer with it.
    let _ = queries.try_send(query);
    // The programmer may be busy with a switch that does not answer.
    if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, answer).await {
        return Ok(answer);
    }
    let text = "the programmer does not answer now\n";
    Err((StatusCode::SERVICE_UNAVAILABLE, text).into_response())
}

async fn config(State(node): State<Arc<Node>>) -> Response {
    Json(&node.config).into_response()
}
