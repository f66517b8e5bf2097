//! From what was read to what is wrong. Pure.

use std::collections::BTreeMap;

use carrick_api::networking::{IpamMode, Management};
use carrick_api::status::{NEVER_OBSERVED, condition};
use carrick_api::{AgentInfo, Networking, NetworkingStatus, agentinfo, controllerinfo, names};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::problem::{Problem, Problems};
use crate::pods::{self, Part};
use crate::snapshot::{Installed, Snapshot};
use crate::time::age;

const NETWORK: &str = "network";
/// A report or a pod younger than this may simply be on its way.
const GRACE_SECONDS: i64 = 30;

/// All problems, the worst first.
pub fn diagnose(snapshot: &Snapshot, now: Timestamp) -> Vec<Problem> {
    let mut problems = Problems::default();
    if snapshot.installed == Installed::No {
        problems.error(
            NETWORK,
            "Carrick is not installed: the API server knows no networkings.carrick.dev",
            format!(
                "helm install carrick charts/carrick -n {} --create-namespace --set apiServer.host=HOST --set apiServer.port=PORT",
                crate::connect::DEFAULT_NAMESPACE
            ),
        );
        return problems.finish();
    }
    let operator = operator(snapshot, &mut problems);
    let status = snapshot
        .networking
        .as_ref()
        .and_then(|object| object.status.as_ref());
    match &snapshot.networking {
        Some(networking) => network(snapshot, networking, operator, &mut problems),
        None => problems.error(
            NETWORK,
            "there is no Networking, so there is no network",
            format!(
                "kubectl apply -f - <<< '{{\"apiVersion\":\"carrick.dev/v1alpha1\",\"kind\":\"Networking\",\"metadata\":{{\"name\":\"{}\"}},\"spec\":{{}}}}'",
                names::NETWORKING_NAME
            ),
        ),
    }
    if snapshot.networking.is_some() || !snapshot.agents.is_empty() {
        components(snapshot, status, &mut problems);
        controllers(snapshot, status, &mut problems);
        nodes(snapshot, status, now, &mut problems);
    }
    if let Some(networking) = &snapshot.networking {
        unready(networking, &mut problems);
    }
    problems.finish()
}

/// Whether the operator can be seen working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Runs,
    Away,
    Unknown,
}

fn operator(snapshot: &Snapshot, problems: &mut Problems) -> Operator {
    let Some(all) = &snapshot.pods else {
        return Operator::Unknown;
    };
    let namespace = &snapshot.namespace;
    let mut operators = all
        .iter()
        .filter(|pod| Part::of(pod) == Some(Part::Operator))
        .peekable();
    if operators.peek().is_none() {
        problems.error(
            "operator",
            format!("no pod of the operator in namespace {namespace}: the network stays as it is, changes are not acted on"),
            format!("kubectl -n {namespace} describe deployment/carrick-operator; if Carrick is in another namespace, name it with -n"),
        );
        return Operator::Away;
    }
    let mut state = Operator::Away;
    for pod in operators {
        if pods::ready(pod) {
            state = Operator::Runs;
        } else if let Some(trouble) = pods::trouble(pod) {
            problems.error(
                "operator",
                format!("pod {}: {trouble}", pod.name_any()),
                format!("kubectl -n {namespace} logs {}", pod.name_any()),
            );
        }
    }
    state
}

fn network(
    snapshot: &Snapshot,
    networking: &Networking,
    operator: Operator,
    problems: &mut Problems,
) {
    let namespace = &snapshot.namespace;
    let logs = || format!("kubectl -n {namespace} logs deployment/carrick-operator");
    let fresh = NetworkingStatus::default();
    let status = networking.status.as_ref().unwrap_or(&fresh);
    let management = networking.spec.management.unwrap_or(Management::Managed);
    if networking.metadata.deletion_timestamp.is_some() {
        let cleaned = status
            .nodes
            .as_ref()
            .map(|nodes| format!(": {} of {} nodes are clean", nodes.cleaned, nodes.total))
            .unwrap_or_default();
        problems.error(
            NETWORK,
            format!("the Networking is being deleted{cleaned}"),
            "carrickctl uninstall shows its progress",
        );
    }
    match management {
        Management::Managed => {}
        Management::Paused => problems.warning(
            NETWORK,
            "management is Paused: nothing is changed or mended",
            "set spec.management to Managed when you are done",
        ),
        Management::Unmanaged => problems.warning(
            NETWORK,
            "management is Unmanaged: the operator does not look at this network",
            "set spec.management to Managed or Paused",
        ),
    }
    let generation = networking.metadata.generation.unwrap_or(0);
    if management != Management::Unmanaged && status.observed_generation < generation {
        let what = if status.observed_generation == NEVER_OBSERVED {
            "the operator has not looked at the Networking yet".to_owned()
        } else {
            format!(
                "the operator has not looked at the last change yet (generation {generation}, it knows {})",
                status.observed_generation
            )
        };
        match operator {
            Operator::Runs => problems.error(
                NETWORK,
                what,
                format!("give it some seconds, then {}", logs()),
            ),
            Operator::Away => problems.error(NETWORK, what, "see the operator's own problem"),
            Operator::Unknown => problems.error(NETWORK, what, logs()),
        }
    }
    for type_ in [condition::STALLED, condition::DEGRADED] {
        if let Some(found) = of_type(&status.conditions, type_).filter(|c| c.status == "True") {
            let message = sentence(found);
            if !problems.tells(&message) {
                problems.error(NETWORK, format!("{type_}: {}: {message}", found.reason), "");
            }
        }
    }
    for warning in status
        .plan
        .iter()
        .flat_map(|plan| &plan.warnings)
        .filter(|w| !w.acknowledged)
    {
        problems.warning(
            NETWORK,
            format!("{}: {}", warning.name, warning.message),
            format!(
                "when it is as you want it, add {} to spec.acknowledge",
                warning.name
            ),
        );
    }
    if status.observed_generation >= generation
        && of_type(&status.conditions, condition::READY).is_none()
    {
        problems.error(
            NETWORK,
            "the operator does not say whether the network is ready",
            logs(),
        );
    }
}

/// The operator's verdict, where nothing else explains it.
fn unready(networking: &Networking, problems: &mut Problems) {
    let conditions = networking
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    for type_ in [condition::READY, condition::AVAILABLE] {
        if let Some(found) = of_type(conditions, type_).filter(|c| c.status == "False")
            && !problems.any_error()
        {
            problems.error(
                NETWORK,
                format!("{type_} is False: {}: {}", found.reason, sentence(found)),
                "",
            );
        }
    }
}

fn components(snapshot: &Snapshot, status: Option<&NetworkingStatus>, problems: &mut Problems) {
    let namespace = &snapshot.namespace;
    for component in status.iter().flat_map(|status| &status.components) {
        if component.ready >= component.desired && component.message.is_empty() {
            continue;
        }
        let part = Part::ALL
            .into_iter()
            .find(|part| part.as_str() == component.name);
        let what = if component.message.is_empty() {
            format!(
                "{} of {} pods are ready",
                component.ready, component.desired
            )
        } else {
            component.message.clone()
        };
        let mend = part
            .map(|part| format!("kubectl -n {namespace} describe {}", part.workload()))
            .unwrap_or_default();
        if component.ready < component.desired {
            problems.error(&component.name, what, mend);
        } else {
            problems.warning(&component.name, what, mend);
        }
    }
}

fn controllers(snapshot: &Snapshot, status: Option<&NetworkingStatus>, problems: &mut Problems) {
    let namespace = &snapshot.namespace;
    let pods: Option<Vec<&Pod>> = snapshot.pods.as_ref().map(|all| {
        all.iter()
            .filter(|pod| Part::of(pod) == Some(Part::Controller))
            .collect()
    });
    for pod in pods.iter().flatten() {
        if let Some(trouble) = pods::trouble(pod) {
            let name = pod.name_any();
            problems.error(
                &format!("controller {name}"),
                trouble,
                format!("kubectl -n {namespace} logs {name}"),
            );
        }
    }
    // A report outlives its pod for a while; it is no problem then.
    let alive = |name: &str| {
        pods.as_ref()
            .is_none_or(|pods| pods.iter().any(|p| p.name_any() == name))
    };
    let live: Vec<_> = snapshot
        .controllers
        .iter()
        .filter(|info| alive(&info.name_any()))
        .collect();
    let leaders: Vec<String> = live
        .iter()
        .filter(|info| info.status.as_ref().is_some_and(|status| status.leader))
        .map(|info| info.name_any())
        .collect();
    let logs =
        format!("kubectl -n {namespace} logs -l app.kubernetes.io/component=controller --tail=50");
    let managed = status.is_some();
    match leaders.as_slice() {
        [] if managed => problems.error(
            "controller",
            "no replica leads: pods keep talking, but new pods, nodes and addresses are not announced",
            format!("{logs}; kubectl -n {namespace} get lease {}", names::object::CONTROLLER),
        ),
        [] | [_] => {}
        many => problems.warning(
            "controller",
            format!("{} say that they lead; the older report is usually one that could not be corrected", many.join(" and ")),
            logs,
        ),
    }
    for info in live {
        let Some(status) = &info.status else { continue };
        let cidrs = status.conditions.iter().find(|condition| {
            condition.type_ == controllerinfo::condition::NODE_CIDRS_ALLOCATED
                && condition.status == "False"
        });
        if let Some(condition) = cidrs.filter(|_| status.leader) {
            problems.error(
                "pod CIDRs of nodes",
                format!("{}: {}", condition.reason, condition.message),
                "",
            );
        }
        if !status.last_error.is_empty() {
            problems.warning(
                &format!("controller {}", info.name_any()),
                format!("last error: {}", status.last_error),
                "",
            );
        }
    }
}

/// What helps a node without a pod CIDR.
fn who_gives_cidrs(status: Option<&NetworkingStatus>) -> &'static str {
    let mode = status.and_then(|status| status.effective.as_ref()?.ipam.as_ref()?.mode);
    match mode {
        Some(IpamMode::NodeIPAM) => {
            "the leading controller gives it one; what hinders is in its condition NodeCIDRsAllocated (carrickctl get controllers -o yaml) and its log"
        }
        Some(IpamMode::NodeCIDR) | None => {
            "kube-controller-manager must run with --allocate-node-cidrs and a --cluster-cidr that is large enough"
        }
    }
}

fn nodes(
    snapshot: &Snapshot,
    status: Option<&NetworkingStatus>,
    now: Timestamp,
    problems: &mut Problems,
) {
    let removal = snapshot
        .networking
        .as_ref()
        .is_none_or(|networking| networking.metadata.deletion_timestamp.is_some());
    let infos: BTreeMap<String, &AgentInfo> = snapshot
        .agents
        .iter()
        .map(|info| (info.name_any(), info))
        .collect();
    let on_node = |part: Part, node: &str| {
        snapshot.pods.iter().flatten().find(|pod| {
            Part::of(pod) == Some(part)
                && pods::node(pod) == Some(node)
                && pod.metadata.deletion_timestamp.is_none()
        })
    };
    let said: BTreeMap<&str, &str> = status
        .iter()
        .filter_map(|status| status.nodes.as_ref())
        .flat_map(|nodes| &nodes.not_ready)
        .map(|node| (node.name.as_str(), node.message.as_str()))
        .collect();
    let selector = status.and_then(|status| {
        status
            .effective
            .as_ref()?
            .agent
            .as_ref()?
            .placement
            .as_ref()?
            .node_selector
            .as_ref()
    });
    for node in snapshot.nodes.iter().flatten() {
        let name = node.name_any();
        let wanted = selector.is_none_or(|selector| {
            selector
                .iter()
                .all(|(key, value)| node.labels().get(key) == Some(value))
        });
        if !wanted || !is_linux(node) {
            continue;
        }
        let subject = format!("node {name}");
        let namespace = &snapshot.namespace;
        if !removal
            && node
                .spec
                .as_ref()
                .is_none_or(|spec| spec.pod_cidr.as_deref().unwrap_or_default().is_empty())
        {
            problems.error(
                &subject,
                "the node has no pod CIDR, so its pods get no addresses",
                who_gives_cidrs(status),
            );
        }
        let mut told = false;
        for part in [Part::Switch, Part::Agent] {
            match (on_node(part, &name), &snapshot.pods) {
                (Some(pod), _) => {
                    if let Some(trouble) = pods::trouble(pod) {
                        told = true;
                        problems.error(
                            &subject,
                            format!("{part}: {trouble}"),
                            format!(
                                "kubectl -n {namespace} logs {} --all-containers --tail=50",
                                pod.name_any()
                            ),
                        );
                    }
                }
                (None, Some(_)) if !removal && !young(node, now) => {
                    told = true;
                    problems.error(
                        &subject,
                        format!("no pod of the {part} runs here"),
                        format!("kubectl -n {namespace} describe {}", part.workload()),
                    );
                }
                _ => {}
            }
        }
        match infos.get(&name) {
            Some(info) => agent(info, &subject, now, problems),
            None if told || removal || young(node, now) => {}
            None => problems.error(
                &subject,
                match said.get(name.as_str()) {
                    Some(message) => (*message).to_owned(),
                    None => "its agent has not reported".to_owned(),
                },
                format!(
                    "kubectl -n {namespace} get pods -o wide --field-selector spec.nodeName={name}"
                ),
            ),
        }
        if !node_ready(node) && !removal {
            problems.warning(
                &subject,
                "Kubernetes says that the node is not Ready",
                format!("kubectl describe node {name}"),
            );
        }
    }
    if let Some(nodes) = &snapshot.nodes {
        for name in infos
            .keys()
            .filter(|name| !nodes.iter().any(|node| node.name_any() == **name))
        {
            problems.warning(
                &format!("node {name}"),
                "an AgentInfo is left of a node that is gone",
                "it goes when the operator next looks; kubectl delete agentinfo NAME removes it now",
            );
        }
    } else {
        for (name, info) in infos {
            agent(info, &format!("node {name}"), now, problems);
        }
    }
}

/// What an agent says about itself, in the order that leads to the cause.
fn agent(info: &AgentInfo, subject: &str, now: Timestamp, problems: &mut Problems) {
    use agentinfo::condition as c;
    let fresh = agentinfo::AgentInfoStatus::default();
    let status = info.status.as_ref().unwrap_or(&fresh);
    let mut told = false;
    for (type_, mend) in [
        (c::DATAPATH_READY, ""),
        (c::POD_CIDRS_USABLE, ""),
        (c::READY, ""),
        (
            c::CONTROLLER_CONNECTED,
            "pods keep talking; new pods wait. TCP 11250 must be open from the node to the leader's (carrickctl get controllers)",
        ),
    ] {
        if let Some(found) = of_type(&status.conditions, type_).filter(|c| c.status == "False") {
            // Ready is False because of the others.
            if type_ == c::READY && told {
                continue;
            }
            told = true;
            let lasted = now.as_second() - found.last_transition_time.0.as_second();
            let text = format!("{type_} is False: {}", sentence(found));
            if type_ == c::CONTROLLER_CONNECTED && lasted < GRACE_SECONDS {
                problems.warning(
                    subject,
                    text,
                    format!(
                        "for {} only; usually a change of leader",
                        age(found.last_transition_time.0, now)
                    ),
                );
            } else {
                problems.error(subject, text, mend);
            }
        }
    }
    if let Some(found) =
        of_type(&status.conditions, c::STATE_INTACT).filter(|c| c.status == "False")
    {
        // What cannot be rebuilt says itself what mends it.
        let mend = if found.reason == "SetAside" {
            "the state was rebuilt; keep the file that is named for a report, then remove it"
        } else {
            ""
        };
        problems.warning(
            subject,
            format!("{} is False: {}", c::STATE_INTACT, sentence(found)),
            mend,
        );
    }
    for kind in [
        c::HOST_FIREWALL_OPEN,
        c::FABRIC_ROUTES_PODS,
        c::FABRIC_CARRIES_MTU,
        c::PODS_HAVE_MTU,
        c::SERVICES_SERVED,
        c::POLICIES_ENFORCED,
    ] {
        if let Some(found) = of_type(&status.conditions, kind).filter(|c| c.status == "False") {
            problems.warning(subject, sentence(found), "");
        }
    }
    if of_type(&status.conditions, c::READY).is_none() {
        problems.error(subject, "its agent does not say whether it is ready", "");
    }
    if !status.last_error.is_empty() && !problems.tells(&status.last_error) {
        problems.warning(subject, format!("last error: {}", status.last_error), "");
    }
}

fn of_type<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// The message; the reason when there is none.
fn sentence(condition: &Condition) -> String {
    if condition.message.is_empty() {
        condition.reason.clone()
    } else {
        condition.message.clone()
    }
}

fn is_linux(node: &Node) -> bool {
    node.labels()
        .get("kubernetes.io/os")
        .is_none_or(|os| os == "linux")
}

fn young(node: &Node, now: Timestamp) -> bool {
    node.creation_timestamp()
        .is_some_and(|created| now.as_second() - created.0.as_second() < GRACE_SECONDS)
}

fn node_ready(node: &Node) -> bool {
    node.status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
