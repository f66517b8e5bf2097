use carrick_api::agentinfo::{
    self, AgentCounts, AgentInfoStatus, ControllerConnection, DatapathInUse,
};
use carrick_api::controllerinfo::ControllerInfoStatus;
use carrick_api::networking::{Management, Provider};
use carrick_api::status::{
    ComponentStatus, NodesStatus, Plan, ProviderStatus, Versions, Warning, condition,
};
use carrick_api::{
    AgentInfo, AgentInfoSpec, ControllerInfo, ControllerInfoSpec, Networking, NetworkingSpec,
    NetworkingStatus,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};

use super::problem::Severity;
use super::report::{Report, report};
use crate::snapshot::{Installed, Snapshot};

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn condition(type_: &str, status: &str, reason: &str, message: &str, age: i64) -> Condition {
    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: Some(1),
        last_transition_time: Time(Timestamp::from_second(1_800_000_000 - age).unwrap()),
    }
}

fn node(name: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
                     "labels": {"kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap()
}

fn pod(name: &str, component: &str, node: &str, container: &Value) -> Pod {
    let ready = container["ready"] == true;
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "carrick-system", "labels": {
            "app.kubernetes.io/part-of": "carrick", "app.kubernetes.io/component": component}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            "containerStatuses": [container]},
    }))
    .unwrap()
}

fn well(name: &str) -> Value {
    json!({"name": name, "image": "i", "imageID": "", "ready": true, "restartCount": 0,
           "state": {"running": {}}})
}

fn crashing(name: &str) -> Value {
    json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 4,
           "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 1m0s restarting failed container"}},
           "lastState": {"terminated": {"exitCode": 1, "message": "starting\ncarrick: interface eth7 does not exist\n"}}})
}

fn agent(name: &str) -> AgentInfo {
    let mut info = AgentInfo::new(name, AgentInfoSpec {});
    info.status = Some(AgentInfoStatus {
        version: "0.1.0".into(),
        switch_version: "3.1.0".into(),
        datapath: Some(DatapathInUse::Kernel),
        pod_cidrs: vec!["10.0.0.0/24".into(), "fd00:0:0:1::/64".into()],
        mtu: Some(1450),
        counts: Some(AgentCounts {
            flows: 68,
            groups: 0,
            pods: 7,
        }),
        controller: Some(ControllerConnection {
            address: "172.18.0.2:11250".into(),
            ..Default::default()
        }),
        conditions: vec![
            condition(agentinfo::condition::READY, "True", "Ready", "", 700),
            condition(
                agentinfo::condition::CONTROLLER_CONNECTED,
                "True",
                "Connected",
                "",
                700,
            ),
        ],
        ..Default::default()
    });
    info
}

fn controller(name: &str, leader: bool) -> ControllerInfo {
    let mut info = ControllerInfo::new(name, ControllerInfoSpec {});
    info.status = Some(ControllerInfoStatus {
        version: "0.1.0".into(),
        node: "control".into(),
        leader,
        epoch: 3,
        connected_agents: if leader { 2 } else { 0 },
        conditions: vec![condition("Ready", "True", "Warm", "", 700)],
        ..Default::default()
    });
    info
}

fn networking() -> Networking {
    let effective: NetworkingSpec = serde_json::from_value(json!({
        "traffic": {"mode": "Encap", "tunnel": {"protocol": "Geneve"}}, "datapath": {"type": "Auto"},
    }))
    .unwrap();
    let component = |name: &str, n| ComponentStatus {
        name: name.into(),
        desired: n,
        updated: n,
        ready: n,
        message: String::new(),
    };
    let mut object = Networking::new("default", NetworkingSpec::default());
    object.metadata.generation = Some(1);
    object.status = Some(NetworkingStatus {
        observed_generation: 1,
        conditions: vec![
            condition(
                condition::AVAILABLE,
                "True",
                "Available",
                "Pods have a network.",
                700,
            ),
            condition(
                condition::READY,
                "True",
                "Ready",
                "The network is ready on 2/2 nodes.",
                130,
            ),
        ],
        provider: Some(ProviderStatus {
            detected: Provider::Kubeadm,
            evidence: vec![],
        }),
        effective: Some(effective),
        versions: Some(Versions {
            target: "0.1.0".into(),
            running: [("agent".to_owned(), "0.1.0 (2)".to_owned())].into(),
        }),
        plan: None,
        components: vec![
            component("controller", 2),
            component("agent", 2),
            component("switch", 2),
        ],
        nodes: Some(NodesStatus {
            summary: "2/2".into(),
            total: 2,
            ready: 2,
            ..Default::default()
        }),
        rollout: None,
    });
    object
}

fn healthy() -> Snapshot {
    let mut pods = vec![pod(
        "carrick-operator-1-a",
        "operator",
        "control",
        &well("operator"),
    )];
    for name in ["a", "b"] {
        let pod_name = format!("carrick-controller-1-{name}");
        pods.push(pod(&pod_name, "controller", "control", &well("controller")));
    }
    for node in ["control", "worker"] {
        pods.push(pod(
            &format!("carrick-agent-{node}"),
            "agent",
            node,
            &well("agent"),
        ));
        pods.push(pod(
            &format!("carrick-ovs-{node}"),
            "ovs",
            node,
            &well("switch"),
        ));
    }
    Snapshot {
        installed: Installed::Yes,
        namespace: "carrick-system".into(),
        networking: Some(networking()),
        agents: vec![agent("worker"), agent("control")],
        controllers: vec![
            controller("carrick-controller-1-b", false),
            controller("carrick-controller-1-a", true),
        ],
        nodes: Some(vec![node("control"), node("worker")]),
        pods: Some(pods),
    }
}

fn of(snapshot: &Snapshot) -> Report {
    report(snapshot, now())
}

fn status(snapshot: &mut Snapshot) -> &mut NetworkingStatus {
    snapshot
        .networking
        .as_mut()
        .unwrap()
        .status
        .as_mut()
        .unwrap()
}

#[test]
fn a_healthy_network_has_no_problems() {
    let report = of(&healthy());
    assert!(report.healthy);
    insta::assert_snapshot!("healthy", report.text(now()));
    insta::assert_snapshot!(
        "healthy_json",
        serde_json::to_string_pretty(&report).unwrap()
    );
}

#[test]
fn without_crds_it_says_how_to_install() {
    let report = of(&Snapshot::default());
    assert!(!report.healthy);
    insta::assert_snapshot!("not_installed", report.text(now()));
}

#[test]
fn without_a_networking_it_says_how_to_make_one() {
    let mut snapshot = healthy();
    snapshot.networking = None;
    snapshot.agents.clear();
    snapshot.controllers.clear();
    insta::assert_snapshot!("no_networking", of(&snapshot).text(now()));
}

#[test]
fn a_crashing_agent_is_told_with_its_last_words() {
    let mut snapshot = healthy();
    let pods = snapshot.pods.as_mut().unwrap();
    pods.retain(|pod| pod.metadata.name.as_deref() != Some("carrick-agent-worker"));
    pods.push(pod(
        "carrick-agent-worker",
        "agent",
        "worker",
        &crashing("agent"),
    ));
    snapshot
        .agents
        .retain(|agent| agent.metadata.name.as_deref() != Some("worker"));
    let status = status(&mut snapshot);
    status.conditions = vec![condition(
        condition::READY,
        "False",
        "PodsFailing",
        "1/2 nodes are ready; …",
        60,
    )];
    status.components[1].ready = 1;
    let report = of(&snapshot);
    assert!(!report.healthy);
    insta::assert_snapshot!("crashing_agent", report.text(now()));
}

#[test]
fn what_an_agent_says_is_told_by_its_cause() {
    use agentinfo::condition as c;
    let mut snapshot = healthy();
    for agent in &mut snapshot.agents {
        agent.status.as_mut().unwrap().conditions = vec![
            condition(
                c::READY,
                "False",
                "DatapathNotReady",
                "The datapath is not ready.",
                60,
            ),
            condition(
                c::DATAPATH_READY,
                "False",
                "NoModule",
                "The kernel has no openvswitch module: modprobe openvswitch, or set datapath.type to Userspace.",
                60,
            ),
            condition(
                c::CONTROLLER_CONNECTED,
                "False",
                "Lost",
                "No replica answers.",
                60,
            ),
        ];
    }
    let report = of(&snapshot);
    let what: Vec<_> = report
        .problems
        .iter()
        .map(|p| (p.subjects.len(), p.what.as_str()))
        .collect();
    assert_eq!(
        what,
        [
            (
                2,
                "DatapathReady is False: The kernel has no openvswitch module: modprobe openvswitch, or set datapath.type to Userspace."
            ),
            (2, "ControllerConnected is False: No replica answers."),
        ]
    );
}

#[test]
fn what_is_wrong_between_nodes_is_a_warning_of_a_network_that_works() {
    use agentinfo::condition as c;
    let kinds = [
        c::HOST_FIREWALL_OPEN,
        c::FABRIC_ROUTES_PODS,
        c::FABRIC_CARRIES_MTU,
        c::PODS_HAVE_MTU,
        c::SERVICES_SERVED,
        c::POLICIES_ENFORCED,
    ];
    for kind in kinds {
        let mut snapshot = healthy();
        let status = snapshot.agents[0].status.as_mut().unwrap();
        let words = format!("the words of {kind}");
        let found = condition(kind, "False", "Found", &words, 60);
        status.conditions.push(found);
        let problems = of(&snapshot).problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].what, words);
        assert_eq!(problems[0].severity, Severity::Warning);
    }
}

#[test]
fn a_change_of_leader_is_no_outage() {
    let mut snapshot = healthy();
    snapshot.agents[0].status.as_mut().unwrap().conditions[1] = condition(
        agentinfo::condition::CONTROLLER_CONNECTED,
        "False",
        "Lost",
        "The stream ended.",
        5,
    );
    let report = of(&snapshot);
    assert!(report.healthy);
    assert_eq!(report.problems[0].severity, Severity::Warning);
}

#[test]
fn a_refused_change_is_told_once() {
    let mut snapshot = healthy();
    let message =
        "spec.traffic.mtu: 1450 cannot become 1400. What was applied before stays as it is.";
    status(&mut snapshot).conditions = vec![
        condition(condition::READY, "False", "UnsafeChange", message, 60),
        condition(condition::STALLED, "True", "UnsafeChange", message, 60),
        condition(condition::DEGRADED, "True", "UnsafeChange", message, 60),
    ];
    let report = of(&snapshot);
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
}

#[test]
fn no_leader_no_operator_and_old_generation_are_told() {
    let mut snapshot = healthy();
    snapshot.pods.as_mut().unwrap().remove(0);
    snapshot.controllers[1].status.as_mut().unwrap().leader = false;
    snapshot.networking.as_mut().unwrap().metadata.generation = Some(2);
    insta::assert_snapshot!("nobody_acts", of(&snapshot).text(now()));
}

#[test]
fn pauses_warnings_and_leftovers_do_not_make_it_unhealthy() {
    let mut snapshot = healthy();
    snapshot.networking.as_mut().unwrap().spec.management = Some(Management::Paused);
    snapshot.agents.push(agent("gone"));
    status(&mut snapshot).plan = Some(Plan {
        summary: "nothing to do".into(),
        warnings: vec![Warning {
            name: "mtu-may-shrink".into(),
            message: "MTU may shrink.".into(),
            acknowledged: false,
        }],
        ..Default::default()
    });
    let report = of(&snapshot);
    assert!(report.healthy, "{:?}", report.problems);
    insta::assert_snapshot!("warnings", report.text(now()));
}

#[test]
fn nodes_and_pods_that_may_not_be_read_are_no_problem() {
    let mut snapshot = healthy();
    snapshot.pods = None;
    snapshot.nodes = None;
    let report = of(&snapshot);
    assert!(report.healthy, "{:?}", report.problems);
}

#[test]
fn many_nodes_are_cut_to_those_with_problems() {
    let mut snapshot = healthy();
    snapshot.nodes = None;
    snapshot.agents = (0..200).map(|n| agent(&format!("n{n:03}"))).collect();
    for n in [7, 8, 9, 10, 11] {
        snapshot.agents[n].status.as_mut().unwrap().conditions[0] = condition(
            agentinfo::condition::READY,
            "False",
            "Broken",
            "The bridge is gone.",
            60,
        );
    }
    let text = of(&snapshot).text(now());
    assert!(
        text.contains(
            "error: node n007, node n008, node n009 and 2 more: Ready is False: The bridge is gone."
        ),
        "{text}"
    );
    assert!(
        text.contains("195 nodes not shown: carrickctl get agents"),
        "{text}"
    );
}

#[test]
fn a_terminal_is_not_steered_by_the_cluster() {
    let mut snapshot = healthy();
    snapshot.agents[0].status.as_mut().unwrap().last_error = "bad \u{1b}[2J\nthing".into();
    let text = of(&snapshot).text(now());
    assert!(
        !text.contains('\u{1b}') && text.contains("bad [2J thing"),
        "{text}"
    );
}

#[test]
fn a_rollout_is_shown_while_it_is_under_way() {
    let mut snapshot = healthy();
    let rollout = |phase: &str| {
        serde_json::from_value(
            json!({"phase": phase, "direction": "Forward", "total": 2, "updated": 1, "ready": 1,
            "message": "1 of 2 nodes done; waiting for the agent on worker"}),
        )
        .unwrap()
    };
    status(&mut snapshot).rollout = rollout("Agents");
    let text = of(&snapshot).text(now());
    let line = text
        .lines()
        .find(|line| line.starts_with("rollout"))
        .unwrap();
    assert!(
        line.ends_with(
            "Agents, 1 of 2 nodes updated, 1 ready: 1 of 2 nodes done; waiting for the agent on worker"
        ),
        "{line}"
    );
    status(&mut snapshot).rollout = rollout("Complete");
    assert!(!of(&snapshot).text(now()).contains("\nrollout"));
}
