//! The operator on a real kube-apiserver, with exactly the permissions the chart gives it.
//!
//! There is no controller manager and no kubelet here: tests play their part (pods, workload
//! status, garbage collection).

#![expect(clippy::unwrap_used, reason = "tests say what they expect")]

mod bed;

use std::collections::BTreeMap;

use bed::{Bed, DEADLINE, NAMESPACE, POLL, config};
use carrick_k8s::pki::rotation::Policy;
use carrick_k8s::pki::{LeafNames, Pki, inspect};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_networking_becomes_a_network_in_an_empty_cluster() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24"), ("node2", "10.244.1.0/24")]).await;
    bed.apply(&json!({})).unwrap();
    assert_eq!(
        bed.networking()["status"]["observedGeneration"],
        -1,
        "nobody looked yet"
    );
    bed.start_operator().await;

    bed.until_condition("Ready", "False", "Progressing").await;
    for operand in [
        ["deployment", "carrick-controller"],
        ["daemonset", "carrick-agent"],
        ["daemonset", "carrick-ovs"],
        ["service", "carrick-controller"],
        ["configmap", "carrick-config"],
        ["validatingadmissionpolicy", "carrick-agentinfo-by-its-node"],
        ["secret", "carrick-controller-tls"],
    ] {
        bed.until(&format!("{operand:?} exists"), || {
            bed.get(&operand).is_some()
        })
        .await;
    }
    let config = bed.get(&["configmap", "carrick-config"]).unwrap();
    let configs = config["data"].as_object().unwrap();
    assert_eq!(configs.len(), 1, "one configuration is in use: {config}");
    let config = configs.values().next().unwrap().as_str().unwrap();
    let config: Value = serde_json::from_str(config).unwrap();
    assert!(
        !config["serviceCidrs"].as_array().unwrap().is_empty(),
        "read from ServiceCIDR: {config}"
    );
    let networking = bed.networking();
    assert_eq!(
        networking["status"]["effective"]["traffic"]["mode"],
        "Encap"
    );
    assert_eq!(networking["status"]["provider"]["detected"], "Generic");
    assert_eq!(
        networking["spec"],
        json!({}),
        "defaults are not written into the spec"
    );

    bed.play_ready(&["node1", "node2"]);
    bed.until_condition("Ready", "True", "Ready").await;
    let networking = bed.networking();
    assert_eq!(networking["status"]["nodes"]["summary"], "2/2");
    assert_eq!(
        networking["status"]["versions"]["running"]["agent"],
        "0.1.0 (2)"
    );

    // A restart of the operator changes nothing.
    let before = bed.versions();
    assert_eq!(before.len(), 19, "{before:#?}");
    bed.stop_operator().await;
    bed.start_operator().await;
    let seen = bed.networking()["metadata"]["resourceVersion"].clone();
    bed.server
        .kubectl(&["annotate", "networking", "default", "look=again"])
        .unwrap();
    bed.apply(&json!({"observability": {"logLevel": "info"}}))
        .unwrap();
    bed.until_condition("Ready", "True", "Ready").await;
    assert_ne!(bed.networking()["metadata"]["resourceVersion"], seen);
    assert_eq!(bed.versions(), before);
    bed.stop_operator().await;
}

/// An operator that was away for longer than a certificate lives signs another as soon as it is back, by the
/// CA that agents trust.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_signed_anew_by_the_same_ca() {
    let mut bed = Bed::start(&[]).await;
    let names = LeafNames {
        dns: ["carrick-controller".to_owned()].into(),
        ..LeafNames::default()
    };
    let two_years_ago = Timestamp::now() - SignedDuration::from_hours(2 * 365 * 24);
    let (pki, _, _) = Pki::default()
        .advance("carrick-ca", &names, two_years_ago, &Policy::default())
        .unwrap();
    for (name, kind, data) in [
        ("carrick-ca", "Opaque", pki.ca_data()),
        (
            "carrick-controller-tls",
            "kubernetes.io/tls",
            pki.leaf_data(),
        ),
    ] {
        let data: BTreeMap<_, _> = data
            .into_iter()
            .map(|(key, value)| (key, String::from_utf8(value).unwrap()))
            .collect();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": kind, "stringData": data,
            "metadata": {"name": name, "namespace": NAMESPACE},
        });
        bed.server
            .kubectl_with_input(&["create", "-f", "-"], &secret.to_string())
            .unwrap();
    }
    let stored = |bed: &Bed, name: &str| {
        let template = r#"go-template={{index .data "tls.crt" | base64decode}}"#;
        let get = ["get", "secret", "-n", NAMESPACE, name, "-o", template];
        bed.server.kubectl(&get).unwrap()
    };
    let ca = stored(&bed, "carrick-ca");
    let expired = stored(&bed, "carrick-controller-tls");
    bed.apply(&json!({})).unwrap();
    bed.start_operator().await;
    bed.until("another certificate", || {
        stored(&bed, "carrick-controller-tls") != expired
    })
    .await;
    let fresh = stored(&bed, "carrick-controller-tls");
    let facts = |pem: &str| inspect("a certificate", pem).unwrap();
    assert!(facts(&expired).not_after < Timestamp::now());
    assert!(facts(&fresh).not_after > Timestamp::now());
    assert_eq!(facts(&fresh).issuer_key_id, facts(&ca).key_id);
    assert_eq!(stored(&bed, "carrick-ca"), ca);
    bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_object_can_tell_is_refused_by_the_api_server() {
    let bed = Bed::start(&[]).await;
    let refused = |name: &str, spec: Value, words: &str| {
        let error = format!("{:#}", bed.apply_named(name, &spec).unwrap_err());
        assert!(error.contains(words), "{spec}: {error}");
    };
    refused("second", json!({}), "name it \"default\"");
    refused(
        "default",
        json!({"traffic": {"mode": "Carrier"}}),
        "supported values: \"Encap\"",
    );
    for (traffic, words) in [
        (
            json!({"tunnel": {"protocol": "STT"}}),
            "no longer in Open vSwitch for Linux: choose Geneve, VXLAN or GRE",
        ),
        (
            json!({"tunnel": {"protocol": "IPIP"}}),
            "protocol is Geneve, VXLAN or GRE",
        ),
        (
            json!({"tunnel": {"protocol": "GRE", "port": 4789}}),
            "choose Geneve or VXLAN",
        ),
        (
            json!({"mode": "NoEncap", "tunnel": {"protocol": "VXLAN"}}),
            "choose Encap or Hybrid",
        ),
        (
            json!({"transport": {"cidrs": ["192.0.2.0"]}}),
            "ranges such as 192.0.2.0/24",
        ),
    ] {
        refused("default", json!({"traffic": traffic}), words);
    }
    refused("default", json!({"traffic": {"mtu": 100}}), "at least 576");
    refused(
        "default",
        json!({"datapath": {"type": "Userspace"}}),
        "needs traffic.transport.interface",
    );
    refused(
        "default",
        json!({"apiServer": {"host": "a"}}),
        "go together",
    );
    refused(
        "default",
        json!({"images": {"digests": {"other": format!("sha256:{}", "0".repeat(64))}}}),
        "knows the images",
    );
    refused(
        "default",
        json!({"encryption": {"mode": "WireGuard"}}),
        "field not declared in schema",
    );
    refused(
        "default",
        json!({"serviceProxy": {"mode": "Everything"}}),
        "supported values: \"Disabled\"",
    );
    refused(
        "default",
        json!({"serviceProxy": {"skipServices": ["kube-dns"]}}),
        "should match",
    );
    refused(
        "default",
        json!({"serviceProxy": {"nodePortAddresses": ["192.0.2.1"]}}),
        "serviceProxy.nodePortAddresses holds ranges",
    );
    refused(
        "default",
        json!({"controller": {"replicas": 0}}),
        "greater than or equal to 1",
    );
    refused(
        "default",
        json!({"hostFirewall": "Open"}),
        "supported values: \"Report\"",
    );
    let own = |rest: Value| {
        let mut entry = json!({"name": "gpu", "nodeSelector": {"matchLabels": {"pool": "gpu"}}});
        for (key, value) in rest.as_object().unwrap() {
            entry[key] = value.clone();
        }
        entry
    };
    let expression = |operator: &str, values: Value| json!({"nodeSelector": {"matchExpressions": [{"key": "pool", "operator": operator, "values": values}]}});
    for (configs, words) in [
        (
            json!([own(json!({})), own(json!({"nodeSelector": {}}))]),
            "names in nodeConfigs are unique",
        ),
        (
            json!([own(json!({"datapath": {"type": "Userspace"}}))]),
            "needs traffic.transport.interface, there or for the whole network",
        ),
        (
            json!([own(expression("In", json!([])))]),
            "values go with the operators In and NotIn",
        ),
        (
            json!([own(expression("Exists", json!(["a"])))]),
            "values go with the operators In and NotIn",
        ),
        (
            json!([own(json!({"traffic": {"mtu": 1400}}))]),
            "field not declared in schema",
        ),
    ] {
        refused("default", json!({"nodeConfigs": configs}), words);
    }
    let ipam = |mode: &str, list: Value| json!({"ipam": {"mode": mode, "nodeIPAM": {"clusterCIDRs": list}}});
    for (spec, words) in [
        (
            json!({"ipam": {"mode": "NodeIPAM"}}),
            "needs ipam.nodeIPAM.clusterCIDRs",
        ),
        (
            ipam("NodeIPAM", json!([])),
            "needs ipam.nodeIPAM.clusterCIDRs",
        ),
        (
            ipam("NodeCIDR", json!(["10.1.0.0/16"])),
            "acts in ipam.mode NodeIPAM only",
        ),
        (
            ipam("NodeIPAM", json!(["10.1.0.1/16"])),
            "CIDR without host bits",
        ),
        (
            ipam("NodeIPAM", json!(["10.1.0.0"])),
            "CIDR without host bits",
        ),
        (
            ipam("NodeIPAM", json!(vec!["10.1.0.0/16"; 9])),
            "must have at most 8 items",
        ),
        (
            json!({"ipam": {"nodeIPAM": {"nodeMaskSizeIPv4": 29}}}),
            "less than or equal to 28",
        ),
    ] {
        refused("default", spec, words);
    }
    bed.apply(&ipam("NodeIPAM", json!(["10.1.0.0/16", "fd00:1::/48"])))
        .unwrap();
    bed.apply(&json!({"datapath": {"type": "Userspace"}, "traffic": {"mode": "NoEncap"}}))
        .unwrap();
    bed.apply(
        &json!({"datapath": {"type": "Userspace"}, "traffic": {"transport": {"interface": "eth1"}},
        "apiServer": {"host": "fd00::1", "port": 6443}}),
    )
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_cidrs_can_be_added_and_those_that_nodes_use_stay() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24")]).await;
    let spec =
        |list: Value| json!({"ipam": {"mode": "NodeIPAM", "nodeIPAM": {"clusterCIDRs": list}}});
    bed.apply(&spec(json!(["10.96.0.0/12"]))).unwrap();
    bed.start_operator().await;
    let message = bed.until_condition("Stalled", "True", "InvalidSpec").await;
    assert!(message.contains("overlaps the Service range"), "{message}");

    bed.apply(&spec(json!(["10.244.0.0/16"]))).unwrap();
    bed.until("the last operand", || {
        bed.get(&["daemonset", "carrick-ovs"]).is_some()
    })
    .await;
    bed.play_ready(&["node1"]);
    bed.play_agent("node1", "Ready", "True", "");
    bed.until_condition("Ready", "True", "Ready").await;
    let can = |verb: &str, what: &str| {
        let controller = format!("--as=system:serviceaccount:{NAMESPACE}:carrick-controller");
        let ask = ["auth", "can-i", verb, what, "-n", NAMESPACE, &controller];
        bed.server.kubectl(&ask).is_ok()
    };
    assert!(can("patch", "nodes") && can("update", "leases/carrick-node-ipam"));
    assert!(!can("update", "nodes") && !can("update", "leases/carrick-operator"));

    // Another list restarts the controller and no agent.
    let template = |what: &[&str]| bed.get(what).unwrap()["spec"]["template"].clone();
    let agent = template(&["daemonset", "carrick-agent"]);
    let controller = template(&["deployment", "carrick-controller"]);
    bed.apply(&spec(json!(["10.244.0.0/16", "10.9.0.0/16"])))
        .unwrap();
    bed.until("the controller has the new list", || {
        template(&["deployment", "carrick-controller"]) != controller
    })
    .await;
    assert_eq!(template(&["daemonset", "carrick-agent"]), agent);
    bed.apply(&spec(json!(["10.9.0.0/16"]))).unwrap();
    let message = bed.until_condition("Stalled", "True", "UnsafeChange").await;
    for part in ["10.244.0.0/24 of node node1", "put 10.244.0.0/16 back"] {
        assert!(message.contains(part), "{message}");
    }
    bed.apply(&json!({})).unwrap();
    let message = bed.until_condition("Stalled", "True", "UnsafeChange").await;
    assert!(
        message.contains("NodeIPAM cannot become NodeCIDR"),
        "{message}"
    );
    bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_add_goes_and_is_only_reported_while_paused() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24")]).await;
    bed.apply(&json!({})).unwrap();
    bed.start_operator().await;
    bed.until("the last operand", || {
        bed.get(&["daemonset", "carrick-ovs"]).is_some()
    })
    .await;

    let meddle = r#"{"spec":{"template":{"spec":{"containers":[{"name":"spy","image":"spy"},{"name":"agent","env":[{"name":"EVIL","value":"1"}]}],"hostPID":true}}}}"#;
    bed.server
        .kubectl(&[
            "-n",
            NAMESPACE,
            "patch",
            "daemonset",
            "carrick-agent",
            "-p",
            meddle,
        ])
        .unwrap();
    bed.server
        .kubectl(&[
            "-n",
            NAMESPACE,
            "patch",
            "configmap",
            "carrick-config",
            "--type=merge",
            "-p",
            r#"{"data":{"more":"x"}}"#,
        ])
        .unwrap();
    bed.server
        .kubectl(&["-n", NAMESPACE, "delete", "service", "carrick-controller"])
        .unwrap();
    bed.server
        .kubectl(&["-n", NAMESPACE, "create", "configmap", "stray"])
        .unwrap();
    bed.server
        .kubectl(&[
            "-n",
            NAMESPACE,
            "label",
            "configmap",
            "stray",
            "app.kubernetes.io/managed-by=carrick-operator",
        ])
        .unwrap();
    bed.until("the sidecar, the variable and hostPID go", || {
        let set = bed.get(&["daemonset", "carrick-agent"]).unwrap();
        let spec = &set["spec"]["template"]["spec"];
        spec["containers"].as_array().unwrap().len() == 1
            && spec["hostPID"].is_null()
            && !spec.to_string().contains("EVIL")
    })
    .await;
    bed.until("the key goes", || {
        bed.get(&["configmap", "carrick-config"]).unwrap()["data"]
            .as_object()
            .unwrap()
            .len()
            == 1
    })
    .await;
    bed.until("the Service comes back", || {
        bed.get(&["service", "carrick-controller"]).is_some()
    })
    .await;
    bed.until("the stray goes", || {
        bed.get(&["configmap", "stray"]).is_none()
    })
    .await;
    let restart = r#"{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"now"}}}}}"#;
    bed.server
        .kubectl(&[
            "-n",
            NAMESPACE,
            "patch",
            "daemonset",
            "carrick-agent",
            "-p",
            restart,
        ])
        .unwrap();

    bed.apply(&json!({"management": "Paused"})).unwrap();
    bed.until_condition("Ready", "False", "Paused").await;
    let set = bed.get(&["daemonset", "carrick-agent"]).unwrap();
    assert!(
        set.to_string().contains("restartedAt"),
        "a restart by kubectl is a wish, not drift"
    );
    bed.server
        .kubectl(&[
            "-n",
            NAMESPACE,
            "patch",
            "daemonset",
            "carrick-agent",
            "-p",
            meddle,
        ])
        .unwrap();
    bed.apply(&json!({"management": "Paused", "observability": {"logLevel": "debug"}}))
        .unwrap();
    bed.until("the plan tells of both", || {
        let plan = bed.networking()["status"]["plan"].to_string();
        plan.contains("containers/0")
            && plan.contains("kubectl")
            && plan.contains("update ConfigMap carrick-config")
    })
    .await;
    assert!(
        bed.get(&["daemonset", "carrick-agent"])
            .unwrap()
            .to_string()
            .contains("EVIL"),
        "nothing is changed"
    );
    bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsafe_change_is_refused_and_the_running_network_stays() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24"), ("node2", "fd00:1::/64")]).await;
    bed.apply(&json!({})).unwrap();
    bed.start_operator().await;
    bed.until("the last operand", || {
        bed.get(&["daemonset", "carrick-ovs"]).is_some()
    })
    .await;
    bed.play_ready(&["node1", "node2"]);
    bed.play_agent("node1", "Ready", "True", "");
    bed.until_condition("Ready", "True", "Ready").await;
    let before = bed.versions();

    bed.apply(&json!({"traffic": {"mtu": 1400}, "observability": {"logLevel": "debug"}}))
        .unwrap();
    let message = bed.until_condition("Stalled", "True", "UnsafeChange").await;
    assert!(
        message.contains("spec.traffic.mtu") && message.contains("To mend it"),
        "{message}"
    );
    assert_eq!(bed.versions(), before, "nothing is applied");
    assert_eq!(bed.condition("Available")["status"], "True");

    bed.apply(&json!({"traffic": {"mtu": 1279}})).unwrap();
    let message = bed.until_condition("Stalled", "True", "InvalidSpec").await;
    assert!(
        message.contains("1280") && message.contains("IPv6"),
        "{message}"
    );

    bed.apply(&json!({"provider": "Kind"})).unwrap();
    let message = bed.until_condition("Stalled", "True", "InvalidSpec").await;
    assert!(message.contains("spec.provider"), "{message}");

    bed.apply(&json!({"apiServer": {"host": "127.0.0.1", "port": 1}}))
        .unwrap();
    let message = bed.until_condition("Stalled", "True", "InvalidSpec").await;
    assert!(
        message.contains("no API server answers at 127.0.0.1:1"),
        "{message}"
    );
    assert_eq!(bed.versions(), before, "nothing is applied");

    // Even while it is refused, the network that runs is kept as it is.
    bed.server
        .kubectl(&["-n", NAMESPACE, "delete", "service", "carrick-controller"])
        .unwrap();
    bed.until("the Service comes back", || {
        bed.get(&["service", "carrick-controller"]).is_some()
    })
    .await;

    bed.apply(&json!({})).unwrap();
    bed.until_condition("Ready", "True", "Ready").await;
    bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_goes_node_by_node_and_leaves_nothing() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24"), ("node2", "10.244.1.0/24")]).await;
    bed.apply(&json!({})).unwrap();
    bed.start_operator().await;
    bed.until("the last operand", || {
        bed.get(&["daemonset", "carrick-ovs"]).is_some()
    })
    .await;
    bed.play_ready(&["node1", "node2"]);
    for node in ["node1", "node2"] {
        bed.play_agent(node, "Ready", "True", "");
    }
    bed.until_condition("Ready", "True", "Ready").await;
    let user = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"nodeName": "node1", "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}});
    bed.server
        .kubectl_with_input(&["create", "-f", "-"], &user.to_string())
        .unwrap();
    // What the controller's election leaves.
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "carrick-controller", "namespace": NAMESPACE}});
    bed.server
        .kubectl_with_input(&["create", "-f", "-"], &lease.to_string())
        .unwrap();

    // The chart's hook fails with the sentence that mends it.
    let admin = kube::Client::try_from(config(&bed.server, &[]).await).unwrap();
    let hook = carrick_operator::remove_network::RemoveNetwork { timeout: 10 };
    let error = carrick_operator::remove_network::run(&hook, admin.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("default/web") && error.contains("pods-lose-network"),
        "{error}"
    );
    bed.until_condition("Stalled", "True", "PodsUseNetwork")
        .await;
    let args = |bed: &Bed| {
        bed.get(&["daemonset", "carrick-agent"]).unwrap()["spec"]["template"]["spec"]["containers"]
            [0]["args"]
            .clone()
    };
    assert_eq!(args(&bed), json!(["agent"]), "the network works on");

    bed.apply(&json!({"acknowledge": ["pods-lose-network"]}))
        .unwrap();
    bed.until("the agents clean", || {
        args(&bed) == json!(["agent", "cleanup"])
    })
    .await;
    bed.play_agent("node1", "Cleaned", "True", "");
    bed.play_agent("node2", "Cleaned", "False", "br-int is busy");
    let message = bed
        .until_condition("Stalled", "True", "NodesNotClean")
        .await;
    assert!(
        message.contains("1 of 2 nodes are clean") && message.contains("br-int is busy"),
        "{message}"
    );
    assert!(
        bed.get(&["daemonset", "carrick-ovs"]).is_some(),
        "the switch stays until every node is clean"
    );

    bed.play_agent("node2", "Cleaned", "True", "");
    bed.until("the switches go", || {
        bed.play_collector(&["daemonset", "carrick-ovs"])
    })
    .await;
    bed.until("the agents go", || {
        bed.play_collector(&["daemonset", "carrick-agent"])
    })
    .await;
    bed.until("the controller goes", || {
        bed.play_collector(&["deployment", "carrick-controller"])
    })
    .await;
    bed.until("the Networking goes", || {
        bed.get(&["networking", "default"]).is_none()
    })
    .await;
    assert_eq!(bed.versions(), BTreeMap::new());
    assert!(bed.get(&["agentinfo", "node1"]).is_none());
    for secret in [
        "carrick-ca",
        "carrick-controller-tls",
        "carrick-last-applied",
        "carrick-rollout",
    ] {
        assert!(bed.get(&["secret", secret]).is_none(), "{secret}");
    }
    assert!(bed.get(&["lease", "carrick-controller"]).is_none());
    let node = bed.get(&["node", "node1"]).unwrap();
    assert!(
        !node
            .to_string()
            .contains("\"key\":\"carrick.dev/agent-not-ready\""),
        "{node}"
    );
    // There is nothing left to remove.
    carrick_operator::remove_network::run(&hook, admin)
        .await
        .unwrap();
    bed.stop_operator().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_writes_its_own_agentinfo_and_no_other() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24")]).await;
    bed.apply(&json!({})).unwrap();
    bed.start_operator().await;
    bed.until("the policy", || {
        bed.get(&[
            "validatingadmissionpolicybinding",
            "carrick-agentinfo-by-its-node",
        ])
        .is_some()
    })
    .await;
    let user = format!("system:serviceaccount:{NAMESPACE}:carrick-agent");
    let agent = |extra: Option<(&'static str, &'static str)>| {
        let mut headers = vec![
            ("Impersonate-User", user.as_str()),
            ("Impersonate-Group", "system:authenticated"),
        ];
        headers.extend(extra);
        let headers: Vec<(String, String)> = headers
            .into_iter()
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        headers
    };
    let claim = "Impersonate-Extra-authentication.kubernetes.io%2Fnode-name";
    let create = |headers: Vec<(String, String)>, node: &'static str| {
        let server = &bed.server;
        async move {
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            let client = kube::Client::try_from(config(server, &headers).await).unwrap();
            let api: kube::Api<carrick_api::AgentInfo> = kube::Api::all(client);
            let info = carrick_api::AgentInfo::new(node, carrick_api::AgentInfoSpec {});
            let params = kube::api::PatchParams::apply("carrick-agent").force();
            api.patch(node, &params, &kube::api::Patch::Apply(&info))
                .await
        }
    };
    // A policy takes a moment to act.
    let end = Instant::now() + DEADLINE;
    loop {
        let error = create(agent(Some((claim, "node1"))), "node2").await.err();
        if error.is_some_and(|e| e.to_string().contains("the node its token is bound to")) {
            break;
        }
        assert!(
            Instant::now() < end,
            "another node's AgentInfo can be written"
        );
        tokio::time::sleep(POLL).await;
    }
    create(agent(Some((claim, "node1"))), "node1")
        .await
        .unwrap();
    assert!(
        create(agent(None), "node1").await.is_err(),
        "a token without a node claim writes nothing"
    );
    bed.stop_operator().await;
}

/// The status line and the body that an operator answers with.
async fn ask(port: u16, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await else {
        return String::new();
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_ready_and_takes_over() {
    let bed = Bed::start(&[("node1", "10.244.0.0/24")]).await;
    bed.apply(&json!({})).unwrap();
    let ports: Vec<u16> = (0..2)
        .map(|_| {
            std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        })
        .collect();
    let (first, first_task) = bed.operator("operator-1", ports[0]).await;
    bed.until_condition("Ready", "False", "Progressing").await;
    let (second, second_task) = bed.operator("operator-2", ports[1]).await;
    let end = Instant::now() + DEADLINE;
    while !ask(ports[1], "/readyz").await.starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < end, "the standby is not ready");
        tokio::time::sleep(POLL).await;
    }
    assert!(
        ask(ports[0], "/metrics")
            .await
            .contains("carrick_operator_leader 1")
    );
    assert!(
        ask(ports[1], "/metrics")
            .await
            .contains("carrick_operator_leader 0")
    );

    first.cancel();
    first_task.await.unwrap().unwrap();
    bed.apply(&json!({"management": "Paused"})).unwrap();
    bed.until_condition("Ready", "False", "Paused").await;
    assert!(
        ask(ports[1], "/metrics")
            .await
            .contains("carrick_operator_leader 1")
    );
    second.cancel();
    second_task.await.unwrap().unwrap();
}
