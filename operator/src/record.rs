//! What the operator keeps in the cluster about its own doing: the finalizer and the last applied
//! spec.

use carrick_api::Networking;
use carrick_api::names::{FINALIZER, NETWORKING_NAME, OPERATOR_FIELD_MANAGER, object};
use carrick_k8s::client::{REQUEST_TIMEOUT, timely};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};

use crate::effective::Effective;
use crate::reconcile::{ReconcileError, Reconciler};

/// Key of the last applied spec in its Secret.
const LAST_APPLIED_KEY: &str = "effective.json";

impl Reconciler {
    /// Puts our finalizer on, before anything is made.
    pub(crate) async fn hold(&self, networking: &Networking) -> Result<(), ReconcileError> {
        if networking
            .finalizers()
            .iter()
            .any(|finalizer| finalizer == FINALIZER)
        {
            return Ok(());
        }
        let mut finalizers = networking.finalizers().to_vec();
        finalizers.push(FINALIZER.to_owned());
        self.set_finalizers(networking, &finalizers).await
    }

    /// Takes our finalizer off.
    pub(crate) async fn release(&self, networking: &Networking) -> Result<(), ReconcileError> {
        let finalizers: Vec<String> = networking
            .finalizers()
            .iter()
            .filter(|name| *name != FINALIZER)
            .cloned()
            .collect();
        self.set_finalizers(networking, &finalizers).await
    }

    async fn set_finalizers(
        &self,
        networking: &Networking,
        finalizers: &[String],
    ) -> Result<(), ReconcileError> {
        let patch = serde_json::json!({"metadata": {
            "resourceVersion": networking.metadata.resource_version,
            "finalizers": finalizers,
        }});
        let params = PatchParams {
            field_manager: Some(OPERATOR_FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.networkings();
        timely(
            "patch",
            REQUEST_TIMEOUT,
            api.patch(NETWORKING_NAME, &params, &Patch::Merge(&patch)),
        )
        .await
        .map_err(|source| ReconcileError::Networking {
            verb: "set the finalizer of",
            source,
        })?;
        Ok(())
    }

    pub(crate) async fn last_applied(&self) -> Result<Option<Effective>, ReconcileError> {
        let data = self.cluster.secret(object::LAST_APPLIED).await?;
        match data.get(LAST_APPLIED_KEY) {
            None => Ok(None),
            Some(bytes) => serde_json::from_slice(bytes)
                .map(Some)
                .map_err(ReconcileError::LastApplied),
        }
    }

    pub(crate) async fn put_last_applied(
        &self,
        effective: &Effective,
    ) -> Result<(), ReconcileError> {
        let bytes = serde_json::to_vec(effective).map_err(ReconcileError::LastApplied)?;
        let data = [(LAST_APPLIED_KEY.to_owned(), bytes)].into();
        Ok(self
            .cluster
            .put_secret(object::LAST_APPLIED, "Opaque", data)
            .await?)
    }
}
