//! From flags to a client.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use carrick_k8s::client::{CallError, ConnectError, from_config, timely};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config, ResourceExt};
use serde::de::DeserializeOwned;

/// Where the parts run unless the cluster or a flag says otherwise.
pub const DEFAULT_NAMESPACE: &str = "carrick-system";
/// The operator's Deployment, whatever the chart's values call it.
const OPERATOR: &str = "app.kubernetes.io/part-of=carrick,app.kubernetes.io/component=operator";
/// Objects in one page of a list.
const PAGE: u32 = 500;
/// Pages of one list: 250,000 objects are more than any cluster has.
const PAGES: usize = 500;

/// Which cluster, and how to ask it.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectArgs {
    /// The kubeconfig file [default: $KUBECONFIG, ~/.kube/config, or the pod's ServiceAccount].
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context to use.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace of Carrick's parts [default: where the operator is, else carrick-system].
    #[arg(long, short, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Time for one request to the API server.
    #[arg(long, global = true, value_name = "DURATION", default_value = "20s", value_parser = crate::time::parse)]
    pub request_timeout: Duration,
}

/// No client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The file does not exist or is no kubeconfig.
    #[error("cannot read the kubeconfig {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The context does not exist or lacks something.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] Box<KubeconfigError>),
    /// There is no kubeconfig and this is no pod.
    #[error("there is no kubeconfig")]
    Nothing(#[source] Box<kube::config::InferConfigError>),
    /// No client from it.
    #[error("cannot make a client")]
    Client(#[from] ConnectError),
}

/// A cluster to ask.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// The API server, for people.
    pub endpoint: String,
    /// Time for one request.
    pub limit: Duration,
    namespace: Option<String>,
}

impl Cluster {
    /// Reads the configuration. Connects nothing yet.
    pub async fn new(args: &ConnectArgs) -> Result<Self, ClusterError> {
        let options = KubeConfigOptions {
            context: args.context.clone(),
            ..Default::default()
        };
        let config = if let Some(path) = &args.kubeconfig {
            let file = |source| ClusterError::File {
                path: path.clone(),
                source: Box::new(source),
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(file)?;
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(file)?
        } else if args.context.is_some() {
            Config::from_kubeconfig(&options)
                .await
                .map_err(|source| ClusterError::Kubeconfig(Box::new(source)))?
        } else {
            Config::infer()
                .await
                .map_err(|source| ClusterError::Nothing(Box::new(source)))?
        };
        let connection = from_config(config)?;
        Ok(Self {
            client: connection.client,
            endpoint: connection.endpoint.to_string(),
            limit: args.request_timeout,
            namespace: args.namespace.clone(),
        })
    }

    /// A cluster behind a client in hand (tests).
    pub fn from_client(client: Client, namespace: Option<String>) -> Self {
        Self {
            client,
            endpoint: "test".into(),
            limit: carrick_k8s::client::REQUEST_TIMEOUT,
            namespace,
        }
    }

    /// One request with the deadline of `--request-timeout`.
    pub async fn ask<T>(
        &self,
        what: &'static str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        timely(what, self.limit, request).await
    }

    /// A whole list, page by page.
    pub async fn list<K>(
        &self,
        what: &'static str,
        api: &Api<K>,
        params: ListParams,
    ) -> Result<Vec<K>, CallError>
    where
        K: Clone + DeserializeOwned + std::fmt::Debug,
    {
        let mut params = params.limit(PAGE);
        let mut items = Vec::new();
        for _ in 0..PAGES {
            let page = self.ask(what, api.list(&params)).await?;
            items.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        Ok(items)
    }

    /// Where Carrick's parts run: the flag, or the namespace of the operator's Deployment, or the
    /// usual one when it cannot be told.
    pub async fn namespace(&self) -> Result<String, CallError> {
        if let Some(namespace) = &self.namespace {
            return Ok(namespace.clone());
        }
        let api: Api<Deployment> = Api::all(self.client.clone());
        let params = ListParams::default().labels(OPERATOR);
        match self.list("looking for the operator", &api, params).await {
            Ok(found) => Ok(found
                .first()
                .and_then(ResourceExt::namespace)
                .unwrap_or_else(|| DEFAULT_NAMESPACE.into())),
            Err(error) if error.status() == Some(403) => Ok(DEFAULT_NAMESPACE.into()),
            Err(error) => Err(error),
        }
    }
}

/// A cause as the client's own error, boxed or not.
pub fn as_kube<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a kube::Error> {
    cause
        .downcast_ref::<kube::Error>()
        .or_else(|| cause.downcast_ref::<Box<kube::Error>>().map(AsRef::as_ref))
}

/// What to do about an error, where that can be told from its causes.
pub fn advice(error: &(dyn Error + 'static), endpoint: &str) -> Option<String> {
    let mut cause = Some(error);
    while let Some(now) = cause {
        if let Some(error) = as_kube(now) {
            return advice_for(error, endpoint);
        }
        if let Some(CallError::TimedOut { .. }) = now.downcast_ref::<CallError>() {
            return Some(format!(
                "the API server at {endpoint} takes too long: check it with `kubectl get --raw /readyz`, or give it more time with --request-timeout"
            ));
        }
        if let Some(ClusterError::Nothing(_)) = now.downcast_ref::<ClusterError>() {
            return Some(
                "name one with --kubeconfig or $KUBECONFIG, or put it at ~/.kube/config".into(),
            );
        }
        cause = now.source();
    }
    None
}

fn advice_for(error: &kube::Error, endpoint: &str) -> Option<String> {
    match error {
        kube::Error::Api(status) => match status.code {
            401 => Some(
                "the API server does not accept the kubeconfig's credentials: renew them, or choose another --context".into(),
            ),
            403 => Some("ask an administrator for the permission named above".into()),
            // An object that is not there has a status of its own; this is a resource.
            404 if status.message.contains("page not found") => Some(
                "Carrick is not installed in this cluster: `carrickctl status` says how".into(),
            ),
            _ => None,
        },
        kube::Error::Service(_) | kube::Error::HyperError(_) => Some(format!(
            "is the API server at {endpoint} up and reachable from here? `kubectl get --raw /readyz` tells; --context chooses another cluster"
        )),
        _ => None,
    }
}
