//! The controller: a leader and warm standbys on the host network.

use carrick_api::names::{object, port};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    ContainerPort, PodSecurityContext, PodSpec, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod;
use super::{Input, meta, selector};
use crate::object::{Kind, Object, ObjectError};

const NAME: &str = object::CONTROLLER;

pub(crate) fn objects(input: &Input<'_>, config_hash: &str) -> Result<Vec<Object>, ObjectError> {
    Ok(vec![
        Object::new(Kind::Service, &service(input))?,
        Object::new(Kind::Deployment, &deployment(input, config_hash))?,
    ])
}

/// Headless: agents read its EndpointSlices. Replicas that are not ready are in them too: a
/// standby tells an agent who leads, and while nobody is ready an agent must still find them.
fn service(input: &Input<'_>) -> Service {
    Service {
        metadata: meta(input, object::CONTROLLER_SERVICE, NAME),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            ip_family_policy: Some("PreferDualStack".to_owned()),
            selector: Some(selector(NAME)),
            publish_not_ready_addresses: Some(true),
            ports: Some(vec![ServicePort {
                name: Some("grpc".to_owned()),
                protocol: Some("TCP".to_owned()),
                port: i32::from(port::CONTROLLER_GRPC),
                target_port: Some(IntOrString::Int(i32::from(port::CONTROLLER_GRPC))),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn deployment(input: &Input<'_>, config_hash: &str) -> Deployment {
    let replicas = input.effective.controller_replicas(input.facts);
    Deployment {
        metadata: meta(input, NAME, NAME),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            revision_history_limit: Some(3),
            selector: LabelSelector {
                match_labels: Some(selector(NAME)),
                ..LabelSelector::default()
            },
            // Host ports: a new pod cannot start beside the old one, so an old one goes first.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(0)),
                    max_unavailable: Some(IntOrString::Int(1)),
                }),
            }),
            template: pod::template(NAME, Some(config_hash), pod_spec(input, config_hash)),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod_spec(input: &Input<'_>, config_hash: &str) -> PodSpec {
    let controller = &input.effective.controller;
    let mut args = vec!["controller"];
    args.extend(controller.extra_args.iter().map(String::as_str));
    let image = &input.effective.images.carrick;
    let mut container = pod::container(input, "controller", image, &args, &controller.resources);
    let mut env = pod::identity_env();
    env.push(pod::env_from("POD_IP", "status.podIP"));
    env.extend(pod::api_server_env(input));
    container.env = Some(env);
    let listen = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        protocol: Some("TCP".to_owned()),
        container_port: i32::from(number),
        // On the host network the API server would default it; two replicas must not share a node.
        host_port: Some(i32::from(number)),
        ..ContainerPort::default()
    };
    container.ports = Some(vec![
        listen("grpc", port::CONTROLLER_GRPC),
        listen("http", port::CONTROLLER_HTTP),
    ]);
    pod::probes(&mut container, port::CONTROLLER_HTTP);
    container.security_context = Some(pod::unprivileged());
    // Lies at names::path::CONTROLLER_TLS_DIR.
    let tls = pod::projected_secret(
        object::CONTROLLER_TLS,
        &[("tls.crt", "tls/tls.crt"), ("tls.key", "tls/tls.key")],
    );
    let (config, config_mount) = pod::config_volume(config_hash, tls, 0o440);
    container.volume_mounts = Some(vec![config_mount]);
    PodSpec {
        containers: vec![container],
        tolerations: Some(pod::tolerate_bootstrap(input, &controller.placement)),
        affinity: Some(pod::prefer_control_plane()),
        priority_class_name: Some("system-cluster-critical".to_owned()),
        security_context: Some(PodSecurityContext {
            fs_group: Some(pod::NOBODY),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(30),
        volumes: Some(vec![config]),
        ..pod::pod_spec(input, NAME, &controller.placement)
    }
}
