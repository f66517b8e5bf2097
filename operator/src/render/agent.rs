//! The agent: one on every Linux node; during removal the same DaemonSet cleans its node.

use carrick_api::names::{TOKEN_AUDIENCE, object, path, port};
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1::{
    PodSpec, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::{self, Access};
use super::{Input, Purpose, meta, selector};
use crate::object::{Kind, Object, ObjectError};

const NAME: &str = object::AGENT;

/// What the agent may do on its node: links, routes, nftables and sockets of the switch
/// (NET_ADMIN), entering pods' network namespaces (SYS_ADMIN, for setns), raw sockets for
/// neighbour announcements (NET_RAW).
const CAPABILITIES: [&str; 3] = ["NET_ADMIN", "NET_RAW", "SYS_ADMIN"];
/// Seconds a token lives; the kubelet renews it at 80 %.
const TOKEN_SECONDS: i64 = 3600;

pub(crate) fn objects(input: &Input<'_>, config_hash: &str) -> Result<Vec<Object>, ObjectError> {
    Ok(vec![Object::new(
        Kind::DaemonSet,
        &daemon_set(input, config_hash),
    )?])
}

fn daemon_set(input: &Input<'_>, config_hash: &str) -> DaemonSet {
    let update_strategy = match input.purpose {
        // The operator deletes the pods, in order: see `rollout`.
        Purpose::Network => pod::on_delete(),
        // There is nothing left to protect: all nodes at once.
        Purpose::Cleanup => DaemonSetUpdateStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDaemonSet {
                max_surge: None,
                max_unavailable: Some(IntOrString::String("100%".to_owned())),
            }),
        },
    };
    DaemonSet {
        metadata: meta(input, NAME, NAME),
        spec: Some(DaemonSetSpec {
            revision_history_limit: Some(3),
            selector: LabelSelector {
                match_labels: Some(selector(NAME)),
                ..LabelSelector::default()
            },
            update_strategy: Some(update_strategy),
            template: pod::template(NAME, Some(config_hash), pod_spec(input, config_hash)),
            ..DaemonSetSpec::default()
        }),
        ..DaemonSet::default()
    }
}

fn pod_spec(input: &Input<'_>, config_hash: &str) -> PodSpec {
    let agent = &input.effective.agent;
    let args: &[&str] = match input.purpose {
        Purpose::Network => &["agent"],
        Purpose::Cleanup => &["agent", "cleanup"],
    };
    let image = &input.effective.images.carrick;
    let mut container = pod::container(input, "agent", image, args, &agent.resources);
    let mut env = pod::identity_env();
    env.extend(pod::api_server_env(input));
    container.env = Some(env);
    if input.purpose == Purpose::Network {
        // Cleaning is over when it is reported, and must not be cut short.
        pod::probes(&mut container, port::AGENT_HTTP);
    }
    container.security_context = Some(pod::root_with(&CAPABILITIES));

    // Lies at names::path::CA_BUNDLE_FILE.
    let ca = pod::projected_config_map(object::CA_BUNDLE, super::config::CA_KEY, "ca/ca.crt");
    let (config, config_mount) = pod::config_volume(config_hash, ca, 0o444);
    let cni = &input.effective.cni;
    let mut volumes = vec![
        config,
        token_volume(),
        pod::host_path("state", path::STATE_DIR, "DirectoryOrCreate"),
        pod::host_path("run", path::RUN_DIR, "DirectoryOrCreate"),
        pod::host_path("netns", "/run/netns", "DirectoryOrCreate"),
        pod::host_path("cni-bin", &cni.bin_dir, "DirectoryOrCreate"),
        pod::host_path("cni-conf", &cni.conf_dir, "DirectoryOrCreate"),
        pod::host_path("proc-sys-net", "/proc/sys/net", "Directory"),
        // For the tools it calls: the root file system is read-only.
        pod::empty_dir("tmp"),
    ];
    let mut mounts = vec![
        config_mount,
        pod::mount("token", "/var/run/secrets/carrick", Access::ReadOnly),
        pod::mount("state", path::STATE_DIR, Access::ReadWrite),
        pod::mount("run", path::RUN_DIR, Access::ReadWrite),
        VolumeMount {
            // Namespaces that the runtime makes later must appear here too.
            mount_propagation: Some("HostToContainer".to_owned()),
            ..pod::mount("netns", "/run/netns", Access::ReadWrite)
        },
        pod::mount("cni-bin", path::HOST_CNI_BIN, Access::ReadWrite),
        pod::mount("cni-conf", path::HOST_CNI_CONF, Access::ReadWrite),
        pod::mount("proc-sys-net", path::HOST_PROC_SYS_NET, Access::ReadWrite),
        pod::mount("tmp", "/tmp", Access::ReadWrite),
    ];
    if input.purpose == Purpose::Cleanup {
        // A directory cannot be removed from inside its own mount: cleanup reaches the state and
        // run directories by their parents.
        volumes.push(pod::host_path("host-var-lib", "/var/lib", "Directory"));
        volumes.push(pod::host_path("host-run", "/run", "Directory"));
        mounts.push(pod::mount(
            "host-var-lib",
            path::HOST_VAR_LIB,
            Access::ReadWrite,
        ));
        mounts.push(pod::mount("host-run", path::HOST_RUN, Access::ReadWrite));
    }
    container.volume_mounts = Some(mounts);
    PodSpec {
        containers: vec![container],
        tolerations: Some(pod::tolerate_all()),
        priority_class_name: Some(agent.priority_class.clone()),
        termination_grace_period_seconds: Some(30),
        volumes: Some(volumes),
        ..pod::pod_spec(input, NAME, &agent.placement)
    }
}

/// The token agents show to the controller: our audience, so that it is worth nothing elsewhere.
fn token_volume() -> Volume {
    Volume {
        name: "token".to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o400),
            sources: Some(vec![VolumeProjection {
                service_account_token: Some(ServiceAccountTokenProjection {
                    audience: Some(TOKEN_AUDIENCE.to_owned()),
                    expiration_seconds: Some(TOKEN_SECONDS),
                    path: "token".to_owned(),
                }),
                ..VolumeProjection::default()
            }]),
        }),
        ..Volume::default()
    }
}
