//! The switch: Open vSwitch in a DaemonSet of its own.
//!
//! Its template depends on the image, its resources, its nodes, its priority and on whether any node
//! may use the userspace datapath (the network's own cannot change while it runs; the first entry of
//! `nodeConfigs` that names it restarts every switch), and on nothing else of the configuration. A
//! change of the template takes one node at a time.

use carrick_api::names::{object, path, port};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::pod::{self, Access};
use super::{Input, meta, selector};
use crate::object::{Kind, Object, ObjectError};

const NAME: &str = object::SWITCH;

/// What Open vSwitch may do on either datapath: datapaths, ports and tap devices (NET_ADMIN), raw
/// sockets (NET_RAW). The kernel loads `openvswitch` by itself when it is asked for it.
const CAPABILITIES: [&str; 2] = ["NET_ADMIN", "NET_RAW"];

pub(crate) fn objects(input: &Input<'_>) -> Result<Vec<Object>, ObjectError> {
    Ok(vec![Object::new(Kind::DaemonSet, &daemon_set(input))?])
}

fn daemon_set(input: &Input<'_>) -> DaemonSet {
    DaemonSet {
        metadata: meta(input, NAME, NAME),
        spec: Some(DaemonSetSpec {
            revision_history_limit: Some(3),
            selector: LabelSelector {
                match_labels: Some(selector(NAME)),
                ..LabelSelector::default()
            },
            // The operator deletes the pods, after the agents' and one node at a time.
            update_strategy: Some(pod::on_delete()),
            // No configuration hash: see above.
            template: pod::template(NAME, None, pod_spec(input)),
            ..DaemonSetSpec::default()
        }),
        ..DaemonSet::default()
    }
}

fn pod_spec(input: &Input<'_>) -> PodSpec {
    let agent = &input.effective.agent;
    let image = &input.effective.images.carrick_ovs;
    let mut container =
        pod::container(input, "switch", image, &["switch"], &agent.switch_resources);
    container.env = Some(pod::identity_env());
    pod::probes(&mut container, port::SWITCH_HTTP);
    let mut volumes = vec![pod::host_path("run", path::RUN_DIR, "DirectoryOrCreate")];
    let mut mounts = vec![pod::mount("run", path::RUN_DIR, Access::ReadWrite)];
    if input.effective.has_userspace() {
        // Internal ports are tap devices there.
        volumes.push(pod::host_path("tun", "/dev/net/tun", "CharDevice"));
        mounts.push(pod::mount("tun", "/dev/net/tun", Access::ReadWrite));
    }
    volumes.push(pod::empty_dir("tmp"));
    mounts.push(pod::mount("tmp", "/tmp", Access::ReadWrite));
    container.security_context = Some(pod::root_with(&CAPABILITIES));
    container.volume_mounts = Some(mounts);
    PodSpec {
        containers: vec![container],
        tolerations: Some(pod::tolerate_all()),
        priority_class_name: Some(agent.priority_class.clone()),
        // It talks to nobody but the agent beside it.
        automount_service_account_token: Some(false),
        termination_grace_period_seconds: Some(30),
        volumes: Some(volumes),
        ..pod::pod_spec(input, NAME, &agent.placement)
    }
}
