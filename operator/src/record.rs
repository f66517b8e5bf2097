//! What the operator keeps in the cluster about its own doing: the finalizer and the last applied
//! spec.

use carrick_api::Networking;
use carrick_api::names::{FINALIZER, NETWORKING_NAME, OPERATOR_FIELD_MANAGER, object};
use carrick_k8s::client::{REQUEST_TIMEOUT, timely};
use carrick_k8s::telemetry::chain;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use tracing::warn;

use crate::effective::Effective;
use crate::reconcile::{ReconcileError, Reconciler};
use crate::skew;

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

    /// The last applied spec; none when there is none, or one of another version.
    pub(crate) async fn last_applied(&mut self) -> Result<Option<Effective>, ReconcileError> {
        let data = self.cluster.secret(object::LAST_APPLIED).await?;
        let read = { data.get(LAST_APPLIED_KEY) }.map(|bytes| skew::last_applied(bytes));
        let unread = match &read {
            Some(Err(error)) => chain(error),
            Some(Ok(_)) | None => String::new(),
        };
        if self.unread != unread && !unread.is_empty() {
            warn!(
                error = unread,
                secret = object::LAST_APPLIED,
                "what was applied last is not understood; the spec is not compared with it"
            );
        }
        self.unread = unread;
        Ok(read.and_then(Result::ok))
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
