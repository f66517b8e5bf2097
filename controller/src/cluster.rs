//! What the streams ask of the API server: who a token is, and whether things are really gone.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use carrick_api::names::{TOKEN_AUDIENCE, object};
use carrick_k8s::client::{CallError, timely};
use carrick_policy::PolicyName;
use carrick_proto::{NodeName, PodUid};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;

use crate::index::{Listed, ResourceVersion};
use crate::objects::PodNetwork;
use crate::watch::policies::cluster_policies_api;
use crate::watch::{POD_FIELDS, pod_object};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Objects per page of a list.
const PAGE: u32 = 500;
/// Where the API server puts the node a token is bound to (KEP-4193).
const NODE_CLAIM: &str = "authentication.kubernetes.io/node-name";

/// Why a token was refused or not judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a token the API server knows, or for another audience.
    #[error("the token is not valid here")]
    Invalid,
    /// Another ServiceAccount's.
    #[error("the token is {user}'s, not the agent's")]
    Stranger {
        /// Whose it is.
        user: String,
    },
    /// It names no node.
    #[error("the token is bound to no node")]
    Unbound,
    /// The API server could not be asked.
    #[error("the token cannot be checked now: {problem}")]
    Unavailable {
        /// Why.
        problem: String,
    },
}

/// The API server, or a test's stand-in.
#[tonic::async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// The node an agent's token is bound to.
    async fn review(&self, token: &str) -> Result<NodeName, Refusal>;
    /// Runtime UIDs of the pods with records on `node`, read now.
    async fn pods_on(&self, node: &NodeName) -> Result<BTreeSet<PodUid>, CallError>;
    /// Which of `nodes` exist, read now.
    async fn nodes_among(
        &self,
        nodes: &BTreeSet<NodeName>,
    ) -> Result<BTreeSet<NodeName>, CallError>;
    /// Which of `policies` exist, read now.
    async fn policies_among(
        &self,
        policies: &BTreeSet<PolicyName>,
    ) -> Result<BTreeSet<PolicyName>, CallError>;
    /// What there is of policy for pods of `namespace`, read now.
    async fn policy_for(&self, namespace: &str) -> Result<Listed, CallError>;
}

/// The real one.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    /// `system:serviceaccount:NAMESPACE:carrick-agent`.
    agent: String,
}

impl Kubernetes {
    /// Agents are those of `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        Self {
            client,
            agent: format!("system:serviceaccount:{namespace}:{}", object::AGENT),
        }
    }
}

/// Reads a TokenReview's answer. Every claim is required: authenticated, our audience among those
/// that were accepted, the agent's ServiceAccount, exactly one node.
fn judge(status: &TokenReviewStatus, agent: &str) -> Result<NodeName, Refusal> {
    let ours = status
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == TOKEN_AUDIENCE);
    if status.authenticated != Some(true)
        || !ours
        || status.error.as_deref().is_some_and(|e| !e.is_empty())
    {
        return Err(Refusal::Invalid);
    }
    let user = status.user.as_ref().ok_or(Refusal::Invalid)?;
    let name = user.username.as_deref().unwrap_or_default();
    if name != agent {
        return Err(Refusal::Stranger {
            user: name.chars().take(200).collect(),
        });
    }
    let nodes = user.extra.as_ref().and_then(|extra| extra.get(NODE_CLAIM));
    match nodes.map(Vec::as_slice) {
        Some([node]) => NodeName::new(node).map_err(|_| Refusal::Unbound),
        _ => Err(Refusal::Unbound),
    }
}

#[tonic::async_trait]
impl Cluster for Kubernetes {
    async fn review(&self, token: &str) -> Result<NodeName, Refusal> {
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        match timely("a TokenReview", PATIENCE, reviews.create(&params, &review)).await {
            Ok(answer) => judge(&answer.status.unwrap_or_default(), &self.agent),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let problem = cause.map_or(error.to_string(), |cause| format!("{error}: {cause}"));
                Err(Refusal::Unavailable { problem })
            }
        }
    }

    async fn pods_on(&self, node: &NodeName) -> Result<BTreeSet<PodUid>, CallError> {
        let pods: Api<Pod> = Api::all(self.client.clone());
        // No resourceVersion: the newest there is.
        let params = ListParams::default().fields(&format!("spec.nodeName={node},{POD_FIELDS}"));
        let list = timely("a list of a node's pods", PATIENCE, pods.list(&params)).await?;
        Ok(list
            .items
            .iter()
            .filter_map(pod_object)
            .filter(|pod| pod.network == PodNetwork::Attached)
            .map(|pod| pod.runtime_uid)
            .collect())
    }

    async fn nodes_among(
        &self,
        nodes: &BTreeSet<NodeName>,
    ) -> Result<BTreeSet<NodeName>, CallError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut found = BTreeSet::new();
        for node in nodes {
            let read = timely("a Node", PATIENCE, api.get_metadata_opt(node.as_str())).await?;
            if read.is_some() {
                found.insert(node.clone());
            }
        }
        Ok(found)
    }

    async fn policies_among(
        &self,
        policies: &BTreeSet<PolicyName>,
    ) -> Result<BTreeSet<PolicyName>, CallError> {
        let mut found = BTreeSet::new();
        for policy in policies {
            let there = if let Some(namespace) = policy.namespace() {
                let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), namespace);
                let read = api.get_metadata_opt(policy.name());
                timely("a NetworkPolicy", PATIENCE, read).await?.is_some()
            } else {
                let api = cluster_policies_api(self.client.clone());
                let read = api.get_metadata_opt(policy.name());
                let read = timely("a ClusterNetworkPolicy", PATIENCE, read).await?;
                read.is_some()
            };
            if there {
                found.insert(policy.clone());
            }
        }
        Ok(found)
    }

    async fn policy_for(&self, namespace: &str) -> Result<Listed, CallError> {
        let api: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), namespace);
        let what = "a list of a namespace's NetworkPolicies";
        let mut policies = Vec::new();
        for (name, version) in versions(what, &api).await?.unwrap_or_default() {
            policies.push((PolicyName::namespaced(namespace, &name), version));
        }
        let api = cluster_policies_api(self.client.clone());
        let all = versions("a list of ClusterNetworkPolicies", &api).await?;
        let all = all.unwrap_or_default();
        // Nothing else of policy for its pods looks at the namespace's labels.
        let of_namespace = if all.is_empty() {
            None
        } else {
            let api: Api<Namespace> = Api::all(self.client.clone());
            let read = api.get_metadata_opt(namespace);
            let read = timely("a Namespace", PATIENCE, read).await?;
            read.map(|read| ResourceVersion::of(read.metadata.resource_version.as_deref()))
        };
        for (name, version) in all {
            policies.push((PolicyName::cluster(&name), version));
        }
        Ok(Listed {
            policies,
            namespace: of_namespace,
        })
    }
}

/// Names and versions of all there are, read now; `None` if the kind is not served.
async fn versions<K>(
    what: &'static str,
    api: &Api<K>,
) -> Result<Option<Vec<(String, ResourceVersion)>>, CallError>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let list = async {
            match api.list_metadata(&params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                list => list.map(Some),
            }
        };
        let Some(list) = timely(what, PATIENCE, list).await? else {
            return Ok(None);
        };
        found.extend(list.items.into_iter().filter_map(|object| {
            let version = ResourceVersion::of(object.metadata.resource_version.as_deref());
            Some((object.metadata.name?, version))
        }));
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => params = params.continue_token(&next),
            None => return Ok(Some(found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::authentication::v1::UserInfo;
    use std::collections::BTreeMap;

    const AGENT: &str = "system:serviceaccount:carrick-system:carrick-agent";

    fn status(user: &str, nodes: &[&str]) -> TokenReviewStatus {
        let nodes = nodes.iter().map(ToString::to_string).collect();
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            error: None,
            user: Some(UserInfo {
                username: Some(user.to_owned()),
                extra: Some(BTreeMap::from([(NODE_CLAIM.to_owned(), nodes)])),
                ..UserInfo::default()
            }),
        }
    }

    #[test]
    fn an_agents_token_gives_its_node() {
        assert_eq!(
            judge(&status(AGENT, &["a"]), AGENT),
            NodeName::new("a").map_err(|_| Refusal::Unbound)
        );
    }

    #[test]
    fn everything_else_is_refused() {
        assert_eq!(
            judge(&TokenReviewStatus::default(), AGENT),
            Err(Refusal::Invalid)
        );
        let other = TokenReviewStatus {
            audiences: Some(vec!["api".into()]),
            ..status(AGENT, &["a"])
        };
        assert_eq!(judge(&other, AGENT), Err(Refusal::Invalid));
        let none = TokenReviewStatus {
            audiences: None,
            ..status(AGENT, &["a"])
        };
        assert_eq!(judge(&none, AGENT), Err(Refusal::Invalid));
        let unauthenticated = TokenReviewStatus {
            authenticated: Some(false),
            ..status(AGENT, &["a"])
        };
        assert_eq!(judge(&unauthenticated, AGENT), Err(Refusal::Invalid));
        let user = "system:serviceaccount:default:carrick-agent";
        assert_eq!(
            judge(&status(user, &["a"]), AGENT),
            Err(Refusal::Stranger { user: user.into() })
        );
        for nodes in [&[][..], &["a", "b"], &["../a"], &[""]] {
            assert_eq!(judge(&status(AGENT, nodes), AGENT), Err(Refusal::Unbound));
        }
    }
}
