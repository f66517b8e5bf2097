//! The driver of the API server: reads facts, plans by dry run, applies, prunes.
//!
//! Everything is applied by server-side apply with one field manager. No function here decides
//! anything.

use std::collections::BTreeMap;
use std::time::Duration;

use carrick_api::names::{OPERATOR_FIELD_MANAGER, object};
use carrick_k8s::client::{CallError, REQUEST_TIMEOUT, timely};
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use kube::core::ObjectMeta;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::drift::{self, Foreign};
use crate::facts::{Installation, Presence};
use crate::object::{Id, Kind, Object, Scope};
use crate::plan::Action;
use crate::render::MANAGED_BY;

mod kubeproxy;

/// How many differing places of one object a plan names.
const PLACES_MAX: usize = 4;
/// How many objects one page of a list holds.
const PAGE: u32 = 500;
/// Pages of one list at most: 200,000 objects; a list without end is a fault of the server.
const PAGES_MAX: usize = 400;

/// A request about the cluster failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {what}")]
pub struct ClusterError {
    /// What was attempted.
    pub verb: &'static str,
    /// With what.
    pub what: String,
    /// Why it failed.
    #[source]
    pub source: CallError,
}

impl ClusterError {
    fn new(verb: &'static str, what: impl Into<String>) -> impl FnOnce(CallError) -> Self {
        let what = what.into();
        move |source| Self { verb, what, source }
    }

    /// The HTTP status, if the server answered.
    pub fn status(&self) -> Option<u16> {
        self.source.status()
    }
}

type Result<T> = std::result::Result<T, ClusterError>;

/// What applying did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Operands that changed.
    pub changed: Vec<Id>,
    /// What others had added and is gone now.
    pub removed: Vec<(Id, Foreign)>,
}

/// The API server, seen by the operator.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    /// Works in the installation's namespace.
    pub fn new(client: Client, installation: &Installation) -> Self {
        Self {
            client,
            namespace: installation.namespace.clone(),
        }
    }

    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        let resource = kind.resource();
        match kind.scope() {
            Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            Scope::Namespaced => {
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
            }
        }
    }

    /// An operand as it is; none that is not there.
    pub async fn live(&self, id: &Id) -> Result<Option<Value>> {
        let api = self.api(id.kind);
        let found = timely("get", REQUEST_TIMEOUT, api.get_opt(&id.name))
            .await
            .map_err(ClusterError::new("read", id.to_string()))?;
        Ok(found.and_then(|object| serde_json::to_value(object).ok()))
    }

    /// What applying `objects` would do, told by the API server itself (a dry run), and which
    /// operands would be pruned.
    pub async fn plan(&self, objects: &[Object]) -> Result<Vec<Action>> {
        let mut actions = Vec::new();
        for object in objects {
            let Some(live) = self.live(&object.id).await? else {
                actions.push(Action::Create(object.id.clone()));
                continue;
            };
            let after = self.patch(object, &apply_params().dry_run()).await?;
            let places = drift::differences(&live, &after, PLACES_MAX);
            if !places.is_empty() {
                actions.push(Action::Update(object.id.clone(), places));
            }
            for field in drift::foreign(&live, &object.body, OPERATOR_FIELD_MANAGER) {
                actions.push(Action::Remove(
                    object.id.clone(),
                    field.pointer,
                    field.manager,
                ));
            }
        }
        actions.extend(self.orphans(objects).await?.into_iter().map(Action::Delete));
        Ok(actions)
    }

    /// Makes the world's operands equal to `objects`, what others added included. Does not prune.
    pub async fn apply(&self, objects: &[Object]) -> Result<Applied> {
        let mut applied = Applied::default();
        for object in objects {
            let before = self.live(&object.id).await?;
            if let Some(live) = &before {
                let fields = drift::foreign(live, &object.body, OPERATOR_FIELD_MANAGER);
                if !fields.is_empty() && self.remove(&object.id, live, &fields).await? {
                    applied
                        .removed
                        .extend(fields.into_iter().map(|f| (object.id.clone(), f)));
                }
            }
            let after = self.patch(object, &apply_params()).await?;
            // The resource version also moves with the status, which others write meanwhile.
            let version = |value: &Value| {
                let meta = value.get("metadata")?;
                meta.get("generation")
                    .or_else(|| meta.get("resourceVersion"))
                    .cloned()
            };
            if before.as_ref().and_then(version) != version(&after) {
                applied.changed.push(object.id.clone());
            }
        }
        Ok(applied)
    }

    async fn patch(&self, object: &Object, params: &PatchParams) -> Result<Value> {
        let api = self.api(object.id.kind);
        let patch = Patch::Apply(&object.body);
        let after = timely(
            "apply",
            REQUEST_TIMEOUT,
            api.patch(&object.id.name, params, &patch),
        )
        .await
        .map_err(ClusterError::new("apply", object.id.to_string()))?;
        Ok(serde_json::to_value(after).unwrap_or_default())
    }

    /// Takes foreign fields out. False when the object changed meanwhile: the next look sees it.
    async fn remove(&self, id: &Id, live: &Value, fields: &[Foreign]) -> Result<bool> {
        let version = live
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str);
        let patch = drift::removal(fields, version.unwrap_or_default());
        let Ok(patch) = serde_json::from_value(patch) else {
            return Ok(false);
        };
        let params = PatchParams {
            field_manager: Some(OPERATOR_FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api(id.kind);
        let patch = Patch::Json::<()>(patch);
        let request = api.patch(&id.name, &params, &patch);
        match timely("patch", REQUEST_TIMEOUT, request).await {
            Ok(after) => Ok(after.metadata.resource_version.as_deref() != version),
            // A failed test of the resource version is answered as 422 (or 409).
            Err(error) if matches!(error.status(), Some(404 | 409 | 422)) => Ok(false),
            Err(source) => Err(ClusterError::new(
                "remove foreign fields from",
                id.to_string(),
            )(source)),
        }
    }

    /// Operands that exist and are not in `objects`.
    pub async fn orphans(&self, objects: &[Object]) -> Result<Vec<Id>> {
        let params =
            ListParams::default().labels(&format!("{MANAGED_BY}={OPERATOR_FIELD_MANAGER}"));
        let mut orphans = Vec::new();
        for kind in Kind::ALL {
            let list = timely(
                "list",
                REQUEST_TIMEOUT,
                self.api(kind).list_metadata(&params),
            )
            .await
            .map_err(ClusterError::new("list", format!("{kind:?}s")))?;
            for object in list.items {
                let id = Id {
                    kind,
                    name: object.name_any(),
                };
                if object.metadata.deletion_timestamp.is_none()
                    && !objects.iter().any(|wanted| wanted.id == id)
                {
                    orphans.push(id);
                }
            }
        }
        Ok(orphans)
    }

    /// Deletes an operand; one that is not there is no error.
    pub async fn delete(&self, id: &Id) -> Result<()> {
        let api = self.api(id.kind);
        // Foreground: a workload is gone only when its pods are.
        let params = match id.kind {
            Kind::DaemonSet | Kind::Deployment => DeleteParams::foreground(),
            _ => DeleteParams::background(),
        };
        match timely("delete", REQUEST_TIMEOUT, api.delete(&id.name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(404) => Ok(()),
            Err(source) => Err(ClusterError::new("delete", id.to_string())(source)),
        }
    }

    /// The workloads as they are: controller, agents, switches.
    pub async fn workloads(
        &self,
    ) -> Result<(Option<Deployment>, Option<DaemonSet>, Option<DaemonSet>)> {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let read = |name| ClusterError::new("read", name);
        Ok((
            timely(
                "get",
                REQUEST_TIMEOUT,
                deployments.get_opt(object::CONTROLLER),
            )
            .await
            .map_err(read(object::CONTROLLER))?,
            timely("get", REQUEST_TIMEOUT, sets.get_opt(object::AGENT))
                .await
                .map_err(read(object::AGENT))?,
            timely("get", REQUEST_TIMEOUT, sets.get_opt(object::SWITCH))
                .await
                .map_err(read(object::SWITCH))?,
        ))
    }

    /// Revisions of the DaemonSets' templates: a handful, however many nodes there are.
    pub async fn revisions(&self) -> Result<Vec<ControllerRevision>> {
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &self.namespace);
        let params =
            ListParams::default().labels(&format!("{MANAGED_BY}={OPERATOR_FIELD_MANAGER}"));
        let list = timely("list", REQUEST_TIMEOUT, api.list(&params))
            .await
            .map_err(ClusterError::new("list", "ControllerRevisions"))?;
        Ok(list.items)
    }

    /// Deletes a pod of ours, if it is still the one with this UID.
    pub async fn delete_pod(&self, name: &str, uid: &str) -> Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match timely("delete", REQUEST_TIMEOUT, api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(()),
            Err(source) => Err(ClusterError::new("delete", format!("Pod {name}"))(source)),
        }
    }

    /// Every pod of the cluster (for a removal only), a page at a time, kept as `keep` says.
    pub async fn all_pods(&self, keep: impl Fn(&[Pod]) -> Vec<String>) -> Result<Vec<String>> {
        let api = Api::all(self.client.clone());
        pages(&api, ListParams::default(), keep).await
    }

    /// Ranges of ClusterIPs; empty when the server knows no ServiceCIDR.
    pub async fn service_cidrs(&self) -> Result<Vec<ipnet::IpNet>> {
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let list = match timely("list", REQUEST_TIMEOUT, api.list(&ListParams::default())).await {
            Ok(list) => list,
            Err(error) if error.status() == Some(404) => return Ok(Vec::new()),
            Err(source) => return Err(ClusterError::new("list", "ServiceCIDRs")(source)),
        };
        let mut cidrs: Vec<ipnet::IpNet> = list
            .items
            .into_iter()
            .filter_map(|item| item.spec)
            .flat_map(|spec| spec.cidrs.unwrap_or_default())
            .filter_map(|cidr| cidr.parse().ok())
            .collect();
        cidrs.sort();
        cidrs.dedup();
        Ok(cidrs)
    }

    /// Addresses of the `kubernetes` Service.
    pub async fn kubernetes_service(&self) -> Result<Vec<std::net::IpAddr>> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), "default");
        let service = timely("get", REQUEST_TIMEOUT, api.get_opt("kubernetes"))
            .await
            .map_err(ClusterError::new("read", "Service default/kubernetes"))?;
        let addresses = service
            .and_then(|service| service.spec?.cluster_ips)
            .unwrap_or_default();
        Ok(addresses
            .iter()
            .filter_map(|address| address.parse().ok())
            .collect())
    }

    /// Whether kubeadm left its ConfigMap.
    pub async fn kubeadm_config(&self) -> Presence {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), "kube-system");
        match timely(
            "get",
            REQUEST_TIMEOUT,
            api.get_metadata_opt("kubeadm-config"),
        )
        .await
        {
            Ok(Some(_)) => Presence::Present,
            Ok(None) => Presence::Absent,
            Err(_) => Presence::Unknown,
        }
    }

    /// The data of one of our Secrets; empty when there is none.
    pub async fn secret(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = timely("get", REQUEST_TIMEOUT, api.get_opt(name))
            .await
            .map_err(ClusterError::new("read", format!("Secret {name}")))?;
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        Ok(data
            .into_iter()
            .map(|(key, ByteString(bytes))| (key, bytes))
            .collect())
    }

    /// Makes one of our Secrets hold exactly `data`.
    pub async fn put_secret(
        &self,
        name: &str,
        type_: &str,
        data: BTreeMap<String, Vec<u8>>,
    ) -> Result<()> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.namespace.clone()),
                labels: Some(crate::render::labels(object::OPERATOR)),
                ..ObjectMeta::default()
            },
            type_: Some(type_.to_owned()),
            data: Some(
                data.into_iter()
                    .map(|(key, bytes)| (key, ByteString(bytes)))
                    .collect(),
            ),
            ..Secret::default()
        };
        let patch = Patch::Apply(&secret);
        timely(
            "apply",
            REQUEST_TIMEOUT,
            api.patch(name, &apply_params(), &patch),
        )
        .await
        .map_err(ClusterError::new("write", format!("Secret {name}")))?;
        Ok(())
    }

    /// Deletes one of our Secrets; one that is not there is no error.
    pub async fn delete_secret(&self, name: &str) -> Result<()> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        match timely(
            "delete",
            REQUEST_TIMEOUT,
            api.delete(name, &DeleteParams::default()),
        )
        .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.status() == Some(404) => Ok(()),
            Err(source) => Err(ClusterError::new("delete", format!("Secret {name}"))(
                source,
            )),
        }
    }

    /// Deletes the controller's Leases; one that is not there is no error. Its pods must be gone: a
    /// standby would make them again.
    pub async fn delete_controller_leases(&self) -> Result<()> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = DeleteParams::default();
        for name in [object::CONTROLLER, object::NODE_IPAM] {
            match timely("delete", REQUEST_TIMEOUT, api.delete(name, &params)).await {
                Ok(_) => {}
                Err(error) if error.status() == Some(404) => {}
                Err(source) => {
                    return Err(ClusterError::new("delete", format!("Lease {name}"))(source));
                }
            }
        }
        Ok(())
    }

    /// Takes every taint with this key off a node.
    pub async fn untaint(&self, node: &str, key: &str) -> Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        let error = || ClusterError::new("take the startup taint off", format!("Node {node}"));
        let Some(found) = timely("get", REQUEST_TIMEOUT, api.get_opt(node))
            .await
            .map_err(error())?
        else {
            return Ok(());
        };
        let taints = found.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let kept: Vec<_> = taints.iter().filter(|taint| taint.key != key).collect();
        if kept.len() == taints.len() {
            return Ok(());
        }
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": found.metadata.resource_version},
            "spec": {"taints": kept},
        });
        let params = PatchParams {
            field_manager: Some(OPERATOR_FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        timely(
            "patch",
            REQUEST_TIMEOUT,
            api.patch(node, &params, &Patch::Merge(&patch)),
        )
        .await
        .map_err(error())?;
        Ok(())
    }

    /// Deletes an AgentInfo or ControllerInfo; one that is not there is no error.
    pub async fn delete_info<K>(&self, name: &str, uid: Option<String>) -> Result<()>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let params = DeleteParams {
            preconditions: uid.map(|uid| Preconditions {
                uid: Some(uid),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match timely("delete", REQUEST_TIMEOUT, api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(()),
            Err(source) => Err(ClusterError::new(
                "delete",
                format!("{} {name}", K::kind(&())),
            )(source)),
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// What is kept of each page of pods.
async fn pages<T>(
    api: &Api<Pod>,
    params: ListParams,
    keep: impl Fn(&[Pod]) -> Vec<T>,
) -> Result<Vec<T>> {
    let mut params = params.limit(PAGE);
    let mut kept = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = timely("list", REQUEST_TIMEOUT, api.list(&params))
            .await
            .map_err(ClusterError::new("list", "pods"))?;
        kept.extend(keep(&page.items));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params.continue_token = Some(token),
            _ => break,
        }
    }
    Ok(kept)
}

fn apply_params() -> PatchParams {
    PatchParams::apply(OPERATOR_FIELD_MANAGER).force()
}

/// How long trying `spec.apiServer` may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
