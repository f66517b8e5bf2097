//! The CRD that is not ours, with a real API server: brought where there is none, and left where there is one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

mod bed;

use bed::Bed;
use serde_json::{Value, json};

const CRD: [&str; 2] = ["crd", "clusternetworkpolicies.policy.networking.k8s.io"];

fn create(bed: &Bed, spec: &Value) -> anyhow::Result<String> {
    let object = json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"generateName": "p-"}, "spec": spec,
    });
    let words = ["create", "--validate=strict", "-f", "-"];
    bed.server.kubectl_with_input(&words, &object.to_string())
}

fn established(bed: &Bed) -> bool {
    let crd = bed.get(&CRD).unwrap_or_default();
    let conditions = crd["status"]["conditions"].as_array().cloned();
    let mut conditions = conditions.unwrap_or_default().into_iter();
    conditions.any(|told| told["type"] == "Established" && told["status"] == "True")
}

/// A spec with one rule.
fn with(direction: &str, rule: &Value) -> Value {
    json!({"tier": "Admin", "priority": 7, "subject": {"namespaces": {}}, direction: [rule]})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_every_form_of_a_cluster_policy_and_no_other() {
    let mut bed = Bed::start(&[]).await;
    bed.start_operator().await;
    bed.until("the CRD is served", || established(&bed)).await;
    let pods = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}});
    for spec in [
        json!({"tier": "Baseline", "priority": 0, "subject": {"pods": pods}}),
        with(
            "ingress",
            &json!({"action": "Pass", "name": "n", "from": [{"namespaces": {}}, {"pods": pods}]}),
        ),
        with(
            "ingress",
            &json!({"action": "Deny", "from": [{"pods": pods}],
            "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"destinationNamedPort": "web"}]}),
        ),
        with(
            "egress",
            &json!({"action": "Accept", "to": [
            {"networks": ["10.0.0.0/8", "fd00::/8"]}, {"nodes": {}}, {"domainNames": ["*.example.com"]}],
            "protocols": [{"udp": {"destinationPort": {"range": {"start": 1, "end": 9}}}}]}),
        ),
    ] {
        create(&bed, &spec).unwrap_or_else(|error| panic!("{spec}: {error:#}"));
    }
    let many = vec![json!({"action": "Deny", "from": [{"namespaces": {}}]}); 26];
    for (spec, words) in [
        (
            json!({"tier": "Middle", "priority": 0, "subject": {"namespaces": {}}}),
            "spec.tier",
        ),
        (
            json!({"tier": "Admin", "priority": 1001, "subject": {"namespaces": {}}}),
            "spec.priority",
        ),
        (
            json!({"tier": "Admin", "priority": 1, "subject": {}}),
            "spec.subject",
        ),
        (
            json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}, "pods": pods}}),
            "spec.subject",
        ),
        (
            json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "ingress": many}),
            "spec.ingress",
        ),
        (
            with(
                "ingress",
                &json!({"action": "Allow", "from": [{"namespaces": {}}]}),
            ),
            "spec.ingress[0].action",
        ),
        (
            with("ingress", &json!({"action": "Deny", "from": []})),
            "spec.ingress[0].from",
        ),
        (
            with("ingress", &json!({"action": "Deny"})),
            "spec.ingress[0].from",
        ),
        (
            with(
                "egress",
                &json!({"action": "Deny", "to": [{"networks": ["10.0.0.0"]}]}),
            ),
            "spec.egress[0].to[0].networks[0]",
        ),
        (
            with(
                "egress",
                &json!({"action": "Deny", "to": [{"nodes": {}}],
                "protocols": [{"destinationNamedPort": "web"}]}),
            ),
            "name the port by its number",
        ),
        (
            with(
                "egress",
                &json!({"action": "Deny", "to": [{"namespaces": {}}],
                "protocols": [{"tcp": {"destinationPort": {"range": {"start": 9, "end": 1}}}}]}),
            ),
            "end must be greater than start",
        ),
    ] {
        let error = format!("{:#}", create(&bed, &spec).unwrap_err());
        assert!(error.contains(words), "{spec}: {error}");
    }
    bed.stop_operator().await;
}

fn patch(bed: &Bed, value: &Value) {
    let words = [
        "patch",
        CRD[0],
        CRD[1],
        "--type=merge",
        "-p",
        &value.to_string(),
    ];
    bed.server.kubectl(&words).unwrap();
}

fn short_names(bed: &Bed) -> Value {
    bed.get(&CRD).unwrap()["spec"]["names"]["shortNames"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_crd_is_left_as_it_is() {
    let mut bed = Bed::start(&[("node1", "10.244.0.0/24")]).await;
    bed.start_operator().await;
    bed.until("the CRD is served", || established(&bed)).await;
    bed.stop_operator().await;

    // While it is ours, it is kept as it should be.
    let changed = json!({"spec": {"names": {"shortNames": ["other"]}}});
    patch(&bed, &changed);
    bed.start_operator().await;
    bed.until("it is mended", || short_names(&bed) == json!(["cnp"]))
        .await;
    bed.stop_operator().await;

    // Without the label it is somebody else's.
    let taken_over = json!({
        "metadata": {"labels": {"app.kubernetes.io/part-of": null}},
        "spec": {"names": {"shortNames": ["theirs"]}},
    });
    patch(&bed, &taken_over);
    let before = bed.get(&CRD).unwrap();
    bed.apply(&json!({})).unwrap();
    bed.start_operator().await;
    // It is at work: what it does at its start is done.
    bed.until_condition("Ready", "False", "Progressing").await;
    bed.stop_operator().await;
    let after = bed.get(&CRD).unwrap();
    assert_eq!(
        after["metadata"]["resourceVersion"],
        before["metadata"]["resourceVersion"]
    );
    assert_eq!(short_names(&bed), json!(["theirs"]));
}
