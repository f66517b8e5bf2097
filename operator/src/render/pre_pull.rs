//! The pre-pull: pods that only hold a change's images on every node, so that an image that cannot
//! be had stops a rollout before anything has restarted.

use carrick_api::names::object;
use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod;
use super::{Input, meta, selector};
use crate::object::{Kind, Object, ObjectError};

const NAME: &str = object::PRE_PULL;

/// The DaemonSet. Its pods are ready when the images are on their node and can be run there.
pub fn object(input: &Input<'_>) -> Result<Object, ObjectError> {
    let images = &input.effective.images;
    let agent = &input.effective.agent;
    let nothing = carrick_api::networking::Resources::default();
    let hold = |name: &str, image: &str, args: &[&str]| Container {
        security_context: Some(pod::unprivileged()),
        ..pod::container(input, name, image, args, &nothing)
    };
    let spec = PodSpec {
        // The switch's image has the same binary: to run it once is enough.
        init_containers: Some(vec![hold("switch", &images.carrick_ovs, &["--version"])]),
        containers: vec![hold("carrick", &images.carrick, &["operator", "hold"])],
        tolerations: Some(pod::tolerate_all()),
        priority_class_name: Some(agent.priority_class.clone()),
        automount_service_account_token: Some(false),
        termination_grace_period_seconds: Some(1),
        ..pod::pod_spec(input, object::SWITCH, &agent.placement)
    };
    let set = DaemonSet {
        metadata: meta(input, NAME, NAME),
        spec: Some(DaemonSetSpec {
            revision_history_limit: Some(0),
            selector: LabelSelector {
                match_labels: Some(selector(NAME)),
                ..LabelSelector::default()
            },
            // They carry nothing: all at once.
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_surge: None,
                    max_unavailable: Some(IntOrString::String("100%".to_owned())),
                }),
            }),
            template: pod::template(NAME, None, spec),
            ..DaemonSetSpec::default()
        }),
        ..DaemonSet::default()
    };
    Object::new(Kind::DaemonSet, &set)
}
