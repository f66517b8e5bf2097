//! kube-proxy as the API server knows it.

use k8s_openapi::api::apps::v1::DaemonSet;

use super::{
    Api, Cluster, ClusterError, ListParams, OPERATOR_FIELD_MANAGER, Patch, PatchParams, Pod,
    REQUEST_TIMEOUT, Result, pages, timely,
};
use crate::kubeproxy::{self, Action, Found, NAME, NAMESPACE, Set};

/// Labels that static pods of kube-proxy have, by who makes them.
const LABELS: [&str; 2] = ["k8s-app=kube-proxy", "component=kube-proxy"];

impl Cluster {
    /// How kube-proxy runs. Static pods are looked for only where that counts.
    pub async fn kube_proxy(&self, counts: bool) -> Result<Found> {
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), NAMESPACE);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        match timely("get", REQUEST_TIMEOUT, sets.get_opt(NAME)).await {
            Ok(Some(set)) => {
                let mut known = kubeproxy::set(&set);
                if known.marked && !known.disabled {
                    let params = ListParams::default().labels(&kubeproxy::selector(&set));
                    known.members =
                        pages(&pods, params, |page| kubeproxy::members(&set, page)).await?;
                }
                return Ok(Found::Set(Box::new(known)));
            }
            Ok(None) => {}
            // A chart of an older version: nothing was disabled by its operator.
            Err(error) if error.status() == Some(403) => {
                return Ok(Found::Unreadable(error.to_string()));
            }
            Err(source) => return Err(ClusterError::new("read", kube_proxy())(source)),
        }
        let mut nodes = Vec::new();
        for labels in LABELS.iter().filter(|_| counts) {
            let params = ListParams::default().labels(labels);
            nodes.extend(pages(&pods, params, kubeproxy::static_pods).await?);
        }
        if nodes.is_empty() {
            return Ok(Found::Absent);
        }
        nodes.sort();
        nodes.dedup();
        Ok(Found::StaticPods(nodes))
    }

    /// Disables or enables kube-proxy. False when it has changed meanwhile: the next look sees that.
    pub async fn change_kube_proxy(&self, action: Action, set: &Set) -> Result<bool> {
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), NAMESPACE);
        let params = PatchParams {
            field_manager: Some(OPERATOR_FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(kubeproxy::patch(action, set));
        match timely("patch", REQUEST_TIMEOUT, sets.patch(NAME, &params, &patch)).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(false),
            Err(source) => Err(ClusterError::new("change", kube_proxy())(source)),
        }
    }
}

fn kube_proxy() -> String {
    format!("DaemonSet {NAMESPACE}/{NAME}")
}
