//! The objects of one test run: a namespace, a ServiceAccount without rights, and pods. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, EnvVarSource, Namespace, ObjectFieldSelector, Pod, PodSpec,
    ResourceRequirements, SecurityContext, ServiceAccount, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::plan::Role;

/// On the namespace and all in it.
pub const LABEL: &str = "carrick.dev/check";
/// On pods: what they are for.
pub const ROLE_LABEL: &str = "carrick.dev/check-role";
/// On the namespace: after this moment any later run removes it.
pub const EXPIRES: &str = "carrick.dev/check-expires";
/// The container's name.
pub const CONTAINER: &str = "probe";
/// The pods' ServiceAccount. The namespace's own one takes a moment to appear.
const ACCOUNT: &str = "probe";
/// Pods end by themselves after this, whatever becomes of us.
pub const LIFE: SignedDuration = SignedDuration::from_mins(30);
/// nobody
const UID: i64 = 65_534;

/// What the pods are made from.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The run's namespace.
    pub namespace: String,
    /// Image with /usr/bin/carrick.
    pub image: String,
    /// Port of the probes.
    pub port: u16,
}

fn labels(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    [(LABEL, "true")]
        .iter()
        .chain(more)
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// The namespace. Pods on the host network need the privileged level of Pod Security.
pub fn namespace(name: &str, now: Timestamp) -> Namespace {
    let expires = now.saturating_add(LIFE).unwrap_or(now);
    Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels(&[
                ("pod-security.kubernetes.io/enforce", "privileged"),
                ("pod-security.kubernetes.io/audit", "privileged"),
                ("pod-security.kubernetes.io/warn", "privileged"),
            ])),
            annotations: Some(BTreeMap::from([(EXPIRES.to_owned(), expires.to_string())])),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// The pods' account: no rights, no token.
pub fn account(recipe: &Recipe) -> ServiceAccount {
    ServiceAccount {
        metadata: ObjectMeta {
            name: Some(ACCOUNT.to_owned()),
            namespace: Some(recipe.namespace.clone()),
            labels: Some(labels(&[])),
            ..ObjectMeta::default()
        },
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// The pod of `role` on the node with number `index`.
pub fn pod(recipe: &Recipe, role: Role, index: usize, node: &str) -> Pod {
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let requests = [("cpu", "5m"), ("memory", "16Mi")];
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(recipe.image.clone()),
        // The agent runs by this image: it is on the node.
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(
            ["/usr/bin/carrick", "probe", "serve"]
                .map(str::to_owned)
                .to_vec(),
        ),
        env: Some(vec![
            field("PROBE_LISTEN", "status.podIPs"),
            field("POD_NAME", "metadata.name"),
            EnvVar {
                name: "PROBE_PORT".to_owned(),
                value: Some(recipe.port.to_string()),
                ..EnvVar::default()
            },
        ]),
        resources: Some(ResourceRequirements {
            requests: Some(
                requests
                    .map(|(k, v)| (k.to_owned(), Quantity(v.to_owned())))
                    .into_iter()
                    .collect(),
            ),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(UID),
            run_as_group: Some(UID),
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    };
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("{}-{index}", role.prefix())),
            namespace: Some(recipe.namespace.clone()),
            labels: Some(labels(&[(ROLE_LABEL, role.prefix())])),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            // Not the scheduler's affair: it must run on this node or the test says why not.
            node_name: Some(node.to_owned()),
            host_network: (role == Role::Host).then_some(true),
            service_account_name: Some(ACCOUNT.to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            active_deadline_seconds: Some(LIFE.as_secs()),
            termination_grace_period_seconds: Some(1),
            tolerations: Some(vec![Toleration {
                operator: Some("Exists".to_owned()),
                ..Toleration::default()
            }]),
            containers: vec![container],
            ..PodSpec::default()
        }),
        ..Pod::default()
    }
}

/// Whether another run's namespace is one that nobody removed.
pub fn expired(namespace: &Namespace, now: Timestamp) -> bool {
    namespace
        .metadata
        .annotations
        .iter()
        .filter_map(|annotations| annotations.get(EXPIRES))
        .any(|text| text.parse::<Timestamp>().is_ok_and(|expires| expires < now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_expires() {
        let now = Timestamp::UNIX_EPOCH;
        let made = namespace("carrick-check-1", now);
        assert!(!expired(&made, now));
        assert!(expired(&made, now + LIFE + SignedDuration::from_secs(1)));
        assert!(!expired(&Namespace::default(), now));
    }

    #[test]
    fn pods_are_as_restricted_as_their_work_allows() {
        let recipe = Recipe {
            namespace: "carrick-check-1".into(),
            image: "carrick:1".into(),
            port: 11290,
        };
        let pod = serde_json::to_value(pod(&recipe, Role::Host, 0, "n")).unwrap();
        insta::assert_snapshot!(serde_saphyr::to_string(&pod).unwrap());
    }
}
