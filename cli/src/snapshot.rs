//! Everything `status` looks at, read from the API server at one time.

use carrick_api::{AgentInfo, ControllerInfo, Networking, names};
use carrick_k8s::client::CallError;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;

use crate::connect::Cluster;

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The API server knows our resources.
    pub installed: Installed,
    /// Where Carrick's parts run.
    pub namespace: String,
    /// The one object.
    pub networking: Option<Networking>,
    /// By node.
    pub agents: Vec<AgentInfo>,
    /// By replica.
    pub controllers: Vec<ControllerInfo>,
    /// The cluster's nodes; nothing when they may not be read.
    pub nodes: Option<Vec<Node>>,
    /// The pods of Carrick's namespace; nothing when they may not be read.
    pub pods: Option<Vec<Pod>>,
}

/// Whether the CRDs are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Installed {
    /// They are.
    Yes,
    /// They are not.
    #[default]
    No,
}

/// Reads it all, concurrently. Nodes and pods may be forbidden to the reader; the rest may not.
pub async fn read(cluster: &Cluster) -> Result<Snapshot, CallError> {
    let client = &cluster.client;
    let networkings: Api<Networking> = Api::all(client.clone());
    let found = networkings.get_opt(names::NETWORKING_NAME);
    let networking = match cluster.ask("reading the Networking", found).await {
        Ok(found) => found,
        // No such object is `None`; no such resource is a page that is not there.
        Err(error) if error.status() == Some(404) => return Ok(Snapshot::default()),
        Err(error) => return Err(error),
    };
    let namespace = cluster.namespace().await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let nodes: Api<Node> = Api::all(client.clone());
    let agents: Api<AgentInfo> = Api::all(client.clone());
    let controllers: Api<ControllerInfo> = Api::all(client.clone());
    let all = ListParams::default;
    let (agents, controllers, nodes, pods) = tokio::try_join!(
        Box::pin(cluster.list("listing AgentInfos", &agents, all())),
        Box::pin(cluster.list("listing ControllerInfos", &controllers, all())),
        Box::pin(async { readable(cluster.list("listing nodes", &nodes, all()).await) }),
        Box::pin(async { readable(cluster.list("listing pods", &pods, all()).await) }),
    )?;
    Ok(Snapshot {
        installed: Installed::Yes,
        namespace,
        networking,
        agents,
        controllers,
        nodes,
        pods,
    })
}

fn readable<T>(list: Result<Vec<T>, CallError>) -> Result<Option<Vec<T>>, CallError> {
    match list {
        Ok(items) => Ok(Some(items)),
        Err(error) if error.status() == Some(403) => Ok(None),
        Err(error) => Err(error),
    }
}
