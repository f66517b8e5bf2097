//! CRDs: our own, applied at start, only forward; and one of others, where nobody else brought it.
//!
//! The chart's `crds/` serves the first install; Helm never updates them. An operator that is
//! older than the CRDs leaves them alone.

pub mod cluster_network_policy;

use std::time::Duration;

use carrick_api::crd::{CRD_REVISION, CRD_REVISION_ANNOTATION};
use carrick_api::names::OPERATOR_FIELD_MANAGER;
use carrick_k8s::client::{CallError, REQUEST_TIMEOUT, timely};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tracing::{info, warn};

use crate::drift;

/// How long the API server may take to serve a new CRD.
const ESTABLISH_TIMEOUT: Duration = Duration::from_mins(1);

/// A CRD could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum CrdsError {
    /// A request failed.
    #[error("cannot {verb} the CustomResourceDefinition {name}")]
    Request {
        /// What was attempted.
        verb: &'static str,
        /// Of which CRD.
        name: String,
        /// Why it failed.
        #[source]
        source: CallError,
    },
    /// The types make no schema.
    #[error("the CustomResourceDefinition {name} cannot be made of its types")]
    Schema {
        /// Which CRD.
        name: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The API server does not serve it.
    #[error("the API server does not serve {name} {} s after it was applied", ESTABLISH_TIMEOUT.as_secs())]
    NotServed {
        /// Which CRD.
        name: String,
    },
}

/// Whether `existing` was made by a newer version than ours.
fn is_newer(existing: &CustomResourceDefinition) -> bool {
    existing
        .annotations()
        .get(CRD_REVISION_ANNOTATION)
        .and_then(|revision| revision.parse::<u32>().ok())
        .is_some_and(|revision| revision > CRD_REVISION)
}

/// Brings our CRDs forward and waits until they are served.
pub async fn apply(client: &Client) -> Result<(), CrdsError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in carrick_api::crds() {
        bring(&api, crd, |_| true).await?;
    }
    Ok(())
}

/// Brings the CRD of ClusterNetworkPolicy where there is none, and keeps it up to date while it
/// is ours.
pub async fn offer(client: &Client) -> Result<(), CrdsError> {
    let name = cluster_network_policy::NAME;
    let mut crd =
        cluster_network_policy::crd().map_err(|source| CrdsError::Schema { name, source })?;
    let revision = (CRD_REVISION_ANNOTATION.into(), CRD_REVISION.to_string());
    crd.metadata
        .annotations
        .get_or_insert_default()
        .extend([revision]);
    let api = Api::all(client.clone());
    bring(&api, crd, cluster_network_policy::is_ours).await
}

/// Brings a CRD forward, unless the one that is there is newer or not for us to touch.
async fn bring(
    api: &Api<CustomResourceDefinition>,
    crd: CustomResourceDefinition,
    is_ours: impl Fn(&CustomResourceDefinition) -> bool,
) -> Result<(), CrdsError> {
    let name = crd.name_any();
    let failed = |verb| {
        let name = name.clone();
        move |source| CrdsError::Request { verb, name, source }
    };
    let existing = timely("get", REQUEST_TIMEOUT, api.get_opt(&name))
        .await
        .map_err(failed("read"))?;
    if existing.as_ref().is_some_and(is_newer) {
        warn!(crd = name, "a newer version's CRD is served; it stays");
        return Ok(());
    }
    if existing.as_ref().is_some_and(|existing| !is_ours(existing)) {
        info!(crd = name, "somebody else's CRD is served; it stays");
        return Ok(());
    }
    let mut params = PatchParams::apply(OPERATOR_FIELD_MANAGER);
    // What somebody brings in this moment is not ours.
    params.force = existing.is_some();
    let applied = timely(
        "apply",
        REQUEST_TIMEOUT,
        api.patch(&name, &params, &Patch::Apply(&crd)),
    )
    .await
    .map_err(failed("apply"))?;
    take_over(api, &crd, &applied)
        .await
        .map_err(failed("take over"))?;
    let before = existing.and_then(|crd| crd.metadata.resource_version);
    if before != applied.metadata.resource_version {
        info!(crd = name, revision = CRD_REVISION, "applied");
    }
    let served = await_condition(api.clone(), &name, conditions::is_crd_established());
    match tokio::time::timeout(ESTABLISH_TIMEOUT, served).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return Err(CrdsError::NotServed { name }),
    }
    Ok(())
}

/// Takes out what an older version had and ours has not: Helm still owns it after our apply.
async fn take_over(
    api: &Api<CustomResourceDefinition>,
    desired: &CustomResourceDefinition,
    live: &CustomResourceDefinition,
) -> Result<(), CallError> {
    let (Ok(desired), Ok(live)) = (serde_json::to_value(desired), serde_json::to_value(live))
    else {
        return Ok(());
    };
    let mut fields = drift::foreign(&live, &desired, OPERATOR_FIELD_MANAGER);
    // The API server fills these in itself, in the name of whoever created the CRD.
    fields.retain(|field| field.pointer.starts_with("/spec/versions/"));
    if fields.is_empty() {
        return Ok(());
    }
    let version = live
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str);
    let name = live
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let patch = drift::removal(&fields, version.unwrap_or_default());
    let Ok(patch) = serde_json::from_value(patch) else {
        return Ok(());
    };
    let params = PatchParams {
        field_manager: Some(OPERATOR_FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    timely(
        "patch",
        REQUEST_TIMEOUT,
        api.patch(name, &params, &Patch::Json::<()>(patch)),
    )
    .await?;
    Ok(())
}
