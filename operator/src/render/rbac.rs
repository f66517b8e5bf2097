//! Who may do what: every verb named, nothing for all resources.
//!
//! The operator can only grant what it has: the chart's ClusterRole contains every rule here, and
//! a test compares them.

use carrick_api::effective::{ServiceProxyMode, TrafficMode};
use carrick_api::names::{GROUP, object};
use carrick_api::networking::{IpamMode, Switch};
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MatchResources, NamedRuleWithOperations, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicyBindingSpec,
    ValidatingAdmissionPolicySpec, Validation,
};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use super::{Input, cluster_meta, meta};
use crate::object::{Kind, Object, ObjectError};

/// Name of the policy that ties an AgentInfo to its node.
pub const AGENT_POLICY: &str = "carrick-agentinfo-by-its-node";

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let strings = |list: &[&str]| list.iter().map(|&item| item.to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(strings(resources)),
        verbs: strings(verbs),
        ..PolicyRule::default()
    }
}

fn named(rule: PolicyRule, names: &[&str]) -> PolicyRule {
    PolicyRule {
        resource_names: Some(names.iter().map(|&name| name.to_owned()).collect()),
        ..rule
    }
}

/// What the controller may do in the whole cluster. It writes Nodes only where it has to: to take
/// the startup taint off, to give them their pod CIDRs, or, in modes that need no route of a cloud's,
/// to say in their status that the network is available.
pub fn controller_rules(taint: Switch, ipam: IpamMode, mode: TrafficMode) -> Vec<PolicyRule> {
    let writes_nodes = taint == Switch::Enabled || ipam == IpamMode::NodeIPAM;
    let nodes: &[&str] = if writes_nodes {
        &["get", "list", "patch", "watch"]
    } else {
        &["get", "list", "watch"]
    };
    let mut rules = vec![
        rule("", &["nodes"], nodes),
        rule("", &["namespaces", "pods"], &["get", "list", "watch"]),
        rule(
            "networking.k8s.io",
            &["networkpolicies"],
            &["get", "list", "watch"],
        ),
        rule(
            "policy.networking.k8s.io",
            &["clusternetworkpolicies"],
            &["get", "list", "watch"],
        ),
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        rule(GROUP, &["agentinfos"], &["get", "list", "watch"]),
        rule(
            GROUP,
            &["controllerinfos"],
            &[
                "create", "delete", "get", "list", "patch", "update", "watch",
            ],
        ),
        rule(
            GROUP,
            &["controllerinfos/status"],
            &["get", "patch", "update"],
        ),
    ];
    if mode.carries_pods() {
        rules.push(rule("", &["nodes/status"], &["patch"]));
    }
    rules
}

/// What the controller may do in its own namespace.
pub fn controller_namespace_rules(ipam: IpamMode) -> Vec<PolicyRule> {
    let leases: &[&str] = match ipam {
        IpamMode::NodeCIDR => &[object::CONTROLLER],
        // And the claims of CIDRs that are about to be given to nodes.
        IpamMode::NodeIPAM => &[object::CONTROLLER, object::NODE_IPAM],
    };
    vec![
        // A name cannot be given to create: it is in the body.
        rule("coordination.k8s.io", &["leases"], &["create"]),
        named(
            rule(
                "coordination.k8s.io",
                &["leases"],
                &["get", "patch", "update", "watch"],
            ),
            leases,
        ),
    ]
}

/// What an agent may do in the whole cluster. Whose AgentInfo it writes is told by the policy
/// [`AGENT_POLICY`]; it sees no Node, no Pod and no Secret. It sees Services and where they lead only
/// where it serves them.
pub fn agent_rules(services: ServiceProxyMode) -> Vec<PolicyRule> {
    let mut rules = vec![
        rule(
            GROUP,
            &["agentinfos"],
            &["create", "get", "patch", "update"],
        ),
        rule(GROUP, &["agentinfos/status"], &["get", "patch", "update"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ];
    if services != ServiceProxyMode::Disabled {
        rules.push(rule("", &["services"], &["list", "watch"]));
        let slices = rule("discovery.k8s.io", &["endpointslices"], &["list", "watch"]);
        rules.push(slices);
    }
    rules
}

/// What an agent may do in its own namespace: find the controller.
pub fn agent_namespace_rules() -> Vec<PolicyRule> {
    vec![rule(
        "discovery.k8s.io",
        &["endpointslices"],
        &["get", "list", "watch"],
    )]
}

pub(crate) fn objects(input: &Input<'_>) -> Result<Vec<Object>, ObjectError> {
    let mut objects = Vec::new();
    for name in [object::CONTROLLER, object::AGENT, object::SWITCH] {
        objects.push(Object::new(
            Kind::ServiceAccount,
            &ServiceAccount {
                metadata: meta(input, name, name),
                // Pods say for themselves whether they need a token.
                automount_service_account_token: Some(name != object::SWITCH),
                ..ServiceAccount::default()
            },
        )?);
    }
    let parts = [
        (
            object::CONTROLLER,
            controller_rules(
                input.effective.taint,
                input.effective.ipam,
                input.effective.traffic.mode,
            ),
            controller_namespace_rules(input.effective.ipam),
        ),
        (
            object::AGENT,
            agent_rules(input.effective.service_proxy.mode),
            agent_namespace_rules(),
        ),
    ];
    for (name, rules, namespace_rules) in parts {
        let subjects = || {
            Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: name.to_owned(),
                namespace: Some(input.installation.namespace.clone()),
                api_group: None,
            }])
        };
        let role_ref = |kind: &str| RoleRef {
            api_group: RBAC_GROUP.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
        };
        objects.push(Object::new(
            Kind::ClusterRole,
            &ClusterRole {
                metadata: cluster_meta(name, name),
                rules: Some(rules),
                ..ClusterRole::default()
            },
        )?);
        objects.push(Object::new(
            Kind::ClusterRoleBinding,
            &ClusterRoleBinding {
                metadata: cluster_meta(name, name),
                role_ref: role_ref("ClusterRole"),
                subjects: subjects(),
            },
        )?);
        objects.push(Object::new(
            Kind::Role,
            &Role {
                metadata: meta(input, name, name),
                rules: Some(namespace_rules),
            },
        )?);
        objects.push(Object::new(
            Kind::RoleBinding,
            &RoleBinding {
                metadata: meta(input, name, name),
                role_ref: role_ref("Role"),
                subjects: subjects(),
            },
        )?);
    }
    objects.push(Object::new(
        Kind::ValidatingAdmissionPolicy,
        &policy(input),
    )?);
    objects.push(Object::new(
        Kind::ValidatingAdmissionPolicyBinding,
        &binding(),
    )?);
    Ok(objects)
}

/// An agent writes the AgentInfo of the node it runs on and no other: the API server puts the
/// node's name into every bound token (KEP-4193).
fn policy(input: &Input<'_>) -> ValidatingAdmissionPolicy {
    let user = format!(
        "system:serviceaccount:{}:{}",
        input.installation.namespace,
        object::AGENT
    );
    let claim = "authentication.kubernetes.io/node-name";
    ValidatingAdmissionPolicy {
        metadata: cluster_meta(AGENT_POLICY, object::AGENT),
        spec: Some(ValidatingAdmissionPolicySpec {
            failure_policy: Some("Fail".to_owned()),
            match_constraints: Some(MatchResources {
                match_policy: Some("Equivalent".to_owned()),
                resource_rules: Some(vec![NamedRuleWithOperations {
                    api_groups: Some(vec![GROUP.to_owned()]),
                    api_versions: Some(vec!["*".to_owned()]),
                    operations: Some(vec!["CREATE".to_owned(), "UPDATE".to_owned()]),
                    resources: Some(vec![
                        "agentinfos".to_owned(),
                        "agentinfos/status".to_owned(),
                    ]),
                    scope: Some("*".to_owned()),
                    ..NamedRuleWithOperations::default()
                }]),
                ..MatchResources::default()
            }),
            match_conditions: Some(vec![MatchCondition {
                name: "an-agent".to_owned(),
                expression: format!("request.userInfo.username == '{user}'"),
            }]),
            validations: Some(vec![Validation {
                expression: format!(
                    "'{claim}' in request.userInfo.extra && \
                     object.metadata.name in request.userInfo.extra['{claim}']"
                ),
                message: Some(
                    "an agent may write only the AgentInfo of the node its token is bound to"
                        .to_owned(),
                ),
                reason: Some("Forbidden".to_owned()),
                ..Validation::default()
            }]),
            ..ValidatingAdmissionPolicySpec::default()
        }),
        ..ValidatingAdmissionPolicy::default()
    }
}

fn binding() -> ValidatingAdmissionPolicyBinding {
    ValidatingAdmissionPolicyBinding {
        metadata: cluster_meta(AGENT_POLICY, object::AGENT),
        spec: Some(ValidatingAdmissionPolicyBindingSpec {
            policy_name: Some(AGENT_POLICY.to_owned()),
            validation_actions: Some(vec!["Deny".to_owned()]),
            ..ValidatingAdmissionPolicyBindingSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_see_services_only_where_they_serve_them() {
        let sees = |mode| {
            let rules = agent_rules(mode);
            let mut resources = rules
                .iter()
                .flat_map(|rule| rule.resources.iter().flatten());
            resources.any(|resource| resource == "services")
        };
        assert!(!sees(ServiceProxyMode::Disabled));
        assert!(sees(ServiceProxyMode::ClusterIP) && sees(ServiceProxyMode::Full));
    }
}
