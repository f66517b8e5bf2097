//! What the pods of all operands have in common.
//!
//! They run on the host network, need no DNS and no Service, tolerate nodes without a network,
//! and drop every capability that they do not name.

use std::collections::BTreeMap;

use carrick_api::names::object;
use carrick_api::networking::{Placement, Resources};
use k8s_openapi::api::apps::v1::DaemonSetUpdateStrategy;
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapProjection, Container, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, HTTPGetAction, HostPathVolumeSource, KeyToPath, LocalObjectReference,
    NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, ObjectFieldSelector, PodSpec,
    PodTemplateSpec, PreferredSchedulingTerm, Probe, ProjectedVolumeSource, ResourceRequirements,
    SeccompProfile, SecretProjection, SecurityContext, Toleration, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{CONFIG_HASH, Input, labels};

/// The pods of one workload. Their labels are nothing that changes between versions, so that a new
/// version by itself restarts nothing that has the same image; a hash of the configuration makes a
/// change of it restart them.
pub(crate) fn template(
    component: &str,
    config_hash: Option<&str>,
    spec: PodSpec,
) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels(component)),
            annotations: config_hash
                .map(|hash| BTreeMap::from([(CONFIG_HASH.to_owned(), hash.to_owned())])),
            ..ObjectMeta::default()
        }),
        spec: Some(spec),
    }
}

/// Pods are replaced only when somebody deletes them.
pub(crate) fn on_delete() -> DaemonSetUpdateStrategy {
    DaemonSetUpdateStrategy {
        type_: Some("OnDelete".to_owned()),
        rolling_update: None,
    }
}

/// An environment variable with a value.
pub(crate) fn env(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    }
}

/// An environment variable from a field of the pod.
pub(crate) fn env_from(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                // Written out: the API server would default it, and it is part of the list's keys.
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    }
}

/// Who and where the pod is.
pub(crate) fn identity_env() -> Vec<EnvVar> {
    vec![
        env_from("NODE_NAME", "spec.nodeName"),
        env_from("POD_NAME", "metadata.name"),
        env_from("POD_NAMESPACE", "metadata.namespace"),
    ]
}

/// The API server without any Service in between: what kube's in-cluster client reads.
pub(crate) fn api_server_env(input: &Input<'_>) -> Vec<EnvVar> {
    let endpoint = &input.effective.api_server;
    vec![
        env("KUBERNETES_SERVICE_HOST", &endpoint.host),
        env("KUBERNETES_SERVICE_PORT", &endpoint.port.to_string()),
    ]
}

/// A probe by HTTP. Health is served on loopback: the kubelet shares the host network.
pub(crate) fn http_probe(path: &str, port: u16, timing: &Timing) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            host: Some("127.0.0.1".to_owned()),
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(port)),
            scheme: Some("HTTP".to_owned()),
            http_headers: None,
        }),
        period_seconds: Some(timing.period),
        timeout_seconds: Some(timing.timeout),
        failure_threshold: Some(timing.failures),
        ..Probe::default()
    }
}

/// How often a probe asks and how often it may fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Seconds between two questions.
    pub(crate) period: i32,
    /// Seconds an answer may take.
    pub(crate) timeout: i32,
    /// Failures in a row before it counts.
    pub(crate) failures: i32,
}

impl Timing {
    /// A minute without an answer restarts the container: a restart is cheap (forwarding goes on)
    /// but a busy node must not cause it.
    pub(crate) const LIVENESS: Self = Self {
        period: 10,
        timeout: 5,
        failures: 6,
    };
    /// Quick, because rollouts wait for it.
    pub(crate) const READINESS: Self = Self {
        period: 5,
        timeout: 5,
        failures: 3,
    };
    /// Five minutes to start in a cluster that is only coming up.
    pub(crate) const STARTUP: Self = Self {
        period: 5,
        timeout: 5,
        failures: 60,
    };
}

/// Gives a container its health probes.
pub(crate) fn probes(container: &mut Container, port: u16) {
    container.liveness_probe = Some(http_probe("/livez", port, &Timing::LIVENESS));
    container.readiness_probe = Some(http_probe("/readyz", port, &Timing::READINESS));
    container.startup_probe = Some(http_probe("/livez", port, &Timing::STARTUP));
}

/// Root with exactly these capabilities and a read-only root file system.
pub(crate) fn root_with(capabilities: &[&str]) -> SecurityContext {
    SecurityContext {
        run_as_user: Some(0),
        run_as_group: Some(0),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: Some(capabilities.iter().map(|&name| name.to_owned()).collect()),
        }),
        seccomp_profile: Some(runtime_default()),
        ..SecurityContext::default()
    }
}

/// Nobody, with nothing.
pub(crate) fn unprivileged() -> SecurityContext {
    SecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(NOBODY),
        run_as_group: Some(NOBODY),
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        seccomp_profile: Some(runtime_default()),
        ..SecurityContext::default()
    }
}

/// The user of what needs no privilege (the images' `nonroot`).
pub(crate) const NOBODY: i64 = 65532;

fn runtime_default() -> SeccompProfile {
    SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        localhost_profile: None,
    }
}

/// A directory or file of the host.
pub(crate) fn host_path(name: &str, path: &str, type_: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        host_path: Some(HostPathVolumeSource {
            path: path.to_owned(),
            type_: Some(type_.to_owned()),
        }),
        ..Volume::default()
    }
}

/// A scratch directory in memory: root file systems are read-only.
pub(crate) fn empty_dir(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: Some("Memory".to_owned()),
            size_limit: Some(Quantity("16Mi".to_owned())),
        }),
        ..Volume::default()
    }
}

/// A ConfigMap's key as a file of a projected volume.
pub(crate) fn projected_config_map(config_map: &str, key: &str, path: &str) -> VolumeProjection {
    VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: config_map.to_owned(),
            items: Some(vec![key_to_path(key, path)]),
            optional: None,
        }),
        ..VolumeProjection::default()
    }
}

/// A Secret's keys as files of a projected volume.
pub(crate) fn projected_secret(secret: &str, files: &[(&str, &str)]) -> VolumeProjection {
    VolumeProjection {
        secret: Some(SecretProjection {
            name: secret.to_owned(),
            items: Some(
                files
                    .iter()
                    .map(|(key, path)| key_to_path(key, path))
                    .collect(),
            ),
            optional: None,
        }),
        ..VolumeProjection::default()
    }
}

fn key_to_path(key: &str, path: &str) -> KeyToPath {
    KeyToPath {
        key: key.to_owned(),
        path: path.to_owned(),
        mode: None,
    }
}

/// Whether a container may write to a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// No.
    ReadOnly,
    /// Yes.
    ReadWrite,
}

/// A mount of a volume.
pub(crate) fn mount(name: &str, path: &str, access: Access) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: (access == Access::ReadOnly).then_some(true),
        ..VolumeMount::default()
    }
}

/// `/etc/carrick`: the effective configuration and `more` beside it, as one volume (a volume
/// mounted inside a read-only one needs its mount point made there first).
pub(crate) fn config_volume(
    config_hash: &str,
    more: VolumeProjection,
    mode: i32,
) -> (Volume, VolumeMount) {
    let key = super::config::config_key(config_hash);
    let config = projected_config_map(object::CONFIG, &key, "config.json");
    let volume = Volume {
        name: "config".to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(mode),
            sources: Some(vec![config, more]),
        }),
        ..Volume::default()
    };
    (volume, mount("config", "/etc/carrick", Access::ReadOnly))
}

/// What a container asks for.
pub(crate) fn resources(resources: &Resources) -> ResourceRequirements {
    ResourceRequirements {
        requests: resources.requests.clone(),
        limits: resources.limits.clone(),
        claims: None,
    }
}

/// Names of pull Secrets as a pod spec has them.
pub(crate) fn pull_secrets(input: &Input<'_>) -> Option<Vec<LocalObjectReference>> {
    let secrets: Vec<_> = input
        .effective
        .images
        .pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    (!secrets.is_empty()).then_some(secrets)
}

/// Tolerates every taint: a node without network, agent or switch is what it is there to mend.
pub(crate) fn tolerate_all() -> Vec<Toleration> {
    vec![Toleration {
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    }]
}

/// Tolerates what a cluster that is only coming up has, and `placement`'s own. Not `unreachable`:
/// a pod on a node that is gone goes elsewhere.
pub(crate) fn tolerate_bootstrap(input: &Input<'_>, placement: &Placement) -> Vec<Toleration> {
    let exists = |key: &str, effect: Option<&str>| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: effect.map(str::to_owned),
        ..Toleration::default()
    };
    let mut tolerations = vec![
        exists("node-role.kubernetes.io/control-plane", Some("NoSchedule")),
        exists("node.kubernetes.io/not-ready", None),
        exists("node.kubernetes.io/network-unavailable", None),
        exists(
            "node.cloudprovider.kubernetes.io/uninitialized",
            Some("NoSchedule"),
        ),
        exists(&input.effective.taint_key, None),
    ];
    tolerations.extend(placement.tolerations.iter().flatten().cloned());
    tolerations
}

/// Linux nodes that `placement` selects.
pub(crate) fn node_selector(placement: &Placement) -> BTreeMap<String, String> {
    let mut selector = BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]);
    selector.extend(
        placement
            .node_selector
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone())),
    );
    selector
}

/// Rather on the control plane, which is there first and stays longest.
pub(crate) fn prefer_control_plane() -> Affinity {
    Affinity {
        node_affinity: Some(NodeAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                PreferredSchedulingTerm {
                    weight: 100,
                    preference: NodeSelectorTerm {
                        match_expressions: Some(vec![NodeSelectorRequirement {
                            key: "node-role.kubernetes.io/control-plane".to_owned(),
                            operator: "Exists".to_owned(),
                            values: None,
                        }]),
                        match_fields: None,
                    },
                },
            ]),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// What every operand's pod has.
pub(crate) fn pod_spec(input: &Input<'_>, service_account: &str, placement: &Placement) -> PodSpec {
    PodSpec {
        service_account_name: Some(service_account.to_owned()),
        host_network: Some(true),
        // The hosts' resolver: the cluster's DNS needs the network that these pods make.
        dns_policy: Some("Default".to_owned()),
        enable_service_links: Some(false),
        node_selector: Some(node_selector(placement)),
        image_pull_secrets: pull_secrets(input),
        ..PodSpec::default()
    }
}

/// What every operand's container has.
pub(crate) fn container(
    input: &Input<'_>,
    name: &str,
    image: &str,
    args: &[&str],
    ask: &Resources,
) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(input.effective.images.pull_policy.as_str().to_owned()),
        command: Some(vec!["/usr/bin/carrick".to_owned()]),
        args: Some(args.iter().map(|&arg| arg.to_owned()).collect()),
        resources: Some(resources(ask)),
        // The last words of a container that died are in its status, without reading logs.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}
