//! Server-side apply and idempotent deletion.

use std::fmt::Debug;

use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{CallError, REQUEST_TIMEOUT, timely};

/// Applying or deleting one object failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The object has no name.
    #[error("a {kind} without a name cannot be applied")]
    NoName {
        /// Kind of the object.
        kind: String,
    },
    /// The request failed.
    #[error("cannot {verb} the {kind} {name}")]
    Request {
        /// What was attempted.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Its name, with its namespace in front when it has one.
        name: String,
        /// The cause.
        #[source]
        source: CallError,
    },
}

impl ApplyError {
    /// The HTTP status the API server answered with, if it answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::NoName { .. } => None,
            Self::Request { source, .. } => source.status(),
        }
    }
}

fn named<K: Resource<DynamicType = ()>>(object: &K) -> Result<String, ApplyError> {
    object
        .meta()
        .name
        .clone()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ApplyError::NoName {
            kind: K::kind(&()).into_owned(),
        })
}

fn full_name<K: Resource<DynamicType = ()>>(object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{}", object.name_any()),
        None => object.name_any(),
    }
}

/// Makes the fields of `object` what it says, taking them over from other managers; fields it does
/// not name stay with their owners. `api` must be for the object's namespace. (KEP-555.)
pub async fn apply<K>(api: &Api<K>, manager: &str, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    let (params, patch) = (PatchParams::apply(manager).force(), Patch::Apply(object));
    let name = named(object)?;
    let request = api.patch(&name, &params, &patch);
    let outcome = timely("server-side apply", REQUEST_TIMEOUT, request).await;
    outcome.map_err(|source| failed("apply", object, source))
}

/// Like [`apply`], for the status subresource.
pub async fn apply_status<K>(api: &Api<K>, manager: &str, object: &K) -> Result<K, ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    let (params, patch) = (PatchParams::apply(manager).force(), Patch::Apply(object));
    let name = named(object)?;
    let request = api.patch_status(&name, &params, &patch);
    let outcome = timely("apply of status", REQUEST_TIMEOUT, request).await;
    outcome.map_err(|source| failed("apply the status of", object, source))
}

fn failed<K>(verb: &'static str, object: &K, source: CallError) -> ApplyError
where
    K: Resource<DynamicType = ()>,
{
    ApplyError::Request {
        verb,
        kind: K::kind(&()).into_owned(),
        name: full_name(object),
        source,
    }
}

/// Whether a deletion found something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It is deleted or being deleted.
    Started,
    /// There was no such object.
    Absent,
}

/// Deletes an object; one that is not there is no error.
pub async fn delete<K>(
    api: &Api<K>,
    name: &str,
    params: &DeleteParams,
) -> Result<Deletion, ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    match timely("delete", REQUEST_TIMEOUT, api.delete(name, params)).await {
        Ok(_) => Ok(Deletion::Started),
        Err(error) if error.status() == Some(404) => Ok(Deletion::Absent),
        Err(source) => Err(ApplyError::Request {
            verb: "delete",
            kind: K::kind(&()).into_owned(),
            name: name.to_owned(),
            source,
        }),
    }
}
