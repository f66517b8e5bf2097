//! A pod as it is named on the command line.

use std::fmt;
use std::str::FromStr;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::connect::Cluster;

/// Longest name of a pod (a DNS subdomain, RFC 1123).
const NAME_MAX: usize = 253;
/// Longest DNS label.
const LABEL_MAX: usize = 63;

/// `NAMESPACE/POD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A word that names no pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write NAMESPACE/POD")]
pub struct NoPodName;

impl FromStr for PodName {
    type Err = NoPodName;

    fn from_str(text: &str) -> Result<Self, NoPodName> {
        let (namespace, name) = text.split_once('/').ok_or(NoPodName)?;
        let is_name = name.len() <= NAME_MAX && name.split('.').all(is_label);
        if !is_label(namespace) || !is_name {
            return Err(NoPodName);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl PodName {
    /// The pod itself.
    ///
    /// # Errors
    /// It cannot be read, or there is none.
    pub async fn look_up(&self, cluster: &Cluster) -> anyhow::Result<Pod> {
        let Self { namespace, name } = self;
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
        let found = cluster
            .ask("looking for the pod", api.get_opt(name))
            .await?;
        found.ok_or_else(|| {
            anyhow!("there is no pod {name} in namespace {namespace}: `kubectl get pods -n {namespace}` lists them")
        })
    }

    /// The node it is bound to.
    ///
    /// # Errors
    /// As [`Self::look_up`], or it is bound to none, or uses its node's network: no policy acts on it then.
    pub async fn node(&self, cluster: &Cluster) -> anyhow::Result<String> {
        let pod = self.look_up(cluster).await?;
        let spec = pod.spec.unwrap_or_default();
        if spec.host_network == Some(true) {
            bail!("pod {self} is on its node's network: no policy is for it");
        }
        let Some(node) = spec.node_name else {
            bail!("pod {self} is bound to no node yet: no policy acts on it");
        };
        Ok(node)
    }
}

/// Whether it is a DNS label (RFC 1123).
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= LABEL_MAX
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
