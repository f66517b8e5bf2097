//! Watches of NetworkPolicies and ClusterNetworkPolicies.
//!
//! What cannot be read of a policy closes, as `carrick_policy` says, and is logged once for each
//! generation of the object. The CRD of ClusterNetworkPolicy may come and go: it is asked for now
//! and then, and while it is not served there are none.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use carrick_policy::cluster_network_policy::{GROUP, KIND, PLURAL, VERSION};
use carrick_policy::{
    Parsed, PolicyName, Refused, parse_cluster_network_policy_json, parse_network_policy,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Listing, Pass, config, consume, run};
use crate::index::{PolicyKind, ResourceVersion};
use crate::objects::{Event, PolicyObject};

/// How often it is asked whether ClusterNetworkPolicies are served, while they are not.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How long that question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// UID and generation of an object.
type Written = (Option<String>, Option<i64>);

/// Logs what is wrong with policies, once for each generation.
#[derive(Debug, Default)]
struct Complaints {
    counter: Counter,
    /// What was said last of each.
    said: Mutex<HashMap<PolicyName, Written>>,
}

impl Complaints {
    fn new(counter: Counter) -> Self {
        Self {
            counter,
            said: Mutex::default(),
        }
    }

    fn forget(&self, name: &PolicyName) {
        self.said.lock().remove(name);
    }

    /// Those are all there are.
    fn keep(&self, all: &[PolicyObject]) {
        let mut said = self.said.lock();
        if !said.is_empty() {
            let names: HashSet<&PolicyName> = all.iter().map(|object| &object.name).collect();
            said.retain(|name, _| names.contains(name));
        }
    }

    fn is_news(&self, name: &PolicyName, meta: &ObjectMeta) -> bool {
        let now = (meta.uid.clone(), meta.generation);
        let before = self.said.lock().insert(name.clone(), now.clone());
        before != Some(now)
    }

    /// The facts of a policy as it was read.
    fn judge(
        &self,
        name: PolicyName,
        meta: &ObjectMeta,
        read: Result<Parsed, Refused>,
    ) -> PolicyObject {
        let sound = matches!(&read, Ok(parsed) if parsed.problems.is_empty());
        if sound {
            self.forget(&name);
        } else if self.is_news(&name, meta) {
            self.counter.inc();
            match &read {
                Ok(parsed) => {
                    let count = parsed.problems.len();
                    let first = parsed.problems.first().first().map(ToString::to_string);
                    warn!(policy = %name, count, first, "parts of a policy cannot be read and let nothing pass");
                }
                Err(refused) => warn!(policy = %name, reason = %refused, "a policy is refused"),
            }
        }
        PolicyObject {
            name,
            policy: read.ok().map(|parsed| parsed.policy),
            version: ResourceVersion::of(meta.resource_version.as_deref()),
        }
    }
}

fn network_policy_name(meta: &ObjectMeta) -> Option<PolicyName> {
    let (namespace, name) = (meta.namespace.as_deref()?, meta.name.as_deref()?);
    Some(PolicyName::namespaced(namespace, name))
}

fn cluster_policy_name(meta: &ObjectMeta) -> Option<PolicyName> {
    meta.name.as_deref().map(PolicyName::cluster)
}

/// Watches NetworkPolicies.
pub async fn network_policies(
    client: Client,
    listing: Listing,
    problems: Counter,
    out: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let complaints = Complaints::new(problems);
    let pass = Pass {
        extract: |policy: &NetworkPolicy| {
            let name = network_policy_name(&policy.metadata)?;
            let read = parse_network_policy(policy);
            Some(complaints.judge(name, &policy.metadata, read))
        },
        is: Event::Policy,
        gone: |policy: &NetworkPolicy| {
            let name = network_policy_name(&policy.metadata)?;
            complaints.forget(&name);
            Some(Event::PolicyGone(name))
        },
        all: |all: Vec<PolicyObject>| {
            complaints.keep(&all);
            Event::Policies(PolicyKind::NetworkPolicy, all)
        },
    };
    run(Api::all(client), config(listing), pass, out, stop).await;
}

/// Where ClusterNetworkPolicies are.
pub fn cluster_policies_api(client: Client) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(GROUP, VERSION, KIND);
    Api::all_with(client, &ApiResource::from_gvk_with_plural(&kind, PLURAL))
}

/// The facts of a ClusterNetworkPolicy.
fn cluster_policy(object: &DynamicObject, complaints: &Complaints) -> Option<PolicyObject> {
    let meta = &object.metadata;
    let name = cluster_policy_name(meta)?;
    let whole = serde_json::json!({
        "metadata": {"name": meta.name, "uid": meta.uid},
        "spec": object.data.get("spec"),
    });
    let read = parse_cluster_network_policy_json(&whole);
    Some(complaints.judge(name, meta, read))
}

/// Watches ClusterNetworkPolicies while they are served.
pub async fn cluster_network_policies(
    client: Client,
    listing: Listing,
    problems: Counter,
    out: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let api = cluster_policies_api(client);
    let complaints = Complaints::new(problems);
    let pass = Pass {
        extract: |object: &DynamicObject| cluster_policy(object, &complaints),
        is: Event::Policy,
        gone: |object: &DynamicObject| {
            let name = cluster_policy_name(&object.metadata)?;
            complaints.forget(&name);
            Some(Event::PolicyGone(name))
        },
        all: |all: Vec<PolicyObject>| {
            complaints.keep(&all);
            Event::Policies(PolicyKind::ClusterNetworkPolicy, all)
        },
    };
    loop {
        match served(&api).await {
            Ok(true) => {
                let stream = watcher(api.clone(), config(listing)).default_backoff();
                if !consume(KIND, stream, &pass, &out, &stop, is_not_served).await {
                    return;
                }
            }
            Ok(false) => {
                debug!("ClusterNetworkPolicies are not served");
                if out.send((pass.all)(Vec::new())).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%error, "it cannot be known now whether ClusterNetworkPolicies are served");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
}

async fn served(api: &Api<DynamicObject>) -> Result<bool, carrick_k8s::client::CallError> {
    let params = ListParams::default().limit(1);
    let what = "a list of ClusterNetworkPolicies";
    let ask = async {
        match api.list_metadata(&params).await {
            Ok(_) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(error),
        }
    };
    carrick_k8s::client::timely(what, PATIENCE, ask).await
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn is_not_served(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => is_not_found(error),
        watcher::Error::WatchError(status) => status.code == 404,
        watcher::Error::NoResourceVersion => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cluster(spec: &serde_json::Value, complaints: &Complaints) -> PolicyObject {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": KIND,
            "metadata": {"name": "p", "uid": "u", "generation": 1}, "spec": spec,
        }))
        .unwrap();
        cluster_policy(&object, complaints).unwrap()
    }

    #[test]
    fn a_cluster_policy_is_read() {
        let complaints = Complaints::default();
        let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}});
        let object = cluster(&spec, &complaints);
        assert!(object.policy.is_some());
        assert_eq!(complaints.counter.get(), 0);
    }

    #[test]
    fn hostile_policies_are_refused_and_said_once_for_each_generation() {
        let complaints = Complaints::default();
        for spec in [json!(null), json!([]), json!({"tier": 7}), json!("x")] {
            assert_eq!(cluster(&spec, &complaints).policy, None, "{spec}");
        }
        assert_eq!(complaints.counter.get(), 1);
        complaints.keep(&[]);
        assert!(complaints.said.lock().is_empty());
    }

    #[test]
    fn a_policy_that_is_made_again_is_complained_of_again() {
        let complaints = Complaints::default();
        let name = PolicyName::cluster("p");
        for (uid, expected) in [("one", 1), ("one", 1), ("other", 2)] {
            let meta = ObjectMeta {
                uid: Some(uid.to_owned()),
                generation: Some(1),
                ..ObjectMeta::default()
            };
            let read = parse_cluster_network_policy_json(&json!({"metadata": {"name": "p"}}));
            complaints.judge(name.clone(), &meta, read);
            assert_eq!(complaints.counter.get(), expected, "{uid}");
        }
    }

    #[test]
    fn a_network_policy_closes_where_it_cannot_be_read() {
        let complaints = Complaints::default();
        let policy: NetworkPolicy = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}]},
        }))
        .unwrap();
        let name = network_policy_name(&policy.metadata).unwrap();
        let judge = || {
            complaints.judge(
                name.clone(),
                &policy.metadata,
                parse_network_policy(&policy),
            )
        };
        assert!(judge().policy.unwrap().isolation.ingress);
        assert!(judge().policy.is_some());
        assert_eq!(complaints.counter.get(), 1);
    }
}
