//! An agent's own read-only API, through the API server's port-forward to its pod: Kubernetes RBAC
//! (create on pods/portforward in Carrick's namespace) decides who may.

use carrick_api::names::{object, port};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::time::timeout;

use carrick_k8s::client::CallError;

use crate::connect::Cluster;
use crate::pods::{self, Part};

/// The most an agent may answer: its commit file may have 128 MiB.
const ANSWER_MAX: usize = 160 << 20;

/// An agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeApiError {
    /// Looking for its pod failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// No agent runs there.
    #[error(
        "no pod of {} runs on node {node} in namespace {namespace}; `carrickctl get agents` lists nodes, -n names the namespace",
        object::AGENT
    )]
    NoAgent {
        /// The node.
        node: String,
        /// Where it was looked for.
        namespace: String,
    },
    /// The API server or the kubelet refused, or the agent does not listen.
    #[error("cannot forward a port to pod {pod}")]
    Forward {
        /// The agent's pod.
        pod: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// Nothing in time.
    #[error("pod {pod} did not answer {path} in time")]
    Late {
        /// The agent's pod.
        pod: String,
        /// What was asked.
        path: String,
    },
    /// The connection broke.
    #[error("pod {pod} did not answer {path}: {reason}")]
    Broken {
        /// The agent's pod.
        pod: String,
        /// What was asked.
        path: String,
        /// What the kubelet or HTTP says.
        reason: String,
    },
    /// The agent has no answer.
    #[error("the agent in pod {pod} answers {status} to {path}: {message}")]
    Refused {
        /// The agent's pod.
        pod: String,
        /// What was asked.
        path: String,
        /// Its status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// The answer is no JSON.
    #[error("the agent in pod {pod} answers {path} with something that is not JSON")]
    Json {
        /// The agent's pod.
        pod: String,
        /// What was asked.
        path: String,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
}

/// Asks the agent of `node` for `path`, which is ASCII without blanks.
pub async fn get(
    cluster: &Cluster,
    node: &str,
    path: &str,
) -> Result<serde_json::Value, NodeApiError> {
    let namespace = cluster.namespace().await?;
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &namespace);
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = cluster
        .list("looking for the agent's pod", &api, params)
        .await?;
    let pod = pods
        .iter()
        .filter(|pod| Part::of(pod) == Some(Part::Agent))
        // While one pod replaces another, the ready one answers.
        .max_by_key(|pod| pods::ready(pod))
        .map(ResourceExt::name_any)
        .ok_or_else(|| NodeApiError::NoAgent {
            node: node.to_owned(),
            namespace,
        })?;
    let late = || NodeApiError::Late {
        pod: pod.clone(),
        path: path.to_owned(),
    };
    let (status, body) = timeout(cluster.limit, ask(&api, &pod, path))
        .await
        .map_err(|_| late())??;
    if status != StatusCode::OK {
        let message: String = String::from_utf8_lossy(&body)
            .trim()
            .chars()
            .take(400)
            .collect();
        return Err(NodeApiError::Refused {
            pod,
            path: path.to_owned(),
            status,
            message,
        });
    }
    serde_json::from_slice(&body).map_err(|source| NodeApiError::Json {
        pod,
        path: path.to_owned(),
        source,
    })
}

async fn ask(api: &Api<Pod>, pod: &str, path: &str) -> Result<(StatusCode, Bytes), NodeApiError> {
    let broken = |reason: String| NodeApiError::Broken {
        pod: pod.to_owned(),
        path: path.to_owned(),
        reason,
    };
    let mut forward = api
        .portforward(pod, &[port::AGENT_HTTP])
        .await
        .map_err(|source| NodeApiError::Forward {
            pod: pod.to_owned(),
            source: Box::new(source),
        })?;
    let error = forward.take_error(port::AGENT_HTTP);
    let stream = forward
        .take_stream(port::AGENT_HTTP)
        .ok_or_else(|| broken("the port-forward has no stream".to_owned()))?;
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(error.to_string()))?;
        let request = Request::get(path)
            .header(header::HOST, "agent")
            .body(Empty::<Bytes>::new())
            .map_err(|error| broken(error.to_string()))?;
        let answer = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|e| broken(e.to_string()))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX)
                .collect()
                .await
                .map_err(|error| broken(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        // The connection is driven here and ends with the answer: no task to own.
        tokio::pin!(connection, answer);
        tokio::select! {
            done = &mut answer => done,
            closed = &mut connection => {
                closed.map_err(|error| broken(error.to_string()))?;
                answer.await
            }
        }
    };
    let result = exchange.await;
    forward.abort();
    match (result, error) {
        // The kubelet's words say more than "connection closed".
        (Err(failed), Some(error)) => match timeout(ERROR_WAIT, error).await {
            Ok(Some(reason)) => Err(broken(reason)),
            _ => Err(failed),
        },
        (result, _) => result,
    }
}

/// The error channel of a port-forward that failed is there at once, or never.
const ERROR_WAIT: std::time::Duration = std::time::Duration::from_millis(200);
