use super::*;
use crate::samples;
use carrick_api::agentinfo::{AgentInfoSpec, AgentInfoStatus};
use carrick_api::effective::ServiceProxyMode;
use carrick_k8s::condition;
use jiff::Timestamp;

/// kubeadm's, on two nodes.
fn kubeadms() -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": NAME, "namespace": NAMESPACE, "generation": 1, "resourceVersion": "7",
            "labels": {"k8s-app": "kube-proxy"}, "annotations": {"deprecated.daemonset.template.generation": "1"}},
        "spec": {"selector": {}, "template": {"metadata": {}, "spec": {"containers": [],
            "nodeSelector": {"kubernetes.io/os": "linux"}}}},
        "status": {"observedGeneration": 1, "desiredNumberScheduled": 2, "currentNumberScheduled": 2,
            "numberMisscheduled": 0, "numberReady": 2},
    }))
    .unwrap()
}

fn full(kube_proxy: KubeProxy) -> ServiceProxy {
    ServiceProxy {
        mode: ServiceProxyMode::Full,
        kube_proxy: Some(kube_proxy),
        ..ServiceProxy::default()
    }
}

fn serve() -> Agents {
    Agents::Serve { left: Vec::new() }
}

fn wait() -> Agents {
    Agents::Wait("node2".into())
}

fn run(proxy: Option<&ServiceProxy>, found: &Found, agents: &Agents) -> Decision {
    decide(&view(proxy, found, agents))
}

fn view<'a>(proxy: Option<&'a ServiceProxy>, found: &'a Found, agents: &'a Agents) -> View<'a> {
    View {
        proxy,
        found,
        agents,
        times: 0,
        unreachable: BTreeSet::new(),
        now: Timestamp::UNIX_EPOCH,
        acknowledged: false,
    }
}

/// A pod that is ready for so many seconds.
fn member(node: &str, seconds: Option<i64>) -> Member {
    let ready =
        seconds.map(|seconds| Timestamp::UNIX_EPOCH - jiff::SignedDuration::from_secs(seconds));
    Member {
        node: node.into(),
        ready,
    }
}

fn reason(decision: &Decision) -> &'static str {
    decision.said.as_ref().map_or("", |said| said.reason)
}

fn found(set: &Set) -> Found {
    Found::Set(Box::new(set.clone()))
}

#[test]
fn whoever_keeps_the_daemon_set_is_told_from_its_marks() {
    assert_eq!(set(&kubeadms()).manager, None);
    for (place, key, value, who) in [
        (
            "labels",
            "addonmanager.kubernetes.io/mode",
            "Reconcile",
            "add-on manager",
        ),
        ("labels", "eks.amazonaws.com/component", "kube-proxy", "EKS"),
        ("labels", "app.kubernetes.io/managed-by", "Helm", "Helm"),
        ("labels", "argocd.argoproj.io/instance", "core", "Argo CD"),
        (
            "annotations",
            "argocd.argoproj.io/tracking-id",
            "core:apps/DaemonSet",
            "Argo CD",
        ),
        (
            "annotations",
            "meta.helm.sh/release-name",
            "core",
            "Helm release",
        ),
        ("annotations", "objectset.rio.cattle.io/id", "x", "Rancher"),
        ("labels", "k8s-app", "other", "nobody known"),
    ] {
        let mut value_of = serde_json::to_value(kubeadms()).unwrap();
        value_of["metadata"][place][key] = json!(value);
        let managed: DaemonSet = serde_json::from_value(value_of).unwrap();
        let manager = set(&managed).manager.unwrap();
        assert!(manager.contains(who), "{key}: {manager}");
    }
    let mut owned = serde_json::to_value(kubeadms()).unwrap();
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Addon", "name": "core", "uid": "u"}]);
    let owned: DaemonSet = serde_json::from_value(owned).unwrap();
    assert_eq!(
        set(&owned).manager.as_deref(),
        Some("Addon core (ownerReferences)")
    );
}

#[test]
fn kube_proxy_goes_only_once_every_agent_serves() {
    let kube_proxy = found(&set(&kubeadms()));
    for policy in [KubeProxy::Auto, KubeProxy::Disable] {
        let proxy = full(policy);
        let waiting = run(Some(&proxy), &kube_proxy, &wait());
        assert_eq!(
            (waiting.action, reason(&waiting)),
            (None, "WaitingForAgents")
        );
        assert!(!waiting.degraded, "it is on its way");
        let going = run(Some(&proxy), &kube_proxy, &serve());
        assert_eq!(going.action, Some(Action::Disable(1)));
        assert_eq!(going.hold, None);
    }
    let keep = run(Some(&full(KubeProxy::Keep)), &kube_proxy, &serve());
    assert_eq!((keep.action, reason(&keep)), (None, "Kept"));
    let other = run(Some(&ServiceProxy::default()), &kube_proxy, &serve());
    assert_eq!(other, Decision::default());
}

#[test]
fn what_may_not_be_disabled_is_kept_and_degrades_only_who_demands_it() {
    let managed = Set {
        manager: Some("Flux".into()),
        ..set(&kubeadms())
    };
    for (kube_proxy, agents, expected) in [
        (found(&managed), serve(), "ManagedByOthers"),
        (
            Found::StaticPods(vec!["node1".into()]),
            serve(),
            "StaticPods",
        ),
        (
            Found::Unreadable("forbidden".into()),
            serve(),
            "NotReadable",
        ),
        (
            found(&set(&kubeadms())),
            Agents::Elsewhere(vec!["node3".into()]),
            "NodesWithoutAgent",
        ),
        (
            found(&Set {
                times: TIMES_MAX,
                ..set(&kubeadms())
            }),
            serve(),
            "SetBack",
        ),
        (
            Found::Absent,
            Agents::Serve {
                left: vec!["node1: it runs".into()],
            },
            "LeftOnNodes",
        ),
    ] {
        for (policy, degraded) in [(KubeProxy::Auto, false), (KubeProxy::Disable, true)] {
            let decision = run(Some(&full(policy)), &kube_proxy, &agents);
            assert_eq!(reason(&decision), expected);
            assert_eq!(
                (decision.action, &decision.hold),
                (None, &None),
                "{expected}"
            );
            assert_eq!(decision.degraded, degraded, "{expected}");
            let message = decision.said.unwrap().message;
            assert!(
                message.contains("To mend it") || expected == "LeftOnNodes",
                "{message}"
            );
        }
    }
    let absent = run(Some(&full(KubeProxy::Disable)), &Found::Absent, &serve());
    assert_eq!((reason(&absent), absent.degraded), ("Absent", false));
}

#[test]
fn somebody_who_sets_it_back_is_fought_three_times() {
    let mut state = set(&kubeadms());
    let mut times = 0;
    for expected in 1..=TIMES_MAX {
        let (proxy, found, agents) = (full(KubeProxy::Auto), found(&state), serve());
        let view = View {
            times,
            ..view(Some(&proxy), &found, &agents)
        };
        assert_eq!(decide(&view).action, Some(Action::Disable(expected)));
        times = expected;
        // kubeadm writes all of it anew, the annotations with it; an operator that died knows them alone.
        if expected == 2 {
            (state.times, times) = (times, 0);
        }
    }
    let (proxy, found, agents) = (full(KubeProxy::Auto), found(&state), serve());
    let view = View {
        times,
        ..view(Some(&proxy), &found, &agents)
    };
    let decision = decide(&view);
    assert_eq!((decision.action, reason(&decision)), (None, "SetBack"));
}

#[test]
fn kube_proxy_is_ready_before_the_agents_change() {
    let mut state = Set {
        disabled: true,
        marked: true,
        times: 1,
        desired: 0,
        current: 0,
        ..set(&kubeadms())
    };
    let disabled = run(Some(&full(KubeProxy::Auto)), &found(&state), &wait());
    assert_eq!(
        reason(&disabled),
        "Disabled",
        "agents that restart do not bring it back"
    );
    let elsewhere = Agents::Elsewhere(vec!["node3".into()]);
    let bare = run(Some(&full(KubeProxy::Disable)), &found(&state), &elsewhere);
    assert_eq!(
        (bare.action, reason(&bare), bare.degraded),
        (None, "NodesWithoutAgent", true)
    );
    for proxy in [
        Some(ServiceProxy::default()),
        Some(full(KubeProxy::Keep)),
        None,
    ] {
        let proxy = proxy.as_ref();
        let decision = run(proxy, &found(&state), &serve());
        assert_eq!(decision.action, Some(Action::Enable));
        assert!(decision.hold.is_some());
        // Not seen by its controller yet; then one of two pods; then both.
        let enabled = Set {
            disabled: false,
            observed: false,
            ..state.clone()
        };
        assert!(run(proxy, &found(&enabled), &serve()).hold.is_some());
        let half = Set {
            observed: true,
            desired: 2,
            current: 2,
            members: vec![member("node1", Some(10)), member("node2", None)],
            ..enabled
        };
        let decision = run(proxy, &found(&half), &serve());
        assert!(decision.hold.unwrap().contains("1 of 2 pods are ready"));
        assert_eq!(decision.action, None);
        // Its process has only begun, and on a node that reports is no pod yet.
        for members in [
            vec![member("node1", Some(10)), member("node2", Some(9))],
            vec![member("node1", Some(10))],
        ] {
            let early = Set {
                members,
                ..half.clone()
            };
            assert!(run(proxy, &found(&early), &serve()).hold.is_some());
        }
        let whole = Set {
            members: vec![member("node1", Some(99)), member("node2", Some(10))],
            ..half.clone()
        };
        let decision = run(proxy, &found(&whole), &serve());
        assert_eq!(
            (decision.action, decision.hold),
            (Some(Action::Forget), None)
        );
        // A node that does not report, or somebody who accepts it.
        for (away, acknowledged, holds) in [
            (Some("node2"), false, false),
            (None, true, false),
            // The other one, or one that kube-proxy does not want, stands for nobody.
            (Some("node1"), false, true),
            (Some("node3"), false, true),
        ] {
            let (found, agents) = (found(&half), serve());
            let view = View {
                unreachable: away.into_iter().map(str::to_owned).collect(),
                acknowledged,
                ..view(proxy, &found, &agents)
            };
            assert_eq!(
                decide(&view).hold.is_some(),
                holds,
                "{away:?} {acknowledged}"
            );
        }
    }
    state.current = 1;
    let ending = run(Some(&full(KubeProxy::Auto)), &found(&state), &serve());
    assert_eq!(reason(&ending), "Disabling");
}

#[test]
fn a_refusal_of_the_api_server_holds_the_agents_and_names_the_mend() {
    let disabled = Set {
        disabled: true,
        ..set(&kubeadms())
    };
    let decision = run(None, &found(&disabled), &serve()).not_allowed("forbidden");
    assert!(decision.hold.unwrap().contains("kubeProxy.mayDisable=true"));
    let kube_proxy = found(&set(&kubeadms()));
    for (policy, degraded) in [(KubeProxy::Auto, false), (KubeProxy::Disable, true)] {
        let decision = run(Some(&full(policy)), &kube_proxy, &serve()).not_allowed("forbidden");
        assert_eq!(
            (reason(&decision), decision.degraded),
            ("NotAllowed", degraded)
        );
    }
}

#[test]
fn patches_change_nothing_of_others() {
    let state = set(&kubeadms());
    let disable = patch(Action::Disable(2), &state);
    assert_eq!(disable["metadata"]["resourceVersion"], "7");
    assert_eq!(disable["metadata"]["annotations"][TIMES], "2");
    assert_eq!(
        disable["spec"]["template"]["spec"]["nodeSelector"],
        json!({SELECTOR: "true"})
    );
    let enable = patch(Action::Enable, &state);
    assert_eq!(
        enable["spec"]["template"]["spec"]["nodeSelector"],
        json!({SELECTOR: null})
    );
    assert!(patch(Action::Forget, &state)["spec"].is_null());
}

fn report(node: &str, pod: &str, status: Status, reason: &str) -> AgentInfo {
    let mut info = AgentInfo::new(node, AgentInfoSpec {});
    let mut conditions = Vec::new();
    let kind = agentinfo::condition::SERVICES_SERVED;
    condition::set(
        &mut conditions,
        kind,
        status,
        reason,
        "words",
        None,
        Timestamp::UNIX_EPOCH,
    );
    info.status = Some(AgentInfoStatus {
        pod: pod.into(),
        conditions,
        ..AgentInfoStatus::default()
    });
    info
}

#[test]
fn agents_serve_when_the_pod_of_each_node_says_so() {
    let effective = samples::effective();
    let mut facts = samples::facts();
    facts.nodes.truncate(2);
    let pods: BTreeMap<String, String> = [("node1", "a"), ("node2", "b")]
        .map(|(node, pod)| (node.into(), pod.into()))
        .into();
    let is = |reports: &[AgentInfo], complete| agents(&effective, &facts, reports, &pods, complete);
    let good = [
        report("node1", "a", Status::True, "Served"),
        report("node2", "b", Status::True, "Served"),
    ];
    assert_eq!(is(&good, true), serve());
    assert_eq!(is(&good, false), Agents::Wait("the rollout".into()));
    for (other, words) in [
        (report("node2", "old", Status::True, "Served"), "node2"),
        (
            report("node2", "b", Status::Unknown, "WaitingForAPIServer"),
            "node2 (WaitingForAPIServer: words)",
        ),
        (
            report("node2", "b", Status::False, "AddressNotRouted"),
            "node2 (AddressNotRouted: words)",
        ),
    ] {
        assert_eq!(
            is(&[good[0].clone(), other], true),
            Agents::Wait(words.into())
        );
    }
    // As long as kube-proxy has their ports.
    let ports = report("node2", "b", Status::False, "HealthCheckNotServed");
    assert_eq!(is(&[good[0].clone(), ports], true), serve());
    let mut away = facts.clone();
    away.nodes[1].reach = Reach::Unreachable;
    assert_eq!(agents(&effective, &away, &good[..1], &pods, true), serve());
    away.nodes[0].reach = Reach::Unreachable;
    assert!(matches!(
        agents(&effective, &away, &good, &pods, true),
        Agents::Wait(_)
    ));
    let some = samples::effective_of(&samples::spec(
        "{agent: {placement: {nodeSelector: {pool: one}}}}",
    ));
    assert!(
        matches!(agents(&some, &facts, &good, &pods, true), Agents::Elsewhere(nodes) if nodes.len() == 2)
    );
}

#[test]
fn static_pods_are_told_from_those_of_a_daemon_set() {
    let pod = |node: &str, annotations: Value| -> Pod {
        serde_json::from_value(json!({"metadata": {"annotations": annotations},
            "spec": {"nodeName": node, "containers": []}}))
        .unwrap()
    };
    let mirror = json!({"kubernetes.io/config.mirror": "abc"});
    let pods = [
        pod("node2", mirror.clone()),
        pod("node3", json!({})),
        pod("node1", mirror),
    ];
    assert_eq!(static_pods(&pods), ["node1", "node2"]);
}

#[test]
fn the_pods_of_the_daemon_set_are_told_by_their_owner() {
    let mut value = serde_json::to_value(kubeadms()).unwrap();
    value["metadata"]["uid"] = json!("set");
    value["spec"]["selector"] = json!({"matchLabels": {"a": "b", "k8s-app": NAME}});
    let set: DaemonSet = serde_json::from_value(value).unwrap();
    assert_eq!(selector(&set), "a=b,k8s-app=kube-proxy");
    let pod = |node: &str, owner: &str, ready: &str, deleted: Value| -> Pod {
        serde_json::from_value(json!({
            "metadata": {"deletionTimestamp": deleted, "ownerReferences":
                [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": NAME, "uid": owner}]},
            "spec": {"nodeName": node, "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": ready,
                "lastTransitionTime": "1970-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    };
    let pods = [
        pod("node1", "set", "True", Value::Null),
        pod("node2", "set", "False", Value::Null),
        pod("node2", "set", "True", json!("1970-01-01T00:00:00Z")),
        pod("node3", "other", "True", Value::Null),
    ];
    assert_eq!(
        members(&set, &pods),
        [member("node1", Some(0)), member("node2", None)]
    );
}
