//! An operand as data: what kind it is, what it is called, and its body as JSON.
//!
//! Rendering builds typed objects; everything after that (order, difference, apply, pruning) is
//! the same for all kinds and works on this.

use std::fmt;

use kube::core::{ApiResource, Resource};
use serde::Serialize;
use serde_json::Value;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};

/// A kind of operand, in the order operands are applied: what others need comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1
    ServiceAccount,
    /// rbac.authorization.k8s.io/v1
    ClusterRole,
    /// rbac.authorization.k8s.io/v1
    ClusterRoleBinding,
    /// rbac.authorization.k8s.io/v1
    Role,
    /// rbac.authorization.k8s.io/v1
    RoleBinding,
    /// admissionregistration.k8s.io/v1
    ValidatingAdmissionPolicy,
    /// admissionregistration.k8s.io/v1
    ValidatingAdmissionPolicyBinding,
    /// v1
    ConfigMap,
    /// v1
    Service,
    /// apps/v1; the controller comes before the agents
    Deployment,
    /// apps/v1
    DaemonSet,
}

/// Where a kind lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In no namespace.
    Cluster,
    /// In the operator's namespace.
    Namespaced,
}

impl Kind {
    /// Every kind an operand may have, in order of application.
    pub const ALL: [Self; 11] = [
        Self::ServiceAccount,
        Self::ClusterRole,
        Self::ClusterRoleBinding,
        Self::Role,
        Self::RoleBinding,
        Self::ValidatingAdmissionPolicy,
        Self::ValidatingAdmissionPolicyBinding,
        Self::ConfigMap,
        Self::Service,
        Self::Deployment,
        Self::DaemonSet,
    ];

    /// How the API server knows it.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::ClusterRole => ApiResource::erase::<ClusterRole>(&()),
            Self::ClusterRoleBinding => ApiResource::erase::<ClusterRoleBinding>(&()),
            Self::Role => ApiResource::erase::<Role>(&()),
            Self::RoleBinding => ApiResource::erase::<RoleBinding>(&()),
            Self::ValidatingAdmissionPolicy => ApiResource::erase::<ValidatingAdmissionPolicy>(&()),
            Self::ValidatingAdmissionPolicyBinding => {
                ApiResource::erase::<ValidatingAdmissionPolicyBinding>(&())
            }
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::DaemonSet => ApiResource::erase::<DaemonSet>(&()),
        }
    }

    /// Where it lives.
    pub fn scope(self) -> Scope {
        match self {
            Self::ClusterRole
            | Self::ClusterRoleBinding
            | Self::ValidatingAdmissionPolicy
            | Self::ValidatingAdmissionPolicyBinding => Scope::Cluster,
            Self::ServiceAccount
            | Self::Role
            | Self::RoleBinding
            | Self::ConfigMap
            | Self::Service
            | Self::Deployment
            | Self::DaemonSet => Scope::Namespaced,
        }
    }
}

/// Which operand: kind and name. All operands of one network share a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// One operand as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Which.
    pub id: Id,
    /// The whole object, apiVersion and kind included.
    pub body: Value,
}

/// A typed object could not be turned into JSON.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the {kind:?} as JSON")]
pub struct ObjectError {
    /// Which kind.
    pub kind: Kind,
    /// Why.
    #[source]
    pub source: serde_json::Error,
}

impl Object {
    /// Takes the type from a typed object.
    pub fn new<K>(kind: Kind, object: &K) -> Result<Self, ObjectError>
    where
        K: Resource + Serialize,
    {
        let body = serde_json::to_value(object).map_err(|source| ObjectError { kind, source })?;
        let name = object.meta().name.clone().unwrap_or_default();
        Ok(Self {
            id: Id { kind, name },
            body,
        })
    }
}
